"""The recipe of the shipped model end to end in miniature, its scores and its card."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from fiftyone_rexseek.models.rexseek import RexSeek
from fiftyone_rexseek.referring import Selection
from fiftyone_rexseek.training import evaluation, tiny
from fiftyone_rexseek.training.card import write_card
from fiftyone_rexseek.training.evaluation import auroc, fresh_scenes, score_scenes
from fiftyone_rexseek.training.loop import read_log

sys.path.insert(0, str(Path(__file__).parent))
from tiny_trainee import trainee, trainee_config


class Knows:
    """Answers every question of a scene rightly, or as ``spoil`` changes the answer."""

    def __init__(self, scenes, spoil=lambda question, chosen: chosen):
        self.truth = {}
        for scene in scenes:
            candidates = scene.candidates()
            for q in scene.questions(per_domain=2):
                key = (candidates.boxes_xyxy.tobytes(), q.expression)
                self.truth[key] = spoil(q, candidates.of(q.answers))

    def select_batch(self, requests, **options):
        return [[self._answer(r, e) for e in r.expressions] for r in requests]

    def _answer(self, request, expression):
        chosen = self.truth[request.boxes_xyxy.tobytes(), expression]
        if not chosen:
            return Selection.rejected(expression, indices=())
        boxes = request.boxes_xyxy[list(chosen)]
        return Selection(expression, "selected", boxes, np.full(len(chosen), 0.9), tuple(chosen))


def scored(spoil=lambda question, chosen: chosen):
    scenes = list(fresh_scenes(5, 4, size=(160, 128)))
    return score_scenes(Knows(scenes, spoil), scenes, per_domain=2)


def test_right_answers_score_one():
    result = scored()
    assert result.density_f1 == pytest.approx(1.0) and result.exact == 1.0
    assert (result.rejection, result.false_rejection, result.unparsed) == (1.0, 0.0, 0)
    assert set(result.domains) <= set(evaluation.ANSWERABLE)
    assert result.headline()["score"] == pytest.approx(1.0)


def test_rejecting_everything_scores_zero_and_is_named_so():
    result = scored(lambda question, chosen: ())
    assert (result.density_f1, result.rejection, result.false_rejection, result.exact) == (0.0, 1.0, 1.0, 0.0)
    assert result.headline()["score"] < 0


def test_one_box_too_many_costs_density():
    result = scored(lambda question, chosen: (*chosen, next(i for i in range(99) if i not in chosen)) if chosen else ())
    assert 0.2 < result.density_f1 < 0.8
    assert result.exact == 0.0 and 0 < result.correct.mean() < 1


def test_auroc_counts_ties_as_half_and_knows_when_it_is_undefined():
    assert auroc([0.5, 0.5], [True, False]) == 0.5
    assert np.isnan(auroc([0.5, 0.6], [True, True]))


def test_recipe_in_miniature_gives_a_model_and_goes_on_where_it_was(tmp_path, monkeypatch):
    monkeypatch.setattr("fiftyone_rexseek.training.drawn.SHARD", 4)
    size = len(trainee().processor.tokenizer)
    recipe = tiny.TinyRecipe(
        scenes=4, vision_steps=2, vision_images=2, joint_steps=2, images=1, questions=3, easy_steps=1,
        validation_scenes=1, validate_every=2, compile=False,
    )  # fmt: skip
    arguments = dict(workers=1, device="cpu", progress=False, config=trainee_config(size))
    folder = tiny.train_rexseek_tiny(tmp_path, recipe, **arguments)
    rexseek = RexSeek.from_pretrained(folder)
    assert rexseek.model.config.text["vocab_size"] == size
    log = read_log(tmp_path / "joint")
    assert any("val_density_f1" in row for row in log)
    rows = (tmp_path / "joint" / "log.jsonl").read_text()
    tiny.train_rexseek_tiny(tmp_path, recipe, **arguments)
    assert (tmp_path / "joint" / "log.jsonl").read_text() == rows

    plain = scored()
    text = write_card(folder, plain, plain, log, "Two steps.").read_text()
    assert "drawn scenes only" in text and "Two steps." in text and "| DensityF1, attribute | 1.000 |" in text
    assert (folder / "calibration.png").stat().st_size < 100_000
    assert json.loads((folder / "config.json").read_text())["model_type"] == "rexseek_qwen"


def test_unknown_model_name_is_refused(tmp_path):
    outcome = CliRunner().invoke(tiny.main, ["--models", "rexseek-huge", "--out", str(tmp_path)])
    assert outcome.exit_code == 2 and "expected rexseek-tiny or rela-tiny, found rexseek-huge" in outcome.output


def test_several_models_train_in_processes_of_their_own(tmp_path, monkeypatch):
    started = {}

    class Process:
        def __init__(self, command, env):
            name = command[command.index("--models") + 1]
            started[name] = command, env
            self.code = int(name == "rela-tiny")

        def wait(self):
            return self.code

    monkeypatch.setattr(tiny.subprocess, "Popen", Process)
    outcome = CliRunner().invoke(tiny.main, ["--out", str(tmp_path)])
    assert set(started) == set(tiny.NAMES)
    assert all("fiftyone_rexseek.training.tiny" in command for command, _ in started.values())
    assert outcome.exit_code == 1 and "training failed: rela-tiny" in outcome.output

"""The model card's numbers: a segmenter that knows the truth gets full marks, one that rejects everything does not."""

import numpy as np
import pytest

from fiftyone_rexseek import masks
from fiftyone_rexseek.referring import Outcome, Selection
from fiftyone_rexseek.training.evaluation import fresh_scenes
from fiftyone_rexseek.training.rela_card import score_segments, write_rela_card

SEED, SCENES = 41, 3


class Oracle:
    """Answers as the scenes say; with ``rejecting`` it says that nobody matches."""

    def __init__(self, rejecting: bool = False):
        self.scenes = iter(fresh_scenes(SEED, SCENES))
        self.rejecting = rejecting

    def segment(self, image, expressions):
        scene = next(self.scenes)
        questions = scene.questions(per_domain=1)
        assert [q.expression for q in questions] == list(expressions)
        return [self.answer(scene, q) for q in questions]

    def answer(self, scene, question):
        chosen = [] if self.rejecting else list(question.answers)
        people = scene.instance_masks()
        return Selection(
            question.expression,
            Outcome.SELECTED if chosen else Outcome.REJECTED,
            boxes_xyxy=scene.boxes_xyxy[chosen].astype(float),
            scores=np.full(len(chosen), 0.9),
            merged_mask=masks.encode(people[chosen].any(axis=0) if chosen else np.zeros(people.shape[1:], bool)),
        )


@pytest.fixture(scope="module")
def perfect():
    return score_segments(Oracle(), fresh_scenes(SEED, SCENES))


def test_the_truth_gets_full_marks(perfect):
    assert perfect.overall["gIoU"] == perfect.overall["cIoU"] == 100.0
    assert perfect.overall["N_acc"] == perfect.overall["T_acc"] == perfect.overall["F1_score"] == 1.0
    assert perfect.correct.all() and len(perfect.confidence) >= SCENES
    assert sum(n for n, _, _ in perfect.domains.values()) == perfect.count


def test_rejecting_everything_is_right_where_nobody_matches_only():
    scores = score_segments(Oracle(rejecting=True), fresh_scenes(SEED, SCENES))
    assert scores.overall["N_acc"] == 1.0 and scores.overall["T_acc"] == 0.0
    n, giou, f1 = scores.domains["rejection"]
    assert (n, giou, f1) == (SCENES, 1.0, 1.0)
    assert scores.overall["gIoU"] == pytest.approx(100 * SCENES / scores.count)
    assert np.isnan(scores.auroc)


def test_card_says_what_was_measured(perfect, tmp_path):
    log = [{"step": 10, "loss": 1.0}, {"step": 20, **{f"val_{k}": 0.5 for k in ("gIoU", "n_acc", "t_acc", "f1", "count")}}]
    text = write_rela_card(tmp_path, perfect, log, "Two steps.", "Three scenes", 2_000_000).read_text()
    assert "drawn scenes only" in text and "| gIoU | 1.000 |" in text and "| 20 | 0.500 |" in text and "Two steps." in text
    assert f"Three scenes, {perfect.count} expressions" in text
    assert (tmp_path / "calibration.png").stat().st_size < 100_000

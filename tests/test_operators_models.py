"""Operators that run models, with small random ones of the real classes: what they write is there and can be used."""

import fiftyone as fo
import fiftyone.zoo as foz
import plugin
import pytest
import tiny_describer
import torch
from tiny_trainee import trainee

from fiftyone_rexseek import apply_expressions
from fiftyone_rexseek.datasets.scenes import write_humanref
from fiftyone_rexseek.integration.dataset_types import HumanRefDatasetImporter
from fiftyone_rexseek.models.rexseek import RexSeek


@pytest.fixture(scope="module", autouse=True)
def installed():
    plugin.install()


@pytest.fixture(scope="module")
def scenes(database, tmp_path_factory):
    folder = tmp_path_factory.mktemp("scenes")
    write_humanref(folder, seed=3, count=3, size=(192, 144), questions_per_scene=2)
    dataset = fo.Dataset()
    dataset.add_importer(HumanRefDatasetImporter(str(folder)), progress=False)
    assert len(dataset) == 6
    yield dataset
    dataset.delete()


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    folder = tmp_path_factory.mktemp("start")
    trainee().save_pretrained(folder)
    return folder


def test_fine_tuned_on_a_view_the_folder_is_a_zoo_model(scenes, start, tmp_path):
    params = {"start": str(start), "output_dir": str(tmp_path / "out"), "steps": 2, "lr": 1e-3}
    assert plugin.complaints("fine_tune", scenes, params) == {}
    result = plugin.operator("fine_tune")(scenes, **params)
    assert result["steps"] == 2 and result["model"] == str(tmp_path / "out" / "model")
    before, after = (RexSeek.from_pretrained(folder).model.state_dict() for folder in (start, result["model"]))
    assert not all(torch.equal(before[name], after[name]) for name in before)
    assert f'weights="{result["model"]}"' in result["summary"]

    # the line of the summary, and the model at work
    model = foz.load_zoo_model(result["zoo_name"], weights=result["model"])
    summary = apply_expressions(scenes, model, "tuned", "field:expression", progress=False)
    assert sum(summary.outcomes.values()) == 6 and summary.outcomes.get("failed", 0) == 0
    assert None not in scenes.values("tuned_outcome")

    # the same folder again goes on, here to where it is already
    assert "goes on" in plugin.form("fine_tune", scenes, params)["resumes"]["view"]["label"]


def test_a_view_without_pictures_cannot_be_trained_on(scenes, start, tmp_path):
    broken = fo.Dataset()
    path = tmp_path / "broken.png"
    path.write_text("no image")
    sample = scenes.first().copy()
    sample.filepath, sample.metadata = str(path), None
    broken.add_sample(sample)
    try:
        with pytest.raises(plugin.ExecutionError, match="train"):
            plugin.operator("fine_tune")(broken, start=str(start), output_dir=str(tmp_path / "out"), steps=2)
        assert not (tmp_path / "out" / "model").exists()
    finally:
        broken.delete()


def test_objects_are_described_by_a_model_of_the_real_class(scenes, tmp_path):
    folder = tiny_describer.save(tmp_path / "describer")
    targets = scenes.match({"num_targets": {"$gt": 0}})
    params = {"model": str(folder), "objects_field": "ground_truth", "text_field": "words"}
    assert plugin.complaints("describe_targets", scenes, params) == {}
    note = plugin.form("describe_targets", scenes, params)["note"]["view"]["label"]
    assert note.startswith(f"{len(targets)} sample")
    plugin.operator("describe_targets")(scenes, **params)
    # random weights write gibberish: an answer there is, readable or not, and never a failure
    outcomes = dict(zip(*scenes.values(["id", "words_outcome"])))
    assert {i for i, outcome in outcomes.items() if outcome is not None} == set(targets.values("id"))
    assert set(targets.values("words_outcome")) <= {"selected", "unparsed"}, targets.values("words_error")
    assert all(isinstance(answer, str) for answer in targets.values("words_answer"))
    for text, outcome in zip(*targets.values(["words", "words_outcome"])):
        assert (text is not None) == (outcome == "selected")
    assert scenes.get_run_info("describe_words").config.model

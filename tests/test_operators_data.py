"""Pictures, descriptions, quality checks, fine-tuning and reset: forms, results, and what is in the database after."""

import fiftyone as fo
import plugin
import pytest
from PIL import Image

from fiftyone_rexseek.errors import ConfigError
from fiftyone_rexseek.integration import curation
from fiftyone_rexseek.integration.describe import describe_targets
from fiftyone_rexseek.integration.reset import inventory, reset
from fiftyone_rexseek.models.description import Description
from fiftyone_rexseek.referring import Outcome


def boxes(*cells, confidence=None):
    return fo.Detections(
        detections=[
            fo.Detection(label="person", bounding_box=[c / 10, 0.1, 0.1, 0.5], confidence=confidence) for c in cells
        ]
    )


class FakeWriter:
    """Writes how many objects it is shown; fails for four of them."""

    def __init__(self):
        self.calls = []

    def facts(self):
        return {"describer": "fake"}

    def describe_batch(self, requests):
        self.calls.append(len(requests))
        return [self._one(r) for r in requests]

    def _one(self, request):
        if request.num_targets == 4:
            return Description(None, Outcome.FAILED, error="too many", key=request.key)
        return Description(f"the {request.num_targets}", Outcome.SELECTED, answer="[...]", key=request.key)


@pytest.fixture(scope="module", autouse=True)
def installed():
    plugin.install()


@pytest.fixture
def dataset(tmp_path):
    dataset = fo.Dataset()
    samples = []
    for i, targets in enumerate([(1,), (1, 2), (), (1, 2, 3, 4)]):
        path = tmp_path / f"{i}.png"
        Image.new("RGB", (40, 30), "white").save(path)
        samples.append(
            fo.Sample(
                str(path), metadata=fo.ImageMetadata(width=40, height=30), expression="b;ack dog" if i == 1 else f"dog {i}",
                ground_truth=boxes(*targets), candidates=boxes(*range(5)), num_targets=len(targets),
                model=boxes(*targets, confidence=0.5), model_outcome="selected" if targets else "rejected", model_answer="x",
            )
        )  # fmt: skip
    dataset.add_samples(samples, progress=False)
    yield dataset
    dataset.delete()


def test_pictures_are_saved_for_the_view(dataset, tmp_path):
    folder = tmp_path / "deep" / "pictures"
    result = plugin.operator("save_annotated")(dataset.limit(2), output_dir=str(folder), fields=["ground_truth", "model"])
    files = sorted(folder.glob("*.png"))
    assert result["num_saved"] == 2 == len(files) and result["num_failed"] == 0
    assert Image.open(files[0]).height > 30  # with a band for the expression
    plain = plugin.operator("save_annotated")(dataset.limit(1), output_dir=str(tmp_path / "p"), expression_field="none")
    assert Image.open(next((tmp_path / "p").glob("*.png"))).size == (40, 30) and plain["num_saved"] == 1


def test_picture_form_complains_while_typing(dataset, tmp_path):
    def complaint(folder):
        return plugin.complaints("save_annotated", dataset, {"output_dir": folder}).get("output_dir")

    assert "whole path" in complaint("pictures") and complaint(str(tmp_path / "new")) is None
    (tmp_path / "file").write_text("")
    assert "is a file" in complaint(str(tmp_path / "file")) and "is a file" in complaint(str(tmp_path / "file" / "below"))
    params = {"output_dir": str(tmp_path / "x"), "fields": []}
    assert set(plugin.complaints("save_annotated", dataset, params)) == {"fields"}
    assert set(plugin.complaints("save_annotated", dataset, {}, view=dataset.limit(1).skip(1))) == {"note"}


def test_descriptions_are_written_resumed_and_recorded(dataset):
    writer = FakeWriter()
    summary = describe_targets(dataset, "ground_truth", "text", writer, progress=False)
    assert dataset.values("text") == ["the 1", "the 2", None, None]
    assert dataset.values("text_outcome") == ["selected", "selected", None, "failed"]
    assert (summary.num_described, summary.num_empty, dict(summary.errors)) == (2, 1, {"too many": 1})
    describe_targets(dataset, "ground_truth", "text", writer, progress=False)
    assert writer.calls == [3, 1]  # only the one that failed is tried again
    assert dataset.get_run_info("describe_text").config.model == "fake"
    describe_targets(dataset, "candidates", "text", writer, progress=False)
    assert dataset.values("text") == ["the 5"] * 4  # other objects are another question
    with pytest.raises(ConfigError, match="no model wrote"):
        describe_targets(dataset, "ground_truth", "expression", writer)


def test_other_labels_of_a_described_sample_are_described(dataset):
    """Also outside the App, where a view of labels is all there is to tell by."""
    describe_targets(dataset, "ground_truth", "text", FakeWriter(), progress=False)
    view = dataset.select_labels(ids=[dataset.skip(1).first().ground_truth.detections[1].id], fields="ground_truth")
    assert describe_targets(view, "ground_truth", "text", FakeWriter(), progress=False).num_described == 1
    assert dataset.values("text") == ["the 1", "the 1", None, None]
    assert describe_targets(dataset.limit(1), "ground_truth", "text", FakeWriter(), progress=False).num_skipped == 1


def test_a_run_that_stops_does_not_take_another_runs_texts_for_its_own(dataset):
    class Stops(FakeWriter):
        def describe_batch(self, requests):
            raise KeyboardInterrupt

    describe_targets(dataset, "ground_truth", "text", FakeWriter(), progress=False)
    with pytest.raises(KeyboardInterrupt):
        describe_targets(dataset, "candidates", "text", Stops(), progress=False)
    assert set(dataset.values("text_outcome")) == {None} == set(dataset.values("text"))
    assert describe_targets(dataset, "candidates", "text", FakeWriter(), progress=False).num_skipped == 0
    assert dataset.values("text") == ["the 5"] * 4


def test_a_broken_image_fails_alone(dataset):
    sample = dataset.first()
    with open(sample.filepath, "w") as file:
        file.write("no image")
    describe_targets(dataset, "ground_truth", "text", FakeWriter(), progress=False)
    assert dataset.values("text_outcome")[:2] == ["failed", "selected"] and "cannot be read" in dataset.first().text_error


def test_selected_labels_are_described_alone(dataset, monkeypatch):
    import sys

    op = plugin.operator("describe_targets")
    module = sys.modules[type(op).__module__]
    monkeypatch.setattr(module.Describer, "from_pretrained", lambda name: FakeWriter())
    sample = dataset.skip(1).first()
    label = sample.ground_truth.detections[0]
    selected = [{"label_id": label.id, "sample_id": sample.id, "field": "ground_truth"}]
    assert plugin.complaints("describe_targets", dataset, {"model": "a/b"}) == {}
    shown = plugin.form("describe_targets", dataset, {"view_target": "SELECTED_LABELS"}, selected_labels=selected)
    assert shown["note"]["view"]["label"].startswith("1 sample ")
    result = op(dataset, selected_labels=selected, model="test/fake-writer", objects_field="ground_truth", text_field="text")
    assert result["num_described"] == 1 and dataset.values("text") == [None, "the 1", None, None]
    assert "no folder" in plugin.complaints("describe_targets", dataset, {"model": "/nowhere/at/all"})["model"]
    assert "no model wrote" in plugin.complaints("describe_targets", dataset, {"text_field": "expression"})["text_field"]
    assert "field name" in plugin.complaints("describe_targets", dataset, {"text_field": "two words"})["text_field"]


@pytest.mark.parametrize(
    ("operator", "name", "replace"),
    [
        ("apply_expressions", "label_field", "Replace labels that no model made"),
        ("describe_targets", "text_field", "Replace texts that no model wrote"),
    ],
)
def test_a_taken_output_field_is_said_in_the_words_of_the_form(dataset, operator, name, replace):
    taken, other = {"apply_expressions": ("candidates", "expression"), "describe_targets": ("expression", "candidates")}[operator]
    complaint = plugin.complaints(operator, dataset, {name: taken})[name]
    assert complaint.endswith(f"choose another name, or tick '{replace}'")
    form = plugin.form(operator, dataset, {name: taken, "overwrite": True})
    assert not form[name]["invalid"] and form["overwrite"]["view"]["label"] == replace
    # nothing to tick where the field is of another kind
    form = plugin.form(operator, dataset, {name: other, "overwrite": True})
    assert form[name]["error_message"].endswith(": choose another name") and "overwrite" not in form


def test_quality_checks_tag_and_save_a_view(dataset):
    result = plugin.operator("check_quality")(dataset)
    assert result["checked"] == 4 and result["counts"]["non-letter-in-word"] == 1
    assert dataset.match_tags("quality:non-letter-in-word").values("expression") == ["b;ack dog"]
    assert set(plugin.complaints("check_quality", dataset, {"checks": []})) == {"checks"}
    assert "nonsense" in plugin.complaints("check_quality", dataset, {"checks": ["nonsense"]})["checks"]


def test_fine_tune_form_and_failure(dataset, tmp_path):
    good = {"start": "rexseek-tiny", "output_dir": str(tmp_path / "out")}
    assert plugin.complaints("fine_tune", dataset, good) == {}
    assert plugin.form("fine_tune", dataset, good)["note"]["view"]["label"].startswith("4 samples")
    assert "config.json" in plugin.complaints("fine_tune", dataset, good | {"start": str(tmp_path)})["start"]
    assert set(plugin.complaints("fine_tune", dataset, good | {"lr": 2.0})) == {"lr"}
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "checkpoint.pt").write_text("")
    assert "goes on" in plugin.form("fine_tune", dataset, good)["resumes"]["view"]["label"]
    with pytest.raises(plugin.ExecutionError, match="steps"):
        plugin.operator("fine_tune")(dataset, **good, steps=0)


def kept(dataset):
    """What a reset must never touch."""
    labels = [f"{field}.detections.{part}" for field in ("ground_truth", "candidates") for part in ("id", "bounding_box")]
    return dataset.values(["id", "filepath", "expression", "num_targets", *labels])


def test_reset_removes_what_is_chosen_and_nothing_else(dataset):
    from fiftyone_rexseek import evaluate_referring

    before = kept(dataset)
    evaluate_referring(dataset, "model", eval_key="ev")
    plugin.operator("check_quality")(dataset)
    plugin.operator("tag_for_review")(dataset.limit(1))
    plugin.operator("accept_prediction")(dataset.limit(1), pred_field="model")
    dataset.limit(1).tag_samples("mine")
    dataset.save_view("mine", dataset.limit(1))
    dataset.add_sample_field("other", fo.StringField)
    found = inventory(dataset)
    assert found.predictions == ("model",) and found.evaluations == ("ev",) and found.accepted == ("ground_truth",)
    assert "mine" not in (*found.tags, *found.views) and {"review", "quality"} <= set(found.tags)

    choice = {kind: list(getattr(found, kind)) for kind in ("predictions", "tags", "views", "accepted")}
    assert set(plugin.complaints("reset", dataset, choice)) == {"confirm"}
    assert set(plugin.complaints("reset", dataset, {"confirm": True})) == {"confirm"}
    assert "nothing" in plugin.complaints("reset", dataset, choice | {"predictions": ["nothing"]})["predictions"]
    with pytest.raises(plugin.ExecutionError, match=r"[Cc]onfirm"):
        plugin.operator("reset")(dataset, **choice)
    result = plugin.operator("reset")(dataset, **choice, confirm=True)
    assert result["evaluations"] == ["ev"]  # what was evaluated is gone

    dataset.reload()
    left = set(dataset.get_field_schema())
    assert not any(name.startswith(("model", "ev_", "ground_truth_source")) for name in left) and "other" in left
    assert dataset.list_evaluations() == [] and dataset.list_saved_views() == ["mine"] and dataset.distinct("tags") == ["mine"]
    assert kept(dataset) == before
    assert not inventory(dataset) and set(plugin.complaints("reset", dataset)) == {"nothing"}


def test_reset_refuses_what_is_not_its_own(dataset):
    for wrong in ({"predictions": ["ground_truth"]}, {"predictions": ["candidates"]}, {"tags": ["x"]}, {"evaluations": ["x"]}):
        with pytest.raises(ConfigError, match="nothing of this project"):
            reset(dataset, **wrong)
    assert dataset.has_sample_field("ground_truth") and len(dataset) == 4


def test_views_of_a_comparison_go_with_either_run(dataset):
    from fiftyone_rexseek import evaluate_referring

    for key in ("a", "b", "c"):
        evaluate_referring(dataset, "model", eval_key=key)
    names = ["a right, b wrong", "c right, a wrong", "b right, c wrong"]
    for name in (*names, "b right, nobody wrong"):
        dataset.save_view(name, dataset.limit(1))
    assert sorted(inventory(dataset).views) == sorted(names)
    assert sorted(reset(dataset, evaluations=["a"]).views) == sorted(names[:2])
    assert dataset.list_saved_views() == ["b right, c wrong", "b right, nobody wrong"]


def test_accepted_predictions_are_undone_without_their_tag_and_other_fields_stay(dataset):
    before = kept(dataset)
    dataset.add_sample_field("candidates_source", fo.StringField)
    dataset.set_values("candidates_source", ["a detector"] * len(dataset))
    curation.accept_prediction(dataset, "candidates")
    dataset.untag_samples(curation.ACCEPTED_TAG)
    assert inventory(dataset).accepted == ("ground_truth",)
    reset(dataset, accepted=["ground_truth"])
    assert kept(dataset) == before and not inventory(dataset).accepted
    assert not [name for name in dataset.get_field_schema() if name.startswith("ground_truth_")]

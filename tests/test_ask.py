"""Questions about one open sample: warm models, answers as data, picture and words."""

import base64
import io

import fiftyone as fo
import fiftyone.operators as foo
import numpy as np
import plugin
import pytest
from fake_models import FakeSelector
from PIL import Image

from fiftyone_rexseek.errors import ConfigError
from fiftyone_rexseek.integration import ask as asking
from fiftyone_rexseek.models import registry
from fiftyone_rexseek.models.answering import ItemResult
from fiftyone_rexseek.referring import Outcome, Selection


@pytest.fixture
def fake(monkeypatch):
    loads = []

    def load(name, weights=None, **options):
        loads.append(name)
        return FakeSelector()

    monkeypatch.setattr(registry, "load", load)
    asking.warm_models.clear()
    yield loads
    asking.warm_models.clear()


@pytest.fixture
def dataset(tmp_path):
    path = tmp_path / "a.png"
    Image.new("RGB", (200, 100), (240, 240, 240)).save(path)
    boxes = [fo.Detection(label=n, bounding_box=[x, 0.1, 0.2, 0.8]) for n, x in (("man", 0.0), ("kid", 0.3), ("kid", 0.6))]
    dataset = fo.Dataset()
    dataset.add_sample(fo.Sample(filepath=str(path), candidates=fo.Detections(detections=boxes), image_id="a"))
    yield dataset
    dataset.delete()


def test_lines_become_expressions():
    assert asking.split_lines(" a \n\n b\na\n") == ["a", "b"]
    assert asking.split_lines(None) == []


def test_models_stay_warm_and_the_oldest_leaves():
    models, loads = asking.WarmModels(keep=2), []
    for key in "abaca":
        models.get(key, lambda key=key: loads.append(key) or key.upper())
    assert loads == ["a", "b", "c"]
    assert "b" not in models and "a" in models and "c" in models


def test_answers_are_selections_words_and_a_picture(dataset, fake):
    asked = asking.ask(dataset, dataset.first().id, ["all", "none", "garbled"])
    assert [s.outcome for s in asked.selections] == [Outcome.SELECTED, Outcome.REJECTED, Outcome.UNPARSED]
    assert [asking.in_words(s) for s in asked.selections] == [
        "3 match (50%, 60%, 70% sure)",
        "nobody matches (90% sure)",
        "the model's answer could not be read",
    ]
    asking.ask(dataset, dataset.first().id, ["first"])
    assert fake == ["rexseek-tiny"], "the second question found the model warm"
    url = asking.picture_url(dataset, asked)
    picture = Image.open(io.BytesIO(base64.b64decode(url.split(",", 1)[1])))
    assert picture.size == (480, 240)


@pytest.mark.parametrize("size, shown", [((12, 9), (480, 360)), ((600, 400), (600, 400)), ((6000, 4000), (900, 600))])
def test_the_picture_of_an_image_of_any_size_can_be_read(size, shown):
    selection = Selection("the left half", Outcome.SELECTED, [[0, 0, size[0] / 2, size[1]]], [0.9])
    asked = asking.Asked("", asking.AskOptions(), ItemResult("", (selection,), *size), None, 0.0, "cpu")
    picture = asking.draw_answers(Image.new("RGB", size), asked)
    assert picture.size == shown
    orange = np.asarray(picture)[:, :, 0] > 200
    # a frame and a caption, not a field of orange
    assert orange[:, : shown[0] // 2].any(axis=0).all() and orange.mean() < 0.1 and not orange[:, shown[0] // 2 + 9 :].any()


def test_the_captions_of_an_object_that_two_expressions_mean_are_read_together(monkeypatch):
    """Also where the model drew it twice, as ReLA does."""
    drawn = []
    monkeypatch.setattr(asking, "draw_annotated", lambda picture, layers: drawn.extend(layers))
    boxes = ([100, 100, 300, 400], [103, 98, 301, 404], [103, 98, 201, 404])
    selections = tuple(Selection(f"{n}", Outcome.SELECTED, [box], [0.9]) for n, box in enumerate(boxes))
    asked = asking.Asked("", asking.AskOptions(), ItemResult("", selections, 640, 480), None, 0.0, "cpu")
    asking.draw_answers(Image.new("RGB", (640, 480)), asked)
    assert [layer.captions for layer in drawn] == [["1: 0.90"], ["1: 0.90  2: 0.90"], ["3: 0.90"]]


def test_stored_answers_carry_their_expression_and_the_candidates_label(dataset, fake):
    asked = asking.ask(dataset, dataset.first().id, ["first", "none", "2"])
    asking.store_answers(dataset, asked)
    sample = dataset.first()
    got = [(d.expression, d.label, d.candidate, d.bounding_box) for d in sample["asked"].detections]
    assert got == [("first", "man", 0, [0.0, 0.1, 0.2, 0.8]), ("2", "kid", 2, [0.6, 0.1, 0.2, 0.8])]
    assert sample["asked_outcomes"] == ["selected", "rejected", "selected"] and sample["asked_outcome"] == "selected"
    # of several expressions there is no single answer
    assert not {"asked_answer", "asked_rejection_score"} & set(dataset.get_field_schema())


def test_a_field_of_somebody_else_is_not_written_to(dataset, fake):
    dataset.add_sample_field("asked", fo.StringField)
    asked = asking.ask(dataset, dataset.first().id, ["first"])
    with pytest.raises(ConfigError, match="'asked' is not for boxes"):
        asking.store_answers(dataset, asked)


def test_a_failure_is_not_stored_as_an_answer(dataset, fake):
    asked = asking.ask(dataset, dataset.first().id, ["crash"])
    assert "memory" in asking.in_words(asked.selections[0])
    asking.store_answers(dataset, asked)
    assert dataset.first()["asked"] is None
    assert dataset.first()["asked_outcomes"] == ["failed"] and "memory" in dataset.first()["asked_error"]


def test_a_question_becomes_a_sample_once(dataset, fake):
    asked = asking.ask(dataset, dataset.first().id, ["2", "none"])
    asking.save_as_sample(dataset, asked, 0, "rexseek")
    asking.save_as_sample(dataset, asked, 1, "rexseek")
    new = asking.save_as_sample(dataset, asked, 0, "rexseek")
    assert len(dataset) == 3
    sample = dataset[new]
    assert (sample["expression"], sample["image_id"], sample["rexseek_outcome"]) == ("2", "a", "selected")
    assert len(sample["candidates"].detections) == 3 and len(sample["rexseek"].detections) == 1
    assert sample["candidates"].detections[0].id != dataset.first()["candidates"].detections[0].id
    rejected = dataset.match(fo.ViewField("expression") == "none").first()
    assert rejected["rexseek"].detections == [], "nobody matches is an empty answer, not a missing one"


def test_a_grouped_dataset_stays_as_it_is(dataset, fake):
    grouped = fo.Dataset()
    grouped.add_group_field("group", default="left")
    sample = dataset.first().copy()
    sample["group"] = fo.Group().element("left")
    grouped.add_sample(sample)
    try:
        asked = asking.ask(grouped, grouped.first().id, ["2"])
        fields = set(grouped.get_field_schema())
        with pytest.raises(ConfigError, match="grouped dataset"):
            asking.save_as_sample(grouped, asked, 0, "rexseek")
        assert set(grouped.get_field_schema()) == fields and len(grouped) == 1
    finally:
        grouped.delete()


def test_nothing_asked_and_unknown_fields_are_said_before_loading(dataset, fake):
    with pytest.raises(ConfigError, match="nothing was asked"):
        asking.ask(dataset, dataset.first().id, [])
    with pytest.raises(ConfigError, match="unknown detector"):
        asking.ask(dataset, dataset.first().id, ["x"], asking.AskOptions(candidates="no such detector"))
    assert fake == []


def test_an_unreadable_image_fails_alone(dataset, fake, tmp_path):
    (tmp_path / "a.png").write_bytes(b"broken")
    asked = asking.ask(dataset, dataset.first().id, ["all"])
    assert asked.selections[0].outcome is Outcome.FAILED
    assert asking.picture_url(dataset, asked) is None


def test_what_is_no_image_of_the_dataset_is_said_before_loading(dataset, fake):
    with pytest.raises(ConfigError, match="no such sample"):
        asking.ask(dataset, "0" * 24, ["all"])
    videos = fo.Dataset()
    videos.add_sample(fo.Sample("/nowhere/a.mp4"))
    try:
        with pytest.raises(ConfigError, match="no image"):
            asking.ask(videos, videos.first().id, ["all"])
    finally:
        videos.delete()
    assert fake == []


class TestPanel:
    """The events of the panel as the App sends them."""

    @pytest.fixture(autouse=True)
    def installed(self):
        plugin.install()

    @staticmethod
    def event(dataset, method, sample_id, view=None, state=None, row=None, **form):
        form = {"expressions": "all\nnone", "model": "rexseek-tiny", "candidates": "candidates", **form}
        params = {"panel_id": "p", "__method__": method, "panel_state": {"form": form, **(state or {})}, "row": row}
        ctx = {"view": dataset.view() if view is None else view, "current_sample": sample_id, "active_fields": ["people"]}
        done = foo.execute_operator(f"{plugin.NAME}/referring_panel", ctx={**ctx, "params": params})
        sent: dict = {}
        for request in done.executor._requests:
            sent.setdefault(request.operator_uri.rpartition("/")[2], []).append(request.params)
        return sent

    def said(self, sent):
        return str(sent.get("patch_panel_state", "")) + str(sent.get("set_panel_state", ""))

    def test_a_new_field_is_shown_at_once(self, dataset, fake):
        first = self.event(dataset, "ask", dataset.first().id)
        assert first["set_active_fields"] == [{"fields": ["people", "asked"]}] and "reload_dataset" in first
        again = self.event(dataset, "ask", dataset.first().id)
        assert "set_active_fields" not in again and "reload_dataset" in again
        dataset.reload()
        assert dataset.first()["asked_outcomes"] == ["selected", "rejected"]

    def test_in_a_view_of_patches_the_image_is_asked(self, dataset, fake):
        patches = dataset.to_patches("candidates")
        self.event(dataset, "ask", patches.skip(1).first().id, view=patches)
        dataset.reload()
        assert dataset.first()["asked_expressions"] == ["all", "none"]

    def test_saved_questions_are_seen_on_their_tiles(self, dataset, fake):
        last = {"sample_id": dataset.first().id, "expressions": ["all", "none"], "options": {}}
        sent = self.event(dataset, "save_samples", dataset.first().id, state={"last": last})
        assert sent["notify"][0]["message"] == "2 questions saved as samples tagged 'asked'"
        assert sent["set_active_fields"] == [{"fields": ["people", "expression", "rexseek_tiny"]}]

    def test_long_texts_are_shown_in_part_and_kept_whole(self, dataset, fake, monkeypatch):
        answer = "</objects>" * 400
        selection = Selection("the man " * 300, Outcome.UNPARSED, answer=answer, error="no object list")
        monkeypatch.setattr(FakeSelector, "_answer", lambda self, request, text: selection)
        sent = self.event(dataset, "ask", dataset.first().id)
        [answers] = [change["state"]["answers"] for change in sent["patch_panel_state"] if "answers" in change["state"]]
        assert answers.count("could not be read") == 2 and len(answers) < 1500
        [row] = [row for data in sent["patch_panel_data"] for row in data["data"].get("history", ())]
        assert all(len(text) < 400 for text in row.values())
        assert dataset.reload() is None and dataset.first()["asked_answers"] == [answer] * 2

    def test_a_line_of_the_history_is_repeated_whatever_another_panel_asked_meanwhile(self, dataset, fake):
        sample_id = dataset.first().id

        def times(sent):
            return [c["state"] for c in sent["patch_panel_state"] if "history_times" in c["state"]][-1]["history_times"]

        shown = {"history_times": times(self.event(dataset, "ask", sample_id, expressions="first"))}
        assert len(times(self.event(dataset, "ask", sample_id, expressions="none"))) == 2
        self.event(dataset, "repeat", sample_id, state=shown, row=0)
        dataset.reload()
        assert dataset.first()["asked_expressions"] == ["first"]
        assert "Open a sample first" in self.said(self.event(dataset, "repeat", None, state=shown, row=0))
        self.event(dataset, "forget", None)
        assert "no longer in the history" in self.said(self.event(dataset, "repeat", sample_id, state=shown, row=0))

    def test_what_goes_wrong_is_said_in_the_panel(self, dataset, fake):
        assert "Open a sample first" in self.said(self.event(dataset, "ask", None))
        assert "{'error': None}" in self.said(self.event(dataset, "check", None))
        assert "no such sample" in self.said(self.event(dataset, "ask", "0" * 24))
        assert "nothing was asked" in self.said(self.event(dataset, "ask", dataset.first().id, expressions=" \n"))
        dataset.reload()
        assert not dataset.has_sample_field("asked") and fake == []

    def test_the_form_complains_while_typing(self, dataset, fake):
        def complaints(**form):
            state = {"form": {"model": "rexseek-tiny", "candidates": "candidates", **form}}
            params = {"panel_id": "p", "__method__": "on_load", "panel_state": state}
            done = foo.execute_operator(f"{plugin.NAME}/referring_panel", ctx={"dataset": dataset, "params": params})
            [shown] = [r.params for r in done.executor._requests if r.operator_uri.endswith("show_panel_output")]
            drawn = shown["output"]["type"]["properties"]
            form = drawn["form"]["type"]["properties"]
            said = {name: p["error_message"] for name, p in form.items() if p["invalid"]}
            # the App does not draw the errors of a panel's fields
            warned = {name.removesuffix("_problem"): p["view"]["label"] for name, p in drawn.items() if name.endswith("_problem")}
            assert set(warned) == set(said) and all(said[name] in label for name, label in warned.items())
            return said

        assert complaints() == {} == complaints(weights="") == complaints(candidates="grounding-dino")
        assert "Neither a field" in complaints(candidates="candidate")["candidates"]
        assert "no Detections" in complaints(candidates="image_id")["candidates"]
        assert "No such folder" in complaints(weights="/nowhere/at/all")["weights"]
        assert "download" in complaints(model="rela-swin-base")["weights"]
        assert complaints(candidates="grounding-dino", text_threshold=7) == {"text_threshold": "Between 0 and 1"}
        assert complaints(text_threshold=7) == {}  # no detector, no threshold


def test_the_form_of_apply_complains_about_the_same(dataset):
    plugin.install()
    params = {"model": "rexseek-tiny", "expressions_from": "text", "text": "all", "candidates": "candidate", "weights": "/no/where"}
    complaints = plugin.complaints("apply_expressions", dataset, params)
    assert set(complaints) == {"candidates", "weights"} and "Neither a field" in complaints["candidates"]
    assert plugin.complaints("apply_expressions", dataset, params | {"candidates": "candidates", "weights": ""}) == {}
    assert set(plugin.complaints("apply_expressions", dataset, params | {"text": " ", "candidates": "candidates", "weights": ""})) == {"text"}
    assert "note" in plugin.complaints("apply_expressions", dataset, {"text": "all", "expressions_from": "text"}, view=dataset.skip(1))


def test_what_goes_with_an_answer_is_no_choice_of_expressions(dataset, fake):
    plugin.install()
    asking.store_answers(dataset, asking.ask(dataset, dataset.first().id, ["all"]))
    choice = plugin.form("apply_expressions", dataset, {"expressions_from": "field"})["expression_field"]
    assert choice["type"]["values"] == ["image_id"] == plugin.form("fine_tune", dataset)["expression_field"]["type"]["values"]


def test_the_form_of_apply_says_what_a_field_name_is_made_of(dataset):
    plugin.install()
    params = {"expressions_from": "text", "candidates": "candidates", "label_field": "My Answers"}
    shown = plugin.form("apply_expressions", dataset, params)
    assert "letters, digits and underscores" in shown["label_field"]["error_message"]
    # and does not count expressions before there is one
    assert shown["note"]["view"]["label"] == "1 sample in the target"

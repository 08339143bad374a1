"""Curation operators without a browser: their forms while typing, what they do, calling them from Python."""

import asyncio

import fiftyone as fo
import plugin
import pytest
from PIL import Image

from fiftyone_rexseek.errors import ConfigError
from fiftyone_rexseek.integration import curation


def boxes(*cells, confidence=None):
    return fo.Detections(
        detections=[
            fo.Detection(label="person", bounding_box=[c / 10, 0.1, 0.1, 0.5], confidence=confidence) for c in cells
        ]
    )


@pytest.fixture(scope="module", autouse=True)
def installed():
    plugin.install()


@pytest.fixture
def dataset(tmp_path):
    dataset = fo.Dataset()
    rows = [
        # ground truth, model a, model b
        (boxes(1), boxes(1, confidence=0.9), boxes(1, confidence=0.95)),
        (boxes(1), boxes(2, confidence=0.9), boxes(2, confidence=0.99)),  # both against the label
        (boxes(1), boxes(2, confidence=0.3), boxes(1, confidence=0.9)),  # unsure, disagree
        (boxes(3), boxes(), boxes(4, confidence=0.6)),
        (boxes(5), None, boxes(5, confidence=0.7)),
    ]
    samples = []
    for i, (gt, a, b) in enumerate(rows):
        path = tmp_path / f"{i}.png"
        Image.new("RGB", (40, 30), "white").save(path)
        outcome = "failed" if a is None else "selected" if a.detections else "rejected"
        sample = fo.Sample(str(path), ground_truth=gt, b=b, b_outcome="selected", a_outcome=outcome, expression=f"number {i}")
        if a is not None:
            sample["a"] = a
        samples.append(sample)
    dataset.add_samples(samples, progress=False)
    yield dataset
    dataset.delete()


def order(dataset, ids):
    return [dataset[i].expression[-1] for i in ids]


def test_every_listed_operator_is_registered_and_nothing_failed_to_import():
    import fiftyone.operators as foo
    import yaml

    registry = foo.OperatorRegistry()
    listed = yaml.safe_load((plugin.ROOT / "fiftyone.yml").read_text())
    registered = {o.name for o in registry.list_operators() if o.uri.startswith(plugin.NAME)}
    assert registry.list_errors() == []
    assert {*listed["operators"], *listed["panels"]} == registered


def test_the_views_hold_the_right_samples_in_the_right_order(dataset):
    result = plugin.operator("most_uncertain")(dataset, pred_field="a", limit=2)
    assert order(dataset, result["sample_ids"]) == ["2", "0"]
    result = plugin.operator("disagreements")(dataset, pred_fields=["a", "b"])
    assert order(dataset, result["sample_ids"]) == ["2", "3"]
    result = plugin.operator("suspected_label_errors")(dataset, pred_fields=["a", "b"])
    assert order(dataset, result["sample_ids"]) == ["1"]
    only_first = dataset.limit(1)
    assert plugin.operator("most_uncertain")(only_first, pred_field="a")["count"] == 1


def test_the_app_is_shown_the_view_and_it_can_be_saved(dataset):
    params = {"pred_field": "a", "limit": 10}
    told = plugin.instructions(plugin.execute("most_uncertain", dataset, params))
    assert len(told["set_view"]["view"]) == 1 and told["notify"]["variant"] == "success"
    plugin.execute("most_uncertain", dataset, params | {"save_as": "look here"})
    assert order(dataset, dataset.load_saved_view("look here").values("id")) == ["2", "0", "1"]
    assert "saved view" in plugin.complaints("most_uncertain", dataset, params | {"save_as": "look here"})["save_as"]


def test_nothing_found_is_said_and_changes_no_view(dataset):
    params = {"pred_fields": ["a"], "gt_field": "ground_truth", "min_certainty": 0.99, "limit": 5}
    told = plugin.instructions(plugin.execute("suspected_label_errors", dataset, params))
    assert "set_view" not in told and "No confident answer" in told["notify"]["message"]


def test_forms_complain_while_typing(dataset):
    assert plugin.complaints("disagreements", dataset, {"pred_fields": ["a"]}) == {"pred_fields": "Choose at least 2"}
    assert "nowhere" in plugin.complaints("disagreements", dataset, {"pred_fields": ["a", "nowhere"]})["pred_fields"]
    same = {"pred_fields": ["a", "b"], "gt_field": "b"}
    assert set(plugin.complaints("suspected_label_errors", dataset, same)) == {"gt_field"}
    assert plugin.complaints("suspected_label_errors", dataset, same | {"gt_field": "ground_truth"}) == {}
    assert set(plugin.complaints("accept_prediction", dataset, {"pred_field": "a", "gt_field": "a"})) == {"gt_field"}
    assert set(plugin.complaints("tag_for_review", dataset, {"tag": " "})) == {"tag"}
    assert set(plugin.complaints("undo_accept", dataset)) == {"gt_field"}
    with pytest.raises(plugin.ExecutionError, match="Choose at least 2"):
        plugin.operator("disagreements")(dataset, pred_fields=["a"])
    with pytest.raises(plugin.ExecutionError, match="limit"):
        plugin.operator("most_uncertain")(dataset, pred_field="a", limit=0)


def test_a_dataset_without_predictions_says_so():
    dataset = fo.Dataset()
    dataset.add_sample(fo.Sample("/nowhere/a.png", ground_truth=boxes(1)))
    assert "no predictions" in plugin.complaints("most_uncertain", dataset)["pred_field"]
    assert "no predictions" in plugin.complaints("disagreements", dataset)["pred_fields"]
    dataset.delete()


def test_the_number_of_affected_samples_is_shown(dataset):
    note = plugin.form("accept_prediction", dataset, {"pred_field": "a"})["note"]
    assert note["view"]["label"].startswith("4 samples")
    selected = dataset.values("id")[:2]
    note = plugin.form("tag_for_review", dataset, {"view_target": "SELECTED_SAMPLES"}, selected=selected)["note"]
    assert note["view"]["label"].startswith("2 samples")
    empty = plugin.complaints("accept_prediction", dataset, {"pred_field": "a"}, view=dataset.match({"expression": "number 4"}))
    assert "No sample" in empty["note"]


def test_in_the_modal_the_open_sample_is_meant(dataset):
    ids = dataset.values("id")
    params = {"tag": "odd"}
    result = plugin.execute("tag_for_review", dataset, params, current_sample=ids[2])
    assert result.result == {"count": 1} and dataset.match_tags("odd").values("id") == [ids[2]]
    accept = {"pred_field": "a", "gt_field": "ground_truth"}
    plugin.execute("accept_prediction", dataset, accept, current_sample=ids[1])
    assert dataset.match_tags(curation.ACCEPTED_TAG).values("id") == [ids[1]]
    # samples chosen with their check marks go before the open one
    plugin.execute(
        "tag_for_review", dataset, {"tag": "both", "view_target": "SELECTED_SAMPLES"}, current_sample=ids[2], selected=ids[:2]
    )
    assert dataset.match_tags("both").values("id") == ids[:2]


def test_accepting_and_undoing_bring_back_the_same_labels(dataset):
    before = dataset.values(["ground_truth.detections.id", "ground_truth.detections.bounding_box"])
    view = dataset.match(fo.ViewField("expression").is_in(["number 1", "number 3", "number 4"]))
    assert plugin.operator("accept_prediction")(view, pred_field="a") == {"count": 2}
    accepted = dataset.values("ground_truth.detections.bounding_box")
    assert accepted[1] == dataset.values("a.detections.bounding_box")[1] and accepted[3] == []
    assert accepted[4] == before[1][4]  # no answer, nothing accepted
    assert plugin.operator("undo_accept")(dataset) == {"count": 2}
    assert dataset.values(["ground_truth.detections.id", "ground_truth.detections.bounding_box"]) == before


def test_calling_works_inside_an_event_loop(dataset):
    async def notebook():
        return plugin.operator("tag_for_review")(dataset.limit(2))

    assert asyncio.run(notebook()) == {"count": 2}


def test_python_is_told_of_wrong_names_and_types(dataset):
    before = dataset.values("ground_truth.detections.id")
    with pytest.raises(ConfigError, match=r"no parameter 'pred_feild'.*one of gt_field, pred_field.*Did you mean 'pred_field'"):
        plugin.operator("accept_prediction")(dataset, pred_feild="b")
    assert dataset.values("ground_truth.detections.id") == before
    with pytest.raises(ConfigError, match="no parameter 'note'"):
        plugin.operator("tag_for_review")(dataset, note="x")
    with pytest.raises(plugin.ExecutionError, match="tag"):
        plugin.operator("tag_for_review")(dataset, tag=5)
    with pytest.raises(ConfigError, match="an expression a line"):
        plugin.operator("apply_expressions")(dataset, expressions_from="text", text=["a", "b"])
    one, listed = (plugin.operator("suspected_label_errors")(dataset, pred_fields=fields) for fields in ("b", ["b"]))
    assert one == listed and one["count"]
    with pytest.raises(plugin.ExecutionError, match="No field of Detections: nowhere"):
        plugin.operator("disagreements")(dataset, pred_fields="nowhere")


@pytest.mark.parametrize(("name", "said"), [("\u4e0d\u786e\u5b9a", "letter or digit"), ("Look-here", "'look here'"), (5, "letter")])
def test_names_that_the_app_cannot_save_a_view_under(dataset, name, said):
    dataset.save_view("look here", dataset.limit(1))
    assert said in plugin.complaints("most_uncertain", dataset, {"pred_field": "a", "save_as": name})["save_as"]


def test_in_a_view_of_patches_the_open_sample_is_the_one_they_were_made_of(dataset):
    patches = dataset.to_patches("ground_truth")
    ctx = {"view": patches, "current_sample": patches.skip(1).first().id}
    assert plugin.complaints("tag_for_review", dataset, **ctx) == {}
    result = plugin.execute("tag_for_review", dataset, {"tag": "odd"}, **ctx)
    assert result.result == {"count": 1} and dataset.match_tags("odd").values("id") == [dataset.skip(1).first().id]

"""GREC, GRES and GREG as FiftyOne runs: the numbers of the files, per sample and per object."""

import json
from pathlib import Path

import fiftyone as fo
import pytest
from PIL import Image

import fiftyone_rexseek.types as frt
from fiftyone_rexseek.errors import ConfigError, DataError
from fiftyone_rexseek.integration.evaluation import evaluate_referring
from fiftyone_rexseek.integration.grefcoco_predictions import import_grefcoco_predictions
from fiftyone_rexseek.metrics import greg

DATA = Path(__file__).parent / "fixtures" / "grefcoco"
GREC = json.loads((DATA / "grec_expected_summary.json").read_text())
GREC_ROWS = json.loads((DATA / "grec_expected_per_sample.json").read_text())
GRES = json.loads((DATA / "gres_expected_summary.json").read_text())["summary"]
GRES_ROWS = json.loads((DATA / "gres_expected_per_sample.json").read_text())


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    images = tmp_path_factory.mktemp("images")
    for row in json.loads((DATA / "grefcoco" / "instances.json").read_text())["images"]:
        Image.new("RGB", (row["width"], row["height"])).save(images / row["file_name"])
    dataset = fo.Dataset.from_dir(
        str(DATA / "grefcoco"), dataset_type=frt.GRefCOCODataset, data_path=str(images), splits=["val", "testA"]
    )
    for task, file in (("grec", "grec_predictions"), ("gres", "gres_predictions_480"), ("orig", "gres_predictions_orig")):
        report = import_grefcoco_predictions(dataset, DATA / f"{file}.json", task, "gres" if task == "orig" else task)
        assert report.matched == len(dataset) and not report.missing
    yield dataset
    dataset.delete()


@pytest.mark.parametrize(
    "variant, options",
    [
        ("threshold_0.7", {}),
        ("count_head", {"output": "count"}),
        ("threshold_0.7_plain_iou_matching", {"protocol": "paper"}),
    ],
)
@pytest.mark.parametrize("split", ["val", "testA"])
def test_grec_numbers(dataset, split, variant, options):
    results = evaluate_referring(dataset.match_tags(split), "grec", method="grec", **options)
    assert {k: results.report()[k] for k in GREC[split][variant]} == GREC[split][variant]
    if not options:
        assert results.report()["coco_stats_all_boxes"] == pytest.approx(GREC[split]["coco_stats_all_boxes"], abs=1e-6)
        assert "always empty" in results.report()["baselines"]


def test_grec_run(dataset):
    view = dataset.match_tags("val")
    results = evaluate_referring(view, "grec", eval_key="g", method="grec")
    rows = {f"{r['ref_id']}_{r['sent_id']}": r for r in GREC_ROWS["val"]}
    names = ["expression_id", "g_success", "g_tp", "g_fp", "g_fn", "g_failure", "grec.detections.g", "ground_truth.detections.g"]
    for key, success, tp, fp, fn, failure, predicted, targets in zip(*view.values(names)):
        row = rows[key]
        assert (success, tp, tp + fp, tp + fn) == (bool(row["correct"]), row["tp_giou"], row["num_pred"], row["num_gt"])
        # boxes below the score threshold are not part of the answer
        assert [predicted.count(v) for v in ("tp", "fp")] == [tp, fp] and len(predicted) >= tp + fp
        assert targets.count("tp") == tp and targets.count("fn") == fn
        assert (failure == "exact") == success
    assert view.mean("g_pr_f1") == pytest.approx(results.report()["F1_score"])
    assert dataset.load_evaluation_results("g").metrics()["pr_f1"] == pytest.approx(results.report()["F1_score"])
    dataset.rename_evaluation("g", "h")
    assert dataset.has_sample_field("h_success") and not dataset.has_sample_field("g_success")
    dataset.delete_evaluation("h")
    assert not [name for name in dataset.get_field_schema() if name.startswith(("g_", "h_"))]


@pytest.mark.parametrize(
    "field, key, options",
    [
        ("gres", "480", {}),
        ("gres", "480_50px", {"protocol": "paper", "min_pixels": 50}),
        ("gres", "480_head_clears_mask", {"protocol": "paper"}),
        ("orig", "orig", {"protocol": "original-size"}),
    ],
)
def test_gres_numbers(dataset, field, key, options):
    for split in ("val", "testA"):
        results = evaluate_referring(dataset.match_tags(split), field, method="gres", **options)
        found = {k: results.report()[k] for k in GRES[key][split]}
        assert found == pytest.approx(GRES[key][split], rel=1e-9)


def test_gres_run(dataset):
    view = dataset.match_tags("val")
    evaluate_referring(view, "gres", eval_key="s", method="gres")
    rows = {f"{r['ref_id']}_{r['sent_id']}": r for r in GRES_ROWS["480"]["val"]}
    for key, shared, union, iou in zip(*view.values(["expression_id", "s_intersection", "s_union", "s_iou"])):
        assert (shared, union) == (rows[key]["I"], rows[key]["U"]) and iou == pytest.approx(rows[key]["IoU"])
    results = dataset.load_evaluation_results("s")
    assert results.metrics()["ciou"] == pytest.approx(GRES["480"]["val"]["cIoU"] / 100)
    dataset.delete_evaluation("s")
    assert not dataset.has_sample_field("s_iou")


def test_a_mask_of_our_own_is_scored_at_both_sizes(dataset):
    """Ground truth as its own prediction: perfect at image size, nearly so at 480x480."""
    view = dataset.match_tags("val")
    copies = [fo.Detections() if not d.detections else d.copy() for d in view.values("ground_truth")]
    view.set_values("copy", copies)
    try:
        exact = evaluate_referring(view, "copy", method="gres", protocol="original-size").report()
        resampled = evaluate_referring(view, "copy", method="gres").report()
        assert exact["N_acc"] == exact["T_acc"] == 1 and exact["gIoU"] > 99 and resampled["gIoU"] > 85
        with pytest.raises(DataError, match="original-size"):
            evaluate_referring(view, "orig", method="gres")
        with pytest.raises(ConfigError, match="unknown option"):
            evaluate_referring(view, "copy", method="gres", colour=1)
    finally:
        dataset.delete_sample_field("copy")


def test_unanswered_samples_earn_nothing(dataset):
    view = dataset.match_tags("val").match(fo.ViewField("num_targets") == 0).limit(3)
    view.set_values("some", [fo.Detections(), None, fo.Detections()])
    view.set_values("some_outcome", ["rejected", None, "failed"])
    try:
        report = evaluate_referring(view, "some", method="grec").report()
        assert report["N_acc"] == pytest.approx(1 / 3) and report["missing"]["count"] == 2
        report = evaluate_referring(view, "some", method="gres").report()
        assert report["N_acc"] == pytest.approx(1 / 3)
        assert evaluate_referring(view, "some", method="grec", missing="skip").report()["N_acc"] == 1
    finally:
        dataset.delete_sample_fields(["some", "some_outcome"])


def test_skipped_expressions_enter_no_figure(dataset):
    view = dataset.match_tags("val").match(fo.ViewField("num_targets") == 1).limit(6)
    truth = view.values("ground_truth")
    for detections in truth:
        detections.detections[0].confidence = 0.9
    view.set_values("some", [*truth[:3], None, None, None])
    try:
        for options in (dict(method="grec", protocol="paper"), dict(method="gres", protocol="original-size")):
            skipped = evaluate_referring(view, "some", missing="skip", **options).report()
            answered = evaluate_referring(view.limit(3), "some", **options).report()
            everything = next(name for name in answered["baselines"] if name.startswith("all candidates"))
            for name in ("always empty", everything):
                assert skipped["baselines"][name] == pytest.approx(answered["baselines"][name], nan_ok=True)
            if options["method"] == "grec":
                assert skipped["coco_stats_all_boxes"] == answered["coco_stats_all_boxes"]
                assert answered["coco_stats_all_boxes"]["AP"] > 0.99
    finally:
        dataset.delete_sample_field("some")


@pytest.mark.parametrize("segmentation", [[[1, 2, "three", 4, 5, 6]], {"size": [3, 4], "counts": [12]}], ids=str)
def test_a_damaged_target_mask_leaves_out_its_expression(dataset, segmentation):
    view = dataset.match_tags("val").match(fo.ViewField("num_targets") == 1).limit(3)
    copies = view.values("ground_truth")
    copies[0].detections[0].segmentation, copies[0].detections[0].mask = segmentation, None
    view.set_values("damaged", copies)
    try:
        report = evaluate_referring(view, "gres", gt_field="damaged", method="gres").report()
        assert report["problems"] == {"bad-target-mask": 1} and report["num_samples"] == 2
        report = evaluate_referring(view, "damaged", method="gres", protocol="original-size").report()
        assert report["problems"] == {"no-mask": 1} and report["num_unanswered"] == 1
    finally:
        dataset.delete_sample_field("damaged")


def test_predictions_are_checked(dataset, tmp_path):
    rows = json.loads((DATA / "grec_predictions.json").read_text())
    for row in rows:
        row["split"] = "train"
    (tmp_path / "p.json").write_text(json.dumps(rows))
    with pytest.raises(DataError, match="another split"):
        import_grefcoco_predictions(dataset, tmp_path / "p.json", "p", "grec")
    assert not dataset.has_sample_field("p")
    with pytest.raises(ConfigError, match="exists"):
        import_grefcoco_predictions(dataset, DATA / "grec_predictions.json", "grec", "grec")
    with pytest.raises(ConfigError, match="unknown task"):
        import_grefcoco_predictions(dataset, DATA / "grec_predictions.json", "p", "greg")


@pytest.fixture
def scored_items(monkeypatch):
    """The items that are scored, by a stand-in for METEOR and CIDEr (tests/test_greg.py has the real ones)."""
    seen = []

    def fake(items):
        seen[:] = items
        values = tuple(float(item.hypothesis in item.references) for item in items)
        scores = greg.GregScores(sum(values) / len(values), 1.0, values, values)
        return greg.GregResult(tuple(items), scores, {"S": scores}, ("",) * len(items), ((),) * len(items))

    monkeypatch.setattr("fiftyone_rexseek.integration.evaluation_greg.evaluate_greg", fake)
    return seen


def test_greg_run(dataset, scored_items):
    view = dataset.match_tags("val")
    expressions = view.values("expression")
    view.set_values("written", [None if i % 3 == 0 else text for i, text in enumerate(expressions)])
    results = evaluate_referring(view, "written", eval_key="t", method="greg")
    report = results.report()
    assert report["overall"]["METEOR"] == 1 and report["num_items"] == len(scored_items)
    assert "S_evaluated_alone" in report and report["missing"]["count"] > 0
    assert dataset.load_evaluation_results("t").metrics()["meteor"] == 1
    assert set(view.match(fo.ViewField("num_targets") > 0).values("t_meteor")) == {1.0, None}
    assert set(view.match(fo.ViewField("num_targets") == 0).values("t_meteor")) == {None}
    dataset.rename_evaluation("t", "u")
    assert dataset.has_sample_field("u_meteor") and not dataset.has_sample_field("t_meteor")
    dataset.delete_evaluation("u")
    assert not dataset.has_sample_field("u_meteor")
    with pytest.raises(ConfigError, match="scores texts"):
        evaluate_referring(view, "grec", method="greg")
    dataset.delete_sample_field("written")


def test_greg_items_are_target_sets(dataset, scored_items):
    view = dataset.match_tags("val")
    report = evaluate_referring(view, "expression", method="greg").report()
    assert report["num_items"] == len(scored_items) < len(view)
    assert sum(len(item.references) for item in scored_items) == len(view.match(fo.ViewField("num_targets") > 0))

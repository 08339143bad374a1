"""Prediction files as fields, and evaluation runs: equal to scoring the files, registered as FiftyOne's own."""

import json

import fiftyone as fo
import numpy as np
import pytest
from bson import ObjectId
from fiftyone import ViewField as F

import fiftyone_rexseek  # noqa: F401  (registers the methods)
from fiftyone_rexseek.datasets import scenes
from fiftyone_rexseek.datasets.humanref import read_humanref
from fiftyone_rexseek.datasets.predictions import PredictionSet
from fiftyone_rexseek.errors import ConfigError, DataError
from fiftyone_rexseek.integration.dataset_types import HumanRefDatasetImporter
from fiftyone_rexseek.integration.evaluation import evaluate_referring
from fiftyone_rexseek.integration.predictions import export_predictions, import_predictions
from fiftyone_rexseek.metrics.humanref_evaluation import HumanRefColumns, evaluate


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("humanref")
    scenes.write_humanref(path, seed=5, count=5, size=(240, 180), questions_per_scene=8)
    return path


@pytest.fixture
def dataset(folder):
    dataset = fo.Dataset()
    dataset.add_importer(HumanRefDatasetImporter(str(folder)), progress=False)
    yield dataset
    dataset.delete()


def answers(folder, points=False, seed=0):
    """Rows of a middling model: moved, missing, extra and doubled boxes (or points), empties of both kinds."""
    rng = np.random.default_rng(seed)
    rows = []
    for i, example in enumerate(read_humanref(folder / "annotations.jsonl")):
        found = []
        for c in example.candidates:
            if rng.random() < 0.5:
                box = (np.array(c.box_xyxy) + rng.normal(0, 3, 4)).tolist()
                found.append([(box[0] + box[2]) / 2, (box[1] + box[3]) / 2] if points else box)
        if i % 7 == 3:
            found = [] if i % 2 else [[]]
        rows.append({"id": example.expression_id, "extracted_predictions": found})
    return rows


def write(path, rows):
    path.write_text("".join(json.dumps(r) + "\n" for r in rows))
    return path


def read(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.parametrize("points", [False, True])
@pytest.mark.parametrize("protocol", ["official", "paper"])
def test_scores_are_those_of_the_file(dataset, folder, tmp_path, points, protocol):
    path = write(tmp_path / "p.jsonl", answers(folder, points))
    import_predictions(dataset, path, "p", progress=False)
    found = evaluate_referring(dataset, "p", eval_key="run", protocol=protocol)
    columns = HumanRefColumns.from_examples(read_humanref(folder / "annotations.jsonl"))
    wanted = evaluate(columns, PredictionSet.load(path), protocol=protocol)
    assert found.summary["overall"] == pytest.approx(wanted.summary["overall"], abs=1e-12)
    assert found.summary["rejection_correct"] == wanted.summary["rejection_correct"]
    for group in ("domain", "sub_domain", "box_count"):
        assert set(found.summary[group]) == set(wanted.summary[group])
        for name, values in wanted.summary[group].items():
            assert found.summary[group][name] == pytest.approx(values, abs=1e-12)
    for suffix, column in (("recall", "recall_50"), ("precision", "precision_50"), ("density_f1", "density_f1_50")):
        stored = np.array([np.nan if v is None else v for v in dataset.values(f"run_{suffix}")])
        assert np.allclose(stored, getattr(wanted.scores, column), atol=1e-12, equal_nan=True)
    assert found.summary["protocol"] == protocol


@pytest.mark.parametrize("points", [False, True])
def test_prediction_files_round_trip_exactly(dataset, folder, tmp_path, points):
    rows = answers(folder, points)
    rows[0]["raw_response"], rows[0]["question"] = "<obj1>", "who?"
    rows[1] = {"note": [1, {"a": None}], **rows[1]}
    rows[2]["outcome"], rows[2]["extracted_predictions"] = "unparsed", [[]]
    path = write(tmp_path / "p.jsonl", rows[:-2])
    report = import_predictions(dataset, path, "p", progress=False)
    assert (report.matched, report.missing, report.is_point) == (len(rows) - 2, 2, points)
    assert dataset.values("p")[-1] is None  # not predicted
    assert dataset.values("p_outcome")[2] == "unparsed" and dataset.values("p_answer")[0] == "<obj1>"
    export_predictions(dataset, tmp_path / "out.jsonl", "p")
    assert (tmp_path / "out.jsonl").read_bytes() == path.read_bytes()


def test_an_edited_prediction_is_exported_as_edited(dataset, folder, tmp_path):
    import_predictions(dataset, write(tmp_path / "p.jsonl", answers(folder)), "p", progress=False)
    sample = dataset.match(F("p.detections").length() > 1).first()
    sample.p.detections = sample.p.detections[:1]
    sample.save()
    export_predictions(dataset, tmp_path / "out.jsonl", "p")
    row = next(r for r in read(tmp_path / "out.jsonl") if r["id"] == sample.expression_id)
    assert len(row["extracted_predictions"]) == 1


def test_unscorable_entries_survive_and_match_nothing(dataset, folder, tmp_path):
    rows = answers(folder)
    rows[0]["extracted_predictions"] = [[float("nan")] * 4, [1, 2, 3], [50, 60, 10, 20]]
    path = write(tmp_path / "p.jsonl", rows)
    report = import_predictions(dataset, path, "p", progress=False)
    assert sum(report.problems.values()) == 1
    evaluate_referring(dataset, "p", eval_key="run")
    assert dataset.first()["run_tp"] == 0 and dataset.first()["run_fp"] == 3
    export_predictions(dataset, tmp_path / "out.jsonl", "p")
    assert (tmp_path / "out.jsonl").read_bytes() == path.read_bytes()


def test_predictions_of_another_split_are_refused(dataset, tmp_path):
    path = write(tmp_path / "p.jsonl", [{"id": f"other_{i}", "extracted_predictions": []} for i in range(50)])
    with pytest.raises(DataError, match="belong to these annotations"):
        import_predictions(dataset, path, "p", progress=False)
    assert not dataset.has_sample_field("p")


def test_strict_writes_nothing(dataset, folder, tmp_path):
    rows = [*answers(folder), {"id": "unknown", "extracted_predictions": []}]
    path = write(tmp_path / "p.jsonl", rows)
    with pytest.raises(DataError, match="unknown"):
        import_predictions(dataset, path, "p", strict=True, progress=False)
    assert not dataset.has_sample_field("p")
    assert import_predictions(dataset, path, "p", progress=False).problems == {"unknown-id": 1}
    with pytest.raises(ConfigError, match="exists"):
        import_predictions(dataset, path, "p", progress=False)


def test_sizes_of_images_are_looked_up_before_anything_is_replaced(dataset, folder, tmp_path):
    path = write(tmp_path / "p.jsonl", answers(folder))
    import_predictions(dataset, path, "p", progress=False)
    before = dataset.values("p.detections.bounding_box")
    gone = dataset.last()
    gone.filepath = str(tmp_path / "gone.png")
    gone.save()
    dataset.set_values("metadata", [None] * len(dataset))
    report = import_predictions(dataset, path, "p", overwrite=True, progress=False)
    assert report.problems == {"no-image-size": 1} and report.matched == len(before) - 1
    assert dataset.values("p.detections.bounding_box") == [*before[:-1], None]
    dataset.set_values("metadata", [None] * len(dataset))
    with pytest.raises(ConfigError, match="no image of these predictions can be read"):
        import_predictions(dataset.select(gone.id), path, "p", overwrite=True, progress=False)
    assert dataset.values("p.detections.bounding_box") == [*before[:-1], None]


def test_missing_answers_are_counted_and_scored_both_ways(dataset, folder, tmp_path):
    ids = dataset.match({"num_targets": 0}).values("expression_id")
    rows = [r for r in answers(folder) if r["id"] not in ids]
    import_predictions(dataset, write(tmp_path / "p.jsonl", rows), "p", progress=False)
    official = evaluate_referring(dataset, "p", eval_key="official")
    assert official.summary["missing"]["count"] == len(ids)
    assert official.summary["rejection_correct"] == len(ids)
    assert official.summary["missing"]["rejection_correct_without_credit"] == 0
    assert evaluate_referring(dataset, "p", missing="wrong").summary["rejection_correct"] == 0
    with pytest.raises(DataError):
        evaluate_referring(dataset, "p", eval_key="refused", missing="error")
    assert dataset.list_evaluations() == ["official"]  # a refused run leaves nothing pending


def test_a_run_is_loaded_renamed_and_deleted_with_its_fields(dataset, folder, tmp_path):
    import_predictions(dataset, write(tmp_path / "p.jsonl", answers(folder)), "p", progress=False)
    before = set(dataset.get_field_schema(flat=True))
    made = evaluate_referring(dataset, "p", eval_key="first")
    fields = {f for f in dataset.get_field_schema() if f.startswith("first_")}
    assert {"first_score", "first_success", "first_failure", "first_f1", "first_density_f1", "first_tp"} <= fields
    dataset.rename_evaluation("first", "second")
    assert {f for f in dataset.get_field_schema() if f.startswith("second_")} == {"second" + f[5:] for f in fields}
    loaded = dataset.load_evaluation_results("second", cache=False)
    assert loaded.report() == made.report() and loaded.headlines == made.headlines
    assert loaded.metrics()["density_f1_mean"] == made.summary["overall"]["density_f1_mean"]
    assert set(loaded.custom_metrics) == set(made.custom_metrics) and not any("." in uri for uri in loaded.custom_metrics)
    with loaded.use_subset(dataset.match({"domain": "attribute"})):
        wanted = made.summary["domain"]["attribute"]["density_f1_mean"]
        assert loaded.metrics()["density_f1_mean"] == pytest.approx(wanted)
    dataset.delete_evaluation("second")
    assert set(dataset.get_field_schema(flat=True)) == before and dataset.list_evaluations() == []


def test_objects_carry_what_they_are(dataset):
    dataset.clone_sample_field("candidates", "p")
    evaluate_referring(dataset, "p", eval_key="run")
    for sample in dataset:
        truth, found = sample.ground_truth.detections, sample.p.detections
        by_id = {d.id: d for d in found}
        assert [d["run"] for d in found].count("tp") == sample.run_tp
        assert [d["run"] for d in found].count("fp") == sample.run_fp
        assert [d["run"] for d in truth].count("fn") == sample.run_fn
        for label in truth:
            if label["run"] == "tp":
                assert by_id[label["run_id"]]["run_id"] == label.id and label["run_iou"] >= 0.5


def test_fiftyones_own_call_makes_the_same_run(dataset):
    dataset.clone_sample_field("candidates", "p")
    ours = evaluate_referring(dataset, "p", eval_key="ours")
    theirs = dataset.evaluate_detections("p", gt_field="ground_truth", eval_key="theirs", method="humanref")
    assert ours.summary == theirs.summary and type(ours) is type(theirs)
    for suffix in ("tp", "fp", "fn", "score", "failure", "f1"):
        assert dataset.values(f"ours_{suffix}") == dataset.values(f"theirs_{suffix}")
    for field in ("p", "ground_truth"):
        assert dataset.values(f"{field}.detections.ours") == dataset.values(f"{field}.detections.theirs")


def test_a_view_that_hides_labels_marks_the_right_ones(dataset):
    dataset.clone_sample_field("candidates", "p")
    keep = [ids[-1] for ids in dataset.values("p.detections.id")]
    view = dataset.filter_labels("p", F("_id").is_in([ObjectId(i) for i in keep]))
    evaluate_referring(view, "p", eval_key="run")
    for sample in dataset.select_fields("p"):
        marked = [d.id for d in sample.p.detections if d.has_field("run") and d["run"] is not None]
        assert set(marked) <= set(keep)
        assert marked == [sample.p.detections[-1].id]


def test_trivial_answers_stand_beside_the_result(dataset):
    dataset.clone_sample_field("candidates", "p")
    results = evaluate_referring(dataset, "p")
    everything = results.summary["baselines"]["all candidates"]
    assert everything["DensityF1 0.5:0.95"] == results.summary["overall"]["density_f1_mean"]
    assert results.summary["baselines"]["none"]["Rejection accuracy"] == 1.0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(method="bleu"), "unknown evaluation method"),
        (dict(protocol="mine"), "unknown protocol"),
        (dict(iuo=0.5), "unknown option"),
        (dict(gt_field="nothing"), "no field 'nothing'"),
        (dict(gt_field="expression"), "wrong type"),
    ],
)
def test_wrong_options_are_named_and_leave_no_run(dataset, options, message):
    dataset.clone_sample_field("candidates", "p")
    with pytest.raises(ConfigError, match=message):
        evaluate_referring(dataset, "p", eval_key="run", **options)
    assert dataset.list_evaluations() == []

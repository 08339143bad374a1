"""GREC and GRES prediction files out of a field and in again: the same rows, the same scores."""

import json
import os
from pathlib import Path

import fiftyone as fo
import numpy as np
import plugin
import pytest
from PIL import Image

import fiftyone_rexseek.types as frt
from fiftyone_rexseek import masks
from fiftyone_rexseek.datasets.grefcoco_predictions import write_rows
from fiftyone_rexseek.errors import ConfigError, DataError
from fiftyone_rexseek.integration.evaluation import evaluate_referring
from fiftyone_rexseek.integration.grefcoco_predictions import (
    export_grefcoco_predictions,
    import_grefcoco_predictions,
)
from fiftyone_rexseek.integration.prediction_files import import_prediction_file

DATA = Path(__file__).parent / "fixtures" / "grefcoco"
FILES = {"grec": "grec_predictions", "gres": "gres_predictions_480", "original": "gres_predictions_orig"}
WRITTEN = ("ref_id", "sent_id", "split", "boxes_xyxy", "scores", "count_class", "segmentation", "pred_no_target", "outcome")


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    images = tmp_path_factory.mktemp("images")
    for row in json.loads((DATA / "grefcoco" / "instances.json").read_text())["images"]:
        Image.new("RGB", (row["width"], row["height"])).save(images / row["file_name"])
    dataset = fo.Dataset.from_dir(
        str(DATA / "grefcoco"), dataset_type=frt.GRefCOCODataset, data_path=str(images), splits=["val", "testA"]
    )
    yield dataset
    dataset.delete()


@pytest.fixture
def back_and_forth(dataset, tmp_path):
    """Imports rows, exports the field, imports that as another field; gives (rows written, names of both fields)."""
    fields = []

    def go(rows, task, view=None, **options):
        view = dataset if view is None else view
        write_rows(tmp_path / "in.json", rows)
        first, second = f"f{len(fields)}", f"f{len(fields)}_again"
        fields.extend([first, second])
        import_grefcoco_predictions(view, tmp_path / "in.json", first, task, progress=False)
        count = export_grefcoco_predictions(view, tmp_path / "out.json", first, task, **options)
        written = json.loads((tmp_path / "out.json").read_text())
        assert count == len(written)
        import_grefcoco_predictions(view, tmp_path / "out.json", second, task, progress=False)
        return written, first, second

    yield go
    for field in fields:
        names = [n for n in dataset.get_field_schema() if n == field or (n.startswith(f"{field}_") and n not in fields)]
        dataset.delete_sample_fields(names)


def rows_of(name, splits=("val", "testA")):
    return [r for r in json.loads((DATA / f"{FILES[name]}.json").read_text()) if r["split"] in splits]


def kept(row):
    return {k: v for k, v in row.items() if k in WRITTEN}


def by_key(rows):
    return {(r["ref_id"], r["sent_id"]): kept(r) for r in rows}


@pytest.mark.parametrize("name, options", [("grec", {}), ("gres", {}), ("original", {"protocol": "original-size"})])
def test_what_was_read_is_written_and_scores_the_same(dataset, back_and_forth, name, options):
    task = "grec" if name == "grec" else "gres"
    rows = rows_of(name)
    written, first, second = back_and_forth(rows, task, original_size=name == "original")
    assert by_key(written) == by_key(rows)
    for split in ("val", "testA"):
        view = dataset.match_tags(split)
        reports = [evaluate_referring(view, f, method=task, **options).report() for f in (first, second)]
        assert json.dumps(reports[0]) == json.dumps(reports[1]).replace(second, first)


def test_masks_of_a_file_keep_their_size(back_and_forth, dataset):
    rows = rows_of("original", ["val"])
    written, *_ = back_and_forth(rows, "gres", dataset.match_tags("val"))
    assert by_key(written) == by_key(rows)


def test_rows_without_an_answer_say_so_and_samples_without_a_row_get_none(back_and_forth, dataset):
    rows = [kept(r) for r in rows_of("grec", ["val"])][:4]
    failed = {**rows[0], "outcome": "failed"}
    unparsed = {**rows[1], "outcome": "unparsed", "boxes_xyxy": []}
    broken = {**rows[2], "scores": [float("nan")] * len(rows[2]["scores"])}
    written, first, second = back_and_forth([failed, unparsed, broken, rows[3]], "grec", dataset.match_tags("val"))
    found = {(r["ref_id"], r["sent_id"]): r.get("outcome") for r in written}
    assert found == {(r["ref_id"], r["sent_id"]): o for r, o in zip(rows, ("failed", "unparsed", "unparsed", None))}
    view = dataset.match_tags("val")
    assert view.values(f"{first}_outcome") == view.values(f"{second}_outcome")
    assert view.count(first) == view.count(second) == 4  # the others are not predicted
    masks_written, *_ = back_and_forth([{**kept(rows_of("gres", ["val"])[0]), "outcome": "failed"}], "gres", view)
    assert [r["outcome"] for r in masks_written] == ["failed"]


def test_a_field_of_labels(dataset, tmp_path):
    """Boxes without confidence count as certain; masks are united, at 480x480 or at the image's size; empty is no target."""
    view = dataset.match_tags("val")
    view.set_values("own", [d.copy() for d in view.values("ground_truth")])
    try:
        count = export_grefcoco_predictions(view, tmp_path / "boxes.json", "own", "grec")
        rows = json.loads((tmp_path / "boxes.json").read_text())
        assert count == len(rows) == len(view) and {s for r in rows for s in r["scores"]} == {1.0}
        export_grefcoco_predictions(view, tmp_path / "480.json", "own", "gres")
        export_grefcoco_predictions(view, tmp_path / "orig.json", "own", "gres", original_size=True)
        small, own = (json.loads((tmp_path / f"{n}.json").read_text()) for n in ("480", "orig"))
        assert {tuple(r["segmentation"]["size"]) for r in small} == {(480, 480)}
        for row, sample in zip(own, view):
            size = (sample.metadata.height, sample.metadata.width)
            assert tuple(row["segmentation"]["size"]) == size
            assert row["pred_no_target"] == (not sample.own.detections)
            united = np.zeros(size, bool)
            for label in sample.own.detections:
                united |= masks.paste(label.mask, label.box_xyxy, *size)
            assert (masks.decode(row["segmentation"]) == united).all()
        import_grefcoco_predictions(view, tmp_path / "orig.json", "merged", "gres", progress=False)
        for protocol, field in (("original-size", "merged"), ("original-size", "own")):
            report = evaluate_referring(view, field, method="gres", protocol=protocol).report()
            assert report["N_acc"] == report["T_acc"] == 1 and report["gIoU"] > 99
    finally:
        dataset.delete_sample_fields([n for n in dataset.get_field_schema() if n.startswith(("own", "merged"))])


def test_what_cannot_be_written(dataset, tmp_path):
    view = dataset.match_tags("val")
    box = fo.Detection(label="x", bounding_box=[0.1, 0.1, 0.2, 0.2])
    view.set_values("bare", [fo.Detections(detections=[box.copy()]) for _ in view])
    (tmp_path / "p.json").write_text("what was there")
    try:
        with pytest.raises(DataError, match="no mask"):
            export_grefcoco_predictions(view, tmp_path / "p.json", "bare", "gres")
        with pytest.raises(ConfigError, match="unknown task"):
            export_grefcoco_predictions(view, tmp_path / "p.json", "bare", "greg")
        with pytest.raises(ConfigError, match="no field 'none'"):
            export_grefcoco_predictions(view, tmp_path / "p.json", "none", "grec")
        with pytest.raises(ConfigError, match="unknown format"):
            import_prediction_file(view, tmp_path / "p.json", "p", "coco")
        view.set_values("points", [fo.Keypoints() for _ in view])
        with pytest.raises(ConfigError, match="Detections"):
            export_grefcoco_predictions(view, tmp_path / "p.json", "points", "grec")
    finally:
        dataset.delete_sample_fields([n for n in ("bare", "points") if dataset.has_sample_field(n)])
    assert (tmp_path / "p.json").read_text() == "what was there" and os.listdir(tmp_path) == ["p.json"]
    other = fo.Dataset()
    try:
        other.add_sample(fo.Sample(str(tmp_path / "a.png"), p=fo.Detections(), metadata=fo.ImageMetadata(width=4, height=4)))
        with pytest.raises(ConfigError, match="no ref_id and sent_id"):
            export_grefcoco_predictions(other, tmp_path / "p.json", "p", "grec")
        other.set_values("extra", [{"ref_id": 3}])
        with pytest.raises(ConfigError, match="no ref_id and sent_id"):
            export_grefcoco_predictions(other, tmp_path / "p.json", "p", "grec")
    finally:
        other.delete()


def test_operators(dataset, tmp_path):
    """Nothing chosen is the file's ending; masks have to be chosen."""
    plugin.install()
    read, write = plugin.operator("import_predictions"), plugin.operator("export_predictions")
    view = dataset.match_tags("val")
    boxes, drawn = rows_of("grec", ["val"]), rows_of("gres", ["val"])
    try:
        write_rows(tmp_path / "Model A.json", boxes)
        assert read(view, path=str(tmp_path / "Model A.json"))["matched"] == len(view)
        assert write(view, path=str(tmp_path / "out.json"), pred_field="model_a")["rows"] == len(view)
        assert by_key(json.loads((tmp_path / "out.json").read_text())) == by_key(boxes)
        write_rows(tmp_path / "model_b.json", drawn)
        assert read(view, path=str(tmp_path / "model_b.json"), format="gres")["matched"] == len(view)
        assert write(view, path=str(tmp_path / "out.json"), pred_field="model_b", format="gres")["rows"] == len(view)
        assert by_key(json.loads((tmp_path / "out.json").read_text())) == by_key(drawn)
        assert write(view, path=str(tmp_path / "out.jsonl"), pred_field="model_a")["rows"] == len(view)
        assert "extracted_predictions" in json.loads((tmp_path / "out.jsonl").read_text().splitlines()[0])
        form = plugin.form("export_predictions", dataset, {"path": str(tmp_path / "new.json")})
        assert form["format"]["default"] is None and not form["format"]["required"]
        with pytest.raises(plugin.ExecutionError, match="can be used"):
            read(view, path=str(tmp_path / "model_b.json"), pred_field="model_c")
        assert not dataset.has_sample_field("model_c")
    finally:
        dataset.delete_sample_fields([n for n in dataset.get_field_schema() if n.startswith("model_")])

"""HumanRef into FiftyOne and out again: contents, bad input, interrupted and repeated imports."""

import json
from pathlib import Path

import bson
import fiftyone as fo
import fiftyone.zoo as foz
import numpy as np
import pytest
from PIL import Image

import fiftyone_rexseek
from fiftyone_rexseek import masks
from fiftyone_rexseek.datasets import scenes
from fiftyone_rexseek.datasets.humanref import read_humanref
from fiftyone_rexseek.errors import ConfigError, DataError, DownloadError
from fiftyone_rexseek.integration import documents, importers
from fiftyone_rexseek.integration.dataset_types import HumanRefDatasetImporter
from fiftyone_rexseek.integration.importers import import_examples, pack_extra, unpack_extra
from fiftyone_rexseek.integration.media import ImageFolder
from fiftyone_rexseek.metrics.points import rectangle_rle


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("humanref")
    scenes.write_humanref(path, seed=11, count=4, size=(200, 150), questions_per_scene=6)
    return path


def rows_of(path):
    return [json.loads(line) for line in Path(path).read_text().splitlines()]


def changed(folder, tmp_path, change):
    """A copy of the annotations with rows changed in place, the images where they were."""
    rows = rows_of(folder / "annotations.jsonl")
    change(rows)
    path = tmp_path / "annotations.jsonl"
    path.write_text("".join(json.dumps(r) + "\n" for r in rows))
    return rows, dict(labels_path=str(path), data_path=str(folder / "images"))


def load(dataset=None, **options):
    """Imports; returns the dataset and the report."""
    dataset = fo.Dataset() if dataset is None else dataset
    importer = HumanRefDatasetImporter(**options)
    dataset.add_importer(importer, progress=False)
    return dataset, importer.report


def test_fields_are_those_of_the_source(folder):
    dataset = fo.Dataset.from_dir(str(folder), dataset_type=fiftyone_rexseek.types.HumanRefDataset, progress=False)
    examples = list(read_humanref(folder / "annotations.jsonl"))
    assert len(dataset) == len(examples)
    for sample, example in zip(dataset, examples):
        for name in ("image_id", "expression_id", "expression", "domain", "sub_domain", "num_targets"):
            assert sample[name] == getattr(example, name)
        n = example.num_targets
        assert sample.target_summary == ("no target" if n == 0 else "1 target" if n == 1 else f"{n} targets")
        assert (sample.metadata.width, sample.metadata.height) == (200, 150) and Path(sample.filepath).is_file()
        assert len(sample.candidates.detections) == len(example.candidates)
        assert sample.ground_truth is not None  # nobody matches: empty, not None
        for label, target in zip(sample.ground_truth.detections, example.targets, strict=True):
            assert label.box_xyxy == list(target.box_xyxy) and label.segmentation == target.segmentation
            x, y, w, h = label.bounding_box
            assert np.allclose([x * 200, y * 150, (x + w) * 200, (y + h) * 150], target.box_xyxy)
            inside = masks.crop_to_box(masks.decode(target.segmentation), target.box_xyxy)
            assert (label.mask == inside).all()
    assert {"image_id", "expression_id", "domain", "import_key"} <= set(dataset.list_indexes())
    assert len(dataset.load_saved_view("by image")) == 4
    assert dataset.get_field("num_targets").description and dataset.count_values("target_summary")["no target"]
    assert "target_summary" in dataset.app_config.active_fields.paths  # an empty field draws nothing: the tile has to say it
    assert dataset.app_config.color_scheme and dataset.app_config.sidebar_groups
    dataset.validate_field_type("ground_truth", fo.EmbeddedDocumentField, embedded_doc_type=fo.Detections)
    sample = dataset.first()
    sample["expression"] += "!"
    sample.save()  # what was written past FiftyOne's objects is valid for them


def test_round_trip_is_exact(folder, tmp_path):
    def change(rows):
        rows[0]["note"] = {"a.b": 2**70, "$c": [None, 1.5]}
        rows[1]["extra_number"] = 3

    rows, options = changed(folder, tmp_path, change)
    dataset, _ = load(**options)
    out = tmp_path / "out"
    dataset.export(str(out), dataset_type=fiftyone_rexseek.types.HumanRefDataset, progress=False)
    assert (out / "annotations.jsonl").read_bytes() == (tmp_path / "annotations.jsonl").read_bytes()
    assert {p.name for p in (out / "images").iterdir()} == {r["image_name"] for r in rows}


def test_a_moved_box_is_exported_where_it_is_now(folder, tmp_path):
    dataset, _ = load(dataset_dir=str(folder))
    sample = dataset.match({"num_targets": 1}).first()
    sample.ground_truth.detections[0].bounding_box = [0.25, 0.2, 0.5, 0.4]
    sample.save()
    path = tmp_path / "a.jsonl"
    kind = fiftyone_rexseek.types.HumanRefDataset
    dataset.export(labels_path=str(path), dataset_type=kind, export_media=False, progress=False)
    row = next(r for r in rows_of(path) if r["id"] == sample.expression_id)
    assert np.allclose(row["answer_boxes"], [[50, 30, 150, 90]])


@pytest.mark.parametrize("media", [True, "symlink"])
def test_an_image_that_is_gone_is_named(folder, tmp_path, media):
    dataset, _ = load(dataset_dir=str(folder), max_samples=2)
    sample = dataset.last()
    sample.filepath = "/nowhere/gone.jpg"
    sample.save()
    with pytest.raises(DataError, match=r"^/nowhere/gone\.jpg: there is no such image"):
        dataset.export(str(tmp_path), dataset_type=fiftyone_rexseek.types.HumanRefDataset, export_media=media, progress=False)
    assert not (tmp_path / "annotations.jsonl").exists()


def test_importing_again_adds_only_what_is_missing(folder):
    dataset, first = load(dataset_dir=str(folder), max_samples=7)
    assert (first.added, first.existing) == (7, 0)
    _, second = load(dataset, dataset_dir=str(folder))
    assert (second.added, second.existing) == (24 - 7, 7)
    _, third = load(dataset, dataset_dir=str(folder))
    assert (third.added, third.existing, len(dataset)) == (0, 24, 24)


def test_an_interrupted_import_loses_and_doubles_nothing(folder):
    dataset = fo.Dataset()
    examples = list(read_humanref(folder / "annotations.jsonl"))

    def broken():
        yield from examples[:10]
        raise KeyboardInterrupt

    images = ImageFolder(folder / "images")
    with pytest.raises(KeyboardInterrupt):
        import_examples(dataset, broken(), images, source="humanref", batch_size=4, progress=False)
    assert len(dataset) == 10
    _, report = load(dataset, dataset_dir=str(folder))
    assert (report.added, report.existing) == (14, 10)
    assert len(set(dataset.values("import_key"))) == len(dataset) == 24


def test_the_database_itself_refuses_doubles(folder, monkeypatch):
    """Two imports at once: neither knows at its start what the other writes."""
    dataset, _ = load(dataset_dir=str(folder), max_samples=5)
    monkeypatch.setattr(fo.Dataset, "values", lambda *args, **kwargs: [])
    _, report = load(dataset, dataset_dir=str(folder))
    assert (report.added, report.existing, len(dataset)) == (19, 5, 24)


def test_fallback_to_public_functions_gives_the_same(folder, monkeypatch):
    fast, _ = load(dataset_dir=str(folder), max_samples=6)
    monkeypatch.setattr(documents, "format_is_known", lambda: False)
    slow, _ = load(dataset_dir=str(folder), max_samples=6)

    def plain(dataset):
        volatile = ("_id", "id", "_dataset_id", "_rand", "created_at", "last_modified_at")

        def strip(value):
            if isinstance(value, dict):
                return {k: strip(v) for k, v in value.items() if k not in volatile and v is not None}
            return [strip(v) for v in value] if isinstance(value, list | tuple) else value

        return [strip(s.to_dict()) for s in dataset]

    assert documents.format_is_known() is False and plain(fast) == plain(slow)


def test_this_fiftyone_stores_samples_as_expected():
    documents.format_is_known.cache_clear()
    assert documents.format_is_known()


BAD = {
    "missing-image": lambda row: row.update(image_name="nowhere.jpg"),
    "nan-box": lambda row: row["answer_boxes"].append([float("nan")] * 4),
    "inverted-box": lambda row: row["candidate_boxes"].append([900, 900, 10, 20]),
    "xywh-box": lambda row: row["candidate_boxes"].append([100, 90, 20, 10]),
    "bad-box": lambda row: row["answer_boxes"].append([1, 2, 3]),
    "missing-field": lambda row: row.pop("referring"),
}


@pytest.mark.parametrize("kind", BAD)
def test_one_bad_row_is_counted_and_takes_no_other_with_it(folder, tmp_path, kind):
    rows, options = changed(folder, tmp_path, lambda rows: BAD[kind](rows[3]))
    dataset, report = load(**options)
    assert len(dataset) == len(rows) - 1 and report.problems == {kind: 1}
    info = dataset.info[importers.INFO_KEY]["humanref"]
    assert info["problems"] == {kind: 1} and len(info["first_problems"]) == 1
    strict = fo.Dataset()
    with pytest.raises(DataError):
        load(strict, strict=True, **options)
    assert len(strict) == 3  # nothing already imported is lost


def test_unreadable_image_and_wrong_mask(folder, tmp_path):
    images = tmp_path / "images"
    images.mkdir()
    for path in (folder / "images").iterdir():
        (images / path.name).write_bytes(path.read_bytes())

    def change(rows):
        rows[0]["image_name"] = "broken.jpg"
        positive = next(r for r in rows[1:] if r["answer_boxes"])
        positive["answer_segmentations"][0]["counts"] = "000"
        positive["width"], positive["height"] = 200, 150

    (images / "broken.jpg").write_bytes(b"no image at all")
    rows, options = changed(folder, tmp_path, change)
    dataset, report = load(**{**options, "data_path": str(images)})
    assert report.problems == {"unreadable-image": 1, "bad-mask": 1} and len(dataset) == len(rows) - 1
    (sample,) = dataset.match_tags("problem:bad-mask")
    assert sample.ground_truth.detections[0].mask is None  # the box stays


def test_masks_of_another_size_do_not_move_the_boxes(folder, tmp_path):
    """A row that states no size is taken to have that of its masks, unless they lie elsewhere than the boxes."""

    def change(rows):
        for row in rows:
            row.pop("width", None), row.pop("height", None)
            size = (600, 800)
            for i, box in enumerate(row["answer_boxes"]):
                row["answer_segmentations"][i] = rectangle_rle([v + 300 for v in box], size)

    rows, options = changed(folder, tmp_path, change)
    dataset, report = load(**options)
    full, _ = load(dataset_dir=str(folder))
    positive = sum(bool(r["answer_boxes"]) for r in rows)
    assert report.problems["bad-mask"] >= positive == len(dataset.match_tags("problem:bad-mask")) > 0
    assert "size-differs" not in report.problems and len(dataset) == len(rows)
    same = "ground_truth.detections.bounding_box"
    assert dataset.values(same) == full.values(same)


def test_wrong_paths_are_named(folder, tmp_path):
    with pytest.raises(DataError, match="nowhere"):
        load(dataset_dir=str(folder), labels_path="nowhere.jsonl")
    with pytest.raises(DataError, match="no-images"):
        load(dataset_dir=str(folder), data_path="no-images")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="none of the 24 examples"):
        load(labels_path=str(folder / "annotations.jsonl"), data_path=str(tmp_path / "empty"))


def test_a_resized_image_keeps_the_rows_coordinates(folder, tmp_path):
    (tmp_path / "half").mkdir()
    for path in (folder / "images").iterdir():
        Image.open(path).resize((100, 75)).save(tmp_path / "half" / path.name)
    small, report = load(dataset_dir=str(folder), data_path=str(tmp_path / "half"))
    full, _ = load(dataset_dir=str(folder))
    # every row of the scenes states its size, also those without a mask
    assert report.problems["size-differs"] == len(small) == len(small.match_tags("problem:size-differs"))
    same = ["ground_truth.detections.bounding_box", "candidates.detections.bounding_box"]
    assert small.values(same) == full.values(same)


def test_extra_fields_survive_any_database():
    nested = {"a": [1]}
    for _ in range(200):
        nested = {"a": nested}
    plain = ({}, {"a": [1, {"b": None}]})
    packed = ({"a.b": 1}, {"$a": 1}, {"n": 2**80}, {"json": 1}, {"_id": 3}, {"a\0b": 1}, {"a": "\ud800"}, nested)
    for extra in (*plain, *packed):
        bson.encode(pack_extra(extra))
        assert unpack_extra(pack_extra(extra)) == extra
    assert unpack_extra(pack_extra({"a": {2, 1}, "b": b"\xff"})) == {"a": [1, 2], "b": "\\xff"}
    nested["a"] = nested
    with pytest.raises(DataError, match="hold themselves"):
        pack_extra(nested)


def test_unknown_options_are_refused(folder):
    with pytest.raises(ConfigError, match="mask_storage"):
        load(dataset_dir=str(folder), mask_storage="paper")
    with pytest.raises(ConfigError, match="shuffle"):
        load(dataset_dir=str(folder), shuffle=True)


def test_zoo_dataset_from_a_folder(folder):
    name = "zoo-humanref"
    options = dict(source_dir=str(folder), dataset_name=name, progress=False)
    dataset = foz.load_zoo_dataset("humanref", domains=["rejection"], max_samples=2, **options)
    assert len(dataset) == 2 and dataset.distinct("domain") == ["rejection"]
    fo.delete_dataset(name)


def test_zoo_dataset_without_a_network_says_what_to_do(monkeypatch):
    from huggingface_hub import HfApi

    def unreachable(*args, **kwargs):
        raise ConnectionError("no route to host")

    monkeypatch.setattr(HfApi, "dataset_info", unreachable)
    with pytest.raises(DownloadError, match=r"IDEA-Research/HumanRef.*source_dir=.*IDEA License"):
        foz.download_zoo_dataset("humanref", overwrite=True)


def test_zoo_scenes_are_drawn():
    dataset = foz.load_zoo_dataset("rexseek-scenes", num_scenes=2, questions_per_scene=3, progress=False)
    assert len(dataset) == 6 and len(dataset.distinct("image_id")) == 2
    fo.delete_dataset(dataset.name)

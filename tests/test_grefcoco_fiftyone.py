"""gRefCOCO and the RefCOCO family in FiftyOne: import, export, zoo."""

import json
import pickle
import shutil
from pathlib import Path

import fiftyone as fo
import fiftyone.zoo as foz
import pytest
from PIL import Image

import fiftyone_rexseek.types as frt
from fiftyone_rexseek.datasets import plain_pickle
from fiftyone_rexseek.datasets.grefcoco import read_grefcoco
from fiftyone_rexseek.errors import DataError, DownloadError
from fiftyone_rexseek.integration import grefcoco
from fiftyone_rexseek.integration.registration import register

DATA = Path(__file__).parent / "fixtures" / "grefcoco"
REFS = json.loads((DATA / "grefcoco" / "grefs(unc).json").read_text())
FACTS = json.loads((DATA / "dataset_facts.json").read_text())


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """The data set as users have it: grefcoco/, refcoco/ and images/train2014/."""
    folder = tmp_path_factory.mktemp("grefcoco")
    for name in ("grefcoco", "refcoco"):
        shutil.copytree(DATA / name, folder / name)
    images = folder / "images" / "train2014"
    images.mkdir(parents=True)
    for row in json.loads((DATA / "grefcoco" / "instances.json").read_text())["images"]:
        Image.new("RGB", (row["width"], row["height"]), (90, 120, 60)).save(images / row["file_name"])
    return folder


@pytest.fixture(scope="module")
def dataset(root):
    dataset = fo.Dataset.from_dir(str(root), dataset_type=frt.GRefCOCODataset)
    yield dataset
    dataset.delete()


def test_import(dataset):
    assert len(dataset) == FACTS["n_expressions"]
    for split, facts in FACTS["splits"].items():
        view = dataset.match_tags(split)
        assert len(view) == facts["expressions"]
        assert len(view.match(fo.ViewField("num_targets") == 0)) == facts["no_target_expressions"]
    examples = {e.expression_id: e for e in read_grefcoco(DATA / "grefcoco")}
    for sample in dataset.take(40, seed=51):
        example = examples[sample.expression_id]
        assert sample.expression == example.expression and sample.image_id == example.image_id
        labels = sample.ground_truth.detections
        assert [d.label for d in labels] == [t.label for t in example.targets]
        assert [d.box_xyxy for d in labels] == [list(t.box_xyxy) for t in example.targets]
        assert all(d.mask is not None and d.mask.any() for d in labels)
        assert [d.object_id for d in sample.candidates.detections] == [t.object_id for t in example.candidates]
        assert Path(sample.filepath).is_file()
    empty = dataset.match(fo.ViewField("num_targets") == 0).first()
    assert empty.ground_truth is not None and empty.ground_truth.detections == [] and empty.target_summary == "no target"
    info = dataset.info[grefcoco.INFO_KEY]["grefcoco"]
    assert info["counts"]["expressions"] == FACTS["n_expressions"]
    assert info["differences_from_published"]["expressions"] == [259_859, FACTS["n_expressions"]]
    assert "by image" in dataset.list_saved_views() and "nobody matches" in dataset.list_saved_views()


def test_what_differs_from_the_published_set_is_said_in_one_line(root, caplog):
    again = fo.Dataset.from_dir(str(root), dataset_type=frt.GRefCOCODataset)
    try:
        [line] = [m for m in caplog.messages if "published" in m]
        assert f"expressions {FACTS['n_expressions']} of 259859" in line
    finally:
        again.delete()


def test_importing_again_adds_nothing(root, dataset):
    assert dataset.add_dir(str(root), dataset_type=frt.GRefCOCODataset) == []
    assert len(dataset) == FACTS["n_expressions"]


def test_export_gives_back_the_refs(dataset, tmp_path):
    dataset.export(str(tmp_path), dataset_type=frt.GRefCOCODataset, export_media=False)
    assert json.loads((tmp_path / "grefs(unc).json").read_text()) == REFS
    written = json.loads((tmp_path / "instances.json").read_text())
    source = json.loads((DATA / "grefcoco" / "instances.json").read_text())
    assert written["categories"] == source["categories"]
    by_id = {a["id"]: a for a in source["annotations"]}
    for row in written["annotations"]:
        expected = by_id[row["id"]]
        assert {k: row[k] for k in ("id", "image_id", "bbox", "area", "iscrowd", "category_id")} == {
            k: expected[k] for k in ("id", "image_id", "bbox", "area", "iscrowd", "category_id")
        }
        assert row["segmentation"] == expected["segmentation"]
    assert written["licenses"] == source["licenses"]


def test_export_of_a_dataset_whose_refs_were_kept_as_they_are(dataset, tmp_path):
    """As datasets were written that kept neither splits nor packed fields."""
    older = dataset.clone()
    refs = [[i, ref] for i, ref in enumerate(REFS) if not ref["sentences"]]
    header = {"categories": json.loads((DATA / "grefcoco" / "instances.json").read_text())["categories"]}
    older.info[grefcoco.INFO_KEY] = {"grefcoco": {"counts": {}, "header": header, "refs_without_sentences": refs}}
    older.save()
    try:
        older.export(str(tmp_path), dataset_type=frt.GRefCOCODataset, export_media=False)
    finally:
        older.delete()
    assert json.loads((tmp_path / "grefs(unc).json").read_text()) == REFS


def test_export_of_samples_made_by_hand(tmp_path):
    image = tmp_path / "a.png"
    Image.new("RGB", (40, 20)).save(image)
    dataset = fo.Dataset()
    try:
        box = fo.Detection(label="dog", bounding_box=[0.1, 0.1, 0.5, 0.5])
        same = fo.Detection(label="dog", bounding_box=[0.1, 0.1, 0.5, 0.5])
        dataset.add_samples(
            [
                fo.Sample(str(image), expression="the dog", ground_truth=fo.Detections(detections=[box])),
                fo.Sample(str(image), expression="it", ground_truth=fo.Detections(detections=[same])),
                fo.Sample(str(image), expression="no dog", ground_truth=fo.Detections()),
            ]
        )
        dataset.compute_metadata()
        dataset.export(str(tmp_path / "out"), dataset_type=frt.GRefCOCODataset)
    finally:
        dataset.delete()
    examples = list(read_grefcoco(tmp_path / "out"))
    assert [e.expression for e in examples] == ["the dog", "it", "no dog"]
    assert examples[0].targets == examples[1].targets and examples[0].targets[0].box_xyxy == (4, 2, 24, 12)
    assert examples[2].targets == ()


def test_new_objects_never_share_an_id(tmp_path):
    """Also where a round trip through files has made earlier ids the source's."""
    Image.new("RGB", (40, 20)).save(tmp_path / "a.png")

    def box(x):
        return fo.Detection(label="dog", bounding_box=[x, 0.1, 0.2, 0.5])

    first = fo.Dataset()
    sample = fo.Sample(str(tmp_path / "a.png"), expression="dogs", ground_truth=fo.Detections(detections=[box(0.1), box(0.2)]))
    first.add_sample(sample)
    first.compute_metadata()
    first.export(str(tmp_path / "one"), dataset_type=frt.GRefCOCODataset)
    second = fo.Dataset.from_dir(str(tmp_path / "one"), dataset_type=frt.GRefCOCODataset)
    try:
        [sample] = second
        sample.ground_truth.detections += [box(0.3), box(0.4)]
        sample.save()
        second.export(str(tmp_path / "two"), dataset_type=frt.GRefCOCODataset)
    finally:
        first.delete()
        second.delete()
    [example] = read_grefcoco(tmp_path / "two")
    assert len({t.object_id for t in example.targets}) == 4
    assert [t.box_xyxy[0] for t in example.targets] == pytest.approx([4, 8, 12, 16])


def test_one_split_and_missing_images(root, tmp_path):
    images = tmp_path / "some"
    images.mkdir()
    kept = sorted((root / "images" / "train2014").iterdir())[:30]
    for path in kept:
        shutil.copy(path, images)
    importer = grefcoco.GRefCOCODatasetImporter(str(root), data_path=str(images), splits="val")
    dataset = fo.Dataset()
    try:
        with importer:
            ids = importer.import_samples(dataset)
        assert 0 < len(ids) < FACTS["splits"]["val"]["expressions"]
        assert importer.report.problems["missing-image"] + len(ids) == FACTS["splits"]["val"]["expressions"]
        assert set(dataset.distinct("tags")) == {"val"} and importer.differences == {}
        with pytest.raises(DataError, match="image folder"):
            dataset.add_dir(str(root), dataset_type=frt.GRefCOCODataset, data_path=str(tmp_path / "none"))
    finally:
        dataset.delete()


def changed_copy(root, folder, change, pickled=False):
    """The data set with its refs changed, the images where they were."""
    refs, instances = json.loads(json.dumps(REFS)), json.loads((DATA / "grefcoco" / "instances.json").read_text())
    change(refs, instances)
    folder.mkdir()
    (folder / "instances.json").write_text(json.dumps(instances))
    path = folder / f"grefs(unc).{'p' if pickled else 'json'}"
    path.write_bytes(pickle.dumps(refs) if pickled else json.dumps(refs).encode())
    return dict(dataset_dir=str(folder), data_path=str(root / "images" / "train2014"), labels_path=path.name, splits="val")


def imported(**options):
    importer = grefcoco.GRefCOCODatasetImporter(**options)
    dataset = fo.Dataset()
    dataset.add_importer(importer, progress=False)
    dataset.reload()
    return dataset, importer


def val_refs(refs):
    return [r for r in refs if r["split"] == "val" and r["sentences"]]


def test_what_only_a_pickle_holds_takes_nobody_with_it(root, tmp_path):
    def change(refs, _):
        first, second, third, *_ = val_refs(refs)
        first["a"], second["b"] = {1, 2}, b"raw"
        third["c"] = third

    dataset, importer = imported(**changed_copy(root, tmp_path / "p", change, pickled=True))
    try:
        assert len(dataset) == FACTS["splits"]["val"]["expressions"]
        lost = dataset.match_tags("problem:bad-extra")
        assert importer.report.problems["bad-extra"] == len(lost) > 0
        dataset.export(str(tmp_path / "out"), dataset_type=frt.GRefCOCODataset, export_media=False)
    finally:
        dataset.delete()
    written = json.loads((tmp_path / "out" / "grefs(unc).json").read_text())
    assert [r["a"] for r in written if "a" in r] == [[1, 2]] and [r["b"] for r in written if "b" in r] == ["raw"]


def test_refs_without_sentences_may_hold_what_a_database_does_not(root, tmp_path):
    odd = {"n": 2**70, "a.b": 1, "half": "\ud800"}

    def change(refs, instances):
        val_refs(refs)[0].update(odd, sentences=[])
        refs.append({**val_refs(refs)[0], "split": "\ud800"})
        instances["info"] = {"$date": 2**70}

    options = changed_copy(root, tmp_path / "odd", change)
    dataset, _ = imported(**options)
    try:
        assert dataset.info["referring_imports"]["grefcoco/val"]["problems"]["unknown-split"] == 1
        dataset.export(str(tmp_path / "out"), dataset_type=frt.GRefCOCODataset, export_media=False)
    finally:
        dataset.delete()
    [ref] = [r for r in json.loads((tmp_path / "out" / "grefs(unc).json").read_text()) if "n" in r]
    assert ref.items() >= odd.items() and ref["sentences"] == []
    assert json.loads((tmp_path / "out" / "instances.json").read_text())["info"] == {"$date": 2**70}


@pytest.mark.parametrize("mask_storage", ["database", "none"])
@pytest.mark.parametrize("segmentation", [{"counts": "12"}, [[1, 2, "three", 4, 5, 6]], [[2**70, 1]]], ids=str)
def test_a_damaged_mask_is_left_out(root, tmp_path, segmentation, mask_storage):
    def change(refs, instances):
        wrong = next(r["ann_id"][0] for r in val_refs(refs) if r["ann_id"] != [-1])
        row = next(a for a in instances["annotations"] if a["id"] == wrong)
        row["segmentation"] = segmentation
        image = next(i for i in instances["images"] if i["id"] == row["image_id"])
        image["width"] += 1  # makes the reader look whether masks lie where the boxes do

    dataset, importer = imported(**changed_copy(root, tmp_path / "m", change), mask_storage=mask_storage)
    try:
        assert len(dataset) == FACTS["splits"]["val"]["expressions"]
        assert importer.report.problems["bad-mask"] >= len(dataset.match_tags("problem:bad-mask")) > 0
    finally:
        dataset.delete()


@pytest.fixture
def zoo():
    register()
    names = []
    yield names
    for name in names:
        if fo.dataset_exists(name):
            fo.delete_dataset(name)


def test_zoo(root, zoo):
    zoo.append("g")
    dataset = foz.load_zoo_dataset("grefcoco", source_dir=str(root), splits=["val", "testA"], dataset_name="g")
    facts = FACTS["splits"]
    assert len(dataset) == facts["val"]["expressions"] + facts["testA"]["expressions"]
    assert dataset.count_sample_tags() == {split: facts[split]["expressions"] for split in ("val", "testA")}
    zoo.append("r")
    other = foz.load_zoo_dataset("refcoco", source_dir=str(root), split="val", dataset_name="r", max_samples=5)
    assert len(other) == 5 and other.distinct("num_targets") == [1]
    for name in ("refcoco+", "refcocog"):
        with pytest.raises(DataError, match=r"refs\("):
            foz.load_zoo_dataset(name, source_dir=str(root), split="val", dataset_name="x")
        with pytest.raises(DownloadError, match="source_dir"):
            foz.load_zoo_dataset(name, split="train", dataset_name="x")


def test_zoo_without_a_network_says_what_to_do(monkeypatch):
    from huggingface_hub import HfApi

    def unreachable(*args, **kwargs):
        raise ConnectionError("no route to host")

    monkeypatch.setattr(HfApi, "dataset_info", unreachable)
    with pytest.raises(DownloadError, match=r"FudanCVL/gRefCOCO.*ConnectionError.*source_dir=.*data_path="):
        foz.download_zoo_dataset("grefcoco", split="val", overwrite=True)


def test_the_zoo_compares_once_all_splits_are_there(root, zoo, tmp_path, caplog):
    zoo += ["part", "whole"]
    dataset = foz.load_zoo_dataset("grefcoco", source_dir=str(root), splits=["val", "testA", "testB"], dataset_name="part")
    assert dataset.info[grefcoco.INFO_KEY]["grefcoco"]["differences_from_published"] == {}
    dataset = foz.load_zoo_dataset("grefcoco", source_dir=str(root), dataset_name="whole")
    info = dataset.info[grefcoco.INFO_KEY]["grefcoco"]
    assert set(info["splits"]) == {"train", "val", "testA", "testB"}
    assert info["differences_from_published"]["expressions"] == [259_859, FACTS["n_expressions"]]
    assert len([m for m in caplog.messages if "published" in m]) == 1
    # refs without sentences are of several splits, and all come back
    dataset.export(str(tmp_path), dataset_type=frt.GRefCOCODataset, export_media=False)
    assert json.loads((tmp_path / "grefs(unc).json").read_text()) == REFS


def test_the_partition_that_is_there_is_read(root, zoo, tmp_path):
    folder = tmp_path / "refcocog"
    folder.mkdir()
    shutil.copy(DATA / "refcoco" / "instances.json", folder)
    shutil.copy(DATA / "refcoco" / "refs(unc).p", folder / "refs(google).p")
    zoo.append("o")
    options = dict(source_dir=str(tmp_path), data_path=str(root / "images" / "train2014"), dataset_name="o", split="val")
    assert len(foz.load_zoo_dataset("refcocog", **options))
    refs = plain_pickle.load(folder / "refs(google).p")
    refs[0]["split"] = "test"
    refs.append({**refs[0], "sentences": 5})
    (folder / "refs(umd).p").write_bytes(pickle.dumps(refs))
    importer = grefcoco.RefCOCOgDatasetImporter(str(tmp_path))
    assert importer.labels().name == "refs(umd).p" and importer.partition == "umd"
    zoo.append("t")
    assert len(foz.load_zoo_dataset("refcocog", **{**options, "dataset_name": "t", "split": "test"}))


def test_refcoco_there_and_back(root, dataset, tmp_path):
    source = fo.Dataset.from_dir(str(root), dataset_type=frt.RefCOCODataset)
    try:
        source.export(str(tmp_path / "same"), dataset_type=frt.RefCOCODataset, export_media="symlink")
    finally:
        source.delete()
    written = json.loads((tmp_path / "same" / "refs(unc).json").read_text())
    assert written == plain_pickle.load(DATA / "refcoco" / "refs(unc).p")
    exporter = grefcoco.RefCOCODatasetExporter(str(tmp_path / "single"), export_media="symlink")
    dataset.export(dataset_exporter=exporter)
    single = dataset.match(fo.ViewField("num_targets") == 1)
    again = fo.Dataset.from_dir(str(tmp_path / "single"), dataset_type=frt.RefCOCODataset, strict=True)
    try:
        assert len(again) == exporter.count == len(single) < len(dataset)
        assert again.values("expression") == single.values("expression")
        assert again.values("ground_truth.detections.object_id") == single.values("ground_truth.detections.object_id")
    finally:
        again.delete()
    assert len(list((tmp_path / "single" / "images").iterdir())) == len(single.distinct("filepath"))

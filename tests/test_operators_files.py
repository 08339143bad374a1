"""Annotations in and out of every benchmark's format: what the forms say, and that what is written can be read again."""

import json

import fiftyone as fo
import plugin
import pytest

from fiftyone_rexseek.datasets import scenes

WRITERS = {"humanref": scenes.write_humanref, "grefcoco": scenes.write_grefcoco}


@pytest.fixture(scope="module", autouse=True)
def installed():
    plugin.install()


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    made = {name: tmp_path_factory.mktemp(name) for name in WRITERS}
    for name, write in WRITERS.items():
        write(made[name], seed=3, count=3, size=(192, 144))
    return made


@pytest.fixture
def dataset():
    dataset = fo.Dataset()
    yield dataset
    dataset.delete()


@pytest.mark.parametrize("name", WRITERS)
def test_written_files_are_read_again(name, folders, dataset, tmp_path):
    read, write = plugin.operator(f"import_{name}"), plugin.operator(f"export_{name}")
    assert read(dataset, dataset_dir=str(folders[name]))["added"] == len(dataset) > 0
    assert ("published, found: expressions" in read(dataset, dataset_dir=str(folders[name]))["summary"]) == (name == "grefcoco")
    target, copy = tmp_path / "new" / "folder", f"{dataset.name}-copy"
    assert write(dataset.limit(4), export_dir=str(target))["count"] == 4
    assert list((target / "images").iterdir())
    try:
        assert read(dataset, dataset_dir=str(target), dataset_name=copy)["added"] == 4
        assert fo.load_dataset(copy).values("expression") == dataset.limit(4).values("expression")
    finally:
        fo.delete_dataset(copy)


def test_refcoco_is_written_from_the_samples_with_one_target(folders, dataset, tmp_path):
    plugin.operator("import_grefcoco")(dataset, dataset_dir=str(folders["grefcoco"]))
    single = dataset.match(fo.ViewField("num_targets") == 1)
    result = plugin.operator("export_refcoco")(dataset, export_dir=str(tmp_path / "out"))
    left_out = len(dataset) - len(single)
    form = plugin.form("export_refcoco", dataset, {"export_dir": str(tmp_path / "out")})
    assert f"{len(single)} samples will be written" in json.dumps(form, default=str)
    assert result["count"] == len(single) and f"{left_out} without exactly one target left out" in result["summary"]
    name = f"{dataset.name}-single"
    try:
        assert plugin.operator("import_refcoco")(dataset, dataset_dir=str(tmp_path / "out"), dataset_name=name)["added"] == len(single)
    finally:
        fo.delete_dataset(name)


def test_refcoco_offers_the_partitions_and_splits_of_the_benchmark(dataset, tmp_path):
    first = plugin.form("import_refcoco", dataset)
    assert "partition" not in first
    form = plugin.form("import_refcoco", dataset, {"benchmark": "refcocog", "partition": "google"})
    assert form["partition"]["view"]["name"] == "DropdownView"
    assert [c["value"] for c in form["splits"]["view"]["choices"]] == ["train", "val"]
    said = plugin.complaints("import_refcoco", dataset, {"dataset_dir": str(tmp_path)})
    assert "refs(unc).p" in said["labels_path"]


def test_import_forms_name_what_is_missing(folders, dataset, tmp_path):
    def said(name, **params):
        return plugin.complaints(name, dataset, params)

    for name, folder in folders.items():
        assert said(f"import_{name}", dataset_dir="/nowhere") == {"dataset_dir": "No such folder"}
        assert said(f"import_{name}", dataset_dir=__file__) == {"dataset_dir": "This is no folder"}
        assert "labels_path" in said(f"import_{name}", dataset_dir=str(tmp_path))
        assert "no_images" in said(f"import_{name}", dataset_dir=str(folder), data_path="no_images")["data_path"]
        assert said(f"import_{name}", dataset_dir=str(folder)) == {}
    (tmp_path / "images").mkdir()
    (tmp_path / "annotations.jsonl").write_text("this is no JSON\n")
    assert "annotations.jsonl" in said("import_humanref", dataset_dir=str(tmp_path))["labels_path"]
    assert "other.json" in said("import_grefcoco", dataset_dir=str(folders["grefcoco"]), instances_path="other.json")["instances_path"]


def test_nothing_is_left_of_an_import_that_fails(folders, dataset, tmp_path):
    from shutil import copytree

    broken, name = tmp_path / "broken", f"{dataset.name}-broken"
    copytree(folders["grefcoco"], broken)
    next(broken.rglob("grefs*.json")).write_text("{}")
    with pytest.raises(plugin.ExecutionError, match="refs"):
        plugin.operator("import_grefcoco")(dataset, dataset_dir=str(broken), dataset_name=name)
    assert not fo.dataset_exists(name)


def test_export_forms_check_the_folder_and_the_ground_truth(folders, dataset, tmp_path):
    assert {"gt_field", "expression_field", "note"} <= set(plugin.complaints("export_humanref", dataset))
    plugin.operator("import_humanref")(dataset, dataset_dir=str(folders["humanref"]))
    for name in WRITERS:
        assert "whole path" in plugin.complaints(f"export_{name}", dataset, {"export_dir": "here"})["export_dir"]
        assert plugin.complaints(f"export_{name}", dataset, {"export_dir": str(tmp_path / "new")}) == {}
    (tmp_path / "file").touch()
    assert "not_empty" in plugin.form("export_humanref", dataset, {"export_dir": str(tmp_path)})


def test_a_place_that_cannot_be_written_is_named(folders, dataset, tmp_path):
    plugin.operator("import_humanref")(dataset, dataset_dir=str(folders["humanref"]))
    (tmp_path / "images").touch()
    with pytest.raises(plugin.ExecutionError, match=str(tmp_path)):
        plugin.operator("export_humanref")(dataset, export_dir=str(tmp_path))


@pytest.mark.parametrize(("suffix", "expected"), [(".json", "grec"), (".jsonl", "humanref")])
def test_the_format_of_predictions_follows_the_file(dataset, tmp_path, suffix, expected):
    path = tmp_path / f"my model{suffix}"
    path.write_text("[]")
    values = {"path": str(path)}
    form = plugin.form("import_predictions", dataset, values)
    # defaults would stay in the form when another file is chosen
    assert form["format"]["default"] is form["pred_field"]["default"] is None
    assert ".json is grec" in form["format"]["view"]["description"] and "my_model" in form["pred_field"]["view"]["description"]
    said = plugin.complaints("import_predictions", dataset, values).get("path", "")
    assert ("JSON array" in said) == (expected == "humanref")
    assert "JSON array" in plugin.complaints("import_predictions", dataset, {**values, "format": "humanref"})["path"]
    assert plugin.complaints("import_predictions", dataset, {"path": str(tmp_path)})["path"] == "This is a folder"

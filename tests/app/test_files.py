"""Annotations and predictions in and out of the benchmarks' formats, through the forms; what was written is read again."""

import json

import fiftyone as fo
import plugin
import pytest
from PIL import Image

from fiftyone_rexseek.datasets import scenes

WRITERS = {
    "HumanRef": lambda folder: scenes.write_humanref(folder, seed=3, count=2, size=(192, 144), questions_per_scene=3),
    "gRefCOCO": lambda folder: scenes.write_grefcoco(folder, seed=3, count=2, size=(192, 144), refs_per_scene=3),
}


@pytest.fixture
def opened(request, tmp_path):
    """Whatever is open when something is imported: a picture."""
    path = tmp_path / "picture.png"
    Image.new("RGB", (64, 48), "teal").save(path)
    dataset = fo.Dataset(f"files-{request.node.callspec.id.lower()}", overwrite=True)
    dataset.add_sample(fo.Sample(str(path)))
    yield dataset
    dataset.delete()


@pytest.fixture
def imported(opened):
    """Name of the dataset that is to be made."""
    name = f"{opened.name}-imported"
    yield name
    if fo.dataset_exists(name):
        fo.delete_dataset(name)


def read(benchmark, folder) -> list:
    """What a folder holds, imported by this process."""
    dataset = fo.Dataset()
    plugin.operator(f"import_{benchmark.lower()}")(dataset, dataset_dir=str(folder))
    found = contents(dataset)
    dataset.delete()
    return found


def contents(dataset) -> list:
    """Id, text and number of targets of the samples."""
    return sorted(zip(*dataset.values(["expression_id", "expression", "num_targets"])))


@pytest.mark.parametrize("benchmark", WRITERS)
def test_annotations_and_predictions_go_in_and_out(app, opened, imported, tmp_path, benchmark):
    folder, out = tmp_path / "in", tmp_path / "out"
    WRITERS[benchmark](folder)
    app.open(opened)
    form = app.operator(f"Import {benchmark}")
    app.box(form, "Folder").fill(str(out))
    form.get_by_text("No such folder").wait_for()
    app.box(form, "Folder").fill(str(folder))
    app.box(form, "Into a new dataset").fill(imported)
    form.get_by_text(f"images in {folder}").wait_for()
    app.shot(f"import-{benchmark}")
    app.execute(form)
    app.page.wait_for_url(f"**/datasets/{imported}*")
    dataset, wanted = fo.load_dataset(imported), read(benchmark, folder)
    app.wait_for_count(len(wanted))
    assert contents(dataset) == wanted and len(wanted) > 5 and dataset.persistent
    app.close_output()

    form = app.operator(f"Export as {benchmark}")
    app.box(form, "Folder").fill("out")
    form.get_by_text("Give the whole path").wait_for()
    app.box(form, "Folder").fill(str(out))
    form.get_by_text(f"{len(wanted)} samples will be written").wait_for()
    app.execute(form)
    app.page.get_by_text(f"{len(wanted)} samples in").wait_for()
    app.shot(f"export-{benchmark}")
    app.close_output()
    assert read(benchmark, out) == wanted

    if benchmark == "HumanRef":
        predictions_go_in_and_out(app, dataset, tmp_path)


def predictions_go_in_and_out(app, dataset, folder):
    rows = [{"id": key, "extracted_predictions": [[9.0, 9.0, 50.0, 90.0]]} for key in dataset.values("expression_id")[:-1]]
    path, written = folder / "My model.jsonl", folder / "written.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    form = app.operator("Import predictions")
    app.box(form, "File").fill(str(folder))
    form.get_by_text("This is a folder").wait_for()
    app.box(form, "File").fill(str(path))
    form.get_by_text("5 rows").wait_for()
    app.shot("import-predictions")
    app.execute(form)
    app.page.get_by_text("With a prediction").wait_for()
    app.close_output()
    dataset.reload()
    assert [0 if found is None else len(found.detections) for found in dataset.values("my_model")] == [1] * 5 + [0]
    assert dataset.values("my_model")[-1] is None  # not predicted

    form = app.operator("Export predictions")
    app.box(form, "File").fill(str(written))
    form.get_by_text("6 samples looked at").wait_for()
    app.execute(form)
    app.page.get_by_text("5 rows in").wait_for()
    assert [json.loads(line) for line in written.read_text().splitlines()] == rows

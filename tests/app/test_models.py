"""Operators that run a model for long: describing at once, fine-tuning scheduled; random weights of the real classes."""

from concurrent.futures import ThreadPoolExecutor

import fiftyone as fo
import pytest
import tiny_describer
from fiftyone.operators.delegated import DelegatedOperationService
from tiny_trainee import trainee

from fiftyone_rexseek.datasets.scenes import write_humanref
from fiftyone_rexseek.integration.dataset_types import HumanRefDatasetImporter


@pytest.fixture(scope="module")
def dataset(database, tmp_path_factory):
    folder = tmp_path_factory.mktemp("scenes")
    write_humanref(folder, seed=3, count=3, size=(192, 144), questions_per_scene=2)
    dataset = fo.Dataset("models", overwrite=True, persistent=True)
    dataset.add_importer(HumanRefDatasetImporter(str(folder)), progress=False)
    yield dataset
    dataset.delete()


def test_objects_are_described(app, dataset, tmp_path):
    folder = tiny_describer.save(tmp_path / "describer")
    with_targets = dataset.match({"num_targets": {"$gt": 0}}).values("id")
    app.open(dataset)
    form = app.operator("Describe objects")
    app.box(form, "Model").fill(str(tmp_path))
    form.get_by_text("holds no config.json").wait_for()
    app.box(form, "Write the texts to field").fill("expression")
    form.get_by_text("or tick 'Replace texts that no model wrote'").wait_for()
    app.box(form, "Write the texts to field").fill("words")
    app.box(form, "Model").fill(str(folder))
    form.get_by_text(f"{len(with_targets)} samples with objects in 'ground_truth'").wait_for()
    form.get_by_text("holds no config.json").wait_for(state="hidden")
    app.shot("describe-form")
    app.execute(form)
    app.page.get_by_text(f"{len(with_targets)} samples described").wait_for(timeout=200_000)
    app.shot("described")
    app.close_output()
    dataset.reload()
    outcomes = dict(zip(*dataset.values(["id", "words_outcome"])))
    # random weights write gibberish, readable or not
    assert {i for i, outcome in outcomes.items() if outcome in ("selected", "unparsed")} == set(with_targets)
    assert {outcome for i, outcome in outcomes.items() if i not in with_targets} <= {None}


def test_fine_tuning_is_scheduled_and_done_by_another_process(app, dataset, tmp_path):
    start, out = tmp_path / "start", tmp_path / "out"
    trainee().save_pretrained(start)
    app.open(dataset)
    form = app.operator("Fine-tune on this view")
    app.box(form, "Start from").fill(str(tmp_path / "nothing"))
    form.get_by_text("no model to start from").wait_for()
    app.box(form, "Start from").fill(str(start))
    app.box(form, "Folder for the result").fill("out")
    form.get_by_text("Give the whole path").wait_for()
    app.box(form, "Folder for the result").fill(str(out))
    app.box(form, "Steps").fill("2")
    form.get_by_text("6 samples will be trained on").wait_for()
    form.get_by_text("Give the whole path").wait_for(state="hidden")
    app.shot("fine-tune-form")
    app.schedule(form)
    app.shot("fine-tune-scheduled")

    service = DelegatedOperationService()
    queued = service.list_operations(run_state="queued", dataset_name=dataset.name)
    assert [o.operator.rpartition("/")[2] for o in queued] == ["fine_tune"] and not out.exists()
    # this process is not the server's; the browser's event loop runs in this thread
    with ThreadPoolExecutor(1) as pool:
        pool.submit(service.execute_queued_operations, dataset_name=dataset.name).result()
    done = service.get(queued[0].id)
    assert done.run_state == "completed", done.result
    assert done.result.result["steps"] == 2 and (out / "model" / "model.safetensors").is_file()

"""HumanRef in the App: what it looks like on opening, and the evaluate operator."""

import fiftyone as fo
import pytest

from fiftyone_rexseek.integration.demo import build


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    """The demo, small."""
    made = build(tmp_path_factory.mktemp("demo"), num_scenes=6, seed=7, name="app-evaluation")
    # the run that the operator is to make
    made.dataset.delete_evaluation("eval_random_2")
    yield made.dataset
    made.dataset.delete()


def test_a_finished_look_on_opening(app, dataset):
    app.open(dataset)
    for field in ("expression", "num_targets", "ground_truth", "candidates"):
        app.page.get_by_text(field, exact=True).first.wait_for()
    app.shot("humanref-grid")
    view = dataset.match({"num_targets": {"$gt": 1}}).limit(1)
    assert len(view) == 1
    app.open_sample(1)
    app.shot("humanref-modal")


def test_evaluate_operator_writes_fields_and_a_run(app, dataset):
    app.open(dataset)
    form = app.operator("Evaluate referring expressions")
    form.get_by_text(f"{len(dataset)} samples will be scored").wait_for()
    form.locator("input[type=string]").last.fill("operator_run")
    app.page.wait_for_timeout(800)  # the form is validated debounced
    app.shot("evaluate-form")
    app.execute(form)
    app.page.get_by_text("DensityF1 0.5:0.95").first.wait_for()
    app.shot("evaluate-done")

    def registered():
        dataset.reload()
        return "operator_run" in dataset.list_evaluations()

    app.until(registered, "the run is registered")
    assert dataset.count("operator_run_score") == len(dataset)
    assert dataset.count("operator_run_failure") == len(dataset)
    info = dataset.get_evaluation_info("operator_run")
    results = dataset.load_evaluation_results("operator_run")
    field = info.config.pred_field
    tp = dataset.count_values(f"{field}.detections.operator_run").get("tp", 0)
    assert tp == sum(dataset.values("operator_run_tp")) and results.summary["protocol"] == "official"
    app.close_output()
    app.page.get_by_text("operator_run_score", exact=True).first.wait_for()  # in the sidebar
    assert isinstance(dataset.load_saved_view("operator_run: worst first"), fo.DatasetView)

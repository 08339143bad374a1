"""Both benchmarks in the App: what they look like on opening, by image, the evaluate operator, their runs in FiftyOne's own panel."""

import re

import fiftyone as fo
import pytest
from fiftyone import ViewField as F

from fiftyone_rexseek.integration.demo import build

NAME = "app-evaluation"


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """The demo, small."""
    made = build(tmp_path_factory.mktemp("demo"), num_scenes=6, seed=7, name=NAME)
    # the run that the operator is to make
    made.dataset.delete_evaluation("eval_random_2")
    yield made
    made.dataset.delete()
    made.grefcoco.delete()


@pytest.fixture
def dataset(demo):
    return demo.dataset


def open_view(app, dataset, name):
    """Opens a saved view by its address, and waits for its grid."""
    slug = re.sub(r"[^a-z0-9]+", "-", name.lower())
    app.page.goto(f"http://127.0.0.1:{app.port}/datasets/{dataset.name}?view={slug}", wait_until="domcontentloaded")
    app.page.locator("[data-cy=fo-grid] [data-cy=looker]").first.wait_for(timeout=150_000)


def close_sample(app):
    """Closes the open sample: the server remembers it, and the next page would open with it."""
    app.page.keyboard.press("Escape")
    app.page.locator("[data-cy=modal]").wait_for(state="hidden")


def open_run(app, key):
    """Opens a run in the Model Evaluation panel, down to the charts at its end."""
    overview, back = app.page.get_by_text("Evaluate Model", exact=True), app.page.get_by_test_id("ArrowBackIcon")
    overview.or_(back).first.wait_for()
    if back.count():  # the App opens the panel where it was left
        back.first.click()
        overview.first.wait_for()
    # the sidebar has a group of that name as well, before the panel
    app.page.get_by_text(key, exact=True).last.click()
    app.page.get_by_text("Metric Performance", exact=False).first.wait_for()


def test_a_finished_look_on_opening(app, dataset):
    app.open(dataset)
    for field in ("expression", "num_targets", "ground_truth", "candidates"):
        app.page.get_by_text(field, exact=True).first.wait_for()
    app.shot("humanref-grid")
    view = dataset.match({"num_targets": {"$gt": 1}}).limit(1)
    assert len(view) == 1
    app.open_sample(1)
    app.shot("humanref-modal")
    close_sample(app)


def test_grefcoco_on_opening(app, demo):
    dataset = demo.grefcoco
    app.open(dataset)
    for field in ("expression", "num_targets", "ground_truth", "candidates"):
        app.page.get_by_text(field, exact=True).first.wait_for()
    app.shot("grefcoco-grid")
    app.open_sample(0)
    app.shot("grefcoco-modal")
    close_sample(app)
    open_view(app, dataset, "nobody matches")
    count = len(dataset.match(F("num_targets") == 0))
    assert count
    app.page.get_by_text(f"{count} samples", exact=True).first.wait_for()
    app.shot("grefcoco-no-target-grid")
    app.open_sample(0)
    app.shot("grefcoco-no-target")
    close_sample(app)


def test_expressions_grouped_by_image(app, demo):
    for dataset in (demo.dataset, demo.grefcoco):
        open_view(app, dataset, "by image")
        app.page.get_by_text("6 groups", exact=False).or_(app.page.get_by_text("6 samples", exact=True)).first.wait_for()
        app.shot(f"by-image-{dataset.name}")
    app.open_sample(0)
    app.shot("by-image-modal")
    close_sample(app)


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


def test_two_runs_in_the_model_evaluation_panel(app, dataset):
    open_view(app, dataset, "by image")  # a grid of groups must not disturb the panel
    app.panel("Model Evaluation")
    open_run(app, "eval_all_candidates")
    app.page.get_by_text("Rejection accuracy", exact=True).first.wait_for()
    app.page.get_by_text("DensityF1 0.5:0.95", exact=True).first.scroll_into_view_if_needed()
    assert app.page.get_by_text("TypeError", exact=False).count() == 0
    app.shot("model-evaluation")
    app.page.get_by_text("Select a comparison", exact=False).first.click()
    app.page.get_by_text("eval_none", exact=True).last.click()
    app.page.get_by_text("Difference", exact=False).first.wait_for()
    app.page.wait_for_timeout(4000)  # until the other run is there as well
    assert app.page.get_by_text("TypeError", exact=False).count() == 0
    app.shot("model-evaluation-compare")


@pytest.mark.parametrize(("method", "metric"), [("grec", "Pr@(F1=1)"), ("gres", "gIoU")])
def test_grefcoco_runs_in_the_model_evaluation_panel(app, demo, method, metric):
    app.open(demo.grefcoco)
    app.panel("Model Evaluation")
    open_run(app, f"{method}_rela_tiny")
    app.page.get_by_text(metric, exact=True).first.scroll_into_view_if_needed()
    assert app.page.get_by_text("TypeError", exact=False).count() == 0
    app.shot(f"model-evaluation-{method}")

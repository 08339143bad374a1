"""Both benchmarks in the App: what they look like on opening, by image, the evaluate operator, their runs in FiftyOne's own panel."""

from dataclasses import replace

import fiftyone as fo
import pytest
from fake_models import FakeSegmenter, FakeSelector
from fiftyone import ViewField as F

from fiftyone_rexseek.integration.demo import build
from fiftyone_rexseek.models import registry

NAME = "app-evaluation"
NUM_SCENES = 6


class Selector(FakeSelector):
    """Answers any expression by its length."""

    def _answer(self, request, text):
        return replace(super()._answer(request, ("first", "all", "none")[len(text) % 3]), expression=text)


class Segmenter(FakeSegmenter):
    """Answers any expression by its length."""

    def _answer(self, image, text):
        return replace(super()._answer(image, ("two", "none")[len(text) % 2]), expression=text)


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """The demo, small; its answers are not those of the packaged models, which may change and take long to import."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(registry, "load", lambda name, *weights, **options: Selector() if name == "rexseek-tiny" else Segmenter())
        # a second process would have the packaged models
        made = build(tmp_path_factory.mktemp("demo"), num_scenes=NUM_SCENES, seed=7, name=NAME, side_by_side=False)
    # the run that the operator is to make
    made.dataset.delete_evaluation("eval_random_2")
    yield made
    made.dataset.delete()
    made.grefcoco.delete()


@pytest.fixture
def dataset(demo):
    return demo.dataset


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


def wait_for_sidebar(app):
    for field in ("expression", "num_targets", "ground_truth", "candidates"):
        app.page.get_by_text(field, exact=True).first.wait_for()


def test_a_finished_look_on_opening(app, dataset):
    app.open(dataset)
    wait_for_sidebar(app)
    app.wait_for_count(len(dataset))
    app.shot("humanref-grid")
    app.open_sample(1)
    app.shot("humanref-modal")
    app.close_sample()


def test_grefcoco_on_opening(app, demo):
    dataset = demo.grefcoco
    app.open(dataset)
    wait_for_sidebar(app)
    app.wait_for_count(len(dataset))
    app.shot("grefcoco-grid")
    app.open_sample(0)
    app.shot("grefcoco-modal")
    app.close_sample()
    app.open(dataset, view="nobody matches")
    count = len(dataset.match(F("num_targets") == 0))
    assert count
    app.wait_for_count(count)
    app.shot("grefcoco-no-target-grid")
    app.open_sample(0)
    app.shot("grefcoco-no-target")
    app.close_sample()


def test_expressions_grouped_by_image(app, demo):
    for dataset in (demo.dataset, demo.grefcoco):
        app.open(dataset, view="by image")
        counts = app.page.locator("[data-cy=entry-counts]")
        counts.get_by_text(app.counted(NUM_SCENES, "group")).or_(counts.get_by_text(app.counted(NUM_SCENES))).first.wait_for()
        app.shot(f"by-image-{dataset.name}")
    app.open_sample(0)
    app.shot("by-image-modal")
    app.close_sample()


def test_evaluate_operator_writes_fields_and_a_run(app, dataset):
    app.open(dataset)
    form = app.operator("Evaluate referring expressions")
    form.get_by_text(app.counted(len(dataset))).first.wait_for()
    key = form.locator("input[type=string]").last
    key.fill("operator run")
    form.get_by_text("Letters, digits and _ only").wait_for()
    key.fill("operator_run")
    form.get_by_text("Letters, digits and _ only").wait_for(state="hidden")
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
    app.open(dataset, view="by image")  # a grid of groups must not disturb the panel
    app.panel("Model Evaluation")
    open_run(app, "eval_all_candidates")
    app.page.get_by_text("Rejection accuracy", exact=True).first.wait_for()
    app.page.get_by_text("DensityF1 0.5:0.95", exact=True).first.scroll_into_view_if_needed()
    assert app.page.get_by_text("TypeError", exact=False).count() == 0
    app.shot("model-evaluation")
    app.page.get_by_text("Select a comparison", exact=False).first.click()
    app.page.get_by_text("eval_none", exact=True).last.click()
    app.page.get_by_text("Difference", exact=False).first.wait_for()
    # the other run's column: both have the same targets
    support = app.page.locator("tr").filter(has_text="Support").first
    support.get_by_text(str(dataset.count("ground_truth.detections")), exact=True).nth(1).wait_for()
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

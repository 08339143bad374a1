"""The Results panel without a browser: which tabs it has, and what stands on each."""

import json

import plugin
import pytest
from evaluated import make_dataset

from fiftyone_rexseek.integration.evaluation import evaluate_referring

PANEL = "results_panel"
PLOTS = {"Scores": {"domain", "targets", "histogram"}, "Failures": {"causes"}, "Thresholds": {"precision_recall", "sweep"}}


class Page:
    """What the App keeps of the panel between its events."""

    def __init__(self, dataset):
        self.dataset, self.state, self.shown = dataset, {}, {}

    def event(self, method: str, **params) -> "Page":
        state = json.loads(json.dumps(self.state))
        params = {"panel_id": "p", "__method__": method, "panel_state": state, **params}
        sent = plugin.instructions(plugin.execute(PANEL, self.dataset, params))
        self.state |= sent.get("patch_panel_state", {}).get("state", {})
        self.shown = sent["show_panel_output"]["output"]["type"]["properties"]
        return self

    def tab(self, label: str) -> "Page":
        return self.event("choose_tab", tab=next(name for name, (text, _) in self.tabs().items() if text == label))

    def tabs(self) -> dict[str, tuple[str, str]]:
        """Label and variant of each tab's button."""
        buttons = self.shown["tabs"]["type"]["properties"]
        return {name: (b["view"]["label"], b["view"]["variant"]) for name, b in buttons.items()}

    def open_tab(self) -> str:
        (label,) = (label for label, variant in self.tabs().values() if variant == "contained")
        return label

    def plots(self) -> set[str]:
        return {name for name, p in self.shown.items() if p["view"].get("name") == "PlotlyView"}


@pytest.fixture(scope="module")
def dataset(database):
    plugin.install()
    dataset = make_dataset(30)
    evaluate_referring(dataset, "good", eval_key="first")
    yield dataset
    dataset.delete()


def test_it_opens_with_numbers_and_no_plot(dataset):
    page = Page(dataset).event("on_load")
    assert [label for label, _ in page.tabs().values()] == ["Overview", "Scores", "Failures", "Thresholds"]
    assert page.open_tab() == "Overview" and {"headlines", "notes"} <= set(page.shown) and not page.plots()


@pytest.mark.parametrize("label", PLOTS)
def test_a_tab_has_its_plots(dataset, label):
    page = Page(dataset).event("on_load").tab(label)
    assert page.open_tab() == label and page.plots() == PLOTS[label] and "headlines" not in page.shown
    assert ("cause_buttons" in page.shown) == (label == "Failures")


def test_a_second_run_can_be_compared_and_what_it_lacks_has_no_tab(dataset):
    page = Page(dataset).event("on_load").tab("Thresholds")
    # without confidences there is nothing to cut
    dataset.clone_sample_field("poor", "bare")
    confidences = dataset.values("bare.detections.confidence")
    dataset.set_values("bare.detections.confidence", [[None] * len(c or ()) for c in confidences])
    evaluate_referring(dataset, "bare", eval_key="second")
    page = page.event("choose_run", value="second")
    assert [label for label, _ in page.tabs().values()] == ["Overview", "Scores", "Failures", "Compare"]
    assert page.open_tab() == "Overview"
    page.event("choose_run", value="first")
    assert page.open_tab() == "Thresholds", "the tab that was open before"
    page.tab("Compare").event("choose_other", value="second")
    assert {"other", "compare_text", "right_wrong", "comparison"} <= set(page.shown) and not page.plots()

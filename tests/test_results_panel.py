"""The Results panel without a browser: which tabs it has, and what stands on each."""

import json
import re

import plugin
import pytest
from evaluated import make_dataset

from fiftyone_rexseek.integration.evaluation import evaluate_referring

PANEL = "results_panel"
PLOTS = {"Scores": {"domain", "targets", "histogram"}, "Failures": {"causes"}, "Thresholds": {"precision_recall", "sweep"}}


class Page:
    """What the App keeps of the panel between its events.

    Attributes:
        shown: what stands in the panel, by names without the run's id
        names: the names with it
        sent: what the App was told last: operator -> parameters
    """

    def __init__(self, dataset):
        self.dataset, self.state, self.shown, self.names, self.sent = dataset, {}, {}, {}, {}

    def event(self, method: str, **params) -> "Page":
        state = json.loads(json.dumps(self.state))
        params = {"panel_id": "p", "__method__": method, "panel_state": state, **params}
        sent = plugin.instructions(plugin.execute(PANEL, self.dataset, params))
        self.state |= sent.get("patch_panel_state", {}).get("state", {})
        self.sent, shown = sent, sent["show_panel_output"]["output"]["type"]["properties"]
        self.names = {re.sub("(_[0-9a-f]{24})+$", "", name): name for name in shown}
        self.shown = {name: shown[own] for name, own in self.names.items()}
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


def two_runs(samples=12):
    dataset = make_dataset(samples)
    evaluate_referring(dataset, "good", eval_key="whole")
    evaluate_referring(dataset.limit(2), "poor", eval_key="small", method="grec")
    return dataset


def test_data_of_two_runs_are_never_mixed(database):
    # the App merges a list with the one that it had under the same name
    dataset = two_runs()
    page = Page(dataset).event("on_load")
    names = [set(page.event("choose_run", value=key).sent["patch_panel_data"]["data"]) for key in ("whole", "small")]
    assert all(names) and not names[0] & names[1]
    evaluate_referring(dataset, "poor", eval_key="second")
    evaluate_referring(dataset, "poor", eval_key="third")
    page.event("choose_run", value="whole").tab("Compare")
    compared = [set(page.event("choose_other", value=key).sent["patch_panel_data"]["data"]) for key in ("second", "third")]
    assert page.names["comparison"] in compared[1] and not compared[0] & compared[1]
    dataset.delete()


@pytest.mark.parametrize("event", ["save_views", "color", "worst_first", "click_causes", "only_a"])
def test_a_run_that_was_deleted_meanwhile(database, event):
    dataset = two_runs()
    page = Page(dataset).event("on_load").event("choose_run", value="whole")
    dataset.delete_evaluation("whole")
    page.event(event, idx=0)
    assert "no referring evaluation 'whole'" in page.sent["notify"]["message"] and "set_view" not in page.sent
    assert page.state["run"] == "small" and list(page.state["runs"]) == ["small"]
    dataset.delete()


def test_runs_made_meanwhile_are_found_and_a_run_is_never_compared_with_itself(database):
    dataset = make_dataset(12)
    page = Page(dataset).event("on_load")
    assert "nothing" in page.shown
    evaluate_referring(dataset, "good", eval_key="a")
    assert page.event("refresh").state["run"] == "a"
    evaluate_referring(dataset, "poor", eval_key="b")
    page.event("refresh").tab("Compare").event("choose_other", value="b")
    assert page.state["run"] == "a" and page.state["compared"]
    page.event("choose_run", value="b")
    assert page.state["other"] is None and not page.state["compared"]
    dataset.delete_evaluation("a")
    assert "no referring evaluation 'a'" in page.event("choose_other", value="a").state["compare_error"]
    prompted = page.event("evaluate").sent["prompt_user_for_operation"]
    assert prompted["operator_uri"].endswith("evaluate_referring") and prompted["on_success"].endswith("show_latest")
    dataset.delete()


def test_a_click_on_a_threshold_says_what_it_did(dataset):
    page = Page(dataset).event("on_load").event("choose_run", value="first").tab("Thresholds")
    page.event("click_sweep", idx=12, trace_idx=0)
    assert "'good' keeps the boxes with a confidence of at least 0.60" in page.sent["notify"]["message"] and "set_view" in page.sent

"""FiftyOne's own Model Evaluation panel on our runs, without a browser: what it is sent, and the views its clicks open."""

from types import SimpleNamespace

import fiftyone.server.utils as fosu
import numpy as np
import pytest
from evaluated import make_dataset

from fiftyone_rexseek.integration.evaluation import REFERENT, evaluate_referring

model_evaluation = pytest.importorskip("plugins.panels.model_evaluation")
#: A number that only our runs have, by run.
HEADLINE = {"h": "DensityF1 0.5:0.95", "b": "Pr@(F1=1)", "m": "gIoU", "empty": "Rejection accuracy"}
#: What the panel draws for each class; it breaks when none of the classes has the one that is chosen.
DRAWN = {"precision", "recall", "f1-score", "confidence", "iou"}


class Panel:
    """The panel on a dataset, with one run chosen."""

    def __init__(self, dataset, key):
        fosu.cache_dataset(dataset)
        self.views = []
        self.panel = model_evaluation.EvaluationPanel()
        state = {"view": {"key": key}, "missing": "(none)"}
        self.ctx = SimpleNamespace(
            dataset=dataset,
            params={"key": key},
            panel=SimpleNamespace(get_state=lambda name, default=None: state.get(name, default)),
            ops=SimpleNamespace(set_view=self.views.append),
        )

    def data(self):
        return self.panel.get_evaluation_data(self.ctx)

    def click(self, kind, **options):
        """The view that a click opens."""
        self.ctx.params = {"type": kind, "options": options}
        self.panel.load_view(self.ctx)
        return self.views.pop()


def masked(detections):
    """The same boxes with full masks."""
    for d in detections.detections if detections is not None else ():
        d.mask = np.ones((20, 10), dtype=bool)
    return detections


@pytest.fixture(scope="module")
def dataset():
    dataset = make_dataset(40)
    for name in ("ground_truth", "good"):
        dataset.set_values(name, [masked(d) for d in dataset.values(name)])
    # one target in five is a kid, which no prediction says
    for sample in dataset.iter_samples(autosave=True):
        for d in sample.ground_truth.detections[1:2]:
            d.label = "kid"
    evaluate_referring(dataset, "good", eval_key="h", method="humanref")
    evaluate_referring(dataset, "good", eval_key="b", method="grec")
    evaluate_referring(dataset, "good", eval_key="m", method="gres")
    evaluate_referring(dataset.match({"num_targets": 0}), "poor", eval_key="empty", method="humanref")
    yield dataset
    dataset.delete()


@pytest.mark.parametrize("key", ["h", "b", "m", "empty"])
def test_the_panel_gets_what_it_draws(dataset, key):
    data = Panel(dataset, key).data()
    assert data["per_class_metrics"] and all(DRAWN <= set(found) for found in data["per_class_metrics"].values())
    metrics = data["metrics"]
    counts = {f: dataset.sum(f"{key}_{f}") for f in ("tp", "fp", "fn")}
    assert {f: int(metrics[f]) for f in counts} == counts
    assert {m["label"] for m in data["custom_metrics"].values()} >= {"Missing answers", HEADLINE[key]}
    assert data["confusion_matrix"]["matrix"].sum() == sum(counts.values())


@pytest.mark.parametrize("key", ["h", "b", "m"])
def test_clicks_open_the_samples_that_are_counted(dataset, key):
    panel = Panel(dataset, key)
    for field in ("tp", "fp", "fn"):
        view = panel.click("field", field=field)
        assert set(view.values("id")) == set(dataset.match({f"{key}_{field}": {"$gt": 0}}).values("id"))
    assert panel.click("field", field="tp") and panel.click("field", field="fn")
    matrix = panel.click("matrix", x="(none)", y="kid")
    assert len(matrix) and matrix.distinct("ground_truth.detections.label") == ["kid"]
    assert len(panel.click("class", x="person")) > 0


def test_a_match_is_right_whatever_its_label_says(dataset):
    results = dataset.load_evaluation_results("h")
    assert list(results.classes) == ["kid", "person"]
    pairs = set(zip(results.ytrue.tolist(), results.ypred.tolist()))
    assert pairs == {("kid", "kid"), ("person", "person"), ("kid", "(none)"), ("person", "(none)"), ("(none)", "person")}
    report = results.report()
    assert report["kid"]["support"] == dataset.count_values("ground_truth.detections.label")["kid"]
    assert report["overall"] == results.summary["overall"]
    with results.use_subset(dataset.match({"domain": "attribute"})):
        assert results.report()["person"]["support"] < report["person"]["support"]


def test_a_label_that_no_target_has_is_a_referent(dataset):
    dataset.clone_sample_field("good", "named")
    names = [[f"thing {i}" for _ in d or ()] or None for i, d in enumerate(dataset.values("good.detections.label"))]
    dataset.set_values("named.detections.label", [n or [] for n in names])
    results = evaluate_referring(dataset, "named", method="humanref")
    assert set(results.classes) == {"kid", "person", REFERENT}
    assert results.metrics()["precision"] == pytest.approx(dataset.load_evaluation_results("h").metrics()["precision"])


def test_a_merged_mask_is_one_object(dataset):
    marks = ["m_success", "m_tp", "m_fp", "m_fn", "num_targets", "good.detections", "good.detections.m", "ground_truth.detections.m"]
    for right, tp, fp, fn, targets, parts, answers, truths in zip(*dataset.values(marks)):
        found = bool(right and targets and parts)
        assert (tp, fp, fn) == (int(found), int(bool(parts) and not found), int(targets > 0 and not found))
        assert set(answers or ()) <= {"tp" if found else "fp"} and set(truths or ()) <= {"tp" if found else "fn"}

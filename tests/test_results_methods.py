"""The Results panel's content for every method: driven by what the run stored, not by a method's name."""

import json

import fiftyone as fo
import pytest
from evaluated import make_dataset

from fiftyone_rexseek.integration import comparison, results, statistics
from fiftyone_rexseek.integration.evaluation import evaluate_referring
from fiftyone_rexseek.integration.failures import NOT_PREDICTED
from fiftyone_rexseek.integration.results_content import comparison_content, content


@pytest.fixture(scope="module")
def dataset(database):
    dataset = make_dataset(60)
    evaluate_referring(dataset, "good", eval_key="rec", method="grec", output="all")
    evaluate_referring(dataset, "poor", eval_key="rec2", method="grec", output="all")
    evaluate_referring(dataset, "good", eval_key="ref")
    yield dataset
    dataset.delete()


def shown(dataset, key):
    found = content(dataset, results.get_run(dataset, key))
    assert len(json.dumps(found, allow_nan=False)) < 40_000
    return found


def test_humanref(dataset):
    found = shown(dataset, "ref")
    assert list(found["figures"]) == ["targets", "domain", "histogram", "causes", "precision_recall", "sweep"]
    assert found["title"] == "HumanRef - protocol official"
    assert "**60 samples** of 20 images" in found["facts"]
    assert any("Ceiling of the candidates" in n for n in found["notes"])
    assert any("Missing answers: 3" in n for n in found["notes"])
    assert list(found["headlines"]["columns"].values())[:5] == ["Metric", "Score [95% interval]", "all", "none", "random 3"]
    row = next(r for r in found["headlines"]["rows"] if r["label"] == "Rejection accuracy")
    assert "[" in row["value"] and row["baseline_1"] == "1.000"


def test_grec(dataset):
    found = shown(dataset, "rec")
    stored = {h["label"]: h["value"] for h in dataset.load_evaluation_results("rec").headlines}
    rows = {r["label"]: r for r in found["headlines"]["rows"]}
    assert rows["Pr@(F1=1)"]["value"].startswith(f"{stored['Pr@(F1=1)']:.3f} [")
    assert "[" in rows["N-acc"]["value"]
    assert rows["Pr@(F1=1)"]["baseline_0"] and "always empty" in found["headlines"]["columns"].values()
    assert found["figures"]["sweep"]["layout"]["title"]["text"] == "Pr@F1 by threshold"
    for i, cause in enumerate(found["causes"]):
        stored = None if cause == NOT_PREDICTED else cause
        assert found["figures"]["causes"]["data"][0]["x"][i] == dataset.count_values("rec_failure")[stored]


def test_grec_runs_compared(dataset):
    compared = comparison.compare_runs(dataset, ["rec", "rec2"])
    rows = {r.key: r for r in compared.rows}
    stored = {h["key"]: h["value"] for h in dataset.load_evaluation_results("rec2").headlines}
    for key in ("pr_f1", "t_acc", "n_acc"):
        assert rows[key].values[1] == pytest.approx(stored[key])
    assert compared.official is None
    found = comparison_content(compared.to_dict())
    assert found["only_a"] == compared.pairs[0].only_a_right
    assert found["rows"][0]["label"] == "Pr@(F1=1)" and found["rows"][0]["difference"].startswith(("+", "-"))


def test_numbers_that_are_no_means_stand_beside_each_other(dataset):
    found = comparison.compare_runs(dataset, ["rec", "rec2"])
    keys = [row.key for row in found.rows]
    assert keys[:4] == ["pr_f1", "t_acc", "n_acc", "ap"]  # the order of the headlines
    stored = [
        {h["key"]: h["value"] for h in dataset.load_evaluation_results(key).headlines}["ap"] for key in ("rec", "rec2")
    ]
    assert found.rows[3].values == tuple(stored) and "ap" not in found.pairs[0].differences
    # of other samples AP would have to be computed again
    assert "ap" not in [row.key for row in comparison.compare_runs(dataset[:30], ["rec", "rec2"]).rows]


def test_ratio_of_sums_has_an_interval():
    headlines = [{"key": "ciou", "label": "cIoU", "value": 0.5, "ratio_of": ["intersection", "union"], "mean_of": None}]
    above, below = statistics.headline_terms(headlines, {"intersection": [1, None, 3], "union": [2, None, 6]})
    assert above["ciou"][[0, 2]].tolist() == [1, 3] and below["ciou"][[0, 2]].tolist() == [2, 6]


def test_large_runs_without_statistics_open_at_once(dataset, monkeypatch):
    statistics.forget(dataset, "rec")
    monkeypatch.setattr("fiftyone_rexseek.integration.results_content.COMPUTE_AT_ONCE", 10)
    found = shown(dataset, "rec")
    assert found["headlines"] is None and "have not been computed" in found["notes"][0]
    assert {"targets", "histogram", "causes"} <= set(found["figures"])
    assert content(dataset, results.get_run(dataset, "rec"), compute=True)["headlines"] is not None


def test_left_out_is_not_changed_since(database):
    dataset = make_dataset(60)
    for key, output in (("good", "all"), ("sure", "threshold")):
        evaluate_referring(dataset, "good", eval_key=key, method="grec", output=output, missing="skip")
    notes = "\n".join(shown(dataset, "good")["notes"])
    assert "3 of 60 samples got no score and are left out" in notes and "changed" not in notes
    answered = dataset.match(fo.ViewField("good_score") != None)  # noqa: E711 - an expression
    assert statistics.load(dataset, "good")["ceiling"]["num_targets"] == answered.count("ground_truth.detections")
    # the same samples: numbers that are no means stand beside each other
    assert {"ap", "pr_f1"} <= {row.key for row in comparison.compare_runs(dataset, ["good", "sure"]).rows}
    dataset.delete_samples(dataset.limit(20))
    assert any("changed since" in note for note in shown(dataset, "good")["notes"])
    dataset.delete()


def test_one_sample_and_no_credit_that_was_not_given(database):
    dataset = make_dataset(60)
    evaluate_referring(dataset.limit(1), "good", eval_key="one")
    evaluate_referring(dataset, "good", eval_key="wrong", missing="wrong")
    evaluate_referring(dataset.limit(1), "poor", eval_key="other")
    assert "**1 sample** of 1 image," in shown(dataset, "one")["facts"] and shown(dataset, "one")["facts"].endswith("UTC")
    compared = comparison_content(comparison.compare_runs(dataset, ["one", "other"]).to_dict())
    assert "**1 sample** of 1 image that" in compared["text"]
    assert not any("correct rejections" in note for note in shown(dataset, "wrong")["notes"])
    dataset.delete()


def test_names_of_domains_as_they_are(database):
    dataset = make_dataset(30)
    names = ["$attribute", "<b>bold</b>", "a name that would leave no room for the bars"]
    dataset.set_values("domain", [names[i % 3] for i in range(30)])
    evaluate_referring(dataset, "good", eval_key="run")
    found, run = shown(dataset, "run"), results.get_run(dataset, "run")
    bars, axis = found["figures"]["domain"]["data"][0], found["figures"]["domain"]["layout"]["xaxis"]
    assert found["domains"] == names and bars["x"] == axis["tickvals"]
    assert axis["ticktext"] == ["$attribute", "&lt;b&gt;bold&lt;/b&gt;", "a name that would l…"]
    assert [row[2] for row in bars["customdata"]] == ["$attribute", "&lt;b&gt;bold&lt;/b&gt;", names[2]]
    assert [len(results.domain_view(dataset, run, name)) for name in names] == [10, 10, 10]
    dataset.set_values("domain", [f"{i} of many" for i in range(15)] * 2)
    assert not any("by domain" in note for note in shown(dataset, "run")["notes"])
    dataset.add_samples([dataset.first().copy() for _ in range(30)], progress=False)
    dataset.set_values("domain", [f"{i} of many" for i in range(60)])
    assert any("by domain: there are 60 of them" in note for note in shown(dataset, "run")["notes"])
    dataset.delete()


def test_answers_without_masks_were_given(database):
    dataset = make_dataset(30)
    evaluate_referring(dataset, "good", eval_key="gres", method="gres")
    found, run = shown(dataset, "gres"), results.get_run(dataset, "gres")
    notes = "\n".join(found["notes"])
    assert "because a target has no mask" in notes and "threshold sweep" not in notes
    dataset.delete_evaluation("gres")
    dataset.set_values("ground_truth", [fo.Detections() for _ in range(30)])
    evaluate_referring(dataset, "good", eval_key="gres", method="gres")
    found, run = shown(dataset, "gres"), results.get_run(dataset, "gres")
    boxes = sum(bool(d and d.detections) for d in dataset.values("good"))
    assert any(note.endswith(f"because an object has no mask (GRES scores masks): {boxes}.") for note in found["notes"])
    causes = results.overview(dataset, run)
    assert causes.causes["unparsed"] == boxes + 1 and causes.unanswered == 0
    dataset.delete()


def test_predictions_above_a_threshold(dataset):
    run = results.get_run(dataset, "ref")
    view = results.confident_view(dataset, run, 0.6)
    wanted = sum(c >= 0.6 for row in dataset.values("good.detections.confidence") for c in row or ())
    assert view.count("good.detections") == wanted and len(view) == 60

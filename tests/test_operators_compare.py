"""Comparing runs from the form and from Python: what is refused, what is returned, which views are saved."""

import asyncio

import plugin
import pytest
from evaluated import make_dataset
from fiftyone.operators.executor import _parse_ctx, execute_or_delegate_operator

from fiftyone_rexseek.integration import comparison
from fiftyone_rexseek.integration.evaluation import evaluate_referring

VIEWS = ["a right, b wrong", "b right, a wrong"]


@pytest.fixture(scope="module", autouse=True)
def installed():
    plugin.install()


@pytest.fixture(scope="module")
def dataset(database):
    dataset = make_dataset(60)
    evaluate_referring(dataset, "good", eval_key="a")
    evaluate_referring(dataset, "poor", eval_key="b")
    evaluate_referring(dataset.limit(20), "poor", eval_key="begin")
    evaluate_referring(dataset.skip(40), "good", eval_key="end")
    evaluate_referring(dataset.limit(10), "poor", eval_key="paper", protocol="paper")
    yield dataset
    dataset.delete()


def note(dataset, *keys, **ctx):
    return plugin.form("compare_runs", dataset, {"eval_keys": list(keys)}, **ctx)["note"]["view"]["label"]


def test_the_form_says_what_can_be_compared(dataset):
    def complaints(*keys, **ctx):
        return plugin.complaints("compare_runs", dataset, {"eval_keys": list(keys)}, **ctx)

    assert complaints("a", "b") == {}
    # at first two that can be compared
    assert "eval_keys" not in plugin.complaints("compare_runs", dataset)
    # the same samples: those that neither run left out
    common = comparison.compare_runs(dataset, ["a", "b"]).num_samples
    assert note(dataset, "a", "b").startswith(f"{common} samples ")
    assert 0 < int(note(dataset, "a", "begin").split()[0]) <= 20
    assert "at least 2" in complaints("a")["eval_keys"]
    assert "No evaluation" in complaints("a", "nothing")["eval_keys"]
    assert "different methods" in complaints("a", "paper")["eval_keys"]
    # runs on different samples
    assert "No sample of the target" in complaints("begin", "end")["note"]
    assert "No sample of the target" in complaints("a", "begin", view=dataset.skip(40))["note"]


def test_nothing_to_compare_is_said_in_the_form(database):
    alone = make_dataset(4)
    try:
        assert "needs two evaluations" in plugin.complaints("compare_runs", alone)["eval_keys"]
    finally:
        alone.delete()


def test_the_result_is_the_comparison(dataset):
    result = plugin.operator("compare_runs")(dataset, eval_keys=["a", "b"])
    compared = comparison.compare_runs(dataset, ["a", "b"])
    assert result["summary"] == compared.to_markdown()
    assert result["comparison"] == compared.to_dict()
    (pair,) = result["comparison"]["pairs"]
    counts = [pair[k] for k in ("both_right", "only_a_right", "only_b_right", "both_wrong")]
    assert sum(counts) == result["comparison"]["num_samples"] and pair["only_a_right"] > pair["only_b_right"] >= 0
    good, poor = (dataset.load_evaluation_results(k).summary["overall"]["density_f1_mean"] for k in ("a", "b"))
    assert pair["differences"]["density_f1_mean"]["difference"] == pytest.approx(good - poor)
    assert result["views"] == [] and not any(dataset.has_saved_view(name) for name in VIEWS)


def test_views_are_saved_of_what_was_compared(dataset):
    part = dataset.limit(30)
    result = plugin.operator("compare_runs")(part, eval_keys=["a", "b"], save_views=True)
    assert result["views"] and set(result["views"]) <= set(VIEWS)
    success = dict(zip(part.values("id"), zip(part.values("a_success"), part.values("b_success"))))
    for name, wanted in zip(VIEWS, ((True, False), (False, True))):
        expected = {i for i, both in success.items() if both == wanted}
        assert (name in result["views"]) == bool(expected)
        if expected:
            assert set(dataset.load_saved_view(name).values("id")) == expected
    assert all(f"`{name}`" in result["summary"] for name in result["views"])
    for name in result["views"]:
        dataset.delete_saved_view(name)


def test_different_samples_are_refused_in_words(dataset):
    with pytest.raises(plugin.ExecutionError, match="No sample of the target was scored by all of them"):
        plugin.operator("compare_runs")(dataset, eval_keys=["begin", "end"])


def test_the_app_is_shown_an_error_that_comes_up_later(dataset, monkeypatch):
    # as when a run is replaced between the form and the execution
    monkeypatch.setattr(comparison, "common_view", lambda samples, keys: samples.view())
    uri = f"{plugin.NAME}/compare_runs"
    request = _parse_ctx(ctx={"dataset": dataset, "params": {"eval_keys": ["begin", "end"]}}) | {"operator_uri": uri}
    messages = [m.body.to_json() for m in asyncio.run(execute_or_delegate_operator(uri, request)).result]
    assert [m["operator_uri"].rpartition("/")[2] for m in messages] == ["show_output"]
    assert "no sample in common" in str(messages[0]["params"])

"""Comparing runs, against the runs' own numbers and against counting by hand."""

import json

import numpy as np
import pytest
from evaluated import make_dataset
from fiftyone import ViewField as F

import fiftyone_rexseek
from fiftyone_rexseek.errors import ConfigError, DataError
from fiftyone_rexseek.integration import comparison, statistics
from fiftyone_rexseek.integration.evaluation import evaluate_referring
from fiftyone_rexseek.metrics import humanref_tables
from fiftyone_rexseek.metrics.significance import paired_bootstrap


@pytest.fixture(scope="module")
def dataset(database):
    dataset = make_dataset(180)
    evaluate_referring(dataset, "good", eval_key="a")
    evaluate_referring(dataset, "poor", eval_key="b")
    evaluate_referring(dataset.take(60, seed=1), "poor", eval_key="part")
    evaluate_referring(dataset.limit(20), "poor", eval_key="paper", protocol="paper")
    evaluate_referring(dataset.skip(150), "good", eval_key="last")
    yield dataset
    dataset.delete()


@pytest.fixture(scope="module")
def compared(dataset):
    return comparison.compare_runs(dataset, ["a", "b"])


def test_public_name():
    assert fiftyone_rexseek.compare_runs is comparison.compare_runs


def test_values_are_those_of_the_runs(dataset, compared):
    rows = {r.key: r for r in compared.rows}
    for i, key in enumerate(("a", "b")):
        results = dataset.load_evaluation_results(key)
        for h in results.headlines:
            if h["key"] in rows:
                assert rows[h["key"]].values[i] == pytest.approx(h["value"]), h
        for domain, means in results.report()["domain"].items():
            assert rows[f"domain={domain}"].values[i] == pytest.approx(means["density_f1_mean"])
    assert {"density_f1_mean", "recall_50", "rejection_accuracy"} <= set(rows)
    assert compared.num_samples == 180 and compared.num_images == 60


def test_official_order(compared):
    keys = [r.key for r in compared.rows]
    assert keys.index("density_f1_mean") < keys.index("domain=attribute") < keys.index("domain=rejection") < keys.index("targets=0")
    assert [k for k in keys if k.startswith("domain=")][-1] == "domain=rejection"
    assert [k for k in keys if k.startswith("targets=")] == ["targets=0", "targets=1", "targets=2-5", "targets=6-10"]


def test_differences_are_clustered_by_image(dataset, compared):
    (pair,) = compared.pairs
    found = pair.differences["density_f1_mean"]
    a, b = dataset.values(["a_density_f1_mean", "b_density_f1_mean"])
    a, b = ([np.nan if v is None else v for v in c] for c in (a, b))
    alone = paired_bootstrap(a, b, dataset.values("image_id"))
    assert found.difference == pytest.approx(alone.difference)
    assert (found.low, found.high) == pytest.approx((alone.low, alone.high), abs=0.02)
    assert found.low > 0 and found.significant
    assert found.num_clusters == alone.num_clusters
    alone = paired_bootstrap(a, b)
    assert found.high - found.low != pytest.approx(alone.high - alone.low)


def test_same_against_itself_is_no_difference(dataset):
    # "part" scored the same predictions as "b"
    pair = comparison.compare_runs(dataset, ["b", "part"]).pair("b", "part")
    assert all(d.difference == 0 and d.p_value == 1 for d in pair.differences.values())
    assert pair.only_a_right == pair.only_b_right == 0


def test_who_is_right(dataset, compared):
    pair = compared.pair("a", "b")
    a, b = dataset.values(["a_success", "b_success"])
    expected = [sum(x == p and y == q for x, y in zip(a, b)) for p, q in ((True, True), (True, False), (False, True), (False, False))]
    assert [pair.both_right, pair.only_a_right, pair.only_b_right, pair.both_wrong] == expected
    view = comparison.right_wrong_view(dataset, "a", "b")
    assert len(view) == pair.only_a_right > 0
    assert set(view.values("a_success")) == {True} and set(view.values("b_success")) == {False}
    scores = view.values("b_score")
    assert scores == sorted(scores)
    assert len(comparison.right_wrong_view(dataset, "b", "a")) == pair.only_b_right


def test_only_common_samples_are_compared(dataset):
    part = comparison.compare_runs(dataset, ["a", "part"])
    assert part.num_samples == 60 and part.left_out == {"a": 120, "part": 0} and part.official is None
    row = next(r for r in part.rows if r.key == "density_f1_mean")
    assert row.values[0] == pytest.approx(dataset.exists("part_score").mean("a_density_f1_mean"))


def test_a_view_confines_the_comparison(dataset):
    view = dataset.match(F("domain") == "position")
    found = comparison.compare_runs(view, ["a", "b"])
    assert found.num_samples == len(view) and found.official is None
    assert [r.key for r in found.rows if r.key.startswith("domain=")] == ["domain=position"]
    assert len(comparison.right_wrong_view(view, "a", "b")) == found.pairs[0].only_a_right


def test_three_runs_give_three_pairs(dataset):
    found = comparison.compare_runs(dataset, ["a", "b", "part"], n_resamples=200)
    assert [(p.a, p.b) for p in found.pairs] == [("a", "b"), ("a", "part"), ("b", "part")]
    assert all(len(r.values) == 3 for r in found.rows)


def test_official_tables(dataset, compared):
    summaries = {key: dataset.load_evaluation_results(key).report() for key in ("a", "b")}
    owner = {name: name.split(" ")[0] for name in summaries["a"]["sub_domain"] if name != "(none)"}
    assert compared.official == humanref_tables.comparison(summaries, owner)
    assert compared.official_markdown.startswith("# Evaluation Results")


def test_text_and_json(compared):
    text = compared.to_markdown()
    assert "| DensityF1 0.5:0.95" in text and "a - b" in text and "protocol official" in text
    plain = json.loads(json.dumps(compared.to_dict(), allow_nan=False))
    assert plain["eval_keys"] == ["a", "b"] and plain["pairs"][0]["only_a_right"] > 0


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (["a"], "needs two runs"),
        (["a", "a"], "needs two runs"),
        (["a", "nothing"], "no referring evaluation 'nothing'"),
        (["a", "paper"], "different protocol"),
    ],
)
def test_what_cannot_be_compared(dataset, keys, message):
    with pytest.raises(ConfigError, match=message):
        comparison.compare_runs(dataset, keys)


def test_nothing_in_common(dataset):
    with pytest.raises(DataError, match="no sample in common"):
        comparison.compare_runs(dataset.limit(100), ["a", "last"])
    with pytest.raises(ConfigError, match="not compared"):
        comparison.compare_runs(dataset, ["a", "b"], n_resamples=50).pair("b", "a")


def test_saved_views(dataset, compared):
    names = comparison.save_pair_views(dataset, compared)
    assert names == ["a right, b wrong", "b right, a wrong"] == comparison.save_pair_views(dataset, compared)
    assert len(dataset.load_saved_view(names[0])) == compared.pairs[0].only_a_right


def test_kept_until_a_run_goes(dataset, compared, monkeypatch):
    first = comparison.cached_comparison(dataset, "a", "last")
    monkeypatch.setattr(comparison, "compare_runs", None)
    assert comparison.cached_comparison(dataset, "a", "last") == first
    key = f"{statistics.run_id(dataset, 'a')}-{statistics.run_id(dataset, 'last')}"
    assert statistics.store(dataset).get(key)
    dataset.delete_evaluation("last")  # the last test of this file
    assert statistics.store(dataset).get(key) is None
    assert statistics.load(dataset, "a") is not None

"""Bootstrap intervals and paired comparison."""

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fiftyone_rexseek.errors import ConfigError
from fiftyone_rexseek.metrics.significance import (
    bootstrap_interval,
    bootstrap_intervals,
    paired_bootstrap,
    paired_bootstraps,
)


def test_interval_agrees_with_the_normal_one():
    values = np.random.default_rng(0).normal(3, 2, 4000)
    i = bootstrap_interval(values, n_resamples=4000)
    half = 1.96 * values.std() / np.sqrt(len(values))
    assert i.value == pytest.approx(values.mean())
    assert (i.low, i.high) == pytest.approx((i.value - half, i.value + half), abs=0.01)


def test_coverage_with_clusters():
    """Values repeat within an image: clustered intervals cover the truth, naive ones are too narrow."""
    rng = np.random.default_rng(1)
    clusters = np.repeat(np.arange(80), 5)
    inside = naive = 0
    for seed in range(150):
        values = np.repeat(rng.normal(0, 1, 80), 5)
        with_clusters = bootstrap_interval(values, clusters, n_resamples=300, seed=seed)
        alone = bootstrap_interval(values, n_resamples=300, seed=seed)
        inside += with_clusters.low <= 0 <= with_clusters.high
        naive += alone.low <= 0 <= alone.high
    assert 0.88 <= inside / 150 <= 1 and naive / 150 < 0.8


def test_p_values_under_no_difference_and_under_one():
    rng = np.random.default_rng(2)
    null = [paired_bootstrap(rng.random(150), rng.random(150), n_resamples=400, seed=s).p_value for s in range(200)]
    assert np.mean(np.array(null) < 0.05) < 0.12
    a = rng.random(500)
    better = paired_bootstrap(a + 0.1 + rng.normal(0, 0.2, 500), a)
    assert better.p_value < 0.01 and better.significant and better.low > 0


def test_a_tie_is_a_tie():
    a = np.random.default_rng(3).random(300)
    same = paired_bootstrap(a, a, np.arange(300) // 3)
    assert (same.difference, same.p_value, same.significant, same.num_clusters) == (0.0, 1.0, False, 100)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1), st.integers(0, 5)), min_size=2, max_size=30))
def test_swapping_the_systems_mirrors_everything(rows):
    a, b, clusters = zip(*rows)
    one = paired_bootstrap(a, b, clusters, n_resamples=200)
    two = paired_bootstrap(b, a, clusters, n_resamples=200)
    assert one.difference == pytest.approx(-two.difference, abs=1e-12)
    assert (one.low, one.high) == pytest.approx((-two.high, -two.low), abs=1e-9, nan_ok=True)
    assert one.p_value == pytest.approx(two.p_value) and 0 < one.p_value <= 1
    assert one.num_clusters == 1 or one.low - 1e-9 <= one.high
    assert min(a) - 1 <= one.difference <= max(a) + 1


def test_ratios_of_sums():
    inter, union = np.array([1.0, 50, 0]), np.array([2.0, 100, 98])
    i = bootstrap_interval(inter, denominators=union)
    assert i.value == pytest.approx(51 / 200)
    r = paired_bootstrap(inter, inter * 0.5, a_denominators=union, b_denominators=union)
    assert r.difference == pytest.approx(51 / 400)
    with pytest.raises(ConfigError, match="both systems"):
        paired_bootstrap(inter, inter, a_denominators=union)


def test_samples_not_scored_are_left_out():
    nan = float("nan")
    r = paired_bootstrap([1, nan, 0, 1], [0, 1, nan, 1], ["a", "b", "c", "a"])
    assert (r.num_samples, r.num_clusters, r.difference) == (2, 1, 0.5)
    nothing = paired_bootstrap([nan], [nan])
    assert nothing.num_samples == 0 and nothing.p_value != nothing.p_value
    assert bootstrap_interval([]).num_samples == 0


def test_seeded_and_checked():
    a, b = np.random.default_rng(4).random((2, 50))
    assert paired_bootstrap(a, b, seed=7) == paired_bootstrap(a, b, seed=7)
    assert paired_bootstrap(a, b, seed=7) != paired_bootstrap(a, b, seed=8)
    for bad in ({"n_resamples": 0}, {"confidence": 95}, {"clusters": [1]}):
        with pytest.raises(ConfigError):
            paired_bootstrap(a, b, **bad)
    with pytest.raises(ConfigError, match="b does not fit"):
        paired_bootstrap(a, b[:3])


def test_ten_thousand_samples_in_seconds():
    rng = np.random.default_rng(5)
    start = time.process_time()
    paired_bootstrap(rng.random(10_000), rng.random(10_000), rng.integers(0, 9000, 10_000).tolist())
    assert time.process_time() - start < 5


class TestFewImages:
    def test_two_images_decide_nothing(self):
        [found] = paired_bootstraps({"f1": [1.0, 1.0]}, {"f1": [0.0, 0.0]}, ["a", "b"]).values()
        assert found.p_value == 0.5 == paired_bootstrap([1, 1], [0, 0], ["a", "b"]).p_value
        assert not found.significant
        # resampling can say more from twelve than a sign test of four could
        many = paired_bootstrap([1.0] * 12, [0.0] * 12)
        assert many.p_value < 0.01 and paired_bootstrap([1.0] * 4, [0.0] * 4).p_value == 0.125

    def test_one_image_has_no_interval(self):
        intervals = bootstrap_intervals({"one": [1, 0, np.nan], "two": [1, 0, 0]}, ["a", "a", "b"])
        assert intervals["one"].value == 0.5 and np.isnan([intervals["one"].low, intervals["one"].high]).all()
        assert not np.isnan(intervals["two"].low)
        assert np.isnan(bootstrap_interval([1, 0], ["a", "a"]).low)
        alone = paired_bootstrap([1, 1], [0, 0], ["a", "a"])
        assert np.isnan(alone.low) and alone.p_value == 1 and alone.difference == 1

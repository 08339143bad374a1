"""Confidence intervals and paired comparison by bootstrap over images.

Several expressions ask about the same image and share its difficulty, so whole images are resampled, not expressions
(the clustered bootstrap): intervals that ignore this are too narrow.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ..errors import ConfigError

#: Numbers drawn at once, so that memory stays flat.
_CHUNK = 4_000_000


@dataclass(frozen=True)
class Interval:
    """A mean (or ratio of sums) with its bootstrap percentile interval; NaN where nothing could be scored.

    The interval is NaN too where there is one cluster only, which says nothing about others.
    """

    value: float
    low: float
    high: float
    confidence: float
    num_samples: int
    num_clusters: int


@dataclass(frozen=True)
class PairedBootstrap:
    """The difference of two systems on the same samples.

    Attributes:
        difference: score of A minus score of B
        low, high: percentile interval of the difference
        p_value: two-sided; how often a resample falls on the other side of no difference, doubled. Never below what a sign
            test could reach with so many clusters, ``2 ** (1 - num_clusters)``: resamples of two images that agree all agree
        confidence: of the interval
        num_samples, num_clusters: what was compared (samples that only one system scored are left out)
    """

    difference: float
    low: float
    high: float
    p_value: float
    confidence: float
    num_samples: int
    num_clusters: int

    @property
    def significant(self) -> bool:
        """Whether the p-value is below 1 - confidence."""
        return bool(self.p_value < 1 - self.confidence)


def _column(values, n: int | None, name: str) -> np.ndarray:
    column = np.asarray(values, dtype=np.float64).reshape(-1)
    if n is not None and len(column) != n:
        raise ConfigError(f"{name} does not fit the samples", expected=f"{n} entries", found=len(column))
    return column


def _codes(clusters: Sequence[Hashable] | None, n: int) -> np.ndarray:
    if clusters is None:
        return np.arange(n)
    if len(clusters) != n:
        raise ConfigError("clusters do not fit the samples", expected=f"{n} entries", found=len(clusters))
    order: dict[Hashable, int] = {}
    return np.fromiter((order.setdefault(c, len(order)) for c in clusters), dtype=np.int64, count=n)


def _resampled_sums(columns: list[np.ndarray], codes: np.ndarray, n_resamples: int, seed: int) -> tuple[np.ndarray, int]:
    """Sums of every column over resampled clusters, (columns, n_resamples), and the number of clusters."""
    _, codes = np.unique(codes, return_inverse=True)
    n = int(codes.max()) + 1
    per_cluster = np.stack([np.bincount(codes, weights=c, minlength=n) for c in columns], axis=1)
    rng = np.random.default_rng(seed)
    sums = np.empty((n_resamples, len(columns)))
    step = max(1, _CHUNK // n)
    for start in range(0, n_resamples, step):
        rows = min(step, n_resamples - start)
        drawn = rng.integers(0, n, size=(rows, n), dtype=np.int32)
        # how often each cluster was drawn; then all columns at once as one matrix product
        drawn += np.arange(rows, dtype=np.int32)[:, None] * np.int32(n)
        weights = np.bincount(drawn.reshape(-1), minlength=rows * n).reshape(rows, n)
        sums[start : start + rows] = weights.astype(np.float64) @ per_cluster
    return sums.T, n


def _check(n_resamples: int, confidence: float) -> None:
    if n_resamples < 1:
        raise ConfigError("the bootstrap needs resamples", expected="n_resamples >= 1", found=n_resamples)
    if not 0 < confidence < 1:
        raise ConfigError("confidence is a share", expected="a number between 0 and 1", found=confidence)


def _ratio(numerator, denominator):
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(denominator != 0, numerator / denominator, np.nan)


def _percentiles(values: np.ndarray, confidence: float, num_clusters: int) -> tuple[float, float]:
    values = values[~np.isnan(values)]
    if not len(values) or num_clusters < 2:
        return float("nan"), float("nan")
    low, high = np.quantile(values, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


def bootstrap_interval(
    values: Sequence[float],
    clusters: Sequence[Hashable] | None = None,
    *,
    denominators: Sequence[float] | None = None,
    n_resamples: int = 2000,
    confidence: float = 0.95,
    seed: int = 0,
) -> Interval:
    """Mean of per-sample values with a confidence interval; NaN values (not scored) are left out.

    Args:
        values: one number per sample
        clusters: what is resampled, e.g. the image of each sample; default: each sample on its own
        denominators: for a ratio of sums such as cIoU, ``sum(values) / sum(denominators)``
        n_resamples, confidence, seed: of the bootstrap

    Example::

        >>> i = bootstrap_interval([1, 1, 0, 1], ["a", "a", "b", "c"])
        >>> i.value, i.low <= i.value <= i.high, i.num_clusters
        (0.75, True, 3)
    """
    _check(n_resamples, confidence)
    numerator = _column(values, None, "values")
    n = len(numerator)
    denominator = np.ones(n) if denominators is None else _column(denominators, n, "denominators")
    codes = _codes(clusters, n)
    scored = ~np.isnan(numerator) & ~np.isnan(denominator)
    nan = float("nan")
    if not scored.any():
        return Interval(nan, nan, nan, confidence, 0, 0)
    sums, n_clusters = _resampled_sums([numerator[scored], denominator[scored]], codes[scored], n_resamples, seed)
    low, high = _percentiles(_ratio(sums[0], sums[1]), confidence, n_clusters)
    value = float(_ratio(numerator[scored].sum(), denominator[scored].sum()))
    return Interval(value, low, high, confidence, int(scored.sum()), n_clusters)


def paired_bootstrap(
    a: Sequence[float],
    b: Sequence[float],
    clusters: Sequence[Hashable] | None = None,
    *,
    a_denominators: Sequence[float] | None = None,
    b_denominators: Sequence[float] | None = None,
    n_resamples: int = 2000,
    confidence: float = 0.95,
    seed: int = 0,
) -> PairedBootstrap:
    """Compares two systems scored on the same samples; samples that either did not score (NaN) are left out.

    Args:
        a, b: one number per sample and system
        clusters: what is resampled, e.g. the image of each sample; default: each sample on its own
        a_denominators, b_denominators: for ratios of sums such as cIoU (both or neither)
        n_resamples, confidence, seed: of the bootstrap

    Example::

        >>> r = paired_bootstrap([1, 1, 1, 1, 0, 1] * 50, [0, 1, 0, 1, 0, 1] * 50)
        >>> round(r.difference, 3), r.low > 0, r.p_value < 0.01
        (0.333, True, True)
    """
    _check(n_resamples, confidence)
    if (a_denominators is None) != (b_denominators is None):
        raise ConfigError("denominators are needed for both systems or for neither")
    first = _column(a, None, "a")
    n = len(first)
    second = _column(b, n, "b")
    below_first = np.ones(n) if a_denominators is None else _column(a_denominators, n, "a_denominators")
    below_second = np.ones(n) if b_denominators is None else _column(b_denominators, n, "b_denominators")
    codes = _codes(clusters, n)
    columns = [first, below_first, second, below_second]
    scored = ~np.isnan(np.stack(columns)).any(axis=0) if n else np.zeros(0, dtype=bool)
    nan = float("nan")
    if not scored.any():
        return PairedBootstrap(nan, nan, nan, nan, confidence, 0, 0)
    columns = [c[scored] for c in columns]
    sums, n_clusters = _resampled_sums(columns, codes[scored], n_resamples, seed)
    differences = _ratio(sums[0], sums[1]) - _ratio(sums[2], sums[3])
    total = [c.sum() for c in columns]
    difference = float(_ratio(total[0], total[1]) - _ratio(total[2], total[3]))
    return _paired(difference, differences, confidence, int(scored.sum()), n_clusters)


def _paired(difference, differences, confidence, num_samples, num_clusters) -> PairedBootstrap:
    """Interval and p-value from the differences of all resamples."""
    differences = differences[~np.isnan(differences)]
    low, high = _percentiles(differences, confidence, num_clusters)
    # rounding noise around an exact tie is no evidence for either side
    tie = 1e-12
    tail = min((differences <= tie).sum(), (differences >= -tie).sum())
    p_value = min(1.0, max(2.0 * (int(tail) + 1) / (len(differences) + 1), 2.0 ** (1 - num_clusters)))
    return PairedBootstrap(difference, low, high, p_value, confidence, num_samples, num_clusters)


def _scored(numerator: np.ndarray, denominator: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    known = ~np.isnan(numerator) & ~np.isnan(denominator)
    return np.where(known, numerator, 0.0), np.where(known, denominator, 0.0), known


def bootstrap_intervals(
    columns: Mapping[str, Sequence[float]],
    clusters: Sequence[Hashable] | None = None,
    *,
    denominators: Mapping[str, Sequence[float]] | None = None,
    n_resamples: int = 2000,
    confidence: float = 0.95,
    seed: int = 0,
) -> dict[str, Interval]:
    """Intervals of many numbers from one set of resamples: as cheap as one, and they move together.

    Args:
        columns: name to one number per sample; NaN where a sample has no part in that number
        clusters: as for :func:`bootstrap_interval`
        denominators: of those columns that are ratios of sums
        n_resamples, confidence, seed: of the bootstrap

    Example::

        >>> r = bootstrap_intervals({"a": [1, 0, 1, 1], "none": [float("nan")] * 4}, ["x", "x", "y", "z"])
        >>> r["a"].value, r["a"].num_clusters, r["none"].num_samples
        (0.75, 3, 0)
    """
    _check(n_resamples, confidence)
    if not columns:
        return {}
    n = len(next(iter(columns.values())))
    codes = _codes(clusters, n)
    stacked, known = [], {}
    for name, values in columns.items():
        below = (denominators or {}).get(name)
        below = np.ones(n) if below is None else _column(below, n, f"the denominator of {name}")
        above, below, known[name] = _scored(_column(values, n, name), below)
        stacked += [above, below]
    nan = float("nan")
    if not n:
        return {name: Interval(nan, nan, nan, confidence, 0, 0) for name in columns}
    sums, _ = _resampled_sums(stacked, codes, n_resamples, seed)
    result = {}
    for i, (name, scored) in enumerate(known.items()):
        if not scored.any():
            result[name] = Interval(nan, nan, nan, confidence, 0, 0)
            continue
        num_clusters = len(np.unique(codes[scored]))
        low, high = _percentiles(_ratio(sums[2 * i], sums[2 * i + 1]), confidence, num_clusters)
        value = float(_ratio(stacked[2 * i].sum(), stacked[2 * i + 1].sum()))
        result[name] = Interval(value, low, high, confidence, int(scored.sum()), num_clusters)
    return result


def paired_bootstraps(
    a: Mapping[str, Sequence[float]],
    b: Mapping[str, Sequence[float]],
    clusters: Sequence[Hashable] | None = None,
    *,
    a_denominators: Mapping[str, Sequence[float]] | None = None,
    b_denominators: Mapping[str, Sequence[float]] | None = None,
    n_resamples: int = 2000,
    confidence: float = 0.95,
    seed: int = 0,
) -> dict[str, PairedBootstrap]:
    """:func:`paired_bootstrap` of many numbers from one set of resamples.

    Args:
        a, b: name to one number per sample, for each system; NaN where a sample has no part in that number
        clusters: what is resampled, e.g. the image of each sample
        a_denominators, b_denominators: of those that are ratios of sums
        n_resamples, confidence, seed: of the bootstrap

    Example::

        >>> r = paired_bootstraps({"f1": [1, 1, 1, 1] * 50}, {"f1": [0, 1, 0, 1] * 50})
        >>> r["f1"].difference, r["f1"].significant
        (0.5, True)
    """
    _check(n_resamples, confidence)
    names = [name for name in a if name in b]
    if not names:
        return {}
    n = len(a[names[0]])
    codes = _codes(clusters, n)
    stacked, known = [], {}
    for name in names:
        sides = []
        for values, below in ((a[name], (a_denominators or {}).get(name)), (b[name], (b_denominators or {}).get(name))):
            below = np.ones(n) if below is None else _column(below, n, f"the denominator of {name}")
            sides.append(_scored(_column(values, n, name), below))
        known[name] = sides[0][2] & sides[1][2]  # only what both systems scored
        stacked += [np.where(known[name], column, 0.0) for side in sides for column in side[:2]]
    nan = float("nan")
    if not n:
        return {name: PairedBootstrap(nan, nan, nan, nan, confidence, 0, 0) for name in names}
    sums, _ = _resampled_sums(stacked, codes, n_resamples, seed)
    result = {}
    for i, name in enumerate(names):
        scored = known[name]
        if not scored.any():
            result[name] = PairedBootstrap(nan, nan, nan, nan, confidence, 0, 0)
            continue
        drawn, total = sums[4 * i : 4 * i + 4], [column.sum() for column in stacked[4 * i : 4 * i + 4]]
        differences = _ratio(drawn[0], drawn[1]) - _ratio(drawn[2], drawn[3])
        difference = float(_ratio(total[0], total[1]) - _ratio(total[2], total[3]))
        clusters_used = len(np.unique(codes[scored]))
        result[name] = _paired(difference, differences, confidence, int(scored.sum()), clusters_used)
    return result

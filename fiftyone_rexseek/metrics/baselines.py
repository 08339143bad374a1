"""Trivial answers that every table should show: nothing, everything, and a few at random.

A benchmark with many no-target or single-target expressions rewards some of them surprisingly well.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np

from ..errors import ConfigError

Baseline = Literal["none", "all", "random"]
BASELINES: tuple[str, ...] = get_args(Baseline)


def baseline_choices(
    num_candidates: Sequence[int], baseline: Baseline, *, k: int = 1, seed: int = 0
) -> list[np.ndarray]:
    """Indices of the chosen candidates of every sample, ascending.

    Args:
        num_candidates: how many candidates each sample has
        baseline: "none" chooses nothing, "all" every candidate, "random" k of them without repetition (all, where
            there are fewer)
        k: how many "random" chooses
        seed: of "random"

    Example::

        >>> [c.tolist() for c in baseline_choices([2, 0, 3], "all")]
        [[0, 1], [], [0, 1, 2]]
        >>> [len(c) for c in baseline_choices([2, 0, 3], "random", k=2)]
        [2, 0, 2]
    """
    if baseline not in BASELINES:
        raise ConfigError("unknown baseline", expected=", ".join(BASELINES), found=baseline)
    if k < 0:
        raise ConfigError("a baseline cannot choose fewer than no candidates", expected="k >= 0", found=k)
    counts = [int(n) for n in num_candidates]
    if baseline == "none":
        return [np.zeros(0, dtype=np.int64)] * len(counts)
    if baseline == "all":
        return [np.arange(n) for n in counts]
    # the k smallest of n random numbers, drawn in one go for all samples
    draws = np.split(np.random.default_rng(seed).random(sum(counts)), np.cumsum(counts)[:-1]) if counts else []
    return [np.sort(np.argsort(row, kind="stable")[:k]) for row in draws]

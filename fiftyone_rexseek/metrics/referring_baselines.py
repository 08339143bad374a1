"""Trivial answers for GREC and GRES: nothing, all candidates, a few candidates at random.

gRefCOCO's many no-target expressions reward predicting nothing, so a score means little without these beside it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from .. import masks
from ..errors import DataError
from ..referring import ReferringExample
from .baselines import BASELINES, Baseline, baseline_choices
from .grec import Answer, GrecConfig, GrecResult, evaluate_grec
from .gres import GresConfig, GresResult, MaskAnswer, MaskTruth, evaluate_gres
from .target_masks import TargetMasks

#: Names shown to people.
TITLES = {"none": "always empty", "all": "all candidates", "random": "random k"}


def grec_baselines(
    examples: Sequence[ReferringExample], config: GrecConfig | None = None, *, k: int = 1, seed: int = 0
) -> dict[str, GrecResult]:
    """GREC of each baseline, under ``none``, ``all`` and ``random``; their boxes have score 1.

    Output rules that would change what a baseline says (top-k, count) are replaced by the threshold.
    """
    config = config or GrecConfig()
    config = GrecConfig(config.protocol, iou_threshold=config.iou_threshold, score_threshold=min(config.score_threshold, 1.0))
    targets = [[t.box_xyxy for t in e.targets] for e in examples]
    results = {}
    for name, chosen in _choices(examples, k, seed):
        answers = []
        for e, which in zip(examples, chosen):
            boxes = np.array([e.candidates[i].box_xyxy for i in which], dtype=np.float64).reshape(-1, 4)
            answers.append(Answer(boxes, np.ones(len(boxes))))
        results[name] = evaluate_grec(targets, answers, config)
    return results


def gres_baselines(
    examples: Sequence[ReferringExample],
    truths: Sequence[MaskTruth | None],
    config: GresConfig | None = None,
    *,
    k: int = 1,
    seed: int = 0,
) -> dict[str, GresResult]:
    """GRES of each baseline: the union of the chosen candidates' masks; an empty choice is "no target".

    A candidate without a usable mask adds nothing.
    """
    config = config or GresConfig()
    results = {}
    for name, chosen in _choices(examples, k, seed):
        results[name] = evaluate_gres(_mask_pairs(examples, truths, chosen, config), config)
    return results


def _choices(examples: Sequence[ReferringExample], k: int, seed: int) -> Iterator[tuple[Baseline, list[np.ndarray]]]:
    counts = [len(e.candidates) for e in examples]
    for name in BASELINES:
        yield name, baseline_choices(counts, name, k=k, seed=seed)


def _mask_pairs(examples, truths, chosen, config: GresConfig) -> Iterator[tuple[MaskTruth, MaskAnswer]]:
    merge = TargetMasks(config.mask_size)
    for e, truth, which in zip(examples, truths, chosen):
        if truth is None:
            continue
        size = truth.size or (truth.mask["size"] if truth.mask is not None else (1, 1))
        parts = []
        for i in which:
            try:
                parts.append(merge.merged((e.candidates[i],), e.width, e.height))
            except DataError:
                continue
        yield truth, MaskAnswer(masks.union(parts, *size), not len(which))

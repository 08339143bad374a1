"""Proposal recall: how many targets the candidates contain at all, which no selector can exceed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..errors import ConfigError, DataError
from ..geometry import pairwise_iou


@dataclass(frozen=True)
class ProposalRecall:
    """Recall of candidates against targets.

    Attributes:
        recall: found targets over all targets; NaN without targets
        iou_threshold: a target is found when a candidate of its own overlaps it at least this much
        per_example: recall of each example, None where there is no target
        num_targets, num_found, num_candidates: totals
        num_examples_complete: examples with targets of which every target was found
        num_examples_with_targets: examples that have targets
    """

    recall: float
    iou_threshold: float
    per_example: tuple[float | None, ...]
    num_targets: int
    num_found: int
    num_candidates: int
    num_examples_complete: int
    num_examples_with_targets: int


def proposal_recall(
    targets_xyxy: Sequence[np.ndarray], candidates_xyxy: Sequence[np.ndarray], iou_threshold: float = 0.5
) -> ProposalRecall:
    """Recall of each example's candidates, each candidate serving at most one target (maximum matching).

    Args:
        targets_xyxy: for each example, ground truth boxes (n, 4), absolute pixels
        candidates_xyxy: for each example, candidate boxes (m, 4)
        iou_threshold: at least this overlap

    Example::

        >>> proposal_recall([[[0, 0, 4, 4], [5, 5, 9, 9]]], [[[0, 0, 4, 4]]]).recall
        0.5
    """
    if not 0 < iou_threshold <= 1:
        raise ConfigError("iou_threshold is out of range", expected="a number in (0, 1]", found=iou_threshold)
    if len(targets_xyxy) != len(candidates_xyxy):
        raise DataError("targets and candidates differ in length", expected=len(targets_xyxy), found=len(candidates_xyxy))
    per_example: list[float | None] = []
    found = total = candidates = complete = 0
    for own_targets, own_candidates in zip(targets_xyxy, candidates_xyxy):
        iou = pairwise_iou(own_targets, own_candidates)
        hits = maximum_matching(iou >= iou_threshold)
        n = iou.shape[0]
        per_example.append(hits / n if n else None)
        found, total, candidates = found + hits, total + n, candidates + iou.shape[1]
        complete += bool(n) and hits == n
    return ProposalRecall(
        recall=found / total if total else float("nan"),
        iou_threshold=iou_threshold,
        per_example=tuple(per_example),
        num_targets=total,
        num_found=found,
        num_candidates=candidates,
        num_examples_complete=complete,
        num_examples_with_targets=sum(r is not None for r in per_example),
    )


def maximum_matching(allowed: np.ndarray) -> int:
    """Size of a maximum matching of a boolean (n, m) matrix (augmenting paths).

    Example::

        >>> maximum_matching(np.array([[True, True], [True, False]]))
        2
    """
    owner: dict[int, int] = {}

    def augment(row: int, seen: set[int]) -> bool:
        for column in np.flatnonzero(allowed[row]):
            column = int(column)
            if column not in seen:
                seen.add(column)
                if column not in owner or augment(owner[column], seen):
                    owner[column] = row
                    return True
        return False

    return sum(augment(row, set()) for row in range(allowed.shape[0]))

"""Score against a confidence threshold: which cut of a model's boxes would have scored best.

A selector that gives every selected box a confidence can be made stricter after the fact. Per threshold the
sweep drops the boxes below it, matches again and reports precision, recall and the benchmark's own number.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .humanref import density_f1
from .matching import Boxes, match_best_first, match_in_answer_order

#: How the number that picks the best threshold is called, per method.
OBJECTIVES = {"humanref": "DensityF1", "grec": "Pr@F1"}


@dataclass(frozen=True)
class Sweep:
    """Curves over confidence thresholds.

    Attributes:
        objective: name of ``score``: DensityF1 (at one IoU threshold) or Pr@F1
        thresholds: float (T,), ascending; a box is kept when its confidence is at least the threshold
        precision, recall: float (T,), pooled over all boxes of all samples
        score: float (T,), mean over samples
    """

    objective: str
    thresholds: np.ndarray
    precision: np.ndarray
    recall: np.ndarray
    score: np.ndarray

    @property
    def best(self) -> int:
        """Index of the best score; the lowest threshold on ties."""
        return int(np.argmax(self.score))

    @property
    def best_threshold(self) -> float:
        return float(self.thresholds[self.best])


def threshold_sweep(
    answers: Sequence,
    predictions: Sequence,
    confidences: Sequence[Sequence[float]],
    *,
    method: str = "humanref",
    protocol: str = "official",
    answered: Sequence[bool] | None = None,
    num_candidates: Sequence[int] | None = None,
    iou_threshold: float = 0.5,
    thresholds: Sequence[float] | None = None,
) -> Sweep:
    """Precision, recall and the benchmark's score at each confidence threshold.

    Args:
        answers, predictions: one list of absolute ``xyxy`` boxes per sample
        confidences: one number per predicted box; NaN or None counts as 1 (never cut)
        method: ``"humanref"`` (DensityF1 over the samples that have targets; greedy in answer order) or ``"grec"``
            (Pr@(F1=1) over all samples; greedy best pair first)
        protocol: "official" or "paper", as the methods know them: GREC's official one matches by generalized IoU, HumanRef's
            paper has another penalty
        answered: False where there is no answer, which is never right; by default all are answered
        num_candidates: per sample, for the penalty of HumanRef's paper; by default the number of targets
        iou_threshold: IoU from which a match counts
        thresholds: the cuts; by default 0 to 1 in steps of 0.05

    Example::

        >>> s = threshold_sweep([[[0, 0, 4, 4]]], [[[0, 0, 4, 4], [5, 5, 9, 9]]], [[0.9, 0.2]])
        >>> s.score[[0, s.best]].round(3).tolist(), s.best_threshold
        ([0.333, 1.0], 0.25)
    """
    if method not in OBJECTIVES:
        raise ValueError(f"method is {method!r}, expected one of {sorted(OBJECTIVES)}")
    cuts = np.linspace(0, 1, 21) if thresholds is None else np.sort(np.asarray(thresholds, dtype=np.float64))
    gt, pred = Boxes.from_lists(answers), Boxes.from_lists(predictions)
    confidence = np.array([np.nan if c is None else c for row in confidences for c in row], dtype=np.float64)
    confidence = np.where(np.isnan(confidence), 1.0, confidence)
    sample_of = np.repeat(np.arange(len(pred)), pred.counts)
    has_answer = np.ones(len(gt), dtype=bool) if answered is None else np.asarray(answered, dtype=bool)
    persons = gt.counts if num_candidates is None else np.asarray(num_candidates, dtype=np.int64)
    generalized = protocol == "official"

    rows = []
    for cut in cuts:
        kept = confidence >= cut
        counts = np.bincount(sample_of[kept], minlength=len(pred)).astype(np.int64)
        offsets = np.concatenate([[0], np.cumsum(counts)])
        boxes = Boxes(pred.xyxy[kept], counts, offsets)
        if method == "humanref":
            hits = match_in_answer_order(gt, boxes, iou_threshold).num_matches[0]
            score = _density_f1(hits, gt.counts, counts, persons, protocol)
        else:
            hits = match_best_first(gt, boxes, iou_threshold, generalized=generalized).num_matches[0]
            score = float(np.mean((hits == gt.counts) & (hits == counts) & has_answer)) if len(gt) else 0.0
        total = hits.sum()
        rows.append(
            (
                total / counts.sum() if counts.sum() else 1.0,
                total / gt.counts.sum() if gt.counts.sum() else 1.0,
                score,
            )
        )
    precision, recall, score = np.array(rows).T
    return Sweep(OBJECTIVES[method], cuts, precision, recall, score)


def _density_f1(hits: np.ndarray, answers: np.ndarray, kept: np.ndarray, persons: np.ndarray, protocol: str) -> float:
    """Mean over the samples that have targets; a sample of which nothing is kept has 0, as a missing answer has."""
    targeted = answers > 0
    if not targeted.any():
        return 0.0
    hits, answers, kept, persons = hits[targeted], answers[targeted], kept[targeted], persons[targeted]
    precision = hits / np.maximum(kept, 1)
    return float(np.mean(density_f1(precision, hits / answers, answers, kept, persons, protocol)))

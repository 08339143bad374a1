"""GREC: does an answer contain exactly the referred boxes? Pr@(F1=1, IoU>=0.5), N-acc, T-acc.

Two protocols. ``official`` is the authors' evaluator (MDETR inside the gRefCOCO repository): pairs are matched by
*generalized* IoU, computed in float32. ``paper`` is the text (GREx, section 6): plain IoU. GIoU is never above IoU, so
the official numbers are the stricter ones. In both, the best remaining pair is matched first, again and again, while
it reaches the threshold; a sample succeeds when its F1 is 1, a no-target sample when nothing is predicted.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from ..errors import ConfigError, DataError
from .matching import Boxes, match_best_first, offsets_of, pieces_of

PROTOCOLS = ("official", "paper")
OUTPUTS = ("threshold", "top-k", "count", "all")
MISSING = ("wrong", "skip", "error")
#: ``count_class`` of a model that counts "more than five".
MANY = 6


@dataclass(frozen=True)
class GrecConfig:
    """How GREC is scored.

    Attributes:
        protocol: ``official`` (GIoU) or ``paper`` (IoU), see the module
        output: which boxes count as the answer: ``threshold`` keeps scores >= ``score_threshold``; ``top-k`` the ``k``
            best; ``count`` as many of the best as the model's count says, and the threshold for "more than five";
            ``all`` keeps every box, for models that give nothing but their answer
        score_threshold: 0.7 in the authors' evaluator. Compared in float64, as there: a score that was stored as
            float32(0.7) lies below 0.7 and is dropped
        k: for ``top-k``
        iou_threshold: smallest (G)IoU of a match
        missing: what an expression without an answer is: ``wrong`` (the default), ``skip`` (left out of every
            figure), ``error``
    """

    protocol: str = "official"
    output: str = "threshold"
    score_threshold: float = 0.7
    k: int = 1
    iou_threshold: float = 0.5
    missing: str = "wrong"

    def __post_init__(self):
        for name, known in (("protocol", PROTOCOLS), ("output", OUTPUTS), ("missing", MISSING)):
            if getattr(self, name) not in known:
                raise ConfigError(f"unknown {name}", expected=", ".join(known), found=getattr(self, name))
        if not 0 < self.iou_threshold <= 1:
            raise ConfigError("iou_threshold is out of range", expected="0 < t <= 1", found=self.iou_threshold)
        if not math.isfinite(self.score_threshold):
            raise ConfigError("score_threshold is not a number", expected="0 ... 1", found=self.score_threshold)
        if self.k < 1:
            raise ConfigError("k is out of range", expected="at least 1", found=self.k)


@dataclass(frozen=True)
class Answer:
    """A model's boxes for one expression; None in a list of answers means that there is none.

    Attributes:
        boxes_xyxy: float array (n, 4), absolute pixels
        scores: float array (n,)
        count_class: 0...5, 6 = more than five; None for a model that does not count
    """

    boxes_xyxy: np.ndarray
    scores: np.ndarray
    count_class: int | None = None

    def __post_init__(self):
        boxes = np.asarray(self.boxes_xyxy, dtype=np.float64).reshape(-1, 4)
        scores = np.asarray(self.scores, dtype=np.float64).reshape(-1)
        if len(boxes) != len(scores):
            raise DataError("scores do not fit the boxes", expected=len(boxes), found=len(scores))
        if np.isnan(scores).any():
            raise DataError("a score is NaN", expected="one number per box")
        object.__setattr__(self, "boxes_xyxy", boxes)
        object.__setattr__(self, "scores", scores)


@dataclass(frozen=True)
class GrecColumns:
    """One entry per sample (n samples), and one per box, end to end in the order given.

    Attributes:
        num_targets, num_predicted, tp, fp, fn: int64 (n,); ``num_predicted`` after the output rule
        precision, recall, f1: float64 (n,); all 1 for a correct "no target", all 0 for a wrong one
        success: bool (n,), whether the sample counts for Pr@F1
        answered: bool (n,)
        kept: one bool array per sample, which of its predicted boxes the output rule kept
        prediction_match: one int64 array per sample, target index of each predicted box, or -1
        target_match: one int64 array per sample, prediction index of each target, or -1
        match_score: one float array per sample, (G)IoU of each predicted box with its match, 0 without
    """

    num_targets: np.ndarray
    num_predicted: np.ndarray
    tp: np.ndarray
    fp: np.ndarray
    fn: np.ndarray
    precision: np.ndarray
    recall: np.ndarray
    f1: np.ndarray
    success: np.ndarray
    answered: np.ndarray
    kept: list[np.ndarray] = field(repr=False)
    prediction_match: list[np.ndarray] = field(repr=False)
    target_match: list[np.ndarray] = field(repr=False)
    match_score: list[np.ndarray] = field(repr=False)


@dataclass(frozen=True)
class GrecResult:
    """Scores of one set of answers.

    Attributes:
        config: how they were computed
        columns: per sample
        average_precision: COCO statistics (see :mod:`.coco_ap`), None when they were not asked for
        problems: how many samples had no usable answer, by kind
    """

    config: GrecConfig
    columns: GrecColumns
    average_precision: dict[str, float] | None = None

    @property
    def counted(self) -> np.ndarray:
        """Which samples enter the figures, bool (n,)."""
        if self.config.missing == "skip":
            return self.columns.answered
        return np.ones(len(self.columns.success), dtype=bool)

    def summary(self) -> dict[str, Any]:
        """Fractions, with the authors' names: ``F1_score`` is Pr@(F1=1), then ``T_acc`` and ``N_acc``.

        A figure without any sample to compute it from is NaN (the authors' script divides by zero there).
        """
        c, use = self.columns, self.counted
        empty = c.num_targets == 0
        silent = c.answered & (c.num_predicted == 0)
        spoke = c.answered & (c.num_predicted > 0)
        return {
            "F1_score": _mean(c.success[use]),
            "T_acc": _mean(spoke[use & ~empty]),
            "N_acc": _mean(silent[use & empty]),
        }

    def subsets(self) -> dict[str, dict[str, float]]:
        """``n``, ``F1_score``, mean precision and recall of single-, multi- and no-target samples."""
        c, use = self.columns, self.counted
        result = {}
        for name, mask in subset_masks(c.num_targets).items():
            mask = mask & use
            result[name] = {
                "n": int(mask.sum()),
                "F1_score": _mean(c.success[mask]),
                "precision": _mean(c.precision[mask]),
                "recall": _mean(c.recall[mask]),
            }
        return result

    def as_dict(self) -> dict[str, Any]:
        """Everything but the columns, unrounded, for a JSON file."""
        c = self.columns
        return {
            "metric": "grec",
            "protocol": self.config.protocol,
            "output": self.config.output,
            "num_samples": len(c.success),
            "num_unanswered": int((~c.answered).sum()),
            **self.summary(),
            "subsets": self.subsets(),
            "coco_stats_all_boxes": self.average_precision,
        }


def subset_masks(num_targets: np.ndarray) -> dict[str, np.ndarray]:
    """Boolean masks (n,) of the single-target, multi-target and no-target samples."""
    return {"single": num_targets == 1, "multi": num_targets > 1, "no_target": num_targets == 0}


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if len(values) else math.nan


def select_output(scores: np.ndarray, counts: np.ndarray, count_classes: np.ndarray, config: GrecConfig) -> np.ndarray:
    """Which boxes the output rule keeps, bool (total,).

    Args:
        scores: float64 (total,), all samples end to end
        counts: int64 (n,), boxes of each sample
        count_classes: int64 (n,), the model's count, -1 for none
    """
    if config.output == "all":
        return np.ones(len(scores), dtype=bool)
    above = scores >= config.score_threshold
    if config.output == "threshold":
        return above
    sample = np.repeat(np.arange(len(counts)), counts)
    # by sample, then best score first; lexsort is stable, so ties keep the order given
    order = np.lexsort((-scores, sample))
    rank = np.empty(len(scores), dtype=np.int64)
    rank[order] = np.arange(len(scores)) - np.repeat(offsets_of(counts)[:-1], counts)
    if config.output == "top-k":
        return rank < config.k
    limit = np.repeat(count_classes, counts)
    return np.where(limit >= MANY, above, rank < limit)


def evaluate_grec(
    targets_xyxy: Sequence[Any],
    answers: Sequence[Answer | None],
    config: GrecConfig | None = None,
) -> GrecResult:
    """Scores answers against targets.

    Args:
        targets_xyxy: one list (or array) of ``xyxy`` boxes per sample, crowd targets included; empty = no target
        answers: one per sample, None where there is no answer

    Raises:
        ConfigError: for ``output="count"`` without counts, ``missing="error"`` with missing answers

    Example::

        >>> one = Answer([[0, 0, 10, 9]], [0.9])
        >>> evaluate_grec([[[0, 0, 10, 10]], []], [one, one]).summary()
        {'F1_score': 0.5, 'T_acc': 1.0, 'N_acc': 0.0}
    """
    config = config or GrecConfig()
    if len(targets_xyxy) != len(answers):
        raise DataError("targets and answers differ in number", expected=len(targets_xyxy), found=len(answers))
    answered = np.fromiter((a is not None for a in answers), dtype=bool, count=len(answers))
    if config.missing == "error" and not answered.all():
        raise DataError(
            "expressions without an answer", expected="an answer to each", found=f"{(~answered).sum()} without",
            advice="Predict them, or score with missing='wrong' or 'skip'.",
        )  # fmt: skip
    classes = np.array([-1 if a is None or a.count_class is None else a.count_class for a in answers], dtype=np.int64)
    if config.output == "count" and (classes[answered] < 0).any():
        raise ConfigError(
            "output='count' needs the model's count of every answer", expected="count_class 0...6",
            found=f"{int((classes[answered] < 0).sum())} answers without",
            advice="Use output='threshold' for models that do not count.",
        )  # fmt: skip
    no_boxes, no_scores = np.zeros((0, 4)), np.zeros(0)
    boxes = [no_boxes if a is None else a.boxes_xyxy for a in answers]
    counts = np.fromiter(map(len, boxes), dtype=np.int64, count=len(boxes))
    scores = np.concatenate([no_scores, *(a.scores for a in answers if a is not None)])
    xyxy = np.concatenate([no_boxes, *boxes])
    kept = select_output(scores, counts, classes, config)
    return GrecResult(config, _columns(Boxes.from_lists(targets_xyxy), xyxy, counts, kept, answered, config))


def _columns(targets: Boxes, xyxy, counts, kept, answered, config: GrecConfig) -> GrecColumns:
    sample = np.repeat(np.arange(len(counts)), counts)
    predicted = np.bincount(sample[kept], minlength=len(counts))
    # the authors' arithmetic is float32 throughout; a box whose corners are swapped must not look like a large one
    chosen = xyxy[kept].astype(np.float32)
    chosen[(chosen[:, 2:] < chosen[:, :2]).any(axis=1)] = np.nan
    predictions = Boxes(chosen, predicted, offsets_of(predicted))
    truth = replace(targets, xyxy=targets.xyxy.astype(np.float32))
    # predictions are the rows of the authors' matrix, so that ties are broken as they are there
    matches = match_best_first(predictions, truth, config.iou_threshold, generalized=config.protocol == "official")

    tp = matches.num_matches[0]
    fp, fn = predicted - tp, truth.counts - tp
    empty = truth.counts == 0
    silent_ok = empty & (predicted == 0)
    with np.errstate(invalid="ignore", divide="ignore"):
        precision = np.where(predicted > 0, tp / predicted, silent_ok.astype(float))
        recall = np.where(empty, silent_ok.astype(float), tp / truth.counts)
        f1 = np.where(empty, silent_ok.astype(float), 2 * tp / (2 * tp + fp + fn))
    for column in (precision, recall, f1):
        column[~answered] = 0.0

    prediction_match = np.full(len(xyxy), -1, dtype=np.int64)
    prediction_match[kept] = matches.answer_match[0]
    match_score = np.zeros(len(xyxy))
    match_score[kept] = matches.answer_score
    offsets = offsets_of(counts)
    target_match = np.full(len(truth.xyxy), -1, dtype=np.int64)
    hit = np.flatnonzero(prediction_match >= 0)
    target_match[truth.offsets[sample[hit]] + prediction_match[hit]] = hit - offsets[sample[hit]]
    return GrecColumns(
        num_targets=truth.counts,
        num_predicted=predicted,
        tp=tp,
        fp=fp,
        fn=fn,
        precision=precision,
        recall=recall,
        f1=f1,
        success=f1 >= 1.0,
        answered=answered,
        kept=pieces_of(kept, offsets),
        prediction_match=pieces_of(prediction_match, offsets),
        target_match=pieces_of(target_match, truth.offsets),
        match_score=pieces_of(match_score, offsets),
    )


def answers_of(rows: Iterable[Any]) -> list[Answer | None]:
    """Answers from :class:`~fiftyone_rexseek.referring.Selection` objects; None where there was no answer."""
    return [Answer(s.boxes_xyxy, s.scores, s.count) if s is not None and s.outcome.is_answer else None for s in rows]

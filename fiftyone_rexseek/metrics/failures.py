"""One cause for every answer: why it is right, or in which way it is wrong.

Boxes (:func:`failure_causes`), in this order:

================== ==========================================================================================
failed, unparsed   the outcome says so; there is no answer to judge
exact              every target chosen and nothing else (also: rightly nothing)
hallucinated       no target exists, yet something was chosen
no proposal        none of the missed targets is among the candidates, so a selector could not have chosen them
wrongly rejected   targets exist and nothing was chosen
extra              every target chosen, and more
loosely localised  every missed target is covered, too loosely, by a box that stands for no other object
wrong instance     something else was chosen instead of a missed target
missed             some targets not chosen, nothing chosen instead
================== ==========================================================================================
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum

import numpy as np

from ..errors import ConfigError
from ..geometry import pairwise_iou
from ..referring import Outcome
from .matching import Boxes, best_overlap, match_best_first, match_in_answer_order


class Cause(str, Enum):
    """Why an answer is right or wrong."""

    EXACT = "exact"
    MISSED = "missed"
    EXTRA = "extra"
    WRONG_INSTANCE = "wrong_instance"
    HALLUCINATED = "hallucinated"
    WRONGLY_REJECTED = "wrongly_rejected"
    LOOSELY_LOCALISED = "loosely_localised"
    NO_PROPOSAL = "no_proposal"
    UNPARSED = "unparsed"
    FAILED = "failed"

    def __str__(self) -> str:
        return self.value


CAUSES = tuple(c.value for c in Cause)


def failure_causes(
    answers: Sequence | Boxes,
    predictions: Sequence | Boxes,
    outcomes: Sequence[Outcome | str | None] | None = None,
    candidates: Sequence | Boxes | None = None,
    *,
    iou_threshold: float = 0.5,
    loose_iou: float = 0.25,
    matching: str = "answer_order",
) -> list[Cause | None]:
    """One cause per sample, or None where nothing was predicted (outcome None).

    Args:
        answers: the true ``xyxy`` boxes of each sample
        predictions: the chosen boxes of each sample
        outcomes: of each sample; by default judged by whether there are predictions
        candidates: what could be chosen, per sample; None: unknown, so that "no proposal" is never given
        iou_threshold: IoU of a hit
        loose_iou: IoU from which a box counts as loosely on its target
        matching: "answer_order" (HumanRef) or "best_first" (gRefCOCO)

    Example::

        >>> a, b, c = [0, 0, 4, 4], [9, 9, 14, 14], [0, 0, 4, 1.5]
        >>> [str(x) for x in failure_causes([[a], [a], [], [a], [a], [a, b]], [[a], [b], [a], [], [c], [a]])]
        ['exact', 'wrong_instance', 'hallucinated', 'wrongly_rejected', 'loosely_localised', 'missed']
    """
    answers, predictions = Boxes.from_lists(answers), Boxes.from_lists(predictions)
    n = len(answers)
    known = None if candidates is None else Boxes.from_lists(candidates)
    for name, column in (("predictions", predictions), ("outcomes", outcomes), ("candidates", known)):
        if column is not None and len(column) != n:
            raise ConfigError(f"{name} does not fit the samples", expected=f"{n} entries", found=len(column))
    if matching == "best_first":
        matches = match_best_first(answers, predictions, iou_threshold)
    elif matching == "answer_order":
        matches = match_in_answer_order(answers, predictions, [iou_threshold])
    else:
        raise ConfigError("unknown matching", expected="answer_order or best_first", found=matching)
    hits = matches.num_matches[0]
    n_a, n_p = answers.counts, predictions.counts
    missed = n_a > hits

    causes = np.full(n, None, dtype=object)
    causes[~missed & (n_p == n_a)] = Cause.EXACT
    causes[~missed & (n_p > n_a)] = Cause.EXTRA
    causes[(n_a == 0) & (n_p > 0)] = Cause.HALLUCINATED
    causes[missed & (n_p == 0)] = Cause.WRONGLY_REJECTED
    if known is not None:
        causes[_without_proposal(answers, known, matches.answer_match[0] < 0, iou_threshold) & missed] = Cause.NO_PROPOSAL
    answer_match = matches.answer_match[0]
    for i in np.flatnonzero(np.equal(causes, None)).tolist():
        causes[i] = _missing_target(
            answers.of(i),
            predictions.of(i),
            answer_match[answers.offsets[i] : answers.offsets[i + 1]],
            None if known is None else known.of(i),
            iou_threshold,
            loose_iou,
        )
    if outcomes is not None:
        for i, outcome in enumerate(outcomes):
            if outcome is None:
                causes[i] = None
            elif (state := Outcome(outcome)) in (Outcome.FAILED, Outcome.UNPARSED):
                causes[i] = Cause(state.value)
    return causes.tolist()


def _without_proposal(answers: Boxes, candidates: Boxes, missed: np.ndarray, iou_threshold: float) -> np.ndarray:
    """Samples that miss a target and of whose missed targets none is covered by a candidate, bool (samples,)."""
    reachable = missed & (best_overlap(answers, candidates) >= iou_threshold)
    sample = np.repeat(np.arange(len(answers)), answers.counts)
    return (np.bincount(sample[missed], minlength=len(answers)) > 0) & (
        np.bincount(sample[reachable], minlength=len(answers)) == 0
    )


def _missing_target(answers, predictions, match, candidates, iou_threshold, loose_iou) -> Cause:
    """The cause for a sample with predictions in which at least one target was missed."""
    iou = pairwise_iou(answers, predictions)
    open_answers = np.flatnonzero(match < 0)
    free = np.setdiff1d(np.arange(len(predictions)), match[match >= 0])
    # a second box on a target that was found is not chosen *instead* of another
    free = free[(iou[:, free] < iou_threshold).all(axis=0)]
    if not len(free):
        return Cause.MISSED
    loose = iou[np.ix_(open_answers, free)]
    if candidates is not None and len(candidates):
        # a box that sits on another candidate than the target's own stands for that other object
        own = pairwise_iou(answers[open_answers], candidates) >= iou_threshold
        sits = pairwise_iou(predictions[free], candidates) >= iou_threshold
        elsewhere = sits.any(axis=1)[None, :] & ~(own.astype(int) @ sits.T.astype(int) > 0)
        loose = np.where(elsewhere, 0.0, loose)
    covered = 0
    while loose.size and loose.max() >= loose_iou:
        a, p = np.unravel_index(loose.argmax(), loose.shape)
        loose[a, :] = loose[:, p] = -1.0
        covered += 1
    if covered == len(open_answers):
        return Cause.LOOSELY_LOCALISED
    return Cause.WRONG_INSTANCE if len(free) > covered else Cause.MISSED


def mask_failure_causes(
    intersections: Sequence[float],
    answer_areas: Sequence[float],
    predicted_areas: Sequence[float],
    outcomes: Sequence[Outcome | str | None] | None = None,
    *,
    iou_threshold: float = 0.5,
) -> list[Cause | None]:
    """The same for one merged mask per sample, from pixel counts.

    A mask with IoU >= threshold is exact; one that covers at least half of the targets but is mostly something else has
    an extra part; one that is mostly on the targets but covers less than half misses a part; less than a tenth in
    common is a wrong instance; the rest is loosely localised.

    Example::

        >>> [str(c) for c in mask_failure_causes([90, 0, 0, 50, 20], [100] * 5, [100, 0, 80, 500, 20])]
        ['exact', 'wrongly_rejected', 'wrong_instance', 'extra', 'missed']
    """
    inter, answer, predicted = (np.asarray(v, dtype=np.float64) for v in (intersections, answer_areas, predicted_areas))
    with np.errstate(divide="ignore", invalid="ignore"):
        iou = inter / (answer + predicted - inter)
        recall, precision = inter / answer, inter / predicted
    causes = np.full(len(inter), Cause.LOOSELY_LOCALISED, dtype=object)
    causes[(recall >= 0.5) & (precision < 0.5)] = Cause.EXTRA
    causes[(recall < 0.5) & (precision >= 0.5)] = Cause.MISSED
    causes[(recall < 0.1) & (precision < 0.1)] = Cause.WRONG_INSTANCE
    causes[iou >= iou_threshold] = Cause.EXACT
    causes[(answer > 0) & (predicted == 0)] = Cause.WRONGLY_REJECTED
    causes[(answer == 0) & (predicted > 0)] = Cause.HALLUCINATED
    causes[(answer == 0) & (predicted == 0)] = Cause.EXACT
    if outcomes is not None:
        for i, outcome in enumerate(outcomes):
            if outcome is None:
                causes[i] = None
            elif (state := Outcome(outcome)) in (Outcome.FAILED, Outcome.UNPARSED):
                causes[i] = Cause(state.value)
    return causes.tolist()


def count_causes(causes: Sequence[Cause | str | None]) -> dict[str, int]:
    """How many samples have each cause, in the order of :class:`Cause`; causes that do not occur are left out.

    Example::

        >>> count_causes([Cause.MISSED, "exact", None, "exact"])
        {'exact': 2, 'missed': 1}
    """
    found = [Cause(c) for c in causes if c is not None]
    return {c.value: found.count(c) for c in Cause if c in found}

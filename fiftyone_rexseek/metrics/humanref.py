"""HumanRef's metrics: recall, precision, DensityF1 and rejection, per sample and per group, without a database.

Two steps, both on columns::

    score_boxes(answers, predictions, num_candidates, is_rejection=..., answered=...)   -> SampleScores
    score_points(answer_masks, points, num_candidates, ...)                             -> SampleScores
    summarize(scores, domains, sub_domains)                                             -> dict, the reference's keys

Rules (source: the published ``recall_precision_densityf1.py``, protocol ``official``):

* answers are matched in order, each with its best free prediction, IoU >= t, at t = 0.5, 0.55 ... 0.95 (drifting
  float64 values, so that an IoU of exactly 0.6 fails "0.6");
* recall = matches / answers, precision = matches / predictions, DensityF1 = F1 * min(1, answers / predictions) computed
  as two densities over the number of persons, so that it is 0 where there are no candidates;
* "mean" values average over the ten thresholds, then over the samples; rejection samples are in no average, and the
  rejection score is the *number* of them with an empty prediction.

Protocol ``paper`` is the README's formula: the penalty is min(1, persons in the image / predictions).

Where the official script crashes this computes: a positive sample without answers scores 1 when nothing is predicted
and 0 otherwise; an entry that cannot be read as a box is a false positive.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from ..errors import ConfigError, DataError
from ..referring import RLE
from .matching import Boxes, Matches, match_in_answer_order, offsets_of
from .points import run_ends

#: The ten IoU thresholds; their last bits decide matches, so they come from the same expression as the official ones.
IOU_THRESHOLDS = np.arange(0.5, 1, 0.05)
PROTOCOLS = ("official", "paper")
MISSING = ("official", "wrong", "error")
REJECTION_DOMAIN = "rejection"
#: Answers per sample; 0 falls into the last one, as in the official script.
BOX_COUNT_BUCKETS = ("1", "2-5", "6-10", ">10")

Protocol = Literal["official", "paper"]
Missing = Literal["official", "wrong", "error"]


@dataclass(frozen=True)
class SampleScores:
    """Columns with one entry per sample, in the order given.

    For point predictions the values "at 0.5" and the mean values are one and the same.

    Attributes:
        protocol: "official" or "paper"
        missing: how missing answers were scored
        is_point: whether points were scored
        is_rejection: bool, whether the right answer is that nobody matches
        answered: bool, whether there was an answer (False: missing, unparsed or failed)
        recall_50, precision_50, density_f1_50: float64, NaN on rejection samples
        recall_mean, precision_mean, density_f1_mean: float64, over the thresholds, NaN on rejection samples
        rejection_correct: float64, 1 or 0 on rejection samples, NaN elsewhere
        num_candidates, num_predictions, num_answers: int64
        answers, predictions: the boxes that were compared (None for points)
        matches: assignments at the ten thresholds; index 0 is IoU 0.5 (None for points)
        answer_match: int64 (total answers,), at IoU 0.5: index of the prediction within its sample, or -1
        answer_iou: float64 (total answers,), IoU of that match, else 0 (1 for points in their mask)
        answer_offsets: int64 (samples + 1,), where each sample's answers start
        prediction_match: int64 (total predictions,), the inverse of ``answer_match``
        prediction_offsets: int64 (samples + 1,)
    """

    protocol: str
    missing: str
    is_point: bool
    is_rejection: np.ndarray
    answered: np.ndarray
    recall_50: np.ndarray
    precision_50: np.ndarray
    density_f1_50: np.ndarray
    recall_mean: np.ndarray
    precision_mean: np.ndarray
    density_f1_mean: np.ndarray
    rejection_correct: np.ndarray
    num_candidates: np.ndarray
    num_predictions: np.ndarray
    num_answers: np.ndarray
    answers: Boxes | None
    predictions: Boxes | None
    matches: Matches | None
    answer_match: np.ndarray
    answer_iou: np.ndarray
    answer_offsets: np.ndarray
    prediction_match: np.ndarray
    prediction_offsets: np.ndarray

    def __len__(self) -> int:
        return len(self.is_rejection)

    @property
    def num_matches(self) -> np.ndarray:
        """True positives of each sample at IoU 0.5, int64; 0 on rejection samples."""
        hits = np.concatenate([[0], np.cumsum(self.answer_match >= 0)])
        return hits[self.answer_offsets[1:]] - hits[self.answer_offsets[:-1]]

    @property
    def f1_50(self) -> np.ndarray:
        """Plain F1 at IoU 0.5, float64, NaN on rejection samples."""
        return _f1(self.precision_50, self.recall_50)


def rejection_flags(domains: Sequence[str | None], num_answers: Sequence[int]) -> np.ndarray:
    """Which samples are rejection samples: those of the domain "rejection"; without a domain, those without answers.

    Example::

        >>> rejection_flags(["rejection", "attribute", None, None], [0, 0, 0, 2]).tolist()
        [True, False, True, False]
    """
    return np.array([d == REJECTION_DOMAIN or (d is None and n == 0) for d, n in zip(domains, num_answers)], dtype=bool)


def box_count_bucket(num_answers: int) -> str:
    """The official bucket of a number of answers; 0 falls into ">10", as there."""
    if num_answers == 1:
        return "1"
    if 2 <= num_answers <= 5:
        return "2-5"
    return "6-10" if 6 <= num_answers <= 10 else ">10"


def density_f1(precision, recall, num_answers, num_predictions, num_persons, protocol: Protocol = "official"):
    """F1 times the density penalty, elementwise float64.

    ``official``: min(1, (answers / persons) / (predictions / persons)); ``paper``: min(1, persons / predictions). Both
    are 0 without persons or predictions.

    Example::

        >>> float(density_f1(0.5, 1.0, 1, 2, 10)), float(density_f1(0.5, 1.0, 1, 2, 10, protocol="paper"))
        (0.3333333333333333, 0.6666666666666666)
    """
    answers, predictions, persons = (np.asarray(v, dtype=np.float64) for v in (num_answers, num_predictions, num_persons))
    with np.errstate(divide="ignore", invalid="ignore"):
        penalty = (answers / persons) / (predictions / persons) if protocol == "official" else persons / predictions
        penalty = np.where((persons > 0) & (predictions > 0), np.minimum(1.0, penalty), 0.0)
    return _f1(precision, recall) * penalty


def _f1(precision, recall):
    precision, recall = np.asarray(precision, dtype=np.float64), np.asarray(recall, dtype=np.float64)
    total = precision + recall
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(total > 0, 2 * precision * recall / total, np.where(np.isnan(total), np.nan, 0.0))


def score_boxes(
    answers: Sequence[Sequence[Sequence[float]]] | Boxes,
    predictions: Sequence[Sequence[Sequence[float]]] | Boxes,
    num_candidates: Sequence[int],
    *,
    is_rejection: Sequence[bool] | None = None,
    answered: Sequence[bool] | None = None,
    num_predictions: Sequence[int] | None = None,
    protocol: Protocol = "official",
    missing: Missing = "official",
) -> SampleScores:
    """Scores box predictions of many samples.

    Args:
        answers: the true ``xyxy`` boxes of each sample, absolute pixels
        predictions: the predicted boxes of each sample, same order; empty = "nobody matches"
        num_candidates: persons in each image (HumanRef's ``candidate_boxes``)
        is_rejection: which samples have no answer by design; by default those without answers
        answered: False where there is no answer to score (not predicted, unparsed, failed); default: all answered
        num_predictions: count to report where it differs from the boxes (an official ``[[]]`` counts as 1)
        protocol: "official" or "paper"
        missing: "official" credits an unanswered rejection sample as the official script does, "wrong" does not,
            "error" raises :class:`DataError` when anything is unanswered

    Example::

        >>> s = score_boxes([[[0, 0, 4, 4]], []], [[[0, 0, 4, 3], [5, 5, 9, 9]], []], [2, 3])
        >>> s.recall_50.tolist(), s.precision_50.tolist(), s.rejection_correct.tolist()
        ([1.0, nan], [0.5, nan], [nan, 1.0])
        >>> round(float(s.recall_mean[0]), 2), s.prediction_match.tolist()
        (0.6, [0, -1])
    """
    answers, predictions = Boxes.from_lists(answers), Boxes.from_lists(predictions)
    if len(answers) != len(predictions):
        raise ConfigError("answers and predictions differ in length", expected=len(answers), found=len(predictions))
    persons, rejection, answered = _columns(answers.counts, num_candidates, is_rejection, answered, protocol, missing)
    matches = match_in_answer_order(answers, predictions, IOU_THRESHOLDS)
    n_a, n_p = answers.counts.astype(np.float64), predictions.counts.astype(np.float64)
    hits = np.ascontiguousarray(matches.num_matches.T, dtype=np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        recall = np.where(n_a[:, None] > 0, hits / n_a[:, None], 0.0)
        precision = np.where(n_p[:, None] > 0, hits / n_p[:, None], 0.0)
    density = density_f1(precision, recall, n_a[:, None], n_p[:, None], persons[:, None], protocol)
    nothing_to_find = (n_a == 0) & (n_p == 0)
    recall[nothing_to_find] = precision[nothing_to_find] = density[nothing_to_find] = 1.0
    unanswered = ~answered & ~rejection
    recall[unanswered] = precision[unanswered] = density[unanswered] = 0.0
    for values in (recall, precision, density):
        values[rejection] = np.nan
    return SampleScores(
        protocol=protocol,
        missing=missing,
        is_point=False,
        is_rejection=rejection,
        answered=answered,
        recall_50=recall[:, 0].copy(),
        precision_50=precision[:, 0].copy(),
        density_f1_50=density[:, 0].copy(),
        recall_mean=recall.mean(axis=1),
        precision_mean=precision.mean(axis=1),
        density_f1_mean=density.mean(axis=1),
        rejection_correct=_rejection_correct(rejection, answered, n_p, missing),
        num_candidates=persons.astype(np.int64),
        num_predictions=predictions.counts if num_predictions is None else np.asarray(num_predictions, dtype=np.int64),
        num_answers=answers.counts,
        answers=answers,
        predictions=predictions,
        matches=matches,
        answer_match=matches.answer_match[0],
        answer_iou=matches.answer_score,
        answer_offsets=answers.offsets,
        prediction_match=matches.prediction_match(answers, predictions),
        prediction_offsets=predictions.offsets,
    )


def score_points(
    answer_masks: Sequence[Sequence[RLE]],
    points: Sequence[Sequence[Sequence[float]]],
    num_candidates: Sequence[int],
    *,
    is_rejection: Sequence[bool] | None = None,
    answered: Sequence[bool] | None = None,
    num_predictions: Sequence[int] | None = None,
    protocol: Protocol = "official",
    missing: Missing = "official",
) -> SampleScores:
    """Scores point predictions: answers in order, each takes the first free point inside its mask.

    Coordinates are rounded half to even; a point outside the image misses. Nothing predicted on a positive sample
    gives recall 0 and, in both protocols as in the official script, precision 1 (with ``missing="wrong"`` an
    unanswered sample gets 0). Masks are RLEs with text or list counts; they are never decoded.

    The other arguments and the result are those of :func:`score_boxes`.

    Example::

        >>> mask = {"size": [4, 4], "counts": [0, 8, 8]}   # the two left columns
        >>> s = score_points([[mask]], [[[3, 3], [0.4, 2]]], [5])
        >>> s.recall_50.tolist(), s.precision_50.tolist(), s.answer_match.tolist()
        ([1.0], [0.5], [1])
    """
    if len(answer_masks) != len(points):
        raise ConfigError("answers and predictions differ in length", expected=len(answer_masks), found=len(points))
    counts = np.array([len(m) for m in answer_masks], dtype=np.int64)
    point_counts = np.array([len(p) for p in points], dtype=np.int64)
    persons, rejection, answered = _columns(counts, num_candidates, is_rejection, answered, protocol, missing)
    answer_offsets, point_offsets = offsets_of(counts), offsets_of(point_counts)
    match = _match_points(answer_masks, points, answer_offsets, point_offsets)
    hits = np.add.reduceat(np.append(match >= 0, False), answer_offsets[:-1]) if len(counts) else np.zeros(0)
    hits = np.where(counts > 0, hits, 0).astype(np.float64)
    n_a, n_p = counts.astype(np.float64), point_counts.astype(np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        recall = np.where(n_a > 0, hits / n_a, 0.0)
        precision = np.where(n_p > 0, hits / n_p, 1.0)
    density = density_f1(precision, recall, n_a, n_p, persons, protocol)
    nothing_to_find = (n_a == 0) & (n_p == 0)
    recall[nothing_to_find] = density[nothing_to_find] = 1.0
    if missing == "wrong":
        recall[~answered] = precision[~answered] = density[~answered] = 0.0
    for values in (recall, precision, density):
        values[rejection] = np.nan
    prediction_match = np.full(int(point_offsets[-1]), -1, dtype=np.int64)
    owner = np.repeat(np.arange(len(counts)), counts)
    hit = match >= 0
    prediction_match[point_offsets[owner[hit]] + match[hit]] = (np.arange(len(match)) - answer_offsets[owner])[hit]
    return SampleScores(
        protocol=protocol,
        missing=missing,
        is_point=True,
        is_rejection=rejection,
        answered=answered,
        recall_50=recall,
        precision_50=precision,
        density_f1_50=density,
        recall_mean=recall,
        precision_mean=precision,
        density_f1_mean=density,
        rejection_correct=_rejection_correct(rejection, answered, n_p, missing),
        num_candidates=persons.astype(np.int64),
        num_predictions=point_counts if num_predictions is None else np.asarray(num_predictions, dtype=np.int64),
        num_answers=counts,
        answers=None,
        predictions=None,
        matches=None,
        answer_match=match,
        answer_iou=(match >= 0).astype(np.float64),
        answer_offsets=answer_offsets,
        prediction_match=prediction_match,
        prediction_offsets=point_offsets,
    )


def _match_points(answer_masks, points, answer_offsets, point_offsets) -> np.ndarray:
    """For every answer the index of its point within the sample, or -1; int64 (total answers,)."""
    match = np.full(int(answer_offsets[-1]), -1, dtype=np.int64)
    counts, point_counts = np.diff(answer_offsets), np.diff(point_offsets)
    pairs_per_sample = counts * point_counts
    total = int(pairs_per_sample.sum())
    if not total:
        return match
    ends = run_ends([m for masks in answer_masks for m in masks])
    flat_points = np.array([p[:2] for sample in points for p in sample], dtype=np.float64).reshape(-1, 2)
    sample = np.repeat(np.arange(len(counts)), pairs_per_sample)
    k = np.arange(total) - offsets_of(pairs_per_sample)[sample]
    answer = answer_offsets[sample] + k // point_counts[sample]
    point = point_offsets[sample] + k % point_counts[sample]
    inside = ends.contains(answer, flat_points[point])
    used = np.zeros(len(flat_points), dtype=bool)
    # pairs are ordered by answer, then by point: the first free one is the official choice
    for a, p in zip(answer[inside].tolist(), point[inside].tolist()):
        if match[a] < 0 and not used[p]:
            match[a] = p
            used[p] = True
    hit = match >= 0
    match[hit] -= point_offsets[:-1][np.repeat(np.arange(len(counts)), counts)[hit]]
    return match


def _columns(num_answers, num_candidates, is_rejection, answered, protocol, missing):
    if protocol not in PROTOCOLS:
        raise ConfigError("unknown HumanRef protocol", expected=" or ".join(PROTOCOLS), found=protocol)
    if missing not in MISSING:
        raise ConfigError("unknown way to score missing answers", expected=" or ".join(MISSING), found=missing)
    n = len(num_answers)
    persons = np.asarray(num_candidates, dtype=np.float64).reshape(-1)
    rejection = np.asarray(num_answers == 0 if is_rejection is None else is_rejection, dtype=bool).reshape(-1)
    given = np.ones(n, dtype=bool) if answered is None else np.asarray(answered, dtype=bool).reshape(-1)
    for name, column in (("num_candidates", persons), ("is_rejection", rejection), ("answered", given)):
        if len(column) != n:
            raise ConfigError(f"{name} does not fit the samples", expected=f"{n} entries", found=len(column))
    if missing == "error" and not given.all():
        raise DataError(
            f"{int((~given).sum())} of {n} samples have no answer",
            expected="an answer for every sample",
            advice="Complete the predictions, or score with missing='official' or missing='wrong'",
        )
    return persons, rejection, given


def _rejection_correct(rejection, answered, num_predictions, missing) -> np.ndarray:
    correct = (num_predictions == 0) & (answered if missing == "wrong" else True)
    return np.where(rejection, correct.astype(np.float64), np.nan)


_BOX_COLUMNS = ("recall_50", "recall_mean", "precision_50", "precision_mean", "density_f1_50", "density_f1_mean")
_POINT_COLUMNS = {"recall": "recall_50", "precision": "precision_50", "density_f1": "density_f1_50"}


def _means(scores: SampleScores, chosen: np.ndarray) -> dict[str, Any]:
    columns = _POINT_COLUMNS if scores.is_point else {c: c for c in _BOX_COLUMNS}
    n = len(chosen)
    result: dict[str, Any] = {
        key: float(np.mean(getattr(scores, column)[chosen])) if n else None for key, column in columns.items()
    }
    result["count"] = n
    return result


def _groups(keys: Sequence[Any], chosen: np.ndarray) -> dict[str, np.ndarray]:
    groups: dict[str, list[int]] = {}
    for i in chosen.tolist():
        groups.setdefault("(none)" if keys[i] is None else str(keys[i]), []).append(i)
    return {k: np.array(v) for k, v in groups.items()}


def summarize(
    scores: SampleScores,
    domains: Sequence[str | None] | None = None,
    sub_domains: Sequence[str | None] | None = None,
) -> dict[str, Any]:
    """Unrounded means: overall, per domain, sub-domain and number of answers, with the reference summaries' keys.

    ``overall`` is the mean over all non-rejection samples (domains weigh by size). Beside those keys: the protocol, the
    number of rejection samples, and ``missing``: how many samples had no answer, and the scores without any credit
    for them. Means over nothing are None.

    Example::

        >>> s = score_boxes([[[0, 0, 4, 4]], []], [[[0, 0, 4, 4]], []], [1, 1], answered=[True, False])
        >>> r = summarize(s, ["attribute", "rejection"])
        >>> r["overall"]["density_f1_mean"], r["rejection_correct"], r["missing"]["rejection_correct_without_credit"]
        (1.0, 1, 0)
    """
    positive = np.flatnonzero(~scores.is_rejection)
    buckets = [box_count_bucket(int(n)) for n in scores.num_answers]
    by_bucket = _groups(buckets, positive)
    result: dict[str, Any] = {
        "is_point": scores.is_point,
        "rejection_correct": int(np.nansum(scores.rejection_correct)),
        "overall": _means(scores, positive),
        "domain": _group_means(scores, domains, positive),
        "sub_domain": _group_means(scores, sub_domains, positive),
        "box_count": {b: _means(scores, by_bucket[b]) for b in BOX_COUNT_BUCKETS if b in by_bucket},
        "protocol": scores.protocol,
        "rejection_count": int(scores.is_rejection.sum()),
    }
    result["missing"] = _missing_report(scores, positive)
    return result


def _group_means(scores: SampleScores, keys, positive) -> dict[str, Any]:
    if keys is None:
        return {}
    if len(keys) != len(scores):
        raise ConfigError("group labels do not fit the samples", expected=f"{len(scores)} entries", found=len(keys))
    groups = _groups(keys, positive)
    return {k: _means(scores, groups[k]) for k in sorted(groups)}


def _missing_report(scores: SampleScores, positive: np.ndarray) -> dict[str, Any]:
    gone = ~scores.answered
    credited = gone & (scores.rejection_correct == 1)
    answered = positive[scores.answered[positive]]
    report = {
        "policy": scores.missing,
        "count": int(gone.sum()),
        "rejection_count": int((gone & scores.is_rejection).sum()),
        "rejection_correct_without_credit": int(np.nansum(scores.rejection_correct) - credited.sum()),
        "overall_of_answered": _means(scores, answered),
    }
    if scores.is_point and len(positive):
        # the precision of 1 that a missing answer gets is credit as well
        total = {k: v for k, v in _POINT_COLUMNS.items() if k != "density_f1"}
        report["overall_without_credit"] = {
            k: float(np.sum(getattr(scores, c)[answered]) / len(positive)) for k, c in total.items()
        }
    return report


def sample_row(scores: SampleScores, i: int, sample_id: Any) -> list[Any]:
    """One sample as the official script stores it (with the id in front).

    Boxes: id, recall@0.5, precision@0.5, mean recall, mean precision, candidates, predictions, answers, DF1@0.5, mean DF1.
    Points: id, recall, precision, candidates, predictions, answers, DF1.
    """
    counts = [int(scores.num_candidates[i]), int(scores.num_predictions[i]), int(scores.num_answers[i])]
    if scores.is_point:
        return [sample_id, float(scores.recall_50[i]), float(scores.precision_50[i]), *counts, float(scores.density_f1_50[i])]
    values = (scores.recall_50, scores.precision_50, scores.recall_mean, scores.precision_mean)
    return [
        sample_id,
        *(float(v[i]) for v in values),
        *counts,
        float(scores.density_f1_50[i]),
        float(scores.density_f1_mean[i]),
    ]


def label_groups(domains: Sequence[Any], sub_domains: Sequence[Any]) -> Mapping[str, str]:
    """Sub-domain to the domain under which the official tables list it: that of its first sample."""
    owner: dict[str, str] = {}
    for domain, sub in zip(domains, sub_domains):
        owner.setdefault("(none)" if sub is None else str(sub), "(none)" if domain is None else str(domain))
    return owner

"""Greedy one-to-one matching of boxes, for many samples at once.

The published evaluators match greedily, not optimally, and each in its own order; a metric is only comparable when
the order is kept. :func:`match_in_answer_order` is HumanRef's (answers in order, each takes its best free prediction),
:func:`match_best_first` is gRefCOCO's (the best remaining pair of all). Samples of similar size are stacked
into one tensor, so that the loops run over boxes of a sample and never over samples.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, pairwise

import numpy as np

from ..errors import DataError

#: Score of a pair that does not exist (padding); below every threshold.
_NO_PAIR = -np.inf
#: Numbers held at once while matching, so that memory stays flat however many samples there are.
_CHUNK = 2_000_000


@dataclass(frozen=True)
class Boxes:
    """Boxes of many samples, end to end.

    Attributes:
        xyxy: float64 (total, 4), absolute pixels
        counts: int64 (samples,), boxes of each sample
        offsets: int64 (samples + 1,), where each sample's boxes start
    """

    xyxy: np.ndarray
    counts: np.ndarray
    offsets: np.ndarray

    def __len__(self) -> int:
        return len(self.counts)

    def of(self, sample: int) -> np.ndarray:
        """The boxes (n, 4) of one sample."""
        return self.xyxy[self.offsets[sample] : self.offsets[sample + 1]]

    @classmethod
    def from_lists(cls, boxes: Sequence[Sequence[Sequence[float]]] | Boxes) -> Boxes:
        """From one list (or array) of boxes per sample; numbers beyond the fourth (a score, say) are left out.

        Example::

            >>> Boxes.from_lists([[[0, 0, 1, 1]], [], [[1, 1, 2, 2, 0.9], [0, 0, 3, 3]]]).counts.tolist()
            [1, 0, 2]
        """
        if isinstance(boxes, Boxes):
            return boxes
        counts = np.fromiter((len(b) for b in boxes), dtype=np.int64, count=len(boxes))
        flat = list(chain.from_iterable(boxes))
        try:
            xyxy = np.array(flat, dtype=np.float64) if flat else np.zeros((0, 4))
        except ValueError:  # of different lengths
            xyxy = np.array([b[:4] for b in flat], dtype=np.float64)
        if xyxy.ndim != 2 or xyxy.shape[1] < 4:
            raise DataError("boxes cannot be read", expected="4 numbers per box", found=flat[0])
        return cls(np.ascontiguousarray(xyxy[:, :4]), counts, offsets_of(counts))


def offsets_of(counts: np.ndarray) -> np.ndarray:
    """Start of each group and the end of the last, (n + 1,) int64."""
    offsets = np.zeros(len(counts) + 1, dtype=np.int64)
    np.cumsum(counts, out=offsets[1:])
    return offsets


def pieces_of(flat: np.ndarray, offsets: np.ndarray) -> list[np.ndarray]:
    """One view per group of an array end to end; what np.split gives, in a tenth of the time.

    Example::

        >>> [p.tolist() for p in pieces_of(np.array([7, 8, 9]), offsets_of(np.array([1, 0, 2])))]
        [[7], [], [8, 9]]
    """
    bounds = offsets.tolist()
    return [flat[start:end] for start, end in pairwise(bounds)]


@dataclass(frozen=True)
class Matches:
    """Who was matched to whom, at one or several thresholds.

    Attributes:
        thresholds: float64 (T,)
        answer_match: int64 (T, total answers), index of the prediction *within its sample*, or -1
        answer_score: float64 (total answers,), the pair score (IoU) of the match at the first threshold, else 0
        num_matches: int64 (T, samples)
    """

    thresholds: np.ndarray
    answer_match: np.ndarray
    answer_score: np.ndarray
    num_matches: np.ndarray

    def prediction_match(self, answers: Boxes, predictions: Boxes, threshold_index: int = 0) -> np.ndarray:
        """The inverse: int64 (total predictions,), index of the answer within its sample, or -1."""
        inverse = np.full(len(predictions.xyxy), -1, dtype=np.int64)
        match = self.answer_match[threshold_index]
        sample = np.repeat(np.arange(len(answers)), answers.counts)
        hit = match >= 0
        within = np.arange(len(match)) - answers.offsets[sample]
        inverse[predictions.offsets[sample[hit]] + match[hit]] = within[hit]
        return inverse


def _areas(b: np.ndarray) -> np.ndarray:
    return (b[..., 2] - b[..., 0]) * (b[..., 3] - b[..., 1])


def _pair_scores(a: np.ndarray, p: np.ndarray, generalized: bool) -> np.ndarray:
    """IoU or GIoU of stacked boxes (n, G, 4) and (n, P, 4): (n, G, P), in the official order of operations."""
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        wh = np.minimum(a[:, :, None, 2:], p[:, None, :, 2:]) - np.maximum(a[:, :, None, :2], p[:, None, :, :2])
        if generalized:
            wh = wh.clip(min=0)
        inter = wh[..., 0] * wh[..., 1]
        union = _areas(a)[:, :, None] + _areas(p)[:, None, :] - inter
        iou = inter / union
        if not generalized:
            overlap = (wh[..., 0] > 0) & (wh[..., 1] > 0)
            return np.where(overlap & np.isfinite(iou), iou, 0.0)
        hull = np.maximum(a[:, :, None, 2:], p[:, None, :, 2:]) - np.minimum(a[:, :, None, :2], p[:, None, :, :2])
        hull = hull.clip(min=0)
        hull_area = hull[..., 0] * hull[..., 1]
        giou = iou - (hull_area - union) / hull_area
    return np.where(np.isfinite(giou), giou, -1.0)


def _blocks(answers: Boxes, predictions: Boxes, generalized: bool, width: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yields (sample indices (n,), pair scores (n, G, P)) for samples of similar size; padding is -inf."""
    n_a, n_p = answers.counts, predictions.counts
    both = np.flatnonzero((n_a > 0) & (n_p > 0))
    if not len(both):
        return
    # sizes are rounded up to powers of two: few groups, and never more than four times the work
    size_a = np.ceil(np.log2(n_a[both])).astype(int)
    size_p = np.ceil(np.log2(n_p[both])).astype(int)
    key = size_a * 64 + size_p
    for k in np.unique(key):
        group = both[key == k]
        g, p = int(n_a[group].max()), int(n_p[group].max())
        step = max(1, _CHUNK // (max(g, width) * p))
        for start in range(0, len(group), step):
            index = group[start : start + step]
            a_pos, a_ok = _positions(answers, index, g)
            p_pos, p_ok = _positions(predictions, index, p)
            scores = _pair_scores(answers.xyxy[a_pos], predictions.xyxy[p_pos], generalized)
            scores[~(a_ok[:, :, None] & p_ok[:, None, :])] = _NO_PAIR
            yield index, scores


def _positions(boxes: Boxes, index: np.ndarray, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Flat positions (n, width) of each sample's boxes and which of them exist (the others point at box 0)."""
    exists = np.arange(width)[None, :] < boxes.counts[index, None]
    return np.where(exists, boxes.offsets[index, None] + np.arange(width)[None, :], 0), exists


def _empty(answers: Boxes, thresholds: np.ndarray) -> Matches:
    return Matches(
        thresholds,
        np.full((len(thresholds), len(answers.xyxy)), -1, dtype=np.int64),
        np.zeros(len(answers.xyxy)),
        np.zeros((len(thresholds), len(answers)), dtype=np.int64),
    )


def match_in_answer_order(answers, predictions, iou_thresholds) -> Matches:
    """HumanRef's matching: answers in order, each takes the free prediction with the largest IoU >= threshold.

    Ties go to the earlier prediction. Every threshold is matched afresh, over one IoU matrix per sample. Inverted and
    NaN boxes have IoU 0 and never match.

    Args:
        answers: one list of ``xyxy`` boxes per sample, or :class:`Boxes`
        predictions: the same, same number of samples
        iou_thresholds: numbers > 0, at least one

    Example::

        >>> m = match_in_answer_order([[[0, 0, 4, 4], [0, 0, 4, 3]]], [[[0, 0, 4, 3.5]]], [0.5, 0.9])
        >>> m.answer_match.tolist(), m.answer_score.tolist(), m.num_matches.tolist()
        ([[0, -1], [-1, -1]], [0.875, 0.0], [[1], [0]])
    """
    answers, predictions = Boxes.from_lists(answers), Boxes.from_lists(predictions)
    thresholds = np.atleast_1d(np.asarray(iou_thresholds, dtype=np.float64))
    result = _empty(answers, thresholds)
    for index, iou in _blocks(answers, predictions, False, len(thresholds)):
        n, g_max, p_max = iou.shape
        used = np.zeros((n, len(thresholds), p_max), dtype=bool)
        rows = np.arange(n)
        for g in range(g_max):
            free = np.where(used, _NO_PAIR, iou[:, g, None, :])
            best = free.argmax(axis=2)
            value = np.take_along_axis(free, best[:, :, None], axis=2)[:, :, 0]
            hit = value >= thresholds[None, :]
            i, t = np.nonzero(hit)
            used[i, t, best[i, t]] = True
            flat = answers.offsets[index[i]] + g
            result.answer_match[t, flat] = best[i, t]
            first = hit[:, 0]
            result.answer_score[answers.offsets[index[first]] + g] = iou[rows[first], g, best[first, 0]]
            result.num_matches[:, index] += hit.T
    return result


def match_best_first(answers, predictions, threshold: float = 0.5, *, generalized: bool = False) -> Matches:
    """gRefCOCO's matching: again and again the best remaining pair, until it is below the threshold.

    Ties go to the pair that comes first in the (answer, prediction) matrix.

    Args:
        answers: one list of ``xyxy`` boxes per sample, or :class:`Boxes`
        predictions: the same, same number of samples
        threshold: smallest IoU (or GIoU) of a match
        generalized: GIoU instead of IoU

    Example::

        >>> m = match_best_first([[[0, 0, 4, 4], [0, 0, 4, 3]]], [[[0, 0, 4, 3]]])
        >>> m.answer_match.tolist(), m.num_matches.tolist()
        ([[-1, 0]], [[1]])
    """
    answers, predictions = Boxes.from_lists(answers), Boxes.from_lists(predictions)
    thresholds = np.array([threshold], dtype=np.float64)
    result = _empty(answers, thresholds)
    for index, scores in _blocks(answers, predictions, generalized, 1):
        n, g_max, p_max = scores.shape
        active = np.arange(n)
        for _ in range(min(g_max, p_max)):
            flat = scores[active].reshape(len(active), -1)
            best = flat.argmax(axis=1)
            value = flat[np.arange(len(active)), best]
            hit = value >= threshold
            active, best, value = active[hit], best[hit], value[hit]
            if not len(active):
                break
            g, p = np.divmod(best, p_max)
            position = answers.offsets[index[active]] + g
            result.answer_match[0, position] = p
            result.answer_score[position] = value
            result.num_matches[0, index[active]] += 1
            scores[active, g, :] = _NO_PAIR
            scores[active, :, p] = _NO_PAIR
    return result


def best_overlap(boxes, others) -> np.ndarray:
    """Largest IoU of every box with any of the other boxes of its sample, float64 (total boxes,); 0 without others.

    Example::

        >>> best_overlap([[[0, 0, 2, 2]], [[0, 0, 2, 2]]], [[[0, 0, 2, 1], [5, 5, 6, 6]], []]).tolist()
        [0.5, 0.0]
    """
    boxes, others = Boxes.from_lists(boxes), Boxes.from_lists(others)
    best = np.zeros(len(boxes.xyxy))
    for index, iou in _blocks(boxes, others, False, 1):
        position, exists = _positions(boxes, index, iou.shape[1])
        best[position[exists]] = iou.max(axis=2)[exists]
    return best

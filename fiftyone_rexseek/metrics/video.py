"""J, F and J&F of video object segmentation, as in the DAVIS benchmark (Perazzi et al. 2016; Pont-Tuset et al. 2017).

J is the intersection over union of a frame's mask (region similarity), F the F-measure of its contour (contour
accuracy), J&F the mean of both. Frames are scored one by one: a model that answers frame by frame can be measured with
it; nothing here looks at time, except ``decay``.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from ..errors import DataError, MissingDependencyError

#: Contours count as met within this share of the image diagonal (official value).
BOUND_THRESHOLD = 0.008


@dataclass(frozen=True)
class FrameStatistics:
    """One measure over the frames of one object.

    Attributes:
        mean: over frames
        recall: share of frames above 0.5
        decay: mean of the first quarter of frames minus mean of the last one
    """

    mean: float
    recall: float
    decay: float


@dataclass(frozen=True)
class VideoScore:
    """Scores of one object in one video, or the mean over objects.

    Attributes:
        j, f: statistics of region similarity and contour accuracy
        j_per_frame, f_per_frame: float arrays (frames,); empty for a mean over objects
    """

    j: FrameStatistics
    f: FrameStatistics
    j_per_frame: np.ndarray
    f_per_frame: np.ndarray

    @property
    def j_and_f(self) -> float:
        """Mean of the two means."""
        return (self.j.mean + self.f.mean) / 2


def region_similarity(predicted: np.ndarray, truth: np.ndarray, void: np.ndarray | None = None) -> float:
    """J of one frame: intersection over union of two masks (h, w); 1 when both are empty.

    Args:
        predicted, truth: boolean masks of one size
        void: pixels that do not count

    Example::

        >>> region_similarity(np.eye(2, dtype=bool), np.ones((2, 2), bool))
        0.5
    """
    predicted, truth = _masks(predicted, truth)
    keep = True if void is None else ~np.asarray(void, bool)
    union = int((keep & (predicted | truth)).sum())
    return int((keep & predicted & truth).sum()) / union if union else 1.0


def contour_accuracy(
    predicted: np.ndarray, truth: np.ndarray, void: np.ndarray | None = None, threshold: float = BOUND_THRESHOLD
) -> float:
    """F of one frame: F-measure of the contours, each met within a disk of ``threshold``.

    Args:
        predicted, truth: boolean masks (h, w) of one size
        void: pixels that do not count
        threshold: pixels when at least 1, else a share of the image diagonal, rounded up

    Two empty masks give 1, one empty mask gives 0.

    Example::

        >>> square = np.zeros((20, 20), bool); square[5:10, 5:10] = True
        >>> contour_accuracy(square, square), contour_accuracy(square, np.zeros((20, 20), bool))
        (1.0, 0.0)
    """
    try:
        from scipy.ndimage import distance_transform_edt
    except ImportError as e:
        raise MissingDependencyError("contour accuracy needs scipy", advice="pip install scipy") from e
    predicted, truth = _masks(predicted, truth)
    if void is not None:
        predicted, truth = predicted & ~np.asarray(void, bool), truth & ~np.asarray(void, bool)
    radius = threshold if threshold >= 1 else np.ceil(threshold * np.hypot(*predicted.shape))
    own, wanted = contour(predicted), contour(truth)
    n_own, n_wanted = int(own.sum()), int(wanted.sum())
    if n_own == 0 or n_wanted == 0:
        # The official code sets precision 1, recall 0 (or the reverse), hence 0.
        return float(n_own == n_wanted)
    # Within a disk of integer radius r: exactly the pixels at distance <= r.
    precision = int((own & (distance_transform_edt(~wanted) <= radius)).sum()) / n_own
    recall = int((wanted & (distance_transform_edt(~own) <= radius)).sum()) / n_wanted
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def contour(mask: np.ndarray) -> np.ndarray:
    """One pixel wide contour (h, w) of a mask: pixels that differ from their right, lower or lower right neighbour.

    Example::

        >>> contour(np.array([[0, 0, 0], [0, 1, 0], [0, 0, 0]], bool)).astype(int).tolist()
        [[1, 1, 0], [1, 1, 0], [0, 0, 0]]
    """
    mask = np.asarray(mask, bool)
    right, below, diagonal = np.zeros_like(mask), np.zeros_like(mask), np.zeros_like(mask)
    right[:, :-1] = mask[:, 1:]
    below[:-1] = mask[1:]
    diagonal[:-1, :-1] = mask[1:, 1:]
    edge = (mask ^ right) | (mask ^ below) | (mask ^ diagonal)
    edge[-1] = mask[-1] ^ right[-1]
    edge[:, -1] = mask[:, -1] ^ below[:, -1]
    edge[-1, -1] = False
    return edge


def statistics(per_frame: Iterable[float]) -> FrameStatistics:
    """Mean, recall and decay of one measure over frames; NaN frames do not count.

    Example::

        >>> statistics([1.0, 1.0, 1.0, 0.5, 0.0, 0.0, 0.0, 0.0])
        FrameStatistics(mean=0.4375, recall=0.375, decay=1.0)
    """
    values = np.asarray(list(per_frame), dtype=np.float64)
    known = values[~np.isnan(values)]
    if not len(known):
        return FrameStatistics(float("nan"), float("nan"), float("nan"))
    # Bin limits as in the official code, which keeps them in 8 bits and so breaks beyond 255 frames; not copied.
    limits = (np.round(np.linspace(1, len(values), 5) + 1e-10) - 1).astype(int)
    first, last = values[limits[0] : limits[1] + 1], values[limits[3] : limits[4] + 1]
    has_both = (~np.isnan(first)).any() and (~np.isnan(last)).any()
    decay = float(np.nanmean(first) - np.nanmean(last)) if has_both else float("nan")
    return FrameStatistics(float(known.mean()), float((known > 0.5).mean()), decay)


def score_object(
    predicted: Iterable[np.ndarray | None],
    truth: Iterable[np.ndarray | None],
    *,
    skip_ends: bool = False,
    threshold: float = BOUND_THRESHOLD,
) -> VideoScore:
    """Scores one object (or one expression's merged mask) over the frames of a video.

    Args:
        predicted, truth: boolean masks (h, w) per frame; None is an empty mask
        skip_ends: leave out first and last frame, as DAVIS does where the first is given to the method; for
            referring segmentation nothing is given, and all frames count
        threshold: see :func:`contour_accuracy`

    Raises:
        DataError: another number of frames, or masks of different sizes
    """
    predicted, truth = list(predicted), list(truth)
    if len(predicted) != len(truth):
        raise DataError("prediction and truth differ in length", expected=f"{len(truth)} frames", found=len(predicted))
    pairs = list(zip(predicted, truth))
    if skip_ends:
        pairs = pairs[1:-1]
    j, f = [], []
    for own, wanted in pairs:
        if own is None and wanted is None:
            j.append(1.0)
            f.append(1.0)
            continue
        own = np.zeros_like(wanted) if own is None else own
        wanted = np.zeros_like(own) if wanted is None else wanted
        j.append(region_similarity(own, wanted))
        f.append(contour_accuracy(own, wanted, threshold=threshold))
    return VideoScore(statistics(j), statistics(f), np.array(j), np.array(f))


def mean_score(scores: Iterable[VideoScore]) -> VideoScore:
    """Mean over objects of all videos, each object counting once (DAVIS 2017)."""
    scores = list(scores)

    def mean(name: str) -> FrameStatistics:
        parts = [getattr(s, name) for s in scores]
        values = [[p.mean, p.recall, p.decay] for p in parts if not np.isnan(p.mean)]
        if not values:
            return FrameStatistics(float("nan"), float("nan"), float("nan"))
        table = np.array(values)
        decays = table[:, 2][~np.isnan(table[:, 2])]
        return FrameStatistics(*table[:, :2].mean(axis=0).tolist(), float(decays.mean()) if len(decays) else float("nan"))

    return VideoScore(mean("j"), mean("f"), np.zeros(0), np.zeros(0))


def _masks(predicted: np.ndarray, truth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    predicted, truth = np.asarray(predicted, bool), np.asarray(truth, bool)
    if predicted.ndim != 2 or predicted.shape != truth.shape:
        raise DataError("masks do not fit each other", expected=f"two dimensions, {truth.shape}", found=predicted.shape)
    return predicted, truth

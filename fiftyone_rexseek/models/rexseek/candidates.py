"""Which of the boxes given are put before the model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from fiftyone_rexseek.errors import DataError
from fiftyone_rexseek.geometry import box_problem

#: Times the longer side of the image. ROI-align samples a box in proportion to its area, wherever it lies, so that one
#: box in wrong units would take minutes.
LARGEST = 4


@dataclass(frozen=True)
class Candidates:
    """The boxes that are asked about.

    Attributes:
        kept: int array, indices into the boxes given, ascending
        boxes: float array (len(kept), 4), their ``xyxy``
        total: how many boxes were given
        problems: index of a box that cannot be used, and what is wrong with it
    """

    kept: np.ndarray
    boxes: np.ndarray
    total: int
    problems: Mapping[int, str] = field(default_factory=dict)

    @classmethod
    def none(cls, total: int, problems: Mapping[int, str] | None = None) -> Candidates:
        return cls(np.zeros(0, dtype=int), np.zeros((0, 4)), total, problems or {})

    def problems_text(self, most: int = 5) -> str:
        """The first problems in words, and how many more there are."""
        texts = [f"box {i} {problem}" for i, problem in list(self.problems.items())[:most]]
        more = len(self.problems) - most
        return "; ".join(texts) + (f"; and {more} more" if more > 0 else "")


def choose_candidates(boxes_xyxy: Any, scores: Any, image_size_wh: tuple[int, int], limit: int) -> Candidates:
    """Leaves out unusable boxes, then all but the best ``limit`` by score (the first ones without scores).

    Boxes that stick out of the image are usable; what is not is defined by :func:`geometry.box_problem`, and a side of
    more than :data:`LARGEST` times the image's longer one is no box of this image. The order of the boxes is kept. Equal scores keep the earlier box; a NaN score is the worst.

    Raises:
        DataError: when the boxes are no list, or there is not one score per box

    Example::

        >>> c = choose_candidates([[0, 0, 5, 5], [4, 4, 1, 1], [1, 1, 3, 3], [2, 2, 9, 9]], [0.1, 1, 0.2, 0.3], (10, 10), 2)
        >>> c.kept.tolist(), c.problems_text()
        ([2, 3], 'box 1 x2 < x1 or y2 < y1, as if it were [x, y, width, height]')
    """
    if isinstance(boxes_xyxy, str | bytes | Mapping):
        raise DataError(
            "boxes are not a list", expected="(n, 4) absolute xyxy pixels", found=type(boxes_xyxy).__name__
        )
    if hasattr(boxes_xyxy, "detach"):
        boxes_xyxy = boxes_xyxy.detach().cpu().tolist()
    try:
        boxes = list(boxes_xyxy)
    except TypeError as e:
        raise DataError(
            "boxes are not a list", expected="(n, 4) absolute xyxy pixels", found=type(boxes_xyxy).__name__
        ) from e
    problems = {i: p for i, box in enumerate(boxes) if (p := _problem(box, *image_size_wh))}
    usable = np.array([i for i in range(len(boxes)) if i not in problems], dtype=int)
    if scores is not None:
        scores = _numbers(scores)
        if scores.shape != (len(boxes),):
            raise DataError(
                "scores do not fit the boxes", expected=f"{len(boxes)} numbers", found=scores.shape
            )
    if len(usable) > limit:
        keys = np.zeros(len(boxes)) if scores is None else np.nan_to_num(scores, nan=-np.inf)
        usable = np.sort(usable[np.argsort(-keys[usable], kind="stable")[:limit]])
    if not len(usable):
        return Candidates.none(len(boxes), problems)
    kept = np.asarray([boxes[i] for i in usable], dtype=np.float64)
    return Candidates(usable, kept, len(boxes), problems)


def _problem(box: Any, width: int, height: int) -> str | None:
    problem = box_problem(box, width, height)
    if problem is None and max(box[2] - box[0], box[3] - box[1]) > LARGEST * max(width, height):
        problem = f"is more than {LARGEST} times as large as the {width}x{height} image"
    return problem


def _numbers(scores: Any) -> np.ndarray:
    try:
        if hasattr(scores, "detach"):
            scores = scores.detach().cpu().tolist()
        return np.asarray([np.nan if s is None else s for s in scores], dtype=np.float64)
    except (TypeError, ValueError) as e:
        raise DataError(
            "scores are not numbers", expected="one number per box", found=repr(scores)[:100]
        ) from e

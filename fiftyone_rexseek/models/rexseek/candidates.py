"""Which of the boxes given are put before the model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from fiftyone_rexseek.errors import DataError
from fiftyone_rexseek.geometry import box_problem


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

    Boxes that stick out of the image are usable; what is not is defined by :func:`geometry.box_problem`. The order of
    the boxes is kept. Equal scores keep the earlier box; a NaN score is the worst.

    Raises:
        DataError: when the boxes are no list, or there is not one score per box

    Example::

        >>> c = choose_candidates([[0, 0, 5, 5], [4, 4, 1, 1], [1, 1, 3, 3], [2, 2, 9, 9]], [0.1, 1, 0.2, 0.3], (10, 10), 2)
        >>> c.kept.tolist(), c.problems_text()
        ([2, 3], 'box 1 x2 < x1 or y2 < y1, as if it were [x, y, width, height]')
    """
    if boxes_xyxy is None or isinstance(boxes_xyxy, str | bytes | Mapping):
        raise DataError(
            "boxes are not a list", expected="(n, 4) absolute xyxy pixels", found=type(boxes_xyxy).__name__
        )
    if hasattr(boxes_xyxy, "detach"):
        boxes_xyxy = boxes_xyxy.detach().cpu().numpy()
    boxes = list(boxes_xyxy)
    problems = {i: p for i, box in enumerate(boxes) if (p := box_problem(box, *image_size_wh))}
    usable = np.array([i for i in range(len(boxes)) if i not in problems], dtype=int)
    if scores is not None:
        scores = np.asarray([np.nan if s is None else s for s in scores], dtype=np.float64)
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

"""Points in masks, without decoding a mask.

A COCO run-length encoding lists alternating runs of background and foreground, column by column, so a pixel is inside
exactly when an odd number of runs ends at or before its index. All strings of a file are decoded to runs in one
go with array operations, and a point costs one binary search: the official script decodes the whole mask for every
(mask, point) pair.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import DataError
from ..masks import decode_counts
from .matching import offsets_of


@dataclass(frozen=True)
class RunEnds:
    """Where the runs of many masks end.

    Attributes:
        ends: int64 (total runs,), cumulative over all masks: a mask begins where the one before it ends
        offsets: int64 (masks + 1,), where each mask's runs start
        sizes: int64 (masks, 2), height and width
        valid: bool (masks,), whether the runs cover exactly the pixels of the mask
    """

    ends: np.ndarray
    offsets: np.ndarray
    sizes: np.ndarray
    valid: np.ndarray

    def contains(self, mask_index: np.ndarray, points_xy: np.ndarray) -> np.ndarray:
        """Whether each point lies in the mask it is paired with, bool (n,).

        Coordinates are rounded half to even, as the official script does; outside the image is outside the mask.

        Args:
            mask_index: int (n,), which mask
            points_xy: float (n, 2), absolute pixels
        """
        mask_index = np.asarray(mask_index, dtype=np.int64)
        with np.errstate(invalid="ignore"):
            xy = np.rint(np.asarray(points_xy, dtype=np.float64).reshape(-1, 2))
            height, width = self.sizes[mask_index].T
            inside = (xy[:, 0] >= 0) & (xy[:, 0] < width) & (xy[:, 1] >= 0) & (xy[:, 1] < height)
            inside &= self.valid[mask_index]
        pixel = np.where(inside, xy[:, 0] * height + xy[:, 1], 0).astype(np.int64)
        before = np.concatenate([[0], self.ends])[self.offsets[mask_index]]
        found = np.searchsorted(self.ends, before + pixel, side="right")
        return inside & ((found - self.offsets[mask_index]) % 2 == 1)


def run_ends(rles: Sequence[Mapping[str, Any]]) -> RunEnds:
    """Decodes the counts (text, bytes or list) of many RLEs to run ends.

    A mask whose code is broken or does not cover its size is marked invalid instead of failing the others.

    Example::

        >>> r = run_ends([{"size": [2, 2], "counts": [2, 2]}, {"size": [2, 2], "counts": "22"}])
        >>> r.ends.tolist(), r.valid.tolist(), r.contains([0, 0, 1], [[1, 0], [0, 1], [1.4, 1]]).tolist()
        ([2, 4, 6, 8], [True, True], [True, False, True])
    """
    n = len(rles)
    sizes = np.array([_size(r) for r in rles], dtype=np.int64).reshape(n, 2)
    codes: list[bytes] = []
    code_of: list[int] = []
    lists: dict[int, np.ndarray] = {}
    for i, rle in enumerate(rles):
        counts = rle.get("counts")
        if isinstance(counts, str | bytes):
            codes.append(counts.encode("latin-1", "replace") if isinstance(counts, str) else counts)
            code_of.append(i)
        else:
            lists[i] = _listed_runs(counts)
    runs, lengths, sound = decode_counts(codes)
    counts_per_mask = np.zeros(n, dtype=np.int64)
    counts_per_mask[code_of] = lengths
    for i, listed in lists.items():
        counts_per_mask[i] = len(listed)
    offsets = offsets_of(counts_per_mask)
    flat = np.zeros(offsets[-1], dtype=np.int64)
    if lists:
        coded = np.zeros(n, dtype=bool)
        coded[code_of] = True
        flat[np.repeat(coded, counts_per_mask)] = runs
        for i, listed in lists.items():
            flat[offsets[i] : offsets[i + 1]] = listed
    else:
        flat[:] = runs
    valid = (sizes >= 0).all(axis=1)
    valid[code_of] &= sound
    valid[np.searchsorted(offsets[1:], np.flatnonzero(flat < 0), side="right")] = False
    total = np.concatenate([[0], np.cumsum(flat)])
    valid &= total[offsets[1:]] - total[offsets[:-1]] == sizes[:, 0] * sizes[:, 1]
    if not valid.all():
        flat[np.repeat(~valid, counts_per_mask)] = 0  # so that the sums of the others keep their order
        total = np.concatenate([[0], np.cumsum(flat)])
    return RunEnds(total[1:], offsets, sizes, valid)


def _size(rle: Mapping[str, Any]) -> tuple[int, int]:
    size = rle.get("size") if isinstance(rle, Mapping) else None
    if not isinstance(size, Sequence) or len(size) != 2 or not all(isinstance(v, int | np.integer) for v in size):
        raise DataError("not a run-length encoding", expected='{"size": [height, width], "counts": ...}', found=rle)
    return int(size[0]), int(size[1])


def _listed_runs(counts: Any) -> np.ndarray:
    try:
        return np.asarray(counts, dtype=np.int64).reshape(-1)
    except (TypeError, ValueError, OverflowError):
        return np.array([-1])


def rectangle_rle(box_xyxy: Sequence[float], size: tuple[int, int] | None = None) -> dict[str, Any]:
    """The RLE (list counts) of the pixels inside a box; ``size`` is (height, width), by default as large as needed.

    Example::

        >>> rectangle_rle([1, 0, 2, 1], (2, 3))
        {'size': [2, 3], 'counts': [2, 2, 0, 2]}
    """
    x1, y1, x2, y2 = (float(v) for v in box_xyxy[:4])
    if not np.isfinite([x1, y1, x2, y2]).all() or x2 < x1 or y2 < y1 or x2 < 0 or y2 < 0:
        return {"size": [1, 1], "counts": [1]}
    height, width = size or (int(y2) + 1, int(x2) + 1)
    left, top = max(0, int(np.ceil(x1))), max(0, int(np.ceil(y1)))
    right, bottom = min(width - 1, int(np.floor(x2))), min(height - 1, int(np.floor(y2)))
    if right < left or bottom < top:
        return {"size": [height, width], "counts": [height * width]}
    tall, gap = bottom - top + 1, height - (bottom - top + 1)
    counts = [left * height + top, tall]
    counts += [gap, tall] * (right - left)
    rest = height * width - sum(counts)
    return {"size": [height, width], "counts": counts + ([rest] if rest else [])}

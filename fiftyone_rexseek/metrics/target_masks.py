"""The merged mask of an expression's targets, as the GRES evaluator sees it: at 480x480 or at the image's own size."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence

import numpy as np

from .. import masks
from ..errors import DataError
from ..referring import RLE, Target

#: Height and width at which the authors' evaluator compares masks.
OFFICIAL_SIZE = (480, 480)


class TargetMasks:
    """Merged target masks, with the objects' own masks remembered while their image is at hand.

    The expressions of one image share its objects, so each object is rasterised once; memory stays flat because
    only the last ``keep`` objects and expressions are remembered.

    Args:
        size: (height, width) to rasterise at; None for the size of the image. Polygons are scaled first and then
            rasterised, as in the authors' data mapper; run-length encodings are resampled (nearest pixel).
        keep: how many object masks to remember

    Crowd targets are left out, as the authors do, unless there is nothing else (their code fails there).
    """

    def __init__(self, size: tuple[int, int] | None = OFFICIAL_SIZE, keep: int = 512):
        self.size = size
        self.keep = keep
        self._known: OrderedDict[int, tuple[object, RLE]] = OrderedDict()

    def merged(self, targets: Sequence[Target], width: int | None, height: int | None) -> RLE:
        """Union of the targets' masks, one compressed RLE.

        Raises:
            DataError: when a mask is missing or broken, or the image size is not known
        """
        if not width or not height:
            raise DataError("the size of the image is not known", expected="width and height")
        key = id(targets)
        if key in self._known and self._known[key][0] is targets:
            return self._known[key][1]
        solid = [t for t in targets if not t.iscrowd] or list(targets)
        parts = [self._one(t, width, height) for t in solid]
        rle = parts[0] if len(parts) == 1 else masks.union(parts, *(self.size or (height, width)))
        self._remember(key, targets, rle)
        return rle

    def _one(self, target: Target, width: int, height: int) -> RLE:
        key = id(target)
        if key in self._known and self._known[key][0] is target:
            return self._known[key][1]
        if not target.segmentation:
            raise DataError("a target has no mask", where=f"object {target.object_id}")
        rle = rasterise(target.segmentation, width, height, self.size)
        self._remember(key, target, rle)
        return rle

    def _remember(self, key: int, owner: object, rle: RLE) -> None:
        # the owner is kept with its mask, so that its id cannot be given to another object meanwhile
        self._known[key] = (owner, rle)
        if len(self._known) > self.keep:
            self._known.popitem(last=False)


def rasterise(segmentation, width: int, height: int, size: tuple[int, int] | None) -> RLE:
    """One segmentation at the image's size, or at ``size`` (height, width)."""
    if size is None or tuple(size) == (height, width):
        return masks.compress(segmentation, height, width)
    if isinstance(segmentation, Mapping):
        return resize(masks.compress(segmentation, height, width), *size)
    scale = np.array([size[1] / width, size[0] / height])
    parts = [(p.reshape(-1, 2) * scale).ravel().tolist() for p in masks.polygon_parts(segmentation)]
    return masks.compress(parts, *size)


def resize(rle: RLE, height: int, width: int) -> RLE:
    """An RLE resampled to another size, nearest pixel centre.

    Example::

        >>> masks.area(resize(masks.encode(np.eye(2, dtype=bool)), 4, 4))
        8
    """
    mask = masks.decode(rle)
    rows = ((np.arange(height) + 0.5) * mask.shape[0] / height).astype(int)
    columns = ((np.arange(width) + 0.5) * mask.shape[1] / width).astype(int)
    return masks.encode(mask[rows][:, columns])

"""Between merged masks, instance masks and boxes, without losing a pixel."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from ...errors import MissingDependencyError


def split_by_boxes(
    merged: np.ndarray, boxes_xyxy: np.ndarray, strengths: Iterable[np.ndarray] | None = None
) -> np.ndarray:
    """Divides a merged mask (h, w) among boxes: bool (n, h, w), disjoint, whose union is the merged mask exactly.

    A pixel inside one box is that box's. Inside several, it goes to the one with the largest ``strengths`` there (mask
    logits of the boxes' regions, n maps (h, w)), or to the smallest box without them. A pixel outside all boxes goes to the
    nearest box, so that the union of the instances is always what the mask head said.

    Example::

        >>> merged = np.array([[1, 1, 0, 1]], bool)
        >>> split_by_boxes(merged, np.array([[0, 0, 2, 1], [2, 0, 3, 1]])).astype(int).tolist()
        [[[1, 1, 0, 0]], [[0, 0, 0, 1]]]
    """
    boxes = np.asarray(boxes_xyxy, dtype=np.float64).reshape(-1, 4)
    merged = np.asarray(merged, dtype=bool)
    if len(boxes) == 1:
        return merged[None].copy()  # nobody to share with
    result = np.zeros((len(boxes), *merged.shape), dtype=bool)
    rows, cols = merged.nonzero()
    if not len(boxes) or not len(rows):
        return result
    y, x = rows + 0.5, cols + 0.5
    if strengths is None:
        strengths = -(boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    owner = np.zeros(len(rows), dtype=np.intp)
    nearest, strongest = np.full(len(rows), np.inf), np.full(len(rows), -np.inf)
    # One box after the other: of all boxes and a photograph's pixels together, memory would hold gigabytes.
    for i, (box, strength) in enumerate(zip(boxes, strengths, strict=True)):
        outside_x = np.maximum(np.maximum(box[0] - x, x - box[2]), 0)
        outside_y = np.maximum(np.maximum(box[1] - y, y - box[3]), 0)
        distance = outside_x**2 + outside_y**2
        here = np.broadcast_to(strength, merged.shape)[rows, cols]
        better = (distance < nearest) | ((distance == nearest) & (here > strongest))
        owner[better] = i
        nearest, strongest = np.where(better, distance, nearest), np.where(better, here, strongest)
    result[owner, rows, cols] = True
    return result


def connected_components(merged: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """8-connected parts of a mask: bool (n, h, w) and their tight boxes (n, 4), largest first.

    This is our derivation for weights without a box head: objects that touch become one, an object in two parts
    becomes two.

    Example::

        >>> masks, boxes = connected_components(np.array([[1, 0, 1, 1]], bool))
        >>> boxes.tolist()
        [[2.0, 0.0, 4.0, 1.0], [0.0, 0.0, 1.0, 1.0]]
    """
    try:
        from scipy import ndimage
    except ImportError as e:
        raise MissingDependencyError("derived boxes need scipy", advice="pip install scipy") from e
    labels, number = ndimage.label(merged, structure=np.ones((3, 3)))
    sizes = np.bincount(labels.ravel(), minlength=number + 1)[1:]
    order = np.argsort(-sizes, kind="stable")
    spans = ndimage.find_objects(labels)
    boxes = [[spans[i][1].start, spans[i][0].start, spans[i][1].stop, spans[i][0].stop] for i in order]
    masks = labels[None] == (order + 1)[:, None, None]
    return masks, np.array(boxes, dtype=np.float64).reshape(-1, 4)

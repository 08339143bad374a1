"""Boxes: conversion, overlap and checks. The one module that knows both coordinate systems.

FiftyOne stores relative ``[x, y, width, height]`` in [0, 1]; everything else here uses absolute ``xyxy`` pixels.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def to_relative(boxes_xyxy, width: float, height: float) -> np.ndarray:
    """Absolute ``xyxy`` pixels (n, 4) to FiftyOne's relative ``[x, y, w, h]`` (n, 4), float64.

    Example::

        >>> to_relative([[10, 20, 30, 60]], 100, 200).tolist()
        [[0.1, 0.1, 0.2, 0.2]]
    """
    b = np.asarray(boxes_xyxy, dtype=np.float64).reshape(-1, 4)
    size = np.array([width, height], dtype=np.float64)
    return np.concatenate([b[:, :2] / size, (b[:, 2:] - b[:, :2]) / size], axis=1)


def to_absolute(boxes_relative, width: float, height: float) -> np.ndarray:
    """FiftyOne's relative ``[x, y, w, h]`` (n, 4) to absolute ``xyxy`` pixels (n, 4), float64.

    Example::

        >>> to_absolute([[0.1, 0.1, 0.2, 0.2]], 100, 200).round(9).tolist()
        [[10.0, 20.0, 30.0, 60.0]]
    """
    b = np.asarray(boxes_relative, dtype=np.float64).reshape(-1, 4)
    size = np.array([width, height], dtype=np.float64)
    return np.concatenate([b[:, :2] * size, (b[:, :2] + b[:, 2:]) * size], axis=1)


def xywh_to_xyxy(boxes) -> np.ndarray:
    """``[x, y, w, h]`` to ``[x1, y1, x2, y2]``, same units, float64 (n, 4)."""
    b = np.asarray(boxes, dtype=np.float64).reshape(-1, 4)
    return np.concatenate([b[:, :2], b[:, :2] + b[:, 2:]], axis=1)


def xyxy_to_xywh(boxes) -> np.ndarray:
    """``[x1, y1, x2, y2]`` to ``[x, y, w, h]``, same units, float64 (n, 4)."""
    b = np.asarray(boxes, dtype=np.float64).reshape(-1, 4)
    return np.concatenate([b[:, :2], b[:, 2:] - b[:, :2]], axis=1)


def pairwise_iou(a_xyxy, b_xyxy) -> np.ndarray:
    """Intersection over union of every pair, (n, m) float64; 0 where nothing overlaps or a box is inverted.

    NaN coordinates give 0: they never match.

    Example::

        >>> pairwise_iou([[0, 0, 2, 2]], [[0, 0, 2, 1], [5, 5, 6, 6]]).tolist()
        [[0.5, 0.0]]
    """
    a = np.asarray(a_xyxy, dtype=np.float64).reshape(-1, 4)
    b = np.asarray(b_xyxy, dtype=np.float64).reshape(-1, 4)
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        wh = np.minimum(a[:, None, 2:], b[None, :, 2:]) - np.maximum(a[:, None, :2], b[None, :, :2])
        overlap = (wh > 0).all(axis=2)
        inter = wh[..., 0] * wh[..., 1]
        area_a = (a[:, 2] - a[:, 0]) * (a[:, 3] - a[:, 1])
        area_b = (b[:, 2] - b[:, 0]) * (b[:, 3] - b[:, 1])
        iou = inter / (area_a[:, None] + area_b[None, :] - inter)
    return np.where(overlap & np.isfinite(iou), iou, 0.0)


def non_maximum_suppression(boxes_xyxy, scores, iou_threshold: float = 0.7) -> list[int]:
    """Indices kept by class-agnostic NMS, best score first; ties keep the earlier box.

    Example::

        >>> non_maximum_suppression([[0, 0, 2, 2], [0, 0, 2, 2.1], [5, 5, 6, 6]], [0.5, 0.9, 0.1], 0.7)
        [1, 2]
    """
    order = np.argsort(-np.asarray(scores, dtype=np.float64), kind="stable")
    iou = pairwise_iou(boxes_xyxy, boxes_xyxy)
    keep: list[int] = []
    for i in order:
        if all(iou[i, j] <= iou_threshold for j in keep):
            keep.append(int(i))
    return keep


def box_problem(box: Sequence[float], width: float | None = None, height: float | None = None) -> str | None:
    """Says what is wrong with an absolute ``xyxy`` box, or None.

    Kinds, in order of checking: not 4 numbers, not finite, looks like xywh, inverted, empty, outside the image.

    Example::

        >>> box_problem([0, 0, 5, 5], 10, 10) is None
        True
        >>> box_problem([8, 8, 2, 1], 10, 10)
        'x2 < x1 or y2 < y1, as if it were [x, y, width, height]'
        >>> box_problem([1, 2, 3])
        'has 3 numbers, not 4'
    """
    if not isinstance(box, Sequence | np.ndarray) or isinstance(box, str):
        return f"is {type(box).__name__}, not a list of 4 numbers"
    if len(box) != 4:
        return f"has {len(box)} numbers, not 4"
    if not all(isinstance(v, int | float | np.number) and not isinstance(v, bool) for v in box):
        return "holds something that is not a number"
    if not np.isfinite(np.asarray(box, dtype=np.float64)).all():
        return "has a coordinate that is NaN or infinite"
    x1, y1, x2, y2 = (float(v) for v in box)
    if x2 < x1 or y2 < y1:
        looks_xywh = (
            x2 > 0 and y2 > 0 and (width is None or x1 + x2 <= width) and (height is None or y1 + y2 <= height)
        )
        return "x2 < x1 or y2 < y1" + (", as if it were [x, y, width, height]" if looks_xywh else " (inverted)")
    if x2 == x1 or y2 == y1:
        return "has no area"
    if width is not None and height is not None and (x1 >= width or y1 >= height or x2 <= 0 or y2 <= 0):
        return f"lies outside the {width}x{height} image"
    return None

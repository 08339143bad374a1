"""COCO average precision of referring answers: class agnostic, every box counts, one "image" per expression.

Computed by pycocotools itself. Boxes predicted for a no-target expression are false positives; crowd targets are
ignored regions, as COCO has it.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..errors import DataError, MissingDependencyError
from ..geometry import xyxy_to_xywh
from .grec import Answer

#: The twelve COCO statistics in pycocotools' order, under the names used here.
NAMES = (
    "AP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large",
    "AR1", "AR10", "AR100", "AR_small", "AR_medium", "AR_large",
)  # fmt: skip


def coco_average_precision(
    targets_xyxy: Sequence[Any],
    answers: Sequence[Answer | None],
    *,
    areas: Sequence[Any] | None = None,
    iscrowd: Sequence[Any] | None = None,
    protocol: str = "official",
) -> dict[str, float]:
    """The twelve COCO statistics, -1 where there is nothing to compute one from (as pycocotools says it).

    Args:
        targets_xyxy: one list of ``xyxy`` boxes per sample
        answers: one per sample; None counts as no boxes
        areas: one list of areas in square pixels per sample, which decide small, medium and large; box areas when None
        iscrowd: one list of flags per sample
        protocol: ``official`` numbers annotations from 0, as the authors' converter does. pycocotools takes the id 0
            for "unmatched", so the very first target of a split can never be found. ``paper`` numbers from 1.

    Example::

        >>> stats = coco_average_precision([[[0, 0, 9, 9]]], [Answer([[0, 0, 9, 9]], [0.9])], protocol="paper")
        >>> round(stats["AP"], 3), stats["AP_large"]
        (1.0, -1.0)
    """
    try:
        from pycocotools.coco import COCO
        from pycocotools.cocoeval import COCOeval
    except ImportError as e:
        raise MissingDependencyError("COCO average precision needs pycocotools", advice="pip install pycocotools") from e
    if len(targets_xyxy) != len(answers):
        raise DataError("targets and answers differ in number", expected=len(targets_xyxy), found=len(answers))
    official = protocol == "official"
    annotations: list[dict] = []
    rows: list[np.ndarray] = []

    def annotate(sample: int, box_xywh: list[float], area: float, crowd: bool) -> None:
        key = len(annotations) + (0 if official else 1)
        annotations.append(
            {"id": key, "image_id": sample, "category_id": 1, "bbox": box_xywh, "area": area, "iscrowd": int(crowd)}
        )

    for i, (boxes, answer) in enumerate(zip(targets_xyxy, answers)):
        boxes = xyxy_to_xywh(boxes)
        for j, box in enumerate(boxes.tolist()):
            area = box[2] * box[3] if areas is None else float(areas[i][j])
            annotate(i, box, area, iscrowd is not None and bool(iscrowd[i][j]))
        if official and not len(boxes):
            # the converter's placeholder for "no target": it takes a number and overlaps nothing
            annotate(i, [0.0, 0.0, 0.0, 0.0], 0.0, True)
        if answer is not None and len(answer.boxes_xyxy):
            n = len(answer.boxes_xyxy)
            # columns of COCO.loadRes: image, x, y, w, h, score, category
            rows.append(
                np.column_stack([np.full(n, i), xyxy_to_xywh(answer.boxes_xyxy), answer.scores, np.ones(n)])
            )
    if not any(not a["iscrowd"] for a in annotations):
        return dict.fromkeys(NAMES, -1.0)
    if not rows:
        return dict(zip(NAMES, _nothing_found(annotations)))
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints its progress
        truth = COCO()
        truth.dataset = {
            "info": {},
            "images": [{"id": i} for i in range(len(answers))],
            "annotations": annotations,
            "categories": [{"id": 1}],
        }
        truth.createIndex()
        evaluation = COCOeval(truth, truth.loadRes(np.concatenate(rows)), "bbox")
        evaluation.params.useCats = 0
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return dict(zip(NAMES, map(float, evaluation.stats)))


def _nothing_found(annotations: list[dict]) -> list[float]:
    """pycocotools cannot load an empty result: every figure is 0, or -1 where no target has that size."""
    sizes = np.array([a["area"] for a in annotations if not a["iscrowd"]])
    small, medium, large = sizes < 32**2, (sizes >= 32**2) & (sizes < 96**2), sizes >= 96**2
    by_size = [0.0 if m.any() else -1.0 for m in (small, medium, large)]
    return [0.0, 0.0, 0.0, *by_size, 0.0, 0.0, 0.0, *by_size]

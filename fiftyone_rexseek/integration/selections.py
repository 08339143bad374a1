"""A model's :class:`Selection` as FiftyOne labels, and back, without losing a pixel.

For a prediction field ``P`` there are ``P`` (Detections; empty = nobody matches, None = no answer), ``P_outcome``,
``P_answer``, ``P_error``, ``P_rejection_score`` and, for a model that counts, ``P_count``. Each detection carries ``confidence``,
``box_xyxy`` (pixels) and, for a model that chooses among candidates, ``candidate`` (index) and the candidate's own label - FiftyOne's evaluations match labels, so a prediction is
called what the ground truth is called. Masks are stored relative to their box, as FiftyOne wants them; where a mask reaches
beyond its box the whole mask stays in the attribute ``segmentation`` (an RLE).
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import fiftyone as fo
import numpy as np
from PIL import Image

from .. import masks
from ..geometry import to_absolute, to_relative
from ..referring import RLE, Outcome, Selection

DEFAULT_LABEL = "person"
#: Suffixes of the fields beside a prediction field.
OUTCOME, ANSWER, ERROR, REJECTION_SCORE = "_outcome", "_answer", "_error", "_rejection_score"
#: What a mask head drew although the model says that nobody matches: the official GRES score counts these pixels.
REJECTED_MASK = "_rejected_mask"
#: How many targets a model says there are, whatever boxes it gives; the GREC rule "count" reads it.
COUNT = "_count"
COUNT_DESCRIPTION = "How many targets the model counts; 6 = more than five"
#: The boxes that a detector proposed.
CANDIDATES = "_candidates"
#: What a prediction file says beyond its boxes, as JSON.
ROW = "_row"
#: What may stand beside a prediction field, by the end of its name; in the order of the sidebar.
COMPANIONS = (
    OUTCOME, ANSWER, ERROR, REJECTION_SCORE, COUNT, "_expressions", "_outcomes", "_answers", REJECTED_MASK, CANDIDATES, ROW,
)  # fmt: skip


@dataclass(frozen=True)
class CandidateLabels:
    """What is known of the candidates of one sample beside their pixels.

    Attributes:
        bounding_boxes: relative boxes as stored, copied to the prediction unchanged
        labels: their labels
    """

    bounding_boxes: Sequence[Sequence[float]] = field(default_factory=list)
    labels: Sequence[str | None] = field(default_factory=list)


def to_detections(
    selection: Selection,
    width: int,
    height: int,
    *,
    candidates: CandidateLabels | None = None,
    label: str | None = None,
    mask_file: str | os.PathLike | None = None,
    attributes: Mapping[str, Any] | None = None,
) -> fo.Detections | None:
    """The boxes and masks of an answer; None when the outcome is no answer.

    Args:
        selection: the model's answer
        width, height: of the image
        candidates: gives predictions the stored box and label of their candidate
        label: label of all predictions instead; default :data:`DEFAULT_LABEL`
        mask_file: masks are written as PNG files ``<mask_file>-<n>.png`` and referred to, instead of stored in the database
        attributes: further attributes of every detection
    """
    if not selection.outcome.is_answer:
        return None
    rles = _masks_of(selection)
    boxes, scores, indices = selection.boxes_xyxy, selection.scores, selection.indices
    merged = False
    is_region = selection.outcome is Outcome.SELECTED and not len(boxes) and selection.merged_mask is not None
    if is_region and masks.area(selection.merged_mask):
        # a segmenter without boxes: the one region it found, in the box around it
        boxes, rles, merged = masks.mask_box_xyxy(selection.merged_mask)[None], [selection.merged_mask], True
        scores = np.array([math.nan if selection.rejection_score is None else 1 - selection.rejection_score])
    detections = []
    for n, box in enumerate(boxes):
        index = indices[n] if indices is not None else None
        detection = fo.Detection(
            label=label or _candidate_label(candidates, index) or DEFAULT_LABEL,
            bounding_box=_bounding_box(box, index, candidates, width, height),
            confidence=None if math.isnan(scores[n]) else float(scores[n]),
            box_xyxy=[float(v) for v in box],
            **(attributes or {}),
        )
        if index is not None:
            detection["candidate"] = int(index)
        if merged:
            detection["merged"] = True
        if rles is not None and rles[n] is not None:
            _set_mask(detection, rles[n], box, f"{mask_file}-{n}.png" if mask_file is not None else None)
        detections.append(detection)
    return fo.Detections(detections=detections)


def _masks_of(selection: Selection) -> list[RLE | None] | None:
    """One mask per box. Boxes without masks beside one merged mask divide it among themselves, without remainder."""
    if selection.masks is not None:
        return list(selection.masks)
    if selection.merged_mask is None or not len(selection):
        return None
    from ..models.rela.instances import split_by_boxes

    parts = split_by_boxes(masks.decode(selection.merged_mask), selection.boxes_xyxy)
    return [masks.encode(part) for part in parts]


def rejected_mask(selection: Selection, width: int, height: int) -> fo.Detections | None:
    """The mask of a rejecting answer as one detection labelled "rejected", or None when there is nothing to keep."""
    mask = selection.merged_mask
    if selection.outcome is not Outcome.REJECTED or mask is None or not masks.area(mask):
        return None
    shown = Selection(selection.expression, Outcome.SELECTED, merged_mask=mask, rejection_score=selection.rejection_score)
    return to_detections(shown, width, height, label="rejected")


def _candidate_label(candidates: CandidateLabels | None, index: int | None) -> str | None:
    known = candidates is not None and index is not None and 0 <= index < len(candidates.labels)
    return candidates.labels[index] if known else None


def _bounding_box(box, index: int | None, candidates: CandidateLabels | None, width: int, height: int) -> list[float]:
    if candidates is not None and index is not None and 0 <= index < len(candidates.bounding_boxes):
        return list(candidates.bounding_boxes[index])
    return to_relative(box, width, height)[0].tolist()


def _set_mask(detection: fo.Detection, rle: RLE, box_xyxy, path: str | None) -> None:
    whole = masks.decode(rle)
    crop = masks.crop_to_box(whole, box_xyxy)
    if crop.sum() != whole.sum():
        detection["segmentation"] = {"size": [int(v) for v in rle["size"]], "counts": masks.compress(rle, *whole.shape)["counts"]}
    if path is None:
        detection.mask = crop
    else:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(crop.astype(np.uint8) * 255).save(path)
        detection.mask_path = os.path.abspath(path)


def detection_box(detection: fo.Detection, width: int, height: int) -> np.ndarray:
    """Box (4,) of a detection in pixels; its ``box_xyxy`` while that agrees with ``bounding_box`` (1e-6 of the size)."""
    box = to_absolute(detection.bounding_box, width, height)[0]
    exact = detection["box_xyxy"] if detection.has_field("box_xyxy") else None
    if exact is not None and len(exact) == 4:
        exact = np.asarray(exact, dtype=np.float64)
        if (np.abs(exact - box) <= 1e-6 * np.array([width, height, width, height])).all():
            return exact
    return box


def detection_mask(detection: fo.Detection, width: int, height: int) -> np.ndarray | None:
    """Full-image boolean mask (height, width) of a detection, or None when it has none."""
    segmentation = detection["segmentation"] if detection.has_field("segmentation") else None
    if segmentation:
        return masks.decode(masks.compress(segmentation, height, width))
    if not detection.has_mask:
        return None
    return masks.paste(detection.get_mask() > 0, detection_box(detection, width, height), height, width)


def merged_mask(detections: fo.Detections | None, width: int, height: int) -> np.ndarray:
    """Union of the masks of all detections, boolean (height, width); a box without a mask adds nothing."""
    union = np.zeros((height, width), bool)
    for detection in detections.detections if detections is not None else ():
        mask = detection_mask(detection, width, height)
        if mask is not None:
            union |= mask
    return union


def combined_outcome(selections: Sequence[Selection]) -> Outcome:
    """The outcome of several expressions about one sample: failed before selected before unparsed before rejected.

    Example::

        >>> combined_outcome([Selection.rejected("a"), Selection.failed("b", "why")]).value
        'failed'
    """
    outcomes = {s.outcome for s in selections}
    for outcome in (Outcome.FAILED, Outcome.SELECTED, Outcome.UNPARSED):
        if outcome in outcomes:
            return outcome
    return Outcome.REJECTED


def combined_error(selections: Sequence[Selection]) -> str | None:
    """What went wrong with several expressions about one sample, each reason once.

    Example::

        >>> combined_error([Selection.failed("a", "why"), Selection.rejected("b"), Selection.failed("c", "why")])
        'why'
    """
    return "; ".join(dict.fromkeys(s.error for s in selections if s.error)) or None

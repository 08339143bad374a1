"""Images to network input, and predictions back to the original image."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ... import masks as rle
from ...referring import Outcome, Selection
from .config import ReLAConfig
from .instances import connected_components, split_by_boxes
from .outputs import Answer, foreground, mask_probabilities, resize_probabilities

DERIVED_BOXES = "boxes derived from connected components of the mask"


def resize_image(image: Image.Image, size: int) -> Tensor:
    """An RGB image to exactly size x size, uint8 (3, size, size): PIL bilinear, aspect ratio not kept (public code)."""
    if image.size != (size, size):
        image = image.resize((size, size), Image.Resampling.BILINEAR)
    return torch.from_numpy(np.asarray(image, dtype=np.uint8).copy()).permute(2, 0, 1)


def to_selection(
    expression: str,
    answer: Answer,
    mask_logits: Tensor,
    region_masks: Tensor,
    image_size_wh: tuple[int, int],
    config: ReLAConfig,
    *,
    derive_boxes: bool = False,
    mask_size: str = "original",
    note: str | None = None,
) -> Selection:
    """One expression's predictions as a :class:`Selection`.

    The merged mask is upsampled bilinearly to the network input, turned into probabilities, resized bilinearly to the
    original image (the public code stops before this step) and thresholded by comparing the two channels.

    * Journal heads: count 0 clears mask and boxes; else boxes with the scores of their regions, and instance masks
      that divide the merged mask among them without remainder.
    * Conference weights: merged mask only, and kept when the no-target head rejects, because the public evaluator
      needs it; with ``derive_boxes`` the connected components as boxes, marked as derived in ``answer``.

    Args:
        answer, mask_logits, region_masks: of this expression, from :func:`~.outputs.answers` and the network
        image_size_wh: of the original image
        mask_size: ``"original"``, or ``"network"`` for masks at the square network input (the official GRES protocol)
        note: something the user should know, put into ``answer``
    """
    width, height = image_size_wh
    square = (config.image_size, config.image_size)
    size = square if mask_size == "network" else (height, width)
    probabilities = mask_probabilities(mask_logits, square)
    merged = foreground(resize_probabilities(probabilities, size)).cpu().numpy()
    notes = [] if answer.count is None else [f"count: {'more than 5' if answer.count > 5 else answer.count}"]
    notes += [note] if note else []
    common: dict[str, Any] = {"rejection_score": answer.no_target_probability, "count": answer.count}
    if answer.no_target:
        if answer.count is not None:
            merged = np.zeros_like(merged)
        common |= {"answer": "; ".join(notes) or None, "merged_mask": rle.encode(merged)}
        return Selection.rejected(expression, masks=(), **common)

    boxes, scores, instances = np.zeros((0, 4)), np.zeros(0), None
    in_mask = np.array([size[1] / width, size[0] / height] * 2)
    if answer.boxes_xyxy is not None:
        boxes = answer.boxes_xyxy.double().numpy() * [width, height, width, height]
        scores = answer.scores.double().numpy()
        strengths = (
            resize_probabilities(region_masks[region, None].float().cpu(), size)[0].numpy() for region in answer.regions
        )
        instances = split_by_boxes(merged, boxes * in_mask, strengths)
    elif derive_boxes:
        instances, boxes = connected_components(merged)
        boxes = boxes / in_mask
        share = resize_probabilities(probabilities, size)[1].cpu().numpy()
        scores = np.array([share[m].mean() for m in instances])
        notes.append(DERIVED_BOXES)
    return Selection(
        expression,
        Outcome.SELECTED,
        boxes_xyxy=boxes,
        scores=scores,
        masks=None if instances is None else tuple(rle.encode(m) for m in instances),
        merged_mask=rle.encode(merged),
        answer="; ".join(notes) or None,
        **common,
    )

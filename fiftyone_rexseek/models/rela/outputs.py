"""From region predictions to answers: is there a target, which pixels, which boxes."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from .config import NUM_COUNT_CLASSES, ReLAConfig
from .decoder import RegionOutput
from .losses import to_xyxy


@dataclass(frozen=True)
class Answer:
    """What the heads say about one expression. Sizes are relative to the image.

    Attributes:
        no_target: whether the no-target head (or count 0) says that nothing matches
        no_target_probability: of that head; with a count head P(class 0)
        count: predicted number of targets, 6 = "more than 5"; None without a count head
        boxes_xyxy: (n, 4) relative, best first; None without a box head
        scores: (n,) minimap probability of each box's region
        regions: (n,) index of each box's region
    """

    no_target: bool
    no_target_probability: float
    count: int | None
    boxes_xyxy: Tensor | None
    scores: Tensor | None
    regions: Tensor | None


def answers(output: RegionOutput, config: ReLAConfig) -> list[Answer]:
    """One :class:`Answer` per expression.

    Conference weights: the two no-target logits are compared (equal = has target). Journal: the count head decides;
    count n in 1..5 gives the n best regions' boxes in a stable order, "more than 5" all regions whose score reaches
    ``config.output_threshold`` (the best one if none does; the paper gives neither number nor this case). With
    ``config.no_target_threshold`` the probability of count 0 alone decides between nobody and somebody.
    ``config.nms_iou`` removes repeated boxes first: several cells belong to one object by construction, and the
    paper does not mention it.
    """
    scores = output.minimap_logits.float().softmax(dim=-1)[..., 1].cpu()
    boxes = None if output.boxes_cxcywh is None else to_xyxy(output.boxes_cxcywh.float().cpu()).clamp(0, 1)
    if output.count_logits is not None:
        probabilities = output.count_logits.float().softmax(dim=-1).cpu()
        empty, counts = probabilities[:, 0], probabilities.argmax(dim=-1)
        if config.no_target_threshold is not None:
            somebody = probabilities[:, 1:].argmax(dim=-1) + 1
            counts = torch.where(empty >= config.no_target_threshold, 0, somebody)
    else:
        # Sigmoids, not a softmax: the public decision rule. Compared instead of argmax-ed, ties mean "has target".
        probability = output.no_target_logits.float().sigmoid().cpu()
        counts, empty = None, output.no_target_logits.float().softmax(dim=-1)[:, 1].cpu()
    result = []
    for i in range(len(scores)):
        count = None if counts is None else int(counts[i])
        no_target = count == 0 if count is not None else bool(probability[i, 1] > probability[i, 0])
        chosen = None
        if boxes is not None:
            chosen = torch.zeros(0, dtype=torch.long) if no_target else choose_regions(boxes[i], scores[i], count, config)
        result.append(
            Answer(
                no_target=no_target,
                no_target_probability=float(empty[i]),
                count=count,
                boxes_xyxy=None if chosen is None else boxes[i, chosen],
                scores=None if chosen is None else scores[i, chosen],
                regions=chosen,
            )
        )
    return result


def choose_regions(boxes_xyxy: Tensor, scores: Tensor, count: int | None, config: ReLAConfig) -> Tensor:
    """Indices of the regions whose boxes are given out, best first; see :func:`answers`.

    Example::

        >>> boxes = torch.tensor([[0.0, 0, 1, 1], [0, 0, 1, 0.9], [0, 0, 0.1, 0.1]])
        >>> config = ReLAConfig.from_variant("tiny", nms_iou=0.6)
        >>> choose_regions(boxes, torch.tensor([0.9, 0.8, 0.7]), 2, config).tolist()
        [0, 2]
    """
    order = scores.argsort(descending=True, stable=True)
    if config.nms_iou is not None:
        from torchvision.ops import nms

        order = nms(boxes_xyxy[order], -torch.arange(len(order), dtype=torch.float32), config.nms_iou).sort().values
        order = scores.argsort(descending=True, stable=True)[order]
    if count is None or count >= NUM_COUNT_CLASSES - 1:
        confident = order[scores[order] >= config.output_threshold]
        return confident if len(confident) else order[:1]
    return order[:count]


def mask_probabilities(mask_logits: Tensor, size: tuple[int, int]) -> Tensor:
    """Sigmoid (2, H, W) of one expression's merged-mask logits (2, h, w), upsampled bilinearly to the network input."""
    return F.interpolate(mask_logits[None].float(), size=size, mode="bilinear", align_corners=False)[0].sigmoid()


def foreground(probabilities: Tensor) -> Tensor:
    """Bool (H, W): target beats background.

    A comparison instead of an argmax over two channels: the same result, ties included, and about ten times faster.
    """
    return probabilities[1] > probabilities[0]


def resize_probabilities(probabilities: Tensor, size: tuple[int, int]) -> Tensor:
    """Probabilities (C, H, W) at another size (height, width), bilinear without anti-aliasing.

    The public code stops at the network input size; this is how masks are brought back to the original image.
    """
    if tuple(probabilities.shape[-2:]) == tuple(size):
        return probabilities
    return F.interpolate(probabilities[None], size=size, mode="bilinear", align_corners=False)[0]

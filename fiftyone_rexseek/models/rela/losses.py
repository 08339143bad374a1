"""Training targets and losses of both forms of ReLA.

The conference losses are those of the public code, number for number. The journal paper gives its losses in words;
where it is silent this module follows MDETR, which it cites, and each function says so.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ...errors import MissingDependencyError
from .config import NUM_COUNT_CLASSES
from .decoder import RegionOutput

#: Class weights (background, target) of every cross entropy in the public code.
CLASS_WEIGHTS = (0.9, 1.1)


@dataclass(frozen=True)
class ReLATargets:
    """What a batch of B expressions should give, at network input size H x W.

    Attributes:
        masks: (B, H, W) bool or 0/1, union of the targets
        boxes_cxcywh: B tensors (n, 4), relative to the image, one per target (n may be 0)
        counts: (B,) int64, number of targets; crowd objects are not counted (the paper does not say)
    """

    masks: Tensor
    boxes_cxcywh: tuple[Tensor, ...]
    counts: Tensor

    @property
    def empty(self) -> Tensor:
        """(B,) int64, 1 = no target, the conference label."""
        return (self.counts == 0).long()

    def to(self, device) -> ReLATargets:
        boxes = tuple(b.to(device) for b in self.boxes_cxcywh)
        return ReLATargets(self.masks.to(device), boxes, self.counts.to(device))


@dataclass(frozen=True)
class LossWeights:
    """Coefficients of :func:`journal_loss`; the defaults are the journal paper's.

    The paper gives one weight, 5.0, for "L1 + GIoU as in MDETR"; it is read here as MDETR's own pair (5 and 2).
    """

    mask: float = 2.0
    minimap: float = 0.2
    count: float = 1.0
    box_l1: float = 5.0
    box_giou: float = 2.0


def minimap_target(masks: Tensor, grid: int) -> Tensor:
    """Target cells (B, grid**2) int64 of merged masks (B, H, W), by the public rule.

    The mask is resized bilinearly without anti-aliasing and truncated to an integer, so a cell counts only when all
    the pixels sampled around its centre are target; small targets can have no cell.

    Example::

        >>> minimap_target(torch.tensor([[[1, 1, 0, 0]] * 4]), 2).tolist()
        [[1, 0, 1, 0]]
    """
    resized = F.interpolate(masks[:, None].float(), size=(grid, grid), mode="bilinear", align_corners=False)
    return resized[:, 0].long().flatten(1)


def coverage_target(masks: Tensor, grid: int, full: float = 0.35) -> Tensor:
    """Soft cells (B, grid**2) in [0, 1]: share of each cell that is target, 1 from ``full`` on.

    An alternative to :func:`minimap_target` that loses no small target; used to train small models from nothing.

    Example::

        >>> coverage_target(torch.tensor([[[1, 0, 0, 0]] * 4]), 2, full=1.0).tolist()
        [[0.5, 0.0, 0.5, 0.0]]
    """
    return (F.adaptive_avg_pool2d(masks[:, None].float(), grid)[:, 0] / full).clamp(max=1).flatten(1)


def weighted_cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """Two-class cross entropy (class axis 1) with the public class weights, weighted mean."""
    return F.cross_entropy(logits.float(), target.long(), weight=logits.new_tensor(CLASS_WEIGHTS, dtype=torch.float32))


def mask_loss(output: RegionOutput, masks: Tensor) -> Tensor:
    """Cross entropy of the merged mask, upsampled bilinearly to the network input size."""
    logits = F.interpolate(output.mask_logits.float(), size=masks.shape[-2:], mode="bilinear", align_corners=False)
    return weighted_cross_entropy(logits, masks)


def minimap_loss(minimap_logits: Tensor, masks: Tensor) -> Tensor:
    """Cross entropy of minimap logits (B, grid**2, 2) against :func:`minimap_target`."""
    target = minimap_target(masks, round(minimap_logits.shape[1] ** 0.5))
    return weighted_cross_entropy(minimap_logits.transpose(1, 2), target)


def conference_loss(output: RegionOutput, targets: ReLATargets) -> dict[str, Tensor]:
    """The public training loss: 5 x (mask + 0.1 minimap + 0.1 no-target), all weighted cross entropies.

    Returns:
        ``mask``, ``minimap``, ``no_target`` (unweighted) and ``total``
    """
    if output.no_target_logits is None:
        raise ValueError("this model has a count head: use journal_loss")
    losses = {
        "mask": mask_loss(output, targets.masks),
        "minimap": minimap_loss(output.minimap_logits, targets.masks),
        "no_target": weighted_cross_entropy(output.no_target_logits, targets.empty),
    }
    losses["total"] = 5.0 * (losses["mask"] + 0.1 * losses["minimap"] + 0.1 * losses["no_target"])
    return losses


def journal_loss(output: RegionOutput, targets: ReLATargets, weights: LossWeights | None = None) -> dict[str, Tensor]:
    """Mask, minimap, count and box losses of the journal variant (GREx, section on joint training).

    Not stated in the paper and chosen here: six or more targets are the last class; expressions without target
    have no box loss; the box loss is divided by the number of target boxes in the batch (MDETR); regions are
    assigned by :func:`match_boxes`; with a no-target head in place of the count head, its public loss is used.

    Returns:
        ``mask``, ``minimap``, ``count`` or ``no_target``, ``box_l1``, ``box_giou`` (unweighted) and ``total``
    """
    weights = weights or LossWeights()
    losses = {
        "mask": mask_loss(output, targets.masks),
        "minimap": minimap_loss(output.minimap_logits, targets.masks),
    }
    total = weights.mask * losses["mask"] + weights.minimap * losses["minimap"]
    if output.count_logits is not None:
        losses["count"] = count_loss(output.count_logits, targets.counts)
        total = total + weights.count * losses["count"]
    elif output.no_target_logits is not None:
        losses["no_target"] = weighted_cross_entropy(output.no_target_logits, targets.empty)
        total = total + weights.count * losses["no_target"]
    if output.boxes_cxcywh is not None:
        losses["box_l1"], losses["box_giou"] = box_losses(output, targets.boxes_cxcywh)
        total = total + weights.box_l1 * losses["box_l1"] + weights.box_giou * losses["box_giou"]
    losses["total"] = total
    return losses


def count_loss(count_logits: Tensor, counts: Tensor) -> Tensor:
    """Cross entropy over the classes 0, 1, 2, 3, 4, 5 and "more"."""
    return F.cross_entropy(count_logits.float(), counts.clamp(max=NUM_COUNT_CLASSES - 1))


def box_losses(output: RegionOutput, boxes: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
    """L1 and 1 - GIoU of the assigned regions' boxes, each summed and divided by the number of target boxes."""
    pairs = match_boxes(output.boxes_cxcywh, output.minimap_logits, boxes)
    rows = torch.repeat_interleave(torch.tensor([len(region) for region, _ in pairs]))
    regions = torch.cat([region for region, _ in pairs])
    device = output.boxes_cxcywh.device
    predicted = output.boxes_cxcywh[rows.to(device), regions.to(device)]
    wanted = torch.cat([b.cpu()[target] for b, (_, target) in zip(boxes, pairs)]).to(predicted)
    number = max(len(wanted), 1)
    l1 = (predicted - wanted).abs().sum() / number
    giou = paired_giou(to_xyxy(predicted), to_xyxy(wanted))
    return l1, (1 - giou).sum() / number


@torch.no_grad()
def match_boxes(
    predicted: Tensor, minimap_logits: Tensor, boxes: tuple[Tensor, ...]
) -> list[tuple[Tensor, Tensor]]:
    """Hungarian assignment of regions to targets: per expression (region indices, target indices), on the CPU.

    Costs as in MDETR: class 1, L1 5, GIoU 2, where the class cost of a region is minus its minimap probability. The
    paper does not state its assignment; this is our choice.

    Args:
        predicted: (B, R, 4) cxcywh
        minimap_logits: (B, R, 2)
        boxes: B tensors (n, 4) cxcywh
    """
    try:
        from scipy.optimize import linear_sum_assignment
    except ImportError as e:
        raise MissingDependencyError("box training needs scipy", advice="pip install scipy") from e
    # all at once to where the assignment runs: a device would be waited for once per expression
    score = minimap_logits.float().softmax(dim=-1)[..., 1].cpu()
    predicted = predicted.float().cpu()
    pairs = []
    for i, wanted in enumerate(boxes):
        wanted = wanted.cpu().float()
        own = predicted[i]
        cost = 5 * torch.cdist(own, wanted, p=1) - score[i][:, None]
        cost = cost - 2 * paired_giou(to_xyxy(own)[:, None], to_xyxy(wanted)[None])
        region, target = linear_sum_assignment(np.nan_to_num(cost.numpy(), nan=1e6, posinf=1e6, neginf=-1e6))
        pairs.append((torch.as_tensor(region), torch.as_tensor(target)))
    return pairs


def to_xyxy(boxes_cxcywh: Tensor) -> Tensor:
    """Centre and size to corners, any leading shape.

    Example::

        >>> to_xyxy(torch.tensor([0.5, 0.5, 0.5, 1.0])).tolist()
        [0.25, 0.0, 0.75, 1.0]
    """
    centre, half = boxes_cxcywh[..., :2], boxes_cxcywh[..., 2:] / 2
    return torch.cat([centre - half, centre + half], dim=-1)


def paired_giou(a_xyxy: Tensor, b_xyxy: Tensor) -> Tensor:
    """Generalised IoU of boxes in pairs; leading shapes broadcast.

    Example::

        >>> paired_giou(torch.tensor([0.0, 0, 1, 1]), torch.tensor([0.0, 0, 1, 1])).item()
        1.0
    """
    low, high = torch.maximum(a_xyxy[..., :2], b_xyxy[..., :2]), torch.minimum(a_xyxy[..., 2:], b_xyxy[..., 2:])
    inter = (high - low).clamp(min=0).prod(dim=-1)
    area_a = (a_xyxy[..., 2:] - a_xyxy[..., :2]).prod(dim=-1)
    area_b = (b_xyxy[..., 2:] - b_xyxy[..., :2]).prod(dim=-1)
    union = area_a + area_b - inter
    low, high = torch.minimum(a_xyxy[..., :2], b_xyxy[..., :2]), torch.maximum(a_xyxy[..., 2:], b_xyxy[..., 2:])
    hull = (high - low).prod(dim=-1)
    # eps after MDETR would be none; a prediction of zero size must not give NaN
    eps = torch.finfo(union.dtype).tiny
    return inter / union.clamp(min=eps) - (hull - union) / hull.clamp(min=eps)

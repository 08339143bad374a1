"""Training a small ReLA from nothing: denser supervision than the paper's recipe, from scenes whose every object is known.

The published recipe starts from pretrained Swin and BERT and supervises the merged mask, the minimap and the heads of
the last pass only. A network that starts from random weights on a laptop does not get far with that. Added here, in
training only (nothing of it is part of the shipped network):

* the backbone first learns to name the attributes of the person at every place (:func:`pretraining_loss`);
* every pass of the decoder is supervised by the minimap, with soft targets that no small person escapes;
* every region learns the box of the person that dominates its cell, target or not. (Teaching every region that
  person's *mask* as well was tried and hurts: the merged mask is the sum of region masks weighted by raw minimap
  logits, which needs the masks of regions without target to be the complement of the target);
* regions and backbone keep naming the attributes; the pixel decoder's stride-8 map predicts the target mask;
* Dice beside the cross entropy of the mask.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..models.rela.losses import (
    box_losses,
    count_loss,
    coverage_target,
    paired_giou,
    to_xyxy,
)
from ..models.rela.modeling import ReLANetwork
from .rela_scenes import ATTRIBUTES, SceneBatch

#: A cell belongs to the person who covers most of it, if that is more than this share.
CELL_SHARE = 0.06
#: Side of the target mask that the stride-8 memory predicts.
MASKS_EARLY = 20


@dataclass(frozen=True)
class ScratchWeights:
    """Coefficients of :func:`joint_loss`.

    The count's grows from ``count`` to ``count_at_end``: until masks are found, counting disturbs; then rejections need it.
    """

    mask: float = 4.0
    dice: float = 1.0
    minimap: float = 4.0
    count: float = 0.5
    count_at_end: float = 1.5
    boxes: float = 0.3
    early_mask: float = 2.0
    attributes: float = 0.3


class ScratchReLA(nn.Module):
    """The network and the heads that exist in training only."""

    def __init__(self, network: ReLANetwork):
        super().__init__()
        config = network.config
        self.network = network
        dims, values = config.stage_dims, sum(ATTRIBUTES.values())
        self.place_head = nn.Sequential(nn.Linear(sum(dims[1:]), 128), nn.GELU(), nn.Linear(128, values + 1))
        self.trunk_head = nn.Linear(dims[2], values)
        self.region_head = nn.Linear(config.hidden_dim, values)
        self.early_mask_head = nn.Conv2d(config.pixel_width, 1, 1)
        self._trunk: Tensor | None = None
        self._fine_memory: Tensor | None = None
        network.backbone.layers[2].fusion.register_forward_pre_hook(self._keep_trunk)
        network.sem_seg_head.pixel_decoder.register_forward_hook(self._keep_memory)

    def _keep_trunk(self, _module, inputs):
        self._trunk = inputs[0]

    def _keep_memory(self, _module, _inputs, outputs):
        self._fine_memory = outputs[1][-1]

    def places(self, images: Tensor) -> Tensor:
        """Attribute logits and a person logit for every place at stride 8 (S, h*w, values + 1); no language."""
        backbone = self.network.backbone
        x = backbone.embed(self.network.normalize(images))
        maps = []
        for i, layer in enumerate(backbone.layers):
            if i:
                x = layer.run_blocks(x)
                maps.append(x.permute(0, 3, 1, 2))
            if layer.downsample is not None:
                x = layer.downsample(x)
        size = maps[0].shape[-2:]
        maps = [F.interpolate(m, size=size, mode="bilinear", align_corners=False) for m in maps]
        return self.place_head(torch.cat(maps, dim=1).flatten(2).transpose(1, 2))


@dataclass(frozen=True)
class Cells:
    """Who dominates each cell of a grid: ``person`` (S, cells) index or -1, and the values of that person."""

    person: Tensor
    attributes: Tensor
    boxes: Tensor


def cells_of(batch: SceneBatch, grid: int) -> Cells:
    """The dominating person of every cell, with attributes (S, cells, A) and box (S, cells, 4)."""
    people, attributes, boxes = [], [], []
    for masks, table, box in zip(batch.person_masks, batch.attributes, batch.person_boxes):
        share, person = F.adaptive_avg_pool2d(masks, grid).flatten(1).max(dim=0)
        attributes.append(table[person])
        boxes.append(box[person])
        people.append(torch.where(share > CELL_SHARE, person, torch.full_like(person, -1)))
    return Cells(torch.stack(people), torch.stack(attributes), torch.stack(boxes))


def attribute_loss(logits: Tensor, attributes: Tensor) -> Tensor:
    """Mean cross entropy over the attributes; logits (n, values), attributes (n, A)."""
    parts = logits.float().split(list(ATTRIBUTES.values()), dim=1)
    return sum(F.cross_entropy(part, attributes[:, i]) for i, part in enumerate(parts)) / len(parts)


def pretraining_loss(model: ScratchReLA, batch: SceneBatch, progress: float):
    """Name the person at every place of the stride-8 map, and say whether there is one."""
    logits = model.places(batch.images)
    cells = cells_of(batch, round(logits.shape[1] ** 0.5))
    present = cells.person >= 0
    named = attribute_loss(logits[present][:, :-1], cells.attributes[present])
    person = F.binary_cross_entropy_with_logits(logits[..., -1].float(), present.float())
    return named + person, {"named": named.detach(), "person": person.detach()}


def joint_loss(model: ScratchReLA, batch: SceneBatch, progress: float, weights: ScratchWeights | None = None):
    """All terms of the joint stage; see the module."""
    weights = weights or ScratchWeights()
    network = model.network
    output = network(batch.images, batch.token_ids, batch.attention_mask, image_index=batch.image_index)
    index, grid = batch.image_index, network.config.grid
    targets, masks = batch.targets, batch.targets.masks
    cells = cells_of(batch, grid)
    terms: dict[str, Tensor] = {}

    logits = (output.mask_logits[:, 1] - output.mask_logits[:, 0]).float()
    logits = F.interpolate(logits[:, None], size=masks.shape[-2:], mode="bilinear", align_corners=False)[:, 0]
    terms["mask"] = F.binary_cross_entropy_with_logits(logits, masks)
    terms["dice"] = dice_loss(logits, masks)

    wanted = coverage_target(masks, grid)
    passes = [(m[..., 1] - m[..., 0]).float() for m in (*output.pass_minimaps[1:], output.minimap_logits)]
    losses = [F.binary_cross_entropy_with_logits(p, wanted) for p in passes]
    terms["minimap"] = (sum(losses) + losses[-1]) / (len(losses) + 1)

    terms["count"] = count_loss(output.count_logits, targets.counts)
    terms["boxes"] = dense_box_loss(output.boxes_cxcywh, cells, index)
    l1, giou = box_losses(output, targets.boxes_cxcywh)
    terms["boxes"] = terms["boxes"] + 5 * l1 + 2 * giou

    early = F.interpolate(
        model.early_mask_head(model._fine_memory).float(), size=(MASKS_EARLY, MASKS_EARLY), mode="bilinear"
    )[:, 0]
    terms["early_mask"] = F.binary_cross_entropy_with_logits(early, F.adaptive_avg_pool2d(masks, MASKS_EARLY))

    present = cells.person >= 0
    regions = model.region_head(output.features)[present[index]]
    trunk = model.trunk_head(model._trunk)
    trunk_cells = cells if trunk.shape[1] == grid**2 else cells_of(batch, round(trunk.shape[1] ** 0.5))
    trunk_present = trunk_cells.person >= 0
    terms["attributes"] = attribute_loss(regions, cells.attributes[index][present[index]]) + attribute_loss(
        trunk[trunk_present[index]], trunk_cells.attributes[index][trunk_present[index]]
    )
    weights = replace(weights, count=weights.count + progress * (weights.count_at_end - weights.count))
    total = sum(getattr(weights, name) * value for name, value in terms.items())
    return total, {name: value.detach() for name, value in terms.items()}


def dice_loss(logits: Tensor, target: Tensor) -> Tensor:
    """1 - Dice, mean over the expressions that have a target (0 if none has)."""
    probability, target = logits.sigmoid().flatten(1), target.flatten(1)
    inter = (probability * target).sum(dim=1)
    dice = (2 * inter + 1) / (probability.sum(dim=1) + target.sum(dim=1) + 1)
    has_target = (target.sum(dim=1) > 0).float()
    return ((1 - dice) * has_target).sum() / has_target.sum().clamp(min=1)


def dense_box_loss(boxes: Tensor, cells: Cells, index: Tensor) -> Tensor:
    """5 L1 + 2 (1 - GIoU), mean over the cells that belong to somebody."""
    present = (cells.person >= 0)[index]
    predicted, wanted = boxes[present], cells.boxes[index][present]
    giou = paired_giou(to_xyxy(predicted), to_xyxy(wanted))
    return 5 * (predicted - wanted).abs().sum(dim=1).mean() + 2 * (1 - giou).mean()

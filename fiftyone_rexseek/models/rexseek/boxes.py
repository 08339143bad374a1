"""The box encoder: ROI features of several levels plus a sine code of the box. It has no parameters."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from .config import RexSeekConfig

# Values of one intermediate tensor: half a gigabyte of float32.
_MOST_VALUES = 2**27


def roi_features(
    features: Sequence[Tensor], boxes: Sequence[Tensor], image_size: int, roi_size: int = 7
) -> Tensor:
    """Mean ROI-align feature of each box over all levels, computed in float32.

    The public code brings every level to the size of the first one (bilinear), pools ``roi_size`` x ``roi_size`` bins
    and averages them. All of this is linear in the features, and in each direction alone: a box's feature is the
    level, weighted by one weight per row and one per column. So nothing is resized or pooled here, only multiplied.

    The legacy ROI-align is meant (no half-pixel shift; a side is at least one cell), so boxes without area,
    inverted ones and ones outside the image still give finite features.

    Args:
        features: levels (B, C_i, H_i, W_i), largest first
        boxes: B tensors (n_b, 4), ``xyxy`` in pixels of the square image
        image_size: side of the square image

    Returns:
        (sum of n_b, sum of C_i) float32
    """
    device, size = features[0].device, features[0].shape[-1]
    cells = torch.nn.utils.rnn.pad_sequence([b.float() for b in boxes], batch_first=True)
    cells = cells * (size / image_size)
    real = torch.arange(cells.shape[1]) < torch.tensor([len(b) for b in boxes])[:, None]
    # boxes on the CPU do not wait for the GPU to have done what it was asked before
    real = real.flatten().nonzero()[:, 0].to(device, non_blocking=True)
    columns = _weights(cells[..., 0], cells[..., 2], size, roi_size, device)
    rows = _weights(cells[..., 1], cells[..., 3], size, roi_size, device)
    pooled = []
    with torch.autocast(device.type, enabled=False):
        for level in features:
            channels, height, width = level.shape[1:]
            # what each cell of the largest level takes from the cells of this one
            identity = torch.eye(width, device=device)[None]
            spread = F.interpolate(identity, size=size, mode="linear", align_corners=False)[0].T
            group = max(1, _MOST_VALUES // (channels * height * max(width, cells.shape[1])))
            parts = []
            for images, r, c in zip(*(t.split(group) for t in (level, rows @ spread, columns @ spread))):
                across = images.float().flatten(1, 2) @ c.mT  # (images, channels height, boxes)
                parts.append((across.unflatten(1, (channels, height)) * r.mT[:, None]).sum(dim=2).mT)
            pooled.append(torch.cat(parts))
    return torch.cat(pooled, dim=2).flatten(0, 1).index_select(0, real)


def _weights(starts: Tensor, ends: Tensor, size: int, roi_size: int, device: torch.device) -> Tensor:
    """How much each of ``size`` cells counts in ROI-align's mean over stretches (B, n): float32 (B, n, size).

    A stretch has ``roi_size`` bins of equally many samples, at least one in every cell's length. A sample that lies
    between the centres of two cells is interpolated; further outside than one cell it counts nothing.
    """
    lengths = (ends - starts).clamp(min=1)
    samples = roi_size * (lengths / roi_size).ceil()
    order = torch.arange(int(samples.max()) if samples.numel() else 0, device=device)
    stretches = torch.stack([starts, lengths, samples]).to(device, non_blocking=True).flatten(1)[..., None]
    cells = torch.arange(size, device=device)
    weights = []
    group = max(1, _MOST_VALUES // (size * max(1, len(order))))
    for start, length, number in (part.unbind() for part in stretches.split(group, dim=1)):
        at = start + (order + 0.5) * length / number
        counts = (order < number) & (at >= -1) & (at <= size)
        near = (1 - (at.clamp(0, size - 1)[..., None] - cells).abs()).clamp(min=0)
        weights.append((near * counts[..., None]).sum(dim=1) / number)
    return torch.cat(weights).unflatten(0, starts.shape)


def sine_embedding(
    boxes: Tensor, image_size: int, width: int, temperature: float = 10000.0, function: str = "cxcywh"
) -> Tensor:
    """Sine code of boxes, (n, 4) ``xyxy`` pixels to (n, width) float32, in channel blocks y, x, w, h.

    Channel i of a coordinate's block of ``width // 4`` channels has the angle
    ``2 pi c / temperature^(2 floor(i / 2) / (width // 4))``: its sine where i is even, its cosine where i is odd.

    ``function="xyxy"`` takes the normalised (cx, cy, w, h) for corners and converts them a second time, where the
    extents are measured from the centre that has just overwritten the first corner (see
    :attr:`RexSeekConfig.sine_function`).

    Example::

        >>> sine_embedding(torch.tensor([[0.0, 0.0, 8.0, 4.0]]), image_size=8, width=8).round(decimals=3).abs().tolist()
        [[1.0, 0.0, 0.0, 1.0, 0.0, 1.0, 0.0, 1.0]]
    """
    x1, y1, x2, y2 = (boxes.float() / image_size).unbind(-1)
    cx, cy, w, h = (x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1
    if function == "xyxy":
        cx, cy = (cx + w) / 2, (cy + h) / 2
        w, h = w - cx, h - cy
    per_coordinate = width // 4
    index = torch.arange(per_coordinate, dtype=torch.float32, device=boxes.device)
    period = temperature ** (2 * torch.div(index, 2, rounding_mode="floor") / per_coordinate)
    angles = torch.stack([cy, cx, w, h], dim=-1)[..., None] * (2 * math.pi) / period  # (n, 4, per_coordinate)
    code = torch.stack([angles[..., 0::2].sin(), angles[..., 1::2].cos()], dim=-1)
    return code.flatten(-3)


def encode_boxes(config: RexSeekConfig, features: Sequence[Tensor], boxes: Sequence[Tensor]) -> Tensor:
    """ROI feature plus sine code of every box: (sum of n_b, ``config.object_width``) float32."""
    flat = torch.cat([b.float() for b in boxes]).to(features[0].device, non_blocking=True)
    sine = sine_embedding(
        flat, config.image_size, config.object_width, config.sine_temperature, config.sine_function
    )
    return roi_features(features, boxes, config.image_size, config.roi_size) + sine

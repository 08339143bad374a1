"""The box encoder: ROI features of several levels plus a sine code of the box. It has no parameters."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from .config import RexSeekConfig

# Values of an upsampled level that are held at once: half a gigabyte of float32.
_MOST_VALUES = 2**27


def roi_features(
    features: Sequence[Tensor], boxes: Sequence[Tensor], image_size: int, roi_size: int = 7
) -> Tensor:
    """Mean ROI-align feature of each box over all levels, computed in float32.

    Every level is brought to the size of the first one (bilinear) before pooling, as in the public code, but one
    level and a few images at a time: neither mixes with the others, so the numbers are the same, and memory does not
    grow with the batch.

    The legacy ROI-align is used (no half-pixel shift; a side is at least one cell), so boxes without area,
    inverted ones and ones outside the image still give finite features.

    Args:
        features: levels (B, C_i, H_i, W_i), largest first
        boxes: B tensors (n_b, 4), ``xyxy`` in pixels of the square image
        image_size: side of the square image

    Returns:
        (sum of n_b, sum of C_i) float32
    """
    from torchvision.ops import roi_align

    size = features[0].shape[-2:]
    rois = [b.to(device=features[0].device, dtype=torch.float32) for b in boxes]
    pooled = []
    for level in features:
        group = max(1, _MOST_VALUES // (level.shape[1] * size[0] * size[1]))
        parts = []
        for start in range(0, len(rois), group):
            images = level[start : start + group].float()
            if images.shape[-2:] != size:
                images = F.interpolate(images, size=size, mode="bilinear", align_corners=False)
            bins = roi_align(
                images,
                rois[start : start + group],
                roi_size,
                spatial_scale=size[-1] / image_size,
                sampling_ratio=-1,
                aligned=False,
            )
            parts.append(bins.mean(dim=(2, 3)))
        pooled.append(torch.cat(parts))
    return torch.cat(pooled, dim=1)


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
    flat = torch.cat([b.to(device=features[0].device, dtype=torch.float32) for b in boxes])
    sine = sine_embedding(
        flat, config.image_size, config.object_width, config.sine_temperature, config.sine_function
    )
    return roi_features(features, boxes, config.image_size, config.roi_size) + sine

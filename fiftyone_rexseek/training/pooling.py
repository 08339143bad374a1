"""ROI features for training on a CPU: the same numbers as ``models.rexseek.boxes.roi_features``, as two matrix products.

The mean of ROI-align's bins is linear in the feature map and its sampling points form a grid, so that the weights of
rows and columns separate; bringing a level to the size of the first one separates too. The backward pass is then a
matrix product as well, instead of a scatter per sampling point.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ..models.rexseek.boxes import sine_embedding
from ..models.rexseek.config import RexSeekConfig


def axis_weights(start: Tensor, stop: Tensor, size: int, bins: int) -> Tensor:
    """Weight of every cell of an axis in ROI-align's mean (legacy variant, adaptive sampling): (n, size).

    Args:
        start, stop: (n,) box sides in cells
        size: cells
        bins: bins per side
    """
    length = (stop - start).clamp(min=1.0)
    samples = torch.ceil(length / bins)  # per bin
    most = int(samples.max())
    index = torch.arange(most, device=start.device)
    offsets = (torch.arange(bins, device=start.device)[None, :, None] + (index + 0.5) / samples[:, None, None])
    at = start[:, None, None] + offsets * (length / bins)[:, None, None]  # (n, bins, samples)
    used = (index < samples[:, None, None]) & (at >= -1) & (at <= size)
    at = at.clamp(0, size - 1)
    low = at.floor().clamp(max=size - 1)
    high = (low + 1).clamp(max=size - 1)
    share = at - low
    weight = used / (samples[:, None, None] * bins)
    result = torch.zeros(len(start), size, device=start.device)
    flat = lambda t: t.flatten(1)  # noqa: E731
    result.scatter_add_(1, flat(low.long().expand_as(at)), flat((1 - share) * weight))
    result.scatter_add_(1, flat(high.long().expand_as(at)), flat(share * weight))
    return result


def pooled_boxes(config: RexSeekConfig, features: Sequence[Tensor], boxes: Sequence[Tensor]) -> Tensor:
    """``models.rexseek.boxes.encode_boxes`` by matrix products: (sum of n_b, ``config.object_width``) float32."""
    size = features[0].shape[-1]
    counts = [len(b) for b in boxes]
    flat = torch.cat(list(boxes)).to(features[0].device).float()
    cells = flat * (size / config.image_size)
    with torch.no_grad():
        columns = axis_weights(cells[:, 0], cells[:, 2], size, config.roi_size)
        rows = axis_weights(cells[:, 1], cells[:, 3], size, config.roi_size)
    pad = torch.nn.utils.rnn.pad_sequence
    columns, rows = (pad(w.split(counts), batch_first=True) for w in (columns, rows))  # (B, N, size)
    here = torch.arange(max(counts), device=flat.device) < torch.tensor(counts, device=flat.device)[:, None]
    pooled = []
    with torch.autocast(flat.device.type, enabled=False):
        for level in features:
            h = level.shape[-1]
            to_level = lambda w, h=h: w if h == size else w @ _upsampling(h, size, w.device)  # noqa: E731
            wx, wy = to_level(columns), to_level(rows)
            weights = (wy[..., :, None] * wx[..., None, :]).flatten(2)  # (B, N, h h)
            pooled.append(weights @ level.float().flatten(2).mT)
    sine = sine_embedding(flat, config.image_size, config.object_width, config.sine_temperature, config.sine_function)
    return torch.cat(pooled, -1)[here] + sine


def _upsampling(small: int, large: int, device) -> Tensor:
    """Matrix (large, small) of bilinear interpolation along one axis, align_corners off."""
    eye = torch.eye(small, device=device)[None]
    return F.interpolate(eye, size=large, mode="linear", align_corners=False)[0].mT

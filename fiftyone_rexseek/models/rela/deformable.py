"""Multi-scale deformable attention (Deformable DETR) in plain PyTorch, and the sine position code."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class DeformableAttention(nn.Module):
    """Every query samples ``points`` places of every level around its reference point.

    query (B, Q, D), reference points (Q, 2) relative (x, y), value (B, sum HW, D) -> (B, Q, D).
    Sampling is bilinear with zeros outside; offsets are in pixels of each level.
    """

    def __init__(self, dim: int, heads: int, levels: int, points: int):
        super().__init__()
        self.heads, self.levels, self.points = heads, levels, points
        self.sampling_offsets = nn.Linear(dim, heads * levels * points * 2)
        self.attention_weights = nn.Linear(dim, heads * levels * points)
        self.value_proj = nn.Linear(dim, dim)
        self.output_proj = nn.Linear(dim, dim)
        self._reset()

    def _reset(self) -> None:
        """Heads look in different directions, points ever further away, all weights equal (Deformable DETR)."""
        nn.init.zeros_(self.sampling_offsets.weight)
        angles = torch.arange(self.heads, dtype=torch.float32) * (2 * math.pi / self.heads)
        direction = torch.stack([angles.cos(), angles.sin()], dim=-1)
        direction = direction / direction.abs().amax(dim=-1, keepdim=True)
        steps = torch.arange(1, self.points + 1, dtype=torch.float32)
        offsets = direction[:, None, None] * steps[None, None, :, None]
        with torch.no_grad():
            self.sampling_offsets.bias.copy_(offsets.expand(-1, self.levels, -1, -1).reshape(-1))
        nn.init.zeros_(self.attention_weights.weight)
        nn.init.zeros_(self.attention_weights.bias)
        for linear in (self.value_proj, self.output_proj):
            nn.init.xavier_uniform_(linear.weight)
            nn.init.zeros_(linear.bias)

    def forward(self, query: Tensor, reference: Tensor, value: Tensor, sizes: list[tuple[int, int]]) -> Tensor:
        b, n, _ = query.shape
        value = self.value_proj(value).view(b, -1, self.heads, value.shape[-1] // self.heads)
        offsets = self.sampling_offsets(query).float().view(b, n, self.heads, self.levels, self.points, 2)
        weights = self.attention_weights(query).view(b, n, self.heads, -1).softmax(dim=-1)
        weights = weights.view(b, n, self.heads, self.levels, self.points)
        # Sizes are plain numbers: building a tensor from them would cost a copy (and a graph break) per call.
        scaled = [
            torch.stack((offsets[:, :, :, i, :, 0] / w, offsets[:, :, :, i, :, 1] / h), dim=-1)
            for i, (h, w) in enumerate(sizes)
        ]
        locations = [reference[None, :, None, None, :] + o for o in scaled]
        return self.output_proj(sample_and_sum(value, locations, weights, sizes).to(query.dtype))


def sample_and_sum(
    value: Tensor, locations: list[Tensor], weights: Tensor, sizes: list[tuple[int, int]]
) -> Tensor:
    """Weighted sum of bilinear samples over all levels and points.

    Args:
        value: (B, sum HW, heads, d), levels one after the other
        locations: per level (B, Q, heads, points, 2), relative (x, y) in [0, 1]
        weights: (B, Q, heads, levels, points)
        sizes: (height, width) of each level

    Returns:
        (B, Q, heads * d)

    ``grid_sample`` does the work, once per level, always in float32: sampling places rounded to bfloat16 would be off by a
    tenth of a pixel. Samples are reduced level by level, so that memory holds one level's samples at a time.
    """
    value, weights = value.float(), weights.float()
    b, _, heads, d = value.shape
    queries, points = locations[0].shape[1], locations[0].shape[3]
    value = value.permute(0, 2, 3, 1).reshape(b * heads, d, -1)
    out, start = None, 0
    for level, (height, width) in enumerate(sizes):
        level_value = value[:, :, start : start + height * width].view(b * heads, d, height, width)
        start += height * width
        # Points before queries: their sum then runs over whole rows, in place, without a product of all samples.
        grid = (2 * locations[level] - 1).permute(0, 2, 3, 1, 4).reshape(b * heads, points, queries, 2)
        samples = F.grid_sample(level_value, grid.float(), mode="bilinear", padding_mode="zeros", align_corners=False)
        weight = weights[:, :, :, level].permute(0, 2, 3, 1).reshape(b * heads, 1, points, queries)
        for point in range(points):
            part, share = samples[:, :, point], weight[:, :, point]
            out = part * share if out is None else out.addcmul_(part, share)
    return out.view(b, heads, d, queries).permute(0, 3, 1, 2).reshape(b, queries, heads * d)


def reference_points(sizes: list[tuple[int, int]], device, dtype=torch.float32) -> Tensor:
    """Relative centres (x, y) of all pixels of all levels, (sum HW, 2).

    Example::

        >>> reference_points([(1, 2)], "cpu").tolist()
        [[0.25, 0.5], [0.75, 0.5]]
    """
    points = []
    for height, width in sizes:
        y = (torch.arange(height, device=device, dtype=dtype) + 0.5) / height
        x = (torch.arange(width, device=device, dtype=dtype) + 0.5) / width
        yy, xx = torch.meshgrid(y, x, indexing="ij")
        points.append(torch.stack([xx.flatten(), yy.flatten()], dim=-1))
    return torch.cat(points)


def sine_position(height: int, width: int, dim: int, device, temperature: float = 10000.0) -> Tensor:
    """Sine code of a map (dim, height, width): first half y, second half x, sine and cosine interleaved.

    Positions count from 1 and are divided by the last one (plus 1e-6), times 2 pi, as in DETR.
    """
    half = dim // 2
    exponent = torch.arange(half, device=device, dtype=torch.float32)
    divisor = temperature ** (2 * torch.div(exponent, 2, rounding_mode="floor") / half)

    def code(length: int) -> Tensor:
        position = torch.arange(1, length + 1, device=device, dtype=torch.float32)
        angle = (position / (length + 1e-6) * 2 * math.pi)[:, None] / divisor
        return torch.stack([angle[:, 0::2].sin(), angle[:, 1::2].cos()], dim=2).flatten(1)  # (length, half)

    y = code(height).T[:, :, None].expand(half, height, width)
    x = code(width).T[:, None, :].expand(half, height, width)
    return torch.cat([y, x])

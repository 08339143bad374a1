"""Multi-scale deformable attention (Deformable DETR) in plain PyTorch, and the sine position code."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

#: Offsets per image from which :func:`gather_and_sum` is the faster one; below, its many small steps cost more.
GATHER_FROM = 100_000


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
        value = self.value_proj(value).float().unflatten(2, (self.heads, -1))
        offsets = self.sampling_offsets(query).float().view(b, n, self.heads, self.levels, self.points, 2)
        # Queries last: the softmax over a middle axis is vectorised; over rows of twelve it takes ten times as long.
        logits = self.attention_weights(query).float().transpose(1, 2)
        weights = logits.reshape(b, self.heads, -1, n).softmax(dim=2).unflatten(2, (self.levels, self.points))
        gathers = value.device.type == "cpu" and not torch.is_grad_enabled() and offsets[0].numel() >= GATHER_FROM
        sample = gather_and_sum if gathers else sample_and_sum
        return self.output_proj(sample(value, reference, offsets, weights, sizes).to(query.dtype))


def sample_and_sum(
    value: Tensor, reference: Tensor, offsets: Tensor, weights: Tensor, sizes: list[tuple[int, int]]
) -> Tensor:
    """Weighted sum of bilinear samples over all levels and points, by ``grid_sample``.

    Args:
        value: (B, sum HW, heads, d), levels one after the other
        reference: (Q, 2), relative (x, y) in [0, 1]
        offsets: (B, Q, heads, levels, points, 2), (x, y) in pixels of each level
        weights: (B, heads, levels, points, Q)
        sizes: (height, width) of each level

    Returns:
        (B, Q, heads * d)

    All in float32: sampling places rounded to bfloat16 would be off by a tenth of a pixel. Samples are reduced level by
    level, so that memory holds one level's samples at a time.
    """
    b, _, heads, d = value.shape
    points, queries = weights.shape[3:]
    value = value.permute(0, 2, 3, 1).reshape(b * heads, d, -1)
    # Points before queries: their sum then runs over whole rows, in place, without a product of all samples.
    offsets = offsets.permute(3, 0, 2, 4, 1, 5).reshape(len(sizes), b * heads, points, queries, 2)
    centre = 2 * reference - 1
    out, start = None, 0
    for level, (height, width) in enumerate(sizes):
        level_value = value[:, :, start : start + height * width].view(b * heads, d, height, width)
        start += height * width
        grid = torch.addcmul(centre, offsets[level], offsets.new_tensor([2 / width, 2 / height]))
        samples = F.grid_sample(level_value, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
        level_weights = weights[:, :, level].reshape(b * heads, 1, points, queries)
        for part, share in zip(samples.unbind(2), level_weights.unbind(2)):
            out = part * share if out is None else out.addcmul_(part, share)
    return out.view(b, heads, d, queries).permute(0, 3, 1, 2).reshape(b, queries, heads * d)


def gather_and_sum(
    value: Tensor, reference: Tensor, offsets: Tensor, weights: Tensor, sizes: list[tuple[int, int]]
) -> Tensor:
    """The numbers of :func:`sample_and_sum`, without gradient, in half of its time on the CPU.

    A bilinear sample is a weighted sum of four pixels, and the sum over levels and points one of four times as many.
    ``embedding_bag`` adds up weighted rows without ever writing the samples down.
    """
    heads, levels, points = offsets.shape[2:5]
    per_head, device = levels * points, value.device

    def of_levels(numbers: list[int]) -> Tensor:  # one for each (head, level, point)
        return torch.tensor(numbers, device=device, dtype=torch.int32).repeat_interleave(points).repeat(heads)

    widths, heights = of_levels([w for _, w in sizes]), of_levels([h for h, _ in sizes])
    # Rows of the table are (pixel, head). Every level has a border of zeros, so that no place is outside.
    areas = [(h + 2) * (w + 2) for h, w in sizes]
    row = (widths + 2) * heads
    origin = of_levels([sum(areas[:i]) for i in range(levels)]) * heads + row + heads
    origin += torch.arange(heads, device=device, dtype=torch.int32).repeat_interleave(per_head)

    def places(axis: int, length: Tensor, moved: Tensor) -> tuple[Tensor, Tensor]:
        """Pixel before each place, -1 at the least, and how far beyond it the place is, 0 to 1."""
        length = length.float()
        place = torch.addcmul(moved[..., axis], reference[:, axis, None], length).sub_(0.5)
        torch.minimum(place, length, out=place).clamp_(min=-1)
        before = torch.minimum(place.floor(), length - 1)
        return before, place.sub_(before)

    results = []
    for image, moved, shares in zip(value, offsets.flatten(2, 4), weights.flatten(1, 3)):
        x, right = places(0, widths, moved)
        y, below = places(1, heights, moved)
        first = y.int().mul_(row).add_(x.int().mul_(heads)).add_(origin)
        shares = shares.t().contiguous()
        bottom = shares * below
        top = shares - bottom
        corners = (top - top * right, top * right, bottom - bottom * right, bottom * right)
        rows = (first, first + heads, first + row, first + row + heads)
        rows, corners = (torch.stack([t.view(-1, per_head) for t in four], dim=1).flatten(1) for four in (rows, corners))
        table = _with_borders(image.flatten(1), sizes, areas).view(-1, image.shape[-1])
        summed = F.embedding_bag(rows, table, per_sample_weights=corners, mode="sum")
        results.append(summed.view(-1, heads * image.shape[-1]))
    return torch.stack(results)


def _with_borders(value: Tensor, sizes: list[tuple[int, int]], areas: list[int]) -> Tensor:
    """Levels (sum HW, D) with one pixel of zeros around each, (sum (H + 2)(W + 2), D)."""
    levels = value.split([h * w for h, w in sizes])
    result = value.new_zeros(sum(areas), value.shape[1])
    for part, level, (h, w) in zip(result.split(areas), levels, sizes):
        part.view(h + 2, w + 2, -1)[1:-1, 1:-1] = level.view(h, w, -1)
    return result


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

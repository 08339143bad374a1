"""Deformable attention: both ways of computing it, against a loop over every sample."""

import math

import pytest
import torch

from fiftyone_rexseek.models.rela import deformable
from fiftyone_rexseek.models.rela.deformable import (
    DeformableAttention,
    gather_and_sum,
    reference_points,
    sample_and_sum,
)


def by_hand(value, reference, offsets, weights, sizes):
    """Bilinear samples with zeros outside, one at a time, in float64."""
    b, _, heads, d = value.shape
    points, queries = weights.shape[3:]
    out = torch.zeros(b, queries, heads, d, dtype=torch.float64)
    for i in range(b):
        for q in range(queries):
            for h in range(heads):
                start = 0
                for level, (height, width) in enumerate(sizes):
                    level_map = value[i, start : start + height * width, h].double().view(height, width, d)
                    start += height * width
                    for p in range(points):
                        dx, dy = offsets[i, q, h, level, p].tolist()
                        x = reference[q, 0].item() * width + dx - 0.5
                        y = reference[q, 1].item() * height + dy - 0.5
                        x0, y0 = math.floor(x), math.floor(y)
                        for yy, wy in ((y0, 1 - (y - y0)), (y0 + 1, y - y0)):
                            for xx, wx in ((x0, 1 - (x - x0)), (x0 + 1, x - x0)):
                                if 0 <= yy < height and 0 <= xx < width:
                                    share = weights[i, h, level, p, q].item() * wy * wx
                                    out[i, q, h] += share * level_map[yy, xx]
    return out.flatten(2).float()


@pytest.mark.parametrize("sizes", [[(2, 3), (4, 6), (7, 11)], [(1, 1), (1, 5), (6, 2)]])
@pytest.mark.parametrize("spread", [0.0, 1.5, 40.0, 1e9])
def test_samples_are_bilinear_with_zeros_outside(sizes, spread):
    torch.manual_seed(0)
    reference = reference_points(sizes, "cpu")
    n, heads, points = len(reference), 2, 3
    value = torch.randn(2, n, heads, 4)
    offsets = torch.randn(2, n, heads, len(sizes), points, 2) * spread
    weights = torch.rand(2, heads, len(sizes), points, n)
    expected = by_hand(value, reference, offsets, weights, sizes)
    for function in (sample_and_sum, gather_and_sum):
        found = function(value, reference, offsets, weights, sizes)
        # a reference point is rounded to float32: a place may be off by a millionth of the map
        torch.testing.assert_close(found, expected, atol=2e-5, rtol=1e-4)


def test_the_layer_gives_the_same_with_and_without_gradients(monkeypatch):
    monkeypatch.setattr(deformable, "GATHER_FROM", 0)
    torch.manual_seed(0)
    sizes = [(3, 4), (6, 8), (12, 16)]
    layer = DeformableAttention(32, 4, 3, 2)
    with torch.no_grad():
        layer.sampling_offsets.weight.normal_()
        layer.attention_weights.weight.normal_()
    x, reference = torch.randn(2, 252, 32), reference_points(sizes, "cpu")
    trained = layer(x, reference, x, sizes)
    trained.sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in layer.parameters())
    for context in (torch.no_grad, torch.inference_mode):
        with context():
            torch.testing.assert_close(layer(x, reference, x, sizes), trained.detach(), atol=1e-5, rtol=1e-4)
    half = layer.to(torch.bfloat16)
    with torch.no_grad():
        assert half(x.bfloat16(), reference, x.bfloat16(), sizes).dtype == torch.bfloat16


def test_gradients_are_exact():
    """Against finite differences, in float64."""
    torch.manual_seed(0)
    sizes = [(2, 2), (3, 4)]
    reference = reference_points(sizes, "cpu", torch.float64)
    n = len(reference)
    inputs = (
        torch.randn(1, n, 2, 2, dtype=torch.float64, requires_grad=True),
        torch.empty(1, n, 2, 2, 2, 2, dtype=torch.float64).uniform_(0.1, 0.4).requires_grad_(),
        torch.rand(1, 2, 2, 2, n, dtype=torch.float64, requires_grad=True),
    )
    assert torch.autograd.gradcheck(lambda v, o, w: sample_and_sum(v, reference, o, w, sizes), inputs, atol=1e-5)

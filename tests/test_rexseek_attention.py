"""Attention of the language model: nothing copied under a mask, and the numbers of transformers' own."""

from types import SimpleNamespace

import pytest
import torch
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from fiftyone_rexseek.models.rexseek.attention import grouped_attention


def inputs(length, kv_heads=2, groups=4, rows=3, seen=20):
    generator = torch.Generator().manual_seed(length)
    module = SimpleNamespace(num_key_value_groups=groups, is_causal=True)
    query = torch.randn(rows, kv_heads * groups, length, 16, generator=generator)
    key, value = torch.randn(2, rows, kv_heads, seen, 16, generator=generator)
    mask = torch.rand(rows, 1, length, seen, generator=generator) > 0.4
    mask[..., 0] = True
    return module, query, key, value, mask


@pytest.mark.parametrize("length", [1, 5])
@pytest.mark.parametrize("groups", [1, 4])
def test_grouped_attention_has_the_numbers_of_sdpa(length, groups):
    module, query, key, value, mask = inputs(length, groups=groups)
    added = torch.zeros(mask.shape).masked_fill(~mask, torch.finfo(torch.float32).min)
    for m in (mask, added, None):
        if m is None:  # without a mask, as many queries as keys: the causal fast path
            key, value = key[:, :, :length], value[:, :, :length]
        ours, _ = grouped_attention(module, query, key, value, m, scaling=0.3)
        theirs, _ = sdpa_attention_forward(module, query, key, value, m, scaling=0.3)
        torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("length", [1, 5])
def test_keys_and_values_are_not_repeated(length, monkeypatch):
    module, query, key, value, mask = inputs(length)
    attend, seen = torch.nn.functional.scaled_dot_product_attention, []

    def watched(query, key, value, **options):
        seen.append((key.data_ptr(), value.data_ptr(), key.shape))
        # kernels of a GPU give their output in another layout
        return attend(query, key, value, **options).transpose(1, 2).contiguous().transpose(1, 2)

    expected, _ = grouped_attention(module, query, key, value, mask)
    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", watched)
    ours, _ = grouped_attention(module, query, key, value, mask)
    assert seen == [(key.data_ptr(), value.data_ptr(), key.shape)]
    torch.testing.assert_close(ours, expected)

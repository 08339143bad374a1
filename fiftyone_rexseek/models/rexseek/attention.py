"""Attention of the language model under a mask, where several query heads share one head of keys and values."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

#: Its name for transformers' ``attn_implementation``.
GROUPED = "rexseek_grouped"


def grouped_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    **kwargs,
) -> tuple[Tensor, None]:
    """transformers' ``sdpa`` with the same numbers, but under a mask nothing is copied for the query heads of a group.

    Fused kernels take either a mask or grouped heads, so transformers repeats all keys and values for every query head of
    a group (8 for RexSeek-3B), some versions for single tokens too, which reads the whole cache at every step. Here the
    heads of a group are more queries of their shared head.
    """
    groups = module.num_key_value_groups
    if attention_mask is None or groups == 1:
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, scaling=scaling, dropout=dropout, **kwargs
        )
    batch, heads, length, width = query.shape
    query = query.reshape(batch, heads // groups, groups * length, width)
    if length > 1:
        attention_mask = attention_mask.repeat(1, 1, groups, 1)
    output = F.scaled_dot_product_attention(
        query, key, value, attn_mask=attention_mask, dropout_p=dropout, scale=scaling
    )
    return output.unflatten(2, (groups, length)).permute(0, 3, 1, 2, 4).flatten(2, 3), None


AttentionInterface.register(GROUPED, grouped_attention)
AttentionMaskInterface.register(GROUPED, sdpa_mask)

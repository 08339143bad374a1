"""The text encoder: a BERT without pooler, from transformers."""

from __future__ import annotations

from torch import Tensor, nn
from transformers import BertConfig, BertModel

from .config import ReLAConfig


def build_text_encoder(config: ReLAConfig) -> BertModel:
    """A randomly initialised ``BertModel`` whose tensor names are those of the public checkpoints."""
    bert = BertConfig(
        vocab_size=config.vocab_size,
        hidden_size=config.text_dim,
        num_hidden_layers=config.text_layers,
        num_attention_heads=config.text_heads,
        intermediate_size=config.text_ffn_dim,
        max_position_embeddings=config.text_positions,
        hidden_dropout_prob=config.text_dropout,
        attention_probs_dropout_prob=config.text_dropout,
        pad_token_id=config.pad_token_id,
    )
    return BertModel(bert, add_pooling_layer=False)


def encode_text(encoder: nn.Module, token_ids: Tensor, attention_mask: Tensor) -> Tensor:
    """Last hidden state (B, N, text_dim) of token ids (B, N); ``attention_mask`` is 1 at real tokens."""
    return encoder(input_ids=token_ids, attention_mask=attention_mask).last_hidden_state

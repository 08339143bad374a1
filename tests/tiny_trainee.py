"""A smaller sister of rexseek-tiny with random weights, for tests of training."""

import torch

from fiftyone_rexseek.datasets.scenes import VOCABULARY
from fiftyone_rexseek.models.rexseek import RexSeek, RexSeekForSelection, RexSeekProcessor
from fiftyone_rexseek.training.tiny import as_rexseek, tiny_config
from fiftyone_rexseek.training.vocabulary import word_tokenizer


def trainee_config(vocab_size: int):
    return tiny_config(vocab_size).replace(
        text=dict(hidden_size=64, intermediate_size=96, num_hidden_layers=3, num_attention_heads=2, num_key_value_heads=1),
        clip=dict(hidden_size=16, intermediate_size=16, num_hidden_layers=2, image_size=42),
        convnext_dims=(8, 8, 16, 16),
        convnext_depths=(1, 1, 1, 1),
        image_size=96,
    )


def trainee(seed: int = 0) -> RexSeek:
    tokenizer = word_tokenizer(VOCABULARY)
    config = trainee_config(len(tokenizer))
    torch.manual_seed(seed)
    return as_rexseek(RexSeekForSelection(config).eval(), RexSeekProcessor(config, tokenizer))

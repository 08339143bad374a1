"""A tiny RexSeek with random weights, whose language model can be scripted, built on the spot for the tests."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import torch

from fiftyone_rexseek.models.rexseek import RexSeek, RexSeekConfig, RexSeekForSelection, RexSeekProcessor

FOLDER = Path(__file__).parent / "fixtures" / "rexseek"


def config(**text) -> RexSeekConfig:
    """64-pixel images, one or two layers of everything; the vocabulary of the reference fixture, padded."""
    sizes = dict(
        vocab_size=520,
        hidden_size=64,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        eos_token_id=408,
        tie_word_embeddings=False,
    )
    clip = dict(
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=28,
        projection_dim=8,
    )
    return RexSeekConfig(
        text={**sizes, **text},
        clip=clip,
        convnext_dims=(8, 8, 16, 16),
        convnext_depths=(1, 1, 1, 1),
        layer_scale_init=1.0,
        image_size=64,
    )


def rexseek(seed: int = 0, generation: dict | None = None, **text) -> RexSeek:
    """Random weights, large enough that greedy steps are no near ties."""
    torch.manual_seed(seed)
    model = RexSeekForSelection(config(**text)).eval().requires_grad_(False)
    for name, parameter in model.named_parameters():
        if parameter.dim() > 1 and name.startswith(("model.", "lm_head")):
            parameter.normal_(std=0.3)
    return RexSeek(model, RexSeekProcessor.from_folder(model.config, FOLDER), generation)


def script(
    rexseek: RexSeek, answer: str, alternatives: dict[str, tuple[str, float]] | None = None
) -> RexSeek:
    """Makes the model write ``answer`` to every question.

    The layers are silenced, so a hidden state is the last token's embedding, and the output layer maps each token to
    its successor with a logit of 20. A token can therefore not occur twice with different successors.

    Args:
        rexseek: changed in place
        answer: text whose tokens are all different
        alternatives: ``{token: (other successor, its logit)}``
    """
    model, processor = rexseek.model, rexseek.processor
    for layer in model.model.layers:
        layer.self_attn.o_proj.weight.zero_()
        layer.mlp.down_proj.weight.zero_()
    hidden = model.model.embed_tokens.embedding_dim
    embedding = torch.linalg.qr(torch.randn(hidden, hidden))[0] * hidden**0.5
    model.lm_head.weight.zero_()
    last = processor.token_ids(1, "x")[-1]
    ids = [last, *processor.encode(answer), *rexseek.eos_ids[:1]]
    assert len(set(ids)) == len(ids) <= hidden, "every token of a script must be different"
    model.model.embed_tokens.weight.normal_(std=0.01)
    for k, token in enumerate(ids):
        model.model.embed_tokens.weight[token] = embedding[k]
    for token, successor in pairwise(ids):
        model.lm_head.weight[successor] += model.model.embed_tokens.weight[token] * 20 / hidden
    for token, (successor, logit) in (alternatives or {}).items():
        token = last if token == "" else processor.tokenizer.convert_tokens_to_ids(token)
        successor = processor.encode(successor)[0]
        model.lm_head.weight[successor] += model.model.embed_tokens.weight[token] * logit / hidden
    return rexseek


def image(seed: int = 0, width: int = 90, height: int = 60) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def boxes(n: int, seed: int = 0, width: int = 90, height: int = 60) -> list[list[float]]:
    rng = np.random.default_rng(seed)
    corner = rng.uniform(0, 0.7, (n, 2)) * (width, height)
    return np.concatenate([corner, corner + rng.uniform(5, 25, (n, 2))], axis=1).tolist()

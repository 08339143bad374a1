"""Trains the models that ship with the package from nothing: ``python -m fiftyone_rexseek.training.tiny``."""

from __future__ import annotations

from ..models.rexseek import RexSeek, RexSeekConfig, RexSeekForSelection, RexSeekProcessor
from .drawn import ATTRIBUTES
from .evaluation import fresh_scenes, score_scenes
from .loop import LoopConfig, train
from .optim import build_optimizers
from .rexseek import RexSeekObjective
from .streams import SceneStream, VisionStream


def tiny_config(vocab_size: int) -> RexSeekConfig:
    """Sizes of ``rexseek-tiny``: about 2 million parameters behind the architecture of RexSeek."""
    return RexSeekConfig(
        text=dict(
            vocab_size=vocab_size,
            hidden_size=128,
            intermediate_size=344,
            num_hidden_layers=6,
            num_attention_heads=4,
            num_key_value_heads=4,
            max_position_embeddings=2048,
            rope_theta=10000.0,
            tie_word_embeddings=True,
        ),
        clip=dict(
            hidden_size=64,
            intermediate_size=192,
            num_hidden_layers=3,  # the last one is not used (select_layer -2)
            num_attention_heads=2,
            image_size=98,
            patch_size=14,
        ),
        convnext_dims=(32, 64, 128, 160),
        convnext_depths=(1, 1, 2, 1),
        layer_scale_init=1.0,
        image_size=224,
    )


class VisionObjective(RexSeekObjective):
    """The attribute term alone: encoders, object projector and attribute head."""

    def forward(self, batch, progress: float = 0.0):
        features = self.model.vision_tower_aux(batch.pixels)
        logits = self.attribute_head(self.encode_boxes(features, batch)).float()
        target = batch.attributes[batch.has_box]
        loss, values = self.attribute_losses(logits, target), {}
        for i, (name, part) in enumerate(zip(ATTRIBUTES, logits.split(self.classes, -1))):
            counted = target[:, i] >= 0
            values[name] = ((part.argmax(-1) == target[:, i]) & counted).sum() / counted.sum().clamp(min=1)
        return loss, values


def call(objective, batch, progress):
    """``loss_fn`` of the loop for objectives."""
    return objective(batch, progress)


def pretrain_vision(objective: VisionObjective, stream: VisionStream, config: LoopConfig):
    """Trains what sees on attributes alone, before language."""
    optimizers = build_optimizers(objective.named_parameters(), lr=3e-3, muon_lr=4e-3, use_muon=is_matrix)
    return train(objective, stream, call, optimizers, config)


def is_matrix(name: str, p) -> bool:
    """Which parameters go to Muon: hidden 2-D weights, no embeddings and no classifiers."""
    return p.ndim == 2 and not any(part in name for part in ("embed", "lm_head", "attribute_head", "identity_head"))


#: Kinds of expressions that the first studies found hard come more often.
BOOST = {
    "direct_neighbour": 1.6, "neighbours": 1.4, "hands_with": 1.6, "hand_in_hand": 1.3, "some_except": 1.5,
    "some_except_those": 1.5, "everyone_except": 1.3, "side_of": 1.3, "between": 1.3, "beside_name": 1.4,
}  # fmt: skip


def train_language(
    objective: RexSeekObjective,
    stream: SceneStream,
    config: LoopConfig,
    processor: RexSeekProcessor,
    validation: dict,
    on_best=None,
):
    """The joint stage: everything learns to answer; the image encoder a little more slowly.

    Args:
        validation: arguments of ``fresh_scenes``, and ``per_domain``
        on_best: see the loop
    """
    scale = lambda name: 0.8 if "vision_tower_aux" in name else 1.0  # noqa: E731
    optimizers = build_optimizers(
        objective.named_parameters(), lr=2e-3, muon_lr=3.5e-3, use_muon=is_matrix, lr_scale=scale
    )

    def validate(trained: RexSeekObjective) -> dict[str, float]:
        options = dict(validation)
        per_domain = options.pop("per_domain", 3)
        rexseek = as_rexseek(trained.model, processor)
        return score_scenes(rexseek, fresh_scenes(**options), per_domain, max_new_tokens=64).headline()

    return train(objective, stream, call, optimizers, config, validate, on_best=on_best)


def as_rexseek(model: RexSeekForSelection, processor: RexSeekProcessor) -> RexSeek:
    """The network with its processor, ready to select."""
    end = processor.tokenizer.eos_token_id
    return RexSeek(model, processor, {"eos_token_id": end, "pad_token_id": processor.tokenizer.pad_token_id})

"""Which parts of a real checkpoint are trained: low-rank adapters on the language model, or parts by name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from ..errors import ConfigError, MissingDependencyError
from ..models.rexseek import RexSeekForSelection

#: Parts of the model that can be trained or frozen by name.
PARTS = {
    "language": ("model.", "lm_head."),
    "clip": ("vision_tower.",),
    "convnext": ("vision_tower_aux.",),
    "projectors": ("mm_projector.", "mm_object_projector."),
}


@dataclass(frozen=True)
class LoraOptions:
    """Low-rank adapters on the Qwen2 layers (Hu et al. 2021), by peft.

    Attributes:
        rank, alpha, dropout: of the adapters
        modules: which linear layers get one
    """

    rank: int = 16
    alpha: float = 32.0
    dropout: float = 0.0
    modules: tuple[str, ...] = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def choose_parts(model: RexSeekForSelection, train: Sequence[str]) -> int:
    """Lets gradients into the named parts only; returns the number of trained parameters.

    Raises:
        ConfigError: a name that is not in :data:`PARTS`
    """
    unknown = [name for name in train if name not in PARTS]
    if unknown:
        raise ConfigError("no such part", expected=f"some of {tuple(PARTS)}", found=unknown[0])
    prefixes = tuple(p for name in train for p in PARTS[name])
    for name, parameter in model.named_parameters():
        # a tied output layer is the embedding under its first name
        parameter.requires_grad_(name.startswith(prefixes) if prefixes else False)
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


def add_lora(model: RexSeekForSelection, options: LoraOptions | None = None) -> None:
    """Puts adapters into ``model.model``; its own weights are frozen, only the adapters get gradients there."""
    options = options or LoraOptions()
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError as error:
        raise MissingDependencyError(
            "peft is not installed", advice="pip install 'fiftyone-rexseek[train]'"
        ) from error
    config = LoraConfig(
        r=options.rank, lora_alpha=options.alpha, lora_dropout=options.dropout, target_modules=list(options.modules)
    )
    for parameter in model.model.parameters():
        parameter.requires_grad_(False)
    inject_adapter_in_model(config, model.model)


def merge_lora(model: RexSeekForSelection) -> None:
    """Adds the adapters into the weights and takes them out, so that the model saves and loads like any other."""
    from peft.tuners.lora import LoraLayer

    for name, module in list(model.model.named_modules()):
        if isinstance(module, LoraLayer):
            module.merge()
            parent_name, _, child = name.rpartition(".")
            parent = model.model.get_submodule(parent_name) if parent_name else model.model
            setattr(parent, child, module.get_base_layer())


def enable_checkpointing(language: nn.Module) -> None:
    """Recomputes activations in the backward pass instead of keeping them: less memory, about a third slower."""
    language.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    language.train()

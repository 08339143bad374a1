"""Which parts of a real checkpoint are trained, for RexSeek and ReLA: parts by name, low-rank adapters, less memory."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from torch import nn
from torch.utils.checkpoint import checkpoint

from ..errors import ConfigError, MissingDependencyError

#: Parts of RexSeek that can be trained or frozen by name.
PARTS = {
    "language": ("model.", "lm_head."),
    "clip": ("vision_tower.",),
    "convnext": ("vision_tower_aux.",),
    "projectors": ("mm_projector.", "mm_object_projector."),
}
#: Linear layers of a Qwen2 decoder.
QWEN2_LAYERS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


@dataclass(frozen=True)
class LoraOptions:
    """Low-rank adapters on linear layers (Hu et al. 2021), by peft.

    Attributes:
        rank, alpha, dropout: of the adapters
        modules: ends of the names of the layers that get one; None: those usual for the model
    """

    rank: int = 16
    alpha: float = 32.0
    dropout: float = 0.0
    modules: tuple[str, ...] | None = None

    @classmethod
    def of_rank(cls, rank: int) -> LoraOptions | None:
        """Adapters of a rank with twice the rank as their scale; None for rank 0.

        Example::

            >>> LoraOptions.of_rank(8).alpha, LoraOptions.of_rank(0)
            (16.0, None)
        """
        return cls(rank=rank, alpha=2.0 * rank) if rank else None


def check_lora(options: LoraOptions | None) -> None:
    """Refuses what are no adapters.

    Raises:
        ConfigError: a rank that is no whole number of at least 1, or no :class:`LoraOptions`
    """
    if options is not None and not isinstance(options, LoraOptions):
        raise ConfigError("bad low-rank adapters", expected="LoraOptions or None", found=repr(options))
    if options is not None and (not isinstance(options.rank, int) or options.rank < 1):
        raise ConfigError("bad rank of low-rank adapters", expected="at least 1", found=options.rank)


def train_only(
    model: nn.Module, parts: Mapping[str, tuple[str, ...]], chosen: Sequence[str], still: tuple[str, ...] = ()
) -> int:
    """Lets gradients into the chosen parts only; returns the number of trained parameters.

    Args:
        model: any module
        parts: name of a part -> how the names of its parameters begin
        chosen: names of parts
        still: beginnings of names that are not trained in any case

    Raises:
        ConfigError: a name that is not in ``parts``

    Example::

        >>> model = nn.ModuleDict({"eye": nn.Linear(2, 3), "ear": nn.Linear(2, 3)})
        >>> train_only(model, {"seeing": ("eye.",)}, ["seeing"]), model["ear"].weight.requires_grad
        (9, False)
    """
    unknown = [name for name in chosen if name not in parts]
    if unknown:
        raise ConfigError("no such part", expected=f"some of {tuple(parts)}", found=unknown[0])
    starts = tuple(start for name in chosen for start in parts[name])
    for name, parameter in model.named_parameters():
        # a tied output layer is the embedding under its first name
        parameter.requires_grad_(bool(starts) and name.startswith(starts) and not (still and name.startswith(still)))
    return trainable(model)


def trainable(model: nn.Module) -> int:
    """Number of parameters that are trained."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


def choose_parts(model: nn.Module, train: Sequence[str]) -> int:
    """:func:`train_only` for RexSeek and :data:`PARTS`."""
    return train_only(model, PARTS, train)


def add_adapters(module: nn.Module, options: LoraOptions, layers: Sequence[str]) -> None:
    """Puts adapters into a module; its own weights are frozen, only the adapters get gradients there.

    Args:
        module: an inner module, whose neighbours stay as they are
        options: of the adapters
        layers: ends of the names of the layers that get one, unless ``options.modules`` says

    Raises:
        ConfigError: the module has no such layer
        MissingDependencyError: peft is not installed
    """
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError as error:
        raise MissingDependencyError(
            "peft is not installed", advice="pip install 'fiftyone-rexseek[train]'"
        ) from error
    check_lora(options)
    ends = list(options.modules or layers)
    names = [name for name, part in module.named_modules() if isinstance(part, nn.Linear)]
    if not any(name == end or name.endswith(f".{end}") for name in names for end in ends):
        raise ConfigError("no layer for low-rank adapters", expected=f"linear layers named {ends}", found=names[:5] or "none")
    for parameter in module.parameters():
        parameter.requires_grad_(False)
    config = LoraConfig(r=options.rank, lora_alpha=options.alpha, lora_dropout=options.dropout, target_modules=ends)
    inject_adapter_in_model(config, module)


def merge_adapters(module: nn.Module) -> None:
    """Adds the adapters into the weights and takes them out, so that the model saves and loads like any other."""
    from peft.tuners.lora import LoraLayer

    for name, layer in list(module.named_modules()):
        if isinstance(layer, LoraLayer):
            layer.merge()
            parent_name, _, child = name.rpartition(".")
            setattr(module.get_submodule(parent_name) if parent_name else module, child, layer.get_base_layer())


def add_lora(model: nn.Module, options: LoraOptions | None = None) -> None:
    """Adapters on RexSeek's language model."""
    add_adapters(model.model, options or LoraOptions(), QWEN2_LAYERS)


def merge_lora(model: nn.Module) -> None:
    """:func:`merge_adapters` of RexSeek's language model."""
    merge_adapters(model.model)


def enable_checkpointing(language: nn.Module) -> None:
    """Recomputes activations in the backward pass instead of keeping them: less memory, about a third slower."""
    language.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    language.train()


def recompute(modules: Iterable[nn.Module]) -> None:
    """The same for modules of any kind: in training each keeps its inputs only. Names of parameters stay."""
    for module in modules:
        module.forward = _Recomputed(module, module.forward)


class _Recomputed:
    """A forward pass that is computed again when its gradients are wanted, with the same random numbers."""

    def __init__(self, module: nn.Module, forward):
        self.module, self.forward = module, forward

    def __call__(self, *args, **kwargs):
        if not self.module.training:
            return self.forward(*args, **kwargs)
        return checkpoint(self.forward, *args, use_reentrant=False, **kwargs)

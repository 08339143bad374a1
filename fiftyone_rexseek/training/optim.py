"""Optimisers and learning-rate schedule.

:class:`Muon` (momentum orthogonalised by a Newton-Schulz iteration, K. Jordan 2024) for weight matrices,
AdamW for everything else: embeddings, norms, biases, convolutions.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable

import torch
from torch import nn

from ..errors import ConfigError

#: Coefficients of the quintic Newton-Schulz iteration; they trade exactness for speed (singular values end near 1).
_NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)


def orthogonalise(matrices: torch.Tensor, steps: int = 5) -> torch.Tensor:
    """Nearest (semi-)orthogonal matrices, roughly: singular values of the result lie in about 0.7 to 1.2.

    Args:
        matrices: (batch, rows, columns)
        steps: iterations

    Example::

        >>> m = torch.randn(2, 6, 4, generator=torch.Generator().manual_seed(0))
        >>> s = torch.linalg.svdvals(orthogonalise(m))
        >>> bool((s > 0.5).all() and (s < 1.4).all())
        True
    """
    a, b, c = _NEWTON_SCHULZ
    wide = matrices if matrices.shape[-2] <= matrices.shape[-1] else matrices.mT
    x = wide / (wide.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(steps):
        gram = x @ x.mT
        x = torch.baddbmm(a * x, torch.baddbmm(b * gram, gram, gram, alpha=c), x)
    return x if wide is matrices else x.mT


class Muon(torch.optim.Optimizer):
    """SGD with Nesterov momentum whose step is orthogonalised, for weight matrices and convolutions.

    Weights of equal shape are orthogonalised together, which matters for small models on a CPU.

    Args:
        params: parameters of at least two dimensions (or groups of them)
        lr: step size; the root-mean-square of a step is about ``0.2 * lr * sqrt(max(rows, columns))`` for every shape
        momentum: of the gradient average
        weight_decay: decoupled, times ``lr``
    """

    def __init__(self, params, lr: float = 3e-3, momentum: float = 0.95, weight_decay: float = 0.0, steps: int = 5):
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "steps": steps})
        for group in self.param_groups:
            for p in group["params"]:
                if p.ndim < 2:
                    raise ValueError(f"Muon takes matrices and convolutions, found shape {tuple(p.shape)}")

    @torch.no_grad()
    def step(self, closure=None):
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            by_shape: dict[torch.Size, list[nn.Parameter]] = defaultdict(list)
            for p in group["params"]:
                if p.grad is not None:
                    by_shape[p.shape].append(p)
            for shape, params in by_shape.items():
                grads = [p.grad for p in params]
                for p in params:
                    if "momentum" not in self.state[p]:
                        self.state[p]["momentum"] = torch.zeros_like(p)
                averages = [self.state[p]["momentum"] for p in params]
                torch._foreach_lerp_(averages, grads, 1 - group["momentum"])
                updates = torch._foreach_lerp(grads, averages, group["momentum"])
                # a convolution is a matrix of outputs by (inputs x kernel)
                directions = orthogonalise(torch.stack(updates).flatten(2), group["steps"])
                # rows > columns: keep the size of the step on the outputs the same for every shape
                scale = max(1.0, shape[0] / directions.shape[2]) ** 0.5
                if group["weight_decay"]:
                    torch._foreach_mul_(params, 1 - group["lr"] * group["weight_decay"])
                torch._foreach_add_(params, list(directions.view(-1, *shape).unbind()), alpha=-group["lr"] * scale)
        return loss


def check_numbers(*positive: str, **values: float | None) -> None:
    """Refuses what no optimiser can work with; None stands for a default and passes.

    Args:
        positive: names of the values that must be above 0; of the others 0 is a value
        **values: by the name that the user knows them by

    Raises:
        ConfigError: a value that is no finite number, or too small

    Example::

        >>> check_numbers("lr", lr=1e-3, clip=0.0)
        >>> check_numbers("lr", lr=-1.0)
        Traceback (most recent call last):
        ...
        fiftyone_rexseek.errors.ConfigError: bad lr; expected a finite number above 0; found -1.0
    """
    for name, value in values.items():
        if value is None:
            continue
        is_number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
        if not is_number or value < 0 or (value == 0 and name in positive):
            least = "above 0" if name in positive else "of at least 0"
            raise ConfigError(f"bad {name}", expected=f"a finite number {least}", found=value)


def build_optimizers(
    named_parameters: Iterable[tuple[str, nn.Parameter]],
    *,
    lr: float,
    muon_lr: float | None = None,
    weight_decay: float = 0.0,
    lr_scale: Callable[[str], float] = lambda name: 1.0,
    use_muon: Callable[[str, nn.Parameter], bool] | None = None,
) -> list[torch.optim.Optimizer]:
    """AdamW, and Muon for the weight matrices when ``muon_lr`` is given.

    Args:
        named_parameters: of the model; those without ``requires_grad`` are left out
        lr: of AdamW
        muon_lr: of Muon; None: everything goes to AdamW
        weight_decay: decoupled, for matrices only
        lr_scale: factor on the learning rate by parameter name; 0 leaves the parameter out
        use_muon: which parameters go to Muon; by default 2-D ones that are no embedding

    Example::

        >>> [type(o).__name__ for o in build_optimizers(nn.Linear(3, 2).named_parameters(), lr=1e-3, muon_lr=1e-2)]
        ['AdamW', 'Muon']
    """
    if use_muon is None:
        use_muon = lambda name, p: p.ndim == 2 and "embed" not in name  # noqa: E731
    adam: dict[tuple[float, float], list[nn.Parameter]] = defaultdict(list)
    muon: dict[float, list[nn.Parameter]] = defaultdict(list)
    for name, p in named_parameters:
        scale = lr_scale(name)
        if not p.requires_grad or scale == 0:
            continue
        if muon_lr is not None and use_muon(name, p):
            muon[scale].append(p)
        else:
            adam[scale, weight_decay if p.ndim >= 2 else 0.0].append(p)
    optimizers: list[torch.optim.Optimizer] = []
    if adam:
        groups = [{"params": ps, "lr": lr * s, "weight_decay": wd} for (s, wd), ps in adam.items()]
        optimizers.append(torch.optim.AdamW(groups, lr=lr, betas=(0.9, 0.98), eps=1e-8))
    if muon:
        groups = [{"params": ps, "lr": muon_lr * s} for s, ps in muon.items()]
        optimizers.append(Muon(groups, lr=muon_lr, weight_decay=weight_decay))
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["base_lr"] = group["lr"]
    return optimizers


def cosine(progress: float, warmup: float = 0.02, final: float = 0.02) -> float:
    """Learning-rate factor at ``progress`` (0 to 1) of the run: linear warm-up, then a half cosine down to ``final``.

    Example::

        >>> [round(cosine(p, warmup=0.1, final=0.0), 2) for p in (0.05, 0.1, 0.55, 1.0)]
        [0.5, 1.0, 0.5, 0.0]
    """
    if progress < warmup:
        return max(progress / warmup, 1e-3)
    along = min(1.0, (progress - warmup) / max(1e-9, 1 - warmup))
    return final + (1 - final) * 0.5 * (1 + math.cos(math.pi * along))

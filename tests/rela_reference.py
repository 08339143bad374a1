"""Reading reference vectors of ReLA: the ones in the repository, or a folder in the same format.

``FIFTYONE_REXSEEK_RELA_REFERENCE=<folder>`` makes the reference tests run on another set (``meta.json`` with ``config``,
``swin_weights.safetensors``, ``swin_case_*.safetensors``, ``swin_loss.safetensors``, the same with ``r50_``).
"""

from __future__ import annotations

import functools
import json
import os
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file

from fiftyone_rexseek.models.rela import ReLAConfig, ReLANetwork
from fiftyone_rexseek.models.rela.weights import load_into

OWN = Path(__file__).parent / "fixtures" / "rela"
FOLDER = Path(os.environ.get("FIFTYONE_REXSEEK_RELA_REFERENCE") or OWN)


def arrays(name: str) -> dict[str, torch.Tensor]:
    """Tensors of a file; bit-packed masks (to keep the repository small) are unpacked."""
    stored = load_file(FOLDER / f"{name}.safetensors")
    result = {k: v for k, v in stored.items() if not k.endswith((".bits", ".shape"))}
    for key in stored:
        if key.endswith(".bits"):
            shape = stored[key.removesuffix(".bits") + ".shape"].tolist()
            flat = np.unpackbits(stored[key].numpy(), count=int(np.prod(shape)))
            result[key.removesuffix(".bits")] = torch.from_numpy(flat.reshape(shape))
    return result


@functools.cache
def weights(backbone: str) -> dict[str, torch.Tensor]:
    return load_file(FOLDER / f"{backbone}_weights.safetensors")


def config(backbone: str) -> ReLAConfig:
    meta = json.loads((FOLDER / "meta.json").read_text())
    return ReLAConfig.from_dict({**meta["config"], "backbone": backbone})


def network(backbone: str, changed: dict[str, torch.Tensor] | None = None) -> ReLANetwork:
    net = ReLANetwork(config(backbone)).eval()
    load_into(net, {**weights(backbone), **(changed or {})}, FOLDER, "custom")
    return net


def cases() -> list[tuple[str, str]]:
    """(backbone, case) of every case file."""
    names = [p.stem.split("_case_") for p in sorted(FOLDER.glob("*_case_*.safetensors"))]
    return [(backbone, case) for backbone, case in names]


def backbones() -> list[str]:
    return sorted(p.stem.removesuffix("_weights") for p in FOLDER.glob("*_weights.safetensors"))

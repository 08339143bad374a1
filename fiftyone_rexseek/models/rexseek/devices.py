"""Where and in which precision a model runs, and how running out of memory looks."""

from __future__ import annotations

import torch

from fiftyone_rexseek.errors import ConfigError


def default_device() -> torch.device:
    """CUDA where there is one, else Apple's MPS, else the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def as_device(device: torch.device | str | None) -> torch.device:
    """A device from its name, such as ``"cuda:1"``; None gives :func:`default_device`.

    Raises:
        ConfigError: no such kind of device, or none on this machine
    """
    if device is None:
        return default_device()
    try:
        found = torch.device(device)
    except (RuntimeError, TypeError) as e:
        raise ConfigError("unknown device", expected="cpu, cuda, cuda:1 or mps", found=device) from e
    there = {"cuda": torch.cuda.is_available, "mps": torch.backends.mps.is_available}.get(found.type)
    if there is not None and not there():
        raise ConfigError(
            f"this machine has no {found.type} device that PyTorch can use",
            found=device,
            advice="Use device='cpu'",
        )
    return found


def default_dtype(device: torch.device) -> torch.dtype:
    """float32 on the CPU; bfloat16 on a GPU that has it, else float16."""
    if device.type == "cpu":
        return torch.float32
    return torch.bfloat16 if device.type == "cuda" and torch.cuda.is_bf16_supported() else torch.float16


def as_dtype(dtype: torch.dtype | str | None) -> torch.dtype | None:
    """A dtype from its name, such as ``"bfloat16"``; None stays None."""
    found = getattr(torch, dtype.removeprefix("torch."), None) if isinstance(dtype, str) else dtype
    if found is None and dtype is None:
        return None
    if not isinstance(found, torch.dtype) or not found.is_floating_point:
        raise ConfigError("unknown dtype", expected="float32, bfloat16 or float16", found=dtype)
    return found


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception of any backend means that memory ran out."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    text = str(error).lower()
    return "out of memory" in text or "can't allocate memory" in text or "not enough memory" in text

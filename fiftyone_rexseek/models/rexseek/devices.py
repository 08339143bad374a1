"""Where and in which precision a model runs, and how running out of memory looks."""

from __future__ import annotations

import torch

from fiftyone_rexseek.errors import ConfigError


def default_device() -> torch.device:
    """CUDA where there is one, else Apple's MPS, else the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def default_dtype(device: torch.device) -> torch.dtype:
    """float32 on the CPU; bfloat16 on a GPU that has it, else float16."""
    if device.type == "cpu":
        return torch.float32
    return torch.bfloat16 if device.type == "cuda" and torch.cuda.is_bf16_supported() else torch.float16


def as_dtype(dtype: torch.dtype | str | None) -> torch.dtype | None:
    """A dtype from its name, such as ``"bfloat16"``; None stays None."""
    if dtype is None or isinstance(dtype, torch.dtype):
        return dtype
    found = getattr(torch, dtype.removeprefix("torch."), None)
    if not isinstance(found, torch.dtype):
        raise ConfigError("unknown dtype", expected="float32, bfloat16 or float16", found=dtype)
    return found


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception of any backend means that memory ran out."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    text = str(error).lower()
    return "out of memory" in text or "can't allocate memory" in text or "not enough memory" in text

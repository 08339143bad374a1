"""Paths in forms: of folders and files on the machine where FiftyOne runs."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path

from fiftyone.operators import types

from fiftyone_rexseek.errors import ConfigError

from .base import invalid


def choose_path(ctx, inputs: types.Object, name: str, **options) -> tuple[types.Property, Path | None]:
    """A required path; returns its property and what is typed now."""
    prop = inputs.str(name, required=True, **options)
    text = (ctx.params.get(name) or "").strip()
    return prop, Path(text).expanduser() if text else None


def folder_to_write(ctx, inputs: types.Object, name: str, replaced: str, **options) -> None:
    """A required folder to write into; the form says what is wrong with it, or that it holds files already.

    Args:
        ctx, inputs: of the form
        name: of the parameter
        replaced: what happens to files that are there
        **options: of the property
    """
    prop, folder = choose_path(ctx, inputs, name, **options)
    problem = folder_problem(folder) if folder is not None else None
    if problem:
        invalid(prop, problem)
    elif folder is not None and folder.is_dir() and any(folder.iterdir()):
        inputs.view("not_empty", types.Notice(label=f"The folder holds files; {replaced}"))


def folder_problem(folder: str | Path) -> str | None:
    """Why nothing can be written to this folder, or None."""
    path = Path(folder).expanduser()
    if not path.is_absolute():
        return "Give the whole path, beginning with / or ~"
    existing = path
    while not existing.exists() and existing != existing.parent:
        existing = existing.parent
    if not existing.is_dir():
        return f"{existing} is a file"
    if not os.access(existing, os.R_OK | os.W_OK | os.X_OK):
        return f"{existing} may not be written to"
    return None


def count_lines(path: Path) -> int:
    """Number of lines of a file that are not blank; counted once per state of the file."""
    return _count_lines(path, path.stat().st_mtime)


@lru_cache(maxsize=32)
def _count_lines(path: Path, mtime: float) -> int:
    with path.open("rb") as f:
        return sum(1 for line in f if line.strip())


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turns the system's refusal to write into an error that names the place."""
    try:
        yield
    except OSError as e:
        raise ConfigError("cannot be written", where=path, found=e, advice="Choose another place.") from e

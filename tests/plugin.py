"""The plugin of this checkout in the tests' own FiftyOne: its operators, and their forms as a browser gets them."""

from __future__ import annotations

import asyncio
from pathlib import Path

import fiftyone as fo
import fiftyone.operators as foo
from fiftyone.operators.executor import ExecutionError, _parse_ctx, resolve_type

ROOT = Path(__file__).resolve().parent.parent
NAME = "@fiftyone-rexseek/rexseek"


def install() -> None:
    """Links the checkout into the plugins folder of the tests."""
    link = Path(fo.config.plugins_dir) / NAME
    if not link.exists():
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(ROOT, target_is_directory=True)


def operator(name: str) -> foo.Operator:
    return foo.get_operator(f"{NAME}/{name}")


def form(name: str, dataset, params=None, **ctx) -> dict:
    """The form for these values: field -> JSON schema."""
    request = _parse_ctx(ctx={"dataset": dataset, "params": params or {}, **ctx})
    found = asyncio.run(resolve_type(foo.OperatorRegistry(), f"{NAME}/{name}", request))
    return found.to_json()["type"]["properties"]


def complaints(name: str, dataset, params=None, **ctx) -> dict[str, str]:
    """What the form says is wrong, by field."""
    return {k: v["error_message"] for k, v in form(name, dataset, params, **ctx).items() if v["invalid"]}


def execute(name: str, dataset, params=None, **ctx):
    """Executes with exactly these values, as a browser's request would; the result object."""
    return foo.execute_operator(f"{NAME}/{name}", ctx={"dataset": dataset, "params": params or {}, **ctx})


def instructions(result) -> dict[str, dict]:
    """What the App is told to do: operator -> parameters."""
    return {r.operator_uri.rpartition("/")[2]: r.params for r in result.executor._requests}


__all__ = ["NAME", "ROOT", "ExecutionError", "complaints", "execute", "form", "install", "instructions", "operator"]

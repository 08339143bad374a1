"""``fiftyone-rexseek doctor``: what works here, what is missing, and what to do about it."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import click

OK, MISSING, OPTIONAL = "ok", "missing", "optional"
#: Package -> what it is for; those that only some uses need.
PACKAGES = {
    "torch": "models",
    "torchvision": "models",
    "transformers": "models",
    "safetensors": "models",
    "scipy": "models",
    "segment-anything": "masks from boxes (SAM)",
    "spacy": "nouns of expressions, for the detector",
    "groundingdino-py": "the original Grounding DINO",
    "ray": "several machines",
    "pycocoevalcap": "GREG: METEOR and CIDEr",
    "peft": "fine-tuning with LoRA",
}
BROWSERS = ("chromium", "chromium-browser", "google-chrome")


@dataclass(frozen=True)
class Check:
    """One line: what was looked at, its state (ok, missing, optional), what was found, what to do."""

    name: str
    state: str
    found: str
    advice: str = ""


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
@click.option("--no-database", is_flag=True, help="Do not start or contact the database.")
def doctor(as_json, no_database):
    """Say what works here and what is missing. Exits 1 when something necessary is missing."""
    checks = list(run_checks(database=not no_database))
    if as_json:
        click.echo(json.dumps([asdict(c) for c in checks], indent=2))
    else:
        _print(checks)
    if any(c.state == MISSING for c in checks):
        sys.exit(1)


def run_checks(database: bool = True) -> Iterator[Check]:
    """All checks, one after the other; each says what it found instead of raising."""
    yield Check("Python", OK, sys.version.split()[0])
    yield from _packages()
    if importlib.util.find_spec("fiftyone") is None:
        return
    if database:
        yield _guarded("database", _database)
    yield _guarded("installed in FiftyOne", _installed)
    yield _guarded("operators", _operators)
    yield _guarded("GPU", _gpu)
    yield from _weights()
    browser = next((b for b in BROWSERS if shutil.which(b)), None)
    yield Check("browser for the App tests", OK if browser else OPTIONAL, browser or "none", "" if browser else "apt install chromium")
    java = shutil.which("java")
    yield Check("Java for METEOR", OK if java else OPTIONAL, java or "none", "" if java else "install a Java runtime")


def _packages() -> Iterator[Check]:
    for name in ("fiftyone", "numpy", "pillow", "pycocotools", "click", "rich"):
        version = _version(name)
        yield Check(name, OK if version else MISSING, version or "not installed", "" if version else f"pip install {name}")
    for name, use in PACKAGES.items():
        version = _version(name)
        found = version or f"not installed (for {use})"
        yield Check(name, OK if version else OPTIONAL, found, "" if version else f"pip install {name}")


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _guarded(name: str, check: Callable[[], Check]) -> Check:
    try:
        return check()
    # the point of a doctor is to report whatever is broken, not to break with it
    except Exception as e:  # noqa: BLE001
        return Check(name, MISSING, f"{type(e).__name__}: {e}")


def _database() -> Check:
    import fiftyone as fo

    count = len(fo.list_datasets())
    where = fo.config.database_uri or "FiftyOne's own service"
    return Check("database", OK, f"{where}, {count} datasets")


def _installed() -> Check:
    from ..integration.setup import Places, state

    parts = state()
    absent = [name for name, there in parts.items() if not there]
    if not absent:
        return Check("installed in FiftyOne", OK, ", ".join(parts))
    found = f"not there: {', '.join(absent)} (looked below {Places.of_fiftyone().plugin.parent.parent})"
    return Check("installed in FiftyOne", OPTIONAL, found, "fiftyone-rexseek install")


def _operators() -> Check:
    """Whether FiftyOne loads every operator and panel that the plugin declares; asks no database."""
    import fiftyone as fo
    import fiftyone.plugins as fop
    from fiftyone.operators import Panel
    from fiftyone.operators.registry import OperatorRegistry

    from ..integration.setup import PLUGIN_NAME

    plugin = next((p for p in fop.list_plugins(enabled="all") if p.name == PLUGIN_NAME), None)
    if plugin is None:
        found = f"no plugin {PLUGIN_NAME} below {fo.config.plugins_dir}, so none are loaded"
        return Check("operators", OPTIONAL, found, "fiftyone-rexseek install")
    if not any(p.name == PLUGIN_NAME for p in fop.list_plugins(enabled=True)):
        return Check("operators", OPTIONAL, f"the plugin is disabled ({plugin.directory})", f"fiftyone plugins enable {PLUGIN_NAME}")
    registry = OperatorRegistry()
    ours = [o for o in registry.list_operators() if o.uri.startswith(f"{PLUGIN_NAME}/")]
    # FiftyOne counts panels as operators
    absent = sorted(set(plugin.operators) - {o.config.name for o in ours})
    if absent:
        errors = [e for e in registry.list_errors() if "rexseek" in e] or ["no error was reported"]
        found = f"{len(ours)} loaded, not {', '.join(absent)}: {errors[0].strip().splitlines()[-1]}"
        return Check("operators", MISSING, found, f"see {plugin.directory}; reinstall fiftyone-rexseek if files are missing")
    panels = sum(isinstance(o, Panel) for o in ours)
    return Check("operators", OK, f"{len(ours) - panels} operators and {panels} panels loaded")


def _gpu() -> Check:
    if importlib.util.find_spec("torch") is None:
        return Check("GPU", OPTIONAL, "torch is not installed")
    import torch

    if torch.cuda.is_available():
        return Check("GPU", OK, torch.cuda.get_device_name(0))
    if torch.backends.mps.is_available():
        return Check("GPU", OK, "Apple MPS")
    return Check("GPU", OPTIONAL, "none; models run on the CPU")


def _weights() -> Iterator[Check]:
    from ..models.registry import ENTRIES

    for entry in ENTRIES.values():
        if entry.packaged:
            there = entry.packaged_folder.is_dir()
            found = "packaged" if there else "not packaged"
            yield Check(f"weights {entry.name}", OK if there else OPTIONAL, found, "" if there else "make tiny")
        elif entry.repo_id:
            folder = _cached(entry.repo_id)
            advice = "" if folder else f"fetched from {entry.repo_id} on first use, or give weights=<folder>"
            yield Check(f"weights {entry.name}", OK if folder else OPTIONAL, folder or "not downloaded", advice)
        else:
            yield Check(f"weights {entry.name}", OPTIONAL, "given by you", f"weights=<file>; see {entry.source}")


def _cached(repo_id: str) -> str | None:
    try:
        from huggingface_hub import try_to_load_from_cache
    except ImportError:
        return None
    found = try_to_load_from_cache(repo_id, "config.json")
    return str(Path(found).parent) if isinstance(found, str) else None


def _print(checks: list[Check]) -> None:
    from rich.console import Console
    from rich.table import Table

    styles = {OK: "green", MISSING: "red", OPTIONAL: "yellow"}
    table = Table(title="fiftyone-rexseek doctor")
    for heading in ("", "state", "found", "what to do"):
        table.add_column(heading, overflow="fold")
    for c in checks:
        table.add_row(c.name, f"[{styles[c.state]}]{c.state}[/]", c.found, c.advice)
    Console().print(table)

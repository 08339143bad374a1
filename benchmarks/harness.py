"""What a benchmark reports, how it is timed, and how the results are shown and kept.

A benchmark is a module ``benchmarks/bench_NAME.py`` with ``run(quick: bool = False) -> list[Result]``.
Seconds depend on the machine, so a result names the peer that was measured in the same run, the ratio to it and
the target that the project set itself.
"""

from __future__ import annotations

import gc
import importlib
import importlib.metadata
import os
import platform
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

FOLDER = Path(__file__).resolve().parent
RESULTS_FILE = FOLDER / "RESULTS.md"
_PACKAGES = ("numpy", "pycocotools", "fiftyone", "torch", "transformers")


@dataclass(frozen=True)
class Result:
    """One measured figure.

    Attributes:
        name: what was measured
        value: our figure, in ``unit``
        unit: "s", "MB", "samples/s", "Pr@F1" ...
        peer: what it is compared with, measured in the same run (None: an absolute figure)
        ratio: how many times better than the peer (or the target's own quantity where there is no peer)
        target: the ratio (or value, where there is no ratio) that was promised; None = informative only
        note: sizes, settings, anything needed to read the figure
        lower_is_better: for a ``target`` on the value itself, e.g. seconds
    """

    name: str
    value: float
    unit: str = "s"
    peer: str | None = None
    ratio: float | None = None
    target: float | None = None
    note: str = ""
    lower_is_better: bool = False

    @property
    def passed(self) -> bool | None:
        """Whether the target was met; None where none was set."""
        if self.target is None:
            return None
        if self.ratio is not None:
            return self.ratio >= self.target
        return self.value <= self.target if self.lower_is_better else self.value >= self.target


def best_of(function: Callable[[], object], repeats: int = 3, *, cpu: bool = False) -> float:
    """Shortest time of ``function()`` in seconds over ``repeats`` runs; ``cpu`` counts this process's CPU time only.

    The shortest run is the one that other processes disturbed least.
    """
    clock = time.process_time if cpu else time.perf_counter
    times = []
    for _ in range(repeats):
        gc.collect()
        start = clock()
        function()
        times.append(clock() - start)
    return min(times)


def discover() -> dict[str, str]:
    """Name to module of every ``bench_*.py`` beside this file."""
    return {p.stem[len("bench_") :]: f"benchmarks.{p.stem}" for p in sorted(FOLDER.glob("bench_*.py"))}


def run_benchmarks(names: Iterable[str] = (), *, quick: bool = False) -> dict[str, list[Result] | str]:
    """Runs the named benchmarks (all by default); one that cannot run gives its error's text instead of results."""
    known = discover()
    chosen = list(names) or list(known)
    unknown = [n for n in chosen if n not in known]
    if unknown:
        raise ValueError(f"no such benchmark: {', '.join(unknown)}; there are {', '.join(known) or 'none'}")
    results: dict[str, list[Result] | str] = {}
    for name in chosen:
        try:
            results[name] = importlib.import_module(known[name]).run(quick=quick)
        except Exception as e:  # noqa: BLE001 - one broken benchmark must not hide the others; the exit status tells
            results[name] = f"{type(e).__name__}: {e}"
    return results


def environment() -> dict[str, str]:
    """Hardware and versions that the figures belong to."""
    info = {"machine": f"{platform.machine()}, {_cpu_name()}, {os.cpu_count()} cores, {_memory_gb()}{_gpu_name()}"}
    info["python"] = platform.python_version()
    for package in _PACKAGES:
        try:
            info[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return info


def _cpu_name() -> str:
    path = Path("/proc/cpuinfo")
    if path.exists():
        for line in path.read_text().splitlines():
            if line.lower().startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or "unknown processor"


def _gpu_name() -> str:
    torch = sys.modules.get("torch")
    return f", {torch.cuda.get_device_name()}" if torch is not None and torch.cuda.is_available() else ""


def _memory_gb() -> str:
    if not hasattr(os, "sysconf") or "SC_PHYS_PAGES" not in os.sysconf_names:
        return "memory unknown"
    return f"{os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE') / 1e9:.0f} GB"


_HEADERS = ("benchmark", "value", "peer", "ratio", "target", "met", "note")


def _row(r: Result) -> tuple[str, ...]:
    met = {None: "", True: "yes", False: "NO"}[r.passed]
    ratio = "" if r.ratio is None else f"{r.ratio:.3g}x"
    sign = "<=" if r.ratio is None and r.lower_is_better else ">="
    target = "" if r.target is None else f"{sign} {r.target:g}{'x' if r.ratio is not None else ''}"
    return (r.name, f"{r.value:.4g} {r.unit}", r.peer or "", ratio, target, met, r.note)


def print_results(results: dict[str, list[Result] | str], console: Console | None = None) -> None:
    """Prints one table per benchmark."""
    console = console or Console()
    for name, rows in results.items():
        if isinstance(rows, str):
            console.print(f"[bold red]{name} did not run:[/] {rows}", highlight=False)
            continue
        table = Table(title=name, title_justify="left")
        for header in _HEADERS:
            table.add_column(header, overflow="fold")
        for r in rows:
            table.add_row(*_row(r), style="red" if r.passed is False else None)
        console.print(table)


def append_results(results: dict[str, list[Result] | str], path: Path = RESULTS_FILE) -> None:
    """Appends the results with date, hardware and versions to ``RESULTS.md``."""
    lines = []
    if not path.exists():
        lines += ["# Measured results", "", "Appended by `python -m benchmarks --write`, newest last.", ""]
    lines += [f"## {time.strftime('%Y-%m-%d %H:%M')} UTC" if time.timezone == 0 else f"## {time.strftime('%Y-%m-%d %H:%M %Z')}"]
    lines += ["", "; ".join(f"{k} {v}" if k != "machine" else v for k, v in environment().items()), ""]
    for name, rows in results.items():
        lines += [f"### {name}", ""]
        if isinstance(rows, str):
            lines += [f"Did not run: {rows}", ""]
            continue
        lines += ["| " + " | ".join(_HEADERS) + " |", "|" + "---|" * len(_HEADERS)]
        lines += ["| " + " | ".join(c.replace("|", "\\|") for c in _row(r)) + " |" for r in rows] + [""]
    with path.open("a", encoding="utf-8") as f:
        f.write("\n".join(lines) + "\n")

"""Results of evaluation runs as tables in a terminal, and numbers in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table


def print_report(results, digits: int = 3, console: Console | None = None) -> None:
    """Shows one run: its headline numbers, missing answers and trivial baselines."""
    compare([results], digits=digits, console=console)


#: Groups of headline numbers that a terminal has no room for; they are in ``report()`` and in the App.
_FINE = ("sub_domain/", "box_count/")


def compare(runs: Sequence[Any], digits: int = 3, console: Console | None = None, baselines: bool = True) -> None:
    """Shows the headline numbers of several runs side by side, one column each, and the trivial answers."""
    console = console or Console()
    first = runs[0].config
    table = Table(title=f"{first.spec.label}, protocol {first.protocol}")
    table.add_column("")
    for run in runs:
        table.add_column(run.key or run.config.pred_field, justify="right")
    for key, label in _rows(runs):
        table.add_row(label, *(number(_headline(run, key), digits) for run in runs))
    console.print(table)
    for run in runs:
        missing = (run.summary.get("missing") or {}).get("count")
        if missing:
            console.print(f"{run.key or run.config.pred_field}: {missing} samples without an answer")
        for note in run.summary.get("notes") or ():
            console.print(f"{run.key or run.config.pred_field}: {note}")
    if baselines:
        _baselines(runs[0], digits, console)


def _baselines(run, digits: int, console: Console) -> None:
    baselines: Mapping[str, Mapping[str, Any]] = run.summary.get("baselines") or {}
    if not baselines:
        return
    table = Table(title="answers that took no model, on the same samples")
    table.add_column("")
    for name in baselines:
        table.add_column(name, justify="right")
    keys = list(dict.fromkeys(key for values in baselines.values() for key in values))
    for key in keys:
        table.add_row(key, *(number(values.get(key), digits) for values in baselines.values()))
    console.print(table)


def _rows(runs) -> list[tuple[str, str]]:
    return list({h["key"]: (h["key"], h["label"]) for run in runs for h in run.headlines if not h["key"].startswith(_FINE)}.values())


def _headline(run, key: str) -> Any:
    return next((h["value"] for h in run.headlines if h["key"] == key), None)


def number(value: Any, digits: int = 3) -> str:
    """A number for a table; "-" for None.

    Example::

        >>> number(0.12345), number(7), number(None)
        ('0.123', '7', '-')
    """
    if value is None:
        return "-"
    return f"{value:.{digits}f}" if isinstance(value, float) else str(value)


def plural(count: int, noun: str = "sample") -> str:
    """A count in words.

    Example::

        >>> plural(1), plural(1200, "picture")
        ('1 sample', '1,200 pictures')
    """
    return f"{count:,} {noun}" + ("" if count == 1 else "s")

"""What the operators share: icons, progress that shows while work is going on, and errors shown in the form."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from typing import Any

import fiftyone.operators as foo
from fiftyone.operators import types

PLUGIN = "@fiftyone-rexseek/rexseek"
LIGHT_ICON, DARK_ICON = "/assets/icon-light.svg", "/assets/icon-dark.svg"
ICONS = {"light_icon": LIGHT_ICON, "dark_icon": DARK_ICON}


def config(name: str, label: str, description: str, **options: Any) -> foo.OperatorConfig:
    """An operator's configuration with this plugin's icons."""
    return foo.OperatorConfig(name=name, label=label, description=description, **ICONS, **options)


def long_work(name: str, label: str, description: str, **options: Any) -> foo.OperatorConfig:
    """A configuration for work that takes a while and writes: it shows its progress and may be delegated."""
    return config(
        name,
        label,
        description,
        dynamic=True,
        execute_as_generator=True,
        allow_immediate_execution=True,
        allow_delegated_execution=True,
        risk_level=types.RiskLevel.MEDIUM,
        **options,
    )


def invalid(prop: types.Property, message: str) -> None:
    """Marks a property of a form as wrong; the form cannot be executed until it is mended."""
    prop.invalid = True
    prop.error_message = message


def progress_callback(report: Callable[[float, str], None]) -> Callable:
    """A callback for FiftyOne's ``progress=`` arguments that calls ``report(fraction, text)`` twice a second."""
    import fiftyone as fo

    def on_progress(bar) -> None:
        total = bar.total or 0
        report(float(bar.progress or 0), f"{bar.iteration} of {total}" if total else f"{bar.iteration}")

    return fo.report_progress(on_progress, dt=0.5)


def run(ctx, label: str, work: Callable[[Callable], Any]) -> Iterator[Any]:
    """Runs ``work(progress)`` and yields what a generator operator yields: progress, then the work's result last.

    Immediate operators only show progress that they yield, and the work reports it from within a library call: so it runs
    in a thread of its own. A delegated operator reports to its run document and needs no thread. An error is raised here.
    """
    if ctx.delegated:
        yield work(progress_callback(lambda fraction, text: ctx.set_progress(fraction, label=f"{label}: {text}")))
        return
    events: queue.Queue = queue.Queue()

    def target() -> None:
        try:
            events.put(("result", work(progress_callback(lambda *event: events.put(("progress", event))))))
        # the error is raised in the operator's own thread, where FiftyOne shows it
        except BaseException as e:  # noqa: BLE001
            events.put(("error", e))

    threading.Thread(target=target, daemon=True).start()
    while True:
        kind, value = events.get()
        if kind == "progress":
            fraction, text = value
            yield ctx.ops.set_progress(label=f"{label}: {text}", progress=fraction)
        elif kind == "error":
            raise value
        else:
            yield value
            return


def reload(ctx) -> Iterator[Any]:
    """Instructions that make an open App show what was written; nothing when delegated."""
    if not ctx.delegated:
        yield ctx.ops.reload_dataset()

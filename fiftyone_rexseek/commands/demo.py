"""``fiftyone-rexseek demo``: from nothing to the App."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import click


@click.command()
@click.option("--folder", type=click.Path(file_okay=False), default="demo", show_default=True, help="Where to write.")
@click.option("--scenes", type=click.IntRange(min=1), default=200, show_default=True, help="How many to draw.")
@click.option("--seed", type=click.IntRange(min=0), default=7, show_default=True, help="Of the drawing.")
@click.option("--port", type=click.IntRange(1, 65535), default=5151, show_default=True, help="Of the App.")
@click.option("--app/--no-app", default=None, help="Open the App. Default: at a terminal, unless APP=0.")
def demo(folder, scenes, seed, port, app):
    """Draw scenes, import them, score trivial answers and the packaged models, open the App.

    At a terminal the App stays until Ctrl-C. The plugin is loaded from here; nothing is installed.
    """
    started = time.monotonic()
    share_processor()
    use_plugin()
    from ..integration.demo import build
    from ..integration.report import compare

    made = build(Path(folder), num_scenes=scenes, seed=seed, say=lambda line: click.echo(f"  {line}"))
    compare(made.runs, baselines=False)  # they are among the runs
    compare(made.grec)
    compare(made.gres)
    for dataset in (made.dataset, made.grefcoco):
        click.echo(f"{len(dataset)} expressions about {scenes} scenes in dataset {dataset.name!r}; saved views:")
        click.echo("  " + ", ".join(dataset.list_saved_views()))
    click.echo(f"took {time.monotonic() - started:.0f} s")
    if app is None:
        app = sys.stdout.isatty() and os.environ.get("APP", "1") != "0"
    if app:
        _open(made.dataset, port)


def share_processor() -> None:
    """Half of the cores for each of the demo's two processes, and no spinning while threads wait, so that the demo gets on
    beside other work. Read when torch is loaded; what the user has set stays.
    """
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // 2)))
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")


def use_plugin() -> None:
    """Lets FiftyOne (and the server that it starts) find the operators where the plugin is not installed."""
    if "FIFTYONE_PLUGINS_DIR" in os.environ:
        return
    import fiftyone as fo

    from ..integration.setup import plugin_source, state

    if not state()["plugin"]:
        os.environ["FIFTYONE_PLUGINS_DIR"] = fo.config.plugins_dir = str(plugin_source()[0])


def _open(dataset, port: int) -> None:
    import fiftyone as fo

    session = fo.launch_app(dataset, port=port, remote=True)
    click.echo(f"The App is at http://localhost:{port}/datasets/{dataset.name} - Ctrl-C ends it")
    try:
        session.wait(-1)
    except KeyboardInterrupt:
        session.close()

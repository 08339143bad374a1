"""The command line: ``fiftyone-rexseek COMMAND``.

Each command lives in ``commands/`` and is imported when it is used, so that ``--help`` is instant and
scoring two files loads neither FiftyOne nor torch.
"""

from __future__ import annotations

import importlib
import sys

import click

from . import __version__
from .errors import ReferringError


class LazyGroup(click.Group):
    """A click group whose commands are ``"module:attribute"`` strings, imported on first use."""

    def __init__(self, *args, lazy: dict[str, tuple[str, str]] | None = None, **kwargs):
        super().__init__(*args, **kwargs)
        self.lazy = lazy or {}

    def list_commands(self, ctx):
        return sorted({*super().list_commands(ctx), *self.lazy})

    def get_command(self, ctx, name):
        if name not in self.lazy:
            return super().get_command(ctx, name)
        module, _, attribute = self.lazy[name][0].partition(":")
        return getattr(importlib.import_module(module), attribute)

    def format_commands(self, ctx, formatter):
        """Lists the commands from their stated one-line help, without importing them."""
        rows = [(name, self.lazy[name][1]) for name in self.list_commands(ctx) if name in self.lazy]
        with formatter.section("Commands"):
            formatter.write_dl(rows)


_COMMANDS = "fiftyone_rexseek.commands"


@click.group(
    cls=LazyGroup,
    lazy={
        "install": (f"{_COMMANDS}.install:install", "Register the plugin, zoo names and evaluation methods."),
        "uninstall": (f"{_COMMANDS}.install:uninstall", "Take all of that out of FiftyOne again."),
        "doctor": (f"{_COMMANDS}.doctor:doctor", "Say what works here and what is missing."),
        "demo": (f"{_COMMANDS}.demo:demo", "Draw scenes, import, score and open the App on them."),
        "load": (f"{_COMMANDS}.load:load", "Import a benchmark or prediction file into FiftyOne."),
        "apply": (f"{_COMMANDS}.apply:apply", "Ask a model expressions about the samples of a dataset."),
        "evaluate": (f"{_COMMANDS}.evaluate:evaluate", "Score prediction files; needs no database."),
        "export": (f"{_COMMANDS}.export:export", "Write a dataset or predictions in an official format."),
        "train": (f"{_COMMANDS}.train:train", "Train or fine-tune RexSeek or ReLA."),
    },
)
@click.version_option(__version__, prog_name="fiftyone-rexseek")
def cli():
    """Referring expressions in FiftyOne."""


def main() -> None:
    """Entry point: errors of this project are printed in one message, without a traceback."""
    try:
        cli()
    except ReferringError as e:
        click.secho(f"Error: {e}", fg="red", err=True)
        sys.exit(1)

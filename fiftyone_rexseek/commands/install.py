"""``fiftyone-rexseek install`` and ``uninstall``."""

from __future__ import annotations

import click


@click.command()
@click.option("--link/--copy", default=None, help="Link the plugin or copy it. Default: link a checkout, copy a wheel.")
@click.option("--overwrite", is_flag=True, help="Replace a plugin of the same name that came another way.")
def install(link, overwrite):
    """Register the plugin, zoo names and evaluation methods with FiftyOne. Harmless when repeated."""
    from ..integration.setup import install as do

    for line in do(link=link, overwrite=overwrite):
        click.echo(line)
    click.echo("Restart a running App to see the operators. 'fiftyone-rexseek doctor' says what works.")


@click.command()
def uninstall():
    """Take the plugin, zoo names and evaluation methods out of FiftyOne again; datasets stay."""
    from ..integration.setup import uninstall as do

    done = do()
    for line in done:
        click.echo(line)
    if not done:
        click.echo("Nothing was installed.")

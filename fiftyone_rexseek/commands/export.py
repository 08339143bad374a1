"""``fiftyone-rexseek export``: datasets and predictions in the official formats."""

from __future__ import annotations

import click

from .load import load_dataset


@click.group()
def export():
    """Write a dataset or predictions in an official format."""


def _view(dataset: str, saved_view: str | None):
    found = load_dataset(dataset)
    return found.load_saved_view(saved_view) if saved_view else found


def _common(command):
    for option in reversed(
        (
            click.argument("dataset"),
            click.argument("folder", type=click.Path(file_okay=False)),
            click.option("--view", "saved_view", default=None, help="A saved view instead of the whole dataset."),
            click.option(
                "--media",
                type=click.Choice(["copy", "link", "none"]),
                default="copy",
                show_default=True,
                help="What to do with the images.",
            ),
            click.option("--gt-field", default="ground_truth", show_default=True, help="Field of the targets."),
        )
    ):
        command = option(command)
    return command


@export.command()
@_common
def humanref(dataset, folder, saved_view, media, gt_field):
    """HumanRef: annotations.jsonl and images/ in FOLDER."""
    from ..types import HumanRefDataset

    _export(dataset, folder, saved_view, media, gt_field, HumanRefDataset)


@export.command()
@_common
def grefcoco(dataset, folder, saved_view, media, gt_field):
    """gRefCOCO: "grefs(unc).json" and instances.json in FOLDER."""
    from ..types import GRefCOCODataset

    _export(dataset, folder, saved_view, media, gt_field, GRefCOCODataset)


def _export(dataset, folder, saved_view, media, gt_field, dataset_type) -> None:
    samples = _view(dataset, saved_view)
    export_media = {"copy": True, "link": "symlink", "none": False}[media]
    samples.export(folder, dataset_type=dataset_type, export_media=export_media, gt_field=gt_field, progress=True)
    click.echo(f"{len(samples)} samples in {folder}")


@export.command()
@click.argument("dataset")
@click.argument("file", type=click.Path(dir_okay=False))
@click.option("--field", required=True, help="Prediction field.")
@click.option("--view", "saved_view", default=None, help="A saved view instead of the whole dataset.")
def predictions(dataset, file, field, saved_view):
    """Predictions: JSONL with id and extracted_predictions in FILE."""
    from ..integration.predictions import export_predictions

    click.echo(f"{export_predictions(_view(dataset, saved_view), file, field)} rows in {file}")

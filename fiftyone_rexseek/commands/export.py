"""``fiftyone-rexseek export``: datasets and predictions in the official formats."""

from __future__ import annotations

from contextlib import contextmanager

import click

from ..errors import ConfigError
from .load import load_dataset, prediction_format


@click.group()
def export():
    """Write a dataset or predictions in an official format."""


def _view(dataset: str, saved_view: str | None):
    found = load_dataset(dataset)
    if not saved_view:
        return found
    if saved_view not in found.list_saved_views():
        known = ", ".join(found.list_saved_views()) or "none"
        raise ConfigError(f"{dataset!r} has no saved view {saved_view!r}", expected=f"one of: {known}")
    return found.load_saved_view(saved_view)


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
    from ..integration.dataset_types import HumanRefDatasetExporter

    _export(dataset, folder, saved_view, media, gt_field, HumanRefDatasetExporter)


@export.command()
@_common
def grefcoco(dataset, folder, saved_view, media, gt_field):
    """gRefCOCO: "grefs(unc).json" and instances.json in FOLDER."""
    from ..integration.grefcoco import GRefCOCODatasetExporter

    _export(dataset, folder, saved_view, media, gt_field, GRefCOCODatasetExporter)


@export.command()
@_common
@click.option("--benchmark", type=click.Choice(["refcoco", "refcoco+", "refcocog"]), default="refcoco", show_default=True)
def refcoco(dataset, folder, saved_view, media, gt_field, benchmark):
    """RefCOCO, RefCOCO+ or RefCOCOg: "refs(...).json" and instances.json in FOLDER; samples with one target."""
    from ..integration import grefcoco as family

    exporter = family.RefCOCOgDatasetExporter if benchmark == "refcocog" else family.RefCOCODatasetExporter
    _export(dataset, folder, saved_view, media, gt_field, exporter)


def _export(dataset, folder, saved_view, media, gt_field, exporter_class) -> None:
    samples = _view(dataset, saved_view)
    export_media = {"copy": True, "link": "symlink", "none": False}[media]
    exporter = exporter_class(folder, export_media=export_media, gt_field=gt_field)
    with _writing(folder):
        samples.export(dataset_exporter=exporter, progress=True)
    left_out = len(samples) - exporter.count
    without = f"; {left_out} without {exporter.kept or gt_field} left out" if left_out else ""
    click.echo(f"{exporter.count} samples in {folder}{without}")


@contextmanager
def _writing(path):
    """Turns the system's refusal to write into an error that names the place."""
    try:
        yield
    except OSError as e:
        raise ConfigError("cannot be written", where=path, found=e, advice="Choose another place.") from e


@export.command()
@click.argument("dataset")
@click.argument("file", type=click.Path(dir_okay=False))
@click.option("--field", required=True, help="Prediction field.")
@prediction_format
@click.option("--original-size", is_flag=True, help="gres: masks at the size of their image instead of 480x480.")
@click.option("--view", "saved_view", default=None, help="A saved view instead of the whole dataset.")
def predictions(dataset, file, field, file_format, original_size, saved_view):
    """Predictions in FILE, in a benchmark's own format."""
    from ..integration.prediction_files import export_prediction_file

    samples = _view(dataset, saved_view)
    with _writing(file):
        count = export_prediction_file(samples, file, field, file_format, original_size=original_size)
    click.echo(f"{count} rows in {file}")

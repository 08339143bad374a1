"""``fiftyone-rexseek load``: benchmarks and prediction files into FiftyOne."""

from __future__ import annotations

import click

from ..datasets.humanref import DOMAINS


@click.group()
def load():
    """Import a benchmark or a prediction file into FiftyOne. Running it again adds only what is missing."""


def _common(command):
    """Options that all benchmarks share."""
    for option in reversed(
        (
            click.argument("folder", type=click.Path(exists=True, file_okay=False)),
            click.option("--name", default=None, help="Name of the dataset. Default: the benchmark's."),
            click.option("--images", default=None, help="Folder of the images, absolute or below FOLDER."),
            click.option("--labels", default=None, help="Annotation file, absolute or below FOLDER."),
            click.option("--max-samples", type=click.IntRange(min=1), default=None, help="Import at most this many."),
            click.option("--strict", is_flag=True, help="Stop at the first bad row instead of counting it."),
            click.option("--no-masks", is_flag=True, help="Do not draw masks; the source's segmentations are kept."),
        )
    ):
        command = option(command)
    return command


@load.command()
@_common
@click.option("--domain", "domains", type=click.Choice(DOMAINS), multiple=True, help="Only this domain; may be repeated.")
def humanref(folder, name, domains, **options):
    """HumanRef: FOLDER holds annotations.jsonl and images/."""
    from ..integration.dataset_types import HumanRefDatasetImporter

    _load(HumanRefDatasetImporter, folder, name or "humanref", options, domains=list(domains) or None)


@load.command()
@_common
@click.option("--split", "splits", multiple=True, help="Only this split; may be repeated.")
@click.option("--instances", default=None, help="COCO's instances.json, absolute or below FOLDER.")
def grefcoco(folder, name, splits, instances, **options):
    """gRefCOCO: FOLDER holds "grefs(unc).json" and instances.json."""
    from ..integration.grefcoco import GRefCOCODatasetImporter

    more = {"splits": list(splits) or None, "instances_path": instances}
    _load(GRefCOCODatasetImporter, folder, name or "grefcoco", options, **more)


@load.command()
@_common
@click.option("--benchmark", type=click.Choice(["refcoco", "refcoco+", "refcocog"]), default="refcoco", show_default=True)
@click.option("--split", "splits", multiple=True, help="Only this split; may be repeated.")
@click.option("--instances", default=None, help="COCO's instances.json, absolute or below FOLDER.")
@click.option("--partition", default=None, help="unc, umd or google.")
def refcoco(folder, name, benchmark, splits, instances, partition, **options):
    """RefCOCO, RefCOCO+ or RefCOCOg: FOLDER holds "refs(...).p" or .json and instances.json."""
    from ..integration import grefcoco as family

    classes = {
        "refcoco": family.RefCOCODatasetImporter,
        "refcoco+": family.RefCOCOPlusDatasetImporter,
        "refcocog": family.RefCOCOgDatasetImporter,
    }
    more = {"splits": list(splits) or None, "instances_path": instances, "partition": partition}
    _load(classes[benchmark], folder, name or benchmark, options, **more)


prediction_format = click.option(
    "--format", "file_format", type=click.Choice(["humanref", "grec", "gres"]), default=None,
    help="humanref: JSONL with id and extracted_predictions; grec, gres: gRefCOCO's JSON list of boxes, of masks. "
    "Default by the file's ending: .json is grec, anything else humanref.",
)  # fmt: skip


@load.command()
@click.argument("file", type=click.Path(exists=True, dir_okay=False))
@click.option("--dataset", required=True, help="Dataset that holds the annotations.")
@click.option("--field", required=True, help="Field to write.")
@prediction_format
@click.option("--overwrite", is_flag=True, help="Replace the field if it exists.")
@click.option("--strict", is_flag=True, help="Stop at the first problem, before anything is written.")
def predictions(file, dataset, field, file_format, overwrite, strict):
    """Predictions: FILE is of a benchmark's own format."""
    from ..integration.prediction_files import import_prediction_file

    options = {"overwrite": overwrite, "strict": strict, "progress": True}
    report = import_prediction_file(load_dataset(dataset), file, field, file_format, **options)
    click.echo(report.summary())


def load_dataset(name: str):
    """A FiftyOne dataset by name; raises :class:`ConfigError` with the names there are."""
    import fiftyone as fo

    from ..errors import ConfigError

    if not fo.dataset_exists(name):
        known = ", ".join(fo.list_datasets()[:20]) or "none yet"
        raise ConfigError(f"there is no dataset {name!r}", expected=f"one of: {known}")
    return fo.load_dataset(name)


def _load(importer_class, folder, name, options, **more) -> None:
    import fiftyone as fo

    from ..errors import DataError

    importer = importer_class(
        folder,
        data_path=options["images"],
        labels_path=options["labels"],
        max_samples=options["max_samples"],
        strict=options["strict"],
        mask_storage="none" if options["no_masks"] else "database",
        **{k: v for k, v in more.items() if v is not None},
    )
    new = not fo.dataset_exists(name)
    dataset = _new_dataset(name) if new else fo.load_dataset(name)
    if not new:
        click.echo(f"{name} exists with {len(dataset)} samples; what it lacks is added")
    try:
        dataset.add_importer(importer, progress=True)
        empty = not len(dataset)
    finally:
        if new and not len(dataset):
            dataset.delete()  # nothing was imported: leave nothing behind
    if new and empty:
        raise DataError(
            "nothing was imported",
            where=importer.labels(),
            expected="at least one usable row",
            found=importer.report.summary(),
            advice="Do --split or --domain leave anything?",
        )
    click.echo(f"{name}: {importer.report.summary()}")
    click.echo(f"Open it with: fiftyone app launch {name}")


def _new_dataset(name: str):
    import fiftyone as fo

    from ..errors import ConfigError

    try:
        return fo.Dataset(name, persistent=True)
    except ValueError as e:  # FiftyOne's own rules for names
        raise ConfigError("the dataset cannot be made", found=e, advice="Choose another --name.") from e

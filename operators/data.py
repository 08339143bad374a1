"""Import and export of annotations: HumanRef, gRefCOCO and the RefCOCO family."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

from fiftyone.operators import types

from fiftyone_rexseek.datasets.humanref import DOMAINS, read_humanref
from fiftyone_rexseek.datasets.refcoco import FAMILY
from fiftyone_rexseek.datasets.refs import SPLITS
from fiftyone_rexseek.integration.dataset_types import HumanRefDatasetExporter, HumanRefDatasetImporter
from fiftyone_rexseek.integration.grefcoco import (
    GRefCOCODatasetExporter,
    RefCOCODatasetExporter,
    importer_for,
)

from .calling import dropdown, plural
from .files import ExportingOperator, ImportingOperator
from .paths import count_lines


class ImportHumanRef(ImportingOperator):
    about = "import_humanref", "Import HumanRef", "Annotations in HumanRef's format: one sample per image and expression"
    folder = "With annotations.jsonl and images/"
    places = (("labels_path", "Annotations", "annotations.jsonl"), ("data_path", "Images", "images/"))

    def importer_class(self, params):
        return HumanRefDatasetImporter

    def choose(self, ctx, inputs):
        view = dropdown(DOMAINS, multiple=True)
        inputs.list("domains", types.String(), label="Domains", description="None chosen: all", view=view)

    def found(self, importer):
        path = importer.labels()
        _require_humanref(path, path.stat().st_mtime)
        return f"{plural(count_lines(path), 'row')} in {super().found(importer)}"


# a form is drawn again with every keystroke
@lru_cache(maxsize=32)
def _require_humanref(path: Path, mtime: float) -> None:
    """Raises :class:`fiftyone_rexseek.errors.DataError` for a file without a row of HumanRef's format."""
    next(iter(read_humanref(path, check_masks=False)))


class ImportGRefCOCO(ImportingOperator):
    about = "import_grefcoco", "Import gRefCOCO", "Annotations in gRefCOCO's format: one sample per image and expression"
    folder = 'With "grefs(unc).json", instances.json and COCO\'s train2014 images'
    places = (
        ("labels_path", "Refs", '"grefs(unc).json"'), ("instances_path", "Instances", "instances.json"),
        ("data_path", "Images", "images/train2014, train2014 or images"),
    )  # fmt: skip

    def importer_class(self, params):
        return importer_for("grefcoco")

    def choose(self, ctx, inputs):
        self._splits(inputs, SPLITS[:4])

    @staticmethod
    def _splits(inputs, names: Sequence[str]) -> None:
        view = dropdown(names, multiple=True)
        inputs.list("splits", types.String(), label="Splits", description="None chosen: all", view=view)


class ImportRefCOCO(ImportGRefCOCO):
    about = "import_refcoco", "Import RefCOCO", "RefCOCO, RefCOCO+ or RefCOCOg: one sample per image and expression"
    folder = 'With "refs(unc).p" or its JSON version, instances.json and COCO\'s train2014 images'
    places = (("labels_path", "Refs", '"refs(unc).p" or "refs(umd).p"'), *ImportGRefCOCO.places[1:])
    conditional = ("partition",)

    def importer_class(self, params):
        return importer_for(params.get("benchmark") or "refcoco")

    def choose(self, ctx, inputs):
        names = list(FAMILY)
        inputs.enum("benchmark", names, default=names[0], required=True, label="Benchmark", view=dropdown(names))
        partitions = FAMILY[ctx.params.get("benchmark") or names[0]].partitions
        partition = ctx.params.get("partition")
        if partition not in partitions:
            partition = next(iter(partitions))
        if len(partitions) > 1:
            inputs.enum(
                "partition", list(partitions), default=partition, required=True, label="Partition", view=dropdown(partitions)
            )
        self._splits(inputs, partitions[partition])


class ExportHumanRef(ExportingOperator):
    about = "export_humanref", "Export as HumanRef", "Samples as HumanRef's annotations.jsonl and images/"
    exporter = HumanRefDatasetExporter


class ExportGRefCOCO(ExportingOperator):
    about = "export_grefcoco", "Export as gRefCOCO", 'Samples as gRefCOCO\'s "grefs(unc).json", instances.json and images/'
    exporter = GRefCOCODatasetExporter


class ExportRefCOCO(ExportingOperator):
    about = "export_refcoco", "Export as RefCOCO", 'Samples with one target as RefCOCO\'s "refs(unc).json", instances.json and images/'
    exporter = RefCOCODatasetExporter

"""Import and export: HumanRef annotations and prediction files."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import fiftyone as fo
from fiftyone.operators import types

from fiftyone_rexseek.datasets.humanref import DOMAINS
from fiftyone_rexseek.datasets.predictions import read_predictions
from fiftyone_rexseek.errors import ReferringError
from fiftyone_rexseek.integration import predictions
from fiftyone_rexseek.integration.columns import label_fields
from fiftyone_rexseek.integration.dataset_types import HumanRefDatasetImporter

from .base import invalid, long_work, reload
from .calling import CallableOperator, count_notice, dropdown, perform, plural, summary_output
from .choices import choose_field
from .targets import target_images


def _path(ctx, inputs: types.Object, name: str, **options) -> tuple[types.Property, Path | None]:
    """A required path; also accepts what FiftyOne's file explorer returns."""
    prop = inputs.str(name, required=True, **options)
    text = (ctx.params.get(name) or "").strip()
    return prop, Path(text).expanduser() if text else None


@lru_cache(maxsize=32)
def _count_lines(path: str, mtime: float) -> int:
    with open(path, "rb") as f:
        return sum(1 for line in f if line.strip())


def _rows(path: Path) -> int:
    return _count_lines(str(path), path.stat().st_mtime)


class ImportHumanRef(CallableOperator):
    @property
    def config(self):
        return long_work(
            "import_humanref",
            "Import HumanRef",
            "Annotations in HumanRef's format: one sample per image and expression",
        )

    def resolve_placement(self, ctx):
        return types.Placement(types.Places.DISABLED)

    def resolve_input(self, ctx):
        inputs = types.Object()
        prop, folder = _path(
            ctx, inputs, "dataset_dir", label="Folder", description="With annotations.jsonl and images/"
        )
        labels = inputs.str("labels_path", label="Annotations", description="Empty: annotations.jsonl in the folder")
        images = inputs.str("data_path", label="Images", description="Empty: images/ in the folder")
        inputs.list(
            "domains", types.String(), label="Domains", description="None chosen: all", view=dropdown(DOMAINS, multiple=True)
        )
        inputs.int("max_samples", min=1, label="At most this many samples")
        inputs.bool("strict", default=False, label="Stop at the first bad row", description="Otherwise it is counted")
        self._destination(ctx, inputs)
        if folder is not None:
            if not folder.is_dir():
                invalid(prop, "No such folder")
            else:
                self._check(_importer(ctx.params), inputs, labels, images)
        return types.Property(inputs, view=types.View(label="Import HumanRef"))

    @staticmethod
    def _destination(ctx, inputs) -> None:
        prop = inputs.str(
            "dataset_name", label="Into a new dataset", description="Empty: into the dataset that is open"
        )
        name = ctx.params.get("dataset_name")
        if name and fo.dataset_exists(name):
            inputs.view("exists", types.Notice(label=f"Dataset '{name}' exists; what it lacks is added"))
        elif not name and ctx.dataset is None:
            invalid(prop, "No dataset is open: name a new one")

    @staticmethod
    def _check(importer, inputs, labels, images) -> None:
        if not importer.labels().is_file():
            invalid(labels, f"There is no {importer.labels()}")
            return
        if not importer.images().is_dir():
            invalid(images, f"There is no folder {importer.images()}")
            return
        inputs.view("note", types.Notice(label=f"{plural(_rows(importer.labels()), 'row')} in {importer.labels().name}"))

    def execute(self, ctx):
        name = ctx.params.get("dataset_name")
        if name:
            dataset = fo.load_dataset(name) if fo.dataset_exists(name) else fo.Dataset(name, persistent=True)
        else:
            dataset = ctx.dataset
        importer = _importer(ctx.params)

        def work(progress):
            dataset.add_importer(importer, progress=progress)
            report = importer.report
            return {"summary": report.summary(), "added": report.added, "existing": report.existing, "skipped": report.skipped}

        def then(result):
            if name:
                yield ctx.ops.open_dataset(name)
            else:
                yield from reload(ctx)

        return perform(ctx, self, "Importing", work, then)

    def resolve_output(self, ctx):
        numbers = ("added", "Added"), ("existing", "There already"), ("skipped", "Skipped")
        return summary_output(ctx, "Imported", *numbers)


def _importer(params) -> HumanRefDatasetImporter:
    names = ("dataset_dir", "labels_path", "data_path", "max_samples", "strict", "domains")
    options = {n: params[n] for n in names if params.get(n) not in (None, "", [])}
    return HumanRefDatasetImporter(**options)


class ImportPredictions(CallableOperator):
    @property
    def config(self):
        return long_work(
            "import_predictions",
            "Import predictions",
            "An official prediction file (JSONL with id and extracted_predictions) into a field",
        )

    def resolve_input(self, ctx):
        inputs = types.Object()
        count = len(target_images(ctx))
        prop, path = _path(ctx, inputs, "path", label="File", description="JSONL of boxes or points")
        if path is not None:
            self._check(path, prop, inputs)
        default = _field_name(path) if path is not None else None
        name_prop = inputs.str("pred_field", required=True, default=default, label="Field")
        overwrite = bool(ctx.params.get("overwrite"))
        name = ctx.params.get("pred_field") or default
        if name:
            try:
                predictions.check_new_field(ctx.dataset, name, overwrite)
            except ReferringError as e:
                invalid(name_prop, str(e))
            if ctx.dataset.has_sample_field(name):
                inputs.bool("overwrite", default=False, label=f"Replace what '{name}' holds")
        inputs.bool("strict", default=False, label="Stop at the first problem", description="Before anything is written")
        count_notice(inputs, count, "can get predictions")
        return types.Property(inputs, view=types.View(label="Import predictions"))

    @staticmethod
    def _check(path: Path, prop: types.Property, inputs) -> None:
        if not path.is_file():
            invalid(prop, "No such file")
            return
        try:
            next(iter(read_predictions(path)))
        except ReferringError as e:
            invalid(prop, str(e))
            return
        inputs.view("rows", types.Notice(label=plural(_rows(path), "row")))

    def execute(self, ctx):
        p = ctx.params
        target = target_images(ctx)

        def work(progress):
            report = predictions.import_predictions(
                target,
                Path(p["path"]).expanduser(),
                p["pred_field"],
                strict=bool(p.get("strict")),
                overwrite=bool(p.get("overwrite")),
                progress=progress,
            )
            return {"summary": report.summary(), "matched": report.matched, "missing": report.missing}

        return perform(ctx, self, "Importing predictions", work, lambda result: reload(ctx))

    def resolve_output(self, ctx):
        return summary_output(ctx, "Imported", ("matched", "With a prediction"), ("missing", "Without one"))


def _field_name(path: Path) -> str:
    """A field name made of a file's."""
    name = "".join(c if c.isascii() and c.isalnum() else "_" for c in path.stem).strip("_").lower() or "predictions"
    return name if not name[0].isdigit() else f"p_{name}"


class ExportPredictions(CallableOperator):
    @property
    def config(self):
        return long_work(
            "export_predictions",
            "Export predictions",
            "A prediction field as an official prediction file",
        )

    def resolve_input(self, ctx):
        inputs = types.Object()
        target = target_images(ctx)
        names = [n for n in label_fields(target, (fo.Detections, fo.Keypoints)) if n not in ("ground_truth", "candidates")]
        choose_field(ctx, inputs, "pred_field", names, "Predictions", nothing="This dataset holds no predictions")
        prop, path = _path(ctx, inputs, "path", label="File", description="JSONL to write")
        if path is not None and not path.parent.is_dir():
            invalid(prop, f"There is no folder {path.parent}")
        elif path is not None and path.is_dir():
            invalid(prop, "This is a folder")
        elif path is not None and path.exists():
            inputs.view("exists", types.Warning(label=f"{path.name} exists and will be replaced"))
        count_notice(inputs, len(target), "looked at; those not predicted get no row")
        return types.Property(inputs, view=types.View(label="Export predictions"))

    def execute(self, ctx):
        target = target_images(ctx)
        path = Path(ctx.params["path"]).expanduser()

        def work(progress):
            count = predictions.export_predictions(target, path, ctx.params["pred_field"])
            return {"summary": f"{plural(count, 'row')} in {path}", "rows": count}

        return perform(ctx, self, "Exporting", work)

    def resolve_output(self, ctx):
        return summary_output(ctx, "Exported", ("rows", "Rows"))

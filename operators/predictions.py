"""Import and export of prediction files."""

from __future__ import annotations

from pathlib import Path

import fiftyone as fo
from fiftyone.operators import types

from fiftyone_rexseek.datasets.predictions import read_predictions
from fiftyone_rexseek.errors import ReferringError
from fiftyone_rexseek.integration.fields import prediction_fields
from fiftyone_rexseek.integration.prediction_files import (
    BY_ENDING,
    FORMATS,
    HUMANREF,
    export_prediction_file,
    format_of,
    import_prediction_file,
)
from fiftyone_rexseek.integration.predictions import check_new_field

from .base import invalid, long_work, reload
from .calling import CallableOperator, count_notice, dropdown, perform, plural, summary_output
from .choices import choose_one
from .paths import choose_path, count_lines, folder_problem, writing
from .targets import target_images


def _choose_format(inputs: types.Object) -> None:
    # no default value: the form would keep it when another file is chosen
    inputs.enum(
        "format", list(FORMATS), label="Format", description=f"Nothing chosen: {BY_ENDING}", view=dropdown(FORMATS, FORMATS)
    )


class ImportPredictions(CallableOperator):
    conditional = ("overwrite",)

    @property
    def config(self):
        return long_work("import_predictions", "Import predictions", "An official prediction file into a field")

    def resolve_input(self, ctx):
        inputs = types.Object()
        count = len(target_images(ctx))
        prop, path = choose_path(ctx, inputs, "path", label="File", description="Of a benchmark's own format")
        _choose_format(inputs)
        if path is not None:
            self._check(path, format_of(path, ctx.params.get("format") or None), prop, inputs)
        self._field(ctx, inputs, path)
        inputs.bool("strict", default=False, label="Stop at the first problem", description="Before anything is written")
        count_notice(inputs, count, "can get predictions")
        return types.Property(inputs, view=types.View(label="Import predictions"))

    @staticmethod
    def _field(ctx, inputs, path: Path | None) -> None:
        # no default value: the form would keep what the first letters of the path gave
        usual = _field_name(path) if path is not None else "the name of the file"
        prop = inputs.str("pred_field", label="Field", description=f"Empty: {usual}")
        name = ctx.params.get("pred_field") or (path and _field_name(path))
        if not name:
            return
        try:
            check_new_field(ctx.dataset, name, overwrite=True)
        except ReferringError as e:
            invalid(prop, str(e))
            return
        if ctx.dataset.has_sample_field(name):
            inputs.bool("overwrite", default=False, label=f"Replace what '{name}' holds")
            if not ctx.params.get("overwrite"):
                invalid(prop, f"Field '{name}' exists: choose another name, or replace what it holds")

    @staticmethod
    def _check(path: Path, file_format: str, prop: types.Property, inputs) -> None:
        if not path.is_file():
            invalid(prop, "This is a folder" if path.is_dir() else "No such file")
        elif file_format == HUMANREF:
            # a JSON list has to be read as a whole, which is not done while somebody types
            try:
                next(iter(read_predictions(path)))
            except ReferringError as e:
                invalid(prop, str(e))
                return
            inputs.view("rows", types.Notice(label=plural(count_lines(path), "row")))

    def execute(self, ctx):
        p = ctx.params
        target, path = target_images(ctx), Path(p["path"]).expanduser()
        field = p.get("pred_field") or _field_name(path)
        options = {"strict": bool(p.get("strict")), "overwrite": bool(p.get("overwrite"))}

        def work(progress):
            report = import_prediction_file(target, path, field, p.get("format") or None, progress=progress, **options)
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
            "A prediction field as a prediction file of a benchmark's own format",
        )

    def resolve_input(self, ctx):
        inputs = types.Object()
        target = target_images(ctx)
        names = prediction_fields(ctx.dataset, (fo.Detections, fo.Keypoints))
        choose_one(ctx, inputs, "pred_field", names, "Predictions", nothing="This dataset holds no predictions")
        prop, path = choose_path(ctx, inputs, "path", label="File", description="To write")
        _choose_format(inputs)
        if path is not None:
            self._check(path, prop, inputs)
        count_notice(inputs, len(target), "looked at; those not predicted get no row")
        return types.Property(inputs, view=types.View(label="Export predictions"))

    @staticmethod
    def _check(path: Path, prop: types.Property, inputs) -> None:
        if path.is_dir():
            invalid(prop, "This is a folder")
        elif not path.parent.is_dir():
            invalid(prop, f"There is no folder {path.parent}")
        elif problem := folder_problem(path.parent):
            invalid(prop, problem)
        elif path.exists():
            inputs.view("exists", types.Warning(label=f"{path.name} exists and will be replaced"))

    def execute(self, ctx):
        p, target = ctx.params, target_images(ctx)
        path = Path(p["path"]).expanduser()

        def work(progress):
            with writing(path):
                count = export_prediction_file(target, path, p["pred_field"], p.get("format") or None)
            return {"summary": f"{plural(count, 'row')} in `{path}`", "rows": count}

        return perform(ctx, self, "Exporting", work)

    def resolve_output(self, ctx):
        return summary_output(ctx, "Exported", ("rows", "Rows"))

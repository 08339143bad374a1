"""Import and export of prediction files."""

from __future__ import annotations

from pathlib import Path

import fiftyone as fo
from fiftyone.operators import types

from fiftyone_rexseek.datasets.predictions import read_predictions
from fiftyone_rexseek.errors import ReferringError
from fiftyone_rexseek.integration import predictions
from fiftyone_rexseek.integration.fields import prediction_fields
from fiftyone_rexseek.integration.grefcoco_predictions import TASKS, import_grefcoco_predictions

from .base import invalid, long_work, reload
from .calling import CallableOperator, count_notice, dropdown, perform, plural, summary_output
from .choices import choose_one
from .paths import choose_path, count_lines, folder_problem, writing
from .targets import target_images

_HUMANREF = "humanref"
_FORMATS = {
    _HUMANREF: "HumanRef: JSON lines with id and extracted_predictions, boxes or points",
    "grec": "gRefCOCO, boxes (GREC): a JSON list with boxes and scores per sentence",
    "gres": "gRefCOCO, masks (GRES): a JSON list with a mask per sentence",
}


class ImportPredictions(CallableOperator):
    @property
    def config(self):
        return long_work("import_predictions", "Import predictions", "An official prediction file into a field")

    def resolve_input(self, ctx):
        inputs = types.Object()
        count = len(target_images(ctx))
        prop, path = choose_path(ctx, inputs, "path", label="File", description="Of a benchmark's own format")
        usual = "grec" if path is not None and path.suffix == ".json" else _HUMANREF
        view = dropdown(_FORMATS, _FORMATS)
        inputs.enum("format", list(_FORMATS), default=usual, required=True, label="Format", view=view)
        if path is not None:
            self._check(path, ctx.params.get("format") or usual, prop, inputs)
        default = _field_name(path) if path is not None else None
        name_prop = inputs.str("pred_field", required=True, default=default, label="Field")
        name = ctx.params.get("pred_field") or default
        if name:
            self._field(ctx, inputs, name, name_prop)
        inputs.bool("strict", default=False, label="Stop at the first problem", description="Before anything is written")
        count_notice(inputs, count, "can get predictions")
        return types.Property(inputs, view=types.View(label="Import predictions"))

    @staticmethod
    def _field(ctx, inputs, name: str, prop: types.Property) -> None:
        try:
            predictions.check_new_field(ctx.dataset, name, overwrite=True)
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
        elif file_format == _HUMANREF:
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
        options = {"strict": bool(p.get("strict")), "overwrite": bool(p.get("overwrite"))}

        def work(progress):
            if p["format"] in TASKS:
                report = import_grefcoco_predictions(target, path, p["pred_field"], p["format"], progress=progress, **options)
            else:
                report = predictions.import_predictions(target, path, p["pred_field"], progress=progress, **options)
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
            "A prediction field as an official prediction file (JSON lines with id and extracted_predictions)",
        )

    def resolve_input(self, ctx):
        inputs = types.Object()
        target = target_images(ctx)
        names = prediction_fields(ctx.dataset, (fo.Detections, fo.Keypoints))
        choose_one(ctx, inputs, "pred_field", names, "Predictions", nothing="This dataset holds no predictions")
        prop, path = choose_path(ctx, inputs, "path", label="File", description="JSONL to write")
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
        target = target_images(ctx)
        path = Path(ctx.params["path"]).expanduser()

        def work(progress):
            with writing(path):
                count = predictions.export_predictions(target, path, ctx.params["pred_field"])
            return {"summary": f"{plural(count, 'row')} in `{path}`", "rows": count}

        return perform(ctx, self, "Exporting", work)

    def resolve_output(self, ctx):
        return summary_output(ctx, "Exported", ("rows", "Rows"))

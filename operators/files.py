"""What operators that read or write a benchmark's files share; :mod:`.data` has one of them per format."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import fiftyone as fo
from fiftyone.operators import types

from fiftyone_rexseek.errors import ReferringError
from fiftyone_rexseek.integration.dataset_types import ExamplesExporter, ExamplesImporter
from fiftyone_rexseek.integration.fields import detections_fields

from .base import invalid, long_work, reload
from .calling import CallableOperator, count_notice, perform, plural, summary_output
from .choices import choose_one
from .paths import choose_path, folder_to_write, writing
from .targets import target_images

_MEDIA = {"copy": "Copy them", "link": "Link to them", "none": "Leave them where they are"}
_EXPORT_MEDIA = {"copy": True, "link": "symlink", "none": False}


class ImportingOperator(CallableOperator):
    """Imports annotations: one sample per image and expression.

    Attributes:
        about: name, label and description of the operator
        folder: what the folder holds
        places: what of it may lie elsewhere: the importer's argument, its label, and where it is otherwise
    """

    about: tuple[str, str, str]
    folder: str
    places: tuple[tuple[str, str, str], ...]

    def importer_class(self, params: dict) -> type[ExamplesImporter]:
        """The importer that the form's values ask for."""
        raise NotImplementedError

    def choose(self, ctx, inputs: types.Object) -> None:
        """Adds this format's own choices to the form."""
        raise NotImplementedError

    def found(self, importer: ExamplesImporter) -> str:
        """What lies at the importer's places, in words; raises :class:`ReferringError` where it is of another kind."""
        return f"{importer.labels().name}, images in {importer.images()}"

    @property
    def config(self):
        return long_work(*self.about)

    def resolve_input(self, ctx):
        inputs = types.Object()
        prop, folder = choose_path(ctx, inputs, "dataset_dir", label="Folder", description=self.folder)
        self.choose(ctx, inputs)
        places = {
            name: inputs.str(name, label=label, description=f"Empty: {usual} in the folder")
            for name, label, usual in self.places
        }
        inputs.int("max_samples", min=1, label="At most this many samples")
        inputs.bool("strict", default=False, label="Stop at the first bad row", description="Otherwise it is counted")
        self._destination(ctx, inputs)
        if folder is not None and not folder.is_dir():
            invalid(prop, "This is no folder" if folder.exists() else "No such folder")
        elif folder is not None:
            self._check(ctx, inputs, places)
        return types.Property(inputs, view=types.View(label=self.about[1]))

    def _check(self, ctx, inputs, places: dict[str, types.Property]) -> None:
        labels = places["labels_path"]
        try:
            importer = self.importer(ctx.params)
            if not importer.labels().is_file():
                invalid(labels, f"There is no file {importer.labels()}")
            elif "instances_path" in places and not importer.instances().is_file():
                invalid(places["instances_path"], f"There is no file {importer.instances()}")
            elif not Path(importer.images()).is_dir():
                invalid(places["data_path"], f"There is no folder {importer.images()}")
            else:
                inputs.view("note", types.Notice(label=self.found(importer)))
        except ReferringError as e:
            invalid(labels, str(e))

    @staticmethod
    def _destination(ctx, inputs) -> None:
        prop = inputs.str("dataset_name", label="Into a new dataset", description="Empty: into the dataset that is open")
        name = (ctx.params.get("dataset_name") or "").strip()
        if name and fo.dataset_exists(name):
            inputs.view("exists", types.Notice(label=f"Dataset '{name}' exists; what it lacks is added"))
        elif not name and ctx.dataset is None:
            invalid(prop, "No dataset is open: name a new one")

    def importer(self, params: dict) -> ExamplesImporter:
        """The importer for the form's values; what is empty has the importer's defaults."""
        cls = self.importer_class(params)
        return cls(**{f.name: params[f.name] for f in fields(cls) if params.get(f.name) not in (None, "", [])})

    def execute(self, ctx):
        name = (ctx.params.get("dataset_name") or "").strip()
        importer = self.importer(ctx.params)
        new = bool(name) and not fo.dataset_exists(name)

        def work(progress):
            dataset = ctx.dataset if not name else fo.Dataset(name, persistent=True) if new else fo.load_dataset(name)
            try:
                dataset.add_importer(importer, progress=progress)
            finally:
                if new and not len(dataset):
                    dataset.delete()  # nothing was imported: leave nothing behind
            report = importer.report
            return {"summary": importer.summary(), "added": report.added, "existing": report.existing, "skipped": report.skipped}

        def then(result):
            if not name:
                yield from reload(ctx)
            elif fo.dataset_exists(name):
                yield ctx.ops.open_dataset(name)

        return perform(ctx, self, "Importing", work, then)

    def resolve_output(self, ctx):
        numbers = ("added", "Added"), ("existing", "There already"), ("skipped", "Skipped")
        return summary_output(ctx, "Imported", *numbers)


class ExportingOperator(CallableOperator):
    """Writes samples as a benchmark's files.

    Attributes:
        about: name, label and description of the operator
        exporter: the class that writes them
    """

    about: tuple[str, str, str]
    exporter: type[ExamplesExporter]

    @property
    def config(self):
        return long_work(*self.about)

    def resolve_input(self, ctx):
        inputs = types.Object()
        target = target_images(ctx)
        folder_to_write(
            ctx, inputs, "export_dir", "files of the same names are replaced",
            label="Folder", description="On the machine where FiftyOne runs",
        )  # fmt: skip
        labels = detections_fields(ctx.dataset)
        texts = [name for name in ctx.dataset.get_field_schema(ftype=fo.StringField) if name != "filepath"]
        choose_one(ctx, inputs, "expression_field", texts, "Expressions", usual="expression")
        _, field = choose_one(ctx, inputs, "gt_field", labels, "Ground truth", usual="ground_truth")
        media = types.RadioGroup()
        for name, label in _MEDIA.items():
            media.add_choice(name, label=label)
        inputs.enum("media", list(_MEDIA), default="copy", required=True, label="Images", view=media)
        count = len(self.exporter.writable(target, field)) if field in labels else 0
        has_none = f"No sample of the target has {self.exporter.kept or 'ground truth'}"
        nothing = has_none if field in labels else "Choose the field that says who is meant"
        count_notice(inputs, count, "will be written", nothing)
        return types.Property(inputs, view=types.View(label=self.about[1]))

    def execute(self, ctx):
        p, target = ctx.params, target_images(ctx)
        folder = Path(p["export_dir"]).expanduser()

        def work(progress):
            exporter = self.exporter(
                folder, export_media=_EXPORT_MEDIA[p["media"]], gt_field=p["gt_field"], expression_field=p["expression_field"]
            )
            with writing(folder):
                target.compute_metadata(skip_failures=True, progress=progress)
                target.export(dataset_exporter=exporter, progress=progress)
            left_out = len(target) - exporter.count
            summary = f"{plural(exporter.count)} in `{folder}`"
            summary += f"; {left_out:,} without {exporter.kept or 'ground truth'} left out" if left_out else ""
            return {"summary": summary, "count": exporter.count}

        return perform(ctx, self, "Exporting", work)

    def resolve_output(self, ctx):
        return summary_output(ctx, "Exported")

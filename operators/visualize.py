"""Annotated pictures of expressions, targets and answers, saved to a folder."""

from __future__ import annotations

from fiftyone.operators import types

from fiftyone_rexseek.integration.fields import detections_fields, prediction_fields
from fiftyone_rexseek.integration.visualize import save_annotated

from .base import config, invalid
from .calling import CallableOperator, count_notice, dropdown, perform, plural
from .paths import folder_to_write
from .targets import target_images

#: A field of texts is offered as the title; a picture without one is fine.
_NO_TITLE = "none"


class SaveAnnotated(CallableOperator):
    @property
    def config(self):
        return config(
            "save_annotated",
            "Save annotated pictures",
            "Draws expressions, boxes and masks on the images and saves them as files",
            dynamic=True,
            execute_as_generator=True,
            allow_immediate_execution=True,
            allow_delegated_execution=True,
            risk_level=types.RiskLevel.LOW,
        )

    def resolve_input(self, ctx):
        inputs = types.Object()
        count = len(target_images(ctx))
        folder_to_write(
            ctx, inputs, "output_dir", "pictures of the same samples are replaced",
            label="Folder", description="On the machine where FiftyOne runs",
        )  # fmt: skip
        self._fields(ctx, inputs)
        titles = [_NO_TITLE, *_text_fields(ctx.dataset)]
        default = "expression" if "expression" in titles else _NO_TITLE
        inputs.enum("expression_field", titles, default=default, required=True, label="Title", view=dropdown(titles))
        inputs.bool("draw_masks", default=True, label="Draw masks")
        count_notice(inputs, count, "will be drawn, one PNG each")
        return types.Property(inputs, view=types.View(label="Save annotated pictures"))

    @staticmethod
    def _fields(ctx, inputs: types.Object) -> None:
        known = detections_fields(ctx.dataset)
        default = [f for f in ("ground_truth", *prediction_fields(ctx.dataset)[:1]) if f in known]
        view = dropdown(known, multiple=True)
        prop = inputs.list("fields", types.String(), default=default, required=True, label="What to draw", view=view)
        chosen = ctx.params.get("fields")
        unknown = [f for f in chosen or () if f not in known]
        if unknown:
            invalid(prop, f"No field of Detections: {', '.join(map(str, unknown))}")
        elif chosen is not None and not chosen:
            invalid(prop, "Choose at least one field")

    def resolve_run_name(self, ctx):
        return f"Save annotated pictures to {ctx.params.get('output_dir')}"

    def execute(self, ctx):
        p = ctx.params
        target = target_images(ctx)
        title = p["expression_field"]

        def work(progress):
            saved = save_annotated(
                target,
                p["output_dir"],
                p["fields"],
                expression_field=None if title == _NO_TITLE else title,
                draw_masks=bool(p.get("draw_masks", True)),
                progress=progress,
            )
            lines = [f"{plural(len(saved.paths), 'picture')} in `{saved.folder}`"]
            lines += [f"{plural(len(saved.failed))} left out:"] * bool(saved.failed) + list(saved.failed.values())[:5]
            return {
                "summary": "\n\n".join(lines), "folder": str(saved.folder), "num_saved": len(saved.paths),
                "num_failed": len(saved.failed),
            }  # fmt: skip

        return perform(ctx, self, "Drawing", work)

    def resolve_output(self, ctx):
        outputs = types.Object()
        outputs.str("summary", label="Saved", view=types.MarkdownView(read_only=True))
        return types.Property(outputs, view=types.View(label="Annotated pictures"))


def _text_fields(dataset) -> list[str]:
    import fiftyone as fo

    return [name for name in dataset.get_field_schema(ftype=fo.StringField) if name != "filepath"]


OPERATORS = (SaveAnnotated,)

"""Quality checks: tag what looks wrong with expressions and labels, and show it."""

from __future__ import annotations

import fiftyone as fo
from fiftyone.operators import types

from fiftyone_rexseek.datasets.quality import CHECKS
from fiftyone_rexseek.integration.fields import detections_fields
from fiftyone_rexseek.integration.quality import VIEW, check_quality

from .base import long_work
from .calling import CallableOperator, count_notice, perform
from .choices import choose_one, choose_several
from .targets import target_images

_SAME_IMAGE = {"path": "The same file", "content": "The same content (reads every file; finds copies)"}


class CheckQuality(CallableOperator):
    conditional = ("same_image",)

    @property
    def config(self):
        return long_work(
            "check_quality",
            "Check the quality of the data",
            "Tags samples whose expression or labels look wrong and saves a view of them; changes nothing else",
        )

    def resolve_input(self, ctx):
        inputs = types.Object()
        count = len(target_images(ctx))
        _, chosen = choose_several(
            ctx, inputs, "checks", list(CHECKS), "Look for", default=list(CHECKS), least=1, required=True,
            unknown="No such check", descriptions=CHECKS,
        )  # fmt: skip
        self._fields(ctx, inputs)
        if "image-in-two-splits" in chosen:
            kinds = types.RadioGroup()
            for name, label in _SAME_IMAGE.items():
                kinds.add_choice(name, label=label)
            inputs.enum("same_image", list(_SAME_IMAGE), default="path", required=True, label="Two images are one when", view=kinds)
        if VIEW in ctx.dataset.list_saved_views():
            inputs.view("again", types.Notice(label="Tags of the last check are taken off these samples first"))
        count_notice(inputs, count, "will be checked")
        return types.Property(inputs, view=types.View(label="Check the quality of the data"))

    @staticmethod
    def _fields(ctx, inputs: types.Object) -> None:
        texts = [name for name in ctx.dataset.get_field_schema(ftype=fo.StringField) if name != "filepath"]
        labels = detections_fields(ctx.dataset)
        choose_one(ctx, inputs, "expression_field", texts, "Expressions", usual="expression")
        choose_one(ctx, inputs, "gt_field", labels, "Ground truth", usual="ground_truth")

    def execute(self, ctx):
        p = ctx.params
        target = target_images(ctx)

        def work(progress):
            # boxes are compared in pixels; a picture that cannot be read has no size and is left out
            target.compute_metadata(skip_failures=True, progress=progress)
            report = check_quality(
                target.exists("metadata.width"),
                gt_field=p["gt_field"],
                expression_field=p["expression_field"],
                checks=p["checks"],
                same_image=p.get("same_image") or "path",
            )
            lines = [report.summary(), *(f"* **{kind}** ({n}): {CHECKS[kind]}" for kind, n in report.counts.items() if n)]
            return {
                "summary": "\n".join([lines[0], "", *lines[1:]]), "checked": report.checked, "flagged": report.flagged,
                "counts": dict(report.counts),
            }  # fmt: skip

        def show(result):
            yield ctx.ops.reload_dataset()
            if result["flagged"]:
                # by its stages: the App does not know the name of a view that is new
                yield ctx.ops.set_view(ctx.dataset.load_saved_view(VIEW))

        return perform(ctx, self, "Checking", work, show)

    def resolve_output(self, ctx):
        outputs = types.Object()
        outputs.str("summary", label="Found", view=types.MarkdownView(read_only=True))
        return types.Property(outputs, view=types.View(label="Quality of the data"))

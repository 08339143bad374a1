"""Reset: take away what this plugin added to a dataset."""

from __future__ import annotations

from dataclasses import fields

from fiftyone.operators import types

from fiftyone_rexseek.integration.reset import Inventory, inventory, reset

from .base import config, invalid
from .calling import CallableOperator
from .choices import choose_several

_LABELS = {
    "predictions": ("Predictions", "Fields of answers, with what goes with them: outcomes, raw answers, their evaluations"),
    "evaluations": ("Evaluations", "With their fields and saved views"),
    "runs": ("Records of runs", "What was asked, and how; without it, answering again starts over"),
    "views": ("Saved views", "Of evaluations, comparisons and quality checks"),
    "tags": ("Tags", "Of quality checks and of review"),
    "accepted": ("Accepted predictions", "Brings back the ground truth of the source"),
}
_KINDS = tuple(f.name for f in fields(Inventory))


class Reset(CallableOperator):
    conditional = (*_KINDS, "confirm")

    @property
    def config(self):
        return config(
            "reset",
            "Remove predictions, evaluations and tags",
            "Takes away what this plugin added to the dataset; samples and ground truth stay",
            dynamic=True,
            risk_level=types.RiskLevel.DANGEROUS,
        )

    def resolve_input(self, ctx):
        inputs = types.Object()
        found = inventory(ctx.dataset)
        offered = [kind for kind in _KINDS if getattr(found, kind)]
        if not offered:
            prop = inputs.view("nothing", types.Notice(label="This plugin has added nothing to the dataset"))
            invalid(prop, "There is nothing to remove")
            return types.Property(inputs, view=types.View(label="Remove"))
        for kind in offered:
            label, description = _LABELS[kind]
            choose_several(ctx, inputs, kind, getattr(found, kind), label, description=description)
        chosen = self._chosen(ctx)
        count = sum(len(names) for names in chosen.values())
        text = "; ".join(f"{_LABELS[kind][0].lower()}: {', '.join(names)}" for kind, names in chosen.items())
        if count:
            inputs.view("what", types.Warning(label=f"To be removed: {text}", description="This cannot be undone"))
        prop = inputs.bool("confirm", default=False, required=True, label="Yes, remove these")
        if count and not ctx.params.get("confirm"):
            invalid(prop, "Confirm that these are to be removed")
        elif not count:
            invalid(prop, "Choose what to remove")
        return types.Property(inputs, view=types.View(label="Remove predictions, evaluations and tags"))

    @staticmethod
    def _chosen(ctx) -> dict[str, list[str]]:
        return {kind: ctx.params[kind] for kind in _KINDS if ctx.params.get(kind)}

    def execute(self, ctx):
        removed = reset(ctx.dataset, **self._chosen(ctx))
        ctx.ops.reload_dataset()
        ctx.ops.notify("Removed", variant="success")
        return {"summary": str(removed), **{kind: list(getattr(removed, kind)) for kind in _KINDS}}

    def resolve_output(self, ctx):
        outputs = types.Object()
        outputs.str("summary", label="Removed", view=types.MarkdownView(read_only=True))
        return types.Property(outputs, view=types.View(label="Removed"))

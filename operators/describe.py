"""Describe objects: let a model write the expression that refers to them."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from fiftyone.operators import types

from fiftyone_rexseek.integration.ask import WarmModels
from fiftyone_rexseek.integration.describe import check_text_field, describe_targets
from fiftyone_rexseek.integration.fields import detections_fields
from fiftyone_rexseek.models.description import DEFAULT_MODEL, Describer

from .base import invalid, long_work, reload
from .calling import CallableOperator, count_notice, dropdown, perform
from .choices import output_field
from .targets import target_images

#: One describer stays in memory between calls from the App.
_warm = WarmModels(keep=1)


class DescribeTargets(CallableOperator):
    conditional = ("overwrite",)

    @property
    def config(self):
        return long_work(
            "describe_targets",
            "Describe objects",
            "Lets a model write the referring expression for the objects of a field, or for the selected ones",
        )

    def resolve_placement(self, ctx):
        button = types.Button(label="Describe objects", icon="edit_note", prompt=True)
        return types.Placement(types.Places.SAMPLES_VIEWER_ACTIONS, button)

    def resolve_input(self, ctx):
        inputs = types.Object()
        inputs.view_target(ctx, allow_selected_labels=True)
        labels = selected_labels(ctx)
        field = self._objects(ctx, inputs, labels)
        prop = inputs.str(
            "model", default=DEFAULT_MODEL, required=True, label="Model",
            description="Folder or Hugging Face repository of any instruction-tuned image-text-to-text model",
        )  # fmt: skip
        problem = model_problem(ctx.params.get("model") or DEFAULT_MODEL)
        if problem:
            invalid(prop, problem)
        output_field(
            ctx, inputs, "text_field", "description", "Write the texts to field", partial(check_text_field, ctx.dataset),
            did="described", replace="Replace texts that no model wrote",
        )  # fmt: skip
        if field is not None:
            target = target_images(ctx)
            if only_selected(ctx):
                what = f"with selected objects in '{field}' will be described"
            else:
                what = f"with objects in '{field}' will be described"
            count_notice(inputs, _count(target, field), what, f"No sample of the target has objects in '{field}'")
        return types.Property(inputs, view=types.View(label="Describe objects"))

    @staticmethod
    def _objects(ctx, inputs: types.Object, labels: list[dict]) -> str | None:
        names = detections_fields(ctx.dataset)
        own = [label["field"] for label in labels if label.get("field") in names]
        default = own[0] if own else "ground_truth" if "ground_truth" in names else next(iter(names), None)
        prop = inputs.enum("objects_field", names, required=True, default=default, label="Objects", view=dropdown(names))
        if not names:
            invalid(prop, "This dataset has no field of Detections")
        name = ctx.params.get("objects_field") or default
        return name if name in names else None

    def resolve_run_name(self, ctx):
        return f"Describe objects of {ctx.params.get('objects_field')}"

    def execute(self, ctx):
        p = ctx.params
        target = target_images(ctx)
        name = p["model"]
        # what was described of other labels says nothing about those selected now
        resume = not only_selected(ctx)

        def work(progress):
            model = _warm.get(name, lambda: Describer.from_pretrained(name))
            summary = describe_targets(
                target,
                p["objects_field"],
                p["text_field"],
                model,
                resume=resume,
                overwrite=bool(p.get("overwrite")),
                progress=progress,
            )
            return {"summary": str(summary), "num_described": summary.num_described, "text_field": summary.text_field}

        return perform(ctx, self, "Describing", work, lambda result: reload(ctx))

    def resolve_output(self, ctx):
        outputs = types.Object()
        outputs.str("summary", label="Summary", view=types.MarkdownView(read_only=True))
        return types.Property(outputs, view=types.View(label="Described"))


def selected_labels(ctx) -> list[dict]:
    """The labels selected in the App; an empty list when there are none."""
    return ctx.selected_labels or []


def only_selected(ctx) -> bool:
    """Whether the target is the selected labels; FiftyOne carries the target beside the parameters."""
    return ctx.request_params.get("view_target") == "SELECTED_LABELS"


def model_problem(name: str) -> str | None:
    """What is wrong with a model's folder or repository name, as far as can be said without the network."""
    looks_local = name.startswith((".", "/", "~", "\\")) or name.count("/") > 1
    path = Path(name).expanduser()
    if path.is_dir():
        return None if (path / "config.json").is_file() else f"{path} holds no config.json"
    if looks_local:
        return f"There is no folder {path}"
    owner, _, repository = name.partition("/")
    return None if owner and repository else "Give a folder, or a repository such as " + DEFAULT_MODEL


def _count(target, field: str) -> int:
    from fiftyone import ViewField as F

    return target.match(F(f"{field}.detections").length() > 0).count()


OPERATORS = (DescribeTargets,)

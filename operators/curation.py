"""Curation: find what deserves a look, mark it, and make a prediction the ground truth - with a way back."""

from __future__ import annotations

import fiftyone as fo
from fiftyone.operators import types

from fiftyone_rexseek.integration import curation
from fiftyone_rexseek.integration.fields import detections_fields, prediction_fields

from .base import config, invalid
from .calling import CallableOperator, count_notice, dropdown, plural
from .targets import target_images

DEFAULT_LIMIT = 200
_NO_PREDICTIONS = "This dataset holds no predictions yet: use 'Apply expressions' or import predictions first"


# -- forms --------------------------------------------------------------------------------------------------------------


def _prediction(ctx, inputs: types.Object, label: str = "Predictions") -> str | None:
    """A required choice of one prediction field."""
    names = prediction_fields(ctx.dataset)
    prop = inputs.enum(
        "pred_field", names, required=True, default=names[0] if names else None, label=label, view=dropdown(names)
    )
    if not names:
        invalid(prop, _NO_PREDICTIONS)
    return ctx.params.get("pred_field") or (names[0] if names else None)


def _predictions(ctx, inputs: types.Object, least: int, description: str) -> list[str]:
    """A required choice of several prediction fields."""
    names = prediction_fields(ctx.dataset)
    default = names[: max(least, 1)]
    prop = inputs.list(
        "pred_fields", types.String(), required=True, default=default, label="Predictions", description=description,
        view=dropdown(names, multiple=True),
    )  # fmt: skip
    chosen = ctx.params.get("pred_fields")
    chosen = default if chosen is None else list(dict.fromkeys(chosen))
    unknown = [name for name in chosen if name not in detections_fields(ctx.dataset)]
    if not names:
        invalid(prop, _NO_PREDICTIONS)
    elif unknown:
        invalid(prop, f"No field of Detections: {', '.join(map(str, unknown))}")
    elif len(chosen) < least:
        invalid(prop, f"Choose at least {least}")
    return chosen


def _ground_truth(ctx, inputs: types.Object, other: list[str]) -> None:
    names = detections_fields(ctx.dataset)
    default = "ground_truth" if "ground_truth" in names else None
    prop = inputs.enum("gt_field", names, required=True, default=default, label="Ground truth", view=dropdown(names))
    if (ctx.params.get("gt_field") or default) in other:
        invalid(prop, "A field cannot be compared with itself")


def _limit_and_name(ctx, inputs: types.Object) -> None:
    inputs.int("limit", default=DEFAULT_LIMIT, min=1, required=True, label="At most this many samples")
    prop = inputs.str("save_as", label="Save the view as", description="Empty: the view is shown, not saved")
    name = ctx.params.get("save_as")
    if name and name in ctx.dataset.list_saved_views():
        invalid(prop, f"There is a saved view '{name}'")


def _show(ctx, view: fo.DatasetView, description: str, nothing: str) -> dict:
    """Shows a view in the App and saves it when asked to; the result for Python."""
    ids = view.values("id")
    name = ctx.params.get("save_as")
    if not ids:
        ctx.ops.notify(nothing, variant="info")
    else:
        if name:
            ctx.dataset.save_view(name, view, description=description)
        # by its stages: the App does not know the name of a view that is new
        ctx.ops.set_view(view)
        ctx.ops.notify(f"{plural(len(ids))}: {description}", variant="success")
    return {"count": len(ids), "sample_ids": ids}


def _open_sample_or_target(ctx) -> tuple[fo.core.collections.SampleCollection, bool]:
    """The sample open in the modal unless something is selected, otherwise what the form's target says."""
    if ctx.current_sample and not ctx.selected:
        return ctx.dataset.select(ctx.current_sample), True
    return target_images(ctx), False


def _modal_button(label: str, icon: str) -> types.Placement:
    return types.Placement(types.Places.SAMPLES_VIEWER_ACTIONS, types.Button(label=label, icon=icon, prompt=True))


# -- views --------------------------------------------------------------------------------------------------------------


class MostUncertain(CallableOperator):
    @property
    def config(self):
        return config(
            "most_uncertain",
            "Show the most uncertain answers",
            "The samples of which a model was least sure, least sure first",
            dynamic=True,
            risk_level=types.RiskLevel.LOW,
        )

    def resolve_input(self, ctx):
        inputs = types.Object()
        count = len(target_images(ctx))
        _prediction(ctx, inputs)
        _limit_and_name(ctx, inputs)
        count_notice(inputs, count, "looked at; those without any confidence are left out")
        return types.Property(inputs, view=types.View(label="Most uncertain answers"))

    def execute(self, ctx):
        field = ctx.params["pred_field"]
        view = curation.most_uncertain(target_images(ctx), field, int(ctx.params["limit"]))
        return _show(ctx, view, f"answers of '{field}', least sure first", f"No answer in '{field}' has a confidence")


class Disagreements(CallableOperator):
    @property
    def config(self):
        return config(
            "disagreements",
            "Show where models disagree",
            "The samples on which two or more models differ most, worst first",
            dynamic=True,
            risk_level=types.RiskLevel.LOW,
        )

    def resolve_input(self, ctx):
        inputs = types.Object()
        count = len(target_images(ctx))
        _predictions(ctx, inputs, 2, "Two or more")
        _limit_and_name(ctx, inputs)
        count_notice(inputs, count, "looked at; those on which all agree are left out")
        return types.Property(inputs, view=types.View(label="Where models disagree"))

    def execute(self, ctx):
        fields = ctx.params["pred_fields"]
        view = curation.disagreements(target_images(ctx), fields, int(ctx.params["limit"]))
        return _show(ctx, view, f"{' and '.join(fields)} disagree, worst first", "They agree on every sample")


class SuspectedLabelErrors(CallableOperator):
    @property
    def config(self):
        return config(
            "suspected_label_errors",
            "Show suspected label errors",
            "Samples where every model is sure, all agree with one another, and the ground truth says otherwise",
            dynamic=True,
            risk_level=types.RiskLevel.LOW,
        )

    def resolve_input(self, ctx):
        inputs = types.Object()
        count = len(target_images(ctx))
        chosen = _predictions(ctx, inputs, 1, "With several models there are fewer false alarms")
        _ground_truth(ctx, inputs, chosen)
        inputs.float(
            "min_certainty", default=0.8, min=0, max=1, required=True, label="Every model is at least this sure",
            view=types.SliderView(),
        )  # fmt: skip
        _limit_and_name(ctx, inputs)
        count_notice(inputs, count, "looked at")
        return types.Property(inputs, view=types.View(label="Suspected label errors"))

    def execute(self, ctx):
        p = ctx.params
        view = curation.suspected_label_errors(
            target_images(ctx),
            p["pred_fields"],
            p["gt_field"],
            min_certainty=float(p["min_certainty"]),
            limit=int(p["limit"]),
        )
        return _show(ctx, view, "labels to doubt, surest first", "No confident answer contradicts the ground truth")


# -- marking and mending ------------------------------------------------------------------------------------------------


class TagForReview(CallableOperator):
    @property
    def config(self):
        return config(
            "tag_for_review",
            "Tag for review",
            "Tags samples that a person should look at",
            dynamic=True,
            risk_level=types.RiskLevel.MEDIUM,
        )

    def resolve_placement(self, ctx):
        return _modal_button("Tag for review", "flag")

    def resolve_input(self, ctx):
        inputs = types.Object()
        target, is_open = _open_sample_or_target(ctx)
        prop = inputs.str("tag", default=curation.REVIEW_TAG, required=True, label="Tag")
        if ctx.params.get("tag") is not None and not ctx.params["tag"].strip():
            invalid(prop, "A tag needs a name")
        count_notice(inputs, len(target), "will be tagged" if not is_open else "(the open one) will be tagged")
        return types.Property(inputs, view=types.View(label="Tag for review"))

    def execute(self, ctx):
        target, _ = _open_sample_or_target(ctx)
        tag = ctx.params["tag"].strip()
        count = curation.tag_for_review(target, tag)
        ctx.ops.notify(f"{plural(count)} newly tagged '{tag}'", variant="success")
        ctx.ops.reload_samples()
        return {"count": count}


class AcceptPrediction(CallableOperator):
    @property
    def config(self):
        return config(
            "accept_prediction",
            "Accept prediction as ground truth",
            "Replaces the ground truth by a prediction; the old one is kept and can be brought back",
            dynamic=True,
            risk_level=types.RiskLevel.HIGH,
        )

    def resolve_placement(self, ctx):
        return _modal_button("Accept prediction as ground truth", "task_alt")

    def resolve_input(self, ctx):
        inputs = types.Object()
        target, _ = _open_sample_or_target(ctx)
        field = _prediction(ctx, inputs)
        _ground_truth(ctx, inputs, [field] if field else [])
        if field in detections_fields(ctx.dataset):
            count = len(target.exists(field))
            count_notice(inputs, count, "will get new ground truth", f"No sample of the target has an answer in '{field}'")
        inputs.view(
            "undo",
            types.Notice(
                label="'Undo accepted predictions' brings the old ground truth back",
                description="Evaluations made before keep their numbers until they are run again",
            ),
        )
        return types.Property(inputs, view=types.View(label="Accept prediction as ground truth"))

    def execute(self, ctx):
        target, _ = _open_sample_or_target(ctx)
        count = curation.accept_prediction(target, ctx.params["pred_field"], ctx.params["gt_field"])
        ctx.ops.notify(f"{plural(count)} got new ground truth", variant="success" if count else "warning")
        ctx.ops.reload_dataset()
        return {"count": count}


class UndoAccept(CallableOperator):
    @property
    def config(self):
        return config(
            "undo_accept",
            "Undo accepted predictions",
            "Brings back the ground truth of the source where a prediction was accepted in its place",
            dynamic=True,
            risk_level=types.RiskLevel.MEDIUM,
        )

    def resolve_input(self, ctx):
        inputs = types.Object()
        target, _ = _open_sample_or_target(ctx)
        names = [f for f in detections_fields(ctx.dataset) if ctx.dataset.has_sample_field(f + curation.SOURCE_SUFFIX)]
        default = "ground_truth" if "ground_truth" in names else next(iter(names), None)
        prop = inputs.enum("gt_field", names, required=True, default=default, label="Ground truth", view=dropdown(names))
        if not names:
            invalid(prop, "No prediction was accepted in this dataset")
        else:
            count = len(target.match_tags(curation.ACCEPTED_TAG))
            count_notice(inputs, count, "will get the old ground truth back", "No sample of the target was accepted")
        return types.Property(inputs, view=types.View(label="Undo accepted predictions"))

    def execute(self, ctx):
        target, _ = _open_sample_or_target(ctx)
        count = curation.undo_accept(target, ctx.params["gt_field"])
        ctx.ops.notify(f"{plural(count)} got the old ground truth back", variant="success")
        ctx.ops.reload_dataset()
        return {"count": count}


OPERATORS = (MostUncertain, Disagreements, SuspectedLabelErrors, TagForReview, AcceptPrediction, UndoAccept)

"""Curation: find what deserves a look, mark it, and make a prediction the ground truth - with a way back."""

from __future__ import annotations

import fiftyone as fo
from fiftyone.operators import types

from fiftyone_rexseek.integration import curation
from fiftyone_rexseek.integration.fields import detections_fields, prediction_fields

from .base import config, invalid
from .calling import CallableOperator, count_notice, plural
from .choices import choose_one, choose_several
from .finding import FindingOperator
from .targets import open_sample, target_images

_NO_PREDICTIONS = "This dataset holds no predictions yet: use 'Apply expressions' or import predictions first"


# -- forms --------------------------------------------------------------------------------------------------------------


def _prediction(ctx, inputs: types.Object) -> str | None:
    """A required choice of one prediction field."""
    return choose_one(ctx, inputs, "pred_field", prediction_fields(ctx.dataset), "Predictions", nothing=_NO_PREDICTIONS)[1]


def _predictions(ctx, inputs: types.Object, least: int, description: str) -> list[str]:
    """A required choice of several prediction fields."""
    names = prediction_fields(ctx.dataset)
    prop, chosen = choose_several(
        ctx, inputs, "pred_fields", names, "Predictions", default=names[:least], least=least, required=True,
        allowed=detections_fields(ctx.dataset), unknown="No field of Detections", description=description,
    )  # fmt: skip
    if not names:
        invalid(prop, _NO_PREDICTIONS)
    return chosen


def _ground_truth(ctx, inputs: types.Object, other: list[str]) -> None:
    names = detections_fields(ctx.dataset)
    prop, chosen = choose_one(ctx, inputs, "gt_field", names, "Ground truth", usual="ground_truth")
    if chosen in other:
        invalid(prop, "A field cannot be compared with itself")


def _open_sample_or_target(ctx) -> tuple[fo.core.collections.SampleCollection, bool]:
    """The sample open in the modal unless something is selected, otherwise what the form's target says."""
    if ctx.current_sample and not ctx.selected:
        return curation.stored_samples(ctx.dataset, [open_sample(ctx)]), True
    return target_images(ctx), False


def _modal_button(label: str, icon: str) -> types.Placement:
    return types.Placement(types.Places.SAMPLES_VIEWER_ACTIONS, types.Button(label=label, icon=icon, prompt=True))


# -- views --------------------------------------------------------------------------------------------------------------


class MostUncertain(FindingOperator):
    about = (
        "most_uncertain",
        "Show the most uncertain answers",
        "The samples of which a model was least sure, least sure first",
    )
    title = "Most uncertain answers"
    looked_at = "looked at; those without any confidence are left out"

    def choose(self, ctx, inputs):
        _prediction(ctx, inputs)

    def find(self, ctx, target, limit):
        field = ctx.params["pred_field"]
        view = curation.most_uncertain(target, field, limit)
        return view, f"answers of '{field}', least sure first", f"No answer in '{field}' has a confidence"


class Disagreements(FindingOperator):
    about = (
        "disagreements",
        "Show where models disagree",
        "The samples on which two or more models differ most, worst first",
    )
    title = "Where models disagree"
    looked_at = "looked at; those on which all agree are left out"

    def choose(self, ctx, inputs):
        _predictions(ctx, inputs, 2, "Two or more")

    def find(self, ctx, target, limit):
        fields = ctx.params["pred_fields"]
        view = curation.disagreements(target, fields, limit)
        return view, f"{' and '.join(fields)} disagree, worst first", "They agree on every sample"


class SuspectedLabelErrors(FindingOperator):
    about = (
        "suspected_label_errors",
        "Show suspected label errors",
        "Samples where every model is sure, all agree with one another, and the ground truth says otherwise",
    )
    title = "Suspected label errors"
    looked_at = "looked at"

    def choose(self, ctx, inputs):
        chosen = _predictions(ctx, inputs, 1, "With several models there are fewer false alarms")
        _ground_truth(ctx, inputs, chosen)
        inputs.float(
            "min_certainty", default=0.8, min=0, max=1, required=True, label="Every model is at least this sure",
            view=types.SliderView(),
        )  # fmt: skip

    def find(self, ctx, target, limit):
        p = ctx.params
        view = curation.suspected_label_errors(
            target, p["pred_fields"], p["gt_field"], min_certainty=float(p["min_certainty"]), limit=limit
        )
        return view, "labels to doubt, surest first", "No confident answer contradicts the ground truth"


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
        tag = ctx.params.get("tag")
        if tag is not None and not (isinstance(tag, str) and tag.strip()):
            invalid(prop, "A tag needs a name")
        count_notice(inputs, len(target), "will be tagged" if not is_open else "(the open one) will be tagged")
        return types.Property(inputs, view=types.View(label="Tag for review"))

    def execute(self, ctx):
        target, _ = _open_sample_or_target(ctx)
        tag = ctx.params["tag"].strip()
        count = curation.tag_for_review(target, tag)
        ctx.ops.notify(f"{plural(count)} newly tagged '{tag}'", variant="success")
        # reload_samples leaves tiles that have been drawn as they are
        ctx.ops.reload_dataset()
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
        names = curation.accepted_fields(ctx.dataset)
        usual = "ground_truth" if "ground_truth" in names else None
        nothing = "No prediction was accepted in this dataset"
        _, field = choose_one(ctx, inputs, "gt_field", names, "Ground truth", usual=usual, nothing=nothing)
        if field in names:
            count = len(curation.accepted_samples(target, field))
            count_notice(inputs, count, "will get the old ground truth back", "No sample of the target was accepted")
        return types.Property(inputs, view=types.View(label="Undo accepted predictions"))

    def execute(self, ctx):
        target, _ = _open_sample_or_target(ctx)
        count = curation.undo_accept(target, ctx.params["gt_field"])
        ctx.ops.notify(f"{plural(count)} got the old ground truth back", variant="success")
        ctx.ops.reload_dataset()
        return {"count": count}

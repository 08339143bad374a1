"""Operators that look for samples and show them as a view, which can be saved."""

from __future__ import annotations

import fiftyone as fo
import fiftyone.core.utils as fou
from fiftyone.operators import types

from .base import config, invalid
from .calling import CallableOperator, count_notice, plural
from .targets import target_images

DEFAULT_LIMIT = 200


class FindingOperator(CallableOperator):
    """Looks for samples among those of the target; a subclass says which.

    Attributes:
        about: name, label and description of the operator
        title: of the form
        looked_at: what the form says after the number of samples
    """

    about: tuple[str, str, str]
    title: str
    looked_at: str

    def choose(self, ctx, inputs: types.Object) -> None:
        """Adds this search's own choices to the form."""
        raise NotImplementedError

    def find(self, ctx, target, limit: int) -> tuple[fo.DatasetView, str, str]:
        """The view, what it shows, and what to say where it is empty."""
        raise NotImplementedError

    @property
    def config(self):
        return config(*self.about, dynamic=True, risk_level=types.RiskLevel.LOW)

    def resolve_input(self, ctx):
        inputs = types.Object()
        count = len(target_images(ctx))
        self.choose(ctx, inputs)
        inputs.int("limit", default=DEFAULT_LIMIT, min=1, required=True, label="At most this many samples")
        prop = inputs.str("save_as", label="Save the view as", description="Empty: the view is shown, not saved")
        name = ctx.params.get("save_as")
        if name and (problem := _name_problem(ctx.dataset, name)):
            invalid(prop, problem)
        count_notice(inputs, count, self.looked_at)
        return types.Property(inputs, view=types.View(label=self.title))

    def execute(self, ctx):
        view, description, nothing = self.find(ctx, target_images(ctx), int(ctx.params["limit"]))
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


def _name_problem(dataset: fo.Dataset, name: str) -> str | None:
    """Why no view can be saved under this name; the App knows views by their names in URLs."""
    try:
        slug = fou.to_slug(name)
    except ValueError:
        return "A short name with at least one Latin letter or digit"
    taken = next((other for other in dataset.list_saved_views() if fou.to_slug(other) == slug), None)
    return None if taken is None else f"There is a saved view '{taken}'"

"""Failures in the App: a view and a colour per cause."""

from __future__ import annotations

import fiftyone as fo
from fiftyone import ViewField as F

from ..errors import ConfigError
from ..metrics.failures import CAUSES
from .results import Overview, Run, evaluated_view, get_run, list_runs, overview

#: Stands for a scored sample without a cause: there was nothing to judge.
NOT_PREDICTED = "not_predicted"
#: What people read.
CAUSE_LABELS = {
    "exact": "exact",
    "missed": "missed",
    "extra": "extra",
    "wrong_instance": "wrong instance",
    "hallucinated": "hallucinated",
    "wrongly_rejected": "wrongly rejected",
    "loosely_localised": "loosely localised",
    "no_proposal": "no proposal",
    "unparsed": "unparsed",
    "failed": "failed",
    NOT_PREDICTED: "not predicted",
}
CAUSE_MEANINGS = {
    "exact": "every target chosen and nothing else, or rightly nothing",
    "missed": "some targets not chosen, nothing chosen instead",
    "extra": "every target chosen, and more",
    "wrong_instance": "something else was chosen instead of a target",
    "hallucinated": "nobody matches, yet something was chosen",
    "wrongly_rejected": "targets exist and nothing was chosen",
    "loosely_localised": "every missed target is covered too loosely",
    "no_proposal": "the missed targets are not among the candidates",
    "unparsed": "the model's answer could not be read",
    "failed": "no answer was obtained",
    NOT_PREDICTED: "nothing was asked, or no answer was imported",
}
#: Green is right, warm colours are wrong answers, grey is no answer.
CAUSE_COLORS = {
    "exact": "#22C55E",
    "missed": "#FACC15",
    "extra": "#F97316",
    "wrong_instance": "#EF4444",
    "hallucinated": "#D946EF",
    "wrongly_rejected": "#8B5CF6",
    "loosely_localised": "#38BDF8",
    "no_proposal": "#0EA5A4",
    "unparsed": "#94A3B8",
    "failed": "#64748B",
    NOT_PREDICTED: "#334155",
}
#: All else, so that the causes stand out: FiftyOne colours by value everywhere or nowhere.
_BACKGROUND_COLOR = "#475569"
_OBJECT_COLORS = {"tp": "#22C55E", "fp": "#EF4444", "fn": "#FACC15"}


def cause_view(dataset: fo.Dataset, run: Run | str, cause: str) -> fo.DatasetView:
    """The samples that a run answered wrongly (or rightly: "exact") for one cause, or that were "not_predicted" at all."""
    run = get_run(dataset, run) if isinstance(run, str) else run
    if cause not in CAUSE_LABELS:
        raise ConfigError("unknown cause", expected=", ".join(CAUSE_LABELS), found=cause)
    stored = None if cause == NOT_PREDICTED else cause
    return evaluated_view(dataset, run).match(F(run.field("failure")) == stored)


def counts_by_cause(overview: Overview) -> dict[str, int]:
    """How many of the scored samples have each cause, those that were not predicted among them; they add up to all."""
    return {**overview.causes, **({NOT_PREDICTED: overview.unanswered} if overview.unanswered else {})}


def save_cause_views(dataset: fo.Dataset, run: Run | str) -> list[str]:
    """Saves a view per cause that occurs, named ``<eval_key>: <cause>``, and drops those that no longer do.

    Returns:
        the names of the saved views
    """
    run = get_run(dataset, run) if isinstance(run, str) else run
    counts = counts_by_cause(overview(dataset, run))
    saved = set(dataset.list_saved_views())
    names = []
    for cause, label in CAUSE_LABELS.items():
        name = f"{run.eval_key}: {label}"
        if name in saved:
            dataset.delete_saved_view(name)
        if counts.get(cause):
            view = cause_view(dataset, run, cause)
            dataset.save_view(name, view, description=CAUSE_MEANINGS[cause].capitalize(), color=CAUSE_COLORS[cause])
            names.append(name)
    return names


def color_by_cause(dataset: fo.Dataset, run: Run | str) -> None:
    """Colours samples by the cause of their failure, and boxes by whether they are right; the rest is grey.

    Colours that the dataset has of its own, for values or as a pool, stay. The field is shown on the grid. Persisted as the dataset's colour scheme and active fields, which an open App reads when
    it opens the dataset: give it ``dataset.app_config``'s new values by ``ctx.trigger("set_color_scheme", ...)`` besides.
    """
    run = get_run(dataset, run) if isinstance(run, str) else run
    field = run.field("failure")
    scheme = dataset.app_config.color_scheme or fo.ColorScheme()
    kept = [f for f in scheme.fields or () if f.get("path") not in (field, run.pred_field, run.gt_field)]
    by_cause = [{"value": cause, "color": CAUSE_COLORS[cause]} for cause in CAUSES]
    by_match = [{"value": value, "color": color} for value, color in _OBJECT_COLORS.items()]
    kept.append({"path": field, "colorByAttribute": "value", "valueColors": by_cause})
    for path in (run.pred_field, run.gt_field):
        before = next((f for f in scheme.fields or () if f.get("path") == path), {})
        kept.append({**before, "path": path, "colorByAttribute": run.eval_key, "valueColors": by_match})
    scheme.color_by = "value"
    scheme.color_pool = scheme.color_pool or [_BACKGROUND_COLOR]
    scheme.fields = kept
    dataset.app_config.color_scheme = scheme
    dataset.app_config.active_fields = fo.ActiveFields(paths=_shown_with_causes(dataset, run))
    dataset.save()


def color_by_field(dataset: fo.Dataset) -> None:
    """Gives every field its own colour again, after :func:`color_by_cause`."""
    scheme = dataset.app_config.color_scheme or fo.ColorScheme()
    scheme.color_by = "field"
    if scheme.color_pool == [_BACKGROUND_COLOR]:
        scheme.color_pool = None
    dataset.app_config.color_scheme = scheme
    dataset.save()


def _shown_with_causes(dataset: fo.Dataset, run: Run) -> list[str]:
    """What the grid shows: the cause, the run's boxes, and what it showed before except other runs' causes and boxes."""
    own = [run.field("failure"), run.gt_field, run.pred_field]
    others = [r for r in list_runs(dataset) if r.eval_key != run.eval_key]
    hidden = {r.pred_field for r in others} | {r.fields.get("failure") for r in others} | set(own)
    active = dataset.app_config.active_fields
    known = active is not None and active.paths is not None and not active.exclude
    return [own[0], *(path for path in (active.paths if known else ()) if path not in hidden), *own[1:]]

"""Takes away what this project added to a dataset; samples and ground truth stay as they are.

:func:`inventory` lists what there is, :func:`reset` removes the parts that are named::

    found = inventory(dataset)
    reset(dataset, predictions=found.predictions, evaluations=found.evaluations)
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass, fields
from itertools import permutations

import fiftyone as fo

from ..errors import ConfigError
from .curation import ACCEPTED_SUFFIX, REVIEW_TAG, SOURCE_SUFFIX, accepted_fields, undo_accept
from .evaluation import METHODS
from .quality import QUALITY_TAG
from .quality import VIEW as QUALITY_VIEW
from .selections import COMPANIONS

logger = logging.getLogger(__name__)

#: Methods of custom runs by which this project records what it did.
RUN_METHODS = ("apply_expressions", "describe_targets")
#: Never offered, whatever stands beside them.
_KEPT = ("ground_truth", "candidates")


@dataclass(frozen=True)
class Inventory:
    """What this project added to a dataset; also what a reset took away.

    Attributes:
        predictions: prediction fields, without the companions that go with them
        evaluations: keys of evaluation runs
        runs: keys of other runs (``apply_...``, ``describe_...``)
        views: saved views of evaluations, of comparisons of two and of quality checks
        tags: tags of quality checks and of review
        accepted: ground truth fields in which predictions were accepted
    """

    predictions: tuple[str, ...] = ()
    evaluations: tuple[str, ...] = ()
    runs: tuple[str, ...] = ()
    views: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    accepted: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return any(getattr(self, f.name) for f in fields(self))

    def __str__(self) -> str:
        """For a person.

        Example::

            >>> print(Inventory(predictions=("a", "b"), tags=("review",)))
            predictions: a, b; tags: review
        """
        parts = [f"{f.name}: {', '.join(getattr(self, f.name))}" for f in fields(self) if getattr(self, f.name)]
        return "; ".join(parts) or "nothing"


def inventory(dataset: fo.Dataset) -> Inventory:
    """Everything that :func:`reset` could remove."""
    runs = tuple(key for key in dataset.list_runs() if _run_method(dataset, key) in RUN_METHODS)
    evaluations = tuple(key for key in dataset.list_evaluations() if _is_ours(dataset, key))
    schema = dataset.get_field_schema()
    return Inventory(
        predictions=tuple(name for name in schema if _is_prediction(dataset, name, runs)),
        evaluations=evaluations,
        runs=runs,
        views=tuple(n for n in dataset.list_saved_views() if n == QUALITY_VIEW or _keys_of_view(n, evaluations)),
        tags=tuple(t for t in dataset.distinct("tags") if t == REVIEW_TAG or t.partition(":")[0] == QUALITY_TAG),
        accepted=tuple(accepted_fields(dataset)),
    )


def reset(
    dataset: fo.Dataset,
    *,
    predictions: Iterable[str] = (),
    evaluations: Iterable[str] = (),
    runs: Iterable[str] = (),
    views: Iterable[str] = (),
    tags: Iterable[str] = (),
    accepted: Iterable[str] = (),
) -> Inventory:
    """Removes what is named, and what makes no sense without it.

    With a prediction field go its companions (``<field>_outcome`` ...), the evaluations of it and the run that made it; with
    an evaluation go its fields and views. ``accepted`` brings the ground truth of the source back. Mask files stay on disk.

    Raises:
        ConfigError: a name that :func:`inventory` does not list; nothing is removed then

    Returns:
        what was removed
    """
    found = inventory(dataset)
    chosen = {
        "predictions": predictions, "evaluations": evaluations, "runs": runs, "views": views, "tags": tags,
        "accepted": accepted,
    }  # fmt: skip
    wanted = {kind: tuple(dict.fromkeys(names)) for kind, names in chosen.items()}
    for kind, names in wanted.items():
        unknown = [name for name in names if name not in getattr(found, kind)]
        if unknown:
            raise ConfigError(
                f"nothing of this project has this name among the {kind}",
                expected=", ".join(getattr(found, kind)) or "none, there is nothing to remove",
                found=", ".join(map(str, unknown)),
            )
    wanted["evaluations"] = _with(wanted["evaluations"], _evaluations_of(dataset, found, wanted["predictions"]))
    wanted["runs"] = _with(wanted["runs"], [r for r in found.runs if r.partition("_")[2] in wanted["predictions"]])
    stale = [v for v in found.views if _keys_of_view(v, found.evaluations) & set(wanted["evaluations"])]
    wanted["views"] = _with(wanted["views"], stale)

    for field in wanted["accepted"]:
        undo_accept(dataset, field)
        own = [field + suffix for suffix in (SOURCE_SUFFIX, ACCEPTED_SUFFIX)]
        dataset.delete_sample_fields([name for name in own if dataset.has_sample_field(name)])
    for key in wanted["evaluations"]:
        dataset.delete_evaluation(key)
    for key in wanted["runs"]:
        dataset.delete_run(key)
    for name in wanted["views"]:
        dataset.delete_saved_view(name)
    if wanted["tags"]:
        dataset.match_tags(list(wanted["tags"])).untag_samples(list(wanted["tags"]))
    gone = [name for field in wanted["predictions"] for name in _with_companions(dataset, field)]
    if gone:
        dataset.delete_sample_fields(gone)
        for field in wanted["predictions"]:
            dataset._delete_empty_sidebar_group(f"answers of {field}")
    removed = Inventory(**wanted)
    logger.info("removed %s", removed)
    return removed


def _with(names: tuple[str, ...], more: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys([*names, *more]))


def _with_companions(dataset: fo.Dataset, field: str) -> list[str]:
    names = [field, *(field + suffix for suffix in COMPANIONS)]
    return [name for name in names if dataset.has_sample_field(name)]


def _is_prediction(dataset: fo.Dataset, name: str, runs: tuple[str, ...]) -> bool:
    if name in _KEPT:
        return False
    if f"apply_{name}" in runs or f"describe_{name}" in runs:
        return True
    kind = getattr(dataset.get_field(name), "document_type", None)
    return kind in (fo.Detections, fo.Keypoints) and dataset.has_sample_field(f"{name}_outcome")


def _run_method(dataset: fo.Dataset, key: str) -> str | None:
    return getattr(dataset.get_run_info(key).config, "method", None)


def _is_ours(dataset: fo.Dataset, key: str) -> bool:
    return getattr(dataset.get_evaluation_info(key).config, "method", None) in METHODS


def _keys_of_view(name: str, evaluations: tuple[str, ...]) -> set[str]:
    """The evaluations that a saved view shows: one by cause (``"a: missed"``), or two (``"a right, b wrong"``)."""
    own = {key for key in evaluations if name.startswith(f"{key}: ")}
    return own.union(*(pair for pair in permutations(evaluations, 2) if name == "{} right, {} wrong".format(*pair)))


def _evaluations_of(dataset: fo.Dataset, found: Inventory, predictions: tuple[str, ...]) -> list[str]:
    return [k for k in found.evaluations if dataset.get_evaluation_info(k).config.pred_field in predictions]

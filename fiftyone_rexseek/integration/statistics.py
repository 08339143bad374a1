"""What is too slow to compute while a panel opens: intervals, threshold sweep, proposal ceiling. Kept with the run.

Computed once, when samples are evaluated (or on demand for a run that has none), and kept in the dataset's execution store
under the id of the run's document: it survives renaming, a run made again under the same key has an id of its own, and
reading it does not load the run's matches. Everything in it is bounded by the number of domains, never of samples.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Mapping, Sequence
from itertools import compress
from typing import Any

import fiftyone as fo
import numpy as np
from fiftyone.operators.store import ExecutionStore

from ..metrics.humanref import label_groups
from ..metrics.proposals import proposal_recall
from ..metrics.significance import Interval, bootstrap_intervals
from ..metrics.sweep import OBJECTIVES, threshold_sweep
from .columns import Columns, read_columns
from .text_columns import read_texts

logger = logging.getLogger(__name__)

STORE = "fiftyone_rexseek_results"
#: Counts up when the content changes, so that what an older release stored is computed again.
VERSION = 1
RESAMPLES = 2000
CONFIDENCE = 0.95
#: Groups by the number of targets, with their inclusive ranges.
TARGET_GROUPS = {"0": (0, 0), "1": (1, 1), "2-5": (2, 5), "6-10": (6, 10), ">10": (11, None)}
#: A field with more distinct values than this is no grouping that anyone could read.
MAX_GROUPS = 40


def target_group(num_targets: int) -> str:
    """The group of a number of targets.

    Example::

        >>> [target_group(n) for n in (0, 1, 3, 10, 11)]
        ['0', '1', '2-5', '6-10', '>10']
    """
    for name, (low, high) in TARGET_GROUPS.items():
        if num_targets >= low and (high is None or num_targets <= high):
            return name
    raise ValueError(f"num_targets is {num_targets}, expected 0 or more")


def has_domain(samples) -> bool:
    """Whether samples have a ``domain`` to group by: on people's own datasets a field of that name may be anything."""
    return isinstance(samples.get_field("domain"), fo.StringField)


def clusters_of(samples, image_ids: Sequence[Any] | None = None) -> list[Any]:
    """What is resampled: the image of each sample, by ``image_id`` where there is one, else by file."""
    if image_ids is None and samples.has_sample_field("image_id"):
        image_ids = samples.values("image_id")
    if image_ids is None or all(i is None for i in image_ids):
        return samples.values("filepath")
    return [("sample", k) if i is None else i for k, i in enumerate(image_ids)]


def headline_terms(
    headlines: Sequence[Mapping[str, Any]], fields: Mapping[str, Sequence[Any]]
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Per-sample numerators of the headline numbers, and denominators of those that are ratios of sums.

    Only numbers that the method traces back to its per-sample fields; those per group are left to the caller.
    """
    terms, denominators = {}, {}
    for h in headlines:
        mean_of, ratio_of = h.get("mean_of"), h.get("ratio_of")
        if "/" in h["key"]:
            continue
        if ratio_of and all(name in fields for name in ratio_of):
            terms[h["key"]], denominators[h["key"]] = (as_floats(fields[name]) for name in ratio_of)
        elif mean_of and mean_of in fields:
            terms[h["key"]] = as_floats(fields[mean_of])
    return terms, denominators


def as_floats(values: Sequence[Any]) -> np.ndarray:
    """A column as float64; None as NaN."""
    return np.array([np.nan if v is None else float(v) for v in values], dtype=np.float64)


def compute(
    columns: Columns,
    fields: Mapping[str, Sequence[Any]],
    headlines: Sequence[Mapping[str, Any]],
    summary: Mapping[str, Any],
    method: str,
    clusters: Sequence[Any],
) -> dict[str, Any]:
    """All statistics of one run as JSON values.

    Args:
        columns: boxes, confidences and candidates of the evaluated samples
        fields: the run's per-sample fields by suffix, same order
        headlines: the run's headline numbers, as ``vars(Headline)``
        summary: the run's aggregated report
        method: name of the method, for the sweep's objective
        clusters: see :func:`clusters_of`
    """
    terms, denominators = headline_terms(headlines, fields)
    score = as_floats(fields["score"]) if "score" in fields else None
    counts, domains = columns.gt.counts, columns.values.get("domain", [None] * len(columns))
    if score is not None:
        terms["score"] = score
        for kind, names in _groups(counts, domains).items():
            for name, members in names.items():
                terms[f"{kind}={name}"] = np.where(members, score, np.nan)
    intervals = bootstrap_intervals(
        terms, clusters, denominators=denominators, n_resamples=RESAMPLES, confidence=CONFIDENCE
    )
    return {
        "version": VERSION,
        "num_samples": len(columns),
        "num_images": len(set(clusters)),
        "confidence": CONFIDENCE,
        "headlines": [dict(h) for h in headlines if "/" not in h["key"]],
        "summary": dict(summary),
        "sub_domain_owner": dict(label_groups(domains, columns.values.get("sub_domain", [None] * len(columns)))),
        "intervals": {name: _interval(i) for name, i in intervals.items() if i.num_samples},
        "sweep": _sweep(columns, method, summary),
        "ceiling": _ceiling(columns, summary),
    }


def num_scored(kept: Mapping[str, Any]) -> int:
    """How many of the evaluated samples have a score; those that were left out, say for want of an answer, have none."""
    return (kept["intervals"].get("score") or {}).get("num_samples", 0)


def _groups(counts: np.ndarray, domains: Sequence[Any]) -> dict[str, dict[str, np.ndarray]]:
    by_target = np.array([target_group(int(n)) for n in counts], dtype=object)
    groups = {"targets": {name: by_target == name for name in TARGET_GROUPS if (by_target == name).any()}}
    names = sorted({d for d in domains if d is not None})
    if 0 < len(names) <= MAX_GROUPS:
        column = np.array(domains, dtype=object)
        groups["domain"] = {name: column == name for name in names}
    return groups


def _interval(i: Interval) -> dict[str, Any]:
    plain = {"value": i.value, "low": i.low, "high": i.high, "num_samples": i.num_samples, "num_images": i.num_clusters}
    return {k: None if isinstance(v, float) and math.isnan(v) else v for k, v in plain.items()}


def _sweep(columns: Columns, method: str, summary: Mapping[str, Any]) -> dict[str, Any] | None:
    scores = columns.pred.scores
    if method not in OBJECTIVES or columns.pred.is_points or not any(c is not None for row in scores for c in row):
        return None
    candidates = columns.candidate_boxes()
    answered = columns.answered
    rows = [columns.gt.boxes_xyxy, columns.pred.boxes_xyxy, scores, answered, candidates or columns.gt.boxes_xyxy]
    rows = [list(compress(row, _counted(columns, summary))) for row in rows]
    targets, predictions, scores, answered, candidates = rows
    sweep = threshold_sweep(
        targets, predictions, scores, method=method, protocol=summary.get("protocol", "official"), answered=answered,
        num_candidates=[len(c) for c in candidates],
    )  # fmt: skip
    curves = {n: getattr(sweep, n).tolist() for n in ("thresholds", "precision", "recall", "score")}
    return {"objective": sweep.objective, "best": sweep.best, **curves}


def _counted(columns: Columns, summary: Mapping[str, Any]) -> list[bool]:
    """Which samples enter the figures: all of them, or with missing="skip" those with an answer."""
    skips = (summary.get("missing") or {}).get("policy") == "skip"
    return [bool(answered) or not skips for answered in columns.answered]


def _ceiling(columns: Columns, summary: Mapping[str, Any]) -> dict[str, Any] | None:
    if columns.draws or columns.candidates is None or not columns.candidates.counts.any():
        return None
    known = [k and c for k, c in zip(columns.candidates.present, _counted(columns, summary))]
    targets, candidates = ([b for b, k in zip(c.boxes_xyxy, known) if k] for c in (columns.gt, columns.candidates))
    found = proposal_recall(targets, candidates)
    if not found.num_targets:
        return None
    return {
        "recall": found.recall,
        "iou_threshold": found.iou_threshold,
        "num_targets": found.num_targets,
        "num_found": found.num_found,
        "num_complete": found.num_examples_complete,
        "num_with_targets": found.num_examples_with_targets,
    }


def of_evaluation(samples, eval_key: str, columns: Columns, scored, headlines, summary) -> None:
    """Computes and keeps the statistics of an evaluation that has just been saved; its columns are still in memory."""
    clusters = clusters_of(samples, columns.values.get("image_id"))
    method = samples._dataset.get_evaluation_info(eval_key).config.method
    keep(samples._dataset, eval_key, compute(columns, scored.fields, headlines, summary, method, clusters))


def of_stored_run(dataset: fo.Dataset, eval_key: str) -> dict[str, Any]:
    """Computes and keeps the statistics of a run that has none, from the fields it wrote."""
    config = dataset.get_evaluation_info(eval_key).config
    results = dataset.load_evaluation_results(eval_key)
    samples = dataset.load_evaluation_view(eval_key)
    if not config.spec.scores_texts:
        samples = samples.exists(config.gt_field)  # what was evaluated
    columns = _columns(samples, config)
    names = [s for s in config.spec.fields if dataset.has_sample_field(f"{eval_key}_{s}") and s != "failure"]
    fields = dict(zip(names, samples.values([f"{eval_key}_{s}" for s in names]))) if names else {}
    clusters = clusters_of(samples, columns.values.get("image_id"))
    statistics = compute(columns, fields, results.headlines, results.summary, config.method, clusters)
    keep(dataset, eval_key, statistics)
    return statistics


def _columns(samples, config) -> Columns:
    if isinstance(samples.get_field(config.pred_field), fo.StringField):  # generated texts
        return read_texts(samples, config)
    return read_columns(samples, config.pred_field, config.gt_field, candidates_field=config.candidates_of(samples))


def run_id(dataset: fo.Dataset, eval_key: str) -> str:
    """Id of a run's document: another one each time samples are evaluated, the same after renaming."""
    return str(dataset._doc.evaluations[eval_key].id)


def store(dataset: fo.Dataset) -> ExecutionStore:
    """The dataset's store of statistics; deleted with the dataset."""
    return ExecutionStore.create(STORE, dataset_id=dataset._doc.id)


def keep(dataset: fo.Dataset, eval_key: str, statistics: Mapping[str, Any]) -> None:
    """Keeps the statistics of a run."""
    # as text: names of domains are keys in it, and the database does not take every name as a key
    store(dataset).set(run_id(dataset, eval_key), json.dumps(statistics))


def load(dataset: fo.Dataset, eval_key: str) -> dict[str, Any] | None:
    """The statistics of a run, or None where they were never computed (or by a release that computed others)."""
    found = store(dataset).get(run_id(dataset, eval_key))
    statistics = json.loads(found) if isinstance(found, str) else None
    return statistics if statistics is not None and statistics.get("version") == VERSION else None


def forget(dataset: fo.Dataset, eval_key: str) -> None:
    """Drops the statistics of a run and its comparisons, e.g. because it is about to be deleted."""
    if eval_key not in dataset._doc.evaluations:
        return
    gone, kept = run_id(dataset, eval_key), store(dataset)
    for key in kept.list_keys():
        if gone in key.split("-"):
            kept.delete(key)

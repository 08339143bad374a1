"""What the Results panel shows of an evaluation: counted in the database, of bounded size, without any widget.

:func:`overview` counts and averages the run's per-sample fields in one database pass, so that every bar says how many
samples a click on it will show; :func:`headline_rows` and the curves come from the statistics that were kept with the run
(:mod:`~.statistics`). The views that clicks open are here too.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import fiftyone as fo
from fiftyone import ViewField as F

from ..errors import ConfigError
from ..metrics.failures import CAUSES
from . import statistics
from .evaluation import METHODS, ReferringEvaluationConfig
from .fields import require_detections

#: Bins of the distribution of per-sample scores.
NUM_BINS = 20


@dataclass(frozen=True)
class Run:
    """An evaluation run, as far as its document tells.

    Attributes:
        eval_key: its name
        run_id: id of its document
        method, label, protocol: what was computed
        pred_field, gt_field: of what
        timestamp: when, ISO 8601
        fields: the run's per-sample fields that exist, by suffix
    """

    eval_key: str
    run_id: str
    method: str
    label: str
    protocol: str
    pred_field: str
    gt_field: str
    timestamp: str
    fields: Mapping[str, str] = dataclasses.field(hash=False)

    @property
    def title(self) -> str:
        """One line for a list of runs."""
        return f"{self.eval_key} - {self.label}, {self.pred_field}, protocol {self.protocol}"

    def field(self, suffix: str) -> str:
        """The name of a per-sample field; raises :class:`ConfigError` where the run has none."""
        if suffix not in self.fields:
            raise ConfigError(
                f"run {self.eval_key!r} has no field {suffix!r}",
                expected=f"one of {sorted(self.fields)}",
                advice="Evaluate again: the field was deleted, or the method has no such number.",
            )
        return self.fields[suffix]


@dataclass(frozen=True)
class Group:
    """Samples of one domain or one number of targets.

    Attributes:
        name: of the group
        count: its evaluated samples
        score: their mean score, None without any
        success_rate: share of them answered exactly right
    """

    name: str
    count: int
    score: float | None
    success_rate: float | None


@dataclass(frozen=True)
class Overview:
    """What the database says about a run now.

    Attributes:
        num_samples: samples that the run scored
        domains: groups by domain, alphabetical; empty where there are none or too many
        num_domains: how many there are
        targets: groups by number of targets
        histogram: number of samples per score bin; bin i is [i, i+1) / len, the last one includes 1
        causes: number of samples by cause, in the order of :class:`~fiftyone_rexseek.metrics.failures.Cause`
        unanswered: scored samples without a cause: nothing was predicted
    """

    num_samples: int
    domains: tuple[Group, ...]
    num_domains: int
    targets: tuple[Group, ...]
    histogram: tuple[int, ...]
    causes: Mapping[str, int]
    unanswered: int


def list_runs(dataset: fo.Dataset) -> list[Run]:
    """The finished runs of this project's methods on a dataset, latest first."""
    runs = []
    for key in dataset.list_evaluations():
        # the documents' plain configs: nothing is imported or loaded for runs that are not ours
        document = dataset._doc.evaluations[key]
        if document.config.get("method") in METHODS and document.results:
            runs.append(get_run(dataset, key))
    return sorted(runs, key=lambda r: r.timestamp, reverse=True)


def get_run(dataset: fo.Dataset, eval_key: str) -> Run:
    """One run; raises :class:`ConfigError` when there is none of this project's under that key."""
    found = dataset.list_evaluations()
    info = dataset.get_evaluation_info(eval_key) if eval_key in found else None
    if info is None or not isinstance(info.config, ReferringEvaluationConfig):
        raise ConfigError(
            f"there is no referring evaluation {eval_key!r}",
            where=dataset.name,
            expected=f"one of {[k for k in found if dataset._doc.evaluations[k].config.get('method') in METHODS]}",
            advice="Evaluate predictions first: fiftyone_rexseek.evaluate_referring(...).",
        )
    config, spec = info.config, info.config.spec
    names = {suffix: f"{eval_key}_{suffix}" for suffix in spec.fields}
    return Run(
        eval_key=eval_key,
        run_id=statistics.run_id(dataset, eval_key),
        method=config.method,
        label=spec.label,
        protocol=config.protocol,
        pred_field=config.pred_field,
        gt_field=config.gt_field,
        timestamp=info.timestamp.isoformat(timespec="seconds"),
        fields={suffix: name for suffix, name in names.items() if dataset.has_sample_field(name)},
    )


def overview(dataset: fo.Dataset, run: Run) -> Overview:
    """Counts and means of a run's samples, in one pass of the database."""
    score = f"${run.field('score')}"
    success, failure = run.fields.get("success"), run.fields.get("failure")
    targets = {"$size": {"$ifNull": [f"${run.gt_field}.detections", []]}}
    project = {
        "score": score,
        "success": f"${success}" if success else None,
        "failure": f"${failure}" if failure else None,
        "domain": "$domain" if statistics.has_domain(dataset) else None,
        "targets": {"$switch": {"branches": _target_branches(targets), "default": ">10"}},
    }
    position = {"$floor": {"$multiply": ["$score", NUM_BINS]}}
    score_bin = {"$max": [0, {"$min": [NUM_BINS - 1, position]}]}
    pipeline = [
        {"$match": _scored(run)},
        {"$project": {name: {"$literal": None} if value is None else value for name, value in project.items()}},
        {
            "$facet": {
                "domains": [_by("domain")],
                "targets": [_by("targets")],
                "causes": [{"$group": {"_id": "$failure", "count": {"$sum": 1}}}],
                "bins": [{"$match": {"score": {"$ne": None}}}, {"$group": {"_id": score_bin, "count": {"$sum": 1}}}],
            }
        },
    ]
    (found,) = dataset._aggregate(pipeline=pipeline)
    domains = _as_groups(found["domains"])
    by_target = {g.name: g for g in _as_groups(found["targets"])}
    bins, causes = ({row["_id"]: row["count"] for row in found[name]} for name in ("bins", "causes"))
    unanswered = causes.pop(None, 0)
    return Overview(
        num_samples=sum(g.count for g in by_target.values()),
        domains=domains if len(domains) <= statistics.MAX_GROUPS else (),
        num_domains=len(domains),
        targets=tuple(by_target[name] for name in statistics.TARGET_GROUPS if name in by_target),
        histogram=tuple(bins.get(i, 0) for i in range(NUM_BINS)),
        causes={c: causes[c] for c in CAUSES if c in causes},
        unanswered=unanswered,
    )


def _target_branches(count) -> list[dict[str, Any]]:
    return [
        {"case": {"$lte": [count, high]}, "then": name}
        for name, (_, high) in statistics.TARGET_GROUPS.items()
        if high is not None
    ]


def _scored(run: Run) -> dict[str, Any]:
    """A database condition that holds for the samples the run scored."""
    return {run.field("success" if "success" in run.fields else "score"): {"$ne": None}}


def _by(name: str) -> dict[str, Any]:
    rate = {"$avg": {"$cond": ["$success", 1, 0]}}
    return {"$group": {"_id": f"${name}", "count": {"$sum": 1}, "score": {"$avg": "$score"}, "rate": rate}}


def _as_groups(rows: Sequence[Mapping[str, Any]]) -> tuple[Group, ...]:
    groups = [Group(str(r["_id"]), r["count"], r["score"], r["rate"]) for r in rows if r["_id"] is not None]
    return tuple(sorted(groups, key=lambda g: g.name))


def get_statistics(dataset: fo.Dataset, run: Run, compute: bool = True) -> dict[str, Any] | None:
    """The statistics kept with a run; computed now where there are none and ``compute`` is set, else None."""
    found = statistics.load(dataset, run.eval_key)
    return statistics.of_stored_run(dataset, run.eval_key) if found is None and compute else found


@dataclass(frozen=True)
class HeadlineRow:
    """One line of the table of headline numbers.

    Attributes:
        key, label: of the number
        value: the run's
        low, high: its interval, None where the number is not a mean over samples
        baselines: the same number of each trivial answer
        is_count: whether it counts something, so that it is no share
    """

    key: str
    label: str
    value: float | int | None
    low: float | None
    high: float | None
    baselines: Mapping[str, float | None]
    is_count: bool


def headline_rows(kept: Mapping[str, Any]) -> list[HeadlineRow]:
    """The headline numbers with intervals and trivial baselines, from a run's statistics."""
    baselines: Mapping[str, Mapping[str, Any]] = kept["summary"].get("baselines") or {}
    rows = []
    for h in kept["headlines"]:
        interval = kept["intervals"].get(h["key"]) or {}
        beside = {name: values.get(h["label"]) for name, values in baselines.items()}
        value = h["value"]
        is_count = isinstance(value, int) and not isinstance(value, bool)
        rows.append(
            HeadlineRow(h["key"], h["label"], value, interval.get("low"), interval.get("high"), beside, is_count)
        )
    return rows


def evaluated_view(dataset: fo.Dataset, run: Run) -> fo.DatasetView:
    """The samples that a run scored."""
    return dataset.match(_scored_expression(run))


def _scored_expression(run: Run):
    return F(run.field("success" if "success" in run.fields else "score")) != None  # noqa: E711 - an expression


def domain_view(dataset: fo.Dataset, run: Run, domain: str) -> fo.DatasetView:
    """The scored samples of a domain."""
    # a literal, because the database takes a text that begins with "$" for the name of a field
    return evaluated_view(dataset, run).match(F("domain") == F.literal(domain))


def targets_view(dataset: fo.Dataset, run: Run, group: str) -> fo.DatasetView:
    """The scored samples with so many targets; ``group`` is a key of :data:`.statistics.TARGET_GROUPS`."""
    if group not in statistics.TARGET_GROUPS:
        raise ConfigError("unknown number of targets", expected=list(statistics.TARGET_GROUPS), found=group)
    low, high = statistics.TARGET_GROUPS[group]
    count = F(f"{run.gt_field}.detections").length()
    condition = count >= low if high is None else (count >= low) & (count <= high)
    return evaluated_view(dataset, run).match(condition)


def score_view(dataset: fo.Dataset, run: Run, index: int) -> fo.DatasetView:
    """The samples of one bin of the distribution of scores."""
    if not 0 <= index < NUM_BINS:
        raise ConfigError("there is no such bin", expected=f"0 to {NUM_BINS - 1}", found=index)
    # the very expression that put the samples into bins, so that counts agree to the last sample
    position = (F(run.field("score")) * NUM_BINS).floor()
    if index == NUM_BINS - 1:
        return evaluated_view(dataset, run).match(position >= index)
    below = position <= 0 if index == 0 else position == index
    return evaluated_view(dataset, run).match((F(run.field("score")) != None) & below)  # noqa: E711


def confident_view(dataset: fo.Dataset, run: Run, threshold: float) -> fo.DatasetView:
    """The scored samples, of their predictions those of at least this confidence and those without any."""
    require_detections(dataset, run.pred_field)
    kept = (F("confidence") >= threshold) | (F("confidence") == None)  # noqa: E711 - an expression
    return evaluated_view(dataset, run).filter_labels(run.pred_field, kept, only_matches=False)


def worst_view(dataset: fo.Dataset, run: Run) -> fo.DatasetView:
    """The scored samples, lowest score first."""
    return evaluated_view(dataset, run).sort_by(run.field("score"))

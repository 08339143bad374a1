"""Two or more evaluation runs on the same samples: side by side, with paired differences and the samples behind them.

Every number is computed again from the runs' per-sample fields over the samples that *all* runs scored, so that columns
can be compared; intervals and p-values come from a paired bootstrap over images.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from typing import Any

import fiftyone as fo
import numpy as np
from fiftyone import ViewField as F

from ..errors import ConfigError, DataError
from ..metrics import humanref_tables, tables
from ..metrics.significance import PairedBootstrap, paired_bootstraps
from . import statistics
from .fields import flat_images
from .results import Run, get_run, get_statistics


@dataclass(frozen=True)
class Row:
    """One number of all runs.

    Attributes:
        key: of the headline number, or ``"domain=<name>"`` / ``"targets=<group>"`` for the mean score of a group
        label: for people
        values: one per run, None where it has none
        num_samples: samples that have a part in it
    """

    key: str
    label: str
    values: tuple[float | None, ...]
    num_samples: int


@dataclass(frozen=True)
class Pair:
    """Run ``a`` against run ``b``.

    Attributes:
        a, b: evaluation keys
        differences: a minus b with interval and p-value, by the key of the row
        both_right, only_a_right, only_b_right, both_wrong: numbers of samples; None where the method does not say what
            is right (texts)
    """

    a: str
    b: str
    differences: Mapping[str, PairedBootstrap]
    both_right: int | None
    only_a_right: int | None
    only_b_right: int | None
    both_wrong: int | None


@dataclass(frozen=True)
class Comparison:
    """What :func:`compare_runs` returns.

    Attributes:
        eval_keys, pred_fields: of the runs, in the order given
        method, label, protocol: what was computed
        rows: numbers in the order of the benchmark's own tables: headlines, domains, numbers of targets
        pairs: every run against every later one
        num_samples, num_images: what was compared
        left_out: per run, how many samples it scored that another did not
        official: HumanRef's own comparison (the content of ``comparison.json``); None for other methods, and where the runs
            were compared on a part of their samples only
        official_markdown: the same as HumanRef's ``comparison.md``
    """

    eval_keys: tuple[str, ...]
    pred_fields: tuple[str, ...]
    method: str
    label: str
    protocol: str
    rows: tuple[Row, ...]
    pairs: tuple[Pair, ...]
    num_samples: int
    num_images: int
    left_out: Mapping[str, int]
    official: Mapping[str, list[dict[str, Any]]] | None
    official_markdown: str | None

    def pair(self, a: str, b: str) -> Pair:
        """The comparison of two of the runs, given in the order of ``eval_keys``."""
        found = next((p for p in self.pairs if (p.a, p.b) == (a, b)), None)
        if found is None:
            raise ConfigError("these runs were not compared", expected=[(p.a, p.b) for p in self.pairs], found=(a, b))
        return found

    def to_markdown(self, digits: int = 3) -> str:
        """Tables of the numbers and of the differences."""
        headers = ["", *self.eval_keys, "samples"]
        body = [[r.label, *(number(v, digits) for v in r.values), f"{r.num_samples:,}"] for r in self.rows]
        parts = [f"{self.label}, protocol {self.protocol}, {self.num_samples:,} samples of {self.num_images:,} images"]
        parts.append(tables.pipe(headers, body))
        for pair in self.pairs:
            parts.append(tables.pipe(["", f"{pair.a} - {pair.b}", "interval", "p"], pair_cells(self, pair, digits)))
        return "\n\n".join(parts)

    def to_dict(self) -> dict[str, Any]:
        """JSON values; NaN as None."""
        return json.loads(json.dumps(asdict(self), default=float).replace("NaN", "null"))


def pair_cells(comparison: Comparison, pair: Pair, digits: int = 3) -> list[list[str]]:
    """Rows of text: label, difference, interval, p-value."""
    cells = []
    for row in comparison.rows:
        d = pair.differences.get(row.key)
        if d is not None and d.num_samples:
            interval = "" if math.isnan(d.low) else f"{d.low:+.{digits}f} to {d.high:+.{digits}f}"
            cells.append([row.label, f"{d.difference:+.{digits}f}", interval, p_text(d.p_value)])
    return cells


def number(value: float | None, digits: int = 3) -> str:
    """A number for a table; "-" for None."""
    return "-" if value is None else f"{value:.{digits}f}"


def p_text(p_value: float) -> str:
    """A p-value for a table.

    Example::

        >>> p_text(0.0004), p_text(0.0312)
        ('< 0.001', '0.031')
    """
    return "< 0.001" if p_value < 0.001 else f"{p_value:.3f}"


def compare_runs(
    samples: fo.core.collections.SampleCollection,
    eval_keys: Sequence[str],
    *,
    n_resamples: int = statistics.RESAMPLES,
    confidence: float = statistics.CONFIDENCE,
    seed: int = 0,
) -> Comparison:
    """Compares evaluation runs on the samples that all of them scored.

    Args:
        samples: the dataset, or a view to which the comparison is confined
        eval_keys: two or more runs of one method and protocol against one ground truth
        n_resamples, confidence, seed: of the paired bootstrap, which resamples images

    Raises:
        ConfigError: fewer than two runs, or runs that cannot be compared
        DataError: the runs have no sample in common
    """
    keys = list(dict.fromkeys(eval_keys))
    if len(keys) < 2:
        raise ConfigError("a comparison needs two runs", expected="at least 2 evaluation keys", found=list(eval_keys))
    dataset = samples._dataset
    runs = [get_run(dataset, key) for key in keys]
    for what, words in (("method", "methods"), ("protocol", "protocols"), ("gt_field", "ground truths")):
        kinds = {run.eval_key: getattr(run, what) for run in runs}
        if len(set(kinds.values())) > 1:
            raise ConfigError(
                f"runs of different {words} cannot be compared",
                found=", ".join(f"{key}: {kind}" for key, kind in kinds.items()),
                advice="Evaluate the predictions again in the same way.",
            )
    samples = flat_images(samples)
    columns = _read(samples, runs)
    scored = np.array([[v is not None for v in columns[run, _decisive(run)]] for run in runs], dtype=bool)
    common = scored.all(axis=0)
    if not common.any():
        raise DataError("the runs have no sample in common", found={r.eval_key: int(s.sum()) for r, s in zip(runs, scored)})
    columns = {name: [v for v, c in zip(column, common) if c] for name, column in columns.items()}
    kept = [get_statistics(dataset, run) for run in runs]
    terms, labels = _terms(runs, columns, kept)
    clusters = _clusters(columns)
    right = {run: np.array([bool(v) for v in columns[run, "success"]]) for run in runs if "success" in run.fields}
    options = dict(n_resamples=n_resamples, confidence=confidence, seed=seed)
    pairs = [_pair(a, b, terms, right, clusters, options) for a, b in combinations(runs, 2)]
    complete = all(int(common.sum()) == statistics.num_scored(k) for k in kept)
    official, markdown = _official(runs, kept) if complete else (None, None)
    return Comparison(
        eval_keys=tuple(keys),
        pred_fields=tuple(run.pred_field for run in runs),
        method=runs[0].method,
        label=runs[0].label,
        protocol=runs[0].protocol,
        rows=tuple(_rows(labels, runs, terms, kept, complete)),
        pairs=tuple(pairs),
        num_samples=int(common.sum()),
        num_images=len(set(clusters)),
        left_out={run.eval_key: int((s & ~common).sum()) for run, s in zip(runs, scored)},
        official=official,
        official_markdown=markdown,
    )


def common_view(samples: fo.core.collections.SampleCollection, eval_keys: Sequence[str]) -> fo.DatasetView:
    """The samples that every one of these runs scored."""
    view = samples.view()
    for key in eval_keys:
        run = get_run(samples._dataset, key)
        view = view.exists(run.field(_decisive(run)))
    return view


def _decisive(run: Run) -> str:
    return "success" if "success" in run.fields else "score"


def _read(samples, runs: Sequence[Run]) -> dict[Any, list[Any]]:
    """Columns of plain values: (run, suffix), "image", "domain", "targets"."""
    dataset = samples._dataset
    has_image_id = dataset.has_sample_field("image_id")
    project: dict[str, Any] = {
        "image": "$image_id" if has_image_id else "$filepath",
        "file": "$filepath",
        "domain": "$domain" if statistics.has_domain(dataset) else {"$literal": None},
        "targets": {"$size": {"$ifNull": [f"${runs[0].gt_field}.detections", []]}},
    }
    names: dict[Any, str] = {name: name for name in project}
    for i, run in enumerate(runs):
        run.field("score")  # says what is wrong where it was deleted
        for suffix, field in run.fields.items():
            if suffix != "failure":
                names[run, suffix] = alias = f"r{i}_{suffix}"
                project[alias] = f"${field}"
    columns: dict[Any, list[Any]] = {name: [] for name in names}
    appends = [(columns[name].append, alias) for name, alias in names.items()]
    for document in samples._aggregate(post_pipeline=[{"$project": project}]):
        get = document.get
        for append, alias in appends:
            append(get(alias))
    return columns


def _clusters(columns: Mapping[Any, list[Any]]) -> list[Any]:
    images = columns["image"]
    if all(i is None for i in images):
        return columns["file"]
    return [("sample", k) if i is None else i for k, i in enumerate(images)]


def _terms(runs, columns, kept) -> tuple[dict[Run, tuple[dict, dict]], dict[str, str]]:
    """Per run the per-sample numerators and denominators of every row, and the rows' labels in official order."""
    labels: dict[str, str] = {}
    terms = {}
    groups = {
        "domain": {d: np.array([v == d for v in columns["domain"]]) for d in _domain_names(columns["domain"])},
        "targets": _target_masks(columns["targets"]),
    }
    for run, own in zip(runs, kept):
        fields = {suffix: columns[run, suffix] for suffix in run.fields if suffix != "failure"}
        above, below = statistics.headline_terms(own["headlines"], fields)
        labels |= {h["key"]: h["label"] for h in own["headlines"] if h["key"] in above}
        score = statistics.as_floats(fields["score"])
        for kind, members in groups.items():
            for name, inside in members.items():
                above[f"{kind}={name}"] = np.where(inside, score, np.nan)
        terms[run] = (above, below)
    labels |= {f"domain={name}": f"Score, {name}" for name in groups["domain"]}
    labels |= {f"targets={name}": f"Score, {name} target{'' if name == '1' else 's'}" for name in groups["targets"]}
    return terms, labels


def _domain_names(domains: Sequence[Any]) -> list[str]:
    names = sorted({d for d in domains if d is not None}, key=lambda d: (d == "rejection", d))
    return names if len(names) <= statistics.MAX_GROUPS else []


def _target_masks(counts: Sequence[int]) -> dict[str, np.ndarray]:
    groups = np.array([statistics.target_group(n) for n in counts], dtype=object)
    return {name: groups == name for name in statistics.TARGET_GROUPS if (groups == name).any()}


def _row(key: str, label: str, runs, terms) -> Row:
    values, used = [], 0
    for run in runs:
        above, below = terms[run]
        if key not in above:
            values.append(None)
            continue
        known = ~np.isnan(above[key])
        denominator = np.sum(below[key][known]) if key in below else known.sum()
        values.append(float(np.sum(above[key][known]) / denominator) if denominator else None)
        used = max(used, int(known.sum()))
    return Row(key, label, tuple(values), used)


def _rows(labels: Mapping[str, str], runs, terms, kept, complete: bool) -> Iterator[Row]:
    """Headline numbers in their order, then the groups.

    Numbers that are no means over samples (METEOR, AP) stand beside each other as the runs found them, where the samples are the
    same.
    """
    of_runs = [{h["key"]: h["value"] for h in own["headlines"]} for own in kept]
    for h in kept[0]["headlines"]:
        if h["key"] not in labels and complete and isinstance(h["value"], float):
            yield Row(h["key"], h["label"], tuple(values.get(h["key"]) for values in of_runs), statistics.num_scored(kept[0]))
        elif h["key"] in labels:
            yield _row(h["key"], h["label"], runs, terms)
    headlines = {h["key"] for h in kept[0]["headlines"]}
    yield from (_row(key, label, runs, terms) for key, label in labels.items() if key not in headlines)


def _pair(a: Run, b: Run, terms, right, clusters, options) -> Pair:
    (above_a, below_a), (above_b, below_b) = terms[a], terms[b]
    differences = paired_bootstraps(
        above_a, above_b, clusters, a_denominators=below_a, b_denominators=below_b, **options
    )
    if a not in right or b not in right:
        return Pair(a.eval_key, b.eval_key, differences, None, None, None, None)
    ra, rb = right[a], right[b]
    counts = [int(m.sum()) for m in (ra & rb, ra & ~rb, ~ra & rb, ~ra & ~rb)]
    return Pair(a.eval_key, b.eval_key, differences, *counts)


def _official(runs, kept) -> tuple[dict[str, list[dict[str, Any]]] | None, str | None]:
    if runs[0].method != "humanref":
        return None, None
    summaries = {run.eval_key: own["summary"] for run, own in zip(runs, kept)}
    owner = kept[0]["sub_domain_owner"]
    return humanref_tables.comparison(summaries, owner), humanref_tables.comparison_markdown(summaries, owner)


def right_wrong_view(samples: fo.core.collections.SampleCollection, right: str, wrong: str) -> fo.DatasetView:
    """The samples that run ``right`` answered exactly and run ``wrong`` did not, the worst answers of ``wrong`` first."""
    dataset = samples._dataset
    a, b = get_run(dataset, right), get_run(dataset, wrong)
    view = samples.match((F(a.field("success")) == True) & (F(b.field("success")) == False))  # noqa: E712 - expressions
    return view.sort_by(b.fields["score"]) if "score" in b.fields else view


def save_pair_views(samples: fo.core.collections.SampleCollection, comparison: Comparison) -> list[str]:
    """Saves views of the samples that one run of a pair answered right and the other wrong; replaces older ones.

    Args:
        samples: what was compared: the dataset, or a view to which the saved views are confined
        comparison: what :func:`compare_runs` returned for them

    Returns:
        the names of the saved views, those of pairs that never differ left out
    """
    dataset, names = samples._dataset, []
    # of three runs, a pair may share more samples than all three: the views show those that were counted
    samples = common_view(samples, comparison.eval_keys)
    for pair in comparison.pairs:
        for right, wrong, count in ((pair.a, pair.b, pair.only_a_right), (pair.b, pair.a, pair.only_b_right)):
            name = f"{right} right, {wrong} wrong"
            if dataset.has_saved_view(name):
                dataset.delete_saved_view(name)
            if count:
                dataset.save_view(name, right_wrong_view(samples, right, wrong))
                names.append(name)
    return names


def cached_comparison(dataset: fo.Dataset, a: str, b: str) -> dict[str, Any]:
    """:meth:`Comparison.to_dict` of two runs on the whole dataset; computed once and kept as long as both runs are."""
    store = statistics.store(dataset)
    key = f"{get_run(dataset, a).run_id}-{get_run(dataset, b).run_id}"
    found = store.get(key)
    if isinstance(found, str):
        kept = json.loads(found)
        # the runs may have been renamed since
        if kept.get("version") == statistics.VERSION and kept["comparison"]["eval_keys"] == [a, b]:
            return kept["comparison"]
    comparison = compare_runs(dataset, [a, b]).to_dict()
    comparison.pop("official"), comparison.pop("official_markdown")
    store.set(key, json.dumps({"version": statistics.VERSION, "comparison": comparison}))
    return comparison

"""Everything the Results panel shows of one run, as texts, table rows and figures: no widgets, no per-sample values."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import fiftyone as fo

from ..metrics.sweep import OBJECTIVES
from .comparison import number, p_text
from .report import plural
from .results import HeadlineRow, Run, get_statistics, headline_rows, overview
from .results_plots import cause_figure, group_figure, histogram_figure, shown_causes, sweep_figures
from .statistics import MAX_GROUPS, num_scored

#: Runs with more samples than this are not analysed while the panel opens.
COMPUTE_AT_ONCE = 5000


def content(dataset: fo.Dataset, run: Run, compute: bool | None = None) -> dict[str, Any]:
    """What to show of a run.

    Args:
        dataset: of the run
        run: the run
        compute: whether to compute statistics where a run has none (evaluated by an older release); by default only for
            runs small enough that nobody has to wait

    Returns:
        ``id`` of the run, ``title``, ``facts`` (Markdown), ``notes`` (texts), ``headlines`` (``columns`` and ``rows`` of a table, or None),
        ``figures`` by name, and what the n-th bar of a figure stands for: ``domains``, ``targets``, ``causes``,
        ``thresholds``
    """
    seen = overview(dataset, run)
    if compute is None:
        compute = seen.num_samples <= COMPUTE_AT_ONCE
    kept = get_statistics(dataset, run, compute=compute)
    intervals: Mapping[str, Any] = kept["intervals"] if kept else {}
    figures = {"targets": group_figure("Score by number of targets", seen.targets, intervals, "targets")}
    if seen.domains:
        figures["domain"] = group_figure("Score by domain", seen.domains, intervals, "domain")
    figures["histogram"] = histogram_figure(seen.histogram)
    if seen.causes:
        figures["causes"] = cause_figure(seen)
    if kept and kept["sweep"]:
        figures["precision_recall"], figures["sweep"] = sweep_figures(kept["sweep"])
    images = f" of {plural(kept['num_images'], 'image')}" if kept else ""
    return {
        "id": run.run_id,
        "title": f"{run.label} - protocol {run.protocol}",
        "facts": f"`{run.pred_field}` against `{run.gt_field}` on **{plural(seen.num_samples)}**{images}, "
        f"evaluated {run.timestamp.replace('T', ' ')[:16]} UTC",
        "notes": _notes(run, kept, seen),
        "headlines": _headline_table(headline_rows(kept), kept["confidence"]) if kept else None,
        "figures": figures,
        "domains": [g.name for g in seen.domains],
        "targets": [g.name for g in seen.targets],
        "causes": [cause for cause, _ in shown_causes(seen)],
        "thresholds": kept["sweep"]["thresholds"] if kept and kept["sweep"] else [],
    }


def _notes(run: Run, kept, seen) -> list[str]:
    notes = []
    if kept is None:
        return ["Confidence intervals, baselines and the threshold sweep have not been computed for this run yet."]
    missing = kept["summary"].get("missing") or {}
    if missing.get("count"):
        label = next((h["label"] for h in kept["headlines"] if h["key"] == "missing"), "Missing answers")
        text = f"**{label}: {missing['count']:,}**"
        text += " (not predicted, unparsed or failed)." if run.fields.get("failure") else "."
        credit = missing.get("rejection_correct_without_credit")
        total = kept["summary"].get("rejection_count")
        given = kept["summary"].get("rejection_correct")
        if credit is not None and given > credit:
            text += (
                f" As in the authors' script, {given - credit:,} of them count as correct rejections: {given / total:.1%};"
                f" without that credit {credit / total:.1%}."
            )
        notes.append(text)
    if kept["summary"].get("baselines"):
        names = ", ".join(kept["summary"]["baselines"])
        notes.append(f"The last columns are answers that took no model, on the same samples: {names}.")
    ceiling = kept["ceiling"]
    if ceiling:
        notes.append(
            f"**Ceiling of the candidates:** {ceiling['recall']:.1%} of the {ceiling['num_targets']:,} targets are among them"
            f" at IoU {ceiling['iou_threshold']:g}; on {ceiling['num_complete']:,} of {ceiling['num_with_targets']:,} samples"
            " with targets a selector can be entirely right."
        )
    notes += kept["summary"].get("notes") or []
    if kept["sweep"] is None and run.method in OBJECTIVES:
        notes.append("No threshold sweep: the predictions carry no confidences that could be cut.")
    if seen.num_domains > MAX_GROUPS:
        notes.append(f"No scores by domain: there are {seen.num_domains:,} of them.")
    scored = num_scored(kept)
    if scored != kept["num_samples"]:
        notes.append(f"{kept['num_samples'] - scored:,} of {plural(kept['num_samples'])} got no score and are left out.")
    if scored != seen.num_samples:
        notes.append(f"{plural(scored)} had a score when they were evaluated; the dataset has changed since.")
    return notes


def _headline_table(rows: list[HeadlineRow], confidence: float) -> dict[str, Any]:
    names = list(dict.fromkeys(name for row in rows for name in row.baselines))
    # few and narrow columns: the panel is often half as wide as the window
    columns = {"label": "Metric", "value": f"Score [{confidence:.0%} interval]"}
    columns |= {f"baseline_{i}": name.removesuffix(" candidates") for i, name in enumerate(names)}
    table = []
    for row in rows:
        value = f"{row.value:,}" if row.is_count else number(row.value)
        interval = "" if row.low is None else f" [{row.low:.3f}, {row.high:.3f}]"
        beside = {f"baseline_{i}": _beside(row, name) for i, name in enumerate(names)}
        table.append({"label": row.label, "value": value + interval, **beside})
    return {"columns": columns, "rows": table}


def _beside(row: HeadlineRow, name: str) -> str:
    return "" if row.is_count or row.baselines.get(name) is None else number(row.baselines[name])


def comparison_content(comparison: Mapping[str, Any]) -> dict[str, Any]:
    """The table and the words for a comparison of two runs (``Comparison.to_dict()``)."""
    (pair,) = comparison["pairs"]
    a, b = comparison["eval_keys"]
    columns = {"label": "", "a": a, "b": b, "difference": "Difference [95%]", "p": "p"}
    rows = []
    for row in comparison["rows"]:
        d = pair["differences"].get(row["key"]) or {}
        known = d.get("difference") is not None and d.get("low") is not None
        rows.append(
            {
                "label": row["label"],
                "a": number(row["values"][0]),
                "b": number(row["values"][1]),
                "difference": f"{d['difference']:+.3f} [{d['low']:+.3f}, {d['high']:+.3f}]" if known else "",
                "p": _starred(d) if known else "",
            }
        )
    left_out = sum(comparison["left_out"].values())
    samples, images = plural(comparison["num_samples"]), plural(comparison["num_images"], "image")
    text = f"On the **{samples}** of {images} that both scored"
    if pair["both_right"] is not None:
        text += (
            f": both right **{pair['both_right']:,}**, only `{a}` **{pair['only_a_right']:,}**,"
            f" only `{b}` **{pair['only_b_right']:,}**, neither **{pair['both_wrong']:,}**"
        )
    text += (
        f". Differences are `{a}` minus `{b}`; intervals and p-values by paired bootstrap over images, * below 0.05."
    )
    if left_out:
        text += f" Left out: {plural(left_out)} that only one of them scored."
    return {
        "text": text, "columns": columns, "rows": rows, "only_a": pair["only_a_right"], "only_b": pair["only_b_right"]
    }  # fmt: skip


def _starred(difference: Mapping[str, Any]) -> str:
    p = difference["p_value"]
    return p_text(p) + (" *" if p < 1 - difference["confidence"] else "")

"""The official comparison of models on HumanRef: two tables, ``comparison.json`` and ``comparison.md``.

Same keys, rows, order and text as the published script writes. Domains are alphabetical; inside a block models are
sorted by mean DensityF1, best first, ties in the order given; rejection rows stay in the order given.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .humanref import BOX_COUNT_BUCKETS
from .tables import RULE_CELL, grid, pipe, records

_METRIC_HEADERS = (
    "Recall\n@Point",
    "Precision\n@Point",
    "DensityF1\n@Point",
    "Recall\n@0.5",
    "Recall\n@0.5:0.95",
    "Precision\n@0.5",
    "Precision\n@0.5:0.95",
    "DensityF1\n@0.5",
    "DensityF1\n@0.5:0.95",
    "Rejection\nScore",
    "Samples",
)
DOMAIN_HEADERS = ("Domain", "Subdomain", "Model", *_METRIC_HEADERS)
BOX_COUNT_HEADERS = ("Box Count", "Model", *_METRIC_HEADERS)
_POINT_KEYS = ("recall", "precision", "density_f1")
_BOX_KEYS = ("recall_50", "recall_mean", "precision_50", "precision_mean", "density_f1_50", "density_f1_mean")

Summaries = Mapping[str, Mapping[str, Any]]


def _cells(means: Mapping[str, Any], is_point: bool) -> list[str]:
    text = lambda key: "" if means[key] is None else f"{means[key]:.3f}"  # noqa: E731
    points = [text(k) for k in _POINT_KEYS] if is_point else [""] * 3
    boxes = [""] * 6 if is_point else [text(k) for k in _BOX_KEYS]
    return [*points, *boxes, "", str(means["count"])]


def _block(summaries: Summaries, pick, first: Sequence[str], others: Sequence[str]) -> list[list[str]]:
    """The rows of one group: ``first`` labels the best model's row, ``others`` the rest."""
    chosen = [(name, s["is_point"], pick(s)) for name, s in summaries.items()]
    chosen = [(name, is_point, means) for name, is_point, means in chosen if means is not None]
    score = lambda item: item[2]["density_f1" if item[1] else "density_f1_mean"]  # noqa: E731
    chosen.sort(key=lambda item: -1.0 if score(item) is None else score(item), reverse=True)
    return [
        [*(first if i == 0 else others), name, *_cells(means, is_point)]
        for i, (name, is_point, means) in enumerate(chosen)
    ]


def domain_rows(summaries: Summaries, sub_domain_owner: Mapping[str, str]) -> list[list[str]]:
    """Rows of the table per domain and sub-domain.

    Args:
        summaries: model name to :func:`~fiftyone_rexseek.metrics.humanref.summarize`'s result
        sub_domain_owner: sub-domain to the domain that it is listed under
    """
    rows: list[list[str]] = []
    domains = sorted({d for s in summaries.values() for d in s["domain"]})
    sub_domains = sorted({d for s in summaries.values() for d in s["sub_domain"]})
    for domain in domains:
        rows += _block(summaries, lambda s, d=domain: s["domain"].get(d), (domain, "Overall"), ("", ""))
        for sub in sub_domains:
            if sub_domain_owner.get(sub) == domain:
                rows += _block(summaries, lambda s, d=sub: s["sub_domain"].get(d), ("", sub), ("", ""))
    rule = [RULE_CELL] * len(DOMAIN_HEADERS)
    average = ("Average", "All Data")
    rows += [rule, *_block(summaries, lambda s: s["overall"], average, average), rule]
    for name, s in summaries.items():
        rows.append(["Rejection", "Overall", name, *[""] * 9, str(s["rejection_correct"]), ""])
    return rows


def box_count_rows(summaries: Summaries) -> list[list[str]]:
    """Rows of the table per number of answers."""
    rows: list[list[str]] = []
    for bucket in BOX_COUNT_BUCKETS:
        rows += _block(summaries, lambda s, b=bucket: s["box_count"].get(b), (bucket,), ("",))
    rows.append([RULE_CELL] * len(BOX_COUNT_HEADERS))
    return rows + _block(summaries, lambda s: s["overall"], ("Average",), ("Average",))


def comparison(summaries: Summaries, sub_domain_owner: Mapping[str, str]) -> dict[str, list[dict[str, Any]]]:
    """The content of ``comparison.json``."""
    return {
        "domain_subdomain_metrics": records(DOMAIN_HEADERS, domain_rows(summaries, sub_domain_owner), fill_down=(0, 1)),
        "box_count_metrics": records(BOX_COUNT_HEADERS, box_count_rows(summaries), fill_down=(0,)),
    }


def comparison_markdown(summaries: Summaries, sub_domain_owner: Mapping[str, str]) -> str:
    """The content of ``comparison.md``."""
    return (
        "# Evaluation Results\n\n## Comparative Domain and Subdomain Metrics\n\n"
        + pipe(DOMAIN_HEADERS, domain_rows(summaries, sub_domain_owner))
        + "\n\n## Comparative Box Count Metrics\n\n"
        + pipe(BOX_COUNT_HEADERS, box_count_rows(summaries))
    )


def comparison_text(summaries: Summaries, sub_domain_owner: Mapping[str, str]) -> str:
    """What the official script prints."""
    return (
        "\nComparative Domain and Subdomain Metrics:\n"
        + grid(DOMAIN_HEADERS, domain_rows(summaries, sub_domain_owner))
        + "\n\nComparative Box Count Metrics:\n"
        + grid(BOX_COUNT_HEADERS, box_count_rows(summaries))
    )


def write_comparison(folder: str | os.PathLike, summaries: Summaries, sub_domain_owner: Mapping[str, str]) -> list[Path]:
    """Writes ``comparison.json`` and ``comparison.md`` into a folder, which is made if need be."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    as_json, as_markdown = folder / "comparison.json", folder / "comparison.md"
    as_json.write_text(json.dumps(comparison(summaries, sub_domain_owner), indent=2), encoding="utf-8")
    as_markdown.write_text(comparison_markdown(summaries, sub_domain_owner), encoding="utf-8")
    return [as_json, as_markdown]

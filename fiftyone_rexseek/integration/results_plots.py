"""Plotly figures of a run's results as plain data: ``{"data": traces, "layout": layout}``.

Backgrounds are transparent and texts of a grey that reads on both of the App's themes. The n-th bar of a figure stands for
the n-th thing it was made of, so that a click's index says what was clicked.
"""

from __future__ import annotations

import html
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from .failures import CAUSE_COLORS, CAUSE_LABELS, CAUSE_MEANINGS, counts_by_cause
from .results import NUM_BINS, Group, Overview

ACCENT, SECOND = "#FF6D04", "#38BDF8"
#: Greys that read on dark and on light backgrounds.
_TEXT, _GRID = "#9CA3AF", "rgba(156,163,175,0.2)"

Figure = dict[str, Any]


def _layout(title: str, height: int = 260, **options: Any) -> dict[str, Any]:
    axis = {"gridcolor": _GRID, "zerolinecolor": _GRID, "linecolor": _GRID, "automargin": True, "fixedrange": True}
    layout = {
        "title": {"text": title, "x": 0.01, "xanchor": "left", "font": {"size": 14}},
        "height": height,
        "margin": {"t": 40, "r": 16, "b": 36, "l": 44},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "font": {"color": _TEXT, "size": 12},
        "showlegend": False,
        "bargap": 0.3,
        "hovermode": "closest",
        "xaxis": {**axis, **options.pop("xaxis", {})},
        "yaxis": {**axis, **options.pop("yaxis", {})},
    }
    return layout | options


def group_figure(
    title: str, groups: Sequence[Group], intervals: Mapping[str, Any], kind: str, color: str = ACCENT
) -> Figure:
    """Mean score per group with its interval.

    Args:
        title: of the figure
        groups: the bars
        intervals: of the run's statistics
        kind: "domain" or "targets", as in the intervals' names
        color: of the bars
    """
    places = list(range(len(groups)))
    names = {"tickvals": places, "ticktext": [_plain(_short(g.name)) for g in groups]}
    scores = [0.0 if g.score is None else g.score for g in groups]
    found = [intervals.get(f"{kind}={g.name}") or {} for g in groups]
    above = [max(0.0, (i.get("high") or s) - s) for i, s in zip(found, scores)]
    below = [max(0.0, s - (s if i.get("low") is None else i["low"])) for i, s in zip(found, scores)]
    trace = {
        "type": "bar",
        "x": places,
        "y": scores,
        "customdata": [[g.count, g.success_rate, _plain(g.name)] for g in groups],
        "marker": {"color": color},
        "error_y": {"type": "data", "array": above, "arrayminus": below, "color": _TEXT, "thickness": 1.2, "width": 3},
        "hovertemplate": "<b>%{customdata[2]}</b><br>score %{y:.3f}<br>%{customdata[0]:,} samples"
        "<br>%{customdata[1]:.1%} exactly right<extra></extra>",
    }
    # one text per bar, all at one height, so that error bars do not cross them; as a trace, which is drawn faster than annotations
    labels = {
        "type": "scatter",
        "mode": "text",
        "x": places,
        "y": [1.07] * len(groups),
        "text": [f"<b>{s:.2f}</b>" for s in scores],
        "textfont": {"size": 11},
        "hoverinfo": "skip",
    }
    axes = {"yaxis": {"range": [0, 1.15], "tickvals": [0, 0.25, 0.5, 0.75, 1]}, "xaxis": names}
    return {"data": [trace, labels], "layout": _layout(title, **axes)}


def _short(name: str, most: int = 20) -> str:
    """A name that leaves room for the bars above it."""
    return name if len(name) <= most else name[: most - 1] + "…"


def _plain(name: str) -> str:
    """A name as it is: Plotly reads HTML."""
    return html.escape(name, quote=False)


def histogram_figure(counts: Sequence[int]) -> Figure:
    """How the per-sample scores are distributed."""
    edges = [i / NUM_BINS for i in range(NUM_BINS + 1)]
    trace = {
        "type": "bar",
        "x": [(low + high) / 2 for low, high in itertools.pairwise(edges)],
        "y": list(counts),
        "width": [0.9 / NUM_BINS] * NUM_BINS,
        "customdata": [[low, high] for low, high in itertools.pairwise(edges)],
        "marker": {"color": ACCENT},
        "hovertemplate": "score %{customdata[0]:.2f} to %{customdata[1]:.2f}<br><b>%{y:,}</b> samples<extra></extra>",
    }
    axes = {"xaxis": {"range": [0, 1], "title": {"text": "score of a sample"}}, "yaxis": {"tickformat": ",d"}}
    return {"data": [trace], "layout": _layout("Distribution of scores", **axes)}


def shown_causes(overview: Overview) -> list[tuple[str, int]]:
    """The causes of the figure with their counts, in its order from bottom to top: rarest first."""
    return sorted(counts_by_cause(overview).items(), key=lambda item: item[1])


def cause_figure(overview: Overview) -> Figure:
    """How many samples have each cause."""
    causes = shown_causes(overview)
    total = sum(count for _, count in causes) or 1
    trace = {
        "type": "bar",
        "orientation": "h",
        "x": [count for _, count in causes],
        "y": [CAUSE_LABELS[cause] for cause, _ in causes],
        "text": [f" {count:,}  ({count / total:.1%})" for _, count in causes],
        "textposition": "outside",
        "cliponaxis": False,
        "customdata": [CAUSE_MEANINGS[cause] for cause, _ in causes],
        "marker": {"color": [CAUSE_COLORS[cause] for cause, _ in causes]},
        "hovertemplate": "<b>%{y}</b><br>%{customdata}<extra></extra>",
    }
    most = max([count for _, count in causes], default=1)
    axes = {"xaxis": {"range": [0, most * 1.25], "tickformat": ",d"}, "yaxis": {"ticksuffix": "  "}}
    return {"data": [trace], "layout": _layout("Answers by cause", height=90 + 30 * max(len(causes), 2), **axes)}


def sweep_figures(sweep: Mapping[str, Any]) -> tuple[Figure, Figure]:
    """Precision against recall, and the benchmark's number against the threshold; the best threshold is marked."""
    thresholds, best = sweep["thresholds"], sweep["best"]
    name, top = sweep["objective"], sweep["score"][sweep["best"]]
    line = {"type": "scatter", "mode": "lines+markers", "line": {"width": 2}, "marker": {"size": 6}}
    star = {"size": 13, "symbol": "star", "color": ACCENT}
    curve = {
        **line,
        "x": sweep["recall"],
        "y": sweep["precision"],
        "customdata": thresholds,
        "marker": {"size": 6, "color": SECOND},
        "line": {"width": 2, "color": SECOND},
        "hovertemplate": "confidence >= %{customdata:.2f}<br>precision %{y:.3f}<br>recall %{x:.3f}<extra></extra>",
    }
    at_best = {
        "type": "scatter",
        "mode": "markers",
        "x": [sweep["recall"][best]],
        "y": [sweep["precision"][best]],
        "marker": star,
        "hoverinfo": "skip",
    }
    unit = {"range": [-0.02, 1.05], "tickvals": [0, 0.25, 0.5, 0.75, 1]}
    axes = {"xaxis": {**unit, "title": {"text": "recall"}}, "yaxis": {**unit, "title": {"text": "precision"}}}
    pr = {"data": [curve, at_best], "layout": _layout("Precision and recall of boxes", height=300, **axes)}
    scores = {
        **line,
        "x": thresholds,
        "y": sweep["score"],
        "marker": {"size": 6, "color": ACCENT},
        "line": {"width": 2, "color": ACCENT},
        "hovertemplate": f"confidence >= %{{x:.2f}}<br>{name} %{{y:.3f}}<extra></extra>",
    }
    mark = {"type": "scatter", "mode": "markers", "x": [thresholds[best]], "y": [top], "marker": star, "hoverinfo": "skip"}
    note = {
        "x": thresholds[best], "y": top, "text": f"best {top:.3f} at {thresholds[best]:.2f}",
        "showarrow": False, "yshift": 18, "xanchor": "left" if thresholds[best] < 0.5 else "right",
    }  # fmt: skip
    dotted = {"color": _TEXT, "width": 1, "dash": "dot"}
    shape = {"type": "line", "x0": thresholds[best], "x1": thresholds[best], "y0": 0, "y1": top, "line": dotted}
    axes = {"xaxis": {**unit, "title": {"text": "confidence threshold"}}, "yaxis": {**unit, "title": {"text": name}}}
    layout = _layout(f"{name} by threshold", height=300, annotations=[note], shapes=[shape], **axes)
    return pr, {"data": [scores, mark], "layout": layout}

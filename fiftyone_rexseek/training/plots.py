"""Pictures of a training run and of how well confidences are calibrated (matplotlib, no display)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np


def _figure(width: float, height: float, columns: int = 1):
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, np.atleast_1d(figure.subplots(1, columns))


def plot_log(history: Sequence[dict], path: str | Path) -> Path:
    """Loss terms (left) and validation numbers (right, where there are any) over steps, as a PNG.

    Args:
        history: rows of ``log.jsonl``
        path: of the picture
    """
    parts = {"training": [], "validation": []}
    for row in history:
        parts["validation" if any(k.startswith("val_") for k in row) else "training"].append(row)
    parts = {title: rows for title, rows in parts.items() if rows} or {"training": []}
    figure, axes = _figure(10, 4.5, len(parts))
    for axis, (title, rows) in zip(axes, parts.items()):
        names = sorted({k for row in rows for k in row} - {"step", "minutes", "progress", "lr"})
        for i, name in enumerate(names):
            points = [(row["step"], row[name]) for row in rows if isinstance(row.get(name), (int, float))]
            style = ("-", "--", ":", "-.")[i // 10 % 4]  # ten colours are not enough for many terms
            if points:
                # points that are few would leave lines that nobody sees
                marker = "." if title == "validation" or len(points) < 20 else None
                axis.plot(*zip(*points), style, label=name.removeprefix("val_"), marker=marker, linewidth=1)
        axis.set(title=title, xlabel="step")
        axis.grid(alpha=0.3)
        if names:
            # a legend of many columns would otherwise leave no room for the lines
            axis.legend(fontsize=6, ncols=-(-len(names) // 18), framealpha=0.6).set_in_layout(False)
    figure.savefig(path, dpi=90)
    return Path(path)


def calibration_bins(confidence: Sequence[float], correct: Sequence[bool], bins: int = 10) -> list[dict]:
    """Mean confidence and share of right answers per confidence bin (empty bins are left out).

    Example::

        >>> calibration_bins([0.1, 0.9, 0.95], [False, True, False], bins=2)
        [{'count': 1, 'confidence': 0.1, 'accuracy': 0.0}, {'count': 2, 'confidence': 0.925, 'accuracy': 0.5}]
    """
    confidence, correct = np.asarray(confidence, float), np.asarray(correct, float)
    which = np.minimum((confidence * bins).astype(int), bins - 1)
    return [
        {
            "count": int((which == b).sum()),
            "confidence": float(confidence[which == b].mean()),
            "accuracy": float(correct[which == b].mean()),
        }
        for b in np.unique(which)
    ]


def plot_calibration(confidence: Sequence[float], correct: Sequence[bool], path: str | Path, bins: int = 10) -> Path:
    """Reliability diagram of selected boxes, as a small PNG."""
    rows = calibration_bins(confidence, correct, bins)
    figure, (axis,) = _figure(4, 4)
    axis.plot([0, 1], [0, 1], color="grey", linewidth=1, linestyle="--")
    axis.plot([r["confidence"] for r in rows], [r["accuracy"] for r in rows], marker="o")
    for r in rows:
        axis.annotate(str(r["count"]), (r["confidence"], r["accuracy"]), fontsize=6, xytext=(4, -8), textcoords="offset points")
    axis.set(xlabel="mean confidence", ylabel="share right", xlim=(0, 1.02), ylim=(0, 1.02), title="selected boxes")
    figure.savefig(path, dpi=70)
    return Path(path)

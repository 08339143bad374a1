"""Fine-tuning on samples: from a view to a folder that ``foz.load_zoo_model(name, weights=folder)`` takes."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fiftyone as fo

from ..errors import ConfigError, ProblemLog
from .examples import examples_of
from .fields import require_detections, require_field


@dataclass(frozen=True)
class FineTuned:
    """What :func:`fine_tune` made.

    Attributes:
        model: folder for ``foz.load_zoo_model(zoo_name, weights=model)``
        zoo_name: the name under which the folder is loaded
        steps: optimiser steps
        minutes: of training
        best_score: on the validation images, as ``training.finetune.score_records`` computes it; None without any
        best_step: where it was reached
        problems: what was wrong with samples, or ""
    """

    model: Path
    zoo_name: str
    steps: int
    minutes: float
    best_score: float | None = None
    best_step: int | None = None
    problems: str = ""

    def __str__(self) -> str:
        score = "" if self.best_score is None else f", best score {self.best_score:.3f} at step {self.best_step}"
        lines = [f"{self.steps} steps in {self.minutes:.1f} minutes{score}", f"model: {self.model}"]
        return "\n".join(lines + [self.problems] * bool(self.problems))


def fine_tune(
    samples: fo.core.collections.SampleCollection,
    out_dir: str | Path,
    start: str | Path = "rexseek-tiny",
    *,
    gt_field: str = "ground_truth",
    candidates_field: str = "candidates",
    expression_field: str = "expression",
    validation: fo.core.collections.SampleCollection | None = None,
    on_progress: Callable[[float, str], None] | None = None,
    **options: Any,
) -> FineTuned:
    """Teaches RexSeek the expressions of the samples; a call with the same folder goes on with a run that was stopped.

    Args:
        samples: dataset or flat view
        out_dir: folder of checkpoint, log and plot; the model is ``out_dir/model``
        start: where to start: ``"rexseek-tiny"``, ``"rexseek-3b"``, or a checkpoint folder
        gt_field, candidates_field, expression_field: what is meant, what there is to choose from, the text
        validation: samples to choose the best checkpoint by; by default a tenth of the images
        on_progress: called with a share between 0 and 1 and a text, every second
        **options: of :class:`fiftyone_rexseek.training.finetune.FineTuning`, such as ``steps`` and ``lr``

    Raises:
        ConfigError: fields or options that make no sense
        DataError: no sample can be trained on
    """
    for part in (samples, validation):
        if part is not None:
            require_detections(part, gt_field)
            require_detections(part, candidates_field)
            require_field(part, expression_field, fo.StringField)
    from ..models import registry
    from ..training.finetune import FineTuning, finetune_rexseek

    known = registry.ENTRIES.get(str(start))
    if known is not None and known.family != "rexseek":
        raise ConfigError("this model is not fine-tuned from FiftyOne", expected="a RexSeek", found=str(start))
    samples, validation = _with_sizes(samples), _with_sizes(validation) if validation is not None else None
    out_dir = Path(out_dir).expanduser()
    settings = FineTuning(progress=False, **options)
    fields = (gt_field, candidates_field, expression_field)
    log = ProblemLog()
    with _Watch(out_dir, on_progress):
        result = finetune_rexseek(
            start if known is None or Path(start).exists() else registry.find_weights(known),
            examples_of(samples, *fields),
            out_dir,
            settings,
            validation=examples_of(validation, *fields) if validation is not None else None,
            log=log,
        )
    return FineTuned(
        out_dir / "model",
        known.name if known is not None else "rexseek-3b",
        result.step,
        result.seconds / 60,
        result.best_score,
        result.best_step,
        log.summary(),
    )


def _with_sizes(samples: fo.core.collections.SampleCollection) -> fo.DatasetView:
    """The samples whose pictures can be read: boxes are trained on in pixels."""
    samples.compute_metadata(skip_failures=True, progress=False)
    return samples.exists("metadata.width")


class _Watch:
    """Reports what a training run logs: training knows nothing of FiftyOne."""

    def __init__(self, out_dir: Path, report: Callable[[float, str], None] | None, every_s: float = 1.0):
        self.out_dir, self.report, self.every_s = out_dir, report, every_s
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self):
        if self.report is not None:
            self._thread.start()
        return self

    def __exit__(self, *exc):
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        from ..training.loop import read_log

        seen = 0
        while not self._stop.wait(self.every_s):
            rows = read_log(self.out_dir)
            if len(rows) > seen:
                seen = len(rows)
                self.report(*_state(rows))


def _state(rows: list[Mapping[str, Any]]) -> tuple[float, str]:
    """Share done, and loss and score in words.

    Example::

        >>> _state([{"progress": 0.5, "step": 10, "loss": 1.25}, {"step": 10, "val_score": 0.5}])
        (0.5, 'step 10, loss 1.250, score 0.500')
    """
    last: dict[str, Any] = {}
    for row in rows:
        last |= {k: v for k, v in row.items() if v is not None}
    parts = [f"step {last['step']}"] if "step" in last else []
    parts += [f"{name} {last[key]:.3f}" for key, name in (("loss", "loss"), ("val_score", "score")) if key in last]
    return float(last.get("progress", 0.0)), ", ".join(parts)

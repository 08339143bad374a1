"""Fine-tuning on samples: from a view to a folder that ``foz.load_zoo_model(name, weights=folder)`` takes."""

from __future__ import annotations

import dataclasses
import json
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fiftyone as fo

from ..errors import ConfigError, DataError, ProblemLog
from ..models import registry
from .examples import examples_of
from .fields import flat_images, require_detections, require_field


@dataclass(frozen=True)
class FineTuned:
    """What :func:`fine_tune` made.

    Attributes:
        model: folder for ``foz.load_zoo_model(zoo_name, weights=model)``
        zoo_name: the name under which the folder is loaded
        steps: optimiser steps
        minutes: of training
        best_score: on the validation images: for RexSeek as ``training.finetune.score_records`` computes it, for ReLA gIoU as
            a fraction; None without validation images
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
        score = f", best score {self.best_score:.3f} at step {self.best_step}" if self.best_score is not None else ", not validated"
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
    tokenizer: str | Path | None = None,
    lora: Any = None,
    on_progress: Callable[[float, str], None] | None = None,
    **options: Any,
) -> FineTuned:
    """Teaches RexSeek or ReLA the expressions of the samples; a call with the same folder goes on with a run that was stopped.

    Args:
        samples: dataset or view of images; a view grouped by a field stands for all its samples
        out_dir: folder of checkpoint, log and plot; the model is ``out_dir/model``
        start: where to start: ``"rexseek-tiny"``, ``"rexseek-3b"``, ``"rela-tiny"``, a checkpoint folder, or a file of ReLA's
            weights; see :func:`family_of`
        gt_field, expression_field: what is meant, and the text. ReLA learns the masks; a target without one counts as its box
        candidates_field: what there is to choose from; ReLA does without
        validation: samples to choose the best checkpoint by; by default a tenth of the images
        tokenizer: folder of bert-base-uncased, for weights of ReLA that come without
        lora: rank of low-rank adapters (their scale is twice the rank), or a ``LoraOptions``; None or 0: none. What they adapt:
            RexSeek's language model; ReLA's text encoder and Swin, while its decoders learn as a whole
        on_progress: called with a share between 0 and 1 and a text, every second
        **options: of :class:`fiftyone_rexseek.training.finetune.FineTuning` or
            :class:`fiftyone_rexseek.training.rela.ReLAFineTuning`, such as ``steps`` and ``lr``

    Raises:
        ConfigError: fields or options that make no sense
        DataError: no sample can be trained on
    """
    family = family_of(start)
    samples, validation = flat_images(samples), flat_images(validation) if validation is not None else None
    for part in (samples, validation):
        if part is not None:
            require_detections(part, gt_field)
            if family == "rexseek":
                require_detections(part, candidates_field)
            require_field(part, expression_field, fo.StringField)
    teach, settings_class = _trainer(family)
    settings = _settings(settings_class, lora, options)
    more = {"tokenizer": tokenizer} if family == "rela" else {}
    place = Path(start).expanduser()
    known = None if place.exists() else registry.ENTRIES.get(str(start))
    weights = place if place.exists() else start if known is None else registry.find_weights(known)
    log = ProblemLog()
    samples, validation = _with_sizes(samples, log), _with_sizes(validation, log) if validation is not None else None
    if samples and not samples.exists(gt_field):
        expected = f"labels in {gt_field!r}; empty ones where nobody is meant"
        raise DataError("no sample has ground truth", expected=expected, found="None in all of them")
    out_dir = Path(out_dir).expanduser()
    # what ReLA does not look at need not be read
    fields = (gt_field, candidates_field if family == "rexseek" else "", expression_field)
    with _Watch(out_dir, on_progress):
        result = teach(
            weights,
            examples_of(samples, *fields),
            out_dir,
            settings,
            validation=examples_of(validation, *fields) if validation is not None else None,
            log=log,
            **more,
        )
    return FineTuned(
        out_dir / "model",
        known.name if known is not None else _zoo_name(family, out_dir / "model"),
        result.step,
        result.seconds / 60,
        result.best_score,
        result.best_step,
        log.summary(),
    )


def family_of(start: str | Path) -> str:
    """``"rexseek"`` or ``"rela"``: what the weights at this place belong to.

    A name of the zoo says so; a folder by its ``config.json``; files of weights, or a folder with nothing else, are ReLA's. A
    name on the Hugging Face hub is taken to be a RexSeek's.

    Raises:
        ConfigError: there is nothing

    Example::

        >>> family_of("rela-swin-base"), family_of("IDEA-Research/RexSeek-3B")
        ('rela', 'rexseek')
    """
    place = Path(start).expanduser()
    if not place.exists() and str(start) in registry.ENTRIES:
        return registry.ENTRIES[str(start)].family
    if place.is_file() and place.suffix in _WEIGHT_SUFFIXES:
        return "rela"
    if (place / "config.json").is_file():
        try:
            config = json.loads((place / "config.json").read_text(encoding="utf-8"))
        except (OSError, ValueError) as e:
            raise ConfigError("config.json cannot be read", where=place, found=e) from e
        return "rela" if isinstance(config, dict) and config.get("model_type") == "rela" else "rexseek"
    if place.is_dir() and any(p.suffix in _WEIGHT_SUFFIXES for p in place.iterdir()):
        return "rela"
    if not place.exists() and str(start).count("/") == 1 and not str(start).startswith((".", "/", "~")):
        return "rexseek"
    raise ConfigError(
        "there is no model to start from",
        where=start,
        expected=f"one of {', '.join(registry.ENTRIES)}, a folder with a config.json, or a file of ReLA's weights",
    )


_WEIGHT_SUFFIXES = (".safetensors", ".pth", ".pt", ".bin", ".pkl", ".ckpt")


def _trainer(family: str) -> tuple[Callable[..., Any], type]:
    if family == "rela":
        from ..training.rela import ReLAFineTuning, finetune_rela

        return finetune_rela, ReLAFineTuning
    from ..training.finetune import FineTuning, finetune_rexseek

    return finetune_rexseek, FineTuning


def _settings(settings_class: type, lora: Any, options: Mapping[str, Any]) -> Any:
    from ..training.lora import LoraOptions

    known = {f.name for f in dataclasses.fields(settings_class)} - {"lora", "progress"}
    unknown = sorted(set(options) - known)
    if unknown:
        raise ConfigError("unknown option of this model's training", expected=f"some of {sorted(known)}", found=unknown)
    if isinstance(lora, int):
        lora = LoraOptions.of_rank(lora)
    return settings_class(progress=False, lora=lora, **options)


def _zoo_name(family: str, folder: Path) -> str:
    """The name under which a fine-tuned folder is loaded."""
    if family == "rexseek":
        return "rexseek-3b"
    variant = json.loads((folder / "config.json").read_text(encoding="utf-8"))["variant"].removeprefix("rela-")
    return f"rela-{variant}" if f"rela-{variant}" in registry.ENTRIES else "rela-tiny"


def _with_sizes(samples: fo.core.collections.SampleCollection, log: ProblemLog) -> fo.DatasetView:
    """The samples whose pictures can be read: boxes are trained on in pixels."""
    samples.compute_metadata(skip_failures=True, progress=False, warn_failures=False)
    for path in sorted(set(samples.exists("metadata.width", False).values("filepath"))):
        log.add("bad-image", path, "image cannot be read" if Path(path).is_file() else "image file does not exist")
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

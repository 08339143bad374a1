"""One training loop for every model of the package.

A run is a pure function of (initial weights, ``batch_at``, ``loss_fn``, :class:`LoopConfig`): batches are asked for by
number, so that the position in the data is the step number, and a run that was killed and resumed ends with the same
weights bit for bit on a CPU (with a step budget; a time budget depends on the clock).
"""

from __future__ import annotations

import json
import logging
import os
import pickle
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..errors import CheckpointError, ConfigError
from .optim import cosine

logger = logging.getLogger(__name__)

#: ``batch_at(number)`` gives micro-batch ``number``; the same number always gives the same batch.
BatchAt = Callable[[int], Any]
#: ``loss_fn(model, batch, progress)`` gives the loss, or (loss, {name: value to log}); ``progress`` runs from 0 to 1.
LossFn = Callable[[nn.Module, Any, float], Any]
#: ``validate(model)`` gives numbers to log; ``score`` (higher is better) chooses the best checkpoint.
Validate = Callable[[nn.Module], Mapping[str, float]]


@dataclass(frozen=True)
class LoopConfig:
    """How long and how to train.

    Attributes:
        out_dir: folder of ``checkpoint.pt``, ``best.pt``, ``log.jsonl``, ``log.png``
        steps: optimiser steps of the run (budget)
        minutes: training minutes of the run (budget; the schedule follows whichever budget is further along)
        accumulate: micro-batches per optimiser step
        clip: largest gradient norm; 0 does not clip
        bf16: run the forward pass under bfloat16 autocast
        seed: of torch's generator at the start (dropout and the like; batches have their own seeds)
        warmup, final_lr: fraction of the run, and fraction of the learning rate left at the end
        ema: decay per step of an average of the weights that is validated and kept as best; 0: no average
        checkpoint_every, validate_every, log_every: optimiser steps; 0 = only at the end
        prefetch: prepare the next batch in a thread while this one runs
        progress: show a progress bar with loss and score (on a terminal)
    """

    out_dir: str | Path
    steps: int | None = None
    minutes: float | None = None
    accumulate: int = 1
    clip: float = 1.0
    bf16: bool = False
    seed: int = 0
    warmup: float = 0.02
    final_lr: float = 0.02
    ema: float = 0.0
    checkpoint_every: int = 200
    validate_every: int = 200
    log_every: int = 10
    prefetch: bool = True
    progress: bool = True

    def __post_init__(self):
        if not self.steps and not self.minutes:
            raise ConfigError("no budget", expected="steps=, minutes= or both", advice="say how long to train")
        if self.accumulate < 1:
            raise ConfigError("bad accumulate", expected="at least 1", found=self.accumulate)


@dataclass
class LoopResult:
    """What a run did: steps, training seconds, the best validation score and its step, and where the files are."""

    out_dir: Path
    step: int
    seconds: float
    best_score: float | None = None
    best_step: int | None = None
    history: list[dict] = field(default_factory=list)


def train(
    model: nn.Module,
    batch_at: BatchAt,
    loss_fn: LossFn,
    optimizers: list[torch.optim.Optimizer],
    config: LoopConfig,
    validate: Validate | None = None,
    accelerator=None,
    on_best: Callable[[nn.Module, Mapping[str, float]], None] | None = None,
    stop_after: int | None = None,
) -> LoopResult:
    """Trains ``model`` in place, resuming from ``config.out_dir`` if a checkpoint is there.

    At the end the model holds the best validated weights, or the last ones without ``validate``.

    Args:
        model: any module; ``loss_fn`` calls it
        batch_at, loss_fn, validate: see :data:`BatchAt`, :data:`LossFn`, :data:`Validate`
        optimizers: from :func:`~fiftyone_rexseek.training.optim.build_optimizers`
        accelerator: an ``accelerate.Accelerator`` for several GPUs; each process takes its own micro-batches. It also
            decides about mixed precision, so that ``config.bf16`` is ignored
        on_best: called on the main process with the model holding the new best weights (to export them, say)
        stop_after: leave after this many steps of this call, without finishing (as a kill would; for tests)

    Raises:
        CheckpointError: the checkpoint in ``out_dir`` is unreadable or of another model
    """
    run = _Run(model, batch_at, loss_fn, optimizers, config, validate, accelerator, on_best)
    return run(stop_after)


class _Run:
    def __init__(self, model, batch_at, loss_fn, optimizers, config, validate, accelerator, on_best):
        self.raw, self.batch_at, self.loss_fn, self.config = model, batch_at, loss_fn, config
        self.validate, self.accelerator, self.on_best = validate, accelerator, on_best
        self.out = Path(config.out_dir)
        self.main = accelerator is None or accelerator.is_main_process
        self.world = 1 if accelerator is None else accelerator.num_processes
        self.rank = 0 if accelerator is None else accelerator.process_index
        self.model, self.optimizers = model, list(optimizers)
        if accelerator is not None:
            self.model = accelerator.prepare_model(model)
            self.optimizers = [accelerator.prepare_optimizer(o) for o in optimizers]
        self.step, self.seconds = 0, 0.0
        self.best_score: float | None = None
        self.best_step: int | None = None
        self.history: list[dict] = []
        self.average: dict[str, torch.Tensor] | None = None

    # -- state ------------------------------------------------------------------------------------------------

    def _resume(self) -> None:
        path = self.out / "checkpoint.pt"
        if not path.exists():
            torch.manual_seed(self.config.seed)
            if self.main:
                (self.out / "log.jsonl").write_text("")
            return
        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
            self.raw.load_state_dict(state["model"])
            for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
                optimizer.load_state_dict(saved)
        except (RuntimeError, ValueError, KeyError, EOFError, OSError, pickle.UnpicklingError) as error:
            raise CheckpointError(
                "cannot resume from the checkpoint",
                where=path,
                found=error,
                expected="a checkpoint of the same model and optimisers",
                advice="Choose another output folder, or delete it to start again.",
            ) from error
        self.step, self.seconds = state["step"], state["seconds"]
        self.best_score, self.best_step = state["best_score"], state["best_step"]
        self.average = state["average"]
        torch.set_rng_state(state["rng"])
        if torch.cuda.is_available() and state["cuda_rng"]:
            torch.cuda.set_rng_state_all(state["cuda_rng"])
        self.history = [row for row in read_log(self.out) if row["step"] <= self.step]
        if self.main:
            # rows written after the checkpoint belong to steps that will be done again
            (self.out / "log.jsonl").write_text("".join(json.dumps(row) + "\n" for row in self.history))
        logger.info("resuming from step %d of %s", self.step, path)

    def _save(self) -> None:
        if not self.main:
            return
        state = {
            "model": self.raw.state_dict(),
            "optimizers": [o.state_dict() for o in self.optimizers],
            "step": self.step,
            "seconds": self.seconds,
            "best_score": self.best_score,
            "best_step": self.best_step,
            "average": self.average,
            "rng": torch.get_rng_state(),
            "cuda_rng": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        }
        _save_atomically(state, self.out / "checkpoint.pt")

    def _log(self, row: dict) -> None:
        row = {"step": self.step, "minutes": round(self.seconds / 60, 3), **row}
        self.history.append(row)
        if self.main:
            with open(self.out / "log.jsonl", "a") as file:
                file.write(json.dumps(row) + "\n")

    # -- the run ----------------------------------------------------------------------------------------------

    def _progress(self) -> float:
        by_steps = self.step / self.config.steps if self.config.steps else 0.0
        by_time = self.seconds / (60 * self.config.minutes) if self.config.minutes else 0.0
        if self.config.minutes and self.accelerator is not None:
            # all processes must agree on when to stop
            by_time = float(self.accelerator.gather(torch.tensor([by_time], device=self.accelerator.device)).max())
        return min(1.0, max(by_steps, by_time))

    def _micro_batches(self):
        number = lambda step, k: (step * self.config.accumulate + k) * self.world + self.rank  # noqa: E731
        if not self.config.prefetch:
            step = self.step
            while True:
                yield [self.batch_at(number(step, k)) for k in range(self.config.accumulate)]
                step += 1
        with ThreadPoolExecutor(1) as pool:
            step = self.step
            load = lambda s: [self.batch_at(number(s, k)) for k in range(self.config.accumulate)]  # noqa: E731
            pending = pool.submit(load, step)
            while True:
                ready = pending.result()
                step += 1
                pending = pool.submit(load, step)
                yield ready

    def _optimise(self, micro_batches, progress: float) -> dict[str, float]:
        factor = cosine(progress, self.config.warmup, self.config.final_lr)
        logged: dict[str, float] = {}
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = group.setdefault("base_lr", group["lr"]) * factor
            optimizer.zero_grad(set_to_none=True)
        for k, batch in enumerate(micro_batches):
            last = k == len(micro_batches) - 1
            sync = nullcontext() if last or self.accelerator is None else self.accelerator.no_sync(self.model)
            with sync, self._autocast():
                result = self.loss_fn(self.model, batch, progress)
                loss, extra = result if isinstance(result, tuple) else (result, {})
                loss = loss / len(micro_batches)
                self._backward(loss)
            for name, value in {"loss": loss.detach() * len(micro_batches), **extra}.items():
                logged[name] = logged.get(name, 0.0) + float(value) / len(micro_batches)
        parameters = [p for o in self.optimizers for g in o.param_groups for p in g["params"]]
        if self.config.clip:
            norm = nn.utils.clip_grad_norm_(parameters, self.config.clip)
            if not torch.isfinite(norm):
                logger.warning("step %d skipped: the gradient is not finite", self.step)
                return logged
        for optimizer in self.optimizers:
            optimizer.step()
        if self.config.ema:
            self._update_average()
        return logged

    def _autocast(self):
        if self.accelerator is not None:
            return self.accelerator.autocast()
        device = next(self.raw.parameters()).device.type
        return torch.autocast(device, torch.bfloat16) if self.config.bf16 else nullcontext()

    def _backward(self, loss) -> None:
        if self.accelerator is not None:
            self.accelerator.backward(loss)
        else:
            loss.backward()

    @torch.no_grad()
    def _update_average(self) -> None:
        state = self.raw.state_dict()
        if self.average is None:
            self.average = {k: v.detach().clone() for k, v in state.items()}
            return
        # a young average follows closely, so that the random start is forgotten
        decay = min(self.config.ema, (1 + self.step) / (10 + self.step))
        for key, value in state.items():
            if value.dtype.is_floating_point:
                self.average[key].lerp_(value.to(self.average[key].device), 1 - decay)
            else:
                self.average[key].copy_(value)

    def _validate(self) -> None:
        if self.validate is None:
            return
        current = None
        if self.average is not None:
            current = {k: v.detach().clone() for k, v in self.raw.state_dict().items()}
            self.raw.load_state_dict(self.average)
        was_training = self.raw.training
        self.raw.eval()
        rng = torch.get_rng_state()  # validation must not change what training draws next
        with torch.no_grad():
            numbers = {k: float(v) for k, v in self.validate(self.raw).items()}
        torch.set_rng_state(rng)
        self._log({f"val_{k}": v for k, v in numbers.items()})
        score = numbers.get("score")
        if score is not None and (self.best_score is None or score > self.best_score):
            self.best_score, self.best_step = score, self.step
            if self.main:
                _save_atomically({"model": self.raw.state_dict(), "step": self.step, "score": score}, self.out / "best.pt")
                if self.on_best is not None:
                    self.on_best(self.raw, numbers)
        self.raw.train(was_training)
        if current is not None:
            self.raw.load_state_dict(current)

    def __call__(self, stop_after: int | None) -> LoopResult:
        self.out.mkdir(parents=True, exist_ok=True)
        self._resume()
        config, started_at, validated_at = self.config, self.step, -1
        self.model.train()
        bar = _Bar(config.progress and self.main, self.out.name)
        batches = self._micro_batches()
        recent: dict[str, float] = {}
        with bar:
            while (progress := self._progress()) < 1.0:
                if stop_after is not None and self.step - started_at >= stop_after:
                    batches.close()
                    return self._result()
                began = time.perf_counter()
                logged = self._optimise(next(batches), progress)
                self.seconds += time.perf_counter() - began
                self.step += 1
                recent = {k: 0.9 * recent.get(k, v) + 0.1 * v for k, v in logged.items()}
                bar.update(self._progress(), recent.get("loss"), self.best_score)
                if config.log_every and self.step % config.log_every == 0:
                    lr = self.optimizers[0].param_groups[0]["lr"]
                    self._log({"progress": round(progress, 5), "lr": lr, **recent})
                if config.validate_every and self.step % config.validate_every == 0:
                    self._validate()
                    validated_at = self.step
                if config.checkpoint_every and self.step % config.checkpoint_every == 0:
                    self._save()
        batches.close()
        if validated_at != self.step and self.step > started_at:
            self._validate()
        if self.step > started_at:
            self._save()
        best = self.out / "best.pt"
        if self.best_step is not None and best.exists():
            self.raw.load_state_dict(torch.load(best, map_location="cpu", weights_only=True)["model"])
        elif self.average is not None:
            self.raw.load_state_dict(self.average)
        if self.main:
            from .plots import plot_log

            plot_log(self.history, self.out / "log.png")
        return self._result()

    def _result(self) -> LoopResult:
        return LoopResult(self.out, self.step, self.seconds, self.best_score, self.best_step, self.history)


class _Bar:
    """A rich progress bar with loss and score; silent when the output is no terminal."""

    def __init__(self, show: bool, title: str):
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

        console = Console(stderr=True)
        self.bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.percentage:>3.0f}% {task.fields[numbers]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=console,
            disable=not (show and console.is_terminal),
        )
        self.task = self.bar.add_task(title, total=1.0, numbers="")

    def update(self, progress: float, loss: float | None, score: float | None) -> None:
        numbers = "" if loss is None else f"loss {loss:.3f}"
        numbers += "" if score is None else f" best {score:.3f}"
        self.bar.update(self.task, completed=progress, numbers=numbers)

    def __enter__(self):
        self.bar.start()
        return self

    def __exit__(self, *exc):
        self.bar.stop()


def read_log(out_dir: str | Path) -> list[dict]:
    """Rows of ``log.jsonl``; a half-written last row (a kill) is left out."""
    path, rows = Path(out_dir) / "log.jsonl", []
    if not path.exists():
        return rows
    for line in path.read_text().splitlines():
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            logger.warning("%s: unreadable row skipped", path)
    return rows


def _save_atomically(state: Any, path: Path) -> None:
    """Writes beside and renames, so that a kill while writing leaves the earlier file."""
    partial = path.with_suffix(".tmp")
    torch.save(state, partial)
    os.replace(partial, path)

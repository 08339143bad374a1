"""One training loop for every model of the package.

A run is a pure function of (initial weights, ``batch_at``, ``loss_fn``, :class:`LoopConfig`): batches are asked for by
number, so that the position in the data is the step number, and a run that was killed and resumed ends with the same
weights bit for bit on a CPU (with a step budget; a time budget depends on the clock).
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
import pickle
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass, field
from itertools import count, islice
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..errors import CheckpointError, ConfigError
from .optim import cosine

logger = logging.getLogger(__name__)

#: Options of an optimiser's groups that a resumed run takes from its call, not from the checkpoint.
_OF_THIS_CALL = ("base_lr", "weight_decay")

#: ``batch_at(number)`` gives micro-batch ``number``; the same number always gives the same batch. One that has a method
#: ``to`` is moved to the model's device.
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
        workers: prepare batches in so many processes instead, for devices that one thread cannot keep busy
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
    workers: int = 0
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

    A resumed run goes on with the options of its own call, also where they are others: more steps, say, or a lower rate.

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
        CheckpointError: the checkpoint in ``out_dir`` is unreadable, of another model, or of a run from other weights
    """
    run = _Run(model, batch_at, loss_fn, optimizers, config, validate, accelerator, on_best)
    return run(stop_after)


def loader_processes(device: torch.device) -> int:
    """How many processes should prepare batches (see :class:`LoopConfig`): none where the processor itself does the training."""
    return 0 if device.type == "cpu" else max(1, (os.cpu_count() or 1) // 2 - 1)


def make_folder(folder: str | Path) -> None:
    """Makes the folder of a run; before weights load, so that a place that cannot be written to is known at once.

    Raises:
        ConfigError: it is a file, or cannot be made or written to
    """
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK | os.X_OK):
            raise PermissionError("it may not be written to")
    except OSError as e:
        found = "a file" if Path(folder).is_file() else e.strerror or e
        expected = "a folder that is there or can be made"
        raise ConfigError("cannot write the result", where=folder, expected=expected, found=found, advice="Choose another folder.") from e


class _Run:
    def __init__(self, model, batch_at, loss_fn, optimizers, config, validate, accelerator, on_best):
        self.raw, self.batch_at, self.loss_fn, self.config = model, batch_at, loss_fn, config
        self.validate, self.accelerator, self.on_best = validate, accelerator, on_best
        self.out = Path(config.out_dir)
        self.device = next(model.parameters()).device if accelerator is None else accelerator.device
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

    def _frozen(self) -> set[str]:
        return {name for name, p in self.raw.named_parameters(remove_duplicate=False) if not p.requires_grad}

    def _state(self) -> dict[str, torch.Tensor]:
        """What training changes: frozen weights, most of a large model with adapters, are where it started from."""
        frozen = self._frozen()
        return {name: value for name, value in self.raw.state_dict().items() if name not in frozen}

    def _load(self, state: Mapping[str, torch.Tensor]) -> None:
        missing, unexpected = self.raw.load_state_dict(state, strict=False)
        if unexpected or (missing := sorted(set(missing) - self._frozen())):
            raise ValueError(f"missing {missing[:3]}, unexpected {unexpected[:3]}")

    def _origin(self) -> str:
        """Digest of the frozen weights: a sample of each, so that gigabytes need not be read."""
        frozen, digest = self._frozen(), hashlib.sha256()
        for name, value in self.raw.state_dict().items():
            if name in frozen:
                digest.update(f"{name} {tuple(value.shape)}".encode())
                sample = value.detach().flatten()[:: max(1, value.numel() // 4096)]
                digest.update(sample.float().cpu().numpy().tobytes())
        return digest.hexdigest()

    def _resume(self) -> None:
        path = self.out / "checkpoint.pt"
        self.origin = self._origin()
        if not path.exists():
            torch.manual_seed(self.config.seed)
            if self.main:
                (self.out / "log.jsonl").write_text("")
            return
        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
            self._load(state["model"])
            for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
                asked = [{name: group[name] for name in _OF_THIS_CALL if name in group} for group in optimizer.param_groups]
                optimizer.load_state_dict(saved)
                for group, own in zip(optimizer.param_groups, asked):
                    group.update(own)
            origin = state["origin"]
            self.step, self.seconds = state["step"], state["seconds"]
            self.best_score, self.best_step = state["best_score"], state["best_step"]
            self.average = state["average"] and {k: v.to(self.device) for k, v in state["average"].items()}
            torch.set_rng_state(state["rng"])
            if torch.cuda.is_available():  # perhaps on fewer GPUs than before
                torch.cuda.set_rng_state_all(state["cuda_rng"][: torch.cuda.device_count()])
        except (RuntimeError, ValueError, KeyError, TypeError, EOFError, OSError, pickle.UnpicklingError) as error:
            raise CheckpointError(
                "cannot resume from the checkpoint",
                where=path,
                found=error,
                expected="a checkpoint of the same model and optimisers",
                advice="Choose another output folder, or delete it to start again.",
            ) from error
        if origin != self.origin:
            raise CheckpointError(
                "the run in this folder started from other weights",
                where=path,
                expected="the weights it started from: a checkpoint holds only what training changes",
                found="frozen weights that differ",
                advice="Start from those again, or choose another output folder.",
            )
        self.history = [row for row in read_log(self.out) if row["step"] <= self.step]
        if self.main:
            # rows written after the checkpoint belong to steps that will be done again
            (self.out / "log.jsonl").write_text("".join(json.dumps(row) + "\n" for row in self.history))
        logger.info("resuming from step %d of %s", self.step, path)
        if self._progress() >= 1.0 and self.main:
            logger.warning("%s holds a finished run of %d steps: more steps go on, another folder starts afresh", self.out, self.step)

    def _save(self) -> None:
        if not self.main:
            return
        state = {
            "model": self._state(),
            "origin": self.origin,
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
        """Lists of ``accumulate`` micro-batches, one list per step."""
        per_step = self.config.accumulate
        numbers = (number * self.world + self.rank for number in count(self.step * per_step))
        if self.config.workers:
            batches = _from_processes(self.batch_at, numbers, self.config.workers)
        elif self.config.prefetch:
            batches = _one_ahead(self.batch_at, numbers)
        else:
            batches = map(self.batch_at, numbers)
        try:
            while True:
                yield list(islice(batches, per_step))
        finally:
            if hasattr(batches, "close"):
                batches.close()

    def _optimise(self, micro_batches, progress: float) -> dict[str, float]:
        factor = cosine(progress, self.config.warmup, self.config.final_lr)
        logged: dict[str, torch.Tensor] = {}
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = group.setdefault("base_lr", group["lr"]) * factor
            optimizer.zero_grad(set_to_none=True)
        for k, batch in enumerate(micro_batches):
            last = k == len(micro_batches) - 1
            sync = nullcontext() if last or self.accelerator is None else self.accelerator.no_sync(self.model)
            with sync, self._autocast():
                batch = batch.to(self.device) if hasattr(batch, "to") else batch
                result = self.loss_fn(self.model, batch, progress)
                loss, extra = result if isinstance(result, tuple) else (result, {})
                loss = loss / len(micro_batches)
                self._backward(loss)
            for name, value in {"loss": loss.detach() * len(micro_batches), **extra}.items():
                logged[name] = logged.get(name, 0.0) + torch.as_tensor(value, device=loss.device).float() / len(micro_batches)
        parameters = [p for o in self.optimizers for g in o.param_groups for p in g["params"]]
        norm = nn.utils.clip_grad_norm_(parameters, self.config.clip or math.inf)
        if not torch.isfinite(norm):
            logger.warning("step %d skipped: the gradient is not finite", self.step)
            return _numbers(logged)
        for optimizer in self.optimizers:
            optimizer.step()
        if self.config.ema:
            self._update_average()
        return _numbers(logged)

    def _autocast(self):
        if self.accelerator is not None:
            return self.accelerator.autocast()
        return torch.autocast(self.device.type, torch.bfloat16) if self.config.bf16 else nullcontext()

    def _backward(self, loss) -> None:
        if self.accelerator is not None:
            self.accelerator.backward(loss)
        else:
            loss.backward()

    @torch.no_grad()
    def _update_average(self) -> None:
        state = self._state()
        if self.average is None:
            self.average = {k: v.detach().clone() for k, v in state.items()}
            return
        # a young average follows closely, so that the random start is forgotten
        decay = min(self.config.ema, (1 + self.step) / (10 + self.step))
        floating = [key for key, value in state.items() if value.is_floating_point()]
        torch._foreach_lerp_([self.average[key] for key in floating], [state[key] for key in floating], 1 - decay)
        for key in state.keys() - set(floating):
            self.average[key].copy_(state[key])

    def _validate(self) -> None:
        if self.validate is None:
            return
        current = None
        if self.average is not None:
            current = {k: v.detach().clone() for k, v in self._state().items()}
            self._load(self.average)
        was_training = self.raw.training
        self.raw.eval()
        rng = torch.get_rng_state()  # validation must not change what training draws next
        with torch.no_grad():
            numbers = {k: float(v) for k, v in self.validate(self.raw).items()}
        torch.set_rng_state(rng)
        self._log({f"val_{k}": v for k, v in numbers.items()})
        score = numbers.get("score")
        if score is not None and not math.isfinite(score):  # as best it would never be beaten
            logger.warning("step %d: the score of the validation is not a number: these weights cannot become the best", self.step)
        elif score is not None and (self.best_score is None or score > self.best_score):
            self.best_score, self.best_step = score, self.step
            if self.main:
                _save_atomically({"model": self._state(), "step": self.step, "score": score}, self.out / "best.pt")
                if self.on_best is not None:
                    self.on_best(self.raw, numbers)
        self.raw.train(was_training)
        if current is not None:
            self._load(current)

    def __call__(self, stop_after: int | None) -> LoopResult:
        make_folder(self.out)
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
                # a step without finite numbers is skipped, and must not hide those after it
                recent |= {k: 0.9 * recent.get(k, v) + 0.1 * v for k, v in logged.items() if math.isfinite(v)}
                bar.update(self._progress(), recent.get("loss"), self.best_score)
                if config.log_every and (self.step % config.log_every == 0 or self._progress() >= 1.0):
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
            self._load(torch.load(best, map_location="cpu", weights_only=True)["model"])
        elif self.average is not None:
            self._load(self.average)
        if self.main:
            from .plots import plot_log

            plot_log(self.history, self.out / "log.png")
        return self._result()

    def _result(self) -> LoopResult:
        return LoopResult(self.out, self.step, self.seconds, self.best_score, self.best_step, self.history)


def _one_ahead(batch_at: BatchAt, numbers: Iterator[int]):
    """Batches, the next of which a thread prepares while this one is used."""
    with ThreadPoolExecutor(1) as pool:
        pending = pool.submit(batch_at, next(numbers))
        while True:
            ready = pending.result()
            pending = pool.submit(batch_at, next(numbers))
            yield ready


def _from_processes(batch_at: BatchAt, numbers: Iterator[int], workers: int):
    """Batches in the order of their numbers, prepared by processes."""
    from torch.utils.data import DataLoader

    # batches hold many small tensors, more than a process may have files open
    torch.multiprocessing.set_sharing_strategy("file_system")
    loader = DataLoader(
        _Numbered(batch_at), batch_size=None, sampler=numbers, num_workers=workers, prefetch_factor=4,
        multiprocessing_context="fork", generator=torch.Generator(),  # the loader must not draw from the run's own
    )  # fmt: skip
    yield from loader


class _Numbered:
    """``batch_at`` as the data set that a DataLoader asks for."""

    def __init__(self, batch_at: BatchAt):
        self.batch_at = batch_at

    def __getitem__(self, number: int):
        return self.batch_at(number)


def _numbers(values: Mapping[str, torch.Tensor]) -> dict[str, float]:
    """Values of a step, fetched from the device together."""
    return dict(zip(values, torch.stack(list(values.values())).tolist()))


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

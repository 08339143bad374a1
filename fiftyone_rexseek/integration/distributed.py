"""Many processes: batches of images over Ray actors, each with a model of its own."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator

from ..errors import ConfigError, MissingDependencyError, ReferringError
from ..models.answering import Answerer, ImageJob, ItemResult
from ..referring import Selection

logger = logging.getLogger(__name__)


class _Worker:
    """One actor: makes its model once, then answers batches."""

    def __init__(self, make: Callable[[], Answerer]):
        self.answerer = make()

    def ready(self) -> bool:
        return True

    def answer(self, jobs: list[ImageJob]) -> list[ItemResult]:
        return self.answerer(jobs)


def ray_stream(
    make: Callable[[], Answerer],
    batches: Iterable[list[ImageJob]],
    *,
    num_actors: int = 2,
    timeout_s: float = 600.0,
    num_gpus: float | None = None,
) -> Iterator[tuple[list[ImageJob], list[ItemResult]]]:
    """Results of the batches, as they are ready, from ``num_actors`` processes.

    A batch whose process dies or takes longer than ``timeout_s`` fails with the reason, and the others go on; a model that
    cannot be loaded ends the run at once. Uses the Ray cluster this process is connected to, or starts a
    local one and stops it at the end.

    Args:
        make: makes the answerer, in each actor
        batches: images with their items
        num_gpus: GPUs of each actor; by default its share of those that Ray sees

    Raises:
        ReferringError: the model could not be loaded in the other processes, or not within ``timeout_s``
    """
    try:
        import ray
    except ImportError as e:
        raise MissingDependencyError(
            "distributed='ray' needs Ray", advice="pip install 'fiftyone-rexseek[distributed]'"
        ) from e
    if timeout_s <= 0:
        raise ConfigError("timeout_s is out of range", expected="a positive number of seconds", found=timeout_s)
    own = not ray.is_initialized()
    if own:
        ray.init(num_cpus=num_actors, include_dashboard=False, log_to_driver=False, configure_logging=False)
    actors: list = []
    try:
        if num_gpus is None:
            num_gpus = ray.cluster_resources().get("GPU", 0) / num_actors
        remote = ray.remote(num_cpus=1, num_gpus=num_gpus)(_Worker)
        actors = [remote.remote(make) for _ in range(num_actors)]
        _wait_until_ready(ray, actors, timeout_s)
        yield from _collect(ray, remote, make, actors, iter(batches), timeout_s)
    finally:
        for actor in actors:
            ray.kill(actor)
        if own:
            ray.shutdown()


def _wait_until_ready(ray, actors: list, timeout_s: float) -> None:
    try:
        ray.get([actor.ready.remote() for actor in actors], timeout=timeout_s)
    except ray.exceptions.GetTimeoutError as e:
        raise ReferringError(f"the model was not loaded in {len(actors)} processes within {timeout_s:g} s") from e
    except ray.exceptions.RayActorError as e:
        last = (str(e).strip().splitlines() or ["unknown"])[-1]
        raise ReferringError(
            f"the model could not be loaded in another process: {last}",
            advice="Give a zoo name, or a function that the other processes can import",
        ) from e


def _collect(ray, remote, make, actors: list, batches: Iterator, timeout_s: float):
    """One batch at a time per actor; hands out the next one when a result is in."""
    running: dict = {}  # reference -> (position of the actor, jobs, deadline)
    free = list(range(len(actors)))
    exhausted = False
    while running or not exhausted:
        while free and not exhausted:
            jobs = next(batches, None)
            if jobs is None:
                exhausted = True
                break
            k = free.pop()
            running[actors[k].answer.remote(jobs)] = (k, jobs, time.monotonic() + timeout_s)
        if not running:
            break
        wait = max(0.0, min(deadline for _, _, deadline in running.values()) - time.monotonic())
        ready, _ = ray.wait(list(running), num_returns=1, timeout=wait)
        if ready:
            k, jobs, _ = running.pop(ready[0])
            try:
                results = ray.get(ready[0])
            except ray.exceptions.RayTaskError as e:
                if isinstance(e.cause, ConfigError | MissingDependencyError):
                    raise e.cause from e
                results = _failed(jobs, f"{type(e.cause).__name__}: {e.cause}")
            except ray.exceptions.RayActorError as e:
                results = _failed(jobs, f"the process ended: {(str(e).strip().splitlines() or ['?'])[-1]}")
                actors[k] = remote.remote(make)
            free.append(k)
            yield jobs, results
            continue
        for reference, (k, jobs, deadline) in list(running.items()):
            if deadline <= time.monotonic():
                del running[reference]
                ray.kill(actors[k])
                actors[k] = remote.remote(make)
                free.append(k)
                yield jobs, _failed(jobs, f"no answer within {timeout_s:g} s")


def _failed(jobs: list[ImageJob], reason: str) -> list[ItemResult]:
    logger.warning("a batch of %d images failed: %s", len(jobs), reason)
    return [
        ItemResult(item.key, tuple(Selection.failed(str(text or ""), reason) for text in item.expressions))
        for job in jobs
        for item in job.items
    ]

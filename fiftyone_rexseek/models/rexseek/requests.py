"""Requests made ready for the network: images read, boxes chosen, expressions checked, everything bad set aside."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from os import PathLike
from threading import Lock
from typing import Any

import numpy as np
from torch import Tensor

from fiftyone_rexseek.errors import ReferringError
from fiftyone_rexseek.referring import Selection

from ..images import open_image
from .candidates import Candidates, choose_candidates
from .processing import RexSeekProcessor

logger = logging.getLogger(__name__)

MAX_EXPRESSION_TOKENS = 512

# A tokenizer changes its settings while it is used, and refuses two threads at once.
_tokenizing = Lock()


@dataclass(frozen=True)
class SelectRequest:
    """One image with its candidate boxes and the expressions asked about it.

    Attributes:
        image: path, ``PIL.Image``, or HWC ``uint8`` RGB array
        boxes_xyxy: (n, 4) absolute pixels of the (upright) image
        expressions: the texts
        scores: (n,) detector scores; they decide which candidates stay when there are too many
    """

    image: Any
    boxes_xyxy: Any
    expressions: Sequence[str]
    scores: Any = None


@dataclass(frozen=True)
class Loaded:
    """A request's image, read and resized, or why it could not be."""

    size_wh: tuple[int, int] = (0, 0)
    levels: Tensor | None = None
    error: str | None = None


@dataclass
class Job:
    """A request made ready: tensors, and for each answerable expression the token ids."""

    request: SelectRequest
    results: list[Selection | None]
    candidates: Candidates
    levels: Tensor | None = None
    boxes: Tensor | None = None
    rows: tuple[int, ...] = ()
    token_ids: tuple[list[int], ...] = ()

    def fail(self, error: str) -> None:
        for i, result in enumerate(self.results):
            if result is None:
                self.results[i] = Selection.failed(self.request.expressions[i], error)


def _load(image: Any, processor: RexSeekProcessor) -> Loaded:
    try:
        image = open_image(image)
        return Loaded(image.size, processor.levels(image))
    except ReferringError as e:
        return Loaded(error=str(e))


def jobs_ahead(
    requests: Iterable[SelectRequest], processor: RexSeekProcessor, reproduce: bool, workers: int, ahead: int
) -> Iterator[Job]:
    """Requests made ready, in order; threads stay at most ``ahead`` requests in front."""

    def ready(request: SelectRequest) -> Job:
        return prepare(request, _load(request.image, processor), processor, reproduce)

    if not workers:
        yield from map(ready, requests)
        return
    with ThreadPoolExecutor(workers) as pool:
        waiting: deque[Future[Job]] = deque()
        for request in requests:
            waiting.append(pool.submit(ready, request))
            if len(waiting) > ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def prepare(request: SelectRequest, loaded: Loaded, processor: RexSeekProcessor, reproduce: bool) -> Job:
    """Reads and checks one request; whatever is wrong with it ends up in its own results."""
    expressions = request.expressions
    # What is no list is one expression; if it is no text either, it fails like any other.
    alone = isinstance(expressions, str) or not isinstance(expressions, Iterable)
    expressions = [expressions] if alone else list(expressions)
    request = SelectRequest(request.image, request.boxes_xyxy, expressions, request.scores)
    job = Job(request, [None] * len(expressions), Candidates.none(0))
    if loaded.error:
        job.fail(loaded.error)
        return job
    try:
        job.candidates = choose_candidates(
            request.boxes_xyxy, request.scores, loaded.size_wh, processor.config.num_object_tokens
        )
    except ReferringError as e:
        job.fail(str(e))
        return job
    for i, expression in enumerate(expressions):
        if not isinstance(expression, str) or not expression.strip():
            found = "an empty text" if isinstance(expression, str) else type(expression).__name__
            job.results[i] = Selection.failed(expression, f"the expression is not a text; found {found}")
    if not len(job.candidates.kept):
        if job.candidates.total:
            job.fail(f"no candidate box can be used: {job.candidates.problems_text()}")
        for i, result in enumerate(job.results):
            if result is None:  # there is nothing to ask the model about
                nothing = dict(indices=(), rejection_score=1.0, candidate_scores=np.zeros(0))
                job.results[i] = Selection.rejected(expressions[i], **nothing)
        return job
    _warn_about_dropped(job)
    _encode_expressions(job, processor)
    if job.rows:
        job.levels = loaded.levels
        job.boxes = processor.boxes(job.candidates.boxes, loaded.size_wh, reproduce)
    return job


def _warn_about_dropped(job: Job) -> None:
    candidates, name = job.candidates, _name(job.request.image)
    kept, bad = len(candidates.kept), len(candidates.problems)
    if bad:
        logger.warning("%s: boxes left out: %s", name, candidates.problems_text())
    if kept + bad < candidates.total:
        which = "first" if job.request.scores is None else "best"
        logger.warning(
            "%s: only the %s %d of %d candidates are asked about", name, which, kept, candidates.total
        )


def _encode_expressions(job: Job, processor: RexSeekProcessor) -> None:
    """Fills in the token ids of the expressions that are still unanswered; what is too long fails."""
    config, expressions = processor.config, job.request.expressions
    rows = [i for i, result in enumerate(job.results) if result is None]
    texts = [processor.neutralised(expressions[i].strip()) for i in rows]
    with _tokenizing:
        all_ids = processor.token_ids_of_expressions(len(job.candidates.kept), texts)
        # A character is at most four (byte) tokens, so a short text needs no counting.
        lengths = [len(processor.encode(t)) if len(t) > MAX_EXPRESSION_TOKENS // 4 else 0 for t in texts]
    kept = []
    for i, length, ids in zip(rows, lengths, all_ids, strict=True):
        room = config.text["max_position_embeddings"] - config.grid**2 - len(ids)
        if length > MAX_EXPRESSION_TOKENS or room < 0:
            error = (
                f"the expression is too long; expected at most {MAX_EXPRESSION_TOKENS} tokens; found {length}"
            )
            job.results[i] = Selection.failed(expressions[i], error)
        else:
            kept.append((i, ids))
    job.rows, job.token_ids = tuple(i for i, _ in kept), tuple(ids for _, ids in kept)


def _name(image: Any) -> str:
    return str(image) if isinstance(image, str | PathLike) else type(image).__name__

"""Answering many questions: from image files and candidate boxes to selections, one bad image never costing another.

:class:`Answerer` joins the parts - opening images, proposals, a selector (RexSeek) or segmenter (ReLA), masks for boxes -
behind one call on a list of :class:`ImageJob`. It knows neither FiftyOne nor files of predictions; both ways of running
(a FiftyOne dataset, or HumanRef in and prediction lines out) use it, in this process or in others.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import numpy as np
from PIL import Image

from ..errors import ConfigError, DataError, MissingDependencyError, ReferringError
from ..geometry import to_absolute
from ..referring import Outcome, Selection
from .images import open_image
from .proposals import Proposals

logger = logging.getLogger(__name__)

#: What a model may raise for one unlucky input. Wrong options and missing packages concern all inputs and go through.
INPUT_ERRORS = (ReferringError, RuntimeError, ValueError, TypeError, LookupError, ArithmeticError, OSError, MemoryError)
_EVERYONES_ERRORS = (ConfigError, MissingDependencyError)


@dataclass(frozen=True)
class Item:
    """The expressions asked about one sample.

    Attributes:
        key: id of the sample, handed back
        expressions: texts; None or blank ones fail alone
        boxes: candidate boxes (n, 4): absolute ``xyxy``, or FiftyOne's relative boxes when ``relative``; None when the
            model needs none or a proposer finds them
        relative: how ``boxes`` are given
        exact_xyxy: pixels of the source for each relative box, NaN where unknown; used while they agree with the box
        scores: of the candidates; NaN = none
        names: what a proposer should look for
        problem: why this item cannot be asked
    """

    key: str
    expressions: tuple[str | None, ...]
    boxes: np.ndarray | None = None
    relative: bool = False
    exact_xyxy: np.ndarray | None = None
    scores: np.ndarray | None = None
    names: tuple[str, ...] = ()
    problem: str | None = None


@dataclass(frozen=True)
class ImageJob:
    """All items of one image file."""

    path: str
    items: tuple[Item, ...]


@dataclass(frozen=True)
class ItemResult:
    """The answers for one item.

    Attributes:
        key: of the item
        selections: one per expression
        width, height: of the upright image; 0 when it could not be opened
        candidates_xyxy: the candidates in pixels, or None
        proposals: what a proposer found, or None
    """

    key: str
    selections: tuple[Selection, ...]
    width: int = 0
    height: int = 0
    candidates_xyxy: np.ndarray | None = None
    proposals: Proposals | None = None


@dataclass(frozen=True)
class Question:
    """One request to a model: an image, its candidates, and expressions; has the attributes of the models' own requests."""

    image: Image.Image
    boxes_xyxy: np.ndarray | None
    expressions: tuple[str, ...]
    scores: np.ndarray | None = None


class Answerer:
    """Answers the expressions of image jobs.

    Args:
        model: has ``select_batch`` (RexSeek) or ``segment_batch`` (ReLA)
        proposer: finds candidates for items that come without
        segmenter: gives masks for the selected boxes, where the model gives none
        options: keyword arguments for every call of the model, such as ``decoding``
    """

    def __init__(self, model, *, proposer=None, segmenter=None, options: Mapping[str, Any] | None = None):
        self.model, self.proposer, self.segmenter = model, proposer, segmenter
        self.options = dict(options or {})
        if not (hasattr(model, "select_batch") or hasattr(model, "segment_batch")):
            raise ConfigError(
                "the model can neither select nor segment",
                expected="RexSeek, ReLA, or an object with select_batch(requests) or segment_batch(requests)",
                found=type(model).__name__,
            )
        _check_options(_call_of(model), self.options)

    @property
    def needs_candidates(self) -> bool:
        return hasattr(self.model, "select_batch")

    def __call__(self, jobs: Sequence[ImageJob], images: Sequence[Image.Image | DataError] | None = None) -> list[ItemResult]:
        """Results of all items, in order.

        Args:
            jobs: images with their items
            images: the images when they have been opened already (an error for one that could not be)
        """
        if images is None:
            images = [try_open(job.path) for job in jobs]
        proposals = self._propose(jobs, images)
        questions: list[Question] = []
        # (job, item, expression) of every expression of every question
        places: list[list[tuple[int, int, int]]] = []
        answers: dict[tuple[int, int, int], Selection] = {}
        boxes: dict[tuple[int, int], np.ndarray | None] = {}
        for j, (job, image) in enumerate(zip(jobs, images, strict=True)):
            shared: dict[bytes, int] = {}
            for i, item in enumerate(job.items):
                problem = str(image) if isinstance(image, DataError) else item.problem
                if problem is None:
                    found = proposals.get((j, i))
                    problem = found if isinstance(found, str) else None
                    given = found if isinstance(found, Proposals) else None
                    boxes[j, i], scores = self._candidates(item, image, given)
                for e, text in enumerate(item.expressions):
                    trouble = problem or expression_problem(text)
                    if trouble is not None:
                        answers[j, i, e] = Selection.failed(str(text or ""), trouble)
                        continue
                    # samples of one image with equal candidates are one question: the image is encoded once
                    parts = (boxes[j, i], scores)
                    signature = b"|".join(b"" if p is None else np.asarray(p, dtype=np.float64).tobytes() for p in parts)
                    if signature not in shared:
                        shared[signature] = len(questions)
                        questions.append(Question(image, boxes[j, i], (), scores))
                        places.append([])
                    q = shared[signature]
                    questions[q] = replace(questions[q], expressions=(*questions[q].expressions, text))
                    places[q].append((j, i, e))
        for own_places, selections in zip(places, ask(self.model, questions, self.options)):
            answers.update(zip(own_places, selections))
        self._segment(images, answers)
        results = []
        for j, (job, image) in enumerate(zip(jobs, images)):
            width, height = (0, 0) if isinstance(image, DataError) else image.size
            for i, item in enumerate(job.items):
                found = proposals.get((j, i))
                selections = tuple(answers[j, i, e] for e in range(len(item.expressions)))
                found = found if isinstance(found, Proposals) else None
                results.append(ItemResult(item.key, selections, width, height, boxes.get((j, i)), found))
        return results

    def _propose(self, jobs, images) -> dict[tuple[int, int], Proposals | str]:
        """Proposals of every item that needs them, each (image, names) once; a text says why there are none."""
        if self.proposer is None or not self.needs_candidates:
            return {}
        wanted: dict[tuple[int, tuple[str, ...]], list[tuple[int, int]]] = {}
        for j, (job, image) in enumerate(zip(jobs, images, strict=True)):
            for i, item in enumerate(job.items):
                if item.boxes is None and not isinstance(image, DataError):
                    wanted.setdefault((j, item.names), []).append((j, i))
        keys = list(wanted)

        def run(batch):
            return self.proposer.propose([images[j] for j, _ in batch], [names for _, names in batch])

        found = in_halves(run, keys, lambda key, error: f"no proposals: {error}")
        return {place: result for key, result in zip(keys, found) for place in wanted[key]}

    def _candidates(self, item: Item, image: Image.Image, proposals: Proposals | None):
        if not self.needs_candidates:
            return None, None
        if proposals is not None:
            return proposals.boxes_xyxy, proposals.scores
        boxes = np.zeros((0, 4)) if item.boxes is None else np.asarray(item.boxes, dtype=np.float64).reshape(-1, 4)
        if item.relative:
            boxes = absolute_boxes(boxes, item.exact_xyxy, *image.size)
        return boxes, item.scores

    def _segment(self, images, answers: dict[tuple[int, int, int], Selection]) -> None:
        """Adds masks to the selections that have boxes and no masks; each image goes to the segmenter once."""
        if self.segmenter is None:
            return
        by_image: dict[int, list[tuple[int, int, int]]] = {}
        for place, selection in answers.items():
            if len(selection) and selection.masks is None:
                by_image.setdefault(place[0], []).append(place)
        for j, places in by_image.items():
            boxes = np.concatenate([answers[p].boxes_xyxy for p in places])
            unique, inverse = np.unique(boxes, axis=0, return_inverse=True)
            try:
                masks = self.segmenter.segment(images[j], unique)
            except _EVERYONES_ERRORS:
                raise
            except INPUT_ERRORS as e:
                logger.warning("no masks for an image: %s", explain(e))
                for p in places:
                    answers[p] = replace(answers[p], error=f"no masks: {explain(e)}")
                continue
            at = iter(inverse.reshape(-1).tolist())
            for p in places:
                answers[p] = replace(answers[p], masks=tuple(masks[next(at)] for _ in range(len(answers[p]))))


def absolute_boxes(relative: np.ndarray, exact_xyxy: np.ndarray | None, width: int, height: int) -> np.ndarray:
    """Relative boxes in pixels: the source's own numbers while they agree with the box (1e-6 of the image's size).

    Example::

        >>> absolute_boxes(np.array([[0.1, 0.1, 0.2, 0.2]]), np.array([[1, 1, 3, 3.0]]), 10, 10).tolist()
        [[1.0, 1.0, 3.0, 3.0]]
    """
    boxes = to_absolute(relative, width, height)
    if exact_xyxy is None:
        return boxes
    exact = np.asarray(exact_xyxy, dtype=np.float64).reshape(-1, 4)
    size = np.array([width, height, width, height], dtype=np.float64)
    agrees = (np.abs(exact - boxes) <= 1e-6 * size).all(axis=1)  # NaN never agrees
    return np.where(agrees[:, None], exact, boxes)


def try_open(path: str) -> Image.Image | DataError:
    """The upright RGB image, or the error that says why there is none."""
    try:
        return open_image(path)
    except DataError as e:
        return e


def expression_problem(text: Any) -> str | None:
    """Says why something cannot be asked, or None.

    Example::

        >>> expression_problem("  ")
        'the expression is empty'
    """
    if text is None:
        return "the sample has no expression"
    if not isinstance(text, str):
        return f"the expression is {type(text).__name__}, not text"
    return None if text.strip() else "the expression is empty"


def ask(model, questions: Sequence[Question], options: Mapping[str, Any] | None = None) -> list[list[Selection]]:
    """Selections of every question. Where a batch raises, its halves are asked, down to the one expression at fault, which
    gets the outcome ``failed`` with the reason.

    Args:
        model: has ``select_batch`` or ``segment_batch``
        questions: images with expressions
        options: keyword arguments of every call
    """
    call = _call_of(model)

    def run(batch):
        return call(batch, **(options or {}))

    def alone(question, error):
        if len(question.expressions) == 1:
            return [Selection.failed(question.expressions[0], error)]
        singles = [replace(question, expressions=(text,)) for text in question.expressions]
        return [selection for [selection] in ask(model, singles, options)]

    return in_halves(run, list(questions), alone)


def _call_of(model):
    return model.select_batch if hasattr(model, "select_batch") else model.segment_batch


def _check_options(call, options: Mapping[str, Any]) -> None:
    """Unknown options are everyone's error; as a ``TypeError`` of each call they would fail sample after sample."""
    parameters = inspect.signature(call).parameters.values()
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        return
    known = {p.name for p in parameters if p.kind is p.KEYWORD_ONLY or p.default is not p.empty}
    unknown = sorted(set(options) - known)
    if unknown:
        raise ConfigError("unknown call option", expected=f"some of {sorted(known)}", found=", ".join(unknown))


def in_halves(run, items: list, instead) -> list:
    """``run(items)``, a list of the same length; when it raises, the halves, and ``instead(item, reason)`` for a single one.

    Example::

        >>> in_halves(lambda batch: [1 / n for n in batch], [1, 0, 2], lambda n, reason: reason)
        [1.0, 'ZeroDivisionError: division by zero', 0.5]
    """
    if not items:
        return []
    try:
        results = list(run(items))
        if len(results) != len(items):
            raise RuntimeError(f"{len(items)} inputs gave {len(results)} results")
        return results
    except _EVERYONES_ERRORS:
        raise
    except INPUT_ERRORS as e:
        if len(items) == 1:
            logger.warning("one input failed: %s", explain(e))
            return [instead(items[0], explain(e))]
    _release_memory()
    middle = len(items) // 2
    return in_halves(run, items[:middle], instead) + in_halves(run, items[middle:], instead)


def explain(error: BaseException) -> str:
    """An exception as one line for a person; out of memory comes with advice."""
    text = str(error) if isinstance(error, ReferringError) else f"{type(error).__name__}: {error}"
    text = " ".join(text.split())[:500]
    if isinstance(error, MemoryError) or "out of memory" in text.lower():
        text += ". Even this image alone does not fit: use fewer candidates or expressions, dtype='bfloat16', or device='cpu'"
    return text


def _release_memory() -> None:
    import sys

    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        torch.cuda.empty_cache()


def batches(items: Iterable, size: int) -> Iterator[list]:
    """Lists of at most ``size`` items.

    Example::

        >>> list(batches("abcde", 2))
        [['a', 'b'], ['c', 'd'], ['e']]
    """
    iterator = iter(items)
    while batch := list(islice(iterator, size)):
        yield batch


def answer_stream(
    answerer: Answerer, job_batches: Iterable[list[ImageJob]], num_workers: int = 2
) -> Iterator[tuple[list[ImageJob], list[ItemResult]]]:
    """Results batch by batch; ``num_workers`` threads open the next batch's images while the model works on this one."""
    if num_workers < 1:
        for jobs in job_batches:
            yield jobs, answerer(jobs)
        return
    with ThreadPoolExecutor(num_workers, thread_name_prefix="images") as pool:
        waiting: tuple[list[ImageJob], list] | None = None
        for jobs in job_batches:
            following = (jobs, [pool.submit(try_open, job.path) for job in jobs])
            if waiting is not None:
                yield waiting[0], answerer(waiting[0], [f.result() for f in waiting[1]])
            waiting = following
        if waiting is not None:
            yield waiting[0], answerer(waiting[0], [f.result() for f in waiting[1]])


def count_outcomes(selections: Iterable[Selection]) -> dict[str, int]:
    """How many selections have each outcome.

    Example::

        >>> count_outcomes([Selection.rejected("a"), Selection.failed("b", "why")])
        {'selected': 0, 'rejected': 1, 'unparsed': 0, 'failed': 1}
    """
    counts = {outcome.value: 0 for outcome in Outcome}
    for selection in selections:
        counts[selection.outcome.value] += 1
    return counts

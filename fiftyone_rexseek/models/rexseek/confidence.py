"""Confidence of an answer from the probabilities at its decision points.

An answer makes two kinds of decision. Its first token either opens a group (``<ground>``) or begins the rejection
sentence. Inside an object list, every token either names one of the boxes not yet named or closes the list. With the
probabilities renormalised over just these alternatives,

* ``q_t(i)`` is the probability that the list goes on with box i at step t,
* ``score(i) = P(group) * q_t(i)`` at the step t that names box i: the model names boxes in a fixed (ascending)
  order, so passing over a box decides against it, and ``q_t(i)`` is the probability that it belongs to the answer
  given the boxes before it,
* for a box that is not named, ``score(i) = P(group) * max_t q_t(i)``: the nearest it came to being named,
* ``rejection = P(rejection sentence) + P(group) * q_1(close or rejection sentence)``.

The wording of the echoed expression takes no part. No probability is computed twice: the logits are those that
decoding looked at anyway (before any repetition penalty).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .processing import RexSeekProcessor


@dataclass(frozen=True)
class WatchedTokens:
    """Which tokens' logits are recorded while decoding, and where each one is in the record.

    Attributes:
        ids: token ids: the object tokens first, in order, then the ones below
        end_objects, ground, rejection: column of ``</objects>``, ``<ground>``, the rejection sentence's first token
        eos: columns of the end tokens
    """

    ids: tuple[int, ...]
    end_objects: int
    ground: int
    rejection: int
    eos: slice

    @classmethod
    def of(cls, processor: RexSeekProcessor, eos_ids: Sequence[int]) -> WatchedTokens:
        n = len(processor.object_ids)
        decisions = (processor.end_objects_id, processor.ground_id, processor.rejection_ids[0])
        ids = (*processor.object_ids, *decisions, *eos_ids)
        return cls(ids, n, n + 1, n + 2, slice(n + 3, n + 3 + len(eos_ids)))


@dataclass(frozen=True)
class Confidence:
    """Scores of one answer.

    Attributes:
        candidates: float64 (num_boxes,); NaN where the answer never came to an object list
        rejection: probability that nothing matches
    """

    candidates: np.ndarray
    rejection: float


def answer_confidence(
    ids: Sequence[int],
    watched: Sequence[np.ndarray],
    columns: WatchedTokens,
    processor: RexSeekProcessor,
    num_boxes: int,
) -> Confidence:
    """Confidence of one decoded row.

    Args:
        ids: generated tokens
        watched: logits of the watched tokens before each of them
        columns: their order
        processor: the tokens' ids
        num_boxes: boxes of the row's image
    """
    object_of_token = {token: i for i, token in enumerate(processor.object_ids[:num_boxes])}
    scores = np.full(num_boxes, np.nan)
    if not ids:
        return Confidence(scores, float("nan"))
    reject, group = _softmax(watched[0][[columns.rejection, columns.ground]])
    close_first = None
    named: set[int] = set()
    inside = False
    for token, logits in zip(ids, watched, strict=True):
        if inside:
            open_boxes = [i for i in range(num_boxes) if i not in named]
            ends = [columns.end_objects] if named else [columns.end_objects, columns.rejection]
            q = _softmax(logits[open_boxes + ends])
            if close_first is None:
                close_first = float(q[len(open_boxes) :].sum())
            scores[open_boxes] = np.fmax(scores[open_boxes], group * q[: len(open_boxes)])
            box = object_of_token.get(token)
            if box is not None and box not in named:
                scores[box] = group * q[open_boxes.index(box)]
                named.add(box)
            inside = token != processor.end_objects_id
        elif token == processor.objects_id:
            inside = True
    return Confidence(scores, float(reject + group * (close_first or 0.0)))


def _softmax(logits: np.ndarray) -> np.ndarray:
    exp = np.exp(logits.astype(np.float64) - logits.max())
    return exp / exp.sum()

"""Proposals: the candidate boxes that a selector such as RexSeek may choose from.

Every source has one interface, :class:`Proposer`: names in, boxes out, one :class:`Proposals` per image. The ready ones are
:class:`~fiftyone_rexseek.models.proposals.grounding_dino.GroundingDino` (transformers, the default) and
:class:`~fiftyone_rexseek.models.proposals.groundingdino_py.GroundingDinoPy` (the ``groundingdino-py`` package, for
``.pth`` checkpoints); ``integration/`` adds fields of samples and the detectors of FiftyOne's zoo.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import numpy as np
from PIL import Image

from ...errors import ConfigError
from ...geometry import non_maximum_suppression

#: RexSeek names objects <obj0> .. <obj99>: more candidates than that cannot be asked about.
MAX_CANDIDATES = 100


@dataclass(frozen=True)
class Proposals:
    """The candidates of one image, best score first.

    Attributes:
        boxes_xyxy: float array (n, 4), absolute pixels, inside the image
        scores: float array (n,), detector confidence in [0, 1]; NaN = the source has none
        labels: the name each box was found for
        dropped: how many boxes passed the thresholds and were left out by the cap
    """

    boxes_xyxy: np.ndarray = field(default_factory=lambda: np.zeros((0, 4)))
    scores: np.ndarray = field(default_factory=lambda: np.zeros(0))
    labels: tuple[str, ...] = ()
    dropped: int = 0

    def __len__(self) -> int:
        return len(self.boxes_xyxy)


@runtime_checkable
class Proposer(Protocol):
    """A source of candidate boxes that looks at the image."""

    def propose(self, images: Sequence[Image.Image], names: Sequence[Sequence[str]]) -> list[Proposals]:
        """One result per image; ``names[i]`` are the things to look for in image ``i`` (class-bound detectors ignore them)."""
        ...

    def describe(self) -> Mapping[str, Any]:
        """JSON-compatible facts for the record of a run: source, weights, thresholds, cap."""
        ...


@dataclass(frozen=True)
class ProposalOptions:
    """Thresholds and cap shared by the detectors.

    Args:
        box_threshold: lowest score of a box; the public RexSeek demo uses 0.25, with spaCy prompts 0.35
        text_threshold: below it a box is not attributed to any single name
        max_candidates: keep this many best boxes
        nms_iou_threshold: class-agnostic NMS; None, as in the public demo, applies none
    """

    box_threshold: float = 0.25
    text_threshold: float = 0.25
    max_candidates: int = MAX_CANDIDATES
    nms_iou_threshold: float | None = None

    def __post_init__(self):
        for name in ("box_threshold", "text_threshold", "nms_iou_threshold"):
            value = getattr(self, name)
            if value is not None and not 0 <= value <= 1:
                raise ConfigError(f"{name} is out of range", expected="a number in [0, 1]", found=value)
        if self.max_candidates < 1:
            raise ConfigError("max_candidates is out of range", expected="1 or more", found=self.max_candidates)


def finish(boxes_xyxy, scores, labels: Sequence[str], width: int, height: int, options: ProposalOptions) -> Proposals:
    """Raw detections to :class:`Proposals`: clip to the image, drop what is empty or NaN, NMS, sort, cap.

    Example::

        >>> p = finish([[0, 0, 5, 5], [2, 2, 90, 9], [7, 7, 7, 9]], [0.3, 0.9, 0.8], ["a", "b", "c"], 10, 10, ProposalOptions())
        >>> p.boxes_xyxy.tolist(), p.labels
        ([[2.0, 2.0, 10.0, 9.0], [0.0, 0.0, 5.0, 5.0]], ('b', 'a'))
    """
    boxes = np.asarray(boxes_xyxy, dtype=np.float64).reshape(-1, 4)
    scores = np.asarray(scores, dtype=np.float64).reshape(-1)
    boxes = np.clip(boxes, 0, np.array([width, height, width, height], dtype=np.float64))
    good = np.isfinite(boxes).all(axis=1) & (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])
    # a box without a score (NaN) ranks last, but is kept
    order = [int(i) for i in np.argsort(-np.nan_to_num(scores, nan=-1.0), kind="stable") if good[i]]
    if options.nms_iou_threshold is not None and order:
        kept = non_maximum_suppression(boxes[order], np.nan_to_num(scores[order], nan=-1.0), options.nms_iou_threshold)
        order = [order[i] for i in kept]
    kept = order[: options.max_candidates]
    return Proposals(boxes[kept], scores[kept], tuple(labels[i] for i in kept), len(order) - len(kept))


def clean_names(names: str | Sequence[str]) -> list[str]:
    """Detector names as a list: a string is split at commas and full stops, blanks and repetitions go.

    Example::

        >>> clean_names("Person,  dog . dog.")
        ['person', 'dog']
        >>> clean_names(["a person", "A Person", ""])
        ['a person']
    """
    parts = names.replace(".", ",").split(",") if isinstance(names, str) else [str(n).replace(".", " ") for n in names]
    cleaned = (" ".join(p.lower().split()) for p in parts)
    return list(dict.fromkeys(p for p in cleaned if p))


def caption_of(names: Sequence[str]) -> tuple[str, list[tuple[int, int]]]:
    """Grounding DINO's caption for the names, and each name's character span in it.

    Example::

        >>> caption_of(["person", "dog"])
        ('person. dog.', [(0, 6), (8, 11)])
    """
    text, spans = "", []
    for name in names:
        if text:
            text += " "
        spans.append((len(text), len(text) + len(name)))
        text += f"{name}."
    return text, spans


def attribute(
    token_probs: np.ndarray,
    offsets: Sequence[tuple[int, int]],
    spans: Sequence[tuple[int, int]],
    names: Sequence[str],
    text_threshold: float,
) -> list[str]:
    """The name each box was found for: the one with the most probable token.

    Decoding the tokens above the text threshold, as the public code does, gives empty, joined or ``[SEP]`` phrases; the
    spans of the caption are known here, so the answer is always one of the names, or ``"object"`` when none reaches
    ``text_threshold``.

    Args:
        token_probs: (n, tokens) probability of each box and token
        offsets: character span of each token in the caption; (0, 0) for special tokens
        spans: character span of each name
        names: the names
        text_threshold: lowest token probability
    """
    if not len(token_probs):
        return []
    per_name = np.zeros((len(token_probs), len(names)))
    for j, (start, end) in enumerate(spans):
        own = [i for i, (a, b) in enumerate(offsets) if b > a and a >= start and b <= end and i < token_probs.shape[1]]
        if own:
            per_name[:, j] = token_probs[:, own].max(axis=1)
    best = per_name.argmax(axis=1)
    return [names[j] if per_name[i, j] > text_threshold else "object" for i, j in enumerate(best)]


def chunk_names(names: Sequence[str], fits) -> list[list[str]]:
    """Names in as few captions as the text encoder has room for; ``fits(caption)`` says whether one has room.

    A single name that does not fit is kept: the detector truncates it.

    Example::

        >>> chunk_names(["aa", "bb", "cc"], lambda caption: len(caption) <= 8)
        [['aa', 'bb'], ['cc']]
    """
    chunks: list[list[str]] = []
    for name in names:
        if chunks and fits(caption_of([*chunks[-1], name])[0]):
            chunks[-1].append(name)
        else:
            chunks.append([name])
    return chunks


__all__ = [
    "MAX_CANDIDATES",
    "ProposalOptions",
    "Proposals",
    "Proposer",
    "attribute",
    "caption_of",
    "chunk_names",
    "clean_names",
    "finish",
]

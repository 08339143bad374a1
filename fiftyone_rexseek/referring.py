"""The vocabulary everyone shares: examples, targets, selections and outcomes.

Readers in ``datasets/`` yield :class:`ReferringExample`; models return :class:`Selection`; importers,
metrics and exporters speak of nothing else. All boxes here are absolute ``xyxy`` pixels of the original image.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

import numpy as np

#: A COCO run-length encoding ``{"size": [height, width], "counts": str | bytes | list}``.
RLE = Mapping[str, Any]
#: What annotation files hold for a mask: an RLE or a list of polygons ``[[x0, y0, x1, y1, ...], ...]``.
Segmentation = RLE | Sequence[Sequence[float]]


class Outcome(str, Enum):
    """What became of one question put to a model.

    ``selected``: at least one target. ``rejected``: the model says that nobody matches, which is an answer.
    ``unparsed``: the model answered, and the answer could not be read. ``failed``: no answer was obtained
    (unreadable image, out of memory). The last two are never stored as if they were a rejection.
    """

    SELECTED = "selected"
    REJECTED = "rejected"
    UNPARSED = "unparsed"
    FAILED = "failed"

    def __str__(self) -> str:
        return self.value

    @property
    def is_answer(self) -> bool:
        """Whether the model gave an answer that can be scored."""
        return self in (Outcome.SELECTED, Outcome.REJECTED)


@dataclass(frozen=True, slots=True)
class Target:
    """One object of an image: a referred target or a candidate.

    Attributes:
        box_xyxy: four floats, absolute pixels
        segmentation: RLE or polygons at the size of the image, or None
        label: category name
        object_id: annotation id in the source, or None
        iscrowd: whether the source marks the object as a crowd
        area: square pixels as the source states them, or None
    """

    box_xyxy: tuple[float, float, float, float]
    segmentation: Segmentation | None = None
    label: str = "person"
    object_id: int | str | None = None
    iscrowd: bool = False
    area: float | None = None


@dataclass(frozen=True, slots=True)
class ReferringExample:
    """One (image, expression) pair with its targets: none, one or many.

    Attributes:
        image_id: key of the image in its source (several examples share it)
        expression_id: key of the example in its source, unique within a split
        expression: the text
        file_name: path of the image relative to the image folder
        targets: the referred objects; empty means that nobody matches
        candidates: the objects a selector may choose from
        width, height: pixels, when the source states them
        domain, sub_domain, split: where the source has them
        extra: further fields of the source row, kept so that exporting gives them back
        problem_kinds: kinds of the (mended or tolerated) problems found in this row, for tagging
    """

    image_id: str | int
    expression_id: str | int
    expression: str
    file_name: str
    targets: tuple[Target, ...] = ()
    candidates: tuple[Target, ...] = ()
    width: int | None = None
    height: int | None = None
    domain: str | None = None
    sub_domain: str | None = None
    split: str | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)
    problem_kinds: tuple[str, ...] = ()

    @property
    def num_targets(self) -> int:
        return len(self.targets)


@dataclass(frozen=True)
class Selection:
    """A model's answer to one expression on one image.

    Attributes:
        expression: the question's expression, as asked
        outcome: see :class:`Outcome`
        boxes_xyxy: float array (n, 4), absolute pixels of the original image
        scores: float array (n,), confidence in [0, 1] of each selected box (NaN = the model has none)
        indices: index of each selected box into the candidates given, or None for models without candidates
        rejection_score: probability in [0, 1] that nothing matches, or None
        answer: the model's raw text, or None
        masks: one compressed COCO RLE per selected box at the size of the original image, or None
        merged_mask: RLE of the union of all targets (mask models), or None
        candidate_scores: float array (number of candidates,), score of every candidate when it is known
        dropped_candidates: how many candidates were left out before the model was asked
        error: why the outcome is ``failed`` or ``unparsed``
        count: how many targets a counting model says there are, 6 = more than five; None for models that do not count

    Example::

        >>> s = Selection.rejected("the dog", rejection_score=0.9)
        >>> s.outcome.value, len(s), s.boxes_xyxy.shape
        ('rejected', 0, (0, 4))
    """

    expression: str
    outcome: Outcome
    boxes_xyxy: np.ndarray = field(default_factory=lambda: np.zeros((0, 4)))
    scores: np.ndarray = field(default_factory=lambda: np.zeros(0))
    indices: tuple[int, ...] | None = None
    rejection_score: float | None = None
    answer: str | None = None
    masks: tuple[RLE, ...] | None = None
    merged_mask: RLE | None = None
    candidate_scores: np.ndarray | None = None
    dropped_candidates: int = 0
    error: str | None = None
    count: int | None = None

    def __post_init__(self):
        boxes = np.asarray(self.boxes_xyxy, dtype=np.float64).reshape(-1, 4)
        scores = np.asarray(self.scores, dtype=np.float64).reshape(-1)
        object.__setattr__(self, "boxes_xyxy", boxes)
        object.__setattr__(self, "scores", scores)
        object.__setattr__(self, "outcome", Outcome(self.outcome))
        for name, value in (("scores", scores), ("indices", self.indices), ("masks", self.masks)):
            if value is not None and len(value) != len(boxes):
                raise ValueError(f"{name} has {len(value)} entries for {len(boxes)} boxes")

    def __len__(self) -> int:
        return len(self.boxes_xyxy)

    @classmethod
    def rejected(cls, expression: str, **kwargs) -> Selection:
        """Nobody matches: a scored answer."""
        return cls(expression, Outcome.REJECTED, **kwargs)

    @classmethod
    def failed(cls, expression: str, error: str, **kwargs) -> Selection:
        """No answer was obtained; ``error`` says why."""
        return cls(expression, Outcome.FAILED, error=error, **kwargs)

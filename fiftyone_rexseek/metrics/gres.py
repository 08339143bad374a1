"""GRES: how well does one merged mask cover all referred objects? cIoU, gIoU, Pr@0.7/0.8/0.9, N-acc, T-acc.

The authors' evaluator compares masks at 480x480 and asks a separate head whether there is any target; the paper asks
the mask. Intersections and unions are exact pixel counts, taken on the run lengths by pycocotools: no mask is decoded
and none is kept, so memory does not grow with the number of pixels scored.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, NamedTuple

import numpy as np

from .. import masks
from ..errors import ConfigError, DataError, ProblemLog
from ..referring import RLE, ReferringExample
from .target_masks import OFFICIAL_SIZE, TargetMasks

PROTOCOLS = ("official", "original-size", "paper")
NO_TARGET_RULES = ("head", "mask", "head-clears-mask")
SIZES = ("480", "original")
MISSING = ("wrong", "skip", "error")
PRECISION_AT = (0.7, 0.8, 0.9)


@dataclass(frozen=True)
class GresConfig:
    """How GRES is scored. ``size`` and ``no_target`` follow from the protocol unless they are given.

    Attributes:
        protocol: ``official``: 480x480, the head decides. ``original-size``: the same at the image's size. ``paper``:
            480x480, what the mask says counts, after the head (where the model has one) has cleared it
        size: ``480`` or ``original``
        no_target: what says that there is no target: ``head``; ``mask`` (an empty one; the head is ignored);
            ``head-clears-mask`` (the head empties the mask, an empty mask is "no target")
        min_pixels: masks with fewer pixels are cleared first (the paper's 50-pixel rule for models without a
            head); needs ``no_target`` other than ``head``, and makes ``paper`` ignore the head
        missing: what an expression without an answer is: ``wrong``, ``skip`` or ``error``

    Example::

        >>> GresConfig("paper", min_pixels=50).no_target, GresConfig().no_target
        ('mask', 'head')
    """

    protocol: str = "official"
    size: str | None = None
    no_target: str | None = None
    min_pixels: int = 0
    missing: str = "wrong"

    def __post_init__(self):
        if self.protocol not in PROTOCOLS:
            raise ConfigError("unknown protocol", expected=", ".join(PROTOCOLS), found=self.protocol)
        if self.size is None:
            object.__setattr__(self, "size", "original" if self.protocol == "original-size" else "480")
        if self.no_target is None:
            rule = "head" if self.protocol != "paper" else "mask" if self.min_pixels else "head-clears-mask"
            object.__setattr__(self, "no_target", rule)
        for name, known in (("size", SIZES), ("no_target", NO_TARGET_RULES), ("missing", MISSING)):
            if getattr(self, name) not in known:
                raise ConfigError(f"unknown {name}", expected=", ".join(known), found=getattr(self, name))
        if self.min_pixels < 0:
            raise ConfigError("min_pixels is negative", expected="0 or more", found=self.min_pixels)
        if self.min_pixels and self.no_target == "head":
            raise ConfigError(
                "min_pixels has no effect when the head decides", expected="no_target='mask' or 'head-clears-mask'",
                advice="Use protocol='paper' for the 50-pixel rule.",
            )  # fmt: skip

    @property
    def mask_size(self) -> tuple[int, int] | None:
        """(height, width) at which masks are compared; None for the image's own."""
        return OFFICIAL_SIZE if self.size == "480" else None


class MaskAnswer(NamedTuple):
    """A model's answer: one merged mask (a sound RLE), and whether its head says "no target" (None: it has no head)."""

    mask: RLE
    no_target: bool | None = None


class MaskTruth(NamedTuple):
    """What is right: the merged target mask, None for no target; ``size`` is what an answer's mask must have."""

    mask: RLE | None
    num_targets: int
    size: tuple[int, int] | None = None
    key: Any = None


@dataclass(frozen=True)
class GresColumns:
    """One entry per sample, arrays (n,).

    Attributes:
        num_targets: int64; 0 = no target
        intersection, union: int64 pixels, as they enter cIoU
        iou: float64 in [0, 1], as it enters gIoU (1 for a correct "no target")
        predicted_no_target: bool
        predicted_area, target_area: int64 pixels, of the final masks
        answered: bool
    """

    num_targets: np.ndarray
    intersection: np.ndarray
    union: np.ndarray
    iou: np.ndarray
    predicted_no_target: np.ndarray
    predicted_area: np.ndarray
    target_area: np.ndarray
    answered: np.ndarray

    def take(self, mask: np.ndarray) -> GresColumns:
        """The columns of some samples."""
        return GresColumns(**{name: getattr(self, name)[mask] for name in self.__dataclass_fields__})


@dataclass(frozen=True)
class GresResult:
    """Scores of one set of answers: configuration and per-sample columns; figures are computed from them."""

    config: GresConfig
    columns: GresColumns

    @property
    def counted(self) -> GresColumns:
        """The samples that enter the figures."""
        return self.columns.take(self.columns.answered) if self.config.missing == "skip" else self.columns

    def counted_truths(self, truths: Sequence[MaskTruth | None]) -> list[MaskTruth | None]:
        """The truths that were scored, None for those that enter no figure: what other answers are scored against."""
        skips, answered = self.config.missing == "skip", iter(self.columns.answered)
        return [t if t is not None and (next(answered) or not skips) else None for t in truths]

    def summary(self) -> dict[str, float]:
        """With the authors' names: ``gIoU``, ``cIoU``, ``Pr@X`` in percent, ``T_acc`` and ``N_acc`` as fractions.

        ``T_acc`` and ``N_acc`` are 0 when no sample is without target, as in the authors' script. Pr@X is over targeted
        samples only; NaN where there is none (their script divides by zero).
        """
        c = self.counted
        empty = c.num_targets == 0
        figures = _mask_figures(c)
        said_nothing = c.predicted_no_target & c.answered
        t_acc = n_acc = 0
        if empty.any():
            n_acc = float(said_nothing[empty].mean())
            t_acc = float((~c.predicted_no_target & c.answered)[~empty].mean()) if (~empty).any() else math.nan
        head = {k: figures[k] for k in ("gIoU", "cIoU")}
        return {**head, "T_acc": t_acc, "N_acc": n_acc, **{k: v for k, v in figures.items() if k not in head}}

    def paper_precision(self) -> dict[str, float]:
        """Pr@X as the paper words it, in percent of *all* samples: "no target" is right when no pixel is predicted."""
        c = self.counted
        empty = c.num_targets == 0
        nothing = c.predicted_no_target if self.config.no_target != "head" else c.predicted_area == 0
        right_empty = empty & nothing & c.answered
        return {f"Pr@{t}": _percent((right_empty | (~empty & (c.iou >= t))).astype(float)) for t in PRECISION_AT}

    def subsets(self) -> dict[str, dict[str, float]]:
        """``n``, ``gIoU`` and ``cIoU`` of single-, multi- and no-target samples."""
        c = self.counted
        masks = {"single": c.num_targets == 1, "multi": c.num_targets > 1, "no_target": c.num_targets == 0}
        result = {}
        for name, mask in masks.items():
            part = c.take(mask)
            result[name] = {"n": int(mask.sum()), "gIoU": _percent(part.iou), "cIoU": _ratio(part)}
        return result

    def as_dict(self) -> dict[str, Any]:
        """Everything but the columns, unrounded, for a JSON file."""
        c = self.columns
        return {
            "metric": "gres",
            "protocol": self.config.protocol,
            "size": self.config.size,
            "no_target": self.config.no_target,
            "min_pixels": self.config.min_pixels,
            "num_samples": len(c.iou),
            "num_unanswered": int((~c.answered).sum()),
            **self.summary(),
            "paper_precision": self.paper_precision(),
            "subsets": self.subsets(),
        }


def _percent(values: np.ndarray) -> float:
    return 100 * float(values.mean()) if len(values) else math.nan


def _ratio(c: GresColumns) -> float:
    total = int(c.union.sum())
    return 100 * int(c.intersection.sum()) / total if total else math.nan


def _mask_figures(c: GresColumns) -> dict[str, float]:
    targeted = c.iou[c.num_targets > 0]
    precision = {f"Pr@{t}": _percent((targeted >= t).astype(float)) for t in PRECISION_AT}
    return {"gIoU": _percent(c.iou), "cIoU": _ratio(c), **precision}


def pooled_summary(results: Iterable[GresResult]) -> dict[str, float]:
    """gIoU, cIoU and Pr@X over several sources together (the authors' ``full``, which has no T-acc and N-acc)."""
    columns = [r.counted for r in results]
    names = GresColumns.__dataclass_fields__
    return _mask_figures(GresColumns(**{n: np.concatenate([getattr(c, n) for c in columns]) for n in names}))


def truths(
    examples: Iterable[ReferringExample], config: GresConfig | None = None, problems: ProblemLog | None = None
) -> Iterator[MaskTruth | None]:
    """The merged target mask of each example; None (logged ``bad-target-mask``) where it cannot be made."""
    config = config or GresConfig()
    log = problems if problems is not None else ProblemLog()
    merge = TargetMasks(config.mask_size)
    for e in examples:
        size = config.mask_size or ((e.height, e.width) if e.width and e.height else None)
        if not e.targets:
            yield MaskTruth(None, 0, size, e.expression_id)
            continue
        try:
            yield MaskTruth(merge.merged(e.targets, e.width, e.height), len(e.targets), size, e.expression_id)
        except DataError as error:
            log.add("bad-target-mask", f"expression {e.expression_id}", "is left out: its target mask is unusable", found=error)
            yield None


def evaluate_gres(
    pairs: Iterable[tuple[MaskTruth | None, MaskAnswer | None]],
    config: GresConfig | None = None,
    problems: ProblemLog | None = None,
) -> GresResult:
    """Scores a stream of (truth, answer) pairs; a None answer is a missing one, a None truth is left out.

    Masks must be sound (see :func:`~fiftyone_rexseek.datasets.rle_check.rle_problems`); one of the wrong size is logged
    (``wrong-mask-size``) and counts as unanswered, as does an answer without a head's verdict (``no-verdict``) when
    the head decides.

    Raises:
        DataError: when every answer is unusable for the same reason, which means that the file is of another protocol

    Example::

        >>> from fiftyone_rexseek.masks import encode
        >>> mask = encode(np.eye(4, dtype=bool))
        >>> result = evaluate_gres([(MaskTruth(mask, 1), MaskAnswer(mask, False)), (MaskTruth(None, 0), MaskAnswer(mask, True))])
        >>> result.summary()["gIoU"], result.summary()["N_acc"]
        (100.0, 1.0)
    """
    config = config or GresConfig()
    log = problems if problems is not None else ProblemLog()
    counts, heads, keys = _count_pixels(pairs, config, log)
    num_targets, shared, predicted, target, state = (counts[:, i] for i in range(5))
    answered = state == _SCORED
    _refuse_if_all(state, config)
    if config.missing == "error" and not answered.all():
        raise DataError(
            "expressions without a usable answer", expected="an answer to each",
            found=f"{int((~answered).sum())}, first {keys[int(np.argmin(answered))]}",
            advice="Predict them, or score with missing='wrong' or 'skip'.",
        )  # fmt: skip
    return GresResult(config, _columns(num_targets, shared, predicted, target, heads, answered, config))


_MISSING, _SCORED, _WRONG_SIZE, _NO_VERDICT = 0, 1, 2, 3


_BLOCK = 1024  # pairs at hand at a time


def _count_pixels(pairs, config: GresConfig, log: ProblemLog) -> tuple[np.ndarray, np.ndarray, list]:
    """Per pair: number of targets, |both|, |answer|, |truth|, state, int64 (n, 5); the head's verdicts, bool (n,)."""
    tables = [np.zeros((0, 5), dtype=np.int64)]
    heads: list[bool] = []
    keys: list[Any] = []
    graded = (pair for pair in pairs if pair[0] is not None)
    while block := list(islice(graded, _BLOCK)):
        tables.append(_count_block(block, [_state(*pair, config, log) for pair in block]))
        heads += [answer is not None and bool(answer.no_target) for _, answer in block]
        keys += [truth.key for truth, _ in block]
    return np.concatenate(tables), np.array(heads, dtype=bool), keys


def _state(truth: MaskTruth, answer: MaskAnswer | None, config: GresConfig, log: ProblemLog) -> int:
    if answer is None:
        return _MISSING
    size, found = truth.size or (truth.mask or answer.mask)["size"], answer.mask["size"]
    if tuple(found) != tuple(size):
        log.add("wrong-mask-size", f"expression {truth.key}", "its mask has another size", expected=size, found=found)
        return _WRONG_SIZE
    if config.no_target == "head" and answer.no_target is None:
        log.add("no-verdict", f"expression {truth.key}", "does not say whether there is a target", expected="pred_no_target")
        return _NO_VERDICT
    return _SCORED


def _count_block(block: list[tuple[MaskTruth, MaskAnswer | None]], states: list[int]) -> np.ndarray:
    """The rows of :func:`_count_pixels` for some pairs, int64 (n, 5)."""
    from pycocotools import mask as coco  # the reader of masks has made sure that it is there

    merge = coco.merge
    # the sentences of a ref share its mask, which is counted once
    targets = {id(truth.mask): truth.mask for truth, _ in block if truth.mask is not None}
    place = {key: i for i, key in enumerate(targets, 1)}
    scored = [i for i, state in enumerate(states) if state == _SCORED]
    answers = [_compressed(block[i][1].mask) for i in scored]
    shared = [(i, merge([mask, wanted], True)) for i, mask in zip(scored, answers) if (wanted := block[i][0].mask) is not None]
    table = np.zeros((len(block), 5), dtype=np.int64)
    table[:, 0] = [truth.num_targets for truth, _ in block]
    table[[i for i, _ in shared], 1] = _areas([mask for _, mask in shared])
    table[scored, 2] = _areas(answers)
    table[:, 3] = np.append(0, _areas(list(targets.values())))[[place.get(id(truth.mask), 0) for truth, _ in block]]
    table[:, 4] = states
    return table


def _compressed(mask: RLE) -> RLE:
    return mask if isinstance(mask["counts"], str | bytes) else masks.compress(mask, *mask["size"])


def _areas(rles: list[RLE]) -> np.ndarray:
    """Pixels of masks, int64 (n,); many at a time, which pycocotools does faster, but not beyond its limit of 255."""
    from pycocotools import mask as coco

    parts = [coco.area(rles[i : i + 240]) for i in range(0, len(rles), 240)]
    return np.concatenate([np.zeros(0, dtype=np.int64), *parts])


def _refuse_if_all(state: np.ndarray, config: GresConfig) -> None:
    given = state[state != _MISSING]
    if len(given) and (given == _WRONG_SIZE).all():
        other = "original-size" if config.size == "480" else "official"
        raise DataError(
            "no answer has a mask of the size that is compared", expected="480x480" if config.size == "480" else "image size",
            found="other sizes throughout", advice=f"Score masks of the other size with protocol='{other}'.",
        )  # fmt: skip
    if len(given) and (given == _NO_VERDICT).all():
        raise DataError(
            "no answer says whether there is a target", expected="pred_no_target true or false", found="none",
            advice="Score models without such a head with protocol='paper' (and min_pixels=50).",
        )  # fmt: skip


def _columns(num_targets, shared, predicted, target, heads, answered, config: GresConfig) -> GresColumns:
    """Applies the protocol's rules to the raw pixel counts."""
    empty = num_targets == 0
    if config.no_target == "head":
        says_none = heads & answered
    else:
        cleared = predicted < config.min_pixels
        if config.no_target == "head-clears-mask":
            cleared = cleared | heads
        predicted = np.where(cleared, 0, predicted)
        shared = np.where(cleared, 0, shared)
        says_none = (predicted == 0) & answered
    union = predicted + target - shared
    # the authors keep the union with the uncleared mask when the head wrongly says "no target"
    intersection = np.where(says_none | empty, 0, shared)
    union = np.where(empty & says_none, 0, union)
    with np.errstate(invalid="ignore", divide="ignore"):
        iou = np.where(union > 0, intersection / union, 0.0)
    iou = np.where(empty, says_none.astype(float), iou)
    return GresColumns(num_targets, intersection, union, iou, says_none, predicted, target, answered)

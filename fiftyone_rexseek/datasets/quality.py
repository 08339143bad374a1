"""Checks for referring data: what looks wrong with which example. They name, they never delete.

Everything is decided from the examples; no image is opened. The published files do hold such cases ("b;ack"), and
whether one matters is for a person to say.
"""

from __future__ import annotations

import re
import unicodedata
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .. import masks
from ..errors import ConfigError, DataError
from ..geometry import pairwise_iou
from ..referring import ReferringExample, Target

#: Kind of problem -> what it means, in the order in which kinds are listed.
CHECKS = {
    "empty-expression": "the expression is empty or nothing of it can be seen",
    "non-letter-in-word": "a word has something in the middle that is neither letter, apostrophe nor hyphen",
    "conflicting-targets": "the same expression has other targets elsewhere in the same image",
    "no-target-conflict": "an expression without target has one elsewhere in the same image",
    "target-outside-image": "a target's box reaches beyond the image",
    "mask-box-mismatch": "a target's mask is broken, empty or elsewhere than its box",
    "image-in-two-splits": "the image is in more than one split",
}

_LETTER = r"[^\W\d_]"
# what may stand between two letters of one word: apostrophes, hyphens (also typographic), marks of abbreviation
_INSIDE = re.compile(rf"(?<={_LETTER})[^\s](?<!{_LETTER})(?<!['’ʼ`´‐‑–—/&+-])(?={_LETTER})")
_ABBREVIATION = re.compile(rf"\b(?:{_LETTER}\.)+{_LETTER}\b\.?")


@dataclass(frozen=True)
class QualityConfig:
    """What counts as a problem.

    Attributes:
        checks: which kinds to look for
        outside_pixels: how far a box may reach beyond the image
        box_pixels, box_iou: a mask's tight box disagrees with the box when some side is more than ``box_pixels``
            away *and* the two boxes have a smaller IoU than ``box_iou``
    """

    checks: Sequence[str] = field(default_factory=lambda: tuple(CHECKS))
    outside_pixels: float = 1.0
    box_pixels: float = 3.0
    box_iou: float = 0.8

    def __post_init__(self):
        unknown = [c for c in self.checks if c not in CHECKS]
        if unknown:
            raise ConfigError("unknown check", expected=", ".join(CHECKS), found=", ".join(map(str, unknown)))


def _is_visible(text: str) -> bool:
    """Whether there is anything but white space and marks without width, such as the byte order mark."""
    return any(c.isprintable() and not c.isspace() for c in text)


def normalised(expression: str) -> str:
    """The expression as compared with others: case, outer punctuation and the amount of white space do not matter.

    Example::

        >>> normalised("  The  RED dog. ")
        'the red dog'
    """
    return " ".join(unicodedata.normalize("NFC", expression).casefold().split()).strip(" .,;:!?")


def non_letters_in_words(expression: str) -> list[str]:
    """Words with something foreign in the middle.

    Example::

        >>> non_letters_in_words("the b;ack t-shirt, it's the 2nd man in the U.S. w/o h4t")
        ['b;ack', 'h4t']
    """
    text = _ABBREVIATION.sub(" ", unicodedata.normalize("NFC", expression))
    # marks that have no composed form belong to the letter before them
    text = "".join(c for c in text if not unicodedata.combining(c))
    return [word for word in text.split() if _INSIDE.search(word)]


def check_examples(
    examples: Iterable[ReferringExample],
    config: QualityConfig | None = None,
    image_key: Callable[[ReferringExample], Hashable] | None = None,
) -> list[tuple[str, ...]]:
    """Kinds of problems of each example, in the order of :data:`CHECKS`; empty for those without.

    Args:
        examples: one pass is made; only text and ids are kept
        image_key: what makes two images the same, by default their ``image_id`` (give a content hash to find copies)

    Example::

        >>> examples = [ReferringExample(7, i, text, "a.jpg", split="val") for i, text in enumerate(["the dog", " "])]
        >>> check_examples(examples)
        [(), ('empty-expression',)]
    """
    config = config or QualityConfig()
    image_key = image_key or (lambda e: e.image_id)
    found: list[set[str]] = []
    groups: dict[tuple, list[tuple[int, frozenset]]] = {}
    splits: dict[Hashable, set[str]] = {}
    images: list[Hashable] = []
    targets = _TargetChecks(config)
    for i, e in enumerate(examples):
        kinds: set[str] = set()
        if not _is_visible(e.expression):
            kinds.add("empty-expression")
        else:
            if non_letters_in_words(e.expression):
                kinds.add("non-letter-in-word")
            key = (image_key(e), normalised(e.expression))
            groups.setdefault(key, []).append((i, frozenset(map(_identity, e.targets))))
        for target in e.targets:
            kinds |= targets(target, e.width, e.height)
        image = image_key(e)
        images.append(image)
        if e.split is not None:
            splits.setdefault(image, set()).add(e.split)
        found.append(kinds)
    _compare(groups, found)
    for kinds, image in zip(found, images):
        if len(splits.get(image, ())) > 1:
            kinds.add("image-in-two-splits")
    wanted = [c for c in CHECKS if c in config.checks]
    return [tuple(c for c in wanted if c in kinds) for kinds in found]


def _identity(target: Target) -> Any:
    return target.object_id if target.object_id is not None else target.box_xyxy


def _compare(groups: dict[tuple, list[tuple[int, frozenset]]], found: list[set[str]]) -> None:
    """Marks examples that ask the same of the same image and have other targets."""
    for members in groups.values():
        if len(members) == 1:
            continue
        sets = {targets for _, targets in members}
        positives = {targets for targets in sets if targets}
        for i, targets in members:
            if targets and len(positives) > 1:
                found[i].add("conflicting-targets")
            elif not targets and positives:
                found[i].add("no-target-conflict")


#: Verdicts kept at a time; the expressions of an image come close together.
_REMEMBERED = 10_000


class _TargetChecks:
    """Checks of one target; the verdict on an object is remembered, since many expressions share it."""

    def __init__(self, config: QualityConfig):
        self.config = config
        self._known: OrderedDict[int, tuple[Target, frozenset[str]]] = OrderedDict()

    def __call__(self, target: Target, width: int | None, height: int | None) -> frozenset[str]:
        known = self._known.get(id(target))
        if known is not None and known[0] is target:
            return known[1]
        kinds = set()
        if width and height and self._outside(target, width, height):
            kinds.add("target-outside-image")
        if target.segmentation and self._mask_elsewhere(target, width, height):
            kinds.add("mask-box-mismatch")
        verdict = frozenset(kinds)
        self._known[id(target)] = (target, verdict)
        if len(self._known) > _REMEMBERED:
            self._known.popitem(last=False)
        return verdict

    def _outside(self, target: Target, width: int, height: int) -> bool:
        slack = self.config.outside_pixels
        x1, y1, x2, y2 = target.box_xyxy
        # written so that NaN is outside
        return not (x1 >= -slack and y1 >= -slack and x2 <= width + slack and y2 <= height + slack)

    def _mask_elsewhere(self, target: Target, width: int | None, height: int | None) -> bool:
        try:
            mask_box = _mask_box(target, width, height)
        except (DataError, TypeError, ValueError, KeyError):
            return True
        if mask_box is None:
            return True
        away = np.abs(mask_box - np.asarray(target.box_xyxy)).max()
        overlap = pairwise_iou([mask_box], [target.box_xyxy])[0, 0]
        return bool(away > self.config.box_pixels and overlap < self.config.box_iou)


def _mask_box(target: Target, width: int | None, height: int | None) -> np.ndarray | None:
    """Tight ``xyxy`` box of a target's mask; None when the mask is empty."""
    segmentation = target.segmentation
    if isinstance(segmentation, Mapping):
        size = segmentation["size"]
        rle = masks.compress(segmentation, height or size[0], width or size[1])
        return masks.mask_box_xyxy(rle) if masks.area(rle) else None
    points = [p.reshape(-1, 2) for p in masks.polygon_parts(segmentation)]
    if not points:
        return None
    corners = np.concatenate(points)
    return np.concatenate([corners.min(axis=0), corners.max(axis=0)])


def counts(kinds: Iterable[Sequence[str]]) -> dict[str, int]:
    """How many examples have each kind of problem, kinds without any left out.

    Example::

        >>> counts([("empty-expression",), (), ("empty-expression", "image-in-two-splits")])
        {'empty-expression': 2, 'image-in-two-splits': 1}
    """
    total = dict.fromkeys(CHECKS, 0)
    for found in kinds:
        for kind in found:
            total[kind] += 1
    return {k: n for k, n in total.items() if n}

"""A selector and a segmenter that answer by rule, for tests of what stands around the models."""

from __future__ import annotations

import numpy as np

from fiftyone_rexseek import masks
from fiftyone_rexseek.referring import Outcome, Selection


class FakeSelector:
    """Answers by the expression: "all", "first", "none", "garbled", "crash", otherwise by position ("2" = third box).

    Attributes:
        calls: number of expressions in each question of each call
    """

    def __init__(self):
        self.calls: list[list[int]] = []
        self.options: dict = {}

    def select_batch(self, requests, **options):
        self.options = options
        self.calls.append([len(r.expressions) for r in requests])
        return [[self._answer(r, text) for text in r.expressions] for r in requests]

    def _answer(self, request, text):
        boxes = np.asarray(request.boxes_xyxy, dtype=float).reshape(-1, 4)
        if text == "crash":
            raise RuntimeError("CUDA out of memory")
        if text == "garbled":
            return Selection(text, Outcome.UNPARSED, answer="<obj", error="no closing tag")
        if text == "none" or not len(boxes):
            return Selection.rejected(text, answer="There is no such thing", rejection_score=0.9)
        indices = range(len(boxes)) if text == "all" else [0] if text == "first" else [int(text)]
        indices = tuple(indices)
        return Selection(
            text,
            Outcome.SELECTED,
            boxes[list(indices)],
            0.5 + 0.1 * np.arange(len(indices)),
            indices,
            answer="".join(f"<obj{i}>" for i in indices),
        )


class FakeSegmenter:
    """The left half of the image for "left" (also for "doubt", rejected all the same), nothing for "none", two boxes with masks for "two"."""

    def __init__(self):
        self.calls: list[list[int]] = []

    def segment_batch(self, requests):
        self.calls.append([len(r.expressions) for r in requests])
        return [[self._answer(r.image, text) for text in r.expressions] for r in requests]

    def _answer(self, image, text):
        width, height = image.size
        if text == "crash":
            raise ValueError("bad luck")
        mask = np.zeros((height, width), bool)
        if text == "none":
            return Selection.rejected(text, merged_mask=masks.encode(mask), rejection_score=0.8)
        mask[:, : width // 2] = True
        if text == "doubt":
            return Selection.rejected(text, merged_mask=masks.encode(mask), rejection_score=0.6)
        if text == "two":
            other = np.zeros_like(mask)
            other[2:7, width // 2 + 1 : width // 2 + 6] = True
            parts = (masks.encode(mask), masks.encode(other))
            boxes = np.array([masks.mask_box_xyxy(p) for p in parts])
            return Selection(text, Outcome.SELECTED, boxes, [0.9, 0.7], masks=parts, merged_mask=masks.encode(mask | other))
        return Selection(text, Outcome.SELECTED, merged_mask=masks.encode(mask), rejection_score=0.25)


class FakeProposer:
    """One box in each corner, labelled with the first name."""

    def __init__(self):
        self.asked: list[tuple[str, ...]] = []

    def describe(self):
        return {"source": "fake", "box_threshold": 0.5}

    def propose(self, images, names):
        from fiftyone_rexseek.models.proposals import Proposals

        self.asked += [tuple(n) for n in names]
        found = []
        for image, own in zip(images, names):
            w, h = image.size
            boxes = np.array([[0, 0, w / 2, h / 2], [w / 2, h / 2, w, h]])
            found.append(Proposals(boxes, np.array([0.9, 0.4]), (own[0] if own else "thing",) * 2, dropped=1))
        return found

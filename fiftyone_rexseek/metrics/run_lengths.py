"""Pixels that two masks share, counted on their run lengths for many masks at once, without decoding any.

A COCO run-length encoding is a list of run lengths, background first, in column order; the compressed form packs
them into 6-bit characters. Here a whole batch of strings is unpacked by numpy in one go, and the overlap of foreground
runs is found with one binary search over the batch: exact integers, no 480x480 arrays.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np


@dataclass(frozen=True)
class RunLengths:
    """Run lengths of many masks, end to end.

    Attributes:
        runs: int64 (total runs,), background first in every mask
        offsets: int64 (masks + 1,), where each mask's runs start
        sizes: int64 (masks, 2), height and width; 0, 0 for a mask that could not be read
        errors: one entry per mask, what is wrong with it, or None
    """

    runs: np.ndarray
    offsets: np.ndarray
    sizes: np.ndarray
    errors: list[str | None]

    def __len__(self) -> int:
        return len(self.errors)

    def areas(self) -> np.ndarray:
        """Foreground pixels of each mask, int64 (masks,)."""
        return _sums(np.where(self._is_foreground(), self.runs, 0), self.offsets)

    def _is_foreground(self) -> np.ndarray:
        lengths = np.diff(self.offsets)
        return (np.arange(len(self.runs)) - np.repeat(self.offsets[:-1], lengths)) % 2 == 1

    @classmethod
    def from_rles(cls, rles: Sequence[Mapping[str, Any] | None]) -> RunLengths:
        """Unpacks and checks COCO RLEs (compressed text or bytes, or lists of counts).

        A mask that cannot be read has no runs and an entry in ``errors``; the others are not affected.

        Example::

            >>> from fiftyone_rexseek.masks import encode
            >>> masks = RunLengths.from_rles([encode(np.eye(2, dtype=bool)), {"size": [2, 2], "counts": [1, 1]}])
            >>> masks.areas().tolist(), masks.errors
            ([2, 0], [None, 'runs cover 2 of 4 pixels'])
        """
        n = len(rles)
        sizes = np.zeros((n, 2), dtype=np.int64)
        errors: list[str | None] = [None] * n
        texts: list[bytes] = [b""] * n
        listed: dict[int, np.ndarray] = {}
        for i, rle in enumerate(rles):
            try:
                height, width = rle["size"]
                counts = rle["counts"]
                if type(counts) is str:
                    texts[i] = counts.encode("ascii")
                elif isinstance(counts, bytes):
                    texts[i] = counts
                else:
                    values = np.asarray(counts)
                    if values.ndim != 1 or (len(values) and values.dtype.kind not in "iu"):
                        raise TypeError("counts are neither text nor a list of integers")
                    listed[i] = values.astype(np.int64)
                if not (0 < height <= 1 << 24 and 0 < width <= 1 << 24):
                    raise ValueError(f"size is {height}x{width}")
                sizes[i] = height, width
            except (TypeError, KeyError, ValueError, OverflowError) as e:  # includes text that is not ASCII
                errors[i] = "is no RLE" if rle is None else f"is no RLE ({type(e).__name__}: {e})"
                texts[i] = b""
                listed.pop(i, None)
        runs, offsets = _unpack(texts, errors)
        if listed:
            parts = np.split(runs, offsets[1:-1])
            for i, values in listed.items():
                parts[i] = values
            runs, offsets = np.concatenate(parts), _offsets([len(p) for p in parts])
        return cls(runs, offsets, sizes, errors)._checked()

    def _checked(self) -> RunLengths:
        covered = _sums(self.runs, self.offsets)
        lowest = np.zeros(len(self), dtype=np.int64)
        if len(self.runs):
            np.minimum.at(lowest, np.repeat(np.arange(len(self)), np.diff(self.offsets)), self.runs)
        expected = self.sizes.prod(axis=1)
        bad = (covered != expected) | (lowest < 0)
        keep = np.ones(len(self), dtype=bool)
        errors = list(self.errors)
        for i in np.flatnonzero(bad | np.array([e is not None for e in errors], dtype=bool)):
            keep[i] = False
            if errors[i] is None:
                errors[i] = "has a run of negative length" if lowest[i] < 0 else f"runs cover {covered[i]} of {expected[i]} pixels"
        if keep.all():
            return self
        lengths = np.diff(self.offsets)
        runs = self.runs[np.repeat(keep, lengths)]
        return RunLengths(runs, _offsets(np.where(keep, lengths, 0)), np.where(keep[:, None], self.sizes, 0), errors)


def _offsets(lengths) -> np.ndarray:
    return np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]).astype(np.int64)


def _sums(values: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    total = np.concatenate([[0], np.cumsum(values, dtype=np.int64)])
    return total[offsets[1:]] - total[offsets[:-1]]


def _unpack(texts: list[bytes], errors: list[str | None]) -> tuple[np.ndarray, np.ndarray]:
    """Compressed strings to runs and offsets. Strings that are not the code are emptied and named in ``errors``."""
    data = np.frombuffer(b"".join(texts), dtype=np.uint8).astype(np.int64) - 48
    lengths = np.fromiter(map(len, texts), dtype=np.int64, count=len(texts))
    owner = np.repeat(np.arange(len(texts)), lengths)
    foreign = (data < 0) | (data > 63)
    ends = np.cumsum(lengths)
    has_text = lengths > 0
    cut = np.zeros(len(texts), dtype=bool)
    cut[has_text] = (data[ends[has_text] - 1] & 0x20) != 0
    # a number of more than 7 characters is longer than any image
    last = np.flatnonzero((data & 0x20) == 0)
    starts = np.concatenate([[0], last[:-1] + 1]) if len(last) else np.zeros(0, dtype=np.int64)
    too_long = last - starts > 6
    bad = cut.copy()
    bad[owner[foreign]] = True
    bad[owner[last[too_long]]] = True
    if bad.any():
        for i in np.flatnonzero(bad):
            if errors[i] is None:
                errors[i] = "ends in the middle of a number" if cut[i] else "holds characters that are not part of the code"
        return _unpack([b"" if b else t for t, b in zip(texts, bad)], errors)
    if not len(last):
        return np.zeros(0, dtype=np.int64), np.zeros(len(texts) + 1, dtype=np.int64)
    shift = 5 * (np.arange(len(data)) - np.repeat(starts, last - starts + 1))
    values = np.add.reduceat((data & 0x1F) << shift, starts)
    negative = (data[last] & 0x10) != 0
    values[negative] -= np.int64(1) << (shift[last[negative]] + 5)
    offsets = _offsets(np.bincount(owner[last], minlength=len(texts)))
    return _undo_differences(values, offsets), offsets


def _undo_differences(values: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """From the fourth on, a stored number is the difference to the run two before: a running sum per parity."""
    position = np.arange(len(values)) - np.repeat(offsets[:-1], np.diff(offsets))
    # the first run stands alone; then two chains per mask, that of runs 1, 3, 5 ... and that of runs 2, 4, 6 ...
    chained = np.where(position == 0, 0, values)
    result = values.copy()
    for parity in (1, 0):
        total = np.cumsum(np.where(position % 2 == parity, chained, 0))
        before = np.concatenate([[0], total])[offsets[:-1]]
        runs = total - np.repeat(before, np.diff(offsets))
        mine = (position % 2 == parity) & (position > 0)
        result[mine] = runs[mine]
    return result


def intersections(a: RunLengths, b: RunLengths) -> np.ndarray:
    """Pixels in both masks, pair by pair, int64 (masks,).

    Masks of a pair that differ in size, or that could not be read, give 0.

    Example::

        >>> a = RunLengths.from_rles([{"size": [1, 6], "counts": [1, 4, 1]}])
        >>> intersections(a, RunLengths.from_rles([{"size": [1, 6], "counts": [0, 2, 1, 3]}])).tolist()
        [3]
    """
    if len(a) != len(b):
        raise ValueError(f"{len(a)} masks against {len(b)}")
    comparable = (a.sizes == b.sizes).all(axis=1) & (a.sizes[:, 0] > 0)
    pixels = a.sizes.prod(axis=1) * comparable
    # every pair gets a stretch of its own on one long line of pixels
    base = _offsets(pixels)[:-1]
    start_a, end_a, pair = _foreground(a, base, comparable)
    start_b, end_b, _ = _foreground(b, base, comparable)
    if not len(start_a) or not len(start_b):
        return np.zeros(len(a), dtype=np.int64)
    covered = np.concatenate([[0], np.cumsum(end_b - start_b)])

    def below(x: np.ndarray) -> np.ndarray:
        """Foreground pixels of b before position x."""
        k = np.searchsorted(start_b, x, side="right")
        previous = np.maximum(k - 1, 0)
        return covered[k] - np.where(k > 0, np.maximum(end_b[previous] - x, 0), 0)

    shared = below(end_a) - below(start_a)
    return np.bincount(pair, weights=shared, minlength=len(a)).astype(np.int64)


def _foreground(m: RunLengths, base: np.ndarray, use: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Start and end of every foreground run on the common line, and which mask it is of; empty runs left out."""
    lengths = np.diff(m.offsets)
    owner = np.repeat(np.arange(len(m)), lengths)
    total = np.cumsum(m.runs)
    before = np.concatenate([[0], total])[m.offsets[:-1]]
    end = total - before[owner] + base[owner]
    mine = m._is_foreground() & (m.runs > 0) & use[owner]
    return (end - m.runs)[mine], end[mine], owner[mine]


def union_areas(a: RunLengths, b: RunLengths, shared: np.ndarray) -> np.ndarray:
    """Pixels in either mask, given :func:`intersections`."""
    return a.areas() + b.areas() - shared


def concatenated(masks: Sequence[RunLengths]) -> RunLengths:
    """Several batches as one."""
    lengths = [np.diff(m.offsets) for m in masks]
    return RunLengths(
        np.concatenate([m.runs for m in masks]),
        _offsets(np.concatenate(lengths)),
        np.concatenate([m.sizes for m in masks]),
        list(chain.from_iterable(m.errors for m in masks)),
    )

"""Prediction files for GREC and GRES: a JSON list, one row per expression.

GREC: ``{"ref_id", "sent_id", "split", "boxes_xyxy", "scores", "count_class"}``, boxes in absolute pixels, all boxes of
the model with their scores (the output rule is applied when scoring); ``count_class`` only where the model counts.
GRES: ``{"ref_id", "sent_id", "split", "segmentation", "pred_no_target"}``, one merged mask as a COCO RLE;
``pred_no_target`` only where the model has a head for it. Instead of ``ref_id`` and ``sent_id`` a row may carry
``index``, the position of its expression in loading order, checked against ``image_id`` and ``raw`` where it has them.
A row whose ``outcome`` is ``failed`` or ``unparsed`` holds no answer.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import DataError, ProblemLog
from ..referring import Outcome, ReferringExample
from .coco import read_json
from .files import complete_file
from .rle_check import rle_problems

_BATCH = 256
#: Outcomes of rows that hold no answer.
NO_ANSWER = (Outcome.FAILED.value, Outcome.UNPARSED.value)


@dataclass(frozen=True, slots=True)
class BoxRow:
    """A GREC answer: ``boxes_xyxy`` float64 (n, 4), ``scores`` float64 (n,), ``count_class`` 0...6 or None."""

    boxes_xyxy: np.ndarray
    scores: np.ndarray
    count_class: int | None


@dataclass(frozen=True, slots=True)
class MaskRow:
    """A GRES answer: ``mask`` a sound compressed RLE, ``no_target`` what the head says, None without a head."""

    mask: Mapping[str, Any]
    no_target: bool | None


@dataclass(frozen=True)
class PredictionRows:
    """The rows of a file, findable by expression.

    Attributes:
        path: the file
        by_key: (split or None, ref_id, sent_id) to row
        by_index: (split or None, index) to row
        splits: the splits that the rows name
    """

    path: str
    by_key: Mapping[tuple, Mapping[str, Any]]
    by_index: Mapping[tuple, Mapping[str, Any]]
    splits: frozenset[str]

    def __len__(self) -> int:
        return len(self.by_key) + len(self.by_index)

    def example(self) -> str:
        """The first row's key in words, with types to be seen: the ids may be text where numbers are expected."""
        for names, keys in (("ref_id, sent_id", self.by_key), ("index", self.by_index)):
            for _, *key in keys:
                return f", the first with {names} = {', '.join(map(repr, key))}"
        return ""

    def find(self, example: ReferringExample, position: int, log: ProblemLog) -> Mapping[str, Any] | None:
        """The row of an example, the ``position``-th of its split; None when there is none."""
        if self.by_key:
            key = (example.extra.get("ref_id"), sentence_id(example))
            row = self.by_key.get((example.split, *key), self.by_key.get((None, *key)))
            if row is not None:
                return row
        row = self.by_index.get((example.split, position), self.by_index.get((None, position)))
        if row is None:
            return None
        for name, value in (("image_id", example.image_id), ("raw", example.expression)):
            if name in row and row[name] != value:
                log.add(
                    "other-order", f"{self.path}: index {position}", f"is about another {name}", expected=value,
                    found=row[name], advice="Write the rows in loading order, or give ref_id and sent_id.",
                )  # fmt: skip
                return None
        return row


def sentence_id(example: ReferringExample) -> Any:
    """The file's ``sent_id`` of an expression; None where it has none."""
    sentence = example.extra.get("sentence")
    return sentence.get("sent_id") if isinstance(sentence, Mapping) else None


def load_rows(path: str | Path, problems: ProblemLog | None = None) -> PredictionRows:
    """Reads a prediction file and indexes its rows; their content is checked when they are used.

    Kinds of problems: ``bad-row`` (no object, or no key), ``duplicate-row`` (the first is kept).
    """
    log = problems if problems is not None else ProblemLog()
    rows = read_json(path)
    if not isinstance(rows, list):
        raise DataError("is not a prediction file", where=path, expected="a list of rows", found=type(rows).__name__)
    by_key: dict[tuple, Mapping] = {}
    by_index: dict[tuple, Mapping] = {}
    splits = set()
    for i, row in enumerate(rows):
        where = f"{path}: row {i}"
        try:
            split = row.get("split")
            if "ref_id" in row and "sent_id" in row:
                index, key = by_key, (split, row["ref_id"], row["sent_id"])
            else:
                index, key = by_index, (split, row["index"])
            duplicate = key in index
        except (AttributeError, KeyError, TypeError):
            log.add("bad-row", where, "cannot be assigned", expected="an object with ref_id and sent_id, or index", found=row)
            continue
        if duplicate:
            log.add("duplicate-row", where, "answers an expression again; the first answer counts", found=key)
            continue
        index[key] = row
        if isinstance(split, str):
            splits.add(split)
    if rows and not by_key and not by_index:
        raise DataError("holds no row that could be assigned", where=path, expected="ref_id and sent_id, or index")
    return PredictionRows(str(path), by_key, by_index, frozenset(splits))


def pair_rows(
    examples: Iterable[ReferringExample], rows: PredictionRows, problems: ProblemLog | None = None
) -> Iterator[tuple[ReferringExample, Mapping[str, Any] | None]]:
    """Streams examples with their rows; None (logged ``missing-prediction``) where the file has none.

    At the end, rows of the splits seen that belong to no expression are logged (``unknown-expression``).

    Raises:
        DataError: at the end, when no row belonged to any of the examples: another split or another data set
    """
    log = problems if problems is not None else ProblemLog()
    positions: dict[Any, int] = {}
    found = total = 0
    for example in examples:
        position = positions.get(example.split, 0)
        positions[example.split] = position + 1
        total += 1
        row = rows.find(example, position, log)
        if row is None:
            log.add("missing-prediction", f"expression {example.expression_id}", "has no row in the prediction file")
        else:
            found += 1
        yield example, row
    if total and not found:
        raise DataError(
            "no row belongs to these expressions", where=rows.path, expected=f"splits {', '.join(map(str, positions))}",
            found=f"{len(rows)} rows of {', '.join(sorted(rows.splits)) or 'no stated split'}{rows.example()}",
            advice="Is this a prediction file of another split or data set?",
        )  # fmt: skip
    in_file = sum(k[0] is None or k[0] in positions for k in (*rows.by_key, *rows.by_index))
    if in_file > found:
        log.add(
            "unknown-expression", rows.path, f"{in_file - found} of its rows belong to no expression of the split",
            expected=total, found=in_file,
        )  # fmt: skip


def box_rows(pairs: Iterable[tuple[ReferringExample, Any]], problems: ProblemLog) -> Iterator[BoxRow | None]:
    """Checks GREC rows: None where there is no usable answer.

    Kinds of problems: ``no-answer`` (the row says so), ``bad-boxes``, ``bad-scores`` (missing, NaN, or not one per
    box), ``bad-count``; ``inverted-box`` (the answer stays, the box matches nothing).

    Raises:
        DataError: at the end, when there were rows and not one could be used: most likely a file of another task
    """
    checked = ((row, None if row is None else _box_row(row, _where(example), problems)) for example, row in pairs)
    return _some_usable(checked, problems, "boxes_xyxy and scores")


def _where(example: ReferringExample) -> str:
    return f"expression {example.expression_id}"


def _some_usable(checked: Iterable[tuple[Any, Any]], problems: ProblemLog, expected: str) -> Iterator[Any]:
    """Passes on what was found in each row, until the rows end and none of them was any good."""
    rows = usable = 0
    for row, found in checked:
        rows += row is not None and row.get("outcome") not in NO_ANSWER
        usable += found is not None
        yield found
    if rows and not usable:
        bad = next((p for p in problems if p.kind.startswith("bad-")), None)
        raise DataError(
            f"none of the {rows} answers can be used", expected=f"rows with {expected}", found=bad,
            advice="Is this a prediction file of another task?",
        )  # fmt: skip


def _box_row(row: Mapping[str, Any], where: str, log: ProblemLog) -> BoxRow | None:
    if row.get("outcome") in NO_ANSWER:
        log.add("no-answer", where, "holds no answer", found=row["outcome"])
        return None
    try:
        boxes = np.array(row["boxes_xyxy"], dtype=np.float64)
        if boxes.size == 0:
            boxes = boxes.reshape(0, 4)
        if boxes.ndim != 2 or boxes.shape[1] != 4 or not np.isfinite(boxes).all():
            raise ValueError("not n times four finite numbers")
    except (KeyError, TypeError, ValueError, OverflowError) as e:
        log.add("bad-boxes", where, "has unusable boxes", expected="boxes_xyxy, finite [x1, y1, x2, y2]", found=repr(e))
        return None
    try:
        scores = np.array(row["scores"], dtype=np.float64)
        if scores.shape != (len(boxes),):
            raise ValueError(f"{scores.size} scores for {len(boxes)} boxes")
        if not np.isfinite(scores).all():
            raise ValueError("a score is NaN or infinite")
    except (KeyError, TypeError, ValueError, OverflowError) as e:
        log.add("bad-scores", where, "has unusable scores", expected="one finite number per box", found=repr(e))
        return None
    count = row.get("count_class")
    if count is not None and (type(count) is not int or not 0 <= count <= 6):
        log.add("bad-count", where, "has an impossible count_class", expected="0...6", found=count)
        return None
    inverted = (boxes[:, 2:] < boxes[:, :2]).any(axis=1)
    if inverted.any():
        log.add(
            "inverted-box", where, "has boxes with x2 < x1 or y2 < y1; they match nothing",
            expected="[x1, y1, x2, y2] in pixels", found=boxes[inverted][0].tolist(),
        )  # fmt: skip
    return BoxRow(boxes, scores, count)


def mask_rows(pairs: Iterable[tuple[ReferringExample, Any]], problems: ProblemLog) -> Iterator[MaskRow | None]:
    """Checks GRES rows, a few hundred at a time: None where there is no usable answer.

    Kinds of problems: ``no-answer``, ``bad-mask``, ``bad-verdict`` (``pred_no_target`` is not true or false).

    Raises:
        DataError: as :func:`box_rows`
    """
    return _some_usable(_mask_rows(pairs, problems), problems, "segmentation, a COCO RLE")


def _mask_rows(pairs: Iterable[tuple[ReferringExample, Any]], log: ProblemLog) -> Iterator[tuple[Any, MaskRow | None]]:
    pairs = iter(pairs)
    while batch := list(islice(pairs, _BATCH)):
        rles = [None if row is None else row.get("segmentation") for _, row in batch]
        for (example, row), rle, wrong in zip(batch, rles, rle_problems(rles)):
            yield row, None if row is None else _mask_row(row, rle, wrong, _where(example), log)


def _mask_row(row: Mapping[str, Any], rle: Any, wrong: str | None, where: str, log: ProblemLog) -> MaskRow | None:
    if row.get("outcome") in NO_ANSWER:
        log.add("no-answer", where, "holds no answer", found=row["outcome"])
        return None
    if wrong is not None:
        log.add("bad-mask", where, f"its mask {wrong}", expected="segmentation, a COCO RLE")
        return None
    verdict = row.get("pred_no_target")
    if verdict not in (True, False, None):
        log.add("bad-verdict", where, "has an unusable pred_no_target", expected="true or false", found=verdict)
        return None
    return MaskRow(rle, None if verdict is None else bool(verdict))


def write_rows(path: str | Path, rows: Iterable[Mapping[str, Any]]) -> int:
    """Writes rows as a prediction file and returns how many; the file appears only when all of them are written."""
    count = 0
    with complete_file(path) as f:
        f.write("[")
        for row in rows:
            f.write((",\n" if count else "\n") + json.dumps(row))
            count += 1
        f.write("\n]\n")
    return count

"""Official prediction files: ``{"id": ..., "extracted_predictions": ...}``, one JSON object per line.

``extracted_predictions`` is a list of boxes ``[x1, y1, x2, y2]`` or points ``[x, y]`` in absolute pixels; ``[]`` and
``[[]]`` both mean that nobody matches. The official evaluation script also writes ``[[]]`` when it could not read the
model's answer, so in a file without further fields the two cannot be told apart and count as rejections. A row may say
more: a field ``outcome`` with ``unparsed`` or ``failed`` is honoured here (the official script does not look at it).
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..errors import DataError, ProblemLog
from ..referring import Outcome
from .humanref import SourceFields
from .jsonl import read_jsonl, write_jsonl

_NAN = float("nan")
_NO_BOX = [_NAN] * 4
_NO_POINT = [_NAN] * 2


@dataclass(frozen=True, slots=True)
class Prediction:
    """One row of a prediction file, exactly as it was written.

    Attributes:
        id: key of the annotation it answers (text and number are different keys, as for the official script)
        entries: the list ``extracted_predictions``, untouched
        extra: further fields of the row and the order of its keys
        where: "file:line"
    """

    id: Any
    entries: Sequence[Sequence[float]]
    extra: Mapping[str, Any] = field(default_factory=dict)
    where: str = ""

    @property
    def is_empty(self) -> bool:
        """Whether nothing was chosen: ``[]``, ``[[]]`` or only empty lists."""
        return not any(self.entries)

    @property
    def form(self) -> str:
        """"[]", "[[]]", "boxes" or "points", by the first entry that is not empty.

        Example::

            >>> [Prediction(1, e).form for e in ([], [[]], [[1, 2]], [[1, 2, 3, 4]])]
            ['[]', '[[]]', 'points', 'boxes']
        """
        for entry in self.entries:
            if entry:
                return "points" if len(entry) == 2 else "boxes"
        return "[[]]" if self.entries else "[]"

    @property
    def outcome(self) -> Outcome:
        """What became of the question; ``unparsed`` and ``failed`` only where the row says so."""
        stated = self.extra.get("outcome")
        if stated in (Outcome.UNPARSED.value, Outcome.FAILED.value):
            return Outcome(stated)
        return Outcome.REJECTED if self.is_empty else Outcome.SELECTED

    def boxes_xyxy(self) -> list[list[float]]:
        """The boxes, four numbers each; an entry that is no box (a point, say) is NaN and can never match."""
        return [entry[:4] if _numbers(entry, 4) else _NO_BOX for entry in self.entries if entry]

    def points_xy(self) -> list[list[float]]:
        """The points; of a longer entry the first two numbers, as in the official script; NaN if unreadable."""
        return [entry[:2] if _numbers(entry, 2) else _NO_POINT for entry in self.entries if entry]

    def scores(self) -> list[float] | None:
        """The fifth number of every box, where each has one, else None."""
        boxes = [entry for entry in self.entries if entry]
        return [float(b[4]) for b in boxes] if boxes and all(_numbers(b, 5) for b in boxes) else None


def _numbers(entry: Any, least: int) -> bool:
    if len(entry) < least:
        return False
    return all(type(v) is float or (type(v) is int and -(2**63) <= v < 2**63) for v in entry[:least])


def read_predictions(path: str | os.PathLike, log: ProblemLog | None = None) -> Iterator[Prediction]:
    """Yields the rows of a prediction file in their order, reading it line by line; repeated ids come repeatedly.

    Rows that cannot be read are reported and left out: ``malformed-json``, ``missing-field`` (no id), ``bad-field``
    (``extracted_predictions`` is not a list of lists). Entries that are neither a box nor a point are reported as
    ``bad-prediction`` and kept: they count as predictions that match nothing. Boxes with NaN or inverted sides are
    reported as ``nan-box`` and ``inverted-box`` and kept too.

    Raises:
        DataError: missing, empty or wrong file, or any problem with a strict log
    """
    log = ProblemLog() if log is None else log
    rows = good = 0
    for where, row in read_jsonl(path, log, what="prediction file"):
        rows += 1
        if rows == 1 and "extracted_predictions" not in row and "answer_boxes" in row:
            raise DataError(
                "these are annotations, not predictions",
                where=path,
                expected="rows with id and extracted_predictions",
                found=", ".join(row),
                advice="Are the two paths swapped?",
            )
        prediction = _prediction(row, where, log)
        if prediction is not None:
            good += 1
            yield prediction
    if not good:
        raise DataError(
            f"none of the {rows} rows is a prediction",
            where=path,
            expected='rows like {"id": ..., "extracted_predictions": [[x1, y1, x2, y2], ...]}',
            found=next(iter(log), "nothing"),
        )


def _prediction(row: dict[str, Any], where: str, log: ProblemLog) -> Prediction | None:
    absent = [f for f in ("id", "extracted_predictions") if f not in row]
    if absent:
        log.add("missing-field", where, f"row has no {', '.join(absent)}", "id, extracted_predictions", ", ".join(row))
        return None
    key, entries = row["id"], row["extracted_predictions"]
    if not isinstance(key, str | int) or isinstance(key, bool):
        log.add("bad-field", where, "id is neither text nor a whole number", "the id of an annotation", repr(key))
        return None
    if not isinstance(entries, list) or not all(isinstance(e, list) for e in entries):
        log.add(
            "bad-field",
            where,
            "extracted_predictions is not a list of boxes or points",
            "[[x1, y1, x2, y2], ...], [[x, y], ...], [] or [[]]",
            entries,
        )
        return None
    problem = _entries_problem(entries)
    if problem is not None:
        kind, what, found = problem
        log.add(kind, where, what, "[x1, y1, x2, y2] or [x, y] in pixels", found)
    extra = SourceFields((k, v) for k, v in row.items() if k not in ("id", "extracted_predictions"))
    extra.order = tuple(row)
    return Prediction(key, entries, extra, where)


def _entries_problem(entries: list[list[Any]]) -> tuple[str, str, Any] | None:
    for i, entry in enumerate(entries):
        if not entry:
            if len(entries) > 1:
                return "bad-prediction", f"prediction [{i}] is empty among others; it is not counted", entries
            continue
        if len(entry) not in (2, 4, 5) or not _numbers(entry, min(len(entry), 4)):
            return "bad-prediction", f"prediction [{i}] is neither a box nor a point; it matches nothing", entry
        if any(v != v for v in entry):
            return "nan-box", f"prediction [{i}] has a coordinate that is NaN; it matches nothing", entry
        if len(entry) > 2 and (entry[2] < entry[0] or entry[3] < entry[1]):
            return "inverted-box", f"prediction [{i}] has x2 < x1 or y2 < y1; it matches nothing", entry
    return None


@dataclass
class PredictionSet:
    """The predictions of one model by id; of repeated ids the last row counts, as for the official script.

    Attributes:
        by_id: id to row
        first: the first row of the file, which decides between boxes and points
        num_repeated: rows that a later row with the same id replaced
        name: file name, for messages
    """

    by_id: dict[Any, Prediction] = field(default_factory=dict)
    first: Prediction | None = None
    num_repeated: int = 0
    name: str = "predictions"

    @classmethod
    def from_rows(cls, rows: Iterable[Prediction], name: str = "predictions") -> PredictionSet:
        """Collects rows in their order."""
        collected = cls(name=name)
        for row in rows:
            if collected.first is None:
                collected.first = row
            collected.num_repeated += row.id in collected.by_id
            collected.by_id[row.id] = row
        return collected

    @classmethod
    def load(cls, path: str | os.PathLike, log: ProblemLog | None = None) -> PredictionSet:
        """Reads a prediction file; see :func:`read_predictions`."""
        return cls.from_rows(read_predictions(path, log), str(path))

    def __len__(self) -> int:
        return len(self.by_id)

    def uses_points(self, positive_ids: Iterable[Any] | None = None) -> bool:
        """Whether the file holds points: decided by its first prediction, as in the official script.

        Where the first row is ``[]`` or ``[[]]`` (the former crashes the official script), the first row that chose
        something decides; ``positive_ids`` restricts the search to the samples whose boxes are scored.

        Example::

            >>> PredictionSet.from_rows([Prediction("a", []), Prediction("b", [[3, 4]])]).uses_points()
            True
        """
        if self.first is not None and self.first.entries and self.first.entries[0]:
            return len(self.first.entries[0]) == 2
        wanted = None if positive_ids is None else set(positive_ids)
        for key, row in self.by_id.items():
            if not row.is_empty and (wanted is None or key in wanted):
                return row.form == "points"
        return False

    def check_ids(self, ids: Iterable[Any], log: ProblemLog | None = None) -> int:
        """Compares with the ids of the annotations and returns how many of these have no prediction.

        Unknown ids are reported as ``unknown-id``; the official script ignores them.

        Raises:
            DataError: when fewer than one id in a hundred is known: the file belongs to another split or data set
        """
        known = set(ids)
        unknown = [row for key, row in self.by_id.items() if key not in known]
        matched = len(self.by_id) - len(unknown)
        if self.by_id and known and matched * 100 < min(len(self.by_id), len(known)):
            raise DataError(
                f"only {matched} of {len(self.by_id)} predictions belong to these annotations",
                where=self.name,
                expected=f"ids like {', '.join(repr(i) for i in list(known)[:3])}",
                found=f"ids like {', '.join(repr(r.id) for r in unknown[:3])}",
                advice=_id_advice(known, self.by_id),
            )
        for row in unknown:
            if log is not None:
                log.add("unknown-id", row.where or self.name, "no annotation has this id", "a known id", repr(row.id))
        return len(known) - matched

    def doubt(self) -> str | None:
        """Says so when many boxes look like ``[x, y, width, height]``, else None."""
        boxes = [e for row in self.by_id.values() for e in row.entries if len(e) >= 4 and _numbers(e, 4)]
        odd = sum(1 for b in boxes if b[2] < b[0] or b[3] < b[1])
        if len(boxes) >= 10 and odd * 4 > len(boxes):
            return (
                f"{self.name}: in {odd} of {len(boxes)} boxes x2 < x1 or y2 < y1, as if they were [x, y, width, height]; "
                "[x1, y1, x2, y2] is expected"
            )
        return None


def _id_advice(known: set[Any], predicted: Mapping[Any, Any]) -> str:
    if {str(i) for i in known} & {str(i) for i in predicted}:
        return "The ids differ only in type (text and number); write them as in the annotations"
    return "Is this the prediction file of another split or data set?"


def prediction_row(prediction: Prediction) -> dict[str, Any]:
    """The row of a prediction with its further fields, keys in the order in which they were read."""
    values = {"id": prediction.id, "extracted_predictions": prediction.entries, **prediction.extra}
    order = getattr(prediction.extra, "order", ()) or tuple(values)
    return {k: values[k] for k in (*order, *(k for k in values if k not in order)) if k in values}


def write_predictions(path: str | os.PathLike, predictions: Iterable[Prediction]) -> int:
    """Writes a prediction file and returns how many rows; the file appears only when it is complete."""
    return write_jsonl(path, (prediction_row(p) for p in predictions))

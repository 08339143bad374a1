"""What :func:`apply_expressions` is asked to do, checked before any weights load."""

from __future__ import annotations

import keyword
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import fiftyone as fo
import numpy as np

from ..errors import ConfigError
from ..models.answering import ImageJob, Item
from . import presentation
from .schema import add_sample_fields
from .selections import (
    ANSWER,
    COUNT,
    COUNT_DESCRIPTION,
    ERROR,
    OUTCOME,
    REJECTED_MASK,
    REJECTION_SCORE,
    CandidateLabels,
)

#: What is read of each candidate.
COLUMNS = ("bounding_box", "label", "confidence", "box_xyxy")
NO_CANDIDATES = "the sample's candidates are None: they have not been looked for"


@dataclass(frozen=True)
class Expressions:
    """Where the expressions come from.

    Attributes:
        field: a field of texts, or of lists of texts; None when ``texts`` are given
        texts: the same texts for every sample
        several: samples have several expressions each
    """

    field: str | None = None
    texts: tuple[str, ...] = ()
    several: bool = False


def resolve_expressions(samples, expressions: str | Sequence[str]) -> Expressions:
    """Text, list of texts, or field.

    A list is always texts. A string with a space in it is a text; any other string is the name of a field, which must exist
    - a misspelt field is never asked as if it were an expression; for a one-word expression, give a list. ``"field:NAME"`` is
    always a field.
    """
    if not isinstance(expressions, str):
        texts = tuple(expressions)
        bad = [t for t in texts if not isinstance(t, str) or not t.strip()]
        if not texts or bad:
            raise ConfigError("expressions are no texts", expected="at least one text, none of them blank", found=list(texts))
        return Expressions(texts=texts, several=len(texts) > 1)
    name = expressions.removeprefix("field:")
    if samples.has_sample_field(name):
        kind = samples.get_field(name)
        if isinstance(kind, fo.StringField):
            return Expressions(field=name)
        if isinstance(kind, fo.ListField):
            return Expressions(field=name, several=True)
        raise ConfigError(f"field {name!r} holds no expressions", expected="texts or lists of texts", found=type(kind).__name__)
    if name == expressions and len(expressions.split()) > 1:
        return Expressions(texts=(expressions,))
    raise ConfigError(
        f"there is no field {name!r}",
        where=samples._dataset.name,
        expected=f"one of {_fields_of(samples, fo.StringField)}",
        advice=f"To ask the one word {name!r} as an expression, give the list [{name!r}]",
    )


def _fields_of(samples, kind) -> list[str]:
    schema = samples.get_field_schema()
    return [n for n, f in schema.items() if isinstance(f, kind) and n != "filepath"]


def check_detections_field(samples, name: str) -> None:
    """Raises :class:`ConfigError` unless the field exists and holds Detections."""
    kind = samples.get_field(name) if samples.has_sample_field(name) else None
    if getattr(kind, "document_type", None) is fo.Detections:
        return
    schema = samples.get_field_schema()
    known = [n for n, f in schema.items() if getattr(f, "document_type", None) is fo.Detections]
    what = f"there is no field {name!r}" if kind is None else f"field {name!r} holds no boxes"
    raise ConfigError(
        what,
        where=samples._dataset.name,
        expected=f"a field of Detections, one of {known}",
        found=None if kind is None else type(kind).__name__,
        advice="Or give a proposer, such as GroundingDino.from_pretrained(), instead of a field",
    )


def check_output(samples, label_field: str, overwrite: bool) -> None:
    """Refuses names that cannot be fields, and fields that hold something other than earlier answers."""
    if not isinstance(label_field, str) or not label_field.isidentifier() or keyword.iskeyword(label_field) or label_field[0] == "_":
        raise ConfigError(f"{label_field!r} is no field name of letters, digits and underscores that begins with a letter")
    if not samples.has_sample_field(label_field):
        return
    if getattr(samples.get_field(label_field), "document_type", None) is not fo.Detections:
        raise ConfigError(
            f"field {label_field!r} is not for boxes", expected="a new field, or Detections of an earlier run", found="another type"
        )
    if overwrite or samples.has_sample_field(label_field + OUTCOME):
        return
    if samples._dataset.exists(label_field).limit(1).count():
        raise ConfigError(
            f"field {label_field!r} holds labels that no model answered",
            expected="a new field, or one with answers of an earlier run",
            advice="Choose another label_field, or overwrite, which replaces these labels",
        )


def declare_output(dataset, label_field: str, several: bool, draws: bool = False) -> None:
    """Adds the fields of a prediction, so that they are in the sidebar from the start."""
    labels = {"ftype": fo.EmbeddedDocumentField, "embedded_doc_type": fo.Detections}
    text, texts = {"ftype": fo.StringField}, {"ftype": fo.ListField, "subfield": fo.StringField}
    detections = f"{label_field}.detections"
    fields = {label_field: labels, f"{detections}.candidate": {"ftype": fo.IntField}}
    fields[f"{detections}.box_xyxy"] = {"ftype": fo.ListField, "subfield": fo.FloatField}
    fields |= {label_field + suffix: text for suffix in (OUTCOME, ERROR)}
    if several:
        fields[f"{detections}.expression"] = text
        fields |= {label_field + suffix: texts for suffix in ("_expressions", "_outcomes", "_answers")}
    else:
        fields |= {label_field + ANSWER: text, label_field + REJECTION_SCORE: {"ftype": fo.FloatField}}
    if draws and not several:
        fields[label_field + REJECTED_MASK] = labels
    add_sample_fields(dataset, fields)
    presentation.present_prediction(dataset, label_field)


def declare_count(dataset, label_field: str) -> None:
    """Adds the field of a model's count, beside the prediction's other companions; only models that count need it."""
    if not dataset.has_sample_field(label_field + COUNT):
        dataset.add_sample_field(label_field + COUNT, fo.IntField, description=COUNT_DESCRIPTION)
        presentation.present_prediction(dataset, label_field)


@dataclass(frozen=True)
class Row:
    """One sample to be asked about."""

    id: str
    expressions: tuple[str | None, ...]


def rows_by_image(samples, expressions: Expressions, skip: set[str]) -> dict[str, list[Row]]:
    """The samples to ask, by file, in order of first appearance; light columns only."""
    columns = ["id", "filepath", *([expressions.field] if expressions.field else [])]
    ids, paths, *texts = samples.values(columns)
    texts = texts[0] if texts else [expressions.texts] * len(ids)
    rows: dict[str, list[Row]] = {}
    for id_, path, text in zip(ids, paths, texts):
        if id_ not in skip:
            own = tuple(text or (None,)) if isinstance(text, list | tuple) else (text,)
            rows.setdefault(path, []).append(Row(id_, own))
    return rows


class CandidateReader:
    """Reads candidates (and, for recall, ground truth) of a few samples at a time: memory stays flat."""

    def __init__(self, samples, candidates_field: str | None, gt_field: str | None):
        self.samples, self.candidates_field, self.gt_field = samples, candidates_field, gt_field

    def __call__(self, ids: Sequence[str]) -> tuple[dict[str, dict], dict[str, list]]:
        """(stored candidate columns by sample, relative ground truth boxes by sample)."""
        view = self.samples._dataset.select(ids)
        columns = ["id"]
        if self.candidates_field:
            # a view may show fewer candidates than are stored; indices count those that are seen
            view = self.samples.select(ids)
            path = f"{self.candidates_field}.detections"
            columns += [f"{path}.{name}" for name in COLUMNS]
        if self.gt_field:
            columns.append(f"{self.gt_field}.detections.bounding_box")
        if len(columns) == 1:
            return {}, {}
        found = list(view.values(columns))
        ids = found.pop(0)
        truth = dict(zip(ids, found.pop())) if self.gt_field else {}
        if not self.candidates_field:
            return {}, truth
        return {id_: dict(zip(COLUMNS, row)) for id_, *row in zip(ids, *found)}, truth


def as_item(row: Row, stored: dict | None, names: Sequence[str]) -> tuple[Item, CandidateLabels | None]:
    """One sample's question, and what is known of its candidates beside their pixels."""
    if stored is None:
        return Item(row.id, row.expressions, names=tuple(names)), None
    if stored["bounding_box"] is None:
        # None is "nobody has looked for candidates", which no answer can be based on; empty is "there are none"
        return Item(row.id, row.expressions, problem=NO_CANDIDATES), None
    boxes = stored["bounding_box"]
    good = [b if isinstance(b, list) and len(b) == 4 else [np.nan] * 4 for b in boxes]
    exact = [e if e is not None and len(e) == 4 else [np.nan] * 4 for e in stored["box_xyxy"] or [None] * len(boxes)]
    scores = [np.nan if s is None else s for s in stored["confidence"] or [None] * len(boxes)]
    item = Item(
        row.id,
        row.expressions,
        boxes=np.asarray(good, dtype=np.float64).reshape(-1, 4),
        relative=True,
        exact_xyxy=np.asarray(exact, dtype=np.float64).reshape(-1, 4),
        scores=np.asarray(scores, dtype=np.float64),
    )
    return item, CandidateLabels(boxes, stored["label"] or [])


def job_batches(
    rows: dict[str, list[Row]], reader: CandidateReader, names_of, batch_size: int, needs_stored: bool
) -> Iterator[tuple[list[ImageJob], dict[str, CandidateLabels | None], dict[str, list]]]:
    """Batches of ``batch_size`` images with what their samples need from the database."""
    paths = list(rows)
    for start in range(0, len(paths), batch_size):
        batch = paths[start : start + batch_size]
        own = [row for path in batch for row in rows[path]]
        stored, truth = reader([row.id for row in own])
        names = names_of(own)
        jobs, labels = [], {}
        for path in batch:
            items = []
            for row in rows[path]:
                columns = stored.get(row.id) if needs_stored else None
                item, labels[row.id] = as_item(row, columns, names.get(row.id, ()))
                items.append(item)
            jobs.append(ImageJob(path, tuple(items)))
        yield jobs, labels, truth

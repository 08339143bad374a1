"""Official prediction files and prediction fields: import, export, exact round trip.

A file of boxes becomes a ``Detections`` field P, a file of points a ``Keypoints`` field; beside it ``P_outcome``
(selected, rejected, unparsed, failed) and ``P_answer`` (the model's text, where the row has ``raw_response`` or ``answer``).
What such a field cannot hold - further columns of the row, ``[[]]`` as against ``[]``, entries that are no box - is kept
in ``P_row``, so that exporting writes what was read.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import fiftyone as fo
from fiftyone.core.collections import SampleCollection

from ..datasets.humanref import SourceFields
from ..datasets.predictions import Prediction, PredictionSet, write_predictions
from ..errors import ConfigError, ProblemLog
from ..referring import Outcome
from . import documents, presentation
from .columns import AGREEMENT, label_list_path
from .examples import box_of
from .fields import flat_images
from .selections import COMPANIONS, ROW

#: Row fields that hold the model's text, first one wins.
ANSWER_FIELDS = ("raw_response", "answer", "response")
LABEL = "referred"
_RESERVED = {"ground_truth", "candidates", "id", "filepath", "tags", "metadata", "created_at", "last_modified_at"}


@dataclass(frozen=True)
class PredictionReport:
    """What importing a prediction file did.

    Attributes:
        field: the field written
        is_point: whether it holds points
        matched: samples that got an answer
        missing: samples without a row; their field stays None ("not predicted")
        problems: counts by kind
    """

    field: str
    is_point: bool
    matched: int
    missing: int
    problems: Mapping[str, int] = field(default_factory=dict)

    def summary(self) -> str:
        """One line for a person."""
        text = f"{self.matched} samples have {'points' if self.is_point else 'boxes'} in {self.field!r}"
        if self.missing:
            text += f", {self.missing} have no prediction"
        if self.problems:
            text += " (" + ", ".join(f"{kind}: {n}" for kind, n in self.problems.items()) + ")"
        return text


def import_predictions(
    samples: SampleCollection,
    path: str | os.PathLike,
    pred_field: str,
    *,
    id_field: str = "expression_id",
    strict: bool = False,
    overwrite: bool = False,
    log: ProblemLog | None = None,
    progress: bool | Callable | None = None,
) -> PredictionReport:
    """Reads an official prediction file into a field.

    Args:
        samples: the dataset or view that holds the annotations
        path: JSONL with ``id`` and ``extracted_predictions``
        pred_field: name of the field to write
        id_field: the samples' field that the file's ids refer to
        strict: raise at the first problem, before anything is written
        overwrite: whether a field of that name may be replaced
        log: collects problems; its strictness takes the place of ``strict``
        progress: as everywhere in FiftyOne

    Raises:
        DataError: unreadable file, a file of another split, or any problem in strict mode
        ConfigError: the field exists, or there is no ``id_field``
    """
    samples = flat_images(samples)
    dataset = samples._dataset
    check_new_field(dataset, pred_field, overwrite)
    if not dataset.has_sample_field(id_field):
        raise ConfigError(f"there is no field {id_field!r}", where=dataset.name, advice="Import annotations first.")
    log = log if log is not None else ProblemLog(strict=strict)
    predictions = PredictionSet.load(path, log)
    ids = samples.values(id_field)
    missing = predictions.check_ids(ids, log)
    doubt = predictions.doubt()
    if doubt is not None:
        log.add("xywh-boxes", predictions.name, doubt)
    if predictions.num_repeated:
        log.add("repeated-id", predictions.name, f"{predictions.num_repeated} ids come again; the last row counts")
    is_point = predictions.uses_points()
    # before an earlier field is deleted: boxes are stored relative to the image
    unsized = _without_size(samples, predictions, id_field, log, progress)
    if dataset.has_sample_field(pred_field):
        delete_prediction_field(dataset, pred_field)
    declare_prediction_fields(dataset, pred_field, fo.Keypoints if is_point else fo.Detections, row=True)

    matched = 0
    paths = [id_field, "metadata.width", "metadata.height", "candidates.detections.box_xyxy"]
    total = len(ids)
    with fo.ProgressBar(total=total, progress=progress, quiet=progress is False) as bar, _updates(dataset) as updater:
        for document in bar(documents.read_documents(samples, paths)):
            row = predictions.by_id.get(document.get(id_field))
            if row is None or row.id in unsized:
                continue
            metadata = document.get("metadata") or {}
            size = metadata.get("width"), metadata.get("height")
            candidates = (document.get("candidates") or {}).get("detections") or ()
            updater.set(str(document["_id"]), _fields(row, pred_field, is_point, size, candidates))
            matched += 1
    presentation.present_prediction(dataset, pred_field)
    dataset.info["referring_predictions"] = {
        **dataset.info.get("referring_predictions", {}),
        pred_field: {"file": str(path), "matched": matched, "missing": missing, "problems": dict(log.counts)},
    }
    dataset.save()
    return PredictionReport(pred_field, is_point, matched, missing, dict(log.counts))


def _without_size(samples, predictions: PredictionSet, id_field: str, log: ProblemLog, progress) -> set:
    """Ids of rows whose image has no size and cannot be read either; sizes that are not known yet are read."""
    samples.exists("metadata.width", False).compute_metadata(skip_failures=True, progress=progress)
    sizes = dict(zip(*samples.values([id_field, "metadata.width"])))
    matched = [id_ for id_ in sizes if id_ in predictions.by_id]
    unsized = {id_ for id_ in matched if not sizes[id_]}
    if unsized and len(unsized) == len(matched):
        raise ConfigError(
            "no image of these predictions can be read", where=samples._dataset.name, expected="images, for their sizes",
            advice="Are the files where the samples say?",
        )  # fmt: skip
    for id_ in sorted(unsized, key=str):
        log.add("no-image-size", f"id {id_!r}", "the image has no size and cannot be read")
    return unsized


def _updates(dataset):
    return documents.SampleUpdater(dataset)


def _fields(row: Prediction, pred_field: str, is_point: bool, size, candidates) -> dict[str, Any]:
    width, height = size
    if not width or not height:
        raise ConfigError(
            "a sample has no image size", where=f"id {row.id!r}", advice="Call compute_metadata() on the dataset."
        )
    usual = _usual_entries(row, is_point)
    if is_point:
        labels = [
            documents.keypoint_document(LABEL, (x / width, y / height), point_xy=[x, y])
            for x, y in _points(row)
        ]
        value = documents.keypoints_document(labels)
    else:
        index = {tuple(c.get("box_xyxy") or ()): k for k, c in reversed(list(enumerate(candidates)))}
        scores = row.scores()
        labels = []
        for k, box in enumerate(_boxes(row)):
            x1, y1, x2, y2 = box
            relative = (x1 / width, y1 / height, (x2 - x1) / width, (y2 - y1) / height)
            attributes: dict[str, Any] = {"box_xyxy": list(box)}
            if scores is not None:
                attributes["confidence"] = scores[k]
            if tuple(box) in index:
                attributes["candidate"] = index[tuple(box)]
            labels.append(documents.detection_document(LABEL, relative, **attributes))
        value = documents.detections_document(labels)
    answer = next((row.extra[name] for name in ANSWER_FIELDS if isinstance(row.extra.get(name), str)), None)
    kept: dict[str, Any] = {}
    if not usual:
        kept["extracted_predictions"] = row.entries
    if row.extra or list(getattr(row.extra, "order", ())) != ["id", "extracted_predictions"]:
        kept["extra"] = dict(row.extra)
        kept["order"] = list(getattr(row.extra, "order", ()))
    return {
        pred_field: value,
        f"{pred_field}_outcome": row.outcome.value,
        f"{pred_field}_answer": answer,
        pred_field + ROW: json.dumps(kept) if kept else None,
    }


def _boxes(row: Prediction) -> list[list[float]]:
    """The row's boxes; one that is no box becomes an empty one, which the App can hold and nothing matches."""
    return [box if _is_drawable(box) else [0.0] * 4 for box in row.boxes_xyxy()]


def _points(row: Prediction) -> list[list[float]]:
    """The row's points; one that is no point lies outside the image."""
    return [point if _is_drawable(point) else [-1.0] * 2 for point in row.points_xy()]


#: Beyond any image, in pixels; relative coordinates of larger numbers lose digits, or overflow.
_LARGEST = 1e6


def _is_drawable(entry: list[float]) -> bool:
    return all(abs(v) <= _LARGEST for v in entry)  # not true of NaN


def _usual_entries(row: Prediction, is_point: bool) -> bool:
    """Whether the labels alone can give back the row's entries."""
    length = 2 if is_point else 4
    return all(len(e) == length and all(type(v) in (int, float) for v in e) and _is_drawable(e) for e in row.entries)


def export_predictions(
    samples: SampleCollection,
    path: str | os.PathLike,
    pred_field: str,
    *,
    id_field: str = "expression_id",
) -> int:
    """Writes a prediction field as an official prediction file and returns the number of rows.

    Samples that were not predicted get no row. Rows that came from a file are written as they were, unless the
    labels have been changed since. Answers that could not be read or obtained are written as ``[[]]`` with their outcome
    in a field ``outcome``.
    """
    samples = flat_images(samples)
    label_list_path(samples, pred_field, (fo.Detections, fo.Keypoints))
    if samples.get_field(id_field) is None:
        raise ConfigError(f"there is no field {id_field!r}", expected="the field with the ids of the annotations")
    companions = [f"{pred_field}_{suffix}" for suffix in ("row", "outcome", "answer")]
    wanted = [id_field, "metadata", pred_field, *(c for c in companions if samples.has_field(c))]
    rows = (_row(d, pred_field, id_field) for d in documents.read_documents(samples, wanted) if d.get(pred_field))
    return write_predictions(path, rows)


def _row(document: Mapping[str, Any], pred_field: str, id_field: str) -> Prediction:
    metadata = document.get("metadata") or {}
    size = metadata.get("width"), metadata.get("height")
    key = document.get(id_field)
    if key is None or None in size:
        raise ConfigError("a sample has no id or no image size", where=f"sample {document['_id']}")
    is_point = document[pred_field]["_cls"] == "Keypoints"
    labels = document[pred_field].get("keypoints" if is_point else "detections") or ()
    entries = [(_point_of if is_point else box_of)(label, *size) for label in labels]
    kept = json.loads(document.get(pred_field + ROW) or "{}")
    extra = SourceFields(kept.get("extra") or {})
    extra.order = tuple(kept.get("order") or ())
    stored = kept.get("extracted_predictions")
    if stored is not None and (_points if is_point else _boxes)(Prediction(key, stored)) == entries:
        entries = stored
    outcome = document.get(f"{pred_field}_outcome")
    if outcome in (Outcome.UNPARSED.value, Outcome.FAILED.value):
        entries = stored if stored is not None else [[]]
        extra.setdefault("outcome", outcome)
    answer = document.get(f"{pred_field}_answer")
    if answer is not None and not any(name in extra for name in ANSWER_FIELDS):
        extra["raw_response"] = answer
    return Prediction(key, entries, extra)


def _point_of(label: Mapping[str, Any], width: int, height: int) -> list[float]:
    x, y = label["points"][0]
    source = label.get("point_xy")
    if source is not None and all(abs(s - v * n) <= AGREEMENT * n for s, v, n in zip(source, (x, y), (width, height))):
        return list(source)
    return [x * width, y * height]


def check_new_field(dataset: fo.Dataset, name: str, overwrite: bool) -> None:
    """Raises :class:`ConfigError` for a field name that cannot be used or is taken."""
    if not name or not name.isidentifier() or name.startswith("_"):
        raise ConfigError("not a field name", expected="letters, digits and _, not starting with a digit", found=name)
    if name in _RESERVED:
        raise ConfigError(f"{name!r} is not a place for predictions", advice="Choose another field name.")
    if dataset.has_sample_field(name) and not overwrite:
        raise ConfigError(f"field {name!r} exists", where=dataset.name, advice="Choose another name, or overwrite=True.")


def declare_prediction_fields(
    dataset: fo.Dataset, name: str, label_type: type = fo.Detections, *, row: bool = False
) -> None:
    """Declares a prediction field and its companions where they are absent."""
    if not dataset.has_sample_field(name):
        description = "Predicted targets; empty = nobody matches, None = not predicted"
        embedded = dict(embedded_doc_type=label_type, description=description)
        dataset.add_sample_field(name, fo.EmbeddedDocumentField, **embedded)
    companions = {
        "outcome": "selected, rejected, unparsed or failed",
        "answer": "The model's own text",
    }
    if row:
        companions["row"] = "What the prediction file said beyond boxes, as JSON; exports give it back"
    for suffix, description in companions.items():
        if not dataset.has_sample_field(f"{name}_{suffix}"):
            dataset.add_sample_field(f"{name}_{suffix}", fo.StringField, description=description)


def delete_prediction_field(dataset: fo.Dataset, name: str) -> None:
    """Deletes a prediction field with its companions."""
    names = [name, *(name + suffix for suffix in COMPANIONS)]
    dataset.delete_sample_fields([n for n in names if dataset.has_sample_field(n)])

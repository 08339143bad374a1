"""GREC and GRES prediction files as prediction fields.

GREC: every box of the file becomes a detection with its ``confidence``; ``P_count`` holds the model's own count. GRES: the
merged mask becomes one detection, drawn at the size of the image, or none where the head says that there is no target;
``P_row`` keeps the row as it was, and is what gets scored.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import fiftyone as fo
from fiftyone.core.collections import SampleCollection

from .. import masks
from ..datasets.grefcoco_predictions import (
    NO_ANSWER,
    BoxRow,
    MaskRow,
    box_rows,
    load_rows,
    mask_rows,
    pair_rows,
    sentence_id,
    write_rows,
)
from ..errors import ConfigError, ProblemLog
from ..metrics.gres import GresConfig
from ..metrics.target_masks import resize
from ..referring import Outcome, ReferringExample
from . import documents, presentation
from .columns import Columns, read_columns
from .evaluation_grefcoco import box_answers, mask_answers
from .fields import flat_images
from .importers import unpack_extra
from .predictions import (
    LABEL,
    PredictionReport,
    check_new_field,
    declare_prediction_fields,
    delete_prediction_field,
)
from .selections import COUNT, COUNT_DESCRIPTION, ROW

TASKS = ("grec", "gres")
_EXPECTED = "samples imported from gRefCOCO or RefCOCO"


def import_grefcoco_predictions(
    samples: SampleCollection,
    path: str | os.PathLike,
    pred_field: str,
    task: str,
    *,
    min_score: float | None = None,
    strict: bool = False,
    overwrite: bool = False,
    log: ProblemLog | None = None,
    progress: bool | Callable | None = None,
) -> PredictionReport:
    """Reads a GREC or GRES prediction file into a field.

    Args:
        samples: gRefCOCO or RefCOCO samples, for example one split of them
        path: JSON list, see :mod:`~fiftyone_rexseek.datasets.grefcoco_predictions`
        pred_field: name of the field to write
        task: "grec" (boxes) or "gres" (masks)
        min_score: leave out boxes below it; all are imported by default, since AP needs them
        strict: raise at the first problem
        overwrite: whether a field of that name may be replaced
        log: collects problems; its strictness takes the place of ``strict``
        progress: as everywhere in FiftyOne

    Raises:
        DataError: unreadable file, a file of another split, or any problem in strict mode
        ConfigError: the field exists, or the samples are of another benchmark
    """
    _check_task(task)
    samples = flat_images(samples)
    dataset = samples._dataset
    check_new_field(dataset, pred_field, overwrite)
    _check_benchmark(samples)
    log = log if log is not None else ProblemLog(strict=strict)
    rows = load_rows(path, log)
    pairs = pair_rows(_examples(samples), rows, log)
    updates: dict[str, dict[str, Any]] = {}
    examples = list(pairs)  # refuses a file of another split before anything is written
    checked = (box_rows if task == "grec" else mask_rows)(examples, log)
    missing = sum(row is None for _, row in examples)
    total = len(examples)
    with fo.ProgressBar(total=total, progress=progress, quiet=progress is False) as bar:
        # the checked rows come first: at their end they refuse a file of another task
        for found, (example, row) in bar(zip(checked, examples)):
            if row is None:
                continue
            if found is None:
                stated = row.get("outcome")
                updates[example.extra["sample_id"]] = {
                    pred_field: documents.detections_document([]),
                    f"{pred_field}_outcome": stated if stated in NO_ANSWER else Outcome.UNPARSED.value,
                }
            elif isinstance(found, BoxRow):
                updates[example.extra["sample_id"]] = _box_fields(found, example, pred_field, min_score)
            else:
                updates[example.extra["sample_id"]] = _mask_fields(found, example, pred_field)
    if dataset.has_sample_field(pred_field):
        delete_prediction_field(dataset, pred_field)
    declare_prediction_fields(dataset, pred_field, fo.Detections, row=task == "gres")
    if task == "grec" and not dataset.has_sample_field(pred_field + COUNT):
        dataset.add_sample_field(pred_field + COUNT, fo.IntField, description=COUNT_DESCRIPTION)
    with documents.SampleUpdater(dataset) as updater:
        for sample_id, values in updates.items():
            updater.set(sample_id, values)
    presentation.present_prediction(dataset, pred_field)
    dataset.info["referring_predictions"] = {
        **dataset.info.get("referring_predictions", {}),
        pred_field: {"file": str(path), "matched": len(updates), "missing": missing, "problems": dict(log.counts)},
    }
    dataset.save()
    return PredictionReport(pred_field, False, len(updates), missing, dict(log.counts))


def export_grefcoco_predictions(
    samples: SampleCollection, path: str | os.PathLike, pred_field: str, task: str, *, original_size: bool = False
) -> int:
    """Writes a prediction field as a GREC or GRES prediction file and returns the number of rows.

    Samples that were not predicted get no row; answers that could not be read or obtained get one that says so. A box
    without a confidence is written with score 1, as it is evaluated. Masks that came from a file are written as they were.

    Args:
        samples: gRefCOCO or RefCOCO samples
        path: JSON list to write, see :mod:`~fiftyone_rexseek.datasets.grefcoco_predictions`
        pred_field: a Detections field; for "gres" its boxes need masks
        task: "grec" (boxes) or "gres" (masks)
        original_size: write the labels' masks at the size of their image, for the protocol "original-size"; by default
            at 480x480, where the authors compare them

    Raises:
        ConfigError: the samples are of another benchmark, or the field is of another kind
        DataError: a predicted box has no mask, or a sample no image size
    """
    _check_task(task)
    samples = flat_images(samples)
    _check_benchmark(samples)
    columns = read_columns(
        samples, pred_field, pred_field, candidates_field=None, value_fields=[pred_field + ROW, pred_field + COUNT],
        segmentations=task == "gres",
    )  # fmt: skip
    if task == "grec":
        answers = _box_values(columns, columns.values[pred_field + COUNT])
    else:
        answers = _mask_values(columns, GresConfig(size="original" if original_size else "480"))
    return write_rows(path, _written_rows(_examples(samples), answers, columns.outcomes))


def _written_rows(examples: Iterable[ReferringExample], answers: Iterable[dict | None], outcomes: Iterable[str | None]):
    for example, answer, outcome in zip(examples, answers, outcomes):
        if answer is None and outcome not in NO_ANSWER:
            continue
        key = {"ref_id": example.extra.get("ref_id"), "sent_id": sentence_id(example)}
        if None in key.values():
            raise ConfigError(
                "a sample has no ref_id and sent_id", where=f"sample {example.extra['sample_id']}", expected=_EXPECTED
            )
        split = {} if example.split is None else {"split": example.split}
        yield key | split | ({"outcome": outcome} if answer is None else answer)


def _box_values(columns: Columns, counts: list[int | None]) -> Iterator[dict[str, Any] | None]:
    for answer in box_answers(columns, counts):
        if answer is None:
            yield None
            continue
        count = {} if answer.count_class is None else {"count_class": answer.count_class}
        yield {"boxes_xyxy": answer.boxes_xyxy.tolist(), "scores": answer.scores.tolist()} | count


def _mask_values(columns: Columns, config: GresConfig) -> Iterator[dict[str, Any] | None]:
    for answer in mask_answers(columns, config, ProblemLog(strict=True)):
        if answer is None:
            yield None
            continue
        verdict = {} if answer.no_target is None else {"pred_no_target": answer.no_target}
        yield {"segmentation": _text(answer.mask)} | verdict


def _check_task(task: str) -> None:
    if task not in TASKS:
        raise ConfigError("unknown task", expected=" or ".join(TASKS), found=task)


def _check_benchmark(samples: SampleCollection) -> None:
    if not samples._dataset.has_sample_field("extra"):
        raise ConfigError(
            "these samples have no ref_id and sent_id", where=samples._dataset.name, expected=_EXPECTED
        )


def _examples(samples: SampleCollection) -> Iterator[ReferringExample]:
    """What pairing with rows needs of each sample; ``extra`` also holds the sample's id."""
    paths = ["expression_id", "image_id", "expression", "extra", "import_key", "metadata.width", "metadata.height"]
    for document in documents.read_documents(samples, paths):
        metadata = document.get("metadata") or {}
        key = document.get("import_key") or "//"
        yield ReferringExample(
            image_id=document.get("image_id"),
            expression_id=document.get("expression_id"),
            expression=document.get("expression") or "",
            file_name="",
            width=metadata.get("width"),
            height=metadata.get("height"),
            split=key.split("/")[1] or None,
            extra={**unpack_extra(document.get("extra")), "sample_id": str(document["_id"])},
        )


def _box_fields(row: BoxRow, example: ReferringExample, field: str, min_score: float | None) -> dict[str, Any]:
    width, height = _size(example)
    labels = []
    for (x1, y1, x2, y2), score in zip(row.boxes_xyxy.tolist(), row.scores.tolist()):
        if min_score is not None and score < min_score:
            continue
        relative = (x1 / width, y1 / height, (x2 - x1) / width, (y2 - y1) / height)
        labels.append(documents.detection_document(LABEL, relative, box_xyxy=[x1, y1, x2, y2], confidence=score))
    outcome = Outcome.SELECTED if labels else Outcome.REJECTED
    values = {field: documents.detections_document(labels), f"{field}_outcome": outcome.value}
    if row.count_class is not None:
        values[field + COUNT] = row.count_class
    return values


def _mask_fields(row: MaskRow, example: ReferringExample, field: str) -> dict[str, Any]:
    width, height = _size(example)
    labels = []
    if not row.no_target:
        rle = row.mask if tuple(row.mask["size"]) == (height, width) else resize(row.mask, height, width)
        if masks.area(rle):
            box = masks.mask_box_xyxy(rle).tolist()
            crop = masks.crop_to_box(masks.decode(rle), box)
            x1, y1, x2, y2 = box
            relative = (x1 / width, y1 / height, (x2 - x1) / width, (y2 - y1) / height)
            labels.append(documents.detection_document(LABEL, relative, crop, box_xyxy=box))
    rejected = row.no_target or (row.no_target is None and not labels)
    kept: Mapping[str, Any] = {"segmentation": _text(row.mask), "pred_no_target": row.no_target}
    return {
        field: documents.detections_document(labels),
        f"{field}_outcome": (Outcome.REJECTED if rejected else Outcome.SELECTED).value,
        field + ROW: json.dumps(kept),
    }


def _text(rle: Mapping[str, Any]) -> dict[str, Any]:
    counts = rle["counts"]
    return {"size": list(rle["size"]), "counts": counts.decode("ascii") if isinstance(counts, bytes) else counts}


def _size(example: ReferringExample) -> tuple[int, int]:
    if not example.width or not example.height:
        raise ConfigError(
            "a sample has no image size", where=f"expression {example.expression_id}",
            advice="Call compute_metadata() on the dataset.",
        )  # fmt: skip
    return example.width, example.height

"""Samples back to :class:`ReferringExample`: what every exporter writes from."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from typing import Any

import fiftyone as fo
from fiftyone.core.collections import SampleCollection

from ..datasets.humanref import SourceFields
from ..errors import ConfigError
from ..referring import ReferringExample, Target
from . import documents
from .columns import AGREEMENT, label_list_path, label_rle
from .fields import flat_images
from .importers import unpack_extra

#: Key inside ``extra`` under which the order of a source row's keys is kept, where it is not the usual one.
ROW_KEYS = "row_keys"


def examples_of(
    samples: SampleCollection,
    gt_field: str = "ground_truth",
    candidates_field: str = "candidates",
    expression_field: str = "expression",
) -> Iterator[tuple[ReferringExample, str]]:
    """Yields (example, path of its image) for every sample, streaming.

    Labels give the numbers of their source file where they still have them and nobody has moved them since. Samples
    without an ``expression_id`` get their FiftyOne id, those without an ``image_id`` the name of their file.

    Args:
        samples: a dataset or view of images; a view grouped by a field stands for all its samples
        gt_field: Detections with the targets; a sample where it is None is left out (nothing is known about it)
        candidates_field: Detections to choose from; may be absent
        expression_field: the text
    """
    samples = flat_images(samples)
    label_list_path(samples, gt_field, (fo.Detections,))
    if samples.get_field(expression_field) is None:
        raise ConfigError(f"there is no field {expression_field!r}", advice="Which field holds the expressions?")
    schema = samples.get_field_schema()
    scalars = ("image_id", "expression_id", "domain", "sub_domain", "extra", "import_key")
    names = [n for n in (*scalars, expression_field, gt_field, candidates_field) if n in schema]
    for document in documents.read_documents(samples, ["filepath", "metadata", "tags", *names]):
        if document.get(gt_field) is None:
            continue
        yield _example(document, gt_field, candidates_field, expression_field), document["filepath"]


def _example(document: Mapping[str, Any], gt_field, candidates_field, expression_field) -> ReferringExample:
    metadata = document.get("metadata") or {}
    width, height = metadata.get("width"), metadata.get("height")
    if not width or not height:
        raise ConfigError(
            "a sample has no image size", where=document["filepath"], advice="Call compute_metadata() on the dataset."
        )
    base = os.path.basename(document["filepath"])
    image_id = document.get("image_id")
    # where the id is the file's name in its source (with folders, perhaps), it is the better name
    is_name = isinstance(image_id, str) and document["filepath"].replace(os.sep, "/").endswith("/" + image_id)
    extra = SourceFields(unpack_extra(document.get("extra")))
    extra.order = tuple(extra.pop(ROW_KEYS, ()))
    key = document.get("import_key") or ""
    return ReferringExample(
        image_id=base if image_id is None else image_id,
        expression_id=str(document["_id"]) if document.get("expression_id") is None else document["expression_id"],
        expression=document.get(expression_field) or "",
        file_name=image_id if is_name else base,
        targets=_targets(document.get(gt_field), width, height),
        candidates=_targets(document.get(candidates_field), width, height),
        width=width,
        height=height,
        domain=document.get("domain"),
        sub_domain=document.get("sub_domain"),
        split=(key.split("/")[1] or None) if key.count("/") >= 2 else None,
        extra=extra,
    )


def _targets(labels: Mapping[str, Any] | None, width: int, height: int) -> tuple[Target, ...]:
    return tuple(_target(d, width, height) for d in (labels or {}).get("detections") or ())


def _target(label: Mapping[str, Any], width: int, height: int) -> Target:
    box = box_of(label, width, height)
    segmentation = label.get("segmentation") if box == label.get("box_xyxy") else None
    if segmentation is None:
        segmentation = label_rle(label.get("mask"), label.get("mask_path"), box, width, height)
    return Target(
        tuple(box),
        segmentation,
        label.get("label") or "",
        label.get("object_id"),
        iscrowd=bool(label.get("iscrowd")),
        area=label.get("area") if box == label.get("box_xyxy") else None,
    )


def box_of(label: Mapping[str, Any], width: int, height: int) -> list[float]:
    """Absolute ``xyxy`` of a stored detection: the source's own numbers unless the box has been moved since."""
    x, y, w, h = label["bounding_box"]
    box = [x * width, y * height, (x + w) * width, (y + h) * height]
    source = label.get("box_xyxy")
    size = (width, height, width, height)
    if source is not None and all(abs(a - b) <= AGREEMENT * s for a, b, s in zip(box, source, size)):
        return list(source)
    return box

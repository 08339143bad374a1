"""Reading what a metric needs from FiftyOne as columns: one pass, no sample objects.

Everything is in absolute pixels of the original image, ready for ``metrics/``. Where a label still carries the
numbers of its source file (``box_xyxy``, ``point_xy``, ``segmentation``) and nobody has moved it since, those are used, so
that a score in FiftyOne equals the score of the file.
"""

from __future__ import annotations

import io
import logging
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import fiftyone as fo
import numpy as np
from fiftyone.core.collections import SampleCollection

from .. import geometry, masks
from ..errors import ConfigError, DataError
from ..referring import RLE, Outcome, Segmentation
from . import documents
from .fields import flat_images
from .selections import REJECTED_MASK

logger = logging.getLogger(__name__)

#: How far ``box_xyxy`` may be from ``bounding_box`` (relative to the image) before it counts as outdated.
AGREEMENT = 1e-6


@dataclass
class LabelColumns:
    """The labels of one field, one entry per sample.

    Attributes:
        list_path: ``"<field>.detections"`` or ``"<field>.keypoints"``
        present: False where the field is None ("not predicted")
        ids: label ids
        boxes_xyxy: float64 arrays (n, 4); for keypoints (n, 0)
        points_xy: float64 arrays (n, 2); None for detections
        scores: confidences, None where a label has none
        names: label strings
        iscrowd: flags
        segmentations: RLE or None per label; None altogether unless asked for
        sources: RLE or polygons of the source's file per label, None where it has none or the box was moved; None
            altogether unless masks are asked for
        areas: square pixels as the source states them, None where it does not
    """

    list_path: str
    present: list[bool] = field(default_factory=list)
    ids: list[list[str]] = field(default_factory=list)
    boxes_xyxy: list[np.ndarray] = field(default_factory=list)
    points_xy: list[np.ndarray] | None = None
    scores: list[list[float | None]] = field(default_factory=list)
    names: list[list[str | None]] = field(default_factory=list)
    iscrowd: list[list[bool]] = field(default_factory=list)
    segmentations: list[list[RLE | None]] | None = None
    sources: list[list[Segmentation | None]] | None = None
    areas: list[list[float | None]] = field(default_factory=list)

    @property
    def is_points(self) -> bool:
        return self.points_xy is not None

    @property
    def counts(self) -> np.ndarray:
        """Number of labels per sample, int64."""
        return np.array([len(i) for i in self.ids], dtype=np.int64)


@dataclass
class Columns:
    """What there is to score: one entry per sample in every list.

    Attributes:
        sample_ids: FiftyOne ids
        widths, heights: image sizes in pixels
        gt, pred: labels
        candidates: labels a selector could choose from, or None where the dataset has no such field or no sample has any in it
        answered: False where there is no answer to score (not predicted, unparsed or failed)
        outcomes: the ``<pred>_outcome`` texts, None where absent
        values: further sample fields asked for, by name; None where absent
        rejected_masks: what a segmenter drew on samples where it says that nobody matches; None where nothing is kept
        draws: whether the model drew its answers instead of choosing among candidates
    """

    sample_ids: list[str]
    widths: list[int]
    heights: list[int]
    gt: LabelColumns
    pred: LabelColumns
    candidates: LabelColumns | None
    answered: list[bool]
    outcomes: list[str | None]
    values: dict[str, list[Any]]
    rejected_masks: LabelColumns | None = None
    draws: bool = False

    def __len__(self) -> int:
        return len(self.sample_ids)

    def candidate_boxes(self) -> list[np.ndarray] | None:
        """Boxes a selector could choose from, (n, 4) per sample; the targets' own where a sample's candidates are not known."""
        if self.candidates is None:
            return None
        rows = zip(self.candidates.present, self.candidates.boxes_xyxy, self.gt.boxes_xyxy)
        return [own if present else targets for present, own, targets in rows]

    def choices(self) -> list[np.ndarray] | None:
        """:meth:`candidate_boxes` of a model that had to choose among them, else None."""
        return None if self.draws else self.candidate_boxes()


def read_columns(
    samples: SampleCollection,
    pred_field: str,
    gt_field: str,
    *,
    candidates_field: str | None = "candidates",
    value_fields: Sequence[str] = ("image_id", "expression_id", "expression", "domain", "sub_domain", "num_targets"),
    segmentations: bool = False,
) -> Columns:
    """Reads the columns of a dataset or view.

    Args:
        samples: a dataset or view of images; a view grouped by a field stands for all its samples
        pred_field: a Detections or Keypoints field
        gt_field: a Detections field
        candidates_field: a Detections field; ignored where the dataset has none
        value_fields: further sample fields; those that do not exist are columns of None, as are a ``domain`` and a
            ``sub_domain`` that are no text
        segmentations: whether to read masks, as RLE

    Raises:
        ConfigError: for fields that do not exist or are of another type, and for what is not made of image samples
        DataError: for samples without metadata (image size)
    """
    samples = flat_images(samples)
    gt_path = label_list_path(samples, gt_field, (fo.Detections,))
    pred_path = label_list_path(samples, pred_field, (fo.Detections, fo.Keypoints))
    schema = samples.get_field_schema()
    if candidates_field is not None and candidates_field not in schema:
        candidates_field = None
    outcome_field = f"{pred_field}_outcome" if f"{pred_field}_outcome" in schema else None
    value_fields = list(value_fields)
    # on people's own datasets these may be anything
    foreign = {f for f in ("domain", "sub_domain") if f in schema and not isinstance(schema[f], fo.StringField)}

    paths = ["metadata.width", "metadata.height", *(f for f in value_fields if f in schema and f not in foreign)]
    paths += [outcome_field] if outcome_field else []
    paths += _label_paths(gt_path, segmentations) + _label_paths(pred_path, segmentations)
    fields = [(gt_field, gt_path, segmentations), (pred_field, pred_path, segmentations)]
    if candidates_field is not None and candidates_field not in (gt_field, pred_field):
        candidates_path = label_list_path(samples, candidates_field, (fo.Detections,))
        paths += _label_paths(candidates_path, False)
        fields.append((candidates_field, candidates_path, False))
    rejected_field = f"{pred_field}{REJECTED_MASK}"
    draws = rejected_field in schema
    if segmentations and draws:
        rejected_path = label_list_path(samples, rejected_field, (fo.Detections,))
        paths += _label_paths(rejected_path, True)
        fields.append((rejected_field, rejected_path, True))
    readers = {name: _LabelReader(path, with_masks) for name, path, with_masks in fields}

    sample_ids, widths, heights, outcomes, without_size = [], [], [], [], []
    values: dict[str, list[Any]] = {name: [] for name in value_fields}
    for document in documents.read_documents(samples, paths):
        metadata = document.get("metadata") or {}
        width, height = metadata.get("width"), metadata.get("height")
        sample_ids.append(str(document["_id"]))
        if not width or not height:
            without_size.append(sample_ids[-1])
            continue
        widths.append(width)
        heights.append(height)
        outcomes.append(document.get(outcome_field) if outcome_field else None)
        for name in value_fields:
            values[name].append(document.get(name))
        for name, reader in readers.items():
            reader.add(document.get(name), width, height)
    if without_size:
        raise DataError(
            f"{len(without_size)} samples have no image size",
            where=f"sample {without_size[0]}",
            expected="metadata.width and metadata.height",
            advice="Call compute_metadata() on the dataset.",
        )
    columns = {name: reader.finish(widths, heights) for name, reader in readers.items()}
    answers = (None, "", Outcome.SELECTED.value, Outcome.REJECTED.value)
    answered = [p and o in answers for p, o in zip(columns[pred_field].present, outcomes)]
    candidates = columns[candidates_field] if candidates_field is not None else None
    if candidates is not None and not any(candidates.present):
        candidates = None
    return Columns(
        sample_ids,
        widths,
        heights,
        columns[gt_field],
        columns[pred_field],
        candidates,
        answered,
        outcomes,
        values,
        columns.get(rejected_field),
        draws,
    )


def label_list_path(samples: SampleCollection, name: str, allowed: tuple[type, ...]) -> str:
    """``"<field>.detections"`` or the like; raises :class:`ConfigError` when the field is not of an allowed type."""
    found = samples.get_field(name)
    wanted = " or ".join(t.__name__ for t in allowed)
    if found is None:
        raise ConfigError(
            f"there is no field {name!r}",
            where=samples._dataset.name,
            expected=f"a {wanted} field, one of {label_fields(samples, allowed)}",
        )
    document_type = getattr(found, "document_type", None)
    if document_type is None or not issubclass(document_type, allowed):
        kind = document_type.__name__ if document_type is not None else type(found).__name__
        raise ConfigError(f"field {name!r} has the wrong type", expected=f"a {wanted} field", found=kind)
    return f"{name}.{document_type._LABEL_LIST_FIELD}"


def label_fields(samples: SampleCollection, allowed: tuple[type, ...] = (fo.Detections,)) -> list[str]:
    """Names of the fields of some label types."""
    schema = samples.get_field_schema(ftype=fo.EmbeddedDocumentField)
    return [name for name, f in schema.items() if f.document_type is not None and issubclass(f.document_type, allowed)]


def _label_paths(list_path: str, segmentations: bool) -> list[str]:
    # paths that collide with their parents are an error in MongoDB, so each leaf is named
    leaves = ["_id", "label", "confidence", "iscrowd", "area"]
    if list_path.endswith(".keypoints"):
        leaves += ["points", "point_xy"]
    else:
        leaves += ["bounding_box", "box_xyxy"]
        if segmentations:
            leaves += ["segmentation", "mask", "mask_path"]
    return [f"{list_path}.{leaf}" for leaf in leaves]


class _LabelReader:
    """Collects one label field and turns it into :class:`LabelColumns` with few numpy calls."""

    def __init__(self, list_path: str, segmentations: bool):
        self.columns = LabelColumns(list_path)
        self.inner = list_path.rpartition(".")[2]
        self.with_masks = segmentations and self.inner == "detections"
        self._stored: list[Sequence[float]] = []
        self._source: list[Sequence[float] | None] = []
        self._masks: list[list[Mapping[str, Any]]] = []

    def add(self, value: Mapping[str, Any] | None, width: int, height: int) -> None:
        labels = ((value or {}).get(self.inner)) or ()
        c = self.columns
        c.present.append(value is not None)
        c.ids.append([str(d["_id"]) for d in labels])
        c.names.append([d.get("label") for d in labels])
        c.iscrowd.append([bool(d.get("iscrowd")) for d in labels])
        c.areas.append([d.get("area") for d in labels])
        if self.inner == "keypoints":
            c.scores.append([_first(d.get("confidence")) for d in labels])
            for d in labels:
                self._stored.append((d.get("points") or [(np.nan, np.nan)])[0])
                self._source.append(d.get("point_xy"))
        else:
            c.scores.append([d.get("confidence") for d in labels])
            for d in labels:
                self._stored.append(d["bounding_box"])
                self._source.append(d.get("box_xyxy"))
        if self.with_masks:
            self._masks.append(list(labels))

    def finish(self, widths: Sequence[int], heights: Sequence[int]) -> LabelColumns:
        counts = self.columns.counts
        size = np.stack([np.repeat(widths, counts), np.repeat(heights, counts)], axis=1).astype(np.float64)
        dims = 2 if self.inner == "keypoints" else 4
        stored = np.asarray(self._stored, dtype=np.float64).reshape(-1, dims)
        absolute = stored * np.tile(size, dims // 2)
        if dims == 4:
            absolute[:, 2:] += absolute[:, :2]
        pixels = self._with_source(absolute, np.tile(size, dims // 2))
        per_sample = np.split(pixels, np.cumsum(counts)[:-1]) if len(counts) else []
        if dims == 2:
            self.columns.points_xy = per_sample
            self.columns.boxes_xyxy = [np.zeros((len(p), 0)) for p in per_sample]
        else:
            self.columns.boxes_xyxy = per_sample
        if self.with_masks:
            self.columns.sources, self.columns.segmentations = [], []
            for labels, boxes, width, height in zip(self._masks, per_sample, widths, heights):
                pairs = [_segmentations(d, box, width, height) for d, box in zip(labels, boxes)]
                self.columns.sources.append([source for source, _ in pairs])
                self.columns.segmentations.append([rle for _, rle in pairs])
        return self.columns

    def _with_source(self, absolute: np.ndarray, size: np.ndarray) -> np.ndarray:
        """Replaces pixels computed from relative coordinates by the source's own where both agree."""
        has = np.array([s is not None and len(s) == absolute.shape[1] for s in self._source], dtype=bool)
        if not has.any():
            return absolute
        source = np.asarray([s for s, h in zip(self._source, has) if h], dtype=np.float64)
        agrees = np.abs(source - absolute[has]) <= AGREEMENT * size[has]
        absolute[has] = np.where(agrees.all(axis=1, keepdims=True), source, absolute[has])
        return absolute


def _first(confidence: Any) -> float | None:
    return confidence[0] if isinstance(confidence, list | tuple) and confidence else None


def _source(label: Mapping[str, Any], box_xyxy: np.ndarray) -> Segmentation | None:
    """The segmentation that came with the label, unless the box has been moved since."""
    unmoved = label.get("box_xyxy") is not None and np.array_equal(label["box_xyxy"], box_xyxy)
    return label.get("segmentation") if unmoved else None


def _segmentations(
    label: Mapping[str, Any], box_xyxy: np.ndarray, width: int, height: int
) -> tuple[Segmentation | None, RLE | None]:
    """Those of :attr:`LabelColumns.sources` and :attr:`LabelColumns.segmentations`; a damaged one is none."""
    source = _source(label, box_xyxy)
    if source is not None:
        try:
            return source, masks.compress(source, height, width)
        except DataError as e:
            logger.warning("label %s has no usable segmentation: %s", label["_id"], e)
    return None, label_rle(label.get("mask"), label.get("mask_path"), box_xyxy, width, height)


def label_rle(mask: bytes | np.ndarray | None, mask_path: str | None, box_xyxy, width: int, height: int) -> RLE | None:
    """A FiftyOne instance mask (stored bytes, array, or file) as an RLE of the whole image; None without a mask."""
    if mask is None and mask_path:
        from PIL import Image

        with Image.open(mask_path) as image:
            mask = np.asarray(image.convert("L")) > 0
    if mask is None:
        return None
    if isinstance(mask, bytes):
        mask = np.load(io.BytesIO(zlib.decompress(mask)), allow_pickle=False)
    return masks.encode(masks.paste(mask, box_xyxy, height, width))


def relative_boxes(boxes_xyxy, width: int, height: int) -> list[list[float]]:
    """Absolute boxes as plain lists of relative ``[x, y, w, h]``."""
    return geometry.to_relative(boxes_xyxy, width, height).tolist()

"""Importing referring examples into FiftyOne: streaming, fast, and safe to run again.

:func:`import_examples` takes any iterable of :class:`ReferringExample` - every benchmark's importer is a
reader plus this function. One example becomes one sample with these fields::

    image_id, expression_id, expression   as in the source; image_id is indexed
    domain, sub_domain                    where the source has them
    num_targets                           0 means that nobody matches
    target_summary                        the same in words, as the tiles of the App show it: "no target"
    ground_truth                          Detections with masks; empty Detections when nobody matches
    candidates                            Detections: what a selector may choose from
    extra                                 other fields of the source row, given back on export
    import_key                            "source/split/id", unique: makes importing again harmless

Labels that come from files carry ``box_xyxy`` (the source's pixels), ``segmentation`` (the source's RLE or
polygons) and ``object_id`` beside FiftyOne's own attributes, so that metrics and exports are exact.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime, timezone
from itertools import islice
from typing import Any, Literal

import fiftyone as fo
import fiftyone.core.utils as fou
import numpy as np

from .. import masks
from ..datasets.coco import is_text
from ..errors import ConfigError, DataError, ProblemLog
from ..geometry import pairwise_iou
from ..referring import RLE, ReferringExample, Target
from . import documents, presentation
from .media import ImageFile, ImageFolder

logger = logging.getLogger(__name__)

#: Tag of samples whose source row was mended or tolerated; the problem's kind follows as "problem:<kind>".
PROBLEM_TAG = "problem"
#: Where ``dataset.info`` keeps what was imported, one entry per source and split.
INFO_KEY = "referring_imports"


@dataclass(frozen=True)
class ImportReport:
    """What an import did.

    Attributes:
        source, split: what was imported
        added: samples inserted now
        existing: examples that were in the dataset already
        skipped: examples left out because their image or box could not be used
        problems: counts of all problems by kind, those of the reader included
        sample_ids: ids of the inserted samples
    """

    source: str
    split: str | None
    added: int
    existing: int
    skipped: int
    problems: Mapping[str, int] = field(default_factory=dict)
    sample_ids: tuple[str, ...] = ()

    def summary(self) -> str:
        """One line for a person.

        Example::

            >>> ImportReport("humanref", "test", 5, 2, 1, {"missing-image": 1}).summary()
            '5 samples added, 2 were there already, 1 skipped (missing-image: 1)'
        """
        text = f"{self.added} samples added"
        if self.existing:
            text += f", {self.existing} were there already"
        if self.skipped:
            text += f", {self.skipped} skipped"
        if self.problems:
            text += " (" + ", ".join(f"{kind}: {n}" for kind, n in self.problems.items()) + ")"
        return text


def import_examples(
    dataset: fo.Dataset,
    examples: Iterable[ReferringExample],
    images: ImageFolder,
    *,
    source: str,
    log: ProblemLog | None = None,
    tags: Iterable[str] = (),
    mask_storage: Literal["database", "none"] = "database",
    max_samples: int | None = None,
    total: int | None = None,
    info: Mapping[str, Any] | None = None,
    batch_size: int = 1000,
    progress: bool | Callable | None = None,
) -> ImportReport:
    """Imports examples as samples, skipping those that the dataset already holds.

    Args:
        dataset: where to; fields, indexes, sidebar, colours and saved views are set up when they are absent
        examples: any iterable; it is consumed as a stream
        images: resolves ``example.file_name``
        source: name of the benchmark; with split and expression id it makes the unique key of a sample
        log: where problems go; a strict log makes the first one an error. What was imported before stays
        tags: further tags for every sample (the split is always one)
        mask_storage: whether target masks are drawn from the database, or only kept as ``segmentation``
        max_samples: stop after this many examples
        total: number of examples, if known, for the progress bar
        info: further entries for ``dataset.info``
        batch_size: samples per insertion
        progress: as everywhere in FiftyOne: True, False, None (the default), or a callback

    Returns:
        an :class:`ImportReport`

    Raises:
        DataError: in strict mode, or when not one image of a non-empty source could be used
    """
    if mask_storage not in ("database", "none"):
        raise ConfigError("unknown mask_storage", expected="'database' or 'none'", found=mask_storage)
    log = log if log is not None else ProblemLog()
    images.check()
    if max_samples is not None:
        examples = islice(examples, max_samples)
        total = None if total is None else min(total, max_samples)
    examples = iter(examples)
    first = next(examples, None)
    if first is None:
        return ImportReport(source, None, 0, 0, 0, dict(log.counts))
    _require_flat(dataset)
    presentation.declare_fields(dataset, id_type=type(first.expression_id), image_id_type=type(first.image_id))
    known = set(dataset.values("import_key")) if len(dataset) else set()

    tags = tuple(tags)
    existing = skipped = 0
    converter = _Converter(source, images, log, tags, mask_storage == "database")
    writer = documents.SampleWriter(dataset, batch_size)
    with fou.ProgressBar(total=total, progress=progress, quiet=progress is False) as bar, writer:
        for example in bar(_chain(first, examples)):
            key = import_key(source, example.split, example.expression_id)
            if key in known:
                existing += 1
                continue
            document = converter(example, key)
            if document is None:
                skipped += 1
            else:
                writer.add(document)
    existing += writer.existing
    if skipped and not writer.added and not existing:
        raise DataError(
            f"none of the {skipped} examples could be imported",
            where=images.root if not isinstance(images.root, Mapping) else source,
            expected="at least one usable image",
            found=log.summary(examples=2),
            advice="Is data_path= the folder that the annotations' image names refer to?",
        )
    report = ImportReport(
        source, first.split, writer.added, existing, skipped, dict(log.counts), tuple(writer.ids)
    )
    _record(dataset, report, info or {}, log)
    presentation.present(dataset)
    if log.counts:
        logger.warning("%s", log.summary())
    return report


def import_key(source: str, split: str | None, expression_id: str | int) -> str:
    """Unique key of an example; the id as JSON, so that 1 and "1" differ.

    Example::

        >>> import_key("humanref", None, "att_1"), import_key("grefcoco", "val", 1)
        ('humanref//"att_1"', 'grefcoco/val/1')
    """
    return f"{source}/{split or ''}/{json.dumps(expression_id, ensure_ascii=False)}"


def _chain(first: ReferringExample, rest: Iterator[ReferringExample]) -> Iterator[ReferringExample]:
    yield first
    yield from rest


def _require_flat(dataset: fo.Dataset) -> None:
    if dataset.media_type not in (None, fo.core.media.IMAGE):
        raise ConfigError(
            "examples can only be added to a dataset of images",
            where=dataset.name,
            expected="media type 'image'",
            found=dataset.media_type,
        )


class _Converter:
    """Turns an example into a sample document, or reports why not and returns None."""

    def __init__(self, source: str, images: ImageFolder, log: ProblemLog, tags: tuple[str, ...], draw_masks: bool):
        self.source, self.images, self.log, self.tags, self.draw_masks = source, images, log, tags, draw_masks

    def __call__(self, example: ReferringExample, key: str) -> dict[str, Any] | None:
        where = f"{self.source} {example.expression_id!r}"
        try:
            image = self.images[example.file_name]
        except DataError as e:
            kind = "missing-image" if e.what == "image not found" else "unreadable-image"
            self.log.add(kind, where, f"{e.what}: {e.where}", found=e.__cause__ if kind == "unreadable-image" else None)
            return None
        kinds = list(example.problem_kinds)
        stated = (example.width, example.height)
        if None not in stated and stated != (image.width, image.height) and _masks_follow_boxes(example):
            size = f"{image.width}x{image.height}"
            self.log.add("size-differs", where, "the row states another size than the image has", size, stated)
            kinds.append("size-differs")
            # most often the image was resized: the row's coordinates are relative to the size it states, and so is
            # everything that is computed from them later on
            image = replace(image, width=example.width, height=example.height)
        for target in example.targets:
            if not _is_inside(target, image):
                found = list(target.box_xyxy)
                size = f"{image.width}x{image.height}"
                self.log.add("outside-image", where, "an answer box lies outside the image", f"inside {size}", found)
                return None
        if not all(_is_inside(c, image) for c in example.candidates):
            self.log.add("candidate-outside-image", where, "a candidate box lies outside the image")
            kinds.append("candidate-outside-image")

        document = documents.sample_document(image.path, image.width, image.height, image.size_bytes, image.mime_type)
        # FiftyOne's zoo names the split as a tag of its own accord
        document["tags"] = list(dict.fromkeys([*self.tags, *([example.split] if example.split else [])]))
        document["import_key"] = key
        for name in ("image_id", "expression_id", "expression", "domain", "sub_domain"):
            value = getattr(example, name)
            if value is not None:
                document[name] = value
        document["num_targets"] = len(example.targets)
        document["target_summary"] = presentation.targets_in_words(len(example.targets))
        targets = [self._target(t, image, where, kinds) for t in example.targets]
        document["ground_truth"] = documents.detections_document(targets)
        candidates = [self._candidate(c, image) for c in example.candidates]
        document["candidates"] = documents.detections_document(candidates)
        if example.extra:
            try:
                document["extra"] = pack_extra(example.extra)
            except DataError as e:
                self.log.add("bad-extra", where, f"other fields left out: {e.what}", e.expected, e.found)
                kinds.append("bad-extra")
        if kinds:
            document["tags"] += [PROBLEM_TAG, *(f"problem:{kind}" for kind in dict.fromkeys(kinds))]
        return document

    def _crop(self, target: Target, image: ImageFile) -> np.ndarray | None:
        """The part of a target's mask inside its box; also checks the mask, drawn or not."""
        rle = target.segmentation
        if not isinstance(rle, Mapping):
            if not self.draw_masks:
                masks.polygon_parts(rle)
                return None
            rle = masks.compress(rle, image.height, image.width)
        elif list(rle["size"]) != [image.height, image.width]:
            size = [image.height, image.width]
            raise DataError("RLE does not fit its image", expected=size, found=list(rle["size"]))
        crop = masks.decode_in_box(rle, target.box_xyxy)
        return crop if self.draw_masks else None

    def _candidate(self, target: Target, image: ImageFile) -> dict[str, Any]:
        return documents.detection_document(target.label, relative_box(target.box_xyxy, image), **_attributes(target))

    def _target(self, target: Target, image: ImageFile, where: str, kinds: list[str]) -> dict[str, Any]:
        attributes = _attributes(target)
        crop = None
        if target.segmentation is not None:
            try:
                crop = self._crop(target, image)
                attributes["segmentation"] = plain_segmentation(target.segmentation)
            except (DataError, KeyError, TypeError, ValueError, OverflowError) as e:
                self.log.add("bad-mask", where, f"mask left out: {e}")
                kinds.append("bad-mask")
        return documents.detection_document(target.label, relative_box(target.box_xyxy, image), crop, **attributes)


def _attributes(target: Target) -> dict[str, Any]:
    attributes: dict[str, Any] = {"box_xyxy": list(target.box_xyxy)}
    if target.object_id is not None:
        attributes["object_id"] = target.object_id
    if target.iscrowd:
        attributes["iscrowd"] = True
    if target.area is not None:
        attributes["area"] = target.area
    return attributes


def _masks_follow_boxes(example: ReferringExample) -> bool:
    """Whether masks of the size that the example states lie where its boxes do, or there is none to tell by.

    Where they do not, that size is not the one that the boxes were drawn at: rows that state no size are taken to have
    that of their masks, which may be wrong.
    """
    overlaps = []
    for target in example.targets:
        if isinstance(target.segmentation, Mapping):
            try:
                found = masks.mask_box_xyxy(masks.compress(target.segmentation, example.height, example.width))
            except DataError:  # also where it is of another size, or states none
                continue
            overlaps.append(float(pairwise_iou([found], [target.box_xyxy])[0, 0]))
    return not overlaps or max(overlaps) >= 0.5


def _is_inside(target: Target, image: ImageFile) -> bool:
    x1, y1, x2, y2 = target.box_xyxy
    return x1 < image.width and y1 < image.height and x2 > 0 and y2 > 0


def relative_box(box_xyxy, image: ImageFile) -> list[float]:
    """FiftyOne's relative ``[x, y, w, h]`` of one box; as :func:`geometry.to_relative`, for one box at a time."""
    x1, y1, x2, y2 = box_xyxy
    return [x1 / image.width, y1 / image.height, (x2 - x1) / image.width, (y2 - y1) / image.height]


def plain_segmentation(segmentation: RLE | Any) -> Any:
    """A segmentation as the database can hold it: plain dicts, lists, numbers and text."""
    if isinstance(segmentation, Mapping):
        counts = segmentation["counts"]
        if isinstance(counts, bytes):
            counts = counts.decode("ascii")
        elif not isinstance(counts, str):
            counts = [int(v) for v in counts]
        return {"size": [int(v) for v in segmentation["size"]], "counts": counts}
    parts = [list(part) for part in segmentation]
    # parts that are too short to be drawn have not been looked at
    if not all(_is_storable(part) for part in parts if len(part) < 6 or len(part) % 2):
        raise DataError("polygon holds something that is not a number", found=segmentation)
    return parts


_PACKED = "json"


def pack_extra(extra: Mapping[str, Any]) -> dict[str, Any]:
    """A source row's other fields as the database can hold them.

    Names with ``.`` or ``$``, huge integers, deep nesting and the like are beyond MongoDB; such rows are kept as JSON text,
    sets as lists and bytes as text.

    Raises:
        DataError: they hold themselves, or what JSON has no form for

    Example::

        >>> pack_extra({"interest_class": "person"})
        {'interest_class': 'person'}
        >>> unpack_extra(pack_extra({"a.b": 2**80})) == {"a.b": 2**80}
        True
    """
    if _is_storable(extra) and _PACKED not in extra:
        return dict(extra)
    try:
        return {_PACKED: json.dumps(extra, default=_as_json)}
    except (TypeError, ValueError, RecursionError) as e:
        raise DataError("fields cannot be kept as JSON", expected="plain values that do not hold themselves", found=e) from e


def _as_json(value: Any) -> Any:
    """What pickles may hold beyond JSON."""
    if isinstance(value, set | frozenset):
        return sorted(value, key=repr)
    if isinstance(value, bytes):
        return value.decode("utf-8", "backslashreplace")
    raise TypeError(f"{type(value).__name__} is no JSON")


def unpack_extra(extra: Mapping[str, Any] | None) -> dict[str, Any]:
    """Inverse of :func:`pack_extra`."""
    if not extra:
        return {}
    return json.loads(extra[_PACKED]) if set(extra) == {_PACKED} else dict(extra)


def _is_storable(value: Any, levels: int = 30) -> bool:
    if isinstance(value, Mapping):
        return levels > 0 and all(_is_key(k) and _is_storable(v, levels - 1) for k, v in value.items())
    if isinstance(value, list | tuple):
        return levels > 0 and all(_is_storable(v, levels - 1) for v in value)
    if isinstance(value, str):
        return value.isascii() or is_text(value)
    if isinstance(value, bool | float | type(None)):
        return True
    return isinstance(value, int | np.integer) and -(2**63) <= value < 2**63


def _is_key(key: Any) -> bool:
    return is_text(key) and key != "" and not key.startswith(("$", "_")) and "." not in key and "\0" not in key


def _record(dataset: fo.Dataset, report: ImportReport, info: Mapping[str, Any], log: ProblemLog) -> None:
    entry = {k: v for k, v in asdict(report).items() if k != "sample_ids"}
    entry["imported_at"] = datetime.now(timezone.utc).isoformat(timespec="seconds")
    # half characters are no text to a database
    entry["first_problems"] = [str(p) for p in list(log)[:20]]
    entry.update(info)
    imports = dict(dataset.info.get(INFO_KEY, {}))
    name = report.source if report.split is None else f"{report.source}/{report.split}"
    imports[name.replace(".", "_")] = entry
    dataset.info[INFO_KEY] = imports
    dataset.save()

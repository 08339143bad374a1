"""COCO ``instances.json``: one pass over the annotations into an index of ready-made targets.

Every :class:`~fiftyone_rexseek.referring.Target` is built once and shared by all expressions of its image, so the
259,859 expressions of gRefCOCO cost no more boxes than the file has annotations.
"""

from __future__ import annotations

import gc
import json
import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import DataError, ProblemLog
from ..referring import Target

_GZIP = b"\x1f\x8b"
#: No image side is longer, in pixels.
_LARGEST_SIDE = 2**31


@dataclass(frozen=True, slots=True)
class CocoImage:
    """One entry of ``images``: file name relative to the image folder, size in pixels (None where it is not stated)."""

    image_id: int
    file_name: str
    width: int | None
    height: int | None


@dataclass(frozen=True, slots=True)
class Annotation:
    """One entry of ``annotations``: the shared target, and what a :class:`Target` does not hold.

    Attributes:
        target: box (absolute xyxy, float64 ``x + w``), segmentation as in the file, category name, crowd flag, and
            ``area`` in square pixels (COCO's small/medium/large), the box area where the file has none
        image_id, category_id: as in the file
    """

    target: Target
    image_id: int
    category_id: int


@dataclass
class InstancesIndex:
    """Everything of an ``instances.json`` that referring expressions need, by id.

    Attributes:
        images: image id to :class:`CocoImage`
        annotations: annotation id to :class:`Annotation`
        candidates: image id to the targets of all its annotations, in file order
        categories: category id to name
        header: the remaining top-level entries (``info``, ``licenses`` ...) and ``categories``, for writing back
    """

    images: dict[int, CocoImage] = field(default_factory=dict)
    annotations: dict[int, Annotation] = field(default_factory=dict)
    candidates: dict[int, tuple[Target, ...]] = field(default_factory=dict)
    categories: dict[int, str] = field(default_factory=dict)
    header: dict[str, Any] = field(default_factory=dict)

    def candidates_of(self, image_id: int) -> tuple[Target, ...]:
        """All annotated objects of an image; empty for an image without any."""
        return self.candidates.get(image_id, ())


@contextmanager
def _no_cyclic_gc() -> Iterator[None]:
    # millions of fresh containers make the collector walk the same heap again and again; none of them is garbage
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def read_json(path: str | Path) -> Any:
    """A JSON file; a missing or broken one raises :class:`DataError` that says where it breaks."""
    path = Path(path)
    try:
        content = path.read_bytes()
        if content.startswith(_GZIP):
            raise DataError("is compressed", where=path, expected="a JSON file", advice="Unpack it first: gunzip -k FILE.")
        with _no_cyclic_gc():
            return json.loads(content)
    except FileNotFoundError as e:
        raise DataError("no such file", where=path, advice="Check the path.") from e
    except OSError as e:  # a folder, most often
        raise DataError("cannot be read", where=path, expected="a JSON file", found=e.strerror or e) from e
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as e:
        raise DataError("is not valid JSON", where=path, found=str(e), advice="Fetch or write the file again.") from e


def is_id(value: Any) -> bool:
    """Whether a value can be an id: text, or a whole number that a database holds.

    Example::

        >>> [is_id(v) for v in (7, "7", None, [7], True, 2**64, "\\ud800")]
        [True, True, False, False, False, False, False]
    """
    return is_text(value) if isinstance(value, str) else type(value) is int and -(2**63) <= value < 2**63


def is_text(value: Any) -> bool:
    """Whether a value is text that can be stored and printed: no half characters, which JSON escapes can make."""
    if not isinstance(value, str):
        return False
    try:
        return value.isascii() or bool(value.encode("utf-8"))
    except UnicodeEncodeError:
        return False


def read_instances(path: str | Path, problems: ProblemLog | None = None) -> InstancesIndex:
    """Index of a COCO ``instances.json``; bad annotations are logged and left out.

    Raises:
        DataError: when the file is no COCO file at all
    """
    return index_instances(read_json(path), problems, where=str(path))


def index_instances(
    document: Mapping[str, Any], problems: ProblemLog | None = None, where: str = "instances.json"
) -> InstancesIndex:
    """:func:`read_instances` of a document that is already loaded.

    Kinds of problems: ``bad-image``, ``duplicate-image``, ``bad-category``, ``bad-annotation``, ``duplicate-annotation``,
    ``annotation-without-image``, and tolerated: ``unknown-category`` (the label is then the id), ``empty-box``.

    Example::

        >>> index = index_instances({
        ...     "images": [{"id": 7, "file_name": "a.jpg", "width": 20, "height": 10}],
        ...     "annotations": [{"id": 1, "image_id": 7, "category_id": 3, "bbox": [1, 2, 3, 4]}],
        ...     "categories": [{"id": 3, "name": "car"}]})
        >>> index.annotations[1].target.box_xyxy, index.candidates_of(7)[0].label
        ((1.0, 2.0, 4.0, 6.0), 'car')
    """
    log = problems if problems is not None else ProblemLog()
    wanted = ("images", "annotations", "categories")
    if not isinstance(document, Mapping) or not all(isinstance(document.get(k), list) for k in wanted):
        keys = sorted(map(str, document))[:10] if isinstance(document, Mapping) else type(document).__name__
        raise DataError(
            "is not a COCO instances file", where=where, expected=f"lists {', '.join(wanted)}", found=keys,
            advice="Give the instances.json that lies beside the refs file.",
        )  # fmt: skip
    index = InstancesIndex()
    index.header = {k: v for k, v in document.items() if k not in ("images", "annotations")}
    with _no_cyclic_gc():
        _add_categories(index, document["categories"], log, where)
        _add_images(index, document["images"], log, where)
        _add_annotations(index, document["annotations"], log, where)
    return index


def _add_categories(index: InstancesIndex, rows: Iterable, log: ProblemLog, where: str) -> None:
    for i, row in enumerate(rows):
        try:
            key, name = row["id"], row["name"]
        except (KeyError, TypeError) as e:
            log.add("bad-category", f"{where}: categories[{i}]", "has no id and name", found=repr(e))
            continue
        if not is_id(key) or not is_text(name):
            log.add("bad-category", f"{where}: categories[{i}]", "has no usable id and name", "a number and text", row)
            continue
        index.categories[key] = name


def _add_images(index: InstancesIndex, rows: Iterable, log: ProblemLog, where: str) -> None:
    for i, row in enumerate(rows):
        try:
            image_id, name = row["id"], row["file_name"]
            size = [row.get(k) for k in ("width", "height")]
            width, height = (int(v) if isinstance(v, int | float) and 1 <= v < _LARGEST_SIDE else None for v in size)
        except (KeyError, TypeError, AttributeError) as e:
            log.add("bad-image", f"{where}: images[{i}]", "has no usable id, file_name, width and height", found=repr(e))
            continue
        if not is_id(image_id):
            log.add("bad-image", f"{where}: images[{i}]", "has no usable id", "a whole number", repr(image_id))
            continue
        if image_id in index.images:
            log.add("duplicate-image", f"{where}: image {image_id}", "appears twice; the first one is kept")
            continue
        if not is_text(name) or not name.strip():
            log.add("bad-image", f"{where}: image {image_id}", "has no file name", found=name)
            continue
        index.images[image_id] = CocoImage(image_id, name, width, height)


def _add_annotations(index: InstancesIndex, rows: Iterable, log: ProblemLog, where: str) -> None:
    of_image: dict[int, list[Target]] = {}
    labels, images, annotations = index.categories, index.images, index.annotations
    for i, row in enumerate(rows):
        try:
            key, image_id, category_id = row["id"], row["image_id"], row["category_id"]
            x, y, w, h = (float(v) for v in row["bbox"])
            area = w * h if row.get("area") is None else float(row["area"])
            if not (is_id(key) and is_id(image_id) and (category_id is None or is_id(category_id))):
                raise ValueError(f"ids {key!r}, {image_id!r}, {category_id!r}")
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as e:
            log.add(
                "bad-annotation", f"{where}: annotations[{i}]", "lacks a usable field",
                expected="id, image_id, category_id, bbox [x, y, width, height]", found=repr(e),
            )  # fmt: skip
            continue
        if not math.isfinite(x + y + w + h + area) or w < 0 or h < 0:
            log.add(
                "bad-annotation", f"{where}: annotation {key}", "has an impossible box",
                expected="finite [x, y, width, height] and area, no negative size", found=[*row["bbox"], row.get("area")],
            )  # fmt: skip
            continue
        if not (w and h):
            log.add("empty-box", f"{where}: annotation {key}", "has a box without area, which no answer can match", found=row["bbox"])
        if key in annotations:
            log.add("duplicate-annotation", f"{where}: annotation {key}", "appears twice; the first one is kept")
            continue
        if image_id not in images:
            log.add("annotation-without-image", f"{where}: annotation {key}", "is of an unknown image", found=image_id)
            continue
        label = labels.get(category_id)
        if label is None:
            log.add("unknown-category", f"{where}: annotation {key}", "has a category without a name", found=category_id)
            label = str(category_id)
        segmentation = row.get("segmentation") or None
        target = Target((x, y, x + w, y + h), segmentation, label, key, row.get("iscrowd", 0) == 1, area)
        annotations[key] = Annotation(target, image_id, category_id)
        of_image.setdefault(image_id, []).append(target)
    index.candidates = {image_id: tuple(targets) for image_id, targets in of_image.items()}


def coco_bbox(box_xyxy: Iterable[float]) -> list[float]:
    """``[x, y, width, height]`` with the fewest decimals that add up to the same ``xyxy`` again.

    ``x + w - x`` is not always ``w`` in floating point; this gives back the numbers that a file was written with.

    Example::

        >>> coco_bbox((76.27, 15.25, 76.27 + 83.73, 15.25 + 57.89))
        [76.27, 15.25, 83.73, 57.89]
    """
    x1, y1, x2, y2 = map(float, box_xyxy)
    return [x1, y1, _difference(x2, x1), _difference(y2, y1)]


def _difference(end: float, start: float) -> float:
    exact = end - start
    for digits in range(0, 15):
        rounded = round(exact, digits)
        if start + rounded == end:
            return rounded
    return exact

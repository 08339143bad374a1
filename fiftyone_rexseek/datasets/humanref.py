"""HumanRef's ``annotations.jsonl``: streaming reader and writer.

One JSON object per line (source: the dataset card and the published evaluation code): ``id``, ``image_name``,
``domain``, ``sub_domain``, ``referring``, ``candidate_boxes`` and ``answer_boxes`` (absolute ``xyxy`` pixels),
``answer_segmentations`` (COCO RLE, counts as text or list). Further fields are kept and written back.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from ..errors import DataError, ProblemLog
from ..geometry import box_problem
from ..masks import compress
from ..referring import ReferringExample, Target
from .jsonl import read_jsonl, write_jsonl

DOMAINS = ("attribute", "position", "interaction", "reasoning", "celebrity", "rejection")
#: The ten sub-domains of the published file, with the domain of each.
SUB_DOMAINS = {
    "1000_attribute_retranslated_with_mask": "attribute",
    "500_inner_position_data_with_mask": "position",
    "500_outer_position_data_with_mask": "position",
    "500_inner_interaction_data_with_mask": "interaction",
    "500_outer_interaction_data_with_mask": "interaction",
    "229_outer_position_two_stage_with_mask": "reasoning",
    "271_positive_then_negative_reasoning_with_mask": "reasoning",
    "500_inner_position_two_stage_with_mask": "reasoning",
    "1000_celebrity_data_with_mask": "celebrity",
    "1000_rejection_referring_with_mask": "rejection",
}
#: Official fields in their order; unknown fields are written after ``referring``, where the published rows have them.
FIELDS = (
    "id",
    "image_name",
    "domain",
    "sub_domain",
    "referring",
    "candidate_boxes",
    "answer_boxes",
    "answer_segmentations",
)
_REQUIRED = ("id", "image_name", "referring", "candidate_boxes", "answer_boxes")
#: A box may stick out of its image by this share of the image's side before it is called a mistake.
_OUTSIDE_TOLERANCE = 0.05
#: No image side is longer, in pixels.
_LARGEST = 2**31
#: The largest whole number that a database holds.
_LARGEST_ID = 2**63 - 1
_NUMBERS = {int, float}


class SourceFields(dict):
    """The fields of a row that have no place of their own, plus the order of all the row's keys."""

    order: tuple[str, ...] = ()

    def __reduce__(self):
        return (_restore_fields, (dict(self), self.order))


def _restore_fields(fields, order):
    restored = SourceFields(fields)
    restored.order = order
    return restored


def read_humanref(
    path: str | os.PathLike,
    log: ProblemLog | None = None,
    *,
    domains: Sequence[str] | None = None,
    max_examples: int | None = None,
    keep_odd: bool = False,
    check_masks: bool = True,
) -> Iterator[ReferringExample]:
    """Yields the examples of an ``annotations.jsonl``, reading it line by line.

    A row with a mistake is reported to ``log`` and skipped, or raises at once when the log is strict. A mask that does
    not fit is dropped and the row kept, with the kind of the problem in ``problem_kinds``.

    Kinds of problems: ``malformed-json``, ``bad-encoding``, ``missing-field``, ``bad-field``, ``bad-box``, ``nan-box``,
    ``inverted-box``, ``xywh-box``, ``empty-box``, ``outside-box``, ``duplicate-id``, ``bad-mask``.

    Args:
        path: the file
        log: where problems go; by default one that only counts
        domains: only rows of these domains
        max_examples: stop after this many
        keep_odd: keep rows with odd geometry (NaN, inverted, empty or far-out boxes), repeated ids and masks of
            another size, as the official scorer does; they are reported and carry ``problem_kinds``
        check_masks: whether the runs of every mask are counted; scoring boxes needs no masks

    Raises:
        DataError: missing, empty or wrong file, no readable row in it, or any problem with a strict log
    """
    log = ProblemLog() if log is None else log
    if domains is not None:
        domains = [domains] if isinstance(domains, str) else list(domains)
    seen: set[Any] = set()
    rows = count = 0
    for where, row in read_jsonl(path, log, what="HumanRef annotation file"):
        rows += 1
        if rows == 1 and "extracted_predictions" in row and "answer_boxes" not in row:
            raise DataError(
                "this is a prediction file, not HumanRef annotations",
                where=path,
                expected=f"rows with {', '.join(FIELDS)}",
                found=", ".join(row),
                advice="Are the two paths swapped?",
            )
        if domains is not None and row.get("domain") not in domains:
            count += 1  # a row passed over on purpose is not a row that could not be read
            continue
        example = _example(row, where, log, keep_odd, check_masks)
        if example is None:
            continue
        if example.expression_id in seen:
            log.add(
                "duplicate-id",
                where,
                "id appears a second time",
                "unique ids",
                repr(example.expression_id),
                advice="The first row with this id counts" if not keep_odd else "Both rows are scored",
            )
            if not keep_odd:
                continue
            example = replace(example, problem_kinds=(*example.problem_kinds, "duplicate-id"))
        seen.add(example.expression_id)
        count += 1
        yield example
        if max_examples is not None and len(seen) >= max_examples:
            return
    if not count:
        raise DataError(
            f"none of the {rows} rows is a HumanRef annotation",
            where=path,
            expected=f"rows with {', '.join(FIELDS)}",
            found=next(iter(log), "nothing"),
        )


def _example(
    row: dict[str, Any], where: str, log: ProblemLog, keep_odd: bool, check_masks: bool
) -> ReferringExample | None:
    """The example of one row, or None when the row has to be left out."""
    absent = [f for f in _REQUIRED if f not in row]
    if absent:
        log.add("missing-field", where, f"row has no {', '.join(absent)}", ", ".join(FIELDS), ", ".join(row))
        return None
    for name, kinds, wanted in (
        ("id", (str, int), "text or a whole number"),
        ("image_name", (str,), "a file name"),
        ("referring", (str,), "text"),
        ("candidate_boxes", (list,), "a list of boxes"),
        ("answer_boxes", (list,), "a list of boxes"),
    ):
        if not isinstance(row[name], kinds) or isinstance(row[name], bool):
            log.add("bad-field", where, f"{name} is not {wanted}", wanted, repr(row[name]))
            return None
    if isinstance(row["id"], int) and abs(row["id"]) > _LARGEST_ID:
        log.add("bad-field", where, "id is too large a number", "text or a whole number of 64 bits", row["id"])
        return None
    if not row["image_name"].strip():
        log.add("bad-field", where, "image_name is empty", "a file name", repr(row["image_name"]))
        return None
    width, height = _image_size(row)
    problems: list[str] = []
    for name in ("candidate_boxes", "answer_boxes"):
        found = _box_problem(row[name], width, height)
        if found is None:
            continue
        kind, what, box, structural = found
        if kind == "outside-box" and width is not None and not _states_size(row):
            what += ", which is the size of the row's masks"
        log.add(kind, where, f"{name} {what}", "[x1, y1, x2, y2] in pixels", box)
        if structural or not keep_odd:
            return None
        problems.append(kind)
    segmentations, mask_problem = _segmentations(row, where, log, width, height, keep_odd, check_masks)
    if mask_problem:
        problems.append(mask_problem)
    targets = tuple(Target(tuple(b[:4]), s) for b, s in zip(row["answer_boxes"], segmentations))
    extra = SourceFields((k, v) for k, v in row.items() if k not in FIELDS)
    extra.order = tuple(row)
    return ReferringExample(
        image_id=row["image_name"],
        expression_id=row["id"],
        expression=row["referring"],
        file_name=row["image_name"],
        targets=targets,
        candidates=tuple(Target(tuple(b[:4])) for b in row["candidate_boxes"]),
        width=width,
        height=height,
        domain=_text(row.get("domain")),
        sub_domain=_text(row.get("sub_domain")),
        extra=extra,
        problem_kinds=tuple(dict.fromkeys(problems)),
    )


def _text(value: Any) -> str | None:
    return None if value is None else str(value)


def _states_size(row: Mapping[str, Any]) -> bool:
    return all(type(row.get(k)) is int and 0 < row[k] < _LARGEST for k in ("width", "height"))


def _image_size(row: Mapping[str, Any]) -> tuple[int | None, int | None]:
    """Width and height where the row states them, else those that all its masks agree on."""
    if _states_size(row):
        return row["width"], row["height"]
    sizes = []
    masks = row.get("answer_segmentations")
    for rle in masks if isinstance(masks, list) else ():
        size = rle.get("size") if isinstance(rle, Mapping) else None
        if isinstance(size, list) and len(size) == 2 and all(type(v) is int and 0 < v < _LARGEST for v in size):
            sizes.append((size[1], size[0]))
    return sizes[0] if sizes and len(set(sizes)) == 1 else (None, None)


def _box_problem(boxes: list[Any], width: int | None, height: int | None) -> tuple[str, str, Any, bool] | None:
    """(kind, what, box, whether it cannot even be scored) of a list's first bad box, or None.

    A box that cannot even be scored comes before one that is merely odd.
    """
    odd = None
    for i, box in enumerate(boxes):
        if _is_plain(box, width, height):
            continue
        found = _one_box_problem(f"[{i}]", box, width, height)
        if found is not None and found[3]:
            return found
        odd = odd or found
    return odd


def _one_box_problem(
    place: str, box: Any, width: int | None, height: int | None
) -> tuple[str, str, Any, bool] | None:
    try:
        what = box_problem(box, width, height)
    except OverflowError:
        what = "holds a number that is too large"
    if what is None:
        what = _far_out(box, width, height)
    if what is None:
        return None
    for phrase, kind in (
        ("NaN", "nan-box"),
        ("as if it were", "xywh-box"),
        ("inverted", "inverted-box"),
        ("no area", "empty-box"),
        ("outside", "outside-box"),
    ):
        if phrase in what:
            return kind, f"{place} {what}", box, False
    # further numbers (a score, say) do not keep the scorer from reading a box
    readable = isinstance(box, list) and len(box) > 4 and all(type(v) in _NUMBERS for v in box[:4])
    return "bad-box", f"{place} {what}", box, not readable


def _is_plain(box: Any, width: int | None, height: int | None) -> bool:
    """Quick test that nearly every box passes; the others are looked at closely."""
    if type(box) is not list or len(box) != 4:
        return False
    x1, y1, x2, y2 = box
    if not {type(x1), type(y1), type(x2), type(y2)} <= _NUMBERS:
        return False
    return 0 <= x1 < x2 <= (width or _LARGEST) and 0 <= y1 < y2 <= (height or _LARGEST)


def _far_out(box: Sequence[float], width: int | None, height: int | None) -> str | None:
    if width is None or height is None:
        # no picture has such a size, and the database could not hold such a whole number
        return "lies outside any image" if max(map(abs, box)) > _LARGEST else None
    dx, dy = _OUTSIDE_TOLERANCE * width, _OUTSIDE_TOLERANCE * height
    if box[0] < -dx or box[1] < -dy or box[2] > width + dx or box[3] > height + dy:
        return f"reaches far outside the {width}x{height} image"
    return None


def _segmentations(row, where, log, width, height, keep_odd, check_masks) -> tuple[list[Any], str | None]:
    """One segmentation (or None) per answer, and the kind of the problem that was mended or tolerated."""
    n = len(row["answer_boxes"])
    given = row.get("answer_segmentations")
    if given is None or (given == [] and n > 0):
        return [None] * n, None
    if not isinstance(given, list) or len(given) != n:
        found = len(given) if isinstance(given, list) else type(given).__name__
        log.add("bad-mask", where, "answer_segmentations does not fit answer_boxes", f"{n} masks", found)
        return [None] * n, "bad-mask"
    kept, problem = [], None
    for i, segmentation in enumerate(given):
        what = _mask_problem(segmentation, width, height, check_masks)
        if what is not None:
            log.add("bad-mask", where, f"answer_segmentations[{i}] {what}", "an RLE of the image's size", segmentation)
            problem = "bad-mask"
            # the scorer takes a sound mask of another size as it is; anything else is dropped
            if not (keep_odd and _mask_problem(segmentation, None, None, check_masks) is None):
                segmentation = None
        kept.append(segmentation)
    return kept, problem


def _mask_problem(segmentation: Any, width: int | None, height: int | None, count_runs: bool) -> str | None:
    if segmentation is None:
        return None
    if isinstance(segmentation, list):
        parts = segmentation if segmentation and isinstance(segmentation[0], list) else None
        return None if parts else "is neither an RLE nor a list of polygons"
    if not isinstance(segmentation, Mapping) or not isinstance(segmentation.get("counts"), str | list):
        return "is not a run-length encoding"
    size = segmentation.get("size")
    if not (isinstance(size, list) and len(size) == 2 and all(type(v) is int and 0 < v < _LARGEST for v in size)):
        return "has no size [height, width]"
    if not count_runs:
        return None
    try:
        compress(segmentation, height or size[0], width or size[1])
    except DataError as e:
        return f"is wrong: {e}"
    except (TypeError, ValueError, OverflowError) as e:
        return f"cannot be read ({e})"
    return None


def humanref_row(example: ReferringExample) -> dict[str, Any]:
    """The official row of an example; unknown fields and the order of keys come back as they were read."""
    values: dict[str, Any] = {
        "id": example.expression_id,
        "image_name": example.file_name,
        "domain": example.domain,
        "sub_domain": example.sub_domain,
        "referring": example.expression,
        "candidate_boxes": [list(c.box_xyxy) for c in example.candidates],
        "answer_boxes": [list(t.box_xyxy) for t in example.targets],
        "answer_segmentations": [t.segmentation for t in example.targets],
    }
    if example.targets and all(t.segmentation is None for t in example.targets):
        values["answer_segmentations"] = []
    order = getattr(example.extra, "order", ())
    if not order:
        order = (*FIELDS[:5], *(k for k in example.extra if k not in FIELDS), *FIELDS[5:])
    else:
        # keys that the source row lacked are added only when there is something to say
        order = (*order, *(k for k in FIELDS if k not in order and values[k] not in (None, [])))
        order = (*order, *(k for k in example.extra if k not in order))
    return {k: values[k] if k in values else example.extra[k] for k in order if k in values or k in example.extra}


def write_humanref(path: str | os.PathLike, examples: Iterable[ReferringExample]) -> int:
    """Writes examples as ``annotations.jsonl`` and returns how many; the file appears only when it is complete."""
    return write_jsonl(path, (humanref_row(e) for e in examples))

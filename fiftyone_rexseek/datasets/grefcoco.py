"""gRefCOCO: ``grefs(unc).json`` and ``instances.json``, read and written.

Source: the files of the GREx authors (``grefcoco/`` beside ``images/train2014/``), 259,859 expressions on 19,994
images: 135,258 with one target, 90,064 with several, 34,537 with none.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from ..errors import DataError, ProblemLog
from ..referring import ReferringExample, Target
from .coco import InstancesIndex, coco_bbox, is_text, read_instances
from .files import complete_file
from .refs import RefsBuilder, RefsReader, load_refs

REFS_NAMES = ("grefs(unc).json", "grefs(unc).p")
INSTANCES_NAME = "instances.json"


@dataclass(frozen=True)
class Counts:
    """How much of what a data set has; None where it is not stated.

    ``objects`` are the distinct annotations that some expression refers to.
    """

    expressions: int | None = None
    single_target: int | None = None
    multi_target: int | None = None
    no_target: int | None = None
    objects: int | None = None
    images: int | None = None

    def differences(self, found: Counts) -> dict[str, tuple[int, int]]:
        """What differs: name to (expected, found), only for figures that both state.

        Example::

            >>> Counts(expressions=10, images=3).differences(Counts(expressions=9, images=3))
            {'expressions': (10, 9)}
        """
        pairs = {f.name: (getattr(self, f.name), getattr(found, f.name)) for f in fields(self)}
        return {k: v for k, v in pairs.items() if None not in v and v[0] != v[1]}

    def __add__(self, other: Counts) -> Counts:
        """Of two parts that share nothing; what one of them does not state is not known of both.

        Example::

            >>> Counts(expressions=10, images=3) + Counts(expressions=9)
            Counts(expressions=19, single_target=None, multi_target=None, no_target=None, objects=None, images=None)
        """
        pairs = [(getattr(self, f.name), getattr(other, f.name)) for f in fields(self)]
        return Counts(*(None if None in pair else sum(pair) for pair in pairs))


#: Counts of the whole release, as published with the data set.
PUBLISHED = Counts(
    expressions=259_859, single_target=135_258, multi_target=90_064, no_target=34_537, objects=61_316, images=19_994
)


class Counter:
    """Counts examples as they stream by.

    Example::

        >>> counter = Counter()
        >>> [e.expression for e in counter.watch([ReferringExample(1, "1_1", "the dog", "a.jpg")])]
        ['the dog']
        >>> counter.counts.no_target, counter.counts.images
        (1, 1)
    """

    def __init__(self):
        self._by_targets = [0, 0, 0]
        self._images: set = set()
        self._objects: set = set()

    def watch(self, examples: Iterable[ReferringExample]) -> Iterator[ReferringExample]:
        """Passes the examples through."""
        for example in examples:
            self._by_targets[min(len(example.targets), 2)] += 1
            self._images.add(example.image_id)
            self._objects.update(t.object_id for t in example.targets)
            yield example

    @property
    def counts(self) -> Counts:
        none, one, many = self._by_targets
        return Counts(none + one + many, one, many, none, len(self._objects), len(self._images))


def find_file(folder: str | Path, names: Sequence[str], subfolders: Sequence[str]) -> Path:
    """The first existing ``folder/[subfolder/]name``; raises :class:`DataError` with all places looked at."""
    folder = Path(folder)
    places = [folder / sub / name for sub in ("", *subfolders) for name in names]
    for place in places:
        if place.is_file():
            return place
    raise DataError(
        "the data set's file is not there", where=folder, expected=" or ".join(names),
        found=", ".join(sorted(p.name for p in folder.iterdir())[:10]) if folder.is_dir() else "no such folder",
        advice="Give the folder that the authors' download unpacks to.",
    )  # fmt: skip


def read_grefcoco(
    refs: str | Path,
    instances: str | Path | InstancesIndex | None = None,
    *,
    splits: Sequence[str] | None = None,
    problems: ProblemLog | None = None,
    image_dir: str | Path | None = None,
) -> RefsReader:
    """Streams the examples of gRefCOCO (and of anything else in its format).

    Args:
        refs: ``grefs(unc).json`` or its folder (or the folder above)
        instances: ``instances.json``; by default the one beside the refs
        splits: some of train, val, testA, testB; all by default
        problems: where bad annotations and refs are logged
        image_dir: folder of the images, to skip (and count) expressions whose image is not on disk

    Returns:
        an iterable of :class:`ReferringExample`; see :class:`~fiftyone_rexseek.datasets.refs.RefsReader`
    """
    return open_reader(refs, instances, REFS_NAMES, ("grefcoco",), splits, problems, image_dir)


def open_reader(
    refs: str | Path,
    instances: str | Path | InstancesIndex | None,
    names: Sequence[str],
    subfolders: Sequence[str],
    splits: Sequence[str] | None,
    problems: ProblemLog | None,
    image_dir: str | Path | None,
) -> RefsReader:
    """Reader for any member of the family: finds the files, loads the index, streams the refs."""
    log = problems if problems is not None else ProblemLog()
    path = Path(refs)
    if not path.is_file():
        path = find_file(path, names, subfolders)
    if not isinstance(instances, InstancesIndex):
        instances = read_instances(instances if instances is not None else path.parent / INSTANCES_NAME, log)
    image_dir = None if image_dir is None else Path(image_dir)
    if image_dir is not None and not image_dir.is_dir():
        raise DataError("no such image folder", where=image_dir, advice="Give the folder that holds train2014's files.")
    return RefsReader(load_refs(path), instances, splits, log, image_dir, where=path.name)


def write_grefcoco(
    refs_path: str | Path,
    instances_path: str | Path,
    examples: Iterable[ReferringExample],
    *,
    index: InstancesIndex | None = None,
    without_sentences: Iterable[tuple[int, Mapping[str, Any]]] = (),
) -> int:
    """Writes examples as ``grefs(unc).json`` and ``instances.json`` in one pass; returns the number of refs.

    The instances are the images of the examples with their targets and candidates.

    Args:
        index: what is known beyond the examples: category ids, the header, segmentations of objects that have not
            moved. Without it categories are numbered in order of appearance.
        without_sentences: refs that gave no example, with their positions (see :class:`~.refs.RefsReader`)
    """
    return write_files(RefsBuilder(), refs_path, instances_path, examples, index, without_sentences)


def write_files(
    builder: RefsBuilder,
    refs_path: str | Path,
    instances_path: str | Path,
    examples: Iterable[ReferringExample],
    index: InstancesIndex | None,
    without_sentences: Iterable[tuple[int, Mapping[str, Any]]],
) -> int:
    """Writer for any member of the family: ``builder`` says how its refs look."""

    def collected() -> Iterator[ReferringExample]:
        for example in examples:
            builder.add(example)
            yield example

    document = to_instances(collected(), index)
    _write_json(instances_path, document)
    refs = builder.refs(without_sentences, {a["id"]: a["category_id"] for a in document["annotations"]})
    _write_json(refs_path, refs)
    return len(refs)


def _write_json(path: str | Path, content: Any) -> None:
    text = json.dumps(content, ensure_ascii=False)
    with complete_file(path) as f:
        # half a character, which a field of the source may hold, can only be written as its escape
        f.write(text if is_text(text) else json.dumps(content))


def to_instances(examples: Iterable[ReferringExample], index: InstancesIndex | None = None) -> dict[str, Any]:
    """The COCO document of the images, targets and candidates of examples; see :func:`write_grefcoco`."""
    index = index or InstancesIndex()
    ids = {name: key for key, name in index.categories.items()}
    images: dict[Any, dict[str, Any]] = {}
    annotations: dict[Any, dict[str, Any]] = {}
    referred: set[Any] = set()
    for example in examples:
        if example.image_id not in images:
            images[example.image_id] = {
                "id": example.image_id,
                "file_name": example.file_name,
                "width": example.width,
                "height": example.height,
            }
        # candidates come first, which keeps the order of the file
        labels = [*((c, False) for c in example.candidates), *((t, True) for t in example.targets)]
        for target, is_target in labels:
            key, row = target.object_id, annotations.get(target.object_id)
            if row is None or (is_target and key not in referred):
                # a box that was corrected as a target counts, not its copy among the candidates
                new = _annotation(target, example.image_id, index, ids)
                if row is not None and row["bbox"] == new["bbox"] and "segmentation" in row:
                    new.setdefault("segmentation", row["segmentation"])
                annotations[key] = new
            if is_target:
                referred.add(key)
    header = dict(index.header)
    known = header.get("categories") or [{"id": key, "name": name} for key, name in index.categories.items()]
    new = [{"id": key, "name": name} for name, key in ids.items() if key not in index.categories]
    header["categories"] = [*known, *new]
    return {**header, "images": list(images.values()), "annotations": list(annotations.values())}


def _annotation(target: Target, image_id: Any, index: InstancesIndex, category_ids: dict[str, int]) -> dict[str, Any]:
    known = index.annotations.get(target.object_id)
    box = coco_bbox(target.box_xyxy)
    segmentation = target.segmentation
    if segmentation is None and known and known.target.box_xyxy == tuple(target.box_xyxy):
        segmentation = known.target.segmentation
    if known and known.category_id is not None and known.target.label == target.label:
        category = known.category_id
    else:
        if target.label not in category_ids:
            # ids may be text
            category_ids[target.label] = max((i for i in category_ids.values() if isinstance(i, int)), default=0) + 1
        category = category_ids[target.label]
    row = {
        "id": target.object_id,
        "image_id": image_id,
        "category_id": category,
        "bbox": box,
        "area": box[2] * box[3] if target.area is None else target.area,
        "iscrowd": int(target.iscrowd),
    }
    return row if segmentation is None else {**row, "segmentation": segmentation}

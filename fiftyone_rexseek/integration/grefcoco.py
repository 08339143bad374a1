"""gRefCOCO and the RefCOCO family as FiftyOne datasets: importer, exporter, dataset types, zoo datasets."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property, reduce
from operator import add
from pathlib import Path
from typing import Any

import fiftyone as fo
import fiftyone.types as fot
from fiftyone import ViewField as F

from ..datasets import grefcoco, refcoco
from ..datasets.coco import index_instances, read_instances
from ..datasets.refs import SPLITS
from ..errors import ConfigError, DataError, DownloadError
from ..referring import ReferringExample, Target
from . import documents
from .dataset_types import POINTER, REVISION, ExamplesExporter, ExamplesImporter, source_of
from .fields import flat_images
from .importers import INFO_KEY as IMPORTS_KEY
from .importers import pack_extra, unpack_extra
from .zoo_datasets import SourceDirDataset, fetch_snapshot

logger = logging.getLogger(__name__)

#: Where ``dataset.info`` keeps what the files say beyond expressions, by source.
INFO_KEY = "grefcoco"
_IMAGE_FOLDERS = (
    "images/train2014", "train2014", "images", "images/mscoco/images/train2014", "../images/train2014",
    "../images/mscoco/images/train2014", "../train2014", "../images", "data",
)  # fmt: skip
#: Ids of annotations that are new, far above COCO's own.
_FIRST_NEW_ID = 10_000_000_000


@dataclass(eq=False, repr=False)
class GRefCOCODatasetImporter(ExamplesImporter):
    """gRefCOCO: ``grefs(unc).json`` and ``instances.json``, with COCO's train2014 images.

    Args:
        instances_path: the instances, by default beside the refs
        splits: only these of train, val, testA, testB; all by default
        others: see :class:`~.dataset_types.ExamplesImporter`. ``labels_path`` is the refs file, by default
            ``grefs(unc).json`` in the folder or its ``grefcoco/``; ``data_path`` the images, by default the first of
            ``images/train2014``, ``train2014``, ``images`` ... that exists there

    Attributes:
        counts: what was found, after importing
        differences: how that differs from what the authors published, ``{name: (published, found)}``; empty while not
            everything has been imported, or where ``splits`` are given
    """

    instances_path: str | os.PathLike | None = None
    splits: Sequence[str] | str | None = None

    source = "grefcoco"
    default_data = _IMAGE_FOLDERS
    default_labels = "grefs(unc).json"

    def __post_init__(self):
        super().__post_init__()
        self.splits = [self.splits] if isinstance(self.splits, str) else self.splits
        self._everything = self.splits is None
        if self.splits is None and self.dataset_dir is not None:
            split = zoo_split(Path(self.dataset_dir))
            self.splits = None if split is None else [split]
        self.counts: grefcoco.Counts | None = None
        self.differences: dict[str, tuple[int, int]] = {}
        self._reader = None

    def labels(self):
        if self.labels_path is not None:
            return self._below(self.labels_path)
        return grefcoco.find_file(self._below("."), self._names(), (self.source,))

    def _names(self) -> Sequence[str]:
        return grefcoco.REFS_NAMES

    def _published(self) -> grefcoco.Counts:
        return grefcoco.PUBLISHED

    def _published_splits(self) -> Sequence[str]:
        return SPLITS[:4]

    def _together(self, splits: Iterable[grefcoco.Counts]) -> grefcoco.Counts:
        """Counts of several splits, which share neither images nor objects."""
        return reduce(add, splits)

    def instances(self) -> Path:
        """Path of the instances."""
        if self.instances_path is not None:
            return self._below(self.instances_path)
        return self.labels().parent / grefcoco.INSTANCES_NAME

    def examples(self, log):
        labels = self.labels()
        self._reader = grefcoco.open_reader(labels, self.instances(), (), (), self.splits, log, None)
        self._counter = grefcoco.Counter()
        return self._counter.watch(self._reader)

    def total(self):
        return None

    def info(self):
        return {"labels_path": str(self.labels()), "instances_path": str(self.instances())}

    def import_samples(self, dataset, tags=None, progress=None):
        ids = super().import_samples(dataset, tags=tags, progress=progress)
        self.counts = self._counter.counts
        found = ", ".join(f"{k} {v}" for k, v in asdict(self.counts).items())
        logger.info("%s has: %s", self.source, found)
        info = dict(dataset.info.get(INFO_KEY, {}))
        before = info.get(self.source, {})
        splits = dict(before.get("splits", {}))
        if self.splits is not None and len(self.splits) == 1 and self.max_samples is None:
            splits[self.splits[0]] = asdict(self.counts)
        self.differences = self._compare({name: grefcoco.Counts(**counts) for name, counts in splits.items()})
        if self.differences:
            logger.warning("%s: %s", self.source, self._differences_in_words())
        read = self.splits or SPLITS
        refs = [row for row in before.get("refs_without_sentences", ()) if unpack_extra(row[1]).get("split") not in read]
        refs += self._refs_without_sentences()
        info[self.source] = {
            "counts": asdict(self.counts),
            "splits": splits,
            "differences_from_published": {k: list(v) for k, v in self.differences.items()},
            "header": pack_extra({k: v for k, v in self._reader.index.header.items() if k != "licenses"}),
            "refs_without_sentences": sorted(refs, key=lambda row: row[0]),
        }
        dataset.info[INFO_KEY] = info
        dataset.save()
        self._reader = None  # the index is large
        return ids

    def summary(self):
        return super().summary() + (f"; {self._differences_in_words()}" if self.differences else "")

    def _compare(self, splits: dict[str, grefcoco.Counts]) -> dict[str, tuple[int, int]]:
        """Differences from what was published, once all of it is there; the zoo imports one split after another."""
        if not self._everything or self.max_samples is not None:
            return {}
        if self.splits is None:
            return self._published().differences(self.counts)
        wanted = self._published_splits()
        if not splits.keys() >= set(wanted):
            return {}
        return self._published().differences(self._together(splits[name] for name in wanted))

    def _differences_in_words(self) -> str:
        rows = self.differences.items()
        found = ", ".join(f"{name.replace('_', ' ')} {counted} of {published}" for name, (published, counted) in rows)
        return f"this is not what was published, found: {found}"

    def _refs_without_sentences(self) -> Iterator[list[Any]]:
        for position, ref in self._reader.without_sentences:
            try:
                yield [position, pack_extra(ref)]
            except DataError as e:
                logger.warning("%s: ref %s has no sentence and is not kept for exports: %s", self.source, position, e)


@dataclass(eq=False, repr=False)
class RefCOCODatasetImporter(GRefCOCODatasetImporter):
    """RefCOCO: ``refs(unc).p`` (plain containers only) or its JSON version; arguments as for gRefCOCO, and:

    Args:
        partition: unc; for RefCOCOg umd or google, by default umd where it is there
    """

    partition: str | None = None

    source = "refcoco"

    def __post_init__(self):
        super().__post_init__()
        self.family, self._default = refcoco.family(self.source, self.partition)

    def labels(self):
        labels = super().labels()
        if self.partition is None:
            self.partition = next((p for p in self.family.partitions if f"({p})" in labels.name), self._default)
        return labels

    def _names(self):
        partitions = self.family.partitions if self.partition is None else (self.partition,)
        return [f"refs({name}).{ending}" for name in partitions for ending in ("json", "p")]

    def _published(self):
        return self.family.published[self.partition]

    def _published_splits(self):
        return self.family.partitions[self.partition]


class RefCOCOPlusDatasetImporter(RefCOCODatasetImporter):
    """RefCOCO+; see :class:`RefCOCODatasetImporter`."""

    source = "refcoco+"


class RefCOCOgDatasetImporter(RefCOCODatasetImporter):
    """RefCOCOg; see :class:`RefCOCODatasetImporter`."""

    source = "refcocog"

    def _together(self, splits):
        counts = super()._together(splits)
        # Google's splits share images, though not objects
        return replace(counts, images=None) if self.partition == "google" else counts


class GRefCOCODatasetExporter(ExamplesExporter):
    """Writes ``grefs(unc).json`` and ``instances.json`` beside ``images/``.

    Samples that came from such files give back the refs they came from, ids, sentences, tokens and segmentations
    included. The instances are the objects of the exported images; the segmentations of those that no expression refers
    to are not in the dataset, but come from the imported file where it is still there. Objects without an id get new ones.
    """

    default_labels = "grefs(unc).json"
    _sources = ("grefcoco", *refcoco.FAMILY)
    _write = staticmethod(grefcoco.write_grefcoco)

    def export_samples(self, sample_collection, progress=None):
        info = sample_collection._dataset.info.get(INFO_KEY, {})
        header: dict[str, Any] = {}
        self._without_sentences: list[tuple[int, dict]] = []
        for entry in info.values():
            header = header or unpack_extra(entry.get("header"))
        if isinstance(sample_collection, fo.Dataset) and len(info) == 1:
            # a view need not hold the refs that had nothing to say
            [(source, entry)] = info.items()
            refs = entry.get("refs_without_sentences", ()) if source in self._sources else ()
            self._without_sentences = [(p, unpack_extra(ref)) for p, ref in refs]
        empty = {"images": [], "annotations": [], "categories": []}
        self._index = index_instances({**empty, **header})
        self._index.header = dict(header)
        imports = sample_collection._dataset.info.get(IMPORTS_KEY, {})
        for path in sorted({e["instances_path"] for e in imports.values() if e.get("instances_path")}):
            self._add_source(Path(path))
        self._samples = flat_images(sample_collection)
        super().export_samples(sample_collection, progress=progress)

    def _add_source(self, path: Path) -> None:
        """Takes from the file that was imported, where it is still there, what the dataset does not keep."""
        try:
            source = read_instances(path)
        except DataError as e:
            logger.info("masks of objects that no expression refers to are not exported: %s", e)
            return
        if {**source.categories, **self._index.categories} == source.categories:
            self._index.annotations.update(source.annotations)
            self._index.header = {**source.header, **self._index.header}

    def _first_free_id(self) -> int:
        """An id above those of all objects, exported now or earlier, that the files could hold."""
        names = [self.fields["gt_field"], self.fields["candidates_field"]]
        ids = list(self._index.annotations)
        for document in documents.read_documents(self._samples, [f"{name}.detections.object_id" for name in names]):
            for name in names:
                ids += [d.get("object_id") for d in (document.get(name) or {}).get("detections") or ()]
        return max((i + 1 for i in ids if isinstance(i, int)), default=0)

    def write(self, examples):
        numbered = _Numbered(self._first_free_id)
        return self._write(
            self.labels_path,
            self.labels_path.parent / grefcoco.INSTANCES_NAME,
            map(numbered, examples),
            index=self._index,
            without_sentences=self._without_sentences,
        )


class RefCOCODatasetExporter(GRefCOCODatasetExporter):
    """Writes ``refs(unc).json`` and ``instances.json`` beside ``images/``; see :class:`GRefCOCODatasetExporter`.

    RefCOCO's expressions have one target: samples without a target or with several are left out.
    """

    default_labels = "refs(unc).json"
    kept = "exactly one target"
    _sources = tuple(refcoco.FAMILY)
    _write = staticmethod(refcoco.write_refcoco)

    @classmethod
    def writable(cls, samples, gt_field):
        return super().writable(samples, gt_field).match(F(f"{gt_field}.detections").length() == 1)

    def _placed(self, pairs):
        return super()._placed(pair for pair in pairs if len(pair[0].targets) == 1)


class RefCOCOgDatasetExporter(RefCOCODatasetExporter):
    """Writes ``refs(umd).json`` and ``instances.json``; see :class:`RefCOCODatasetExporter`."""

    default_labels = "refs(umd).json"


class _Numbered:
    """Gives ids to objects without one; the same box in the same image is the same object.

    Args:
        first_free: asked for an id that nothing has, once the first object without one appears
    """

    def __init__(self, first_free: Callable[[], int]):
        self._ids: dict[tuple, int] = {}
        self._first_free = first_free

    @cached_property
    def _first(self) -> int:
        return max(_FIRST_NEW_ID, self._first_free())

    def __call__(self, example: ReferringExample) -> ReferringExample:
        labels = (*example.targets, *example.candidates)
        if all(t.object_id is not None for t in labels):
            return example
        known = {t.box_xyxy: t.object_id for t in labels if t.object_id is not None}

        def number(target: Target) -> Target:
            if target.object_id is not None:
                return target
            key = (example.image_id, target.box_xyxy)
            if target.box_xyxy not in known:
                known[target.box_xyxy] = self._ids.setdefault(key, self._first + len(self._ids))
            return replace(target, object_id=known[target.box_xyxy])

        return replace(
            example, targets=tuple(map(number, example.targets)), candidates=tuple(map(number, example.candidates))
        )


class GRefCOCODataset(fot.Dataset):
    """gRefCOCO's format: ``grefs(unc).json`` and ``instances.json``, with COCO's train2014 images.

    Example::

        dataset = fo.Dataset.from_dir("/data/grefcoco", dataset_type=fiftyone_rexseek.types.GRefCOCODataset,
                                      data_path="/data/coco/train2014", splits=["val"])
        dataset.export("/data/copy", dataset_type=fiftyone_rexseek.types.GRefCOCODataset)
    """

    def get_dataset_importer_cls(self):
        return GRefCOCODatasetImporter

    def get_dataset_exporter_cls(self):
        return GRefCOCODatasetExporter


class RefCOCODataset(GRefCOCODataset):
    """RefCOCO's format: ``refs(unc).p`` or ``.json``, and ``instances.json``; written as ``.json``."""

    def get_dataset_importer_cls(self):
        return RefCOCODatasetImporter

    def get_dataset_exporter_cls(self):
        return RefCOCODatasetExporter


class RefCOCOPlusDataset(RefCOCODataset):
    """RefCOCO+'s format; see :class:`RefCOCODataset`."""

    def get_dataset_importer_cls(self):
        return RefCOCOPlusDatasetImporter


class RefCOCOgDataset(RefCOCODataset):
    """RefCOCOg's format (``refs(umd).p`` or ``refs(google).p``); see :class:`RefCOCODataset`."""

    def get_dataset_importer_cls(self):
        return RefCOCOgDatasetImporter

    def get_dataset_exporter_cls(self):
        return RefCOCOgDatasetExporter


def zoo_split(folder: Path) -> str | None:
    """The split that a zoo folder stands for, when it is one of ours."""
    pointer = folder / POINTER
    return json.loads(pointer.read_text()).get("split") if pointer.is_file() else None


class GRefCOCOZooDataset(SourceDirDataset):
    """gRefCOCO (GREx): 259,859 expressions with no, one or several targets, on 19,994 COCO train2014 images.

    Comes from ``source_dir=``, a folder with ``grefs(unc).json`` and ``instances.json`` (or with ``grefcoco/``) and the
    images (``images/train2014``, ``train2014`` ...; elsewhere with ``data_path=``). Without it, the annotations are fetched
    from the Hugging Face hub (FudanCVL/gRefCOCO) and the images are those of FiftyOne's own ``coco-2014`` train split.

    Args:
        source_dir: use the files there, in place

    Importer options: ``data_path=``, ``max_samples=``, ``strict=``, ``mask_storage=``.
    """

    repository: str | None = "FudanCVL/gRefCOCO"
    source = "grefcoco"
    dataset_type: type[fot.Dataset] = GRefCOCODataset

    @property
    def name(self):
        return self.source

    @property
    def license(self):
        return "annotations: see the authors' pages; images: Flickr terms of COCO"

    @property
    def tags(self):
        return ("image", "detection", "segmentation", "referring-expression")

    @property
    def supported_splits(self):
        return ("train", "val", "testA", "testB")

    def _importer(self, folder: Path) -> GRefCOCODatasetImporter:
        return self.dataset_type().get_dataset_importer_cls()(dataset_dir=str(folder))

    def _download_and_prepare(self, dataset_dir, scratch_dir, split):
        if self.source_dir is None:
            self.source_dir = fetch(self.source, self.repository, Path(dataset_dir).parent / "files")
        self.point_to_source(dataset_dir, f"a folder with {self.source}'s refs and instances.json")
        pointer = Path(dataset_dir) / POINTER
        pointer.write_text(json.dumps({"source_dir": str(self.source_dir), "split": split}))
        importer = self._importer(Path(dataset_dir))
        refs = grefcoco.load_refs(importer.labels())
        sentences = (r.get("sentences") for r in refs if isinstance(r, dict) and r.get("split") == split)
        count = sum(len(s) for s in sentences if isinstance(s, list))
        if not count:
            raise DataError("no expression of this split", where=source_of(Path(dataset_dir)), expected=split)
        return self.dataset_type(), count, None


class RefCOCOZooDataset(GRefCOCOZooDataset):
    """RefCOCO (UNC): 142,210 expressions for 50,000 objects on 19,994 COCO train2014 images, one target each.

    The authors' server no longer answers, so ``source_dir=`` is needed: a folder with ``refs(unc).p`` (or ``.json``) and
    ``instances.json``, or with ``refcoco/``, and the images (elsewhere with ``data_path=``).

    Args:
        source_dir: use the files there, in place
    """

    repository = None
    source = "refcoco"
    dataset_type = RefCOCODataset


class RefCOCOPlusZooDataset(RefCOCOZooDataset):
    """RefCOCO+ (UNC): 141,564 expressions without words of place, for 49,856 objects; see ``refcoco``."""

    source = "refcoco+"
    dataset_type = RefCOCOPlusDataset


class RefCOCOgZooDataset(RefCOCOZooDataset):
    """RefCOCOg (UMD partition): 95,010 long expressions for 49,822 objects on 25,799 images; see ``refcoco``."""

    source = "refcocog"
    dataset_type = RefCOCOgDataset

    @property
    def supported_splits(self):
        return ("train", "val", "test")


def fetch(source: str, repository: str | None, folder: Path) -> Path:
    """Downloads annotations from the hub and finds COCO's images; returns a folder that has both.

    Raises:
        DownloadError: nothing is published at a place that can be fetched from, or it cannot be reached
    """
    advice = (
        f"Get the files another way and pass source_dir=<folder with {source}'s refs and instances.json> and, where the "
        "images are elsewhere, data_path=<COCO train2014 folder>."
    )
    if repository is None:
        raise DownloadError(f"{source} is not published at an address that still answers", advice=advice)
    sha = fetch_snapshot(repository, folder, advice, patterns=["*.json", "*.p"])
    (folder / REVISION).write_text(f"{sha}\n")
    images = folder / "train2014"
    if not images.exists():
        import fiftyone.zoo as foz

        try:
            _, coco = foz.download_zoo_dataset("coco-2014", split="train")
        except (OSError, ValueError, RuntimeError) as e:
            raise DownloadError("COCO's train2014 images could not be fetched", found=e, advice=advice) from e
        images.symlink_to(Path(coco) / "train" / "data", target_is_directory=True)
    return folder


def importer_for(source: str) -> type[GRefCOCODatasetImporter]:
    """The importer class of ``grefcoco``, ``refcoco``, ``refcoco+`` or ``refcocog``."""
    classes = (
        GRefCOCODatasetImporter, RefCOCODatasetImporter, RefCOCOPlusDatasetImporter, RefCOCOgDatasetImporter,
    )  # fmt: skip
    known = {c.source: c for c in classes}
    if source not in known:
        raise ConfigError("unknown data set", expected=", ".join(known), found=source)
    return known[source]


__all__ = [
    "SPLITS", "GRefCOCODataset", "GRefCOCODatasetExporter", "GRefCOCODatasetImporter", "GRefCOCOZooDataset",
    "RefCOCODataset", "RefCOCODatasetExporter", "RefCOCOPlusDataset", "RefCOCOPlusZooDataset", "RefCOCOZooDataset", "RefCOCOgDataset",
    "RefCOCOgDatasetExporter", "RefCOCOgZooDataset", "importer_for",
]  # fmt: skip

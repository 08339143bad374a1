"""Importers and exporters in FiftyOne's sense: the classes behind ``from_dir``, ``add_dir`` and ``export``.

:class:`ExamplesImporter` and :class:`ExamplesExporter` hold what all benchmarks share; a benchmark adds its files.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import fiftyone as fo
import fiftyone.types as fot
import fiftyone.utils.data as foud

from ..datasets.humanref import FIELDS, read_humanref, write_humanref
from ..errors import ConfigError, DataError, ProblemLog
from ..referring import ReferringExample
from .examples import ROW_KEYS, examples_of
from .importers import ImportReport, import_examples
from .media import ImageFolder

logger = logging.getLogger(__name__)


# a dataclass, so that subclasses add arguments without repeating these: FiftyOne passes on only arguments that the
# constructor names, so **kwargs would not do
@dataclass(eq=False, repr=False)
class ExamplesImporter(foud.BatchDatasetImporter, foud.ImportPathsMixin):
    """Base of the importers: paths, options and the call of :func:`~.importers.import_examples`.

    Args:
        dataset_dir: folder of the benchmark
        data_path: folder of the images, absolute or relative to ``dataset_dir``; or a dict of file names to paths
        labels_path: the annotations, absolute or relative to ``dataset_dir``
        strict: whether the first problem is an error; otherwise bad rows are counted, reported and skipped
        max_samples: import at most this many
        mask_storage: "database" to draw masks in the App, "none" to keep only the source's segmentations
        include_all_data, shuffle, seed: accepted from FiftyOne; rows are imported in their order

    Attributes:
        report: the :class:`~.importers.ImportReport` after importing
    """

    dataset_dir: str | os.PathLike | None = None
    data_path: str | os.PathLike | dict[str, str] | None = None
    labels_path: str | os.PathLike | None = None
    strict: bool = False
    max_samples: int | None = None
    mask_storage: str = "database"
    include_all_data: bool = False
    shuffle: bool = False
    seed: int | None = None

    source: ClassVar[str]
    default_data: ClassVar[tuple[str, ...]] = ("images", "data", ".")
    default_labels: ClassVar[str]

    def __post_init__(self):
        super().__init__(
            dataset_dir=self.dataset_dir, shuffle=self.shuffle, seed=self.seed, max_samples=self.max_samples
        )
        if self.shuffle:
            raise ConfigError(
                "a streaming import cannot shuffle", advice="Import without shuffle= and call dataset.shuffle()."
            )
        self.report: ImportReport | None = None

    def examples(self, log: ProblemLog) -> Iterable[ReferringExample]:
        """The examples to import, as a stream."""
        raise NotImplementedError

    def info(self) -> dict[str, Any]:
        """Further facts for ``dataset.info``."""
        return {}

    def total(self) -> int | None:
        """Number of examples, where that is known at once."""
        return None

    def import_samples(self, dataset, tags=None, progress=None):
        """Imports into the dataset and returns the ids of the samples added."""
        log = ProblemLog(strict=self.strict)
        self.report = import_examples(
            dataset,
            self.examples(log),
            ImageFolder(self.images()),
            source=self.source,
            log=log,
            tags=tags or (),
            mask_storage=self.mask_storage,
            max_samples=self.max_samples,
            total=self.total(),
            info=self.info(),
            progress=progress,
        )
        logger.info("%s", self.report.summary())
        return list(self.report.sample_ids)

    def summary(self) -> str:
        """What was imported, in words, after importing."""
        return self.report.summary()

    def images(self) -> Any:
        """Folder of the images (or the dict given)."""
        if isinstance(self.data_path, dict):
            return self.data_path
        if self.data_path is not None:
            return self._below(self.data_path)
        for name in self.default_data:
            if (folder := self._below(name)).is_dir():
                return folder
        return self._below(self.default_data[0])

    def labels(self) -> Path:
        """Path of the annotations."""
        return self._below(self.labels_path if self.labels_path is not None else self.default_labels)

    def _below(self, path: str | os.PathLike) -> Path:
        path = Path(path).expanduser()
        if path.is_absolute():
            return path
        if self.dataset_dir is None:
            return path.absolute()
        return source_of(Path(self.dataset_dir).expanduser().absolute()) / path


#: A file in a zoo dataset's folder that says where the data really lies (``source_dir=``): nothing is copied.
POINTER = "source.json"
#: A file beside downloaded data that holds the hub's revision.
REVISION = "revision.txt"


def source_of(dataset_dir: Path) -> Path:
    """The folder that a zoo dataset's folder points to, else the folder itself."""
    pointer = dataset_dir / POINTER
    return Path(json.loads(pointer.read_text())["source_dir"]) if pointer.is_file() else dataset_dir


class ExamplesExporter(foud.BatchDatasetExporter, foud.ExportPathsMixin):
    """Base of the exporters: reading examples from samples and putting the images in place.

    Args:
        export_dir: folder to write
        data_path: folder of the images; default ``<export_dir>/images``
        labels_path: the annotations; default as the benchmark names them
        export_media: True to copy images, "symlink" to link them, False to leave them where they are
        gt_field, candidates_field, expression_field: which fields to write
        abs_paths, classes: accepted from FiftyOne and not used

    Attributes:
        count: the number of samples written, after exporting; those without ground truth are left out
        kept: what samples must have, in words, where ground truth alone is not enough
    """

    default_labels: str
    kept: str | None = None

    @classmethod
    def writable(cls, samples, gt_field: str) -> fo.DatasetView:
        """Those of the samples that are written, not left out."""
        return samples.exists(gt_field)

    def __init__(
        self,
        export_dir=None,
        data_path=None,
        labels_path=None,
        export_media=None,
        gt_field="ground_truth",
        candidates_field="candidates",
        expression_field="expression",
        abs_paths=False,
        classes=None,
    ):
        super().__init__(export_dir=export_dir)
        if export_media is None:
            export_media = export_dir is not None or data_path is not None
        if export_media not in (True, False, "symlink"):
            raise ConfigError("unsupported export_media", expected="True, False or 'symlink'", found=export_media)
        if labels_path is None and export_dir is None:
            raise ConfigError("nowhere to write", expected="export_dir= or labels_path=")
        base = Path(export_dir or ".").expanduser()
        self.data_path = base / (data_path or "images")
        self.labels_path = base / (labels_path or self.default_labels)
        self.export_media = export_media
        self.count = 0
        self.fields = dict(gt_field=gt_field, candidates_field=candidates_field, expression_field=expression_field)

    def write(self, examples: Iterable[ReferringExample]) -> int:
        """Writes the annotations and returns the number of rows."""
        raise NotImplementedError

    def export_samples(self, sample_collection, progress=None):
        """Writes images and annotations."""
        self.labels_path.parent.mkdir(parents=True, exist_ok=True)
        total = len(sample_collection)
        with fo.ProgressBar(total=total, progress=progress, quiet=progress is False) as bar:
            self.write(self._placed(bar(examples_of(sample_collection, **self.fields))))

    def _placed(self, pairs: Iterable[tuple[ReferringExample, str]]) -> Iterator[ReferringExample]:
        """Copies each image once and gives examples the name under which their image was put."""
        name_of: dict[str, str] = {}
        taken: dict[str, str] = {}
        self.count = 0
        for self.count, (example, path) in enumerate(pairs, 1):
            if path not in name_of:
                name = _free_name(example.file_name, path, taken)
                name_of[path], taken[name] = name, path
                if self.export_media:
                    _put(path, self.data_path / name, link=self.export_media == "symlink")
            name = name_of[path]
            yield example if name == example.file_name else replace(example, file_name=name)


def _free_name(name: str, path: str, taken: dict[str, str]) -> str:
    stem, dot, ext = name.rpartition(".")
    candidate, k = name, 2
    while taken.get(candidate, path) != path:
        candidate = f"{stem}-{k}{dot}{ext}" if dot else f"{name}-{k}"
        k += 1
    return candidate


def _put(source: str, target: Path, link: bool) -> None:
    if not os.path.isfile(source):
        raise DataError("there is no such image", where=source, advice="Leave its samples out, or the images where they are.")
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.exists() and os.path.samefile(source, target):
        return
    try:
        target.unlink(missing_ok=True)
        if link:
            os.symlink(source, target)
        else:
            shutil.copyfile(source, target)
    except OSError as e:
        raise DataError("image cannot be written", where=target, found=e) from e


@dataclass(eq=False, repr=False)
class HumanRefDatasetImporter(ExamplesImporter):
    """HumanRef: ``annotations.jsonl`` and ``images/``.

    Args:
        domains: only these of attribute, position, interaction, reasoning, celebrity, rejection
        revision: recorded in ``dataset.info``; by default what the download left beside the data
        others: see :class:`ExamplesImporter`
    """

    domains: Sequence[str] | str | None = None
    revision: str | None = None

    source = "humanref"
    default_labels = "annotations.jsonl"

    def __post_init__(self):
        super().__post_init__()
        self.domains = [self.domains] if isinstance(self.domains, str) else self.domains

    def examples(self, log):
        # masks are checked while they are drawn: once is enough
        for example in read_humanref(self.labels(), log, domains=self.domains, check_masks=False):
            order = getattr(example.extra, "order", ())
            usual = (*FIELDS[:5], *example.extra, *FIELDS[5:])
            if order and order != usual:
                example = replace(example, extra={**example.extra, ROW_KEYS: list(order)})
            yield example

    def info(self):
        info = {"labels_path": str(self.labels())}
        revision = self.revision or recorded_revision(self.labels().parent)
        return {**info, "revision": revision} if revision else info


class ScenesDatasetImporter(HumanRefDatasetImporter):
    """Drawn scenes, in HumanRef's format."""

    source = "scenes"


def recorded_revision(folder: Path) -> str | None:
    """The hub revision that a download left beside the data, if it did."""
    path = folder / REVISION
    return path.read_text().strip() if path.is_file() else None


class HumanRefDatasetExporter(ExamplesExporter):
    """Writes HumanRef's ``annotations.jsonl`` and ``images/``; see :class:`ExamplesExporter`."""

    default_labels = "annotations.jsonl"

    def write(self, examples):
        return write_humanref(self.labels_path, examples)


class HumanRefDataset(fot.Dataset):
    """HumanRef's official format: ``annotations.jsonl`` beside ``images/``.

    Example::

        dataset = fo.Dataset.from_dir("/data/HumanRef", dataset_type=fiftyone_rexseek.types.HumanRefDataset,
                                      domains=["attribute", "rejection"], max_samples=500)
        dataset.export("/data/copy", dataset_type=fiftyone_rexseek.types.HumanRefDataset)
    """

    def get_dataset_importer_cls(self):
        return HumanRefDatasetImporter

    def get_dataset_exporter_cls(self):
        return HumanRefDatasetExporter

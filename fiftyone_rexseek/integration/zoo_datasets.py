"""Zoo datasets: ``foz.load_zoo_dataset("humanref")`` and ``"rexseek-scenes"``.

The classes are named in ``zoo_datasets.json``, FiftyOne's manifest. Importing this module must stay cheap and must not fail:
FiftyOne does it whenever it lists its zoo.
"""

from __future__ import annotations

import glob
import json
import logging
import lzma
import tarfile
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import fiftyone.zoo.datasets as fozd

from ..errors import ConfigError, DataError, DownloadError, MissingDependencyError
from .dataset_types import POINTER, REVISION, HumanRefDataset

logger = logging.getLogger(__name__)

HUMANREF_REPO = "IDEA-Research/HumanRef"
HUMANREF_LICENSE = "IDEA License 1.0 (non-commercial research); some answers come from OpenAI models, whose terms apply"


class SourceDirDataset(fozd.ZooDataset):
    """A zoo dataset that can use files already on disk, in place: ``source_dir=``.

    Args:
        source_dir: folder with the benchmark's files; nothing is copied
    """

    def __init__(self, source_dir=None):
        self.source_dir = None if source_dir is None else Path(source_dir).expanduser().absolute()

    def _is_dataset_ready(self, dataset_dir, info):
        if self.source_dir is not None and _pointer(dataset_dir) != str(self.source_dir):
            return False
        return super()._is_dataset_ready(dataset_dir, info)

    def _get_splits_to_download(self, splits, dataset_dir, info):
        missing = super()._get_splits_to_download(splits, dataset_dir, info)
        if self.source_dir is None:
            return missing
        elsewhere = {s for s in splits if _pointer(self.get_split_dir(dataset_dir, s)) != str(self.source_dir)}
        return [s for s in splits if s in elsewhere or s in missing]

    def point_to_source(self, folder: str, expected: str) -> None:
        """Records ``source_dir`` in a zoo folder; raises :class:`DataError` unless it is a folder."""
        if not self.source_dir.is_dir():
            raise DataError("source_dir is not a folder", where=self.source_dir, expected=expected)
        Path(folder).mkdir(parents=True, exist_ok=True)
        (Path(folder) / POINTER).write_text(json.dumps({"source_dir": str(self.source_dir)}))


def _pointer(folder: str) -> str | None:
    path = Path(folder) / POINTER
    return json.loads(path.read_text())["source_dir"] if path.is_file() else None


class HumanRefZooDataset(SourceDirDataset):
    """HumanRef (RexSeek, ICCV 2025): 6,000 expressions about people in six domains, one of them without any target.

    Comes from the Hugging Face hub (IDEA-Research/HumanRef, IDEA License 1.0, non-commercial research), or from
    ``source_dir=``, a folder with ``annotations.jsonl`` and ``images/``.

    Args:
        source_dir: use the files there, in place
        revision: revision of the hub repository

    Importer options: ``domains=[...]``, ``max_samples=``, ``strict=``, ``mask_storage=``. The celebrity domain names real
    people; leave it out with ``domains=``.
    """

    def __init__(self, source_dir=None, revision=None):
        super().__init__(source_dir)
        self.revision = revision

    @property
    def name(self):
        return "humanref"

    @property
    def license(self):
        return HUMANREF_LICENSE

    @property
    def tags(self):
        return ("image", "detection", "segmentation", "referring-expression")

    @property
    def supported_splits(self):
        return None

    def _download_and_prepare(self, dataset_dir, scratch_dir, _):
        if self.source_dir is not None:
            self.point_to_source(dataset_dir, "a folder with annotations.jsonl and images/")
            folder = self.source_dir
        else:
            folder = fetch_humanref(Path(dataset_dir), self.revision)
        labels = folder / "annotations.jsonl"
        if not labels.is_file():
            raise DataError("no annotations", where=folder, expected="annotations.jsonl beside images/")
        with labels.open("rb") as f:
            num_samples = sum(1 for line in f if line.strip())
        return HumanRefDataset(), num_samples, None


def fetch_humanref(folder: Path, revision: str | None = None) -> Path:
    """Downloads HumanRef into a folder, resuming what is there, and records the revision; returns the folder.

    Raises:
        DownloadError: the hub cannot be reached or refuses
    """
    advice = (
        "Get the files another way and pass source_dir=<folder with annotations.jsonl and images/>. "
        f"Licence: {HUMANREF_LICENSE}"
    )
    sha = fetch_snapshot(HUMANREF_REPO, folder, advice, revision)
    _arrange(folder)
    (folder / REVISION).write_text(f"{sha}\n")
    return folder


def fetch_snapshot(
    repository: str, folder: Path, advice: str, revision: str | None = None, patterns: Sequence[str] | None = None
) -> str:
    """Downloads a dataset repository of the hub into a folder, resuming what is there; returns the commit it is of.

    Args:
        repository: ``owner/name``
        folder: where to; made if absent
        advice: what else people can do, for the error
        revision: branch, tag or commit
        patterns: only these files

    Raises:
        DownloadError: the hub cannot be reached or refuses
    """
    try:
        from huggingface_hub import HfApi, snapshot_download
        from huggingface_hub.errors import (
            HfHubHTTPError,
            HFValidationError,
            LocalEntryNotFoundError,
            OfflineModeIsEnabled,
        )
    except ImportError as e:
        raise MissingDependencyError("downloads need huggingface_hub", advice="pip install huggingface_hub") from e
    what = f"dataset repository {repository!r} could not be"
    folder.mkdir(parents=True, exist_ok=True)
    try:
        sha = HfApi().dataset_info(repository, revision=revision, timeout=20).sha
        snapshot_download(repository, repo_type="dataset", revision=sha, local_dir=folder, allow_patterns=patterns)
    except (OSError, HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OfflineModeIsEnabled) as e:
        raise DownloadError(f"{what} fetched from the Hugging Face hub ({type(e).__name__})", advice=advice) from e
    except Exception as e:
        # whichever HTTP library the hub client uses: its errors are no OSErrors in every version
        if type(e).__module__.split(".")[0] not in ("httpx", "httpcore", "requests", "urllib3"):
            raise
        raise DownloadError(f"{what} reached ({type(e).__name__})", advice=advice) from e
    return sha


def _arrange(folder: Path) -> None:
    """Brings what was downloaded into the usual shape: annotations.jsonl and images/ side by side."""
    labels = next(iter(sorted(folder.rglob("annotations.jsonl"), key=lambda p: len(p.parts))), None)
    if labels is None:
        return
    if labels.parent != folder:
        labels.replace(folder / "annotations.jsonl")
    images = folder / "images"
    if not images.is_dir():
        for archive in _archives(folder):
            extract(archive, images)
    name = _first_image(folder / "annotations.jsonl")
    if name is None or (images / name).exists():
        return
    found = next((p for p in folder.rglob(glob.escape(name.name)) if p.parts[-len(name.parts) :] == name.parts), None)
    if found is None:
        return
    inner = found.parents[len(name.parts) - 1]
    if not images.exists():
        inner.replace(images)
    else:
        # an archive with a folder of its own inside
        for path in inner.iterdir():
            path.replace(images / path.name)


def _first_image(labels: Path) -> Path | None:
    """Name of the first row's image; None where there is none below a folder, which the reader will say."""
    with labels.open(encoding="utf-8", errors="replace") as f:
        try:
            name = Path(json.loads(f.readline())["image_name"])
        except (ValueError, TypeError, KeyError):
            return None
    return None if name.is_absolute() or ".." in name.parts or not name.parts else name


def _archives(folder: Path) -> Iterator[Path]:
    for pattern in ("*.zip", "*.tar", "*.tar.gz", "*.tgz"):
        yield from sorted(folder.rglob(pattern))


def extract(archive: Path, target: Path) -> None:
    """Unpacks a zip or tar archive.

    Raises:
        DataError: a member has an absolute name, would land outside the folder (by ``..`` or through a link) or is no
            file, folder or link; then nothing, or only members before it, has been written. Also for a damaged archive.
    """
    target.mkdir(parents=True, exist_ok=True)
    try:
        if archive.suffix == ".zip":
            with zipfile.ZipFile(archive) as z:
                for member in z.namelist():
                    _check_inside(archive, target, member)
                z.extractall(target)
        else:
            with tarfile.open(archive) as t:
                for member in t.getnames():
                    _check_inside(archive, target, member)
                t.extractall(target, filter="data")  # also refuses links that lead outside, and devices
    except tarfile.FilterError as e:
        raise DataError("archive member is refused", where=archive, found=e) from e
    except (zipfile.BadZipFile, tarfile.TarError, EOFError, zlib.error, lzma.LZMAError) as e:
        raise DataError("cannot be unpacked", where=archive, found=e, advice="Fetch the file again.") from e


def _check_inside(archive: Path, target: Path, member: str) -> None:
    root = target.resolve()
    if PurePosixPath(member).is_absolute() or not (root / member).resolve().is_relative_to(root):
        raise DataError("archive member would land outside its folder", where=archive, found=member)


class ScenesZooDataset(fozd.ZooDataset):
    """Drawn scenes with exact answers, in HumanRef's format: made here, nothing is downloaded.

    Args:
        num_scenes: how many images
        seed: of the drawing; the same seed gives the same scenes
        size: (width, height) in pixels
        questions_per_scene: expressions per image
    """

    def __init__(self, num_scenes=200, seed=0, size=(640, 480), questions_per_scene=12):
        if int(num_scenes) < 1:
            raise ConfigError("there is nothing to draw", expected="num_scenes >= 1", found=num_scenes)
        self.settings: dict[str, Any] = {
            "count": int(num_scenes),
            "seed": int(seed),
            "size": [int(v) for v in size],
            "questions_per_scene": int(questions_per_scene),
        }

    @property
    def name(self):
        return "rexseek-scenes"

    @property
    def license(self):
        return "Apache-2.0"

    @property
    def tags(self):
        return ("image", "detection", "segmentation", "referring-expression", "synthetic")

    @property
    def supported_splits(self):
        return None

    def _is_dataset_ready(self, dataset_dir, info):
        marker = Path(dataset_dir) / "scenes.json"
        if not marker.is_file() or json.loads(marker.read_text()) != self.settings:
            return False
        return super()._is_dataset_ready(dataset_dir, info)

    def _download_and_prepare(self, dataset_dir, scratch_dir, _):
        from ..datasets.scenes import write_humanref

        settings = dict(self.settings)
        labels = write_humanref(dataset_dir, **{**settings, "size": tuple(settings["size"])})
        (Path(dataset_dir) / "scenes.json").write_text(json.dumps(self.settings))
        with labels.open("rb") as f:
            return ScenesDataset(), sum(1 for _ in f), None


class ScenesDataset(HumanRefDataset):
    """Drawn scenes in HumanRef's format; imported under a source name of their own."""

    def get_dataset_importer_cls(self):
        from .dataset_types import ScenesDatasetImporter

        return ScenesDatasetImporter

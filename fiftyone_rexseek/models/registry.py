"""The named models of this project: where their weights are, on which terms, and how they are loaded.

One table for the command line, FiftyOne's model zoo and the App; the zoo's JSON manifests are written from it and a test
holds them equal.
"""

from __future__ import annotations

import inspect
import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import CheckpointError, ConfigError, DownloadError, MissingDependencyError

logger = logging.getLogger(__name__)

WEIGHTS_FOLDER = Path(__file__).parent / "weights"
_SHOWN: set[str] = set()


@dataclass(frozen=True)
class ModelEntry:
    """One named model.

    Attributes:
        name: as in ``foz.load_zoo_model(name)``
        family: ``"rexseek"`` (chooses among candidate boxes) or ``"rela"`` (segments)
        description: one sentence
        license: exact names of the licences of the weights
        source: page of the model
        repo_id: hub repository, or None
        size_bytes: of the weights, where known
        parameters: number of parameters
        packaged: the weights come with this package
        variant: the size that ReLA's weights must have; "tiny": any but the public ones
    """

    name: str
    family: str
    description: str
    license: str
    source: str
    repo_id: str | None = None
    size_bytes: int | None = None
    parameters: int | None = None
    packaged: bool = False
    variant: str | None = None

    @property
    def needs_candidates(self) -> bool:
        """Whether the model chooses among given boxes."""
        return self.family == "rexseek"

    @property
    def packaged_folder(self) -> Path:
        """Where weights that come with the package are."""
        return WEIGHTS_FOLDER / self.name


_PROJECT = "https://github.com/fiftyone-rexseek/fiftyone-rexseek"
_RELA_PAGE = "https://github.com/henghuiding/ReLA"
_REXSEEK_LICENSE = "IDEA License 1.0 (non-commercial); language model: Qwen RESEARCH LICENSE AGREEMENT"

ENTRIES: Mapping[str, ModelEntry] = {
    e.name: e
    for e in (
        ModelEntry(
            "rexseek-3b",
            "rexseek",
            "RexSeek-3B: finds all the people an expression refers to among candidate boxes, or says that there is none",
            _REXSEEK_LICENSE,
            "https://huggingface.co/IDEA-Research/RexSeek-3B",
            repo_id="IDEA-Research/RexSeek-3B",
            # 3.916e9 parameters in 16 bits
            size_bytes=7_832_000_000,
            parameters=3_916_000_000,
        ),
        ModelEntry(
            "rexseek-tiny",
            "rexseek",
            "A RexSeek of a few million parameters trained on drawn scenes: runs anywhere, knows nothing of photographs",
            "Apache-2.0 (this project)",
            _PROJECT,
            packaged=True,
        ),
        ModelEntry(
            "rela-swin-base",
            "rela",
            "ReLA (GRES, CVPR 2023), Swin-B: generalized referring segmentation",
            "MIT",
            _RELA_PAGE,
            size_bytes=902_000_000,
            parameters=225_500_000,
            variant="swin-base",
        ),
        ModelEntry(
            "rela-swin-tiny",
            "rela",
            "ReLA (GRES, CVPR 2023), Swin-T: generalized referring segmentation",
            "MIT",
            _RELA_PAGE,
            size_bytes=650_000_000,
            parameters=162_600_000,
            variant="swin-tiny",
        ),
        ModelEntry(
            "rela-r50",
            "rela",
            "ReLA (GRES, CVPR 2023), ResNet-50: generalized referring segmentation",
            "MIT",
            _RELA_PAGE,
            size_bytes=614_000_000,
            parameters=153_400_000,
            variant="r50",
        ),
        ModelEntry(
            "rela-tiny",
            "rela",
            "A ReLA with boxes and a count, trained on drawn scenes: runs anywhere, knows nothing of photographs",
            "Apache-2.0 (this project)",
            _PROJECT,
            packaged=True,
            variant="tiny",
        ),
    )
}


def entry(name: str) -> ModelEntry:
    """The entry of a name; :class:`ConfigError` lists the names when there is none.

    Example::

        >>> entry("rela-r50").license
        'MIT'
    """
    if name not in ENTRIES:
        raise ConfigError("unknown model", expected=f"one of {sorted(ENTRIES)}", found=name)
    return ENTRIES[name]


def find_weights(
    model: ModelEntry, weights: str | os.PathLike | None = None, revision: str | None = None
) -> Path:
    """The local folder or file of a model's weights: ``weights``, the package's own, or the hub's (downloaded).

    Raises:
        CheckpointError: ``weights`` does not exist
        DownloadError: the weights cannot be fetched; names the repository, the option for a local folder, and the licence
    """
    if weights is not None:
        path = Path(weights).expanduser()
        if not path.exists():
            raise CheckpointError(
                f"the weights given for {model.name} do not exist", where=path, expected="an existing folder or file"
            )
        return path
    if model.packaged:
        if not model.packaged_folder.is_dir():
            raise CheckpointError(
                f"the weights of {model.name} are not in this installation",
                where=model.packaged_folder,
                advice="Reinstall fiftyone-rexseek, or train them with: fiftyone-rexseek train, then give weights=<folder>",
            )
        return model.packaged_folder
    if model.repo_id is not None:
        from .hub import local_folder

        return local_folder(model.repo_id, revision=revision, license=model.license)
    raise DownloadError(
        f"the weights of {model.name} are not on the Hugging Face hub",
        advice=f"Download the checkpoint linked at {model.source} and give weights=<file or folder>. "
        f"The weights come under: {model.license}",
    )


def show_license(model: ModelEntry) -> None:
    """Logs the licence of a model's weights, once per process."""
    if model.name not in _SHOWN:
        _SHOWN.add(model.name)
        logger.warning("%s: weights under %s (%s)", model.name, model.license, model.source)


def load(
    name: str,
    weights: str | os.PathLike | None = None,
    *,
    revision: str | None = None,
    device: str | None = None,
    dtype: Any = None,
    **options,
) -> Any:
    """A :class:`~fiftyone_rexseek.models.rexseek.RexSeek` or :class:`~fiftyone_rexseek.models.rela.ReLA` by name.

    Args:
        name: a name of :data:`ENTRIES`
        weights: local folder or file; by default the package's or the hub's
        revision: of the hub repository
        device: ``"cpu"``, ``"cuda"``, ``"mps"``; chosen when None
        dtype: ``"float32"``, ``"bfloat16"``, ``"float16"`` or a torch dtype; chosen when None
        options: further options of ``from_pretrained``

    Raises:
        ConfigError: unknown name, option or dtype (before anything is downloaded)
        CheckpointError, DownloadError: see :func:`find_weights`
        MissingDependencyError: torch or transformers is missing
    """
    model = entry(name)
    try:
        import torch

        if model.family == "rexseek":
            from .rexseek import RexSeek as loader
        else:
            from .rela import ReLA as loader
    except ImportError as e:
        raise MissingDependencyError(
            f"{name} needs torch and transformers ({e})", advice="pip install 'fiftyone-rexseek[models]'"
        ) from e
    if isinstance(dtype, str):
        found = getattr(torch, dtype, None)
        if not isinstance(found, torch.dtype) or not found.is_floating_point:
            raise ConfigError("unknown dtype", expected="float32, bfloat16 or float16", found=dtype)
        dtype = found
    _check_options(loader.from_pretrained, options, name)
    folder = find_weights(model, weights, revision)
    show_license(model)
    chosen = {"device": device, "dtype": dtype, **options}
    if model.variant is not None:
        chosen.setdefault("variant", model.variant)  # weights of another size are named, not loaded
    return loader.from_pretrained(folder, **{k: v for k, v in chosen.items() if v is not None})


def _check_options(function, options: Mapping[str, Any], name: str) -> None:
    parameters = inspect.signature(function).parameters
    if any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        return
    unknown = sorted(set(options) - set(parameters))
    if unknown:
        known = sorted(set(parameters) - {"cls", "self"})
        raise ConfigError(f"unknown option for {name}", expected=f"some of {known}", found=unknown)

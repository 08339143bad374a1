"""Making the names of this project known to FiftyOne's model zoo.

Persistent: ``fiftyone-rexseek install`` copies ``zoo/`` below ``fo.config.model_zoo_dir`` (that also gives the App's stock
operator an input form). For one process: :func:`register_models` adds the package's manifest, unless the former was done.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import fiftyone as fo

from ..models import registry

MANIFEST = Path(__file__).resolve().parent.parent / "zoo_models.json"
#: Folder of the stubs below ``fo.config.model_zoo_dir``. FiftyOne puts the stub into ``sys.modules`` under this name, so it
#: must not be the name of the package.
SOURCE_NAME = "rexseek_zoo_source"
_CLASSES = {"rexseek": "RexSeekZooModel", "rela": "ReLAZooModel"}


def installed_source() -> Path | None:
    """The folder that ``fiftyone-rexseek install`` wrote, or None."""
    root = fo.config.model_zoo_dir
    folder = Path(root) / SOURCE_NAME if root else None
    return folder if folder is not None and (folder / "manifest.json").is_file() else None


def register_models() -> bool:
    """Lets ``foz.load_zoo_model`` know our names in this process; harmless when repeated.

    Returns:
        False when the installer's folder provides them already (FiftyOne would warn of names known twice)
    """
    if installed_source() is not None:
        return False
    paths = list(fo.config.model_zoo_manifest_paths or [])
    if str(MANIFEST) not in paths:
        fo.config.model_zoo_manifest_paths = [*paths, str(MANIFEST)]
    return True


def manifest(remote: bool) -> dict[str, Any]:
    """The zoo manifest, made from :data:`fiftyone_rexseek.models.registry.ENTRIES`.

    Args:
        remote: the form of ``zoo/manifest.json`` (a remote source, with a marker file per model) or of the package's
            ``zoo_models.json``
    """
    models = [_model(entry, remote) for entry in registry.ENTRIES.values()]
    if not remote:
        return {"models": models}
    return {"name": SOURCE_NAME, "url": "https://github.com/fiftyone-rexseek/fiftyone-rexseek", "models": models}


def _model(entry: registry.ModelEntry, remote: bool) -> dict[str, Any]:
    model: dict[str, Any] = {
        "base_name": entry.name,
        # A flat marker file: FiftyOne takes "is a file" for "is downloaded", and None breaks its listing of remote sources.
        "base_filename": f"{entry.name}.json" if remote else None,
        "author": "IDEA Research" if entry.name == "rexseek-3b" else "this project" if entry.packaged else "Chang Liu, et al.",
        "version": None,
        "url": None,
        "description": entry.description,
        "source": entry.source,
        "license": entry.license,
        "size_bytes": entry.size_bytes,
        "requirements": {
            "packages": ["torch", "torchvision", "transformers", "safetensors"],
            "cpu": {"support": True},
            "gpu": {"support": True},
        },
        "tags": ["referring-expression", "detection" if entry.family == "rexseek" else "segmentation", "torch", entry.family],
        "date_added": "2026-11-21 00:00:00",
    }
    if not remote:
        model["default_deployment_config_dict"] = {
            "type": f"fiftyone_rexseek.integration.zoo_models.{_CLASSES[entry.family]}",
            "config": {"zoo_name": entry.name},
        }
    return model


def write_manifests(root: Path) -> None:
    """Writes ``zoo/manifest.json`` and ``fiftyone_rexseek/zoo_models.json`` below a checkout."""
    for path, remote in ((root / "zoo" / "manifest.json", True), (root / "fiftyone_rexseek" / "zoo_models.json", False)):
        path.write_text(json.dumps(manifest(remote), indent=2) + "\n")

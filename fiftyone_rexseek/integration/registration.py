"""Making this project's names known to FiftyOne within one process; ``install`` makes it lasting."""

from __future__ import annotations

from pathlib import Path

import fiftyone as fo

from .evaluation import METHODS
from .zoo_registration import register_models

#: FiftyOne's manifest of our zoo datasets.
DATASET_MANIFEST = Path(__file__).resolve().parent.parent / "zoo_datasets.json"


def register() -> None:
    """Registers zoo models, zoo datasets and evaluation methods; harmless when repeated."""
    register_models()
    register_datasets()
    register_methods()


def register_datasets() -> None:
    """Lets ``foz.load_zoo_dataset`` know our names."""
    paths = list(fo.config.dataset_zoo_manifest_paths or [])
    if not any(Path(p).name == DATASET_MANIFEST.name and Path(p).parent.name == "fiftyone_rexseek" for p in paths):
        fo.config.dataset_zoo_manifest_paths = [*paths, str(DATASET_MANIFEST)]


def register_methods() -> None:
    """Lets ``dataset.evaluate_detections(method=...)`` know our methods."""
    for name, entry in evaluation_backends().items():
        fo.evaluation_config.detection_backends.setdefault(name, entry)


def evaluation_backends() -> dict[str, dict[str, str]]:
    """What FiftyOne's evaluation config says about our methods."""
    return {name: {"config_cls": where.replace(":", ".")} for name, where in METHODS.items()}

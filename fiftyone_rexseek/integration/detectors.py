"""Any detector of FiftyOne's model zoo as a source of candidates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any
from urllib.parse import urlsplit

import fiftyone as fo
import fiftyone.zoo as foz
import numpy as np
import requests
from PIL import Image

from ..errors import ConfigError, DownloadError, ReferringError
from ..geometry import to_absolute
from ..models.proposals import ProposalOptions, Proposals, finish

#: What loading a zoo model raises without network; the downloaders share no class of their own.
LOADING_ERRORS = (OSError, ValueError, RuntimeError, ImportError, AttributeError, KeyError)


def is_zoo_model(name: str) -> bool:
    """Whether FiftyOne's zoo has a model of this name; nothing is loaded."""
    try:
        foz.get_zoo_model(name)
    except ValueError:
        return False
    return True


def load_zoo(name: str, purpose: str, **options) -> Any:
    """A FiftyOne zoo model, or one error that names it, its licence and what to do.

    Raises:
        ConfigError: there is no such zoo model
        DownloadError: it could not be fetched or loaded
    """
    try:
        entry = foz.get_zoo_model(name)
    except ValueError as e:
        raise ConfigError(f"unknown {purpose}", expected="a name of foz.list_zoo_models()", found=name) from e
    try:
        return foz.load_zoo_model(name, **options)
    except ReferringError:
        raise
    except LOADING_ERRORS as e:
        raise DownloadError(
            f"zoo model {name!r} ({entry.source}) could not be loaded: {_reason(e)}",
            advice=f"With network access, run: fiftyone zoo models download {name}. Its licence: {entry.license or 'see its source'}",
        ) from e


def _reason(error: Exception) -> str:
    """What went wrong in one line; without a network, the host instead of a chain of wrapped errors."""
    if isinstance(error, requests.ConnectionError) and error.request is not None:
        return f"no connection to {urlsplit(error.request.url).hostname}"
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"


class ZooDetector:
    """Candidates from a FiftyOne model that writes Detections: fixed classes, so expressions' nouns are not used.

    Args:
        model: a FiftyOne model, such as ``foz.load_zoo_model("yolo11x-coco-torch")``
        classes: keep only boxes with these labels
        options: thresholds and cap
    """

    uses_names = False

    def __init__(
        self, model, *, classes: Sequence[str] | None = None, options: ProposalOptions | None = None, name: str | None = None
    ):
        self.model = model
        self.classes = None if classes is None else frozenset(classes)
        self.options = options or ProposalOptions()
        self.name = name or type(model).__name__

    @classmethod
    def load(cls, name: str, *, classes: Sequence[str] | None = None, load_options: Mapping[str, Any] | None = None, **options):
        """Loads a model of the zoo by name; ``options`` are those of :class:`ProposalOptions`."""
        checked = ProposalOptions(**options)
        return cls(load_zoo(name, "detector", **(load_options or {})), classes=classes, options=checked, name=name)

    def describe(self) -> Mapping[str, Any]:
        classes = None if self.classes is None else sorted(self.classes)
        return {"source": "fiftyone zoo", "weights": self.name, "classes": classes, **asdict(self.options)}

    def propose(self, images: Sequence[Image.Image], names: Sequence[Sequence[str]]) -> list[Proposals]:
        """Boxes of every image; ``names`` are ignored."""
        with self.model:
            return [self._proposals(image, self.model.predict(np.array(image))) for image in images]

    def _proposals(self, image: Image.Image, labels) -> Proposals:
        if not isinstance(labels, fo.Detections):
            raise ConfigError(f"{self.name} is no detector", expected="a model that gives Detections", found=type(labels).__name__)
        kept = [d for d in labels.detections if self.classes is None or d.label in self.classes]
        kept = [d for d in kept if d.confidence is None or d.confidence >= self.options.box_threshold]
        boxes = to_absolute([d.bounding_box for d in kept], *image.size)
        scores = [np.nan if d.confidence is None else d.confidence for d in kept]
        return finish(boxes, scores, [d.label or "object" for d in kept], *image.size, self.options)

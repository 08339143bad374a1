"""FiftyOne's own SAM models on selected boxes.

The model gets what ``dataset.apply_model(sam, ..., box_prompt_field=...)`` would give it, but for all boxes of an image at
once and without a field in between, so an image that several samples share is encoded once. FiftyOne reads files as RGB.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import fiftyone as fo
import fiftyone.core.utils as fou
import numpy as np

from .. import masks
from ..errors import ConfigError
from ..geometry import to_relative
from ..models.images import open_image
from ..referring import RLE
from .detectors import load_zoo

DEFAULT_MODEL = "segment-anything-vitb-torch"


class ZooSegmenter:
    """Masks for boxes from any FiftyOne model that takes ``box_prompt_field``.

    Args:
        model: such as ``foz.load_zoo_model("segment-anything-vitb-torch")``
    """

    def __init__(self, model, name: str | None = None):
        if not hasattr(model, "build_get_item"):
            raise ConfigError(
                "this model takes no boxes", expected="one of FiftyOne's segment-anything models", found=type(model).__name__
            )
        self.model, self.name = model, name or type(model).__name__
        try:
            self._get_item = model.build_get_item(field_mapping={"box_prompt_field": "boxes"})
        except ValueError as e:
            raise ConfigError(
                "this model takes no boxes", expected="one of FiftyOne's segment-anything models", found=self.name
            ) from e

    @classmethod
    def load(cls, name: str = DEFAULT_MODEL, **load_options) -> ZooSegmenter:
        """Loads a model of the zoo by name."""
        return cls(load_zoo(name, "segmentation model", **load_options), name)

    def describe(self) -> Mapping[str, Any]:
        return {"source": "fiftyone zoo", "weights": self.name}

    def segment(self, image, boxes_xyxy) -> list[RLE]:
        """One RLE per box at the size of the image; an empty mask where the model finds nothing.

        Args:
            image: path, PIL image or HWC uint8 array; RGB
            boxes_xyxy: (n, 4) absolute pixels
        """
        boxes = np.asarray(boxes_xyxy, dtype=np.float64).reshape(-1, 4)
        if not len(boxes):
            return []
        picture = open_image(image)
        width, height = picture.size
        # the label comes back with each mask: the model leaves out boxes for which it finds nothing
        prompts = fo.Detections(
            detections=[
                fo.Detection(label=str(n), bounding_box=box) for n, box in enumerate(to_relative(boxes, width, height).tolist())
            ]
        )
        with tempfile.TemporaryDirectory(prefix="rexseek-sam-") as folder:
            # the model opens files itself, and does not turn those that EXIF says are turned
            path = str(Path(folder) / "image.png")
            picture.save(path, compress_level=1)
            item = self._get_item({"filepath": path, "id": path, "box_prompt_field": prompts})
            with fou.SetAttributes(self.model, preprocess=False), self.model:
                batch = self.model.collate_fn([item]) if self.model.has_collate_fn else [item]
                [found] = self.model.predict_all(batch)
        result = [np.zeros((height, width), bool) for _ in boxes]
        for detection in found.detections:
            _draw(result[int(detection.label)], detection)
        return [masks.encode(mask) for mask in result]


def _draw(full: np.ndarray, detection: fo.Detection) -> None:
    """Puts a mask where FiftyOne's SAM cut it out: the rounded box."""
    height, width = full.shape
    x, y = detection.bounding_box[:2]
    x0, y0 = max(round(x * width), 0), max(round(y * height), 0)
    crop = np.asarray(detection.mask, dtype=bool)
    part = full[y0 : y0 + crop.shape[0], x0 : x0 + crop.shape[1]]
    part |= crop[: part.shape[0], : part.shape[1]]

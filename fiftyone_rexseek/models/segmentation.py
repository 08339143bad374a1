"""Masks for boxes through transformers' SAM or SAM2.

The public RexSeek demo declares its RGB pixels as BGR, so its SAM sees swapped channels; here RGB is given as RGB.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np

from ..errors import CheckpointError, MissingDependencyError
from ..masks import encode
from ..referring import RLE
from .hub import local_folder
from .images import open_image

LICENSE = "Apache-2.0 (Segment Anything, Meta)"


@runtime_checkable
class BoxSegmenter(Protocol):
    """Turns boxes into masks."""

    def segment(self, image, boxes_xyxy) -> list[RLE]:
        """One RLE per box, at the size of the image."""
        ...

    def describe(self) -> Mapping[str, Any]:
        """JSON-compatible facts for the record of a run."""
        ...


class SamSegmenter:
    """SAM or SAM2 of transformers on boxes: one mask per box, all boxes of an image in one pass.

    Args:
        model: a ``SamModel`` or ``Sam2Model``
        processor: its processor
        max_boxes: boxes per pass of the mask decoder; memory grows with it
    """

    def __init__(self, model, processor, *, max_boxes: int = 64, source: str = ""):
        self.model = model.eval()
        self.processor = processor
        self.max_boxes = max_boxes
        self.source = source

    @classmethod
    def from_pretrained(
        cls,
        folder_or_repo: str | os.PathLike = "facebook/sam-vit-base",
        *,
        revision: str | None = None,
        device: str | None = None,
        dtype: Any = None,
    ) -> SamSegmenter:
        """Loads a local folder or hub repository of SAM or SAM2, whichever its config says.

        Raises:
            DownloadError: the repository cannot be fetched
            CheckpointError: the folder is neither SAM nor SAM2
        """
        folder = local_folder(folder_or_repo, revision=revision, license=LICENSE, option="folder_or_repo")
        try:
            import torch
            from transformers import AutoConfig, Sam2Model, Sam2Processor, SamModel, SamProcessor
        except ImportError as e:
            raise MissingDependencyError("SAM needs torch and transformers", advice="pip install 'fiftyone-rexseek[models]'") from e
        classes = {
            "sam": (SamModel, SamProcessor),
            "sam2": (Sam2Model, Sam2Processor),
            # the published sam2 repositories hold video models; their image part is Sam2Model
            "sam2_video": (Sam2Model, Sam2Processor),
        }
        try:
            kind = AutoConfig.from_pretrained(folder).model_type
            model_class, processor_class = classes[kind]
            model = model_class.from_pretrained(folder, dtype=dtype or torch.float32)
            processor = processor_class.from_pretrained(folder)
        except KeyError as e:
            raise CheckpointError("not a SAM checkpoint", where=folder, expected="model_type sam or sam2", found=kind) from e
        except (OSError, ValueError, RuntimeError) as e:
            raise CheckpointError(f"SAM could not be loaded ({type(e).__name__}: {e})", where=folder) from e
        device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        return cls(model.to(device), processor, source=str(folder_or_repo))

    def describe(self) -> Mapping[str, Any]:
        return {"source": self.model.config.model_type, "weights": self.source}

    def segment(self, image, boxes_xyxy: Sequence[Sequence[float]] | np.ndarray) -> list[RLE]:
        """One RLE per box at the size of the image; no boxes, no masks (and no pass of the model).

        Args:
            image: path, PIL image or HWC uint8 array; RGB
            boxes_xyxy: (n, 4) absolute pixels
        """
        import torch

        boxes = np.asarray(boxes_xyxy, dtype=np.float64).reshape(-1, 4)
        if not len(boxes):
            return []
        picture = open_image(image)
        inputs = self.processor(images=picture, input_boxes=[boxes.tolist()], return_tensors="pt")
        original_sizes = inputs["original_sizes"]
        reshaped = inputs.get("reshaped_input_sizes")
        masks: list[RLE] = []
        with torch.inference_mode():
            pixels = inputs["pixel_values"].to(self.model.device, self.model.dtype)
            embeddings = self.model.get_image_embeddings(pixels)
            prompts = inputs["input_boxes"].to(self.model.device, self.model.dtype)
            for start in range(0, len(boxes), self.max_boxes):
                outputs = self.model(
                    image_embeddings=embeddings,
                    input_boxes=prompts[:, start : start + self.max_boxes],
                    multimask_output=False,
                )
                sizes = [original_sizes] if reshaped is None else [original_sizes, reshaped]
                [full] = self.processor.post_process_masks(outputs.pred_masks.float().cpu(), *sizes)
                masks += [encode(m) for m in full[:, 0].numpy().astype(bool)]
        return masks

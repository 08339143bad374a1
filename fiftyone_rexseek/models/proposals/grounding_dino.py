"""Grounding DINO through transformers: the default detector.

Boxes and scores are those of ``post_process_grounded_object_detection``; the names come from the caption's known spans
(see :func:`~fiftyone_rexseek.models.proposals.attribute`).
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

from ...errors import CheckpointError, MissingDependencyError
from ..hub import local_folder
from . import ProposalOptions, Proposals, attribute, caption_of, chunk_names, clean_names, finish

DEFAULT_CHECKPOINT = "IDEA-Research/grounding-dino-tiny"
LICENSE = "Apache-2.0 (Grounding DINO, IDEA-Research)"


class GroundingDino:
    """Open-vocabulary boxes from any checkpoint that ``AutoModelForZeroShotObjectDetection`` loads as Grounding DINO.

    Example::

        detector = GroundingDino.from_pretrained("IDEA-Research/grounding-dino-base", box_threshold=0.35)
        [proposals] = detector.propose([image], [["person", "dog"]])
    """

    def __init__(self, model, processor, *, options: ProposalOptions | None = None, batch_size: int = 4, source: str = ""):
        self.model = model.eval()
        self.processor = processor
        self.options = options or ProposalOptions()
        self.batch_size = max(1, int(batch_size))
        self.source = source
        self.max_text_tokens = int(getattr(model.config, "max_text_len", 256))

    @classmethod
    def from_pretrained(
        cls,
        folder_or_repo: str | os.PathLike = DEFAULT_CHECKPOINT,
        *,
        revision: str | None = None,
        device: str | None = None,
        dtype: Any = None,
        batch_size: int = 4,
        **options,
    ) -> GroundingDino:
        """Loads a local folder or a hub repository; ``options`` are those of :class:`ProposalOptions`.

        Raises:
            DownloadError: the repository cannot be fetched
            CheckpointError: the folder is no Grounding DINO
        """
        checked = ProposalOptions(**options)
        folder = local_folder(folder_or_repo, revision=revision, license=LICENSE, option="folder_or_repo")
        try:
            import torch
            from transformers import AutoModelForZeroShotObjectDetection, AutoProcessor
        except ImportError as e:
            raise MissingDependencyError(
                "Grounding DINO needs torch and transformers", advice="pip install 'fiftyone-rexseek[models]'"
            ) from e
        try:
            processor = AutoProcessor.from_pretrained(folder)
            model = AutoModelForZeroShotObjectDetection.from_pretrained(folder, dtype=dtype or torch.float32)
        except (OSError, ValueError, KeyError, RuntimeError) as e:
            raise CheckpointError(
                f"not a Grounding DINO checkpoint ({type(e).__name__}: {e})",
                where=folder,
                expected="config.json, model.safetensors, preprocessor_config.json and a tokenizer",
                advice="An IDEA .pth file is converted by fiftyone_rexseek.models.proposals.convert",
            ) from e
        device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        return cls(model.to(device), processor, options=checked, batch_size=batch_size, source=str(folder_or_repo))

    def describe(self) -> Mapping[str, Any]:
        from dataclasses import asdict

        return {"source": "grounding-dino", "weights": self.source, **asdict(self.options)}

    def propose(self, images: Sequence[Image.Image], names: Sequence[Sequence[str]]) -> list[Proposals]:
        """Boxes of every image for its own names; no names, no boxes.

        Args:
            images: RGB images of any sizes
            names: for each image, names or a comma-separated string
        """
        results: list[list[tuple[np.ndarray, np.ndarray, list[str]]]] = [[] for _ in images]
        jobs = []
        for i, (image, given) in enumerate(zip(images, names, strict=True)):
            jobs += [(i, image, chunk) for chunk in chunk_names(clean_names(given), self._fits)]
        for start in range(0, len(jobs), self.batch_size):
            batch = jobs[start : start + self.batch_size]
            for (i, _, _), found in zip(batch, self._detect([b[1] for b in batch], [b[2] for b in batch])):
                results[i].append(found)
        merged = []
        for image, parts in zip(images, results):
            boxes = np.concatenate([np.zeros((0, 4)), *(p[0] for p in parts)])
            scores = np.concatenate([np.zeros(0), *(p[1] for p in parts)])
            labels = [label for p in parts for label in p[2]]
            merged.append(finish(boxes, scores, labels, *image.size, self.options))
        return merged

    def _fits(self, caption: str) -> bool:
        return len(self.processor.tokenizer(caption)["input_ids"]) <= self.max_text_tokens

    def _detect(self, images: list[Image.Image], names: list[list[str]]) -> list[tuple[np.ndarray, np.ndarray, list[str]]]:
        import torch

        captions, spans = zip(*(caption_of(n) for n in names))
        tokens = self.processor.tokenizer(
            list(captions),
            padding=True,
            truncation=True,
            max_length=self.max_text_tokens,
            return_offsets_mapping=True,
            return_tensors="pt",
        )
        offsets = tokens.pop("offset_mapping").tolist()
        inputs = {**self.processor.image_processor(images=images, return_tensors="pt"), **tokens}
        inputs = {
            k: v.to(self.model.device, self.model.dtype if v.is_floating_point() else None) for k, v in inputs.items()
        }
        with torch.inference_mode():
            outputs = self.model(**inputs)
        probs = outputs.logits.float().sigmoid().cpu().numpy()
        cxcywh = outputs.pred_boxes.double().cpu().numpy()
        found = []
        for k, image in enumerate(images):
            scores = probs[k].max(axis=1)
            keep = scores > self.options.box_threshold
            centre, size = cxcywh[k][keep, :2], cxcywh[k][keep, 2:]
            boxes = np.concatenate([centre - size / 2, centre + size / 2], axis=1) * np.tile(image.size, 2)
            labels = attribute(probs[k][keep], offsets[k], spans[k], names[k], self.options.text_threshold)
            found.append((boxes, scores[keep].astype(np.float64), labels))
        return found

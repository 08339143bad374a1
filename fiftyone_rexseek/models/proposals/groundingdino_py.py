"""Grounding DINO through the ``groundingdino-py`` package: for people who have IDEA's ``.pth`` checkpoints.

The package (0.4.0) no longer builds on transformers 5; :func:`patch` mends that. For anything new, prefer the transformers
port, with :mod:`~fiftyone_rexseek.models.proposals.convert` for the checkpoint.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ...errors import CheckpointError, MissingDependencyError
from . import ProposalOptions, Proposals, attribute, caption_of, chunk_names, clean_names, finish

MAX_TEXT_TOKENS = 256
SHORT_SIDE, LONG_SIDE = 800, 1333
IMAGE_MEAN, IMAGE_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def _package():
    try:
        import groundingdino
        from groundingdino.models import build_model
        from groundingdino.util.slconfig import SLConfig
    except ImportError as e:
        raise MissingDependencyError(
            "the groundingdino-py package is not installed",
            advice="pip install 'fiftyone-rexseek[groundingdino]', or use the transformers port (GroundingDino)",
        ) from e
    return groundingdino, build_model, SLConfig


def patch() -> None:
    """Lets groundingdino-py run on transformers 5 by replacing its wrapper of BERT; harmless when repeated.

    The wrapper of the package calls ``BertModel.get_extended_attention_mask``, which transformers 5 no longer has. The
    replacement hands BERT a 4-D mask instead; names in the state dict stay, and outputs are equal.
    """
    import torch
    from groundingdino.models.GroundingDINO import bertwarper
    from groundingdino.models.GroundingDINO import groundingdino as module

    class BertModelWarper(torch.nn.Module):  # the package's spelling
        def __init__(self, bert_model):
            super().__init__()
            self.config = bert_model.config
            self.embeddings, self.encoder, self.pooler = bert_model.embeddings, bert_model.encoder, bert_model.pooler
            self._bert = [bert_model]  # in a list, so that it is not registered a second time

        def forward(self, input_ids=None, attention_mask=None, token_type_ids=None, position_ids=None, **_):
            if attention_mask is not None and attention_mask.ndim == 3:
                attention_mask = attention_mask[:, None]
            return self._bert[0](
                input_ids=input_ids,
                attention_mask=attention_mask,
                token_type_ids=token_type_ids,
                position_ids=position_ids,
            )

    bertwarper.BertModelWarper = module.BertModelWarper = BertModelWarper


class GroundingDinoPy:
    """Open-vocabulary boxes from a ``groundingdino-py`` model; same interface as the transformers port."""

    def __init__(self, model, *, options: ProposalOptions | None = None, source: str = ""):
        self.model = model.eval()
        self.options = options or ProposalOptions()
        self.source = source

    @classmethod
    def from_checkpoint(
        cls,
        checkpoint: str | os.PathLike | None,
        *,
        config: str | os.PathLike = "GroundingDINO_SwinT_OGC",
        text_encoder: str | os.PathLike = "bert-base-uncased",
        device: str | None = None,
        overrides: Mapping[str, Any] | None = None,
        **options,
    ) -> GroundingDinoPy:
        """Builds the model and loads the ``.pth`` file.

        Args:
            checkpoint: file with a ``{"model": state dict}``; None keeps random weights
            config: ``GroundingDINO_SwinT_OGC``, ``GroundingDINO_SwinB_cfg`` or a config file
            text_encoder: BERT by name, or a folder with a saved ``BertModel`` and its tokenizer
            device: by default CUDA where there is one
            overrides: further settings of the config, such as ``{"num_queries": 50}``
            options: those of :class:`~fiftyone_rexseek.models.proposals.ProposalOptions`
        """
        checked = ProposalOptions(**options)
        package, build_model, SLConfig = _package()
        import torch

        patch()
        path = Path(config)
        if not path.exists():
            path = Path(package.__file__).parent / "config" / f"{config}.py"
        if not path.exists():
            known = sorted(p.stem for p in path.parent.glob("*.py") if p.stem != "__init__")
            raise CheckpointError("no such Grounding DINO config", where=config, expected=f"a file or one of {known}")
        settings = SLConfig.fromfile(str(path))
        device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        settings.device, settings.text_encoder_type = device, str(text_encoder)
        for key, value in (overrides or {}).items():
            setattr(settings, key, value)
        try:
            model = build_model(settings)
        except OSError as e:
            raise CheckpointError(
                f"the text encoder could not be loaded ({type(e).__name__})",
                where=text_encoder,
                advice="Give text_encoder=<folder> with a saved BERT and its tokenizer",
            ) from e
        if checkpoint is not None:
            load_pth(model, checkpoint)
        return cls(model.to(device), options=checked, source=str(checkpoint))

    def describe(self) -> Mapping[str, Any]:
        return {"source": "groundingdino-py", "weights": self.source, **asdict(self.options)}

    def propose(self, images: Sequence[Image.Image], names: Sequence[Sequence[str]]) -> list[Proposals]:
        """Boxes of every image for its own names, one image at a time; no names, no boxes."""
        results = []
        for image, given in zip(images, names, strict=True):
            boxes, scores, labels = [np.zeros((0, 4))], [np.zeros(0)], []
            for chunk in chunk_names(clean_names(given), self._fits):
                b, s, found = self._detect(image, chunk)
                boxes.append(b)
                scores.append(s)
                labels += found
            results.append(finish(np.concatenate(boxes), np.concatenate(scores), labels, *image.size, self.options))
        return results

    def _fits(self, caption: str) -> bool:
        return len(self.model.tokenizer(caption)["input_ids"]) <= MAX_TEXT_TOKENS

    def _detect(self, image: Image.Image, names: list[str]) -> tuple[np.ndarray, np.ndarray, list[str]]:
        import torch

        caption, spans = caption_of(names)
        offsets = self.model.tokenizer(caption, return_offsets_mapping=True)["offset_mapping"]
        pixels = preprocess(image)[None].to(next(self.model.parameters()).device)
        with torch.inference_mode():
            outputs = self.model(pixels, captions=[caption])
        probs = outputs["pred_logits"][0].float().sigmoid().cpu().numpy()
        cxcywh = outputs["pred_boxes"][0].double().cpu().numpy()
        scores = probs.max(axis=1)
        keep = scores > self.options.box_threshold
        centre, size = cxcywh[keep, :2], cxcywh[keep, 2:]
        boxes = np.concatenate([centre - size / 2, centre + size / 2], axis=1) * np.tile(image.size, 2)
        labels = attribute(probs[keep], offsets, spans, names, self.options.text_threshold)
        return boxes, scores[keep].astype(np.float64), labels


def preprocess(image: Image.Image):
    """RGB image to a normalised float tensor (3, h, w): shortest side 800, longest at most 1333, ImageNet statistics."""
    import torch
    from torchvision.transforms import functional as F

    width, height = image.size
    scale = SHORT_SIDE / min(width, height)
    scale = min(scale, LONG_SIDE / max(width, height))
    size = [max(1, round(height * scale)), max(1, round(width * scale))]
    return F.normalize(F.to_tensor(image.resize(size[::-1], Image.Resampling.BILINEAR)), IMAGE_MEAN, IMAGE_STD).to(
        torch.float32
    )


def read_pth(path: str | os.PathLike) -> dict[str, Any]:
    """The state dict of an IDEA checkpoint, read without running any code from it; ``module.`` prefixes go.

    Raises:
        CheckpointError: missing file, not a checkpoint, or a pickle that holds more than tensors
    """
    import pickle
    import zipfile

    import torch

    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as e:
        raise CheckpointError("checkpoint file does not exist", where=path) from e
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError, zipfile.BadZipFile, ValueError) as e:
        raise CheckpointError(
            f"checkpoint cannot be read ({type(e).__name__})",
            where=path,
            expected="a .pth file that holds tensors only",
            advice="Files that need arbitrary code to load are refused",
        ) from e
    state = loaded.get("model", loaded) if isinstance(loaded, Mapping) else loaded
    if not isinstance(state, Mapping) or not all(isinstance(v, torch.Tensor) for v in state.values()):
        raise CheckpointError("checkpoint holds no state dict", where=path, found=type(state).__name__)
    return {k.removeprefix("module."): v for k, v in state.items()}


def load_pth(model, path: str | os.PathLike) -> None:
    """Loads a checkpoint into the model; anything missing or of another shape is named in one error."""
    state = read_pth(path)
    own = model.state_dict()
    missing = sorted(set(own) - set(state))
    # buffers that newer or older versions of the text encoder keep or drop
    missing = [k for k in missing if not k.endswith(("position_ids", "relative_position_index"))]
    shapes = [k for k, v in state.items() if k in own and own[k].shape != v.shape]
    if missing or shapes:
        raise CheckpointError(
            "checkpoint does not fit the model",
            where=path,
            found=f"{len(missing)} missing names {missing[:5]}, {len(shapes)} other shapes {shapes[:5]}",
            advice="Choose config= to match the checkpoint (SwinT_OGC or SwinB_cfg)",
        )
    model.load_state_dict({k: v for k, v in state.items() if k in own}, strict=False)

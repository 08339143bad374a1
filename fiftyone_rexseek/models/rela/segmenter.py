"""The public face: ``ReLA.from_pretrained(...).segment(image, expressions)``."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ...errors import CheckpointError, ConfigError, DataError
from ...referring import Selection
from ..hub import local_folder
from ..images import open_image
from ..rexseek.devices import as_device, as_dtype
from . import weights as weight_files
from .config import VARIANTS, ReLAConfig
from .decoder import RegionOutput
from .modeling import ReLANetwork
from .outputs import answers
from .processing import resize_image, to_selection
from .tokenization import BERT_BASE, load_tokenizer, tokenize

logger = logging.getLogger(__name__)

NOT_FINITE = "the network computed numbers that are not finite; try dtype=torch.float32, and check the weights"

ImageLike = Image.Image | str | os.PathLike | np.ndarray


@dataclass(frozen=True)
class SegmentRequest:
    """Expressions about one image (PIL image, path, or uint8 array (h, w, 3))."""

    image: ImageLike
    expressions: Sequence[str]


@dataclass(frozen=True)
class _Row:
    """One expression that can be asked: its place in the answers, its image, its text."""

    request: int
    position: int
    image: int
    text: str


class ReLA:
    """Generalized referring segmentation: none, one or many targets, as masks, boxes (journal variant) and a count.

    Args:
        network: in evaluation mode
        tokenizer: BERT's
    """

    def __init__(self, network: ReLANetwork, tokenizer: Any):
        self.network = network.eval()
        self.tokenizer = tokenizer
        if len(tokenizer) > network.config.vocab_size:
            raise CheckpointError(
                "tokenizer and text encoder do not belong together",
                expected=f"at most {network.config.vocab_size} entries",
                found=len(tokenizer),
            )

    @property
    def config(self) -> ReLAConfig:
        return self.network.config

    @property
    def device(self) -> torch.device:
        return next(self.network.parameters()).device

    @classmethod
    def from_pretrained(
        cls,
        folder_or_file: str | os.PathLike,
        variant: str | None = None,
        *,
        tokenizer: Any = None,
        device: str | torch.device | None = None,
        dtype: torch.dtype | str | None = None,
        revision: str | None = None,
    ) -> ReLA:
        """Loads a model.

        Args:
            folder_or_file: a folder of :meth:`save_pretrained`, a safetensors file, a public Detectron2 checkpoint
                (``.pth``, key ``model``), a folder with one of these, or a hub repository of that layout
            variant: what is expected (``"swin-base"``, ``"rela-r50"`` ..., ``"tiny"`` for any size that is not public);
                by default what the file holds
            tokenizer: a BERT tokenizer or a folder with its files; by default the folder's own, else
                bert-base-uncased from the hub
            device: "cuda" when there is one, else "cpu"
            dtype: of the weights; float32 by default

        Raises:
            ConfigError: a device or dtype that does not exist (before anything is fetched)
            CheckpointError: damaged, incomplete, or another variant than asked for
            DownloadError: something is on the hub and cannot be fetched
        """
        device = as_device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        dtype = as_dtype(dtype) or torch.float32
        path = local_folder(folder_or_file, revision=revision, option="folder_or_file")
        folder = path if path.is_dir() else path.parent
        file = _weights_file(path)
        state = weight_files.read_state_dict(file)
        config = _configuration(folder, file, state, variant)
        network = ReLANetwork(config)
        weight_files.load_into(network, state, file, config.variant)
        network.to(device=device, dtype=dtype)
        if tokenizer is None:
            has_own = any((folder / name).is_file() for name in ("vocab.txt", "tokenizer.json"))
            tokenizer = folder if has_own else BERT_BASE
        if isinstance(tokenizer, str | os.PathLike):
            if Path(tokenizer) != folder and (Path(tokenizer) / "config.json").is_file():
                weight_files.check_text_encoder(tokenizer)
            tokenizer = load_tokenizer(tokenizer)
        return cls(network, tokenizer)

    def save_pretrained(self, folder: str | os.PathLike, dtype: torch.dtype | None = None) -> None:
        """Writes ``model.safetensors`` (in ``dtype``), ``config.json`` and the tokenizer's files."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        weight_files.save_state(self.network, folder, dtype)
        self.config.save(folder)
        self.tokenizer.save_pretrained(str(folder))

    def segment(self, image: ImageLike, expressions: Sequence[str], **options) -> list[Selection]:
        """One :class:`Selection` per expression; options as in :meth:`segment_batch`.

        ``rejected`` is the no-target head's word (count 0 in the journal variant), whatever the mask holds.
        """
        return self.segment_batch([SegmentRequest(image, expressions)], **options)[0]

    def segment_batch(
        self,
        requests: Sequence[SegmentRequest],
        *,
        batch_size: int = 16,
        derive_boxes: bool = False,
        mask_size: str = "original",
    ) -> list[list[Selection]]:
        """Answers many expressions about many images; the same answers as one by one.

        An image that cannot be read, an empty expression, or an image that does not fit into memory even alone gives a
        ``failed`` selection for itself only. Expressions are cut to ``config.max_text_length`` token ids, which
        ``answer`` then says.

        Args:
            batch_size: expressions per forward pass; halved when memory runs out
            derive_boxes: for weights without a box head: connected components of the mask as boxes
            mask_size: ``"original"`` image size, or ``"network"`` input size
        """
        if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
            raise ConfigError("bad batch_size", expected="a whole number of at least 1", found=batch_size)
        if mask_size not in ("original", "network"):
            raise ConfigError("bad mask_size", expected="'original' or 'network'", found=mask_size)
        if not isinstance(requests, Iterable):
            raise ConfigError(
                "requests are no list", expected="a list of SegmentRequest", found=type(requests).__name__
            )
        results: list[list[Selection | None]] = []
        rows: list[_Row] = []
        images: list[Tensor] = []
        sizes: list[tuple[int, int]] = []
        for r, request in enumerate(requests):
            expressions = _as_list(request.expressions)
            results.append([None] * len(expressions))
            problem = None
            try:
                image = open_image(request.image)
                images.append(resize_image(image, self.config.image_size))
                sizes.append(image.size)
            except DataError as e:
                problem = str(e)
            for position, text in enumerate(expressions):
                trouble = problem or _trouble(text)
                if trouble:
                    results[r][position] = Selection.failed(str(text or ""), trouble)
                else:
                    rows.append(_Row(r, position, len(images) - 1, text))
        options = {"derive_boxes": derive_boxes, "mask_size": mask_size}
        for start in range(0, len(rows), batch_size):
            batch = rows[start : start + batch_size]
            for row, selection in zip(batch, self._in_halves(batch, images, sizes, options)):
                results[row.request][row.position] = selection
        return results

    def _in_halves(self, rows: list[_Row], images, sizes, options) -> list[Selection]:
        """Answers of the rows; a batch that does not fit into memory is halved, a single one fails alone."""
        try:
            return self._answer(rows, images, sizes, options)
        except (RuntimeError, MemoryError) as e:
            if not isinstance(e, MemoryError) and "out of memory" not in str(e).lower():
                raise
            logger.warning("out of memory with %d expression(s)", len(rows))
        # Outside the handler, so that the failed batch's tensors are no longer held by the traceback.
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        if len(rows) == 1:
            advice = "out of memory with one expression alone: use a smaller variant, dtype=torch.bfloat16, or device='cpu'"
            return [Selection.failed(rows[0].text, advice)]
        middle = len(rows) // 2
        first = self._in_halves(rows[:middle], images, sizes, options)
        return first + self._in_halves(rows[middle:], images, sizes, options)

    @torch.inference_mode()
    def _answer(self, rows: list[_Row], images, sizes, options) -> list[Selection]:
        limit = self.config.max_text_length
        ids, mask, lengths = tokenize(self.tokenizer, [row.text for row in rows], limit)
        used = sorted({row.image for row in rows})
        index = torch.tensor([used.index(row.image) for row in rows], device=self.device)
        pixels = torch.stack([images[i] for i in used]).to(self.device)
        output = self.network(pixels, ids.to(self.device), mask.to(self.device), image_index=index)
        found = answers(output, self.config)
        finite = _finite_rows(output)
        selections = []
        for i, row in enumerate(rows):
            if not finite[i]:
                selections.append(Selection.failed(row.text, NOT_FINITE))
                continue
            note = f"only the first {limit} of {lengths[i]} tokens were read" if lengths[i] > limit else None
            selections.append(
                to_selection(
                    row.text, found[i], output.mask_logits[i], output.region_masks[i], sizes[row.image],
                    self.config, note=note, **options,
                )
            )
        return selections


def _finite_rows(output: RegionOutput) -> list[bool]:
    """Whether all that an answer is read from is made of numbers."""
    parts = (output.mask_logits, output.minimap_logits, output.no_target_logits, output.count_logits, output.boxes_cxcywh)
    return torch.stack([p.isfinite().flatten(1).all(dim=1) for p in parts if p is not None]).all(dim=0).tolist()


def _as_list(expressions: Sequence[str]) -> list[str]:
    if isinstance(expressions, str):
        raise ConfigError("expressions is one string", expected="a list of strings", found=expressions)
    # What is no list fails like an expression that is no text.
    return list(expressions) if isinstance(expressions, Iterable) else [expressions]


def _trouble(text: Any) -> str | None:
    if not isinstance(text, str):
        return f"the expression is no text but {type(text).__name__}"
    return None if text.strip() else "the expression is empty"


def _weights_file(path: Path) -> Path:
    if path.is_file():
        return path
    files = [path / weight_files.WEIGHTS_NAME] if (path / weight_files.WEIGHTS_NAME).is_file() else []
    files = files or sorted(path.glob("*.safetensors"))
    files = files or sorted(p for p in path.iterdir() if p.suffix in weight_files.PICKLE_SUFFIXES)
    if len(files) != 1:
        raise CheckpointError(
            "no weights in the folder" if not files else "several weights files in the folder",
            where=path,
            expected=f"{weight_files.WEIGHTS_NAME} or one .safetensors or .pth file",
            found=", ".join(p.name for p in files or sorted(path.iterdir())[:8]) or "an empty folder",
            advice="Give the file itself.",
        )
    return files[0]


def _configuration(folder: Path, file: Path, state: dict[str, Tensor], variant: str | None) -> ReLAConfig:
    """The folder's configuration, else the one asked for, else what the tensors show."""
    found = weight_files.describe(state)
    if found is None:
        names = ", ".join(list(state)[:3]) or "nothing"
        raise CheckpointError(
            "not a ReLA checkpoint", where=file, expected="tensors of sem_seg_head and backbone", found=names
        )
    wanted = None if variant is None else ReLAConfig.from_variant(variant)
    own = ReLAConfig.load(folder) if (folder / "config.json").is_file() else None
    has = own.variant.removeprefix("rela-") if own is not None else found
    # "tiny" stands for every size of one's own
    other = wanted is not None and has != wanted.variant and (wanted.variant != "tiny" or has in VARIANTS)
    if other:
        raise CheckpointError(
            f"this is a {'rela-' + has if has != 'rela' else 'ReLA'} checkpoint of another size, rela-{wanted.variant} was asked for",
            where=file,
            advice=f"Ask for variant='{has}', or leave it out." if has in VARIANTS else "Leave variant out.",
        )
    if own is not None:
        return own
    heads = {
        "box_head": "sem_seg_head.predictor.box_embed.layers.0.weight" in state,
        "count_head": "sem_seg_head.predictor.count_embed.layers.0.weight" in state,
    }
    if found not in ("rela", "tiny"):
        return ReLAConfig.from_variant(found, **heads)
    config = weight_files.config_from_state_dict(state)
    logger.warning(
        "%s has no config.json and is of no public size; assumed: %d heads in BERT, %d in both decoders, images of %d pixels",
        file, config.text_heads, config.num_heads, config.image_size,
    )  # fmt: skip
    return config

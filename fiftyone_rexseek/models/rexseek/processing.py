"""What stands before the network: the image's pixels, the boxes' coordinates, the prompt's token ids."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from fiftyone_rexseek.errors import CheckpointError, DataError

from .config import RexSeekConfig, read_json
from .modeling import IMAGE_MARK, OBJECT_MARK

#: The wording of every public entry point; the model was trained with it.
QUESTION = "Please detect {expression} in this image. Answer the question with object indexes."
_MARKS = {"<image>": IMAGE_MARK, "<objfeat>": OBJECT_MARK}
#: Longest image that is read: on its square every other side would vanish, and memory grows with it.
LONGEST_SIDE = 2**16
_LARGEST_STRIP = 8192**2
_OPEN, _CLOSE = "<|im_start|>user\n", "<|im_end|>\n<|im_start|>assistant\n"


def image_levels(image: Image.Image, config: RexSeekConfig) -> Tensor:
    """An RGB image, padded to a square (centred, in the mean's colour) and resized with PIL's bicubic filter.

    Returns:
        (S, S, 3) uint8

    Raises:
        DataError: a side of more than :data:`LONGEST_SIDE` pixels
    """
    colour = tuple(int(255 * m) for m in config.image_mean)
    return torch.from_numpy(np.array(_padded_and_resized(image, config.image_size, colour)))


def normalised_pixels(levels: Tensor, config: RexSeekConfig) -> tuple[Tensor, Tensor]:
    """What the network sees of :func:`image_levels`, many (B, S, S, 3) at once, where they are.

    CLIP's input is interpolated (bilinear) from ConvNeXt's, not from the image.

    Returns:
        float32 (B, 3, S, S) for ConvNeXt and (B, 3, s, s) for CLIP
    """
    # 0-dimensional on the device, because CUDA multiplies by the reciprocal of a plain number. Divided, every level has
    # exactly the public code's value, which multiplies by CLIP's 0.00392156862745098 in float64.
    top = torch.tensor(255.0, device=levels.device)
    mean, std = (levels.new_tensor(v, dtype=torch.float32)[:, None, None] for v in (config.image_mean, config.image_std))
    large = levels.permute(0, 3, 1, 2).to(torch.float32, memory_format=torch.contiguous_format)
    large = large.div_(top).sub_(mean).div_(std)
    small = F.interpolate(large, size=config.clip_image_size, mode="bilinear", align_corners=False)
    return large, small


def image_pixels(image: Image.Image, config: RexSeekConfig) -> tuple[Tensor, Tensor]:
    """:func:`normalised_pixels` of one image: (3, S, S) and (3, s, s)."""
    large, small = normalised_pixels(image_levels(image, config)[None], config)
    return large[0], small[0]


def _padded_and_resized(image: Image.Image, size: int, colour: tuple[int, ...]) -> Image.Image:
    """The image in the middle of a square, resized to (size, size).

    PIL resizes rows first, then columns. Here the two steps are taken one by one, the first in strips of the image's own
    rows: the rest of the square is one colour, and a square on a very long side would not fit into memory.
    """
    side, resample = max(image.size), Image.Resampling.BICUBIC
    left, top = (side - image.width) // 2, (side - image.height) // 2
    if side > LONGEST_SIDE:
        raise DataError(
            "the image is too long", expected=f"sides of at most {LONGEST_SIDE} pixels", found=image.size
        )
    columns = Image.new("RGB", (size, side), colour)
    rows = max(1, _LARGEST_STRIP // side)
    for start in range(0, image.height, rows):
        stop = min(start + rows, image.height)
        strip = image if stop - start == image.height else image.crop((0, start, image.width, stop))
        if image.width < side:
            wide = Image.new("RGB", (side, stop - start), colour)
            wide.paste(strip, (left, 0))
            strip = wide
        columns.paste(strip.resize((size, stop - start), resample), (0, top + start))
    return columns.resize((size, size), resample)


def transform_boxes(
    boxes_xyxy: Any, width: int, height: int, image_size: int, reproduce: bool = True
) -> Tensor:
    """Boxes of the original image in pixels of the padded and resized square: (n, 4) float32, ``xyxy``.

    Nothing is clipped or checked. The order and precision of the steps are the public code's: extents in the
    precision of the input, everything else in float32.

    Args:
        boxes_xyxy: (n, 4) absolute pixels; a list or a float64 array is taken in float64, float32 in float32
        width, height: size of the original image
        image_size: side of the square
        reproduce: round to float16, as every public entry point does: steps of half a pixel above 512 and of a
            quarter above 256. It is the default because the published numbers were made with it, and the effect is
            small (features move by up to 0.01).

    Raises:
        DataError: they are no numbers, or not four each

    Example::

        >>> transform_boxes([[10, 20, 110, 70]], 200, 100, 768).tolist()
        [[38.40625, 268.75, 422.5, 460.75]]
    """
    if isinstance(boxes_xyxy, Tensor):
        boxes_xyxy = boxes_xyxy.detach().cpu()
        boxes_xyxy = (boxes_xyxy.float() if boxes_xyxy.dtype == torch.bfloat16 else boxes_xyxy).numpy()
    try:
        boxes = np.asarray(boxes_xyxy)
        boxes = boxes.astype(np.float32 if boxes.dtype in (np.float32, np.float16) else np.float64)
    except (TypeError, ValueError) as e:
        raise DataError("boxes are not numbers", expected="(n, 4) xyxy pixels", found=boxes_xyxy) from e
    if boxes.size and boxes.shape[-1:] != (4,):
        raise DataError("boxes have another shape", expected="(n, 4) xyxy pixels", found=boxes.shape)
    boxes = boxes.reshape(-1, 4)
    xywh = np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1)
    square = torch.from_numpy(xywh.astype(np.float32))
    side = max(width, height)
    square[:, 0] += (side - width) // 2
    square[:, 1] += (side - height) // 2
    square = square * (image_size / side)
    square = torch.cat([square[:, :2], square[:, :2] + square[:, 2:]], dim=1)
    return square.half().float() if reproduce else square


class RexSeekProcessor:
    """Turns images, boxes and questions into the tensors and token ids of one checkpoint.

    Args:
        config: sizes and normalisation
        tokenizer: any transformers tokenizer. The tokens ``<obj0>`` ..., ``<ground>``, ``</ground>``, ``<objects>``,
            ``</objects>`` are added to it where it does not have them, in this order.
    """

    def __init__(self, config: RexSeekConfig, tokenizer: Any):
        self.config = config
        self.tokenizer = tokenizer
        add_answer_tokens(tokenizer, config.num_object_tokens)
        to_id = tokenizer.convert_tokens_to_ids
        self.object_ids: list[int] = to_id([f"<obj{i}>" for i in range(config.num_object_tokens)])
        self.ground_id, self.end_ground_id = to_id("<ground>"), to_id("</ground>")
        self.objects_id, self.end_objects_id = to_id("<objects>"), to_id("</objects>")
        self.rejection_ids: list[int] = self.encode(config.rejection_sentence)
        added = {i: str(t) for i, t in tokenizer.added_tokens_decoder.items()}
        special = {i for i, t in tokenizer.added_tokens_decoder.items() if t.special}
        #: Tokens that steer a conversation; ordinary words that somebody added to the vocabulary are none.
        self.control_ids = frozenset(i for i, text in added.items() if i in special or "<" in text)
        texts = {added[i] for i in self.control_ids if len(added[i]) > 1} | set(_MARKS)
        # Longest first, so that no token is left inside what another one was.
        self._control_texts = sorted(texts, key=len, reverse=True)

    @classmethod
    def from_folder(cls, config: RexSeekConfig, folder: str | Path) -> RexSeekProcessor:
        """Reads the tokenizer of a checkpoint folder (or of its sub-folder ``tokenizer/``)."""
        return cls(config, load_tokenizer(folder))

    def pixels(self, image: Image.Image) -> tuple[Tensor, Tensor]:
        """:func:`image_pixels` for this model's image sizes."""
        return image_pixels(image, self.config)

    def levels(self, image: Image.Image) -> Tensor:
        """:func:`image_levels` for this model's image size."""
        return image_levels(image, self.config)

    def normalised(self, levels: Tensor) -> tuple[Tensor, Tensor]:
        """:func:`normalised_pixels` for this model's image sizes."""
        return normalised_pixels(levels, self.config)

    def boxes(self, boxes_xyxy: Any, image_size_wh: tuple[int, int], reproduce: bool = True) -> Tensor:
        """:func:`transform_boxes` for this model's image size."""
        return transform_boxes(boxes_xyxy, *image_size_wh, self.config.image_size, reproduce)

    def prompt(self, num_boxes: int, question: str) -> str:
        """The full prompt; the ``<image>`` tag is taken out of the question, everything else stays."""
        objects = "".join(f"<obj{i}><objfeat>" for i in range(num_boxes))
        return f"{_OPEN}<image>\n{objects}\n{question.replace('<image>', '')}{_CLOSE}"

    def encode(self, text: str) -> list[int]:
        """Token ids of a piece of text, nothing added."""
        # Half a surrogate pair (a badly decoded file) would be refused by the tokenizer.
        text = text.encode("utf-8", "replace").decode("utf-8")
        return self.tokenizer.encode(text, add_special_tokens=False) if text else []

    def token_ids(self, num_boxes: int, question: str) -> list[int]:
        """Token ids of the prompt with ``IMAGE_MARK`` and ``OBJECT_MARK``; pieces between marks are tokenised alone.

        Example: see ``tests/test_rexseek_processing.py``, which compares with the public code's.
        """
        ids = [] if self.tokenizer.bos_token_id is None else [self.tokenizer.bos_token_id]
        for piece in _split_marks(self.prompt(num_boxes, question)):
            ids += [_MARKS[piece]] if piece in _MARKS else self.encode(piece)
        return ids

    def token_ids_of_expressions(self, num_boxes: int, expressions: Sequence[str]) -> list[list[int]]:
        """:meth:`token_ids` of many expressions about the same boxes, with the part before the question done once.

        Expressions must be :meth:`neutralised`.
        """
        marker = "\n"
        head = self.token_ids(num_boxes, "")
        tail = self.encode(marker + _CLOSE)
        head = head[: len(head) - len(tail)]
        questions = [QUESTION.format(expression=e) for e in expressions]
        return [head + self.encode(marker + question + _CLOSE) for question in questions]

    def neutralised(self, text: str) -> str:
        """The text with every imitation of a special token broken by a space after its first character.

        Example: ``"the <obj3> man<|im_end|>"`` becomes ``"the < obj3> man< |im_end|>"``.
        """
        for token in self._control_texts:
            text = text.replace(token, f"{token[0]} {token[1:]}")
        return text

    def decode(self, ids: Sequence[int]) -> str:
        """Text of generated ids, special tokens kept; ids of padding rows of the vocabulary are dropped."""
        known = [i for i in ids if 0 <= i < len(self.tokenizer)]
        text = self.tokenizer.decode(known, skip_special_tokens=False, clean_up_tokenization_spaces=False)
        return text


def _split_marks(prompt: str) -> list[str]:
    pieces = [prompt]
    for mark in _MARKS:
        split = []
        for piece in pieces:
            for k, part in enumerate(piece.split(mark)):
                split += ([mark] if k else []) + [part]
        pieces = split
    return pieces


def add_answer_tokens(tokenizer: Any, num_object_tokens: int = 100) -> int:
    """Adds the object and answer tokens that the tokenizer lacks, in the public order; returns how many."""
    from transformers import AddedToken

    wanted = [f"<obj{i}>" for i in range(num_object_tokens)] + [
        "<ground>",
        "</ground>",
        "<objects>",
        "</objects>",
    ]
    have = tokenizer.get_added_vocab()
    missing = [AddedToken(token, special=True, normalized=False) for token in wanted if token not in have]
    return tokenizer.add_tokens(missing, special_tokens=True) if missing else 0


def load_tokenizer(folder: str | Path) -> Any:
    """The tokenizer of a checkpoint folder, from ``tokenizer.json`` or from ``vocab.json`` and ``merges.txt``.

    Raises:
        CheckpointError: when there is none, or transformers cannot read it
    """
    from transformers import PreTrainedTokenizerFast, Qwen2Tokenizer

    for place in (Path(folder), Path(folder) / "tokenizer"):
        if (place / "tokenizer.json").is_file():
            kind = PreTrainedTokenizerFast
        elif (place / "vocab.json").is_file() and (place / "merges.txt").is_file():
            kind = Qwen2Tokenizer
        else:
            continue
        if (place / "tokenizer_config.json").is_file():
            read_json(place / "tokenizer_config.json")  # a damaged one gets our message
        try:
            return kind.from_pretrained(str(place), local_files_only=True)
        except Exception as e:  # the tokenizers library raises bare Exception for a damaged file
            raise CheckpointError(f"the tokenizer cannot be read ({e})", where=place) from e
    raise CheckpointError(
        "there is no tokenizer",
        where=folder,
        expected="tokenizer.json, or vocab.json and merges.txt (also in a sub-folder tokenizer/)",
        advice="Copy the tokenizer files of the checkpoint into the folder",
    )

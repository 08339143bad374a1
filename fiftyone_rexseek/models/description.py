"""Writing a referring expression for a set of targets (GREG), with any image-text-to-text model of transformers.

As in the GREx paper, the targets are shown to the model by an orange overlay on their masks, and the answer is asked for
as a JSON list of one text of at most 30 words. The wording of the prompt is ours.
"""

from __future__ import annotations

import ast
import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from .. import masks as mask_tools
from ..errors import CheckpointError, ConfigError, DataError, MissingDependencyError, ReferringError
from ..referring import Outcome, Segmentation
from .answering import batches, in_halves
from .hub import local_folder
from .images import open_image

DEFAULT_MODEL = "Qwen/Qwen2.5-VL-7B-Instruct"
ORANGE = (255, 165, 0)
MAX_WORDS = 30

_ONE = "one object is"
_MANY = "{n} objects are"
PROMPT = (
    "In this image {subject} covered with an orange overlay. Write one referring expression that describes exactly "
    "what is covered: everything that is, and nothing else, so that a person who sees the image without the overlay "
    "knows what is meant. Do not mention the overlay or its colour. Use at most {max_words} words. "
    'Answer with a JSON list that holds this one expression, for example ["the two dogs on the left"].'
)


@dataclass(frozen=True)
class DescriptionRequest:
    """What to describe.

    Attributes:
        image: path, PIL image or (h, w, 3) uint8 array
        boxes_xyxy: float (n, 4), absolute pixels of the targets
        segmentations: one RLE or list of polygons per target, None where a target has only its box
        key: handed back with the description
    """

    image: Any
    boxes_xyxy: Any = ()
    segmentations: Sequence[Segmentation | None] | None = None
    key: Any = None

    @property
    def num_targets(self) -> int:
        return max(len(self.boxes_xyxy), len(self.segmentations or ()))


@dataclass(frozen=True)
class Description:
    """A model's expression for a set of targets.

    Attributes:
        expression: the text, None when there is none
        outcome: ``selected`` (there is one), ``unparsed`` or ``failed``
        answer: the model's raw text
        alternatives: further texts, when the model wrote a longer list
        error: why there is no expression
        key: of the request
    """

    expression: str | None
    outcome: Outcome
    answer: str | None = None
    alternatives: tuple[str, ...] = ()
    error: str | None = None
    key: Any = None

    @property
    def num_words(self) -> int:
        return len((self.expression or "").split())


def highlight(
    image: Image.Image,
    boxes_xyxy: Any = (),
    segmentations: Sequence[Segmentation | None] | None = None,
    *,
    color: tuple[int, int, int] = ORANGE,
    opacity: float = 0.5,
) -> Image.Image:
    """The image with a coloured overlay on the targets' masks, or on the boxes of those without a mask.

    Example::

        >>> highlight(Image.new("RGB", (4, 4)), [[0, 0, 2, 4]], opacity=1.0).getpixel((1, 1))
        (255, 165, 0)
    """
    width, height = image.size
    covered = np.zeros((height, width), dtype=bool)
    boxes = np.asarray(boxes_xyxy, dtype=np.float64).reshape(-1, 4)
    shapes = list(segmentations) if segmentations is not None else [None] * len(boxes)
    if len(boxes) and len(shapes) != len(boxes):
        raise DataError("masks do not fit the boxes", expected=len(boxes), found=len(shapes))
    for i, shape in enumerate(shapes):
        if shape:
            covered |= mask_tools.decode(mask_tools.compress(shape, height, width))
        elif len(boxes) and np.isfinite(boxes[i]).all():
            x0, y0, x1, y1 = mask_tools.pixel_window(boxes[i], height, width)
            covered[y0:y1, x0:x1] = True
    if not covered.any():
        raise DataError("no pixel of the image is to be described", expected="targets with a mask or a box inside it")
    pixels = np.asarray(image.convert("RGB")).astype(np.float32)
    pixels[covered] = (1 - opacity) * pixels[covered] + opacity * np.array(color, dtype=np.float32)
    return Image.fromarray(pixels.round().astype(np.uint8))


def prompt_for(num_targets: int, max_words: int = MAX_WORDS) -> str:
    """The question for that many targets.

    Example::

        >>> "3 objects are covered" in prompt_for(3)
        True
    """
    subject = _ONE if num_targets == 1 else _MANY.format(n=num_targets)
    return PROMPT.format(subject=subject, max_words=max_words)


def parse_expressions(answer: str) -> list[str]:
    """The texts in a model's answer: a JSON list, or what is left of one; an empty list when there is none.

    Understood beside a clean list: code fences, text around it, single or typographic quotes, a list that was cut off, objects
    with one text field, a bare quoted text, and a single plain line.

    Example::

        >>> parse_expressions('Sure! ```json\\n["the red car", "the car"]\\n```')
        ['the red car', 'the car']
        >>> parse_expressions("['the man\\'s hat']"), parse_expressions('["the two dogs on th')
        (["the man's hat"], ['the two dogs on th'])
    """
    text = re.sub(r"<\|[^|<>]*\|>", "", answer)  # special tokens of chat models
    text = re.sub(r".*</think>|<think>.*", "", text, flags=re.DOTALL)  # what a model thinks first is not its answer
    fenced = re.search(r"```[a-zA-Z]*\s*(.*?)(?:```|\Z)", text, flags=re.DOTALL)
    text = (fenced.group(1) if fenced else text).strip()
    start = text.find("[")
    if start >= 0:
        try:
            found = _texts_of(_load_list(text[start:]))
        except RecursionError:  # brackets without end
            return []
        if found:
            return found
        return _quoted(text[start + 1 :])
    if text.startswith("{"):
        return _texts_of(_load(text))
    quoted = re.fullmatch(r"[\"“'‘](.+)[\"”'’][.]?", text, flags=re.DOTALL)
    if quoted:
        return _clean([quoted.group(1)])
    return _clean([text]) if text != "null" and "\n" not in text else []


def _load_list(text: str) -> Any:
    """The list that ``text`` begins with, whatever follows it."""
    straight = text.translate(str.maketrans("“”‘’", "\"\"''"))
    for variant in (text, straight):
        try:
            return json.JSONDecoder(strict=False).raw_decode(variant)[0]
        except json.JSONDecodeError:
            continue
    end = straight.rfind("]")
    try:
        return ast.literal_eval(straight[: end + 1]) if end > 0 else None
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return None


def _load(text: str) -> Any:
    try:
        return json.JSONDecoder(strict=False).raw_decode(text)[0]
    except json.JSONDecodeError:
        return None


def _texts_of(value: Any) -> list[str]:
    if isinstance(value, str):
        return _clean([value])
    if isinstance(value, Mapping):
        texts = [v for v in value.values() if isinstance(v, str | list)]
        return _texts_of(texts) if len(texts) == 1 else []
    if isinstance(value, list | tuple):
        return [text for item in value for text in _texts_of(item)]
    return []


def _quoted(text: str) -> list[str]:
    """Quoted texts of a damaged list; the last one may lack its closing quote."""
    pieces = re.findall(r"\"((?:[^\"\\]|\\.)+)(?:\"|\Z)|“([^”]+)(?:”|\Z)|(?<![a-zA-Z])'(.+?)(?:'(?![a-zA-Z])|\Z)", text)
    return _clean(next(filter(None, groups), "") for groups in pieces)


def _clean(texts) -> list[str]:
    stripped = (" ".join(str(t).split()).strip(" \"“”") for t in texts)
    return [t for t in stripped if any(c.isalnum() for c in t)]


class Describer:
    """An image-text-to-text model that writes referring expressions.

    Args:
        model: has ``generate``
        processor: its processor, with a chat template
        max_new_tokens: enough for 30 words in JSON
        batch_size: requests per call of the model
        color, opacity: of the overlay
    """

    def __init__(
        self,
        model,
        processor,
        *,
        max_new_tokens: int = 128,
        max_words: int = MAX_WORDS,
        batch_size: int = 4,
        color: tuple[int, int, int] = ORANGE,
        opacity: float = 0.5,
        source: str = "",
    ):
        if batch_size < 1 or max_new_tokens < 1:
            raise ConfigError("batch_size and max_new_tokens are at least 1", found=(batch_size, max_new_tokens))
        self.model, self.processor = model.eval(), processor
        self.max_new_tokens, self.max_words, self.batch_size = max_new_tokens, max_words, batch_size
        self.color, self.opacity = color, opacity
        self.source = source

    @classmethod
    def from_pretrained(
        cls,
        folder_or_repo: str | os.PathLike = DEFAULT_MODEL,
        *,
        revision: str | None = None,
        device: str | None = None,
        dtype: Any = None,
        **options: Any,
    ) -> Describer:
        """Loads any model of the image-text-to-text kind from a local folder or the hub; never runs code from it.

        Args:
            device: such as ``cuda`` or ``cpu``; by default cuda when there is one
            dtype: such as ``bfloat16``; by default bfloat16 on cuda, float32 on the CPU
            options: of the constructor

        Raises:
            DownloadError: the repository cannot be fetched
            CheckpointError: the folder holds no such model, or lacks its processor
        """
        folder = local_folder(folder_or_repo, revision=revision, option="folder_or_repo")
        try:
            import torch
            from transformers import AutoModelForImageTextToText, AutoProcessor
        except ImportError as e:
            raise MissingDependencyError(
                "describing needs torch and transformers", advice="pip install 'fiftyone-rexseek[models]'"
            ) from e
        device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        dtype = dtype or ("float32" if str(device).startswith("cpu") else "bfloat16")
        try:
            model = AutoModelForImageTextToText.from_pretrained(
                folder, dtype=getattr(torch, dtype) if isinstance(dtype, str) else dtype, trust_remote_code=False
            )
            processor = AutoProcessor.from_pretrained(folder, trust_remote_code=False)
        except (OSError, ValueError, KeyError, AttributeError, RuntimeError) as e:
            raise CheckpointError(
                "holds no usable image-text-to-text model", where=folder, expected="model and processor files of transformers",
                found=f"{type(e).__name__}: {e}", advice="Give a complete copy of a model such as " + DEFAULT_MODEL,
            ) from e  # fmt: skip
        if not hasattr(processor, "apply_chat_template") or not getattr(processor, "chat_template", None):
            raise CheckpointError(
                "the model's processor has no chat template", where=folder, advice="Use an instruction-tuned model."
            )
        return cls(model.to(device), processor, source=str(folder_or_repo), **options)

    def describe(self, image, boxes_xyxy: Any = (), segmentations: Sequence[Segmentation | None] | None = None) -> Description:
        """The expression for one set of targets; see :class:`DescriptionRequest`."""
        return self.describe_batch([DescriptionRequest(image, boxes_xyxy, segmentations)])[0]

    def describe_batch(self, requests: Sequence[DescriptionRequest]) -> list[Description]:
        """One description per request, in order. A bad request fails alone; a batch that does not fit is halved."""
        results: list[Description | None] = [None] * len(requests)
        ready: list[tuple[int, Image.Image, str]] = []
        for i, request in enumerate(requests):
            try:
                image = open_image(request.image)
                shown = highlight(
                    image, request.boxes_xyxy, request.segmentations, color=self.color, opacity=self.opacity
                )
                ready.append((i, shown, prompt_for(request.num_targets, self.max_words)))
            except (ReferringError, ValueError, TypeError, LookupError) as e:
                results[i] = Description(None, Outcome.FAILED, error=str(e), key=request.key)
        for batch in batches(ready, self.batch_size):
            answers = in_halves(self._generate, batch, lambda item, reason: DataError(reason))
            for (i, _, _), answer in zip(batch, answers):
                results[i] = self._description(answer, requests[i].key)
        return results

    def _description(self, answer: str | DataError, key: Any) -> Description:
        if isinstance(answer, DataError):
            return Description(None, Outcome.FAILED, error=str(answer), key=key)
        texts = parse_expressions(answer)
        if not texts:
            return Description(None, Outcome.UNPARSED, answer, error="the answer holds no expression", key=key)
        return Description(texts[0], Outcome.SELECTED, answer, tuple(texts[1:]), key=key)

    def _generate(self, batch: Sequence[tuple[int, Image.Image, str]]) -> list[str]:
        """The model's texts for overlaid images and their prompts."""
        import torch

        texts = []
        for _, _, prompt in batch:
            content = [{"type": "image"}, {"type": "text", "text": prompt}]
            messages = [{"role": "user", "content": content}]
            texts.append(self.processor.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))
        tokenizer = getattr(self.processor, "tokenizer", self.processor)
        if tokenizer.pad_token is None:
            tokenizer.pad_token = tokenizer.eos_token
        # answers continue the prompt, so the padding has to be in front
        tokenizer.padding_side = "left"
        images = [[image] for _, image, _ in batch]
        inputs = self.processor(text=texts, images=images, padding=True, return_tensors="pt").to(self.model.device)
        for name, value in inputs.items():
            if torch.is_tensor(value) and value.is_floating_point():
                inputs[name] = value.to(self.model.dtype)
        with torch.inference_mode():
            output = self.model.generate(**inputs, max_new_tokens=self.max_new_tokens, do_sample=False)
        new = output[:, inputs["input_ids"].shape[1] :]
        return tokenizer.batch_decode(new, skip_special_tokens=True)

    def facts(self) -> dict[str, Any]:
        """JSON-compatible facts for the record of a run."""
        return {
            "describer": self.source or type(self.model).__name__,
            "max_new_tokens": self.max_new_tokens,
            "max_words": self.max_words,
            "overlay": {"color": list(self.color), "opacity": self.opacity},
        }


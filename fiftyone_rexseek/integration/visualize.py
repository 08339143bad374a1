"""Annotated pictures: an expression, its targets and a model's answer drawn on the image and saved as files.

Works on any dataset of images with a Detections field; the expression, outcome and confidence are written where
there are any.
"""

from __future__ import annotations

import colorsys
import logging
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import fiftyone as fo
import fiftyone.core.utils as fou
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ..errors import DataError
from ..geometry import to_absolute
from ..masks import paste
from ..models.images import open_image
from .fields import flat_images, require_detections

logger = logging.getLogger(__name__)

#: Colours of the first two layers; further ones are spread over the hue circle.
GROUND_TRUTH_COLOR, PREDICTION_COLOR = (22, 163, 74), (255, 109, 4)
_OUTCOME_TEXT = {"rejected": "nobody matches", "unparsed": "answer could not be read", "failed": "no answer"}

#: Fonts of many scripts, wherever the system keeps them; Pillow's own has Latin letters only.
_FONTS = ("NotoSansCJK-Regular.ttc", "Arial Unicode.ttf", "msyh.ttc", "NotoSans-Regular.ttf", "DejaVuSans.ttf")


@dataclass(frozen=True)
class Layer:
    """What is drawn in one colour: boxes with captions and optional masks.

    Attributes:
        boxes_xyxy: (n, 4) absolute pixels
        captions: one text per box, may be empty
        masks: one boolean (h, w) array or None per box, or None
        color: RGB, 0 to 255
        name: what the layer is, for a line in its colour below the title; empty: no line
        thickness: of the boxes' lines, in units of the thinnest
    """

    boxes_xyxy: np.ndarray
    captions: Sequence[str]
    masks: Sequence[np.ndarray | None] | None = None
    color: tuple[int, int, int] = PREDICTION_COLOR
    name: str = ""
    thickness: int = 1


@dataclass(frozen=True)
class SavedPictures:
    """What :func:`save_annotated` did: the files written and, by sample id, why the others were not."""

    folder: Path
    paths: tuple[Path, ...]
    failed: dict[str, str]


@lru_cache(maxsize=16)
def _font(size: int, is_ascii: bool) -> ImageFont.ImageFont | ImageFont.FreeTypeFont:
    for name in () if is_ascii else _FONTS:
        try:
            return ImageFont.truetype(name, size)
        except OSError:
            continue
    return ImageFont.load_default(size)


def draw_annotated(image: Image.Image, layers: Sequence[Layer], title: str = "") -> Image.Image:
    """A copy of the picture with masks, boxes and captions drawn, and title and names of layers on a band above it.

    Line width and letter size follow the size of the picture.

    Example::

        >>> layer = Layer(np.array([[2, 2, 30, 30]]), ["person 0.9"])
        >>> draw_annotated(Image.new("RGB", (64, 48)), [layer], "the person on the left").size[0]
        64
    """
    canvas = image.convert("RGB")
    unit = max(1, round(min(canvas.size) / 200))
    font = _font(max(10, 6 * unit), all(caption.isascii() for layer in layers for caption in layer.captions))
    for layer in layers:
        for mask in layer.masks or ():
            if mask is not None:
                tint = Image.new("RGB", canvas.size, layer.color)
                canvas = Image.composite(Image.blend(canvas, tint, 0.45), canvas, Image.fromarray(mask))
    draw = ImageDraw.Draw(canvas)
    for layer in layers:
        for box, caption in zip(layer.boxes_xyxy, layer.captions, strict=True):
            # PIL refuses inverted corners; a bad box is drawn as the line it is
            x0, x1 = sorted((float(box[0]), float(box[2])))
            y0, y1 = sorted((float(box[1]), float(box[3])))
            draw.rectangle((x0, y0, x1, y1), outline=layer.color, width=2 * unit * layer.thickness)
            if caption:
                _caption(draw, (x0, y0), caption, font, layer.color)
    lines = [(line, None) for line in title.splitlines()] + [(layer.name, layer.color) for layer in layers if layer.name]
    return _with_lines(canvas, lines) if lines else canvas


def _caption(draw: ImageDraw.ImageDraw, corner, text: str, font, color) -> None:
    left, top, right, bottom = draw.textbbox((0, 0), text, font=font)
    w, h = right - left + 4, bottom - top + 4
    x = min(max(corner[0], 0), max(draw.im.size[0] - w, 0))
    y = corner[1] - h if corner[1] >= h else corner[1]
    draw.rectangle((x, y, x + w, y + h), fill=color)
    dark = 0.299 * color[0] + 0.587 * color[1] + 0.114 * color[2] > 150
    draw.text((x + 2 - left, y + 2 - top), text, font=font, fill=(0, 0, 0) if dark else (255, 255, 255))


def _with_lines(image: Image.Image, lines: Sequence[tuple[str, tuple[int, int, int] | None]]) -> Image.Image:
    """The image below a band of texts, each with a square of its colour before it if it has one."""
    size, text = max(12, image.width // 32), "".join(line for line, _ in lines)
    font = _font(size, text.isascii())
    letter = max(font.getlength(text) / max(1, len(text)), size / 2)  # those of some scripts are twice as wide as Latin ones
    most = max(12, int(image.width / letter * 0.95))
    # a text goes on below itself, without another square
    rows = [(part, color if n == 0 else None) for line, color in lines for n, part in enumerate(textwrap.wrap(line, most - 2))]
    height = round(size * 1.4)
    canvas = Image.new("RGB", (image.width, image.height + len(rows) * height + size // 2), (24, 24, 27))
    canvas.paste(image, (0, canvas.height - image.height))
    draw = ImageDraw.Draw(canvas)
    for n, (part, color) in enumerate(rows):
        x, y = size // 2, size // 4 + n * height
        if color is not None:
            draw.rectangle((x, y + size // 4, x + size * 3 // 4, y + size), fill=color)
            x += round(size * 1.2)
        draw.text((x, y), part, font=font, fill=(250, 250, 250))
    return canvas


def save_annotated(
    samples: fo.core.collections.SampleCollection,
    output_dir: str | Path,
    fields: Sequence[str] = ("ground_truth",),
    *,
    expression_field: str | None = "expression",
    draw_masks: bool = True,
    progress: bool | Callable | None = None,
) -> SavedPictures:
    """Saves one annotated PNG per sample: its expression as the title, each field in a colour of its own.

    Several fields are named in their colours below the title.

    File names are ``<image name>_<sample id>.png``, so several expressions of an image do not overwrite each other. A
    sample whose image cannot be read is reported and skipped.

    Args:
        samples: a dataset or view of images
        output_dir: folder, made if necessary
        fields: Detections fields to draw; ground truth is green
        expression_field: the title; None, or a field that does not exist, means neither title nor names
        draw_masks: whether instance masks are tinted
        progress: as everywhere in FiftyOne

    Raises:
        ConfigError: a field does not exist or holds no Detections
    """
    samples = flat_images(samples)
    dataset = samples._dataset
    for field in fields:
        require_detections(samples, field)
    titled = expression_field if expression_field and dataset.has_sample_field(expression_field) else None
    needed = [*fields, *([titled] if titled else []), *_outcomes(dataset, fields)]
    folder = Path(output_dir).expanduser()
    folder.mkdir(parents=True, exist_ok=True)
    colors = _colors(fields)
    paths, failed = [], {}
    view = samples.select_fields(needed)
    with fou.ProgressBar(total=len(view), progress=progress) as bar:
        for sample in bar(view):
            try:
                image = open_image(sample.filepath)
            except DataError as e:
                failed[sample.id] = str(e)
                logger.warning("%s", e)
                continue
            names = _names(sample, fields, dataset, all_named=titled is not None and len(fields) > 1)
            # the first has the thickest lines: inside those of a box that coincides with it, it is still seen
            layers = [
                _layer(sample[f], image.size, draw_masks, color=colors[f], name=names[f], thickness=len(fields) - n)
                for n, f in enumerate(fields)
            ]
            title = str(sample[titled]) if titled and sample[titled] else ""
            path = folder / f"{Path(sample.filepath).stem}_{sample.id}.png"
            draw_annotated(image, layers, title).save(path)
            paths.append(path)
    return SavedPictures(folder, tuple(paths), failed)


def _outcomes(dataset, fields: Sequence[str]) -> list[str]:
    return [f"{f}_outcome" for f in fields if dataset.has_sample_field(f"{f}_outcome")]


def _colors(fields: Sequence[str]) -> dict[str, tuple[int, int, int]]:
    colors, rest = {}, 0
    for field in fields:
        if field == "ground_truth":
            colors[field] = GROUND_TRUTH_COLOR
        elif rest == 0:
            colors[field], rest = PREDICTION_COLOR, 1
        else:
            r, g, b = colorsys.hsv_to_rgb((0.6 + 0.17 * rest) % 1, 0.85, 0.9)
            colors[field], rest = (int(255 * r), int(255 * g), int(255 * b)), rest + 1
    return colors


def _layer(detections: fo.Detections | None, size: tuple[int, int], draw_masks: bool, **look) -> Layer:
    width, height = size
    found = detections.detections if detections is not None else []
    boxes = to_absolute([d.bounding_box for d in found], width, height)
    captions = [f"{d.label or ''} {'' if d.confidence is None else f'{d.confidence:.2f}'}".strip() for d in found]
    full = None
    if draw_masks:
        full = [paste(d.get_mask(), b, height, width) if d.has_mask else None for d, b in zip(found, boxes)]
    return Layer(boxes, captions, full, **look)


def _names(sample, fields: Sequence[str], dataset, all_named: bool) -> dict[str, str]:
    """What is said of each field: its name if all are named, and what its outcome means where there is nothing to draw."""
    names = {}
    for field in fields:
        outcome = sample[f"{field}_outcome"] if dataset.has_sample_field(f"{field}_outcome") else None
        words = _OUTCOME_TEXT.get(outcome)
        names[field] = f"{field}: {words}" if words else field if all_named else ""
    return names

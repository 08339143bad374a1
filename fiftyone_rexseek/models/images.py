"""Opening images: whatever the file holds becomes upright RGB, or one clear error.

FiftyOne's App and its metadata apply the EXIF orientation, and relative boxes refer to the upright picture; so the
orientation is applied here, once, before any model sees the pixels.
"""

from __future__ import annotations

from os import PathLike
from typing import Any

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from ..errors import DataError

#: Everything that decoding a broken file raises in practice.
DECODE_ERRORS = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    IndexError,
    TypeError,
    MemoryError,
    UnidentifiedImageError,
    Image.DecompressionBombError,
)


def open_image(source: str | PathLike | Image.Image | np.ndarray) -> Image.Image:
    """An upright RGB ``PIL.Image`` from a path, a PIL image or an (h, w), (h, w, 1), (h, w, 3) or (h, w, 4) uint8 array.

    Greyscale, palette, CMYK and 16-bit files are converted, transparency is dropped, EXIF orientation is applied.

    Raises:
        DataError: the file is missing, empty, truncated or no image, the array has another shape or type, or the
            argument is none of these

    Example::

        >>> open_image(np.zeros((4, 6), np.uint8)).size, open_image(np.zeros((4, 6, 4), np.uint8)).mode
        ((6, 4), 'RGB')
    """
    if isinstance(source, np.ndarray):
        return Image.fromarray(_rgb_array(source))
    if not isinstance(source, str | PathLike | Image.Image):
        raise DataError("not an image", expected="a path, a PIL image or an array", found=type(source).__name__)
    try:
        if isinstance(source, Image.Image):  # may be a file that PIL has not decoded yet
            return _upright_rgb(source, "image")
        with Image.open(source) as image:
            return _upright_rgb(image, source)
    except FileNotFoundError as e:
        raise DataError("image file does not exist", where=source) from e
    except DataError:
        raise
    except DECODE_ERRORS as e:
        where = "image" if isinstance(source, Image.Image) else source
        raise DataError(f"image cannot be read ({type(e).__name__}: {e})", where=where) from e


def _rgb_array(array: np.ndarray) -> np.ndarray:
    if array.ndim == 2:
        array = array[..., None]
    if array.ndim != 3 or array.shape[2] not in (1, 3, 4) or array.dtype != np.uint8 or 0 in array.shape:
        raise DataError(
            "array is no image", expected="uint8 of shape (h, w, 3)", found=f"{array.dtype} of shape {array.shape}"
        )
    if array.shape[2] == 1:
        array = np.repeat(array, 3, axis=2)
    return np.ascontiguousarray(array[..., :3])


def _upright_rgb(image: Image.Image, where: Any) -> Image.Image:
    if 0 in image.size:
        raise DataError("image has no pixels", where=where, found=image.size)
    upright = ImageOps.exif_transpose(image)
    if upright.mode.startswith("I;16") or upright.mode in ("I", "F"):
        # convert("RGB") would clip 16-bit values to white and make fractions black
        values = np.nan_to_num(np.asarray(upright, dtype=np.float64))
        peak = values.max(initial=0)
        top = 65535.0 if peak > 255 else 1.0 if upright.mode == "F" and peak <= 1 else 255.0
        return Image.fromarray(_rgb_array(np.clip(values / top * 255.0, 0, 255).round().astype(np.uint8)))
    return upright.convert("RGB")

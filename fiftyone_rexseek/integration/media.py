"""Finding the images that annotation rows name, and their sizes, without decoding them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import PIL
from PIL import ExifTags, Image

from ..errors import DataError

MAX_REMEMBERED = 200_000


@dataclass(frozen=True, slots=True)
class ImageFile:
    """An image on disk: absolute path, size in pixels, bytes, MIME type."""

    path: str
    width: int
    height: int
    size_bytes: int
    mime_type: str | None


class ImageFolder:
    """Resolves file names to :class:`ImageFile`; each file's header is read once however many rows share it.

    Args:
        root: the folder of the images, or a mapping of file names to paths
    """

    def __init__(self, root: str | os.PathLike | Mapping[str, str]):
        self.root = dict(root) if isinstance(root, Mapping) else Path(root).expanduser().absolute()
        self._seen: dict[str, ImageFile | DataError] = {}

    def check(self) -> None:
        """Raises :class:`DataError` when the folder does not exist."""
        if isinstance(self.root, Path) and not self.root.is_dir():
            raise DataError(
                "the image folder does not exist",
                where=self.root,
                expected="a folder that holds the images named in the annotations",
                advice="Pass data_path=<folder of the images>.",
            )

    def path(self, file_name: str) -> str:
        """Absolute path of a file name, whether or not it exists."""
        if isinstance(self.root, Mapping):
            return os.path.abspath(self.root.get(file_name, file_name))
        return os.path.normpath(os.path.join(self.root, file_name))

    def __getitem__(self, file_name: str) -> ImageFile:
        """The image; raises :class:`DataError` when it is missing or no image (also the second time)."""
        found = self._seen.get(file_name)
        if found is None:
            try:
                found = read_header(self.path(file_name))
            except DataError as e:
                found = e
            if len(self._seen) >= MAX_REMEMBERED:
                self._seen.clear()
            self._seen[file_name] = found
        if isinstance(found, DataError):
            raise found
        return found


def read_header(path: str) -> ImageFile:
    """Size and type of an image from its header; raises :class:`DataError` when that is not possible.

    The size is that of the upright picture: FiftyOne and the models apply the EXIF orientation, and so do the boxes.
    """
    try:
        size_bytes = os.stat(path).st_size
        with Image.open(path) as image:
            width, height = image.size
            if _is_turned(image):
                width, height = height, width
            return ImageFile(path, width, height, size_bytes, Image.MIME.get(image.format))
    except FileNotFoundError as e:
        raise DataError("image not found", where=path) from e
    except IsADirectoryError as e:
        raise DataError("this is a folder, not an image", where=path) from e
    except (OSError, ValueError, SyntaxError, PIL.UnidentifiedImageError, Image.DecompressionBombError) as e:
        raise DataError("image cannot be read", where=path, found=e) from e


def _is_turned(image: Image.Image) -> bool:
    # asking a PNG without EXIF for it would decode the whole picture
    if image.format == "PNG" and "exif" not in image.info:
        return False
    return image.getexif().get(ExifTags.Base.Orientation, 1) in (5, 6, 7, 8)

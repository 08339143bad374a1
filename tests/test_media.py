"""Sizes from headers agree with what FiftyOne itself would store."""

import fiftyone as fo
import pytest
from PIL import Image

from fiftyone_rexseek.errors import DataError
from fiftyone_rexseek.integration.media import read_header
from fiftyone_rexseek.models.images import open_image


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
@pytest.mark.parametrize("ext", ["jpg", "png", "webp"])
def test_rotated_files_have_the_size_of_the_upright_picture(tmp_path, orientation, ext):
    path = tmp_path / f"a.{ext}"
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.new("RGB", (40, 20)).save(path, exif=exif)
    header = read_header(str(path))
    assert (header.width, header.height) == open_image(path).size
    if ext == "jpg":
        stored = fo.ImageMetadata.build_for(str(path))
        assert (header.width, header.height) == (stored.width, stored.height)


def test_what_is_no_image_is_named(tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"nothing")
    for path in (tmp_path / "a.jpg", tmp_path / "missing.jpg", tmp_path):
        with pytest.raises(DataError, match=str(path)):
            read_header(str(path))

"""Masks from boxes through transformers' SAM and SAM2, tiny and random."""

import numpy as np
import pytest
import tiny_detectors as tiny
from PIL import Image

from fiftyone_rexseek.errors import CheckpointError, DownloadError
from fiftyone_rexseek.masks import decode
from fiftyone_rexseek.models.segmentation import BoxSegmenter, SamSegmenter

BOXES = np.array([[10, 10, 60, 60], [5.5, 30.2, 100, 80], [0, 0, 2, 2]])


@pytest.fixture(scope="module", params=["sam", "sam2"])
def segmenter(request, tmp_path_factory):
    folder = getattr(tiny, request.param)(tmp_path_factory.mktemp(request.param))
    return SamSegmenter.from_pretrained(folder, device="cpu")


def test_one_mask_per_box_at_the_size_of_the_image(segmenter):
    assert isinstance(segmenter, BoxSegmenter)
    image = tiny.picture(121, 83)
    masks = segmenter.segment(image, BOXES)
    assert [m["size"] for m in masks] == [[83, 121]] * 3
    # boxes in several passes of the decoder give the same masks
    segmenter.max_boxes = 2
    assert segmenter.segment(image, BOXES) == masks


def test_no_boxes_no_masks(segmenter):
    assert segmenter.segment(tiny.picture(), np.zeros((0, 4))) == []


def test_rgb_is_seen_as_rgb(segmenter, monkeypatch):
    """A pure red picture arrives with its first channel at the top and the last one at the bottom."""
    seen = []
    encode = segmenter.model.get_image_embeddings
    monkeypatch.setattr(segmenter.model, "get_image_embeddings", lambda pixels: seen.append(pixels) or encode(pixels))
    segmenter.segment(Image.new("RGB", (64, 64), (255, 0, 0)), [[1, 1, 20, 20]])
    processor = segmenter.processor.image_processor
    red, _, blue = (seen[0][0, c].mean() * processor.image_std[c] + processor.image_mean[c] for c in range(3))
    assert red == pytest.approx(1, abs=0.02) and blue == pytest.approx(0, abs=0.02)


def test_greyscale_and_alpha_images(segmenter):
    for mode in ("L", "RGBA", "P", "CMYK"):
        [mask] = segmenter.segment(tiny.picture(50, 40).convert(mode), [[1, 1, 20, 20]])
        assert decode(mask).shape == (40, 50)


def test_no_network_and_wrong_folder(tmp_path):
    with pytest.raises(DownloadError, match="facebook/sam-vit-base"):
        SamSegmenter.from_pretrained()
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(CheckpointError, match="not a SAM"):
        SamSegmenter.from_pretrained(tmp_path)

"""Boxes and run-length masks: what must hold for any of them."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from fiftyone_rexseek import geometry, masks
from fiftyone_rexseek.errors import DataError
from fiftyone_rexseek.metrics.points import rectangle_rle, run_ends

shapes = array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=24)
bitmaps = shapes.flatmap(lambda s: arrays(bool, s))
coordinate = st.floats(-500, 500)
box = st.builds(
    lambda x, y, w, h: [x, y, x + w, y + h], coordinate, coordinate, st.floats(0.5, 400), st.floats(0.5, 400)
)


@settings(max_examples=100, deadline=None)
@given(bitmaps)
def test_masks_survive_encoding(bitmap):
    rle = masks.encode(bitmap)
    assert (masks.decode(rle) == bitmap).all() and masks.area(rle) == bitmap.sum()
    runs = masks.compressed_runs(rle["counts"])
    assert runs.sum() == bitmap.size and runs[1::2].sum() == bitmap.sum()
    listed = {"size": list(bitmap.shape), "counts": runs.tolist()}
    assert masks.compress(listed, *bitmap.shape) == rle  # list counts and text are the same mask
    assert masks.compress(rle, *bitmap.shape) == rle


@settings(max_examples=50, deadline=None)
@given(st.lists(bitmaps, min_size=1, max_size=8))
def test_decoding_together_and_alone_agree(bitmaps):
    codes = [masks.encode(b)["counts"].encode() for b in bitmaps]
    runs, lengths, sound = masks.decode_counts(codes)
    assert sound.all() and np.split(runs, np.cumsum(lengths)[:-1])
    for part, code in zip(np.split(runs, np.cumsum(lengths)[:-1]), codes):
        assert part.tolist() == masks.compressed_runs(code).tolist()


@settings(max_examples=100, deadline=None)
@given(st.lists(st.binary(max_size=12), min_size=1, max_size=6))
def test_broken_codes_are_marked_and_harm_nobody(codes):
    good = masks.encode(np.eye(9, dtype=bool))["counts"].encode()
    runs, lengths, sound = masks.decode_counts([*codes, good])
    assert sound[-1] and runs[-lengths[-1] :].tolist() == masks.compressed_runs(good).tolist()
    for code, fine in zip(codes, sound):
        if fine:
            masks.compressed_runs(code)
        else:
            with pytest.raises(DataError):
                masks.compressed_runs(code)


@settings(max_examples=60, deadline=None)
@given(bitmaps, st.data())
def test_points_in_masks(bitmap, data):
    h, w = bitmap.shape
    xy = [(data.draw(st.integers(-2, w + 1)), data.draw(st.integers(-2, h + 1))) for _ in range(5)]
    ends = run_ends([masks.encode(~bitmap), masks.encode(bitmap)])
    expected = [0 <= x < w and 0 <= y < h and bool(bitmap[y, x]) for x, y in xy]
    assert ends.contains([1] * 5, xy).tolist() == expected


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 30), st.integers(1, 30), st.lists(st.floats(-10, 40), min_size=4, max_size=4))
def test_rectangles_as_masks(height, width, numbers):
    x1, x2 = sorted(numbers[:2])
    y1, y2 = sorted(numbers[2:])
    rle = rectangle_rle([x1, y1, x2, y2], (height, width))
    if rle["size"] == [1, 1]:
        assert x2 < 0 or y2 < 0 or height == width == 1
        return
    y, x = np.mgrid[:height, :width]
    assert (masks.decode(rle) == ((x >= x1) & (x <= x2) & (y >= y1) & (y <= y2))).all()


def test_run_lengths_must_be_whole_and_positive():
    for counts in ([-5, 105], [50.5, 49.5], [[100]], ["100"]):
        with pytest.raises(DataError):
            masks.compress({"size": [10, 10], "counts": counts}, 10, 10)


@settings(max_examples=100, deadline=None)
@given(box, box, st.floats(0.1, 10), coordinate)
def test_iou_is_symmetric_bounded_and_keeps_under_scaling_and_shifting(a, b, scale, shift):
    iou = geometry.pairwise_iou([a], [b])[0, 0]
    assert 0 <= iou <= 1 + 1e-12
    assert iou == geometry.pairwise_iou([b], [a])[0, 0]
    assert geometry.pairwise_iou([a], [a])[0, 0] == pytest.approx(1)
    moved = geometry.pairwise_iou(np.array([a]) * scale + shift, np.array([b]) * scale + shift)[0, 0]
    assert moved == pytest.approx(iou, abs=1e-6)


@settings(max_examples=100, deadline=None)
@given(st.lists(box, max_size=5), st.integers(1, 5000), st.integers(1, 5000))
def test_box_conversions_round_trip(boxes, width, height):
    expected = np.reshape(boxes, (-1, 4))
    back = geometry.to_absolute(geometry.to_relative(boxes, width, height), width, height)
    assert back == pytest.approx(expected, abs=1e-6)
    assert geometry.xywh_to_xyxy(geometry.xyxy_to_xywh(boxes)) == pytest.approx(expected, abs=1e-6)


@settings(max_examples=60, deadline=None)
@given(bitmaps, st.data())
def test_crop_and_paste(bitmap, data):
    h, w = bitmap.shape
    x1, x2 = sorted(data.draw(st.tuples(st.floats(0, w), st.floats(0, w))))
    y1, y2 = sorted(data.draw(st.tuples(st.floats(0, h), st.floats(0, h))))
    window = masks.pixel_window([x1, y1, x2, y2], h, w)
    pasted = masks.paste(masks.crop_to_box(bitmap, [x1, y1, x2, y2]), [x1, y1, x2, y2], h, w)
    expected = np.zeros_like(bitmap)
    x0, y0, x9, y9 = window
    expected[y0:y9, x0:x9] = bitmap[y0:y9, x0:x9]
    assert (pasted == expected).all() and window[2] > window[0] and window[3] > window[1]

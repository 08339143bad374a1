"""Masks: COCO run-length encodings, polygons and FiftyOne's box-relative arrays.

pycocotools does the encoding; it is imported when first needed, so that models import without it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from .errors import DataError, MissingDependencyError
from .referring import RLE, Segmentation


def _coco():
    try:
        from pycocotools import mask as coco_mask
    except ImportError as e:
        raise MissingDependencyError("masks need pycocotools", advice="pip install pycocotools") from e
    return coco_mask


def compress(segmentation: Segmentation, height: int, width: int) -> RLE:
    """Any COCO segmentation as one compressed RLE ``{"size": [h, w], "counts": str}``.

    Polygon parts with fewer than 6 numbers or an odd count are dropped, as the gRefCOCO loader does;
    several parts are united. An RLE of another size than the image raises :class:`DataError`.

    Example::

        >>> area(compress([[0, 0, 4, 0, 4, 4, 0, 4]], 10, 10))
        16
    """
    coco = _coco()
    if isinstance(segmentation, Mapping):
        size = _size_of(segmentation)
        if size != [int(height), int(width)]:
            raise DataError("RLE does not fit its image", expected=[int(height), int(width)], found=size)
        counts = segmentation.get("counts")
        if not isinstance(counts, list | tuple | np.ndarray | str | bytes):
            raise DataError("RLE has no counts", expected="text or a list of run lengths", found=counts)
        if isinstance(counts, list | tuple | np.ndarray):
            runs = _run_lengths(counts)
            if runs.sum() != size[0] * size[1]:
                raise DataError("RLE counts do not add up", expected=size[0] * size[1], found=int(runs.sum()))
            rle = coco.frPyObjects({"size": size, "counts": list(counts)}, *size)
        else:
            rle = {"size": size, "counts": counts}
            if isinstance(counts, str | bytes) and not _is_valid_compressed(rle):
                raise DataError("RLE counts do not add up", expected=f"runs that cover {size[0] * size[1]} pixels")
        return _as_text(rle)
    parts = [p.tolist() for p in polygon_parts(segmentation)]
    if not parts:
        return _as_text(coco.frPyObjects({"size": [height, width], "counts": [height * width]}, height, width))
    return _as_text(coco.merge(coco.frPyObjects(parts, height, width)))


def _size_of(rle: RLE) -> list[int]:
    size = rle.get("size")
    if not isinstance(size, list | tuple) or len(size) != 2 or not all(isinstance(v, int | float | np.integer) for v in size):
        raise DataError("RLE has no size", expected="[height, width]", found=size)
    try:
        height, width = (int(v) for v in size)
    except (ValueError, OverflowError) as e:
        raise DataError("RLE has an impossible size", expected="[height, width]", found=size) from e
    if height < 0 or width < 0 or height * width >= 2**32:  # pycocotools counts in 32 bits
        raise DataError("RLE has an impossible size", expected="[height, width]", found=size)
    return [height, width]


def _run_lengths(counts: Sequence[int]) -> np.ndarray:
    try:
        runs = np.asarray(counts)
    except (TypeError, ValueError, OverflowError) as e:
        raise DataError("RLE counts are not run lengths", expected="whole numbers >= 0", found=counts) from e
    if runs.ndim != 1 or (len(runs) and (runs.dtype.kind not in "iu" or runs.min() < 0)):
        raise DataError("RLE counts are not run lengths", expected="whole numbers >= 0", found=counts)
    return runs


#: No image is that large; pycocotools walks along every edge and would not come back from one of 10^12 pixels.
_LARGEST_COORDINATE = 2**20


def polygon_parts(segmentation: Sequence[Sequence[float]]) -> list[np.ndarray]:
    """The usable parts of a polygon mask, float64 arrays ``x0, y0, x1, y1, ...``.

    Parts with fewer than 6 numbers or an odd count are left out, as the gRefCOCO loader does.

    Raises:
        DataError: it is no list of lists of numbers, or a number is NaN, infinite or beyond any image

    Example::

        >>> [p.tolist() for p in polygon_parts([[0, 0, 4, 0, 4, 4], [1, 2, 3]])]
        [[0.0, 0.0, 4.0, 0.0, 4.0, 4.0]]
    """
    parts = []
    for part in segmentation if isinstance(segmentation, list | tuple) else (segmentation,):
        if not isinstance(part, list | tuple | np.ndarray):
            raise DataError("mask is neither an RLE nor polygons", expected="[[x0, y0, x1, y1, ...], ...]", found=segmentation)
        if len(part) < 6 or len(part) % 2:
            continue
        try:
            numbers = np.array(part, dtype=np.float64)
        except (TypeError, ValueError, OverflowError) as e:
            raise DataError("polygon holds something that is not a number", found=e) from e
        # written so that NaN is too large
        if numbers.ndim != 1 or not np.abs(numbers).max() <= _LARGEST_COORDINATE:
            raise DataError("polygon has an impossible coordinate", expected="pixels of the image", found=part)
        parts.append(numbers)
    return parts


def _as_text(rle) -> RLE:
    counts = rle["counts"]
    return {
        "size": [int(v) for v in rle["size"]],
        "counts": counts.decode("ascii") if isinstance(counts, bytes) else counts,
    }


def compressed_runs(counts: str | bytes) -> np.ndarray:
    """Run lengths (background first) of a compressed counts string, int64; the LEB128-like COCO code.

    Base 32 with a continuation bit (32) and, in the last digit, a sign bit (16), offset by 48.

    Example::

        >>> compressed_runs(encode(np.array([[0, 1], [0, 1]], bool))["counts"]).tolist()
        [2, 2]
    """
    data = counts.encode("latin-1", "replace") if isinstance(counts, str) else counts
    text = np.frombuffer(data, dtype=np.uint8).astype(np.int64) - 48
    if not len(text):
        return text
    if text.min() < 0 or text.max() > 63:
        raise DataError(
            "compressed RLE holds a character that is not part of the code",
            found=next(chr(c) for c in data if not 48 <= c < 112),
        )
    ends = np.flatnonzero(text < 32)
    if not len(ends) or ends[-1] != len(text) - 1:
        raise DataError("compressed RLE ends in the middle of a number")
    starts = np.concatenate([[0], ends[:-1] + 1])
    lengths = ends - starts + 1
    if lengths.max() > 12:
        raise DataError("compressed RLE holds a number that is too long", found=f"{lengths.max()} digits")
    digit = np.arange(len(text)) - np.repeat(starts, lengths)
    runs = np.add.reduceat((text & 31) << (5 * digit), starts)
    runs -= ((text[ends] & 16) > 0) * (np.int64(1) << (5 * lengths))
    # from the fourth number on, differences to the number two places earlier are stored
    runs[1::2] = np.cumsum(runs[1::2])
    runs[2::2] = np.cumsum(runs[2::2])
    return runs


def decode_counts(codes: Sequence[bytes]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Run lengths of many compressed counts strings in one go.

    Unlike :func:`compressed_runs` a broken code is marked and does not fail the others.

    Returns:
        runs of all codes end to end, int64; the number of runs of each code, int64; whether each is well formed, bool

    Example::

        >>> runs, lengths, sound = decode_counts([b"22", b"4", b"2P"])
        >>> runs[:3].tolist(), lengths.tolist(), sound.tolist()
        ([2, 2, 4], [2, 1, 2], [True, True, False])
    """
    parts = []
    start = size = 0
    for i, code in enumerate(codes):
        size += len(code)
        if size > _DECODE_CHUNK:  # small pieces stay in the processor's cache, and memory stays flat
            parts.append(_decode_some(codes[start : i + 1]))
            start, size = i + 1, 0
    parts.append(_decode_some(codes[start:]))
    runs, lengths, sound = zip(*parts)
    return np.concatenate(runs), np.concatenate(lengths), np.concatenate(sound)


_DECODE_CHUNK = 200_000


def _decode_some(codes: Sequence[bytes]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    text = np.frombuffer(b"".join(codes), dtype=np.uint8)
    code_length = np.fromiter((len(c) for c in codes), dtype=np.int64, count=len(codes))
    sound = np.ones(len(codes), dtype=bool)
    if not len(text):
        return np.zeros(0, np.int64), np.zeros(len(codes), np.int64), sound
    text = text - np.uint8(48)  # below 48 wraps around, so one comparison finds all foreign characters
    code_ends = np.cumsum(code_length)
    foreign = np.flatnonzero(text > 63)
    sound[np.searchsorted(code_ends, foreign, side="right")] = False
    last = (text & 32) == 0
    final = code_ends[code_length > 0] - 1
    sound[code_length > 0] &= last[final]
    last[final] = True  # a code cut short ends here and does not run into the next
    ends = np.flatnonzero(last)
    starts = np.concatenate([[0], ends[:-1] + 1])
    digits = ends - starts + 1
    owner = np.searchsorted(code_ends, ends, side="right")
    # twelve digits hold 60 bits; longer numbers are no pixel counts
    sound[owner[digits > 12]] = False
    value = (text[starts] & 31).astype(np.int64)
    for k in range(1, min(int(digits.max()), 12)):
        longer = np.flatnonzero(digits > k)
        value[longer] += (text[starts[longer] + k] & 31).astype(np.int64) << (5 * k)
    negative = np.flatnonzero(text[ends] & 16)
    value[negative] -= np.int64(1) << (5 * np.minimum(digits[negative], 12))
    lengths = np.bincount(owner, minlength=len(codes))
    first = np.cumsum(lengths) - lengths
    return _undo_differences(value, np.arange(len(value)) - np.repeat(first, lengths)), lengths, sound


def _undo_differences(value: np.ndarray, place: np.ndarray) -> np.ndarray:
    """``run[k] = value[k] + run[k - 2]`` for places k > 2: a running sum over the odd and one over the even places."""
    runs = value.copy()
    for begin in (1, 2):
        chosen = np.flatnonzero((place % 2 == begin % 2) & (place >= begin))
        if not len(chosen):
            continue
        total = np.cumsum(value[chosen])
        heads = np.flatnonzero(place[chosen] == begin)
        before = np.where(heads > 0, total[heads - 1], 0)
        runs[chosen] = total - np.repeat(before, np.diff(np.append(heads, len(total))))
    return runs


def _is_valid_compressed(rle) -> bool:
    # pycocotools itself does not check: a bad string makes it read beyond its buffer
    try:
        runs = compressed_runs(rle["counts"])
    except (DataError, UnicodeEncodeError):
        return False
    return bool((runs >= 0).all()) and int(runs.sum()) == rle["size"][0] * rle["size"][1]


def encode(mask: np.ndarray) -> RLE:
    """Boolean array (h, w) to a compressed RLE."""
    return _as_text(_coco().encode(np.asfortranarray(np.asarray(mask, dtype=np.uint8))))


def decode(rle: RLE) -> np.ndarray:
    """RLE (compressed or list counts) to a boolean array (h, w)."""
    return _coco().decode(_for_coco(rle)).astype(bool)


def _for_coco(rle: RLE):
    if isinstance(rle["counts"], list | tuple | np.ndarray):
        return compress(rle, *rle["size"])
    return {"size": list(rle["size"]), "counts": rle["counts"]}


def union(rles: Iterable[RLE], height: int, width: int) -> RLE:
    """Union of RLEs as one RLE, without decoding; all zeros for an empty input."""
    rles = [_for_coco(r) for r in rles]
    return _as_text(_coco().merge(rles)) if rles else encode(np.zeros((height, width), bool))


def area(rle: RLE) -> int:
    """Number of pixels, without decoding."""
    return int(_coco().area(_for_coco(rle)))


def intersection_area(a: RLE, b: RLE) -> int:
    """Number of pixels in both, without decoding."""
    coco = _coco()
    return int(coco.area(coco.merge([_for_coco(a), _for_coco(b)], intersect=True)))


def mask_box_xyxy(rle: RLE) -> np.ndarray:
    """Tight box (4,) of the mask's pixels in absolute ``xyxy``; zeros for an empty mask."""
    x, y, w, h = _coco().toBbox(_for_coco(rle))
    return np.array([x, y, x + w, y + h], dtype=np.float64)


def pixel_window(box_xyxy, height: int, width: int) -> tuple[int, int, int, int]:
    """Integer pixel window (x0, y0, x1, y1) that covers a box, clipped to the image, at least 1x1."""
    x0, y0 = int(np.floor(box_xyxy[0] + 1e-9)), int(np.floor(box_xyxy[1] + 1e-9))
    x1, y1 = int(np.ceil(box_xyxy[2] - 1e-9)), int(np.ceil(box_xyxy[3] - 1e-9))
    x0, y0 = min(max(x0, 0), width - 1), min(max(y0, 0), height - 1)
    return x0, y0, min(max(x1, x0 + 1), width), min(max(y1, y0 + 1), height)


def crop_to_box(mask: np.ndarray, box_xyxy) -> np.ndarray:
    """The part of a full-image boolean mask (h, w) that FiftyOne stores with a box: its :func:`pixel_window`."""
    x0, y0, x1, y1 = pixel_window(box_xyxy, *mask.shape)
    return np.ascontiguousarray(mask[y0:y1, x0:x1])


def decode_in_box(rle: RLE, box_xyxy) -> np.ndarray:
    """What :func:`crop_to_box` cuts out of the decoded mask, without decoding the rest; bool (h, w) of the window.

    Raises:
        DataError: the runs do not cover the image

    Example::

        >>> mask = np.zeros((9, 7), bool); mask[2:5, 1:6] = True
        >>> box = [0.5, 1, 4.2, 8]
        >>> bool((decode_in_box(encode(mask), box) == crop_to_box(mask, box)).all())
        True
    """
    height, width = (int(v) for v in rle["size"])
    counts = rle["counts"]
    runs = compressed_runs(counts) if isinstance(counts, str | bytes) else _run_lengths(counts).astype(np.int64)
    ends = np.cumsum(runs)
    if (runs < 0).any() or (ends[-1] if len(ends) else 0) != height * width:
        raise DataError("RLE counts do not add up", expected=f"runs that cover {height * width} pixels")
    x0, y0, x1, y1 = pixel_window(box_xyxy, height, width)
    # runs go down the columns, so the window's columns are one stretch of them
    clipped = np.clip(ends, x0 * height, x1 * height)
    inside = clipped - x0 * height
    inside[1:] = clipped[1:] - clipped[:-1]  # np.diff with prepend takes ten times as long on short arrays
    columns = np.repeat(np.arange(len(runs)) % 2 == 1, inside).reshape(x1 - x0, height)
    return np.ascontiguousarray(columns[:, y0:y1].T)


def paste(cropped: np.ndarray, box_xyxy, height: int, width: int) -> np.ndarray:
    """Inverse of :func:`crop_to_box`: a boolean full-image mask (height, width).

    A crop whose shape differs from the window (masks made by other tools) is resized to it, nearest neighbour.
    """
    x0, y0, x1, y1 = pixel_window(box_xyxy, height, width)
    full = np.zeros((height, width), bool)
    h, w = y1 - y0, x1 - x0
    cropped = np.asarray(cropped, dtype=bool)
    if cropped.shape != (h, w):
        rows = np.minimum((np.arange(h) + 0.5) * cropped.shape[0] / h, cropped.shape[0] - 1).astype(int)
        cols = np.minimum((np.arange(w) + 0.5) * cropped.shape[1] / w, cropped.shape[1] - 1).astype(int)
        cropped = cropped[rows][:, cols]
    full[y0:y1, x0:x1] = cropped
    return full

"""Masks to polygons: outlines along pixel edges, which rasterise back to exactly the same mask."""

from __future__ import annotations

import numpy as np


def polygons(mask: np.ndarray) -> list[list[float]]:
    """COCO polygons ``[[x0, y0, x1, y1, ...], ...]`` of a boolean mask (h, w); their union is the mask.

    COCO polygons know no holes, so a part with a hole is cut in two at the hole.

    Example::

        >>> polygons(np.array([[0, 1, 1], [0, 1, 1]], bool))
        [[1.0, 0.0, 3.0, 0.0, 3.0, 2.0, 1.0, 2.0]]
    """
    mask = np.asarray(mask, dtype=bool)
    found: list[list[float]] = []
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not len(rows):
        return found
    # only the box around the mask is walked: an object is a small part of its picture
    left = int(columns[0])
    stack = [(mask[rows[0] : rows[-1] + 1, left : columns[-1] + 1], int(rows[0]))]
    while stack:
        part, top = stack.pop()
        loops = _loops(part)
        holes = [loop for loop in loops if _signed_area(loop) < 0]
        if holes:
            rows = [y for _, y in holes[0]]
            cut = (min(rows) + max(rows)) // 2
            cut = min(max(cut, min(rows) + (max(rows) - min(rows) > 1)), part.shape[0] - 1)
            stack += [(part[cut:], top + cut), (part[:cut], top)]
            continue
        found += [[float(v) for x, y in loop for v in (x + left, y + top)] for loop in loops]
    return found


def _signed_area(loop) -> int:
    area = 0
    for (x0, y0), (x1, y1) in zip(loop, loop[1:] + loop[:1]):
        area += x0 * y1 - x1 * y0
    return area


def _loops(mask: np.ndarray) -> list[list[tuple[int, int]]]:
    """Closed outlines with the mask on their right (in image coordinates); holes run the other way round."""
    padded = np.zeros((mask.shape[0] + 2, mask.shape[1] + 2), np.int8)
    padded[1:-1, 1:-1] = mask
    # directed pixel edges: start corner -> step
    steps: dict[tuple[int, int], list[tuple[int, int]]] = {}
    down = padded[1:, :] - padded[:-1, :]
    across = padded[:, 1:] - padded[:, :-1]
    for edges, sign, shift, step in (
        (down, 1, (0, 0), (1, 0)),  # the mask begins below: walk right
        (down, -1, (1, 0), (-1, 0)),  # it ends below: walk left
        (across, -1, (0, 0), (0, 1)),  # it ends to the right: walk down
        (across, 1, (0, 1), (0, -1)),  # it begins to the right: walk up
    ):
        ys, xs = np.nonzero(edges == sign)
        dx, dy = (-1, 0) if edges is down else (0, -1)
        for x, y in zip((xs + dx + shift[0]).tolist(), (ys + dy + shift[1]).tolist()):
            steps.setdefault((x, y), []).append(step)
    loops = []
    while steps:
        start = next(iter(steps))
        at, last = start, None
        loop = []
        while at in steps:
            options = steps[at]
            # at a corner that two diagonal pixels share, turn right: each pixel keeps its own outline
            choice = 0
            if len(options) > 1 and last is not None:
                right = (-last[1], last[0])
                choice = options.index(right) if right in options else 0
            step = options.pop(choice)
            if not options:
                del steps[at]
            if step != last:
                loop.append(at)
            at, last = (at[0] + step[0], at[1] + step[1]), step
            if at == start:
                break
        if len(loop) > 1 and _collinear(loop[-1], loop[0], loop[1]):
            loop = loop[1:]
        loops.append(loop)
    return loops


def _collinear(a, b, c) -> bool:
    return (a[0] == b[0] == c[0]) or (a[1] == b[1] == c[1])

"""Backgrounds: park, street, beach and room, in muted colours so that people stand out."""

from __future__ import annotations

import random

import numpy as np
from PIL import Image


def _gradient(image: Image.Image, y0: int, y1: int, top, bottom) -> None:
    height = max(1, y1 - y0)
    t = np.linspace(0, 1, height)[:, None]
    rows = (np.array(top) * (1 - t) + np.array(bottom) * t).round().astype(np.uint8)[:, None]
    strip = Image.fromarray(np.ascontiguousarray(rows))
    image.paste(strip.resize((image.width, height), Image.Resampling.NEAREST), (0, y0))


def horizon(rng: random.Random) -> float:
    return rng.uniform(0.36, 0.5)


def draw_scenery(canvas, rng: random.Random, grid) -> None:
    """Fills the picture; every scene kind has its own things in the background."""
    kind = rng.choice(("park", "street", "beach", "room"))
    image = canvas.image
    w, h = image.size
    ground = int(h * horizon(rng))
    canvas.place(0, 0, 1.0, 0)
    {"park": _park, "street": _street, "beach": _beach, "room": _room}[kind](canvas, rng, image, w, h, ground)


def _sky(canvas, rng, image, w, h, ground) -> None:
    top, bottom = rng.choice(
        (
            ((150, 200, 240), (226, 240, 250)),
            ((250, 200, 160), (255, 238, 214)),
            ((164, 190, 226), (236, 226, 238)),
        )
    )
    _gradient(image, 0, ground, top, bottom)
    d = canvas.draw
    if rng.random() < 0.5:
        r, x, y = 0.06 * min(w, h), rng.uniform(0.08, 0.92) * w, rng.uniform(0.08, 0.16) * h
        d.ellipse((x - 1.3 * r, y - 1.3 * r, x + 1.3 * r, y + 1.3 * r), fill=(255, 246, 214))
        d.ellipse((x - r, y - r, x + r, y + r), fill=(255, 236, 170))
    for _ in range(rng.randint(1, 3)):
        x, y, r = rng.uniform(0, 1) * w, rng.uniform(0.05, 0.22) * h, rng.uniform(0.03, 0.05) * min(w, h)
        for dx, dy, k in ((-1.4, 0.2, 0.8), (0, 0, 1.15), (1.3, 0.25, 0.85)):
            cx, cy, cr = x + dx * r, y + dy * r, k * r
            d.ellipse((cx - 1.2 * cr, cy - cr, cx + 1.2 * cr, cy + cr), fill=(250, 250, 252))


def _tree(d, x, base, size, rng) -> None:
    d.rectangle((x - 0.06 * size, base - 0.5 * size, x + 0.06 * size, base), fill=(150, 124, 100))
    leaf = rng.choice(((132, 180, 128), (150, 190, 130), (118, 168, 126)))
    for dx, dy, r in ((-0.2, 0.62, 0.24), (0.2, 0.62, 0.24), (0, 0.82, 0.28)):
        cx, cy, cr = x + dx * size, base - dy * size, r * size
        d.ellipse((cx - cr, cy - cr, cx + cr, cy + cr), fill=leaf)


def _house(d, x, base, size, rng) -> None:
    wall = rng.choice(((226, 206, 186), (214, 220, 226), (236, 222, 196), (222, 200, 200)))
    roof = rng.choice(((176, 128, 118), (140, 140, 156), (166, 140, 120)))
    d.rectangle((x - 0.5 * size, base - 0.75 * size, x + 0.5 * size, base), fill=wall)
    d.polygon(
        [
            (x - 0.62 * size, base - 0.75 * size),
            (x + 0.62 * size, base - 0.75 * size),
            (x, base - 1.15 * size),
        ],
        fill=roof,
    )
    for dx in (-0.28, 0.28):
        d.rectangle(
            (x + (dx - 0.11) * size, base - 0.58 * size, x + (dx + 0.11) * size, base - 0.36 * size),
            fill=(196, 216, 230),
        )
    d.rectangle((x - 0.1 * size, base - 0.32 * size, x + 0.1 * size, base), fill=(160, 132, 116))


def _park(canvas, rng, image, w, h, ground) -> None:
    _sky(canvas, rng, image, w, h, ground)
    d = canvas.draw
    for _ in range(3):
        x, r = rng.uniform(0, 1) * w, rng.uniform(0.25, 0.5) * w
        d.ellipse((x - r, ground - 0.22 * r, x + r, ground + 0.5 * r), fill=(186, 212, 178))
    _gradient(image, ground, h, (176, 208, 150), (146, 188, 124))
    for x in sorted(rng.sample(range(12), rng.randint(3, 5))):
        _tree(d, (x + 0.5) * w / 12, ground + 0.03 * h, rng.uniform(0.2, 0.34) * h, rng)
    if rng.random() < 0.6:
        x = rng.uniform(0.3, 0.7) * w
        d.polygon(
            [(x, ground), (x + 0.05 * w, ground), (x + 0.3 * w, h), (x - 0.15 * w, h)], fill=(216, 204, 176)
        )


def _street(canvas, rng, image, w, h, ground) -> None:
    _sky(canvas, rng, image, w, h, ground)
    d = canvas.draw
    _gradient(image, ground, h, (214, 210, 204), (188, 184, 180))
    step = rng.uniform(0.17, 0.24) * w
    x = rng.uniform(-0.05, 0.1) * w
    while x < w + step:
        if rng.random() < 0.8:
            _house(d, x, ground + 0.01 * h, step * rng.uniform(0.78, 0.92), rng)
        else:
            _tree(d, x, ground + 0.01 * h, step * 1.1, rng)
        x += step
    y = ground + 0.1 * h
    d.rectangle((0, y, w, y + 0.012 * h), fill=(232, 228, 222))


def _beach(canvas, rng, image, w, h, ground) -> None:
    _sky(canvas, rng, image, w, h, ground)
    sea = ground + int(0.12 * h)
    _gradient(image, ground, sea, (128, 188, 214), (176, 218, 226))
    _gradient(image, sea, h, (246, 228, 186), (228, 204, 156))
    d = canvas.draw
    d.rectangle((0, sea, w, sea + 0.012 * h), fill=(250, 250, 246))
    for _ in range(rng.randint(1, 2)):
        x, s = rng.uniform(0.05, 0.95) * w, 0.1 * h
        y = ground + 0.04 * h
        d.polygon(
            [(x - 0.5 * s, y), (x + 0.5 * s, y), (x + 0.3 * s, y + 0.2 * s), (x - 0.3 * s, y + 0.2 * s)],
            fill=(170, 140, 120),
        )
        d.polygon([(x, y - 0.1 * s), (x, y - 1.2 * s), (x + 0.5 * s, y - 0.1 * s)], fill=(250, 250, 250))


def _room(canvas, rng, image, w, h, ground) -> None:
    wall, floor = rng.choice(
        (
            ((236, 226, 212), (204, 176, 146)),
            ((220, 228, 232), (188, 178, 170)),
            ((228, 234, 220), (196, 170, 148)),
        )
    )
    _gradient(image, 0, ground, tuple(min(255, c + 8) for c in wall), wall)
    _gradient(image, ground, h, floor, tuple(int(c * 0.9) for c in floor))
    d = canvas.draw
    d.rectangle((0, ground - 0.012 * h, w, ground), fill=(250, 248, 244))
    for k in range(rng.randint(2, 4)):
        x, y, s = (
            (0.14 + 0.24 * k + rng.uniform(-0.04, 0.04)) * w,
            0.17 * h,
            rng.uniform(0.1, 0.14) * min(w, h),
        )
        if rng.random() < 0.5:
            d.rectangle((x - s, y - s, x + s, y + s), fill=(250, 250, 248))
            d.rectangle((x - 0.85 * s, y - 0.85 * s, x + 0.85 * s, y + 0.85 * s), fill=(190, 218, 236))
            d.rectangle((x - 0.06 * s, y - s, x + 0.06 * s, y + s), fill=(250, 250, 248))
            d.rectangle((x - s, y - 0.06 * s, x + s, y + 0.06 * s), fill=(250, 250, 248))
        else:
            d.rectangle((x - 0.8 * s, y - 0.6 * s, x + 0.8 * s, y + 0.6 * s), fill=(170, 140, 108))
            d.rectangle((x - 0.7 * s, y - 0.5 * s, x + 0.7 * s, y + 0.5 * s), fill=(214, 224, 214))
            d.ellipse((x - 0.3 * s, y - 0.3 * s, x + 0.3 * s, y + 0.3 * s), fill=(226, 190, 170))

"""Drawing: the same shapes once in colour and once as an id map, so that masks fit the picture exactly.

A person is drawn in units of the tallest adult's height, feet at (0, 0), y up. :class:`Grid` turns the columns and
rows of :mod:`.people` into pixels: no person reaches beyond its column, whatever the aspect of the picture.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from .costumes import draw_costume_body, draw_costume_head
from .objects import draw_dog, draw_face, draw_hat, draw_held
from .people import COLORS, HAIR, Cast, Person
from .scenery import draw_scenery

#: Pictures are drawn this many times larger and averaged down: smooth edges.
SUPERSAMPLE = 2
#: Pixel value of dogs in the id map; people are 1 + index.
DOG_ID = 255


@dataclass(frozen=True, slots=True)
class Grid:
    """Pixels of the grid that people stand on: one adult's height, a column's width, the feet of each row."""

    width: float
    height: float
    unit: float
    column: float
    pitch: float
    num_rows: int

    @classmethod
    def fit(cls, width: float, height: float, cast: Cast) -> Grid:
        rows = cast.num_rows
        unit = min(1.3 * width / cast.num_columns, 0.94 * height / (1.22 + 1.12 * (rows - 1)))
        return cls(width, height, unit, min(width / cast.num_columns, 1.0 * unit), 1.12 * unit, rows)

    def x(self, columns: float) -> float:
        return self.width / 2 + columns * self.column

    def feet(self, row: int) -> float:
        # tall pictures: rows stand in the lower part, not at the very bottom
        spare = self.height - self.unit * (1.22 + 1.12 * (self.num_rows - 1))
        return (
            self.height * 0.985
            - 0.3 * max(spare - 0.06 * self.height, 0)
            - (self.num_rows - 1 - row) * self.pitch
        )


class Canvas:
    """ImageDraw with an origin, a unit and y up; as an id map every colour becomes the current id.

    Args:
        image: RGB (a picture) or L (an id map)
    """

    def __init__(self, image: Image.Image):
        self.image = image
        self.draw = ImageDraw.Draw(image)
        self.is_map = image.mode == "L"
        self.id = 0
        self.ox = self.oy = 0.0
        self.scale = 1.0

    def place(self, ox: float, oy: float, scale: float, id: int) -> Canvas:
        """Moves the origin to pixel (ox, oy), sets the unit and the id of what is drawn next."""
        self.ox, self.oy, self.scale, self.id = ox, oy, scale, id
        return self

    def _ink(self, color):
        return self.id if self.is_map else color

    def ellipse(self, cx, cy, rx, ry, color) -> None:
        x, y, rx, ry = self.ox + cx * self.scale, self.oy - cy * self.scale, rx * self.scale, ry * self.scale
        self.draw.ellipse((x - rx, y - ry, x + rx, y + ry), fill=self._ink(color))

    def chord(self, cx, cy, rx, ry, start, end, color) -> None:
        """Part of an ellipse; angles in degrees clockwise from the right, as PIL has them."""
        x, y, rx, ry = self.ox + cx * self.scale, self.oy - cy * self.scale, rx * self.scale, ry * self.scale
        self.draw.chord((x - rx, y - ry, x + rx, y + ry), start, end, fill=self._ink(color))

    def arc(self, cx, cy, rx, ry, start, end, color, width) -> None:
        x, y, rx, ry = self.ox + cx * self.scale, self.oy - cy * self.scale, rx * self.scale, ry * self.scale
        pixels = max(1, round(width * self.scale))
        self.draw.arc((x - rx, y - ry, x + rx, y + ry), start, end, fill=self._ink(color), width=pixels)

    def polygon(self, points, color) -> None:
        self.draw.polygon(
            [(self.ox + x * self.scale, self.oy - y * self.scale) for x, y in points], fill=self._ink(color)
        )

    def rect(self, x0, y0, x1, y1, color, radius: float = 0.0) -> None:
        a, b = self.ox + x0 * self.scale, self.ox + x1 * self.scale
        c, d = self.oy - y1 * self.scale, self.oy - y0 * self.scale
        if radius:
            limit = min(b - a, d - c) / 2
            self.draw.rounded_rectangle((a, c, b, d), min(radius * self.scale, limit), fill=self._ink(color))
        else:
            self.draw.rectangle((a, c, b, d), fill=self._ink(color))

    def limb(self, points, width, color) -> None:
        """A thick line with round ends and joints."""
        pixels = [(self.ox + x * self.scale, self.oy - y * self.scale) for x, y in points]
        w = max(1.0, width * self.scale)
        ink = self._ink(color)
        self.draw.line(pixels, fill=ink, width=max(1, round(w)))
        if w > 2:
            for x, y in pixels:
                self.draw.ellipse((x - w / 2, y - w / 2, x + w / 2, y + w / 2), fill=ink)


def shade(color, factor: float):
    """A darker (factor < 1) or lighter (> 1) version of an RGB colour."""
    if factor <= 1:
        return tuple(int(c * factor) for c in color)
    return tuple(int(255 - (255 - c) / factor) for c in color)


def draw_cast(canvas: Canvas, cast: Cast, grid: Grid) -> None:
    """Everybody from the back row to the front, dogs in front of their row."""
    for row in range(cast.num_rows):
        for person in cast.people:
            if person.row == row:
                _draw_person(canvas, person, cast, grid)
        for dog in cast.dogs:
            if dog.row == row:
                canvas.place(grid.x(dog.x), grid.feet(row), grid.unit, DOG_ID)
                draw_dog(canvas, dog)
                if dog.leash:
                    _draw_leash(canvas, dog, cast.people[dog.owner], grid)


def _draw_person(canvas: Canvas, p: Person, cast: Cast, grid: Grid) -> None:
    scale = p.height * grid.unit
    x, y = grid.x(p.x), grid.feet(p.row)
    canvas.place(x, y, scale, 0)
    if not canvas.is_map:
        canvas.ellipse(0, 0.005, 0.2, 0.022, (60, 66, 60))
    canvas.place(x, y, scale, p.index + 1)

    shirt = COLORS[p.shirt] if p.shirt else (200, 200, 200)
    # arms that go to a partner, a leash or a held object are drawn over the body; the others hang beside it
    hands: dict[int, tuple[float, float]] = {}
    if p.partner is not None:
        other = cast.people[p.partner]
        side = 1 if other.x > p.x else -1
        hand_y = 0.44 * min(p.height, other.height) * grid.unit
        hands[side] = ((grid.x((p.x + other.x) / 2) - x) / scale, hand_y / scale)
    if p.leash:
        hands[_dog_side(p, cast)] = (0.24 * _dog_side(p, cast), 0.40)
    object_scale = max(p.height, 0.8) / p.height
    if p.held is not None:
        hands[p.held_side] = (0.215 * p.held_side, {"bag": 0.36, "ball": 0.42}.get(p.held, 0.5))
    if p.waving:
        hands[p.wave_side] = (0.27 * p.wave_side, 0.93)

    if p.costume:
        draw_costume_body(canvas, p)
        sleeve, bare = _costume_sleeve(p), p.skin
    else:
        _draw_clothes(canvas, p, shirt)
        sleeve, bare = shade(shirt, 0.86), p.skin
    for side in (-1, 1):
        reaching = side in hands
        hand = hands.get(side, (0.185 * side, 0.37))
        _draw_arm(
            canvas, side, hand, sleeve, bare, p.long_sleeves or p.costume is not None, p.partner, reaching
        )
    _draw_head(canvas, p)
    if p.held is not None:
        hx, hy = hands[p.held_side]
        canvas.place(x + hx * scale, y - hy * scale, scale * object_scale, p.index + 1)
        draw_held(canvas, p, head=(-hx / object_scale, (0.93 - hy) / object_scale))
        canvas.place(x, y, scale, p.index + 1)
        canvas.ellipse(hx, hy, 0.042, 0.042, bare)


def _draw_leash(canvas: Canvas, dog, owner: Person, grid: Grid) -> None:
    if canvas.is_map:
        return
    hand_x = (grid.x(owner.x) - grid.x(dog.x)) / grid.unit + 0.24 * dog.side * owner.height
    hand_y = 0.40 * owner.height
    neck = (0.085 * dog.side, 0.215)
    sag = ((hand_x + neck[0]) / 2, (hand_y + neck[1]) / 2 - 0.02)
    canvas.limb([(hand_x, hand_y), sag, neck], 0.022, (176, 20, 30))


def _dog_side(p: Person, cast: Cast) -> int:
    return next(d.side for d in cast.dogs if d.owner == p.index)


def _costume_sleeve(p: Person):
    return {
        "wizard": (112, 36, 150), "pirate": (250, 250, 250), "astronaut": (226, 230, 236),
        "hero": (36, 84, 220), "queen": (255, 170, 212), "robot": (150, 158, 168), "snowman": (236, 240, 246),
    }[p.costume]  # fmt: skip


def _draw_clothes(canvas: Canvas, p: Person, shirt) -> None:
    trousers = COLORS[p.trousers]
    s = p.stride
    for side in (-1, 1):
        canvas.ellipse(side * (s + 0.035), 0.022, 0.06, 0.026, (44, 34, 32))
        canvas.limb(
            [(side * 0.06, 0.36), (side * (s + 0.012), 0.065)],
            0.105,
            trousers if side < 0 else shade(trousers, 0.9),
        )
    canvas.rect(-0.12, 0.32, 0.12, 0.42, trousers, 0.03)
    canvas.polygon(
        [(-0.15, 0.63), (-0.1, 0.67), (0.1, 0.67), (0.15, 0.63), (0.13, 0.385), (-0.13, 0.385)], shirt
    )
    canvas.rect(-0.04, 0.63, 0.04, 0.72, shade(p.skin, 0.92))
    canvas.chord(0, 0.672, 0.06, 0.035, 0, 180, shade(p.skin, 0.92))


def _draw_arm(canvas, side, hand, sleeve, skin, long_sleeves, partner, reaching) -> None:
    shoulder = (0.135 * side, 0.615)
    hx, hy = hand
    width = 0.082
    joined = partner is not None and abs(hx) > 0.23 and reaching
    if joined:
        width = 0.1
    elbow = (
        (shoulder[0] + hx) / 2 + (0.015 * side if not joined else 0),
        (shoulder[1] + hy) / 2 - (0.02 if reaching else 0),
    )
    canvas.limb([shoulder, elbow, hand], width, sleeve if long_sleeves else skin)
    if not long_sleeves:
        canvas.limb(
            [shoulder, ((shoulder[0] + elbow[0]) / 2, (shoulder[1] + elbow[1]) / 2)], width * 1.12, sleeve
        )
    canvas.ellipse(hx, hy, width * 0.56, width * 0.56, skin)


def _draw_head(canvas: Canvas, p: Person) -> None:
    x = p.lean
    if p.costume:
        draw_costume_head(canvas, p)
        return
    hair = HAIR[p.hair] if p.hair else None
    if hair and p.hair_length == "long":
        canvas.ellipse(x, 0.83, 0.17, 0.155, hair)
        for side in (-1, 1):
            canvas.polygon(
                [
                    (x + side * 0.06, 0.82),
                    (x + side * 0.17, 0.84),
                    (x + side * 0.19, 0.53),
                    (x + side * 0.1, 0.5),
                ],
                hair,
            )
    elif hair:
        canvas.ellipse(x, 0.838, 0.16, 0.145, hair)
    big = 1.0
    canvas.ellipse(x, 0.80, 0.117 * big, 0.13 * big, p.skin)
    if hair:
        canvas.chord(x, 0.835, 0.132, 0.115, 195, 345, hair)
    else:
        for side in (-1, 1):
            canvas.ellipse(x + side * 0.117, 0.795, 0.024, 0.034, shade(p.skin, 0.93))
        canvas.ellipse(x - 0.03, 0.88, 0.035, 0.018, shade(p.skin, 1.5))
    draw_face(canvas, x)
    if p.hat:
        draw_hat(canvas, p, x)


def render(cast: Cast, size: tuple[int, int], rng: random.Random) -> np.ndarray:
    """The picture, uint8 (H, W, 3)."""
    width, height = size[0] * SUPERSAMPLE, size[1] * SUPERSAMPLE
    image = Image.new("RGB", (width, height))
    canvas = Canvas(image)
    grid = Grid.fit(width, height, cast)
    draw_scenery(canvas, rng, grid)
    draw_cast(canvas, cast, grid)
    return np.asarray(image.reduce(SUPERSAMPLE))


def id_map(cast: Cast, size: tuple[int, int]) -> np.ndarray:
    """uint8 (H, W): 1 + index of the person seen at each pixel, DOG_ID for a dog, 0 elsewhere."""
    width, height = size[0] * SUPERSAMPLE, size[1] * SUPERSAMPLE
    image = Image.new("L", (width, height))
    draw_cast(Canvas(image), cast, Grid.fit(width, height, cast))
    return np.ascontiguousarray(
        np.asarray(image)[SUPERSAMPLE // 2 :: SUPERSAMPLE, SUPERSAMPLE // 2 :: SUPERSAMPLE]
    )


def tight_box(mask: np.ndarray) -> tuple[float, float, float, float]:
    """Tight ``xyxy`` box of a boolean mask (h, w); zeros when it is empty."""
    columns = np.flatnonzero(mask.any(axis=0))
    if not len(columns):
        return (0.0, 0.0, 0.0, 0.0)
    rows = np.flatnonzero(mask[:, columns[0] : columns[-1] + 1].any(axis=1))
    return (float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1))

"""A scene: people, their picture, masks, boxes, candidates and questions, all from (seed, index)."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from ...errors import ConfigError
from ...geometry import pairwise_iou
from . import draw
from .people import CHARACTERS, DEFAULT_CHARACTERS, MAX_PEOPLE, Cast, Dog, Person, cast_scene, draw_count
from .questions import DOMAINS, Question, ask

MIN_SIDE = 128


@dataclass(frozen=True)
class Candidates:
    """Boxes a selector may choose from, in random order.

    Attributes:
        boxes_xyxy: float (n, 4), absolute pixels, inside the picture
        person: int (n,), the index of the person each box belongs to; -1 for a distractor
    """

    boxes_xyxy: np.ndarray
    person: np.ndarray

    def __len__(self) -> int:
        return len(self.boxes_xyxy)

    def of(self, people) -> tuple[int, ...]:
        """Indices of the candidates of these people, ascending."""
        wanted = set(people)
        return tuple(i for i, p in enumerate(self.person.tolist()) if p in wanted)


@dataclass(frozen=True)
class Scene:
    """One drawn scene, see :func:`generate_scene`."""

    seed: int
    index: int
    size: tuple[int, int]
    num_distractors: int
    cast: Cast

    @property
    def people(self) -> tuple[Person, ...]:
        return self.cast.people

    @property
    def dogs(self) -> tuple[Dog, ...]:
        return self.cast.dogs

    def _rng(self, purpose: str) -> random.Random:
        # a text seed is hashed with SHA-512: the same in every process
        return random.Random(f"scene/{self.seed}/{self.index}/{purpose}")

    def render(self) -> np.ndarray:
        """The picture: uint8 (H, W, 3), RGB."""
        return draw.render(self.cast, self.size, self._rng("scenery"))

    @cached_property
    def id_map(self) -> np.ndarray:
        """uint8 (H, W): 1 + index of the person seen at a pixel, 255 a dog, 0 elsewhere."""
        ids = draw.id_map(self.cast, self.size)
        ids.flags.writeable = False
        return ids

    def instance_masks(self) -> np.ndarray:
        """Visible pixels of every person: bool (num_people, H, W); disjoint."""
        return self.id_map[None] == np.arange(1, len(self.people) + 1, dtype=np.uint8)[:, None, None]

    def dog_masks(self) -> np.ndarray:
        """Visible pixels of every dog: bool (num_dogs, H, W)."""
        return (
            np.stack([self.id_map == draw.DOG_ID] * len(self.dogs))
            if self.dogs
            else np.zeros((0, *self.id_map.shape), bool)
        )

    @cached_property
    def boxes_xyxy(self) -> np.ndarray:
        """Tight boxes of the visible people: float64 (num_people, 4), absolute pixels."""
        boxes = np.array(
            [draw.tight_box(self.id_map == i + 1) for i in range(len(self.people))], dtype=np.float64
        )
        boxes.flags.writeable = False
        return boxes

    @cached_property
    def dog_boxes_xyxy(self) -> np.ndarray:
        """Tight boxes of the visible dogs: float64 (num_dogs, 4), absolute pixels."""
        return np.array([draw.tight_box(m) for m in self.dog_masks()], dtype=np.float64).reshape(-1, 4)

    def candidates(
        self,
        jitter: float = 0.02,
        num_distractors: int | None = None,
        shuffle: bool = True,
        variant: int = 0,
        max_candidates: int = 20,
    ) -> Candidates:
        """Candidate boxes: everybody's, slightly moved, and distractors.

        Args:
            jitter: largest move of an edge, as a share of the box's side; 0 gives the tight boxes
            num_distractors: boxes that are nobody's (dogs, parts of people, background), IoU with every person below
                0.3; None takes the scene's own number
            shuffle: random order; else people first, in their order
            variant: another number gives another order and other moves
            max_candidates: fewer distractors where there would be more boxes than this; people are never left out
        """
        rng = self._rng(f"candidates/{variant}")
        extra = self.num_distractors if num_distractors is None else num_distractors
        extra = max(0, min(extra, max_candidates - len(self.people)))
        width, height = self.size
        boxes = []
        for x0, y0, x1, y1 in self.boxes_xyxy.tolist():
            dx, dy = jitter * (x1 - x0), jitter * (y1 - y0)
            moved = [
                x0 + rng.uniform(-dx, dx),
                y0 + rng.uniform(-dy, dy),
                x1 + rng.uniform(-dx, dx),
                y1 + rng.uniform(-dy, dy),
            ]
            boxes.append(
                [
                    max(0.0, moved[0]),
                    max(0.0, moved[1]),
                    min(float(width), moved[2]),
                    min(float(height), moved[3]),
                ]
            )
        people = list(range(len(boxes)))
        for box in _distractors(rng, self, extra):
            boxes.append(box)
            people.append(-1)
        order = list(range(len(boxes)))
        if shuffle:
            rng.shuffle(order)
        return Candidates(
            np.array([boxes[i] for i in order], dtype=np.float64).reshape(-1, 4),
            np.array([people[i] for i in order], dtype=np.int64),
        )

    def questions(
        self,
        per_domain: int = 8,
        domains: tuple[str, ...] = DOMAINS,
        count: int | None = None,
        weights: Mapping[str, float] | None = None,
        variant: int = 0,
    ) -> tuple[Question, ...]:
        """Expressions about this scene with their exact answers, the same at every size.

        Args:
            per_domain: at most this many per domain (a scene has no answerable celebrity question without a named
                character, so fewer may come)
            domains: which domains
            count: this many in all instead, domains drawn by ``weights``
            weights: relative frequency per domain for ``count``; equal when None
            variant: another number draws another set

        Example::

            >>> scene = generate_scene(seed=7, index=3)
            >>> q = scene.questions(per_domain=2)[0]
            >>> q.domain, q == scene.questions(per_domain=2)[0]
            ('attribute', True)
        """
        rng = self._rng(f"questions/{variant}")
        return ask(self.cast, rng, per_domain=per_domain, domains=domains, count=count, weights=weights)


def _distractors(rng: random.Random, scene: Scene, count: int) -> list[list[float]]:
    width, height = scene.size
    people = scene.boxes_xyxy
    found: list[list[float]] = []

    def fits(box) -> bool:
        if box[2] - box[0] < 4 or box[3] - box[1] < 4:
            return False
        if pairwise_iou([box], people).max(initial=0) >= 0.3:
            return False
        return not found or pairwise_iou([box], found).max() < 0.6

    for box in scene.dog_boxes_xyxy.tolist():
        if len(found) < count and fits(box):
            found.append(box)
    for _ in range(count * 60):
        if len(found) >= count:
            break
        if rng.random() < 0.35:
            # a part of somebody: the head, the feet, one side
            x0, y0, x1, y1 = people[rng.randrange(len(people))].tolist()
            w, h = x1 - x0, y1 - y0
            kind = rng.randrange(3)
            if kind == 0:
                box = [x0, y0, x1, y0 + 0.27 * h]
            elif kind == 1:
                box = [x0, y1 - rng.uniform(0.15, 0.28) * h, x1, y1]
            else:
                share = rng.uniform(0.15, 0.28)
                box = [x0, y0, x0 + share * w, y1] if rng.random() < 0.5 else [x1 - share * w, y0, x1, y1]
        else:
            w = rng.uniform(0.06, 0.3) * width
            h = rng.uniform(0.08, 0.4) * height
            x, y = rng.uniform(0, width - w), rng.uniform(0, height - h)
            box = [x, y, x + w, y + h]
        if fits(box):
            found.append(box)
    return found


def generate_scene(
    seed: int,
    index: int,
    size: tuple[int, int] = (640, 480),
    num_people: int | tuple[int, int] = (3, 10),
    num_distractors: int | tuple[int, int] = 0,
    characters: Sequence[str] = DEFAULT_CHARACTERS,
) -> Scene:
    """One drawn scene; a pure function of its arguments, the same in every process.

    Args:
        seed: of the data set
        index: of the scene in it
        size: (width, height) in pixels, each at least 128; who is where does not depend on it
        num_people: 1 to 12, or an inclusive range
        num_distractors: how many candidate boxes that are nobody's :meth:`Scene.candidates` adds, or a range
        characters: names of the characters that may appear; "frost" is kept out of ordinary scenes, for whoever needs
            somebody that a model has never met

    Raises:
        ConfigError: an argument outside these limits

    Example::

        >>> scene = generate_scene(seed=7, index=3, size=(256, 192))
        >>> scene.render().shape, scene.boxes_xyxy.shape == (len(scene.people), 4)
        ((192, 256, 3), True)
    """
    width, height = (int(v) for v in size)
    if min(width, height) < MIN_SIDE:
        raise ConfigError(
            "scene too small", expected=f"(width, height), each at least {MIN_SIDE}", found=size
        )
    _check_range("num_people", num_people, 1, MAX_PEOPLE)
    _check_range("num_distractors", num_distractors, 0, 100)
    unknown = [name for name in characters if name not in CHARACTERS]
    if unknown:
        raise ConfigError("unknown character", expected=", ".join(CHARACTERS), found=unknown[0])
    rng = random.Random(f"scene/{seed}/{index}/cast")
    people = draw_count(rng, num_people)
    distractors = draw_count(random.Random(f"scene/{seed}/{index}/distractors"), num_distractors)
    return Scene(
        int(seed), int(index), (width, height), distractors, cast_scene(rng, people, tuple(characters))
    )


def _check_range(name: str, value, low: int, high: int) -> None:
    lo, hi = (value, value) if isinstance(value, int) else value
    if not low <= lo <= hi <= high:
        raise ConfigError(
            f"{name} out of range", expected=f"a number or (low, high) within {low}..{high}", found=value
        )

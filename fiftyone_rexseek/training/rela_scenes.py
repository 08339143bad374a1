"""Batches of drawn scenes for training ReLA from nothing, with every object's mask and attributes."""

from __future__ import annotations

import random
from dataclasses import dataclass, fields

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..datasets.scenes import CHARACTERS, COLORS, HAIR, HATS, HELD, SHIRTS, TROUSERS, Scene, generate_scene
from ..models.rela.losses import ReLATargets
from ..models.rela.tokenization import tokenize

#: Sizes at which training scenes are drawn before they are resized to the model's square; mostly the usual 4:3. Sides
#: are multiples of MASK_SIZE, so that area averages of the masks are exact.
SCENE_SIZES = ((320, 240),) * 6 + ((240, 240), (400, 240))
MASK_SIZE = 80
#: Relative frequency of the domains; interactions and reasoning are the hardest, names the easiest.
DOMAIN_WEIGHTS = {
    "attribute": 1.0, "position": 1.1, "interaction": 1.2, "reasoning": 1.5, "celebrity": 0.5, "rejection": 1.5,
}  # fmt: skip
MAX_RANK = 8
NAMES = tuple(CHARACTERS)
#: What is known of every person, and how many values it has; value 0 stands for "none".
ATTRIBUTES: dict[str, int] = {
    "shirt": 1 + len(SHIRTS),
    "trousers": 1 + len(TROUSERS),
    "hair": 1 + len(HAIR),
    "long_hair": 3,
    "hat": 1 + len(HATS),
    "hat_color": 1 + len(COLORS),
    "held": 1 + len(HELD),
    "held_color": 1 + len(COLORS),
    "child": 2,
    "waving": 2,
    "partner": 3,
    "dog": 3,
    "name": 1 + len(NAMES),
    "row": 3,
    "from_left": MAX_RANK,
    "from_right": MAX_RANK,
    "from_left_in_row": MAX_RANK,
    "from_right_in_row": MAX_RANK,
}


@dataclass(frozen=True)
class SceneBatch:
    """S scenes with E expressions each, B = S * E.

    Attributes:
        images: uint8 (S, 3, size, size)
        image_index: (B,)
        token_ids, attention_mask: (B, N); None when no expressions were asked for
        person_masks: S arrays (P, 80, 80) in [0, 1], visible share of each mask pixel
        person_boxes: S arrays (P, 4), cxcywh relative
        attributes: S int arrays (P, len(ATTRIBUTES))
        targets: of the B expressions, masks (B, 80, 80) in [0, 1]; None when no expressions were asked for
    """

    images: Tensor
    image_index: Tensor
    token_ids: Tensor | None
    attention_mask: Tensor | None
    person_masks: tuple[Tensor, ...]
    person_boxes: tuple[Tensor, ...]
    attributes: tuple[Tensor, ...]
    targets: ReLATargets | None

    def to(self, device) -> SceneBatch:
        """A copy on a device."""
        moved = {}
        for f in fields(self):
            value = getattr(self, f.name)
            if isinstance(value, tuple):
                moved[f.name] = tuple(v.to(device) for v in value)
            else:
                moved[f.name] = None if value is None else value.to(device)
        return SceneBatch(**moved)


def scene_batch(
    seed: int, number: int, *, scenes: int, expressions: int, image_size: int, tokenizer=None, max_length: int = 20,
    easy_batches: int = 0,
) -> SceneBatch:
    """Batch ``number`` of a stream: a pure function of its arguments, scenes never repeat.

    The first ``easy_batches`` show two to five people only.
    """
    rng = random.Random(f"rela-batch/{seed}/{number}")
    images, masks, boxes, attributes, meant, texts, index = [], [], [], [], [], [], []
    for i in range(scenes):
        people = (3, 10) if rng.random() < 0.85 else (1, 12)
        people = (2, 5) if number < easy_batches else people
        scene = generate_scene(seed, number * scenes + i, size=rng.choice(SCENE_SIZES), num_people=people)
        picture = Image.fromarray(scene.render()).resize((image_size, image_size), Image.Resampling.BILINEAR)
        images.append(torch.from_numpy(np.asarray(picture).copy()).permute(2, 0, 1))
        masks.append(torch.from_numpy(averaged_masks(scene, MASK_SIZE)))
        boxes.append(torch.from_numpy(relative_boxes(scene)))
        attributes.append(torch.from_numpy(attribute_table(scene)))
        if not expressions:
            continue
        questions = scene.questions(count=expressions, weights=DOMAIN_WEIGHTS)
        # a scene without enough questions repeats some
        questions = [questions[k % len(questions)] for k in range(expressions)]
        for question in questions:
            texts.append(_with_unknown_words(question.expression, rng))
            meant.append(sorted(question.answers))
            index.append(i)
    ids = mask = targets = None
    if expressions:
        ids, mask, _ = tokenize(tokenizer, texts, max_length)
        targets = ReLATargets(
            torch.stack([masks[i][people].sum(dim=0) for i, people in zip(index, meant)]).clamp(max=1),
            tuple(boxes[i][people] for i, people in zip(index, meant)),
            torch.tensor([len(people) for people in meant]),
        )
    return SceneBatch(
        torch.stack(images), torch.tensor(index, dtype=torch.long), ids, mask,
        tuple(masks), tuple(boxes), tuple(attributes), targets,
    )  # fmt: skip


def _with_unknown_words(text: str, rng: random.Random, chance: float = 0.03) -> str:
    """Now and then a word that the tokenizer does not know is put in front, so that ``[UNK]`` is no surprise."""
    return f"uh {text}" if rng.random() < chance else text


def averaged_masks(scene: Scene, size: int) -> np.ndarray:
    """Visible share of every cell of a size x size grid per person, float32 (P, size, size)."""
    ids = scene.id_map
    height, width = ids.shape
    if height % size or width % size:
        raise ValueError(f"scene of {width}x{height} does not divide into {size} cells")
    cells = ids.reshape(size, height // size, size, width // size)
    people = np.arange(1, len(scene.people) + 1, dtype=np.uint8)[:, None, None, None, None]
    return (cells[None] == people).mean(axis=(2, 4), dtype=np.float32)


def relative_boxes(scene: Scene) -> np.ndarray:
    """Centre and size of every person's box relative to the picture, float32 (P, 4)."""
    width, height = scene.size
    x0, y0, x1, y1 = (scene.boxes_xyxy / [width, height, width, height]).T
    return np.stack([(x0 + x1) / 2, (y0 + y1) / 2, x1 - x0, y1 - y0], axis=1).astype(np.float32)


def attribute_table(scene: Scene) -> np.ndarray:
    """Values of :data:`ATTRIBUTES` for every person, int64 (P, attributes)."""
    colors = tuple(COLORS)
    ranks = _ranks([p.x for p in scene.people], [0] * len(scene.people))
    row_ranks = _ranks([p.x for p in scene.people], [p.row for p in scene.people])
    rows = scene.cast.num_rows
    table = []
    for i, p in enumerate(scene.people):
        partner = 0 if p.partner is None else (2 if scene.people[p.partner].x > p.x else 1)
        table.append(
            [
                _value(SHIRTS, p.shirt),
                _value(TROUSERS, p.trousers),
                _value(tuple(HAIR), p.hair),
                {"long": 2, "short": 1}.get(p.hair_length, 0),
                _value(HATS, p.hat),
                _value(colors, p.hat_color),
                _value(HELD, p.held),
                _value(colors, p.held_color),
                int(p.size == "child"),
                int(p.waving),
                partner,
                int(p.dog) + int(p.leash),
                _value(NAMES, p.name),
                0 if rows == 1 else 1 + p.row,
                *ranks[i],
                *row_ranks[i],
            ]
        )
    return np.asarray(table, dtype=np.int64)


def _value(values: tuple[str, ...], value: str | None) -> int:
    return 0 if value is None else 1 + values.index(value)


def _ranks(xs: list[float], groups: list[int]) -> list[tuple[int, int]]:
    """Position from the left and from the right within the own group, from 0, at most MAX_RANK - 1."""
    result = []
    for x, group in zip(xs, groups):
        others = [o for o, g in zip(xs, groups) if g == group]
        left, right = sum(o < x for o in others), sum(o > x for o in others)
        result.append((min(left, MAX_RANK - 1), min(right, MAX_RANK - 1)))
    return result

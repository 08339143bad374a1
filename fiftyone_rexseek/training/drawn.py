"""Drawn scenes made ready for training: pixels as a model sees them, boxes, questions and attributes, in a folder.

Rendering costs more than a training step, so scenes are rendered once, by several processes, into shards of plain
``.npy`` files that are then read as memory maps.
"""

from __future__ import annotations

import json
import logging
import os
import random
import shutil
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np

from ..datasets.scenes import generate_scene
from ..datasets.scenes.people import (
    CHARACTERS,
    HAIR,
    HAT_COLORS,
    HATS,
    HELD,
    HELD_COLORS,
    MAX_PEOPLE,
    SHIRTS,
    TROUSERS,
)  # fmt: skip

logger = logging.getLogger(__name__)

SHARD = 250
MAX_DISTRACTORS = 14
#: Sizes that training scenes are drawn in, with their shares.
SIZES = {(640, 480): 0.4, (320, 240): 0.25, (480, 360): 0.2, (800, 450): 0.08, (480, 480): 0.07}
#: Shares of the domains among the questions of a training scene.
DOMAIN_WEIGHTS = {
    "attribute": 0.16, "position": 0.2, "interaction": 0.2, "reasoning": 0.21, "celebrity": 0.08, "rejection": 0.15,
}  # fmt: skip

_LOOKS = {
    "shirt": SHIRTS,
    "trousers": TROUSERS,
    "hair": tuple(HAIR),
    "hair_length": ("short", "long", "bald"),
    "hat": HATS,
    "hat_color": HAT_COLORS,
    "held": HELD,
    "held_color": HELD_COLORS,
    "size": ("adult", "child"),
    "name": tuple(CHARACTERS),
}
_OTHERS = ("shirt", "trousers", "hair", "hat", "hat_color", "held", "size", "name")
#: Attributes that auxiliary heads predict from an object's feature: name -> number of classes. Class 0 is "none".
ATTRIBUTES: dict[str, int] = {
    "is_person": 2,
    **{name: len(values) + 1 for name, values in _LOOKS.items()},
    "waving": 2,
    "hand": 3,
    "dog": 3,
    "row": 3,
    "from_left": 6,
    "from_right": 6,
    "half": 3,
    **{f"{who}_{name}": len(_LOOKS[name]) + 1 for who in ("left", "right", "partner") for name in _OTHERS},
}


def describe_people(scene) -> np.ndarray:
    """Classes of every person of a scene: int8 (num_people, len(ATTRIBUTES)); -1 where the answer is arguable."""
    people = scene.people
    rows: dict[int, list[int]] = {}
    for p in sorted(people, key=lambda p: p.x):
        rows.setdefault(p.row, []).append(p.index)

    def looks(p, names) -> list[int]:
        values = [getattr(p, name) for name in names]
        return [_LOOKS[n].index(v) + 1 if v in _LOOKS[n] else 0 for n, v in zip(names, values)]

    described = []
    for p in people:
        row = rows[p.row]
        at = row.index(p.index)
        hand = 0 if p.partner is None else 1 + (people[p.partner].x > p.x)
        place = 0 if len(rows) == 1 else 1 + p.row
        half = 0 if abs(p.x) < 0.3 else 1 + (p.x > 0)
        values = [1, *looks(p, _LOOKS), int(p.waving), hand, int(p.dog) + int(p.leash), place]
        values += [min(at, 5), min(len(row) - 1 - at, 5), half]
        for side in (-1, 1):
            k = at + side
            if not 0 <= k < len(row):
                values += [0] * len(_OTHERS)
            elif abs(people[row[k]].x - p.x) > 1.5:
                values += [-1] * len(_OTHERS)
            else:
                values += looks(people[row[k]], _OTHERS)
        values += [0] * len(_OTHERS) if p.partner is None else looks(people[p.partner], _OTHERS)
        described.append(values)
    return np.array(described, dtype=np.int8)


def draw_training_scene(seed: int, index: int):
    """A scene of varied size and number of people; a pure function of its arguments."""
    rng = random.Random(f"training/{seed}/{index}")
    size = rng.choices(list(SIZES), list(SIZES.values()))[0]
    roll = rng.random()
    people = (1, 2) if roll < 0.06 else (11, MAX_PEOPLE) if roll > 0.92 else (3, 10)
    return generate_scene(seed, index, size=size, num_people=people)


def _build_shard(number: int, folder: Path, seed: int, config, num_questions: int) -> None:
    from PIL import Image

    from ..models.rexseek.processing import RexSeekProcessor, transform_boxes

    target = folder / f"shard_{number:04d}"
    if target.exists():
        return
    pixels = np.zeros((SHARD, config.image_size, config.image_size, 3), np.uint8)
    boxes = np.zeros((SHARD, MAX_PEOPLE + MAX_DISTRACTORS, 4), np.float32)
    attributes = np.full((SHARD, MAX_PEOPLE, len(ATTRIBUTES)), -1, np.int8)
    counts = np.zeros((SHARD, 2), np.int16)
    questions = []
    mean, std = np.float32(config.image_mean)[:, None, None], np.float32(config.image_std)[:, None, None]
    for k in range(SHARD):
        scene = draw_training_scene(seed, number * SHARD + k)
        large, _ = RexSeekProcessor.pixels(_Only(config), Image.fromarray(scene.render()))
        pixels[k] = ((large.numpy() * std + mean) * 255).round().clip(0, 255).astype(np.uint8).transpose(1, 2, 0)
        found = scene.candidates(jitter=0.0, num_distractors=MAX_DISTRACTORS, shuffle=False, max_candidates=99)
        n = len(scene.people)
        boxes[k, : len(found)] = transform_boxes(found.boxes_xyxy, *scene.size, config.image_size, False).numpy()
        counts[k] = n, len(found) - n
        attributes[k, :n] = describe_people(scene)
        asked = scene.questions(count=num_questions, weights=DOMAIN_WEIGHTS)
        questions.append([(q.expression, list(q.answers), q.domain, q.template) for q in asked])
    partial_folder = folder / f"partial_{number:04d}_{os.getpid()}"
    partial_folder.mkdir(parents=True)
    for name, array in (("pixels", pixels), ("boxes", boxes), ("attributes", attributes), ("counts", counts)):
        np.save(partial_folder / f"{name}.npy", array)
    (partial_folder / "questions.json").write_text(json.dumps(questions))
    try:
        partial_folder.rename(target)
    except OSError:  # another process was faster
        shutil.rmtree(partial_folder)


class _Only:
    """Stands for a processor of which only the configuration is needed."""

    def __init__(self, config):
        self.config = config


def build_scenes(folder, config, seed: int, count: int, num_questions: int = 40, workers: int = 1, first: int = 0) -> Path:
    """Renders ``count`` scenes (rounded up to shards) for a model configuration; shards that exist are kept.

    Args:
        folder: of this seed and configuration
        config: ``RexSeekConfig`` (image size and normalisation)
        workers: processes
        first: scene to begin with
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    numbers = range(first // SHARD, -(-count // SHARD))
    job = partial(_build_shard, folder=folder, seed=seed, config=config, num_questions=num_questions)
    if workers <= 1:
        for number in numbers:
            job(number)
        return folder
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        for _ in pool.map(job, numbers):
            pass
    return folder


class DrawnScenes:
    """Scenes of a folder written by :func:`build_scenes`, read lazily.

    Args:
        folder: see there
        count: use the first so many
    """

    def __init__(self, folder, count: int | None = None):
        shards = sorted(Path(folder).glob("shard_*"))
        if count is not None:
            shards = shards[: -(-count // SHARD)]
        self.shards = [
            {n: np.load(s / f"{n}.npy", mmap_mode="r") for n in ("pixels", "boxes", "attributes", "counts")} for s in shards
        ]
        self.questions = [q for s in shards for q in json.loads((s / "questions.json").read_text())]
        self.count = min(len(self.questions), count or len(self.questions))

    def __len__(self) -> int:
        return self.count

    def get(self, name: str, index: int) -> np.ndarray:
        """Array ``pixels``, ``boxes``, ``attributes`` or ``counts`` of one scene."""
        return self.shards[index // SHARD][name][index % SHARD]

"""A data set of gRefCOCO's format and published size, drawn at random: for measuring, not for learning."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

#: What the authors publish about the whole release, and what their files hold besides.
EXPRESSIONS, MULTI_TARGET, NO_TARGET, OBJECTS, IMAGES = 259_859, 90_064, 34_537, 61_316, 19_994
REFS, ANNOTATIONS = 129_802, 200_065
_SIZES = ((640, 480), (480, 640), (640, 427), (500, 375), (427, 640), (640, 640))
_WORDS = (
    "the a two three all both left right middle red blue black white man woman kid dog bowl car shirt hat front back row "
    "holding standing sitting next to near except far closest person in on with and table chair"
).split()
_CATEGORIES = 80
_POINTS = 24


@dataclass(frozen=True)
class Synthetic:
    """Where the files are, and how many there are of what."""

    folder: Path
    expressions: int
    images: int
    annotations: int

    @property
    def refs_path(self) -> Path:
        return self.folder / "grefs(unc).json"


def generate(folder: str | Path, expressions: int = EXPRESSIONS, seed: int = 0, *, with_images: bool = True) -> Synthetic:
    """Writes ``grefs(unc).json``, ``instances.json`` and ``images/`` (links to a few files) into a folder.

    Args:
        expressions: how many; everything else keeps the published proportions
        with_images: whether to write the images
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    share = expressions / EXPRESSIONS
    num_images = max(4, round(IMAGES * share))
    images, annotations, referable = _instances(rng, num_images, max(num_images * 4, round(ANNOTATIONS * share)), share)
    refs = _refs(rng, images, annotations, referable, expressions, share)
    categories = [{"id": i + 1, "name": f"category {i + 1}", "supercategory": "thing"} for i in range(_CATEGORIES)]
    instances = {"info": {}, "licenses": [], "images": images, "annotations": annotations, "categories": categories}
    (folder / "instances.json").write_text(json.dumps(instances))
    (folder / "grefs(unc).json").write_text(json.dumps(refs))
    if with_images:
        _write_images(folder, images)
    return Synthetic(folder, expressions, len(images), len(annotations))


def _instances(rng, num_images: int, num_annotations: int, share: float):
    order = rng.integers(0, len(_SIZES), num_images)
    images = [
        {"id": 1000 + 7 * i, "file_name": f"COCO_train2014_{1000 + 7 * i:012d}.jpg", "width": _SIZES[k][0], "height": _SIZES[k][1]}
        for i, k in enumerate(order)
    ]
    annotations, referable = [], {image["id"]: [] for image in images}
    owners = np.sort(np.concatenate([np.repeat(np.arange(num_images), 4), rng.integers(0, num_images, num_annotations - 4 * num_images)]))
    num_objects = max(num_images * 2, round(OBJECTS * share))
    sizes = np.array([[images[o]["width"], images[o]["height"]] for o in owners.tolist()], dtype=np.float64)
    # numbers are drawn in bulk: a call for each would take longer than everything else
    extent = 20 + rng.random((len(owners), 2)) * (0.6 * sizes - 20)
    corner = rng.random((len(owners), 2)) * (sizes - extent)
    category = rng.integers(1, _CATEGORIES + 1, len(owners)).tolist()
    angle = np.sort(rng.uniform(0, 2 * np.pi, (len(owners), _POINTS)), axis=1)
    radius = rng.uniform(0.7, 1.0, (len(owners), _POINTS))
    circle = np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=2)
    polygons = (corner[:, None] + extent[:, None] / 2 * (1 + circle)).round(2)
    low, high = polygons.min(axis=1), polygons.max(axis=1)
    boxes = np.concatenate([low, (high - low).round(2)], axis=1).tolist()
    areas = (0.6 * extent.prod(axis=1)).round(2).tolist()
    flat = polygons.reshape(len(owners), -1)
    for k, owner in enumerate(owners.tolist()):
        image_id = images[owner]["id"]
        row = {
            "id": 100_000 + k, "image_id": image_id, "category_id": category[k], "iscrowd": 0,
            "bbox": boxes[k], "area": areas[k], "segmentation": [flat[k].tolist()],
        }  # fmt: skip
        annotations.append(row)
        if len(referable[image_id]) < 2:
            referable[image_id].append(row)
    # two objects of every image can be meant, and so can further ones until the published number is reached
    chosen = {row["id"] for rows in referable.values() for row in rows}
    rest = [row for row in annotations if row["id"] not in chosen]
    for k in rng.permutation(len(rest))[: max(0, num_objects - len(chosen))].tolist():
        referable[rest[k]["image_id"]].append(rest[k])
    return images, annotations, referable


def _split_of(position: int, total: int) -> str:
    for name, end in (("train", 16_994), ("val", 18_494), ("testA", 19_244)):
        if position < end / IMAGES * total:
            return name
    return "testB"


def _refs(rng, images, annotations, referable, expressions: int, share: float) -> list[dict]:
    splits = {image["id"]: _split_of(i, len(images)) for i, image in enumerate(images)}
    by_id = {image["id"]: image for image in images}
    everything = [row for rows in referable.values() for row in rows]
    num_none, num_multi = round(NO_TARGET * share), round(MULTI_TARGET * share)
    left = {"none": num_none, "multi": num_multi, "single": expressions - num_none - num_multi}
    refs, sentence_id, singles = [], 0, 0
    pick = _Numbers(rng)
    for kind, mean in (("single", 2.2), ("multi", 2.0), ("none", 1.5)):
        while left[kind] > 0:
            if kind == "single":
                row = everything[singles % len(everything)]  # every object at least once
                singles += 1
                image_id, targets = row["image_id"], [row]
            else:
                image_id = images[pick(len(images))]["id"]
                pool = referable[image_id]
                first = pick(len(pool))
                count = min(2 + (pick(3) == 0), len(pool))
                targets = [] if kind == "none" else [pool[(first + i) % len(pool)] for i in range(count)]
            # one more sentence than the mean's floor as often as its fraction says
            number = min(int(mean) + (pick(100) < 100 * (mean % 1)), left[kind])
            left[kind] -= number
            sentences = []
            for _ in range(number):
                tokens = [_WORDS[pick(len(_WORDS))] for _ in range(2 + pick(5))]
                text = " ".join(tokens)
                sentences.append({"raw": text, "sent": text, "sent_id": sentence_id, "tokens": tokens})
                sentence_id += 1
            refs.append(
                {
                    "ref_id": len(refs), "image_id": image_id, "split": splits[image_id], "file_name": by_id[image_id]["file_name"],
                    "ann_id": [t["id"] for t in targets] or [-1], "category_id": [t["category_id"] for t in targets] or [-1],
                    "no_target": not targets, "sent_ids": [s["sent_id"] for s in sentences], "sentences": sentences,
                }
            )  # fmt: skip
    return [refs[i] for i in rng.permutation(len(refs)).tolist()]


class _Numbers:
    """Random integers below a limit, drawn a million at a time."""

    def __init__(self, rng):
        self._rng, self._numbers = rng, iter(())

    def __call__(self, limit: int) -> int:
        number = next(self._numbers, None)
        if number is None:
            self._numbers = iter(self._rng.integers(0, 2**40, 1_000_000).tolist())
            number = next(self._numbers)
        return number % limit


def _write_images(folder: Path, images: list[dict]) -> None:
    target = folder / "images"
    target.mkdir(exist_ok=True)
    originals = {}
    for k, size in enumerate(_SIZES):
        originals[size] = folder / f"original_{k}.jpg"
        Image.new("RGB", size, (60 + 20 * k, 120, 90)).save(originals[size])
    for image in images:
        path = target / image["file_name"]
        if not path.is_symlink():
            path.symlink_to(originals[image["width"], image["height"]])

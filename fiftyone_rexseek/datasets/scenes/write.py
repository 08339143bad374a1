"""Writers: scenes as HumanRef's ``annotations.jsonl`` and as gRefCOCO's files, streamed scene by scene.

Running a writer again gives the same bytes. Files appear under their names only when they are complete, the
annotations last, so that an interrupted run leaves no half-written file behind and is simply run again.
"""

from __future__ import annotations

import json
import os
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image

from ... import masks
from .outline import polygons
from .people import DEFAULT_CHARACTERS
from .questions import DOMAINS, Question
from .scene import Scene, generate_scene
from .vocabulary import tokenize

#: One size for all scenes, or several that take turns.
Sizes = tuple[int, int] | Sequence[tuple[int, int]]
#: Called after every scene with the number of scenes done.
Progress = Callable[[int], None]

PERSON, DOG = 1, 18
_CATEGORIES = [
    {"supercategory": "person", "id": PERSON, "name": "person"},
    {"supercategory": "animal", "id": DOG, "name": "dog"},
]
#: Of ten scenes in turn: which split of gRefCOCO they go to.
_SPLITS = ("train", "val", "testA", "testB", "train", "train", "train", "train", "train", "train")


@contextmanager
def _complete_file(path: Path) -> Iterator:
    """A text file that gets its name when the block ends well, and disappears when it does not."""
    part = path.with_name(path.name + ".part")
    try:
        with part.open("w", encoding="utf-8", newline="\n") as f:
            yield f
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def _save_image(scene: Scene, path: Path) -> None:
    part = path.with_name(path.name + ".part")
    kind = "PNG" if path.suffix == ".png" else "JPEG"
    options = {"compress_level": 4} if kind == "PNG" else {"quality": 92, "subsampling": 0}
    try:
        Image.fromarray(scene.render()).save(part, kind, **options)
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def _size_of(size: Sizes, index: int) -> tuple[int, int]:
    if isinstance(size[0], int):
        return size
    return size[index % len(size)]


def write_humanref(
    folder: str | os.PathLike,
    seed: int,
    count: int,
    size: Sizes = (640, 480),
    questions_per_scene: int | None = 12,
    num_people: int | tuple[int, int] = (3, 10),
    num_distractors: int | tuple[int, int] = 0,
    jitter: float = 0.02,
    domains: Sequence[str] = DOMAINS,
    weights: Mapping[str, float] | None = None,
    start: int = 0,
    characters: Sequence[str] = DEFAULT_CHARACTERS,
    image_format: str = "jpg",
    progress: Progress | None = None,
) -> Path:
    """Writes scenes in HumanRef's format: ``annotations.jsonl`` and ``images/``.

    As in the real set, ``answer_boxes`` are some of the ``candidate_boxes`` (in their order), and
    ``answer_segmentations`` are the visible pixels as compressed RLE, in the same order. Ids are unique over seeds.

    Args:
        folder: made when it is not there
        seed, count, start: scenes ``start`` to ``start + count - 1`` of this seed
        size: (width, height), or several sizes that take turns
        questions_per_scene: rows per scene, domains drawn equally or by ``weights``; None takes one per domain
        num_people, num_distractors: as for :func:`generate_scene`; distractors add ``candidate_boxes`` that are nobody's
        jitter: largest move of a candidate's edge, as a share of its side
        characters: names of the characters that may appear
        image_format: ``jpg`` or ``png``
        progress: called with the number of scenes done

    Returns:
        the path of ``annotations.jsonl``
    """
    folder = Path(folder)
    (folder / "images").mkdir(parents=True, exist_ok=True)
    path = folder / "annotations.jsonl"
    with _complete_file(path) as f:
        for done, index in enumerate(range(start, start + count), 1):
            scene = generate_scene(
                seed, index, _size_of(size, index), num_people, num_distractors, characters
            )
            image_name = f"scene_{seed}_{index:06d}.{image_format}"
            _save_image(scene, folder / "images" / image_name)
            per_domain = 1 if questions_per_scene is None else 0
            questions = scene.questions(per_domain, tuple(domains), questions_per_scene, weights)
            for row in _humanref_rows(scene, questions, image_name, jitter):
                f.write(json.dumps(row) + "\n")
            if progress is not None:
                progress(done)
    return path


def _humanref_rows(
    scene: Scene, questions: Sequence[Question], image_name: str, jitter: float
) -> Iterator[dict]:
    candidates = scene.candidates(jitter)
    boxes = [[round(v, 2) for v in box] for box in candidates.boxes_xyxy.tolist()]
    rles = [masks.encode(m) for m in scene.instance_masks()]
    for k, q in enumerate(questions):
        chosen = candidates.of(q.answers)
        yield {
            "id": f"scene_{scene.seed}_{scene.index:06d}_{k:02d}",
            "image_name": image_name,
            "domain": q.domain,
            "sub_domain": q.sub_domain,
            "referring": q.expression,
            "interest_class": "person",
            "width": scene.size[0],
            "height": scene.size[1],
            "candidate_boxes": boxes,
            "answer_boxes": [boxes[i] for i in chosen],
            "answer_segmentations": [rles[int(candidates.person[i])] for i in chosen],
            "template": q.template,
        }


def write_grefcoco(
    folder: str | os.PathLike,
    seed: int,
    count: int,
    size: Sizes = (640, 480),
    refs_per_scene: int = 8,
    num_people: int | tuple[int, int] = (3, 10),
    start: int = 0,
    segmentation: str = "polygon",
    progress: Progress | None = None,
) -> Path:
    """Writes scenes in gRefCOCO's format: ``grefcoco/grefs(unc).json``, ``grefcoco/instances.json`` and
    ``images/train2014/``.

    People and dogs are annotated. About half of the refs have one target, a third several and the rest none; a ref has
    one to three sentences. Of ten scenes seven go to train and one each to val, testA and testB.

    Args:
        folder, seed, count, start, size, num_people, progress: as for :func:`write_humanref`
        refs_per_scene: at most this many
        segmentation: ``polygon`` (as in COCO, exact outlines) or ``rle`` (compressed)

    Returns:
        the path of ``grefs(unc).json``
    """
    folder = Path(folder)
    images, refs_folder = folder / "images" / "train2014", folder / "grefcoco"
    images.mkdir(parents=True, exist_ok=True)
    refs_folder.mkdir(parents=True, exist_ok=True)
    path = refs_folder / "grefs(unc).json"
    numbers = {"ref": 1, "sent": 1, "ann": 1}
    spool = refs_folder / "annotations.spool.part"
    try:
        # COCO's file lists all images before all annotations: the latter wait in a spool file, not in memory
        with (
            _complete_file(path) as refs,
            _complete_file(refs_folder / "instances.json") as instances,
            spool.open("w+", encoding="utf-8", newline="\n") as annotations,
        ):
            refs.write("[\n")
            any_refs = False
            instances.write('{"info": {"description": "synthetic scenes"}, "licenses": [],\n"images": [\n')
            for done, index in enumerate(range(start, start + count), 1):
                scene = generate_scene(seed, index, _size_of(size, index), num_people)
                image_id = index + 1
                name = f"COCO_train2014_{image_id:012d}.jpg"
                _save_image(scene, images / name)
                comma = ",\n" if done > 1 else ""
                image = {"id": image_id, "file_name": name, "width": scene.size[0], "height": scene.size[1]}
                instances.write(comma + json.dumps(image))
                rows = _annotations(scene, image_id, numbers, segmentation)
                annotations.write(comma + ",\n".join(json.dumps(r) for r in rows))
                found = list(
                    _grefs(scene, image_id, name, rows, numbers, refs_per_scene, _SPLITS[index % 10])
                )
                if found:
                    refs.write((",\n" if any_refs else "") + ",\n".join(json.dumps(r) for r in found))
                    any_refs = True
                if progress is not None:
                    progress(done)
            refs.write("\n]\n")
            instances.write('\n],\n"annotations": [\n')
            annotations.seek(0)
            for line in annotations:
                instances.write(line)
            instances.write(f'\n],\n"categories": {json.dumps(_CATEGORIES)}}}\n')
    finally:
        spool.unlink(missing_ok=True)
    return path


def _annotations(scene: Scene, image_id: int, numbers: dict[str, int], segmentation: str) -> list[dict]:
    """COCO annotations: people in their order, then dogs."""
    rows = []
    people = len(scene.people)
    for i, mask in enumerate(np.concatenate([scene.instance_masks(), scene.dog_masks()])):
        box = scene.boxes_xyxy[i] if i < people else scene.dog_boxes_xyxy[i - people]
        x0, y0, x1, y1 = box.tolist()
        rows.append(
            {
                "id": numbers["ann"],
                "image_id": image_id,
                "category_id": PERSON if i < people else DOG,
                "bbox": [x0, y0, x1 - x0, y1 - y0],
                "area": float(mask.sum()),
                "iscrowd": 0,
                "segmentation": polygons(mask) if segmentation == "polygon" else masks.encode(mask),
            }
        )
        numbers["ann"] += 1
    return rows


def _grefs(scene, image_id, name, annotations, numbers, limit, split) -> Iterator[dict]:
    rng = random.Random(f"grefs/{scene.seed}/{scene.index}")
    groups: dict[tuple[int, ...], list[str]] = {}
    empty = []
    for q in scene.questions(per_domain=10):
        if q.answers:
            groups.setdefault(q.answers, []).append(q.expression)
        else:
            empty.append(q.expression)
    people = len(scene.people)
    if scene.dogs:
        groups[(people,)] = ["the dog"]
        # somebody and the dog, which only several categories in one ref can say
        with_one = [(a, texts) for a, texts in sorted(groups.items()) if len(a) == 1 and a[0] < people]
        if with_one:
            answers, texts = rng.choice(with_one)
            groups[(*answers, people)] = [f"the dog and {rng.choice(texts)}"]
    else:
        empty.append("the dog")
    single = [(a, t) for a, t in groups.items() if len(a) == 1]
    several = [(a, t) for a, t in groups.items() if len(a) > 1]
    none = [((), [t]) for t in empty]
    for pool in (single, several, none):
        rng.shuffle(pool)
    for _ in range(limit):
        pools = [(p, w) for p, w in ((single, 0.5), (several, 0.35), (none, 0.15)) if p]
        if not pools:
            return
        answers, texts = rng.choices([p for p, _ in pools], [w for _, w in pools])[0].pop()
        rng.shuffle(texts)
        sentences = []
        for text in texts[: rng.randint(1, 3)]:
            tokens = tokenize(text)
            sentences.append(
                {"raw": text, "sent": " ".join(tokens), "sent_id": numbers["sent"], "tokens": tokens}
            )
            numbers["sent"] += 1
        yield {
            "ref_id": numbers["ref"],
            "image_id": image_id,
            "file_name": name,
            "split": split,
            "ann_id": [annotations[i]["id"] for i in answers] or [-1],
            "category_id": [annotations[i]["category_id"] for i in answers] or [-1],
            "no_target": not answers,
            "sent_ids": [s["sent_id"] for s in sentences],
            "sentences": sentences,
        }
        numbers["ref"] += 1

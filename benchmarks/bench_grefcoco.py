"""Scoring GREC and GRES, and indexing gRefCOCO's files, each against the plain way in the same run."""

from __future__ import annotations

import random
import tempfile
import tracemalloc
from collections import defaultdict

import numpy as np
from pycocotools import mask as coco

from fiftyone_rexseek import masks
from fiftyone_rexseek.datasets.grefcoco import read_grefcoco
from fiftyone_rexseek.datasets.rle_check import rle_problems
from fiftyone_rexseek.metrics.grec import Answer, evaluate_grec
from fiftyone_rexseek.metrics.gres import MaskAnswer, MaskTruth, evaluate_gres

from .harness import Result, best_of
from .synthetic_grefcoco import EXPRESSIONS, generate


def run(quick: bool = False) -> list[Result]:
    """GREC on 10,000 samples of 100 boxes, GRES on 480x480 masks, the reader on a set of the published size."""
    # masks first, as a command line scores them: beside GREC's million lists in the same process they take a tenth longer
    return [*_gres(500 if quick else 10_000), *_grec(1_000 if quick else 10_000), *_reader(10_000 if quick else EXPRESSIONS)]


def _grec(samples: int) -> list[Result]:
    rng = np.random.default_rng(0)
    targets, boxes, scores = [], [], []
    for _ in range(samples):
        corner = rng.uniform(0, 400, (int(rng.integers(0, 5)), 2))
        target = np.concatenate([corner, corner + rng.uniform(30, 200, corner.shape)], axis=1)
        noise = rng.uniform(0, 400, (100 - len(target), 2))
        found = np.concatenate([target + rng.normal(0, 5, target.shape), np.concatenate([noise, noise + 80], axis=1)])
        targets.append(target.tolist())
        boxes.append(found.tolist())
        scores.append(np.where(np.arange(100) < len(target), rng.uniform(0.6, 1, 100), rng.uniform(0, 0.701, 100)).tolist())
    expected = grec_one_by_one(targets, boxes, scores)

    def ours() -> float:
        answers = [Answer(b, s) for b, s in zip(boxes, scores)]
        return evaluate_grec(targets, answers).summary()["F1_score"]

    if ours() != expected:
        raise RuntimeError(f"GREC {ours()} differs from {expected}, one sample at a time")
    seconds = best_of(ours, cpu=True)
    peer = best_of(lambda: grec_one_by_one(targets, boxes, scores), 1, cpu=True)
    note = f"{samples} samples x 100 boxes, CPU seconds, the same Pr@F1 {expected:.4f}"
    return [Result("GREC scoring", seconds, "s", "one tensor per box", peer / seconds, 3, note)]


def grec_one_by_one(targets, boxes, scores) -> float:
    """Pr@F1 the plain way: sample by sample, a tensor for every kept box, GIoU in float32."""
    import torch

    correct = 0
    for target, found, score in zip(targets, boxes, scores):
        tensors = [torch.tensor(b, dtype=torch.float32).view(1, 4) for b, s in zip(found, score) if s >= 0.7]
        if not target or not tensors:
            correct += not target and not tensors
            continue
        p, t = torch.cat(tensors), torch.tensor(target, dtype=torch.float32)
        wh = (torch.min(p[:, None, 2:], t[:, 2:]) - torch.max(p[:, None, :2], t[:, :2])).clamp(min=0)
        inter = wh[..., 0] * wh[..., 1]
        area_p, area_t = ((b[:, 2] - b[:, 0]) * (b[:, 3] - b[:, 1]) for b in (p, t))
        union = area_p[:, None] + area_t - inter
        hull = torch.max(p[:, None, 2:], t[:, 2:]) - torch.min(p[:, None, :2], t[:, :2])
        hull_area = hull[..., 0] * hull[..., 1]
        giou = inter / union - (hull_area - union) / hull_area
        hits = 0
        for _ in range(min(giou.shape)):
            value, index = torch.max(giou.flatten(), 0)
            if value < 0.5:
                break
            hits += 1
            giou[index // giou.shape[1]] = 0
            giou[:, index % giou.shape[1]] = 0
        correct += hits == len(p) == len(t)
    return correct / len(targets)


def _shape(rng: random.Random, size: int = 480) -> np.ndarray:
    """A few wavy blobs, about as many runs as a segmented object has."""
    y, x = np.mgrid[:size, :size]
    mask = np.zeros((size, size), dtype=bool)
    for _ in range(rng.randint(1, 3)):
        cx, cy, rx, ry = rng.uniform(0, size), rng.uniform(0, size), rng.uniform(20, 150), rng.uniform(20, 150)
        waves = 1 + 0.3 * np.sin(rng.randint(3, 8) * np.arctan2(y - cy, x - cx))
        mask |= ((x - cx) / rx) ** 2 + ((y - cy) / ry) ** 2 < waves
    return mask


def _gres(samples: int) -> list[Result]:
    rng = random.Random(0)
    drawn = [masks.encode(_shape(rng)) for _ in range(200)]
    wanted = [drawn[rng.randrange(200)] for _ in range(samples)]
    found = [drawn[rng.randrange(200)] for _ in range(samples)]

    def pairs():
        return ((MaskTruth(w, 1, (480, 480)), MaskAnswer(f, False)) for w, f in zip(wanted, found))

    def decoded() -> list[tuple[int, int]]:
        result = []
        for w, f in zip(wanted, found):
            a, b = coco.decode(w), coco.decode(f)
            result.append((int(np.sum(np.logical_and(a, b))), int(np.sum(np.logical_or(a, b)))))
        return result

    def checked():
        for start in range(0, samples, 256):
            rle_problems(found[start : start + 256])
        return evaluate_gres(pairs())

    columns = evaluate_gres(pairs()).columns
    if list(zip(columns.intersection.tolist(), columns.union.tolist())) != decoded():
        raise RuntimeError("GRES pixel counts differ from those of decoded masks")
    peer = best_of(decoded, 3, cpu=True)
    seconds = best_of(lambda: evaluate_gres(pairs()), 5, cpu=True)
    with_check = best_of(checked, 5, cpu=True)
    many = _peak_mb(lambda: evaluate_gres(pair for _ in range(10) for pair in pairs()))
    few = _peak_mb(lambda: evaluate_gres(pairs()))
    name = "decoding both masks, counting pixels with numpy"
    note = f"{samples} samples at 480x480, CPU seconds, all counts equal"
    growth = (many - few) * 1e6 / (9 * samples)
    return [
        Result("GRES scoring", seconds, "s", name, peer / seconds, 30, note),
        Result("GRES scoring, masks checked first", with_check, "s", name, peer / with_check, None, note),
        Result(
            "GRES memory per further sample", growth, "bytes", "two decoded masks", 2 * 480 * 480 / max(growth, 1), None,
            f"peak {few:.1f} MB for {samples} samples, {many:.1f} MB for {10 * samples}: numbers, no masks",
        ),
    ]  # fmt: skip


def _peak_mb(function) -> float:
    tracemalloc.start()
    function()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak / 1e6


def _reader(expressions: int) -> list[Result]:
    with tempfile.TemporaryDirectory() as folder:
        data = generate(folder, expressions, with_images=False)
        reader = read_grefcoco(folder)
        load = best_of(lambda: read_grefcoco(folder), 1, cpu=True)
        stream = best_of(lambda: sum(1 for _ in reader), 2, cpu=True)
        count = sum(1 for _ in reader)
        # what makes the authors' index slow: the list of a category is copied for every ref
        sample = reader.refs[: min(len(reader.refs), 20_000)]
        slow = best_of(lambda: index_by_copying(sample), 1, cpu=True)
        fast = best_of(lambda: index_by_appending(sample), 3, cpu=True)
    note = f"{count} expressions, {data.images} images, {data.annotations} annotations"
    return [
        Result("gRefCOCO: loading and indexing", load, "s", None, None, 60, note, lower_is_better=True),
        Result("gRefCOCO: all examples", stream, "s", None, None, 60, note, lower_is_better=True),
        Result("index of refs by appending", fast, "s", "lists copied for every ref", slow / fast, None, f"{len(sample)} refs"),
    ]


def index_by_copying(refs) -> dict:
    """Refs by category the way that is quadratic."""
    index: dict = {}
    for ref in refs:
        for category in ref["category_id"]:
            index[category] = [*index.get(category, []), ref]
    return index


def index_by_appending(refs) -> dict:
    """Refs by category, one append each."""
    index: dict = defaultdict(list)
    for ref in refs:
        for category in ref["category_id"]:
            index[category].append(ref)
    return index

"""Scoring HumanRef: points without decoding masks, boxes, and the reader's memory."""

from __future__ import annotations

import json
import tempfile
import time
import tracemalloc
from pathlib import Path

import numpy as np

from fiftyone_rexseek import masks
from fiftyone_rexseek.datasets.humanref import read_humanref
from fiftyone_rexseek.metrics.humanref import score_boxes, score_points, summarize

from .harness import Result, best_of

DOMAINS = ("attribute", "position", "interaction", "reasoning", "celebrity")


def rows(count: int, seed: int = 0) -> list[dict]:
    """Rows of the real set's proportions: 7.3 candidates, 2.2 answers and predictions, ellipse masks in 1000x1000."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:1000, :1000]
    shapes = []
    for _ in range(120):
        x1, y1 = rng.uniform(0, 700, 2)
        w, h = rng.uniform(80, 290, 2)
        inside = ((x - x1 - w / 2) / (w / 2)) ** 2 + ((y - y1 - h / 2) / (h / 2)) ** 2 <= 1
        shapes.append(([round(float(v), 4) for v in (x1, y1, x1 + w, y1 + h)], masks.encode(inside)))
    result = []
    for i in range(count):
        chosen = rng.choice(len(shapes), size=rng.integers(4, 12), replace=False)
        n = min(len(chosen), 1 + rng.poisson(1.2))
        rejected = i % 6 == 5
        answers = [] if rejected else [shapes[j] for j in chosen[:n]]
        result.append(
            {
                "id": f"s{i}",
                "image_name": f"{i}.jpg",
                "domain": "rejection" if rejected else DOMAINS[i % 5],
                "sub_domain": "s",
                "referring": f"expression {i}",
                "candidate_boxes": [shapes[j][0] for j in chosen],
                "answer_boxes": [a[0] for a in answers],
                "answer_segmentations": [a[1] for a in answers],
            }
        )
    return result


def points_for(rows: list[dict], seed: int = 1) -> list[list[list[float]]]:
    """About one point per answer, four in five of them inside, plus some strays."""
    rng = np.random.default_rng(seed)
    result = []
    for row in rows:
        points = []
        for x1, y1, x2, y2 in row["answer_boxes"]:
            centre = [(x1 + x2) / 2, (y1 + y2) / 2]
            points.append(centre if rng.random() < 0.8 else rng.uniform(0, 1000, 2).tolist())
        if rng.random() < 0.3:
            points.append(rng.uniform(0, 1000, 2).tolist())
        rng.shuffle(points)
        result.append(points)
    return result


def decode_every_pair(row_masks, row_points) -> list[float]:
    """The plain way: the mask is decoded again for every (mask, point) pair. Recall of each row."""
    recalls = []
    for rles, points in zip(row_masks, row_points):
        used: set[int] = set()
        hits = 0
        for rle in rles:
            for j, (x, y) in enumerate(points):
                if j in used:
                    continue
                mask = masks.decode(rle)
                px, py = round(x), round(y)
                if 0 <= py < mask.shape[0] and 0 <= px < mask.shape[1] and mask[py, px]:
                    used.add(j)
                    hits += 1
                    break
        recalls.append(hits / len(rles) if rles else float("nan"))
    return recalls


def run(quick: bool = False) -> list[Result]:
    """Measures; CPU seconds of this process."""
    count = 600 if quick else 6000
    data = rows(count)
    answer_masks = [r["answer_segmentations"] for r in data]
    persons = [len(r["candidate_boxes"]) for r in data]
    rejection = [r["domain"] == "rejection" for r in data]
    points = points_for(data)

    ours = score_points(answer_masks, points, persons, is_rejection=rejection)
    start = time.process_time()
    theirs = decode_every_pair(answer_masks, points)
    peer_s = time.process_time() - start
    positive = [i for i, r in enumerate(rejection) if not r]
    if [theirs[i] for i in positive] != ours.recall_50[positive].tolist():
        raise AssertionError("the two ways of scoring points disagree")
    ours_s = best_of(lambda: score_points(answer_masks, points, persons, is_rejection=rejection), cpu=True)
    results = [
        Result(
            f"points, {count} rows",
            ours_s,
            "s CPU",
            "decode the mask for every (mask, point) pair",
            peer_s / ours_s,
            20,
            f"peer {peer_s:.2f} s; same values",
        )
    ]

    answers = [r["answer_boxes"] for r in data]
    candidates = [r["candidate_boxes"] for r in data]

    def boxes():
        return summarize(
            score_boxes(answers, candidates, persons, is_rejection=rejection), [r["domain"] for r in data]
        )

    results.append(
        Result(
            f"boxes, {count} rows, all candidates predicted",
            best_of(boxes, cpu=True),
            "s CPU",
            target=1.0,
            lower_is_better=True,
            note="ten thresholds, summary",
        )
    )
    with tempfile.TemporaryDirectory() as folder:
        small = _peak_of_reading(Path(folder) / "small.jsonl", data[: count // 10])
        large = _peak_of_reading(Path(folder) / "large.jsonl", data)
    results.append(
        Result(
            "peak memory of reading, ten times the rows",
            large / 1e6,
            "MB",
            "a tenth of the rows",
            note=f"{small / 1e6:.2f} MB for a tenth; only the ids are kept",
        )
    )
    return results


def _peak_of_reading(path: Path, data: list[dict]) -> int:
    path.write_text("".join(json.dumps(r) + "\n" for r in data))
    tracemalloc.start()
    for _ in read_humanref(path):
        pass
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak

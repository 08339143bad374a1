"""rexseek-tiny: eight expressions about one drawn scene, on the CPU, after warm-up."""

from __future__ import annotations

import statistics
import time

from benchmarks.harness import Result
from fiftyone_rexseek.datasets.scenes import generate_scene
from fiftyone_rexseek.models import registry

EXPRESSIONS = 8
TARGET_SECONDS = 0.5


def run(quick: bool = False) -> list[Result]:
    """Median wall time of ``select`` on scenes it has not seen, image preparation included."""
    model = registry.load("rexseek-tiny", device="cpu")
    times, selected = [], 0
    for index in range(3 if quick else 12):
        scene = generate_scene(seed=555_001, index=index, num_people=(6, 10))
        image, boxes = scene.render(), scene.candidates().boxes_xyxy
        expressions = [q.expression for q in scene.questions(per_domain=3)][:EXPRESSIONS]
        began = time.perf_counter()
        answers = model.select(image, boxes, expressions)
        times.append(time.perf_counter() - began)
        selected += sum(len(a) for a in answers)
    warm = times[1:]
    return [
        Result(
            "rexseek-tiny: 8 expressions on one scene",
            statistics.median(warm),
            target=TARGET_SECONDS,
            lower_is_better=True,
            note=f"CPU, {len(warm)} scenes of 640x480 with 6 to 10 people after one for warm-up; {selected} boxes selected",
        )
    ]

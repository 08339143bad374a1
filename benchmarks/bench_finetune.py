"""Fine-tuning at work: rexseek-tiny learns a named character it has never met from 50 examples, and keeps the rest.

Frost the snowman appears in no training scene. Fifty examples that name him (some of them where he is absent) are
trained on together with ordinary scenes as rehearsal; both are then measured on scenes that no stage has seen.

On a machine with CUDA the speed and memory of fine-tuning at the true 3B sizes is measured as well, with random weights.
"""

from __future__ import annotations

import tempfile
import time
from dataclasses import replace
from pathlib import Path

import torch
from PIL import Image

from benchmarks.harness import Result
from fiftyone_rexseek.datasets.scenes import DEFAULT_CHARACTERS, generate_scene, write_humanref
from fiftyone_rexseek.models import registry
from fiftyone_rexseek.models.rexseek import RexSeek, RexSeekConfig
from fiftyone_rexseek.referring import ReferringExample, Target
from fiftyone_rexseek.training.data import ExampleStream, ImageRecord, group_by_image, read_examples
from fiftyone_rexseek.training.drawn import DrawnScenes, build_scenes
from fiftyone_rexseek.training.evaluation import fresh_scenes, score_scenes
from fiftyone_rexseek.training.finetune import FineTuning, finetune_rexseek, prepare, score_records
from fiftyone_rexseek.training.loop import LoopConfig, train
from fiftyone_rexseek.training.lora import LoraOptions
from fiftyone_rexseek.training.optim import build_optimizers
from fiftyone_rexseek.training.streams import SceneStream
from fiftyone_rexseek.training.tiny import call

EXAMPLES = 50
NEW = "frost"
TRAIN_SEED, TEST_SEED, REST_SEED, REHEARSAL_SEED = 880_001, 880_002, 880_003, 880_004
MOST_LOST = 0.02


def new_examples(folder: Path, seed: int, count: int) -> list[tuple[ReferringExample, str]]:
    """Examples that name the new character, with their pictures written to a folder; a sixth of them without target."""
    folder.mkdir(parents=True, exist_ok=True)
    pairs: list[tuple[ReferringExample, str]] = []
    index = 0
    while len(pairs) < count:
        scene = generate_scene(seed, index, characters=(*DEFAULT_CHARACTERS[:2], NEW), num_people=(3, 8))
        index += 1
        present = any(p.name == NEW for p in scene.people)
        asked = [
            q for q in scene.questions(per_domain=12, domains=("celebrity", "rejection"))
            if NEW in q.expression.lower() or "snowman" in q.expression.lower()
        ][: 2 if present else 1]  # fmt: skip
        absent = sum(not e.targets for e, _ in pairs)
        if not present and absent >= count // 6:
            continue
        if not asked:
            continue
        path = folder / f"{index:04d}.png"
        Image.fromarray(scene.render()).save(path)
        candidates = scene.candidates()
        boxes = tuple(Target(tuple(b)) for b in candidates.boxes_xyxy.tolist())
        for q in asked:
            targets = tuple(boxes[i] for i in candidates.of(q.answers))
            pairs.append((ReferringExample(index, len(pairs), q.expression, path.name, targets, boxes), str(path)))
    return pairs[:count]


def measure(model: RexSeek, new: list[ImageRecord], rest_scenes: int) -> tuple[float, float]:
    """DensityF1 on the new character's expressions, and the mean over the answerable domains on ordinary scenes."""
    rest = score_scenes(model, fresh_scenes(REST_SEED, rest_scenes), per_domain=2, max_new_tokens=64)
    return score_records(model, new)["density_f1"], rest.density_f1


def run(quick: bool = False) -> list[Result]:
    """Before and after, and the GPU when there is one. ``quick`` takes too few steps to learn much."""
    return _new_character(quick) + (_gpu(4 if quick else 10) if torch.cuda.is_available() else [])


def _gpu(steps: int) -> list[Result]:
    from benchmarks.bench_rexseek import random_model

    rexseek = random_model(RexSeekConfig(), "cuda", torch.float32)
    options = FineTuning(lora=LoraOptions(), bf16=True, gradient_checkpointing=True, accumulate=2, images=4, questions=8)
    objective = prepare(rexseek, options)
    optimizers = build_optimizers(objective.named_parameters(), lr=options.lr)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_humanref(folder, seed=TRAIN_SEED, count=16)
        records = group_by_image(read_examples(folder, "scenes", None))
        stream = ExampleStream(records, rexseek.processor, rexseek.processor.tokenizer.eos_token_id, options.images, options.questions)
        loop = LoopConfig(folder / "warm", steps=2, accumulate=options.accumulate, bf16=True, progress=False)
        train(objective, stream, call, optimizers, loop)
        torch.cuda.reset_peak_memory_stats()
        result = train(objective, stream, call, optimizers, replace(loop, out_dir=folder / "run", steps=steps))
        checkpoint = (folder / "run" / "checkpoint.pt").stat().st_size / 2**20
    expressions = options.accumulate * options.images * options.questions
    note = (
        f"3B sizes, random weights, adapters of rank {options.lora.rank}, projectors and ConvNeXt, bfloat16, recomputed activations, 2 x"
        f" {options.images} images with {options.questions} expressions a step; checkpoint {checkpoint:.0f} MB"
    )
    return [
        Result("fine-tuning at 3B sizes, GPU", steps * expressions / result.seconds, "expressions/s", note=note),
        Result("fine-tuning at 3B sizes, peak memory", torch.cuda.max_memory_allocated() / 2**30, "GB", note=note),
    ]


def _new_character(quick: bool) -> list[Result]:
    steps, test_images, rest_scenes, rehearsal = (4, 4, 4, 250) if quick else (160, 60, 60, 500)
    start = registry.find_weights(registry.entry("rexseek-tiny"))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        examples = new_examples(folder / "train", TRAIN_SEED, EXAMPLES)
        held_out = group_by_image(new_examples(folder / "test", TEST_SEED, test_images))
        before = measure(RexSeek.from_pretrained(start, device="cpu"), held_out, rest_scenes)

        def rehearse(processor, end_id):
            build_scenes(folder / "scenes", processor.config, REHEARSAL_SEED, rehearsal)
            return SceneStream(DrawnScenes(folder / "scenes", rehearsal), processor, end_id, images=4, questions=16)

        began = time.perf_counter()
        options = FineTuning(
            steps=steps, lr=4e-4, images=4, questions=4, rehearsal=0.6, progress=False, device="cpu",
            validation_share=0.0, train=("language", "projectors", "convnext"),
        )  # fmt: skip
        finetune_rexseek(start, examples, folder / "out", options, rehearse=rehearse)
        seconds = time.perf_counter() - began
        after = measure(RexSeek.from_pretrained(folder / "out" / "model", device="cpu"), held_out, rest_scenes)
    note = f"{EXAMPLES} examples, {steps} steps, {seconds:.0f} s; before {before[0]:.3f}, ordinary scenes {before[1]:.3f}"
    return [
        Result("fine-tuning: DensityF1 on a new character", after[0], "DensityF1", target=None if quick else before[0] + 0.2, note=note),
        Result(
            "fine-tuning: DensityF1 on everything else, change",
            after[1] - before[1],
            "DensityF1",
            target=None if quick else -MOST_LOST,
            note=f"{rest_scenes} scenes not used before; after {after[1]:.3f}",
        ),
    ]

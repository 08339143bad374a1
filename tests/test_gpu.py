"""On a GPU: the reference vectors, the shipped models and training give what they give on the CPU. Needs no FiftyOne."""

import json
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from fiftyone_rexseek.datasets.scenes import generate_scene, write_grefcoco, write_humanref
from fiftyone_rexseek.models.registry import WEIGHTS_FOLDER
from fiftyone_rexseek.models.rela import ReLA, SegmentRequest
from fiftyone_rexseek.models.rexseek import RexSeek, SelectRequest
from fiftyone_rexseek.training import rela_tiny, tiny
from fiftyone_rexseek.training.data import read_examples
from fiftyone_rexseek.training.finetune import FineTuning, finetune_rexseek
from fiftyone_rexseek.training.loop import read_log
from fiftyone_rexseek.training.lora import LoraOptions
from fiftyone_rexseek.training.rela import ReLAFineTuning, finetune_rela

sys.path.insert(0, str(Path(__file__).parent))
from tiny_trainee import trainee, trainee_config

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")

FIXTURES = Path(__file__).parent / "fixtures" / "rexseek"
SCENES = [generate_scene(60_061, i) for i in range(16)]
FINE_TUNING = dict(
    steps=12, lora=LoraOptions(rank=2, alpha=4), accumulate=2, bf16=True, gradient_checkpointing=True, progress=False,
    validate_every=6, lr=5e-3, device="cuda",
)  # fmt: skip


@pytest.fixture
def exact():
    """Convolutions in full float32."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    yield
    torch.backends.cudnn.allow_tf32 = before


@pytest.mark.parametrize("name", ["case0", "case1"])
def test_rexseek_generates_the_reference_ids(name, exact):
    case = json.loads((FIXTURES / name / "case.json").read_text())
    rexseek = RexSeek.from_pretrained(FIXTURES, device="cuda", dtype=torch.float32)
    ask = (FIXTURES / name / "image.png", case["boxes_xyxy"], case["question"], case["max_new_tokens"])
    assert rexseek.generate_ids(*ask) == case["generated_ids"]


def rexseek_answers(device: str, dtype=torch.float32):
    rexseek = RexSeek.from_pretrained(WEIGHTS_FOLDER / "rexseek-tiny", device=device, dtype=dtype)
    requests = [
        SelectRequest(s.render(), s.candidates().boxes_xyxy, [q.expression for q in s.questions(per_domain=2)]) for s in SCENES
    ]
    return [selection for row in rexseek.select_batch(requests) for selection in row]


@pytest.mark.parametrize("dtype, least", [(torch.float32, 0.99), (torch.bfloat16, 0.93)], ids=["float32", "bfloat16"])
def test_rexseek_tiny_selects_what_it_selects_on_the_cpu(dtype, least, exact):
    ours, theirs = rexseek_answers("cuda", dtype), rexseek_answers("cpu")
    same = [a.outcome == b.outcome and set(a.indices or ()) == set(b.indices or ()) for a, b in zip(ours, theirs)]
    assert len(same) > 150 and np.mean(same) >= least
    if dtype == torch.float32:
        for a, b, alike in zip(ours, theirs, same):
            if alike:
                np.testing.assert_allclose(a.scores, b.scores, atol=2e-3)


@pytest.mark.parametrize("folder", [FIXTURES, WEIGHTS_FOLDER / "rexseek-tiny"], ids=["grouped heads", "tiny"])
def test_recorded_steps_give_what_single_steps_give(folder, monkeypatch):
    """Also for rows that end early, for caches that grow, and for two threads at once."""
    rexseek = RexSeek.from_pretrained(folder, device="cuda", dtype=torch.float32)
    # the untrained model is given many tokens that end an answer
    rexseek.generation["eos_token_id"] = rexseek.eos_ids if folder != FIXTURES else list(range(0, 500, 9))
    requests = [
        SelectRequest(s.render(), s.candidates().boxes_xyxy, [q.expression for q in s.questions(per_domain=1)]) for s in SCENES[:6]
    ]

    def ask(decoding="free"):
        return [(s.answer, s.scores.tolist()) for r in rexseek.select_batch(requests, max_new_tokens=90, decoding=decoding) for s in r]

    ask()
    recorded, constrained = ask(), ask("constrained")
    with ThreadPoolExecutor(2) as threads:
        assert all(answers == recorded for answers in threads.map(lambda _: ask(), range(4)))
    monkeypatch.setattr("fiftyone_rexseek.models.rexseek.generation._Rows._can_record", lambda self: False)
    assert ask() == recorded and ask("constrained") == constrained
    assert len({len(answer) for answer, _ in recorded}) > 2


def test_pixels_are_the_same_bits_as_on_the_cpu():
    processor = RexSeek.from_pretrained(FIXTURES, device="cpu").processor
    levels = torch.arange(256, dtype=torch.uint8).repeat(3 * 64 * 64 * 4 // 256 + 1)[: 3 * 64 * 64].view(1, 64, 64, 3)
    assert torch.equal(processor.normalised(levels.cuda())[0].cpu(), processor.normalised(levels)[0])


def rela_answers(device: str, dtype=torch.float32):
    rela = ReLA.from_pretrained(WEIGHTS_FOLDER / "rela-tiny", device=device, dtype=dtype)
    requests = [SegmentRequest(s.render(), [q.expression for q in s.questions(per_domain=1)]) for s in SCENES]
    return [selection for row in rela.segment_batch(requests) for selection in row]


@pytest.mark.parametrize("dtype, least", [(torch.float32, 0.99), (torch.bfloat16, 0.9)], ids=["float32", "bfloat16"])
def test_rela_tiny_draws_what_it_draws_on_the_cpu(dtype, least, exact):
    from fiftyone_rexseek.masks import area, intersection_area

    def iou(a, b):
        both = intersection_area(a, b)
        either = area(a) + area(b) - both
        return both / either if either else 1.0

    ours, theirs = rela_answers("cuda", dtype), rela_answers("cpu")
    assert np.mean([a.outcome == b.outcome for a, b in zip(ours, theirs)]) >= least
    overlaps = [iou(a.merged_mask, b.merged_mask) for a, b in zip(ours, theirs) if a.outcome == b.outcome]
    assert len(overlaps) > 60 and np.mean(overlaps) >= least


def losses_fall(history) -> bool:
    losses = [row["loss"] for row in history if "loss" in row]
    return losses[-1] < losses[0] and all(np.isfinite(losses))


@pytest.mark.parametrize("with_accelerate", [False, True], ids=["alone", "accelerate"])
def test_rexseek_is_fine_tuned(tmp_path, with_accelerate):
    trainee().save_pretrained(tmp_path / "start")
    write_humanref(tmp_path / "data", seed=3, count=4, size=(192, 144))
    pairs = list(read_examples(tmp_path / "data", "scenes", None))
    accelerator = None
    if with_accelerate:
        from accelerate import Accelerator

        accelerator = Accelerator(mixed_precision="bf16")
    options = replace(FineTuning(**FINE_TUNING), images=2, questions=4, train=("language", "projectors"))
    result = finetune_rexseek(tmp_path / "start", pairs, tmp_path / "out", options, pairs[:8], accelerator=accelerator)
    assert result.step == 12 and result.best_score is not None
    tuned = RexSeek.from_pretrained(tmp_path / "out" / "model", device="cuda", dtype=torch.bfloat16)
    scene = SCENES[0]
    assert len(tuned.select(scene.render(), scene.candidates().boxes_xyxy, ["the person in a red shirt"])) == 1


def test_rela_is_fine_tuned(tmp_path):
    write_grefcoco(tmp_path, seed=4, count=8, size=(160, 128), refs_per_scene=2, num_people=3)
    pairs = list(read_examples(tmp_path / "grefcoco" / "grefs(unc).json", "grefcoco", tmp_path / "images" / "train2014"))
    options = ReLAFineTuning(**{**FINE_TUNING, "lr": 1e-3}, batch=4, clip=1.0)
    result = finetune_rela(WEIGHTS_FOLDER / "rela-tiny", pairs, tmp_path / "out", options, pairs[:8])
    assert result.step == 12 and result.best_score > 0.3
    assert ReLA.from_pretrained(tmp_path / "out" / "model", device="cuda").segment(SCENES[0].render(), ["everyone"])


def test_both_small_models_are_trained_from_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr("fiftyone_rexseek.training.drawn.SHARD", 8)
    size = len(trainee().processor.tokenizer)
    recipe = tiny.TinyRecipe(
        scenes=8, vision_steps=20, vision_images=4, joint_steps=40, images=2, questions=4, easy_steps=5, validation_scenes=2,
        validate_every=20,
    )  # fmt: skip
    folder = tiny.train_rexseek_tiny(tmp_path / "rexseek", recipe, progress=False, config=trainee_config(size))
    assert RexSeek.from_pretrained(folder, device="cuda").device.type == "cuda"
    assert losses_fall(read_log(tmp_path / "rexseek" / "joint"))
    recipe = rela_tiny.TinyRecipe(
        pretrain_minutes=None, joint_minutes=None, pretrain_steps=10, joint_steps=30, scenes=2, expressions=2, pretrain_scenes=2,
        validation_scenes=4, validate_every=15,
    )  # fmt: skip
    folder = rela_tiny.train_rela_tiny(tmp_path / "rela", recipe)
    assert ReLA.from_pretrained(folder, device="cuda").segment(SCENES[0].render(), ["everyone"])[0].outcome.is_answer
    assert losses_fall(read_log(tmp_path / "rela" / "joint"))


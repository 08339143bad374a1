"""RexSeek: many expressions about one image, against one full call per expression.

The peer is :meth:`RexSeek.generate_ids`, which does what the public code does for every question: preprocess, encode the
image and the boxes, run the whole prompt, decode. Weights are random (a trained model has the same cost), so answers
never end by themselves and both sides generate exactly ``NEW_TOKENS`` per expression.

On a machine with CUDA the true 3B sizes are measured as well, in bfloat16.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch

from benchmarks.harness import Result
from fiftyone_rexseek.models.rexseek import (
    QUESTION,
    RexSeek,
    RexSeekConfig,
    RexSeekForSelection,
    RexSeekProcessor,
    SelectRequest,
)

TOKENIZER = Path(__file__).resolve().parents[1] / "tests" / "fixtures" / "rexseek"
NEW_TOKENS = 16
EXPRESSIONS = [
    "the man in the red shirt",
    "the two people on the left",
    "everyone except the kid in white",
    "the woman who holds a cup",
    "the third person from the right",
    "the one who looks at the camera",
    "the person with glasses next to the tall man",
    "the dog",
    "a man riding a bicycle",
    "people who sit",
    "the child between the two women",
    "the person with the blue umbrella",
    "whoever is waving",
]


def random_model(config: RexSeekConfig, device: str, dtype: torch.dtype) -> RexSeek:
    """A model with random weights, made where and as what it will run."""
    torch.manual_seed(0)
    default = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):
            model = RexSeekForSelection(config)
    finally:
        torch.set_default_dtype(default)
    # Rotary frequencies stay float32, as after loading a checkpoint.
    rotary = model.model.rotary_emb
    model.model.rotary_emb = type(rotary)(config=model.model.config).to(device)
    processor = RexSeekProcessor.from_folder(config, TOKENIZER)
    # An end token that random weights never choose among 10^5 others would not do: there must be none.
    return RexSeek(model.eval().requires_grad_(False), processor, {"eos_token_id": []})


def model_90m() -> RexSeek:
    """About 90 million parameters; the image sizes and the token grid of the 3B model."""
    text = dict(
        vocab_size=2048,
        hidden_size=768,
        intermediate_size=2560,
        num_hidden_layers=10,
        num_attention_heads=12,
        num_key_value_heads=2,
        tie_word_embeddings=True,
    )
    clip = dict(hidden_size=320, intermediate_size=1280, num_hidden_layers=6, num_attention_heads=5)
    config = RexSeekConfig(
        text=text, clip=clip, convnext_dims=(40, 80, 160, 320), convnext_depths=(2, 2, 6, 2)
    )
    return random_model(config, "cpu", torch.float32)


def _image(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (853, 1280, 3), dtype=np.uint8)


def _boxes(n: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    corner = rng.uniform(0, 1, (n, 2)) * (1000, 600)
    return np.concatenate([corner, corner + rng.uniform(30, 250, (n, 2))], axis=1)


def _reset_peak() -> None:
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return  # not Linux, or not allowed: the peak is then that of the whole process


def _peak_mb() -> float:
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.exists() else []
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM")), float("nan"))


def _timed(function, device: str) -> tuple[float, float, object]:
    """Wall seconds, CPU seconds and result."""
    if device != "cpu":
        torch.cuda.synchronize()
    wall, cpu = time.perf_counter(), time.process_time()
    result = function()
    if device != "cpu":
        torch.cuda.synchronize()
    return time.perf_counter() - wall, time.process_time() - cpu, result


def _one_call_each(rexseek: RexSeek, requests: list[SelectRequest]) -> list[list[str]]:
    return [
        [
            rexseek.processor.decode(
                rexseek.generate_ids(r.image, r.boxes_xyxy, QUESTION.format(expression=e), NEW_TOKENS)
            ).strip()
            for e in r.expressions
        ]
        for r in requests
    ]


def _answers(rexseek: RexSeek, requests: list[SelectRequest], **options) -> list[list[str]]:
    results = rexseek.select_batch(requests, max_new_tokens=NEW_TOKENS, **options)
    return [[selection.answer for selection in row] for row in results]


def run(quick: bool = False) -> list[Result]:
    """Measures the CPU, and the GPU when there is one. ``quick`` uses 3 expressions."""
    results = _cpu(quick) + _agreement(5 if quick else 40)
    if torch.cuda.is_available():
        results += _gpu(quick)
    return results


def _cpu(quick: bool) -> list[Result]:
    threads = torch.get_num_threads()
    # One thread's CPU time is its wall time on a quiet machine, and steady on a busy one.
    torch.set_num_threads(1)
    try:
        return _cpu_one_thread(quick)
    finally:
        torch.set_num_threads(threads)


def _cpu_one_thread(quick: bool) -> list[Result]:
    rexseek = model_90m()
    millions = sum(p.numel() for p in rexseek.model.parameters()) / 1e6
    expressions = EXPRESSIONS[: 3 if quick else 8]
    requests = [SelectRequest(_image(0), _boxes(12, 0), expressions)]
    _answers(rexseek, [SelectRequest(_image(1), _boxes(1, 1), ["warm up"])])
    _reset_peak()
    wall, cpu, ours = _timed(lambda: _answers(rexseek, requests), "cpu")
    ours_mb = _peak_mb()
    _reset_peak()
    peer_wall, peer_cpu, theirs = _timed(lambda: _one_call_each(rexseek, requests), "cpu")
    peer_mb = _peak_mb()
    if ours != theirs:
        raise AssertionError("the answers of the two ways differ")
    note = (
        f"{millions:.0f} M parameters, float32, {len(expressions)} expressions, 12 boxes, {NEW_TOKENS} new tokens,"
        f" one thread, CPU time; wall {wall:.1f} s against {peer_wall:.1f} s; same answers"
    )
    peer = "one full call per expression"
    memory_note = (
        f"one call per expression: {peer_mb:.0f} MB; both include the weights ({millions * 4:.0f} MB)"
    )
    return [
        Result(
            f"{len(expressions)} expressions on one image, CPU",
            cpu,
            "s",
            peer,
            peer_cpu / cpu,
            None if quick else 4.0,
            note,
        ),
        Result("peak memory, CPU", ours_mb, "MB", peer, peer_mb / ours_mb, note=memory_note),
    ]


def _agreement(images: int) -> list[Result]:
    """How often constrained decoding gives the answer of free decoding: the packaged tiny model on unseen scenes."""
    from fiftyone_rexseek.datasets.scenes import generate_scene
    from fiftyone_rexseek.models.registry import entry

    folder = entry("rexseek-tiny").packaged_folder
    if not folder.is_dir():
        return []
    rexseek = RexSeek.from_pretrained(folder, device="cpu")
    same = total = 0
    for index in range(images):
        scene = generate_scene(seed=990017, index=index)
        boxes = scene.candidates(jitter=0.0, shuffle=False).boxes_xyxy
        request = [
            SelectRequest(scene.render(), boxes, [q.expression for q in scene.questions(per_domain=2)])
        ]
        (free,) = rexseek.select_batch(request)
        (constrained,) = rexseek.select_batch(request, decoding="constrained")
        same += sum(
            a.outcome == b.outcome and set(a.indices) == set(b.indices) for a, b in zip(free, constrained)
        )
        total += len(free)
    note = f"same outcome and same boxes; rexseek-tiny, {images} unseen scenes, {total} expressions"
    return [Result("constrained decoding agrees with free decoding", 100 * same / total, "%", note=note)]


def _gpu(quick: bool, sizes: Sequence[tuple[int, int]] | None = None) -> Iterator[Result]:
    """``sizes``: pairs of expressions per image and images per batch."""
    rexseek = random_model(RexSeekConfig(), "cuda", torch.bfloat16)
    floor = _Floor(rexseek)
    targets = {1: (10.0, 60.0), 13: (25.0, 300.0)}
    for per_image, batch_size in sizes or [(n, size) for n in (1, 4, 13) for size in (1, 8, 16, 32)]:
        images = batch_size if quick else 2 * batch_size
        requests = [SelectRequest(_image(k), _boxes(12, k), EXPRESSIONS[:per_image]) for k in range(images)]
        _answers(rexseek, requests[:batch_size], batch_size=batch_size)
        torch.cuda.reset_peak_memory_stats()
        wall, _, _ = _timed(lambda: _answers(rexseek, requests, batch_size=batch_size), "cuda")  # noqa: B023
        memory = torch.cuda.max_memory_allocated() / 2**30
        few = [SelectRequest(requests[0].image, requests[0].boxes_xyxy, EXPRESSIONS[:2])]
        peer_wall, _, _ = _timed(lambda: _one_call_each(rexseek, few), "cuda")  # noqa: B023
        rate, peer_rate = images * per_image / wall, 2 / peer_wall
        ratio, absolute = targets.get(per_image, (None, None))
        lowest = floor.seconds(per_image, batch_size)
        note = (
            f"3B sizes, random bfloat16 weights, {NEW_TOKENS} new tokens, {memory:.1f} GB;"
            f" {wall / images * batch_size / lowest:.1f} times the floor; aim {absolute or '-'} per second"
        )
        name = f"{per_image} expressions per image, {batch_size} images per batch, GPU"
        target = ratio if batch_size == 32 else None
        peer = f"one full call per expression ({peer_rate:.1f} per second)"
        yield Result(name, rate, "expressions/s", peer, rate / peer_rate, target, note)


class _Floor:
    """Least possible seconds per batch: counted FLOPs and bytes over this device's measured ceilings."""

    def __init__(self, rexseek: RexSeek):
        self.rexseek = rexseek
        device = str(rexseek.device)
        n = 8192 if rexseek.device.type == "cuda" else 256
        a = torch.randn(n, n, device=device, dtype=torch.bfloat16)
        a @ a
        seconds = min(_timed(lambda: a @ a, device)[0] for _ in range(5))
        self.flops_per_second = 2 * n**3 / seconds
        block = torch.empty(2**18 * n // 64, device=device, dtype=torch.uint8)
        seconds = min(_timed(block.clone, device)[0] for _ in range(5))
        self.bytes_per_second = 2 * block.numel() / seconds
        from torch.nn.attention import SDPBackend, sdpa_kernel
        from torch.utils.flop_counter import FlopCounterMode

        request = [SelectRequest(_image(0), _boxes(12, 0), EXPRESSIONS[:1])]
        # the counter does not know grouped heads in fused attention
        with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            rexseek.select_batch(request, max_new_tokens=1, batch_size=1)
        self.flops_per_image = counter.get_total_flops()
        language = sum(p.numel() for p in rexseek.model.model.layers.parameters())
        language += rexseek.model.lm_head.weight.numel()
        self.bytes_per_step = 2 * language
        text = rexseek.config.text
        head = text["hidden_size"] // text["num_attention_heads"]
        tokens = rexseek.config.grid**2 + 80
        self.cache_bytes = 2 * 2 * text["num_hidden_layers"] * text["num_key_value_heads"] * head * tokens
        self.flops_per_token = 2 * language

    def seconds(self, per_image: int, batch_size: int) -> float:
        """Prompts limited by arithmetic; each further step by reading the weights once and every row's cache."""
        rows = per_image * batch_size
        suffixes = (per_image - 1) * batch_size * 22 * self.flops_per_token
        prompts = (batch_size * self.flops_per_image + suffixes) / self.flops_per_second
        step_bytes = (
            self.bytes_per_step + batch_size * self.cache_bytes
        )  # one image's rows could share its prefix
        step = max(step_bytes / self.bytes_per_second, rows * self.flops_per_token / self.flops_per_second)
        return prompts + (NEW_TOKENS - 1) * step

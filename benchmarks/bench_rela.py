"""Speed of ReLA: images per second of Swin-B at 480, and how near deformable attention is to ``grid_sample``.

Random weights: speed does not depend on them. On a GPU also bfloat16, ``torch.compile`` and batches up to 64, beside the
floor that counted floating point operations give. The paper states 16.5 frames/s for Swin-B on a V100.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator

import torch
from torch.nn import functional as F

from fiftyone_rexseek.models.rela import ReLAConfig, ReLANetwork
from fiftyone_rexseek.models.rela.deformable import (
    DeformableAttention,
    gather_and_sum,
    reference_points,
    sample_and_sum,
)

from .harness import FOLDER, Result, best_of

PAPER_FPS_V100 = 16.5
#: Dense bfloat16 peak of the GPUs that this was measured on, in FLOP/s.
PEAK_FLOPS = {"H200": 989e12, "H100": 989e12, "A100": 312e12, "V100": 125e12}
#: Compiling has taken minutes; longer than this it does not pay.
COMPILE_SECONDS = 120


def run(quick: bool = False) -> list[Result]:
    """``quick``: the tiny variant in place of Swin-B. In full about a minute on two cores, most of it the ten images of Swin-B."""
    torch.manual_seed(0)
    variant = "tiny" if quick else "swin-base"
    network = ReLANetwork(ReLAConfig.from_variant(variant)).eval().requires_grad_(False)
    results = _cpu(network, variant)
    results += _deformable(quick)
    results += _decision(quick)
    if torch.cuda.is_available():
        batches = (1, 4) if quick else (1, 4, 16, 64)
        results += _gpu(network.cuda(), variant, batches)
        results += _compiled(variant, batches[-2])
    return results


def _inputs(config: ReLAConfig, batch: int, device="cpu"):
    images = torch.randint(0, 255, (batch, 3, config.image_size, config.image_size), dtype=torch.uint8, device=device)
    ids = torch.randint(5, config.vocab_size, (batch, config.max_text_length), device=device)
    return images, ids, torch.ones_like(ids)


def _cpu(network: ReLANetwork, variant: str) -> list[Result]:
    note = f"{network.config.image_size}x{network.config.image_size}, float32, {torch.get_num_threads()} threads"
    results = []
    for batch in (1, 4):
        inputs = _inputs(network.config, batch)

        def call(inputs=inputs):
            with torch.inference_mode():
                network(*inputs)

        seconds = best_of(call, 2)
        results.append(Result(f"rela-{variant}, batch {batch}, CPU", batch / seconds, "images/s", note=note))
    return results


def _cpu_ms(function, repeats: int) -> float:
    """Processor time of a call in ms, all threads together: it hardly depends on what else the machine does."""
    function()
    return best_of(function, repeats, cpu=True) * 1000


@torch.inference_mode()
def _deformable(quick: bool) -> list[Result]:
    """One deformable attention layer, and its sampling in both ways, against nothing but its three ``grid_sample`` calls."""
    config = ReLAConfig.from_variant("tiny" if quick else "swin-base")
    dim, heads, points = config.pixel_width, config.encoder_heads, config.encoder_points
    sizes = [(config.image_size // s,) * 2 for s in (32, 16, 8)]
    tokens = sum(h * w for h, w in sizes)
    layer = DeformableAttention(dim, heads, 3, points).eval()
    x, reference = torch.randn(1, tokens, dim), reference_points(sizes, "cpu")
    maps = [torch.randn(heads, dim // heads, h, w) for h, w in sizes]
    # what the calls see: places around each query, points before queries
    offsets = layer.sampling_offsets(x).view(1, tokens, heads, 3, points, 2)
    grids = [
        (2 * reference - 1 + 2 * offsets[0, :, :, i].permute(1, 2, 0, 3) / torch.tensor([w, h])).contiguous()
        for i, (h, w) in enumerate(sizes)
    ]
    weights = torch.rand(1, heads, 3, points, tokens)
    value = layer.value_proj(x).unflatten(2, (heads, -1))

    def floor():
        for m, grid in zip(maps, grids):
            F.grid_sample(m, grid, mode="bilinear", padding_mode="zeros", align_corners=False)

    def projections():
        for linear in (layer.value_proj, layer.sampling_offsets, layer.attention_weights, layer.output_proj):
            linear(x)

    repeats = 3 if quick else 15
    floor_ms, linear_ms = _cpu_ms(floor, repeats), _cpu_ms(projections, repeats)
    peer, note = f"its grid_sample calls alone: {floor_ms:.3g} ms", f"{tokens} queries, {heads} heads, {points} points; processor time"
    parts = {
        "deformable attention layer": (lambda: layer(x, reference, x, sizes), f"{note}; {linear_ms:.3g} ms of it are its four projections"),
        "deformable attention, sampling and sum": (lambda: gather_and_sum(value, reference, offsets, weights, sizes), note),
        "deformable attention, sampling and sum, differentiable": (lambda: sample_and_sum(value, reference, offsets, weights, sizes), note),
    }
    results = []
    for name, (call, text) in parts.items():
        ms = _cpu_ms(call, repeats)
        results.append(Result(name, ms, "ms", peer=peer, ratio=floor_ms / ms, note=text))
    return results


def _decision(quick: bool) -> list[Result]:
    """Foreground by comparison against argmax over the two channels."""
    from fiftyone_rexseek.models.rela.outputs import foreground

    probabilities = torch.rand(2, 480, 480)
    n = 5 if quick else 50

    def many(function):
        return best_of(lambda: [function(probabilities) for _ in range(n)], 3) / n

    argmax, comparison = many(lambda p: p.argmax(dim=0)), many(foreground)
    same = torch.equal(foreground(probabilities), probabilities.argmax(dim=0).bool())
    return [
        Result(
            "mask decision at 480x480", comparison * 1000, "ms", peer=f"argmax: {argmax * 1000:.3g} ms",
            ratio=argmax / comparison, note="equal results" if same else "RESULTS DIFFER",
        )
    ]  # fmt: skip


def count_flops(network: ReLANetwork, inputs) -> float:
    """Floating point operations of one forward pass, as PyTorch counts them (matrix products and convolutions)."""
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        network(*inputs)
    return float(counter.get_total_flops())


def _gpu(network: ReLANetwork, variant: str, batches) -> Iterator[Result]:
    """One batch after another, smallest first: what comes late does not take what was measured before."""
    name = torch.cuda.get_device_name()
    peak = next((v for k, v in PEAK_FLOPS.items() if k in name), None)
    network = network.to(torch.bfloat16)
    flops = count_flops(network, _inputs(network.config, 1, "cuda"))
    note = f"{name}, bfloat16; {flops / 1e9:.0f} GFLOP an image"
    if peak:
        note += f"; floor from FLOPs {peak / flops:.0f} images/s"
    for batch in batches:
        rate = batch / _gpu_seconds(network, _inputs(network.config, batch, "cuda"))
        peer, ratio = None, None
        if variant == "swin-base":
            peer, ratio = f"paper, V100: {PAPER_FPS_V100} images/s", rate / PAPER_FPS_V100
        yield Result(f"rela-{variant}, batch {batch}, GPU", rate, "images/s", peer=peer, ratio=ratio, note=note)


def _compiled(variant: str, batch: int) -> list[Result]:
    """``torch.compile`` in a process of its own, which is ended when it takes too long."""
    name = f"rela-{variant}, batch {batch}, GPU, compiled"
    code = f"from benchmarks.bench_rela import compiled_rate; print(compiled_rate({variant!r}, {batch}))"
    command = [sys.executable, "-c", code]
    try:
        done = subprocess.run(
            command, cwd=FOLDER.parent, capture_output=True, text=True, check=True, timeout=COMPILE_SECONDS
        )
    except subprocess.TimeoutExpired:
        return [Result(name, float("nan"), "images/s", note=f"not compiled within {COMPILE_SECONDS} s")]
    except subprocess.CalledProcessError as e:
        return [Result(name, float("nan"), "images/s", note=f"did not run: {e.stderr.strip().splitlines()[-1]}")]
    rate, seconds = map(float, done.stdout.split()[-2:])
    note = f"{torch.cuda.get_device_name()}, bfloat16, torch.compile; with compiling {seconds:.0f} s"
    return [Result(name, rate, "images/s", note=note)]


def compiled_rate(variant: str, batch: int) -> str:
    """Images per second of the compiled network, and the seconds that all took."""
    start = time.perf_counter()
    network = ReLANetwork(ReLAConfig.from_variant(variant)).eval().requires_grad_(False).to("cuda", torch.bfloat16)
    seconds = _gpu_seconds(torch.compile(network), _inputs(network.config, batch, "cuda"))
    return f"{batch / seconds} {time.perf_counter() - start}"


def _gpu_seconds(model, inputs, repeats: int = 10) -> float:
    with torch.inference_mode():
        for _ in range(3):
            model(*inputs)
        torch.cuda.synchronize()
        start = time.perf_counter()
        for _ in range(repeats):
            model(*inputs)
        torch.cuda.synchronize()
    return (time.perf_counter() - start) / repeats

"""The network and its greedy decoding against vectors computed with the public reference code (float32, CPU).

Tolerances are those that came with the vectors: features 1e-4, logits 5e-4, boxes exact after the float16 rounding,
generated ids exact (the smallest gap between the two best tokens is a hundred times the float32 noise).
"""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torchvision.ops import roi_align

from fiftyone_rexseek.models.images import open_image
from fiftyone_rexseek.models.rexseek import RexSeek, RexSeekConfig, RexSeekForSelection
from fiftyone_rexseek.models.rexseek import boxes as boxes_module
from fiftyone_rexseek.models.rexseek.boxes import roi_features, sine_embedding

FOLDER = Path(__file__).parent / "fixtures" / "rexseek"
CASES = ("case0", "case1")


@pytest.fixture(scope="module")
def rexseek():
    return RexSeek.from_pretrained(FOLDER, device="cpu")


@pytest.fixture(scope="module", params=CASES)
def case(request):
    data = json.loads((FOLDER / request.param / "case.json").read_text())
    data["image"] = FOLDER / request.param / "image.png"
    data["arrays"] = dict(np.load(FOLDER / request.param / "arrays.npz"))
    return data


def close(ours, theirs, tolerance):
    ours = np.asarray(ours.detach())
    assert ours.shape == theirs.shape
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=tolerance)


def test_every_intermediate_array(rexseek, case):
    arrays, model, processor = case["arrays"], rexseek.model, rexseek.processor
    image = open_image(case["image"])
    large, small = processor.pixels(image)
    close(small[:, ::7, ::7], arrays["pixel_values_336_sub"], 1e-5)
    close(processor.boxes(case["boxes_xyxy"], image.size, reproduce=False), arrays["boxes_768_f32"], 1e-3)
    boxes = processor.boxes(case["boxes_xyxy"], image.size)
    np.testing.assert_array_equal(boxes.numpy(), arrays["boxes_768_f16"].astype(np.float32))
    before = boxes.clone()

    ids = torch.tensor(processor.token_ids(len(boxes), case["question"]))
    assert ids.tolist() == case["input_ids"] == arrays["input_ids"].tolist()
    assert processor.prompt(len(boxes), case["question"]) == case["prompt_text"]

    close(model.vision_tower(small[None])[0, ::4], arrays["clip_features"], 1e-4)
    tokens, features = model.encode_image(large[None], small[None])
    close(tokens[0, ::4], arrays["image_features"], 1e-4)
    for level, step in enumerate((24, 12, 6, 3)):
        close(features[level][0, :, ::step, ::step], arrays[f"aux_stage{level}_sub"], 1e-4)
    close(roi_features(features, [boxes], 768), arrays["roi_features"], 1e-4)
    close(sine_embedding(boxes, 768, model.config.object_width), arrays["pos_embedding"], 1e-5)
    objects = model.encode_boxes(features, [boxes])
    close(objects, arrays["object_features"], 1e-4)
    close(model.splice(ids, tokens[0], objects)[-60:], arrays["inputs_embeds_tail"], 1e-4)
    logits = model(ids[None], large[None], small[None], [boxes])[0]
    assert len(logits) == case["sequence_length_after_splice"]
    close(logits[-60:], arrays["logits_tail"], 5e-4)
    assert torch.equal(boxes, before), "encoding must not change the caller's boxes"


def test_unrounded_boxes_differ_and_agree_with_the_reference_run_without_rounding(rexseek, case):
    image = open_image(case["image"])
    large, small = rexseek.processor.pixels(image)
    boxes = rexseek.processor.boxes(case["boxes_xyxy"], image.size, reproduce=False)
    _, features = rexseek.model.encode_image(large[None], small[None])
    ours = roi_features(features, [boxes], 768)
    close(ours, case["arrays"]["f32boxes_roi_features"], 1e-4)
    assert np.abs(ours.numpy() - case["arrays"]["roi_features"]).max() > 1e-3


def test_pixels_are_bit_identical(rexseek, case):
    import hashlib

    large, _ = rexseek.processor.pixels(open_image(case["image"]))
    assert hashlib.sha256(large.numpy().tobytes()).hexdigest() == case["pixel_values_768"]["sha256_float32"]


def test_generated_ids(rexseek, case):
    ask = (case["image"], case["boxes_xyxy"], case["question"], case["max_new_tokens"])
    assert rexseek.generate_ids(*ask) == case["generated_ids"]
    assert rexseek.processor.decode(case["generated_ids"]) == case["generated_text"]
    cut = case["eos_cut"]
    assert rexseek.generate_ids(*ask, eos_token_id=cut["eos_token_id"]) == cut["generated_ids"]
    for penalty, ids in case["generated_ids_repetition_penalty"].items():
        assert rexseek.generate_ids(*ask, repetition_penalty=float(penalty)) == ids


def test_generation_config_is_honoured_unless_overridden(rexseek, case):
    ask = (case["image"], case["boxes_xyxy"], case["question"], case["max_new_tokens"])
    cut = case["eos_cut"]
    configured = RexSeek(
        rexseek.model,
        rexseek.processor,
        {"eos_token_id": [1, cut["eos_token_id"]], "repetition_penalty": 1.3, "do_sample": True},
    )
    assert configured.eos_ids == (1, cut["eos_token_id"])
    assert configured.generate_ids(*ask, repetition_penalty=1.0) == cut["generated_ids"]
    expected = case["generated_ids_repetition_penalty"]["1.3"]
    assert configured.generate_ids(*ask, eos_token_id=()) == expected


def test_box_encoder_at_the_real_widths():
    data = np.load(FOLDER / "box_encoder_fullsize.npz")
    offset = 0.01 * int(data["formula_K0"])
    features = []
    for level, channels in enumerate((192, 384, 768, 1536)):
        c = np.arange(channels)[:, None, None]
        y = (np.arange(192 >> level) << level)[None, :, None]
        x = (np.arange(192 >> level) << level)[None, None]
        wave = np.sin(0.05 * c + 0.11 * y + 0.7 * level + offset) * np.cos(0.013 * c - 0.09 * x + 0.3 * level)
        features.append(torch.from_numpy(wave.astype(np.float32))[None])
    boxes = torch.from_numpy(data["boxes"]).float()
    pooled = roi_features(features, [boxes], 768)
    close(pooled, data["roi_features"], 1e-4)
    close(pooled + sine_embedding(boxes, 768, 2880), data["output"], 1e-4)


@pytest.mark.parametrize("most_values", [2**27, 2000], ids=["at once", "in groups"])
def test_pooling_by_products_equals_resizing_and_roi_align(monkeypatch, most_values):
    monkeypatch.setattr(boxes_module, "_MOST_VALUES", most_values)
    generator = torch.Generator().manual_seed(0)
    features = [torch.randn(3, c, 16 >> i, 16 >> i, generator=generator) for i, c in enumerate((5, 4, 6, 8))]
    boxes = [torch.rand(n, 4, generator=generator) * 90 - 15 for n in (5, 0, 9)]  # also inverted and outside
    boxes[2][:4] = torch.tensor([[0, 0, 64, 64], [-900, -3, 200, 700], [5, 5, 5, 5], [300, 300, 310, 310]])
    resized = [F.interpolate(f, size=16, mode="bilinear", align_corners=False) for f in features]
    expected = [roi_align(f, boxes, 7, 0.25, aligned=False).mean(dim=(2, 3)) for f in resized]
    close(roi_features(features, boxes, 64), torch.cat(expected, dim=1).numpy(), 1e-5)
    assert roi_features(features, [b[:0] for b in boxes], 64).shape == (0, 23)


def test_3b_model_has_exactly_the_public_tensors():
    expected = json.loads((FOLDER / "state_dict_3b.json").read_text())
    with torch.device("meta"):
        model = RexSeekForSelection(RexSeekConfig())
    assert {name: list(tensor.shape) for name, tensor in model.state_dict().items()} == expected


def test_other_sine_function_is_switched_by_the_configuration(rexseek):
    boxes = torch.tensor([[96.0, 192.0, 480.0, 672.0]])
    wired = sine_embedding(boxes, 768, 480)
    other = sine_embedding(boxes, 768, 480, function="xyxy")
    # (cx, cy, w, h) = (0.375, 0.5625, 0.5, 0.625), taken for corners: centre 0.4375, 0.59375, then w, h from it.
    centre, extent = (0.4375, 0.59375), (0.5 - 0.4375, 0.625 - 0.59375)
    box = torch.tensor(
        [
            [
                centre[0] - extent[0] / 2,
                centre[1] - extent[1] / 2,
                centre[0] + extent[0] / 2,
                centre[1] + extent[1] / 2,
            ]
        ]
    )
    torch.testing.assert_close(other, sine_embedding(box * 768, 768, 480), atol=1e-5, rtol=0)
    assert (wired - other).abs().max() > 0.1
    switched = RexSeek.from_pretrained(FOLDER, device="cpu", sine_function="xyxy")
    assert switched.config.sine_function == "xyxy" and rexseek.config.sine_function == "cxcywh"

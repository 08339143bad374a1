"""Every stage of ReLA against reference vectors of the public implementation."""

import gzip
import importlib.util
import json
import sys
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from fiftyone_rexseek.models.rela.losses import ReLATargets, conference_loss, minimap_target
from fiftyone_rexseek.models.rela.outputs import foreground, mask_probabilities, resize_probabilities
from fiftyone_rexseek.models.rela.processing import resize_image

_spec = importlib.util.spec_from_file_location("rela_reference", Path(__file__).with_name("rela_reference.py"))
reference = sys.modules.setdefault("rela_reference", importlib.util.module_from_spec(_spec))
_spec.loader.exec_module(reference)

#: Absolute tolerances by the beginning of the name, first match wins.
TOLERANCES = (
    ("image_normalized", 1e-5),
    ("lang_feat", 1e-5),
    ("backbone.layers.0", 1e-4),
    ("backbone.res2", 1e-4),
    ("backbone.res3", 5e-4),
    ("backbone.res4", 5e-4),
    ("backbone.res5", 2e-3),
    ("pixel_decoder", 1e-3),
    ("out.pred_logits", 2e-3),
    ("out.nt_label", 2e-3),
    ("decoder", 2e-3),
    ("out.all_masks", 3e-2),
)


def run(backbone, case):
    golden = reference.arrays(f"{backbone}_case_{case}")
    inputs = golden if "in.lang_tokens" in golden else reference.arrays(f"{backbone}_case_square")
    changed = {k.removeprefix("override."): v for k, v in golden.items() if k.startswith("override.")}
    net = reference.network(backbone, changed)
    images = []
    for i in range(len(inputs["in.lang_tokens"])):
        if f"in.image.{i}" in inputs:
            images.append(inputs[f"in.image.{i}"])
        else:
            original = inputs[f"in.orig_image.{i}"].permute(1, 2, 0).numpy()
            from PIL import Image

            images.append(resize_image(Image.fromarray(original), 480))
    stages = {}
    with torch.no_grad():
        output = net(images, inputs["in.lang_tokens"], inputs["in.lang_mask"], stages=stages)
    return golden, stages, output, images


@pytest.mark.parametrize("backbone, case", reference.cases())
def test_every_stage(backbone, case):
    golden, stages, output, images = run(backbone, case)
    compared = 0
    for name, expected in golden.items():
        if name.startswith(("in.", "post.", "override.")):
            continue
        found = stages[name]
        assert found.shape == expected.shape, name
        compared += 1
        if "attn_mask" in name:
            # a logit near zero may flip; hardly any does
            assert (found.bool() != expected.bool()).float().mean() < 1e-3, name
        elif name == "out.pred_masks":
            tolerance = max(3e-2, 3e-3 * float(expected.abs().max()))
            assert (found - expected).abs().max() <= tolerance, name
        else:
            tolerance = next(t for start, t in TOLERANCES if name.startswith(start))
            assert (found - expected).abs().max() <= tolerance, name
    assert compared >= 2
    padded = (max(i.shape[1] for i in images), max(i.shape[2] for i in images))
    padded = tuple(v + -v % 32 for v in padded)
    for i in range(len(images)):
        if f"post.nt_prob.{i}" in golden:
            assert torch.allclose(output.no_target_logits[i].sigmoid(), golden[f"post.nt_prob.{i}"], atol=1e-3)
        if f"post.mask_argmax.{i}" not in golden:
            continue
        probabilities = mask_probabilities(output.mask_logits[i], padded)
        expected = golden[f"post.mask_argmax.{i}"].bool()
        differs = foreground(probabilities) != expected
        assert differs.float().mean() <= 1e-3
        if case == "full480":
            # identical, but for pixels that the order of additions decides (it changes with the number of threads)
            margin = (probabilities[1] - probabilities[0]).abs()
            assert not differs.any() or margin[differs].max() < 1e-5
        if f"post.ref_seg.{i}" in golden:
            assert (probabilities - golden[f"post.ref_seg.{i}"]).abs().max() < 0.05
        if f"post.mask_argmax_orig.{i}" in golden:
            expected = golden[f"post.mask_argmax_orig.{i}"].bool()
            mine = foreground(resize_probabilities(probabilities, tuple(expected.shape)))
            assert (mine == expected).float().mean() >= 0.999


@pytest.mark.parametrize("backbone", reference.backbones())
def test_losses_and_gradients(backbone):
    if reference.FOLDER != reference.OWN and not (reference.FOLDER / f"{backbone}_loss.safetensors").exists():
        pytest.skip("no loss file in this set")
    golden, inputs = reference.arrays(f"{backbone}_loss"), reference.arrays(f"{backbone}_case_square")
    net = reference.network(backbone)
    images = [inputs[f"in.image.{i}"] for i in range(len(inputs["in.lang_tokens"]))]
    output = net(images, inputs["in.lang_tokens"], inputs["in.lang_mask"])
    masks = golden["in.gt_mask_merged"]
    assert torch.equal(minimap_target(masks, 10), golden["target.minimap"])
    losses = conference_loss(output, ReLATargets(masks, ((),) * len(masks), 1 - golden["in.empty"]))
    for mine, theirs in (("mask", "ce_mask"), ("minimap", "ce_minimap"), ("no_target", "ce_nt"), ("total", "total_weighted")):
        assert losses[mine].item() == pytest.approx(golden[f"loss.{theirs}"].item(), rel=1e-4), mine
    losses["total"].backward()
    parameters = dict(net.named_parameters())
    names = [k.removeprefix("grad.") for k in golden if k.startswith("grad.")]
    assert names
    for name in names:
        mine, expected = parameters[name].grad.flatten(), golden[f"grad.{name}"].flatten()
        assert F.cosine_similarity(mine, expected, dim=0) > 0.9999, name
        assert mine.norm() == pytest.approx(expected.norm().item(), rel=1e-2), name


def test_names_and_shapes_of_the_public_state_dicts():
    from fiftyone_rexseek.models.rela import ReLAConfig, ReLANetwork

    expected = json.loads(gzip.decompress((reference.OWN / "state_dicts.json.gz").read_bytes()))
    assert set(expected) == {"swin-base", "swin-tiny", "r50"}
    for variant, tensors in expected.items():
        with torch.device("meta"):
            net = ReLANetwork(ReLAConfig.from_variant(variant))
        own = net.state_dict()
        assert set(own) == set(tensors), variant
        parameters = {name for name, _ in net.named_parameters()}
        for name, (shape, dtype, kind) in tensors.items():
            assert list(own[name].shape) == shape and str(own[name].dtype) == f"torch.{dtype}", name
            assert (name in parameters) == (kind == "parameter"), name


def test_r50_backbone_is_torchvisions():
    """Same arithmetic as torchvision's ResNet-50 (stride in the 3x3) with fixed batch statistics."""
    from torchvision.models import resnet50

    from fiftyone_rexseek.models.rela import ReLAConfig
    from fiftyone_rexseek.models.rela.resnet import ResNet50

    torch.manual_seed(0)
    theirs = resnet50().eval()
    for module in theirs.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(std=0.1)
            module.running_var.uniform_(0.5, 1.5)
    names = {"conv1": "stem.conv1", "bn1": "stem.conv1.norm"}
    for stage in range(1, 5):
        for block in range((3, 4, 6, 3)[stage - 1]):
            old, new = f"layer{stage}.{block}.", f"res{stage + 1}.{block}."
            for i in (1, 2, 3):
                names |= {f"{old}conv{i}": f"{new}conv{i}", f"{old}bn{i}": f"{new}conv{i}.norm"}
            names |= {f"{old}downsample.0": f"{new}shortcut", f"{old}downsample.1": f"{new}shortcut.norm"}
    state = {}
    for key, value in theirs.state_dict().items():
        module, _, leaf = key.rpartition(".")
        if module in names and leaf != "num_batches_tracked":
            state[f"{names[module]}.{leaf}"] = value
    mine = ResNet50(ReLAConfig.from_variant("r50")).eval()
    mine.load_state_dict(state)
    images = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        x = theirs.maxpool(theirs.relu(theirs.bn1(theirs.conv1(images))))
        for i, found in enumerate(mine(images)):
            x = getattr(theirs, f"layer{i + 1}")(x)
            assert torch.allclose(found, x, atol=1e-4), i

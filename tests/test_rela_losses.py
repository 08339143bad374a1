"""Losses of the journal form, matching, and that training goes downhill."""

import pytest
import torch

from fiftyone_rexseek.models.rela import ReLAConfig, ReLANetwork
from fiftyone_rexseek.models.rela.losses import (
    LossWeights,
    ReLATargets,
    conference_loss,
    count_loss,
    coverage_target,
    journal_loss,
    match_boxes,
    minimap_target,
    paired_giou,
    to_xyxy,
)

CONFIG = ReLAConfig.from_variant(
    "tiny", image_size=64, text_layers=1, swin_depths=(1, 1, 1, 1), decoder_layers=2, swin_windows=(4, 4, 2, 2)
)


def batch():
    torch.manual_seed(0)
    images = torch.randint(0, 255, (3, 3, 64, 64))
    ids = torch.randint(5, 100, (3, 20))
    masks = torch.zeros(3, 64, 64, dtype=torch.bool)
    masks[0, 10:40, 10:30] = True
    masks[1, 5:60, 5:60] = True
    boxes = (
        torch.tensor([[0.3, 0.4, 0.3, 0.45]]),
        torch.tensor([[0.3, 0.5, 0.4, 0.8], [0.7, 0.5, 0.4, 0.8]]),
        torch.zeros(0, 4),
    )
    return images, ids, torch.ones_like(ids), ReLATargets(masks, boxes, torch.tensor([1, 2, 0]))


def test_journal_loss_falls():
    torch.manual_seed(0)
    network = ReLANetwork(CONFIG)
    images, ids, mask, targets = batch()
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3)
    totals = []
    for _ in range(12):
        losses = journal_loss(network(images, ids, mask), targets)
        assert set(losses) == {"mask", "minimap", "count", "box_l1", "box_giou", "total"}
        assert all(torch.isfinite(v) for v in losses.values())
        optimizer.zero_grad()
        losses["total"].backward()
        optimizer.step()
        totals.append(float(losses["total"].detach()))
    assert totals[-1] < 0.8 * totals[0]


def test_journal_weights():
    network = ReLANetwork(CONFIG)
    images, ids, mask, targets = batch()
    with torch.no_grad():
        output = network(images, ids, mask)
        losses = journal_loss(output, targets)
        expected = 2 * losses["mask"] + 0.2 * losses["minimap"] + losses["count"]
        expected = expected + 5 * losses["box_l1"] + 2 * losses["box_giou"]
        assert torch.allclose(losses["total"], expected)
        only_mask = journal_loss(output, targets, LossWeights(1, 0, 0, 0, 0))
        assert torch.allclose(only_mask["total"], losses["mask"])
        with pytest.raises(ValueError, match="journal_loss"):
            conference_loss(output, targets)
        # nobody there: no box loss, and no NaN
        nobody = ReLATargets(targets.masks & False, (torch.zeros(0, 4),) * 3, torch.zeros(3, dtype=torch.long))
        losses = journal_loss(output, nobody)
        assert losses["box_l1"] == 0 and losses["box_giou"] == 0 and nobody.empty.tolist() == [1, 1, 1]


def test_six_or_more_targets_are_one_class():
    logits = torch.randn(2, 7)
    many = count_loss(logits, torch.tensor([6, 40]))
    assert torch.allclose(many, torch.nn.functional.cross_entropy(logits, torch.tensor([6, 6])))


def test_matching_prefers_near_and_confident_regions():
    predicted = torch.tensor([[[0.2, 0.2, 0.2, 0.2], [0.8, 0.8, 0.2, 0.2], [0.8, 0.8, 0.2, 0.2]]])
    minimap = torch.tensor([[[0.0, 0.0], [0.0, 0.0], [0.0, 5.0]]])
    wanted = (torch.tensor([[0.8, 0.8, 0.2, 0.2], [0.25, 0.2, 0.2, 0.2]]),)
    [(regions, targets)] = match_boxes(predicted, minimap, wanted)
    assert dict(zip(regions.tolist(), targets.tolist())) == {0: 1, 2: 0}
    [(regions, targets)] = match_boxes(predicted, minimap, (torch.zeros(0, 4),))
    assert len(regions) == len(targets) == 0
    # more targets than regions: every region has one
    [(regions, targets)] = match_boxes(predicted, minimap, (torch.rand(5, 4),))
    assert len(set(targets.tolist())) == 3
    match_boxes(predicted * float("nan"), minimap, wanted)


def test_giou():
    from torchvision.ops import generalized_box_iou

    a, b = torch.rand(20, 4), torch.rand(20, 4)
    mine = paired_giou(to_xyxy(a)[:, None], to_xyxy(b)[None])
    assert torch.allclose(mine, generalized_box_iou(to_xyxy(a), to_xyxy(b)), atol=1e-5)
    assert torch.isfinite(paired_giou(torch.zeros(4), torch.zeros(4)))


def test_minimap_targets():
    masks = torch.zeros(1, 480, 480)
    masks[0, 23:25, 23:25] = 1  # the four pixels around the centre of the first cell
    assert minimap_target(masks, 10)[0].tolist() == [1] + [0] * 99
    masks[0, 23, 23] = 0
    assert minimap_target(masks, 10).sum() == 0
    soft = coverage_target(masks, 10)
    assert 0 < soft[0, 0] < 1 and soft[0, 1:].sum() == 0

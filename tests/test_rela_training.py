"""Training of ReLA: a few steps, from nothing and from a checkpoint; never minutes."""

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from fiftyone_rexseek import masks as rle
from fiftyone_rexseek.datasets.scenes import generate_scene, write_grefcoco
from fiftyone_rexseek.errors import ConfigError, DataError, ProblemLog
from fiftyone_rexseek.models.rela import ReLA
from fiftyone_rexseek.referring import ReferringExample, Target
from fiftyone_rexseek.training.data import in_file_pixels
from fiftyone_rexseek.training.rela import (
    ExampleBatches,
    ReLAFineTuning,
    as_scored,
    choose_parts,
    finetune_rela,
    scorable,
    score_pairs,
    target_mask,
    usable,
)
from fiftyone_rexseek.training.rela_scenes import ATTRIBUTES, averaged_masks, scene_batch
from fiftyone_rexseek.training.rela_scratch import cells_of
from fiftyone_rexseek.training.rela_tiny import (
    TinyRecipe,
    boxes_all_right,
    build_tiny,
    choose_threshold,
    train_rela_tiny,
    train_tiny,
)

SMALL = dict(image_size=64, swin_depths=(1, 1, 1, 1), swin_windows=(4, 4, 4, 2), decoder_layers=2, text_layers=1)
RECIPE = TinyRecipe(
    pretrain_minutes=None, joint_minutes=None, pretrain_steps=2, joint_steps=4, scenes=2, expressions=2,
    pretrain_scenes=2, validation_scenes=4, validate_every=2, bf16=False,
)  # fmt: skip


def test_from_nothing_to_a_folder(tmp_path):
    folder = train_rela_tiny(tmp_path, RECIPE, **SMALL)
    rela = ReLA.from_pretrained(folder)
    assert rela.config.image_size == 64 and rela.config.box_head and rela.config.count_head
    assert 0.2 <= rela.config.no_target_threshold <= 0.6
    scene = generate_scene(3, 0, size=(160, 128))
    selections = rela.segment(scene.render(), ["the person in a red shirt", "everyone"])
    assert all(s.outcome.is_answer for s in selections)
    assert (tmp_path / "joint" / "log.png").exists()


def test_resumed_training_gives_the_same_weights(tmp_path):
    from fiftyone_rexseek.training import rela_tiny

    network, _, _ = train_tiny(tmp_path / "a", RECIPE, **SMALL)
    original = rela_tiny.train

    def killed(*args, **kwargs):
        if args[4].out_dir.name == "joint":
            original(*args, stop_after=None, **kwargs) if (args[4].out_dir / "checkpoint.pt").exists() else original(
                *args, stop_after=3, **kwargs
            )
            raise KeyboardInterrupt
        return original(*args, **kwargs)

    rela_tiny.train = killed
    try:
        with pytest.raises(KeyboardInterrupt):
            train_tiny(tmp_path / "b", RECIPE, **SMALL)
    finally:
        rela_tiny.train = original
    again, _, result = train_tiny(tmp_path / "b", RECIPE, **SMALL)
    assert result.step == 4
    for name, value in network.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name


def test_scene_batches_are_what_the_scenes_say():
    _, tokenizer = build_tiny(0, **SMALL)
    batch = scene_batch(5, 3, scenes=3, expressions=2, image_size=64, tokenizer=tokenizer)
    again = scene_batch(5, 3, scenes=3, expressions=2, image_size=64, tokenizer=tokenizer)
    assert torch.equal(batch.images, again.images) and torch.equal(batch.token_ids, again.token_ids)
    assert batch.images.shape == (3, 3, 64, 64) and batch.image_index.tolist() == [0, 0, 1, 1, 2, 2]
    assert batch.targets.masks.shape == (6, 80, 80) and batch.targets.counts.tolist() == [len(b) for b in batch.targets.boxes_cxcywh]
    for i, boxes in zip(batch.image_index.tolist(), batch.targets.boxes_cxcywh):
        assert all((batch.person_boxes[i] == box).all(dim=1).any() for box in boxes)
    for table in batch.attributes:
        assert ((table >= 0) & (table < torch.tensor(list(ATTRIBUTES.values())))).all()
    cells = cells_of(batch, 10)
    assert cells.person.shape == (3, 100) and (cells.person >= 0).any(dim=1).all()
    scene = generate_scene(1, 0, size=(320, 240))
    share = averaged_masks(scene, 80).sum(axis=(1, 2)) * 12
    assert np.allclose(share, scene.instance_masks().sum(axis=(1, 2)))
    with pytest.raises(ValueError, match="divide"):
        averaged_masks(generate_scene(1, 0, size=(321, 240)), 80)


def test_threshold_keeps_what_has_targets():
    model, tokenizer = build_tiny(0, **SMALL)
    batch = scene_batch(5, 3, scenes=4, expressions=8, image_size=64, tokenizer=tokenizer)
    wanted = batch.targets.counts > 0
    # what the head says: of 31 or fewer expressions with targets one may be lost, not two
    empty = torch.linspace(0.01, 0.3, len(wanted))
    empty[wanted.nonzero()[-1]] = 0.9

    class Network(torch.nn.Module):
        def forward(self, *args, **options):
            rest = ((1 - empty) / 6)[:, None].expand(-1, 6)
            return SimpleNamespace(count_logits=torch.cat([empty[:, None], rest], dim=1).log())

    model.network = Network()
    threshold = choose_threshold(model, [batch])
    assert (empty[wanted] >= threshold).sum() <= 1
    assert threshold <= 0.6


def test_exact_sets_of_boxes():
    a = np.array([[0, 0, 1, 1], [2, 2, 3, 3.0]])
    assert boxes_all_right(a, a[::-1]) and boxes_all_right(a[:0], a[:0])
    assert not boxes_all_right(a, a[:1]) and not boxes_all_right(a[[0, 0]], a)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiny")
    model, tokenizer = build_tiny(0, **SMALL)
    ReLA(model.network, tokenizer).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    """Scenes with masks, as a reader of a benchmark gives them."""
    from PIL import Image

    folder, result = tmp_path_factory.mktemp("images"), []
    for i in range(6):
        scene = generate_scene(8, i, size=(160, 128), num_people=3)
        Image.fromarray(scene.render()).save(folder / f"{i}.png")
        masks = scene.instance_masks()
        for q in scene.questions(count=3):
            targets = tuple(
                Target(tuple(scene.boxes_xyxy[a].tolist()), rle.encode(masks[a])) for a in q.answers
            )
            example = ReferringExample(i, len(result), q.expression, f"{i}.png", targets, width=160, height=128)
            result.append((example, str(folder / f"{i}.png")))
    return result


def test_fine_tuning(tiny, pairs, tmp_path):
    options = ReLAFineTuning(steps=16, batch=4, lr=3e-3, clip=1.0, validate_every=8, progress=False, validation_share=0.2)
    result = finetune_rela(tiny, pairs, tmp_path, options)
    losses = [row["loss"] for row in result.history if "loss" in row]
    first = ReLA.from_pretrained(tiny)
    trained = ReLA.from_pretrained(tmp_path / "model")
    assert result.step == 16 and result.best_score is not None and losses
    changed = [k for k, v in trained.network.state_dict().items() if not torch.equal(v, first.network.state_dict()[k])]
    assert any("predictor" in k for k in changed) and not any("word_embeddings" in k for k in changed)
    before, after = (loss_of(model, pairs) for model in (first, trained))
    assert after < before


def loss_of(rela, pairs):
    from fiftyone_rexseek.training.rela import batch_loss

    rela.network.eval()
    with torch.no_grad():
        return float(batch_loss(rela.network, ExampleBatches(pairs, rela, 12)(0), 0.0)[0])


def test_parts_and_problems(tiny, pairs, tmp_path):
    rela = ReLA.from_pretrained(tiny)
    everything = sum(p.numel() for p in rela.network.parameters())
    assert 0 < choose_parts(rela.network, ["decoder"]) < everything
    assert not any(p.requires_grad for p in rela.network.backbone.parameters())
    for parts in ([], ["eyes"]):
        with pytest.raises(ConfigError):
            choose_parts(rela.network, parts)
    log = ProblemLog()
    broken = (ReferringExample(99, 99, "a", "x.png"), str(tmp_path / "missing.png"))
    batch = ExampleBatches([broken, *pairs[:2]], rela, 4, log=log)(0)
    assert len(batch.images) == 4 and log.counts["bad-image"] == 1
    crowd = ReferringExample(1, 1, "a", "x", (Target((0, 0, 8, 8), iscrowd=True), Target((0, 0, 4, 8))))
    mask, boxes = target_mask(crowd, (8, 8), 8, log)
    assert mask.sum() == 32 and boxes.tolist() == [[0.25, 0.5, 0.5, 1.0]] and log.counts["no-mask"] == 1


def test_scores_of_examples(tiny, pairs):
    rela = ReLA.from_pretrained(tiny)
    numbers = score_pairs(rela, pairs[:4])
    assert set(numbers) == {"gIoU", "cIoU", "N_acc", "T_acc", "score"} and 0 <= numbers["score"] <= 1


def drawn_by_hand(pair):
    """Boxes without masks, as somebody draws them in an annotation tool."""
    example, path = pair
    return replace(example, targets=tuple(replace(t, segmentation=None) for t in example.targets)), path


def test_boxes_without_masks_are_validated_as_they_are_trained_on(tiny, pairs, tmp_path):
    targeted = [drawn_by_hand(pair) for pair in pairs if pair[0].targets]
    rela, log = ReLA.from_pretrained(tiny), ProblemLog()
    example = targeted[0][0]
    mask, _ = target_mask(example, (160, 128), 64, log)
    filled = as_scored(example, (160, 128), log)
    again, _ = target_mask(filled, (160, 128), 64, log)
    assert torch.equal(mask, again) and mask.any()
    for box in ((3.2, 4.7, 90.1, 128), (0, 0, 0.4, 0.4), (150, 100, 160, 140)):
        [target] = as_scored(replace(example, targets=(Target(box),)), (160, 128), log).targets
        x0, y0, x1, y1 = rle.pixel_window(box, 128, 160)
        expected = np.zeros((128, 160), bool)
        expected[y0:y1, x0:x1] = True
        assert (rle.decode(rle.compress(target.segmentation, 128, 160)) == expected).all()
    assert np.isfinite(score_pairs(rela, targeted[:3])["score"])
    log = ProblemLog()
    options = ReLAFineTuning(steps=1, batch=2, progress=False)
    assert 0 <= finetune_rela(tiny, pairs, tmp_path, options, validation=targeted[:2], log=log).best_score <= 1
    assert log.counts["no-mask"] == sum(len(e.targets) for e, _ in targeted[:2])


def test_targets_that_cannot_be_scored_are_reported(pairs):
    example, path = next(pair for pair in pairs if pair[0].targets)
    broken = replace(example, targets=(Target((0, 0, 9, 9), {"size": [7, 7], "counts": "1"}),))
    nowhere = replace(example, targets=(Target((5, 5, 5, 9)),))
    log = ProblemLog()
    assert [e.expression_id for e, _ in scorable([(broken, path), (nowhere, path), (example, path)], log)] == [example.expression_id]
    assert log.counts == {"bad-example": 2}


def test_crowds_count_where_nothing_else_is_meant(tiny, pairs):
    crowd = Target((0, 0, 8, 8), iscrowd=True)
    example = ReferringExample(1, 1, "everyone", "x", (crowd,))
    mask, boxes = target_mask(example, (8, 8), 8, ProblemLog())
    assert mask.all() and len(boxes) == 1
    batch = ExampleBatches([(example, pairs[0][1])], ReLA.from_pretrained(tiny), 1)(0)
    assert batch.targets.counts.tolist() == [1]


def test_smaller_copies_of_the_images_give_the_same_batch(tiny, pairs, tmp_path):
    from PIL import Image

    chosen = [pair for pair in pairs if pair[0].targets][:4]
    larger = []
    for example, path in chosen:  # annotated at twice the size of the files
        targets = tuple(
            Target(tuple(2 * v for v in t.box_xyxy), rle.encode(np.kron(rle.decode(t.segmentation), np.ones((2, 2)))))
            for t in example.targets
        )
        larger.append((replace(example, targets=targets, width=320, height=256), path))
    log, rela = ProblemLog(), ReLA.from_pretrained(tiny)
    fitted = list(in_file_pixels(larger, log))
    wanted, found = (ExampleBatches(p, rela, 4, log=log)(0).targets for p in (chosen, fitted))
    assert torch.equal(wanted.masks, found.masks) and not log.counts
    for a, b in zip(wanted.boxes_cxcywh, found.boxes_cxcywh):
        torch.testing.assert_close(a, b)
    result = finetune_rela(tiny, larger, tmp_path / "out", ReLAFineTuning(steps=1, batch=2, progress=False), validation=larger[:2])
    assert result.best_score is not None
    polygon = replace(larger[0][0], targets=(Target((0, 0, 32, 64), [[0, 0, 32, 0, 32, 64, 0, 64]]),))
    [(example, _)] = in_file_pixels([(polygon, larger[0][1])], log)
    assert rle.area(example.targets[0].segmentation) == 16 * 32 and example.targets[0].box_xyxy == (0, 0, 16, 32)
    cropped = [(replace(larger[0][0], width=320, height=320), larger[0][1])]
    assert not list(in_file_pixels(cropped, log)) and log.counts == {"image-size": 1}
    turned = Image.open(larger[0][1])
    exif = turned.getexif()
    exif[0x0112] = 6
    turned.save(tmp_path / "turned.png", exif=exif)
    upright = (replace(chosen[0][0], width=128, height=160), str(tmp_path / "turned.png"))
    assert list(in_file_pixels([upright], log)) == [upright]


def test_command(tiny, tmp_path):
    from fiftyone_rexseek.cli import cli

    data = tmp_path / "data"
    write_grefcoco(data, seed=4, count=12, size=(160, 128), refs_per_scene=2, num_people=3)
    args = ["train", "rela", "--data", data / "grefcoco" / "grefs(unc).json", "--format", "grefcoco"]
    args += ["--images", data / "images" / "train2014", "--weights", tiny, "--out", tmp_path / "out", "--steps", 2, "--batch", 2]
    result = CliRunner().invoke(cli, [str(a) for a in args])
    assert result.exit_code == 0, result.output
    line = json.loads(result.stdout.splitlines()[-1])
    assert line["steps"] == 2 and ReLA.from_pretrained(line["model"]).config.variant == "tiny"


def test_what_is_wrong_with_an_example_is_said_once(tiny, tmp_path):
    from PIL import Image

    Image.fromarray(np.zeros((40, 60, 3), np.uint8)).save(tmp_path / "good.png")
    (tmp_path / "broken.png").write_bytes(b"no image")
    example = ReferringExample(1, 1, "everyone", "x.png", targets=(Target((0, 0, 20, 20)),), width=60, height=40)
    empty = replace(example, expression=" ")
    log = ProblemLog()
    files = [(example, "good.png"), (example, "broken.png"), (replace(example, expression="the dog"), "broken.png"), (empty, "good.png"), (example, "gone.png"), (example, "gone.png")]
    pairs = usable([(e, str(tmp_path / name)) for e, name in files], log)
    assert len(pairs) == 3 and log.counts == {"empty-expression": 1, "bad-image": 1}
    batches = ExampleBatches(pairs, ReLA.from_pretrained(tiny), 2, log=log)
    for number in range(6):
        assert len(batches(number).images) == 2
    assert log.counts["bad-image"] == 2 and log.counts["no-mask"] == 1
    with pytest.raises(DataError, match="nothing to validate on"):
        finetune_rela(tiny, pairs, tmp_path / "out", validation=[(empty, str(tmp_path / "good.png"))])
    gone = [(example, str(tmp_path / "broken.png"))]
    with pytest.raises(DataError, match=r"nothing to validate on.*bad-image"):
        finetune_rela(tiny, pairs, tmp_path / "out", validation=gone)
    for wrong in ({"lr": -1}, {"clip": -1}, {"weight_decay": float("nan")}, {"batch": 0}, {"lora": 3}):
        with pytest.raises(ConfigError, match="bad "):
            ReLAFineTuning(**wrong)

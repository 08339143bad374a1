"""RexSeek training: packing gives separate sequences' logits, answers are in the grammar, a few steps learn."""

import random
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from fiftyone_rexseek.models.rexseek import RexSeekForSelection, parse_answer
from fiftyone_rexseek.models.rexseek.answers import PARSERS, evaluation_predictions
from fiftyone_rexseek.training.drawn import ATTRIBUTES, DrawnScenes, build_scenes
from fiftyone_rexseek.training.loop import LoopConfig, train
from fiftyone_rexseek.training.optim import build_optimizers
from fiftyone_rexseek.training.packing import (
    IGNORED,
    OBJECTS,
    AskedImage,
    collate,
    embed_prefixes,
    masked_hidden,
    prefix_ids,
    question_ids,
    split_hidden,
    suffix_of,
)
from fiftyone_rexseek.training.rexseek import FROM_SCRATCH, RexSeekObjective
from fiftyone_rexseek.training.streams import SceneStream
from fiftyone_rexseek.training.tiny import call

sys.path.insert(0, str(Path(__file__).parent))
from tiny_trainee import trainee


@pytest.fixture(scope="module")
def small():
    """A smaller sister of rexseek-tiny: (model, processor)."""
    rexseek = trainee()
    return rexseek.model, rexseek.processor


def asked_images(processor):
    generator = torch.Generator().manual_seed(1)
    config = processor.config
    end = processor.tokenizer.eos_token_id
    images = []
    for boxes, asked in (
        (4, {"the person in a red shirt": (2, 0), "Nova": (), "everyone": (0, 1, 2, 3)}),
        (7, {"the neighbour of the person holding a ball": (6,), "zebras": (1,)}),
    ):
        corner = torch.rand(boxes, 2, generator=generator) * 60
        suffixes = [
            suffix_of(processor, question_ids(processor, [text])[0], processor.encode(text), targets, end)
            for text, targets in asked.items()
        ]
        pixels = (
            torch.randn(3, config.image_size, config.image_size, generator=generator),
            torch.randn(3, config.clip_image_size, config.clip_image_size, generator=generator),
        )
        images.append(AskedImage(pixels, torch.cat([corner, corner + 20], 1), suffixes))
    return images


def test_packed_logits_are_those_of_separate_sequences(small):
    model, processor = small
    model.eval()
    images = asked_images(processor)
    batch = collate(processor, images, at_least=(4, 9, 30))
    with torch.no_grad():
        image_tokens, features = model.encode_image(batch.pixels, batch.pixels_small)
        rows = model.encode_boxes(features, batch.boxes).split([len(b) for b in batch.boxes])
        prefix, lengths = embed_prefixes(model, batch, image_tokens, rows)
        suffix = model.model.embed_tokens(batch.ids)
        masked = masked_hidden(model.model, prefix, lengths, suffix, layers=(1, 2))
        split = split_hidden(model.model, prefix, lengths, suffix, layers=(1, 2))
        for b, image in enumerate(images):
            head = prefix_ids(processor, len(image.boxes))
            for k, one in enumerate(image.suffixes):
                logits = model(
                    torch.tensor([head + one.ids]), image.pixels[0][None], image.pixels[1][None], [image.boxes]
                )
                expected = logits[0, -len(one.ids) :]
                for packed in (masked, split):
                    torch.testing.assert_close(
                        model.logits(packed.suffix[b, k, : len(one.ids)]), expected, atol=2e-5, rtol=2e-4
                    )
    real = [int(n) for n in lengths]
    for layer in (1, 2):
        for b, n in enumerate(real):
            torch.testing.assert_close(
                masked.layers[layer][0][b, :n], split.layers[layer][0][b, :n], atol=2e-5, rtol=2e-4
            )


def test_object_positions_point_at_the_boxes(small):
    model, processor = small
    batch = collate(processor, asked_images(processor))
    with torch.no_grad():
        image_tokens, features = model.encode_image(batch.pixels, batch.pixels_small)
        rows = model.encode_boxes(features, batch.boxes).split([len(b) for b in batch.boxes])
        prefix, _ = embed_prefixes(model, batch, image_tokens, rows)
    for b, row in enumerate(rows):
        assert torch.equal(prefix[b, batch.object_positions[b, : len(row)]], row)


def test_suffix_is_the_models_own_prompt_and_a_readable_answer(small):
    _, processor = small
    text = "the person in a red shirt"
    question = question_ids(processor, [text])[0]
    end = processor.tokenizer.eos_token_id
    one = suffix_of(processor, question, processor.encode(text), (5, 3), end)
    assert prefix_ids(processor, 6) + one.ids[: one.question_length] == processor.token_ids_of_expressions(6, [text])[0]
    answer = [label for label in one.labels if label != IGNORED]
    assert answer[-1] == end
    assert processor.decode(answer[:-1]) == f"<ground>{text}</ground><objects><obj3><obj5></objects>"
    assert parse_answer(processor.decode(answer), 6).indices == (3, 5)
    sentence = processor.config.rejection_sentence
    for in_list, written in (
        (True, f"<ground>{text}</ground><objects>{sentence}</objects>"),
        (False, sentence),
    ):
        none = suffix_of(processor, question, processor.encode(text), (), end, reject_in_list=in_list)
        answer = processor.decode([label for label in none.labels if label not in (IGNORED, end)])
        assert answer == written
        for parser in PARSERS.values():
            assert parser(answer, 6).outcome.value == "rejected" or not in_list
        assert evaluation_predictions(answer, [[0, 0, 1, 1]] * 6) == [[]]
        assert none.kinds.count(OBJECTS) == in_list


@pytest.fixture(scope="module")
def scenes(small, tmp_path_factory, module_patch):
    module_patch.setattr("fiftyone_rexseek.training.drawn.SHARD", 6)
    folder = build_scenes(tmp_path_factory.mktemp("scenes"), small[1].config, seed=4, count=6, num_questions=12)
    return DrawnScenes(folder)


@pytest.fixture(scope="module")
def module_patch():
    with pytest.MonkeyPatch.context() as patch:
        yield patch


def test_stream_is_a_function_of_the_number(small, scenes):
    _, processor = small
    stream = SceneStream(scenes, processor, processor.tokenizer.eos_token_id, images=2, questions=4, seed=3)
    a, b = stream(5), SceneStream(scenes, processor, processor.tokenizer.eos_token_id, 2, 4, seed=3)(5)
    assert torch.equal(a.ids, b.ids) and torch.equal(a.pixels, b.pixels) and torch.equal(a.matches, b.matches)
    assert not torch.equal(stream(6).ids, a.ids)


def test_stream_shuffles_candidates_and_keeps_answers_true(small, scenes):
    _, processor = small
    stream = SceneStream(scenes, processor, processor.tokenizer.eos_token_id, images=1, questions=8)
    orders = set()
    for n in range(12):
        rng = random.Random(n)
        boxes, attributes, slot_of = stream.boxes(0, rng, many=True)
        people = int(scenes.get("counts", 0)[0])
        orders.add(tuple(slot_of))
        truth = torch.from_numpy(scenes.get("boxes", 0)[:people].copy())
        # a person's box is in the slot that answers name, whatever the order
        assert (boxes[slot_of] - truth).abs().max() < 0.05 * 96
        assert (attributes[:, 0] == 1).sum() == people
        assert len(boxes) <= 24
    assert len(orders) > 6


def test_a_few_steps_learn_and_resume_gives_the_same_weights(small, scenes, tmp_path):
    _, processor = small
    stream = SceneStream(scenes, processor, processor.tokenizer.eos_token_id, images=2, questions=4, easy_until=4)

    def run(folder, stop_after=None):
        torch.manual_seed(0)
        objective = RexSeekObjective(
            RexSeekForSelection(processor.config),
            replace(FROM_SCRATCH, match_layer=2, pointer_layer=2, identity_layer=1),
            ATTRIBUTES,
        )
        optimizers = build_optimizers(objective.named_parameters(), lr=3e-3, muon_lr=5e-3)
        config = LoopConfig(folder, steps=14, checkpoint_every=5, log_every=1, progress=False, ema=0.9, bf16=True)
        return objective, train(objective, stream, call, optimizers, config, stop_after=stop_after)

    whole, result = run(tmp_path / "whole")
    losses = [row["loss"] for row in result.history]
    assert losses[-1] < 0.95 * losses[0]  # a running mean
    run(tmp_path / "parts", stop_after=8)
    resumed, _ = run(tmp_path / "parts")
    assert all(torch.equal(a, b) for a, b in zip(whole.state_dict().values(), resumed.state_dict().values()))

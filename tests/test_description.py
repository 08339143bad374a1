"""Expressions from images with an overlay: the overlay, the prompt, the answer's grammar, and a tiny random model."""

import json

import numpy as np
import pytest
import tiny_describer
import torch
from PIL import Image

from fiftyone_rexseek import masks
from fiftyone_rexseek.errors import CheckpointError, ConfigError, DataError, DownloadError
from fiftyone_rexseek.models.description import (
    ORANGE,
    Describer,
    DescriptionRequest,
    highlight,
    parse_expressions,
    prompt_for,
)
from fiftyone_rexseek.referring import Outcome


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_describer.save(tmp_path_factory.mktemp("describer"))


@pytest.fixture(scope="module")
def describer(folder):
    return Describer.from_pretrained(folder, device="cpu", max_new_tokens=6, batch_size=2)


@pytest.mark.parametrize(
    "answer, expected",
    [
        ('["the dog"]', ["the dog"]),
        ('["the dog", "a dog"]', ["the dog", "a dog"]),
        ('Here it is:\n```json\n[\n  "the dog"\n]\n```\nDone.', ["the dog"]),
        ('```\n["the dog"]', ["the dog"]),
        ("['the man\\'s dog']", ["the man's dog"]),
        ("[“the dog”]", ["the dog"]),
        ('["the dog on the le', ["the dog on the le"]),
        ('["one", "two', ["one", "two"]),
        ("['the man's dog']", ["the man's dog"]),
        ('[{"expression": "the dog"}]', ["the dog"]),
        ('{"expression": "the dog"}', ["the dog"]),
        ('[["the dog"]]', ["the dog"]),
        ('["the dog"]<|im_end|>', ["the dog"]),
        ('["the dog"] and ["another"]', ["the dog"]),
        ('["the\n dog"]', ["the dog"]),
        ('"the dog"', ["the dog"]),
        ("the dog on the left", ["the dog on the left"]),
        ('["", " ", "the dog"]', ["the dog"]),
        ("[]", []),
        ("", []),
        ("[1, 2]", []),
        ("...", []),
        ('[""]', []),
        ("First line\nSecond line", []),
        ("null", []),
        ('<think>perhaps ["a cat"]?</think>\n["the dog"]', ["the dog"]),
        ('a list: ["a cat"]</think>["the dog"]', ["the dog"]),
        ('<think>perhaps ["a cat"', []),
        ("[" * 3000, []),
        ('["' + "\\" * 99, []),
    ],
)
def test_answers(answer, expected):
    assert parse_expressions(answer) == expected


def test_overlay_covers_masks_else_boxes():
    image = Image.new("RGB", (20, 10), (0, 0, 0))
    mask = np.zeros((10, 20), bool)
    mask[2:4, 5:9] = True
    shown = np.asarray(highlight(image, [[5, 2, 15, 9], [16, 0, 20, 2]], [masks.encode(mask), None], opacity=1))
    covered = (shown == ORANGE).all(axis=2)
    expected = mask.copy()
    expected[0:2, 16:20] = True
    assert (covered == expected).all()
    half = np.asarray(highlight(image, [[0, 0, 4, 4]]))
    assert half[0, 0].tolist() == [128, 82, 0] and half[9, 9].tolist() == [0, 0, 0]
    polygon = highlight(image, segmentations=[[[0, 0, 10, 0, 10, 10, 0, 10]]], opacity=1)
    assert (np.asarray(polygon) == ORANGE).all(axis=2).sum() == 100
    with pytest.raises(DataError, match="no pixel"):
        highlight(image)
    with pytest.raises(DataError, match="do not fit"):
        highlight(image, [[0, 0, 1, 1]], [None, None])


def test_prompt():
    assert "one object is covered" in prompt_for(1) and "at most 30 words" in prompt_for(1)
    assert "4 objects are covered" in prompt_for(4) and "JSON list" in prompt_for(4)


def requests(n):
    rng = np.random.default_rng(0)
    sizes = [(60, 60), (90, 60), (60, 100)]
    images = [rng.integers(0, 255, (*sizes[i % 3], 3), dtype=np.uint8) for i in range(n)]
    return [DescriptionRequest(image, [[5, 5, 30 + i, 40]] * (1 + i), key=i) for i, image in enumerate(images)]


def test_the_model_runs_in_batches(describer):
    results = describer.describe_batch(requests(5))
    assert [r.key for r in results] == list(range(5))
    assert all(r.answer is not None and r.outcome in (Outcome.SELECTED, Outcome.UNPARSED) for r in results)
    alone = [describer.describe_batch([r])[0].answer for r in requests(5)]
    assert [r.answer for r in results] == alone


def test_an_answer_becomes_an_expression(describer, monkeypatch):
    tokenizer = describer.processor.tokenizer
    written = tokenizer('["the red dog", "it"]<|im_end|>', return_tensors="pt")["input_ids"]
    asked = []

    def generate(input_ids, **options):
        asked.append(tokenizer.batch_decode(input_ids))
        return torch.cat([input_ids, written.expand(len(input_ids), -1)], dim=1)

    monkeypatch.setattr(describer.model, "generate", generate)
    results = describer.describe_batch(requests(3))
    assert [r.expression for r in results] == ["the red dog"] * 3
    assert results[0].alternatives == ("it",) and results[0].num_words == 3
    assert [len(batch) for batch in asked] == [2, 1] and "2 objects are covered" in asked[0][1]


def test_a_bad_request_fails_alone(describer, tmp_path, monkeypatch):
    good = requests(1)[0]
    bad = [
        DescriptionRequest(tmp_path / "none.jpg", [[0, 0, 5, 5]]),
        DescriptionRequest(good.image),
        DescriptionRequest(good.image, [[0, 0, 5, 5]], [{"size": [3, 3], "counts": [9]}]),
        DescriptionRequest(good.image, [[0, 0, 5]]),
    ]
    results = describer.describe_batch([*bad, good])
    assert [r.outcome for r in results[:-1]] == [Outcome.FAILED] * 4 and all(r.error for r in results[:-1])
    assert results[-1].outcome is not Outcome.FAILED

    def out_of_memory(**inputs):
        raise RuntimeError("CUDA out of memory")

    monkeypatch.setattr(describer.model, "generate", out_of_memory)
    assert "out of memory" in describer.describe(good.image, good.boxes_xyxy).error


def test_what_cannot_be_loaded(tmp_path, folder):
    with pytest.raises(CheckpointError, match="image-text-to-text"):
        Describer.from_pretrained(tmp_path)
    with pytest.raises(DownloadError):
        Describer.from_pretrained("nobody/nothing-here")
    bare = tmp_path / "bare"
    bare.mkdir()
    for path in folder.iterdir():
        if "template" not in path.name:
            (bare / path.name).write_bytes(path.read_bytes())
    with pytest.raises(CheckpointError, match="chat template"):
        Describer.from_pretrained(bare, device="cpu")
    with pytest.raises(ConfigError):
        Describer(torch.nn.Identity(), None, batch_size=0)


def test_facts_are_json(describer, folder):
    assert json.loads(json.dumps(describer.facts()))["describer"] == str(folder)

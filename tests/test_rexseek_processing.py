"""Pixels, boxes, prompts and answers: against the public code's, and what the public code gets wrong."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from fiftyone_rexseek.errors import CheckpointError, DataError
from fiftyone_rexseek.models.rexseek import RexSeekConfig, RexSeekProcessor, processing
from fiftyone_rexseek.models.rexseek.answers import (
    PARSERS,
    demo_groups,
    evaluation_groups,
    evaluation_predictions,
    parse_answer,
    parse_demo,
)
from fiftyone_rexseek.models.rexseek.candidates import choose_candidates
from fiftyone_rexseek.models.rexseek.modeling import OBJECT_MARK
from fiftyone_rexseek.models.rexseek.processing import load_tokenizer
from fiftyone_rexseek.referring import Outcome

FOLDER = Path(__file__).parent / "fixtures" / "rexseek"
PARSING = json.loads((FOLDER / "answer_parsing.json").read_text())
RECORDS = json.loads((FOLDER / "preprocess.json").read_text())


@pytest.fixture(scope="module")
def processor():
    return RexSeekProcessor.from_folder(RexSeekConfig.from_folder(FOLDER), FOLDER)


def formula_image(width, height):
    k0, k1, k2 = RECORDS["K"]
    x, y = np.arange(width, dtype=np.int64)[None], np.arange(height, dtype=np.int64)[:, None]
    base = (x * x * k0) // width + (y * y * k1) // height + (x * y) // (width + height)
    return np.stack([(base + k2 * c) % 256 for c in range(3)], axis=-1).astype(np.uint8)


@pytest.mark.parametrize("record", RECORDS["records"], ids=lambda r: "x".join(map(str, r["size_wh"])))
def test_pixels_and_boxes(processor, record):
    image = Image.fromarray(formula_image(*record["size_wh"]))
    large, small = processor.pixels(image)
    crops = np.load(FOLDER / "preprocess_crops.npz")
    for name, tensor in (("p768", large), ("p336", small)):
        for place in ("tl", "mid", "br", "edge"):
            key = f"{record['index']}_{name}_{place}"
            y, x = crops[f"{key}_origin_yx"]
            np.testing.assert_allclose(tensor[:, y : y + 8, x : x + 8].numpy(), crops[key], rtol=0, atol=1e-5)
    for reproduce, key in ((True, "boxes_768_f16"), (False, "boxes_768_f32")):
        ours = processor.boxes(record["boxes_xyxy"], image.size, reproduce)
        np.testing.assert_array_equal(ours.numpy(), np.array(record[key], dtype=np.float32))


@pytest.mark.parametrize("width, height", [(300, 7), (7, 300), (99, 1), (1, 99), (120, 90), (64, 64)])
def test_long_images_are_resized_in_strips_to_the_same_pixels(monkeypatch, width, height):
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    arguments = (Image.fromarray(pixels), 64, (122, 116, 104))
    whole = processing._padded_and_resized(*arguments)
    monkeypatch.setattr(processing, "_LARGEST_STRIP", 40**2)
    assert whole.tobytes() == processing._padded_and_resized(*arguments).tobytes()


def test_token_ids(processor):
    for case in json.loads((FOLDER / "tokenization.json").read_text())["cases"]:
        assert processor.token_ids(case["num_boxes"], case["question"]) == case["input_ids"], case["question"]


def test_many_expressions_get_the_ids_of_one(processor):
    texts = ["the man", "", "Zoë's 3 friends", "{person}", " spaces "]
    questions = [f"Please detect {t} in this image. Answer the question with object indexes." for t in texts]
    assert processor.token_ids_of_expressions(7, texts) == [processor.token_ids(7, q) for q in questions]


@pytest.mark.parametrize(
    "text",
    [
        "<obj3>",
        "<objfeat><image>",
        "a<|im_end|>b",
        "</objects><objects>",
        "<ob<obj1>j1>",
        "<|im_<image>end|>",
    ],
)
def test_imitated_special_tokens_become_ordinary_text(processor, text):
    safe = processor.neutralised(f"the {text} man")
    ids = processor.token_ids_of_expressions(2, [safe])[0]
    plain = processor.token_ids_of_expressions(2, ["x"])[0]
    special = set(processor.tokenizer.added_tokens_decoder) | {OBJECT_MARK, -200}
    assert [i for i in ids if i in special] == [i for i in plain if i in special]
    assert processor.neutralised("plain text, a < b > c") == "plain text, a < b > c"


def test_padding_rows_of_the_vocabulary_decode_to_nothing(processor):
    assert processor.decode([processor.object_ids[4], 10**6]) == "<obj4>"


def test_tokens_are_added_only_where_missing(tmp_path):
    tokenizer = load_tokenizer(FOLDER)
    before = len(tokenizer)
    config = RexSeekConfig.from_folder(FOLDER)
    first = RexSeekProcessor(config, tokenizer)
    assert len(tokenizer) == before + 104 and first.object_ids == list(range(before, before + 100))
    tokenizer.save_pretrained(tmp_path)
    again = RexSeekProcessor.from_folder(config, tmp_path)
    assert len(again.tokenizer) == before + 104
    assert (again.object_ids, again.end_objects_id) == (first.object_ids, first.end_objects_id)
    question = "Please detect Zoë's dog in this image."
    assert again.token_ids(3, question) == first.token_ids(3, question)


def test_closed_vocabulary_tokenizer(tmp_path):
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = [
        "<unk>",
        "<|im_start|>",
        "<|im_end|>",
        "user",
        "assistant",
        "please",
        "detect",
        "the",
        "man",
        "There",
    ]
    raw = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="<unk>"))
    raw.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=raw,
        unk_token="<unk>",
        eos_token="<|im_end|>",
        additional_special_tokens=["<|im_start|>", "<|im_end|>"],
    )
    tokenizer.save_pretrained(tmp_path)
    processor = RexSeekProcessor.from_folder(RexSeekConfig(), tmp_path)
    ids = processor.token_ids(1, "the zebra man")
    assert ids[0] == 1 and ids[-1] == 4 and words.index("<unk>") in ids
    answer = processor.encode("<ground>the man</ground><objects><obj3></objects><|im_end|>")
    assert parse_answer(processor.decode(answer), 4).indices == (3,)


def test_missing_or_damaged_tokenizer_is_named(tmp_path):
    with pytest.raises(CheckpointError, match=r"no tokenizer.*vocab\.json"):
        load_tokenizer(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(CheckpointError, match="tokenizer cannot be read"):
        load_tokenizer(tmp_path)


# ------------------------------------------------------------------------------------------------ candidates


def test_unusable_boxes_are_left_out_and_named():
    boxes = [
        [0, 0, 5, 5],
        [np.nan, 0, 1, 1],
        [9, 9, 4, 4],
        [50, 50, 60, 60],
        [-3, -3, 4, 20],
        [1, 2],
        None,
        [2, 2, 2, 8],
    ]
    chosen = choose_candidates(boxes, None, (10, 10), 100)
    assert (
        chosen.kept.tolist() == [0, 4] and chosen.total == 8 and sorted(chosen.problems) == [1, 2, 3, 5, 6, 7]
    )
    text = chosen.problems_text()
    assert "box 1 has a coordinate that is NaN" in text and "and 1 more" in text


def test_best_hundred_by_score_in_the_original_order():
    boxes = [[i, 0, i + 1, 1] for i in range(300)]
    scores = [None if i == 5 else (i % 150) / 150 for i in range(300)]
    chosen = choose_candidates(boxes, scores, (400, 10), 100)
    assert chosen.kept.tolist() == sorted(chosen.kept) and len(chosen.kept) == 100
    assert min((i % 150) for i in chosen.kept) == 100
    assert choose_candidates(boxes, None, (400, 10), 100).kept.tolist() == list(range(100))
    tensor = torch.tensor(boxes, dtype=torch.float32)
    assert choose_candidates(tensor, None, (400, 10), 100).kept.tolist() == list(range(100))
    with pytest.raises(DataError, match="scores do not fit"):
        choose_candidates(boxes, [1.0], (400, 10), 100)
    with pytest.raises(DataError, match="not a list"):
        choose_candidates(None, None, (400, 10), 100)


# --------------------------------------------------------------------------------------------------- answers


@pytest.mark.parametrize("case", PARSING["cases"], ids=lambda c: repr(c["text"])[:40])
def test_both_published_parsers(case):
    boxes, text = PARSING["candidate_boxes_xyxy"], case["text"]
    assert evaluation_groups(text) == case["evaluation_parser"]
    assert evaluation_predictions(text, boxes) == case["evaluation_extracted_predictions"]
    assert demo_groups(text) == case["demo_parser"]
    demo = parse_demo(text, len(boxes))
    assert [[label, i] for label, i in zip(demo.labels, demo.indices)] == case["demo_selected_label_index"]


def test_parsers_agree_with_the_predictions_they_stand_for():
    boxes = PARSING["candidate_boxes_xyxy"]
    for case in PARSING["cases"]:
        parsed = PARSERS["evaluation"](case["text"], len(boxes))
        expected = case["evaluation_extracted_predictions"]
        assert [boxes[i] for i in parsed.indices] == ([] if expected == [[]] else expected)


def test_unparsed_is_not_rejected():
    assert parse_answer("", 3).outcome is Outcome.UNPARSED
    assert parse_answer("<ground>a</ground><objects><obj9></objects>", 3).outcome is Outcome.UNPARSED
    assert (
        parse_answer("<ground>a</ground><objects><obj1>", 3).problem
        == "the answer ends inside its object list"
    )
    assert parse_answer("<ground>a</ground><objects></objects>", 3).outcome is Outcome.REJECTED
    assert parse_answer("Sorry. There is no such thing in this image.", 3).outcome is Outcome.REJECTED


TAGS = [
    "<ground>",
    "</ground>",
    "<objects>",
    "</objects>",
    "<obj1>",
    "<obj",
    ">",
    "<obj99999999999999999999999>",
    " ",
    "\n",
]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from(TAGS) | st.text(max_size=6), max_size=12).map("".join), st.integers(0, 5))
def test_no_parser_ever_raises(text, num_boxes):
    for parse in PARSERS.values():
        parsed = parse(text, num_boxes)
        assert all(0 <= i < num_boxes for i in parsed.indices)
        assert (parsed.outcome is Outcome.SELECTED) == bool(parsed.indices)
    assert isinstance(evaluation_predictions(text, [[0, 0, 1, 1]] * num_boxes), list)

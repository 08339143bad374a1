"""Fine-tuning: own files to a checkpoint folder, adapters, parts, new words, bad input, the command."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from fiftyone_rexseek.cli import cli
from fiftyone_rexseek.commands.train import scene_rehearsal
from fiftyone_rexseek.commands.training_options import start_of, validation_of
from fiftyone_rexseek.datasets.scenes import write_humanref
from fiftyone_rexseek.errors import CheckpointError, ConfigError, DataError, ProblemLog
from fiftyone_rexseek.models.rexseek import RexSeek
from fiftyone_rexseek.referring import ReferringExample, Target
from fiftyone_rexseek.training.data import (
    ExampleStream,
    ImageRecord,
    group_by_image,
    in_file_pixels,
    read_examples,
    usable,
)
from fiftyone_rexseek.training.finetune import (
    FineTuning,
    _hold_out,
    finetune_rexseek,
    learn_words,
    prepare,
    score_records,
)
from fiftyone_rexseek.training.lora import LoraOptions, add_lora, choose_parts, merge_lora
from fiftyone_rexseek.training.vocabulary import UNKNOWN

sys.path.insert(0, str(Path(__file__).parent))
from tiny_trainee import trainee


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    folder = tmp_path_factory.mktemp("start")
    trainee().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    write_humanref(folder, seed=3, count=3, size=(192, 144))
    return folder


QUICK = dict(images=2, questions=3, progress=False, validate_every=2, device="cpu")


def test_records_hold_every_candidate_once_and_the_targets(data):
    pairs = list(read_examples(data, "scenes", None))
    records = group_by_image(pairs)
    assert len(records) == 3
    assert sum(len(r.questions) for r in records) == len(pairs)
    by_text = {(r.path, text): (r, targets) for r in records for text, targets in r.questions}
    for example, path in pairs:
        record, targets = by_text[path, example.expression]
        np.testing.assert_allclose(record.boxes_xyxy[list(targets)], sorted_boxes(record, example))


def sorted_boxes(record, example):
    wanted = [list(t.box_xyxy) for t in example.targets]
    return np.array(sorted(wanted, key=record.boxes_xyxy.tolist().index)).reshape(-1, 4)


def test_examples_without_candidates_choose_among_known_targets():
    box = lambda x: Target((x, 0, x + 10, 20))  # noqa: E731
    one = ReferringExample(1, 1, "a", "a.jpg", targets=(box(0),))
    two = ReferringExample(1, 2, "b", "a.jpg", targets=(box(30), box(0)))
    alone = ReferringExample(2, 3, "c", "b.jpg")
    log = ProblemLog()
    records = group_by_image([(one, "a.jpg"), (two, "a.jpg"), (alone, "b.jpg")], log)
    assert [r.questions for r in records] == [[("a", (0,)), ("b", (0, 1))]]
    assert log.counts["boxes"] == 1


def test_unreadable_image_is_left_out_of_batches(data, tmp_path):
    records = group_by_image(read_examples(data, "scenes", None))
    (tmp_path / "broken.png").write_bytes(b"no image")
    records[0].path = str(tmp_path / "broken.png")
    rexseek = trainee()
    stream = ExampleStream(records, rexseek.processor, rexseek.eos_ids[0], images=3, questions=2)
    assert len(stream(0).boxes) == 3
    for record in records:
        record.path = str(tmp_path / "broken.png")
    with pytest.raises(DataError, match="none of the images"):
        ExampleStream(records, rexseek.processor, rexseek.eos_ids[0])(0)


def test_an_unreadable_image_is_reported_once_and_one_good_image_is_enough(data, tmp_path):
    records = group_by_image(read_examples(data, "scenes", None))
    (tmp_path / "broken.png").write_bytes(b"no image")
    rexseek, log = trainee(), ProblemLog()
    many = [*records[:1], *(replace(records[1], path=str(tmp_path / "broken.png")) for _ in range(60))]
    stream = ExampleStream(many, rexseek.processor, rexseek.eos_ids[0], images=2, questions=2, log=log)
    for number in range(4):
        assert len(stream(number).boxes) == 2
    assert log.counts["bad-image"] <= 60


def test_missing_images_and_long_expressions_are_left_out(data, tmp_path):
    records = group_by_image(read_examples(data, "scenes", None))
    records[0].path = str(tmp_path / "gone.png")
    few = len(records[1].questions)
    records[1].questions.append(("the person " * 300, (0,)))
    log = ProblemLog()
    kept = usable(records, trainee().processor, log)
    assert [r.path for r in kept] == [r.path for r in records[1:]] and len(kept[0].questions) == few
    assert log.counts == {"bad-image": 1, "long-expression": 1}
    assert "at most 512 tokens; found 600" in log.summary()


def test_validation_without_an_image_is_an_error(start, data, tmp_path):
    pairs = list(read_examples(data, "scenes", None))
    gone = [(example, str(tmp_path / "gone.png")) for example, _ in pairs]
    with pytest.raises(DataError, match=r"nothing to validate on.*bad-image: 1"):
        finetune_rexseek(start, pairs, tmp_path / "out", FineTuning(steps=1, **QUICK), validation=gone)


def test_stream_batch_is_a_function_of_its_number(data):
    records = group_by_image(read_examples(data, "scenes", None))
    rexseek = trainee()
    make = lambda: ExampleStream(records, rexseek.processor, rexseek.eos_ids[0], 2, 3, seed=1)  # noqa: E731
    assert torch.equal(make()(4).ids, make()(4).ids)
    assert not torch.equal(make()(4).object_positions.sum() + make()(4).ids.sum(), make()(5).ids.sum())


@pytest.mark.parametrize("lora", [None, LoraOptions(rank=2, alpha=4)])
def test_finetuned_folder_loads_and_differs_where_it_should(start, data, tmp_path, lora):
    parts = ("projectors",) if lora else ("language",)
    options = FineTuning(steps=3, train=parts, lora=lora, gradient_checkpointing=lora is not None, lr=5e-3, **QUICK)
    pairs = list(read_examples(data, "scenes", None))
    result = finetune_rexseek(start, pairs, tmp_path / "out", options, validation=pairs[:4])
    assert result.step == 3 and result.best_score is not None
    before, after = RexSeek.from_pretrained(start), RexSeek.from_pretrained(tmp_path / "out" / "model")
    changed = {
        name for (name, a), b in zip(before.model.named_parameters(), after.model.parameters()) if not torch.equal(a, b)
    }
    assert changed
    assert not any(name.startswith("vision_tower") for name in changed)
    assert any("layers" in name for name in changed)
    assert any(name.startswith("mm_") for name in changed) == (lora is not None)
    assert json.loads((tmp_path / "out" / "log.jsonl").read_text().splitlines()[-1])["step"] == 3


def test_merged_adapters_give_the_same_numbers():
    rexseek = trainee()
    model = rexseek.model
    choose_parts(model, ())
    add_lora(model, LoraOptions(rank=2))
    torch.manual_seed(0)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    x = torch.randn(1, 5, model.config.hidden_size)
    with torch.no_grad():
        expected = model.model(inputs_embeds=x).last_hidden_state
        names = set(trainee().model.state_dict())
        merge_lora(model)
        assert set(model.state_dict()) == names
        torch.testing.assert_close(model.model(inputs_embeds=x).last_hidden_state, expected, atol=1e-5, rtol=1e-4)


def test_parts_are_chosen_by_name():
    model = trainee().model
    assert choose_parts(model, ("convnext",)) == sum(p.numel() for p in model.vision_tower_aux.parameters())
    assert choose_parts(model, ()) == 0
    with pytest.raises(ConfigError, match="no such part"):
        choose_parts(model, ("everything",))
    with pytest.raises(ConfigError, match="nothing would be trained"):
        prepare(trainee(), FineTuning(train=()))


def test_new_words_get_places_of_their_own():
    rexseek = trainee()
    size = len(rexseek.processor.tokenizer)
    assert learn_words(rexseek, ["the person called Wombat", "the wombat."]) == ["wombat"]
    tokenizer = rexseek.processor.tokenizer
    assert len(tokenizer) == size
    ids = tokenizer.encode("Wombat", add_special_tokens=False)
    assert tokenizer.decode(ids).strip() == "wombat"
    assert learn_words(rexseek, ["the wombat"]) == []
    with pytest.raises(ConfigError, match="no room"):
        learn_words(rexseek, [f"w{'x' * i}" for i in range(1, 40)])


def test_of_too_many_new_words_the_frequent_ones_are_learnt():
    rexseek, log = trainee(), ProblemLog()
    words = [f"w{'x' * i}" for i in range(1, 40)]
    learnt = learn_words(rexseek, [*words, words[-1], words[-2]], log)
    assert len(learnt) == 32 and learnt[:2] == [words[-2], words[-1]]
    assert log.counts["unknown-word"] == 7
    assert learn_words(rexseek, ["wibble wobble"], log) == [] and log.counts["unknown-word"] == 9


def test_new_words_are_found_as_the_tokenizer_reads_them():
    rexseek = trainee()
    texts = ['the wombat!', 'wombat?', '"zebra"; a quokka: here', "the cafe\u0301"]
    assert learn_words(rexseek, texts) == ["wombat", "zebra", "quokka", "here", "café"]
    tokenizer = rexseek.processor.tokenizer
    unknown = tokenizer.convert_tokens_to_ids(UNKNOWN)
    for text in (*texts, "the caf\u00e9"):
        assert unknown not in tokenizer.encode(text, add_special_tokens=False), text


def test_a_run_that_goes_on_keeps_the_places_of_its_words(start, data, tmp_path):
    pairs = list(read_examples(data, "scenes", None))
    first = (replace(pairs[0][0], expression="the wombat"), pairs[0][1])
    earlier = (replace(pairs[0][0], expression="the quokka"), pairs[0][1])
    options = FineTuning(steps=1, validation_share=0.0, **QUICK)

    def places():
        vocabulary = RexSeek.from_pretrained(tmp_path / "model").processor.tokenizer.get_vocab()
        return [vocabulary.get(f"▁{word}") for word in ("wombat", "quokka")]

    finetune_rexseek(start, [first, *pairs], tmp_path, options)
    wombat, none = places()
    assert none is None
    finetune_rexseek(start, [earlier, first, *pairs], tmp_path, replace(options, steps=2))
    assert places() == [wombat, wombat + 1]
    finetune_rexseek(start, pairs, tmp_path, replace(options, steps=3))
    assert places() == [wombat, wombat + 1]


def test_a_run_with_adapters_does_not_go_on_from_its_own_result(start, data, tmp_path):
    pairs = list(read_examples(data, "scenes", None))
    options = FineTuning(steps=1, lora=LoraOptions(rank=2), lr=5e-3, **QUICK)
    finetune_rexseek(start, pairs, tmp_path, options)
    with pytest.raises(CheckpointError, match="started from other weights"):
        finetune_rexseek(tmp_path / "model", pairs, tmp_path, replace(options, steps=2))
    assert finetune_rexseek(start, pairs, tmp_path, replace(options, steps=2)).step == 2


def test_boxes_are_those_of_the_file_that_is_read(start, data, tmp_path):
    [example, path] = next(pair for pair in read_examples(data, "scenes", None) if pair[0].targets)
    width, height = Image.open(path).size
    twice = lambda t: replace(t, box_xyxy=tuple(2 * v for v in t.box_xyxy), segmentation=None)  # noqa: E731
    larger = replace(
        example, targets=tuple(map(twice, example.targets)), candidates=tuple(map(twice, example.candidates)),
        width=2 * width, height=2 * height,
    )  # fmt: skip
    [found], [wanted] = (group_by_image(in_file_pixels([(e, path)], ProblemLog())) for e in (larger, example))
    np.testing.assert_allclose(found.boxes_xyxy, wanted.boxes_xyxy)
    assert found.questions == wanted.questions
    cropped = [(replace(example, height=2 * height), path)]
    with pytest.raises(DataError, match=r"nothing to train on.*image-size: 1"):
        finetune_rexseek(start, cropped, tmp_path, FineTuning(steps=1, **QUICK))


def test_a_target_whose_box_has_no_area_teaches_no_other():
    box = lambda *v: Target(tuple(map(float, v)))  # noqa: E731
    candidates = (box(0, 0, 10, 20), box(30, 0, 40, 20), box(5, 5, 5, 5))
    good = ReferringExample(1, 1, "good", "a.jpg", targets=(candidates[1],), candidates=candidates)
    flat, nowhere = (replace(good, expression="bad", targets=(t,)) for t in (box(50, 0, 50, 20), box(1, 1, float("nan"), 9)))
    log = ProblemLog()
    [record] = group_by_image([(e, "a.jpg") for e in (flat, good, nowhere)], log)
    assert record.questions == [("good", (1,))] and len(record.boxes_xyxy) == 2
    assert log.counts == {"bad-box": 2} and "has no area" in log.summary()


def test_drawn_scenes_rehearse_word_models_only(tmp_path):
    from types import SimpleNamespace

    other = SimpleNamespace(tokenizer=object(), config=None)
    with pytest.raises(ConfigError, match=r"no rehearsal for this model.*rexseek-tiny.*Leave --rehearse out"):
        scene_rehearsal(tmp_path, 2)(other, 0)


@pytest.mark.parametrize(("given", "found"), [
    (("grefs.json", "grefcoco", "grefs.json", None, None), ("grefs.json", "val")),
    (("grefs.json", "grefcoco", "./grefs.json", "testA", None), ("./grefs.json", "val")),
    (("grefs.json", "grefcoco", "other.json", None, None), ("other.json", None)),
    (("grefs.json", "grefcoco", None, None, "testA"), ("grefs.json", "testA")),
    (("grefs.json", "grefcoco", None, None, None), (None, None)),
    (("a.jsonl", "humanref", "b.jsonl", None, None), ("b.jsonl", None)),
])  # fmt: skip
def test_the_split_to_validate_on(given, found):
    assert validation_of(*given) == found


def test_the_split_to_validate_on_must_be_said_where_val_is_trained_on():
    with pytest.raises(ConfigError, match="--validation-split"):
        validation_of("grefs.json", "grefcoco", "grefs.json", "val", None)
    with pytest.raises(ConfigError, match="no splits; expected --validation"):
        validation_of("a.jsonl", "humanref", None, None, "val")


def test_scores_of_records_count_rejections(data):
    numbers = score_records(trainee(), group_by_image(read_examples(data, "scenes", None))[:1])
    assert set(numbers) >= {"score"} and 0 <= numbers["score"] <= 1


def test_command_writes_a_model(start, data, tmp_path):
    arguments = ["train", "rexseek", "--data", str(data), "--format", "scenes", "--out", str(tmp_path / "o")]
    arguments += ["--weights", str(start), "--steps", "2", "--batch-images", "1", "--expressions", "2", "--lora", "2", "--device", "cpu"]
    outcome = CliRunner().invoke(cli, arguments, catch_exceptions=False)
    assert outcome.exit_code == 0, outcome.output
    report = json.loads(outcome.stdout.splitlines()[-1])
    assert report["steps"] == 2
    RexSeek.from_pretrained(report["model"]).select(Image.new("RGB", (64, 48)), [[0, 0, 20, 40]], ["the person"])


@pytest.mark.parametrize(
    ("source", "kind", "images", "match"),
    [
        ("missing.jsonl", "humanref", None, "no such file"),
        (".", "voc", None, "unknown format"),
        ("annotations.jsonl", "humanref", "nowhere", "no folder of images"),
    ],
)
def test_bad_sources_are_named(data, source, kind, images, match):
    with pytest.raises((DataError, ConfigError), match=match):
        list(read_examples(data / source, kind, images and data / images))


@pytest.mark.parametrize("wrong", [
    {"lr": -1.0}, {"lr": 0}, {"lr": float("nan")}, {"lr": float("inf")}, {"lr": "fast"}, {"steps": 0}, {"steps": None, "lr": True},
    {"images": 0}, {"lora": "4"}, {"lora": LoraOptions(rank=0)},
])  # fmt: skip
def test_numbers_that_make_no_sense_are_refused_before_anything_is_read(wrong):
    with pytest.raises(ConfigError, match="bad "):
        FineTuning(**wrong)


def test_validation_images_come_from_everywhere():
    records = [ImageRecord(f"{i}.jpg", np.zeros((1, 4))) for i in range(40)]
    held_out = _hold_out(records, FineTuning())
    numbers = [int(r.path.split(".")[0]) for r in held_out]
    assert len(held_out) == 4 and len(records) == 36 and min(numbers) < 30
    assert {r.path for r in records}.isdisjoint(r.path for r in held_out)


@pytest.mark.parametrize("weights, match", [
    ("rela-tiny", r"this is another model.*rexseek-tiny.*found ReLA"),
    ("rexsek-tiny", r"no model to start from; expected .*rexseek-tiny"),
    ("folder", r"weights of another model.*found ReLA weights"),
])  # fmt: skip
def test_where_to_start_is_checked(tmp_path, monkeypatch, weights, match):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "config.json").write_text('{"model_type": "rela"}')
    with pytest.raises(ConfigError, match=match):
        start_of(weights, "rexseek")


def test_nothing_to_train_on(start, tmp_path):
    with pytest.raises(DataError, match="nothing to train on"):
        finetune_rexseek(start, [], tmp_path, FineTuning(**QUICK))

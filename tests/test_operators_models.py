"""Operators that run models, with small random ones of the real classes: what they write is there and can be used."""

import fiftyone as fo
import fiftyone.zoo as foz
import plugin
import pytest
import tiny_describer
import torch
from tiny_trainee import trainee

from fiftyone_rexseek import apply_expressions
from fiftyone_rexseek.datasets.scenes import VOCABULARY, write_humanref
from fiftyone_rexseek.errors import ConfigError, DataError
from fiftyone_rexseek.integration.dataset_types import HumanRefDatasetImporter
from fiftyone_rexseek.integration.training import family_of, fine_tune
from fiftyone_rexseek.models.rela import ReLA, ReLAConfig, ReLANetwork
from fiftyone_rexseek.models.rela.tokenization import build_word_tokenizer
from fiftyone_rexseek.models.rexseek import RexSeek

RELA_SIZES = dict(
    text_dim=64, text_layers=3, text_heads=1, text_ffn_dim=64, vocab_size=256, text_positions=32, hidden_dim=32, mask_dim=16,
    encoder_ffn_dim=32, encoder_layers=1, decoder_ffn_dim=32, decoder_layers=2, image_size=64, swin_embed_dim=8,
    swin_depths=(1, 1, 2, 1), swin_heads=(1, 2, 2, 4), swin_windows=(4, 3, 2, 2),
)  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def installed():
    plugin.install()


@pytest.fixture(scope="module")
def scenes(database, tmp_path_factory):
    folder = tmp_path_factory.mktemp("scenes")
    write_humanref(folder, seed=3, count=3, size=(192, 144), questions_per_scene=2)
    dataset = fo.Dataset()
    dataset.add_importer(HumanRefDatasetImporter(str(folder)), progress=False)
    assert len(dataset) == 6
    yield dataset
    dataset.delete()


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    folder = tmp_path_factory.mktemp("start")
    trainee().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def rela_start(tmp_path_factory):
    torch.manual_seed(3)
    config = ReLAConfig(**RELA_SIZES, variant="custom", box_head=True, count_head=True)
    folder = tmp_path_factory.mktemp("rela")
    ReLA(ReLANetwork(config), build_word_tokenizer(VOCABULARY, config.vocab_size, config.max_text_length)).save_pretrained(folder)
    return folder


def test_fine_tuned_on_a_view_the_folder_is_a_zoo_model(scenes, start, tmp_path):
    params = {"start": str(start), "output_dir": str(tmp_path / "out"), "steps": 2, "lr": 1e-3}
    assert plugin.complaints("fine_tune", scenes, params) == {}
    result = plugin.operator("fine_tune")(scenes, **params)
    assert result["steps"] == 2 and result["model"] == str(tmp_path / "out" / "model")
    before, after = (RexSeek.from_pretrained(folder).model.state_dict() for folder in (start, result["model"]))
    assert not all(torch.equal(before[name], after[name]) for name in before)
    assert f'weights="{result["model"]}"' in result["summary"]

    # the line of the summary, and the model at work
    model = foz.load_zoo_model(result["zoo_name"], weights=result["model"])
    summary = apply_expressions(scenes, model, "tuned", "field:expression", progress=False)
    assert sum(summary.outcomes.values()) == 6 and summary.outcomes.get("failed", 0) == 0
    assert None not in scenes.values("tuned_outcome")

    # the same folder again goes on, here to where it is already
    assert "goes on" in plugin.form("fine_tune", scenes, params)["resumes"]["view"]["label"]


def test_rela_fine_tuned_on_a_view_is_a_zoo_model(scenes, rela_start, tmp_path):
    params = {"start": str(rela_start), "output_dir": str(tmp_path / "out"), "steps": 2}
    fields = plugin.form("fine_tune", scenes, params)
    assert not [k for k, v in fields.items() if v["invalid"]]
    assert "candidates_field" not in fields and "tokenizer" not in fields and "published" in fields["lr"]["view"]["description"]
    view = scenes.limit(4)
    scenes.save_view("held out", scenes.skip(4))
    result = plugin.operator("fine_tune")(view, validation="held out", batch=2, lr=1e-3, **params)
    assert result["steps"] == 2 and 0 <= result["best_score"] <= 1 and result["zoo_name"] == "rela-tiny"
    before, after = (ReLA.from_pretrained(f, device="cpu").network.state_dict() for f in (rela_start, result["model"]))
    assert before.keys() == after.keys()
    changed = {name.split(".")[0] for name in before if not torch.equal(before[name], after[name])}
    assert changed == {"text_encoder", "backbone", "sem_seg_head"}

    model = foz.load_zoo_model(result["zoo_name"], weights=result["model"], device="cpu", cache=False)
    summary = apply_expressions(scenes, model, "segmented", "field:expression", progress=False)
    assert sum(summary.outcomes.values()) == 6 and summary.outcomes.get("failed", 0) == 0
    assert None not in scenes.values("segmented_count")


def test_rela_with_adapters(scenes, rela_start, tmp_path):
    tuned = fine_tune(scenes.limit(4), tmp_path, rela_start, steps=1, batch=2, lora=2, lr=1e-2, gradient_checkpointing=True)
    before, after = (ReLA.from_pretrained(f, device="cpu").network.state_dict() for f in (rela_start, tuned.model))
    swin = {name for name in before if name.startswith("backbone.") and not torch.equal(before[name], after[name])}
    assert swin and all(name.endswith(("attn.qkv.weight", "attn.proj.weight", "fc1.weight", "fc2.weight")) for name in swin)
    fresh = fo.Dataset()
    try:
        sample = scenes.match({"num_targets": {"$gt": 0}}).first().copy()
        for target in sample.ground_truth.detections:  # drawn by hand: a box, no mask
            target.mask = target["segmentation"] = None
        sample.expression, sample.candidates = "the wombat", None
        fresh.add_sample(sample)
        tuned = fine_tune(fresh, tmp_path / "b", rela_start, steps=1, batch=1, validation=fresh)
        text = str(tuned)
        assert 0 <= tuned.best_score <= 1 and "a target has no mask" in text and "no token for 'wombat'" in text
    finally:
        fresh.delete()


def test_where_to_start(scenes, start, rela_start, tmp_path):
    assert (family_of(start), family_of(rela_start)) == ("rexseek", "rela")
    assert family_of(rela_start / "model.safetensors") == "rela"
    alone = tmp_path / "alone"
    alone.mkdir()
    (alone / "model.safetensors").symlink_to(rela_start / "model.safetensors")
    assert family_of(alone) == "rela"
    (tmp_path / "empty").mkdir()
    for wrong in (tmp_path / "empty", tmp_path / "nowhere", "rela-huge", "./a/b"):
        with pytest.raises(ConfigError, match="no model to start from"):
            family_of(wrong)
        assert "no model" in plugin.complaints("fine_tune", scenes, {"start": str(wrong)})["start"]
    assert "henghuiding/ReLA" in plugin.complaints("fine_tune", scenes, {"start": "rela-swin-base"})["start"]
    assert "tokenizer" in plugin.form("fine_tune", scenes, {"start": str(alone)})
    assert plugin.form("fine_tune", scenes)["candidates_field"]["default"] == "candidates"
    with pytest.raises(ConfigError, match=r"unknown option.*rehearsals"):
        fine_tune(scenes, tmp_path / "out", start, rehearsals=1)
    with pytest.raises(ConfigError, match="unknown option"):
        fine_tune(scenes, tmp_path / "out", rela_start, questions=3)


def test_a_view_without_pictures_cannot_be_trained_on(scenes, start, tmp_path):
    broken = fo.Dataset()
    path = tmp_path / "broken.png"
    path.write_text("no image")
    sample = scenes.first().copy()
    sample.filepath, sample.metadata = str(path), None
    broken.add_sample(sample)
    try:
        with pytest.raises(plugin.ExecutionError, match="train"):
            plugin.operator("fine_tune")(broken, start=str(start), output_dir=str(tmp_path / "out"), steps=2)
        assert not (tmp_path / "out" / "model").exists()
    finally:
        broken.delete()


def test_a_grouped_view_stands_for_its_samples_and_what_is_missing_is_said(scenes, start, tmp_path):
    fresh = fo.Dataset()
    try:
        fresh.add_samples([s.copy() for s in scenes])
        gone = fresh.last().copy()
        gone.filepath, gone.metadata = str(tmp_path / "gone.png"), None
        fresh.add_sample(gone)
        tuned = fine_tune(fresh.group_by("image_id"), tmp_path / "a", start, steps=1, images=1, questions=2)
        assert tuned.steps == 1 and "gone.png: image file does not exist" in str(tuned) and "not validated" in str(tuned)
        with pytest.raises(ConfigError, match="patches are not samples"):
            fine_tune(fresh.to_patches("ground_truth"), tmp_path / "b", start)
        fresh.set_values("ground_truth", [None] * len(fresh))
        with pytest.raises(DataError, match="no sample has ground truth"):
            fine_tune(fresh, tmp_path / "b", start)
    finally:
        fresh.delete()


def test_objects_are_described_by_a_model_of_the_real_class(scenes, tmp_path):
    folder = tiny_describer.save(tmp_path / "describer")
    targets = scenes.match({"num_targets": {"$gt": 0}})
    params = {"model": str(folder), "objects_field": "ground_truth", "text_field": "words"}
    assert plugin.complaints("describe_targets", scenes, params) == {}
    note = plugin.form("describe_targets", scenes, params)["note"]["view"]["label"]
    assert note.startswith(f"{len(targets)} sample")
    plugin.operator("describe_targets")(scenes, **params)
    # random weights write gibberish: an answer there is, readable or not, and never a failure
    outcomes = dict(zip(*scenes.values(["id", "words_outcome"])))
    assert {i for i, outcome in outcomes.items() if outcome is not None} == set(targets.values("id"))
    assert set(targets.values("words_outcome")) <= {"selected", "unparsed"}, targets.values("words_error")
    assert all(isinstance(answer, str) for answer in targets.values("words_answer"))
    for text, outcome in zip(*targets.values(["words", "words_outcome"])):
        assert (text is not None) == (outcome == "selected")
    assert scenes.get_run_info("describe_words").config.model

"""Checkpoint folders: every layout that is read, the round trip, and one clear error for everything else."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import tiny_rexseek as tiny
import torch
from safetensors.torch import load_file, save_file

from fiftyone_rexseek.errors import CheckpointError, ConfigError, DownloadError
from fiftyone_rexseek.models.rexseek import HUB_ID_3B, RexSeek, RexSeekConfig

IMAGE, BOXES = tiny.image(), tiny.boxes(4)
QUESTION = "Please detect man in this image."


def ids_of(rexseek):
    return rexseek.generate_ids(IMAGE, BOXES, QUESTION, 12)


@pytest.fixture(scope="module")
def original():
    return tiny.rexseek(4, {"repetition_penalty": 1.05, "eos_token_id": [408, 409]})


@pytest.fixture(scope="module")
def saved(original, tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved")
    original.save_pretrained(folder)
    return folder


@pytest.fixture
def folder(saved, tmp_path):
    shutil.copytree(saved, tmp_path / "checkpoint")
    return tmp_path / "checkpoint"


def load(folder, **options):
    return RexSeek.from_pretrained(folder, device="cpu", **options)


def edit(folder, change):
    state = load_file(folder / "model.safetensors")
    state = change(state) or state
    save_file({k: v.contiguous().clone() for k, v in state.items()}, folder / "model.safetensors")


def edit_config(folder, **changes):
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


# --------------------------------------------------------------------------------------------- what is read


def test_round_trip(original, saved):
    loaded = load(saved)
    assert loaded.config.replace(extra={}) == original.config.replace(extra={})
    assert loaded.generation == original.generation and loaded.eos_ids == (408, 409)
    theirs = original.model.state_dict()
    assert all(torch.equal(v, theirs[k]) for k, v in loaded.model.state_dict().items())
    assert ids_of(loaded) == ids_of(original)
    assert not any(p.requires_grad for p in loaded.model.parameters())


def test_half_precision_file_is_loaded_as_float32(original, tmp_path):
    original.save_pretrained(tmp_path, dtype=torch.float16)
    modes = {(tmp_path / name).stat().st_mode for name in ("model.safetensors", "config.json")}
    assert len(modes) == 1, "other users can read the folder but not the weights"
    assert load_file(tmp_path / "model.safetensors")["lm_head.weight"].dtype is torch.float16
    loaded = load(tmp_path)
    assert loaded.model.dtype is torch.float32
    half = load(tmp_path, dtype="bfloat16")
    assert {p.dtype for p in half.model.parameters()} == {torch.bfloat16}
    assert half.model.model.rotary_emb.inv_freq.dtype is torch.float32


def test_reference_folder_survives_saving(tmp_path):
    original = load(tiny.FOLDER)
    original.save_pretrained(tmp_path)
    again = load(tmp_path)
    assert again.config.replace(extra={}) == original.config.replace(extra={})
    assert "lm_head.weight" not in load_file(tmp_path / "model.safetensors")
    case = json.loads((tiny.FOLDER / "case1" / "case.json").read_text())
    image = tiny.FOLDER / "case1" / "image.png"
    assert again.generate_ids(image, case["boxes_xyxy"], case["question"], 24) == case["generated_ids"]


def test_shards_with_and_without_index(folder, original):
    state = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = sorted(state)
    files = {"model-00001-of-00002.safetensors": names[::2], "model-00002-of-00002.safetensors": names[1::2]}
    for file, part in files.items():
        save_file({n: state[n] for n in part}, folder / file)
    assert ids_of(load(folder)) == ids_of(original)
    index = {"weight_map": {n: file for file, part in files.items() for n in part}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    assert ids_of(load(folder)) == ids_of(original)
    (folder / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"missing: model-00002-of-00002\.safetensors"):
        load(folder)
    (folder / "model.safetensors.index.json").unlink()
    with pytest.raises(CheckpointError, match=r"missing: model-00002-of-00002\.safetensors"):
        load(folder)


def test_gamma_is_ramma_and_computed_buffers_are_ignored(folder, original):
    def rename(state):
        extra = {
            "model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(8),
            "vision_tower.vision_tower.vision_model.embeddings.position_ids": torch.arange(5)[None],
        }
        return {k.replace(".ramma", ".gamma"): v for k, v in state.items()} | extra

    edit(folder, rename)
    assert ids_of(load(folder)) == ids_of(original)


def test_vocabulary_size_is_the_tensors(folder, original):
    edit_config(folder, vocab_size=151936)
    assert ids_of(load(folder)) == ids_of(original)

    def pad(state):
        for name in ("lm_head.weight", "model.embed_tokens.weight"):
            state[name] = torch.cat([state[name], torch.zeros(30, 64)])

    edit(folder, pad)
    padded = load(folder)
    assert padded.model.lm_head.out_features == 550 and ids_of(padded) == ids_of(original)


def test_tied_and_stored_output_layer(folder):
    stored = load(folder)
    assert stored.model.lm_head.weight is not stored.model.model.embed_tokens.weight
    edit_config(folder, tie_word_embeddings=True)  # the configuration decides, as in the public code
    tied = load(folder)
    assert tied.model.lm_head.weight is tied.model.model.embed_tokens.weight
    edit_config(folder, tie_word_embeddings=False)
    edit(folder, lambda state: {k: v for k, v in state.items() if k != "lm_head.weight"})
    absent = load(folder)
    assert absent.model.lm_head.weight is absent.model.model.embed_tokens.weight
    assert ids_of(absent) == ids_of(tied) != ids_of(stored)


def test_end_tokens_and_penalty_have_fallbacks(folder):
    (folder / "generation_config.json").unlink()
    assert load(folder).eos_ids == (408,)
    edit_config(folder, eos_token_id=[5, 6])
    assert load(folder).eos_ids == (5, 6)
    edit_config(folder, eos_token_id=None)
    assert load(folder).eos_ids == (408,), "the tokenizer's"


def test_unstated_keys_have_transformers_defaults_and_new_style_rope_is_read(folder, original):
    config = json.loads((folder / "config.json").read_text())
    for key in ("tie_word_embeddings", "rope_theta"):
        del config[key]
    (folder / "config.json").write_text(json.dumps(config))
    text = RexSeekConfig.from_folder(folder).text
    assert text["rope_theta"] == 10000 and text["tie_word_embeddings"] is False
    edit_config(folder, rope_parameters={"rope_theta": 1e6, "rope_type": "default"})
    assert ids_of(load(folder)) == ids_of(original)


def test_other_encoder_sizes_come_from_the_folder(folder):
    config = RexSeekConfig.from_folder(folder)
    assert (config.image_size, config.clip_image_size, config.grid) == (64, 28, 2)
    assert config.convnext_dims == (8, 8, 16, 16)
    reference = RexSeekConfig.from_folder(tiny.FOLDER)
    assert reference.convnext_depths == (2, 1, 3, 1) and reference.clip["hidden_size"] == 64


# ------------------------------------------------------------------------------------------ what is refused


def test_everything_that_does_not_fit_is_named_in_one_error(folder):
    def spoil(state):
        del state["mm_projector.0.bias"], state["model.layers.1.mlp.up_proj.weight"]
        state["model.norm.weight"] = torch.ones(63)
        state["surprise"] = torch.ones(2, 3)

    edit(folder, spoil)
    with pytest.raises(CheckpointError) as error:
        load(folder)
    message = str(error.value)
    assert "4 tensor(s)" in message
    assert "missing: mm_projector.0.bias [64]" in message
    assert "missing: model.layers.1.mlp.up_proj.weight [64, 64]" in message
    assert "unexpected: surprise [2, 3]" in message
    assert "wrong shape: model.norm.weight, expected [64], found [63]" in message


def test_weights_of_another_model_are_not_listed_one_by_one(folder):
    def rename(state):
        for name in list(state):
            state[f"other.{name}"] = state.pop(name)

    edit(folder, rename)
    with pytest.raises(CheckpointError, match=r"(?s)\.\.\. and \d+ more.*No name fits") as error:
        load(folder)
    assert len(str(error.value).splitlines()) < 8


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pth"])
def test_pickles_are_refused_unopened(folder, name):
    (folder / "model.safetensors").unlink()
    (folder / name).write_bytes(b"cos\nsystem\n(S'false'\ntR.")
    with pytest.raises(CheckpointError, match=rf"pickles.*{name}.*save_file"):
        load(folder)


def test_missing_and_damaged_files_are_named(folder):
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(CheckpointError, match=r"model\.safetensors: cannot be read.*Download"):
        load(folder)
    weights.unlink()
    with pytest.raises(CheckpointError, match="there are no weights"):
        load(folder)
    (folder / "model.safetensors.index.json").write_text("[]")
    with pytest.raises(CheckpointError, match=r"index\.json"):
        load(folder)
    (folder / "config.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"config\.json: cannot be read as JSON"):
        load(folder)
    (folder / "config.json").unlink()
    with pytest.raises(CheckpointError, match=r"config\.json: file is missing"):
        load(folder)


def test_contradictions_of_the_configuration_are_named(folder):
    edit_config(folder, mm_hidden_size=2560)
    with pytest.raises(CheckpointError, match=r"mm_hidden_size.*expected 32; found 2560"):
        load(folder)
    edit_config(folder, mm_hidden_size=32, fiftyone_rexseek={"image_size": 96})
    with pytest.raises(CheckpointError, match="same grid"):
        load(folder)
    with pytest.raises(ConfigError, match="sine_function"):
        RexSeekConfig(sine_function="other")


def test_tokenizer_larger_than_the_embedding(folder):
    edit(folder, lambda s: {k: v[:400] if v.shape[0] == 520 else v for k, v in s.items()})
    with pytest.raises(CheckpointError, match=r"tokenizer does not fit.*at most 400"):
        load(folder)


def test_neither_folder_nor_repository(tmp_path):
    with pytest.raises(DownloadError, match="no/such/folder: no such file or folder"):
        load("no/such/folder")
    with pytest.raises(DownloadError, match="no such file or folder"):
        load(tmp_path / "none")
    (tmp_path / "file.safetensors").write_bytes(b"")
    with pytest.raises(CheckpointError, match="found a file"):
        load(tmp_path / "file.safetensors")


@pytest.mark.parametrize(
    "key, value",
    [
        ("num_attention_heads", "4"), ("hidden_act", "abacus"), ("hidden_size", -4), ("rope_scaling", "x"),
        ("mm_vision_select_layer", 99), ("mm_vision_select_layer", "a"), ("fiftyone_rexseek", [1]),
        ("fiftyone_rexseek", {"convnext_dims": "abcd"}), ("fiftyone_rexseek", {"image_size": "64"}),
    ],
)  # fmt: skip
def test_senseless_values_of_the_configuration_are_named(folder, key, value):
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), key: value}))
    with pytest.raises(CheckpointError, match=r"config\.json"):
        RexSeek.from_pretrained(folder)


@pytest.mark.parametrize("values", [{"eos_token_id": "</s>"}, {"repetition_penalty": "1.1"}])
def test_senseless_generation_settings_are_named(folder, values):
    (folder / "generation_config.json").write_text(json.dumps(values))
    with pytest.raises(CheckpointError, match=next(iter(values))):
        RexSeek.from_pretrained(folder)


def test_padding_token_beyond_the_vocabulary(folder, original):
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "pad_token_id": 151643}))
    assert ids_of(RexSeek.from_pretrained(folder)) == ids_of(original)


def test_quantized_weights_are_refused(folder):
    state = load_file(folder / "model.safetensors")
    save_file({k: v.to(torch.int8) for k, v in state.items()}, folder / "model.safetensors")
    with pytest.raises(CheckpointError, match="quantized"):
        RexSeek.from_pretrained(folder)


def test_options_are_checked_before_anything_is_fetched():
    for options in ({"device": "abacus"}, {"dtype": "decimal"}, {"sine": "xyxy"}):
        with pytest.raises(ConfigError, match="unknown"):
            RexSeek.from_pretrained("IDEA-Research/RexSeek-3B", **options)


def test_no_network_gives_one_message(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    with pytest.raises(DownloadError) as error:
        load(HUB_ID_3B, revision="10b3661")
    message = str(error.value)
    for part in (HUB_ID_3B, "10b3661", "IDEA License 1.0", "name=<folder>", "network"):
        assert part in message


def test_constructing_fetches_nothing(monkeypatch):
    import socket

    def refuse(*args, **kwargs):
        raise AssertionError("a constructor opened a connection")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    assert np.isfinite(tiny.rexseek().model.lm_head.weight.numpy()).all()


def test_loading_runs_no_code_of_the_folder(folder):
    edit_config(folder, auto_map={"AutoModelForCausalLM": "modeling_rexseek.X"})
    Path(folder / "modeling_rexseek.py").write_text("raise SystemExit('remote code was run')")
    load(folder)

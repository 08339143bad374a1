"""Reading, refusing, converting and writing ReLA weights."""

import json
import pickle

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from fiftyone_rexseek.datasets.scenes import VOCABULARY
from fiftyone_rexseek.errors import CheckpointError, ConfigError, DownloadError
from fiftyone_rexseek.models.rela import ReLA, ReLAConfig, ReLANetwork, convert_checkpoint
from fiftyone_rexseek.models.rela.tokenization import build_word_tokenizer
from fiftyone_rexseek.models.rela.weights import config_from_state_dict, describe, load_into, read_state_dict

SMALL = dict(
    text_dim=64, text_layers=1, text_heads=1, text_ffn_dim=64, vocab_size=160, text_positions=32,
    hidden_dim=32, mask_dim=16, encoder_ffn_dim=32, encoder_layers=1, decoder_ffn_dim=32, decoder_layers=2, image_size=64,
)  # fmt: skip
SWIN = dict(
    **SMALL, swin_embed_dim=8, swin_depths=(1, 1, 2, 1), swin_heads=(1, 2, 2, 4), swin_windows=(4, 3, 2, 2)
)


def small(**changes) -> ReLA:
    torch.manual_seed(0)
    config = ReLAConfig(**{"variant": "custom", **SWIN, **changes})
    return ReLA(ReLANetwork(config), build_word_tokenizer(VOCABULARY, config.vocab_size, 20))


@pytest.fixture(scope="module")
def model():
    return small()


@pytest.fixture
def folder(model, tmp_path):
    model.save_pretrained(tmp_path / "m")
    return tmp_path / "m"


def same(a: ReLA, b: ReLA) -> bool:
    x, y = a.network.state_dict(), b.network.state_dict()
    return x.keys() == y.keys() and all(torch.equal(x[k], y[k]) for k in x)


def test_save_and_load(model, folder):
    assert {"model.safetensors", "config.json"} <= {p.name for p in folder.iterdir()}
    again = ReLA.from_pretrained(folder)
    assert same(model, again) and again.config == model.config
    assert again.tokenizer("a red hat").input_ids == model.tokenizer("a red hat").input_ids
    model.save_pretrained(folder, dtype=torch.float16)
    half = ReLA.from_pretrained(folder / "model.safetensors", dtype=torch.float32)
    assert next(half.network.parameters()).dtype == torch.float32


def test_public_checkpoint_with_old_names(model, folder, tmp_path):
    state = dict(model.network.state_dict())
    state["sem_seg_head.predictor.static_query.weight"] = state.pop("sem_seg_head.predictor.query_feat.weight")
    state["text_encoder.embeddings.position_ids"] = torch.arange(32)[None]
    torch.save({"model": state, "iteration": 7}, tmp_path / "public.pth")
    loaded = read_state_dict(tmp_path / "public.pth")
    load_into(ReLANetwork(model.config), loaded, "x", "custom")
    digest = convert_checkpoint(tmp_path / "public.pth", tmp_path / "converted")
    assert len(digest) == 64 and digest == json.loads((tmp_path / "converted" / "model.safetensors.sha256").read_text())["sha256"]
    assert load_file(tmp_path / "converted" / "model.safetensors").keys() == model.network.state_dict().keys()
    # the same input gives the same bytes
    assert convert_checkpoint(tmp_path / "public.pth", tmp_path / "again.safetensors") == digest
    loaded = ReLA.from_pretrained(tmp_path / "converted", tokenizer=folder)
    # numbers of heads cannot be seen in the tensors; those of these sizes are the assumed ones
    assert same(model, loaded)
    assert loaded.config.replace(variant="custom", swin_dims=None) == model.config.replace(image_size=480)


def test_configuration_from_tensors():
    for variant in ("swin-base", "swin-tiny", "r50"):
        with torch.device("meta"):
            state = ReLANetwork(ReLAConfig.from_variant(variant)).state_dict()
        assert describe(state) == variant
        found = config_from_state_dict(state)
        wanted = ReLAConfig.from_variant(variant)
        assert found.replace(swin_dims=None) == wanted.replace(swin_dims=None)
    journal = ReLANetwork(ReLAConfig(**SWIN, box_head=True, count_head=True)).state_dict()
    found = config_from_state_dict(journal)
    assert found.box_head and found.count_head and found.swin_windows == (4, 3, 2, 2)


def test_wrong_variant_is_named(tmp_path):
    with torch.device("meta"):
        base = ReLANetwork(ReLAConfig.from_variant("swin-base")).state_dict()
    with pytest.raises(CheckpointError, match="swin-base checkpoint, rela-r50 was asked for"):
        with torch.device("meta"):
            load_into(ReLANetwork(ReLAConfig.from_variant("r50")), base, "x.pth", "rela-r50")
    tiny = small()
    tiny.save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match="rela-swin-base was asked for"):
        ReLA.from_pretrained(tmp_path, "rela-swin-base")
    ReLA.from_pretrained(tmp_path, "rela-tiny")  # sizes of one's own
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "variant": "swin-tiny"}))
    with pytest.raises(CheckpointError, match="rela-swin-tiny checkpoint of another size, rela-tiny was asked for"):
        ReLA.from_pretrained(tmp_path, "rela-tiny")
    with pytest.raises(ConfigError, match="swin-huge"):
        ReLA.from_pretrained(tmp_path, "swin-huge")


def test_everything_wrong_is_in_one_error(model, folder):
    state = load_file(folder / "model.safetensors")
    del state["sem_seg_head.predictor.lang_weight"], state["backbone.norm0.weight"]
    state["strange.weight"] = torch.zeros(1)
    state["backbone.norm1.weight"] = torch.zeros(3)
    save_file(state, folder / "model.safetensors")
    with pytest.raises(CheckpointError) as error:
        ReLA.from_pretrained(folder)
    for part in ("2 missing", "lang_weight", "norm0", "1 unexpected", "strange.weight", "norm1", "[3] instead of [16]"):
        assert part in str(error.value)


def test_devices_and_dtypes(folder, tmp_path):
    assert ReLA.from_pretrained(folder, device="cpu", dtype="bfloat16").segment(np.zeros((9, 9, 3), np.uint8), ["a"])
    for options in ({"device": "abacus"}, {"dtype": "decimal"}, {"dtype": "int8"}):
        with pytest.raises(ConfigError, match=f"unknown {next(iter(options))}"):
            ReLA.from_pretrained(tmp_path / "nothing", **options)
    if not torch.cuda.is_available():
        with pytest.raises(ConfigError, match="no cuda device"):
            ReLA.from_pretrained(tmp_path / "nothing", device="cuda:0")


def test_what_is_assumed_without_a_configuration_is_said(folder, caplog):
    (folder / "config.json").unlink()
    ReLA.from_pretrained(folder)
    assert "1 heads in BERT, 8 in both decoders, images of 480 pixels" in caplog.text


class Evil:
    def __reduce__(self):
        return (print, ("ran",))


@pytest.mark.parametrize("content", [b"", b"garbage", b"version https://git-lfs.github.com/spec/v1\noid"])
@pytest.mark.parametrize("name", ["x.pth", "x.safetensors"])
def test_damaged_files(content, name, tmp_path):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(CheckpointError):
        read_state_dict(tmp_path / name)


def test_pickled_code_is_not_run(tmp_path, capsys):
    (tmp_path / "evil.pth").write_bytes(pickle.dumps({"model": Evil()}))
    torch.save({"model": {"a": Evil()}}, tmp_path / "evil2.pth")
    for name in ("evil.pth", "evil2.pth"):
        with pytest.raises(CheckpointError):
            read_state_dict(tmp_path / name)
    assert "ran" not in capsys.readouterr().out


@pytest.mark.parametrize("content", [{}, {"model": {}}, [1, 2], {"model": {"a": torch.zeros(2)}}, {"b": torch.zeros(1)}])
def test_other_checkpoints(content, tmp_path, folder):
    torch.save(content, tmp_path / "x.pth")
    with pytest.raises(CheckpointError):
        ReLA.from_pretrained(tmp_path / "x.pth", tokenizer=folder)


def test_truncated_weights(folder):
    data = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(data[: len(data) // 2])
    with pytest.raises(CheckpointError, match="safetensors"):
        ReLA.from_pretrained(folder)


def test_tokenizer_and_text_encoder_problems(model, folder, tmp_path):
    bare = tmp_path / "bare"
    bare.mkdir()
    save_file({k: v.contiguous() for k, v in model.network.state_dict().items()}, bare / "model.safetensors")
    (bare / "config.json").write_text((folder / "config.json").read_text())
    with pytest.raises(DownloadError, match="tokenizer="):
        ReLA.from_pretrained(bare)
    assert same(ReLA.from_pretrained(bare, tokenizer=folder), model)
    other = tmp_path / "gpt"
    other.mkdir()
    (other / "config.json").write_text('{"model_type": "gpt2"}')
    with pytest.raises(CheckpointError, match="not BERT-like"):
        ReLA.from_pretrained(bare, tokenizer=other)
    (bare / "config.json").write_text('{"model_type": "llava"}')
    with pytest.raises(CheckpointError, match="llava"):
        ReLA.from_pretrained(bare, tokenizer=folder)
    too_many = build_word_tokenizer(VOCABULARY, 500, 20)
    with pytest.raises(CheckpointError, match="belong together"):
        ReLA(model.network, too_many)


def test_missing_things(tmp_path):
    with pytest.raises(DownloadError):
        ReLA.from_pretrained(tmp_path / "nothing")
    with pytest.raises(CheckpointError, match="no weights"):
        ReLA.from_pretrained(tmp_path)


def test_bad_configurations():
    for changes in ({"num_queries": 99}, {"backbone": "vit"}, {"hidden_dim": 40}, {"swin_depths": (1, 1)}, {"language_layers": "some"}):
        with pytest.raises(ConfigError):
            ReLAConfig(**changes)
    with pytest.raises(ConfigError, match="colour"):
        ReLAConfig.from_dict({"colour": 1})
    config = ReLAConfig.from_variant("rela-tiny")
    assert ReLAConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config

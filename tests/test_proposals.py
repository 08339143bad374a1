"""Proposals: Grounding DINO (tiny, random), names and their spans, the converter, recall."""

import importlib.util

import numpy as np
import pytest
import tiny_detectors as tiny

from fiftyone_rexseek.errors import CheckpointError, ConfigError, DownloadError
from fiftyone_rexseek.metrics.proposals import proposal_recall
from fiftyone_rexseek.models.proposals import (
    ProposalOptions,
    Proposer,
    attribute,
    caption_of,
    chunk_names,
    clean_names,
    finish,
)
from fiftyone_rexseek.models.proposals.grounding_dino import GroundingDino


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny.grounding_dino(tmp_path_factory.mktemp("gdino"))


@pytest.fixture(scope="module")
def detector(folder):
    return GroundingDino.from_pretrained(folder, device="cpu", box_threshold=0.0, text_threshold=0.0)


def test_is_a_proposer(detector):
    assert isinstance(detector, Proposer)
    facts = detector.describe()
    assert facts["source"] == "grounding-dino" and facts["box_threshold"] == 0.0 and facts["max_candidates"] == 100


def test_boxes_and_scores_are_those_of_transformers(detector):
    import torch

    image = tiny.picture()
    inputs = detector.processor(images=image, text="person. dog.", return_tensors="pt")
    with torch.no_grad():
        outputs = detector.model(**inputs)
    [theirs] = detector.processor.post_process_grounded_object_detection(
        outputs, inputs.input_ids, threshold=0.0, text_threshold=0.0, target_sizes=[image.size[::-1]]
    )
    [ours] = detector.propose([image], [["person", "dog"]])
    assert len(ours) == 30 and set(ours.labels) <= {"person", "dog"}
    order = np.argsort(-theirs["scores"].numpy(), kind="stable")
    np.testing.assert_allclose(ours.scores, theirs["scores"].numpy()[order], atol=1e-6)
    clipped = np.clip(theirs["boxes"].numpy()[order], 0, [160, 128, 160, 128])
    np.testing.assert_allclose(ours.boxes_xyxy, clipped, atol=1e-3)


def test_batch_of_images_with_their_own_names(detector):
    images = [tiny.picture(seed=i) for i in range(3)]
    names = [["person"], [], ["dog", "cat", "man"]]
    batch = detector.propose(images, names)
    assert len(batch[1]) == 0
    for i in (0, 2):
        [alone] = detector.propose([images[i]], [names[i]])
        np.testing.assert_allclose(batch[i].scores, alone.scores, atol=1e-5)
        assert set(batch[i].labels) <= set(names[i])


def test_cap_keeps_the_best_and_counts_the_rest(folder):
    capped = GroundingDino.from_pretrained(folder, device="cpu", box_threshold=0.0, max_candidates=4)
    [found] = capped.propose([tiny.picture()], [["person"]])
    assert len(found) == 4 and found.dropped == 26
    assert (np.diff(found.scores) <= 0).all()


def test_more_names_than_a_caption_holds(detector, monkeypatch):
    monkeypatch.setattr(detector, "max_text_tokens", 8)
    [found] = detector.propose([tiny.picture()], [["person", "dog", "cat", "man", "woman"]])
    assert len(found) > 30  # several passes of 30 queries


@pytest.mark.parametrize("options", [{"box_threshold": 2}, {"text_threshold": -1}, {"max_candidates": 0}])
def test_bad_options_are_refused_before_weights_load(options):
    with pytest.raises(ConfigError):
        GroundingDino.from_pretrained("nobody/nothing", **options)


def test_no_network_is_one_message_with_repository_and_licence():
    with pytest.raises(DownloadError, match=r"IDEA-Research/grounding-dino-tiny.*Apache-2.0"):
        GroundingDino.from_pretrained()


def test_folder_of_something_else(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(CheckpointError, match="Grounding DINO"):
        GroundingDino.from_pretrained(tmp_path)


def test_names_and_spans():
    assert clean_names(" Person , dog.cat,,") == ["person", "dog", "cat"]
    text, spans = caption_of(["a red hat", "dog"])
    assert [text[a:b] for a, b in spans] == ["a red hat", "dog"]
    assert chunk_names([], lambda c: True) == []
    assert chunk_names(["x" * 50], lambda c: len(c) < 5) == [["x" * 50]]


def test_attribution_ignores_special_tokens():
    # tokens: [CLS] dog . cat . [SEP]; the special ones have offset (0, 0) and the highest probability
    offsets = [(0, 0), (0, 3), (3, 4), (5, 8), (8, 9), (0, 0)]
    probs = np.array([[0.9, 0.1, 0, 0.4, 0, 0.9], [0.9, 0.01, 0, 0.02, 0, 0]])
    assert attribute(probs, offsets, [(0, 3), (5, 8)], ["dog", "cat"], 0.05) == ["cat", "object"]


def test_finish_drops_nonsense():
    boxes = [[np.nan, 0, 5, 5], [5, 5, 1, 1], [-10, -10, -5, -5], [1, 1, 4, 4], [1, 1, 4, 4.01]]
    result = finish(boxes, [0.9] * 5, list("abcde"), 10, 10, ProposalOptions(nms_iou_threshold=0.5))
    assert result.labels == ("d",) and result.dropped == 0


def test_recall_is_the_ceiling_of_a_selector():
    gt = [np.array([[0, 0, 10, 10], [20, 20, 30, 30]]), np.zeros((0, 4)), np.array([[0, 0, 4, 4]])]
    candidates = [np.array([[0, 0, 10, 9], [0, 0, 10, 10]]), np.array([[1, 1, 2, 2]]), np.zeros((0, 4))]
    result = proposal_recall(gt, candidates)
    assert result.recall == pytest.approx(1 / 3)
    assert result.per_example == (0.5, None, 0.0)
    assert result.num_targets == 3 and result.num_candidates == 3
    # one candidate cannot serve two targets
    twice = proposal_recall([np.array([[0, 0, 10, 10], [0, 0, 10, 10]])], [np.array([[0, 0, 10, 10]])])
    assert twice.recall == 0.5


needs_groundingdino_py = pytest.mark.skipif(
    importlib.util.find_spec("groundingdino") is None, reason="groundingdino-py is not installed"
)


@needs_groundingdino_py
def test_pth_checkpoint_and_its_conversion_give_equal_boxes(tmp_path):
    """One random IDEA model: through groundingdino-py with the patch, and converted, through transformers."""
    import torch
    from transformers import BertModel

    from fiftyone_rexseek.models.proposals.convert import convert_checkpoint
    from fiftyone_rexseek.models.proposals.groundingdino_py import GroundingDinoPy, preprocess

    bert = tmp_path / "bert"
    config = tiny.bert_config()
    torch.manual_seed(0)
    BertModel(config).save_pretrained(bert)
    tiny.bert_tokenizer().save_pretrained(bert)
    sizes = {"enc_layers": 2, "dec_layers": 2, "num_queries": 30}
    options = {"box_threshold": 0.0, "text_threshold": 0.0}
    native = GroundingDinoPy.from_checkpoint(None, text_encoder=bert, device="cpu", overrides=sizes, **options)
    for name, p in native.model.named_parameters():
        if p.std() == 0 or "bias" in name or "gamma" in name:
            torch.nn.init.normal_(p, std=0.05)
    torch.save({"model": {f"module.{k}": v for k, v in native.model.state_dict().items()}}, tmp_path / "random.pth")
    again = GroundingDinoPy.from_checkpoint(tmp_path / "random.pth", text_encoder=bert, device="cpu", overrides=sizes, **options)
    image = tiny.picture(96, 64)
    [expected] = again.propose([image], [["person", "red hat"]])
    assert len(expected) > 0 and set(expected.labels) <= {"person", "red hat"}

    folder = convert_checkpoint(
        tmp_path / "random.pth",
        tmp_path / "converted",
        tokenizer=bert,
        text_config={k: v for k, v in config.to_dict().items() if k in ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "max_position_embeddings")},
        encoder_layers=2,
        decoder_layers=2,
        num_queries=30,
    )
    ported = GroundingDino.from_pretrained(folder, device="cpu", **options)
    caption = "person. red hat."
    pixels = preprocess(tiny.picture(96, 64).resize((96, 64)))[None][..., :256, :256]
    tokens = ported.processor.tokenizer(caption, return_tensors="pt")
    with torch.no_grad():
        a = native.model(pixels, captions=[caption])
        b = ported.model(pixel_values=pixels, pixel_mask=torch.ones(pixels.shape[0], *pixels.shape[2:]).long(), **tokens)
    n = tokens["input_ids"].shape[1]
    # equally good queries may come in another order
    key = lambda boxes: boxes[torch.argsort(boxes[:, 0])]  # noqa: E731
    torch.testing.assert_close(key(a["pred_boxes"][0]), key(b.pred_boxes[0]), atol=1e-4, rtol=0)
    torch.testing.assert_close(
        a["pred_logits"][..., 1 : n - 1].sort(1)[0], b.logits[..., 1 : n - 1].sort(1)[0], atol=1e-3, rtol=1e-3
    )


@needs_groundingdino_py
def test_pickles_and_wrong_checkpoints_are_refused(tmp_path):
    import pickle

    import torch

    from fiftyone_rexseek.models.proposals.convert import convert_state_dict
    from fiftyone_rexseek.models.proposals.groundingdino_py import read_pth

    (tmp_path / "evil.pth").write_bytes(pickle.dumps({"model": print}))
    for path in (tmp_path / "evil.pth", tmp_path / "missing.pth"):
        with pytest.raises(CheckpointError):
            read_pth(path)
    with pytest.raises(CheckpointError, match="not a Grounding DINO"):
        convert_state_dict({"something.weight": torch.zeros(1)})

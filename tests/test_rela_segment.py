"""``ReLA.segment`` from images and expressions to selections, on tiny random networks."""

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fiftyone_rexseek import masks as rle
from fiftyone_rexseek.datasets.scenes import VOCABULARY
from fiftyone_rexseek.errors import ConfigError
from fiftyone_rexseek.models.rela import ReLA, ReLAConfig, ReLANetwork, SegmentRequest
from fiftyone_rexseek.models.rela.instances import connected_components, split_by_boxes
from fiftyone_rexseek.models.rela.outputs import Answer, answers, choose_regions, foreground
from fiftyone_rexseek.models.rela.processing import to_selection
from fiftyone_rexseek.models.rela.tokenization import build_word_tokenizer, tokenize
from fiftyone_rexseek.referring import Outcome

_spec = importlib.util.spec_from_file_location("test_rela_weights", Path(__file__).with_name("test_rela_weights.py"))
_weights = sys.modules.setdefault("test_rela_weights", importlib.util.module_from_spec(_spec))
_spec.loader.exec_module(_weights)

EXPRESSIONS = ["the red hat", "everyone", "the person in a red shirt to the left of the dog", "nobody knows " * 30]


@pytest.fixture(scope="module")
def conference():
    return with_undecided_heads(_weights.small())


@pytest.fixture(scope="module")
def journal():
    return with_undecided_heads(_weights.small(box_head=True, count_head=True, nms_iou=0.9))


def with_undecided_heads(model: ReLA) -> ReLA:
    """Random networks give nearly constant answers; larger weights at the end make them depend on the input."""
    torch.manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.network.named_parameters():
            if "lang_proj" in name or "res_gate" in name:
                parameter.normal_(std=0.3)
            if any(part in name for part in ("minimap_embed", "count_embed", "nt_embed", "box_embed", "mask_embed")):
                parameter.mul_(3)
    return model


@pytest.fixture(scope="module")
def photo():
    return Image.fromarray(np.random.default_rng(0).integers(0, 255, (60, 90, 3), dtype=np.uint8))


def alike(a, b):
    assert a.outcome == b.outcome and a.answer == b.answer and len(a) == len(b)
    assert np.allclose(a.boxes_xyxy, b.boxes_xyxy, atol=1e-2) and np.allclose(a.scores, b.scores, atol=1e-4)
    assert a.rejection_score == pytest.approx(b.rejection_score, abs=1e-4)
    difference = rle.decode(a.merged_mask) ^ rle.decode(b.merged_mask)
    assert difference.mean() < 0.002


@pytest.mark.parametrize("kind", ["conference", "journal"])
def test_batches_equal_one_by_one(kind, request, photo):
    model = request.getfixturevalue(kind)
    other = photo.transpose(Image.Transpose.ROTATE_90)
    requests = [SegmentRequest(photo, EXPRESSIONS), SegmentRequest(other, EXPRESSIONS[:2]), SegmentRequest(photo, [])]
    together = model.segment_batch(requests)
    assert [len(r) for r in together] == [4, 2, 0]
    for req, selections in zip(requests, together):
        for text, selection in zip(req.expressions, selections):
            [alone] = model.segment(req.image, [text])
            alike(selection, alone)
            assert selection.expression == text
            assert selection.merged_mask["size"] == [req.image.size[1], req.image.size[0]]
    for again, selections in zip(model.segment_batch(requests, batch_size=2), together):
        for a, b in zip(again, selections):
            alike(a, b)
    assert "20 of" in together[0][3].answer and "tokens" in together[0][3].answer


def test_journal_answers(journal, photo):
    selections = journal.segment(photo, EXPRESSIONS)
    for s in selections:
        if s.outcome is Outcome.REJECTED:
            assert len(s) == 0 and rle.area(s.merged_mask) == 0 and "count: 0" in s.answer
            continue
        union = rle.union(s.masks, 60, 90)
        assert np.array_equal(rle.decode(union), rle.decode(s.merged_mask))
        assert sum(rle.area(m) for m in s.masks) == rle.area(s.merged_mask)
        assert ((s.boxes_xyxy >= 0) & (s.boxes_xyxy <= [90, 60, 90, 60])).all()
        assert (np.diff(s.scores) <= 1e-6).all() and ((s.scores >= 0) & (s.scores <= 1)).all()


def test_conference_has_boxes_only_when_asked(conference, photo):
    plain = conference.segment(photo, EXPRESSIONS)
    derived = conference.segment(photo, EXPRESSIONS, derive_boxes=True)
    for a, b in zip(plain, derived):
        assert len(a) == 0 and a.merged_mask == b.merged_mask
        if b.outcome is Outcome.SELECTED and rle.area(b.merged_mask):
            assert len(b) >= 1 and "connected components" in b.answer
            assert np.array_equal(rle.decode(rle.union(b.masks, 60, 90)), rle.decode(b.merged_mask))
            for box, mask in zip(b.boxes_xyxy, b.masks):
                assert rle.mask_box_xyxy(mask).tolist() == box.tolist()


def logits_of(mask: np.ndarray) -> torch.Tensor:
    on = torch.from_numpy(mask).float() * 8 - 4
    return torch.stack([-on, on])


def answer_of(no_target, count=None, boxes=None, scores=None, regions=None) -> Answer:
    return Answer(no_target, 0.25, count, boxes, scores, regions)


def test_conference_keeps_the_mask_it_rejects():
    """The public evaluator adds the uncleared mask to the union of a wrong rejection."""
    config = ReLAConfig(**_weights.SWIN)
    mask = np.zeros((16, 16), bool)
    mask[4:8, 4:8] = True
    args = (logits_of(mask), torch.zeros(100, 16, 16), (64, 64), config)
    rejected = to_selection("x", answer_of(True), *args)
    assert rejected.outcome is Outcome.REJECTED and rle.area(rejected.merged_mask) > 0
    assert rejected.rejection_score == 0.25
    cleared = to_selection("x", answer_of(True, count=0), *args)
    assert cleared.outcome is Outcome.REJECTED and rle.area(cleared.merged_mask) == 0
    empty = to_selection("x", answer_of(False), logits_of(np.zeros((16, 16), bool)), *args[1:])
    assert empty.outcome is Outcome.SELECTED and rle.area(empty.merged_mask) == 0
    small = to_selection("x", answer_of(False), args[0], args[1], (640, 320), config, mask_size="network")
    assert small.merged_mask["size"] == [64, 64]


def test_output_by_count():
    config = ReLAConfig.from_variant("tiny", nms_iou=None, output_threshold=0.7)
    boxes = torch.tensor([[0.0, 0, 0.5, 0.5], [0.01, 0, 0.5, 0.5], [0.5, 0.5, 1, 1], [0.2, 0.2, 0.3, 0.3]])
    scores = torch.tensor([0.9, 0.9, 0.8, 0.4])
    assert choose_regions(boxes, scores, 2, config).tolist() == [0, 1]  # ties in a stable order
    assert choose_regions(boxes, scores, 6, config).tolist() == [0, 1, 2]
    assert choose_regions(boxes, scores * 0.5, 6, config).tolist() == [0]
    with_nms = config.replace(nms_iou=0.6)
    assert choose_regions(boxes, scores, 2, with_nms).tolist() == [0, 2]
    assert choose_regions(boxes, scores, 5, with_nms).tolist() == [0, 2, 3]


def test_foreground_is_the_argmax():
    probabilities = torch.rand(2, 50, 50)
    probabilities[:, :10] = 0.5
    probabilities[:, 10:20] = 1.0
    assert torch.equal(foreground(probabilities), probabilities.argmax(dim=0).bool())


def test_no_target_decision_ties_mean_target(conference):
    output = type("O", (), {})()
    output.minimap_logits, output.boxes_cxcywh, output.count_logits = torch.zeros(3, 100, 2), None, None
    output.no_target_logits = torch.tensor([[0.0, 0.0], [1.0, 2.0], [50.0, 60.0]])
    # the third saturates: both sigmoids are 1, which the public argmax takes for "has target"
    assert [a.no_target for a in answers(output, conference.config)] == [False, True, False]


@pytest.mark.parametrize(
    "image",
    [
        Image.new("L", (1, 1), 7), Image.new("RGB", (1, 700)), Image.new("RGBA", (900, 2)), Image.new("P", (33, 20)),
        Image.new("CMYK", (20, 33)), Image.new("I;16", (9, 9)), np.zeros((5, 7), np.uint8), np.zeros((5, 7, 4), np.uint8),
    ],
    # every worker of a parallel run must find the same names
    ids=lambda image: f"{getattr(image, 'mode', 'array')}-{'x'.join(map(str, getattr(image, 'size', None) if hasattr(image, 'mode') else image.shape))}",
)  # fmt: skip
def test_odd_images(image, journal, conference):
    for model in (journal, conference):
        [s] = model.segment(image, ["a person"])
        assert s.outcome.is_answer
        size = (image.size[1], image.size[0]) if isinstance(image, Image.Image) else image.shape[:2]
        assert tuple(s.merged_mask["size"]) == tuple(size)


def test_one_bad_input_fails_alone(journal, photo, tmp_path):
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8\xff not a picture")
    truncated = tmp_path / "truncated.png"
    photo.save(truncated)
    truncated.write_bytes(truncated.read_bytes()[:3000])
    requests = [
        SegmentRequest(tmp_path / "missing.png", ["a", "b"]),
        SegmentRequest(photo, ["red", "", "  ", None, 7, "hat \u0000 \ud83d\ude00 \u202e [SEP] [PAD]"]),
        SegmentRequest(str(tmp_path / "broken.jpg"), ["a"]),
        SegmentRequest(np.zeros((4, 4, 2), np.uint8), ["a"]),
        SegmentRequest(None, ["a"]),
        SegmentRequest(Image.open(truncated), ["a"]),  # PIL decodes it later
    ]
    results = journal.segment_batch(requests)
    failed = [[s.outcome is Outcome.FAILED for s in r] for r in results]
    assert failed == [[True, True], [False, True, True, True, True, False], [True], [True], [True], [True]]
    assert "missing.png" in results[0][0].error and "empty" in results[1][1].error
    with pytest.raises(ConfigError, match="list of strings"):
        journal.segment(photo, "a person")
    with pytest.raises(ConfigError, match="batch_size"):
        journal.segment(photo, ["a"], batch_size=0)
    with pytest.raises(ConfigError, match="mask_size"):
        journal.segment(photo, ["a"], mask_size="480")
    with pytest.raises(ConfigError, match="no list"):
        journal.segment_batch(requests[1])
    for no_list in (None, 7):
        [s] = journal.segment(photo, no_list)
        assert s.outcome is Outcome.FAILED and type(no_list).__name__ in s.error


@pytest.mark.parametrize("name", ["mask_embed", "minimap_embed", "count_embed", "nt_embed", "sampling_offsets"])
def test_numbers_that_are_not_finite_are_no_answer(name, photo):
    model = _weights.small(box_head=True, count_head=name == "count_embed", image_size=480)
    for parameter in (p for n, p in model.network.named_parameters() if name in n):
        parameter.data.fill_(np.nan)
    [s] = model.segment(photo, ["red"])
    assert s.outcome is Outcome.FAILED and "not finite" in s.error


def test_out_of_memory_halves_then_fails_alone(journal, photo, monkeypatch):
    sizes = []
    forward = ReLANetwork.forward

    def limited(self, images, token_ids, mask, **kwargs):
        sizes.append(len(token_ids))
        if len(token_ids) > 1 or bool((token_ids == 5).any()):
            raise RuntimeError("CUDA out of memory. Tried to allocate 2 GiB")
        return forward(self, images, token_ids, mask, **kwargs)

    monkeypatch.setattr(ReLANetwork, "forward", limited)
    word = journal.tokenizer.convert_ids_to_tokens(5)
    results = journal.segment(photo, ["red", "hat", f"{word} person", "dog"])
    assert [s.outcome is Outcome.FAILED for s in results] == [False, False, True, False]
    assert "memory" in results[2].error and "bfloat16" in results[2].error and sizes[:3] == [4, 2, 1]

    def broken(self, *args, **kwargs):
        raise RuntimeError("shape mismatch")

    monkeypatch.setattr(ReLANetwork, "forward", broken)
    with pytest.raises(RuntimeError, match="shape"):
        journal.segment(photo, ["red"])


def test_half_precision_runs(photo):
    model = _weights.small(box_head=True, count_head=True)
    before = model.segment(photo, ["red", "hat"])
    model.network.to(torch.bfloat16)
    after = model.segment(photo, ["red", "hat"])
    assert [s.outcome.is_answer for s in after] == [True, True]
    assert abs(before[0].rejection_score - after[0].rejection_score) < 0.1


def test_tokens_are_cut_by_slicing():
    tokenizer = build_word_tokenizer(VOCABULARY, 256, 20)
    ids, mask, lengths = tokenize(tokenizer, ["red " * 30, "red", "Zorblax"], 20)
    assert ids.shape == mask.shape == (3, 20) and lengths == [32, 3, 3]
    assert tokenizer.sep_token_id not in ids[0] and mask[0].all()
    assert ids[1].tolist()[3:] == [0] * 17 and mask[1].sum() == 3
    assert ids[2, 1] == tokenizer.unk_token_id


def test_splitting_loses_nothing():
    rng = np.random.default_rng(0)
    for _ in range(20):
        merged = rng.random((12, 17)) < 0.4
        boxes = np.sort(rng.random((3, 2, 2)) * [17, 12], axis=1).reshape(3, 4)
        for strengths in (None, rng.random((3, 12, 17))):
            parts = split_by_boxes(merged, boxes, strengths)
            assert np.array_equal(parts.sum(axis=0), merged.astype(int))
        masks, _ = connected_components(merged)
        assert np.array_equal(masks.sum(axis=0), merged.astype(int))
    assert split_by_boxes(merged, np.zeros((0, 4))).shape == (0, 12, 17)
    assert connected_components(np.zeros((3, 3), bool))[1].shape == (0, 4)


def test_no_target_threshold_decides_alone(conference):
    output = type("O", (), {})()
    output.minimap_logits, output.boxes_cxcywh = torch.zeros(3, 100, 2), torch.rand(3, 100, 4)
    probabilities = torch.tensor([[0.45, 0.5, 0.05, 0, 0, 0, 0], [0.9, 0.1, 0, 0, 0, 0, 0], [0.39, 0.2, 0.3, 0.11, 0, 0, 0]])
    output.count_logits = (probabilities + 1e-9).log()
    config = conference.config
    assert [a.count for a in answers(output, config)] == [1, 0, 0]
    assert [a.count for a in answers(output, config.replace(no_target_threshold=0.4))] == [0, 0, 2]

"""A small random ReLA through the zoo name, ``apply_model`` and ``apply_expressions``, in both variants."""

import fiftyone as fo
import fiftyone.zoo as foz
import numpy as np
import pytest
import tiny_detectors as tiny

from fiftyone_rexseek import masks
from fiftyone_rexseek.errors import CheckpointError
from fiftyone_rexseek.integration import selections, zoo_registration
from fiftyone_rexseek.integration.apply import apply_expressions
from fiftyone_rexseek.models.rela import ReLA, ReLAConfig, ReLANetwork

SIZES = dict(
    text_dim=64, text_layers=1, text_heads=1, text_ffn_dim=64, vocab_size=160, text_positions=32,
    hidden_dim=32, mask_dim=16, encoder_ffn_dim=32, encoder_layers=1, decoder_ffn_dim=32, decoder_layers=2, image_size=64,
    swin_embed_dim=8, swin_depths=(1, 1, 2, 1), swin_heads=(1, 2, 2, 4), swin_windows=(4, 3, 2, 2),
)  # fmt: skip


@pytest.fixture(scope="module", params=[False, True], ids=["conference", "journal"])
def folder(request, tmp_path_factory):
    import torch

    torch.manual_seed(1)
    config = ReLAConfig(**SIZES, variant="custom", box_head=request.param, count_head=request.param)
    path = tmp_path_factory.mktemp("rela")
    ReLA(ReLANetwork(config), tiny.bert_tokenizer()).save_pretrained(path)
    return path


@pytest.fixture
def dataset(tmp_path):
    (tmp_path / "bad.png").write_bytes(b"")
    tiny.picture(90, 70).save(tmp_path / "image.png")
    dataset = fo.Dataset()
    rows = [("image", "the red dog"), ("image", "two people on the left"), ("bad", "a cat"), ("image", "the person " * 200)]
    dataset.add_samples([fo.Sample(filepath=str(tmp_path / f"{f}.png"), expression=t) for f, t in rows])
    yield dataset
    dataset.delete()


def test_through_the_zoo(folder, dataset, tmp_path):
    zoo_registration.register_models()
    model = foz.load_zoo_model("rela-tiny", weights=str(folder), device="cpu", cache=False)
    summary = apply_expressions(dataset, model, "p", mask_dir=tmp_path / "masks")
    assert summary.outcomes["failed"] == 1 and summary.num_images == 2
    dataset.apply_model(model, "q", batch_size=2, num_workers=0, skip_failures=False)
    assert dataset.values("q_outcome") == dataset.values("p_outcome")
    texts = dataset.values("expression")
    counts = model.selector.config.count_head
    assert dataset.has_sample_field("p_count") == dataset.has_sample_field("q_count") == counts
    if counts:
        assert isinstance(dataset.get_field("p_count"), fo.IntField)
        assert "more than five" in dataset.get_field("p_count").description
        assert dataset.values("p_count") == dataset.values("q_count") and dataset.values("p_count")[2] is None
    for sample, expected in zip(dataset, model.selector.segment(dataset.first().filepath, texts)):
        if sample.p_outcome == "failed":
            continue
        assert sample.p_outcome == expected.outcome.value
        assert not counts or (sample.p_count == expected.count and (expected.count == 0) == (expected.outcome.value == "rejected"))
        kept = sample.p if expected.outcome.value == "selected" else sample.p_rejected_mask
        truth = masks.decode(expected.merged_mask)
        assert (selections.merged_mask(kept, 90, 70) == truth).all()
        if len(expected):
            assert len(sample.q.detections) == len(expected)
            for detection, mask in zip(sample.q.detections, expected.masks):
                found = selections.detection_mask(detection, 90, 70)
                assert (found == masks.decode(mask)).all() if found is not None else not masks.area(mask)
            assert np.allclose([selections.detection_box(d, 90, 70) for d in sample.q.detections], expected.boxes_xyxy)


def test_weights_of_another_variant_are_named(folder):
    with pytest.raises(CheckpointError, match="swin-base"):
        foz.load_zoo_model("rela-swin-base", weights=str(folder), device="cpu", cache=False)

"""FiftyOne's own SAM and detectors behind our interfaces, and the small RexSeek checkpoint through the whole chain."""

from pathlib import Path

import fiftyone as fo
import fiftyone.zoo as foz
import numpy as np
import pytest
import tiny_detectors as tiny
from PIL import Image

from fiftyone_rexseek import masks
from fiftyone_rexseek.errors import ConfigError, DownloadError
from fiftyone_rexseek.integration import zoo_registration
from fiftyone_rexseek.integration.apply import apply_expressions
from fiftyone_rexseek.integration.detectors import ZooDetector
from fiftyone_rexseek.integration.segmentation import ZooSegmenter
from fiftyone_rexseek.models.proposals import Proposer
from fiftyone_rexseek.models.segmentation import BoxSegmenter

REXSEEK = Path(__file__).parent / "fixtures" / "rexseek"
BOXES = np.array([[10.4, 10, 60, 50.7], [5.5, 30.2, 100, 80], [90, 2, 110, 40]])


def build_tiny_sam(checkpoint=None):
    """Meta's SAM assembled from its own modules at 128 pixels; ``checkpoint`` is what FiftyOne hands over."""
    import torch
    from segment_anything.modeling import ImageEncoderViT, MaskDecoder, PromptEncoder, Sam, TwoWayTransformer

    torch.manual_seed(0)
    encoder = ImageEncoderViT(depth=2, embed_dim=32, img_size=128, num_heads=2, patch_size=16, out_chans=16)
    prompts = PromptEncoder(embed_dim=16, image_embedding_size=(8, 8), input_image_size=(128, 128), mask_in_chans=4)
    transformer = TwoWayTransformer(depth=1, embedding_dim=16, num_heads=2, mlp_dim=32)
    decoder = MaskDecoder(transformer_dim=16, transformer=transformer, num_multimask_outputs=3)
    return Sam(encoder, prompts, decoder).eval()


@pytest.fixture(scope="module")
def sam():
    pytest.importorskip("segment_anything")
    from fiftyone.utils.sam import SegmentAnythingModel, SegmentAnythingModelConfig

    config = {"entrypoint_fcn": build_tiny_sam, "model_path": "none", "device": "cpu"}
    return SegmentAnythingModel(SegmentAnythingModelConfig(config))


def test_masks_are_those_of_apply_model(sam, tmp_path):
    segmenter = ZooSegmenter(sam)
    assert isinstance(segmenter, BoxSegmenter)
    path = tmp_path / "image.png"
    tiny.picture(121, 83).save(path)
    dataset = fo.Dataset()
    boxes = [fo.Detection(label=str(i), bounding_box=[b[0] / 121, b[1] / 83, (b[2] - b[0]) / 121, (b[3] - b[1]) / 83]) for i, b in enumerate(BOXES)]
    dataset.add_sample(fo.Sample(filepath=str(path), boxes=fo.Detections(detections=boxes)))
    dataset.apply_model(sam, "theirs", prompt_field="boxes", skip_failures=False, num_workers=0)
    ours = segmenter.segment(path, BOXES)
    assert len(ours) == 3
    for detection in dataset.first().theirs.detections:
        x1, y1, x2, y2 = np.round(BOXES[int(detection.label)]).astype(int)
        full = masks.decode(ours[int(detection.label)])
        assert (full[y1:y2, x1:x2] == detection.mask).all()
        assert full.sum() == detection.mask.sum()
    dataset.delete()


def test_turned_images_and_no_boxes(sam, tmp_path):
    segmenter = ZooSegmenter(sam)
    exif = Image.Exif()
    exif[0x0112] = 6
    tiny.picture(121, 83).save(tmp_path / "turned.jpg", exif=exif)
    [mask] = segmenter.segment(tmp_path / "turned.jpg", [[1, 1, 50, 100]])
    assert mask["size"] == [121, 83]
    assert segmenter.segment(tmp_path / "turned.jpg", np.zeros((0, 4))) == []


def test_models_that_take_no_boxes():
    with pytest.raises(ConfigError, match="takes no boxes"):
        ZooSegmenter(object())


def test_zoo_names_and_no_network():
    with pytest.raises(ConfigError, match="unknown"):
        ZooSegmenter.load("segment-everything")
    with pytest.raises(DownloadError, match=r"segment-anything-vitb-torch.*fiftyone zoo models download.*Apache 2.0"):
        ZooSegmenter.load()


@pytest.fixture(scope="module")
def zero_shot(tmp_path_factory):
    folder = tiny.grounding_dino(tmp_path_factory.mktemp("zoo-gdino"))
    return ZooDetector.load(
        "zero-shot-detection-transformer-torch",
        load_options={"name_or_path": str(folder), "classes": ["person", "dog"], "confidence_thresh": 0.0, "device": "cpu"},
        box_threshold=0.0,
        max_candidates=5,
    )


def test_any_detector_of_the_zoo(zero_shot):
    assert isinstance(zero_shot, Proposer) and zero_shot.uses_names is False
    [found] = zero_shot.propose([tiny.picture()], [[]])
    assert 0 < len(found) <= 5 and found.boxes_xyxy.max() <= 160
    assert (np.diff(found.scores) <= 0).all()
    assert zero_shot.describe()["weights"] == "zero-shot-detection-transformer-torch"


def test_from_detector_to_masks_with_the_small_checkpoint(zero_shot, sam, tmp_path):
    """Zoo detector, RexSeek, FiftyOne's SAM: every part real, every part tiny and random."""
    paths = []
    for i in range(2):
        paths.append(tmp_path / f"{i}.png")
        tiny.picture(seed=i).save(paths[-1])
    (tmp_path / "bad.png").write_bytes(b"")
    dataset = fo.Dataset()
    files = [paths[0], paths[1], tmp_path / "bad.png", paths[0]]
    dataset.add_samples([fo.Sample(filepath=str(p), expression=f"person number {i}") for i, p in enumerate(files)])
    zoo_registration.register_models()
    model = foz.load_zoo_model("rexseek-3b", weights=str(REXSEEK), device="cpu", cache=False)
    summary = apply_expressions(
        dataset,
        model,
        "p",
        candidates=zero_shot,
        masks=ZooSegmenter(sam),
        candidates_field="candidates",
        call_options={"decoding": "constrained"},
    )
    assert summary.outcomes["failed"] == 1 and sum(summary.outcomes.values()) == 4
    assert [len(c) if c else c for c in dataset.values("candidates.detections.label")] == [5, 5, None, 5]
    for sample in dataset.match({"p_outcome": "selected"}):
        for detection in sample.p.detections:
            assert detection.bounding_box == sample.candidates.detections[detection.candidate].bounding_box
            assert detection.mask is not None and 0 <= detection.confidence <= 1

    # the same answers through FiftyOne's own function, in worker processes
    dataset.match({"candidates": {"$ne": None}}).apply_model(model, "q", batch_size=2, num_workers=2, skip_failures=False)
    assert dataset.values("q_outcome")[2] is None
    config = {"decoding": "constrained"}
    again = foz.load_zoo_model("rexseek-3b", weights=str(REXSEEK), device="cpu", call_options=config, cache=False)
    dataset.match({"candidates": {"$ne": None}}).apply_model(again, "r", num_workers=0, skip_failures=False)
    assert dataset.values("r_outcome")[:2] == dataset.values("p_outcome")[:2]
    assert dataset.values("r.detections.candidate") == dataset.values("p.detections.candidate")
    dataset.delete()


def test_same_answers_as_the_model_alone(tmp_path):
    from fiftyone_rexseek.models.rexseek import RexSeek

    path = tmp_path / "image.png"
    tiny.picture(200, 120).save(path)
    boxes = np.array([[3.25, 4, 60, 50], [70, 20, 150.5, 110]])
    relative = (boxes / [200, 120, 200, 120]).tolist()
    detections = [
        fo.Detection(label="person", bounding_box=[x0, y0, x1 - x0, y1 - y0], box_xyxy=exact.tolist())
        for (x0, y0, x1, y1), exact in zip(relative, boxes)
    ]
    dataset = fo.Dataset()
    texts = ["the person on the left", "everyone"]
    dataset.add_samples(
        [fo.Sample(filepath=str(path), expression=t, candidates=fo.Detections(detections=[d.copy() for d in detections])) for t in texts]
    )
    model = RexSeek.from_pretrained(REXSEEK, device="cpu")
    apply_expressions(dataset, model, "p")
    for sample, expected in zip(dataset, model.select(path, boxes, texts)):
        assert sample.p_outcome == expected.outcome.value and sample.p_answer == expected.answer
        if expected.outcome.is_answer:
            assert [d.candidate for d in sample.p.detections] == list(expected.indices)
    dataset.delete()

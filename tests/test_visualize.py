"""Annotated pictures of any dataset of images."""

import fiftyone as fo
import numpy as np
import pytest
from PIL import Image

from fiftyone_rexseek.errors import ConfigError
from fiftyone_rexseek.integration import visualize
from fiftyone_rexseek.integration.visualize import GROUND_TRUTH_COLOR, PREDICTION_COLOR, save_annotated


@pytest.fixture
def dataset(tmp_path):
    paths = []
    for i in range(3):
        paths.append(tmp_path / f"{i}.png")
        Image.new("RGB", (120, 80), (200, 200, 200)).save(paths[-1])
    paths[2].write_bytes(b"this is no image")
    dataset = fo.Dataset()
    samples = [fo.Sample(filepath=str(p), expression="everyone with a hat") for p in paths]
    mask = np.ones((40, 60), bool)
    samples[0]["ground_truth"] = fo.Detections(
        detections=[fo.Detection(label="person", bounding_box=[0.25, 0.25, 0.5, 0.5], mask=mask)]
    )
    samples[0]["pred"] = fo.Detections(
        detections=[fo.Detection(label="person", bounding_box=[0.0, 0.0, 0.1, 0.1], confidence=0.5)]
    )
    samples[0]["pred_outcome"] = "selected"
    samples[1]["pred"], samples[1]["pred_outcome"] = fo.Detections(), "rejected"
    dataset.add_samples(samples)
    yield dataset
    dataset.delete()


def test_every_readable_sample_gets_a_picture_and_the_rest_is_named(dataset, tmp_path):
    saved = save_annotated(dataset, tmp_path / "out", ["ground_truth", "pred"])
    assert len(saved.paths) == 2 and all(p.exists() for p in saved.paths)
    assert list(saved.failed) == [dataset.last().id]
    pixels = np.asarray(Image.open(saved.paths[0]))
    assert pixels.shape[0] > 80, "the title band is missing"
    picture = pixels[-80:]
    assert tuple(picture[20, 60]) == GROUND_TRUTH_COLOR  # upper edge of the ground-truth box
    assert tuple(picture[0, 3]) == PREDICTION_COLOR
    tinted = picture[40, 60].astype(int)  # inside the mask: grey pulled towards green
    assert tinted[0] < 150 and tinted[1] > tinted[0]


def test_several_fields_are_named_in_their_colours_and_seen_where_they_coincide(dataset, tmp_path):
    first = dataset.first()
    first["pred"] = fo.Detections(detections=[fo.Detection(label="person", bounding_box=[0.25, 0.25, 0.5, 0.5])])
    first.save()
    pixels = np.asarray(Image.open(save_annotated(dataset, tmp_path / "two", ["ground_truth", "pred"]).paths[0]))
    band = pixels[:-80]
    for color in (GROUND_TRUTH_COLOR, PREDICTION_COLOR):
        assert (band == color).all(axis=2).sum() > 20, "a square before its name"
    edge = pixels[-80:][20:24, 60]
    assert {tuple(p) for p in edge.tolist()} == {PREDICTION_COLOR, GROUND_TRUTH_COLOR}
    # of one field there is no question
    alone = np.asarray(Image.open(save_annotated(dataset, tmp_path / "one", ["pred"]).paths[0]))
    assert not (alone[:-80] == PREDICTION_COLOR).all(axis=2).any() and alone.shape[0] < pixels.shape[0]


def test_fields_are_checked_before_anything_is_written(dataset, tmp_path):
    with pytest.raises(ConfigError, match="no field 'nothing'"):
        save_annotated(dataset, tmp_path / "out", ["nothing"])
    with pytest.raises(ConfigError, match="expression"):
        save_annotated(dataset, tmp_path / "out", ["expression"])
    assert not (tmp_path / "out").exists()


def test_a_box_without_a_label_is_drawn(dataset, tmp_path):
    first = dataset.first()
    first["pred"].detections[0].label = None
    first.save()
    assert len(save_annotated(dataset, tmp_path / "out", ["pred"]).paths) == 2


def test_letters_that_pillow_does_not_bring_are_those_of_the_system():
    if visualize._font(20, False).getname() == visualize._font(20, True).getname():
        pytest.skip("no font of the system was found")
    picture = Image.new("RGB", (200, 100))
    first, second = (np.asarray(visualize.draw_annotated(picture, [], text)) for text in ("\u0436", "\u0448"))
    assert not np.array_equal(first, second), "two letters, not two empty boxes"

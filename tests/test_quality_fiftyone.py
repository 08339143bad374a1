"""Quality checks as tags and a saved view."""

import shutil
from dataclasses import replace

import fiftyone as fo
import pytest
from PIL import Image

from fiftyone_rexseek.errors import ConfigError
from fiftyone_rexseek.integration.importers import import_examples
from fiftyone_rexseek.integration.media import ImageFolder
from fiftyone_rexseek.integration.quality import VIEW, check_quality
from fiftyone_rexseek.referring import ReferringExample, Target

DOG = Target((10, 10, 30, 30), [[10, 10, 30, 10, 30, 30, 10, 30]], "dog", 1)


@pytest.fixture
def dataset(tmp_path):
    Image.effect_noise((100, 80), 20).save(tmp_path / "a.png")
    Image.effect_noise((100, 80), 60).save(tmp_path / "b.png")
    shutil.copy(tmp_path / "a.png", tmp_path / "copy.png")
    first = ReferringExample("a", "1", "the dog", "a.png", (DOG,), split="train")
    examples = [
        first,
        replace(first, expression_id="2", targets=()),
        replace(first, expression_id="3", expression=" "),
        replace(first, expression_id="4", expression="the b;ack dog", targets=(replace(DOG, box_xyxy=(50, 40, 120, 70)),)),
        replace(first, expression_id="5", image_id="copy", file_name="copy.png", split="val", expression="dog"),
        replace(first, expression_id="6", image_id="b", file_name="b.png", split="val", expression="it"),
    ]
    dataset = fo.Dataset()
    import_examples(dataset, examples, ImageFolder(tmp_path), source="test")
    yield dataset
    dataset.delete()


def tags(dataset):
    pairs = zip(dataset.values("expression_id"), dataset.values("tags"))
    return {key: {t.partition(":")[2] for t in of if t.startswith("quality:")} for key, of in pairs}


def test_tags_and_view(dataset):
    report = check_quality(dataset)
    assert report.checked == 6 and report.flagged == 3
    expected = {
        "1": set(), "2": {"no-target-conflict"}, "3": {"empty-expression"},
        "4": {"non-letter-in-word", "target-outside-image", "mask-box-mismatch"}, "5": set(), "6": set(),
    }  # fmt: skip
    assert tags(dataset) == expected and len(dataset.load_saved_view(VIEW)) == 3
    assert check_quality(dataset) == report and tags(dataset) == expected
    assert "empty-expression: 1" in report.summary()


def test_mended_samples_lose_their_tags_and_other_kinds_keep_theirs(dataset):
    check_quality(dataset)
    sample = dataset.match(fo.ViewField("expression_id") == "3").first()
    sample["expression"] = "the cat"
    sample.save()
    assert check_quality(dataset, checks=["empty-expression"]).flagged == 0
    assert tags(dataset)["3"] == set() and tags(dataset)["2"] == {"no-target-conflict"}
    assert len(dataset.load_saved_view(VIEW)) == 2


def test_copies_of_an_image_in_two_splits(dataset):
    report = check_quality(dataset, checks=["image-in-two-splits"], same_image="content")
    assert report.counts == {"image-in-two-splits": 5}
    with pytest.raises(ConfigError):
        check_quality(dataset, same_image="name")


def test_samples_without_ground_truth_are_left_alone(dataset):
    sample = dataset.first()
    sample["ground_truth"] = None
    sample.save()
    assert check_quality(dataset).checked == 5

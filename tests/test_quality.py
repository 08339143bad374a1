"""Checks for referring data."""

from dataclasses import replace
from pathlib import Path

import pytest

from fiftyone_rexseek import masks
from fiftyone_rexseek.datasets.grefcoco import read_grefcoco
from fiftyone_rexseek.datasets.quality import (
    CHECKS,
    QualityConfig,
    check_examples,
    counts,
    non_letters_in_words,
)
from fiftyone_rexseek.errors import ConfigError
from fiftyone_rexseek.referring import ReferringExample, Target

DATA = Path(__file__).parent / "fixtures" / "grefcoco"
DOG = Target((10, 10, 30, 30), [[10, 10, 30, 10, 30, 30, 10, 30]], object_id=1)
CAT = Target((40, 10, 60, 30), None, object_id=2)


def example(text, *targets, image=1, split="val", **kwargs):
    return ReferringExample(image, text, text, f"{image}.jpg", targets, width=100, height=80, split=split, **kwargs)


@pytest.mark.parametrize("text", ["", "  ", "\t\n", "\u00a0", "\u200b \ufeff"])
def test_empty(text):
    assert check_examples([example(text)]) == [("empty-expression",)]


@pytest.mark.parametrize("text", ["b;ack dog", "the r3d car", "man_left", "dog.left", "man,woman", "whi#te", "re]d"])
def test_non_letters_inside_words(text):
    assert non_letters_in_words(text)


@pytest.mark.parametrize(
    "text",
    ["t-shirt", "it's", "the man’s hat", "2nd from left", "#3", "(left)", "left, right; top.", "w/o hat", "U.S. flag",
     "mp3", "café", "cafe\u0301", "12:30", "Ελλάδα", "人", "black & white", "R&B", "half–eaten", "number 4.", "'quoted'", ""],
)  # fmt: skip
def test_ordinary_words(text):
    assert non_letters_in_words(text) == []


def test_conflicts_within_an_image():
    kinds = check_examples(
        [
            example("the dog", DOG), example("The  dog.", CAT), example("the cat", CAT), example("the cat"),
            example("the dog", CAT, image=2), example("a bird"), example("a bird"), example("the cat", CAT),
        ]
    )  # fmt: skip
    conflict, no_target = ("conflicting-targets",), ("no-target-conflict",)
    assert kinds == [conflict, conflict, (), no_target, (), (), (), ()]


@pytest.mark.parametrize(
    "target, kind",
    [
        (Target((90, 10, 110, 20)), "target-outside-image"),
        (Target((-5, 10, 20, 20)), "target-outside-image"),
        (Target((float("nan"), 10, 20, 20)), "target-outside-image"),
        (Target((90, 10, 100.5, 20)), None),
        (DOG, None),
        (replace(DOG, box_xyxy=(50, 50, 70, 70)), "mask-box-mismatch"),
        (replace(DOG, box_xyxy=(8, 11, 31, 29)), None),
        (replace(DOG, segmentation=[[1, 2, 3]]), "mask-box-mismatch"),
        (replace(DOG, segmentation={"size": [80, 100], "counts": [8000]}), "mask-box-mismatch"),
        (replace(DOG, segmentation={"size": [8, 10], "counts": [10, 70]}), "mask-box-mismatch"),
        (replace(DOG, segmentation=masks.compress(DOG.segmentation, 80, 100)), None),
        (replace(DOG, segmentation=[["a"] * 6]), "mask-box-mismatch"),
    ],
)
def test_targets(target, kind):
    assert check_examples([example("x", target)]) == [(kind,) if kind else ()]


def test_splits():
    kinds = check_examples([example("a", split="train"), example("b"), example("c", image=2), example("d", split=None, image=2)])
    assert kinds == [("image-in-two-splits",)] * 2 + [()] * 2
    same = check_examples([example("a", split="train"), example("b", image=2)], image_key=lambda e: "one file")
    assert counts(same) == {"image-in-two-splits": 2}


def test_only_what_was_asked():
    config = QualityConfig(checks=["image-in-two-splits"])
    assert check_examples([example("")], config) == [()]
    with pytest.raises(ConfigError, match="unknown check"):
        QualityConfig(checks=["spelling"])


def test_a_whole_data_set():
    examples = list(read_grefcoco(DATA / "grefcoco"))
    kinds = check_examples(examples)
    assert len(kinds) == len(examples) and set(counts(kinds)) <= set(CHECKS)
    assert "mask-box-mismatch" not in counts(kinds)

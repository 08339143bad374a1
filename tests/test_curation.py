"""Curation views on a handful of samples whose answers are known."""

import fiftyone as fo
import numpy as np
import pytest

from fiftyone_rexseek.errors import ConfigError
from fiftyone_rexseek.integration import curation
from fiftyone_rexseek.integration.presentation import targets_in_words


def boxes(*cells, confidence=None):
    """Detections on a 10-cell strip; equal cells overlap fully, different ones not at all."""
    return fo.Detections(
        detections=[
            fo.Detection(label="person", bounding_box=[c / 10, 0.1, 0.1, 0.5], confidence=confidence) for c in cells
        ]
    )


@pytest.fixture
def dataset():
    dataset = fo.Dataset()
    rows = [
        # ground truth, model a, model b, outcome of a
        (boxes(1), boxes(1, confidence=0.9), boxes(1, confidence=0.95), "selected"),  # fine
        (boxes(1), boxes(2, confidence=0.9), boxes(2, confidence=0.99), "selected"),  # both against the label
        (boxes(1), boxes(2, confidence=0.3), boxes(1, confidence=0.9), "selected"),  # unsure, disagree
        (boxes(), boxes(), boxes(4, confidence=0.6), "rejected"),
        (boxes(5), None, boxes(5, confidence=0.7), "failed"),
    ]
    samples = []
    for i, (gt, a, b, outcome) in enumerate(rows):
        sample = fo.Sample(filepath=f"/nowhere/{i}.png", ground_truth=gt, b=b, a_outcome=outcome)
        sample["num_targets"] = len(gt.detections)
        sample["a_rejection_score"] = 0.7 if outcome == "rejected" else None
        if a is not None:
            sample["a"] = a
        samples.append(sample)
    dataset.add_samples(samples)
    yield dataset
    dataset.delete()


def names(view):
    return [int(p.rsplit("/", 1)[1][0]) for p in view.values("filepath")]


def test_uncertain_first_and_answers_without_confidence_left_out(dataset):
    np.testing.assert_allclose(curation.certainty(dataset, "a"), [0.9, 0.9, 0.3, 0.7, np.nan])
    assert names(curation.most_uncertain(dataset, "a")) == [2, 3, 0, 1]
    assert names(curation.most_uncertain(dataset, "a", limit=1)) == [2]


def test_disagreements(dataset):
    assert names(curation.disagreements(dataset, ["a", "b"])) == [2, 3]
    with pytest.raises(ConfigError, match="two models"):
        curation.disagreements(dataset, ["a", "a"])
    with pytest.raises(ConfigError, match="no field 'c'"):
        curation.disagreements(dataset, ["a", "c"])


def test_suspected_label_errors_are_confident_consistent_and_against_the_label(dataset):
    assert names(curation.suspected_label_errors(dataset, ["a", "b"])) == [1]
    assert names(curation.suspected_label_errors(dataset, ["a", "b"], min_certainty=0.95)) == []


def test_tagging_counts_new_ones_only(dataset):
    assert curation.tag_for_review(dataset[:2]) == 2
    assert curation.tag_for_review(dataset[:3]) == 1
    assert dataset.count_sample_tags() == {"review": 3}


def test_accept_and_undo_bring_the_source_back_exactly(dataset):
    before = dataset.values("ground_truth.detections.id")
    dataset.set_values("target_summary", [targets_in_words(n) for n in dataset.values("num_targets")])
    assert curation.accept_prediction(dataset, "a") == 4, "the failed sample has no answer to accept"
    assert curation.accept_prediction(dataset, "b") == 5, "a second time keeps the first source"
    assert dataset.values("num_targets") == [1, 1, 1, 1, 1] and dataset.distinct("target_summary") == ["1 target"]
    assert dataset.values("ground_truth.detections.bounding_box")[1] == [[0.2, 0.1, 0.1, 0.5]]
    assert curation.undo_accept(dataset) == 5
    assert dataset.values("ground_truth.detections.id") == before
    assert dataset.values("num_targets") == [1, 1, 1, 0, 1]
    assert dataset.values("target_summary") == ["1 target"] * 3 + ["no target", "1 target"]
    assert curation.undo_accept(dataset) == 0
    assert dataset.count_sample_tags() == {}


def test_a_sample_without_ground_truth_is_without_it_again(dataset):
    dataset.add_sample_field("target_summary", fo.StringField)
    asked = dataset.last()
    asked["ground_truth"], asked["a"], asked["a_outcome"] = None, boxes(), "rejected"
    asked.save()
    view = dataset.select(asked.id)
    assert curation.accept_prediction(view, "a") == 1
    assert [view.values(name) for name in ("num_targets", "target_summary")] == [[0], ["no target"]]
    assert curation.undo_accept(dataset) == 1
    assert [view.values(name) for name in ("ground_truth", "num_targets", "target_summary")] == [[None]] * 3

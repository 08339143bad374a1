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


def truth(dataset, field="ground_truth"):
    return dataset.values(f"{field}.detections.id")


def test_every_ground_truth_field_has_its_own_source(dataset):
    dataset.clone_sample_field("ground_truth", "gt2")
    before = truth(dataset), truth(dataset, "gt2")
    curation.accept_prediction(dataset[:2], "b")
    curation.accept_prediction(dataset[1:3], "b", "gt2")
    assert curation.undo_accept(dataset) == 2
    assert truth(dataset) == before[0] and truth(dataset, "gt2")[1:3] != before[1][1:3]
    assert len(dataset.match_tags(curation.ACCEPTED_TAG)) == 2, "what is accepted in the other field keeps the tag"
    assert curation.undo_accept(dataset, "gt2") == 2
    assert truth(dataset, "gt2") == before[1] and dataset.count_sample_tags() == {}


def test_the_tag_is_for_people(dataset):
    before = truth(dataset)
    dataset[:1].tag_samples(curation.ACCEPTED_TAG)
    curation.accept_prediction(dataset[:2], "b")
    dataset.untag_samples(curation.ACCEPTED_TAG)
    curation.accept_prediction(dataset[:2], "a")
    assert curation.undo_accept(dataset) == 2 and truth(dataset) == before


def test_boxes_that_a_view_hides_come_back(dataset):
    first = dataset.first()
    first["ground_truth"] = boxes(1, 7)
    first.save()
    before = truth(dataset)
    view = dataset[:2].filter_labels("ground_truth", fo.ViewField("bounding_box")[0] < 0.5)
    assert curation.accept_prediction(view, "b") == 2
    assert dataset.values("num_targets")[:2] == [1, 1]
    assert curation.undo_accept(view) == 2
    assert truth(dataset) == before and dataset.values("num_targets")[:2] == [2, 1]


def test_a_prediction_is_accepted_as_the_view_shows_it_with_its_masks(dataset):
    first = dataset.first()
    first["b"] = boxes(2, confidence=0.9)
    first["b"].detections += boxes(3, confidence=0.1).detections
    first["b"].detections[0].mask = np.eye(3, dtype=bool)
    first.save()
    curation.accept_prediction(dataset[:1].filter_labels("b", fo.ViewField("confidence") > 0.5), "b")
    [accepted] = dataset.first()["ground_truth"].detections
    assert accepted.id != first["b"].detections[0].id and accepted.bounding_box == [0.2, 0.1, 0.1, 0.5]
    assert accepted.mask.tolist() == np.eye(3, dtype=bool).tolist() and accepted.confidence is None


def test_counts_are_those_of_the_samples_that_changed(dataset):
    dataset.set_values("target_summary", [targets_in_words(n) for n in dataset.values("num_targets")])
    for i in (0, 3):  # two samples without a target: one gets one, one stays without
        sample = dataset.skip(i).first()
        sample["ground_truth"], sample["num_targets"], sample["target_summary"] = boxes(), 0, "no target"
        sample.save()
    view = dataset.match(fo.ViewField("num_targets") == 0)
    assert curation.accept_prediction(view, "a") == 2 and len(view) == 1
    assert dataset.values("num_targets")[0] == 1 and dataset.values("target_summary")[:4] == ["1 target"] * 3 + ["no target"]
    curation.undo_accept(dataset.match_tags(curation.ACCEPTED_TAG))
    assert dataset.values("num_targets")[0] == 0 and dataset.values("target_summary")[0] == "no target"
    unlabelled = dataset.last()
    unlabelled["ground_truth"] = unlabelled["num_targets"] = None
    unlabelled.save()
    assert curation.accept_prediction(dataset.exists("ground_truth", False), "b") == 1
    assert dataset.values("num_targets")[4] == 1


def test_what_an_earlier_version_accepted_is_undone(dataset):
    before = truth(dataset)
    curation.accept_prediction(dataset[:2], "b")
    dataset.delete_sample_field("ground_truth_accepted")
    assert curation.undo_accept(dataset) == 2
    assert truth(dataset) == before and dataset.count_sample_tags() == {} and not dataset.has_sample_field("ground_truth_accepted")


def test_any_slice_of_a_grouped_dataset(dataset):
    grouped = fo.Dataset()
    grouped.add_group_field("group", default="left")
    group, samples = fo.Group(), [dataset.first().copy(), dataset.skip(1).first().copy()]
    for sample, side in zip(samples, ("left", "right")):
        sample["group"] = group.element(side)
    grouped.add_samples(samples)
    try:
        right = grouped.select_group_slices("right")
        before = truth(right)
        assert curation.accept_prediction(right, "b") == 1
        assert truth(right) != before and truth(grouped) == [[d.id for d in samples[0].ground_truth.detections]]
        assert curation.undo_accept(right) == 1 and truth(right) == before
    finally:
        grouped.delete()

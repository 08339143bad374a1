"""apply_expressions: grouping, resuming, failures, proposals, masks, processes; around models that answer by rule."""

import importlib.util
from collections import Counter

import fiftyone as fo
import numpy as np
import pytest
import tiny_detectors as tiny
from fake_models import FakeProposer, FakeSegmenter, FakeSelector
from PIL import Image

from fiftyone_rexseek import masks
from fiftyone_rexseek.errors import ConfigError, DataError
from fiftyone_rexseek.integration import apply as apply_module
from fiftyone_rexseek.integration import selections
from fiftyone_rexseek.integration.apply import apply_expressions, candidate_recall
from fiftyone_rexseek.models import registry


class Untouchable:
    """Stands for weights that must not be loaded before the options have been checked."""

    def __call__(self, *args, **kwargs):
        raise AssertionError("weights were loaded")


@pytest.fixture
def dataset(tmp_path):
    for i in range(3):
        Image.new("RGB", (40, 30), (i, 0, 0)).save(tmp_path / f"{i}.png")
    (tmp_path / "broken.png").write_bytes(b"no image")
    samples = []
    rows = [("0", "all"), ("1", "none"), ("0", "1"), ("broken", "first"), ("1", "garbled"), ("2", "crash"), ("0", "none")]
    for file, text in rows:
        boxes = [[0, 0, 0.25, 0.5], [0.5, 0.5, 0.5, 0.5]]
        candidates = [fo.Detection(label=f"kind{i}", bounding_box=b, confidence=0.5) for i, b in enumerate(boxes)]
        truth = [] if text == "none" else [fo.Detection(label="person", bounding_box=b) for b in ([0, 0, 0.25, 0.5], [0.6, 0, 0.1, 0.1])]
        samples.append(
            fo.Sample(
                filepath=str(tmp_path / f"{file}.png"),
                expression=text,
                candidates=fo.Detections(detections=candidates),
                ground_truth=fo.Detections(detections=truth),
            )
        )
    dataset = fo.Dataset()
    dataset.add_samples(samples)
    yield dataset
    dataset.delete()


def test_the_whole_job(dataset):
    model = FakeSelector()
    summary = apply_expressions(dataset, model, "p", batch_size=2)
    assert dataset.values("p_outcome") == ["selected", "rejected", "selected", "failed", "unparsed", "failed", "rejected"]
    assert dataset.values("p.detections.label") == [["kind0", "kind1"], [], ["kind1"], None, None, None, []]
    assert dataset.values("p.detections.candidate")[2] == [1]
    assert dataset.values("p.detections.box_xyxy")[2] == [[20, 15, 40, 30]]
    assert dataset.values("p_answer")[1] == "There is no such thing"
    assert dataset.values("p_rejection_score")[1] == pytest.approx(0.9)
    assert "cannot be read" in dataset.values("p_error")[3] and "out of memory" in dataset.values("p_error")[5]
    assert summary.outcomes == {"selected": 2, "rejected": 2, "unparsed": 1, "failed": 2}
    assert (summary.num_images, summary.num_samples, summary.num_skipped) == (4, 7, 0)
    # five samples have two targets each, one of them among the candidates; the broken image's are not counted
    assert summary.proposal_recall == pytest.approx(0.5)
    assert summary.expressions_per_second > 0
    assert "2 selected, 2 rejected, 1 unparsed, 2 failed" in str(summary)
    # the three samples of image 0 were one question
    assert max(max(call) for call in model.calls) == 3


def test_resuming_asks_only_what_has_no_answer(dataset):
    apply_expressions(dataset, FakeSelector(), "p")
    model = FakeSelector()
    summary = apply_expressions(dataset, model, "p")
    assert summary.num_skipped == 5 and summary.num_samples == 2
    first = dataset.first()
    first["expression"] = "crash"
    first.save()
    again = apply_expressions(dataset, FakeSelector(), "p", resume=False)
    assert again.num_samples == 7
    # a failure takes the earlier answer away
    assert dataset.values("p")[0] is None and dataset.values("p_outcome")[0] == "failed"


def test_other_settings_are_not_a_resumption(dataset):
    apply_expressions(dataset, FakeSelector(), "p")
    summary = apply_expressions(dataset, FakeSelector(), "p", label="person")
    assert summary.num_skipped == 0
    assert dataset.values("p.detections.label")[0] == ["person", "person"]


def test_answers_of_unknown_origin_are_asked_again(dataset):
    apply_expressions(dataset, FakeSelector(), "p")
    dataset.delete_run("apply_p")
    assert apply_expressions(dataset, FakeSelector(), "p", label="person").num_skipped == 0
    assert dataset.values("p.detections.label")[0] == ["person", "person"]


class Stops(FakeSelector):
    """Answers two calls; its name is that of any other fake model, so that the run can go on."""

    def select_batch(self, requests, **options):
        if len(self.calls) == 2:
            raise KeyboardInterrupt
        return super().select_batch(requests, **options)


Stops.__qualname__ = "FakeSelector"


def test_a_run_that_stops_does_not_take_another_runs_answers_for_its_own(dataset):
    apply_expressions(dataset, FakeSelector(), "p", ["all"])
    with pytest.raises(KeyboardInterrupt):
        apply_expressions(dataset, Stops(), "p", ["none"], batch_size=1, num_workers=0)
    assert dataset.values("p_outcome") == ["rejected"] * 3 + ["failed", "rejected", None, "rejected"]
    assert dataset.values("p")[5] is None and dataset.values("p_answer")[5] is None
    assert apply_expressions(dataset, FakeSelector(), "p", ["none"]).num_skipped == 5
    assert set(dataset.values("p_outcome")) == {"rejected", "failed"}


def test_answers_of_another_run_beside_the_target_are_asked_again(dataset):
    apply_expressions(dataset, FakeSelector(), "p", ["all"])
    apply_expressions(dataset.limit(2), FakeSelector(), "p", ["none"])
    assert dataset.values("p_outcome")[:3] == ["rejected", "rejected", "selected"]
    assert apply_expressions(dataset, FakeSelector(), "p", ["none"]).num_skipped == 0
    assert set(dataset.values("p_outcome")) == {"rejected", "failed"}
    assert apply_expressions(dataset, FakeSelector(), "p", ["none"]).num_skipped == 6


def test_nothing_of_another_run_stays_beside_an_answer(dataset):
    apply_expressions(dataset, FakeSelector(), "p", ["none"])
    apply_expressions(dataset, FakeSelector(), "p", ["all", "none"])
    assert set(dataset.values("p_answer")) == {None} == set(dataset.values("p_rejection_score"))
    # what is read is not taken away
    dataset.rename_sample_field("candidates", "p_candidates")
    apply_expressions(dataset, FakeSelector(), "p", ["all"], candidates="p_candidates")
    assert dataset.values("p_expressions") == [None] * 7 and dataset.values("p_outcome")[0] == "selected"


@pytest.mark.parametrize("error", [KeyboardInterrupt, AssertionError])
def test_an_interrupted_run_loses_nothing_and_goes_on(dataset, error):
    class Interrupted(FakeSelector):
        def select_batch(self, requests, **options):
            if len(self.calls) == 2:
                raise error("enough")
            return super().select_batch(requests, **options)

    model = Interrupted()
    model.__class__.__qualname__ = "FakeSelector"
    with pytest.raises(error):
        apply_expressions(dataset, model, "p", batch_size=1, num_workers=0)
    answered = [o for o in dataset.values("p_outcome") if o is not None]
    assert len(answered) == 6  # images 0 and 1, and the unreadable one, for which the model is not asked
    second = FakeSelector()
    summary = apply_expressions(dataset, second, "p", batch_size=1)
    assert summary.num_skipped == 5 and None not in dataset.values("p_outcome")


def test_constant_text_and_list_of_texts(dataset):
    apply_expressions(dataset, FakeSelector(), "one", ["all"])
    assert dataset.values("one_outcome") == ["selected"] * 3 + ["failed"] + ["selected"] * 3
    summary = apply_expressions(dataset, FakeSelector(), "many", ["all", "none", "1"])
    assert sum(summary.outcomes.values()) == 21
    sample = dataset.first()
    assert [d.expression for d in sample.many.detections] == ["all", "all", "1"]
    assert sample.many_outcomes == ["selected", "rejected", "selected"] and sample.many_outcome == "selected"
    assert sample.many_expressions == ["all", "none", "1"]
    assert apply_expressions(dataset, FakeSelector(), "many", ["all", "none", "1"]).num_skipped == 6
    # one that fails takes the sample's answer with it: it is asked again
    apply_expressions(dataset, FakeSelector(), "bad", ["all", "crash"])
    assert set(dataset.values("bad_outcome")) == {"failed"} and dataset.values("bad")[0] is None


def test_list_field(dataset):
    dataset.set_values("questions", [["all", "none"]] * 6 + [None])
    apply_expressions(dataset, FakeSelector(), "p", "questions")
    assert dataset.values("p_outcomes")[0] == ["selected", "rejected"]
    assert dataset.values("p_outcome")[6] == "failed" and "no expression" in dataset.values("p_error")[6]


@pytest.mark.parametrize(
    "arguments",
    [
        {"expressions": "nowhere"},
        {"expressions": "field:two words"},
        {"expressions": []},
        {"expressions": ["fine", " "]},
        {"expressions": "ground_truth"},
        {"candidates": "nowhere"},
        {"candidates": "expression"},
        {"candidates": 3},
        {"label_field": "no field"},
        {"label_field": "class"},
        {"label_field": "expression"},
        {"label_field": "ground_truth"},
        {"batch_size": 0},
        {"distributed": "magic"},
        {"model": "rexseek-4b"},
        {"model": 3},
        {"model": "rela-tiny", "candidates": "candidates"},
    ],
    ids=str,
)
def test_what_makes_no_sense_is_said_before_weights_load(dataset, arguments, monkeypatch):
    monkeypatch.setattr(registry, "load", Untouchable())
    with pytest.raises(ConfigError):
        apply_expressions(dataset, **{"model": "rexseek-3b", "label_field": "p", **arguments})
    assert not dataset.has_sample_field("p") and not dataset.list_runs()


def test_patch_views_are_refused(dataset):
    with pytest.raises(ConfigError, match="patches are not samples"):
        apply_expressions(dataset.to_patches("candidates"), FakeSelector(), "p")


def test_a_view_grouped_by_image_stands_for_its_samples(dataset):
    apply_expressions(dataset.group_by("filepath"), FakeSelector(), "p")
    assert None not in dataset.values("p_outcome")


def test_ground_truth_is_replaced_only_when_asked(dataset):
    apply_expressions(dataset, FakeSelector(), "ground_truth", ["all"], gt_field=None, overwrite=True)
    assert len(dataset.first().ground_truth.detections) == 2


def test_samples_without_candidates_are_not_rejections(dataset):
    dataset.set_values("candidates", [None, fo.Detections()] + [s.candidates for s in dataset.skip(2)])
    dataset.set_values("expression", ["all"] * 7)
    apply_expressions(dataset, FakeSelector(), "p")
    assert dataset.values("p_outcome")[:3] == ["failed", "rejected", "selected"]
    assert "have not been looked for" in dataset.values("p_error")[0]


def test_a_view_decides_which_candidates_count(dataset):
    from fiftyone import ViewField as F

    view = dataset.filter_labels("candidates", F("label") == "kind1")
    apply_expressions(view, FakeSelector(), "p", ["first"])
    assert dataset.values("p.detections.label")[0] == ["kind1"]
    assert dataset.values("p.detections.bounding_box")[0] == [[0.5, 0.5, 0.5, 0.5]]


def test_skip_failures_false_raises(dataset):
    with pytest.raises(DataError, match="sample"):
        apply_expressions(dataset, FakeSelector(), "p", skip_failures=False)


def test_proposer_with_fixed_names(dataset):
    proposer = FakeProposer()
    summary = apply_expressions(dataset, FakeSelector(), "p", candidates=proposer, prompt="Person, dog")
    # once per readable image, however many samples share it
    assert Counter(proposer.asked) == {("person", "dog"): 3}
    assert dataset.values("p_candidates.detections.label")[0] == ["person", "person"]
    assert dataset.values("p_candidates.detections.confidence")[0] == [pytest.approx(0.9), pytest.approx(0.4)]
    assert dataset.values("p.detections.label")[0] == ["person", "person"]
    assert dataset.values("p.detections.bounding_box")[2] == [[0.5, 0.5, 0.5, 0.5]]
    assert summary.dropped_candidates == 6
    config = dataset.get_run_info("apply_p").config
    assert config.candidates == {"source": "fake", "box_threshold": 0.5} and config.prompt == ["person", "dog"]
    assert config.summary["outcomes"]["failed"] == 2


def test_proposer_with_the_nouns_of_the_expression(dataset, tmp_path):
    pytest.importorskip("spacy")
    pipeline = tiny.spacy_pipeline(tmp_path / "spacy")
    proposer = FakeProposer()
    dataset.set_values("expression", ["the man wearing a green hat", "!", *["the red car"] * 5])

    class Anything(FakeSelector):
        def _answer(self, request, text):
            return super()._answer(request, "all")

    apply_expressions(dataset, Anything(), "p", candidates=proposer, noun_pipeline=str(pipeline), candidates_field="found")
    asked = Counter(proposer.asked)
    assert asked[("the man", "a green hat")] == 1 and asked[("object",)] == 1 and asked[("the red car",)] == 3
    assert dataset.values("found.detections.label")[0] == ["the man", "the man"]


def test_segmenter_masks_in_database_and_on_disk(dataset, tmp_path):
    texts = ["left", "none", "two", "left", "left", "crash", "two"]
    dataset.set_values("expression", texts)
    apply_expressions(dataset, FakeSegmenter(), "r")
    assert dataset.values("r_outcome") == ["selected", "rejected", "selected", "failed", "selected", "failed", "selected"]
    left, two = dataset.first(), dataset.skip(2).first()
    assert left.r.detections[0].mask.shape == (30, 20) and left.r.detections[0].label == "person"
    assert len(two.r.detections) == 2
    assert selections.merged_mask(two.r, 40, 30).sum() == 600 + 25
    apply_expressions(dataset, FakeSegmenter(), "disk", mask_dir=tmp_path / "masks", label="car")
    [detection] = dataset.first().disk.detections
    assert detection.mask is None and detection.label == "car"
    assert (selections.detection_mask(detection, 40, 30) == selections.detection_mask(left.r.detections[0], 40, 30)).all()


def test_what_a_rejecting_segmenter_drew_is_kept_apart(dataset):
    apply_expressions(dataset, FakeSegmenter(), "r", ["doubt"])
    sample = dataset.first()
    assert sample.r_outcome == "rejected" and sample.r.detections == []
    assert selections.merged_mask(sample.r_rejected_mask, 40, 30).sum() == 600
    apply_expressions(dataset, FakeSegmenter(), "r", ["none"])
    assert dataset.first().r_rejected_mask is None


def test_masks_for_selected_boxes(dataset):
    class Boxes:
        def describe(self):
            return {"source": "boxes"}

        def segment(self, image, boxes_xyxy):
            if image.getpixel((0, 0))[0] == 1:
                raise RuntimeError("no luck")
            found = []
            for x0, y0, x1, y1 in boxes_xyxy.astype(int):
                mask = np.zeros(image.size[::-1], bool)
                mask[y0:y1, x0:x1] = True
                found.append(masks.encode(mask))
            return found

    dataset.set_values("expression", ["all"] * 7)
    apply_expressions(dataset, FakeSelector(), "p", masks=Boxes())
    assert [d.mask.all() for d in dataset.first().p.detections] == [True, True]
    # no masks is not no answer
    assert dataset.values("p_outcome")[1] == "selected" and "no masks" in dataset.values("p_error")[1]


def test_masks_by_name_load_fiftyones_sam(dataset, monkeypatch):
    from fiftyone_rexseek.integration import segmentation

    asked = []
    monkeypatch.setattr(segmentation.ZooSegmenter, "load", classmethod(lambda cls, name: asked.append(name)))
    apply_expressions(dataset, FakeSelector(), "p", masks=True)
    apply_expressions(dataset, FakeSelector(), "q", masks="segment-anything-vitl-torch")
    apply_expressions(dataset, FakeSegmenter(), "r", ["left"], masks=True)
    assert asked == [apply_module.DEFAULT_SAM, "segment-anything-vitl-torch"]


def test_recall_of_a_candidates_field(dataset):
    dataset.compute_metadata(skip_failures=True)
    result = candidate_recall(dataset.match_tags("x", bool=False).exists("metadata.width"))
    assert result.recall == pytest.approx(0.5) and result.num_targets == 8


def test_progress_callback(dataset):
    seen = []
    apply_expressions(dataset, FakeSelector(), "p", progress=lambda bar: seen.append(bar.progress), batch_size=1)
    assert seen[-1] == pytest.approx(1.0)


@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed")
@pytest.mark.slow
def test_ray(dataset):
    import fake_models
    from ray import cloudpickle

    cloudpickle.register_pickle_by_value(fake_models)  # the other process cannot import the tests
    summary = apply_expressions(dataset, FakeSelector, "p", distributed="ray", num_actors=1, batch_size=2, timeout_s=120)
    assert dataset.values("p_outcome") == ["selected", "rejected", "selected", "failed", "unparsed", "failed", "rejected"]
    assert summary.num_samples == 7

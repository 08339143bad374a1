"""What is asked, scored and shown when the App shows something else than single images: groups, patches, frames, videos."""

import fake_models
import fiftyone as fo
import plugin
import pytest
from evaluated import make_dataset
from fiftyone import ViewField as F
from PIL import Image

from fiftyone_rexseek.errors import ConfigError
from fiftyone_rexseek.integration import curation
from fiftyone_rexseek.integration.apply import apply_expressions
from fiftyone_rexseek.integration.evaluation import evaluate_referring
from fiftyone_rexseek.integration.examples import examples_of
from fiftyone_rexseek.integration.fields import flat_images
from fiftyone_rexseek.integration.predictions import export_predictions
from fiftyone_rexseek.integration.quality import check_quality


@pytest.fixture(scope="module", autouse=True)
def installed():
    plugin.install()


@pytest.fixture
def dataset(tmp_path):
    files = [tmp_path / f"{i}.png" for i in range(8)]
    for file in files:
        Image.new("RGB", (64, 48), "white").save(file)
    dataset = make_dataset(24, filepaths=files)
    yield dataset
    dataset.delete()


def grouped(dataset):
    return dataset.group_by("image_id", order_by="expression_id")


@pytest.fixture
def video_dataset():
    video = fo.Dataset()
    sample = fo.Sample("/nowhere/clip.mp4", ground_truth=fo.Detections(), expression="a dog")
    sample.frames[1] = fo.Frame(found=fo.Detections(detections=[fo.Detection(label="dog", bounding_box=[0, 0, 0.5, 0.5])]))
    video.add_samples([sample], progress=False)
    yield video
    video.delete()


@pytest.fixture
def slices(dataset):
    sliced = fo.Dataset()
    sliced.add_group_field("group", default="left")
    group = fo.Group()
    made = [fo.Sample(dataset.first().filepath, group=group.element(n), ground_truth=fo.Detections()) for n in ("left", "right")]
    sliced.add_samples(made, progress=False)
    yield sliced
    sliced.delete()


def test_a_grouped_view_stands_for_all_samples_of_its_groups(dataset):
    everything = set(dataset.values("id"))
    assert set(flat_images(grouped(dataset)).values("id")) == everything
    few = dataset.match(F("num_targets") > 1)
    assert set(flat_images(grouped(few)).values("id")) == set(few.values("id"))
    # stages after the grouping choose groups, by their first sample
    one = grouped(dataset).limit(1)
    assert len(flat_images(one)) == 3 and len(flat_images(one).distinct("image_id")) == 1
    two = grouped(dataset).select([s.id for s in grouped(dataset).limit(2)])
    assert len(flat_images(two)) == 6
    assert flat_images(dataset) is dataset
    assert len(flat_images(dataset.group_by("image_id", flat=True))) == 24


def test_evaluation_of_a_grouped_view_is_that_of_its_samples(dataset):
    plain = evaluate_referring(dataset, "good", eval_key="plain")
    of_groups = evaluate_referring(grouped(dataset), "good", eval_key="grouped")
    assert of_groups.summary == plain.summary
    assert dataset.values("grouped_score") == dataset.values("plain_score")
    assert len(dataset.load_evaluation_view("grouped")) == 24
    some = evaluate_referring(grouped(dataset).limit(2), "good", eval_key="some")
    assert dataset.count("some_success") == 6 and len(some.samples) == 6


def test_expressions_of_a_grouped_view_are_asked(dataset):
    dataset.set_values("expression", ["first"] * 24)
    summary = apply_expressions(grouped(dataset).limit(2), fake_models.FakeSelector(), "asked", "expression")
    assert summary.outcomes["selected"] == 6 and dataset.count("asked_outcome") == 6


def test_export_of_a_grouped_view(dataset):
    assert len(list(examples_of(grouped(dataset)))) == 24


def test_operators_on_a_grouped_view(dataset):
    view = grouped(dataset)
    form = plugin.form("evaluate_referring", dataset, {}, view=view)
    assert form["note"]["view"]["label"] == "24 samples will be scored" and "view_target" in form
    params = {"pred_field": "good", "gt_field": "ground_truth", "method": "humanref", "protocol": "official", "eval_key": "g"}
    assert plugin.execute("evaluate_referring", dataset, params, view=view).result["count"] == 24
    chosen = [s.id for s in view.limit(2)]
    request = {"view": view, "selected": chosen}
    params |= {"view_target": "SELECTED_SAMPLES", "eval_key": "h"}
    assert plugin.form("evaluate_referring", dataset, dict(params), **request)["note"]["view"]["label"] == "6 samples will be scored"
    assert plugin.execute("evaluate_referring", dataset, params, **request).result["count"] == 6


# every operator whose form offers a choice of samples
TARGETED = ("evaluate_referring", "apply_expressions", "save_annotated", "check_quality", "most_uncertain", "disagreements",
            "suspected_label_errors", "export_predictions", "describe_targets", "fine_tune", "compare_runs")  # fmt: skip


def names():
    known = [name for name in TARGETED if plugin.operator(name) is not None]
    assert known == list(TARGETED)
    return known


def test_every_operator_opens_on_a_grouped_view(dataset):
    for name in names():
        form = plugin.form(name, dataset, {}, view=grouped(dataset))
        assert "refusal" not in form, name


def test_every_operator_says_why_not_patches(dataset):
    patches = dataset.to_patches("ground_truth")
    for name in names():
        form = plugin.form(name, dataset, {}, view=patches)
        assert "patches" in form["refusal"]["error_message"] and form["refusal"]["invalid"], name
        assert "view_target" in form, name  # the dataset may still be chosen
        assert "refusal" not in plugin.form(name, dataset, {"view_target": "DATASET"}, view=patches), name


def test_every_operator_says_why_not_videos(video_dataset):
    for name in names():
        assert "apply_to_video" in plugin.complaints(name, video_dataset).get("refusal", ""), name


def test_every_operator_takes_the_active_slice(slices):
    for name in names():
        assert "refusal" not in plugin.form(name, slices), name


@pytest.mark.parametrize("call", [
    lambda samples: evaluate_referring(samples, "good"),
    lambda samples: apply_expressions(samples, fake_models.FakeSelector(), "asked", ["a dog"]),
    lambda samples: list(examples_of(samples)),
])  # fmt: skip
def test_functions_name_what_they_cannot_take(call, dataset, video_dataset, slices):
    for samples, found in (
        (dataset.to_patches("ground_truth"), "patches"),
        (video_dataset, "videos"),
        (video_dataset.to_clips([[[1, 1]]]), "clips"),
        (slices, "slices left, right"),
    ):
        with pytest.raises(ConfigError, match=found):
            call(samples)


def test_files_and_curation_of_a_grouped_view(dataset, tmp_path):
    view = grouped(dataset)
    export_predictions(dataset, tmp_path / "flat.jsonl", "good")
    export_predictions(view, tmp_path / "grouped.jsonl", "good")
    assert (tmp_path / "grouped.jsonl").read_bytes() == (tmp_path / "flat.jsonl").read_bytes()
    assert curation.most_uncertain(view, "good", 5).values("id") == curation.most_uncertain(dataset, "good", 5).values("id")
    assert curation.disagreements(view, ["good", "poor"]).values("id") == curation.disagreements(dataset, ["good", "poor"]).values("id")
    for samples in (dataset.to_patches("good"),):
        with pytest.raises(ConfigError, match="patches"):
            check_quality(samples)

"""Curation, pictures, quality checks and reset in the browser, each with a look into the database."""

import fiftyone as fo
import pytest

from fiftyone_rexseek.datasets.scenes import generate_scene
from fiftyone_rexseek.geometry import to_relative
from fiftyone_rexseek.integration.curation import ACCEPTED_TAG


@pytest.fixture
def dataset(tmp_path):
    """Drawn scenes with two models: on the second sample both are sure and the label is wrong."""
    from PIL import Image

    # a name of its own per test: the App remembers the view and the open sample of a dataset by its name
    dataset = fo.Dataset(f"operators-{tmp_path.name}", overwrite=True)
    samples = []
    for index in range(4):
        scene = generate_scene(77, index)
        path = tmp_path / f"{index}.png"
        Image.fromarray(scene.render()).save(path)
        boxes = to_relative(scene.boxes_xyxy, 640, 480).tolist()

        def people(*chosen, confidence=None, boxes=boxes):
            found = [fo.Detection(label="person", bounding_box=boxes[k], confidence=confidence) for k in chosen]
            return fo.Detections(detections=found)

        samples.append(
            fo.Sample(
                str(path), metadata=fo.ImageMetadata(width=640, height=480), image_id=str(index), num_targets=1,
                expression="the m;an" if index == 3 else "the person on the left", candidates=people(*range(len(boxes))),
                ground_truth=people(0), good=people(1 if index == 1 else 0, confidence=0.9 - 0.1 * index),
                poor=people(0 if index == 0 else 1, confidence=0.95), good_outcome="selected", poor_outcome="selected",
            )
        )  # fmt: skip
    dataset.add_samples(samples, progress=False)
    yield dataset
    dataset.delete()


def test_suspected_label_errors_are_shown_accepted_and_taken_back(app, dataset):
    ids = dataset.values("id")
    before = dataset.values("ground_truth.detections.id")
    app.open(dataset)
    form = app.operator("Show suspected label errors")
    form.get_by_text("4 samples looked at").wait_for()
    app.shot("suspected-form")
    app.execute(form)
    app.page.get_by_text("labels to doubt").first.wait_for()
    app.until(lambda: app.tiles.count() == 1, "one tile is left")
    app.shot("suspected")

    app.open_sample(0)
    form = app.operator("Accept prediction as ground truth")
    form.get_by_text("1 sample will get new ground truth").wait_for()
    app.shot("accept-form")
    app.execute(form)
    app.until(lambda: dataset.match_tags(ACCEPTED_TAG).values("id") == [ids[1]], "the prediction is ground truth")
    dataset.reload()
    accepted = dataset[ids[1]]
    assert accepted.ground_truth.detections[0].bounding_box == accepted.good.detections[0].bounding_box

    form = app.operator("Undo accepted predictions")
    app.execute(form)
    app.until(lambda: not len(dataset.match_tags(ACCEPTED_TAG)), "the label of the source is back")
    assert dataset.values("ground_truth.detections.id") == before


def test_disagreements_say_what_is_wrong_while_typing_and_are_saved(app, dataset):
    app.open(dataset)
    form = app.operator("Show where models disagree")
    name = form.locator("input[type=string], input[type=text]").last
    dataset.save_view("taken", dataset.limit(1))
    name.fill("taken")
    form.get_by_text("There is a saved view 'taken'").wait_for()
    assert form.get_by_role("button", name="Execute").is_disabled()
    app.shot("disagreements-invalid")
    name.fill("to look at")
    app.execute(form)

    def saved():
        dataset.reload()
        return "to look at" in dataset.list_saved_views()

    app.until(saved, "the view is saved")
    assert set(dataset.load_saved_view("to look at").values("id")) == set(dataset.values("id")[2:])
    app.until(lambda: app.tiles.count() == 2, "the view is shown")


def test_the_most_uncertain_answers_are_shown_and_saved(app, dataset):
    ids = dataset.values("id")
    app.open(dataset)
    form = app.operator("Show the most uncertain answers")
    form.get_by_text("4 samples looked at").wait_for()
    app.box(form, "At most this many samples").fill("2")
    app.box(form, "Save the view as").fill("least sure")
    app.shot("uncertain-form")
    app.execute(form)
    app.page.get_by_text("2 samples: answers of 'good', least sure first").wait_for()
    app.until(lambda: app.tiles.count() == 2, "two tiles are left")
    dataset.reload()
    assert dataset.load_saved_view("least sure").values("id") == [ids[3], ids[2]]


def test_tagging_the_open_sample_for_review(app, dataset):
    app.open(dataset)
    app.page.locator("[data-cy=checkbox-tags] input").check()
    app.open_sample(2)
    form = app.operator("Tag for review")
    form.get_by_text("1 sample").wait_for()
    app.execute(form)
    app.until(lambda: len(dataset.match_tags("review")) == 1, "the sample is tagged")
    # the tile that was drawn before says so
    app.page.locator("[data-cy=fo-grid]").get_by_text("review", exact=True).wait_for()
    assert dataset.match_tags("review").values("id") == [dataset.values("id")[2]]


def test_pictures_are_saved_and_the_folder_is_checked(app, dataset, tmp_path):
    folder = tmp_path / "pictures"
    app.open(dataset)
    form = app.operator("Save annotated pictures")
    box = form.locator("input").first
    box.fill("pictures")
    form.get_by_text("Give the whole path").wait_for()
    app.shot("pictures-invalid")
    box.fill(str(folder))
    form.get_by_text("Give the whole path").wait_for(state="hidden")
    app.execute(form)
    app.page.get_by_text("4 pictures in").wait_for()
    app.shot("pictures-saved")
    assert len(list(folder.glob("*.png"))) == 4


def test_quality_then_reset(app, dataset):
    app.open(dataset)
    form = app.operator("Check the quality of the data")
    form.get_by_text("4 samples will be checked").wait_for()
    app.shot("quality-form")
    app.execute(form)
    app.page.get_by_text("1 of 4 samples flagged").first.wait_for()
    app.shot("quality")
    assert dataset.match_tags("quality:non-letter-in-word").values("expression") == ["the m;an"]
    app.close_output()
    app.until(lambda: app.tiles.count() == 1, "the flagged sample is shown")

    form = app.operator("Remove predictions, evaluations and tags")
    form.get_by_text("Choose what to remove").first.wait_for()
    assert form.get_by_role("button", name="Execute").is_disabled()
    form.locator("[role=combobox]").first.click()
    app.page.get_by_role("option", name="good").click()
    form.get_by_text("To be removed: predictions: good").wait_for()
    form.get_by_text("Yes, remove these").click()
    app.shot("reset-form")
    app.execute(form)

    def removed():
        dataset.reload()
        return not dataset.has_sample_field("good")

    app.until(removed, "the field is gone")
    assert not dataset.has_sample_field("good_outcome")
    assert dataset.has_sample_field("poor") and len(dataset) == 4 and dataset.count("ground_truth.detections") == 4

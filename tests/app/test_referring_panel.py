"""The Referring panel: ask about an open sample, repeat, save as samples; apply to the grid."""

import fiftyone as fo
import pytest
from fiftyone.operators.store import ExecutionStore

from fiftyone_rexseek.datasets.scenes import generate_scene
from fiftyone_rexseek.geometry import to_relative

ANSWERS = {"selected", "rejected", "unparsed"}


@pytest.fixture
def dataset(tmp_path, request):
    """Drawn scenes as a folder of pictures with boxes: no benchmark, no expressions."""
    from PIL import Image

    # the App remembers what was open by the dataset's name
    dataset = fo.Dataset(request.node.name.replace("_", "-"), overwrite=True)
    samples = []
    for index in range(4):
        scene = generate_scene(77, index)
        path = tmp_path / f"{index}.png"
        Image.fromarray(scene.render()).save(path)
        boxes = to_relative(scene.boxes_xyxy, 640, 480).tolist()
        people = fo.Detections(detections=[fo.Detection(label="person", bounding_box=b) for b in boxes])
        samples.append(fo.Sample(filepath=str(path), people=people))
    dataset.add_samples(samples)
    yield dataset
    dataset.delete()


def test_ask_about_an_open_sample(app, dataset):
    app.open(dataset)
    modal = app.open_sample(0)
    first = generate_scene(77, 0)
    question = next(q for q in first.questions(per_domain=4) if q.domain == "attribute")
    app.ask(modal, f"{question.expression}\nthe person with the elephant")
    modal.locator("img[src^='data:image/jpeg']").wait_for()
    app.shot("referring-modal")
    dataset.reload()
    sample = dataset.first()
    assert sample["asked_expressions"] == [question.expression, "the person with the elephant"]
    assert set(sample["asked_outcomes"]) <= ANSWERS
    found = sample["asked"].detections if sample["asked"] else []  # None if neither was answered
    assert all(d.expression in sample["asked_expressions"] for d in found)
    # the field that was not there is in the grid, and in the open sample when the page is loaded again
    modal.get_by_text("when the page is loaded again").wait_for()
    app.page.reload()
    modal.get_by_text("asked_outcome", exact=True).wait_for()
    modal.get_by_text(sample["asked_outcome"], exact=True).wait_for()

    def history():
        return ExecutionStore.create("rexseek_referring", dataset_id=dataset._doc.id).get("history")

    (entry,) = history()
    modal.get_by_role("button", name="Ask again").click()
    app.until(lambda: len(history()) == 2, "the question was repeated")
    again = history()[0]
    assert all(again[name] == entry[name] for name in ("sample_id", "expressions", "outcomes", "options"))

    modal.get_by_role("button", name="Save as samples").click()

    def saved():
        dataset.reload()
        return len(dataset) == 6

    app.until(saved, "the questions are samples")
    new = dataset.match_tags("asked")
    assert sorted(new.values("expression")) == sorted(sample["asked_expressions"])
    assert new.distinct("filepath") == [sample.filepath]


def test_nothing_typed_is_said_in_the_panel(app, dataset):
    app.open(dataset)
    modal = app.open_sample(1)
    modal.get_by_text("Referring", exact=True).first.click()
    modal.get_by_role("button", name="Ask", exact=True).click()
    modal.get_by_text("nothing was asked").wait_for()
    dataset.reload()
    assert not dataset.has_sample_field("asked")


def test_apply_to_the_grid_from_the_panel(app, dataset):
    app.open(dataset)
    app.panel("Referring")
    box = app.page.get_by_placeholder("everyone except the kid in white")
    box.wait_for()
    box.fill("everyone")
    app.settle()
    app.page.get_by_role("button", name="Apply to the grid").click()
    form = app.page.locator("[data-cy=operators-prompt-modal]")
    form.get_by_text("4 samples will be asked 1 expression").wait_for()
    app.shot("apply-form")
    app.execute(form)

    def answered():
        dataset.reload()
        return dataset.has_sample_field("rexseek_tiny_outcome") and None not in dataset.values("rexseek_tiny_outcome")

    app.until(answered, "all four samples are answered", timeout_s=300)
    app.page.get_by_text("4 expressions on 4 images").wait_for()
    app.shot("applied")
    assert set(dataset.count_values("rexseek_tiny_outcome")) <= ANSWERS

"""The pictures of docs/app.md: ``make screenshots`` draws them again, with the weights and the App as they are.

Not collected with the tests. Nothing here depends on how good the models are: what is shown is looked up in the demo.
"""

import io

import fiftyone as fo
import plugin
import pytest
from fiftyone import ViewField as F
from PIL import Image

from fiftyone_rexseek.integration.demo import build
from fiftyone_rexseek.integration.failures import CAUSE_COLORS

IMAGES = plugin.ROOT / "docs" / "images"
RUN, OTHER = "eval_rexseek_tiny", "eval_rela_tiny"
MAX_BYTES = 300_000


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    made = build(tmp_path_factory.mktemp("demo"), num_scenes=24, seed=7, name="people")
    yield made.dataset
    made.dataset.delete()
    made.grefcoco.delete()


def save(app, name: str) -> None:
    """Keeps a screenshot in 256 colours, which screens of few colours do not miss."""
    app.page.mouse.move(5, 5)
    app.page.wait_for_timeout(1500)
    picture = Image.open(io.BytesIO(app.page.screenshot())).convert("RGB")
    IMAGES.mkdir(parents=True, exist_ok=True)
    path = IMAGES / f"{name}.png"
    picture.quantize(256, dither=Image.Dither.NONE).save(path, optimize=True)
    assert path.stat().st_size < MAX_BYTES, f"{path} has {path.stat().st_size} bytes"


def question(dataset: fo.Dataset) -> tuple[str, list[str]]:
    """Where two targets were found and nobody rightly: (sample id, two expressions about its image)."""
    right = dataset.match(F(f"{RUN}_success") == True)  # noqa: E712 - an expression
    found, nobody = right.match(F("num_targets") > 1), right.match(F("num_targets") == 0)
    images = [i for i in found.values("image_id") if i in set(nobody.values("image_id"))]
    if not images:
        found, nobody = dataset.match(F("num_targets") > 1), dataset.match(F("num_targets") == 0)
        images = [i for i in found.values("image_id") if i in set(nobody.values("image_id"))]
    first, second = (view.match(F("image_id") == images[0]).first() for view in (found, nobody))
    return first.id, [first.expression, second.expression]


def test_grid(app, dataset):
    app.open(dataset)
    app.page.get_by_text("ground_truth", exact=True).first.wait_for()
    save(app, "grid")


def test_apply_form(app, dataset):
    app.open(dataset)
    form = app.operator("Apply expressions")
    form.get_by_text("samples will be asked").wait_for()
    save(app, "apply")


def test_referring_panel(app, dataset):
    sample_id, expressions = question(dataset)
    # the sample comes first
    view = dataset.select([sample_id, *dataset.limit(20).values("id")], ordered=True)
    dataset.save_view("question", view, overwrite=True)
    app.open(dataset, view="question")
    modal = app.open_sample(0)
    app.ask(modal, "\n".join(expressions))
    modal.get_by_text("rexseek-tiny on").wait_for(timeout=300_000)
    modal.locator("img[src^='data:image/jpeg']").wait_for()
    save(app, "referring")
    app.close_sample()  # the server remembers it, and it would lie over the next picture
    dataset.delete_saved_view("question")


def test_results_panel(app, dataset):
    app.open(dataset)
    app.panel("Referring results")
    app.page.get_by_role("combobox").last.wait_for()
    choose(app, "Evaluation", RUN)
    app.page.get_by_text("HumanRef - protocol official").wait_for()
    app.page.locator("table").first.wait_for()
    save(app, "results")

    show_tab(app, "Scores")
    app.page.locator(".js-plotly-plot").filter(has_text="Score by domain").wait_for()
    save(app, "scores")

    show_tab(app, "Failures")
    app.page.locator(".js-plotly-plot").filter(has_text="Answers by cause").wait_for()
    app.page.get_by_role("button", name="Colour by cause").click()
    app.page.get_by_text("coloured by cause").wait_for()
    app.page.get_by_text("coloured by cause").wait_for(state="hidden")
    chip = app.page.locator("[data-cy=fo-grid]").get_by_text("exact", exact=True).first
    green = tuple(bytes.fromhex(CAUSE_COLORS["exact"][1:]))
    app.until(lambda: chip.evaluate("e => getComputedStyle(e).backgroundColor") == f"rgb{green}", "tiles are painted again")
    save(app, "failures")

    show_tab(app, "Compare")
    choose(app, "Compare with", OTHER)
    button = app.page.get_by_role("button", name=f"{RUN} right")
    button.wait_for()
    save(app, "comparison")


def show_tab(app, name: str) -> None:
    app.page.get_by_role("button", name=name, exact=True).click()


def choose(app, label: str, key: str) -> None:
    """Chooses a run in one of the panel's dropdowns."""
    position = {"Evaluation": 0, "Compare with": 1}[label]
    boxes = app.page.get_by_role("combobox").filter(has_text="protocol") if not position else app.page.get_by_role("combobox")
    box = boxes.first if not position else boxes.last
    box.scroll_into_view_if_needed()
    box.click()
    app.page.get_by_role("option").filter(has_text=f"{key} -").click()

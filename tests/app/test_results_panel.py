"""The Results panel: numbers as stored, bars and causes that open their samples, two runs compared."""

import fiftyone as fo
import pytest
from evaluated import make_dataset
from PIL import Image

from fiftyone_rexseek.datasets.scenes import generate_scene
from fiftyone_rexseek.integration import comparison, failures, results
from fiftyone_rexseek.integration.evaluation import evaluate_referring


@pytest.fixture(scope="module")
def dataset(database, tmp_path_factory):
    folder = tmp_path_factory.mktemp("scenes")
    paths = []
    for index in range(6):
        paths.append(folder / f"{index}.png")
        Image.fromarray(generate_scene(5, index, size=(320, 240)).render()).save(paths[-1])
    dataset = make_dataset(120, filepaths=paths)
    dataset.name = "results-panel"
    dataset.app_config.active_fields = fo.ActiveFields(paths=["expression", "ground_truth"])
    dataset.save()
    evaluate_referring(dataset, "poor", eval_key="second")
    evaluate_referring(dataset.limit(6), "good", eval_key="small")
    evaluate_referring(dataset, "good", eval_key="first")
    yield dataset
    dataset.delete()


def show_tab(page, name):
    page.get_by_role("button", name=name, exact=True).click()


def plot(page, title):
    """The figure with this title, scrolled into sight."""
    found = page.locator(".js-plotly-plot").filter(has_text=title)
    found.wait_for()
    found.scroll_into_view_if_needed()
    page.wait_for_timeout(300)
    return found


def bars(page, title):
    """Lengths of the bars of a figure, as they are drawn."""
    of_title = "g => g.layout.title && g.layout.title.text === title"
    script = f"title => [...document.querySelectorAll('.js-plotly-plot')].filter({of_title}).map(g => g.data[0].x)[0]"
    return page.evaluate(script, title)


def click_bar(page, title, number):
    """Clicks in the middle of the n-th bar of a figure."""
    bar = plot(page, title).locator("g.barlayer .point path").nth(number)
    box = bar.bounding_box()
    page.mouse.click(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)


def test_three_runs_compared_by_the_operator(app, dataset):
    page, keys = app.page, {"first", "second", "small"}
    wanted = {}
    for pair in comparison.compare_runs(dataset, sorted(keys)).pairs:
        wanted |= {f"{pair.a} right, {pair.b} wrong": pair.only_a_right, f"{pair.b} right, {pair.a} wrong": pair.only_b_right}
    wanted = {name: count for name, count in wanted.items() if count}
    assert wanted
    # before the test below, which leaves a view that the App would open again
    app.open(dataset)
    form = app.operator("Compare evaluations")
    form.get_by_text("scored by all of them will be compared").wait_for()
    # two of them are chosen already
    for key in keys - set(form.locator(".MuiChip-label").all_inner_texts()):
        form.get_by_role("combobox").first.click()
        page.get_by_role("option").filter(has_text=key).click()
    form.get_by_text("6 samples scored by all of them will be compared").wait_for()
    page.keyboard.press("Tab")
    form.get_by_text("Save views").click()
    app.shot("compare-form")
    app.execute(form)
    page.get_by_text(app.counted(len(wanted), "view")).first.wait_for()
    app.shot("compared")
    assert keys <= set(page.locator("[role=dialog] th").all_inner_texts())
    dataset.reload()
    views = {name: len(dataset.load_saved_view(name)) for name in dataset.list_saved_views() if " wrong" in name}
    assert views == wanted


def test_numbers_clicks_and_comparison(app, dataset):
    page = app.page
    app.open(dataset)
    app.panel("Referring results")
    page.get_by_text("HumanRef - protocol official").wait_for()
    page.locator("table").first.wait_for()

    # the headline numbers are those stored with the run
    stored = dataset.load_evaluation_results("first").headlines
    for headline in stored:
        if headline["key"] in ("density_f1_mean", "recall_50", "rejection_accuracy"):
            row = page.locator("tr").filter(has_text=headline["label"]).first
            assert f"{headline['value']:.3f}" in row.inner_text()
    assert "95% interval" in page.locator("table").first.inner_text()
    app.shot("results-panel-top")

    # a bar opens its samples
    run = results.get_run(dataset, "first")
    seen = results.overview(dataset, run)
    show_tab(page, "Scores")
    click_bar(page, "Score by domain", 1)
    app.wait_for_count(seen.domains[1].count)
    app.shot("results-panel-domain")
    click_bar(page, "Score by number of targets", 0)
    app.wait_for_count(seen.targets[0].count)

    # a cause opens its samples, and a view of its own is saved
    show_tab(page, "Failures")
    causes = sorted(failures.counts_by_cause(seen).items(), key=lambda item: item[1])
    click_bar(page, "Answers by cause", len(causes) - 2)
    app.wait_for_count(causes[-2][1])
    page.get_by_role("button", name="Save a view per cause").click()

    def saved():
        dataset.reload()
        return {f"first: {name}" for name in ("exact", "missed")} <= set(dataset.list_saved_views())

    app.until(saved, "views are saved")
    assert len(dataset.load_saved_view("first: exact")) == seen.causes["exact"]
    page.get_by_role("button", name="All samples").click()
    app.wait_for_count(len(dataset))
    page.get_by_role("button", name="Colour by cause").click()

    def coloured():
        dataset.reload()
        return dataset.app_config.color_scheme is not None

    app.until(coloured, "colours are stored")
    # at once, in the open App: each sample says its cause, in the cause's colour
    chip = page.locator("[data-cy=fo-grid]").get_by_text("exact", exact=True).first
    chip.wait_for()
    green = tuple(bytes.fromhex(failures.CAUSE_COLORS["exact"][1:]))
    app.until(lambda: chip.evaluate("e => getComputedStyle(e).backgroundColor") == f"rgb{green}", "it is green")
    # and nothing else is coloured
    words = page.locator("[data-cy=fo-grid]").get_by_text("expression ")
    app.until(lambda: words.count() >= 6, "expressions are shown")
    shades = {word.evaluate("e => getComputedStyle(e).backgroundColor") for word in words.all()[:6]}
    assert len(shades) == 1, shades
    app.shot("results-panel-colours")
    page.get_by_role("button", name="Colour by field").click()
    app.until(lambda: chip.evaluate("e => getComputedStyle(e).backgroundColor") != f"rgb{green}", "it is no longer green")
    plot(page, "Answers by cause")
    app.shot("results-panel-causes")
    assert bars(page, "Answers by cause") == sorted(count for _, count in causes)
    show_tab(page, "Thresholds")
    plot(page, "DensityF1 by threshold")
    app.shot("results-panel-sweep")

    # two runs
    page.get_by_role("button", name="All samples").click()
    show_tab(page, "Compare")
    page.get_by_text("Compare with").last.wait_for()
    page.get_by_role("combobox").last.click()
    page.get_by_role("option").filter(has_text="second").click()
    pair = comparison.compare_runs(dataset, ["first", "second"]).pairs[0]
    button = page.get_by_role("button", name=f"first right, second wrong ({pair.only_a_right})")
    button.wait_for()
    app.shot("results-panel-comparison")
    difference = pair.differences["density_f1_mean"]
    row = page.locator("table").last.locator("tr").filter(has_text="DensityF1 0.5:0.95").first
    assert f"{difference.difference:+.3f}" in row.inner_text()
    button.click()
    app.wait_for_count(pair.only_a_right)
    app.shot("results-panel-right-wrong")

    # a run of fewer causes takes the place of this one entirely
    small = failures.counts_by_cause(results.overview(dataset, results.get_run(dataset, "small")))
    assert len(small) < len(causes)
    page.get_by_role("combobox").filter(has_text="protocol").first.click()
    page.get_by_role("option").filter(has_text="small -").click()
    page.locator("strong").get_by_text("6 samples").first.wait_for()
    show_tab(page, "Failures")
    app.until(lambda: bars(page, "Answers by cause") == sorted(small.values()), "the causes of 'small' are shown")

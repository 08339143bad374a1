"""The real App in a real browser: one server and one Chromium for all tests of this folder that run in one process.

Side by side (``pytest -n 2 tests/app``) each process has its own, with a database, a plugin folder and ports
of its own: see the conftest.py of the repository.

Without Chromium or playwright these tests are skipped and say so; ``make test`` installs both where it can.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import fiftyone as fo
import plugin
import pytest
from fiftyone.constants import SERVER_DIR
from xdist.scheduler import LoadFileScheduling

SHOTS = plugin.ROOT / "tests" / "screenshots"
# fmt: off
BROWSER_ARGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
                "--disable-background-networking", "--disable-component-update",
                # whatever is not the local server fails at once (web fonts); unlike a route this leaves the cache on
                "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"]
# fmt: on
#: How long a click or key may take to show before it is repeated.
PATIENCE_MS = 8000
#: How long anything else may take on a busy machine.
TIMEOUT_S = 90
#: Stops animations and transitions of every page.
STILL = """addEventListener("DOMContentLoaded", () => {
    const style = document.createElement("style");
    style.textContent = "*, *::before, *::after { animation: none !important; transition: none !important; }";
    document.head.append(style);
});"""

#: Files whose tests ask a model of the server: on one server, which imports torch for all of them.
WITH_MODEL = ("test_models.py", "test_referring_panel.py", "test_restart.py")


#: Files whose tests share nothing: they come last, one by one, so that all processes end at about the same time.
INDEPENDENT = ("test_files.py", "test_operators.py")


class ByServer(LoadFileScheduling):
    """File by file, but the files with a model together, and independent tests one by one."""

    def _split_scope(self, nodeid):
        file = super()._split_scope(nodeid)
        if file.endswith(WITH_MODEL):
            return "models"
        return nodeid if file.endswith(INDEPENDENT) else file


def pytest_xdist_make_scheduler(config, log):
    return ByServer(config, log)


def pytest_collection_modifyitems(items):
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.app)
    items.sort(key=lambda item: item.path.parent == here and item.path.name in INDEPENDENT)


def _chromium() -> str | None:
    names = (os.environ.get("CHROMIUM"), "chromium", "chromium-browser", "google-chrome")
    return next((path for name in names if name and (path := shutil.which(name))), None)


class Server:
    """FiftyOne's App server as a process that a test can kill and start again on the same port.

    ``fo.launch_app`` starts the same program, waits for it, and cannot kill it.

    Attributes:
        port: where it listens, or will
    """

    def __init__(self):
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            self.port = s.getsockname()[1]
        self._process: subprocess.Popen | None = None

    def start(self) -> None:
        """Starts it unless it runs; returns at once."""
        if self._process is not None and self._process.poll() is None:
            return
        command = [sys.executable, "main.py", "--port", str(self.port), "--address", "127.0.0.1"]
        # operators start programs of this environment
        env = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
        # as ``fiftyone-rexseek install`` sets it: work can be scheduled
        env["FIFTYONE_ALLOW_LEGACY_ORCHESTRATORS"] = "true"
        quiet = dict(stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self._process = subprocess.Popen(command, cwd=SERVER_DIR, env=env, start_new_session=True, **quiet)

    def wait(self, timeout_s: float = 300) -> None:
        """Waits until it listens."""
        deadline = time.monotonic() + timeout_s
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
                return
            except OSError as e:
                if self._process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError("the App server did not start") from e
                time.sleep(0.1)

    def kill(self) -> None:
        """Ends it and what it started without a chance to tidy up, as a crash would."""
        if self._process is not None and self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait(30)


class App:
    """A page on the running App, with the steps that every test needs.

    Attributes:
        page: the playwright page
    """

    def __init__(self, page, port: int):
        self.page, self.port = page, port
        self._modal = page.locator("[data-cy=modal]")
        self._form = page.locator("[data-cy=operators-prompt-modal]")
        self.tiles = page.locator("[data-cy=fo-grid] [data-cy=looker]")

    def open(self, dataset: fo.Dataset, view: str | None = None) -> None:
        """Opens a dataset, or one of its saved views, and waits until its grid is drawn."""
        slug = re.sub(r"[^a-z0-9]+", "-", view.lower()) if view else None
        address = f"http://127.0.0.1:{self.port}/datasets/{dataset.name}" + (f"?view={slug}" if slug else "")
        self.page.goto(address, wait_until="domcontentloaded")
        # the first page of a fresh server on a busy machine takes long
        self.tiles.first.wait_for(timeout=150_000)

    def shot(self, name: str) -> Path:
        """Saves a screenshot; images are drawn on canvases, which takes a moment."""
        SHOTS.mkdir(exist_ok=True)
        self.page.wait_for_timeout(200)
        path = SHOTS / f"{name}.png"
        self.page.screenshot(path=str(path))
        return path

    def operator(self, label: str):
        """Opens an operator's form from the operator browser; returns the form."""
        self._form.wait_for(state="hidden")  # that of the operator before
        browser = self.page.locator("[data-cy=operators-browser]")
        self._repeat(lambda: self.page.locator("body").press("`"), browser)
        browser.locator("input").first.fill(label)
        browser.get_by_text(label, exact=True).first.wait_for()
        self.page.keyboard.press("Enter")
        self._form.wait_for()
        return self._form

    def box(self, form, label: str):
        """The text box below a label of a form."""
        field = form.locator(".MuiGrid-item").filter(has=self.page.get_by_text(label, exact=True))
        return field.last.locator("input, textarea").first

    def execute(self, form) -> None:
        """Presses Execute as soon as the server has found the form valid."""
        form.get_by_role("button", name="Execute").click()

    def schedule(self, form) -> None:
        """Queues the form's work instead: the other choice beside Execute."""
        button = form.get_by_role("button", name="Schedule")
        if not button.count():
            form.get_by_role("button").last.click()
            self.page.get_by_role("menuitem").filter(has_text="Schedule").click()
        button.click()
        self._form.wait_for(state="hidden")

    def close_output(self) -> None:
        """Closes the result of an operator."""
        # operators that report progress show their result in another dialog than the others
        button = self.page.get_by_role("button", name=re.compile("^(Close|Done)$")).first
        self._repeat(lambda: button.click(timeout=PATIENCE_MS), self._form, "hidden")

    def panel(self, label: str) -> None:
        """Opens a panel beside the grid."""
        choice = self.page.get_by_text(label, exact=True).first
        self._repeat(lambda: self.page.locator("[data-cy=new-panel-btn]").first.click(timeout=PATIENCE_MS), choice)
        choice.click()

    def open_sample(self, number: int = 0):
        """Opens a sample of the grid; returns its modal."""
        self._repeat(lambda: self.tiles.nth(number).click(timeout=PATIENCE_MS), self._modal)
        return self._modal

    def close_sample(self) -> None:
        """Closes the open sample: the server remembers it, and the next page would open with it."""
        # beside it: Escape closes it only while the Sample tab is in front
        beside = {"x": 5, "y": 400}
        self._repeat(lambda: self._modal.click(position=beside, timeout=PATIENCE_MS), self._modal, "hidden")

    def ask(self, modal, text: str, timeout_s: float = 300) -> None:
        """Opens the Referring panel of an open sample, types expressions, asks and waits for the answer.

        The first answer of a server takes long: it imports and loads the model.
        """
        box = modal.get_by_placeholder("everyone except the kid in white")
        if not box.is_visible():
            modal.get_by_text("Referring", exact=True).first.click()
        box.fill(text)
        self.settle()
        modal.get_by_role("button", name="Ask", exact=True).click()
        modal.get_by_text("rexseek-tiny on").wait_for(timeout=timeout_s * 1000)

    def wait_for_count(self, count: int) -> None:
        """Waits until the grid says that it shows so many samples."""
        self.page.locator("[data-cy=entry-counts]").get_by_text(self.counted(count)).first.wait_for()

    @staticmethod
    def counted(count: int, noun: str = "sample") -> re.Pattern:
        """A count as FiftyOne and this project write it, "1 sample" or "1,200 samples", and no other that ends like it."""
        return re.compile(rf"(?<![\d,.]){count:,} {noun}{'' if count == 1 else 's'}\b")

    def settle(self) -> None:
        """What is typed reaches a panel's state debounced, by a timer of the page; nothing on the page tells when."""
        # a later timer of the same page, so a busy machine delays both
        self.page.evaluate("() => new Promise(resolve => setTimeout(resolve, 700))")

    @staticmethod
    def _repeat(action: Callable[[], None], locator, state: str = "visible") -> None:
        """Repeats what opens or closes something until it is so: a page that has just been drawn may not listen yet."""
        for _ in range(5):
            try:
                action()
                locator.wait_for(state=state, timeout=PATIENCE_MS)
                return
            except sync_api().TimeoutError:
                if locator.is_visible() == (state == "visible"):
                    return
        locator.wait_for(state=state)

    def until(self, condition: Callable[[], bool], what: str, timeout_s: float = TIMEOUT_S, every_s: float = 0.2) -> None:
        """Waits for something outside the page, such as the database."""
        deadline = time.monotonic() + timeout_s
        while not condition():
            if time.monotonic() > deadline:
                raise AssertionError(f"timed out waiting until {what}")
            self.page.wait_for_timeout(every_s * 1000)


def sync_api():
    """Playwright, or a skip that says what is missing."""
    return pytest.importorskip("playwright.sync_api", reason="playwright is not installed")


@pytest.fixture(scope="session", autouse=True)
def shared_server(database):
    """The App server, with this checkout as its only plugin; it starts while the first test makes its dataset."""
    plugin.install()
    server = Server()
    server.start()
    yield server
    server.kill()


@pytest.fixture
def server(shared_server):
    """The App server for a test that kills it; afterwards it runs again."""
    yield shared_server
    shared_server.start()


@pytest.fixture(scope="session")
def context(tmp_path_factory):
    """A Chromium of its own profile, or a skip that says what is missing."""
    api = sync_api()
    chromium = _chromium()
    if chromium is None:
        pytest.skip("no Chromium: install it (apt-get install chromium) or set CHROMIUM=/path")
    with api.sync_playwright() as playwright:
        context = playwright.chromium.launch_persistent_context(
            str(tmp_path_factory.mktemp("profile")),
            executable_path=chromium,
            headless=True,
            args=BROWSER_ARGS,
            viewport={"width": 1500, "height": 950},
            reduced_motion="reduce",
        )
        # a promotional popover, whose invisible backdrop would swallow the clicks
        context.add_init_script("localStorage.setItem('fiftyone-enterprise-tooltip-seen', 'true')")
        # without a graphics card every frame of a spinner is drawn by the processor
        context.add_init_script(STILL)
        yield context
        context.close()


@pytest.fixture
def app(shared_server, context):
    """The App on a fresh page; a failing test leaves a screenshot."""
    shared_server.wait()
    page = context.new_page()
    page.set_default_timeout(TIMEOUT_S * 1000)
    yield App(page, shared_server.port)
    page.close()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    report = yield
    app = getattr(item, "funcargs", {}).get("app")
    if report.failed and call.when == "call" and app is not None:
        app.shot(f"failed-{item.name}")
    return report

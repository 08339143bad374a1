"""The real App in a real browser: one server and one Chromium for all tests of this folder.

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

SHOTS = plugin.ROOT / "tests" / "screenshots"
# fmt: off
BROWSER_ARGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
                "--disable-background-networking", "--disable-component-update"]
# fmt: on


def pytest_collection_modifyitems(items):
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.app)


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
        """Starts it; returns at once."""
        command = [sys.executable, "main.py", "--port", str(self.port), "--address", "127.0.0.1"]
        # operators start programs of this environment
        env = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
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

    def open(self, dataset: fo.Dataset, view: str | None = None) -> None:
        """Opens a dataset, or one of its saved views, and waits until its grid is drawn."""
        address = f"http://127.0.0.1:{self.port}/datasets/{dataset.name}" + (f"?view={view}" if view else "")
        self.page.goto(address, wait_until="domcontentloaded")
        # the first page of a fresh server on a busy machine takes long
        self.page.locator("[data-cy=fo-grid] [data-cy=looker]").first.wait_for(timeout=150_000)

    def shot(self, name: str) -> Path:
        """Saves a screenshot; images are drawn on canvases, which takes a moment."""
        SHOTS.mkdir(exist_ok=True)
        self.page.wait_for_timeout(200)
        path = SHOTS / f"{name}.png"
        self.page.screenshot(path=str(path))
        return path

    def operator(self, label: str):
        """Opens an operator's form from the operator browser; returns the form."""
        browser = self.page.locator("[data-cy=operators-browser]")
        self._until_there(browser, lambda: self.page.locator("body").press("`"))
        self.page.keyboard.type(label)
        browser.get_by_text(label, exact=True).first.wait_for()
        self.page.keyboard.press("Enter")
        form = self.page.locator("[data-cy=operators-prompt-modal]")
        form.wait_for()
        return form

    def execute(self, form) -> None:
        """Presses Execute as soon as the server has found the form valid."""
        form.get_by_role("button", name="Execute").click()

    def close_output(self) -> None:
        """Closes the result of an operator."""
        # operators that report progress show their result in another dialog than the others
        self.page.get_by_role("button", name=re.compile("^(Close|Done)$")).first.click()
        self.page.locator("[data-cy=operators-prompt-modal]").wait_for(state="hidden")

    def panel(self, label: str) -> None:
        """Opens a panel beside the grid."""
        self.page.locator("[data-cy=new-panel-btn]").first.click()
        self.page.get_by_text(label, exact=True).first.click()

    def open_sample(self, number: int = 0):
        """Opens a sample of the grid; returns its modal."""
        modal = self.page.locator("[data-cy=modal]")
        self._until_there(modal, self.page.locator("[data-cy=fo-grid] [data-cy=looker]").nth(number).click)
        return modal

    def ask(self, modal, text: str) -> None:
        """Opens the Referring panel of an open sample, types expressions and asks."""
        box = modal.get_by_placeholder("everyone except the kid in white")
        if not box.is_visible():
            modal.get_by_text("Referring", exact=True).first.click()
        box.fill(text)
        self.settle()
        modal.get_by_role("button", name="Ask", exact=True).click()

    def settle(self) -> None:
        """What is typed reaches the server debounced, and nothing on the page tells when."""
        self.page.wait_for_timeout(700)

    @staticmethod
    def _until_there(locator, action: Callable[[], None]) -> None:
        """Repeats what opens something: a page that has just been drawn may not listen yet."""
        for _ in range(5):
            try:
                action()
                locator.wait_for(timeout=8000)
                return
            except sync_api().TimeoutError:
                if locator.is_visible():
                    return
        locator.wait_for()

    def until(self, condition: Callable[[], bool], what: str, timeout_s: float = 40) -> None:
        """Waits for something outside the page, such as the database."""
        deadline = time.monotonic() + timeout_s
        while not condition():
            if time.monotonic() > deadline:
                self.shot("timeout")
                raise AssertionError(f"timed out waiting until {what}")
            self.page.wait_for_timeout(200)


def sync_api():
    """Playwright, or a skip that says what is missing."""
    return pytest.importorskip("playwright.sync_api", reason="playwright is not installed")


@pytest.fixture
def server(database):
    """An App server of the test's own, started, with this checkout as its only plugin."""
    plugin.install()
    server = Server()
    server.start()
    yield server
    server.kill()


@pytest.fixture(scope="session", autouse=True)
def shared_server(database):
    """The App server of all other tests; it starts while the first of them makes its dataset."""
    plugin.install()
    server = Server()
    server.start()
    yield server
    server.kill()


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
        )
        local = ("http://127.0.0.1", "ws://127.0.0.1", "data:", "blob:")
        # whatever is not the local server fails at once (web fonts)
        context.route(lambda url: not url.startswith(local), lambda route: route.abort())
        # a promotional popover, whose invisible backdrop would swallow the clicks
        context.add_init_script("localStorage.setItem('fiftyone-enterprise-tooltip-seen', 'true')")
        yield context
        context.close()


@pytest.fixture
def app(shared_server, context):
    """The App on a fresh page; a failing test leaves a screenshot."""
    shared_server.wait()
    page = context.new_page()
    page.set_default_timeout(40_000)
    yield App(page, shared_server.port)
    page.close()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    report = yield
    app = getattr(item, "funcargs", {}).get("app")
    if report.failed and call.when == "call" and app is not None:
        app.shot(f"failed-{item.name}")
    return report

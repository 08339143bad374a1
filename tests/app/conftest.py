"""The real App in a real browser: one server and one Chromium for all tests of this folder.

Without Chromium or playwright these tests are skipped and say so; ``make test`` installs both where it can.
"""

from __future__ import annotations

import os
import re
import shutil
import socket
import sys
import time
from collections.abc import Callable
from functools import partialmethod
from pathlib import Path

import fiftyone as fo
import pytest
from fiftyone.core.service import ServerService, Service

ROOT = Path(__file__).resolve().parent.parent.parent
SHOTS = ROOT / "tests" / "screenshots"
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


class App:
    """A page on the running App, with the steps that every test needs.

    Attributes:
        page: the playwright page
    """

    def __init__(self, page, port: int):
        self.page, self.port = page, port

    def open(self, dataset: fo.Dataset) -> None:
        """Opens a dataset and waits until its grid is drawn."""
        self.page.goto(f"http://127.0.0.1:{self.port}/datasets/{dataset.name}", wait_until="domcontentloaded")
        # the first page of a fresh server on a busy machine takes long
        self.page.locator("[data-cy=fo-grid] [data-cy=looker]").first.wait_for(timeout=150_000)
        self.page.wait_for_timeout(500)

    def shot(self, name: str) -> Path:
        """Saves a screenshot; images are drawn on canvases, which takes a moment."""
        SHOTS.mkdir(exist_ok=True)
        self.page.wait_for_timeout(400)
        path = SHOTS / f"{name}.png"
        self.page.screenshot(path=str(path))
        return path

    def operator(self, label: str):
        """Opens an operator's form from the operator browser; returns the form."""
        self.page.locator("body").press("`")
        self.page.locator("[data-cy=operators-browser]").wait_for()
        self.page.keyboard.type(label)
        self.page.locator("[data-cy=operators-browser]").get_by_text(label, exact=True).first.wait_for()
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
        self.page.locator("[data-cy=fo-grid] [data-cy=looker]").nth(number).click()
        modal = self.page.locator("[data-cy=modal]")
        modal.wait_for()
        self.page.wait_for_timeout(500)
        return modal

    def until(self, condition: Callable[[], bool], what: str, timeout_s: float = 40) -> None:
        """Waits for something outside the page, such as the database."""
        deadline = time.monotonic() + timeout_s
        while not condition():
            if time.monotonic() > deadline:
                self.shot("timeout")
                raise AssertionError(f"timed out waiting until {what}")
            self.page.wait_for_timeout(200)


@pytest.fixture(scope="session")
def server_port(database):
    """Port of an App server that has this checkout as its only plugin."""
    # where the other tests link it too: the same plugin twice is an error
    link = Path(os.environ["FIFTYONE_PLUGINS_DIR"]) / "@fiftyone-rexseek" / "rexseek"
    link.parent.mkdir(parents=True, exist_ok=True)
    if not link.exists():
        link.symlink_to(ROOT, target_is_directory=True)
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    path = os.environ["PATH"]
    os.environ["PATH"] = str(Path(sys.executable).parent) + os.pathsep + path
    # FiftyOne gives its server a minute, which a busy machine may not
    patient = partialmethod(Service._wait_for_child_port, timeout=300)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ServerService, "_wait_for_child_port", patient)
        session = fo.launch_app(port=port, address="127.0.0.1", remote=True)
    yield port
    session.close()
    os.environ["PATH"] = path


@pytest.fixture(scope="session")
def context(tmp_path_factory):
    """A Chromium of its own profile, or a skip that says what is missing."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    chromium = _chromium()
    if chromium is None:
        pytest.skip("no Chromium: install it (apt-get install chromium) or set CHROMIUM=/path")
    with sync_api.sync_playwright() as playwright:
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
def app(server_port, context, request):
    """The App on a fresh page; a failing test leaves a screenshot."""
    page = context.new_page()
    page.set_default_timeout(40_000)
    yield App(page, server_port)
    page.close()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    report = yield
    app = getattr(item, "funcargs", {}).get("app")
    if report.failed and call.when == "call" and app is not None:
        app.shot(f"failed-{item.name}")
    return report

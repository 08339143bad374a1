"""The App server is killed in the middle of an immediate and a delegated run: nothing is lost, and the rest is computed."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import fiftyone as fo
import plugin
import pytest
from fiftyone.operators.delegated import DelegatedOperationService
from PIL import Image

from fiftyone_rexseek.datasets.scenes import generate_scene
from fiftyone_rexseek.geometry import to_relative

TESTS = Path(plugin.ROOT) / "tests"
NUM_SAMPLES = 96  # three times what is written at once, so that a killed run has written some and not all
ANSWERS = {"selected", "rejected", "unparsed"}
QUEUED = {
    "model": "rexseek-tiny", "expressions_from": "field", "expression_field": "position", "candidates": "candidates",
    "label_field": "queued", "masks": False,
}  # fmt: skip


@pytest.fixture
def dataset(tmp_path):
    """Many small pictures, each with a question; ``position`` is one that the rule-based model of the queue understands."""
    dataset = fo.Dataset("restart", overwrite=True, persistent=True)
    samples = []
    for index in range(NUM_SAMPLES):
        scene = generate_scene(31, index, size=(192, 144))
        path = tmp_path / f"{index}.png"
        Image.fromarray(scene.render()).save(path)
        people = [fo.Detection(label="person", bounding_box=b) for b in to_relative(scene.boxes_xyxy, 192, 144).tolist()]
        samples.append(
            fo.Sample(
                str(path), expression="the person on the left", position=("all", "first", "none")[index % 3],
                candidates=fo.Detections(detections=people),
            )
        )  # fmt: skip
    dataset.add_samples(samples, progress=False)
    yield dataset
    dataset.delete()


class Worker:
    """What ``fiftyone delegated launch`` does, with a model that stops after its first questions until :meth:`go_on`."""

    def __init__(self, folder: Path):
        self._asked, self._gate = folder / "asked.txt", folder / "go-on"
        self._process: subprocess.Popen | None = None

    def start(self) -> None:
        env = {**os.environ, "PYTHONPATH": f"{TESTS}{os.pathsep}{plugin.ROOT}"}
        command = [sys.executable, str(TESTS / "delegated_worker.py"), str(self._asked), "0", str(self._gate)]
        quiet = dict(stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self._process = subprocess.Popen(command, env=env, start_new_session=True, **quiet)

    def is_running(self) -> bool:
        return self._process.poll() is None

    def has_begun(self) -> bool:
        """Whether the first questions were answered."""
        assert self.is_running()
        return self._asked.exists()

    def go_on(self) -> None:
        self._gate.touch()

    def wait(self) -> None:
        self._process.wait(120)

    def kill(self) -> None:
        if self._process is not None and self.is_running():
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait(30)


@pytest.fixture
def worker(tmp_path):
    worker = Worker(tmp_path)
    yield worker
    worker.kill()


def outcomes(dataset, field) -> dict:
    """Sample id to outcome, of those that have one."""
    dataset.reload()
    if not dataset.has_sample_field(f"{field}_outcome"):
        return {}
    ids, found = dataset.values(["id", f"{field}_outcome"])
    return {i: outcome for i, outcome in zip(ids, found) if outcome is not None}


@pytest.mark.timeout(1500)  # two starts of the server, each with a first answer
def test_a_killed_server_loses_nothing(app, server, dataset, worker):
    service = DelegatedOperationService()
    operation = plugin.operator("apply_expressions")(dataset, delegate=True, **QUEUED)["id"]
    worker.start()
    app.open(dataset)
    app.ask(app.open_sample(0), "the person in the middle")
    app.close_sample()
    app.until(worker.has_begun, "the delegated run has begun", timeout_s=120)

    form = app.operator("Apply expressions")
    form.get_by_text(f"{NUM_SAMPLES} samples will be asked").wait_for()
    app.execute(form)
    app.until(lambda: outcomes(dataset, "rexseek_tiny"), "the first answers are stored", timeout_s=300, every_s=0.02)
    server.kill()

    kept = outcomes(dataset, "rexseek_tiny")
    assert 0 < len(kept) < NUM_SAMPLES
    # what is stored was computed: an outcome is written last, and no failure is among them
    assert set(kept.values()) <= ANSWERS
    labels = dict(zip(*dataset.values(["id", "rexseek_tiny.detections.id"])))
    assert all(labels[i] is not None for i in kept)
    assert len(set(labels) - set(kept)) == NUM_SAMPLES - len(kept)

    # the other process did not notice
    assert worker.is_running() and service.get(operation).run_state == "running"

    server.start()
    server.wait()
    worker.go_on()
    app.open(dataset)
    app.panel("Referring")
    app.page.get_by_text("the person in the middle").first.wait_for()  # the history
    assert dataset.first()["asked_expressions"] == ["the person in the middle"]
    app.shot("restarted")

    form = app.operator("Apply expressions")
    form.get_by_text("Field 'rexseek_tiny' exists").wait_for()
    app.execute(form)
    app.until(lambda: len(outcomes(dataset, "rexseek_tiny")) == NUM_SAMPLES, "the rest is answered", timeout_s=300)
    assert set(outcomes(dataset, "rexseek_tiny").values()) <= ANSWERS
    after = dict(zip(*dataset.values(["id", "rexseek_tiny.detections.id"])))
    assert all(after[i] == labels[i] for i in kept), "what was answered before was asked again"
    rest = NUM_SAMPLES - len(kept)
    app.page.get_by_text(f"{rest} expressions on {rest} images").wait_for()
    app.shot("restarted-rest")

    app.until(lambda: len(outcomes(dataset, "queued")) == NUM_SAMPLES, "the delegated run is done", timeout_s=120)
    worker.wait()
    assert service.get(operation).run_state == "completed"
    assert dataset.count_values("queued_outcome") == {"selected": 64, "rejected": 32}

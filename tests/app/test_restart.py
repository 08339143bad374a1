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


@pytest.fixture
def worker(tmp_path):
    """What ``fiftyone delegated launch`` does, with a model that takes half a second per batch."""
    env = {**os.environ, "PYTHONPATH": f"{TESTS}{os.pathsep}{plugin.ROOT}"}
    command = [sys.executable, str(TESTS / "delegated_worker.py"), str(tmp_path / "asked.txt"), "0.5"]
    started = []

    def start() -> subprocess.Popen:
        quiet = dict(stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        started.append(subprocess.Popen(command, env=env, start_new_session=True, **quiet))
        return started[0]

    yield start
    for process in started:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait(30)


def outcomes(dataset, field) -> dict:
    """Sample id to outcome, of those that have one."""
    dataset.reload()
    if not dataset.has_sample_field(f"{field}_outcome"):
        return {}
    ids, found = dataset.values(["id", f"{field}_outcome"])
    return {i: outcome for i, outcome in zip(ids, found) if outcome is not None}


def test_a_killed_server_loses_nothing(app, server, dataset, worker):
    server.wait()
    app.port = server.port
    app.open(dataset)
    modal = app.open_sample(0)
    app.ask(modal, "the person in the middle")
    modal.get_by_text("rexseek-tiny on").wait_for(timeout=300_000)

    app.open(dataset)
    service = DelegatedOperationService()
    operation = plugin.operator("apply_expressions")(dataset, delegate=True, **QUEUED)["id"]
    process = worker()
    form = app.operator("Apply expressions")
    form.get_by_text(f"{NUM_SAMPLES} samples will be asked").wait_for()
    app.execute(form)
    app.until(lambda: outcomes(dataset, "rexseek_tiny"), "the first answers are stored", timeout_s=300)
    server.kill()

    kept = outcomes(dataset, "rexseek_tiny")
    assert 0 < len(kept) < NUM_SAMPLES
    # what is stored was computed: an outcome is written last, and no failure is among them
    assert set(kept.values()) <= ANSWERS
    labels = dict(zip(*dataset.values(["id", "rexseek_tiny.detections.id"])))
    assert all(labels[i] is not None for i in kept)
    assert len(set(labels) - set(kept)) == NUM_SAMPLES - len(kept)

    # the other process did not notice
    assert process.poll() is None and service.get(operation).run_state in ("queued", "running")

    server.start()
    server.wait()
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
    app.page.get_by_text(f"{NUM_SAMPLES - len(kept)} expressions on {NUM_SAMPLES - len(kept)} images").wait_for()
    app.shot("restarted-rest")

    app.until(lambda: len(outcomes(dataset, "queued")) == NUM_SAMPLES, "the delegated run is done", timeout_s=120)
    process.wait(60)
    assert service.get(operation).run_state == "completed"
    assert dataset.count_values("queued_outcome") == {"selected": 64, "rejected": 32}

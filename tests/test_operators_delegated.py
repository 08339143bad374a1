"""Delegated runs, end to end: queued, worked on in another process, killed there and run again."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import fiftyone as fo
import plugin
import pytest
from delegated_worker import SlowSelector
from fiftyone.operators.delegated import DelegatedOperationService
from PIL import Image

from fiftyone_rexseek.models import registry

HERE = Path(__file__).resolve().parent
PARAMS = {
    "model": "rexseek-tiny", "expressions_from": "field", "expression_field": "expression", "candidates": "candidates",
    "label_field": "answers", "masks": False,
}  # fmt: skip
NUM_SAMPLES = 80  # more than are written at once, so that a killed run has written some and not all


@pytest.fixture(scope="module", autouse=True)
def installed():
    plugin.install()


@pytest.fixture
def dataset(tmp_path):
    dataset = fo.Dataset(persistent=True)
    samples = []
    for i in range(NUM_SAMPLES):
        path = tmp_path / f"{i}.png"
        Image.new("RGB", (40, 30), "white").save(path)
        candidates = [fo.Detection(label="person", bounding_box=[c / 10, 0.1, 0.1, 0.5]) for c in range(3)]
        samples.append(
            fo.Sample(str(path), expression=("all", "first", "none", "2")[i % 4], candidates=fo.Detections(detections=candidates))
        )
    dataset.add_samples(samples, progress=False)
    yield dataset
    dataset.delete()


def worker(log, seconds=0.0) -> subprocess.Popen:
    env = {**os.environ, "PYTHONPATH": f"{HERE}{os.pathsep}{plugin.ROOT}"}
    command = [sys.executable, str(HERE / "delegated_worker.py"), str(log), str(seconds)]
    return subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)


def answered(dataset) -> int:
    dataset.reload()
    return dataset.count("answers_outcome") if dataset.has_sample_field("answers_outcome") else 0


def test_a_killed_run_goes_on_where_it_was(dataset, tmp_path, monkeypatch):
    service, log = DelegatedOperationService(), tmp_path / "asked.txt"
    queued = plugin.operator("apply_expressions")(dataset, delegate=True, **PARAMS)
    operation = service.get(queued["id"])
    assert operation.run_state == "queued" and "rexseek-tiny" in operation.label
    assert answered(dataset) == 0

    process = worker(log, 0.5)
    deadline = time.monotonic() + 300
    while not answered(dataset):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.1)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    kept = answered(dataset)
    assert 0 < kept < NUM_SAMPLES
    before = dict(zip(*dataset.exists("answers_outcome").values(["id", "answers.detections.id"])))
    asked_before = len(log.read_text().splitlines())
    # FiftyOne's server has no way to know; a person, or an orchestrator, says so
    service.set_failed(operation.id)

    again = service.rerun_operation(operation.id)
    monkeypatch.setattr(registry, "load", lambda *args, **options: SlowSelector(log, 0))
    service.execute_queued_operations()
    done = service.get(again.id)
    assert done.run_state == "completed", done.result
    assert answered(dataset) == NUM_SAMPLES
    assert dataset.count_values("answers_outcome") == {"selected": 60, "rejected": 20}
    # what had been answered was neither asked again nor written again
    after = dict(zip(*dataset.values(["id", "answers.detections.id"])))
    assert all(after[i] == ids for i, ids in before.items())
    assert len(log.read_text().splitlines()) - asked_before == NUM_SAMPLES - kept
    result = done.result.result
    assert result["num_skipped"] == kept and result["selected"] + result["rejected"] == NUM_SAMPLES - kept
    assert done.status.progress == 1

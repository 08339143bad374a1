"""How long work reports itself: to the App as it goes, to Python and a queue as a result; a browser may leave in between."""

import asyncio
import sys
import time

import fiftyone as fo
import plugin
import pytest
from fiftyone.operators.executor import _parse_ctx, execute_or_delegate_operator
from PIL import Image

from fiftyone_rexseek.errors import DataError


@pytest.fixture(scope="module", autouse=True)
def installed():
    plugin.install()


@pytest.fixture
def dataset(tmp_path):
    dataset = fo.Dataset()
    samples = []
    for i in range(5):
        path = tmp_path / f"{i}.png"
        Image.new("RGB", (40, 30), "white").save(path)
        samples.append(fo.Sample(str(path), ground_truth=fo.Detections(), expression="a dog"))
    dataset.add_samples(samples, progress=False)
    yield dataset
    dataset.delete()


def as_the_app(dataset, params):
    """The stream of messages that a browser gets from "Save annotated pictures"."""
    uri = f"{plugin.NAME}/save_annotated"
    request = _parse_ctx(ctx={"dataset": dataset, "params": params}) | {"operator_uri": uri}
    return asyncio.run(execute_or_delegate_operator(uri, request))


def parameters(folder):
    return {"output_dir": str(folder), "fields": ["ground_truth"], "expression_field": "expression", "draw_masks": True}


def test_the_app_gets_progress_and_the_result(dataset, tmp_path):
    result = as_the_app(dataset, parameters(tmp_path / "out"))
    messages = [m.body.to_json() for m in result.result]
    names = [m["operator_uri"].rpartition("/")[2] for m in messages]
    assert names[-1] == "show_output" and set(names[:-1]) == {"set_progress"}
    assert messages[-1]["params"]["results"]["num_saved"] == 5
    assert [m["params"]["progress"] for m in messages[:-1]][-1] == 1


def test_python_gets_the_result(dataset, tmp_path):
    result = plugin.execute("save_annotated", dataset, parameters(tmp_path / "out"))
    assert result.result["num_saved"] == 5


def test_a_browser_that_leaves_takes_nothing_with_it(dataset, tmp_path):
    stream = as_the_app(dataset, parameters(tmp_path / "out")).result
    next(stream)
    stream.close()
    deadline = time.monotonic() + 60
    while len(list((tmp_path / "out").glob("*.png"))) < 5:
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.parametrize(
    ("error", "said"),
    [(DataError("the disk is full"), "the disk is full"), (OSError("the disk is full"), "OSError: the disk is full")],
)
def test_an_error_in_the_middle_is_shown(dataset, tmp_path, monkeypatch, error, said):
    def fail(*args, **options):
        raise error

    module = sys.modules[type(plugin.operator("save_annotated")).__module__]
    monkeypatch.setattr(module, "save_annotated", fail)
    [message] = [m.body.to_json() for m in as_the_app(dataset, parameters(tmp_path / "out")).result]
    shown = message["params"]["outputs"]["type"]["properties"]["error"]["view"]
    assert message["operator_uri"].endswith("show_output") and shown["description"] == said
    with pytest.raises(plugin.ExecutionError, match="the disk is full"):
        plugin.execute("save_annotated", dataset, parameters(tmp_path / "out"))

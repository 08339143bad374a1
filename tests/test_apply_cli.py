"""The apply command, on a dataset and on HumanRef without one."""

import json

import fiftyone as fo
import numpy as np
import pytest
from click.testing import CliRunner
from fake_models import FakeSelector
from PIL import Image

from fiftyone_rexseek.cli import cli
from fiftyone_rexseek.errors import ConfigError, DataError, DownloadError
from fiftyone_rexseek.models import registry
from fiftyone_rexseek.models.humanref_run import run_humanref


@pytest.fixture
def humanref(tmp_path):
    images = tmp_path / "images"
    images.mkdir()
    rows = []
    for i, (file, text) in enumerate([("a", "all"), ("b", "none"), ("a", "garbled"), ("missing", "all"), ("b", "1")]):
        boxes = [[1.5, 2, 11, 12.25], [20, 10, 39, 29]]
        rows.append({
            "id": i if i else "zero", "image_name": f"{file}.png", "domain": "attribute",
            "sub_domain": "1000_attribute_retranslated_with_mask", "referring": text, "candidate_boxes": boxes,
            "answer_boxes": boxes[:1],
        })  # fmt: skip
    for name in ("a", "b"):
        Image.fromarray(np.zeros((30, 40, 3), np.uint8)).save(images / f"{name}.png")
    annotations = tmp_path / "annotations.jsonl"
    annotations.write_text("".join(json.dumps(r) + "\n" for r in rows))
    return annotations, images


def read(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_official_rows_in_the_order_of_the_annotations(humanref, tmp_path):
    out = tmp_path / "out" / "predictions.jsonl"
    run = run_humanref(*humanref, out, FakeSelector(), batch_size=1)
    rows = read(out)
    assert [r["id"] for r in rows] == ["zero", 1, 2, 3, 4]
    assert [r["outcome"] for r in rows] == ["selected", "rejected", "unparsed", "failed", "selected"]
    assert rows[0]["extracted_predictions"] == [[1.5, 2, 11, 12.25], [20, 10, 39, 29]]
    assert rows[1]["extracted_predictions"] == [[]] and "does not exist" in rows[3]["error"]
    assert run.outcomes == {"selected": 2, "rejected": 1, "unparsed": 1, "failed": 1} and run.num_asked == 5

    from fiftyone_rexseek.datasets.predictions import read_predictions

    assert [p.outcome.value for p in read_predictions(out)] == ["selected", "rejected", "unparsed", "failed", "selected"]


def test_resuming_a_file_that_was_cut_off(humanref, tmp_path):
    out = tmp_path / "predictions.jsonl"
    run_humanref(*humanref, out, FakeSelector())
    lines = out.read_text().splitlines()
    out.write_text("\n".join([lines[0], lines[4], lines[3], lines[1][:20]]))
    model = FakeSelector()
    run = run_humanref(*humanref, out, model)
    assert run.num_skipped == 2 and run.num_asked == 3
    assert [r["id"] for r in read(out)] == ["zero", 1, 2, 3, 4]
    assert run_humanref(*humanref, out, FakeSelector(), resume=False).num_skipped == 0


def test_humanref_with_missing_images(humanref, tmp_path):
    with pytest.raises(DataError, match="image folder"):
        run_humanref(humanref[0], tmp_path / "nowhere", tmp_path / "out.jsonl", FakeSelector())


@pytest.fixture
def fake_model(monkeypatch):
    monkeypatch.setattr(registry, "load", lambda name, weights=None, **options: FakeSelector())


def run_cli(*args):
    result = CliRunner().invoke(cli, ["apply", *map(str, args)])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def test_command_on_humanref(humanref, tmp_path, fake_model):
    annotations, images = humanref
    out = tmp_path / "p.jsonl"
    result = run_cli("--humanref", annotations, "--images", images, "--model", "rexseek-3b", "--out", out)
    assert result.exit_code == 0 and "2 selected, 1 rejected, 1 unparsed, 1 failed" in result.output
    assert len(read(out)) == 5


def test_command_on_a_dataset(humanref, fake_model):
    _, images = humanref
    box = fo.Detection(label="person", bounding_box=[0, 0, 0.5, 0.5])
    dataset = fo.Dataset("apply-cli")
    try:
        dataset.add_samples(
            [fo.Sample(filepath=str(images / "a.png"), expression=t, candidates=fo.Detections(detections=[box.copy()]), tags=[t])
             for t in ("all", "none")]
        )  # fmt: skip
        result = run_cli("apply-cli", "--model", "rexseek-3b")
        assert result.exit_code == 0 and "1 selected, 1 rejected" in result.output
        assert dataset.values("rexseek_outcome") == ["selected", "rejected"]
        run_cli("apply-cli", "--model", "rexseek-3b", "--field", "p", "--tag", "none", "--expression", "all")
        assert dataset.values("p_outcome") == [None, "selected"]
        with pytest.raises(ConfigError, match="nowhere"):
            run_cli("apply-cli", "--model", "rexseek-3b", "--expression-field", "nowhere")
        with pytest.raises(ConfigError, match="saved view"):
            run_cli("apply-cli", "--model", "rexseek-3b", "--view", "nowhere")
        with pytest.raises(DownloadError, match="grounding-dino-tiny"):
            run_cli("apply-cli", "--model", "rexseek-3b", "--detector", "grounding-dino", "--prompt", "person")
    finally:
        dataset.delete()


@pytest.mark.parametrize("args", [[], ["x", "--humanref", __file__], ["--humanref", __file__], ["x", "--out", "y"],
                                  ["x", "--candidates", "a", "--detector", "b"]])  # fmt: skip
def test_wrong_combinations(args):
    result = run_cli(*args, "--model", "rexseek-tiny")
    assert result.exit_code == 2 and "Error" in result.output


def test_dataset_that_does_not_exist():
    with pytest.raises(ConfigError, match="no such dataset"):
        run_cli("there-is-none", "--model", "rexseek-tiny")

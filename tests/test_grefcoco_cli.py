"""``fiftyone-rexseek evaluate grec | gres | greg`` end to end."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from fiftyone_rexseek.commands.evaluate import evaluate
from fiftyone_rexseek.errors import ConfigError, DataError

DATA = Path(__file__).parent / "fixtures" / "grefcoco"
REFS, INSTANCES = DATA / "grefcoco" / "grefs(unc).json", DATA / "grefcoco" / "instances.json"


def call(*arguments):
    done = CliRunner().invoke(evaluate, list(map(str, arguments)), catch_exceptions=True)
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    assert done.exit_code == 0, done.output
    return done.output


def test_grec(tmp_path):
    expected = json.loads((DATA / "grec_expected_summary.json").read_text())
    files = ["--refs", REFS, "--instances", INSTANCES, "--pred", DATA / "grec_predictions.json"]
    out = call("grec", *files, "--split", "val", "--json", tmp_path / "r.json", "--per-sample", tmp_path / "s.json")
    assert "always empty" in out and "protocol: official" in out
    result = json.loads((tmp_path / "r.json").read_text())["val"]
    assert result.items() >= expected["val"]["threshold_0.7"].items()
    assert result["coco_stats_all_boxes"] == pytest.approx(expected["val"]["coco_stats_all_boxes"], abs=1e-6)
    verdicts = json.loads((tmp_path / "s.json").read_text())["val"]
    reference = json.loads((DATA / "grec_expected_per_sample.json").read_text())["val"]
    for mine, row in zip(verdicts, reference, strict=True):
        assert mine.items() >= {k: row[k] for k in ("ref_id", "sent_id", "num_gt", "num_pred", "correct")}.items()

    call("grec", *files, "--protocol", "paper", "--output", "count", "--no-ap", "--json", tmp_path / "all.json")
    for split, summary in json.loads((tmp_path / "all.json").read_text()).items():
        assert summary.items() >= expected[split]["count_head_plain_iou_matching"].items()


@pytest.mark.parametrize("method, predictions", [("grec", "grec_predictions.json"), ("gres", "gres_predictions_480.json")])
def test_skipped_expressions_enter_no_figure(tmp_path, method, predictions):
    """Answers to a few expressions only: the same figures as on a file of those expressions."""
    rows = [r for r in json.loads((DATA / predictions).read_text()) if r["split"] == "val"]
    kept = {r["ref_id"] for r in rows[:20]}
    (tmp_path / "pred.json").write_text(json.dumps([r for r in rows if r["ref_id"] in kept]))
    refs = [r for r in json.loads(REFS.read_text()) if r["ref_id"] in kept]
    (tmp_path / "grefs.json").write_text(json.dumps(refs))
    found = []
    for name in (REFS, tmp_path / "grefs.json"):
        call(method, "--refs", name, "--instances", INSTANCES, "--pred", tmp_path / "pred.json", "--split", "val",
             "--missing", "skip", "--json", tmp_path / "r.json")  # fmt: skip
        found.append(json.loads((tmp_path / "r.json").read_text())["val"])
    assert found[0]["num_unanswered"] > 0 == found[1]["num_unanswered"]
    assert found[0].get("coco_stats_all_boxes") == found[1].get("coco_stats_all_boxes")
    # random choices depend on what else is in the file
    names = found[0]["baselines"] if method == "grec" else ("always empty", "all candidates")
    for name in names:
        assert found[0]["baselines"][name] == found[1]["baselines"][name]


def test_gres_with_companion(tmp_path):
    expected = json.loads((DATA / "gres_expected_summary.json").read_text())["summary"]
    out = call(
        "gres", "--refs", DATA / "grefcoco", "--pred", DATA / "gres_predictions_480.json", "--split", "val",
        "--refcoco-refs", DATA / "refcoco", "--refcoco-pred", DATA / "gres_predictions_480_refcoco_val.json",
        "--json", tmp_path / "r.json", "--per-sample", tmp_path / "s.json",
    )  # fmt: skip
    assert "val full" in out
    result = json.loads((tmp_path / "r.json").read_text())["val"]
    for source, summary in expected["480_refcoco_plus_grefcoco_val"].items():
        assert {k: result[source][k] for k in summary} == pytest.approx(summary, rel=1e-9)
    verdicts = json.loads((tmp_path / "s.json").read_text())["val"]["grefcoco"]
    reference = json.loads((DATA / "gres_expected_per_sample.json").read_text())["480"]["val"]
    assert [(v["I"], v["U"]) for v in verdicts] == [(r["I"], r["U"]) for r in reference]


@pytest.mark.parametrize(
    "options, key, file",
    [
        (["--protocol", "original-size"], "orig", "orig"),
        (["--protocol", "original-size", "--no-target", "mask", "--min-pixels", "50"], "orig_50px", "orig"),
        (["--protocol", "paper", "--size", "original"], "orig_head_clears_mask", "orig"),
        (["--protocol", "paper", "--min-pixels", "50"], "480_50px", "480"),
    ],
)
def test_gres_variants(tmp_path, options, key, file):
    expected = json.loads((DATA / "gres_expected_summary.json").read_text())["summary"][key]
    call("gres", "--refs", REFS, "--instances", INSTANCES, "--pred", DATA / f"gres_predictions_{file}.json",
         "--no-baselines", *options, "--json", tmp_path / "r.json")  # fmt: skip
    result = json.loads((tmp_path / "r.json").read_text())
    assert set(result) == set(expected)
    for split, summary in expected.items():
        assert {k: result[split][k] for k in summary} == pytest.approx(summary, rel=1e-9)


def test_refusals():
    refs, pred = ["--refs", DATA / "grefcoco"], ["--pred", DATA / "gres_predictions_480.json"]
    with pytest.raises(DataError, match="protocol='official'"):
        call("gres", *refs, *pred, "--protocol", "original-size")
    with pytest.raises(ConfigError, match="no expression of the split"):
        call("gres", *refs, *pred, "--split", "test")
    with pytest.raises(ConfigError, match="companion"):
        call("gres", *refs, *pred, "--refcoco-refs", "x")
    with pytest.raises(DataError, match="another split or data set"):
        call("gres", *refs, "--pred", DATA / "gres_predictions_480_refcoco_val.json", "--split", "testA")
    for task, other in (("grec", "gres_predictions_480.json"), ("gres", "grec_predictions.json")):
        with pytest.raises(DataError, match=r"none of the .* answers can be used.*another task"):
            call(task, *refs, "--pred", DATA / other, "--split", "val")
    with pytest.raises(DataError, match="no sentence"):
        call("gres", *refs, *pred, "--strict")


@pytest.mark.parametrize("content", [None, "", "[" * 200_000, b"\xff", b"\x1f\x8b\x08", "{}", "[]", "[7]"], ids=str)
def test_a_file_that_is_none_is_named(tmp_path, content):
    path = tmp_path / "file.json"
    if content is None:
        path.mkdir()
    else:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    pred = ["--pred", DATA / "grec_predictions.json"]
    for call_it in (
        ["grec", "--refs", REFS, "--pred", path],
        ["grec", "--refs", REFS, "--instances", path, *pred],
        ["greg", "--items", path],
    ):
        with pytest.raises(DataError, match=r"file\.json" + (".*gunzip" if str(content).startswith(r"b'\x1f") else "")):
            call(*call_it)


def test_scoring_loads_neither_fiftyone_nor_torch(tmp_path):
    code = (
        "import sys; from fiftyone_rexseek.commands.evaluate import evaluate;"
        f"evaluate(['grec', '--refs', {str(DATA / 'grefcoco')!r}, '--pred', {str(DATA / 'grec_predictions.json')!r}],"
        " standalone_mode=False); assert not {'torch', 'fiftyone'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr

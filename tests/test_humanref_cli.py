"""``fiftyone-rexseek evaluate humanref``: what a user types and sees."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
REFERENCE = ROOT / "tests" / "fixtures" / "humanref"
GT = str(REFERENCE / "annotations.jsonl")


def prediction(name):
    return str(REFERENCE / "predictions" / f"{name}.jsonl")


def run(*arguments, probe=False):
    code = "import sys; from fiftyone_rexseek.cli import main\n"
    if probe:
        code += "import atexit; atexit.register(lambda: print({'fiftyone', 'torch', 'transformers'} & set(sys.modules)))\n"
    code += f"sys.argv = ['fiftyone-rexseek', 'evaluate', *{list(map(str, arguments))!r}]\nmain()"
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=120)


def test_needs_neither_database_nor_models(tmp_path):
    done = run(
        "humanref", "--gt", GT, "--pred", prediction("realistic"), prediction("points"), "--names", "A", "B",
        "--dump", tmp_path / "new" / "folder", "--json", tmp_path / "full.json", probe=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "set()"
    models = {r["model"] for r in json.loads((tmp_path / "new" / "folder" / "comparison.json").read_text())["box_count_metrics"]}
    assert models == {"A", "B"}  # the trivial answers are shown, and are not part of the official files
    assert "(all)" in done.stdout and "(none)" in done.stdout and "(random 1)" in done.stdout
    full = json.loads((tmp_path / "full.json").read_text())
    assert full["A"]["protocol"] == "official" and full["B"]["is_point"] is True


def test_several_values_and_repeated_options_are_the_same(tmp_path):
    a, b = prediction("perfect"), prediction("empties")
    one = run("humanref", "--pred", a, b, "--gt", GT, "--names", "x", "y")
    two = run("humanref", "--pred", a, "--pred", b, "--names=x", "--names", "y", "--gt", GT)
    assert one.returncode == two.returncode == 0, one.stderr + two.stderr
    assert one.stdout == two.stdout


def test_default_names(tmp_path):
    for folder in ("first", "second"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "out.jsonl").write_text(Path(prediction("perfect")).read_text())
    done = run("humanref", "--gt", GT, "--no-baselines", "--pred", tmp_path / "first" / "out.jsonl",
               tmp_path / "second" / "out.jsonl", prediction("empties"))  # fmt: skip
    assert done.returncode == 0, done.stderr
    for name in ("first/out", "second/out", "empties"):
        assert f"| {name} " in done.stdout


def test_missing_answers_are_said(tmp_path):
    done = run("humanref", "--gt", GT, "--pred", prediction("missing_ids"), "--json", tmp_path / "a.json")
    assert done.returncode == 0
    assert "230 samples have no answer, 37 of them rejection samples" in done.stderr
    assert "without them it is 38" in done.stderr
    done = run("humanref", "--gt", GT, "--pred", prediction("missing_ids"), "--missing", "wrong", "--json", tmp_path / "b.json")
    a, b = (json.loads((tmp_path / f).read_text())["missing_ids"] for f in ("a.json", "b.json"))
    assert (a["rejection_correct"], b["rejection_correct"]) == (75, 38)
    done = run("humanref", "--gt", GT, "--pred", prediction("missing_ids"), "--missing", "error")
    assert done.returncode == 1 and "230 of 600 samples have no answer" in done.stderr


def test_paper_protocol_is_named(tmp_path):
    done = run("humanref", "--gt", GT, "--pred", prediction("realistic"), "--protocol", "paper", "--json", tmp_path / "p.json")
    assert done.returncode == 0 and "Protocol: paper" in done.stdout
    assert json.loads((tmp_path / "p.json").read_text())["realistic"]["protocol"] == "paper"


def test_bad_rows_are_counted_and_strict_stops(tmp_path):
    lines = Path(GT).read_text().splitlines()
    gt = tmp_path / "gt.jsonl"
    gt.write_text("\n".join([*lines[:5], "{broken", *lines[5:]]))
    done = run("humanref", "--gt", gt, "--pred", prediction("perfect"), "--json", tmp_path / "s.json")
    assert done.returncode == 0, done.stderr
    assert "1 problem(s) (malformed-json: 1)" in done.stderr and "gt.jsonl:6" in done.stderr
    assert json.loads((tmp_path / "s.json").read_text())["perfect"]["overall"]["count"] == 500
    done = run("humanref", "--gt", gt, "--pred", prediction("perfect"), "--strict")
    assert done.returncode == 1 and "gt.jsonl:6" in done.stderr


def other_split(tmp_path):
    path = tmp_path / "other.jsonl"
    path.write_text("".join(json.dumps({"id": f"train_{i}", "extracted_predictions": []}) + "\n" for i in range(300)))
    return path


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (lambda t: ["--gt", t / "no.jsonl", "--pred", prediction("perfect")], "does not exist"),
        (lambda t: ["--gt", t, "--pred", prediction("perfect")], "is a folder"),
        (lambda t: ["--gt", prediction("perfect"), "--pred", GT], "swapped"),
        (lambda t: ["--gt", GT, "--pred", GT], "annotations, not predictions"),
        (lambda t: ["--gt", GT, "--pred", t / "empty.jsonl"], "is empty"),
        (lambda t: ["--gt", GT, "--pred", other_split(t)], "another split"),
        (lambda t: ["--gt", GT, "--pred", prediction("perfect"), "--names", "a", "b"], "do not pair up"),
        (lambda t: ["--gt", GT, "--pred", prediction("perfect"), prediction("points"), "--names", "a", "a"], "same name"),
        (lambda t: ["--gt", GT, "--pred", prediction("perfect"), "--names", "a\nb"], "one line"),
        (lambda t: ["--gt", GT, "--pred", prediction("perfect"), "--dump", t / "empty.jsonl"], "cannot write"),
        (lambda t: ["--gt", GT, "--pred", prediction("perfect"), "--json", t], "cannot write"),
    ],
)
def test_one_clear_message(arguments, message, tmp_path):
    (tmp_path / "empty.jsonl").write_text("")
    done = run("humanref", *arguments(tmp_path))
    assert done.returncode == 1, done.stdout
    assert message in done.stderr and done.stderr.startswith("Error: ") and "Traceback" not in done.stderr


def test_help_lists_every_benchmark_without_importing_it():
    done = run("--help", probe=True)
    assert done.returncode == 0 and done.stdout.splitlines()[-1] == "set()"
    for name in ("humanref", "grec", "gres", "greg"):
        assert name in done.stdout

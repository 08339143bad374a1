"""``fiftyone-rexseek load``, ``export`` and ``demo``: round trips, and what a user sees when the input is wrong."""

import json
import shutil
from pathlib import Path
from typing import NamedTuple

import fiftyone as fo
import pytest
from PIL import Image

from fiftyone_rexseek import cli
from fiftyone_rexseek.datasets import scenes

FIXTURES = Path(__file__).parent / "fixtures"


class Ran(NamedTuple):
    code: int
    out: str
    err: str


@pytest.fixture
def run(monkeypatch, capsys):
    """Types a command; any error that is not turned into a message fails the test."""

    def type_in(*words) -> Ran:
        monkeypatch.setattr("sys.argv", ["fiftyone-rexseek", *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        out, err = capsys.readouterr()
        return Ran(ended.value.code, out, err)

    return type_in


@pytest.fixture
def name(request):
    """Name of a dataset that is gone after the test."""
    name = f"cli-{request.node.name[:60]}".replace("[", "-").replace("]", "")
    yield name
    if fo.dataset_exists(name):
        fo.delete_dataset(name)


@pytest.fixture(scope="module")
def humanref(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cli") / "humanref"
    scenes.write_humanref(folder, seed=23, count=3, size=(200, 150), questions_per_scene=6)
    return folder


@pytest.fixture(scope="module")
def grefcoco(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cli") / "grefcoco"
    scenes.write_grefcoco(folder, seed=23, count=3, size=(200, 150), refs_per_scene=3)
    return folder


def names_of(folder):
    return {p.name for p in folder.rglob("*") if p.suffix in (".png", ".jpg")}


def test_humanref_there_and_back(run, name, humanref, tmp_path):
    done = run("load", "humanref", humanref, "--name", name)
    assert done.code == 0, done.err
    assert f"{name}: 18 samples added" in done.out and f"fiftyone app launch {name}" in done.out
    again = run("load", "humanref", humanref, "--name", name)
    assert again.code == 0 and "exists with 18 samples" in again.out and "0 samples added, 18 were there already" in again.out
    out = tmp_path / "out"
    done = run("export", "humanref", name, out)
    assert done.code == 0 and f"18 samples in {out}" in done.out
    assert (out / "annotations.jsonl").read_bytes() == (humanref / "annotations.jsonl").read_bytes()
    assert names_of(out) == names_of(humanref) != set()
    done = run("export", "humanref", name, tmp_path / "linked", "--media", "link", "--view", "nobody matches")
    rows = [json.loads(line) for line in (tmp_path / "linked" / "annotations.jsonl").read_text().splitlines()]
    assert done.code == 0 and rows and not any(row["answer_boxes"] for row in rows)
    assert all((tmp_path / "linked" / "images" / row["image_name"]).is_symlink() for row in rows)


def test_samples_about_which_nothing_is_known_are_left_out_and_counted(run, name, humanref, tmp_path):
    assert run("load", "humanref", humanref, "--name", name).code == 0
    sample = fo.load_dataset(name).first()
    sample.ground_truth = None
    sample.save()
    done = run("export", "humanref", name, tmp_path / "out", "--media", "none")
    assert "17 samples in" in done.out and "1 without ground_truth left out" in done.out
    assert names_of(tmp_path / "out") == set()


def test_options_of_loading(run, name, humanref):
    done = run("load", "humanref", humanref, "--name", name, "--domain", "rejection", "--domain", "position", "--max-samples", 4, "--no-masks")
    dataset = fo.load_dataset(name)
    assert done.code == 0 and len(dataset) == 4 and set(dataset.distinct("domain")) <= {"rejection", "position"}
    masks = [d.mask for s in dataset for d in s.ground_truth.detections]
    assert dataset.persistent and masks and all(mask is None for mask in masks)


def test_grefcoco_there_and_back(run, name, grefcoco, tmp_path):
    done = run("load", "grefcoco", grefcoco, "--name", name)
    assert done.code == 0, done.err
    refs = json.loads((grefcoco / "grefcoco" / "grefs(unc).json").read_text())
    count = sum(len(ref["sentences"]) for ref in refs)
    done = run("export", "grefcoco", name, tmp_path / "out")
    assert done.code == 0 and f"{count} samples in" in done.out
    assert json.loads((tmp_path / "out" / "grefs(unc).json").read_text()) == refs
    assert names_of(tmp_path / "out") == names_of(grefcoco) != set()


def test_one_split_of_refcoco(run, name, tmp_path):
    shutil.copytree(FIXTURES / "grefcoco" / "refcoco", tmp_path / "refcoco")
    (tmp_path / "images").mkdir()
    for row in json.loads((tmp_path / "refcoco" / "instances.json").read_text())["images"]:
        Image.new("L", (row["width"], row["height"])).save(tmp_path / "images" / row["file_name"])
    done = run("load", "refcoco", tmp_path, "--split", "testA", "--max-samples", 3, "--name", name)
    dataset = fo.load_dataset(name)
    assert done.code == 0 and len(dataset) == 3 == len(dataset.match_tags("testA"))
    done = run("export", "refcoco", name, tmp_path / "out", "--benchmark", "refcoco+")
    assert done.code == 0 and "3 samples in" in done.out, done.err
    assert json.loads((tmp_path / "out" / "refs(unc).json").read_text())
    wrong = run("load", "refcoco", tmp_path, "--partition", "google", "--name", name)
    assert wrong.code == 1 and "google" in wrong.err and "unc" in wrong.err


def test_predictions_there_and_back(run, name, humanref, tmp_path):
    assert run("load", "humanref", humanref, "--name", name).code == 0
    rows = [json.loads(line) for line in (humanref / "annotations.jsonl").read_text().splitlines()]
    source = tmp_path / "model.jsonl"
    source.write_text("".join(json.dumps({"id": r["id"], "extracted_predictions": r["candidate_boxes"][:2]}) + "\n" for r in rows))
    done = run("load", "predictions", source, "--dataset", name, "--field", "model")
    assert done.code == 0 and "18" in done.out
    done = run("export", "predictions", name, tmp_path / "back.jsonl", "--field", "model")
    assert done.code == 0 and done.out.startswith("18 rows in")
    assert (tmp_path / "back.jsonl").read_text() == source.read_text()
    taken = run("load", "predictions", source, "--dataset", name, "--field", "model")
    assert taken.code == 1 and "model" in taken.err and "overwrite" in taken.err
    assert run("load", "predictions", source, "--dataset", name, "--field", "model", "--overwrite").code == 0


@pytest.mark.parametrize("task, more", [("grec", ()), ("gres", ("--format", "gres")), ("orig", ("--format", "gres"))])
def test_grefcoco_predictions_there_and_back(run, name, tmp_path, task, more):
    source = FIXTURES / "grefcoco"
    (tmp_path / "images").mkdir()
    for row in json.loads((source / "grefcoco" / "instances.json").read_text())["images"]:
        Image.new("L", (row["width"], row["height"])).save(tmp_path / "images" / row["file_name"])
    loaded = run("load", "grefcoco", source / "grefcoco", "--images", tmp_path / "images", "--split", "val", "--name", name)
    assert loaded.code == 0, loaded.err
    file = {"grec": "grec_predictions", "gres": "gres_predictions_480", "orig": "gres_predictions_orig"}[task]
    done = run("load", "predictions", source / f"{file}.json", "--dataset", name, "--field", "model", *more)
    rows = [r for r in json.loads((source / f"{file}.json").read_text()) if r["split"] == "val"]
    assert done.code == 0 and f"{len(rows)} samples have" in done.out, done.err
    done = run("export", "predictions", name, tmp_path / "back.json", "--field", "model", *more)
    assert done.code == 0 and done.out.startswith(f"{len(rows)} rows in")
    written = {(r["ref_id"], r["sent_id"]): r for r in json.loads((tmp_path / "back.json").read_text())}
    assert all(written[r["ref_id"], r["sent_id"]].items() <= r.items() for r in rows)
    other = run("export", "predictions", name, tmp_path / "back.json", "--field", "model", "--format", "coco")
    assert other.code == 2 and "'coco' is not one of" in other.err


BROKEN = {
    "broken JSON": ("{\"id\": 1, \"image_name\"\n" * 3, "holds no row"),
    "an empty file": ("", "annotations.jsonl"),
    "no JSON objects": ("[1, 2]\n", "JSON Lines"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_broken_annotations_leave_no_dataset(run, name, tmp_path, kind):
    text, message = BROKEN[kind]
    (tmp_path / "images").mkdir()
    (tmp_path / "annotations.jsonl").write_text(text)
    done = run("load", "humanref", tmp_path, "--name", name)
    assert done.code == 1 and message in done.err and "annotations.jsonl" in done.err
    assert not fo.dataset_exists(name)


def test_a_choice_that_leaves_nothing_is_said(run, name, humanref, tmp_path):
    rows = [json.loads(line) for line in (humanref / "annotations.jsonl").read_text().splitlines()]
    kept = [row for row in rows if row["domain"] != "celebrity"]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in kept))
    done = run("load", "humanref", humanref, "--labels", tmp_path / "a.jsonl", "--domain", "celebrity", "--name", name)
    assert done.code == 1 and "nothing was imported" in done.err and "--domain" in done.err
    assert not fo.dataset_exists(name)


def test_strict_names_the_line_and_keeps_what_came_before(run, name, humanref, tmp_path):
    lines = (humanref / "annotations.jsonl").read_text().splitlines()
    (tmp_path / "a.jsonl").write_text("\n".join([*lines[:2], "{broken", *lines[2:]]))
    options = ("--labels", tmp_path / "a.jsonl", "--name", name)
    done = run("load", "humanref", humanref, "--strict", *options)
    assert done.code == 1 and "a.jsonl:3" in done.err and len(fo.load_dataset(name)) == 2
    done = run("load", "humanref", humanref, *options)
    assert done.code == 0 and len(fo.load_dataset(name)) == len(lines) and "(" in done.out


@pytest.mark.parametrize("text", ['[{"ref_id": 1', "[]", '{"refs": 3}'])
def test_broken_refs(run, name, grefcoco, tmp_path, text):
    shutil.copytree(grefcoco, tmp_path / "g")
    (tmp_path / "g" / "grefcoco" / "grefs(unc).json").write_text(text)
    done = run("load", "grefcoco", tmp_path / "g", "--name", name)
    assert done.code == 1 and "grefs(unc).json" in done.err and not fo.dataset_exists(name)


@pytest.mark.parametrize(
    "words, code, message",
    [
        ("load humanref {tmp}/nowhere", 2, "does not exist"),
        ("load humanref {tmp}", 1, "annotations.jsonl"),
        ("load grefcoco {tmp}", 1, "grefs(unc).json"),
        ("load refcoco {tmp}", 1, "refs(unc)"),
        ("load visualgenome {tmp}", 2, "No such command 'visualgenome'"),
        ("load humanref {humanref} --domain weather", 2, "'weather' is not one of"),
        ("load humanref {humanref} --max-samples 0", 2, "--max-samples"),
        ("load humanref {humanref} --images nowhere --name {name}", 1, "nowhere"),
        ("load humanref {humanref} --name ???", 1, "--name"),
        ("load grefcoco {grefcoco} --split weather --name {name}", 1, "weather"),
        ("load grefcoco {grefcoco} --instances nowhere.json --name {name}", 1, "nowhere.json"),
        ("load grefcoco {humanref} --name {name}", 1, "grefs(unc).json"),
        ("load refcoco {tmp} --benchmark refclef", 2, "'refclef' is not one of"),
        ("load predictions {humanref}/annotations.jsonl --dataset no-such-set --field f", 1, "no-such-set"),
        ("load predictions {tmp}/none.jsonl --dataset d --field f", 2, "does not exist"),
        ("export humanref no-such-set {tmp}/out", 1, "no-such-set"),
        ("export visualgenome d {tmp}/out", 2, "No such command 'visualgenome'"),
        ("export humanref d {humanref}/annotations.jsonl", 2, "is a file"),
        ("export humanref d {tmp}/out --media move", 2, "'move' is not one of"),
        ("export predictions d {tmp}/out.jsonl", 2, "--field"),
        ("demo --scenes 0", 2, "--scenes"),
        ("demo --scenes many", 2, "--scenes"),
        ("demo --seed -1", 2, "--seed"),
        ("demo --port 70000", 2, "--port"),
        ("demo --folder {humanref}/annotations.jsonl", 2, "is a file"),
        ("demo --folder {humanref}/.. --no-app", 1, "other data"),
        ("demo --folder /proc/nowhere --no-app", 1, "cannot write here"),
    ],
)
def test_wrong_words(run, name, humanref, grefcoco, tmp_path, words, code, message):
    places = dict(tmp=tmp_path, humanref=humanref, grefcoco=grefcoco, name=name)
    kept = (humanref / "annotations.jsonl").read_bytes()
    done = run(*(word.format(**places) for word in words.split()))
    assert done.code == code and message in done.err
    assert not fo.dataset_exists(name) and not (tmp_path / "out").exists()
    assert (humanref / "annotations.jsonl").read_bytes() == kept


@pytest.mark.parametrize(
    "words, message",
    [
        ("humanref {name} {tmp}/out --view best", "no saved view 'best'"),
        ("humanref {name} {tmp}/out --gt-field truth", "truth"),
        ("humanref {name} {tmp}/out --gt-field expression", "expression"),
        ("humanref {name} /proc/nowhere", "cannot be written"),
        ("grefcoco {name} {tmp}/out --gt-field truth", "truth"),
        ("predictions {name} {tmp}/p.jsonl --field truth", "truth"),
        ("predictions {name} /proc/nowhere/p.jsonl --field ground_truth", "cannot be written"),
    ],
)
def test_wrong_words_about_a_dataset(run, name, humanref, tmp_path, words, message):
    assert run("load", "humanref", humanref, "--name", name, "--max-samples", 2).code == 0
    done = run("export", *(word.format(name=name, tmp=tmp_path) for word in words.split()))
    assert done.code == 1 and message in done.err


def test_scenes_of_an_earlier_demo_are_replaced_and_other_data_is_not(tmp_path):
    from fiftyone_rexseek.errors import ConfigError
    from fiftyone_rexseek.integration import demo

    demo._clear(tmp_path / "a")
    (tmp_path / "a" / "old.png").touch()
    demo._clear(tmp_path / "a")
    assert [p.name for p in (tmp_path / "a").iterdir()] == [demo.MARKER]
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "mine.png").touch()
    with pytest.raises(ConfigError, match="other data"):
        demo._clear(tmp_path / "b")
    assert (tmp_path / "b" / "mine.png").exists()

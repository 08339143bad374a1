"""Files from elsewhere that mean harm: archives that write outside their folder, pickles that run programs."""

import io
import json
import os
import pickle
import re
import tarfile
import zipfile
from pathlib import Path

import pytest
from PIL import Image

from fiftyone_rexseek.datasets.grefcoco import read_grefcoco
from fiftyone_rexseek.datasets.refcoco import read_refcoco
from fiftyone_rexseek.errors import CheckpointError, DataError, ProblemLog
from fiftyone_rexseek.integration import zoo_datasets
from fiftyone_rexseek.integration.zoo_datasets import extract

ROOT = Path(__file__).resolve().parent.parent


def make_zip(path, *names):
    with zipfile.ZipFile(path, "w") as z:
        for name in names:
            z.writestr(name, b"x")


def make_tar(path, *members):
    """Members are names of files, or (name, type, target of the link)."""
    with tarfile.open(path, "w:gz" if path.name.endswith("gz") else "w") as t:
        for member in members:
            name, kind, target = member if isinstance(member, tuple) else (member, tarfile.REGTYPE, "")
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, target
            info.size = 1 if kind == tarfile.REGTYPE else 0
            t.addfile(info, io.BytesIO(b"x") if info.size else None)


def names_below(folder):
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*"))


@pytest.mark.parametrize("name", ["good.zip", "good.tar", "good.tar.gz", "good.tgz"])
def test_ordinary_archives_are_unpacked(tmp_path, name):
    make = make_zip if name.endswith("zip") else make_tar
    make(tmp_path / name, "a.png", "deep/b..c.png")
    extract(tmp_path / name, tmp_path / "out")
    assert names_below(tmp_path / "out") == ["a.png", "deep", "deep/b..c.png"]


@pytest.mark.parametrize("member", ["../evil", "a/../../evil", "{tmp}/evil"])
@pytest.mark.parametrize("name", ["bad.zip", "bad.tar", "bad.tgz"])
def test_members_outside_the_folder_are_refused(tmp_path, name, member):
    member = member.format(tmp=tmp_path)
    (make_zip if name == "bad.zip" else make_tar)(tmp_path / name, "good.png", member)
    with pytest.raises(DataError, match=rf"{re.escape(name)}.*outside.*{re.escape(member)}"):
        extract(tmp_path / name, tmp_path / "out")
    assert names_below(tmp_path) == [name, "out"]


@pytest.mark.parametrize(
    "members",
    [
        [("link", tarfile.SYMTYPE, ".."), "link/evil"],
        [("link", tarfile.SYMTYPE, "{tmp}"), "link/evil"],
        [("link", tarfile.LNKTYPE, "../secret")],
        [("pipe", tarfile.FIFOTYPE, "")],
        [("disk", tarfile.BLKTYPE, "")],
    ],
)
def test_links_that_lead_outside_and_devices_are_refused(tmp_path, members):
    (tmp_path / "secret").write_text("secret")
    filled = [(m[0], m[1], m[2].format(tmp=tmp_path)) if isinstance(m, tuple) else m for m in members]
    make_tar(tmp_path / "bad.tar", *filled)
    with pytest.raises(DataError, match="refused"):
        extract(tmp_path / "bad.tar", tmp_path / "out")
    assert names_below(tmp_path) == ["bad.tar", "out", "secret"]


@pytest.mark.parametrize("name", ["a.zip", "a.tar", "a.tar.gz"])
@pytest.mark.parametrize("is_cut", [True, False])
def test_damaged_archives_are_named(tmp_path, name, is_cut):
    (make_zip if name == "a.zip" else make_tar)(tmp_path / name, "a.png", "b.png")
    data = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(data[: min(512, len(data) // 2)] if is_cut else b"no archive")
    with pytest.raises(DataError, match=rf"{re.escape(name)}: cannot be unpacked"):
        extract(tmp_path / name, tmp_path / "out")


@pytest.mark.parametrize("name", ["../outside.png", "/etc/hostname", "", 3, None])
def test_arranging_a_download_moves_nothing_from_elsewhere(tmp_path, name):
    Image.new("L", (4, 4)).save(tmp_path / "outside.png")
    folder = tmp_path / "download"
    (folder / "pictures").mkdir(parents=True)
    (folder / "annotations.jsonl").write_text(json.dumps({"image_name": name}) + "\n")
    zoo_datasets._arrange(folder)
    assert names_below(tmp_path) == ["download", "download/annotations.jsonl", "download/pictures", "outside.png"]


def test_arranging_finds_the_images_folder(tmp_path):
    make_zip(tmp_path / "images.zip", "inner/a[1].png", "inner/b.png")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "annotations.jsonl").write_text('{"image_name": "a[1].png"}\n')
    zoo_datasets._arrange(tmp_path)
    assert (tmp_path / "images" / "a[1].png").is_file() and (tmp_path / "images" / "b.png").is_file()
    assert (tmp_path / "annotations.jsonl").is_file()


class Touch:
    """Unpickled by the ordinary unpickler, it makes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch '{self.path}'",)


def test_the_harmful_pickle_would_work(tmp_path):
    pickle.loads(pickle.dumps(Touch(tmp_path / "run")))
    assert (tmp_path / "run").exists()  # so that the next tests mean something


@pytest.mark.parametrize("reader", [read_refcoco, read_grefcoco])
def test_refs_run_no_program(tmp_path, reader):
    (tmp_path / "instances.json").write_text('{"images": [], "annotations": [], "categories": []}')
    refs = tmp_path / "refs(unc).p"
    refs.write_bytes(pickle.dumps([{"ref_id": 1, "sentences": [Touch(tmp_path / "run")]}]))
    with pytest.raises(DataError, match=r"refs\(unc\)\.p.*plain container"):
        list(reader(refs, tmp_path / "instances.json"))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", ["weights.pth", "weights.pkl"])
def test_weights_run_no_program(tmp_path, name):
    from fiftyone_rexseek.models.rela.weights import read_state_dict

    (tmp_path / name).write_bytes(pickle.dumps({"model": Touch(tmp_path / "run")}))
    with pytest.raises(CheckpointError):
        read_state_dict(tmp_path / name)
    assert not (tmp_path / "run").exists()


def test_no_code_trusts_what_it_loads():
    """Every ``torch.load`` is told to build tensors only, and no model may bring its own code."""
    sources = [p for folder in ("fiftyone_rexseek", "operators", "zoo", "benchmarks") for p in (ROOT / folder).rglob("*.py")]
    assert len(sources) > 100
    for path in sources:
        text = path.read_text()
        for call in re.finditer(r"\btorch\.load\(", text):
            assert "weights_only=True" in text[call.end() : call.end() + 200], path
        assert not re.search(r"trust_remote_code\s*=\s*True", text), path
        if path.name != "plain_pickle.py":  # the reader that builds nothing but plain containers
            assert not re.search(r"\b(pickle|dill|joblib|cloudpickle)\.(loads?|Unpickler)\(|allow_pickle\s*=\s*True", text), path


def test_half_a_character_can_be_printed():
    log = ProblemLog()
    log.add("unknown-split", "ref \ud800", "has an unknown split", found="\udfff")
    assert log.summary().encode() and str(DataError("bad", found="\ud800")) == "bad; found \\ud800"

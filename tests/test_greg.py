"""GREG against pycocoevalcap's own figures; needs Java."""

import json
import shutil
from pathlib import Path

import pytest

from fiftyone_rexseek.datasets.grefcoco import read_grefcoco
from fiftyone_rexseek.errors import DataError, MissingDependencyError, ProblemLog
from fiftyone_rexseek.metrics import greg

DATA = Path(__file__).parent / "fixtures" / "greg"
needs_java = pytest.mark.skipif(shutil.which("java") is None, reason="METEOR and the PTB tokeniser need Java")


@needs_java
@pytest.mark.slow
def test_reference():
    result = greg.evaluate_greg(greg.read_items(DATA / "items.json", ProblemLog(strict=True)))
    expected = json.loads((DATA / "expected_summary.json").read_text())
    summary = result.summary()
    assert set(summary) == set(expected)
    for name, values in expected.items():
        assert summary[name] == pytest.approx(values, abs=1e-6), name
    for i, row in enumerate(json.loads((DATA / "expected_per_item.json").read_text())):
        assert result.hypothesis_tokens[i] == row["hyp_tokens"]
        assert list(result.reference_tokens[i]) == row["ref_tokens"]
        assert result.overall.meteor_per_item[i] == pytest.approx(row["METEOR"], abs=1e-6)
        assert result.overall.cider_per_item[i] == pytest.approx(row["CIDEr"], abs=1e-6)


@needs_java
def test_line_breaks_and_empty_texts_keep_their_place():
    items = [
        greg.GregItem(1, "S", ("the dog\u2028on the left", ""), "a\rdog\x0bhere"),
        greg.GregItem(2, "S", ("two cats",), ""),
        greg.GregItem(3, "S", ("",), ""),
    ]
    from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer

    references, hypotheses = greg._tokenise(items, PTBTokenizer)
    assert references == [["the dog on the left", ""], ["two cats"], [""]]
    assert hypotheses == ["a dog here", "", ""]


def test_what_is_missing_is_said(monkeypatch):
    item = greg.GregItem(1, "S", ("the dog",), "a dog")
    monkeypatch.setattr(greg.shutil, "which", lambda name: None)
    with pytest.raises(MissingDependencyError, match="Java"):
        greg.evaluate_greg([item])
    monkeypatch.setitem(__import__("sys").modules, "pycocoevalcap.cider.cider", None)
    with pytest.raises(MissingDependencyError, match=r"fiftyone-rexseek\[greg\]"):
        greg.evaluate_greg([item])
    with pytest.raises(DataError, match="nothing to score"):
        greg.evaluate_greg([])


def test_bad_items_are_counted_and_left_out(tmp_path):
    good = {"id": 1, "subset": "S", "references": ["the dog"], "hypothesis": ""}
    rows = [
        good, good, {**good, "id": 2, "subset": "X"}, {**good, "id": 3, "references": []},
        {**good, "id": 4, "references": ["a", None]}, {**good, "id": 5, "hypothesis": None}, "text", {**good, "id": [1]},
    ]  # fmt: skip
    (tmp_path / "items.json").write_text(json.dumps(rows))
    log = ProblemLog()
    assert [i.key for i in greg.read_items(tmp_path / "items.json", log)] == [1]
    assert log.counts == {"duplicate-item": 1, "bad-item": 5, "missing-hypothesis": 1}
    (tmp_path / "items.json").write_text("{}")
    with pytest.raises(DataError, match="list of items"):
        greg.read_items(tmp_path / "items.json")


def test_references_are_grouped_by_image_and_target_set():
    examples = list(read_grefcoco(DATA.parent / "grefcoco" / "grefcoco", splits=["val"]))
    groups = greg.group_references(examples)
    assert sum(map(len, groups.values())) == sum(bool(e.targets) for e in examples)
    assert all(key[2] for key in groups)

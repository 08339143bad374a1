"""Readers and writers of gRefCOCO and the RefCOCO family, on good and on broken files."""

import copy
import json
import pickle
from collections import Counter as Tally
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fiftyone_rexseek import masks
from fiftyone_rexseek.datasets import plain_pickle, rle_check
from fiftyone_rexseek.datasets.coco import coco_bbox, index_instances, read_instances
from fiftyone_rexseek.datasets.grefcoco import (
    PUBLISHED,
    Counter,
    read_grefcoco,
    to_instances,
    write_grefcoco,
)
from fiftyone_rexseek.datasets.grefcoco_predictions import box_rows, load_rows, mask_rows, pair_rows
from fiftyone_rexseek.datasets.refcoco import FAMILY, read_refcoco, write_refcoco
from fiftyone_rexseek.datasets.refs import RefsReader, to_refs
from fiftyone_rexseek.datasets.rle_check import rle_problems
from fiftyone_rexseek.errors import ConfigError, DataError, ProblemLog
from fiftyone_rexseek.referring import Target

DATA = Path(__file__).parent / "fixtures" / "grefcoco"
FACTS = json.loads((DATA / "dataset_facts.json").read_text())
REFS = json.loads((DATA / "grefcoco" / "grefs(unc).json").read_text())
INSTANCES = json.loads((DATA / "grefcoco" / "instances.json").read_text())


def test_counts_equal_the_facts():
    log = ProblemLog()
    reader = read_grefcoco(DATA / "grefcoco", problems=log)
    examples = list(reader)
    assert len(examples) == FACTS["n_expressions"] and len(reader.index.annotations) == FACTS["n_annotations"]
    assert log.counts == {"no-sentences": FACTS["refs_with_zero_sentences"]}
    for split, facts in FACTS["splits"].items():
        mine = [e for e in examples if e.split == split]
        assert len(mine) == facts["expressions"]
        assert sum(not e.targets for e in mine) == facts["no_target_expressions"]
        assert sum(e.num_targets > 1 for e in mine) == facts["multi_target_expressions"]
    crowds = {a for a, annotation in reader.index.annotations.items() if annotation.target.iscrowd}
    assert sorted(crowds) == FACTS["crowd_annotations"]


def test_an_example_has_everything():
    reader = read_grefcoco(DATA / "grefcoco")
    images = {i["id"]: i for i in INSTANCES["images"]}
    by_image = Tally(a["image_id"] for a in INSTANCES["annotations"])
    annotations = {a["id"]: a for a in INSTANCES["annotations"]}
    names = {c["id"]: c["name"] for c in INSTANCES["categories"]}
    suffixed = 0
    for e in reader:
        image = images[e.image_id]
        # the ref's own file name may carry a RefCOCO suffix
        assert (e.file_name, e.width, e.height) == (image["file_name"], image["width"], image["height"])
        suffixed += e.extra["file_name"] != e.file_name
        assert len(e.candidates) == by_image[e.image_id]
        assert {t.object_id for t in e.targets} <= {t.object_id for t in e.candidates}
        for t in e.targets:
            source = annotations[t.object_id]
            assert (t.label, t.segmentation) == (names[source["category_id"]], source["segmentation"])
            assert coco_bbox(t.box_xyxy) == source["bbox"]
        assert e.expression == e.extra["sentence"]["raw"]
    assert suffixed
    assert any(e.expression != e.extra["sentence"]["sent"] for e in reader)


def test_published_counts_are_compared():
    reader = read_grefcoco(DATA / "grefcoco")
    counter = Counter()
    assert len(list(counter.watch(reader))) == counter.counts.expressions
    assert PUBLISHED.expressions == PUBLISHED.single_target + PUBLISHED.multi_target + PUBLISHED.no_target
    differences = PUBLISHED.differences(counter.counts)
    assert differences["images"] == (19_994, counter.counts.images)
    assert counter.counts.differences(counter.counts) == {}


def test_round_trip(tmp_path):
    reader = read_grefcoco(DATA / "grefcoco")
    examples = list(reader)
    paths = tmp_path / "grefs(unc).json", tmp_path / "instances.json"
    written = write_grefcoco(*paths, examples, index=reader.index, without_sentences=reader.without_sentences)
    assert written == len(REFS) and json.loads(paths[0].read_text()) == REFS
    written = json.loads((tmp_path / "instances.json").read_text())
    sources = {a["id"]: a for a in INSTANCES["annotations"]}
    assert written["annotations"] and all(a == sources[a["id"]] for a in written["annotations"])
    assert written["categories"] == INSTANCES["categories"]
    again = read_grefcoco(tmp_path)
    assert [(e.expression_id, e.targets, e.candidates) for e in again] == [
        (e.expression_id, e.targets, e.candidates) for e in examples
    ]


def test_edited_examples_are_written_as_they_are():
    from dataclasses import replace

    examples = list(read_grefcoco(DATA / "grefcoco"))
    first = next(e for e in examples if e.num_targets > 1)
    edited = replace(first, targets=first.targets[:1], expression="New one")
    ref = to_refs([edited])[0]
    assert ref["ann_id"] == [first.targets[0].object_id] and ref["no_target"] is False
    assert ref["sentences"][0]["raw"] == "New one"
    bare = replace(first, extra={}, targets=())
    ref = to_refs([bare])[0]
    assert ref["ann_id"] == [-1] and ref["no_target"] is True
    document = to_instances([first])
    index = index_instances(document, ProblemLog(strict=True))
    assert next(iter(RefsReader(to_refs([replace(first, extra={})]), index))).targets == first.targets


def test_edited_examples_are_read_without_a_problem(tmp_path):
    reader = read_grefcoco(DATA / "grefcoco")
    examples = [e for e in reader if e.num_targets > 1][:3]
    changed = [replace(e, targets=e.targets[:n]) for n, e in enumerate(examples)]
    write_grefcoco(tmp_path / "grefs(unc).json", tmp_path / "instances.json", changed, index=reader.index)
    again = read_grefcoco(tmp_path, problems=ProblemLog(strict=True))
    assert [e.targets for e in again] == [e.targets for e in changed]


def test_refcoco_round_trip(tmp_path):
    reader = read_refcoco(DATA / "refcoco")
    paths = tmp_path / "refs(unc).json", tmp_path / "instances.json"
    write_refcoco(*paths, reader, index=reader.index)
    assert json.loads(paths[0].read_text()) == plain_pickle.load(DATA / "refcoco" / "refs(unc).p")
    general = next(e for e in read_grefcoco(DATA / "grefcoco") if e.num_targets > 1)
    edited = [replace(general, targets=general.targets[:1]), replace(general, targets=general.targets[1:2], extra={})]
    write_refcoco(*paths, edited)
    again = read_refcoco(tmp_path, problems=ProblemLog(strict=True))
    found = {t.object_id: t for e in again for t in e.targets}
    assert found == {t.object_id: t for e in edited for t in e.targets}
    for ref in json.loads(paths[0].read_text()):
        # what the refer API indexes by
        assert isinstance(ref["ann_id"], int) and isinstance(ref["category_id"], int) and "no_target" not in ref
        assert ref["sent_ids"] == [s["sent_id"] for s in ref["sentences"]]
    with pytest.raises(DataError, match="have one target"):
        write_refcoco(*paths, [general])


def test_the_pickled_family():
    log = ProblemLog()
    reader = read_refcoco(DATA / "refcoco", problems=log)
    examples = list(reader)
    assert examples and not log and all(e.num_targets == 1 for e in examples)
    source = plain_pickle.load(DATA / "refcoco" / "refs(unc).p")
    assert to_refs(examples) == source
    assert read_refcoco(DATA, name="refcoco").refs == source
    assert set(FAMILY) == {"refcoco", "refcoco+", "refcocog"}
    with pytest.raises(ConfigError, match="no such partition"):
        read_refcoco(DATA, name="refcocog", partition="unc")


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_plain_pickles_load(protocol):
    value = [{"a": (1, 2.5, None, True), "b": {1, 2}, "d": "é"}, [[]], frozenset("a")]
    if protocol > 2:
        value.append(b"x")
    assert plain_pickle.loads(pickle.dumps(value, protocol)) == value


class Evil:
    def __reduce__(self):
        return (exec, ("raise SystemExit('ran')",))


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_other_pickles_are_refused_and_named(protocol):
    for value, name in ((Evil(), "exec"), (Path("x"), "pathlib"), ([print], "print"), (Tally("a"), "collections")):
        with pytest.raises(DataError, match=name):
            plain_pickle.loads(pickle.dumps(value, protocol))


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=60), st.integers(0, 200))
def test_damaged_pickles_are_data_errors(noise, cut):
    good = pickle.dumps([{"ref_id": 1, "sentences": [{"raw": "a"}]}])
    with pytest.raises(DataError):
        plain_pickle.loads(good[: cut % len(good)])
    for data in (noise, good[: cut % len(good)] + noise):
        try:
            plain_pickle.loads(data)
        except DataError:
            pass


def test_python_2_pickles_with_bytes_load():
    assert plain_pickle.loads(b"(lp0\nS'caf\\xc3\\xa9'\np1\na.") == ["café"]
    assert plain_pickle.loads(b"(lp0\nS'caf\\xe9'\np1\na.") == ["café"]


def broken(change):
    """Kinds of problems and number of examples after a change to one multi-target ref."""
    refs = copy.deepcopy(REFS)
    ref = next(r for r in refs if isinstance(r["ann_id"], list) and len(r["ann_id"]) > 1 and len(r["sentences"]) == 1)
    change(ref)
    log = ProblemLog()
    examples = list(RefsReader(refs, index_instances(INSTANCES), problems=log))
    log.counts.pop("no-sentences", None)
    mine = [e for e in examples if e.extra["ref_id"] == ref.get("ref_id")]
    return dict(log.counts), len(examples) - FACTS["n_expressions"], mine


def drop(key):
    return lambda ref: ref.pop(key)


def put(**values):
    return lambda ref: ref.update(values)


@pytest.mark.parametrize(
    "change, kind, lost",
    [
        (put(image_id=-5), "unknown-image", 1),
        (put(ann_id=[99999, 1000], category_id=[1, 1]), "unknown-annotation", 1),
        (drop("ann_id"), "bad-ref", 1),
        (drop("image_id"), "bad-ref", 1),
        (put(ann_id=[{}]), "bad-ref", 1),
        (put(ann_id=[]), "bad-ref", 1),
        (put(split="dev"), "unknown-split", 1),
        (put(sentences=[{"tokens": [1]}]), "bad-sentence", 1),
        (put(sentences=["text"]), "bad-sentence", 1),
        (put(sentences=[{"sent": "half \ud800", "sent_id": 1}]), "bad-sentence", 1),
        (put(sentences=[{"sent": "text", "sent_id": [1]}]), "bad-sentence", 1),
        (put(ref_id={"a": 1}), "bad-ref", 1),
        (lambda r: r["ann_id"].append(-1), "mixed-no-target", 1),
        (lambda r: r["category_id"].pop(), "unequal-ids", 0),
        (drop("category_id"), "unequal-ids", 0),
        (lambda r: r["category_id"].__setitem__(0, 90), "category-mismatch", 0),
        (lambda r: (r["ann_id"].append(r["ann_id"][0]), r["category_id"].append(r["category_id"][0])), "repeated-target", 0),
        (put(no_target=True), "no-target-flag", 0),
    ],
)  # fmt: skip
def test_a_bad_ref_is_named_and_takes_nobody_with_it(change, kind, lost):
    kinds, difference, mine = broken(change)
    assert kinds == {kind: 1} and difference == -lost
    if not lost:
        assert all(kind in e.problem_kinds for e in mine) and mine
    with pytest.raises(DataError):
        refs = copy.deepcopy(REFS[3:4])
        change(refs[0])
        list(RefsReader(refs, index_instances(INSTANCES), problems=ProblemLog(strict=True)))


def test_targets_of_another_image_and_repeated_expressions():
    refs = copy.deepcopy(REFS[2:5])
    refs[1]["image_id"] = refs[0]["image_id"]
    refs[2]["sentences"].append(refs[2]["sentences"][0])
    log = ProblemLog()
    list(RefsReader([*refs, "text", None], index_instances(INSTANCES), problems=log))
    assert log.counts == {"other-image": 1, "duplicate-expression": 1, "bad-ref": 2}


def test_images_missing_on_disk_are_counted_and_skipped(tmp_path):
    reader = read_grefcoco(DATA / "grefcoco")
    present = {e.file_name for e in reader if e.split == "val"}
    for name in present:
        (tmp_path / name).touch()
    log = ProblemLog()
    found = list(read_grefcoco(DATA / "grefcoco", image_dir=tmp_path, problems=log))
    assert {e.file_name for e in found} <= present and log.counts["missing-image"] > 0
    with pytest.raises(DataError, match="no such image folder"):
        read_grefcoco(DATA / "grefcoco", image_dir=tmp_path / "none")


@pytest.mark.parametrize(
    "row, kind",
    [
        ({"bbox": [1, 2, 3]}, "bad-annotation"),
        ({"bbox": [1, 2, -3, 4]}, "bad-annotation"),
        ({"bbox": [1, 2, float("nan"), 4]}, "bad-annotation"),
        ({"bbox": None}, "bad-annotation"),
        ({"image_id": 4}, "annotation-without-image"),
        ({"category_id": 9}, "unknown-category"),
        ({"bbox": [1, 2, 0, 4]}, "empty-box"),
        ({"area": float("inf")}, "bad-annotation"),
        ({"id": 2**64}, "bad-annotation"),
        ({"id": [2]}, "bad-annotation"),
    ],
)
def test_bad_annotations_are_named(row, kind):
    good = {"id": 1, "image_id": 7, "category_id": 3, "bbox": [1, 2, 3, 4]}
    log = ProblemLog()
    document = {
        "images": [{"id": 7, "file_name": "a.jpg"}, {"id": 8}, 3, {"id": None, "file_name": "b.jpg"}],
        "annotations": [good, {**good, "id": 2, **row}, good],
        "categories": [{"id": 3, "name": "car"}, {}],
    }
    index = index_instances(document, log)
    assert log.counts == {kind: 1, "bad-image": 3, "bad-category": 1, "duplicate-annotation": 1}
    assert index.images[7].width is None and 1 in index.annotations


def test_files_that_are_something_else(tmp_path):
    for content, match in (("[]", "COCO instances"), ("{", "not valid JSON")):
        (tmp_path / "instances.json").write_text(content)
        with pytest.raises(DataError, match=match):
            read_instances(tmp_path / "instances.json")
    with pytest.raises(DataError, match="no such file"):
        read_instances(tmp_path / "none.json")
    with pytest.raises(DataError, match="grefs"):
        read_grefcoco(tmp_path)
    (tmp_path / "refs.json").write_text("{}")
    with pytest.raises(DataError, match="a list of refs"):
        read_grefcoco(tmp_path / "refs.json", DATA / "grefcoco" / "instances.json")
    with pytest.raises(ConfigError, match="unknown split"):
        read_grefcoco(DATA / "grefcoco", splits=["dev"])


def pairs(tmp_path, rows, log):
    (tmp_path / "p.json").write_text(json.dumps(rows))
    examples = list(read_grefcoco(DATA / "grefcoco", splits=["val"]))
    return pair_rows(examples, load_rows(tmp_path / "p.json", log), log)


def test_bad_box_predictions_are_named_and_count_as_no_answer(tmp_path):
    rows = [r for r in json.loads((DATA / "grec_predictions.json").read_text()) if r["split"] == "val"]
    rows[0]["scores"][0] = float("nan")
    rows[1].pop("scores")
    rows[2]["scores"].append(0.5)
    rows[3]["boxes_xyxy"][0] = [1, 2, 3]
    rows[4]["boxes_xyxy"][0][0] = "x"
    rows[5]["count_class"] = 9
    rows[6]["outcome"] = "failed"
    rows[7]["boxes_xyxy"], rows[7]["scores"] = [], []
    rows[8]["ref_id"] = 123456
    rows[10]["boxes_xyxy"][0] = [9, 9, 2, 2]
    rows[11]["boxes_xyxy"][0][0] = 10**400
    rows += [rows[9], 5, {}, {"ref_id": []}, {"ref_id": [], "sent_id": 1}]
    log = ProblemLog()
    answers = list(box_rows(pairs(tmp_path, rows, log), log))
    assert log.counts == {
        "bad-scores": 3, "bad-boxes": 3, "inverted-box": 1, "bad-count": 1, "no-answer": 1, "missing-prediction": 1,
        "unknown-expression": 1, "duplicate-row": 1, "bad-row": 4,
    }  # fmt: skip
    assert [a is None for a in answers[:9]] == [True] * 7 + [False, True]
    assert answers[7].boxes_xyxy.shape == (0, 4) and answers[10] is not None and answers[11] is None


def test_bad_mask_predictions_are_named_and_count_as_no_answer(tmp_path):
    rows = [r for r in json.loads((DATA / "gres_predictions_480.json").read_text()) if r["split"] == "val"]
    rows[0]["segmentation"]["counts"] = "`RY61_mg"
    rows[1]["segmentation"] = None
    rows[2]["pred_no_target"] = "no"
    rows[3].pop("pred_no_target")
    log = ProblemLog()
    answers = list(mask_rows(pairs(tmp_path, rows, log), log))
    assert log.counts == {"bad-mask": 2, "bad-verdict": 1} and answers[3].no_target is None


def test_predictions_of_another_split_or_set_are_refused(tmp_path):
    log = ProblemLog()
    rows = [r for r in json.loads((DATA / "grec_predictions.json").read_text()) if r["split"] == "testA"]
    with pytest.raises(DataError, match="another split"):
        list(pairs(tmp_path, rows, log))
    shuffled = json.loads((DATA / "gres_predictions_480_refcoco_val.json").read_text())
    with pytest.raises(DataError, match="another split"):
        list(pairs(tmp_path, shuffled, log))
    assert log.counts["other-order"]
    as_text = [{**row, "ref_id": str(row["ref_id"])} for row in rows]
    with pytest.raises(DataError, match=r"ref_id, sent_id = '\d+', \d+"):
        list(pairs(tmp_path, as_text, log))
    for content, match in (({}, "a list of rows"), ([1, 2], "no row that could be assigned")):
        with pytest.raises(DataError, match=match):
            pairs(tmp_path, content, ProblemLog())


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(0, 5), min_size=1, max_size=12), st.integers(0, 11), st.integers(40, 120))
def test_damaged_run_lengths_are_found(runs, position, character):
    total = sum(runs) or 1
    rle = masks.compress({"size": [1, total], "counts": runs if sum(runs) else [0, 1]}, 1, total)
    assert rle_problems([rle, None, rle])[::2] == [None, None]
    text = rle["counts"]
    position %= len(text)
    damaged = {"size": rle["size"], "counts": text[:position] + chr(character) + text[position + 1 :]}
    good = masks._is_valid_compressed(damaged)
    assert [p is None for p in rle_problems([rle, damaged, rle])] == [True, good, True]


@pytest.mark.parametrize("chunk", [1, 3, 1000])
def test_damage_is_found_in_the_mask_that_has_it_however_many_are_unpacked_at_once(monkeypatch, chunk):
    monkeypatch.setattr(rle_check, "_CHUNK", chunk)
    fine = {"size": [2, 2], "counts": "13"}
    wrong = {4: "12", 7: "!", 8: None, 11: "1", 12: "22222", 19: "P"}
    found = rle_problems([{**fine, "counts": wrong.get(i, "13")} for i in range(21)])
    assert {i for i, p in enumerate(found) if p is not None} == set(wrong)


@pytest.mark.parametrize(
    "rle",
    [None, [], {}, {"size": [2, 2]}, {"size": [2], "counts": [4]}, {"size": [0, 4], "counts": []}, {"size": [2, 2], "counts": [5, -1]},
     {"size": [2, 2], "counts": [4.0]}, {"size": [2, 2], "counts": ""}, {"size": [2, 2], "counts": "é"}, {"size": [2, 2], "counts": 4},
     {"size": ["2", 2], "counts": [4]}, {"size": [2, 2], "counts": "a" * 20}],
)  # fmt: skip
def test_what_is_no_run_length_encoding(rle):
    fine = {"size": [2, 2], "counts": "13"}
    first, found, last = rle_problems([fine, rle, {**fine, "counts": b"13"}])
    assert first is None and found and last is None


def test_a_corrected_target_is_written_and_other_masks_come_from_the_source():
    source = index_instances(INSTANCES)
    example = next(e for e in RefsReader(REFS, source) if e.targets and len(e.candidates) > len(e.targets))
    moved = replace(example.targets[0], box_xyxy=(1.0, 2.0, 11.0, 12.0), segmentation=None, area=None)
    bare = tuple(replace(c, segmentation=None) for c in example.candidates)
    document = to_instances([replace(example, targets=(), candidates=bare), replace(example, targets=(moved,))], source)
    rows = {a["id"]: a for a in document["annotations"]}
    assert list(rows) == [c.object_id for c in example.candidates]
    assert rows[moved.object_id]["bbox"] == [1, 2, 10, 10] and "segmentation" not in rows[moved.object_id]
    for other in example.candidates:
        if other.object_id != moved.object_id and other.segmentation:
            assert rows[other.object_id]["segmentation"] == other.segmentation


def test_objects_of_new_categories_can_be_read_again():
    source = index_instances(INSTANCES)
    example = next(e for e in RefsReader(REFS, source) if e.num_targets > 1)
    new, other = (replace(t, label=label) for t, label in zip(example.targets, ("referred", "bystander")))
    added = replace(new, object_id=10**10)
    document = to_instances([replace(example, targets=(new, other, added), candidates=())], source)
    again = index_instances(document, ProblemLog(strict=True))
    assert [a.target.label for a in again.annotations.values()] == ["referred", "bystander", "referred"]
    assert document["categories"][: len(INSTANCES["categories"])] == INSTANCES["categories"]


def test_category_ids_may_be_text():
    source = index_instances({**INSTANCES, "annotations": [], "categories": [{"id": "dog", "name": "dog"}]})
    example = next(iter(read_grefcoco(DATA / "grefcoco", splits=["val"])))
    targets = tuple(Target((0.0, 0.0, 9.0, 9.0), None, label, i) for i, label in enumerate(("dog", "cat")))
    document = to_instances([replace(example, targets=targets, candidates=())], source)
    again = index_instances(document, ProblemLog(strict=True))
    assert [a.target.label for a in again.annotations.values()] == ["dog", "cat"]

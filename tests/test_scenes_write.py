"""The writers of scenes: valid files, the same bytes every time, nothing half written."""

import hashlib
import json
import tracemalloc
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis.extra.numpy import array_shapes, arrays
from PIL import Image

from fiftyone_rexseek import masks
from fiftyone_rexseek.datasets.scenes import DOMAINS, generate_scene, write_grefcoco, write_humanref
from fiftyone_rexseek.datasets.scenes.outline import polygons


def contents(folder):
    return {
        str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in folder.rglob("*")
        if p.is_file()
    }


@settings(max_examples=150, deadline=None)
@given(arrays(bool, array_shapes(min_dims=2, max_dims=2, max_side=12)))
def test_polygons_rasterise_back_to_the_mask(mask):
    parts = polygons(mask)
    if not mask.any():
        assert parts == []
        return
    assert np.array_equal(masks.decode(masks.compress(parts, *mask.shape)), mask)


def test_humanref_file(tmp_path):
    steps = []
    path = write_humanref(
        tmp_path,
        3,
        12,
        [(200, 150), (160, 240)],
        num_distractors=(3, 6),
        questions_per_scene=8,
        progress=steps.append,
    )
    assert steps == list(range(1, 13))
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert len({r["id"] for r in rows}) == len(rows) == 96
    assert {r["domain"] for r in rows} == set(DOMAINS)
    sizes = set()
    for r in rows:
        with Image.open(tmp_path / "images" / r["image_name"]) as image:
            assert image.size == (r["width"], r["height"])
            sizes.add(image.size)
        assert (r["domain"] == "rejection") == (r["answer_boxes"] == [])
        order = [r["candidate_boxes"].index(b) for b in r["answer_boxes"]]
        assert order == sorted(order)
        assert len(r["answer_segmentations"]) == len(r["answer_boxes"])
        for box, rle in zip(r["answer_boxes"], r["answer_segmentations"]):
            assert rle["size"] == [r["height"], r["width"]]
            side = max(box[2] - box[0], box[3] - box[1])
            assert np.abs(masks.mask_box_xyxy(rle) - box).max() <= 0.02 * side + 0.02
        for x0, y0, x1, y1 in r["candidate_boxes"]:
            assert 0 <= x0 < x1 <= r["width"] and 0 <= y0 < y1 <= r["height"]
    assert sizes == {(200, 150), (160, 240)}
    # the answers are those of the scene
    scene = generate_scene(3, 1, (160, 240), num_distractors=(3, 6))
    expected = {q.expression: len(q.answers) for q in scene.questions(count=8)}
    found = {r["referring"]: len(r["answer_boxes"]) for r in rows if r["image_name"] == "scene_3_000001.jpg"}
    assert found == expected


def test_one_question_per_domain(tmp_path):
    path = write_humanref(tmp_path, 3, 2, (128, 128), questions_per_scene=None, image_format="png")
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert max(Counter((r["image_name"], r["domain"]) for r in rows).values()) == 1
    with Image.open(tmp_path / "images" / "scene_3_000000.png") as image:
        assert np.array_equal(np.asarray(image), generate_scene(3, 0, (128, 128)).render())


@pytest.mark.parametrize("write", [write_humanref, write_grefcoco])
def test_again_gives_the_same_bytes(tmp_path, write):
    write(tmp_path / "a", 5, 3, (160, 128))
    first = contents(tmp_path / "a")
    write(tmp_path / "a", 5, 3, (160, 128))
    write(tmp_path / "b", 5, 3, (160, 128))
    assert contents(tmp_path / "a") == first == contents(tmp_path / "b")


@pytest.mark.parametrize("write", [write_humanref, write_grefcoco])
def test_interrupted_run_leaves_nothing_half_written(tmp_path, write):
    def stop(done):
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write(tmp_path / "a", 5, 3, (160, 128), progress=stop)
    assert {p.suffix for p in (tmp_path / "a").rglob("*") if p.is_file()} == {".jpg"}
    write(tmp_path / "a", 5, 3, (160, 128))
    write(tmp_path / "b", 5, 3, (160, 128))
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


@pytest.mark.parametrize("kind", ["polygon", "rle"])
def test_grefcoco_files(tmp_path, kind):
    write_grefcoco(tmp_path, 7, 20, (200, 150), segmentation=kind)
    refs = json.loads((tmp_path / "grefcoco" / "grefs(unc).json").read_text())
    instances = json.loads((tmp_path / "grefcoco" / "instances.json").read_text())
    assert [c["name"] for c in instances["categories"]] == ["person", "dog"]
    images = {i["id"]: i for i in instances["images"]}
    annotations = {a["id"]: a for a in instances["annotations"]}
    assert len(images) == 20 and len(annotations) == len(instances["annotations"])
    by_image = {}
    for a in instances["annotations"]:
        image = images[a["image_id"]]
        assert (tmp_path / "images" / "train2014" / image["file_name"]).is_file()
        rle = masks.compress(a["segmentation"], image["height"], image["width"])
        assert masks.area(rle) == a["area"]
        x, y, w, h = a["bbox"]
        assert masks.mask_box_xyxy(rle).tolist() == [x, y, x + w, y + h]
        by_image.setdefault(a["image_id"], []).append(a)
    assert any(a["category_id"] == 18 for a in annotations.values())
    shares = Counter()
    for r in refs:
        assert r["no_target"] == (r["ann_id"] == [-1]) == (r["category_id"] == [-1])
        shares["none" if r["no_target"] else "one" if len(r["ann_id"]) == 1 else "several"] += 1
        assert r["sent_ids"] == [s["sent_id"] for s in r["sentences"]] and 1 <= len(r["sentences"]) <= 3
        for s in r["sentences"]:
            assert s["sent"] == " ".join(s["tokens"]) and s["raw"]
        if not r["no_target"]:
            assert [annotations[i]["category_id"] for i in r["ann_id"]] == r["category_id"]
            assert {annotations[i]["image_id"] for i in r["ann_id"]} == {r["image_id"]}
    assert len({r["ref_id"] for r in refs}) == len(refs)
    sentence_ids = [i for r in refs for i in r["sent_ids"]]
    assert len(set(sentence_ids)) == len(sentence_ids)
    total = sum(shares.values())
    assert (
        0.06 < shares["none"] / total < 0.3
        and 0.35 < shares["one"] / total < 0.65
        and shares["several"] / total > 0.15
    )
    assert {r["split"] for r in refs} == {"train", "val", "testA", "testB"}
    assert len({(r["image_id"], r["split"]) for r in refs}) == len({r["image_id"] for r in refs})
    # whom a sentence means agrees with the scene
    scene = generate_scene(7, 0, (200, 150))
    meaning = {q.expression: q.answers for q in scene.questions(per_domain=10)}
    people = [a["id"] for a in by_image[1] if a["category_id"] == 1]
    assert len(people) == len(scene.people)
    for r in refs:
        if r["image_id"] == 1:
            for s in r["sentences"]:
                if s["raw"] in meaning:
                    assert [people[i] for i in meaning[s["raw"]]] == ([] if r["no_target"] else r["ann_id"])


@pytest.mark.parametrize("write", [write_humanref, write_grefcoco])
def test_memory_does_not_grow_with_the_number_of_scenes(tmp_path, write):
    peaks = []
    write(tmp_path / "warm", 1, 2, (128, 128))
    for count in (10, 60):
        tracemalloc.start()
        write(tmp_path / str(count), 1, count, (128, 128))
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.5 * peaks[0]

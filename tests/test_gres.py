"""GRES against the values of the authors' evaluator, and its rules one by one."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fiftyone_rexseek import masks
from fiftyone_rexseek.datasets.grefcoco import read_grefcoco
from fiftyone_rexseek.datasets.grefcoco_predictions import load_rows, mask_rows, pair_rows
from fiftyone_rexseek.datasets.refcoco import read_refcoco
from fiftyone_rexseek.errors import ConfigError, DataError, ProblemLog
from fiftyone_rexseek.metrics.gres import (
    GresConfig,
    MaskAnswer,
    MaskTruth,
    evaluate_gres,
    pooled_summary,
    truths,
)
from fiftyone_rexseek.metrics.referring_baselines import gres_baselines
from fiftyone_rexseek.metrics.target_masks import TargetMasks, rasterise
from fiftyone_rexseek.referring import ReferringExample, Target

DATA = Path(__file__).parent / "fixtures" / "grefcoco"
SUMMARY = json.loads((DATA / "gres_expected_summary.json").read_text())["summary"]
PER_SAMPLE = json.loads((DATA / "gres_expected_per_sample.json").read_text())
SPLITS = ("train", "val", "testA", "testB")
PROTOCOL = {"480": "official", "orig": "original-size"}
VARIANTS = {
    "": {},
    "_50px": {"no_target": "mask", "min_pixels": 50},
    "_head_clears_mask": {"no_target": "head-clears-mask"},
}


def score(examples, rows, config):
    log = ProblemLog(strict=True)
    answers = (MaskAnswer(r.mask, r.no_target) for r in mask_rows(pair_rows(examples, rows, log), log))
    return evaluate_gres(zip(truths(examples, config, log), answers), config, log)


@pytest.fixture(scope="module")
def examples():
    return {s: list(read_grefcoco(DATA / "grefcoco", splits=[s])) for s in SPLITS}


@pytest.fixture(scope="module")
def rows():
    return {size: load_rows(DATA / f"gres_predictions_{size}.json") for size in PROTOCOL}


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("size", PROTOCOL)
@pytest.mark.parametrize("split", SPLITS)
def test_summaries_equal_the_reference(examples, rows, split, size, variant):
    result = score(examples[split], rows[size], GresConfig(PROTOCOL[size], **VARIANTS[variant]))
    assert result.summary() == pytest.approx(SUMMARY[size + variant][split], rel=1e-9, abs=1e-9)
    assert list(result.summary()) == list(SUMMARY[size + variant][split])


@pytest.mark.parametrize("size", PROTOCOL)
@pytest.mark.parametrize("split", SPLITS)
def test_pixel_counts_equal_the_reference(examples, rows, split, size):
    c = score(examples[split], rows[size], GresConfig(PROTOCOL[size])).columns
    areas = {(r["ref_id"], r["sent_id"]): r for r in json.loads((DATA / "gres_gt_areas.json").read_text())}
    assert len(c.iou) == len(PER_SAMPLE[size][split])
    for i, row in enumerate(PER_SAMPLE[size][split]):
        found = (c.num_targets[i] == 0, c.predicted_no_target[i], c.intersection[i], c.union[i])
        assert found == (row["gt_nt"], row["pred_nt"], row["I"], row["U"]), row
        assert c.iou[i] == pytest.approx(row["IoU"], rel=1e-9)
        assert c.target_area[i] == areas[row["ref_id"], row["sent_id"]][f"merged_gt_area_{size}"]


def test_paper_protocol_presets_equal_the_variants(examples, rows):
    for options, key in (({}, "480_head_clears_mask"), ({"min_pixels": 50}, "480_50px")):
        result = score(examples["val"], rows["480"], GresConfig("paper", **options))
        assert result.summary() == pytest.approx(SUMMARY[key]["val"], rel=1e-9)


def test_the_single_target_companion_and_both_together(examples, rows):
    companion = list(read_refcoco(DATA / "refcoco", splits=["val"]))
    alone = score(companion, load_rows(DATA / "gres_predictions_480_refcoco_val.json"), GresConfig())
    assert alone.summary() == pytest.approx(SUMMARY["480_refcoco_val_only"]["val"], rel=1e-9)
    other = score(examples["val"], rows["480"], GresConfig())
    expected = SUMMARY["480_refcoco_plus_grefcoco_val"]
    assert pooled_summary([alone, other]) == pytest.approx(expected["full"], rel=1e-9)
    assert other.summary() == pytest.approx(expected["grefcoco"], rel=1e-9)


def square(x, side=4, size=16):
    mask = np.zeros((size, size), bool)
    mask[:side, x : x + side] = True
    return masks.encode(mask)


def one(truth, answer, **config):
    result = evaluate_gres([(truth, answer)], GresConfig(**config))
    c = result.columns
    return int(c.intersection[0]), int(c.union[0]), float(c.iou[0])


@pytest.mark.parametrize(
    "truth, answer, expected",
    [
        (MaskTruth(square(0), 1), MaskAnswer(square(2), False), (8, 24, 1 / 3)),
        # the head is wrong: nothing is shared, but the union keeps the mask that was not cleared
        (MaskTruth(square(0), 1), MaskAnswer(square(2), True), (0, 24, 0)),
        (MaskTruth(None, 0), MaskAnswer(square(2), True), (0, 0, 1)),
        (MaskTruth(None, 0), MaskAnswer(square(2), False), (0, 16, 0)),
        (MaskTruth(None, 0), MaskAnswer(square(2, 0), False), (0, 0, 0)),
        (MaskTruth(square(0), 1), None, (0, 16, 0)),
        (MaskTruth(None, 0), None, (0, 0, 0)),
    ],
)
def test_official_rules(truth, answer, expected):
    assert one(truth, answer) == pytest.approx(expected)


def test_the_fifty_pixel_rule_is_strict_and_ignores_the_head():
    truth = MaskTruth(square(0, 8), 1)
    for side, kept in ((7, False), (8, True)):  # 49 and 64 pixels
        shared, _, iou = one(truth, MaskAnswer(square(0, side), True), protocol="paper", min_pixels=50)
        assert (shared > 0, iou > 0) == (kept, kept)
    with pytest.raises(ConfigError, match="head decides"):
        GresConfig(min_pixels=50)


def test_a_mask_of_the_wrong_size_is_one_missing_answer_and_a_file_of_them_is_refused():
    log = ProblemLog()
    good, wrong = MaskAnswer(square(0), False), MaskAnswer(square(0, size=20), False)
    truth = MaskTruth(square(0), 1, (16, 16))
    result = evaluate_gres([(truth, good), (truth, wrong)], problems=log)
    assert log.counts == {"wrong-mask-size": 1}
    assert result.columns.answered.tolist() == [True, False] and result.summary()["gIoU"] == 50
    with pytest.raises(DataError, match="protocol='original-size'"):
        evaluate_gres([(truth, wrong), (truth, wrong)])
    with pytest.raises(DataError, match="protocol='paper'"):
        evaluate_gres([(truth, MaskAnswer(square(0)))])
    with pytest.raises(DataError, match="without a usable answer"):
        evaluate_gres([(truth, None), (truth, good)], GresConfig(missing="error"))
    skipped = evaluate_gres([(truth, None), (truth, good)], GresConfig(missing="skip"))
    assert skipped.summary()["gIoU"] == 100
    assert skipped.counted_truths([None, truth, truth]) == [None, None, truth]


def test_figures_without_samples_are_nan_except_where_the_authors_say_zero():
    summary = evaluate_gres([(MaskTruth(square(0), 1), MaskAnswer(square(0), False))]).summary()
    assert (summary["T_acc"], summary["N_acc"]) == (0, 0)
    summary = evaluate_gres([(MaskTruth(None, 0), MaskAnswer(square(0), True))]).summary()
    assert summary["N_acc"] == 1 and math.isnan(summary["Pr@0.7"]) and math.isnan(summary["cIoU"])


def test_run_length_truth_and_polygon_truth_agree():
    polygon = [[2, 2, 10, 2, 10, 8, 2, 8]]
    rle = masks.compress(polygon, 12, 16)
    for size in (None, (24, 32)):
        assert masks.area(rasterise(rle, 16, 12, size)) == masks.area(rasterise(polygon, 16, 12, size))
    uncompressed = {"size": [12, 16], "counts": [20, 5, 167]}
    assert masks.area(rasterise(uncompressed, 16, 12, (24, 32))) == 20


def test_crowd_targets_are_left_out_unless_there_is_nothing_else():
    solid = Target((2, 2, 10, 8), [[2, 2, 10, 2, 10, 8, 2, 8]])
    crowd = Target((0, 0, 16, 12), {"size": [12, 16], "counts": [0, 192]}, iscrowd=True)
    merge = TargetMasks(None)
    assert masks.area(merge.merged((solid, crowd), 16, 12)) == 48
    assert masks.area(merge.merged((crowd,), 16, 12)) == 192


def test_a_target_without_a_mask_leaves_its_expression_out():
    log = ProblemLog()
    bare = ReferringExample(1, "1_1", "the dog", "a.jpg", (Target((0, 0, 4, 4)),), width=16, height=16)
    fine = ReferringExample(1, "1_2", "no dog", "a.jpg", width=16, height=16)
    answer = MaskAnswer(square(0), True)
    config = GresConfig("original-size")
    result = evaluate_gres(zip(truths([bare, fine], config, log), [answer, answer]), config)
    assert log.counts == {"bad-target-mask": 1} and len(result.columns.iou) == 1


@pytest.mark.parametrize(
    "mask",
    ["text", 7, [7], [None], [["a"] * 6], [[0, 0, 4, float("nan"), 4, 4]], [[0, 0, 1e15, 0, 1e15, 1e15]], [[[1]] * 6],
     {}, {"size": [16, 16]}, {"size": None, "counts": "1"}, {"size": [16, 16], "counts": [[256]]},
     {"size": [2**20, 2**20], "counts": [2**40]}],
    ids=str,
)  # fmt: skip
@pytest.mark.parametrize("protocol", ["official", "original-size"])
def test_a_target_mask_that_is_none_leaves_its_expression_out(mask, protocol):
    log = ProblemLog()
    bad = ReferringExample(1, "1_1", "the dog", "a.jpg", (Target((0, 0, 4, 4), mask),), width=16, height=16)
    assert list(truths([bad], GresConfig(protocol), log)) == [None] and log.counts == {"bad-target-mask": 1}


def test_baselines(examples):
    some = examples["val"]
    truth = list(truths(some))
    result = gres_baselines(some, truth)
    empty = sum(not e.targets for e in some) / len(some)
    assert result["none"].summary()["gIoU"] == pytest.approx(100 * empty)
    assert result["none"].summary()["N_acc"] == 1 and result["all"].summary()["T_acc"] == 1


def drawn(seed: int, height: int, width: int) -> np.ndarray:
    """One of the masks that counting could get wrong: nothing, everything, single pixels, blocks that touch, noise."""
    rng = np.random.default_rng(seed)
    mask = np.zeros((height, width), dtype=bool)
    kind = seed % 6
    if kind == 1:
        mask[:] = True
    elif kind == 2:
        mask[rng.integers(height), rng.integers(width)] = True
    elif kind == 3:
        mask[:, : width // 2] = True
    elif kind == 4:
        mask[:, width // 2 :] = True
    elif kind == 5:
        mask = rng.random((height, width)) < rng.choice([0.02, 0.5, 0.98])
    return mask


@given(st.lists(st.tuples(*(st.integers(0, 300) for _ in range(2)), st.integers(1, 40), st.integers(1, 40)), min_size=1, max_size=30))
@settings(deadline=None, max_examples=60)
def test_pixels_are_those_of_decoded_masks(specs):
    truth, found, expected = [], [], []
    for a, b, height, width in specs:
        wanted, mask = drawn(a, height, width), drawn(b, height, width)
        rle = masks.encode(mask)
        if b % 3 == 0:  # as some files write it
            runs = np.diff(np.flatnonzero(np.diff(mask.ravel("F"), prepend=False, append=not mask.ravel("F")[-1])), prepend=0)
            rle = {"size": rle["size"], "counts": runs.tolist()}
        truth.append(MaskTruth(masks.encode(wanted), 1, (height, width)))
        found.append(MaskAnswer(rle, False))
        expected.append((int((wanted & mask).sum()), int((wanted | mask).sum()), int(mask.sum()), int(wanted.sum())))
    c = evaluate_gres(zip(truth, found), GresConfig("original-size")).columns
    counted = zip(*(x.tolist() for x in (c.intersection, c.union, c.predicted_area, c.target_area)))
    assert list(counted) == expected


def test_pixels_of_many_pairs_and_of_a_large_image():
    """More pairs than are at hand at a time, of masks that are shared; an image of 100 megapixels."""
    shapes = [drawn(i, 24, 31) for i in range(60)]
    rles = [masks.encode(m) for m in shapes]
    rng = np.random.default_rng(4)
    pairs = rng.integers(0, 60, (3000, 2))
    left_out = set(rng.integers(0, 3000, 400).tolist())
    stream = [
        (None if i in left_out else MaskTruth(rles[a], 1, (24, 31), i), MaskAnswer(rles[b], False) if i % 7 else None)
        for i, (a, b) in enumerate(pairs)
    ]
    c = evaluate_gres(stream, GresConfig("original-size")).columns
    kept = [(i, a, b) for i, (a, b) in enumerate(pairs) if i not in left_out]
    assert len(c.iou) == len(kept) and c.answered.tolist() == [i % 7 != 0 for i, _, _ in kept]
    shared = [int((shapes[a] & shapes[b]).sum()) if i % 7 else 0 for i, a, b in kept]
    assert c.intersection.tolist() == shared and c.target_area.tolist() == [int(shapes[a].sum()) for _, a, _ in kept]
    size = [10_000, 10_000]
    half, rest = (masks.compress({"size": size, "counts": counts}, *size) for counts in ([0, 60_000_000, 40_000_000], [50_000_000, 50_000_000]))
    c = evaluate_gres([(MaskTruth(half, 1, tuple(size)), MaskAnswer(rest, False))], GresConfig("original-size")).columns
    assert (c.intersection[0], c.union[0]) == (10_000_000, 100_000_000)

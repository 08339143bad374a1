"""GREC against the values of the authors' evaluator, and its rules one by one."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fiftyone_rexseek.datasets.grefcoco import read_grefcoco
from fiftyone_rexseek.datasets.grefcoco_predictions import box_rows, load_rows, pair_rows
from fiftyone_rexseek.errors import ConfigError, DataError, ProblemLog
from fiftyone_rexseek.metrics.coco_ap import coco_average_precision
from fiftyone_rexseek.metrics.grec import Answer, GrecConfig, evaluate_grec
from fiftyone_rexseek.metrics.referring_baselines import grec_baselines

DATA = Path(__file__).parent / "fixtures" / "grefcoco"
SUMMARY = json.loads((DATA / "grec_expected_summary.json").read_text())
PER_SAMPLE = json.loads((DATA / "grec_expected_per_sample.json").read_text())
VARIANTS = {
    "threshold_0.7": {},
    "threshold_0.5": {"score_threshold": 0.5},
    "threshold_0.9": {"score_threshold": 0.9},
    "top1": {"output": "top-k"},
    "count_head": {"output": "count"},
    "threshold_0.7_plain_iou_matching": {"protocol": "paper"},
    "top1_plain_iou_matching": {"protocol": "paper", "output": "top-k"},
    "count_head_plain_iou_matching": {"protocol": "paper", "output": "count"},
}


@pytest.fixture(scope="module")
def sets():
    rows = load_rows(DATA / "grec_predictions.json")
    result = {}
    for split in SUMMARY:
        examples = list(read_grefcoco(DATA / "grefcoco", splits=[split]))
        log = ProblemLog(strict=True)
        answers = [
            Answer(r.boxes_xyxy, r.scores, r.count_class) for r in box_rows(pair_rows(examples, rows, log), log)
        ]
        result[split] = (examples, [[t.box_xyxy for t in e.targets] for e in examples], answers)
    return result


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("split", SUMMARY)
def test_summaries_equal_the_reference(sets, split, variant):
    _, targets, answers = sets[split]
    assert evaluate_grec(targets, answers, GrecConfig(**VARIANTS[variant])).summary() == SUMMARY[split][variant]


@pytest.mark.parametrize("split", SUMMARY)
def test_every_verdict_equals_the_reference(sets, split):
    examples, targets, answers = sets[split]
    c = evaluate_grec(targets, answers).columns
    plain = evaluate_grec(targets, answers, GrecConfig("paper")).columns
    assert len(examples) == len(PER_SAMPLE[split])
    for i, (example, row) in enumerate(zip(examples, PER_SAMPLE[split])):
        assert example.expression_id == f"{row['ref_id']}_{row['sent_id']}"
        found = (c.num_targets[i] == 0, c.num_targets[i], c.num_predicted[i], c.tp[i], c.success[i])
        assert found == tuple(row[k] for k in ("no_target", "num_gt", "num_pred", "tp_giou", "correct")), row
        if row["correct_plain_iou"] is not None:
            assert plain.success[i] == row["correct_plain_iou"]


@pytest.mark.parametrize("split", SUMMARY)
def test_average_precision_equals_the_reference(sets, split):
    examples, targets, answers = sets[split]
    found = coco_average_precision(
        targets,
        answers,
        areas=[[t.area for t in e.targets] for e in examples],
        iscrowd=[[t.iscrowd for t in e.targets] for e in examples],
    )
    assert found == pytest.approx(SUMMARY[split]["coco_stats_all_boxes"], abs=1e-6)


def test_average_precision_without_the_lost_first_target():
    boxes = [[[0, 0, 50, 50]], [[10, 10, 60, 60]]]
    answers = [Answer(b, [0.9]) for b in boxes]
    assert coco_average_precision(boxes, answers, protocol="paper")["AP"] == pytest.approx(1)
    assert coco_average_precision(boxes, answers)["AP"] < 1
    assert coco_average_precision(boxes, [None, None])["AP"] == 0
    assert coco_average_precision([[], []], answers)["AP"] == -1


def naive(targets, boxes, generalized):
    """The matching in plain float32 arithmetic, one pair at a time."""
    values = np.zeros((len(boxes), len(targets)), dtype=np.float32)
    for i, p in enumerate(np.asarray(boxes, dtype=np.float32)):
        for j, t in enumerate(np.asarray(targets, dtype=np.float32)):
            w = max(min(p[2], t[2]) - max(p[0], t[0]), np.float32(0))
            h = max(min(p[3], t[3]) - max(p[1], t[1]), np.float32(0))
            inter = w * h
            union = (p[2] - p[0]) * (p[3] - p[1]) + (t[2] - t[0]) * (t[3] - t[1]) - inter
            values[i, j] = inter / union
            if generalized:
                hull = (max(p[2], t[2]) - min(p[0], t[0])) * (max(p[3], t[3]) - min(p[1], t[1]))
                values[i, j] -= (hull - union) / hull
    tp = 0
    for _ in range(min(values.shape)):
        i, j = np.unravel_index(values.argmax(), values.shape)
        if values[i, j] < np.float32(0.5):
            break
        tp += 1
        values[i, :] = values[:, j] = 0
    return tp


box = st.tuples(*[st.integers(0, 20)] * 2, *[st.integers(1, 20)] * 2).map(lambda b: [b[0], b[1], b[0] + b[2], b[1] + b[3]])


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.lists(box, max_size=4), st.lists(box, max_size=5)), min_size=1, max_size=4), st.booleans())
def test_matching_equals_one_pair_at_a_time(samples, generalized):
    config = GrecConfig("official" if generalized else "paper")
    targets = [t for t, _ in samples]
    answers = [Answer(p, np.ones(len(p))) for _, p in samples]
    c = evaluate_grec(targets, answers, config).columns
    for i, (t, p) in enumerate(samples):
        assert c.tp[i] == naive(t, p, generalized)
        assert c.success[i] == ((c.tp[i] == len(t) == len(p)) if t else not p)
        kept = c.prediction_match[i]
        assert (kept >= 0).sum() == c.tp[i] == (c.target_match[i] >= 0).sum()
        for j, k in enumerate(c.target_match[i]):
            assert k < 0 or kept[k] == j


def test_a_score_stored_as_float32_of_the_threshold_is_dropped():
    stored = float(np.float32(0.7))
    result = evaluate_grec([[[0, 0, 9, 9]], []], [Answer([[0, 0, 9, 9]], [stored])] * 2)
    assert result.columns.num_predicted.tolist() == [0, 0]


def test_count_rule_takes_the_best_and_ties_keep_their_order():
    boxes = [[0, 0, 9, 9], [20, 0, 29, 9], [40, 0, 49, 9]]
    answer = Answer(boxes, [0.5, 0.9, 0.5], 2)
    c = evaluate_grec([boxes[:2]], [answer], GrecConfig(output="count")).columns
    assert c.kept[0].tolist() == [True, True, False] and c.success[0]
    many = evaluate_grec([boxes[1:2]], [Answer(boxes, [0.5, 0.9, 0.5], 6)], GrecConfig(output="count")).columns
    assert many.kept[0].tolist() == [False, True, False]
    with pytest.raises(ConfigError, match="count_class"):
        evaluate_grec([[]], [Answer(boxes, [0.1, 0.2, 0.3])], GrecConfig(output="count"))


def test_an_expression_without_an_answer_never_earns_anything():
    result = evaluate_grec([[], [[0, 0, 9, 9]]], [None, None])
    assert result.summary() == {"F1_score": 0, "T_acc": 0, "N_acc": 0}
    kept = evaluate_grec([[], [[0, 0, 9, 9]]], [Answer(np.zeros((0, 4)), []), None], GrecConfig(missing="skip"))
    assert kept.summary()["F1_score"] == 1 and math.isnan(kept.summary()["T_acc"])
    with pytest.raises(DataError, match="without an answer"):
        evaluate_grec([[]], [None], GrecConfig(missing="error"))


def test_inverted_and_degenerate_boxes_match_nothing():
    target = [[0, 0, 10, 10]]
    for bad in ([10, 10, 0, 0], [0, 10, 10, 0], [5, 5, 5, 5]):
        assert evaluate_grec([target], [Answer([bad], [1.0])]).columns.tp.tolist() == [0]


def test_nothing_at_all():
    assert math.isnan(evaluate_grec([], []).summary()["F1_score"])
    with pytest.raises(DataError, match="differ in number"):
        evaluate_grec([[]], [])
    with pytest.raises(DataError, match="NaN"):
        Answer([[0, 0, 1, 1]], [math.nan])


def test_baselines_of_a_set_with_no_target_expressions(sets):
    examples = sets["val"][0]
    empty = sum(not e.targets for e in examples)
    result = grec_baselines(examples)
    assert result["none"].summary() == {"F1_score": empty / len(examples), "T_acc": 0, "N_acc": 1}
    assert result["all"].summary()["N_acc"] == np.mean([not e.candidates for e in examples if not e.targets])

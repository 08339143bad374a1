"""Matching and HumanRef's metrics: the vectorised code against a plain one, and what must hold for any boxes."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fiftyone_rexseek.errors import ConfigError, DataError
from fiftyone_rexseek.geometry import pairwise_iou
from fiftyone_rexseek.metrics import matching
from fiftyone_rexseek.metrics.humanref import IOU_THRESHOLDS, score_boxes, score_points, summarize
from fiftyone_rexseek.metrics.matching import Boxes, best_overlap, match_best_first, match_in_answer_order


def plain_iou(a, b):
    w = min(a[2], b[2]) - max(a[0], b[0])
    h = min(a[3], b[3]) - max(a[1], b[1])
    if not (w > 0 and h > 0):
        return 0.0
    inter = w * h
    iou = inter / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - inter)
    return iou if math.isfinite(iou) else 0.0


def plain_match(answers, predictions, threshold):
    used, match = set(), []
    for a in answers:
        best, best_iou = -1, 0.0
        for j, p in enumerate(predictions):
            iou = plain_iou(a, p)
            if j not in used and iou >= threshold and iou > best_iou:
                best, best_iou = j, iou
        match.append(best)
        used |= {best} - {-1}
    return match


def plain_best_first(answers, predictions, threshold):
    pairs = {(i, j): plain_iou(a, p) for i, a in enumerate(answers) for j, p in enumerate(predictions)}
    match = [-1] * len(answers)
    while pairs:
        (i, j), iou = max(pairs.items(), key=lambda item: (item[1], -item[0][0], -item[0][1]))
        if iou < threshold:
            break
        match[i] = j
        pairs = {k: v for k, v in pairs.items() if k[0] != i and k[1] != j}
    return match


def plain_scores(answers, predictions, persons):
    recalls, precisions, densities = [], [], []
    for t in IOU_THRESHOLDS:
        hits = sum(m >= 0 for m in plain_match(answers, predictions, t))
        r, p = hits / len(answers), hits / len(predictions) if predictions else 0.0
        f1 = 2 * p * r / (p + r) if p + r > 0 else 0.0
        if persons and predictions:
            f1 *= min(1.0, (len(answers) / persons) / (len(predictions) / persons))
        else:
            f1 = 0.0
        recalls.append(r), precisions.append(p), densities.append(f1)
    return recalls[0], precisions[0], densities[0], np.mean(recalls), np.mean(precisions), np.mean(densities)


# a coarse grid makes ties, nesting and IoUs at the thresholds frequent
grid_box = st.builds(
    lambda x, y, w, h: [float(x), float(y), float(x + w), float(y + h)],
    st.integers(0, 8),
    st.integers(0, 8),
    st.integers(1, 10),
    st.integers(1, 10),
)
any_number = st.floats(allow_nan=True, allow_infinity=True, width=32) | st.integers(-5, 5).map(float)
odd_box = st.lists(any_number, min_size=4, max_size=4)
sample = st.tuples(st.lists(grid_box, min_size=1, max_size=6), st.lists(grid_box | odd_box, max_size=9), st.integers(0, 12))
samples = st.lists(sample, min_size=1, max_size=6)
COLUMNS = ("recall_50", "precision_50", "density_f1_50", "recall_mean", "precision_mean", "density_f1_mean")


@settings(max_examples=150, deadline=None)
@given(samples)
def test_same_as_the_plain_way(batch):
    answers, predictions, persons = zip(*batch)
    scores = score_boxes(answers, predictions, persons)
    for i, row in enumerate(batch):
        assert [float(getattr(scores, c)[i]) for c in COLUMNS] == list(plain_scores(*row))
    matches = match_in_answer_order(answers, predictions, IOU_THRESHOLDS)
    best_first = match_best_first(answers, predictions, 0.5)
    for i, (a, p, _) in enumerate(batch):
        part = slice(matches_start := int(scores.answer_offsets[i]), matches_start + len(a))
        for t, threshold in enumerate(IOU_THRESHOLDS):
            assert matches.answer_match[t, part].tolist() == plain_match(a, p, threshold)
        assert best_first.answer_match[0, part].tolist() == plain_best_first(a, p, 0.5)


def test_many_samples_in_small_pieces(monkeypatch):
    rng = np.random.default_rng(0)

    def boxes(n):
        xy = rng.integers(0, 20, (n, 2))
        return np.concatenate([xy, xy + rng.integers(1, 15, (n, 2))], axis=1).astype(float).tolist()

    answers = [boxes(rng.integers(0, 6)) for _ in range(300)]
    predictions = [boxes(rng.integers(0, 40)) for _ in range(300)]
    whole = match_in_answer_order(answers, predictions, IOU_THRESHOLDS)
    monkeypatch.setattr(matching, "_CHUNK", 500)
    pieces = match_in_answer_order(answers, predictions, IOU_THRESHOLDS)
    assert (whole.answer_match == pieces.answer_match).all() and (whole.num_matches == pieces.num_matches).all()


@settings(max_examples=80, deadline=None)
@given(samples)
def test_bounds_and_bookkeeping(batch):
    answers, predictions, persons = zip(*batch)
    s = score_boxes(answers, predictions, persons)
    for c in COLUMNS:
        values = getattr(s, c)
        assert ((values >= 0) & (values <= 1)).all()
    for kind in ("recall", "precision", "density_f1"):
        # IoU 0.5 is the easiest threshold
        assert (getattr(s, f"{kind}_mean") <= getattr(s, f"{kind}_50") + 1e-12).all()
    assert (s.density_f1_50 <= s.f1_50 + 1e-12).all()
    assert (s.num_matches == [round(r * n) for r, n in zip(s.recall_50, s.num_answers)]).all()
    assert (s.prediction_match >= 0).sum() == (s.answer_match >= 0).sum() == (s.answer_iou >= 0.5).sum()
    for i in range(len(s)):
        a, p = s.answer_offsets[i], s.prediction_offsets[i]
        for k, j in enumerate(s.answer_match[a : s.answer_offsets[i + 1]]):
            if j >= 0:
                assert s.prediction_match[p + j] == k
                assert s.answer_iou[a + k] == plain_iou(answers[i][k], predictions[i][j])


@settings(max_examples=60, deadline=None)
@given(samples, st.randoms(use_true_random=False))
def test_the_order_of_samples_does_not_matter(batch, random):
    order = list(range(len(batch)))
    random.shuffle(order)
    straight = score_boxes(*zip(*batch))
    shuffled = score_boxes(*zip(*[batch[i] for i in order]))
    for c in COLUMNS:
        assert getattr(straight, c)[order].tolist() == getattr(shuffled, c).tolist()


@settings(max_examples=60, deadline=None)
@given(sample, st.randoms(use_true_random=False))
def test_with_distinct_overlaps_the_order_of_predictions_does_not_matter(row, random):
    answers, predictions, persons = row
    iou = pairwise_iou(answers, predictions) if predictions else np.zeros((1, 0))
    if any(len(set(r[r >= 0.5].tolist())) < (r >= 0.5).sum() for r in iou):
        return  # a tie goes to the earlier prediction, as in the official script
    shuffled = random.sample(predictions, len(predictions))
    a, b = score_boxes([answers], [predictions], [persons]), score_boxes([answers], [shuffled], [persons])
    assert [getattr(a, c)[0] for c in COLUMNS] == [getattr(b, c)[0] for c in COLUMNS]


@settings(max_examples=60, deadline=None)
@given(st.lists(grid_box, min_size=1, max_size=6, unique_by=tuple), st.integers(1, 9))
def test_perfect_and_superfluous(answers, extra):
    n = len(answers)
    perfect = score_boxes([answers], [answers], [n + extra])
    assert [float(getattr(perfect, c)[0]) for c in COLUMNS] == [1.0] * 6
    far = [[100.0 + i, 100.0, 101.0 + i, 101.0] for i in range(extra)]
    more = score_boxes([answers], [answers + far], [n + extra])
    assert more.recall_mean[0] == 1.0 and more.precision_mean[0] == pytest.approx(n / (n + extra))
    assert more.density_f1_mean[0] < more.precision_mean[0] < 1


@settings(max_examples=60, deadline=None)
@given(samples, st.lists(st.sampled_from(["a", "b", None]), min_size=6, max_size=6))
def test_group_means_recombine(batch, labels):
    scores = score_boxes(*zip(*batch))
    result = summarize(scores, labels[: len(batch)], labels[: len(batch)])
    for groups in (result["domain"], result["box_count"]):
        assert sum(g["count"] for g in groups.values()) == len(batch)
        for key in COLUMNS:
            mean = sum(g[key] * g["count"] for g in groups.values()) / len(batch)
            assert mean == pytest.approx(result["overall"][key], abs=1e-12)


@settings(max_examples=60, deadline=None)
@given(st.lists(grid_box, max_size=5), st.lists(grid_box, max_size=5))
def test_best_overlap(boxes, others):
    expected = [max((plain_iou(b, o) for o in others), default=0.0) for b in boxes]
    assert best_overlap([boxes], [others]).tolist() == expected


def test_generalized_overlap_can_be_asked_for():
    a, p = [[0, 0, 4, 4]], [[3, 3, 7, 7]]
    m = match_best_first([a], [p], -0.4, generalized=True)
    assert m.answer_match.tolist() == [[0]]
    assert m.answer_score[0] == pytest.approx(1 / 31 - (49 - 31) / 49)


def test_inputs_that_make_no_sense():
    box = [[0, 0, 1, 1]]
    with pytest.raises(ConfigError, match="differ in length"):
        score_boxes([box], [], [1])
    with pytest.raises(ConfigError, match="num_candidates does not fit"):
        score_boxes([box], [box], [1, 2])
    with pytest.raises(ConfigError, match="unknown HumanRef protocol"):
        score_boxes([box], [box], [1], protocol="coco")
    with pytest.raises(ConfigError, match="missing answers"):
        score_boxes([box], [box], [1], missing="ignore")
    with pytest.raises(DataError, match="4 numbers per box"):
        Boxes.from_lists([[[1, 2, 3]]])
    empty = score_boxes([], [], [])
    assert len(empty) == 0 and summarize(empty, [], [])["overall"]["recall_50"] is None
    assert len(score_points([], [], [])) == 0


class TestPoints:
    @pytest.fixture(scope="class")
    def blobs(self):
        from fiftyone_rexseek import masks

        rng = np.random.default_rng(5)
        return [masks.encode(rng.random((h, w)) < 0.4) for h, w in ((7, 9), (9, 7), (1, 30), (30, 1), (12, 12))]

    def test_same_as_decoding(self, blobs):
        from fiftyone_rexseek import masks

        rng = np.random.default_rng(6)
        rows = []
        for _ in range(200):
            chosen = [blobs[i] for i in rng.integers(0, len(blobs), rng.integers(0, 4))]
            # half pixels, negative coordinates and far outside included
            rows.append((chosen, (rng.integers(-4, 26, (rng.integers(0, 5), 2)) / 2).tolist()))
        scores = score_points(*zip(*rows), [5] * len(rows), is_rejection=[False] * len(rows))
        for i, (rles, points) in enumerate(rows):
            used, match = set(), []
            for rle in rles:
                mask = masks.decode(rle)
                found = -1
                for j, (x, y) in enumerate(points):
                    px, py = round(x), round(y)
                    inside = 0 <= px < mask.shape[1] and 0 <= py < mask.shape[0] and mask[py, px]
                    if j not in used and inside:
                        found = j
                        break
                used |= {found} - {-1}
                match.append(found)
            start = scores.answer_offsets[i]
            assert scores.answer_match[start : start + len(rles)].tolist() == match
            if rles:
                hits = sum(m >= 0 for m in match)
                assert scores.recall_50[i] == hits / len(rles)
                assert scores.precision_50[i] == (hits / len(points) if points else 1.0)

    def test_list_counts_and_broken_masks(self, blobs):
        from fiftyone_rexseek import masks

        runs = masks.compressed_runs(blobs[0]["counts"]).tolist()
        listed = {"size": blobs[0]["size"], "counts": runs}
        broken = [{"size": [7, 9], "counts": c} for c in (runs[:-1], "zz", [63.5], None, [-1, 64], "P" * 30)]
        inside = np.argwhere(masks.decode(blobs[0]))[0][::-1].tolist()
        answers = [[listed], [blobs[0]], *[[b] for b in broken], [blobs[0]]]
        scores = score_points(answers, [[inside]] * len(answers), [3] * len(answers))
        assert scores.recall_50.tolist() == [1.0, 1.0] + [0.0] * len(broken) + [1.0]

    def test_nan_points_miss(self, blobs):
        scores = score_points([[blobs[0]]], [[[math.nan, 1], [math.inf, 0], [1e300, 1e300]]], [3])
        assert scores.recall_50[0] == 0 and scores.num_predictions[0] == 3

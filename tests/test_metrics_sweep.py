"""The threshold sweep against a loop that does one threshold and one sample at a time."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fiftyone_rexseek.metrics.matching import match_best_first, match_in_answer_order
from fiftyone_rexseek.metrics.sweep import threshold_sweep

box = st.tuples(*[st.integers(0, 6)] * 2, *[st.integers(1, 5)] * 2).map(lambda b: [b[0], b[1], b[0] + b[2], b[1] + b[3]])
scored = st.tuples(box, st.sampled_from([0.1, 0.25, 0.5, 0.9, float("nan")]))
sample = st.tuples(st.lists(box, max_size=3), st.lists(scored, max_size=4))


def slow(samples, cut, method, protocol):
    scores, hits_all, kept_all, answers_all = [], 0, 0, 0
    for answers, predicted in samples:
        kept = [b for b, c in predicted if np.isnan(c) or c >= cut]
        options = {} if method == "humanref" else {"generalized": protocol == "official"}
        match = match_in_answer_order if method == "humanref" else match_best_first
        hits = int(match([answers], [kept], 0.5, **options).num_matches[0, 0]) if answers and kept else 0
        hits_all, kept_all, answers_all = hits_all + hits, kept_all + len(kept), answers_all + len(answers)
        if method == "grec":
            scores.append(float(hits == len(answers) == len(kept)))
        elif answers:
            f1 = 2 * hits / (len(answers) + len(kept))
            # eight persons in every picture
            penalty = min(1, (len(answers) if protocol == "official" else 8) / len(kept)) if kept else 0.0
            scores.append(f1 * penalty)
    return (
        hits_all / kept_all if kept_all else 1.0,
        hits_all / answers_all if answers_all else 1.0,
        float(np.mean(scores)) if scores else 0.0,
    )


@settings(max_examples=60, deadline=None)
@given(st.lists(sample, max_size=6), st.sampled_from(["humanref", "grec"]), st.sampled_from(["official", "paper"]))
def test_sweep_equals_one_threshold_at_a_time(samples, method, protocol):
    cuts = [0.0, 0.2, 0.5, 0.95]
    sweep = threshold_sweep(
        [a for a, _ in samples],
        [[b for b, _ in p] for _, p in samples],
        [[c for _, c in p] for _, p in samples],
        method=method,
        protocol=protocol,
        num_candidates=[8] * len(samples),
        thresholds=cuts,
    )
    expected = np.array([slow(samples, c, method, protocol) for c in cuts])
    np.testing.assert_allclose(np.column_stack([sweep.precision, sweep.recall, sweep.score]), expected, atol=1e-12)
    assert sweep.score[sweep.best] == sweep.score.max()


def test_what_was_never_answered_is_not_right():
    box = [0, 0, 4, 4]
    sweep = threshold_sweep([[], [], [box]], [[], [], [box]], [[], [], [0.6]], method="grec", answered=[True, False, True])
    assert sweep.score[0] == pytest.approx(2 / 3) and sweep.score[-1] == pytest.approx(1 / 3)


def test_unknown_method_is_named():
    with pytest.raises(ValueError, match="gres"):
        threshold_sweep([], [], [], method="gres")

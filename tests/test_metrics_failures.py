"""One cause for every answer."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fiftyone_rexseek.errors import ConfigError
from fiftyone_rexseek.metrics.failures import Cause, count_causes, failure_causes, mask_failure_causes

A, B, C, D = ([x, 0, x + 10, 10] for x in (0, 20, 40, 60))
#: A, shifted so that its IoU with A is 1/3
LOOSE_A = [5, 0, 15, 10]
EVERYBODY = [A, B, C, D]

# answers, predictions, candidates, cause
CASES = {
    "right": ([A, B], [B, A], EVERYBODY, "exact"),
    "rightly nothing": ([], [], EVERYBODY, "exact"),
    "one too few": ([A, B], [A], EVERYBODY, "missed"),
    "one too few, one twice": ([A, B], [A, A], EVERYBODY, "missed"),
    "one too many": ([A], [A, C], EVERYBODY, "extra"),
    "twice": ([A], [A, A], EVERYBODY, "extra"),
    "another one": ([A], [B], EVERYBODY, "wrong_instance"),
    "another one beside a right one": ([A, B], [A, C], EVERYBODY, "wrong_instance"),
    "somebody where nobody is": ([], [A], EVERYBODY, "hallucinated"),
    "nobody where somebody is": ([A], [], EVERYBODY, "wrongly_rejected"),
    "too loose": ([A], [LOOSE_A], EVERYBODY, "loosely_localised"),
    "too loose beside a right one": ([A, B], [B, LOOSE_A], None, "loosely_localised"),
    "loose, but it is somebody else": ([A], [LOOSE_A], [A, LOOSE_A], "wrong_instance"),
    "not proposed, nothing chosen": ([A], [], [B, C], "no_proposal"),
    "not proposed, another chosen": ([A], [B], [B, C], "no_proposal"),
    "nothing proposed": ([A], [], [], "no_proposal"),
    "one of two not proposed": ([A, B], [], [A, C], "wrongly_rejected"),
    "the missed one not proposed": ([A, B], [A], [A, C], "no_proposal"),
    "unknown candidates": ([A], [], None, "wrongly_rejected"),
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("matching", ["answer_order", "best_first"])
def test_cause(name, matching):
    answers, predictions, candidates, expected = CASES[name]
    known = None if candidates is None else [candidates]
    assert [str(c) for c in failure_causes([answers], [predictions], None, known, matching=matching)] == [expected]


def test_together_as_alone():
    with_candidates = [c for c in CASES.values() if c[2] is not None]
    answers, predictions, candidates, expected = zip(*with_candidates)
    assert [str(c) for c in failure_causes(answers, predictions, None, candidates)] == list(expected)


def test_outcomes_come_first():
    outcomes = ["failed", "unparsed", None, "selected", "rejected"]
    causes = failure_causes([[A]] * 5, [[], [A], [A], [A], []], outcomes)
    assert causes == [Cause.FAILED, Cause.UNPARSED, None, Cause.EXACT, Cause.WRONGLY_REJECTED]
    assert count_causes(causes) == {"exact": 1, "wrongly_rejected": 1, "unparsed": 1, "failed": 1}


def test_every_cause_occurs_in_these_tests():
    assert {c[3] for c in CASES.values()} | {"failed", "unparsed"} == {c.value for c in Cause}


def test_arguments():
    with pytest.raises(ConfigError, match="candidates does not fit"):
        failure_causes([[A]], [[A]], None, [])
    with pytest.raises(ConfigError, match="unknown matching"):
        failure_causes([[A]], [[A]], matching="optimal")


boxes = st.lists(st.sampled_from([*EVERYBODY, LOOSE_A, [3, 3, 12, 9]]), max_size=5)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(boxes, boxes, boxes), min_size=1, max_size=5))
def test_causes_agree_with_the_counts(rows):
    answers, predictions, candidates = zip(*rows)
    for (a, p, c), cause in zip(rows, failure_causes(answers, predictions, None, candidates)):
        assert isinstance(cause, Cause)
        if cause is Cause.EXACT:
            assert len(a) == len(p)
        elif cause is Cause.EXTRA:
            assert len(p) > len(a) > 0
        elif cause is Cause.HALLUCINATED:
            assert p and not a
        elif cause is Cause.WRONGLY_REJECTED:
            assert a and c and not p
        elif cause in (Cause.MISSED, Cause.WRONG_INSTANCE, Cause.LOOSELY_LOCALISED):
            assert a and p
        if sorted(a) == sorted(p):
            assert cause is Cause.EXACT


def test_masks():
    rows = {
        "exact": (90, 100, 95),
        "hallucinated": (0, 0, 10),
        "wrongly_rejected": (0, 10, 0),
        "extra": (100, 100, 300),
        "missed": (40, 100, 45),
        "wrong_instance": (2, 100, 120),
        "loosely_localised": (40, 100, 100),
    }
    causes = mask_failure_causes(*zip(*rows.values()))
    assert [str(c) for c in causes] == list(rows)
    assert mask_failure_causes([0], [0], [0]) == [Cause.EXACT]
    assert mask_failure_causes([0, 5], [5, 5], [0, 5], ["unparsed", None]) == [Cause.UNPARSED, None]
    assert all(np.array(mask_failure_causes([], [], [])) == [])

"""HumanRef annotation and prediction files: round trips, and every kind of bad input."""

import json
import pickle
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fiftyone_rexseek import masks
from fiftyone_rexseek.datasets.humanref import (
    DOMAINS,
    SUB_DOMAINS,
    humanref_row,
    read_humanref,
    write_humanref,
)
from fiftyone_rexseek.datasets.predictions import (
    Prediction,
    PredictionSet,
    prediction_row,
    read_predictions,
    write_predictions,
)
from fiftyone_rexseek.errors import DataError, ProblemLog
from fiftyone_rexseek.referring import Outcome, ReferringExample, Target

REFERENCE = Path(__file__).parent / "fixtures" / "humanref"
SQUARE = {"size": [100, 200], "counts": [0, 100, 19900]}


def row(**changes):
    base = {
        "id": "a1",
        "image_name": "a.jpg",
        "domain": "attribute",
        "sub_domain": "s",
        "referring": "the man",
        "candidate_boxes": [[0, 0, 10, 10.5], [5, 5, 50, 60]],
        "answer_boxes": [[0, 0, 10, 10.5]],
        "answer_segmentations": [SQUARE],
    }
    return {k: v for k, v in {**base, **changes}.items() if v is not ...}


def read(tmp_path, *rows, strict=False, **options):
    path = tmp_path / "annotations.jsonl"
    path.write_text("".join((r if isinstance(r, str) else json.dumps(r)) + "\n" for r in rows))
    log = ProblemLog(strict=strict)
    return list(read_humanref(path, log, **options)), log


class TestReading:
    def test_reference_file_comes_back_byte_for_byte(self, tmp_path):
        log = ProblemLog()
        examples = list(read_humanref(REFERENCE / "annotations.jsonl", log))
        assert len(examples) == 600 and not len(log)
        write_humanref(tmp_path / "out.jsonl", examples)
        assert (tmp_path / "out.jsonl").read_bytes() == (REFERENCE / "annotations.jsonl").read_bytes()

    def test_fields(self):
        example = next(read_humanref(REFERENCE / "annotations.jsonl"))
        assert (example.image_id, example.file_name) == ("img_00045.jpg", "img_00045.jpg")
        assert (example.width, example.height) == (1000, 1000)
        assert example.domain in DOMAINS and SUB_DOMAINS[example.sub_domain] == example.domain
        assert example.num_targets == 1 and len(example.candidates) == 10
        assert example.targets[0].label == "person" and masks.area(example.targets[0].segmentation) > 0
        assert example.extra["interest_class"] == "person"

    def test_size_comes_from_the_masks_when_the_row_does_not_state_it(self, tmp_path):
        (example,), _ = read(tmp_path, row())
        assert (example.width, example.height) == (200, 100)
        (example,), _ = read(tmp_path, row(answer_boxes=[], answer_segmentations=[]))
        assert (example.width, example.height) == (None, None)

    def test_streams(self, tmp_path):
        path = tmp_path / "a.jsonl"
        path.write_text(json.dumps(row()) + "\n" + "{broken")
        reader = read_humanref(path, ProblemLog(strict=True))
        assert next(reader).expression_id == "a1"  # before the broken line is looked at
        with pytest.raises(DataError, match=r"a\.jsonl:2: line is not valid JSON"):
            next(reader)

    def test_choosing(self, tmp_path):
        rows = [row(id=i, domain=d) for i, d in enumerate(["attribute", "position", "rejection", "position"])]
        assert [e.expression_id for e in read(tmp_path, *rows, domains=["position"])[0]] == [1, 3]
        assert [e.expression_id for e in read(tmp_path, *rows, domains="rejection")[0]] == [2]
        assert len(read(tmp_path, *rows, max_examples=3)[0]) == 3
        assert read(tmp_path, *rows, domains=["celebrity"])[0] == []

    def test_small_excess_is_fine(self, tmp_path):
        box = [-1.5, -0.2, 202, 100.4]
        (example,), log = read(tmp_path, row(answer_boxes=[box], candidate_boxes=[box]))
        assert example.targets[0].box_xyxy == tuple(box) and not len(log)

    def test_byte_order_mark_blank_lines_and_missing_newline(self, tmp_path):
        path = tmp_path / "a.jsonl"
        path.write_bytes(b"\xef\xbb\xbf" + json.dumps(row()).encode() + b"\n\n  \n" + json.dumps(row(id=2)).encode())
        assert [e.expression_id for e in read_humanref(path, ProblemLog(strict=True))] == ["a1", 2]


ODD = float("nan")
#: kind of problem, a row that has it
BAD_ROWS = {
    "malformed-json": '{"id": 1, ',
    "missing-field": row(referring=...),
    "bad-field": row(id=None),
    "bad-box": row(answer_boxes=[[1, 2, 3]]),
    "nan-box": row(answer_boxes=[[0, 0, 10, ODD]]),
    "inverted-box": row(candidate_boxes=[[150, 90, 140, 80]]),
    "xywh-box": row(candidate_boxes=[[150, 20, 40, 60]]),
    "empty-box": row(answer_boxes=[[5, 5, 5, 20]]),
    "outside-box": row(answer_boxes=[[300, 300, 400, 400]]),
}
GEOMETRY = ("nan-box", "inverted-box", "xywh-box", "empty-box", "outside-box")


class TestBadAnnotations:
    @pytest.mark.parametrize("kind", BAD_ROWS)
    def test_reported_and_skipped(self, kind, tmp_path):
        examples, log = read(tmp_path, row(), BAD_ROWS[kind], row(id="a3"))
        assert [e.expression_id for e in examples] == ["a1", "a3"]
        assert log.counts == {kind: 1}
        (problem,) = log
        assert problem.where.endswith("annotations.jsonl:2") and problem.expected and problem.found

    @pytest.mark.parametrize("kind", BAD_ROWS)
    def test_strict_stops(self, kind, tmp_path):
        with pytest.raises(DataError, match=r"annotations\.jsonl:2"):
            read(tmp_path, row(), BAD_ROWS[kind], strict=True)

    @pytest.mark.parametrize("kind", GEOMETRY)
    def test_scorer_keeps_odd_boxes(self, kind, tmp_path):
        bad = BAD_ROWS[kind]
        examples, log = read(tmp_path, bad, keep_odd=True)
        assert examples[0].problem_kinds == (kind,) and log.counts == {kind: 1}
        assert json.dumps(humanref_row(examples[0])) == json.dumps(bad)

    def test_scorer_cannot_read_what_comes_after_an_odd_box(self, tmp_path):
        bad = row(id=2, answer_boxes=[[0, 0, ODD, 9], None], answer_segmentations=[])
        examples, log = read(tmp_path, row(), bad, keep_odd=True)
        assert len(examples) == 1 and log.counts == {"bad-box": 1} and "[1]" in log.problems[0].what

    def test_whole_characters_in_two_halves_are_text(self, tmp_path):
        text = json.dumps(row(referring="\U0001f600 smiling"))
        (example,), log = read(tmp_path, text)
        assert "\\ud83d" in text and example.expression == "\U0001f600 smiling" and not len(log)

    def test_scorer_reads_over_further_numbers(self, tmp_path):
        examples, _ = read(tmp_path, row(answer_boxes=[[0, 0, 9, 9, 0.5]]), keep_odd=True)
        assert examples[0].targets[0].box_xyxy == (0, 0, 9, 9) and examples[0].problem_kinds == ("bad-box",)

    @pytest.mark.parametrize(
        "bad",
        [
            [1, 2],
            "text",
            row(id=True),
            row(id=1.5),
            row(image_name=7),
            row(image_name=" "),
            row(candidate_boxes=None),
            row(answer_boxes={"a": 1}),
            row(answer_boxes=[["0", "0", "9", "9"]]),
            row(answer_boxes=[[0, 0, 9, 9, 0.5]]),
            row(answer_boxes=[0, 0, 9, 9]),
            row(answer_boxes=[[0, 0, 9, True]]),
            row(answer_boxes=[[0, 0, 9, 10**400]]),
            row(answer_boxes=[[0, 0, 9, 10**20]], answer_segmentations=[]),
            row(id=2**64),
            row(referring="half \ud83d"),
            "[" * 100_000,
            '{"id": "a\x00"',
        ],
        ids=lambda b: str(b)[-40:],
    )
    def test_never_takes_the_others_with_it(self, bad, tmp_path):
        examples, log = read(tmp_path, row(), json.dumps(bad) if not isinstance(bad, str) else bad, row(id="a3"))
        assert [e.expression_id for e in examples] == ["a1", "a3"] and len(log) == 1

    def test_not_utf8(self, tmp_path):
        path = tmp_path / "a.jsonl"
        path.write_bytes(json.dumps(row()).encode() + b'\n{"id": "\xff"}\n')
        log = ProblemLog()
        assert len(list(read_humanref(path, log))) == 1 and log.counts == {"bad-encoding": 1}

    @pytest.mark.parametrize(
        "mask",
        [
            {"size": [100, 100], "counts": [0, 10000]},
            {"size": [100, 200], "counts": [0, 100]},
            {"size": [100, 200], "counts": "ab"},
            {"size": [100, 200], "counts": "~~~"},
            {"size": [100], "counts": [0]},
            {"counts": [0]},
            {"size": [100, 200], "counts": None},
            "text",
            7,
        ],
        ids=str,
    )
    def test_bad_mask_is_dropped_and_the_row_tagged(self, mask, tmp_path):
        bad = row(id="b", width=200, height=100, answer_segmentations=[mask])
        examples, log = read(tmp_path, row(), bad)
        assert [e.problem_kinds for e in examples] == [(), ("bad-mask",)]
        assert examples[1].targets[0].segmentation is None and log.counts == {"bad-mask": 1}
        with pytest.raises(DataError, match="answer_segmentations"):
            read(tmp_path, bad, strict=True)

    def test_wrong_number_of_masks(self, tmp_path):
        (example,), log = read(tmp_path, row(answer_segmentations=[SQUARE, SQUARE]))
        assert example.problem_kinds == ("bad-mask",) and log.counts == {"bad-mask": 1}

    def test_duplicate_ids(self, tmp_path):
        rows = [row(), row(referring="again"), row(id="a2")]
        examples, log = read(tmp_path, *rows)
        assert [e.expression for e in examples] == ["the man", "the man"] and log.counts == {"duplicate-id": 1}
        examples, log = read(tmp_path, *rows, keep_odd=True)
        assert [e.problem_kinds for e in examples] == [(), ("duplicate-id",), ()]


class TestWrongFiles:
    @pytest.mark.parametrize("reader", [read_humanref, read_predictions])
    @pytest.mark.parametrize(
        ("content", "message"),
        [
            (None, "does not exist"),
            ("", "is empty"),
            ("\n \n", "no row that can be read"),
            ("not json\n", "no row that can be read"),
            ("[\n{}\n]", "JSON array"),
            ('[{"id": 1}]', "JSON array"),
            ('{"a": 1}\n', "none of the 1 rows"),
        ],
    )
    def test_one_clear_message(self, reader, content, message, tmp_path):
        path = tmp_path / "x.jsonl"
        if content is not None:
            path.write_text(content)
        with pytest.raises(DataError, match=message) as caught:
            list(reader(path))
        assert "x.jsonl" in str(caught.value)

    @pytest.mark.parametrize("reader", [read_humanref, read_predictions])
    def test_folder(self, reader, tmp_path):
        (tmp_path / "annotations.jsonl").write_text("{}")
        with pytest.raises(DataError, match=r"is a folder.*annotations\.jsonl"):
            list(reader(tmp_path))

    def test_swapped_paths(self):
        with pytest.raises(DataError, match=r"prediction file, not HumanRef annotations.*swapped"):
            list(read_humanref(REFERENCE / "predictions" / "perfect.jsonl"))
        with pytest.raises(DataError, match=r"annotations, not predictions.*swapped"):
            list(read_predictions(REFERENCE / "annotations.jsonl"))

    def test_nothing_is_left_behind_by_a_failed_write(self, tmp_path):
        def examples():
            yield ReferringExample("i", 1, "e", "f")
            raise RuntimeError("no more")

        (tmp_path / "out.jsonl").write_text("old")
        with pytest.raises(RuntimeError):
            write_humanref(tmp_path / "out.jsonl", examples())
        assert [p.name for p in tmp_path.iterdir()] == ["out.jsonl"] and (tmp_path / "out.jsonl").read_text() == "old"


class TestPredictions:
    @pytest.mark.parametrize("path", sorted((REFERENCE / "predictions").glob("*.jsonl")), ids=lambda p: p.stem)
    def test_reference_files_come_back_byte_for_byte(self, path, tmp_path):
        write_predictions(tmp_path / "out.jsonl", read_predictions(path))
        assert (tmp_path / "out.jsonl").read_bytes() == path.read_bytes()

    def test_forms_and_outcomes(self):
        forms = {"[]": [], "[[]]": [[]], "points": [[1, 2]], "boxes": [[1, 2, 3, 4]]}
        assert {Prediction(1, e).form: e for e in forms.values()} == forms
        assert Prediction(1, [[]]).outcome is Outcome.REJECTED and Prediction(1, [[1, 2]]).outcome is Outcome.SELECTED
        assert Prediction(1, [[]], {"outcome": "unparsed"}).outcome is Outcome.UNPARSED
        assert Prediction(1, [[0, 0, 1, 1, 0.25], [0, 0, 2, 2, 1]]).scores() == [0.25, 1.0]

    def test_unreadable_rows_are_left_out(self, tmp_path):
        rows = [
            {"id": "a", "extracted_predictions": [[0, 0, 1, 1]]},
            {"extracted_predictions": []},
            {"id": "b"},
            {"id": "c", "extracted_predictions": None},
            {"id": "d", "extracted_predictions": [0, 0, 1, 1]},
            {"id": ["e"], "extracted_predictions": []},
            {"id": "f", "extracted_predictions": [["0", "0", "1", "1"], [1, 1, 2]]},
            {"id": "g", "extracted_predictions": [[9, 9, 1, 1]]},
        ]
        path = tmp_path / "p.jsonl"
        path.write_text("".join(json.dumps(r) + "\n" for r in rows))
        log = ProblemLog()
        kept = {p.id: p for p in read_predictions(path, log)}
        assert list(kept) == ["a", "f", "g"]
        assert log.counts == {"missing-field": 2, "bad-field": 3, "bad-prediction": 1, "inverted-box": 1}
        assert all(v != v for box in kept["f"].boxes_xyxy() for v in box)  # counted, and can never match
        with pytest.raises(DataError, match=r"p\.jsonl:2: row has no id"):
            list(read_predictions(path, ProblemLog(strict=True)))

    def test_later_rows_win(self):
        s = PredictionSet.from_rows([Prediction("a", [[1, 1]]), Prediction("b", []), Prediction("a", [[2, 2]])])
        assert s.by_id["a"].entries == [[2, 2]] and s.num_repeated == 1 and len(s) == 2

    def test_file_of_another_split(self):
        s = PredictionSet.from_rows(Prediction(f"train_{i}", []) for i in range(500))
        with pytest.raises(DataError, match=r"only 0 of 500.*'val_.*'train_0'.*another split"):
            s.check_ids([f"val_{i}" for i in range(300)])

    def test_ids_of_another_type(self):
        s = PredictionSet.from_rows(Prediction(str(i), []) for i in range(50))
        with pytest.raises(DataError, match="differ only in type"):
            s.check_ids(range(50))

    def test_a_part_of_the_samples_is_fine(self):
        log = ProblemLog()
        s = PredictionSet.from_rows(Prediction(i, []) for i in [*range(5), "x"])
        assert s.check_ids(range(6000), log) == 5995 and log.counts == {"unknown-id": 1}

    def test_boxes_that_look_like_xywh(self):
        boxes = [[100.0 + i, 80.0, 30.0, 60.0] for i in range(40)]
        assert "[x, y, width, height]" in PredictionSet.from_rows([Prediction(1, boxes)]).doubt()
        assert PredictionSet.load(REFERENCE / "predictions" / "realistic.jsonl").doubt() is None

    def test_boxes_or_points(self):
        rows = [Prediction("r", []), Prediction("p", [[1.0, 2.0]])]
        assert PredictionSet.from_rows(rows).uses_points()
        # the script calls a file that begins with [[]] boxes; that only works if no scored sample has points
        rows = [Prediction("p", [[]]), Prediction("r", [[1.0, 2.0]])]
        assert not PredictionSet.from_rows(rows).uses_points(positive_ids=["p"])
        assert PredictionSet.from_rows(rows).uses_points(positive_ids=["p", "r"])


numbers = st.integers(-1000, 1000) | st.floats(-1e4, 1e4)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
extras = st.dictionaries(st.text(min_size=1, max_size=8), json_values, max_size=3)


@st.composite
def good_boxes(draw):
    x1, y1 = draw(st.floats(0, 150)), draw(st.integers(0, 80))
    return [x1, y1, x1 + draw(st.floats(1, 49)), y1 + draw(st.integers(1, 20))]


@st.composite
def good_rows(draw):
    answers = draw(st.lists(good_boxes(), max_size=4))
    fields = {
        "id": draw(st.text(min_size=1) | st.integers(1 - 2**63, 2**63 - 1)),
        "image_name": draw(st.text(min_size=1).filter(str.strip)),
        "domain": draw(st.sampled_from(DOMAINS)),
        "sub_domain": draw(st.none() | st.sampled_from(sorted(SUB_DOMAINS))),
        "referring": draw(st.text()),
        "candidate_boxes": draw(st.lists(good_boxes(), max_size=4)),
        "answer_boxes": answers,
        "answer_segmentations": [draw(st.sampled_from([SQUARE, masks.compress(SQUARE, 100, 200)])) for _ in answers],
    }
    fields = {**{k: v for k, v in draw(extras).items() if k not in ("width", "height")}, **fields}
    return {k: fields[k] for k in draw(st.permutations(list(fields)))}


@settings(max_examples=60, deadline=None)
@given(st.lists(good_rows(), min_size=1, max_size=4, unique_by=lambda r: r["id"]))
def test_annotations_round_trip(tmp_path_factory, rows):
    folder = tmp_path_factory.mktemp("rows")
    path = folder / "a.jsonl"
    path.write_text("".join(json.dumps(r) + "\n" for r in rows))
    examples = list(read_humanref(path, ProblemLog(strict=True)))
    write_humanref(folder / "b.jsonl", (pickle.loads(pickle.dumps(e)) for e in examples))
    assert (folder / "b.jsonl").read_text() == path.read_text()


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(st.text() | st.integers(), st.lists(st.lists(numbers, max_size=5), max_size=4), extras),
        min_size=1,
        max_size=5,
    )
)
def test_predictions_round_trip(tmp_path_factory, rows):
    folder = tmp_path_factory.mktemp("rows")
    rows = [{**extra, "id": key, "extracted_predictions": entries} for key, entries, extra in rows]
    (folder / "a.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    write_predictions(folder / "b.jsonl", read_predictions(folder / "a.jsonl"))
    assert (folder / "b.jsonl").read_text() == (folder / "a.jsonl").read_text()


@settings(max_examples=150, deadline=None)
@given(st.dictionaries(st.sampled_from([*row(), "width", "height", "x"]), json_values), json_values)
def test_reader_survives_any_json(tmp_path_factory, changes, other):
    folder = tmp_path_factory.mktemp("rows")
    (folder / "a.jsonl").write_text("".join(json.dumps(r) + "\n" for r in (row(id="zz"), row(**changes), other)))
    log = ProblemLog()
    examples = list(read_humanref(folder / "a.jsonl", log))
    assert examples[0].expression_id == "zz" and len(examples) + sum(log.counts.values()) >= 2
    (folder / "p.jsonl").write_text(
        json.dumps({"id": 1, "extracted_predictions": []})
        + "\n"
        + json.dumps({"id": 2, "extracted_predictions": other})
        + "\n"
    )
    for prediction in read_predictions(folder / "p.jsonl", ProblemLog()):
        assert len(prediction.boxes_xyxy()) == len(prediction.points_xy())


def test_examples_made_elsewhere_are_written_in_the_official_order(tmp_path):
    example = ReferringExample(
        "i", 7, "e", "f.jpg", (Target((0, 0, 1, 1), SQUARE),), (Target((0, 0, 1, 1)),), domain="position", extra={"note": "x"}
    )
    assert list(humanref_row(example)) == [
        "id",
        "image_name",
        "domain",
        "sub_domain",
        "referring",
        "note",
        "candidate_boxes",
        "answer_boxes",
        "answer_segmentations",
    ]
    assert prediction_row(Prediction(7, [[0, 0, 1, 1]], {"answer": "<obj0>"})) == {
        "id": 7,
        "extracted_predictions": [[0, 0, 1, 1]],
        "answer": "<obj0>",
    }

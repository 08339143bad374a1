"""HumanRef's numbers against recorded output of the published script: per sample, aggregated, and as files."""

import json
import math
from pathlib import Path

import pytest
from click.testing import CliRunner

from fiftyone_rexseek.commands.evaluate import humanref as command
from fiftyone_rexseek.datasets.humanref import read_humanref
from fiftyone_rexseek.datasets.predictions import Prediction, PredictionSet
from fiftyone_rexseek.errors import DataError
from fiftyone_rexseek.metrics.humanref import (
    IOU_THRESHOLDS,
    box_count_bucket,
    density_f1,
    sample_row,
    score_boxes,
)
from fiftyone_rexseek.metrics.humanref_evaluation import HumanRefColumns, evaluate, evaluate_baseline
from fiftyone_rexseek.metrics.humanref_tables import comparison, comparison_text
from fiftyone_rexseek.metrics.matching import match_in_answer_order

REFERENCE = Path(__file__).parent / "fixtures" / "humanref"
FILES = sorted(p.stem for p in (REFERENCE / "predictions").glob("*.jsonl"))
#: Order of the files on the command line of comparison_all: that of the table in the set's README.
ALL = [
    cells[1].strip()
    for cells in (line.split("|") for line in (REFERENCE / "README.md").read_text().splitlines())
    if len(cells) > 3 and cells[2].strip() in ("boxes", "points")
]
COMPARISONS = {
    "comparison_all": (ALL, None),
    "comparison_single": (["realistic"], ["RexSeek-3B"]),
    "comparison_mixed_labels": (
        ["realistic", "all_candidates", "points", "perfect"],
        ["3B", "1.5", "42", "Baseline"],
    ),
}


@pytest.fixture(scope="module")
def columns():
    return HumanRefColumns.from_examples(read_humanref(REFERENCE / "annotations.jsonl", keep_odd=True))


@pytest.fixture(scope="module")
def summaries():
    return json.loads((REFERENCE / "summary_full_precision.json").read_text())


def assert_close(found, expected, path=""):
    if isinstance(expected, dict):
        for key, value in expected.items():
            assert_close(found[key], value, f"{path}/{key}")
    elif isinstance(expected, float):
        assert math.isclose(found, expected, rel_tol=0, abs_tol=1e-9), path
    else:
        assert found == expected, path


def test_there_is_something_to_compare():
    assert len(FILES) == 18 and sorted(ALL) == FILES


@pytest.mark.parametrize("name", FILES)
def test_per_sample_values_and_aggregates(name, columns, summaries):
    result = evaluate(columns, PredictionSet.load(REFERENCE / "predictions" / f"{name}.jsonl"))
    expected = [json.loads(line) for line in (REFERENCE / "per_sample" / f"{name}.jsonl").read_text().splitlines()]
    rows = result.sample_rows()
    assert [r[0] for r in rows] == [e[0] for e in expected]
    for row, wanted in zip(rows, expected, strict=True):
        assert row[1:] == pytest.approx(wanted[1:], rel=0, abs=1e-9), row[0]
    assert_close(result.summary, summaries[name])
    # groups that the reference does not have would be wrong as well
    for group in ("domain", "sub_domain", "box_count"):
        assert list(result.summary[group]) == list(summaries[name][group])


@pytest.mark.parametrize("folder", COMPARISONS)
def test_command_writes_the_official_files(folder, tmp_path):
    files, names = COMPARISONS[folder]
    arguments = ["--gt", str(REFERENCE / "annotations.jsonl"), "--pred"]
    arguments += [str(REFERENCE / "predictions" / f"{f}.jsonl") for f in files]
    arguments += ["--names", *names] if names else []
    arguments += ["--dump", str(tmp_path), "--no-baselines", "--json", str(tmp_path / "full.json")]
    done = CliRunner().invoke(command, arguments, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    assert (tmp_path / "comparison.json").read_text() == (REFERENCE / folder / "comparison.json").read_text()
    for name, text in (("comparison.md", (tmp_path / "comparison.md").read_text()), ("stdout.txt", done.stdout)):
        if (REFERENCE / folder / name).exists():
            assert text == (REFERENCE / folder / name).read_text()
    full = json.loads((tmp_path / "full.json").read_text())
    expected = json.loads((REFERENCE / "summary_full_precision.json").read_text())
    for label, file in zip(names or files, files):
        assert_close(full[label], expected[file])


class TestUnitCases:
    cases = json.loads((REFERENCE / "unit_cases.json").read_text())

    def test_thresholds_have_the_same_last_bits(self):
        assert IOU_THRESHOLDS.tolist() == self.cases["thresholds"]
        assert [repr(float(t)) for t in IOU_THRESHOLDS] == self.cases["thresholds_repr"]

    def test_iou(self):
        for a, b, iou in self.cases["iou"]:
            m = match_in_answer_order([[a]], [[b]], [1e-300])
            assert m.answer_score.tolist() == [iou]

    def test_one_threshold_matching(self):
        for answers, predictions, threshold, (recall, precision) in self.cases["match"]:
            hits = int(match_in_answer_order([answers], [predictions], [threshold]).num_matches[0, 0])
            assert [hits / len(answers), hits / len(predictions)] == [recall, precision]

    def test_density_f1(self):
        for precision, recall, answers, predictions, persons, expected in self.cases["density_f1"]:
            assert float(density_f1(precision, recall, answers, predictions, persons)) == expected

    def test_buckets(self):
        for count, bucket in self.cases["box_count_range"].items():
            assert box_count_bucket(int(count)) == bucket


def example_columns(rows, tmp_path):
    path = tmp_path / "annotations.jsonl"
    path.write_text("".join(json.dumps(r) + "\n" for r in rows))
    return HumanRefColumns.from_examples(read_humanref(path, keep_odd=True))


def write_predictions(rows, tmp_path):
    path = tmp_path / "predictions.jsonl"
    path.write_text("".join(json.dumps(r) + "\n" for r in rows))
    return path


class TestEdgeCases:
    cases = {c["case"]: c for c in json.loads((REFERENCE / "edge_cases.json").read_text()) if "ground_truth" in c}

    def evaluate(self, name, tmp_path, **options):
        case = self.cases[name]
        columns = example_columns(case["ground_truth"], tmp_path)
        if not case["predictions"]:
            return columns, evaluate(columns, {}, **options)
        rows = (Prediction(r.get("id"), r["extracted_predictions"] or []) for r in case["predictions"])
        return columns, evaluate(columns, PredictionSet.from_rows(rows), **options)

    @pytest.mark.parametrize("name", [n for n, c in cases.items() if not c["crashes"]])
    def test_where_the_script_gives_a_number_so_do_we(self, name, tmp_path):
        case = self.cases[name]
        columns, result = self.evaluate(name, tmp_path)
        expected = case["result"]
        assert result.scores.is_point == expected["is_point"]
        assert result.summary["rejection_correct"] == expected["rejection_score"]
        rows = [sample_row(result.scores, i, None)[1:] for i in range(len(columns)) if not columns.is_rejection[i]]
        assert rows == [r for group in expected["domain"].values() for r in group]
        assert list(result.summary["box_count"]) == list(expected["box_count"])

    @pytest.mark.parametrize("name", [n for n, c in cases.items() if c["crashes"]])
    def test_where_the_script_crashes_we_compute(self, name, tmp_path):
        columns, result = self.evaluate(name, tmp_path)
        overall = result.summary["overall"]
        assert overall["count"] == int((~columns.is_rejection).sum())
        assert comparison_text({"m": result.summary}, columns.sub_domain_owner)
        for key, value in overall.items():
            assert value is None if overall["count"] == 0 and key != "count" else value >= 0

    def test_an_empty_list_first_is_a_rejection(self, tmp_path):
        _, result = self.evaluate("first prediction is [] (allowed by the README)", tmp_path)
        assert result.sample_rows() == [["x1", 0.0, 0.0, 0.0, 0.0, 1, 0, 1, 0.0, 0.0]]

    @pytest.mark.parametrize("name", ["later prediction [[] , box]", "later prediction [box, []]"])
    def test_an_empty_list_among_others_is_not_counted(self, name, tmp_path):
        _, result = self.evaluate(name, tmp_path)
        assert result.summary["overall"]["precision_mean"] == 1.0

    def test_a_point_among_boxes_is_a_false_positive(self, tmp_path):
        _, result = self.evaluate("boxes file with a later point", tmp_path)
        assert result.sample_rows()[1] == ["x2", 0.0, 0.0, 0.0, 0.0, 1, 1, 1, 0.0, 0.0]

    def test_positive_sample_without_answers(self, tmp_path):
        _, wrong = self.evaluate("non-rejection row without answers, box file", tmp_path)
        _, right = self.evaluate("non-rejection row without answers, empty prediction", tmp_path)
        assert wrong.summary["overall"]["density_f1_mean"] == 0.0
        assert right.summary["overall"]["density_f1_mean"] == 1.0

    def test_only_rejection_rows_make_a_table(self, tmp_path):
        columns, result = self.evaluate("only rejection rows (tables)", tmp_path)
        rows = comparison({"m": result.summary}, columns.sub_domain_owner)["domain_subdomain_metrics"]
        assert [(r["domain"], r["samples"], r["rejection_score"]) for r in rows] == [("Average", 0, ""), ("Rejection", "", 1)]

    def test_null_prediction_is_reported_and_not_an_answer(self, tmp_path):
        from fiftyone_rexseek.errors import ProblemLog

        case = self.cases["rejection row, prediction null"]
        log = ProblemLog()
        predictions = PredictionSet.load(write_predictions(case["predictions"], tmp_path), log)
        result = evaluate(example_columns(case["ground_truth"], tmp_path), predictions)
        assert log.counts == {"bad-field": 1}
        assert result.summary["missing"]["rejection_count"] == 1
        assert result.summary["missing"]["rejection_correct_without_credit"] == 0

    def test_only_a_row_without_id(self, tmp_path):
        path = write_predictions(self.cases["prediction row without id"]["predictions"], tmp_path)
        with pytest.raises(DataError, match="no id"):
            PredictionSet.load(path)


def test_on_rejection_samples_only_the_first_entry_counts(columns):
    """[[], box] is a rejection for the script, [box, []] is not."""
    rejected = [k for k, r in zip(columns.ids, columns.is_rejection) if r]
    box = [0.0, 0.0, 5.0, 5.0]
    predictions = {k: [[], box] if i % 2 else [box, []] for i, k in enumerate(rejected)}
    predictions = {**{k: [box] for k in columns.ids if k not in predictions}, **predictions}
    assert evaluate(columns, predictions).summary["rejection_correct"] == len(rejected) // 2


class TestProtocols:
    def test_missing_answers_both_ways(self, columns):
        predictions = PredictionSet.load(REFERENCE / "predictions" / "missing_ids.jsonl")
        official = evaluate(columns, predictions).summary
        wrong = evaluate(columns, predictions, missing="wrong").summary
        report = official["missing"]
        assert official["protocol"] == "official" and report["policy"] == "official"
        assert report["count"] == 230 and report["rejection_count"] == 37
        assert wrong["rejection_correct"] == report["rejection_correct_without_credit"]
        assert official["rejection_correct"] == wrong["rejection_correct"] + report["rejection_count"]
        assert official["overall"] == wrong["overall"]  # boxes: a missing answer scores nothing either way
        with pytest.raises(DataError, match="230 of 600 samples have no answer"):
            evaluate(columns, predictions, missing="error")

    def test_missing_points_get_no_precision_when_wrong(self, columns):
        rows = list(PredictionSet.load(REFERENCE / "predictions" / "points.jsonl").by_id.values())[::2]
        official = evaluate(columns, PredictionSet.from_rows(rows))
        wrong = evaluate(columns, PredictionSet.from_rows(rows), missing="wrong")
        gone = ~official.scores.answered & ~official.scores.is_rejection
        assert (official.scores.precision_50[gone] == 1).all() and (wrong.scores.precision_50[gone] == 0).all()
        assert official.summary["missing"]["overall_without_credit"]["precision"] == pytest.approx(
            wrong.summary["overall"]["precision"]
        )

    def test_failed_and_unparsed_rows_are_not_answers(self, columns):
        rows = [Prediction(k, [[]], {"outcome": "unparsed" if i % 2 else "failed"}) for i, k in enumerate(columns.ids)]
        summary = evaluate(columns, PredictionSet.from_rows(rows)).summary
        assert summary["missing"]["count"] == len(columns)
        assert summary["missing"]["rejection_correct_without_credit"] == 0

    def test_paper_protocol_counts_all_persons(self, columns):
        everyone = evaluate_baseline(columns, "all", protocol="paper")
        assert everyone.summary["protocol"] == "paper"
        s = everyone.scores
        positive = ~s.is_rejection
        # D = 1 when as many are predicted as there are persons, so DensityF1 is F1
        assert s.density_f1_50[positive] == pytest.approx(s.f1_50[positive])
        official = evaluate_baseline(columns, "all")
        assert official.summary["overall"]["density_f1_50"] < everyone.summary["overall"]["density_f1_50"]
        assert official.summary["overall"]["recall_50"] == everyone.summary["overall"]["recall_50"]

    def test_the_formulas_by_hand(self):
        # P = .5, R = 1, 1 answer, 2 predictions, 10 persons: the code says 1/3, the README 2/3
        for protocol, expected in (("official", 1 / 3), ("paper", 2 / 3)):
            s = score_boxes([[[0, 0, 9, 9]]], [[[0, 0, 9, 9], [50, 50, 60, 60]]], [10], protocol=protocol)
            assert s.density_f1_50[0] == pytest.approx(expected)

    def test_baselines_are_what_they_say(self, columns):
        nothing, everyone = evaluate_baseline(columns, "none"), evaluate_baseline(columns, "all")
        few = evaluate_baseline(columns, "random", k=2, seed=3)
        assert nothing.summary["rejection_correct"] == 100 and everyone.summary["rejection_correct"] == 0
        assert everyone.summary["overall"]["recall_mean"] == 1.0
        assert set(few.scores.num_predictions.tolist()) <= {1, 2}
        again = evaluate_baseline(columns, "random", k=2, seed=3)
        assert again.summary == few.summary
        assert evaluate_baseline(columns, "random", k=2, seed=4).summary != few.summary

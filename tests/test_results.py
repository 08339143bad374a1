"""What the Results panel shows, against the run's own report and against counting by hand."""

import json
from collections import Counter

import fiftyone as fo
import numpy as np
import pytest
from evaluated import make_dataset
from fiftyone import ViewField as F
from PIL import Image

from fiftyone_rexseek.errors import ConfigError, DataError
from fiftyone_rexseek.integration import failures, results, statistics
from fiftyone_rexseek.integration.comparison import compare_runs
from fiftyone_rexseek.integration.evaluation import evaluate_referring
from fiftyone_rexseek.metrics.failures import CAUSES
from fiftyone_rexseek.metrics.significance import bootstrap_interval
from fiftyone_rexseek.metrics.sweep import threshold_sweep


@pytest.fixture(scope="module")
def dataset(database):
    dataset = make_dataset()
    evaluate_referring(dataset, "poor", eval_key="second")
    evaluate_referring(dataset, "good", eval_key="first")
    yield dataset
    dataset.delete()


@pytest.fixture
def run(dataset):
    return results.get_run(dataset, "first")


def values(dataset, suffix):
    return np.array([np.nan if v is None else v for v in dataset.values(f"first_{suffix}")], dtype=float)


class TestRuns:
    def test_latest_first_and_only_ours(self, dataset):
        assert [r.eval_key for r in results.list_runs(dataset)] == ["first", "second"]
        dataset.evaluate_detections("good", eval_key="coco", progress=False)
        assert [r.eval_key for r in results.list_runs(dataset)] == ["first", "second"]
        with pytest.raises(ConfigError, match="no referring evaluation 'coco'"):
            results.get_run(dataset, "coco")
        dataset.delete_evaluation("coco")

    def test_unknown_run_names_those_there_are(self, dataset):
        with pytest.raises(ConfigError, match="first"):
            results.get_run(dataset, "none")

    def test_facts(self, run):
        assert (run.method, run.protocol, run.pred_field, run.gt_field) == ("humanref", "official", "good", "ground_truth")
        assert run.field("score") == "first_score"
        with pytest.raises(ConfigError, match="no field 'nonsense'"):
            run.field("nonsense")


class TestOverview:
    def test_groups_are_the_reports(self, dataset, run):
        seen = results.overview(dataset, run)
        summary = dataset.load_evaluation_results("first").report()
        assert seen.num_samples == len(dataset)
        by_domain = {g.name: g for g in seen.domains}
        for name, means in summary["domain"].items():
            assert by_domain[name].score == pytest.approx(means["density_f1_mean"])
            assert by_domain[name].count == means["count"]
        rejection = by_domain["rejection"]
        assert rejection.score == pytest.approx(summary["rejection_correct"] / summary["rejection_count"])
        by_targets = {g.name: g.count for g in seen.targets}
        assert by_targets == Counter(statistics.target_group(n) for n in dataset.values("num_targets"))

    def test_causes_and_distribution(self, dataset, run):
        seen = results.overview(dataset, run)
        found = Counter(dataset.values("first_failure"))
        assert seen.unanswered == found.pop(None)
        assert dict(seen.causes) == found
        assert sum(seen.histogram) == len(dataset)
        assert {"exact", "unparsed", "failed"} <= set(seen.causes)

    def test_every_bar_opens_as_many_samples_as_it_says(self, dataset, run):
        seen = results.overview(dataset, run)
        for group in seen.domains:
            view = results.domain_view(dataset, run, group.name)
            assert len(view) == group.count
            assert view.mean("first_score") == pytest.approx(group.score)
        for group in seen.targets:
            assert len(results.targets_view(dataset, run, group.name)) == group.count
        for i, count in enumerate(seen.histogram):
            assert len(results.score_view(dataset, run, i)) == count
        counts = failures.counts_by_cause(seen)
        assert counts["not_predicted"] == seen.unanswered > 0 and sum(counts.values()) == seen.num_samples
        for cause, count in counts.items():
            assert len(failures.cause_view(dataset, run, cause)) == count

    def test_scores_on_the_edges_of_bins(self, dataset):
        dataset = dataset.clone()
        edges = np.linspace(0, 1, 21)
        odd = [*edges, *np.nextafter(edges, 0)[1:], 0.15, 0.35, 0.7, 0.3]
        dataset.set_values("first_score", [*map(float, odd), *[None] * (len(dataset) - len(odd))])
        run = results.get_run(dataset, "first")
        counts = results.overview(dataset, run).histogram
        assert sum(counts) == len(odd)
        assert [len(results.score_view(dataset, run, i)) for i in range(results.NUM_BINS)] == list(counts)
        dataset.delete()

    def test_run_on_a_view_counts_only_it(self, database):
        dataset = make_dataset(40)
        evaluate_referring(dataset.match(F("domain") == "position"), "good", eval_key="part")
        run = results.get_run(dataset, "part")
        seen = results.overview(dataset, run)
        assert [g.name for g in seen.domains] == ["position"]
        assert seen.num_samples == len(results.evaluated_view(dataset, run)) == dataset.count_values("domain")["position"]
        assert len(results.worst_view(dataset, run)) == seen.num_samples
        dataset.delete()

    def test_bad_requests(self, dataset, run):
        for bad in (lambda: results.targets_view(dataset, run, "4"), lambda: results.score_view(dataset, run, 20)):
            with pytest.raises(ConfigError):
                bad()
        with pytest.raises(ConfigError, match="unknown cause"):
            failures.cause_view(dataset, run, "bad luck")


class TestStatistics:
    def test_kept_by_the_evaluation_and_bounded(self, dataset, run):
        kept = statistics.load(dataset, "first")
        assert kept["num_samples"] == len(dataset)
        assert kept["num_images"] == len(dataset.distinct("image_id"))
        assert len(json.dumps(kept)) < 30_000

    def test_computed_for_a_run_without(self, dataset, run):
        kept = statistics.load(dataset, "first")
        statistics.forget(dataset, "first")
        assert results.get_statistics(dataset, run, compute=False) is None
        again = results.get_statistics(dataset, run)
        assert again == kept
        assert statistics.load(dataset, "first") == kept

    def test_headlines_are_the_runs_with_clustered_intervals(self, dataset, run):
        rows = {r.key: r for r in results.headline_rows(results.get_statistics(dataset, run))}
        stored = {h["key"]: h["value"] for h in dataset.load_evaluation_results("first").headlines}
        assert rows and all(row.value == stored[key] for key, row in rows.items())
        row = rows["density_f1_mean"]
        alone = bootstrap_interval(values(dataset, "density_f1_mean"), dataset.values("image_id"))
        assert row.value == pytest.approx(alone.value)
        assert (row.low, row.high) == pytest.approx((alone.low, alone.high), abs=0.02)
        assert row.low < row.value < row.high
        assert 0 <= rows["rejection_accuracy"].low <= rows["rejection_accuracy"].high <= 1
        assert list(row.baselines)[:2] == ["all candidates", "none"] and len(row.baselines) == 3
        assert rows["missing"].is_count and rows["missing"].value == 3 and rows["missing"].low is None

    def test_baselines_are_named_like_the_headlines(self, dataset, run):
        rows = results.headline_rows(results.get_statistics(dataset, run))
        compared = [r for r in rows if r.key in ("density_f1_mean", "recall_50", "rejection_accuracy")]
        assert len(compared) == 3
        assert all(v is not None for r in compared for v in r.baselines.values())

    def test_group_intervals_hold_the_groups_means(self, dataset, run):
        kept = results.get_statistics(dataset, run)
        for kind, groups in (("domain", results.overview(dataset, run).domains), ("targets", results.overview(dataset, run).targets)):
            for group in groups:
                interval = kept["intervals"][f"{kind}={group.name}"]
                assert interval["value"] == pytest.approx(group.score)
                assert interval["num_samples"] == group.count

    def test_sweep_and_ceiling(self, dataset, run):
        kept = results.get_statistics(dataset, run)
        size = np.array([640, 480, 640, 480])
        corners = lambda rows: [[np.array([x, y, x + w, y + h]) * size for x, y, w, h in r or ()] for r in rows]  # noqa: E731
        gt, pred = dataset.values(["ground_truth.detections.bounding_box", "good.detections.bounding_box"])
        confidences = [c or [] for c in dataset.values("good.detections.confidence")]
        sweep = threshold_sweep(corners(gt), corners(pred), confidences)
        assert kept["sweep"]["score"] == pytest.approx(sweep.score.tolist())
        assert kept["sweep"]["best"] == sweep.best > 0  # low confidences are often wrong
        ninth = sum(round(b[0] * 10) == 9 for r in gt for b in r or ())
        assert kept["ceiling"]["num_found"] == kept["ceiling"]["num_targets"] - ninth

    def test_without_confidences_and_image_ids(self, database):
        dataset = make_dataset(24)
        dataset.delete_sample_field("image_id")
        dataset.set_values("good.detections.confidence", [None if v is None else [None] * len(v) for v in dataset.values("good.detections.id")])
        evaluate_referring(dataset, "good", eval_key="plain")
        assert statistics.load(dataset, "plain")["sweep"] is None
        assert statistics.load(dataset, "plain")["num_images"] == 8  # files are the clusters
        # it follows renaming and goes with the run
        kept, key = statistics.load(dataset, "plain"), statistics.run_id(dataset, "plain")
        dataset.rename_evaluation("plain", "two")
        assert statistics.load(dataset, "two") == kept
        dataset.delete_evaluation("two")
        assert statistics.store(dataset).get(key) is None
        dataset.delete()


class TestFailureViews:
    def test_one_view_per_cause_replaced_when_made_again(self, dataset):
        dataset = dataset.clone()
        names = failures.save_cause_views(dataset, "first")
        counts = Counter(c or "not_predicted" for c in dataset.values("first_failure"))
        assert counts["not_predicted"]
        assert names == [f"first: {failures.CAUSE_LABELS[c]}" for c in failures.CAUSE_LABELS if counts[c]]
        for cause, count in counts.items():
            assert len(dataset.load_saved_view(f"first: {failures.CAUSE_LABELS[cause]}")) == count
        dataset.set_values("first_failure", ["exact"] * len(dataset))
        assert failures.save_cause_views(dataset, "first") == ["first: exact"]
        assert dataset.list_saved_views() == ["first: exact"]
        dataset.delete()

    def test_colours(self, dataset):
        dataset = dataset.clone()
        dataset.app_config.color_scheme = fo.ColorScheme(
            color_by="field", fields=[{"path": "candidates", "fieldColor": "#94A3B8"}, {"path": "good", "fieldColor": "#111111"}]
        )
        dataset.app_config.active_fields = fo.ActiveFields(paths=["expression", "poor", "second_failure"])
        for _ in range(2):  # twice is the same as once
            failures.color_by_cause(dataset, "first")
            dataset.reload()
            # the other run's cause and boxes make room
            shown = ["first_failure", "expression", "ground_truth", "good"]
            assert dataset.app_config.active_fields.paths == shown
            fields = {f["path"]: f for f in dataset.app_config.color_scheme.fields}
            assert len(fields) == len(dataset.app_config.color_scheme.fields) == 4
            assert {v["value"] for v in fields["first_failure"]["valueColors"]} == set(CAUSES)
            assert fields["candidates"] == {"path": "candidates", "fieldColor": "#94A3B8"}
            assert fields["good"]["colorByAttribute"] == "first" and fields["good"]["fieldColor"] == "#111111"
            # one colour for all values that have none, so that the causes stand out
            assert dataset.app_config.color_scheme.color_by == "value" and len(dataset.app_config.color_scheme.color_pool) == 1
        failures.color_by_field(dataset)
        dataset.reload()
        scheme = dataset.app_config.color_scheme
        assert scheme.color_by == "field" and not scheme.color_pool and len(scheme.fields) == 4
        dataset.delete()

    def test_a_pool_of_ones_own_stays(self, dataset):
        dataset = dataset.clone()
        dataset.app_config.color_scheme = fo.ColorScheme(color_pool=["#123456", "#654321"])
        failures.color_by_cause(dataset, "first")
        failures.color_by_field(dataset)
        assert dataset.app_config.color_scheme.color_pool == ["#123456", "#654321"]
        dataset.delete()

    def test_every_cause_has_words_and_a_colour(self):
        for table in (failures.CAUSE_LABELS, failures.CAUSE_COLORS, failures.CAUSE_MEANINGS):
            assert tuple(table) == (*CAUSES, failures.NOT_PREDICTED)
        assert len(set(failures.CAUSE_COLORS.values())) == len(CAUSES) + 1


class TestPeoplesOwnDatasets:
    """Partly annotated, proposed for one model only, with fields that mean something else."""

    @pytest.fixture
    def dataset(self, database):
        dataset = make_dataset(48)
        yield dataset
        dataset.delete()

    def test_what_nobody_has_annotated_is_left_out_and_said(self, dataset):
        before = evaluate_referring(dataset[:40], "good", eval_key="part").report()
        for sample in dataset[40:].iter_samples(autosave=True):
            sample["ground_truth"] = None
        results_ = evaluate_referring(dataset, "good", eval_key="all")
        assert any("8 samples are left out" in note for note in results_.report()["notes"])
        assert results_.report()["overall"] == before["overall"]
        assert dataset.count("all_score") == 40 == results.overview(dataset, results.get_run(dataset, "all")).num_samples
        assert statistics.load(dataset, "all")["num_samples"] == 40
        assert statistics.of_stored_run(dataset, "all")["intervals"] == statistics.load(dataset, "part")["intervals"]

    def test_nothing_annotated_is_an_error(self, dataset):
        dataset.clear_sample_field("ground_truth")
        with pytest.raises(DataError, match="no sample has ground truth in 'ground_truth'"):
            evaluate_referring(dataset, "good", eval_key="none")
        assert not dataset.list_evaluations()

    def test_the_models_own_proposals_count(self, dataset):
        dataset.add_sample_field("good_candidates", fo.EmbeddedDocumentField, embedded_doc_type=fo.Detections)
        dataset.set_values("good_candidates", [fo.Detections() for _ in dataset])
        evaluate_referring(dataset, "good", eval_key="own")
        evaluate_referring(dataset, "good", eval_key="named", candidates_field="candidates")
        missed = dataset.match(F("own_fn") > 0).exists("own_failure")
        assert len(missed) and set(missed.values("own_failure")) <= {"no_proposal", "unparsed", "failed"}
        assert statistics.load(dataset, "own")["ceiling"] is None
        assert statistics.load(dataset, "named")["ceiling"]["recall"] > 0.5

    def test_candidates_that_were_never_looked_for_are_no_reason(self, dataset):
        unknown = dataset[:24]
        for sample in unknown.iter_samples(autosave=True):
            sample["candidates"] = None
        evaluate_referring(dataset, "good", eval_key="some")
        assert "no_proposal" not in unknown.distinct("some_failure")
        exact = unknown.match((F("some_failure") == "exact") & (F("num_targets") > 0))
        assert len(exact) and min(exact.values("some_score")) > 0.999  # 0 if there were nobody to choose from
        with_candidates = dataset.exists("candidates")
        targets = with_candidates.count("ground_truth.detections")
        assert statistics.load(dataset, "some")["ceiling"]["num_targets"] == targets

    def test_a_model_that_draws_needs_no_candidates(self, dataset):
        dataset.set_values("candidates", [fo.Detections() for _ in dataset])
        for key in ("chooses", "draws"):
            if key == "draws":
                dataset.add_sample_field("good_rejected_mask", fo.EmbeddedDocumentField, embedded_doc_type=fo.Detections)
            evaluate_referring(dataset, "good", eval_key=key, method="grec", output="all")
        assert dataset.count_values("chooses_failure")["no_proposal"]
        assert "no_proposal" not in dataset.count_values("draws_failure")
        dataset.clear_sample_field("candidates")
        dataset.set_values("candidates", dataset.values("ground_truth"))
        evaluate_referring(dataset, "good", eval_key="draws", method="grec", output="all")
        assert statistics.load(dataset, "draws")["ceiling"] is None

    def test_a_domain_that_is_no_text(self, dataset):
        dataset.delete_sample_field("domain")
        dataset.add_sample_field("domain", fo.ListField, subfield=fo.StringField)
        dataset.set_values("domain", [["a", "b"]] * len(dataset))
        evaluate_referring(dataset, "good", eval_key="first")
        evaluate_referring(dataset, "poor", eval_key="second")
        assert not results.overview(dataset, results.get_run(dataset, "first")).domains
        assert compare_runs(dataset, ["first", "second"]).num_samples == len(dataset)

    def test_photographs_without_metadata(self, database, tmp_path):
        Image.new("RGB", (64, 48)).save(tmp_path / "a.png")
        dataset = make_dataset(9, filepaths=[tmp_path / "a.png"])
        dataset.set_values("metadata", [None] * len(dataset))
        assert evaluate_referring(dataset, "good").report()["overall"]["count"] > 0
        assert dataset.distinct("metadata.width") == [64]
        dataset.delete()

    def test_a_sweep_scores_as_its_run_does(self, dataset):
        for options in ({"method": "grec", "protocol": "official"}, {"method": "grec", "protocol": "paper"}):
            run = evaluate_referring(dataset, "good", eval_key="swept", output="all", **options)
            sweep = statistics.load(dataset, "swept")["sweep"]
            assert sweep["score"][0] == pytest.approx(run.report()["F1_score"])

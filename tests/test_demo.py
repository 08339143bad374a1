"""The demo makes what it says: two datasets, models and trivial answers scored, views of failures and disagreements."""

import pytest

from fiftyone_rexseek.integration.demo import BASELINES, MODELS, build
from fiftyone_rexseek.integration.grefcoco import INFO_KEY

SCENES = 4


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    lines = []
    made = build(tmp_path_factory.mktemp("demo"), num_scenes=SCENES, seed=11, name="test-demo", say=lines.append)
    yield made
    made.dataset.delete()
    made.grefcoco.delete()


def test_both_formats_are_imported(made):
    for dataset in (made.dataset, made.grefcoco):
        assert len(dataset.distinct("filepath")) == SCENES
        assert len(dataset) > SCENES
        assert dataset.count("ground_truth.detections") > 0
    assert set(made.dataset.distinct("domain")) >= {"attribute", "rejection"}


def test_drawn_scenes_are_not_compared_with_the_published_set(made):
    assert made.grefcoco.info[INFO_KEY]["grefcoco"]["differences_from_published"] == {}


def test_every_model_answers_every_expression(made):
    for dataset in (made.dataset, made.grefcoco):
        for field in MODELS:
            assert set(dataset.distinct(f"{field}_outcome")) <= {"selected", "rejected"}
            assert len(dataset.exists(f"{field}_outcome")) == len(dataset)


def test_runs_stand_beside_the_trivial_answers(made):
    assert {run.config.pred_field for run in made.runs} == {*BASELINES, *MODELS}
    scores = [run.summary["overall"]["density_f1_mean"] for run in made.runs]
    assert scores == sorted(scores, reverse=True)
    assert {run.config.pred_field for run in made.grec} == set(MODELS)
    assert [run.config.pred_field for run in made.gres] == ["rela_tiny"]
    assert all(run.summary["baselines"] for run in made.grec)


def test_saved_views_of_domains_failures_and_disagreements(made):
    saved = made.dataset.list_saved_views()
    assert {"by image", "nobody matches", "models disagree", "domain: attribute"} <= set(saved)
    assert any(name.startswith("eval_rexseek_tiny: ") for name in saved)
    disagreeing = made.dataset.load_saved_view("models disagree")
    rejected = made.dataset.match({"rexseek_tiny_outcome": "rejected", "rela_tiny_outcome": "selected"}).values("id")
    assert set(rejected) <= set(disagreeing.values("id"))


def test_a_second_demo_replaces_the_first(made, tmp_path):
    again = build(tmp_path, num_scenes=1, seed=12, name="test-demo-again", side_by_side=False)
    again = build(tmp_path, num_scenes=2, seed=12, name="test-demo-again", side_by_side=False)
    assert len(again.dataset.distinct("filepath")) == 2
    again.dataset.delete()
    again.grefcoco.delete()

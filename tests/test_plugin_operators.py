"""The plugin as FiftyOne loads it: manifest and registry agree, forms validate, operators do their work."""

import asyncio
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import fiftyone as fo
import fiftyone.operators as foo
import pytest
import yaml
from fiftyone.operators.executor import ExecutionError, resolve_type
from fiftyone.operators.registry import OperatorRegistry

from fiftyone_rexseek.datasets import scenes
from fiftyone_rexseek.errors import ConfigError
from fiftyone_rexseek.integration.evaluation import evaluate_referring

ROOT = Path(__file__).resolve().parent.parent
URI = "@fiftyone-rexseek/rexseek"


@pytest.fixture(scope="module", autouse=True)
def plugin():
    """The checkout, linked into the tests' own plugin folder."""
    link = Path(os.environ["FIFTYONE_PLUGINS_DIR"]) / URI
    link.parent.mkdir(parents=True, exist_ok=True)
    if not link.exists():
        link.symlink_to(ROOT)
    return link


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("humanref")
    scenes.write_humanref(path, seed=3, count=4, size=(320, 240), questions_per_scene=6)
    return path


@pytest.fixture
def dataset(folder):
    from fiftyone_rexseek.types import HumanRefDataset

    dataset = fo.Dataset.from_dir(str(folder), dataset_type=HumanRefDataset, progress=False)
    yield dataset
    dataset.delete()


def form(name, dataset, **params):
    """Schema and errors of an operator's form for some values."""
    request = {"operator_uri": f"{URI}/{name}", "dataset_name": dataset.name, "params": params, "target": "inputs"}
    found = asyncio.run(resolve_type(OperatorRegistry(), f"{URI}/{name}", request))
    assert getattr(found, "error", None) is None, found.error
    return found.to_json()


def errors(schema):
    """Error messages of all invalid properties, by name."""
    properties = schema["type"]["properties"]
    return {name: p.get("error_message") for name, p in properties.items() if p.get("invalid")}


def test_manifest_and_registry_agree_and_nothing_fails_to_load():
    manifest = yaml.safe_load((ROOT / "fiftyone.yml").read_text())
    registry = OperatorRegistry()
    assert registry.list_errors() == []
    loaded = {o.name for o in registry.list_operators(type="operator") if o.uri.startswith(URI)}
    panels = {o.name for o in registry.list_operators(type="panel") if o.uri.startswith(URI)}
    assert loaded == set(manifest["operators"]) and panels == set(manifest["panels"])
    # a class that the manifest does not list is dropped without a word
    sys.path.insert(0, str(ROOT))
    import operators

    names = {cls(_builtin=False).config.name for cls in operators.classes() if not cls.__name__.startswith("Callable")}
    assert names == loaded | panels


def test_operators_have_icons_that_exist():
    for operator in OperatorRegistry().list_operators():
        if operator.uri.startswith(URI) and not operator.config.unlisted:
            for icon in (operator.config.light_icon, operator.config.dark_icon):
                assert icon and (ROOT / icon.lstrip("/")).is_file(), operator.uri


def test_loading_the_plugin_imports_no_torch():
    code = "import sys; import operators; list(operators.classes()); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout.strip() == "False", done.stderr


def test_import_humanref(folder, dataset):
    name = f"{dataset.name}-imported"
    operator = foo.get_operator(f"{URI}/import_humanref")
    params = dict(dataset_dir=str(folder), dataset_name=name)
    result = operator(dataset, **params)
    assert result["added"] == len(dataset) and fo.load_dataset(name).persistent
    assert operator(dataset, **params)["existing"] == len(dataset)
    assert len(fo.load_dataset(name)) == len(dataset)
    fo.delete_dataset(name)


def test_import_form_says_what_is_wrong(folder, dataset, tmp_path):
    assert "No such folder" in errors(form("import_humanref", dataset, dataset_dir="/nowhere"))["dataset_dir"]
    assert "annotations.jsonl" in errors(form("import_humanref", dataset, dataset_dir=str(tmp_path)))["labels_path"]
    good = form("import_humanref", dataset, dataset_dir=str(folder))
    assert errors(good) == {} and "24 rows" in json.dumps(good)


def test_predictions_in_and_out(dataset, tmp_path):
    rows = [{"id": i, "extracted_predictions": [[1, 2, 30.5, 40]]} for i in dataset.values("expression_id")[:5]]
    source, target = tmp_path / "my-model.jsonl", tmp_path / "out.jsonl"
    source.write_text("".join(json.dumps(r) + "\n" for r in rows))
    schema = form("import_predictions", dataset, path=str(source))
    assert errors(schema) == {} and "my_model" in json.dumps(schema)
    operator = foo.get_operator(f"{URI}/import_predictions")
    result = operator(dataset, path=str(source), pred_field="my_model")
    assert (result["matched"], result["missing"]) == (5, len(dataset) - 5)
    assert "exists" in errors(form("import_predictions", dataset, path=str(source)))["pred_field"]
    assert foo.get_operator(f"{URI}/export_predictions")(dataset, path=str(target), pred_field="my_model")["rows"] == 5
    assert [json.loads(line) for line in target.read_text().splitlines()] == rows


@pytest.mark.parametrize("text", ["", "not json\n", '{"id": 1}\n', '{"id": 1, "answer_boxes": []}\n'])
def test_prediction_form_refuses_other_files(dataset, tmp_path, text):
    path = tmp_path / "p.jsonl"
    path.write_text(text)
    assert "path" in errors(form("import_predictions", dataset, path=str(path)))


def test_evaluate(dataset):
    assert "No predictions" in errors(form("evaluate_referring", dataset))["pred_field"]
    dataset.clone_sample_field("ground_truth", "perfect")
    assert errors(form("evaluate_referring", dataset)) == {}
    assert "eval_key" in errors(form("evaluate_referring", dataset, eval_key="a b"))
    operator = foo.get_operator(f"{URI}/evaluate_referring")
    result = operator(dataset, pred_field="perfect", gt_field="ground_truth", method="humanref", eval_key="run")
    assert result["count"] == len(dataset) and "DensityF1" in result["summary"]
    assert dataset.list_evaluations() == ["run"]
    assert set(dataset.values("run_score")) == {1.0}
    assert "run: worst first" in dataset.list_saved_views()
    assert "will be replaced" in json.dumps(form("evaluate_referring", dataset, eval_key="run"))
    view = dataset.limit(3)
    assert operator(view, pred_field="perfect", gt_field="ground_truth", method="humanref", eval_key="run")["count"] == 3
    assert dataset.count("run_score") == 3  # the replaced run's values are gone
    dataset.clone_sample_field("ground_truth", "other")
    for chosen in ({"method": "grec", "pred_field": "perfect"}, {"pred_field": "other"}, {"gt_field": "other"}):
        assert "choose another name" in errors(form("evaluate_referring", dataset, eval_key="run", **chosen))["eval_key"]
    with pytest.raises(ExecutionError, match="choose another name"):
        operator(view, pred_field="other", gt_field="ground_truth", method="humanref", eval_key="run")
    with pytest.raises(ConfigError, match="another eval_key"):
        evaluate_referring(view, "other", eval_key="run")
    assert dataset.list_evaluations() == ["run"] and dataset.count("run_score") == 3


@pytest.mark.skipif(shutil.which("java") is None, reason="METEOR and the PTB tokeniser need Java")
def test_evaluate_generated_expressions(dataset):
    def found(**params):
        return form("evaluate_referring", dataset, method="greg", **params)

    dataset.add_sample_field("description", fo.StringField)
    for name in ("note", "import_key"):
        dataset.add_sample_field(name, fo.StringField)
    dataset.add_sample_field("description_outcome", fo.StringField)
    dataset.set_values("description", [e if n else None for e, n in zip(*dataset.values(["expression", "num_targets"]))])
    # what a model wrote is offered first; a field of boxes chosen for another metric does not matter
    schema = found(pred_field="model")
    assert errors(schema) == {}
    offered = [c["value"] for c in schema["type"]["properties"]["text_field"]["view"]["choices"]]
    assert offered[0] == "description" and "note" in offered and not {"expression", "import_key", "description_outcome"} & set(offered)
    assert schema["type"]["properties"]["protocol"]["type"]["values"] == ["official"]
    assert "Choose one of official" in errors(found(protocol="paper"))["protocol"]
    result = foo.get_operator(f"{URI}/evaluate_referring")(dataset, method="greg", text_field="description")
    assert result["eval_key"] == "description_greg" and "METEOR" in result["summary"]
    scores = [s for s in dataset.values("description_greg_score") if s is not None]
    assert len(scores) == dataset.count("description") and max(scores) == 1.0
    assert "description_greg: worst first" in dataset.list_saved_views()


def test_evaluate_boxes_by_count(dataset):
    def choices(**params):
        found = form("evaluate_referring", dataset, pred_field="counted", method="grec", **params)
        assert errors(found) == {}
        return [c["value"] for c in found["type"]["properties"]["output"]["view"]["choices"]]

    dataset.clone_sample_field("ground_truth", "counted")
    assert choices() == ["threshold", "all"]
    dataset.add_sample_field("counted_count", fo.IntField)
    dataset.set_values("counted_count", [min(n, 6) for n in dataset.values("num_targets")])
    assert choices() == ["threshold", "count", "all"]
    operator = foo.get_operator(f"{URI}/evaluate_referring")
    result = operator(dataset, pred_field="counted", method="grec", output="count", eval_key="counted_run")
    assert "| Pr@(F1=1) | 1.000 |" in result["summary"] and "output='count'" not in result["summary"]
    config = dataset.get_evaluation_info("counted_run").config
    assert config.output == "count" and config.missing == "wrong"
    result = operator(dataset, pred_field="counted", method="grec", eval_key="counted_run")
    assert "output='count' keeps as many boxes as the model counts" in result["summary"]


def test_requirements_of_the_plugin():
    done = subprocess.run(
        [Path(sys.executable).parent / "fiftyone", "plugins", "requirements", URI, "--print"], capture_output=True, text=True
    )
    # what a downloaded plugin needs beside itself; test_plugin_install holds the file equal to pyproject.toml
    assert "transformers" in done.stdout and "fiftyone>=" in done.stdout, done.stderr

"""RexSeek and ReLA as FiftyOne zoo models, around models that answer by rule."""

import json
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import fiftyone as fo
import fiftyone.zoo as foz
import numpy as np
import pytest
from fake_models import FakeSegmenter, FakeSelector
from PIL import Image

from fiftyone_rexseek.errors import ConfigError
from fiftyone_rexseek.integration import selections, zoo_models, zoo_registration
from fiftyone_rexseek.models import registry

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def fakes(monkeypatch):
    made = {}

    def load(name, weights=None, **options):
        made[name] = FakeSelector() if registry.entry(name).needs_candidates else FakeSegmenter()
        made[name].loaded_with = {"weights": weights, **options}
        return made[name]

    monkeypatch.setattr(registry, "load", load)
    return made


@pytest.fixture
def registered():
    zoo_registration.register_models()


@pytest.fixture
def dataset(tmp_path):
    for i in range(2):
        Image.new("RGB", (40, 30)).save(tmp_path / f"{i}.png")
    (tmp_path / "broken.png").write_bytes(b"no image")
    samples = []
    for file, text in [("0", "all"), ("0", "none"), ("broken", "first"), ("1", "garbled"), ("1", "crash"), ("1", "1")]:
        boxes = [[0, 0, 0.25, 0.5], [0.5, 0.5, 0.5, 0.5]]
        candidates = [fo.Detection(label=f"kind{i}", bounding_box=b, confidence=0.5) for i, b in enumerate(boxes)]
        samples.append(
            fo.Sample(filepath=str(tmp_path / f"{file}.png"), query=text, boxes=fo.Detections(detections=candidates))
        )
    dataset = fo.Dataset()
    dataset.add_samples(samples)
    yield dataset
    dataset.delete()


@pytest.mark.parametrize("workers", [0, 2])
def test_apply_model_writes_boxes_outcome_and_answer(dataset, fakes, registered, workers):
    model = foz.load_zoo_model("rexseek-3b", cache=False)
    dataset.apply_model(
        model, "p", expression="query", candidates="boxes", batch_size=4, num_workers=workers, skip_failures=False
    )
    assert dataset.values("p_outcome") == ["selected", "rejected", "failed", "unparsed", "failed", "selected"]
    assert dataset.values("p_answer")[0] == "<obj0><obj1>"
    assert dataset.values("p.detections.label") == [["kind0", "kind1"], [], None, None, None, ["kind1"]]
    assert dataset.values("p.detections.bounding_box")[5] == [[0.5, 0.5, 0.5, 0.5]]
    assert [d.candidate for d in dataset.first().p.detections] == [0, 1]
    assert "cannot be read" in dataset.values("p_error")[2]
    assert "out of memory" in dataset.values("p_error")[4]


def test_fields_given_at_loading_are_defaults_for_the_app(dataset, fakes, registered):
    model = foz.load_zoo_model("rexseek-3b", expression_field="query", candidates_field="boxes", label="person", cache=False)
    dataset.apply_model(model, "p", num_workers=0)
    assert dataset.values("p.detections.label")[0] == ["person", "person"]
    constant = foz.load_zoo_model("rexseek-3b", prompt="first", candidates_field="boxes", cache=False)
    dataset.apply_model(constant, "q", num_workers=0)
    assert dataset.values("q_outcome") == ["selected", "selected", "failed", "selected", "selected", "selected"]


def test_other_field_names_through_a_dict(dataset, fakes, registered):
    model = foz.load_zoo_model("rexseek-3b", prompt="first", candidates_field="boxes", cache=False)
    dataset.apply_model(model, {"detections": "found", "outcome": "what", "answer": "text", "error": "why"}, num_workers=0)
    assert dataset.values("what")[0] == "selected" and len(dataset.first().found.detections) == 1


def test_confidence_threshold(dataset, fakes, registered):
    model = foz.load_zoo_model("rexseek-3b", expression_field="query", candidates_field="boxes", cache=False)
    dataset.apply_model(model, "p", confidence_thresh=0.55, num_workers=0)
    assert dataset.values("p.detections.confidence")[0] == [pytest.approx(0.6)]


def test_a_field_that_does_not_exist_is_said_up_front(dataset, fakes, registered):
    model = foz.load_zoo_model("rexseek-3b", cache=False)
    with pytest.raises(ValueError, match="nowhere"):
        dataset.apply_model(model, "p", expression="nowhere", candidates="boxes", num_workers=0)


def test_segmenter_writes_masks(dataset, fakes, registered, tmp_path):
    model = foz.load_zoo_model("rela-swin-base", prompt="left", weights="some.pth", cache=False)
    assert fakes["rela-swin-base"].loaded_with["weights"] == "some.pth"
    dataset.apply_model(model, "r", num_workers=0)
    [detection] = dataset.first().r.detections
    assert detection.mask.shape == (30, 20) and detection.mask.all() and detection.merged
    assert detection.confidence == pytest.approx(0.75)
    dataset.apply_model(model, "on_disk", num_workers=0, output_dir=str(tmp_path / "masks"))
    [detection] = dataset.first().on_disk.detections
    assert detection.mask is None and Path(detection.mask_path).exists()


@pytest.mark.parametrize("option", [{"wieghts": "x"}, {"prompt": "  "}, {"image_size": [1, 2]}])
def test_unknown_and_senseless_options_are_refused(fakes, registered, option):
    with pytest.raises(ConfigError):
        foz.load_zoo_model("rexseek-3b", cache=False, **option)
    assert not fakes


def test_an_image_without_a_question(fakes):
    model = zoo_models.load("rexseek-3b")
    with pytest.raises(ConfigError, match="expression"):
        model.predict(np.zeros((4, 4, 3), np.uint8))


def test_manifests_are_those_of_the_registry():
    assert json.loads((ROOT / "zoo" / "manifest.json").read_text()) == zoo_registration.manifest(remote=True)
    assert json.loads((ROOT / "fiftyone_rexseek" / "zoo_models.json").read_text()) == zoo_registration.manifest(remote=False)
    licenses = {m["base_name"]: m["license"] for m in zoo_registration.manifest(remote=False)["models"]}
    assert set(licenses) == {"rexseek-3b", "rexseek-tiny", "rela-swin-base", "rela-swin-tiny", "rela-r50", "rela-tiny"}
    assert "IDEA License 1.0" in licenses["rexseek-3b"] and "Qwen RESEARCH" in licenses["rexseek-3b"]


def test_as_a_remote_source(fakes, dataset, monkeypatch, tmp_path):
    """What ``fiftyone-rexseek install`` sets up: a folder below model_zoo_dir, with marker files and a form."""
    monkeypatch.setattr(fo.config, "model_zoo_dir", str(tmp_path / "zoo"))
    monkeypatch.setattr(fo.config, "model_zoo_manifest_paths", None)
    folder = tmp_path / "zoo" / zoo_registration.SOURCE_NAME
    shutil.copytree(ROOT / "zoo", folder)
    assert zoo_registration.register_models() is False
    assert "rexseek-3b" in foz.list_zoo_models()
    foz.list_downloaded_zoo_models()
    model = foz.load_zoo_model("rexseek-3b", candidates_field="boxes", expression_field="query", cache=False)
    assert isinstance(model, zoo_models.RexSeekZooModel)
    # FiftyOne names the stub's module after its folder; the package must not be hidden by it
    assert sys.modules["fiftyone_rexseek"].__file__ == str(ROOT / "fiftyone_rexseek" / "__init__.py")
    assert json.loads((folder / "rexseek-3b.json").read_text())["repo_id"] == "IDEA-Research/RexSeek-3B"
    assert "rexseek-3b" in foz.list_downloaded_zoo_models()
    dataset.apply_model(model, "p", num_workers=0)
    assert dataset.values("p_outcome")[1] == "rejected"

    zoo_model = foz.get_zoo_model("rexseek-3b")
    form = zoo_model.resolve_input(SimpleNamespace(params={}))
    assert {"prompt", "expression_field", "candidates_field", "weights"} <= set(form.type.properties)
    params = {"prompt": "  ", "expression_field": "query", "candidates_field": "boxes", "weights": None, "label": ""}
    zoo_model.parse_parameters(SimpleNamespace(params={}), params)
    assert params == {"expression_field": "query", "candidates_field": "boxes"}


def test_masks_and_boxes_come_back_as_they_were():
    """Selection -> labels -> masks and boxes, also where a mask reaches beyond its box or boxes share one mask."""
    from fiftyone_rexseek import masks
    from fiftyone_rexseek.referring import Outcome, Selection

    rng = np.random.default_rng(3)
    width, height = 37, 23
    for _ in range(20):
        whole = rng.random((height, width)) > 0.6
        boxes = np.sort(rng.uniform(0, 20, (3, 2, 2)), axis=1).reshape(3, 4) + np.array([0, 0, 1, 1])
        shared = Selection("x", Outcome.SELECTED, boxes, np.full(3, 0.5), merged_mask=masks.encode(whole))
        labels = selections.to_detections(shared, width, height)
        assert (selections.merged_mask(labels, width, height) == whole).all()
        for detection, box in zip(labels.detections, boxes):
            assert (selections.detection_box(detection, width, height) == box).all()
        own = [rng.random((height, width)) > 0.8 for _ in boxes]
        single = Selection("x", Outcome.SELECTED, boxes, np.full(3, 0.5), masks=tuple(masks.encode(m) for m in own))
        labels = selections.to_detections(single, width, height)
        for detection, mask in zip(labels.detections, own):
            assert (selections.detection_mask(detection, width, height) == mask).all()
        merged = Selection("x", Outcome.SELECTED, merged_mask=masks.encode(whole), rejection_score=0.5)
        labels = selections.to_detections(merged, width, height)
        assert len(labels.detections) == 1
        assert (selections.merged_mask(labels, width, height) == whole).all()

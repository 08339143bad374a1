"""Installing into FiftyOne and taking it out again."""

import importlib
import json
import os
from importlib.metadata import requires
from pathlib import Path

import pytest
import yaml
from fiftyone.core.config import locate_config
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import fiftyone_rexseek
from fiftyone_rexseek.errors import ConfigError
from fiftyone_rexseek.integration import setup
from fiftyone_rexseek.integration.setup import Places

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def places(tmp_path):
    """Folders of the test's own: nothing here may come near a user's FiftyOne."""
    return Places(
        plugin=tmp_path / "plugins" / setup.PLUGIN_NAME,
        models=tmp_path / "zoo" / "rexseek_zoo_source",
        config=tmp_path / "home" / "config.json",
        evaluation_config=tmp_path / "home" / "evaluation_config.json",
    )


def files(places):
    """Text of the two config files; None where there is no file."""
    return [p.read_text() if p.is_file() else None for p in (places.config, places.evaluation_config)]


def test_fiftyones_environment_variables_are_honoured():
    found = Places.of_fiftyone()
    assert found.config == Path(os.environ["FIFTYONE_CONFIG_PATH"]) == Path(locate_config())
    assert found.evaluation_config == Path(os.environ["FIFTYONE_EVALUATION_CONFIG_PATH"])
    assert found.plugin == Path(os.environ["FIFTYONE_PLUGINS_DIR"]) / setup.PLUGIN_NAME
    assert found.models.parent == Path(os.environ["FIFTYONE_MODEL_ZOO_DIR"])
    home = Path.home() / ".fiftyone"
    assert not any(p.is_relative_to(home) for p in (found.config, found.evaluation_config, found.receipt))


@pytest.mark.parametrize(
    "before",
    [
        (None, None),
        ('{"do_not_track": true}', None),
        ('{\n  "dataset_zoo_manifest_paths": []\n}', '{"detection_backends": {}}'),
        ('{"dataset_zoo_manifest_paths": ["/theirs.json"]}', '{"detection_backends": {"mine": {"config_cls": "a.B"}}}'),
        ("", ""),
    ],
)
@pytest.mark.parametrize("link", [True, False])
def test_uninstall_leaves_the_files_as_they_were(places, before, link):
    places.config.parent.mkdir()
    for path, text in zip((places.config, places.evaluation_config), before):
        if text is not None:
            path.write_text(text)
    setup.install(places, link=link)
    assert all(setup.state(places).values())
    once = files(places)
    setup.install(places, link=link)
    assert files(places) == once  # harmless when repeated
    setup.uninstall(places)
    assert files(places) == list(before)
    assert not any(setup.state(places).values())
    assert not places.receipt.exists() and not places.plugin.exists() and not places.models.exists()
    assert setup.uninstall(places) == []


def test_on_a_fresh_machine_nothing_is_left(places, tmp_path):
    setup.install(places)
    assert set(tmp_path.iterdir()) == {tmp_path / "plugins", tmp_path / "zoo", tmp_path / "home"}
    (tmp_path / "zoo" / "another_model.json").touch()
    setup.uninstall(places)
    assert [p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*")] == ["zoo", "zoo/another_model.json"]


def test_what_the_user_changed_in_the_meantime_stays(places):
    setup.install(places)
    config = json.loads(places.config.read_text())
    config["dataset_zoo_manifest_paths"].append("/theirs.json")
    config["default_batch_size"] = 3
    places.config.write_text(json.dumps(config))
    setup.uninstall(places)
    assert json.loads(places.config.read_text()) == {
        "dataset_zoo_manifest_paths": ["/theirs.json"],
        "default_batch_size": 3,
    }


@pytest.mark.parametrize("decided", [True, False])
def test_what_the_user_decided_about_scheduling_stays(places, decided):
    places.config.parent.mkdir()
    places.config.write_text(json.dumps({setup.SCHEDULING: decided}))
    for do in (setup.install, setup.uninstall):
        do(places)
        assert json.loads(places.config.read_text())[setup.SCHEDULING] is decided


def test_a_foreign_plugin_of_the_same_name_is_not_touched(places):
    places.plugin.mkdir(parents=True)
    (places.plugin / "fiftyone.yml").write_text("name: other")
    with pytest.raises(ConfigError, match="in the way"):
        setup.install(places)
    assert not places.config.exists()  # found before anything was written
    setup.uninstall(places)
    assert (places.plugin / "fiftyone.yml").read_text() == "name: other"


@pytest.mark.parametrize("text", ["{broken", "[1, 2]"])
def test_a_broken_config_is_named_and_left_alone(places, text):
    places.config.parent.mkdir()
    places.config.write_text(text)
    with pytest.raises(ConfigError, match=r"config\.json"):
        setup.install(places)
    assert places.config.read_text() == text and not places.plugin.exists()


def test_the_wheel_carries_what_is_installed_from_it():
    tomllib = pytest.importorskip("tomllib", reason="Python 3.10 reads no TOML")
    build = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]
    assert build["packages"] == ["fiftyone_rexseek"]
    packed = {source: target for source, target in build["force-include"].items() if (ROOT / source).exists()}
    assert packed == {name: f"fiftyone_rexseek/_plugin/{name}" for name in setup._PARTS}


@pytest.mark.parametrize("model, limit_mb", [("rexseek-tiny", 5), ("rela-tiny", 8)])
def test_packaged_weights_are_there_and_small(model, limit_mb):
    folder = ROOT / "fiftyone_rexseek" / "models" / "weights" / model
    assert {"model.safetensors", "config.json", "README.md"} <= {p.name for p in folder.iterdir()}
    assert 1e6 < sum(p.stat().st_size for p in folder.rglob("*") if p.is_file()) <= limit_mb * 1e6


def test_manifests_are_in_the_package_and_name_what_exists():
    package = ROOT / "fiftyone_rexseek"
    models = json.loads((package / "zoo_models.json").read_text())["models"]
    assert {m["base_name"] for m in models} >= {"rexseek-3b", "rexseek-tiny", "rela-swin-base", "rela-swin-tiny", "rela-r50", "rela-tiny"}
    for places in json.loads((package / "zoo_datasets.json").read_text()).values():
        for where in places.values():
            module, _, name = where.rpartition(".")
            assert hasattr(importlib.import_module(module), name)


def test_requirements_of_the_downloaded_plugin_are_those_of_the_package():
    def key(r):
        return canonicalize_name(r.name), r.specifier

    lines = (ROOT / "requirements.txt").read_text().splitlines()
    stated = {key(Requirement(line)) for line in lines if line and not line.startswith("#")}
    needed = [Requirement(text) for text in requires("fiftyone-rexseek")]
    needed = [r for r in needed if r.marker is None or r.marker.evaluate({"extra": "models"})]
    assert stated == {key(r) for r in needed if r.name != "fiftyone"} and len(stated) > 10


def test_one_version_everywhere():
    plugin = yaml.safe_load((ROOT / "fiftyone.yml").read_text())
    assert plugin["version"] == fiftyone_rexseek.__version__
    assert plugin["name"] == setup.PLUGIN_NAME
    assert f'version = "{fiftyone_rexseek.__version__}"' in (ROOT / "pyproject.toml").read_text()
    assert f"## {fiftyone_rexseek.__version__}" in (ROOT / "CHANGELOG.md").read_text()

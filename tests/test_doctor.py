"""What ``fiftyone-rexseek doctor`` says about the plugin; it asks no database unless it may."""

import shutil
from pathlib import Path

import fiftyone as fo
import fiftyone.core.odm as foo
import plugin
import pytest
import yaml
from click.testing import CliRunner

from fiftyone_rexseek.commands.doctor import MISSING, OK, OPTIONAL, doctor, run_checks


@pytest.fixture
def plugins(tmp_path, monkeypatch):
    """An empty plugins folder, and a database that must not be asked."""
    monkeypatch.setattr(fo.config, "plugins_dir", str(tmp_path / "plugins"))

    def refuse(*args, **kwargs):
        raise AssertionError("the database was asked")

    for name in ("get_db_conn", "establish_db_conn"):
        monkeypatch.setattr(f"{foo.__name__}.database.{name}", refuse)
    return tmp_path / "plugins"


def check():
    return next(c for c in run_checks(database=False) if c.name == "operators")


def put(plugins: Path) -> Path:
    folder = plugins / plugin.NAME
    folder.mkdir(parents=True)
    shutil.copy(plugin.ROOT / "fiftyone.yml", folder)
    for part in ("operators", "assets"):
        shutil.copytree(plugin.ROOT / part, folder / part, ignore=shutil.ignore_patterns("__pycache__"))
    return folder


def test_every_operator_is_counted_without_a_database(plugins):
    (plugins / plugin.NAME).parent.mkdir(parents=True)
    (plugins / plugin.NAME).symlink_to(plugin.ROOT, target_is_directory=True)
    declared = yaml.safe_load((plugin.ROOT / "fiftyone.yml").read_text())
    result = CliRunner().invoke(doctor, ["--no-database", "--json"])
    [found] = [c for c in yaml.safe_load(result.output) if c["name"] == "operators"]
    assert found["state"] == OK, found
    assert found["found"] == f"{len(declared['operators'])} operators and {len(declared['panels'])} panels loaded"


def test_a_plugin_that_is_not_there_is_to_be_installed(plugins):
    found = check()
    assert found.state == OPTIONAL and str(plugins) in found.found and found.advice == "fiftyone-rexseek install"


def test_a_disabled_plugin_is_to_be_enabled(plugins, monkeypatch):
    put(plugins)
    monkeypatch.setattr("fiftyone.plugins.core._list_disabled_plugins", lambda: [plugin.NAME])
    found = check()
    assert found.state == OPTIONAL and f"enable {plugin.NAME}" in found.advice


def test_a_plugin_that_cannot_be_imported_is_missing(plugins):
    folder = put(plugins)
    (folder / "operators" / "__init__.py").write_text("import no_such_module\n")
    found = check()
    assert found.state == MISSING and "No module named 'no_such_module'" in found.found and "evaluate_referring" in found.found


def test_an_operator_that_is_not_registered_is_named(plugins):
    folder = put(plugins)
    manifest = yaml.safe_load((folder / "fiftyone.yml").read_text())
    manifest["operators"].append("think_harder")
    (folder / "fiftyone.yml").write_text(yaml.safe_dump(manifest))
    found = check()
    assert found.state == MISSING and "not think_harder" in found.found

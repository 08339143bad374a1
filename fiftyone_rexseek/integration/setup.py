"""Installing into FiftyOne and taking it out again: plugin, zoo models, zoo datasets, evaluation methods.

FiftyOne finds none of these in an installed package by itself. What is written:

* ``<plugins_dir>/@fiftyone-rexseek/rexseek``: the plugin, a link to the checkout or a copy out of the wheel
* ``<model_zoo_dir>/rexseek_zoo_source``: the zoo stubs
* ``config.json``: our manifest in ``dataset_zoo_manifest_paths``, and ``allow_legacy_orchestrators`` unless the user has decided
  about it: without it the App greys out *Schedule*, although ``fiftyone delegated launch`` would do what is queued
* ``evaluation_config.json``: our methods in ``detection_backends``

A receipt beside ``config.json`` says what the two files held before, so that :func:`uninstall` leaves them as they were.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fiftyone as fo
from fiftyone.core.config import locate_config, locate_evaluation_config

from ..errors import ConfigError
from .registration import DATASET_MANIFEST, evaluation_backends
from .zoo_registration import SOURCE_NAME

PLUGIN_NAME = "@fiftyone-rexseek/rexseek"
RECEIPT = "fiftyone_rexseek.json"
#: A file in a copied folder by which we know it again as ours.
MARKER = ".fiftyone-rexseek"
#: FiftyOne's setting behind the *Schedule* button of every form.
SCHEDULING = "allow_legacy_orchestrators"
_PARTS = ("fiftyone.yml", "requirements.txt", "operators", "assets", "zoo")


@dataclass(frozen=True)
class Places:
    """Where things go; everything FiftyOne lets the user move."""

    plugin: Path
    models: Path
    config: Path
    evaluation_config: Path

    @property
    def receipt(self) -> Path:
        return self.config.parent / RECEIPT

    @classmethod
    def of_fiftyone(cls) -> Places:
        """As FiftyOne is configured in this process (files and environment variables)."""
        return cls(
            plugin=Path(fo.config.plugins_dir) / PLUGIN_NAME,
            models=Path(fo.config.model_zoo_dir) / SOURCE_NAME,
            # not the constants of the same name: those ignore FIFTYONE_CONFIG_PATH
            config=Path(locate_config()),
            evaluation_config=Path(locate_evaluation_config()),
        )


def plugin_source() -> tuple[Path, bool]:
    """The folder that holds ``fiftyone.yml``, and whether it is a checkout (else: inside the wheel)."""
    package = Path(__file__).resolve().parent.parent
    if (package.parent / "fiftyone.yml").is_file() and (package.parent / "operators").is_dir():
        return package.parent, True
    packaged = package / "_plugin"
    if (packaged / "fiftyone.yml").is_file():
        return packaged, False
    raise ConfigError(
        "the plugin's files are not here", where=packaged, expected="fiftyone.yml", advice="Reinstall fiftyone-rexseek."
    )


def install(places: Places | None = None, link: bool | None = None, overwrite: bool = False) -> list[str]:
    """Registers everything with FiftyOne, for good; returns one line per thing done. Harmless when repeated.

    Args:
        places: where to; by default as FiftyOne is configured
        link: link the plugin instead of copying it; by default for a checkout
        overwrite: replace a folder of the plugin's name that we did not write

    Raises:
        ConfigError: a file that is not JSON, or a foreign folder in the way
    """
    places = places or Places.of_fiftyone()
    source, checkout = plugin_source()
    link = checkout if link is None else link
    # everything that can be wrong is found before anything is written
    config, evaluation = _read(places.config), _read(places.evaluation_config)
    for folder in (places.plugin, places.models):
        if _exists(folder) and not _is_ours(folder) and not overwrite:
            raise ConfigError(
                "something else is in the way", where=folder, advice="Remove it, or use --overwrite to replace it."
            )
    receipt = _read(places.receipt) or {
        "config": _before(places.config, config, "dataset_zoo_manifest_paths"),
        "evaluation_config": _before(places.evaluation_config, evaluation, "detection_backends"),
        "made_folders": _absent_folders(places),
    }
    if SCHEDULING not in config:
        config[SCHEDULING] = receipt["set_scheduling"] = True
    _write(places.receipt, receipt)
    done = [_put_plugin(source, places.plugin, link), _put_models(source / "zoo", places.models)]
    paths = [p for p in config.get("dataset_zoo_manifest_paths") or [] if not _is_our_manifest(p)]
    config["dataset_zoo_manifest_paths"] = [*paths, str(DATASET_MANIFEST)]
    _write(places.config, config)
    done.append(f"zoo datasets, scheduling: {places.config}")
    backends = dict(evaluation.get("detection_backends") or {})
    evaluation["detection_backends"] = {**backends, **evaluation_backends()}
    _write(places.evaluation_config, evaluation)
    done.append(f"evaluation methods: {places.evaluation_config}")
    return done


def uninstall(places: Places | None = None) -> list[str]:
    """Takes out what :func:`install` put in; returns one line per thing removed.

    The two config files hold the same JSON as before; what the user changed in the meantime stays.
    """
    places = places or Places.of_fiftyone()
    config, evaluation = _read(places.config), _read(places.evaluation_config)
    before: Mapping[str, Any] = _read(places.receipt)
    done = []
    for folder in (places.plugin, places.models):
        if _exists(folder) and _is_ours(folder):
            folder.unlink() if folder.is_symlink() else shutil.rmtree(folder)
            done.append(f"removed {folder}")
    if places.plugin.parent.is_dir() and not any(places.plugin.parent.iterdir()):
        places.plugin.parent.rmdir()

    def without_manifest(value):
        return [p for p in value or [] if not _is_our_manifest(p)]

    def without_backends(value):
        ours = evaluation_backends()
        return {k: v for k, v in (value or {}).items() if ours.get(k) != v}

    set_scheduling = bool(before.get("set_scheduling")) and config.pop(SCHEDULING, None) is not None
    for path, content, key, clean, name, changed in (
        (places.config, config, "dataset_zoo_manifest_paths", without_manifest, "config", set_scheduling),
        (places.evaluation_config, evaluation, "detection_backends", without_backends, "evaluation_config", False),
    ):
        if _restore(path, content, key, clean, before.get(name) or {}, changed):
            done.append(f"cleaned {path}")
    places.receipt.unlink(missing_ok=True)
    for folder in map(Path, before.get("made_folders") or ()):
        if folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()
    return done


def state(places: Places | None = None) -> dict[str, bool]:
    """Which parts are installed: plugin, models, datasets, methods, scheduling."""
    places = places or Places.of_fiftyone()
    try:
        config, evaluation = _read(places.config), _read(places.evaluation_config)
    except ConfigError:
        config = evaluation = {}
    backends = evaluation.get("detection_backends") or {}
    return {
        "plugin": (places.plugin / "fiftyone.yml").is_file(),
        "models": (places.models / "manifest.json").is_file(),
        "datasets": any(_is_our_manifest(p) for p in config.get("dataset_zoo_manifest_paths") or []),
        "scheduling": SCHEDULING in config,
        "methods": all(backends.get(k) == v for k, v in evaluation_backends().items()),
    }


def _absent_folders(places: Places) -> list[str]:
    """Folders that installing will make, the deepest first."""
    paths = (places.plugin, places.models, places.config, places.evaluation_config)
    absent = {folder for path in paths for folder in path.parents if not folder.exists()}
    return sorted(map(str, absent), key=len, reverse=True)


def _put_plugin(source: Path, target: Path, link: bool) -> str:
    _remove(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    if link:
        target.symlink_to(source, target_is_directory=True)
        return f"plugin: {target} -> {source}"
    target.mkdir()
    for name in _PARTS:
        path = source / name
        if path.is_dir():
            shutil.copytree(path, target / name, ignore=shutil.ignore_patterns("__pycache__"))
        elif path.is_file():
            shutil.copyfile(path, target / name)
    (target / MARKER).touch()
    return f"plugin: {target}"


def _put_models(source: Path, target: Path) -> str:
    _remove(target)
    target.mkdir(parents=True)
    for name in ("manifest.json", "__init__.py"):
        shutil.copyfile(source / name, target / name)
    (target / MARKER).touch()
    return f"zoo models: {target}"


def _exists(path: Path) -> bool:
    return path.exists() or path.is_symlink()


def _is_ours(folder: Path) -> bool:
    if folder.is_symlink():
        target = Path(os.readlink(folder))
        # a link that leads nowhere is a checkout that has been moved
        return not folder.exists() or (target / "fiftyone_rexseek").is_dir() or target.name == "_plugin"
    return (folder / MARKER).is_file()


def _remove(folder: Path) -> None:
    if folder.is_symlink():
        folder.unlink()
    elif folder.is_dir():
        # model files that FiftyOne keeps beside the manifest are small markers; weights lie elsewhere
        shutil.rmtree(folder)


def _is_our_manifest(path: str) -> bool:
    return Path(path).name == DATASET_MANIFEST.name and Path(path).parent.name == "fiftyone_rexseek"


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    text = path.read_text()
    try:
        content = json.loads(text) if text.strip() else {}
    except json.JSONDecodeError as e:
        raise ConfigError("FiftyOne's configuration is not JSON", where=path, found=e, advice="Mend the file.") from e
    if not isinstance(content, dict):
        raise ConfigError("FiftyOne's configuration is not a JSON object", where=path, found=type(content).__name__)
    return content


def _write(path: Path, content: Mapping[str, Any]) -> None:
    """Writes JSON; an interrupted write leaves the old file, an unchanged one is left alone."""
    if path.is_file() and path.read_text().strip() and _read(path) == content:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    part.write_text(json.dumps(content, indent=4) + "\n")
    os.replace(part, path)


def _before(path: Path, content: Mapping[str, Any], key: str) -> dict[str, Any]:
    return {"file": path.is_file(), "text": path.read_text() if path.is_file() else None, "key": key in content}


def _restore(
    path: Path, content: dict[str, Any], key: str, clean: Callable, before: Mapping[str, Any], changed: bool
) -> bool:
    """Puts a config file back, of which something else may have been ``changed``; returns whether that was needed."""
    value = clean(content.get(key))
    if key in content and value != content[key]:
        changed = True
        if value or before.get("key"):
            content[key] = value
        else:
            del content[key]
    if not changed:
        return False  # nothing of ours in it
    text = before.get("text")
    if text is not None and (json.loads(text) if text.strip() else {}) == content:
        path.write_text(text)  # to the byte
    elif not content and not before.get("file", True):
        path.unlink()
    else:
        _write(path, content)
    return True

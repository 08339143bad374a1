"""The demo: drawn scenes in both formats, answered by the packaged models, scored beside trivial answers and compared."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import fiftyone as fo

from ..datasets.humanref import read_humanref
from ..datasets.predictions import Prediction, write_predictions
from ..datasets.scenes import write_grefcoco, write_humanref
from ..errors import ConfigError
from ..metrics.baselines import baseline_choices
from ..models import registry
from . import presentation
from .apply import apply_expressions
from .comparison import compare_runs, save_pair_views
from .curation import disagreements
from .dataset_types import HumanRefDatasetImporter
from .evaluation import ReferringResults, evaluate_referring
from .failures import save_cause_views
from .grefcoco import GRefCOCODatasetImporter
from .predictions import import_predictions

DATASET = "rexseek-demo"
#: Field name -> (kind, number of boxes that "random" chooses).
BASELINES = {"all_candidates": ("all", 0), "none": ("none", 0), "random_2": ("random", 2)}
#: Packaged models asked in the demo, by the name of their field.
MODELS = {"rexseek_tiny": "rexseek-tiny", "rela_tiny": "rela-tiny"}
#: A file by which an earlier demo's scenes are known; other data in such a folder is never removed.
MARKER = ".rexseek-demo"
#: Refs per scene in gRefCOCO's format; each has one to three sentences.
REFS = 2
#: All of them; said outright, so that a few drawn scenes are not compared with the published set.
_ALL_SPLITS = ("train", "val", "testA", "testB")

Say = Callable[[str], None]


@dataclass(frozen=True)
class Demo:
    """What the demo made.

    Attributes:
        dataset: scenes in HumanRef's format
        runs: its evaluation runs, best first
        grefcoco: the same scenes in gRefCOCO's format
        grec, gres: its runs of boxes and of masks
    """

    dataset: fo.Dataset
    runs: tuple[ReferringResults, ...]
    grefcoco: fo.Dataset
    grec: tuple[ReferringResults, ...]
    gres: tuple[ReferringResults, ...]


def build(
    folder: Path,
    *,
    num_scenes: int = 200,
    seed: int = 7,
    name: str = DATASET,
    say: Say = lambda _: None,
    side_by_side: bool = True,
) -> Demo:
    """Draws, imports, answers, scores and compares; an earlier demo of the same name is replaced.

    Args:
        folder: where scenes and prediction files are written
        num_scenes, seed: of the drawing
        name: of the dataset in HumanRef's format; the other one is ``<name>-grefcoco``
        say: called with a line for a person before each step
        side_by_side: make the two datasets at the same time, gRefCOCO's in a process of its own
    """
    other = f"{name}-grefcoco"
    humanref, grefcoco = folder / "humanref", folder / "grefcoco"
    for scenes, dataset_name in ((humanref, name), (grefcoco, other)):
        _clear(scenes)
        if fo.dataset_exists(dataset_name):
            fo.delete_dataset(dataset_name)
    if not side_by_side:
        dataset, runs = _humanref(humanref, num_scenes, seed, name, say)
        return Demo(dataset, runs, *_grefcoco(grefcoco, num_scenes, seed, other, say))
    # The models' small steps keep one core busy, not two, and threads would wait for each other. A fork would share
    # the database's connections; a fresh interpreter does not.
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        say(f"in a second process: the same for {num_scenes} scenes in gRefCOCO's format: {grefcoco}")
        second = pool.submit(_grefcoco_keys, grefcoco, num_scenes, seed, other)
        dataset, runs = _humanref(humanref, num_scenes, seed, name, say)
        say("waiting for the second process")
        keys = second.result()
    in_other = fo.load_dataset(other)
    grec, gres = (tuple(map(in_other.load_evaluation_results, of_method)) for of_method in keys)
    return Demo(dataset, runs, in_other, grec, gres)


def _humanref(folder: Path, num_scenes: int, seed: int, name: str, say: Say):
    _load_models()
    say(f"drawing {num_scenes} scenes in HumanRef's format: {folder}")
    labels = write_humanref(folder, seed=seed, count=num_scenes, questions_per_scene=6)
    dataset = _import(name, HumanRefDatasetImporter(str(folder)), say)
    for field, (kind, k) in BASELINES.items():
        say(f"answering: {field}")
        path = folder.parent / f"{field}.jsonl"
        write_baseline(path, labels, kind, k)
        import_predictions(dataset, path, field, progress=False)
    models = _ask(dataset, say)
    runs = _score(dataset, [*BASELINES, *models], "humanref", "eval", say)
    runs.sort(key=lambda run: -run.summary["overall"]["density_f1_mean"])
    _save_views(dataset, runs, models)
    return dataset, tuple(runs)


def _grefcoco(folder: Path, num_scenes: int, seed: int, name: str, say: Say):
    _load_models()
    say(f"drawing {num_scenes} scenes in gRefCOCO's format: {folder}")
    write_grefcoco(folder, seed=seed, count=num_scenes, refs_per_scene=REFS)
    dataset = _import(name, GRefCOCODatasetImporter(str(folder), splits=_ALL_SPLITS), say)
    models = _ask(dataset, say)
    grec = _score(dataset, models, "grec", "grec", say)
    segmenters = [field for field in models if not registry.ENTRIES[MODELS[field]].needs_candidates]
    gres = _score(dataset, segmenters, "gres", "gres", say)
    _save_views(dataset, grec, models)
    return dataset, tuple(grec), tuple(gres)


def _grefcoco_keys(folder: Path, num_scenes: int, seed: int, name: str) -> tuple[list[str], list[str]]:
    """What another process hands back of :func:`_grefcoco`: the keys of its runs; the rest is in the database."""
    _, grec, gres = _grefcoco(folder, num_scenes, seed, name, lambda _: None)
    return [run.key for run in grec], [run.key for run in gres]


def _load_models() -> None:
    """Where torch is missing this says so before anything is drawn."""
    for model in MODELS.values():
        registry.load(model)


def _clear(folder: Path) -> None:
    """Makes an empty folder for scenes, in place of those of an earlier demo."""
    try:
        if folder.is_dir() and any(folder.iterdir()) and not (folder / MARKER).is_file():
            raise ConfigError("there is other data where the demo would draw", where=folder, advice="Use another --folder.")
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        (folder / MARKER).touch()
    except OSError as e:
        raise ConfigError("the demo cannot write here", where=folder, found=e, advice="Use another --folder.") from e


def _import(name: str, importer, say: Say) -> fo.Dataset:
    dataset = fo.Dataset(name, persistent=True)
    say(f"importing them as {name}")
    dataset.add_importer(importer, progress=False)
    return dataset


def write_baseline(path: Path, labels: Path, kind: str, k: int) -> None:
    """Writes a baseline's answers to HumanRef annotations as an official prediction file."""
    examples = list(read_humanref(labels, check_masks=False))
    chosen = baseline_choices([len(e.candidates) for e in examples], kind, k=k)
    rows = (
        Prediction(e.expression_id, [list(e.candidates[i].box_xyxy) for i in indices])
        for e, indices in zip(examples, chosen)
    )
    write_predictions(path, rows)


def _ask(dataset: fo.Dataset, say: Say) -> list[str]:
    """Lets the packaged models answer; returns the fields written."""
    for field, model in MODELS.items():
        say(f"answering: {model}")
        candidates = "candidates" if registry.ENTRIES[model].needs_candidates else None
        apply_expressions(dataset, model, field, "field:expression", candidates, progress=False)
    return list(MODELS)


def _score(dataset: fo.Dataset, fields: Sequence[str], method: str, prefix: str, say: Say) -> list[ReferringResults]:
    runs = []
    for field in fields:
        say(f"scoring ({method}): {field}")
        runs.append(evaluate_referring(dataset, field, eval_key=f"{prefix}_{field}", method=method))
    return runs


def _save_views(dataset: fo.Dataset, runs: Sequence[ReferringResults], models: Sequence[str]) -> None:
    """Views of failures by cause, of the worst answers, and of where the models part; the grid shows the first model."""
    for run in runs:
        presentation.save_worst_first(dataset, run.key, f"{run.key}_score")
    asked = [run.key for run in runs if run.config.pred_field in models]
    for key in asked:
        save_cause_views(dataset, key)
    if len(asked) > 1:
        save_pair_views(dataset, compare_runs(dataset, asked))
        dataset.save_view("models disagree", disagreements(dataset, models, limit=len(dataset)))
    presentation.show(dataset, ["ground_truth", *models[:1]])

"""The demo: drawn scenes go through the ordinary importer, trivial answers and small models are scored, views are saved."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import fiftyone as fo

from ..datasets.humanref import read_humanref
from ..datasets.predictions import Prediction, write_predictions
from ..datasets.scenes import write_humanref
from ..metrics.baselines import baseline_choices
from ..models.registry import ENTRIES
from . import presentation
from .dataset_types import HumanRefDatasetImporter
from .evaluation import ReferringResults, evaluate_referring
from .predictions import import_predictions

DATASET = "rexseek-demo"
#: Field name -> (kind, number of boxes that "random" chooses).
BASELINES = {"all_candidates": ("all", 0), "none": ("none", 0), "random_2": ("random", 2)}
#: Packaged models asked in the demo, by the name of their field.
MODELS = {"rexseek_tiny": "rexseek-tiny", "rela_tiny": "rela-tiny"}


@dataclass(frozen=True)
class Demo:
    """What the demo made: the dataset and the runs, best first."""

    dataset: fo.Dataset
    runs: tuple[ReferringResults, ...]


def build(
    folder: Path, *, num_scenes: int = 200, seed: int = 7, name: str = DATASET, say: Callable[[str], None] = lambda _: None
) -> Demo:
    """Draws, imports, answers and scores; an earlier demo of the same name is replaced.

    Args:
        folder: where scenes and prediction files are written
        num_scenes, seed: of the drawing
        name: of the dataset
        say: called with a line for a person before each step
    """
    scenes = folder / "scenes"
    shutil.rmtree(scenes, ignore_errors=True)
    say(f"drawing {num_scenes} scenes in {scenes}")
    labels = write_humanref(scenes, seed=seed, count=num_scenes, questions_per_scene=6)
    if fo.dataset_exists(name):
        fo.delete_dataset(name)
    dataset = fo.Dataset(name, persistent=True)
    say("importing them as a HumanRef dataset")
    dataset.add_importer(HumanRefDatasetImporter(str(scenes)), progress=False)
    for field, (kind, k) in BASELINES.items():
        say(f"answering: {field}")
        path = folder / f"{field}.jsonl"
        write_baseline(path, labels, kind, k)
        import_predictions(dataset, path, field, progress=False)
    fields = [*BASELINES, *_ask_models(dataset, say)]
    runs = []
    for field in fields:
        say(f"scoring: {field}")
        runs.append(evaluate_referring(dataset, field, eval_key=f"eval_{field}", method="humanref"))
    runs.sort(key=lambda run: -run.summary["overall"]["density_f1_mean"])
    for run in runs:
        presentation.save_worst_first(dataset, run.key, f"{run.key}_score")
    return Demo(dataset, tuple(runs))


def write_baseline(path: Path, labels: Path, kind: str, k: int) -> None:
    """Writes a baseline's answers to HumanRef annotations as an official prediction file."""
    examples = list(read_humanref(labels, check_masks=False))
    chosen = baseline_choices([len(e.candidates) for e in examples], kind, k=k)
    rows = (
        Prediction(e.expression_id, [list(e.candidates[i].box_xyxy) for i in indices])
        for e, indices in zip(examples, chosen)
    )
    write_predictions(path, rows)


def _ask_models(dataset: fo.Dataset, say) -> list[str]:
    """Lets the packaged models answer, where their weights are there; returns the fields written."""
    fields = []
    for field, model in MODELS.items():
        entry = ENTRIES.get(model)
        if entry is None or not entry.packaged or not entry.packaged_folder.is_dir():
            continue
        from .apply import apply_expressions

        say(f"answering: {model}")
        candidates = "candidates" if entry.needs_candidates else None
        apply_expressions(dataset, model, field, "field:expression", candidates, progress=False)
        fields.append(field)
    return fields

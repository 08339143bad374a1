"""Evaluating 6,000 samples with all fields, against FiftyOne's own COCO evaluation of the same labels."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import fiftyone as fo

from fiftyone_rexseek.datasets.humanref import read_humanref
from fiftyone_rexseek.datasets.predictions import Prediction, write_predictions
from fiftyone_rexseek.integration.dataset_types import HumanRefDatasetImporter
from fiftyone_rexseek.integration.evaluation import evaluate_referring
from fiftyone_rexseek.integration.predictions import import_predictions

from .bench_import import write_folder
from .harness import Result


def predicted(folder: Path) -> Path:
    """Answers of a middling model: every second candidate."""
    path = folder / "model.jsonl"
    examples = read_humanref(folder / "annotations.jsonl")
    rows = (Prediction(e.expression_id, [list(c.box_xyxy) for c in e.candidates[::2]]) for e in examples)
    write_predictions(path, rows)
    return path


def run(quick: bool = False) -> list[Result]:
    """Wall time of both on 6,000 samples (600 when quick)."""
    count = 600 if quick else 6000
    with tempfile.TemporaryDirectory() as tmp:
        folder = write_folder(Path(tmp) / "a", count)
        dataset = fo.Dataset()
        dataset.add_importer(HumanRefDatasetImporter(str(folder), mask_storage="none"), progress=False)
        import_predictions(dataset, predicted(folder), "model", progress=False)
        start = time.perf_counter()
        evaluate_referring(dataset, "model", eval_key="ours", method="humanref")
        fast = time.perf_counter() - start
        start = time.perf_counter()
        # what the importer calls "person" the prediction file calls nothing: labels must not matter to the peer either
        dataset.evaluate_detections("model", method="coco", eval_key="coco", classwise=False, progress=False)
        slow = time.perf_counter() - start
        fields = [name for name in dataset.get_field_schema() if name.startswith("ours_")]
        dataset.delete()
    note = f"{count} samples, {len(fields)} sample fields and 6 attributes per object, trivial answers included"
    peer = "evaluate_detections(method='coco', eval_key=...)"
    return [Result("evaluate_referring, humanref", fast, "s", peer, slow / fast, 5.0, note)]

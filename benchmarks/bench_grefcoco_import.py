"""Importing gRefCOCO into FiftyOne, against ``add_samples`` of the same labels; the whole release on demand."""

from __future__ import annotations

import os
import resource
import tempfile
import time
from collections.abc import Iterator

import fiftyone as fo

from fiftyone_rexseek import masks
from fiftyone_rexseek.datasets.grefcoco import read_grefcoco
from fiftyone_rexseek.geometry import to_relative
from fiftyone_rexseek.integration.grefcoco import GRefCOCODatasetImporter
from fiftyone_rexseek.integration.importers import plain_segmentation
from fiftyone_rexseek.integration.presentation import targets_in_words
from fiftyone_rexseek.referring import ReferringExample, Target

from .harness import Result
from .synthetic_grefcoco import EXPRESSIONS, generate

#: Set to 1 to import all 259,859 expressions as well (minutes).
FULL_SIZE = "REXSEEK_BENCH_FULL"


def run(quick: bool = False) -> list[Result]:
    """Rates on 10,000 expressions (1,000 when quick); time and memory of the full size when REXSEEK_BENCH_FULL=1."""
    results = [_rates(1_000 if quick else 10_000)]
    if os.environ.get(FULL_SIZE) == "1" and not quick:
        results += full_size(EXPRESSIONS)
    return results


def import_ours(folder: str) -> fo.Dataset:
    """Our importer, from the files to the finished dataset."""
    dataset = fo.Dataset()
    dataset.add_importer(GRefCOCODatasetImporter(folder), progress=False)
    return dataset


def _rates(count: int) -> Result:
    fo.list_datasets()  # starts the database, which belongs to neither rate
    with tempfile.TemporaryDirectory() as folder:
        generate(folder, count)
        start = time.perf_counter()
        ours = import_ours(folder)
        fast = time.perf_counter() - start
        theirs = fo.Dataset()
        start = time.perf_counter()
        theirs.add_samples(_samples(folder), progress=False)
        slow = time.perf_counter() - start
        same = all(ours.count(p) == theirs.count(p) for p in ("ground_truth.detections", "candidates.detections"))
        if not same or len(ours) != len(theirs):
            raise RuntimeError("both datasets must hold the same labels")
        ours.delete()
        theirs.delete()
    note = f"{count} expressions, masks and candidates, from the files to the dataset; {count / fast:.0f} samples/s"
    return Result("import gRefCOCO", fast, "s", "read, build and add_samples of the same labels", slow / fast, 8, note)


def _samples(folder: str) -> Iterator[fo.Sample]:
    for e in read_grefcoco(folder):
        yield fo.Sample(
            filepath=f"{folder}/images/{e.file_name}",
            tags=[e.split],
            metadata=fo.ImageMetadata(width=e.width, height=e.height),
            image_id=e.image_id,
            expression_id=e.expression_id,
            expression=e.expression,
            num_targets=e.num_targets,
            target_summary=targets_in_words(e.num_targets),
            ground_truth=_labels(e, e.targets, True),
            candidates=_labels(e, e.candidates, False),
        )


def _labels(e: ReferringExample, targets: tuple[Target, ...], with_masks: bool) -> fo.Detections:
    detections = []
    for target in targets:
        more = {"box_xyxy": list(target.box_xyxy), "object_id": target.object_id, "area": target.area}
        if with_masks:
            rle = masks.compress(target.segmentation, e.height, e.width)
            more["mask"] = masks.crop_to_box(masks.decode(rle), target.box_xyxy)
            more["segmentation"] = plain_segmentation(target.segmentation)
        [box] = to_relative([target.box_xyxy], e.width, e.height).tolist()
        detections.append(fo.Detection(label=target.label, bounding_box=box, **more))
    return fo.Detections(detections=detections)


def full_size(count: int) -> list[Result]:
    """Wall time of the whole import, and the peak memory of this process (the database's own is not counted)."""
    with tempfile.TemporaryDirectory() as folder:
        generate(folder, count)
        start = time.perf_counter()
        dataset = import_ours(folder)
        seconds = time.perf_counter() - start
        found = len(dataset)
        dataset.delete()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    note = f"{found} expressions, {found / seconds:.0f} samples/s"
    return [
        Result("import gRefCOCO, full size", seconds / 60, "minutes", target=10, note=note, lower_is_better=True),
        Result("import gRefCOCO, peak memory", peak, "GB", target=3, note=note, lower_is_better=True),
    ]

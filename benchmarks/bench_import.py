"""Importing HumanRef into FiftyOne, against ``add_samples`` of the same labels."""

from __future__ import annotations

import json
import tempfile
import time
import tracemalloc
from pathlib import Path

import fiftyone as fo
from PIL import Image

from fiftyone_rexseek import masks
from fiftyone_rexseek.datasets.humanref import read_humanref
from fiftyone_rexseek.integration.dataset_types import HumanRefDatasetImporter
from fiftyone_rexseek.integration.importers import plain_segmentation
from fiftyone_rexseek.integration.presentation import targets_in_words
from fiftyone_rexseek.referring import ReferringExample, Target

from .bench_humanref import rows
from .harness import Result

SIDE = 1000


def write_folder(folder: Path, count: int) -> Path:
    """A HumanRef folder of ``count`` rows, six to an image; the images are blank."""
    (folder / "images").mkdir(parents=True)
    with (folder / "annotations.jsonl").open("w") as f:
        for i, row in enumerate(rows(count)):
            row["image_name"] = f"{i // 6}.png"
            f.write(json.dumps(row) + "\n")
    blank = folder / "images" / "0.png"
    Image.new("1", (SIDE, SIDE)).save(blank)
    for i in range(1, (count + 5) // 6):
        (folder / "images" / f"{i}.png").write_bytes(blank.read_bytes())
    return folder


def import_fast(folder: Path) -> fo.Dataset:
    """Our importer, from the file to the finished dataset: reading, checks, masks, indexes, saved views."""
    dataset = fo.Dataset()
    dataset.add_importer(HumanRefDatasetImporter(str(folder)), progress=False)
    return dataset


def labels(targets: tuple[Target, ...]) -> fo.Detections:
    """The labels that our importer makes, as FiftyOne's objects."""
    detections = []
    for target in targets:
        x1, y1, x2, y2 = target.box_xyxy
        more = {"box_xyxy": list(target.box_xyxy)}
        if target.segmentation is not None:
            rle = masks.compress(target.segmentation, SIDE, SIDE)
            more["mask"] = masks.crop_to_box(masks.decode(rle), target.box_xyxy)
            more["segmentation"] = plain_segmentation(target.segmentation)
        box = [x1 / SIDE, y1 / SIDE, (x2 - x1) / SIDE, (y2 - y1) / SIDE]
        detections.append(fo.Detection(label=target.label, bounding_box=box, **more))
    return fo.Detections(detections=detections)


def sample(example: ReferringExample, folder: Path) -> fo.Sample:
    """The sample that our importer makes."""
    return fo.Sample(
        filepath=str(folder / "images" / example.file_name),
        metadata=fo.ImageMetadata(width=SIDE, height=SIDE),
        image_id=example.image_id,
        expression_id=example.expression_id,
        expression=example.expression,
        domain=example.domain,
        sub_domain=example.sub_domain,
        num_targets=example.num_targets,
        target_summary=targets_in_words(example.num_targets),
        ground_truth=labels(example.targets),
        candidates=labels(example.candidates),
    )


def peak_mb(folder: Path) -> float:
    """Peak of Python's memory while importing, MB."""
    tracemalloc.start()
    import_fast(folder).delete()
    peak = tracemalloc.get_traced_memory()[1] / 2**20
    tracemalloc.stop()
    return peak


def run(quick: bool = False) -> list[Result]:
    """Rates at 6,000 rows (600 when quick), and the memory of files of two sizes."""
    count = 600 if quick else 6000
    results = []
    with tempfile.TemporaryDirectory() as tmp:
        # the first dataset of a process starts the database service, which is nobody's speed
        import_fast(write_folder(Path(tmp) / "warm", 12)).delete()
        folder = write_folder(Path(tmp) / "a", count)
        start = time.perf_counter()
        ours = import_fast(folder)
        fast = time.perf_counter() - start

        start = time.perf_counter()
        samples = [sample(e, folder) for e in read_humanref(folder / "annotations.jsonl")]
        built = time.perf_counter() - start
        theirs = fo.Dataset()
        start = time.perf_counter()
        theirs.add_samples(samples, progress=False)
        slow = time.perf_counter() - start
        same = ours.count("ground_truth.detections") == theirs.count("ground_truth.detections")
        assert same and len(ours) == len(theirs) == count, "both must hold the same labels"
        ours.delete()
        theirs.delete()
        del samples
        note = f"{count} rows with masks, from the file to the finished dataset, {count / fast:.0f} samples/s"
        results.append(Result("import HumanRef", fast, "s", "add_samples of samples built before", slow / fast, 5.0, note))
        whole = "read, build and add_samples"
        results.append(Result("import HumanRef, all told", fast, "s", whole, (built + slow) / fast, None, note))

        # both longer than the batch of 1,000 that the importer holds
        sizes = (1200, 2400) if quick else (1200, 6000)
        small, large = (write_folder(Path(tmp) / f"m{n}", n) for n in sizes)
        before, after = peak_mb(small), peak_mb(large)
        note = f"peak for {sizes[1]} rows ({after:.0f} MB) over peak for {sizes[0]} rows ({before:.0f} MB)"
        results.append(Result("import memory growth", after / before, "x", target=1.5, note=note, lower_is_better=True))
    return results

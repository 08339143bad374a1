"""Batches from people's own data: referring examples with the files of their images.

Sources give pairs ``(ReferringExample, path of the image)``; everything known about one image comes together in an
:class:`ImageRecord`, and an :class:`ExampleStream` makes batches of them for the loop.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image

from ..errors import ConfigError, DataError, ProblemLog
from ..geometry import box_problem, pairwise_iou
from ..metrics.target_masks import rasterise
from ..models.images import DECODE_ERRORS, open_image
from ..models.rexseek import RexSeekProcessor
from ..models.rexseek.requests import MAX_EXPRESSION_TOKENS
from ..referring import ReferringExample, Target
from .packing import AskedImage, PackedBatch, collate, question_ids, suffix_of

FORMATS = ("humanref", "grefcoco", "scenes")


@dataclass
class ImageRecord:
    """One image with what is asked about it.

    Attributes:
        path: of the image
        boxes_xyxy: float (n, 4), absolute pixels: the candidates
        questions: (expression, indices of the boxes meant)
    """

    path: str
    boxes_xyxy: np.ndarray
    questions: list[tuple[str, tuple[int, ...]]] = field(default_factory=list)


def read_examples(
    source: str | Path, kind: str, images: str | Path | None, log: ProblemLog | None = None, split: str | None = None
) -> Iterator[tuple[ReferringExample, str]]:
    """Examples of a benchmark's files with the paths of their images.

    Args:
        source: HumanRef's ``annotations.jsonl`` (also what drawn scenes are written as), or gRefCOCO's refs file or folder
        kind: one of :data:`FORMATS`
        images: folder of the images; by default ``images`` beside the source
        split: of gRefCOCO; by default ``train``
    """
    if kind not in FORMATS:
        raise ConfigError("unknown format", expected=f"one of {FORMATS}", found=kind)
    source = Path(source)
    if not source.exists():
        raise DataError("there is no such file or folder", where=source)
    if kind == "grefcoco":
        from ..datasets.grefcoco import read_grefcoco

        examples = read_grefcoco(source, splits=[split or "train"], problems=log)
    else:
        from ..datasets.humanref import read_humanref

        source = source / "annotations.jsonl" if source.is_dir() else source
        examples = read_humanref(source, log)
    folder = Path(images) if images is not None else (source if source.is_dir() else source.parent) / "images"
    if not folder.is_dir():
        raise DataError("there is no folder of images", where=folder, advice="Say where they are (--images).")
    for example in examples:
        yield example, str(folder / example.file_name)


def in_file_pixels(
    pairs: Iterable[tuple[ReferringExample, str]], log: ProblemLog
) -> Iterator[tuple[ReferringExample, str]]:
    """The pairs with boxes and masks in the pixels of the files, which may be smaller copies of the images that were annotated.

    An example whose file has another shape than its annotations say (a crop, a turned image) is reported and left out.
    """
    sizes: dict[str, tuple[int, int] | None] = {}
    for example, path in pairs:
        stated = (example.width, example.height)
        if path not in sizes:
            sizes[path] = _upright_size(path)
        size = sizes[path]
        if size is None or not all(stated) or stated == size:  # what cannot be opened is reported where it is opened
            yield example, path
            continue
        where = f"{path}: {example.expression!r}"
        if abs(stated[0] * size[1] - stated[1] * size[0]) > max(stated):  # more than rounding to whole pixels does
            log.add("image-size", where, "the file has another shape than the annotated image", stated, size)
            continue
        try:
            yield _resized(example, size), path
        except DataError as error:
            log.add("bad-example", where, str(error))


def _upright_size(path: str) -> tuple[int, int] | None:
    """Width and height of an image as :func:`open_image` gives it, from the head of the file; None: no image."""
    try:
        with Image.open(path) as image:
            exif = Image.Image.getexif(image)  # PNG's own would decode the whole image
            turned = exif.get(0x0112) in (5, 6, 7, 8)  # orientations that swap width and height
            return image.size[::-1] if turned else image.size
    except DECODE_ERRORS:
        return None


def _resized(example: ReferringExample, size: tuple[int, int]) -> ReferringExample:
    width, height = size
    scale = (width / example.width, height / example.height) * 2

    def resized(target: Target) -> Target:
        box = tuple(value * by for value, by in zip(target.box_xyxy, scale))
        mask = target.segmentation and rasterise(target.segmentation, example.width, example.height, (height, width))
        return replace(target, box_xyxy=box, segmentation=mask)

    targets, candidates = (tuple(map(resized, part)) for part in (example.targets, example.candidates))
    return replace(example, targets=targets, candidates=candidates, width=width, height=height)


def group_by_image(
    pairs: Iterable[tuple[ReferringExample, str]], log: ProblemLog | None = None, max_boxes: int = 100
) -> list[ImageRecord]:
    """One record per image and set of candidates.

    Where an example has no candidates, all targets known in its image serve. Targets are found among the candidates
    by overlap; one that is not there is added. An example without any box, or with a target whose box has no area, is
    reported and left out.
    """
    log = log if log is not None else ProblemLog()
    together: dict[str, list[ReferringExample]] = {}
    for example, path in pairs:
        problem = next(filter(None, (box_problem(t.box_xyxy) for t in example.targets)), None)
        if problem:  # it would overlap with no candidate
            log.add("bad-box", f"{path}: {example.expression!r}", f"the box of a target {problem}")
        else:
            together.setdefault(path, []).append(example)
    records = []
    for path, examples in together.items():
        known: list[tuple[float, ...]] = []
        for example in examples:
            for target in (*example.candidates, *example.targets):
                if box_problem(target.box_xyxy):
                    continue
                if not known or pairwise_iou([target.box_xyxy], known).max() < 0.9:
                    known.append(tuple(map(float, target.box_xyxy)))
        if not known or len(known) > max_boxes:
            what = "no boxes to choose from" if not known else f"more than {max_boxes} boxes"
            for example in examples:
                log.add("boxes", f"{path}: {example.expression!r}", what)
            continue
        boxes = np.array(known, dtype=np.float64)
        record = ImageRecord(path, boxes)
        for example in examples:
            if not example.expression.strip():
                log.add("empty-expression", path, "an example has no text")
                continue
            meant = {int(pairwise_iou([t.box_xyxy], boxes)[0].argmax()) for t in example.targets}
            record.questions.append((example.expression, tuple(sorted(meant))))
        if record.questions:
            records.append(record)
    return records


def usable(records: Iterable[ImageRecord], processor: RexSeekProcessor, log: ProblemLog) -> list[ImageRecord]:
    """The records whose image is there, with the questions that are short enough; what is left out is reported.

    What is longer than the model reads when it is asked would fill the memory of the whole batch.
    """
    kept = []
    for record in records:
        if not Path(record.path).is_file():
            log.add("bad-image", record.path, "image file does not exist")
            continue
        questions = [q for q in record.questions if not _too_long(processor, record, q[0], log)]
        if questions:
            kept.append(ImageRecord(record.path, record.boxes_xyxy, questions))
    return kept


def readable(path: str, log: ProblemLog) -> bool:
    """Whether an image can be read; reports it if not."""
    try:
        open_image(path)
    except DataError as error:
        log.add("bad-image", path, error.what)
        return False
    return True


def _too_long(processor: RexSeekProcessor, record: ImageRecord, text: str, log: ProblemLog) -> bool:
    if len(text) <= MAX_EXPRESSION_TOKENS // 4:  # a character is at most four (byte) tokens
        return False
    length = len(processor.encode(processor.neutralised(text.strip())))
    if length > MAX_EXPRESSION_TOKENS:
        where = f"{record.path}: {text[:40]!r}..."
        log.add("long-expression", where, "the expression is too long", f"at most {MAX_EXPRESSION_TOKENS} tokens", length)
    return length > MAX_EXPRESSION_TOKENS


class ExampleStream:
    """``batch_at`` of the loop for image records; a pure function of (records, seed, number).

    Candidates come in random order and slightly moved; up to ``distractors`` boxes that are nobody's are added. A
    record whose image cannot be read is reported once and replaced by the next one that can.

    Args:
        records: see :func:`group_by_image`
        processor: of the model
        end_id: the token that ends an answer
        images, questions: per batch, and per image
        distractors: most boxes added
        jitter: largest move of an edge, as a share of the box's side
        cache: how many prepared images to keep in memory
        log: where images that cannot be read are reported
    """

    def __init__(
        self,
        records: Sequence[ImageRecord],
        processor: RexSeekProcessor,
        end_id: int,
        images: int = 4,
        questions: int = 8,
        seed: int = 0,
        distractors: int = 4,
        jitter: float = 0.03,
        cache: int = 256,
        log: ProblemLog | None = None,
    ):
        if not records:
            raise DataError("there is nothing to train on", expected="at least one image with an expression")
        self.records, self.processor, self.end_id = list(records), processor, end_id
        self.images, self.questions, self.seed = images, questions, seed
        self.distractors, self.jitter = distractors, jitter
        self.log = log if log is not None else ProblemLog()
        self._unreadable: dict[int, DataError] = {}
        self._load = lru_cache(maxsize=cache)(self._load_uncached)

    def _load_uncached(self, index: int):
        image = open_image(self.records[index].path)
        return image.size, self.processor.pixels(image)

    def __call__(self, number: int) -> PackedBatch:
        rng = random.Random(f"examples/{self.seed}/{number}")
        order = list(range(len(self.records)))
        images: list[AskedImage] = []
        while len(images) < self.images:
            index = self._readable_from(rng.choice(order))
            images.append(self._image(index, rng))
        return collate(self.processor, images)

    def _readable_from(self, first: int) -> int:
        """The first record from this one on whose image can be read."""
        for index in (*range(first, len(self.records)), *range(first)):
            if index in self._unreadable:
                continue
            try:
                self._load(index)
                return index
            except DataError as error:
                self._unreadable[index] = error
                self.log.add("bad-image", self.records[index].path, error.what)
        raise DataError("none of the images could be read", found=self._unreadable[first])

    def _image(self, index: int, rng: random.Random) -> AskedImage:
        record = self.records[index]
        size, pixels = self._load(index)
        boxes = record.boxes_xyxy
        sides = np.concatenate([boxes[:, 2:] - boxes[:, :2]] * 2, 1)
        noise = np.random.default_rng(rng.getrandbits(63)).uniform(-self.jitter, self.jitter, boxes.shape)
        room = max(0, self.processor.config.num_object_tokens - len(boxes))
        extra = random_boxes(rng, size, boxes, rng.randint(0, min(self.distractors, room)))
        rows = [*(boxes + noise * sides).tolist(), *extra]
        order = list(range(len(rows)))
        rng.shuffle(order)
        slot = {member: s for s, member in enumerate(order)}
        asked = rng.sample(record.questions, min(self.questions, len(record.questions)))
        prompts = question_ids(self.processor, [text for text, _ in asked])
        suffixes = [
            suffix_of(
                self.processor,
                prompt,
                self.processor.encode(self.processor.neutralised(text.strip())),
                [slot[t] for t in targets],
                self.end_id,
            )
            for prompt, (text, targets) in zip(prompts, asked)
        ]
        shuffled = self.processor.boxes([rows[i] for i in order], size)
        return AskedImage(pixels, shuffled, suffixes)


def random_boxes(rng: random.Random, size_wh: tuple[int, int], boxes: np.ndarray, count: int) -> list[list[float]]:
    """Up to ``count`` boxes of background that overlap the given ones little (IoU below 0.3)."""
    width, height = size_wh
    found: list[list[float]] = []
    for _ in range(10 * count):
        if len(found) == count:
            break
        w, h = rng.uniform(0.06, 0.35) * width, rng.uniform(0.06, 0.45) * height
        x, y = rng.uniform(0, width - w), rng.uniform(0, height - h)
        box = [x, y, x + w, y + h]
        if pairwise_iou([box], boxes).max(initial=0.0) < 0.3:
            found.append(box)
    return found


class MixedStream:
    """Takes batches from several streams in turn, in proportion to their shares (rehearsal beside new data)."""

    def __init__(self, streams: Sequence, shares: Sequence[float], seed: int = 0):
        self.streams, self.shares, self.seed = list(streams), list(shares), seed

    def __call__(self, number: int):
        rng = random.Random(f"mix/{self.seed}/{number}")
        return rng.choices(self.streams, self.shares)[0](number)


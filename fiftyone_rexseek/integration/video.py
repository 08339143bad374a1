"""Referring segmentation of videos, frame by frame: a first step.

Every frame is asked on its own. Nothing links the frames: no tracking, no memory, no smoothing over time; that is left for
later. The scores (J, F, J&F) are those of the DAVIS protocol, :mod:`fiftyone_rexseek.metrics.video`.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import fiftyone as fo
import fiftyone.core.media as fom
import numpy as np
from PIL import Image

from ..errors import ConfigError, DataError, MissingDependencyError
from ..metrics.video import VideoScore, mean_score, score_object
from ..models import registry
from ..models.answering import Question, ask, batches, expression_problem
from ..models.images import open_image
from ..referring import Outcome, Selection
from .apply_plan import check_output, resolve_expressions
from .selections import OUTCOME, merged_mask, to_detections

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class VideoSummary:
    """What :func:`apply_to_video` did: videos and frames asked, outcomes of the frames, videos that could not be read."""

    num_videos: int
    num_frames: int
    outcomes: dict[str, int]
    unreadable: dict[str, str] = field(default_factory=dict)


def read_frames(path: str, step: int = 1) -> Iterator[tuple[int, Image.Image]]:
    """(frame number from 1, RGB image) of every ``step``-th frame, decoded one at a time.

    Raises:
        DataError: the video cannot be opened or holds no frame
    """
    try:
        import cv2
    except ImportError as e:
        raise MissingDependencyError("videos need OpenCV", advice="pip install opencv-python-headless") from e
    video = cv2.VideoCapture(path)
    number = 0
    try:
        while True:
            good, frame = video.read() if (number % step == 0) else (video.grab(), None)
            if not good:
                break
            number += 1
            if frame is not None:
                yield number, Image.fromarray(np.ascontiguousarray(frame[..., ::-1]))
    finally:
        video.release()
    if not number:
        raise DataError("video cannot be read, or holds no frame", where=path)


def _frames(sample, step: int) -> Iterator[tuple[int, Image.Image]]:
    """Frames that have been extracted to files, else those of the video file."""
    files = {}
    if "filepath" in sample._dataset.get_frame_field_schema():
        files = {n: f.filepath for n, f in sample.frames.items() if f.filepath}
    if not files:
        yield from read_frames(sample.filepath, step)
        return
    for n in sorted(files):
        if (n - 1) % step == 0:
            yield n, open_image(files[n])


def apply_to_video(
    samples,
    model,
    label_field: str,
    expressions: str | list[str] = "expression",
    *,
    frame_step: int = 1,
    batch_size: int = 8,
    label: str | None = None,
    overwrite: bool = False,
    progress: Any = None,
    weights: Any = None,
    device: str | None = None,
    dtype: Any = None,
) -> VideoSummary:
    """Asks a segmenter one expression about every frame of each video.

    Writes ``frames.<label_field>`` (Detections with masks; empty = nothing matches in this frame; None = no answer) and
    ``frames.<label_field>_outcome``. A video that cannot be read does not stop the others.

    Args:
        samples: dataset or view of videos, one sample per (video, expression) pair
        model: zoo name, model of ``foz.load_zoo_model``, or ``ReLA``
        expressions: one text, or the name of a field, as for :func:`apply_expressions`
        frame_step: every so many frames, starting with the first
        batch_size: frames given to the model at once

    Raises:
        ConfigError: samples, fields or options that make no sense - before weights load
    """
    if samples.media_type != fom.VIDEO:
        raise ConfigError("these are no videos", expected="a dataset or view of video samples", found=samples.media_type)
    if frame_step < 1 or batch_size < 1:
        raise ConfigError("frame_step and batch_size are counts", expected="1 or more", found=(frame_step, batch_size))
    asked = resolve_expressions(samples, expressions)
    if asked.several:
        raise ConfigError("one expression per video", expected="a text or a field of texts", found=expressions)
    check_output(samples, label_field, True)
    schema = samples.get_frame_field_schema()
    if label_field in schema and label_field + OUTCOME not in schema and not overwrite:
        raise ConfigError(
            f"field 'frames.{label_field}' holds labels that no model answered", advice="Choose another label_field, or overwrite=True"
        )
    if isinstance(model, str):
        if registry.entry(model).needs_candidates:
            raise ConfigError("videos need a model that segments", expected="one of the rela models", found=model)
        model = registry.load(model, weights, device=device, dtype=dtype)
    model = getattr(model, "selector", model)
    if not hasattr(model, "segment_batch"):
        raise ConfigError("videos need a model that segments", expected="a ReLA", found=type(model).__name__)
    dataset = samples._dataset
    dataset.add_frame_field(label_field, fo.EmbeddedDocumentField, embedded_doc_type=fo.Detections)
    dataset.add_frame_field(label_field + OUTCOME, fo.StringField)

    outcomes: Counter[str] = Counter()
    unreadable: dict[str, str] = {}
    videos = 0
    for sample in samples.iter_samples(progress=progress, autosave=True):
        text = asked.texts[0] if asked.texts else sample[asked.field]
        videos += 1
        try:
            for batch in batches(_frames(sample, frame_step), batch_size):
                for (number, image), selection in zip(batch, _answer(model, batch, text)):
                    outcomes[selection.outcome.value] += 1
                    frame = sample.frames[number]
                    frame[label_field] = to_detections(selection, *image.size, label=label)
                    frame[label_field + OUTCOME] = selection.outcome.value
                sample.save()  # frames of a long video do not pile up in memory unsaved
        except DataError as e:
            unreadable[sample.filepath] = str(e)
            logger.warning("%s", e)
    return VideoSummary(videos, sum(outcomes.values()), {o.value: outcomes[o.value] for o in Outcome}, unreadable)


def _answer(model, batch, text) -> list[Selection]:
    problem = expression_problem(text)
    if problem is not None:
        return [Selection.failed(str(text or ""), problem) for _ in batch]
    return [selection for [selection] in ask(model, [Question(image, None, (text,)) for _, image in batch])]


@dataclass(frozen=True)
class VideoScores:
    """The mean over the videos and the score of each by sample id: see :class:`fiftyone_rexseek.metrics.video.VideoScore`."""

    mean: VideoScore
    per_video: dict[str, VideoScore]

    @property
    def j_and_f(self) -> float:
        return self.mean.j_and_f


def evaluate_video(samples, pred_field: str, gt_field: str = "ground_truth", eval_key: str | None = None) -> VideoScores:
    """J, F and J&F of each video over the frames that have ground truth; a frame without a prediction counts as empty.

    The masks of a frame are merged: one sample is one expression. No frame is left out, for none is given to the model.

    Args:
        samples: dataset or view of videos
        pred_field, gt_field: frame fields of Detections with masks
        eval_key: writes ``<eval_key>_j``, ``<eval_key>_f`` and ``<eval_key>_j_and_f`` to the samples
    """
    if samples.media_type != fom.VIDEO:
        raise ConfigError("these are no videos", expected="a dataset or view of video samples", found=samples.media_type)
    if eval_key is not None and not eval_key.isidentifier():
        raise ConfigError("eval_key is no field name", expected="letters, digits and underscores", found=eval_key)
    schema = samples.get_frame_field_schema()
    for name in (pred_field, gt_field):
        if name not in schema:
            raise ConfigError(f"there is no frame field {name!r}", expected=f"one of {sorted(schema)}")
    per_video: dict[str, VideoScore] = {}
    for sample in samples.iter_samples():
        frames = [f for _, f in sorted(sample.frames.items()) if f[gt_field] is not None]
        if frames:
            size = _video_size(sample)
            predicted = [merged_mask(f[pred_field], *size) for f in frames]
            truth = [merged_mask(f[gt_field], *size) for f in frames]
            per_video[sample.id] = score_object(predicted, truth)
    if not per_video:
        raise DataError("no frame has ground truth", where=gt_field)
    if eval_key is not None:
        values = {"_j": lambda v: v.j.mean, "_f": lambda v: v.f.mean, "_j_and_f": lambda v: v.j_and_f}
        for suffix, of in values.items():
            samples._dataset.set_values(eval_key + suffix, {k: of(v) for k, v in per_video.items()}, key_field="id")
    return VideoScores(mean_score(per_video.values()), per_video)


def _video_size(sample) -> tuple[int, int]:
    """(width, height); from the metadata when there is one, else from the first frame."""
    metadata = sample.metadata
    if metadata is not None and metadata.frame_width and metadata.frame_height:
        return metadata.frame_width, metadata.frame_height
    _, image = next(iter(_frames(sample, 1)))
    return image.size


__all__ = ["VideoScores", "VideoSummary", "apply_to_video", "evaluate_video", "read_frames"]

"""One question about one open sample: warm models, the answer as data, as a picture and as words.

What the Referring panel does, callable without it. Loaded models stay in this process between questions, so only the
first question waits for weights. Answers go to a field of their own (:data:`ASKED_FIELD`); :func:`save_as_sample` turns a
question into a sample of the dataset.
"""

from __future__ import annotations

import base64
import io
import threading
import time
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import fiftyone as fo
import fiftyone.core.media as fom
import numpy as np
from PIL import Image

from .. import masks
from ..errors import ConfigError, DownloadError
from ..geometry import pairwise_iou
from ..models import registry
from ..models.answering import Answerer, ImageJob, Item, ItemResult
from ..models.images import open_image
from ..models.nouns import NounExtractor
from ..models.proposals import ProposalOptions, clean_names
from ..referring import Outcome, Selection
from . import apply_plan as plan
from .apply import DEFAULT_SAM, FALLBACK_NAMES
from .detectors import ZooDetector, is_zoo_model, load_zoo
from .fields import detections_fields, require_detections
from .segmentation import ZooSegmenter
from .selections import (
    ANSWER,
    COUNT,
    ERROR,
    OUTCOME,
    REJECTION_SCORE,
    CandidateLabels,
    combined_error,
    combined_outcome,
    to_detections,
)
from .visualize import Layer, draw_annotated

#: Where answers to questions about single samples are kept, so that the App draws them.
ASKED_FIELD = "asked"
#: Tag of samples that were questions.
ASKED_TAG = "asked"
#: Candidate source that is no field: transformers' Grounding DINO.
GROUNDING_DINO = "grounding-dino"
#: Numbers of a detector, with their labels in forms.
THRESHOLDS = {"box_threshold": "Box threshold", "text_threshold": "Text threshold"}
#: Models kept in memory at once; the one not used for the longest time goes first.
_KEEP = 3
_COLORS = {
    "orange": (255, 109, 4), "blue": (37, 99, 235), "magenta": (192, 38, 211), "teal": (8, 145, 178), "ochre": (202, 138, 4),
    "red": (220, 38, 38),
}  # fmt: skip
_GREY = (148, 163, 184)
#: Shortest and longest side of a drawn answer, whichever is the longer one of the image, in pixels.
_PICTURE_SIDES = (480, 900)
#: Intersection over union from which boxes of two expressions are drawn as one inside the other.
_SAME_BOX = 0.8


@dataclass(frozen=True)
class AskOptions:
    """Everything that a question needs beside the image and the expressions.

    Attributes:
        model: a zoo name of this project
        weights: local folder or file, or None for the name's own
        candidates: a field of Detections; ``"grounding-dino"``; or the name of a FiftyOne zoo detector. Ignored by models that
            find objects by themselves
        prompt: what a detector looks for ("person, dog"); empty means the nouns of the expressions
        box_threshold, text_threshold: of the detector
        masks: whether SAM draws masks for selected boxes of models that have none
    """

    model: str = "rexseek-tiny"
    weights: str | None = None
    candidates: str = "candidates"
    prompt: str = ""
    box_threshold: float = 0.25
    text_threshold: float = 0.25
    masks: bool = False


@dataclass(frozen=True)
class Asked:
    """The answers about one sample.

    Attributes:
        sample_id: of the sample
        options: how it was asked
        result: the selections, the candidates and the size of the image
        labels: stored boxes and labels of the candidates, or None
        seconds: of answering; loading excluded
        device: where the model ran
    """

    sample_id: str
    options: AskOptions
    result: ItemResult
    labels: CandidateLabels | None
    seconds: float
    device: str

    @property
    def selections(self) -> tuple[Selection, ...]:
        return self.result.selections


class WarmModels:
    """Loaded models by how they were asked for; the least recently used leave first."""

    def __init__(self, keep: int = _KEEP):
        self.keep = keep
        self._lock = threading.Lock()
        self._loaded: OrderedDict[Any, Any] = OrderedDict()

    def get(self, key: Any, load) -> Any:
        """The object of this key, loaded by ``load()`` when it is not here; one load at a time."""
        with self._lock:
            if key not in self._loaded:
                self._loaded[key] = load()
            self._loaded.move_to_end(key)
            while len(self._loaded) > self.keep:
                self._loaded.popitem(last=False)
            return self._loaded[key]

    def __contains__(self, key: Any) -> bool:
        return key in self._loaded

    def clear(self) -> None:
        """Forgets all models, which frees their memory."""
        with self._lock:
            self._loaded.clear()


#: The models of this process. Detectors and SAM are kept apart from the selectors that use them.
warm_models = WarmModels()
_warm_tools = WarmModels()


def is_warm(options: AskOptions) -> bool:
    """Whether the model is loaded already."""
    return (options.model, options.weights) in warm_models


def _model(options: AskOptions):
    key = (options.model, options.weights)
    return warm_models.get(key, lambda: registry.load(options.model, options.weights))


def make_proposer(options: AskOptions):
    """The detector that ``options.candidates`` names; thresholds as in the options."""
    limits = ProposalOptions(box_threshold=options.box_threshold, text_threshold=options.text_threshold)
    if options.candidates == GROUNDING_DINO:
        from ..models.proposals.grounding_dino import GroundingDino

        try:
            detector = _warm_tools.get(GROUNDING_DINO, GroundingDino.from_pretrained)
        except DownloadError as e:
            # its own advice is an argument, which no form has
            advice = "Choose a field of boxes as candidates, or a model that finds objects by itself, such as rela-tiny."
            raise DownloadError(f"{GROUNDING_DINO}: {e.what}", advice=advice) from e
        return GroundingDino(detector.model, detector.processor, options=limits)
    model = _warm_tools.get(options.candidates, lambda: load_zoo(options.candidates, "detector"))
    return ZooDetector(model, options=limits, name=options.candidates)


def _names(options: AskOptions, expressions: Sequence[str], proposer) -> tuple[str, ...]:
    if not getattr(proposer, "uses_names", True):
        return ()
    if options.prompt.strip():
        return tuple(clean_names(options.prompt))
    nouns = _warm_tools.get("nouns", lambda: NounExtractor("en_core_web_sm"))
    [found] = nouns.extract([" . ".join(expressions)])
    return tuple(found) or FALLBACK_NAMES


def default_candidates(samples) -> str:
    """The field ``candidates``, else the first field of boxes that no model answered, else the detector."""
    known = [f for f in detections_fields(samples) if not samples.has_sample_field(f + OUTCOME)]
    known = [f for f in known if f != ASKED_FIELD]
    return next((f for f in ("candidates", *known) if f in known), GROUNDING_DINO)


def problems(samples, options: AskOptions) -> dict[str, str]:
    """What is wrong with options, by their names, as far as it can be said without loading anything."""
    found = {}
    entry = registry.entry(options.model)
    if options.weights and not Path(options.weights).expanduser().exists():
        found["weights"] = "No such folder or file on the machine that runs the model"
    elif not options.weights and not entry.packaged and entry.repo_id is None:
        found["weights"] = f"Its checkpoint is at {entry.source}: download it and give the file"
    if not entry.needs_candidates or options.candidates in detections_fields(samples):
        return found
    if samples.get_field(options.candidates) is not None:
        found["candidates"] = "This field holds no Detections"
    elif options.candidates != GROUNDING_DINO and not is_zoo_model(options.candidates):
        found["candidates"] = f"Neither a field nor a FiftyOne zoo model; fields: {', '.join(detections_fields(samples)) or 'none'}"
    for name in THRESHOLDS:
        if not 0 <= getattr(options, name) <= 1:
            found[name] = "Between 0 and 1"
    return found


def split_lines(text: str | None) -> list[str]:
    """Expressions of a text box, one a line; blank lines and repetitions are left out.

    Example::

        >>> split_lines("the kid\\n\\n everyone \\nthe kid")
        ['the kid', 'everyone']

    Raises:
        ConfigError: the text is of another type
    """
    if not isinstance(text, str | None):
        raise ConfigError("expressions are no text", expected="one text, an expression a line", found=repr(text))
    return list(dict.fromkeys(line.strip() for line in (text or "").splitlines() if line.strip()))


def ask(samples, sample_id: str, expressions: Sequence[str], options: AskOptions | None = None) -> Asked:
    """Asks a model expressions about one sample; the image and its candidates are encoded once.

    Args:
        samples: the dataset (or a view) that holds the sample; nothing is written
        sample_id: id of the sample
        expressions: one or more texts
        options: model, candidates and thresholds

    Raises:
        ConfigError: no expression, no such sample or one that is no image, or a candidate field that does not exist
        ReferringError: the model or detector could not be loaded
    """
    options = options or AskOptions()
    if not expressions:
        raise ConfigError("nothing was asked", expected="at least one expression, one a line")
    needs_candidates = registry.entry(options.model).needs_candidates
    path = _image_path(samples._dataset, sample_id)
    proposer, labels = None, None
    item = Item(sample_id, tuple(expressions))
    if needs_candidates and samples.has_sample_field(options.candidates):
        require_detections(samples, options.candidates)
        stored, _ = plan.CandidateReader(samples, options.candidates, None)([sample_id])
        item, labels = plan.as_item(plan.Row(sample_id, tuple(expressions)), stored.get(sample_id), ())
    elif needs_candidates:
        proposer = make_proposer(options)
        item = Item(sample_id, tuple(expressions), names=_names(options, expressions, proposer))
    segmenter = None
    if options.masks and needs_candidates:
        segmenter = _warm_tools.get(DEFAULT_SAM, lambda: ZooSegmenter.load(DEFAULT_SAM))
    model = _model(options)
    answerer = Answerer(model, proposer=proposer, segmenter=segmenter)
    started = time.perf_counter()
    [result] = answerer([ImageJob(path, (item,))])
    seconds = time.perf_counter() - started
    if result.proposals is not None and result.width:
        labels = CandidateLabels([], list(result.proposals.labels))
    return Asked(sample_id, options, result, labels, seconds, str(getattr(model, "device", "cpu")))


def _image_path(dataset: fo.Dataset, sample_id: str) -> str:
    try:
        sample = dataset[sample_id]
    except KeyError as e:
        raise ConfigError("there is no such sample", found=sample_id, advice="Was it deleted? Open another one.") from e
    if sample.media_type != fom.IMAGE:
        raise ConfigError(
            "this sample is no image",
            expected="an image",
            found=sample.media_type,
            advice="Ask videos with fiftyone_rexseek.integration.video.apply_to_video.",
        )
    return sample.filepath


def in_words(selection: Selection) -> str:
    """The outcome in one phrase.

    Example::

        >>> in_words(Selection.rejected("the dog", rejection_score=0.934))
        'nobody matches (93% sure)'
    """
    if selection.outcome is Outcome.REJECTED:
        sure = selection.rejection_score
        return "nobody matches" + (f" ({sure:.0%} sure)" if sure is not None and np.isfinite(sure) else "")
    if selection.outcome is Outcome.SELECTED:
        if not len(selection):
            return "one region matches" if selection.merged_mask is not None else "selected"
        known = selection.scores[np.isfinite(selection.scores)]
        sure = f" ({', '.join(f'{s:.0%}' for s in known)} sure)" if len(known) else ""
        return f"{len(selection)} match{'es' if len(selection) == 1 else ''}{sure}"
    if selection.outcome is Outcome.UNPARSED:
        return "the model's answer could not be read"
    return f"no answer: {selection.error or 'unknown reason'}"


def draw_answers(image: Image.Image, asked: Asked) -> Image.Image:
    """The picture with every expression's targets in a colour of its own, and the other candidates in grey.

    It is drawn at a size at which captions can be read, however small or large the image is. Captions are confidences; with
    several expressions, the number of the expression comes first. A box that several expressions chose is drawn once inside the
    other, with the captions of all.
    """
    scale = float(np.clip(max(image.size), *_PICTURE_SIDES)) / max(image.size)
    picture = image.resize([max(1, round(side * scale)) for side in image.size])
    step = max(3, min(picture.size) // 120)
    drawn: list[tuple[np.ndarray, list[str]]] = []
    chosen = {i for s in asked.selections for i in s.indices or ()}
    layers = []
    if asked.result.candidates_xyxy is not None:
        others = [b * scale for i, b in enumerate(asked.result.candidates_xyxy) if i not in chosen and np.isfinite(b).all()]
        layers.append(Layer(np.array(others).reshape(-1, 4), [""] * len(others), None, _GREY))
    for n, selection in enumerate(asked.selections):
        rles = selection.masks
        if rles is None and selection.merged_mask is not None:
            rles = [selection.merged_mask]
        number = f"{n + 1}: " if len(asked.selections) > 1 else ""
        boxes, captions = [], []
        for box, score in zip(selection.boxes_xyxy * scale, selection.scores):
            # models that draw their answers give the same object a slightly different box every time
            same = next((one for one in drawn if pairwise_iou(box[None], one[0][None])[0, 0] >= _SAME_BOX), None)
            if same is None:
                drawn.append(same := (box, []))
            box, before = same
            inset = min(len(before) * step, max(0.0, float(min(box[2:] - box[:2])) / 2 - 1))
            before.append(number + f"{score:.2f}" if np.isfinite(score) else number.strip(": "))
            boxes.append(box + inset * np.array([1, 1, -1, -1]))
            captions.append("  ".join(before))
        shown = [_resized(masks.decode(r), picture.size) for r in rles] if rles is not None else None
        layers.append(Layer(np.array(boxes).reshape(-1, 4), captions, shown, _COLORS[color_name(n)]))
    return draw_annotated(picture, layers)


def _resized(mask: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    return np.asarray(Image.fromarray(mask).resize(size))


def color_name(n: int) -> str:
    """What people call the colour of the n-th expression in :func:`draw_answers`.

    Example::

        >>> color_name(0), color_name(7)
        ('orange', 'blue')
    """
    return list(_COLORS)[n % len(_COLORS)]


def picture_url(samples, asked: Asked) -> str | None:
    """The drawn answers as a ``data:`` URL of bounded size, for a panel; None when the image cannot be read."""
    if not asked.result.width:
        return None
    path = _image_path(samples._dataset, asked.sample_id)
    picture = draw_answers(open_image(path), asked)
    with io.BytesIO() as buffer:
        picture.save(buffer, "JPEG", quality=88)
        return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def _as_detections(asked: Asked, n: int, attributes: Mapping[str, Any] | None = None) -> fo.Detections | None:
    result = asked.result
    labels = asked.labels if asked.labels is not None and asked.labels.bounding_boxes else None
    detections = to_detections(
        result.selections[n], result.width, result.height, candidates=labels, attributes=attributes
    )
    if detections is not None and labels is None and asked.labels is not None:
        for d, index in zip(detections.detections, result.selections[n].indices or ()):
            d.label = asked.labels.labels[index] or d.label
    return detections


def store_answers(dataset: fo.Dataset, asked: Asked, label_field: str = ASKED_FIELD) -> None:
    """Writes the answers to the sample: Detections that carry their ``expression``, and the outcomes beside them.

    Raises:
        ConfigError: the field holds something else than answers
    """
    plan.check_output(dataset, label_field, False)
    if not dataset.has_sample_field(label_field):
        plan.declare_output(dataset, label_field, several=True)
    sample = dataset[asked.sample_id]
    found = []
    for n, selection in enumerate(asked.selections):
        detections = _as_detections(asked, n, {"expression": selection.expression})
        found += detections.detections if detections is not None else []
    sample[label_field] = fo.Detections(detections=found) if any(s.outcome.is_answer for s in asked.selections) else None
    sample[f"{label_field}_expressions"] = [s.expression for s in asked.selections]
    sample[f"{label_field}_outcomes"] = [s.outcome.value for s in asked.selections]
    sample[f"{label_field}_answers"] = [s.answer or "" for s in asked.selections]
    sample[label_field + OUTCOME] = combined_outcome(asked.selections).value
    sample[label_field + ERROR] = combined_error(asked.selections)
    sample.save()


@dataclass(frozen=True)
class HistoryEntry:
    """One line of the history: what was asked about which sample, and what came out."""

    sample_id: str
    expressions: tuple[str, ...]
    outcomes: tuple[str, ...]
    options: Mapping[str, Any] = field(default_factory=dict)
    asked_at: float = 0.0

    @classmethod
    def of(cls, asked: Asked) -> HistoryEntry:
        from dataclasses import asdict

        texts = tuple(s.expression for s in asked.selections)
        outcomes = tuple(in_words(s) for s in asked.selections)
        return cls(asked.sample_id, texts, outcomes, asdict(asked.options), time.time())


def save_as_sample(dataset: fo.Dataset, asked: Asked, n: int, pred_field: str) -> str:
    """Makes the n-th question a sample of its own: the same file, its expression, its candidates and the answer.

    The new sample is tagged ``asked`` and has no ground truth yet (None): a person accepts the answer or draws one. Asking and
    saving the same expression again about the same image replaces the earlier sample.

    Raises:
        ConfigError: the dataset is grouped, in which no image stands alone

    Returns:
        id of the sample
    """
    if dataset.media_type == fom.GROUP:
        raise ConfigError(
            "a question cannot become a sample of a grouped dataset",
            expected="a dataset of images",
            found=f"slices {', '.join(dataset.group_slices)}",
            advice="Make a dataset of one slice: dataset.select_group_slices(NAME).clone().",
        )
    selection = asked.selections[n]
    source = dataset[asked.sample_id]
    if not dataset.has_sample_field("expression"):
        dataset.add_sample_field("expression", fo.StringField)
    if not dataset.has_sample_field(f"{pred_field}{OUTCOME}"):
        plan.declare_output(dataset, pred_field, several=False)
    same = dataset.match_tags(ASKED_TAG).match(
        (fo.ViewField("filepath") == source.filepath) & (fo.ViewField("expression") == selection.expression)
    )
    sample = fo.Sample(filepath=source.filepath, tags=[ASKED_TAG], metadata=source.metadata)
    sample["expression"] = selection.expression
    for name in ("image_id", asked.options.candidates):
        if dataset.has_sample_field(name) and source[name] is not None:
            value = source[name]
            sample[name] = value.copy() if isinstance(value, fo.Label) else value
    if dataset.has_sample_field("expression_id") and isinstance(dataset.get_field("expression_id"), fo.StringField):
        sample["expression_id"] = f"asked-{time.time_ns()}"
    sample[pred_field] = _as_detections(asked, n)
    sample[pred_field + OUTCOME] = selection.outcome.value
    sample[pred_field + ANSWER] = selection.answer
    sample[pred_field + ERROR] = selection.error
    score = selection.rejection_score
    sample[pred_field + REJECTION_SCORE] = None if score is None else float(score)
    if selection.count is not None:
        plan.declare_count(dataset, pred_field)
        sample[pred_field + COUNT] = selection.count
    dataset.delete_samples(same)
    dataset.add_sample(sample)
    return sample.id

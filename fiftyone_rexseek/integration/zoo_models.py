"""RexSeek and ReLA as FiftyOne models: ``foz.load_zoo_model("rexseek-3b")``, ``dataset.apply_model(...)``.

Both derive from ``TorchImageModel`` with a ``GetItem`` of their own, so that FiftyOne's worker processes open the images and
read the fields. An unreadable image, an empty expression or a failing question is marked as such and never raises: in FiftyOne
a raising item takes its whole batch with it.

``apply_model(model, "P", ...)`` writes ``P`` (Detections), ``P_outcome``, ``P_answer``, ``P_error`` and, where the model has them,
``P_rejection_score``, ``P_rejected_mask`` and ``P_count``. FiftyOne names the fields
of a model with several outputs ``<label_field>_<key>``; the detections' key (:class:`_TheField`) names the field itself. A
failure writes no ``P``: on a second run over the same field an older answer would stay there beside the outcome ``failed``
(a model cannot clear a field), which evaluations do not count; :func:`apply_expressions` clears it.
"""

from __future__ import annotations

import logging
from typing import Any

import fiftyone as fo
import fiftyone.utils.torch as fout
import fiftyone.zoo.models as fozm
import numpy as np
from PIL import Image

from ..errors import ConfigError, DataError
from ..models import registry
from ..models.answering import Answerer, ImageJob, Item, absolute_boxes
from ..models.images import open_image
from .apply_plan import NO_CANDIDATES
from .selections import CandidateLabels, rejected_mask, to_detections
from .zoo_registration import register_models

__all__ = ["ReLAZooModel", "ReLAZooModelConfig", "RexSeekZooModel", "RexSeekZooModelConfig", "load", "register_models"]

logger = logging.getLogger(__name__)

#: Settings of ``TorchImageModelConfig`` that mean something here; the rest is about its own transforms and outputs.
_INHERITED = {"device", "confidence_thresh", "cudnn_benchmark", "use_half_precision", "model_name", "model_path"}


class _TheField(str):
    """A key that FiftyOne's ``label_field + "_" + key`` turns into ``label_field``; else the text ``"detections"``."""

    def __radd__(self, prefix: str) -> str:
        return prefix.removesuffix("_")


_DETECTIONS = _TheField("detections")


class _ReferringModelConfig(fout.TorchImageModelConfig, fozm.HasZooModel):
    """Options of both models. Unknown ones are refused here, before weights load: ETA would ignore them.

    Args:
        zoo_name (required): a name of the zoo, such as ``"rexseek-3b"``
        weights (None): local folder or file of weights
        revision (None): of the hub repository
        device (None), dtype (None): where and how to compute
        confidence_thresh (None): detections below it are left out
        prompt (None): one expression for all samples, instead of a field
        expression_field ("expression"): field of the expression, unless ``apply_model`` says otherwise
        label (None): label of the predictions; default: the candidate's label, or "person"
        call_options (None): dict of keyword arguments for every call of the model, such as ``{"decoding": "constrained"}``
        load_options (None): dict of keyword arguments for ``from_pretrained``
    """

    def __init__(self, d):
        given = set(d)
        d = self.init(d)
        super().__init__(d)
        self.zoo_name = self.parse_string(d, "zoo_name")
        self.weights = self.parse_raw(d, "weights", default=None)
        self.revision = self.parse_string(d, "revision", default=None)
        self.dtype = self.parse_raw(d, "dtype", default=None)
        self.prompt = self.parse_string(d, "prompt", default=None)
        self.expression_field = self.parse_string(d, "expression_field", default="expression")
        self.label = self.parse_string(d, "label", default=None)
        self.call_options = self.parse_dict(d, "call_options", default=None)
        self.load_options = self.parse_dict(d, "load_options", default=None)
        own = {"zoo_name", "weights", "revision", "dtype", "prompt", "expression_field", "label", "call_options", "load_options"}
        own |= self._parse_more(d)
        unknown = sorted(given - own - _INHERITED)
        if unknown:
            expected = sorted((own | _INHERITED) - {"zoo_name", "model_name", "model_path"})
            raise ConfigError(f"unknown option for {self.zoo_name}", expected=f"some of {expected}", found=unknown)
        if self.prompt is not None and not self.prompt.strip():
            raise ConfigError("prompt is blank", expected="an expression, or None to use a field")
        self.raw_inputs, self.ragged_batches = True, False

    def _parse_more(self, d) -> set[str]:
        return set()


class RexSeekZooModelConfig(_ReferringModelConfig):
    """Options of :class:`RexSeekZooModel`.

    Args:
        candidates_field ("candidates"): field of the candidate boxes, unless ``apply_model`` says otherwise
    """

    def _parse_more(self, d) -> set[str]:
        self.candidates_field = self.parse_string(d, "candidates_field", default="candidates")
        return {"candidates_field"}


class ReLAZooModelConfig(_ReferringModelConfig):
    """Options of :class:`ReLAZooModel`; see the base class."""


class ReferringGetItem(fout.GetItem):
    """Opens the image and reads expression and candidates of a sample; in a worker process. Never raises.

    Args:
        field_mapping: fields of ``expression`` and ``candidates``
        prompt: one expression for all samples
        with_candidates: whether the model chooses among candidates
    """

    def __init__(self, field_mapping=None, prompt: str | None = None, with_candidates: bool = True):
        self.prompt, self.with_candidates = prompt, with_candidates  # before super(), which reads required_keys
        super().__init__(field_mapping=field_mapping)

    @property
    def required_keys(self):
        keys = ["filepath"]
        if self.with_candidates:
            keys.append("candidates")
        return keys if self.prompt is not None else [*keys, "expression"]

    def __call__(self, d) -> dict[str, Any]:
        path = d["filepath"]
        try:
            image: Image.Image | DataError = open_image(path)
        except DataError as e:
            image = DataError(e.what, where=path)
        expression = self.prompt if self.prompt is not None else d["expression"]
        item: dict[str, Any] = {"filepath": path, "image": image, "expression": expression}
        if self.with_candidates:
            item["problem"] = None if isinstance(d["candidates"], fo.Detections) else NO_CANDIDATES
            detections = d["candidates"].detections if isinstance(d["candidates"], fo.Detections) else []
            item["bounding_boxes"] = [x.bounding_box for x in detections]
            item["labels"] = [x.label for x in detections]
            item["scores"] = [np.nan if x.confidence is None else x.confidence for x in detections]
            item["exact"] = [_exact_box(x) for x in detections]
        return item


def _exact_box(detection) -> list[float]:
    exact = detection["box_xyxy"] if detection.has_field("box_xyxy") else None
    return list(exact) if exact is not None and len(exact) == 4 else [np.nan] * 4


class _ReferringModel(fout.TorchImageModel):
    """What both models share: loading by name, batches of dicts, label outputs."""

    has_collate_fn = True

    @staticmethod
    def collate_fn(batch):
        """Images of different sizes stay a list."""
        return batch

    def _load_model(self, config):
        options = dict(config.load_options or {})
        device = config.device
        dtype = config.dtype or ("float16" if config.use_half_precision else None)
        selector = registry.load(
            config.zoo_name, config.weights, revision=config.revision, device=device, dtype=dtype, **options
        )
        return selector

    @property
    def selector(self) -> Any:
        """The :class:`RexSeek` or :class:`ReLA` itself."""
        return self._model

    def predict(self, arg):
        """The outputs of one item of :class:`ReferringGetItem`."""
        return self._predict_all([arg])[0]

    def _predict_all(self, items):
        jobs, images = _as_jobs(items, self._with_candidates)
        results = iter(self.answerer(jobs, images))
        by_key = {result.key: result for result in results}
        return [self._outputs(item, by_key[str(n)]) for n, item in enumerate(items)]

    @property
    def answerer(self) -> Answerer:
        return Answerer(self._model, options=self.config.call_options)

    def _outputs(self, item, result) -> dict[str, Any]:
        [selection] = result.selections
        candidates = CandidateLabels(item["bounding_boxes"], item["labels"]) if self._with_candidates else None
        detections = to_detections(
            selection, result.width, result.height, candidates=candidates, label=self.config.label
        )
        threshold = self.config.confidence_thresh
        if detections is not None and threshold is not None:
            detections.detections = [x for x in detections.detections if x.confidence is None or x.confidence >= threshold]
        # FiftyOne refuses None for a field that does not exist yet: no answer is no entry
        outputs = {} if detections is None else {_DETECTIONS: detections}
        texts = {"outcome": selection.outcome.value, "answer": selection.answer or "", "error": selection.error or ""}
        drawn = rejected_mask(selection, result.width, result.height)
        if drawn is not None:
            outputs["rejected_mask"] = drawn
        if selection.rejection_score is not None:
            outputs["rejection_score"] = float(selection.rejection_score)
        if selection.count is not None:
            outputs["count"] = int(selection.count)
        return {**outputs, **texts}


def _as_jobs(items, with_candidates: bool):
    """Items that share a file become one job, so that its image is encoded once."""
    by_path: dict[str, list[int]] = {}
    for n, item in enumerate(items):
        if not isinstance(item, dict) or "image" not in item:
            # model.predict(image): an image without expression or candidates
            raise ConfigError(
                "the model needs an expression for each image",
                expected="dataset.apply_model(model, 'field', expression='expression', ...), or model.selector for single images",
                found=type(item).__name__,
            )
        by_path.setdefault(item["filepath"], []).append(n)
    jobs, images = [], []
    for path, numbers in by_path.items():
        own = []
        for n in numbers:
            item = items[n]
            boxes = scores = None
            if with_candidates:
                relative = np.asarray(item["bounding_boxes"], dtype=np.float64).reshape(-1, 4)
                image = item["image"]
                boxes = relative
                if not isinstance(image, DataError):
                    boxes = absolute_boxes(relative, np.asarray(item["exact"]).reshape(-1, 4), *image.size)
                scores = np.asarray(item["scores"], dtype=np.float64)
            own.append(Item(str(n), (item["expression"],), boxes=boxes, scores=scores, problem=item.get("problem")))
        jobs.append(ImageJob(path, tuple(own)))
        images.append(items[numbers[0]]["image"])
    return jobs, images


class RexSeekZooModel(_ReferringModel):
    """RexSeek as a FiftyOne model.

    Example::

        model = foz.load_zoo_model("rexseek-tiny")
        dataset.apply_model(model, "rexseek", expression="expression", candidates="candidates", batch_size=8)
    """

    _with_candidates = True

    def build_get_item(self, field_mapping=None):
        """The loader of a sample; fields given to ``apply_model`` win over those given at loading."""
        mapping = {"candidates": self.config.candidates_field}
        if self.config.prompt is None:
            mapping["expression"] = self.config.expression_field
        mapping.update(field_mapping or {})
        return ReferringGetItem(mapping, prompt=self.config.prompt)


class ReLAZooModel(_ReferringModel):
    """ReLA as a FiftyOne model: Detections with masks.

    Example::

        model = foz.load_zoo_model("rela-tiny")
        dataset.apply_model(model, "rela", expression="expression", batch_size=8)
    """

    _with_candidates = False

    def build_get_item(self, field_mapping=None):
        """The loader of a sample; a field given to ``apply_model`` wins over the one given at loading."""
        mapping = {} if self.config.prompt is not None else {"expression": self.config.expression_field}
        mapping.update(field_mapping or {})
        return ReferringGetItem(mapping, prompt=self.config.prompt, with_candidates=False)


def load(model_name: str, model_path: str | None = None, **kwargs) -> _ReferringModel:
    """A zoo model by name; what ``zoo/__init__.py`` and the package's manifest both come to.

    Args:
        model_name: such as ``"rexseek-3b"``
        model_path: the marker file of a remote source, or None; it may state a ``revision`` or local ``weights``
        kwargs: see the configs
    """
    family = registry.entry(model_name).family
    config_class, model_class = {
        "rexseek": (RexSeekZooModelConfig, RexSeekZooModel),
        "rela": (ReLAZooModelConfig, ReLAZooModel),
    }[family]
    return model_class(config_class({"zoo_name": model_name, **kwargs}))

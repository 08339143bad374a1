"""Evaluating referring expressions as FiftyOne runs; a metric plugs in as a :class:`MethodSpec`.

A method is four things: which options it takes, which per-sample fields it writes, a function that scores
:class:`~.columns.Columns`, and headline numbers. Everything else - registering, renaming and deleting the run with its
fields, bulk writes, per-object ``tp``/``fp``/``fn``, the Model Evaluation panel, comparison of runs - is here, once::

    SPEC = MethodSpec(
        name="humanref", label="HumanRef", score=score, fields={"f1": (fo.FloatField, "F1 at IoU 0.5")},
        protocols=("official", "paper"), options={"missing": "official"})

    def score(columns: Columns, options: Mapping) -> Scored: ...

and an :class:`ReferringEvaluationConfig` subclass whose ``spec`` it is, so that FiftyOne can name it in
``evaluation_config.json`` (``dataset.evaluate_detections(..., method="humanref")`` takes the same path). The methods are
listed in :data:`METHODS` and imported when first used.

A run is of FiftyOne's type "detection": the App shows no other kind of custom run.
"""

from __future__ import annotations

import importlib
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import fiftyone as fo
import numpy as np
from fiftyone.core.collections import SampleCollection
from fiftyone.utils.eval.detection import DetectionEvaluation, DetectionEvaluationConfig, DetectionResults

from ..errors import ConfigError, DataError
from . import documents, statistics
from .columns import Columns, label_list_path, read_columns
from .fields import flat_images
from .schema import add_sample_fields
from .selections import CANDIDATES

logger = logging.getLogger(__name__)

#: Method name -> "module:config class".
METHODS = {
    "humanref": "fiftyone_rexseek.integration.evaluation_humanref:HumanRefEvaluationConfig",
    "grec": "fiftyone_rexseek.integration.evaluation_grefcoco:GRECEvaluationConfig",
    "gres": "fiftyone_rexseek.integration.evaluation_grefcoco:GRESEvaluationConfig",
    "greg": "fiftyone_rexseek.integration.evaluation_grefcoco:GREGEvaluationConfig",
}
#: Name of what has no label, or one that no true target has; see :func:`_matches`.
REFERENT = "referent"


@dataclass(frozen=True)
class Headline:
    """One number of the App's Model Evaluation panel.

    Attributes:
        key: identifier, ``[a-z0-9_/]`` - no dots, the App reads it as a path
        label: what a person reads
        value: the number; None or NaN values are left out
        lower_is_better: for the arrows of the comparison
        mean_of: suffix of the per-sample field whose mean the value is, if it is one; a subset's value is then computed
        ratio_of: suffixes of the two per-sample fields of whose sums the value is the ratio, if it is one
    """

    key: str
    label: str
    value: float | None
    lower_is_better: bool = False
    mean_of: str | None = None
    ratio_of: tuple[str, str] | None = None


@dataclass(frozen=True)
class Scored:
    """What a method's ``score`` returns.

    Attributes:
        fields: per-sample values by field suffix, in the order of the columns; NaN and None leave a field empty
        gt_match: per sample, for each ground truth label the index of its prediction or -1 (int arrays); None when
            the method matches no objects
        gt_iou: per sample, the overlap of each match (float arrays); with ``whole``, of the answer (one number)
        summary: everything aggregated, as JSON values: what ``results.report()`` returns
        headlines: numbers for the panel, most important first
        worst_field: suffix of the field by which samples are sorted worst first
        pred_kept: per sample, which predicted labels are part of the answer (bool arrays); all of them when None
        whole: for a method that scores an answer as one object, such as a merged mask: per sample whether it is right,
            None where it is left out
    """

    fields: Mapping[str, Sequence[Any]]
    summary: Mapping[str, Any]
    headlines: Sequence[Headline]
    gt_match: Sequence[np.ndarray] | None = None
    gt_iou: Sequence[Any] | None = None
    worst_field: str | None = None
    pred_kept: Sequence[np.ndarray] | None = None
    whole: Sequence[bool | None] | None = None

    def kept(self, sample: int, num_labels: int) -> np.ndarray:
        """Which predicted labels of a sample are part of the answer, bool (num_labels,)."""
        return np.ones(num_labels, dtype=bool) if self.pred_kept is None else self.pred_kept[sample]


@dataclass(frozen=True)
class MethodSpec:
    """A metric, as this framework needs it.

    Attributes:
        name: the name users pass as ``method=``
        label: for people
        score: columns and options to :class:`Scored`
        fields: suffix -> (FiftyOne field type, description) of the per-sample fields
        protocols: named protocols, the default first
        options: names and defaults of further options; they become arguments of the config
        segmentations: whether ``score`` needs masks: always, never, when the predictions are points ("points"), or a
            function of the options
        iou: overlap from which an object counts as found, as the App shows it
        value_fields: sample fields that ``score`` needs; ``{pred}`` stands for the name of the prediction field
        scores_texts: whether the prediction field is a string field with generated expressions
    """

    name: str
    label: str
    score: Callable[[Columns, Mapping[str, Any]], Scored]
    fields: Mapping[str, tuple[type, str]]
    protocols: tuple[str, ...] = ("official", "paper")
    options: Mapping[str, Any] = field(default_factory=dict)
    segmentations: bool | str | Callable[[Mapping[str, Any]], bool] = False
    iou: float = 0.5
    value_fields: tuple[str, ...] = ("image_id", "expression_id", "expression", "domain", "sub_domain", "num_targets")
    scores_texts: bool = False

    def needs_segmentations(self, options: Mapping[str, Any], pred_path: str) -> bool:
        """Whether masks have to be read for these options and this prediction field's list."""
        if self.segmentations == "points":
            return pred_path.endswith(".keypoints")
        return self.segmentations(options) if callable(self.segmentations) else bool(self.segmentations)


class ReferringEvaluationConfig(DetectionEvaluationConfig):
    """Configuration of a run; subclasses set ``spec``.

    Args:
        pred_field: Detections (or Keypoints, where the method knows points) to score
        gt_field: Detections with the true targets
        iou: the threshold at which objects are marked tp, fp, fn; fixed by the methods, kept for the App
        protocol: one of ``spec.protocols``; the first by default
        candidates_field: Detections a selector could choose from; by default what was proposed for these predictions,
            ``<pred_field>_candidates``, and ``candidates`` where there is no such field
        **kwargs: the method's options; ``classwise``, ``use_masks`` and ``use_boxes`` are accepted from
            ``evaluate_detections`` and mean nothing here

    Raises:
        ConfigError: for unknown options
    """

    spec: ClassVar[MethodSpec]

    def __init__(
        self,
        pred_field,
        gt_field,
        iou=None,
        classwise=None,
        custom_metrics=None,
        protocol=None,
        candidates_field=None,
        **kwargs,
    ):
        spec = self.spec
        options = {name: kwargs.pop(name, default) for name, default in spec.options.items()}
        for stock in ("use_masks", "use_boxes", "compute_mAP", "method", "type", "cls"):
            kwargs.pop(stock, None)
        if kwargs:
            raise ConfigError(
                f"unknown option of method {spec.name!r}", expected=sorted(spec.options), found=sorted(kwargs)
            )
        protocol = spec.protocols[0] if protocol is None else protocol
        if protocol not in spec.protocols:
            raise ConfigError(f"unknown protocol of {spec.name!r}", expected=" or ".join(spec.protocols), found=protocol)
        super().__init__(
            pred_field, gt_field, iou=self.spec.iou if iou is None else iou, classwise=False, custom_metrics=custom_metrics
        )
        self.protocol = protocol
        self.candidates_field = candidates_field
        for name, value in options.items():
            setattr(self, name, value)

    @property
    def method(self):
        return self.spec.name

    @property
    def run_cls(self):
        return ReferringEvaluation

    def candidates_of(self, samples: SampleCollection) -> str:
        """The field with what a selector could choose from, whether or not it exists."""
        own = f"{self.pred_field}{CANDIDATES}"
        return self.candidates_field or (own if samples.has_sample_field(own) else "candidates")

    def options(self) -> dict[str, Any]:
        """The protocol and the method's own options, as ``score`` gets them."""
        return {"protocol": self.protocol, **{name: getattr(self, name) for name in self.spec.options}}


class ReferringEvaluation(DetectionEvaluation):
    """A run of any :class:`MethodSpec`; scores everything at once when the samples are registered."""

    def __init__(self, config):
        super().__init__(config)
        self._graded: SampleCollection | None = None
        self._columns: Columns | None = None
        self._scored: Scored | None = None
        self._matches: dict[str, list[tuple]] = {}

    @classmethod
    def validate(cls, config):
        """One run class serves every method's config, so the class names need not correspond."""
        if not isinstance(config, ReferringEvaluationConfig):
            raise ConfigError("not a referring evaluation", expected="ReferringEvaluationConfig", found=type(config))

    @property
    def spec(self) -> MethodSpec:
        return self.config.spec

    def register_samples(self, samples, eval_key, dynamic=True):
        """Declares the run's fields and scores the samples; called once before :meth:`evaluate`."""
        options = self.config.options()
        pred_path = label_list_path(samples, self.config.pred_field, (fo.Detections, fo.Keypoints))
        self._graded = annotated(samples, self.config.gt_field)
        self._columns = read_columns(
            self._graded,
            self.config.pred_field,
            self.config.gt_field,
            candidates_field=self.config.candidates_of(samples),
            value_fields=[name.replace("{pred}", self.config.pred_field) for name in self.spec.value_fields],
            segmentations=self.spec.needs_segmentations(options, pred_path),
        )
        self._scored = self.spec.score(self._columns, options)
        self._matches = _matches(self._columns, self._scored)
        if left_out := len(samples) - len(self._graded):
            note = f"{left_out:,} samples are left out: their '{self.config.gt_field}' is None, so what is right is not known."
            logger.warning(note)
            self._scored.summary.setdefault("notes", []).append(note)
        if eval_key is not None:
            self._declare_fields(samples._dataset, eval_key, dynamic)
        super().register_samples(samples, eval_key, dynamic=dynamic)

    def _declare_fields(self, dataset: fo.Dataset, eval_key: str, dynamic: bool) -> None:
        """All fields of the run at once, those that FiftyOne would add one by one included."""
        fields = {f"{eval_key}_{suffix}": {"ftype": fo.IntField} for suffix in ("tp", "fp", "fn")}
        for suffix, (ftype, description) in self.spec.fields.items():
            if suffix in self._scored.fields:
                fields[f"{eval_key}_{suffix}"] = {"ftype": ftype, "description": description}
        if dynamic:
            for labels in (self._columns.gt, self._columns.pred):
                for suffix, ftype in (("", fo.StringField), ("_id", fo.StringField), ("_iou", fo.FloatField)):
                    fields[f"{labels.list_path}.{eval_key}{suffix}"] = {"ftype": ftype}
        add_sample_fields(dataset, fields)

    def evaluate(self, sample_or_frame, eval_key=None):
        """The matches of one sample, as ``(gt_label, pred_label, iou, confidence, gt_id, pred_id)`` tuples."""
        return self._matches.get(sample_or_frame.id, [])

    def generate_results(self, samples, matches, eval_key=None, classes=None, missing=None, progress=None):
        """Writes the per-sample and per-object fields and returns the :class:`ReferringResults`."""
        if eval_key is not None:
            _write_fields(samples, self.config, eval_key, self._columns, self._scored)
        return ReferringResults(
            samples,
            self.config,
            eval_key,
            matches,
            summary=_plain(self._scored.summary),
            headlines=[_plain(vars(h)) for h in self._scored.headlines],
            worst_field=self._scored.worst_field,
            classes=sorted({name for m in matches for name in m[:2] if name is not None}) or [REFERENT],
            missing=missing,
            backend=self,
        )

    def get_fields(self, samples, eval_key, include_custom_metrics=True):
        # the headline numbers are stored with the results, not computed by metric operators
        fields = super().get_fields(samples, eval_key, include_custom_metrics=False)
        return fields + self._sample_fields(samples, eval_key)

    def cleanup(self, samples, eval_key):
        fields = self._sample_fields(samples._dataset, eval_key)
        statistics.forget(samples._dataset, eval_key)
        super().cleanup(samples, eval_key)
        samples._dataset.delete_sample_fields(fields, error_level=1)
        samples._delete_empty_sidebar_group(eval_key)

    def rename(self, samples, eval_key, new_eval_key):
        own = self._sample_fields(samples._dataset, eval_key)
        super().rename(samples, eval_key, new_eval_key)  # its own fields only: ours have no new names yet
        if own:
            samples._dataset.rename_sample_fields({name: new_eval_key + name[len(eval_key) :] for name in own})

    def _sample_fields(self, samples, eval_key) -> list[str]:
        names = [f"{eval_key}_{suffix}" for suffix in self.spec.fields]
        return [name for name in names if samples.has_sample_field(name)]


class ReferringResults(DetectionResults):
    """Results of a run: FiftyOne's detection results plus the method's own numbers.

    ``report()`` returns everything aggregated (per domain, per number of targets, missing answers, trivial
    baselines ...) with the protocol's name, ``print_report()`` shows it, ``metrics()`` holds the headline numbers beside
    FiftyOne's micro precision and recall over objects.
    """

    def __init__(
        self,
        samples,
        config,
        eval_key,
        matches,
        summary=None,
        headlines=None,
        worst_field=None,
        classes=None,
        missing=None,
        custom_metrics=None,
        backend=None,
    ):
        headlines = list(headlines or ())
        if custom_metrics is None:
            custom_metrics = {
                f"{config.method}/{h['key']}": {
                    "key": h["key"],
                    "value": h["value"],
                    "label": h["label"],
                    "lower_is_better": h["lower_is_better"],
                }
                for h in headlines
                if h["value"] is not None
            }
        super().__init__(
            samples,
            config,
            eval_key,
            matches,
            classes=classes,
            missing=missing,
            custom_metrics=custom_metrics,
            backend=backend,
        )
        self.summary = dict(summary or {})
        self.headlines = headlines
        self.worst_field = worst_field

    @classmethod
    def _from_dict(cls, d, samples, config, eval_key, **kwargs):
        own = {name: d.get(name) for name in ("summary", "headlines", "worst_field")}
        return super()._from_dict(d, samples, config, eval_key, **own, **kwargs)

    def get_meta(self):
        """The headline numbers, readable without loading the results."""
        return {"protocol": self.config.protocol, **{h["key"].replace("/", ":"): h["value"] for h in self.headlines}}

    def report(self, classes=None) -> dict[str, Any]:
        """Everything aggregated, unrounded; beside it precision and recall of each label, as FiftyOne reports them.

        The Model Evaluation panel draws the labels' numbers and breaks without them. Inside ``use_subset`` they are those of
        the subset.
        """
        return {**super().report(classes=classes), **self.summary}

    def print_report(self, classes=None, digits=3) -> None:
        """Shows the headline numbers and the groups as tables."""
        from .report import print_report

        print_report(self, digits=digits)

    def metrics(self, *args, **kwargs) -> dict[str, Any]:
        """FiftyOne's metrics over objects plus the headline numbers; inside ``use_subset`` those of the subset."""
        metrics = super().metrics(*args, **kwargs)
        if self.has_subset and self.key is not None:
            for headline in self.headlines:
                if headline["mean_of"]:
                    metrics[headline["key"]] = self.samples.mean(f"{self.key}_{headline['mean_of']}")
                elif headline.get("ratio_of"):
                    above, below = (self.samples.sum(f"{self.key}_{name}") for name in headline["ratio_of"])
                    metrics[headline["key"]] = above / below if below else None
                else:
                    metrics.pop(headline["key"], None)
        return metrics


def evaluate_referring(
    samples: SampleCollection,
    pred_field: str,
    gt_field: str = "ground_truth",
    eval_key: str | None = None,
    method: str | type[ReferringEvaluationConfig] = "humanref",
    protocol: str | None = None,
    **options: Any,
) -> ReferringResults:
    """Scores predictions with a benchmark's own metric and registers the run.

    With an ``eval_key`` K, every sample gets K_score and the method's other fields, K_tp/K_fp/K_fn, K_failure (why it is
    not right), every object ``K`` ("tp", "fp", "fn"), ``K_id`` and ``K_iou``; the run appears in the App's Model
    Evaluation panel and can be loaded, renamed and deleted with its fields. All is written in bulk.

    Args:
        samples: a dataset or view of images; a view grouped by a field stands for all its samples. Image sizes that it does not
            know yet are read from the files
        pred_field: the predictions; None on a sample means "not predicted" and is counted as missing
        gt_field: the true targets; an empty Detections means that nobody matches, None that nobody has said: such samples
            are left out
        eval_key: name of the run; None only returns the results
        method: "humanref", "grec", "gres", "greg", or a config class
        protocol: "official" (the authors' evaluator, number for number; the default) or "paper"
        **options: the method's options, see its config class

    Returns:
        a :class:`ReferringResults`

    Raises:
        ConfigError: for fields and options that make no sense, and for the name of a run that scored something else
        DataError: for samples that cannot be scored
    """
    samples = flat_images(samples)
    config = config_class(method)(pred_field, gt_field, protocol=protocol, **options)
    run = config.build()
    run.ensure_requirements()
    if eval_key is not None and not can_replace(samples._dataset, eval_key, config):
        raise ConfigError(
            f"run {eval_key!r} exists and scored another field, or with another metric", where=samples._dataset.name,
            advice="Choose another eval_key, or delete_evaluation() first.",
        )  # fmt: skip
    samples.exists("metadata.width", False).compute_metadata(skip_failures=True, warn_failures=False, progress=False)
    run.register_run(samples, eval_key)
    try:
        run.register_samples(samples, eval_key)
        matches = [m for of_sample in run._matches.values() for m in of_sample]
        results = run.generate_results(samples, matches, eval_key=eval_key)
    except BaseException:
        if eval_key is not None:  # a run that never finished would show as pending for ever
            samples._dataset.delete_evaluation(eval_key)
        raise
    if eval_key is not None:
        run.save_run_results(samples, eval_key, results)
        statistics.of_evaluation(run._graded, eval_key, run._columns, run._scored, results.headlines, results.summary)
        run.add_fields_to_sidebar_group(samples, eval_key, omit_fields=(pred_field, gt_field))
        samples._dataset.reload()
    return results


def annotated(samples: SampleCollection, gt_field: str) -> SampleCollection:
    """The samples whose ground truth is known, though it may be that nobody matches.

    Raises:
        ConfigError: there is no such field
        DataError: there is no such sample
    """
    label_list_path(samples, gt_field, (fo.Detections,))
    known = samples.exists(gt_field)
    number = len(known)
    if not number and len(samples):
        raise DataError(
            f"no sample has ground truth in {gt_field!r}", where=samples._dataset.name,
            expected="Detections, empty ones where nobody matches", found="None throughout",
        )  # fmt: skip
    return samples if number == len(samples) else known


def can_replace(dataset: fo.Dataset, eval_key: str, config: ReferringEvaluationConfig) -> bool:
    """Whether a run may take this name: FiftyOne replaces one only with one of the same method and fields."""
    if eval_key not in dataset.list_evaluations():
        return True
    try:
        config.build().validate_run(dataset, eval_key)
    except ValueError:
        return False
    return True


def config_class(method: str | type[ReferringEvaluationConfig]) -> type[ReferringEvaluationConfig]:
    """The config class of a method name; raises :class:`ConfigError` for unknown ones."""
    if isinstance(method, type):
        return method
    if method not in METHODS:
        raise ConfigError("unknown evaluation method", expected=", ".join(sorted(METHODS)), found=method)
    module, _, name = METHODS[method].partition(":")
    return getattr(importlib.import_module(module), name)


def _matches(columns: Columns, scored: Scored) -> dict[str, list[tuple]]:
    """FiftyOne's match tuples of every sample.

    FiftyOne counts a match as right when both labels are equal, but a referring answer is right whatever its label says
    ("person" for a "kid"): a match has the label of its target. What was wrongly chosen keeps its own label if some target has
    that label too, else it is a :data:`REFERENT`.
    """
    known = {name for names in columns.gt.names for name in names}

    def truth(i: int, g: int) -> str:
        return columns.gt.names[i][g] or REFERENT

    def wrong(i: int, p: int) -> str:
        name = columns.pred.names[i][p]
        return name if name and name in known else REFERENT

    result: dict[str, list[tuple]] = {}
    for i, sample_id in enumerate(columns.sample_ids):
        gt_ids, pred_ids, scores = columns.gt.ids[i], columns.pred.ids[i], columns.pred.scores[i]
        pairs: list[tuple[int | None, int | None, float | None]] = []
        if scored.gt_match is not None:
            match, iou = scored.gt_match[i].tolist(), scored.gt_iou[i].tolist()
            pairs += [(g, p, iou[g]) if p >= 0 else (g, None, None) for g, p in enumerate(match)]
            kept = np.flatnonzero(scored.kept(i, len(pred_ids))).tolist()
            pairs += [(None, p, None) for p in kept if p not in set(match)]
        elif scored.whole is not None and scored.whole[i] is not None:
            target, answer = 0 if gt_ids else None, 0 if pred_ids else None
            if scored.whole[i] and gt_ids and pred_ids:
                pairs.append((target, answer, scored.gt_iou[i]))
            else:
                pairs += [(target, None, None)] * bool(gt_ids) + [(None, answer, None)] * bool(pred_ids)
        result[sample_id] = [
            (
                None if g is None else truth(i, g),
                None if p is None else wrong(i, p) if g is None else truth(i, g),
                iou,
                None if p is None else scores[p],
                None if g is None else gt_ids[g],
                None if p is None else pred_ids[p],
            )
            for g, p, iou in pairs
        ]
    return result


def _write_fields(samples, config, eval_key: str, columns: Columns, scored: Scored) -> None:
    """Writes sample fields and object attributes, one update per sample."""
    dataset = samples._dataset
    lists = (columns.gt.list_path, columns.pred.list_path)
    positions = None if isinstance(samples, fo.Dataset) else documents.Positions(dataset, columns.sample_ids, lists)
    fields = {f"{eval_key}_{suffix}": [_value(v) for v in values] for suffix, values in scored.fields.items()}
    with documents.SampleUpdater(dataset) as updater:
        for i, sample_id in enumerate(columns.sample_ids):
            update = {name: values[i] for name, values in fields.items()}
            if scored.gt_match is not None:
                _object_update(update, eval_key, columns, scored, i, positions)
            elif scored.whole is not None:
                _whole_update(update, eval_key, columns, scored.whole[i], i, positions)
            updater.set(sample_id, update)


def _object_update(update, eval_key, columns: Columns, scored: Scored, i: int, positions) -> None:
    gt, pred = columns.gt, columns.pred
    match, iou = scored.gt_match[i].tolist(), scored.gt_iou[i].tolist()
    of_pred = {p: g for g, p in enumerate(match) if p >= 0}
    tp = len(of_pred)
    kept = scored.kept(i, len(pred.ids[i]))
    update[f"{eval_key}_tp"], update[f"{eval_key}_fp"] = tp, int(kept.sum()) - tp
    update[f"{eval_key}_fn"] = len(match) - tp
    for labels, partner_of, partners, wrong in (
        (gt, {g: p for g, p in enumerate(match) if p >= 0}, pred, "fn"),
        (pred, of_pred, gt, "fp"),
    ):
        for k, label_id in enumerate(labels.ids[i]):
            at = k if positions is None else positions(labels.list_path, label_id)
            if at is None:
                continue
            prefix = f"{labels.list_path}.{at}.{eval_key}"
            partner = partner_of.get(k)
            if labels is pred and not kept[k]:
                update[prefix] = None  # not part of the answer
            else:
                update[prefix] = wrong if partner is None else "tp"
            update[f"{prefix}_id"] = None if partner is None else partners.ids[i][partner]
            update[f"{prefix}_iou"] = None if partner is None else iou[k if labels is gt else partner]


def _whole_update(update, eval_key, columns: Columns, right: bool | None, i: int, positions) -> None:
    """Marks of an answer that is one object, whatever the number of its parts; every part says whether the whole is right."""
    if right is None:
        return
    targets, answers = bool(columns.gt.ids[i]), bool(columns.pred.ids[i])
    found = right and targets and answers
    update[f"{eval_key}_tp"] = int(found)
    update[f"{eval_key}_fp"], update[f"{eval_key}_fn"] = int(answers and not found), int(targets and not found)
    for labels, wrong in ((columns.gt, "fn"), (columns.pred, "fp")):
        for k, label_id in enumerate(labels.ids[i]):
            at = k if positions is None else positions(labels.list_path, label_id)
            if at is not None:
                update[f"{labels.list_path}.{at}.{eval_key}"] = "tp" if found else wrong


def _value(value: Any) -> Any:
    """A value as the database stores it: plain Python, None for NaN."""
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and math.isnan(value) else value


def _plain(value: Any) -> Any:
    """JSON values only: arrays and numpy numbers converted, NaN as None, keys as text."""
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple | np.ndarray):
        return [_plain(v) for v in value]
    return _value(value)

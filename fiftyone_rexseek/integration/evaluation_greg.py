"""GREG as FiftyOne runs: ``method="greg"`` scores a text field of generated expressions.

An item is a set of targets in an image: its references are the expressions of all samples that mean it, its hypothesis
the generated text of the first of these samples that has one. Every sample gets the scores of its item.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import fiftyone as fo
import numpy as np

from ..errors import ConfigError
from ..metrics.greg import MULTI, SINGLE, GregItem, GregResult, evaluate_greg
from .columns import Columns, LabelColumns, label_list_path
from .evaluation import Headline, MethodSpec, ReferringEvaluation, ReferringEvaluationConfig, Scored
from .schema import add_sample_fields

_FIELDS = {
    "score": (fo.FloatField, "METEOR of the generated expression against all expressions of these targets"),
    "meteor": (fo.FloatField, "METEOR, within the whole set"),
    "cider": (fo.FloatField, "CIDEr, within the whole set, 0 to 10"),
}


def score(columns: Columns, options: Mapping[str, Any]) -> Scored:
    """Scores texts with :mod:`fiftyone_rexseek.metrics.greg`."""
    keys = columns.values["targets"]
    references: dict[Any, list[str]] = {}
    hypotheses: dict[Any, str] = {}
    for key, expression, text in zip(keys, columns.values["expression"], columns.values["generated"]):
        if key is None:
            continue
        if expression:
            references.setdefault(key, []).append(expression)
        if text is not None:
            hypotheses.setdefault(key, text)
    items = [
        GregItem(key, SINGLE if len(key[1]) == 1 else MULTI, tuple(references[key]), text)
        for key, text in hypotheses.items()
        if key in references
    ]
    result = evaluate_greg(items)
    place = {item.key: i for i, item in enumerate(items)}
    rows = [None if key is None else place.get(key) for key in keys]
    meteor = [np.nan if r is None else result.overall.meteor_per_item[r] for r in rows]
    cider = [np.nan if r is None else result.overall.cider_per_item[r] for r in rows]
    missing = sum(key not in hypotheses for key in references)
    summary = {
        "metric": "greg",
        **result.summary(),
        "num_items": len(items),
        "missing": {"count": missing, "policy": "skip"},
    }
    fields = {"score": meteor, "meteor": meteor, "cider": cider}
    return Scored(fields, summary, _headlines(result, missing), worst_field="score")


def _headlines(result: GregResult, missing: int) -> list[Headline]:
    corpora = {"": result.overall, **{f", {name}": s for name, s in result.subsets.items()}}
    names = {SINGLE: "single target", MULTI: "several targets"}
    headlines = []
    for suffix, scores in corpora.items():
        subset = suffix[2:]
        key, label = (f"targets/{subset.lower()}_", f", {names[subset]}") if subset else ("", "")
        headlines.append(Headline(f"{key}meteor", f"METEOR{label}", scores.meteor))
        headlines.append(Headline(f"{key}cider", f"CIDEr{label}", scores.cider))
    headlines.append(Headline("missing", "Target sets without a text", missing, lower_is_better=True))
    return headlines


class GREGEvaluation(ReferringEvaluation):
    """A run over a text field: there are no predicted objects to match."""

    def register_samples(self, samples, eval_key, dynamic=True):
        """Reads the texts, scores them and declares the run's fields."""
        self.gt_field, self.pred_field = self.config.gt_field, self.config.pred_field
        self._columns = read_texts(samples, self.config)
        self._scored = self.spec.score(self._columns, self.config.options())
        self._matches = {sample_id: [] for sample_id in self._columns.sample_ids}
        if eval_key is not None:
            fields = {f"{eval_key}_{s}": {"ftype": t, "description": d} for s, (t, d) in self.spec.fields.items()}
            add_sample_fields(samples._dataset, fields)

    def get_fields(self, samples, eval_key, include_custom_metrics=True):
        return self._sample_fields(samples, eval_key)

    def cleanup(self, samples, eval_key):
        from . import statistics

        fields = self._sample_fields(samples._dataset, eval_key)
        statistics.forget(samples._dataset, eval_key)
        samples._dataset.delete_sample_fields(fields, error_level=1)
        samples._delete_empty_sidebar_group(eval_key)

    def rename(self, samples, eval_key, new_eval_key):
        own = self._sample_fields(samples._dataset, eval_key)
        if own:
            samples._dataset.rename_sample_fields({name: new_eval_key + name[len(eval_key) :] for name in own})


def read_texts(samples, config) -> Columns:
    """Texts and target sets as columns; the label columns hold what statistics ask for, and no predictions."""
    text_field, gt_field = config.pred_field, config.gt_field
    if not isinstance(samples.get_field(text_field), fo.StringField):
        raise ConfigError(
            "GREG scores texts", expected="a string field with generated expressions", found=text_field,
            advice="Generate them first, or give the name of the field that holds them.",
        )  # fmt: skip
    path = label_list_path(samples, gt_field, (fo.Detections,))
    schema = samples.get_field_schema()
    image = "image_id" if "image_id" in schema else "filepath"
    fields = ["id", image, "expression", text_field, gt_field, f"{path}.bounding_box", f"{path}.object_id"]
    if samples.get_field(f"{path}.object_id") is None:
        fields = fields[:-1]
    fields.remove(gt_field)
    ids, images, expressions, texts, boxes, *objects = samples.values(fields)
    objects = objects[0] if objects else [None] * len(ids)
    keys = []
    for image_id, of_sample, numbers in zip(images, boxes, objects):
        if not of_sample:
            keys.append(None)  # nobody matches, so there is nothing to describe
            continue
        numbers = numbers or [None] * len(of_sample)
        keys.append((image_id, frozenset(tuple(b) if n is None else n for n, b in zip(numbers, of_sample))))
    n = len(ids)
    nothing = [np.zeros((0, 4))] * n
    gt = LabelColumns(
        path,
        present=[b is not None for b in boxes],
        ids=[["?"] * len(b or ()) for b in boxes],
        boxes_xyxy=[np.asarray(b or np.zeros((0, 4)), dtype=np.float64).reshape(-1, 4) for b in boxes],
    )
    pred = LabelColumns(path, [t is not None for t in texts], [[]] * n, nothing, scores=[[]] * n)
    values = {"targets": keys, "expression": expressions, "generated": texts, "image_id": images}
    return Columns(ids, [1] * n, [1] * n, gt, pred, None, pred.present, [None] * n, values)


SPEC = MethodSpec(name="greg", label="GREG", score=score, fields=_FIELDS, protocols=("official",), options={}, scores_texts=True)


class GREGEvaluationConfig(ReferringEvaluationConfig):
    """GREG: METEOR and CIDEr of a text field, overall and for single and several targets as corpora of their own.

    ``pred_field`` is a string field with generated expressions; needs pycocoevalcap and Java.
    """

    spec = SPEC

    @property
    def run_cls(self):
        return GREGEvaluation

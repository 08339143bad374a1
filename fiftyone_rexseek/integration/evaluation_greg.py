"""GREG as FiftyOne runs: ``method="greg"`` scores a text field of generated expressions.

An item is a set of targets in an image: its references are the expressions of all samples that mean it, its hypothesis
the generated text of the first of these samples that has one. Every sample gets the scores of its item.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import fiftyone as fo
import numpy as np

from ..metrics.greg import MULTI, SINGLE, GregItem, GregResult, evaluate_greg
from . import statistics
from .columns import Columns
from .evaluation import Headline, MethodSpec, ReferringEvaluation, ReferringEvaluationConfig, Scored
from .schema import add_sample_fields
from .text_columns import read_texts

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
        self._graded, self._columns = samples, read_texts(samples, self.config)
        self._scored = self.spec.score(self._columns, self.config.options())
        self._matches = {sample_id: [] for sample_id in self._columns.sample_ids}
        if eval_key is not None:
            fields = {f"{eval_key}_{s}": {"ftype": t, "description": d} for s, (t, d) in self.spec.fields.items()}
            add_sample_fields(samples._dataset, fields)

    def get_fields(self, samples, eval_key, include_custom_metrics=True):
        return self._sample_fields(samples, eval_key)

    def cleanup(self, samples, eval_key):
        fields = self._sample_fields(samples._dataset, eval_key)
        statistics.forget(samples._dataset, eval_key)
        samples._dataset.delete_sample_fields(fields, error_level=1)
        samples._delete_empty_sidebar_group(eval_key)

    def rename(self, samples, eval_key, new_eval_key):
        own = self._sample_fields(samples._dataset, eval_key)
        if own:
            samples._dataset.rename_sample_fields({name: new_eval_key + name[len(eval_key) :] for name in own})


SPEC = MethodSpec(name="greg", label="GREG", score=score, fields=_FIELDS, protocols=("official",), options={}, scores_texts=True)


class GREGEvaluationConfig(ReferringEvaluationConfig):
    """GREG: METEOR and CIDEr of a text field, overall and for single and several targets as corpora of their own.

    ``pred_field`` is a string field with generated expressions; needs pycocoevalcap and Java.
    """

    spec = SPEC

    @property
    def run_cls(self):
        return GREGEvaluation

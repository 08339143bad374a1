"""HumanRef's metrics as FiftyOne runs: ``method="humanref"``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import fiftyone as fo
import numpy as np

from ..metrics import humanref
from ..metrics.baselines import baseline_choices
from ..metrics.failures import Cause, count_causes, failure_causes
from ..metrics.points import rectangle_rle
from .columns import Columns
from .evaluation import Headline, MethodSpec, ReferringEvaluationConfig, Scored

_FIELDS = {
    "score": (fo.FloatField, "Mean DensityF1; on rejection samples 1 if nothing was chosen, else 0"),
    "success": (fo.BooleanField, "Exactly the right objects at IoU 0.5, or rightly none"),
    "failure": (fo.StringField, "Why the answer is not right; 'exact' when it is"),
    "rejection": (fo.FloatField, "1 if rightly nothing was chosen, 0 if something was; empty on samples with targets"),
    "recall": (fo.FloatField, "Recall at IoU 0.5; empty on rejection samples"),
    "precision": (fo.FloatField, "Precision at IoU 0.5; empty on rejection samples"),
    "f1": (fo.FloatField, "F1 at IoU 0.5; empty on rejection samples"),
    "density_f1": (fo.FloatField, "DensityF1 at IoU 0.5; empty on rejection samples"),
    "recall_mean": (fo.FloatField, "Recall averaged over IoU 0.5 to 0.95"),
    "precision_mean": (fo.FloatField, "Precision averaged over IoU 0.5 to 0.95"),
    "density_f1_mean": (fo.FloatField, "DensityF1 averaged over IoU 0.5 to 0.95"),
}


def score(columns: Columns, options: Mapping[str, Any]) -> Scored:
    """Scores boxes or points with :mod:`fiftyone_rexseek.metrics.humanref`."""
    domains = columns.values["domain"]
    rejection = humanref.rejection_flags(domains, columns.gt.counts)
    scores = _scores(columns, rejection, columns.pred, columns.answered, options)
    summary = humanref.summarize(scores, domains, columns.values["sub_domain"])
    if options["baselines"] and columns.candidates is not None and not columns.pred.is_points:
        summary["baselines"] = _baselines(columns, rejection, options)
    positive_exact = (scores.recall_50 == 1) & (scores.precision_50 == 1)
    success = np.where(rejection, scores.rejection_correct == 1, positive_exact & scores.answered)
    causes = _failures(columns, scores)
    summary["failures"] = count_causes(causes)
    fields = {
        "score": np.where(rejection, scores.rejection_correct, scores.density_f1_mean),
        "success": success,
        "failure": causes,
        "rejection": scores.rejection_correct,
        "recall": scores.recall_50,
        "precision": scores.precision_50,
        "f1": scores.f1_50,
        "density_f1": scores.density_f1_50,
    }
    if not scores.is_point:
        fields.update(
            recall_mean=scores.recall_mean,
            precision_mean=scores.precision_mean,
            density_f1_mean=scores.density_f1_mean,
        )
    cuts = scores.answer_offsets[1:-1]
    return Scored(
        fields=fields,
        summary=summary,
        headlines=_headlines(summary),
        gt_match=np.split(scores.answer_match, cuts),
        gt_iou=np.split(scores.answer_iou, cuts),
        worst_field="score",
    )


def _scores(columns: Columns, rejection, pred, answered, options) -> humanref.SampleScores:
    candidates = columns.candidate_boxes()
    common = dict(
        num_candidates=columns.gt.counts if candidates is None else [len(c) for c in candidates],
        is_rejection=rejection,
        answered=answered,
        protocol=options["protocol"],
        missing=options["missing"],
    )
    if not pred.is_points:
        return humanref.score_boxes(columns.gt.boxes_xyxy, pred.boxes_xyxy, **common)
    # a target without a mask is stood in for by its box, as when files are scored
    answer_masks = [
        [rectangle_rle(box, (h, w)) if rle is None else rle for rle, box in zip(rles, boxes)]
        for rles, boxes, w, h in zip(columns.gt.segmentations, columns.gt.boxes_xyxy, columns.widths, columns.heights)
    ]
    return humanref.score_points(answer_masks, pred.points_xy, **common)


def _headlines(summary: Mapping[str, Any]) -> list[Headline]:
    overall = summary["overall"]
    suffix = "_mean" if "density_f1_mean" in overall else ""
    names = {"density_f1": "DensityF1", "recall": "Recall", "precision": "Precision"}
    rejections = summary["rejection_count"]
    headlines = []
    for key, label in names.items():
        if suffix:
            mean = overall[f"{key}_mean"]
            headlines.append(Headline(f"{key}_mean", f"{label} 0.5:0.95", mean, mean_of=f"{key}_mean"))
            headlines.append(Headline(f"{key}_50", f"{label} at 0.5", overall[f"{key}_50"], mean_of=key))
        else:
            headlines.append(Headline(key, f"{label} (points)", overall[key], mean_of=key))
    rate = summary["rejection_correct"] / rejections if rejections else None
    headlines.append(Headline("rejection_accuracy", "Rejection accuracy", rate, mean_of="rejection"))
    missing = summary["missing"]
    headlines.append(Headline("missing", "Missing answers", missing["count"], lower_is_better=True))
    if missing["rejection_count"]:
        honest = missing["rejection_correct_without_credit"] / rejections
        headlines.append(Headline("rejection_without_credit", "Rejection accuracy, missing = wrong", honest))
    for group in ("domain", "sub_domain", "box_count"):
        for name, values in summary[group].items():
            key = f"{group}/{''.join(c if c.isalnum() else '_' for c in name)}"
            label = f"{name} answers" if group == "box_count" else name
            headlines.append(Headline(key, f"DensityF1, {label}", values[f"density_f1{suffix}"]))
    return headlines


def _baselines(columns: Columns, rejection: np.ndarray, options: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Headline numbers of answers that take no model, on the same samples."""
    boxes = columns.candidates.boxes_xyxy
    counts = columns.candidates.counts
    positive = columns.gt.counts[~rejection]
    k = max(1, round(float(positive.mean()))) if len(positive) else 1
    result = {}
    for name, baseline in (("all candidates", "all"), ("none", "none"), (f"random {k}", "random")):
        choices = baseline_choices(counts, baseline, k=k)
        scores = humanref.score_boxes(
            columns.gt.boxes_xyxy,
            [b[c] for b, c in zip(boxes, choices)],
            counts,
            is_rejection=rejection,
            protocol=options["protocol"],
        )
        summary = humanref.summarize(scores)
        result[name] = {h.label: h.value for h in _headlines(summary) if not h.key.startswith(("missing", "box_count"))}
    return result


def _failures(columns: Columns, scores: humanref.SampleScores) -> list[str | None]:
    outcomes = [o or ("selected" if a else None) for o, a in zip(columns.outcomes, columns.answered)]
    if not columns.pred.is_points:
        causes = failure_causes(columns.gt.boxes_xyxy, columns.pred.boxes_xyxy, outcomes, columns.choices())
        return [None if c is None else c.value for c in causes]
    return [
        _point_cause(*counts, outcome)
        for *counts, outcome in zip(
            scores.num_answers.tolist(), columns.pred.counts.tolist(), scores.num_matches.tolist(), outcomes
        )
    ]


def _point_cause(answers: int, predictions: int, hits: int, outcome: str | None) -> str | None:
    """Why a sample's points are right or wrong; a point has no extent, so there are fewer causes than for boxes."""
    if outcome is None:
        return None
    if outcome in (Cause.UNPARSED.value, Cause.FAILED.value):
        return outcome
    if not answers:
        cause = Cause.HALLUCINATED if predictions else Cause.EXACT
    elif not predictions:
        cause = Cause.WRONGLY_REJECTED
    elif hits == answers:
        cause = Cause.EXACT if predictions == hits else Cause.EXTRA
    else:
        cause = Cause.WRONG_INSTANCE if predictions > hits else Cause.MISSED
    return cause.value


SPEC = MethodSpec(
    name="humanref",
    label="HumanRef",
    score=score,
    fields=_FIELDS,
    protocols=humanref.PROTOCOLS,
    options={"missing": "official", "baselines": True},
    segmentations="points",
)


class HumanRefEvaluationConfig(ReferringEvaluationConfig):
    """HumanRef's recall, precision, DensityF1 and rejection accuracy.

    Args:
        missing: "official" scores a missing answer as the official script does (on a rejection sample that is a correct
            rejection) and reports how many there were; "wrong" gives no credit; "error" refuses
        baselines: whether the trivial answers (all candidates, none, random) are scored beside it
    """

    spec = SPEC

"""gRefCOCO's metrics as FiftyOne runs: ``method="grec"``, ``method="gres"``."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from itertools import compress
from typing import Any

import fiftyone as fo
import numpy as np

from .. import masks
from ..datasets.rle_check import rle_problems
from ..errors import ConfigError, ProblemLog
from ..metrics.baselines import BASELINES, baseline_choices
from ..metrics.coco_ap import coco_average_precision
from ..metrics.failures import Cause, count_causes, failure_causes
from ..metrics.grec import Answer, GrecConfig, GrecResult, evaluate_grec
from ..metrics.gres import GresConfig, GresResult, MaskAnswer, MaskTruth, evaluate_gres
from ..metrics.points import rectangle_rle
from ..metrics.referring_baselines import TITLES
from ..metrics.target_masks import TargetMasks, resize
from ..referring import Outcome, Target
from .columns import Columns, LabelColumns
from .evaluation import Headline, MethodSpec, ReferringEvaluationConfig, Scored
from .evaluation_greg import GREGEvaluationConfig
from .selections import COUNT, ROW

_VALUES = ("image_id", "expression_id", "expression", "domain", "sub_domain", "num_targets")

_GREC_FIELDS = {
    "score": (fo.FloatField, "F1; 1 if rightly nothing was predicted, 0 if something was"),
    "success": (fo.BooleanField, "Exactly the right boxes, or rightly none"),
    "failure": (fo.StringField, "Why the answer is not right; 'exact' when it is"),
    "pr_f1": (fo.FloatField, "1 if F1 is 1, else 0; its mean is Pr@(F1=1)"),
    "precision": (fo.FloatField, "Precision of the kept boxes"),
    "recall": (fo.FloatField, "Recall of the kept boxes"),
    "t_acc": (fo.FloatField, "1 if something was predicted; empty on no-target samples"),
    "n_acc": (fo.FloatField, "1 if nothing was predicted; empty on samples with targets"),
}


def score_grec(columns: Columns, options: Mapping[str, Any]) -> Scored:
    """Scores boxes with :mod:`fiftyone_rexseek.metrics.grec`."""
    if columns.pred.is_points:
        raise ConfigError("GREC scores boxes", expected="a Detections field", found="Keypoints")
    config = GrecConfig(
        options["protocol"], options["output"], options["score_threshold"], options["k"], missing=options["missing"]
    )
    count_field, counts = _counts(columns)
    if config.output == "count":
        _check_counts(count_field, counts, columns.answered)
    answers = list(box_answers(columns, counts if config.output == "count" else [None] * len(columns)))
    result = evaluate_grec(columns.gt.boxes_xyxy, answers, config)
    summary = result.as_dict()
    summary["missing"] = {"count": summary["num_unanswered"], "policy": config.missing}
    if config.output in ("threshold", "top-k") and any(_is_count(c) and a for c, a in zip(counts, columns.answered)):
        summary["notes"] = [_COUNT_NOTE.format(field=count_field, rule=_RULES[config.output].format(**options))]
    if options["average_precision"]:
        areas = [
            [(b[2] - b[0]) * (b[3] - b[1]) if a is None else a for a, b in zip(row, boxes.tolist())]
            for row, boxes in zip(columns.gt.areas, columns.gt.boxes_xyxy)
        ]
        counted = [list(compress(rows, result.counted)) for rows in (columns.gt.boxes_xyxy, answers, areas, columns.gt.iscrowd)]
        boxes, given, areas, iscrowd = counted
        summary["coco_stats_all_boxes"] = coco_average_precision(
            boxes, given, areas=areas, iscrowd=iscrowd, protocol=config.protocol
        )
    if options["baselines"] and columns.candidates is not None:
        summary["baselines"] = _grec_baselines(columns, config, result.counted)
    c = result.columns
    causes = _grec_causes(columns, result)
    summary["failures"] = count_causes(causes)
    empty = c.num_targets == 0
    spoke, silent = c.answered & (c.num_predicted > 0), c.answered & (c.num_predicted == 0)
    out = ~result.counted  # left out of every figure: no values
    fields = {
        "score": np.where(out, np.nan, c.f1),
        "success": [None if o else bool(s) for s, o in zip(c.success, out)],
        "failure": causes,
        "pr_f1": np.where(out, np.nan, c.success),
        "precision": np.where(out, np.nan, c.precision),
        "recall": np.where(out, np.nan, c.recall),
        "t_acc": np.where(empty | out, np.nan, spoke),
        "n_acc": np.where(empty & ~out, silent, np.nan),
    }
    iou = [_scores_of_targets(m, s) for m, s in zip(c.target_match, c.match_score)]
    return Scored(fields, summary, _grec_headlines(summary), c.target_match, iou, "score", c.kept)


_RULES = {"threshold": "confidence of at least {score_threshold:g}", "top-k": "rank up to {k}"}
_COUNT_NOTE = (
    "The model counts the targets itself ('{field}'). This score keeps the boxes with a {rule}, whatever the count says; "
    "output='count' keeps as many boxes as the model counts."
)


def _counts(columns: Columns) -> tuple[str, list[Any]]:
    """Name and values of the field with the model's counts; None throughout where there is no such field."""
    return next((name, values) for name, values in columns.values.items() if name.endswith(COUNT))


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _check_counts(field: str, counts: list[Any], answered: list[bool]) -> None:
    without = sum(a and not _is_count(c) for c, a in zip(counts, answered))
    if without:
        raise ConfigError(
            "output='count' needs the model's own count of every answer",
            expected=f"whole numbers in the field '{field}', 6 = more than five",
            found=f"{without} of {sum(answered)} answers without",
            advice="Models that count write it when they are applied (again); for others use output='threshold' or 'all'.",
        )


def box_answers(columns: Columns, counts: list[int | None]) -> Iterator[Answer | None]:
    """The labels' boxes with their confidences, one answer per sample; None where there is none to score."""
    rows = zip(columns.pred.boxes_xyxy, columns.pred.scores, counts, columns.answered)
    for boxes, scores, count, answered in rows:
        # a box without confidence is what its model answered, without a doubt that could be measured
        certain = [1.0 if s is None or s != s else s for s in scores]
        yield Answer(boxes, np.array(certain, dtype=np.float64), count) if answered else None


def _scores_of_targets(match: np.ndarray, scores: np.ndarray) -> np.ndarray:
    found = np.zeros(len(match))
    found[match >= 0] = scores[match[match >= 0]]
    return found


def _grec_causes(columns: Columns, result: GrecResult) -> list[str | None]:
    outcomes = _outcomes(columns)
    chosen = [boxes[kept] for boxes, kept in zip(columns.pred.boxes_xyxy, result.columns.kept)]
    causes = failure_causes(columns.gt.boxes_xyxy, chosen, outcomes, columns.choices(), matching="best_first")
    # the official protocol's GIoU may refuse what the plain IoU of the causes accepts
    return [
        None if cause is None
        else Cause.LOOSELY_LOCALISED.value if cause is Cause.EXACT and not right
        else Cause.EXACT.value if right
        else cause.value
        for cause, right in zip(causes, result.columns.success)
    ]  # fmt: skip


def _outcomes(columns: Columns) -> list[str | None]:
    return [o or (Outcome.SELECTED.value if a else None) for o, a in zip(columns.outcomes, columns.answered)]


def _grec_headlines(summary: Mapping[str, Any]) -> list[Headline]:
    headlines = [
        Headline("pr_f1", "Pr@(F1=1)", summary["F1_score"], mean_of="pr_f1"),
        Headline("t_acc", "T-acc", summary["T_acc"], mean_of="t_acc"),
        Headline("n_acc", "N-acc", summary["N_acc"], mean_of="n_acc"),
    ]
    ap = summary.get("coco_stats_all_boxes")
    if ap and ap["AP"] >= 0:
        headlines.append(Headline("ap", "AP, all boxes", ap["AP"]))
    headlines.append(Headline("missing", "Missing answers", summary["num_unanswered"], lower_is_better=True))
    for name, values in summary["subsets"].items():
        if values["n"]:
            headlines.append(Headline(f"targets/{name}", f"Pr@(F1=1), {name.replace('_', ' ')}", values["F1_score"]))
    return headlines


def _baseline_choices(columns: Columns) -> Iterator[tuple[str, list[np.ndarray]]]:
    """Title and chosen candidates of every trivial answer; the random one chooses as many as there are on average."""
    counts = columns.gt.counts[columns.gt.counts > 0]
    k = max(1, round(float(counts.mean()))) if len(counts) else 1
    for name in BASELINES:
        title = TITLES[name].replace(" k", f" {k}")
        yield title, baseline_choices(columns.candidates.counts, name, k=k)


def _grec_baselines(columns: Columns, config: GrecConfig, counted: np.ndarray) -> dict[str, dict[str, Any]]:
    plain = GrecConfig(config.protocol, "all")
    targets = list(compress(columns.gt.boxes_xyxy, counted))
    result = {}
    for title, chosen in _baseline_choices(columns):
        boxes = (b[c] for b, c in zip(columns.candidates.boxes_xyxy, chosen))
        answers = [Answer(b, np.ones(len(b))) for b in compress(boxes, counted)]
        summary = evaluate_grec(targets, answers, plain).as_dict()
        result[title] = {h.label: h.value for h in _grec_headlines(summary) if h.key != "missing"}
    return result


GREC = MethodSpec(
    name="grec",
    label="GREC",
    score=score_grec,
    fields=_GREC_FIELDS,
    options={
        "output": "threshold",
        "score_threshold": 0.7,
        "k": 1,
        "missing": "wrong",
        "baselines": True,
        "average_precision": True,
    },
    value_fields=(*_VALUES, "{pred}" + COUNT),
)


class GRECEvaluationConfig(ReferringEvaluationConfig):
    """GREC: Pr@(F1=1, IoU>=0.5), T-acc, N-acc and COCO AP, per single-, multi- and no-target subset.

    Protocols: "official" (generalized IoU in float32, the authors' script) and "paper" (IoU).

    Args:
        output: which boxes are the answer: "threshold" (``confidence >= score_threshold``, the authors' 0.7; boxes
            without confidence are kept), "top-k", "count" (as many of the best as the model itself counts, in the field
            ``<pred_field>_count``; where it counts more than five, those of the threshold), "all". The default is the authors'
            script, also for a model that has chosen its boxes by its count; the report then says so under "notes"
        score_threshold, k: for these
        missing: what an expression without an answer is: "wrong", "skip" or "error"
        baselines: whether trivial answers are scored beside it
        average_precision: whether COCO AP is computed, over all boxes (slow on whole splits)
    """

    spec = GREC


_GRES_FIELDS = {
    "score": (fo.FloatField, "IoU of the merged masks; 1 if rightly nothing was predicted"),
    "success": (fo.BooleanField, "IoU at least 0.7, or rightly nothing"),
    "failure": (fo.StringField, "Why the answer is not right; 'exact' from IoU 0.7"),
    "iou": (fo.FloatField, "IoU as it enters gIoU"),
    "intersection": (fo.IntField, "Pixels in both masks, as they enter cIoU"),
    "union": (fo.IntField, "Pixels in either mask, as they enter cIoU"),
    "t_acc": (fo.FloatField, "1 if a target was predicted; empty on no-target samples"),
    "n_acc": (fo.FloatField, "1 if no target was predicted; empty on samples with targets"),
}


#: What is said of samples and answers that GRES cannot score, by kind of problem.
_MASK_NOTES = {
    "bad-target-mask": "Left out, because a target has no mask: {:,}.",
    "no-mask": "Answers that count as missing, because an object has no mask (GRES scores masks): {:,}.",
    "bad-mask": "Answers that count as missing, because their mask cannot be read: {:,}.",
    "wrong-mask-size": "Answers that count as missing, because their mask has another size: {:,}.",
}


def score_gres(columns: Columns, options: Mapping[str, Any]) -> Scored:
    """Scores merged masks with :mod:`fiftyone_rexseek.metrics.gres`."""
    if columns.pred.is_points:
        raise ConfigError("GRES scores masks", expected="a Detections field with masks", found="Keypoints")
    config = GresConfig(
        options["protocol"], options["size"], options["no_target"], options["min_pixels"], options["missing"]
    )
    log = ProblemLog()
    truth = list(_truths(columns, config, log))
    result = evaluate_gres(zip(truth, mask_answers(columns, config, log)), config, log)
    summary = result.as_dict()
    summary["missing"] = {"count": summary["num_unanswered"], "policy": config.missing}
    summary["problems"] = dict(log.counts)
    summary["notes"] = [note.format(log.counts[kind]) for kind, note in _MASK_NOTES.items() if log.counts[kind]]
    if options["baselines"] and columns.candidates is not None:
        summary["baselines"] = _gres_baselines(columns, result.counted_truths(truth), config)
    # samples whose target has no usable mask are left out, and keep empty fields
    graded = np.array([t is not None for t in truth], dtype=bool)
    c = result.columns
    empty = c.num_targets == 0
    spoke, silent = c.answered & ~c.predicted_no_target, c.answered & c.predicted_no_target
    out = ~c.answered if config.missing == "skip" else np.zeros(len(c.iou), dtype=bool)
    causes = _gres_causes(result, [o for o, g in zip(_outcomes(columns), graded) if g])
    summary["failures"] = count_causes(causes)
    own = {
        "score": np.where(out, np.nan, c.iou),
        "success": [None if o else bool(s) for s, o in zip(c.iou >= 0.7, out)],
        "failure": causes,
        "iou": np.where(out, np.nan, c.iou),
        "intersection": [None if o else int(v) for v, o in zip(c.intersection, out)],
        "union": [None if o else int(v) for v, o in zip(c.union, out)],
        "t_acc": np.where(empty | out, np.nan, spoke),
        "n_acc": np.where(empty & ~out, silent, np.nan),
    }
    fields = {name: _spread(values, graded) for name, values in own.items()}
    # a merged mask is one object
    return Scored(fields, summary, _gres_headlines(summary), gt_iou=fields["iou"], worst_field="score", whole=fields["success"])


def _spread(values, graded: np.ndarray) -> list[Any]:
    values = iter(values)
    return [next(values) if g else None for g in graded]


def _targets_of(labels: LabelColumns, i: int) -> tuple[Target, ...]:
    """Targets of one sample with the source's own segmentations where they still hold."""
    rows = zip(labels.boxes_xyxy[i].tolist(), labels.segmentations[i], labels.sources[i], labels.iscrowd[i])
    return tuple(Target(tuple(box), source or rle, iscrowd=crowd) for box, rle, source, crowd in rows)


def _truths(columns: Columns, config: GresConfig, log: ProblemLog) -> Iterator[MaskTruth | None]:
    merge = TargetMasks(config.mask_size)
    for i, sample_id in enumerate(columns.sample_ids):
        width, height = columns.widths[i], columns.heights[i]
        size = config.mask_size or (height, width)
        targets = _targets_of(columns.gt, i)
        if not targets:
            yield MaskTruth(None, 0, size, sample_id)
        elif not all(t.segmentation for t in targets):
            log.add("bad-target-mask", f"sample {sample_id}", "is left out: a target has no mask")
            yield None
        else:
            yield MaskTruth(merge.merged(targets, width, height), len(targets), size, sample_id)


def mask_answers(columns: Columns, config: GresConfig, log: ProblemLog) -> Iterator[MaskAnswer | None]:
    """A file's own masks where the field came from one, else the union of the labels' masks, resampled if need be.

    Yields one answer per sample; None (logged ``bad-mask``, ``no-mask``) where there is none to score.
    """
    rows = next((v for name, v in columns.values.items() if name.endswith(ROW)), [None] * len(columns))
    for i, sample_id in enumerate(columns.sample_ids):
        if not columns.answered[i]:
            yield None
            continue
        stored = json.loads(rows[i]) if rows[i] else {}
        if "segmentation" in stored:
            [wrong] = rle_problems([stored["segmentation"]])
            if wrong is not None:
                log.add("bad-mask", f"sample {sample_id}", f"its mask {wrong}")
                yield None
            else:
                yield MaskAnswer(stored["segmentation"], stored.get("pred_no_target"))
            continue
        parts = columns.pred.segmentations[i]
        if any(p is None for p in parts):
            log.add("no-mask", f"sample {sample_id}", "a predicted object has no mask, so the answer cannot be scored")
            yield None
            continue
        rejects = not parts
        if rejects and columns.rejected_masks is not None:
            # the official union counts what was drawn, whatever the head says
            parts = columns.rejected_masks.segmentations[i]
        merged = masks.union(parts, columns.heights[i], columns.widths[i])
        if config.mask_size is not None:
            merged = resize(merged, *config.mask_size)
        yield MaskAnswer(merged, rejects)


_ANSWERS = [o.value for o in Outcome if o.is_answer]


def _gres_causes(result: GresResult, outcomes: list[str | None]) -> list[str | None]:
    c = result.columns
    causes: list[str | None] = []
    for i, outcome in enumerate(outcomes):
        if not c.answered[i]:
            # an answer whose mask cannot be scored could not be read either
            causes.append(Outcome.UNPARSED.value if outcome in _ANSWERS else outcome)
        elif c.iou[i] >= 0.7:
            causes.append(Cause.EXACT.value)
        elif c.num_targets[i] == 0:
            causes.append(Cause.HALLUCINATED.value)
        elif c.predicted_no_target[i]:
            causes.append(Cause.WRONGLY_REJECTED.value)
        elif c.intersection[i] == 0:
            causes.append(Cause.WRONG_INSTANCE.value)
        else:
            # which part of a merged mask is too much or too little
            extra = c.predicted_area[i] - c.intersection[i]
            lacking = c.target_area[i] - c.intersection[i]
            loose = c.iou[i] >= 0.5
            kind = Cause.LOOSELY_LOCALISED if loose else Cause.EXTRA if extra > lacking else Cause.MISSED
            causes.append(kind.value)
    return causes


def _gres_headlines(summary: Mapping[str, Any]) -> list[Headline]:
    def share(value: float) -> float:
        return value / 100  # the authors' percentages as fractions, like every other number of the panel

    headlines = [
        Headline("giou", "gIoU", share(summary["gIoU"]), mean_of="iou"),
        Headline("ciou", "cIoU", share(summary["cIoU"]), ratio_of=("intersection", "union")),
        Headline("t_acc", "T-acc", summary["T_acc"], mean_of="t_acc"),
        Headline("n_acc", "N-acc", summary["N_acc"], mean_of="n_acc"),
    ]
    headlines += [
        Headline(f"pr_{name[5:]}", f"Pr@0.{name[5:]}", share(summary[name])) for name in ("Pr@0.7", "Pr@0.8", "Pr@0.9")
    ]
    headlines.append(Headline("missing", "Missing answers", summary["num_unanswered"], lower_is_better=True))
    for name, values in summary["subsets"].items():
        if values["n"]:
            headlines.append(Headline(f"targets/{name}", f"gIoU, {name.replace('_', ' ')}", share(values["gIoU"])))
    return headlines


def _gres_baselines(columns: Columns, truth: list[MaskTruth | None], config: GresConfig) -> dict[str, dict[str, Any]]:
    """Trivial answers; candidates have no masks in the dataset, so their boxes are filled."""
    result = {}
    for title, chosen in _baseline_choices(columns):
        pairs = []
        for i, (t, which) in enumerate(zip(truth, chosen)):
            if t is None:
                continue
            height, width = t.size
            scale = np.array([width / columns.widths[i], height / columns.heights[i]] * 2)
            parts = [rectangle_rle(columns.candidates.boxes_xyxy[i][j] * scale, t.size) for j in which]
            pairs.append((t, MaskAnswer(masks.union(parts, height, width), not len(which))))
        summary = evaluate_gres(pairs, config).as_dict()
        name = title if "empty" in title else f"{title} (boxes)"
        result[name] = {h.label: h.value for h in _gres_headlines(summary) if h.key != "missing"}
    return result


GRES = MethodSpec(
    name="gres",
    label="GRES",
    score=score_gres,
    fields=_GRES_FIELDS,
    protocols=("official", "original-size", "paper"),
    options={"size": None, "no_target": None, "min_pixels": 0, "missing": "wrong", "baselines": True},
    segmentations=True,
    iou=0.7,
    value_fields=(*_VALUES, "{pred}" + ROW),
)


class GRESEvaluationConfig(ReferringEvaluationConfig):
    """GRES: gIoU, cIoU, Pr@0.7/0.8/0.9, T-acc and N-acc of merged masks.

    Protocols: "official" (480x480, the model's head decides whether there is a target), "original-size" (the same at
    image size), "paper" (an empty mask decides). An outcome "rejected" is the head's verdict. Predictions that were imported from a
    file are scored with the file's own masks; the masks of other predictions are resampled where 480x480 is asked for.

    Args:
        size: "480" or "original", whatever the protocol says
        no_target: "head", "mask" or "head-clears-mask", whatever the protocol says
        min_pixels: clear masks with fewer pixels first (50 in the paper), with ``protocol="paper"``
        missing: what an expression without an answer is: "wrong", "skip" or "error"
        baselines: whether trivial answers are scored beside it
    """

    spec = GRES


__all__ = ["GRECEvaluationConfig", "GREGEvaluationConfig", "GRESEvaluationConfig"]

"""Scoring prediction files against HumanRef annotations: from rows to columns to scores.

::

    columns = HumanRefColumns.from_examples(read_humanref("annotations.jsonl", keep_odd=True))
    result = evaluate(columns, PredictionSet.load("model.jsonl"), name="model")
    result.summary["overall"]["density_f1_mean"]
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..datasets.predictions import Prediction, PredictionSet
from ..errors import DataError, ProblemLog
from ..masks import compress
from ..referring import RLE, ReferringExample, Target
from .baselines import Baseline, baseline_choices
from .humanref import (
    Missing,
    Protocol,
    SampleScores,
    label_groups,
    rejection_flags,
    sample_row,
    score_boxes,
    score_points,
    summarize,
)
from .matching import Boxes
from .points import rectangle_rle


@dataclass(frozen=True)
class HumanRefColumns:
    """What scoring needs of the annotations, column by column, in the order of the file.

    Attributes:
        ids, image_ids, domains, sub_domains: one per sample
        answers, candidates: boxes
        targets: the answers themselves, for their masks
        sizes: (height, width) of each image, None where the source does not state it
        is_rejection: bool (samples,)
    """

    ids: list[Any]
    image_ids: list[Any]
    domains: list[str | None]
    sub_domains: list[str | None]
    answers: Boxes
    candidates: Boxes
    targets: list[tuple[Target, ...]]
    sizes: list[tuple[int, int] | None]
    is_rejection: Any

    def __len__(self) -> int:
        return len(self.ids)

    @classmethod
    def from_examples(cls, examples: Iterable[ReferringExample]) -> HumanRefColumns:
        """Collects examples, e.g. those of :func:`~fiftyone_rexseek.datasets.humanref.read_humanref`."""
        rows = list(examples)
        domains = [e.domain for e in rows]
        answers = Boxes.from_lists([[t.box_xyxy for t in e.targets] for e in rows])
        return cls(
            ids=[e.expression_id for e in rows],
            image_ids=[e.image_id for e in rows],
            domains=domains,
            sub_domains=[e.sub_domain for e in rows],
            answers=answers,
            candidates=Boxes.from_lists([[t.box_xyxy for t in e.candidates] for e in rows]),
            targets=[e.targets for e in rows],
            sizes=[None if e.width is None or e.height is None else (e.height, e.width) for e in rows],
            is_rejection=rejection_flags(domains, answers.counts),
        )

    @property
    def sub_domain_owner(self) -> Mapping[str, str]:
        """Sub-domain to the domain that the tables list it under."""
        return label_groups(self.domains, self.sub_domains)

    def answer_masks(self, log: ProblemLog | None = None) -> list[list[RLE]]:
        """One RLE per answer. A target without a mask is stood in for by its box, and reported as ``no-mask``."""
        return [
            [_mask(t, size, f"sample {key!r}", log) for t in targets]
            for key, targets, size in zip(self.ids, self.targets, self.sizes)
        ]


def _mask(target: Target, size: tuple[int, int] | None, where: str, log: ProblemLog | None) -> RLE:
    segmentation = target.segmentation
    if isinstance(segmentation, Mapping):
        return segmentation
    if segmentation is not None and size is not None:
        try:
            return compress(segmentation, *size)
        except (DataError, TypeError, ValueError) as e:
            if log is not None:
                log.add("bad-mask", where, f"polygons cannot be read ({e})")
    if log is not None:
        log.add("no-mask", where, "target has no mask; points are looked for in its box instead", "an RLE")
    return rectangle_rle(target.box_xyxy, size)


@dataclass(frozen=True)
class HumanRefEvaluation:
    """One model's scores: per sample in ``scores``, means in ``summary`` (see :func:`summarize`)."""

    name: str
    ids: list[Any]
    scores: SampleScores
    summary: dict[str, Any]

    def sample_rows(self) -> list[list[Any]]:
        """The official per-sample values of every non-rejection sample, in order; see :func:`sample_row`."""
        rejection = self.scores.is_rejection
        return [sample_row(self.scores, i, key) for i, key in enumerate(self.ids) if not rejection[i]]


def evaluate(
    columns: HumanRefColumns,
    predictions: PredictionSet | Mapping[Any, Sequence[Sequence[float]]],
    *,
    name: str = "model",
    protocol: Protocol = "official",
    missing: Missing = "official",
    log: ProblemLog | None = None,
) -> HumanRefEvaluation:
    """Scores one model's predictions.

    Boxes or points is decided as in :meth:`PredictionSet.uses_points`. A sample without a row, or whose row says
    ``unparsed`` or ``failed``, has no answer: ``missing`` says how it is scored.

    Args:
        columns: the annotations
        predictions: a file's rows, or a plain mapping from id to ``extracted_predictions``
        name: of the model, for tables
        protocol: "official" or "paper", see :mod:`fiftyone_rexseek.metrics.humanref`
        missing: "official", "wrong" or "error"
        log: receives ``no-mask`` problems when points are scored
    """
    if not isinstance(predictions, PredictionSet):
        predictions = PredictionSet.from_rows(Prediction(k, v) for k, v in predictions.items())
    rows = [predictions.by_id.get(key) for key in columns.ids]
    # on a rejection sample the script looks at the first entry alone: [[], box] is a rejection there
    chosen = [
        None if r is None or (rejection and r.entries and not r.entries[0]) else r
        for r, rejection in zip(rows, columns.is_rejection)
    ]
    positive = (key for key, r in zip(columns.ids, columns.is_rejection) if not r)
    arguments: dict[str, Any] = {
        "is_rejection": columns.is_rejection,
        "answered": [r is not None and r.outcome.is_answer for r in rows],
        "num_predictions": [0 if r is None else len(r.entries) for r in rows],
        "protocol": protocol,
        "missing": missing,
    }
    if predictions.uses_points(positive):
        points = [[] if r is None else r.points_xy() for r in chosen]
        scores = score_points(columns.answer_masks(log), points, columns.candidates.counts, **arguments)
    else:
        boxes = [[] if r is None else r.boxes_xyxy() for r in chosen]
        scores = score_boxes(columns.answers, boxes, columns.candidates.counts, **arguments)
    return HumanRefEvaluation(name, columns.ids, scores, summarize(scores, columns.domains, columns.sub_domains))


def evaluate_baseline(
    columns: HumanRefColumns, baseline: Baseline, *, k: int = 1, seed: int = 0, protocol: Protocol = "official"
) -> HumanRefEvaluation:
    """Scores a trivial answer: "none", "all" candidates, or "random" k candidates."""
    chosen = baseline_choices(columns.candidates.counts, baseline, k=k, seed=seed)
    boxes = [columns.candidates.of(i)[c] for i, c in enumerate(chosen)]
    scores = score_boxes(
        columns.answers, boxes, columns.candidates.counts, is_rejection=columns.is_rejection, protocol=protocol
    )
    name = f"(random {k})" if baseline == "random" else f"({baseline})"
    return HumanRefEvaluation(name, columns.ids, scores, summarize(scores, columns.domains, columns.sub_domains))

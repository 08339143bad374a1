"""Writing the answers of :func:`fiftyone_rexseek.integration.apply.apply_expressions`, and counting them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import fiftyone as fo

from ..geometry import to_absolute, to_relative
from ..metrics.proposals import proposal_recall
from ..models.answering import ItemResult
from ..referring import Outcome
from . import apply_plan as plan
from .selections import (
    ANSWER,
    COUNT,
    ERROR,
    OUTCOME,
    REJECTED_MASK,
    REJECTION_SCORE,
    CandidateLabels,
    combined_error,
    combined_outcome,
    rejected_mask,
    to_detections,
)


@dataclass(frozen=True)
class ApplySummary:
    """What a run of :func:`apply_expressions` did.

    Attributes:
        label_field: where the answers are
        outcomes: number of expressions by outcome
        num_images, num_samples: asked in this run
        num_skipped: samples that had been answered before
        dropped_candidates: candidates left out before the model was asked, over all expressions
        seconds: of asking, without loading
        proposal_recall: share of the ground truth found among the candidates (IoU 0.5), the ceiling of any selector; None
            without ground truth or candidates
        errors: the most frequent reasons of failures, with counts
        run_key: of the custom run that records the settings
    """

    label_field: str
    outcomes: Mapping[str, int]
    num_images: int = 0
    num_samples: int = 0
    num_skipped: int = 0
    dropped_candidates: int = 0
    seconds: float = 0.0
    proposal_recall: float | None = None
    errors: Mapping[str, int] = field(default_factory=dict)
    run_key: str = ""

    @property
    def expressions_per_second(self) -> float:
        return sum(self.outcomes.values()) / self.seconds if self.seconds else 0.0

    def __str__(self) -> str:
        """For a person.

        Example::

            >>> print(ApplySummary("p", {"selected": 3, "rejected": 1, "unparsed": 0, "failed": 0}, 2, 4, seconds=2.0))
            4 expressions on 2 images in 2.0 s (2.0 per second): 3 selected, 1 rejected
        """
        total = sum(self.outcomes.values())
        counts = ", ".join(f"{n} {name}" for name, n in self.outcomes.items() if n) or "nothing asked"
        rate = f"in {self.seconds:.1f} s ({self.expressions_per_second:.1f} per second)"
        lines = [f"{total} expressions on {self.num_images} images {rate}: {counts}"]
        if self.num_skipped:
            lines.append(f"{self.num_skipped} samples had been answered before")
        if self.dropped_candidates:
            lines.append(f"{self.dropped_candidates} candidates were left out before asking")
        if self.proposal_recall is not None:
            lines.append(f"the candidates contain {self.proposal_recall:.1%} of the ground truth: no selector can find more")
        lines += [f"{n} x {reason}" for reason, n in self.errors.items()]
        return "\n".join(lines)


class Writer:
    """Collects answers, writes them in bulk, and keeps the counts."""

    def __init__(self, dataset, label_field, several, label, mask_dir, candidates_field):
        self.dataset, self.label_field, self.several = dataset, label_field, several
        self.label, self.candidates_field = label, candidates_field
        self.mask_dir = None if mask_dir is None else Path(mask_dir)
        self.draws = False
        self.counts = dataset.has_sample_field(label_field + COUNT)
        self.outcomes: Counter[str] = Counter()
        self.errors: Counter[str] = Counter()
        self.num_images = self.num_samples = self.dropped = 0
        self.found = self.targets = 0
        self._values: dict[str, dict[str, Any]] = {}
        self._images = 0

    def add(self, result: ItemResult, labels: CandidateLabels | None, truth: list | None) -> None:
        self.num_samples += 1
        if result.proposals is not None:
            proposals = self._proposals(result)
            self._set(self.candidates_field, result.key, proposals)
            labels = CandidateLabels([d.bounding_box for d in proposals.detections], [d.label for d in proposals.detections])
        for selection in result.selections:
            self.outcomes[selection.outcome.value] += 1
            self.dropped += selection.dropped_candidates
            if selection.outcome is Outcome.FAILED:
                self.errors[selection.error or "unknown"] += 1
        if result.proposals is not None:
            self.dropped += result.proposals.dropped
        if truth is not None and result.candidates_xyxy is not None:
            recall = proposal_recall([to_absolute(truth, result.width, result.height)], [result.candidates_xyxy])
            self.found, self.targets = self.found + recall.num_found, self.targets + recall.num_targets
        outcome = combined_outcome(result.selections)
        field_, key = self.label_field, result.key
        self._set(field_, key, None if outcome is Outcome.FAILED else self._detections(result, labels))
        self._set(field_ + OUTCOME, key, outcome.value)
        self._set(field_ + ERROR, key, combined_error(result.selections))
        if self.several:
            self._set(field_ + "_expressions", key, [str(s.expression) for s in result.selections])
            self._set(field_ + "_outcomes", key, [s.outcome.value for s in result.selections])
            self._set(field_ + "_answers", key, [s.answer or "" for s in result.selections])
        else:
            [selection] = result.selections
            self._set(field_ + ANSWER, key, selection.answer)
            score = selection.rejection_score
            self._set(field_ + REJECTION_SCORE, key, None if score is None else float(score))
            self.counts = self.counts or selection.count is not None
            if self.counts:
                self._set(field_ + COUNT, key, selection.count)
            if self.draws:
                self._set(field_ + REJECTED_MASK, key, rejected_mask(selection, result.width, result.height))

    def _detections(self, result: ItemResult, labels: CandidateLabels | None) -> fo.Detections | None:
        parts = []
        for n, selection in enumerate(result.selections):
            path = None
            if self.mask_dir is not None:
                path = self.mask_dir / f"{result.key}-{self.label_field}{f'-{n}' if self.several else ''}"
            parts.append(
                to_detections(
                    selection,
                    result.width,
                    result.height,
                    candidates=labels,
                    label=self.label,
                    mask_file=path,
                    attributes={"expression": selection.expression} if self.several else None,
                )
            )
        answered = [p for p in parts if p is not None]
        return fo.Detections(detections=[d for p in answered for d in p.detections]) if answered else None

    def _proposals(self, result: ItemResult) -> fo.Detections:
        found = result.proposals
        relative = to_relative(found.boxes_xyxy, result.width, result.height).tolist()
        return fo.Detections(
            detections=[
                fo.Detection(label=label, bounding_box=box, confidence=None if score != score else float(score))
                for label, box, score in zip(found.labels, relative, found.scores)
            ]
        )

    def _set(self, field_: str, key: str, value: Any) -> None:
        self._values.setdefault(field_, {})[key] = value

    def images_waiting(self, more: int) -> int:
        self._images += more
        return self._images

    def flush(self) -> None:
        """Writes what is waiting; the outcome last, because resuming trusts it."""
        values, self._values, self._images = self._values, {}, 0
        outcome_field = self.label_field + OUTCOME
        if self.label_field + COUNT in values:
            plan.declare_count(self.dataset, self.label_field)
        for field_ in sorted(values, key=lambda name: name == outcome_field):
            self.dataset.set_values(field_, values[field_], key_field="id")

    def summary(self, seconds: float, num_skipped: int, run_key: str) -> ApplySummary:
        return ApplySummary(
            label_field=self.label_field,
            outcomes={o.value: self.outcomes[o.value] for o in Outcome},
            num_images=self.num_images,
            num_samples=self.num_samples,
            num_skipped=num_skipped,
            dropped_candidates=self.dropped,
            seconds=seconds,
            proposal_recall=self.found / self.targets if self.targets else None,
            errors=dict(self.errors.most_common(5)),
            run_key=run_key,
        )

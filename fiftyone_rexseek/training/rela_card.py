"""The model card of ``rela-tiny``: measured on fresh scenes with the official metrics, written beside the weights."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from .. import masks
from ..datasets.scenes import Scene
from ..geometry import pairwise_iou
from ..metrics.grec import Answer, GrecConfig, evaluate_grec
from ..metrics.gres import GresConfig, MaskAnswer, MaskTruth, evaluate_gres
from ..models.rela import ReLA
from ..referring import Outcome
from .evaluation import auroc
from .plots import plot_calibration

#: Numbers of a card and how they are headed; gIoU, cIoU and Pr@X in percent, the others as shares.
HEADINGS = {
    "gIoU": "gIoU", "cIoU": "cIoU", "Pr@0.7": "Pr@0.7", "Pr@0.8": "Pr@0.8", "Pr@0.9": "Pr@0.9",
    "N_acc": "N-acc", "T_acc": "T-acc", "F1_score": "Pr@F1 (IoU, boxes as given out)",
    "F1_threshold": "Pr@F1 (official: GIoU, confidence >= 0.7)",
}  # fmt: skip


@dataclass(frozen=True)
class SegmentScores:
    """What :func:`score_segments` measured.

    Attributes:
        overall: see :data:`HEADINGS`
        domains, templates: name -> (expressions, gIoU, Pr@F1)
        people: number of people -> the same
        auroc: of the boxes' confidence, boxes on a target (IoU >= 0.5) against others
        confidence, correct: of every box given out
        count: expressions asked
    """

    overall: dict[str, float]
    domains: dict[str, tuple[int, float, float]]
    templates: dict[str, tuple[int, float, float]]
    people: dict[int, tuple[int, float, float]]
    auroc: float
    confidence: np.ndarray = field(repr=False)
    correct: np.ndarray = field(repr=False)
    count: int = 0


def score_segments(rela: ReLA, scenes: Iterable[Scene], per_domain: int = 1) -> SegmentScores:
    """Asks a model about scenes; GRES at 480x480 (the head says whether there is a target) and GREC.

    Args:
        per_domain: expressions per scene and domain; with 1, about 17 % are without target
    """
    groups: list[tuple[str, str, int]] = []
    segments: list[tuple[MaskTruth, MaskAnswer]] = []
    boxes: list[np.ndarray] = []
    answers: list[Answer] = []
    for scene in scenes:
        questions = scene.questions(per_domain=per_domain)
        people = scene.instance_masks()
        width, height = scene.size
        for q, selection in zip(questions, rela.segment(scene.render(), [q.expression for q in questions])):
            chosen = list(q.answers)
            mask = masks.encode(people[chosen].any(axis=0)) if chosen else None
            truth = MaskTruth(mask, len(chosen), (height, width))
            segments.append((truth, MaskAnswer(selection.merged_mask, selection.outcome is Outcome.REJECTED)))
            boxes.append(scene.boxes_xyxy[chosen])
            answers.append(Answer(selection.boxes_xyxy, selection.scores))
            name = q.template if chosen else f"rejection: {q.template}"
            groups.append((q.domain, name, len(scene.people)))
    gres = evaluate_gres(segments, GresConfig())
    grec = evaluate_grec(boxes, answers, GrecConfig("paper", output="all"))
    official = evaluate_grec(boxes, answers, GrecConfig())
    overall = {**gres.summary(), "F1_score": grec.summary()["F1_score"], "F1_threshold": official.summary()["F1_score"]}
    right = [pairwise_iou(a.boxes_xyxy, b).max(axis=1, initial=0) >= 0.5 for a, b in zip(answers, boxes)]
    confidence, correct = np.concatenate([a.scores for a in answers]), np.concatenate(right)

    def grouped(by: int) -> dict:
        members = defaultdict(list)
        for i, group in enumerate(groups):
            members[group[by]].append(i)
        return {
            key: (len(rows), float(gres.columns.iou[rows].mean()), float(grec.columns.success[rows].mean()))
            for key, rows in sorted(members.items())
        }

    return SegmentScores(
        overall={k: float(overall[k]) for k in HEADINGS},
        domains=grouped(0),
        templates=grouped(1),
        people=grouped(2),
        auroc=auroc(confidence, correct),
        confidence=confidence,
        correct=correct,
        count=len(groups),
    )


def write_rela_card(
    folder: str | Path, scores: SegmentScores, log: Sequence[dict], recipe: str, where: str, parameters: int
) -> Path:
    """Writes ``README.md`` and ``calibration.png`` into the folder of the weights.

    Args:
        log: rows of the joint stage's ``log.jsonl``
        recipe: how the weights were made, in Markdown
        where: which scenes were asked about
        parameters: of the network
    """
    folder = Path(folder)
    plot_calibration(scores.confidence, scores.correct, folder / "calibration.png")
    text = f"""# rela-tiny

The journal variant of ReLA (masks, boxes and a count) in {parameters / 1e6:.1f} million parameters, float16. It was trained
from nothing by this project, on the scenes that this project draws, so that segmentation works without a download.

**It knows drawn scenes only.** On photographs its answers mean nothing. Words outside the scenes' grammar become `[UNK]`.

Licence: Apache-2.0, as the project. Load it with `foz.load_zoo_model("rela-tiny")` or
`fiftyone_rexseek.models.registry.load("rela-tiny")`.

## Scores

{where}, {scores.count} expressions; used for nothing else. GRES by the official protocol (480x480, the head says whether
there is a target); GREC by IoU with the boxes as given out, and by the authors' evaluator.

| | |
|---|---|
"""
    for key, heading in HEADINGS.items():
        value = scores.overall[key] * (0.01 if key == "gIoU" or key == "cIoU" or key.startswith("Pr@") else 1)
        text += f"| {heading} | {value:.3f} |\n"
    text += f"| AUROC of confidence, boxes on a target against others | {scores.auroc:.3f} |\n"
    text += "\n![Calibration of the boxes' confidence](calibration.png)\n"
    for heading, rows in (("domain", scores.domains), ("people", scores.people)):
        text += f"\n| {heading} | asked | gIoU | Pr@F1 |\n|---|---|---|---|\n"
        text += "".join(f"| {k} | {n} | {giou:.3f} | {f1:.3f} |\n" for k, (n, giou, f1) in rows.items())
    worst = sorted(((k, *row) for k, row in scores.templates.items() if row[0] >= 8), key=lambda row: row[2])[:10]
    text += "\n## Where it fails\n\nKinds of expressions with the smallest gIoU (asked at least 8 times):\n\n"
    text += "| kind | asked | gIoU | Pr@F1 |\n|---|---|---|---|\n"
    text += "".join(f"| {k} | {n} | {giou:.2f} | {f1:.2f} |\n" for k, n, giou, f1 in worst)
    text += "\nAll kinds:\n\n| kind | asked | gIoU | Pr@F1 |\n|---|---|---|---|\n"
    text += "".join(f"| {k} | {n} | {giou:.2f} | {f1:.2f} |\n" for k, (n, giou, f1) in scores.templates.items())
    text += f"\n## Recipe\n\n{recipe.strip()}\n\n## Log\n\n"
    text += "Validation during the joint stage (36 scenes of a seed of their own, masks at 80x80, averaged weights):\n\n"
    text += "| step | gIoU | N-acc | T-acc | Pr@F1 | count right |\n|---|---|---|---|---|---|\n"
    for row in log:
        if "val_gIoU" in row:
            numbers = " | ".join(f"{row['val_' + n]:.3f}" for n in ("gIoU", "n_acc", "t_acc", "f1", "count"))
            text += f"| {row['step']} | {numbers} |\n"
    (folder / "README.md").write_text(text, encoding="utf-8")
    return folder / "README.md"

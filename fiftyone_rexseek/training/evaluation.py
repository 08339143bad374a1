"""Scores of a selector on drawn scenes with the official HumanRef metric, by domain and by kind of expression."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import islice

import numpy as np

from ..datasets.scenes import Scene, generate_scene
from ..metrics.humanref import score_boxes
from ..models.rexseek import RexSeek, SelectRequest
from ..referring import Outcome

#: How many scenes are asked about at once.
_SCENES = 16
ANSWERABLE = ("attribute", "position", "interaction", "reasoning", "celebrity")


@dataclass
class SceneScores:
    """What :func:`score_scenes` measured.

    Attributes:
        domains: DensityF1 (official, mean over IoU 0.5:0.95) by answerable domain
        density_f1: mean of the domains
        rejection: share of expressions without target that were rejected
        false_rejection: share of expressions with targets that were rejected
        exact: share of expressions with targets whose selected set is exactly right
        unparsed: answers that could not be read
        auroc: of selected boxes' confidence, right against wrong
        templates: kind of expression -> (count, share of exactly right answers)
        people: number of people -> the same
        confidence, correct: of every selected box
        count: expressions asked
    """

    domains: dict[str, float]
    density_f1: float
    rejection: float
    false_rejection: float
    exact: float
    unparsed: int
    auroc: float
    templates: dict[str, tuple[int, float]]
    people: dict[int, tuple[int, float]]
    confidence: np.ndarray = field(repr=False)
    correct: np.ndarray = field(repr=False)
    count: int = 0

    def headline(self) -> dict[str, float]:
        """Numbers for a log; ``score`` is what training selects by."""
        score = 0.8 * self.density_f1 + 0.2 * self.rejection - max(0.0, self.false_rejection - 0.02)
        return {
            "score": score,
            "density_f1": self.density_f1,
            "rejection": self.rejection,
            "false_rejection": self.false_rejection,
            "exact": self.exact,
            "auroc": self.auroc,
            "unparsed": float(self.unparsed),
            **self.domains,
        }


def auroc(scores: Sequence[float], right: Sequence[bool]) -> float:
    """Probability that a right item scores above a wrong one, ties half; NaN when one kind is missing.

    Example::

        >>> auroc([0.9, 0.4, 0.6], [True, False, True])
        1.0
    """
    scores, right = np.asarray(scores, float), np.asarray(right, bool)
    positive, negative = scores[right], scores[~right]
    if not len(positive) or not len(negative):
        return float("nan")
    order = np.sort(negative)
    below = np.searchsorted(order, positive, "left")
    ties = np.searchsorted(order, positive, "right") - below
    return float((below + ties / 2).mean() / len(negative))


def fresh_scenes(seed: int, count: int, first: int = 0, **options) -> Iterable[Scene]:
    """Scenes ``first`` to ``first + count`` of a seed; options of ``generate_scene``."""
    for index in range(first, first + count):
        yield generate_scene(seed, index, **options)


def score_scenes(rexseek: RexSeek, scenes: Iterable[Scene], per_domain: int = 4, **options) -> SceneScores:
    """Asks a model about scenes and scores the answers.

    The answers' boxes are the candidates' own, as in HumanRef, so that outlines do not count.

    Args:
        rexseek: the model
        scenes: which scenes
        per_domain: expressions per scene and domain
        options: of ``RexSeek.select_batch``, such as ``decoding``
    """
    rows: list[tuple] = []
    scenes = iter(scenes)
    while together := list(islice(scenes, _SCENES)):
        questions = [scene.questions(per_domain=per_domain) for scene in together]
        candidates = [scene.candidates() for scene in together]
        requests = [
            SelectRequest(scene.render(), boxes.boxes_xyxy, [q.expression for q in asked])
            for scene, boxes, asked in zip(together, candidates, questions)
        ]
        for scene, boxes, asked, found in zip(together, candidates, questions, rexseek.select_batch(requests, **options)):
            rows += [(q, boxes, s, len(scene.people)) for q, s in zip(asked, found)]
    return _scores(rows)


def _scores(rows: list[tuple]) -> SceneScores:
    answers = [c.boxes_xyxy[list(c.of(q.answers))].tolist() for q, c, _, _ in rows]
    predictions = [s.boxes_xyxy.tolist() for _, _, s, _ in rows]
    rejects = [q.domain == "rejection" for q, _, _, _ in rows]
    scored = score_boxes(
        answers, predictions, [len(c) for _, c, _, _ in rows], is_rejection=rejects,
        answered=[s.outcome.is_answer for _, _, s, _ in rows], missing="wrong",
    )  # fmt: skip
    by_domain: dict[str, list[float]] = defaultdict(list)
    templates: dict[str, list[bool]] = defaultdict(list)
    people: dict[int, list[bool]] = defaultdict(list)
    confidence, correct, exact, false_rejection, rejected = [], [], [], [], []
    for i, (question, candidates, selection, num_people) in enumerate(rows):
        wanted = set(candidates.of(question.answers))
        right = set(selection.indices or ()) == wanted and selection.outcome.is_answer
        name = f"rejection: {question.template}" if rejects[i] else question.template
        templates[name].append(right)
        confidence += selection.scores.tolist()
        correct += [k in wanted for k in selection.indices or ()]
        if rejects[i]:
            rejected.append(selection.outcome is Outcome.REJECTED)
            continue
        people[num_people].append(right)
        by_domain[question.domain].append(float(scored.density_f1_mean[i]))
        exact.append(right)
        false_rejection.append(selection.outcome is Outcome.REJECTED)
    mean = lambda values: float(np.mean(values)) if len(values) else float("nan")  # noqa: E731
    domains = {d: mean(by_domain[d]) for d in ANSWERABLE if d in by_domain}
    summary = lambda groups: {k: (len(v), mean(v)) for k, v in sorted(groups.items())}  # noqa: E731
    return SceneScores(
        domains=domains,
        density_f1=mean(list(domains.values())),
        rejection=mean(rejected),
        false_rejection=mean(false_rejection),
        exact=mean(exact),
        unparsed=sum(not s.outcome.is_answer for _, _, s, _ in rows),
        auroc=auroc(confidence, correct),
        templates=summary(templates),
        people=summary(people),
        confidence=np.array(confidence),
        correct=np.array(correct, bool),
        count=len(rows),
    )



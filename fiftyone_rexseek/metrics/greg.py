"""GREG: METEOR and CIDEr of generated referring expressions, by pycocoevalcap.

Sentences go through the PTB tokeniser (lower case, punctuation removed), then METEOR 1.5 and CIDEr-D, all as in COCO
captioning. Both depend on the whole set they are computed on: METEOR pools its statistics, CIDEr takes its document
frequencies from the references. The single- and multi-target subsets are therefore scored as corpora of their own,
which is what the GREx paper's tables show; values are fractions (CIDEr on its 0...10 scale), the paper prints both
times 100.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..datasets.coco import is_text, read_json
from ..errors import DataError, MissingDependencyError, ProblemLog
from ..referring import ReferringExample

#: Subsets by number of targets.
SINGLE, MULTI = "S", "M"


@dataclass(frozen=True, slots=True)
class GregItem:
    """One described target set: its reference expressions and the generated one.

    Attributes:
        key: identifies the item
        subset: ``S`` (one target) or ``M`` (several)
        references: at least one text
        hypothesis: the generated text; may be empty, which scores 0
    """

    key: Any
    subset: str
    references: tuple[str, ...]
    hypothesis: str


@dataclass(frozen=True)
class GregScores:
    """METEOR and CIDEr of one corpus.

    Attributes:
        meteor, cider: corpus level
        meteor_per_item, cider_per_item: within this corpus, in the order of the items
        num_items: how many
    """

    meteor: float
    cider: float
    meteor_per_item: tuple[float, ...]
    cider_per_item: tuple[float, ...]

    @property
    def num_items(self) -> int:
        return len(self.meteor_per_item)

    def as_dict(self) -> dict[str, float]:
        return {"METEOR": self.meteor, "CIDEr": self.cider}


@dataclass(frozen=True)
class GregResult:
    """Scores of a set of items.

    Attributes:
        items: as scored
        overall: all items as one corpus
        subsets: ``S`` and ``M``, each as a corpus of its own; absent when it has no item
        hypothesis_tokens: the hypotheses after the tokeniser
        reference_tokens: the references after the tokeniser
    """

    items: tuple[GregItem, ...]
    overall: GregScores
    subsets: Mapping[str, GregScores]
    hypothesis_tokens: tuple[str, ...]
    reference_tokens: tuple[tuple[str, ...], ...]

    def summary(self) -> dict[str, dict[str, float]]:
        """``overall``, ``S_evaluated_alone``, ``M_evaluated_alone`` (report these) and means of the items' own scores."""
        result = {"overall": self.overall.as_dict()}
        for name, scores in self.subsets.items():
            result[f"{name}_evaluated_alone"] = scores.as_dict()
            mine = [i for i, item in enumerate(self.items) if item.subset == name]
            result[f"{name}_mean_of_overall_per_item"] = {**self._means(mine), "n": len(mine)}
        result["overall_mean_of_per_item"] = self._means(range(len(self.items)))
        return result

    def _means(self, which: Iterable[int]) -> dict[str, float]:
        which = list(which)
        columns = {"METEOR": self.overall.meteor_per_item, "CIDEr": self.overall.cider_per_item}
        return {k: math.fsum(v[i] for i in which) / len(which) if which else math.nan for k, v in columns.items()}


def read_items(path: str | Path, problems: ProblemLog | None = None) -> list[GregItem]:
    """Items from a JSON list of ``{"id", "subset": "S" | "M", "references": [...], "hypothesis": text}``.

    Rows without usable references or subset, and repeated ids, are logged (``bad-item``, ``duplicate-item``) and left
    out. A missing hypothesis (absent or null) is logged (``missing-hypothesis``) and left out too: it is no answer, while an empty
    text is one.
    """
    log = problems if problems is not None else ProblemLog()
    rows = read_json(path)
    if not isinstance(rows, list):
        raise DataError("is not an items file", where=path, expected="a list of items", found=type(rows).__name__)
    items: dict[Any, GregItem] = {}
    for i, row in enumerate(rows):
        where = f"{path}: item {i}"
        if not isinstance(row, Mapping):
            log.add("bad-item", where, "is no object", expected="id, subset, references, hypothesis", found=row)
            continue
        key, references, hypothesis = row.get("id", i), row.get("references"), row.get("hypothesis")
        if row.get("subset") not in (SINGLE, MULTI):
            log.add("bad-item", where, "has no subset", expected=f"{SINGLE} or {MULTI}", found=row.get("subset"))
        elif not isinstance(references, list) or not references or not all(map(is_text, references)):
            log.add("bad-item", where, "has no references", expected="a list of texts", found=references)
        elif not is_text(hypothesis):
            log.add("missing-hypothesis", where, "has no hypothesis", expected="a text, maybe empty", found=hypothesis)
        elif not isinstance(key, str | int):
            log.add("bad-item", where, "has no usable id", expected="text or number", found=key)
        elif key in items:
            log.add("duplicate-item", where, "repeats an id; the first one is kept", found=key)
        else:
            items[key] = GregItem(key, row["subset"], tuple(references), hypothesis)
    if not items:
        raise DataError(
            f"none of the {len(rows)} items can be scored", where=path,
            expected="a list of objects with id, subset, references and hypothesis", found=next(iter(log), "an empty list"),
        )  # fmt: skip
    return list(items.values())


def group_references(examples: Iterable[ReferringExample]) -> dict[tuple, list[str]]:
    """References of every described target set: all expressions with the same split, image and targets, in order.

    No-target expressions describe nothing and are left out. Keys are (split, image_id, sorted object ids).
    """
    groups: dict[tuple, list[str]] = {}
    for e in examples:
        if e.targets:
            key = (e.split, e.image_id, tuple(sorted((t.object_id for t in e.targets), key=str)))
            groups.setdefault(key, []).append(e.expression)
    return groups


def evaluate_greg(items: Sequence[GregItem]) -> GregResult:
    """Scores items overall and, each on its own, the single- and multi-target ones.

    Raises:
        MissingDependencyError: when pycocoevalcap or Java is not installed
        DataError: when there are no items
    """
    items = tuple(items)
    if not items:
        raise DataError("there is nothing to score", expected="at least one item with references and a hypothesis")
    cider, meteor, tokenizer = require_tools()
    references, hypotheses = _tokenise(items, tokenizer)
    corpora: dict[str, list[int]] = {"overall": list(range(len(items)))}
    for name in (SINGLE, MULTI):
        corpora[name] = [i for i, item in enumerate(items) if item.subset == name]
    try:
        scorers = meteor(), cider()  # starting METEOR takes seconds: one for all corpora
        scores = {
            name: _score([references[i] for i in which], [hypotheses[i] for i in which], *scorers)
            for name, which in corpora.items()
            if which
        }
    except (OSError, ValueError) as e:  # it died, or said something that is no number
        raise MissingDependencyError(
            "METEOR could not be run", found=e, advice="Check that 'java -version' works and has 2 GB of memory to give."
        ) from e
    overall = scores.pop("overall")
    return GregResult(items, overall, scores, tuple(hypotheses), tuple(map(tuple, references)))


def require_tools() -> tuple[type, type, type]:
    """pycocoevalcap's ``Cider``, ``Meteor`` and ``PTBTokenizer``.

    Raises:
        MissingDependencyError: when pycocoevalcap or Java is not installed
    """
    try:
        from pycocoevalcap.cider.cider import Cider
        from pycocoevalcap.meteor.meteor import Meteor
        from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer
    except ImportError as e:
        raise MissingDependencyError(
            "GREG needs pycocoevalcap", found=e, advice="pip install 'fiftyone-rexseek[greg]'"
        ) from e
    if shutil.which("java") is None:
        raise MissingDependencyError(
            "GREG needs Java: the PTB tokeniser and METEOR 1.5 are Java programs", expected="'java' on the PATH, 8 or later",
            found="none", advice="Install one, e.g. apt install default-jre-headless.",
        )  # fmt: skip
    return Cider, Meteor, PTBTokenizer


def _one_line(text: str) -> str:
    # the tokeniser works line by line; anything that it takes for a line end would shift all later sentences
    return " ".join(text.splitlines()) if text.splitlines() != [text] else text


def _tokenise(items: Sequence[GregItem], tokenizer) -> tuple[list[list[str]], list[str]]:
    references = {i: [{"caption": _one_line(r)} for r in item.references] for i, item in enumerate(items)}
    hypotheses = {i: [{"caption": _one_line(item.hypothesis)}] for i, item in enumerate(items)}
    try:
        tokens = tokenizer().tokenize(references), tokenizer().tokenize(hypotheses)
    except OSError as e:  # its temporary file lies beside the jar
        raise MissingDependencyError(
            "the PTB tokeniser could not be run", found=e, advice="Is the installation folder of pycocoevalcap writable?"
        ) from e
    # trailing empty sentences are cut off by the tokeniser: they have no tokens
    found = [tokens[0].get(i, []) for i in references]
    padded = [t + [""] * (len(item.references) - len(t)) for t, item in zip(found, items)]
    return padded, [(tokens[1].get(i) or [""])[0] for i in hypotheses]


def _score(references: list[list[str]], hypotheses: list[str], meteor, cider) -> GregScores:
    truth = dict(enumerate(references))
    answers = {i: [h] for i, h in enumerate(hypotheses)}
    meteor_total, meteor_items = meteor.compute_score(truth, answers)
    cider_total, cider_items = cider.compute_score(truth, answers)
    return GregScores(
        float(meteor_total), float(cider_total), tuple(map(float, meteor_items)), tuple(map(float, cider_items))
    )

"""HumanRef in, official prediction lines out: what the public ``evaluate_rexseek`` script does, resumable, no database.

Every answer is appended at once, so an interrupted run loses nothing; the same call goes on where it stopped, asks again what
failed, and finally puts the rows in the order of the annotations. Beside the official fields a row says ``outcome``,
``scores``, ``answer`` and ``error``, which the official script does not look at.
"""

from __future__ import annotations

import json
import logging
import os
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..datasets.humanref import read_humanref
from ..errors import DataError, ProblemLog
from ..referring import Outcome, ReferringExample, Selection
from .answering import Answerer, ImageJob, Item, answer_stream, batches

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class HumanRefRun:
    """What a run did.

    Attributes:
        outcomes: number of rows by outcome, over the whole file
        num_asked: rows asked in this run
        num_skipped: rows that were in the file already
        problems: what was wrong with the annotations, for a person; "" when nothing was
    """

    outcomes: Mapping[str, int]
    num_asked: int
    num_skipped: int
    problems: str = ""


def run_humanref(
    annotations: str | os.PathLike,
    images: str | os.PathLike,
    out: str | os.PathLike,
    model: Any,
    *,
    batch_size: int = 8,
    num_workers: int = 2,
    resume: bool = True,
    proposer: Any = None,
    names: tuple[str, ...] = ("person",),
    call_options: Mapping[str, Any] | None = None,
    max_examples: int | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> HumanRefRun:
    """Answers every row of a HumanRef annotation file.

    Args:
        annotations: ``annotations.jsonl``
        images: folder of the images
        out: prediction file; ``{"id": ..., "extracted_predictions": [[x1, y1, x2, y2], ...]}`` per line, ``[[]]`` = nobody
        model: a ``RexSeek`` or ``ReLA``, or anything with ``select_batch`` or ``segment_batch``
        batch_size: images given to the model at once
        num_workers: threads that open images ahead
        resume: keep the answers that ``out`` has already; otherwise it is written anew
        proposer: finds candidates instead of the annotated ones
        names: what the proposer looks for
        call_options: keyword arguments of every call of the model
        max_examples: only the first rows
        on_progress: called with (rows done, rows in all)

    Raises:
        DataError: annotations or image folder are missing
    """
    log = ProblemLog()
    examples = list(read_humanref(annotations, log, max_examples=max_examples))
    folder, out = Path(images), Path(out)
    if not folder.is_dir():
        raise DataError("the image folder does not exist", where=folder)
    out.parent.mkdir(parents=True, exist_ok=True)
    done = _answered(out) if resume else {}
    wanted = [e for e in examples if _key(e.expression_id) not in done]
    by_image: dict[str, list[ReferringExample]] = {}
    for example in wanted:
        by_image.setdefault(example.file_name, []).append(example)
    answerer = Answerer(model, proposer=proposer, options=call_options)
    by_key = {_key(e.expression_id): e for e in wanted}
    jobs = [
        ImageJob(str(folder / name), tuple(_item(e, proposer is None, names) for e in own)) for name, own in by_image.items()
    ]
    answered: dict[str, dict] = dict(done)
    _rewrite(out, done.values())
    with out.open("a", encoding="utf-8") as file:
        for _, results in answer_stream(answerer, batches(jobs, batch_size), num_workers):
            for result in results:
                [selection] = result.selections
                row = prediction_row(by_key[result.key].expression_id, selection)
                answered[result.key] = row
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
            file.flush()
            if on_progress is not None:
                on_progress(len(answered), len(examples))
    order = [_key(e.expression_id) for e in examples]
    known = set(order)
    rows = [answered[k] for k in order if k in answered] + [r for k, r in answered.items() if k not in known]
    _rewrite(out, rows)
    counts = Counter(row.get("outcome", Outcome.SELECTED.value) for row in rows)
    return HumanRefRun({o.value: counts[o.value] for o in Outcome}, len(wanted), len(done), log.summary())


def prediction_row(expression_id: Any, selection: Selection) -> dict[str, Any]:
    """One row of a prediction file.

    Example::

        >>> prediction_row(7, Selection.rejected("a dog", answer="none"))
        {'id': 7, 'extracted_predictions': [[]], 'outcome': 'rejected', 'answer': 'none'}
    """
    boxes = selection.boxes_xyxy.tolist() if selection.outcome is Outcome.SELECTED else []
    row: dict[str, Any] = {"id": expression_id, "extracted_predictions": boxes or [[]], "outcome": selection.outcome.value}
    if boxes and not np.isnan(selection.scores).any():
        row["scores"] = selection.scores.tolist()
    row.update({k: v for k, v in (("answer", selection.answer), ("error", selection.error)) if v is not None})
    return row


def _key(expression_id: Any) -> str:
    # the text "7" and the number 7 are different ids
    return json.dumps(expression_id)


def _item(example: ReferringExample, annotated: bool, names: tuple[str, ...]) -> Item:
    boxes = np.array([t.box_xyxy for t in example.candidates], dtype=np.float64).reshape(-1, 4) if annotated else None
    return Item(_key(example.expression_id), (example.expression,), boxes=boxes, names=names)


def _answered(path: Path) -> dict[str, dict]:
    """Rows of an earlier run that are answers, by key. A last line that was cut off while being written is left out."""
    done: dict[str, dict] = {}
    if not path.exists():
        return done
    with path.open(encoding="utf-8", errors="replace") as file:
        for line in file:
            try:
                row = json.loads(line)
            except json.JSONDecodeError:
                continue
            if isinstance(row, dict) and "id" in row and row.get("outcome") != Outcome.FAILED.value:
                done[_key(row["id"])] = row
    return done


def _rewrite(path: Path, rows) -> None:
    """Replaces the file at once, so that it is never half written."""
    temporary = path.with_name(path.name + ".part")
    with temporary.open("w", encoding="utf-8") as file:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
    os.replace(temporary, path)

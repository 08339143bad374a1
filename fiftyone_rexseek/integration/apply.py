"""``apply_expressions``: ask a model about samples, from proposals to masks, in one call that can be interrupted.

Samples that share a file are asked together, so an image is encoded once for all its expressions. Answers are written every
few images; running the same call again goes on where it stopped. What was asked is recorded as a custom FiftyOne run
``apply_<label_field>``.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import fiftyone.core.utils as fou

from ..errors import ConfigError, DataError
from ..metrics.proposals import proposal_recall
from ..models import registry
from ..models.answering import Answerer, ItemResult, answer_stream
from ..models.nouns import NounExtractor
from ..models.proposals import clean_names
from ..referring import Outcome
from . import apply_plan as plan
from .answer_runs import clear_answers, is_same_run, record
from .apply_writer import ApplySummary, Writer
from .fields import flat_images
from .selections import CANDIDATES, OUTCOME, CandidateLabels

logger = logging.getLogger(__name__)

#: What a detector looks for in an expression without nouns.
FALLBACK_NAMES = ("object",)
DEFAULT_SAM = "segment-anything-vitb-torch"


def apply_expressions(
    samples,
    model,
    label_field: str,
    expressions: str | Sequence[str] = "expression",
    candidates: Any = None,
    *,
    masks: Any = None,
    prompt: str | Sequence[str] | None = None,
    noun_pipeline: Any = "en_core_web_sm",
    candidates_field: str | None = None,
    gt_field: str | None = "ground_truth",
    label: str | None = None,
    mask_dir: str | os.PathLike | None = None,
    batch_size: int = 8,
    num_workers: int = 2,
    save_every: int = 32,
    resume: bool = True,
    overwrite: bool = False,
    skip_failures: bool = True,
    progress: Any = None,
    distributed: str | None = None,
    num_actors: int = 2,
    timeout_s: float = 600.0,
    weights: str | os.PathLike | None = None,
    device: str | None = None,
    dtype: Any = None,
    call_options: Mapping[str, Any] | None = None,
    load_options: Mapping[str, Any] | None = None,
) -> ApplySummary:
    """Asks a model expressions about samples and writes the answers.

    Writes, for ``label_field`` P: ``P`` (Detections; empty = nobody matches; None = no answer), ``P_outcome``, ``P_answer``,
    ``P_error``, ``P_rejection_score``; for a model that counts, ``P_count`` (int; 6 = more than five), by which the GREC rule
    ``output="count"`` scores; for a model that segments, ``P_rejected_mask`` (what it drew although it says that
    nobody matches; the official GRES score counts that). With several expressions per sample, all boxes are in ``P``, each with its
    ``expression``; ``P_expressions``, ``P_outcomes`` and ``P_answers`` are lists in the order of the expressions, and
    ``P_outcome`` is ``failed`` if any failed, else ``selected`` if any selected. To evaluate, have one sample per (image,
    expression) pair, as the importers make them.

    Args:
        samples: dataset or view of images; a view grouped by a field stands for all its samples
        model: a zoo name (``"rexseek-3b"``), a model of ``foz.load_zoo_model``, a ``RexSeek``, a ``ReLA``, or anything with
            ``select_batch`` or ``segment_batch``; with ``distributed``, a zoo name or a function that makes the model
        label_field: where answers go
        expressions: one text with several words, a list of texts, or the name of a field of texts or of lists of texts;
            a string of one word must be an existing field
        candidates: for a model that chooses among boxes: a field of Detections (default ``"candidates"``), or a proposer such
            as ``GroundingDino`` or :class:`~fiftyone_rexseek.integration.detectors.ZooDetector`
        masks: for selected boxes: True (FiftyOne's ``segment-anything-vitb-torch``), the name of another zoo model that takes
            boxes, or an object with ``segment(image, boxes_xyxy)``; models that segment give masks without it
        prompt: what a proposer looks for in every image; by default the noun chunks of the expression
        noun_pipeline: spaCy pipeline for that, by name, folder or object
        candidates_field: where a proposer's boxes are written; default ``P_candidates``
        gt_field: ground truth for the recall of the candidates; ignored when it does not exist
        label: label of the predictions; default: the candidate's label, or "person"
        mask_dir: write masks as PNG files there instead of into the database
        batch_size: images given to the model at once
        num_workers: threads that open the next images meanwhile
        save_every: write after so many images
        resume: leave out samples that the same run (same model, expressions, candidates) has answered already; failed ones
            are asked again. Answers of another run are taken away before the first question
        overwrite: allow ``label_field`` to hold labels that no model made
        skip_failures: store failures as such; False raises at the first one
        progress: True, False, None (FiftyOne's setting) or a callback, as everywhere in FiftyOne
        distributed: ``"ray"`` spreads images over ``num_actors`` processes, each with its own model
        timeout_s: with ``distributed``: longest wait for one batch
        weights, device, dtype, load_options: for a model given by name, see :func:`fiftyone_rexseek.models.registry.load`
        call_options: keyword arguments of every call, such as ``{"decoding": "constrained"}``

    Raises:
        ConfigError: fields, names or options that make no sense - before weights load
    """
    samples = flat_images(samples)
    asked = plan.resolve_expressions(samples, expressions)
    plan.check_output(samples, label_field, overwrite)
    for name, value in (("batch_size", batch_size), ("save_every", save_every), ("num_actors", num_actors)):
        if int(value) < 1:
            raise ConfigError(f"{name} is out of range", expected="1 or more", found=value)
    if distributed not in (None, "ray"):
        raise ConfigError("unknown way to distribute", expected="'ray' or None", found=distributed)
    needs_candidates = _needs_candidates(model)
    source, proposer = _candidates(samples, candidates, needs_candidates)
    stored_at = candidates_field or label_field + CANDIDATES
    if proposer is not None:
        plan.check_output(samples, stored_at, True)
    names_of = _names(proposer, prompt, noun_pipeline)
    gt_field = gt_field if gt_field and needs_candidates and samples.has_sample_field(gt_field) else None
    if gt_field:
        plan.check_detections_field(samples, gt_field)

    dataset = samples._dataset
    settings = {
        "method": "apply_expressions",
        "model": _model_name(model, weights),
        "expressions": (asked.field and f"field:{asked.field}") or list(asked.texts),
        "candidates": source or (dict(proposer.describe()) if proposer is not None else None),
        "prompt": clean_names(prompt) if prompt is not None else None if proposer is None else f"nouns: {noun_pipeline}",
        "masks": masks if isinstance(masks, str | bool | type(None)) else dict(masks.describe()),
        "call_options": {k: str(v) for k, v in (call_options or {}).items()},
        "load_options": {k: str(v) for k, v in (load_options or {}).items()},
        "label": label,
    }
    run_key = f"apply_{label_field}"
    same = is_same_run(samples, label_field, run_key, settings)
    done = _answered(samples, label_field) if resume and same else set()
    rows = plan.rows_by_image(samples, asked, done)

    make = partial(
        _make_answerer, model, proposer, masks, weights, device, dtype, dict(call_options or {}), dict(load_options or {})
    )
    answerer = make() if distributed is None else None
    if not same:
        settings["mixed"] = clear_answers(samples, label_field, keep={source, asked.field, gt_field})
    plan.declare_output(dataset, label_field, asked.several, draws=not needs_candidates)
    record(dataset, run_key, settings)
    writer = Writer(dataset, label_field, asked.several, label, mask_dir, stored_at if proposer is not None else None)
    writer.draws = not needs_candidates
    reader = plan.CandidateReader(samples, source, gt_field)
    waiting: dict[str, CandidateLabels | None] = {}
    truth: dict[str, list] = {}

    def batches():
        for jobs, labels, boxes in plan.job_batches(rows, reader, names_of, batch_size, source is not None):
            waiting.update(labels)
            truth.update(boxes)
            yield jobs

    if distributed == "ray":
        from .distributed import ray_stream

        stream = ray_stream(make, batches(), num_actors=num_actors, timeout_s=timeout_s)
    else:
        stream = answer_stream(answerer, batches(), num_workers)
    started = time.monotonic()
    total = sum(len(own) for own in rows.values())
    try:
        with fou.ProgressBar(total=total, progress=progress) as bar:
            for jobs, results in stream:
                for result in results:
                    if not skip_failures:
                        _raise_failure(result)
                    writer.add(result, waiting.pop(result.key), truth.pop(result.key, None))
                writer.num_images += len(jobs)
                if writer.images_waiting(len(jobs)) >= save_every:
                    writer.flush()
                bar.update(len(results))
    finally:
        # also when interrupted: what has been computed is kept, and the same call goes on from there
        writer.flush()
    summary = writer.summary(time.monotonic() - started, len(done), run_key)
    record(dataset, run_key, {**settings, "summary": _plain(summary)})
    logger.info("%s", summary)
    return summary


def _needs_candidates(model) -> bool:
    if isinstance(model, str):
        return registry.entry(model).needs_candidates
    inner = getattr(model, "selector", model)
    if hasattr(inner, "select_batch") or hasattr(inner, "segment_batch"):
        return hasattr(inner, "select_batch")
    if callable(model):
        return bool(getattr(model, "needs_candidates", True))
    raise ConfigError(
        "this is no model for expressions",
        expected="a zoo name such as 'rexseek-3b', a RexSeek, a ReLA, or what foz.load_zoo_model gives for them",
        found=type(model).__name__,
    )


def _candidates(samples, candidates, needed: bool) -> tuple[str | None, Any]:
    """(field, proposer): one of them, or neither for a model that needs no candidates."""
    if not needed:
        if candidates is not None:
            raise ConfigError("this model finds objects by itself", expected="candidates=None", found=candidates)
        return None, None
    if candidates is None:
        candidates = "candidates"
    if isinstance(candidates, str):
        plan.check_detections_field(samples, candidates)
        return candidates, None
    if not (hasattr(candidates, "propose") and hasattr(candidates, "describe")):
        raise ConfigError(
            "candidates are no source of boxes",
            expected="a field of Detections, or a proposer with propose(images, names) and describe()",
            found=type(candidates).__name__,
        )
    return None, candidates


def _names(proposer, prompt, noun_pipeline) -> Callable[[Sequence[plan.Row]], dict[str, tuple[str, ...]]]:
    """A function from rows to what the proposer looks for; the spaCy pipeline loads here, so that it fails early."""
    if proposer is None or not getattr(proposer, "uses_names", True):
        return lambda rows: {}
    if prompt is not None:
        fixed = tuple(clean_names(prompt))
        if not fixed:
            raise ConfigError("prompt names nothing", expected="names such as 'person, dog'", found=prompt)
        return lambda rows: {row.id: fixed for row in rows}
    nouns = noun_pipeline if isinstance(noun_pipeline, NounExtractor) else NounExtractor(noun_pipeline)

    def of(rows):
        found = nouns.extract(" . ".join(t for t in row.expressions if isinstance(t, str)) for row in rows)
        return {row.id: tuple(names) or FALLBACK_NAMES for row, names in zip(rows, found)}

    return of


def _model_name(model, weights) -> str:
    if isinstance(model, str):
        return f"{model} ({weights})" if weights is not None else model
    config = getattr(model, "config", None)
    name = getattr(config, "zoo_name", None)
    return str(name) if name else getattr(model, "__qualname__", type(model).__qualname__)


def _make_answerer(model, proposer, masks, weights, device, dtype, call_options, load_options) -> Answerer:
    """Loads what is given by name; also runs in the processes of ``distributed``."""
    if isinstance(model, str):
        model = registry.load(model, weights, device=device, dtype=dtype, **load_options)
    else:
        inner = getattr(model, "selector", model)
        is_object = (hasattr(inner, "select_batch") or hasattr(inner, "segment_batch")) and not isinstance(inner, type)
        model = inner if is_object else model()
    segmenter = masks if hasattr(masks, "segment") else None
    if segmenter is None and masks and not hasattr(model, "segment_batch"):
        from .segmentation import ZooSegmenter

        segmenter = ZooSegmenter.load(DEFAULT_SAM if masks is True else masks)
    return Answerer(model, proposer=proposer, segmenter=segmenter, options=call_options)


def _answered(samples, label_field: str) -> set[str]:
    """Samples with an answer."""
    ids, outcomes = samples.values(["id", label_field + OUTCOME])
    return {i for i, outcome in zip(ids, outcomes) if outcome is not None and outcome != Outcome.FAILED.value}


def _plain(summary: ApplySummary) -> dict[str, Any]:
    return {
        "outcomes": dict(summary.outcomes),
        "num_images": summary.num_images,
        "num_samples": summary.num_samples,
        "dropped_candidates": summary.dropped_candidates,
        "expressions_per_second": summary.expressions_per_second,
        "proposal_recall": summary.proposal_recall,
    }


def _raise_failure(result: ItemResult) -> None:
    for selection in result.selections:
        if selection.outcome is Outcome.FAILED:
            raise DataError(selection.error or "no answer", where=f"sample {result.key}", advice="skip_failures=True goes on")


def candidate_recall(samples, candidates_field: str = "candidates", gt_field: str = "ground_truth", iou_threshold: float = 0.5):
    """Proposal recall of a field against ground truth: :class:`fiftyone_rexseek.metrics.proposals.ProposalRecall`.

    Samples whose candidates are None (never proposed) are left out.
    """
    from .columns import read_columns

    columns = read_columns(samples, candidates_field, gt_field, candidates_field=None)
    pairs = [
        (truth, found)
        for truth, found, present in zip(columns.gt.boxes_xyxy, columns.pred.boxes_xyxy, columns.pred.present)
        if present
    ]
    return proposal_recall([p[0] for p in pairs], [p[1] for p in pairs], iou_threshold)

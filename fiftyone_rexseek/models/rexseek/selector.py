"""``RexSeek``: a checkpoint with everything around it, from images and boxes to selections."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fiftyone_rexseek.errors import CheckpointError, ConfigError, DataError
from fiftyone_rexseek.referring import Outcome, Selection

from ..images import open_image
from .answers import PARSERS
from .confidence import WatchedTokens, answer_confidence
from .config import RexSeekConfig
from .constrained import ConstrainedPolicy
from .devices import as_device, as_dtype, default_dtype, is_out_of_memory
from .generation import Decoded, GreedyPolicy, decode, prefill, rows_that_fit
from .modeling import RexSeekForSelection
from .processing import RexSeekProcessor
from .requests import Job, SelectRequest, jobs_ahead
from .weights import load_model, read_generation_config, resolve_folder, save_model, write_generation_config

logger = logging.getLogger(__name__)

#: The public demos' limit; the public evaluation uses 100.
MAX_NEW_TOKENS = 512
#: Up to this width of the language model a step on the CPU costs the same for one row and for many.
SMALL = 512
_DECODINGS = ("free", "constrained")


class RexSeek:
    """Selects, among given boxes, the ones that an expression refers to: none, one or many.

    Args:
        model: the network, in evaluation mode
        processor: pixels, boxes and tokens
        generation: contents of the checkpoint's ``generation_config.json``
        reproduce: round boxes to float16 as every public entry point does. On by default: published numbers were
            made so, and it costs nothing; switch it off for a model that was trained with unrounded boxes.

    Use :meth:`from_pretrained`.
    """

    def __init__(
        self,
        model: RexSeekForSelection,
        processor: RexSeekProcessor,
        generation: dict | None = None,
        reproduce: bool = True,
    ):
        rows = model.model.embed_tokens.num_embeddings
        if len(processor.tokenizer) > rows:
            raise CheckpointError(
                "the tokenizer does not fit the model",
                expected=f"at most {rows} tokens, the rows of the embedding",
                found=len(processor.tokenizer),
            )
        self.model = model
        self.processor = processor
        self.generation = dict(generation or {})
        self.reproduce = reproduce

    @classmethod
    def from_pretrained(
        cls,
        name: str | Path,
        revision: str | None = None,
        device: str | torch.device | None = None,
        dtype: torch.dtype | str | None = None,
        reproduce: bool = True,
        **config_changes: Any,
    ) -> RexSeek:
        """Loads a checkpoint folder in the public layout, or fetches one from the Hugging Face hub.

        No code of the checkpoint is run and no pickle is opened.

        Args:
            name: folder, or hub repository such as ``IDEA-Research/RexSeek-3B``
            revision: branch, tag or commit of the repository
            device: by default CUDA, else Apple's MPS, else the CPU
            dtype: by default float32 on the CPU, bfloat16 on CUDA (float16 where it has none), float16 on MPS
            reproduce: see :class:`RexSeek`
            config_changes: fields of :class:`RexSeekConfig` to set differently, such as ``sine_function="xyxy"``

        Raises:
            ConfigError: an option, device or dtype that does not exist (before anything is fetched)
            CheckpointError: when the folder is incomplete or of another model; one error names everything
            DownloadError: when the repository cannot be fetched
        """
        device = as_device(device)
        dtype = as_dtype(dtype) or default_dtype(device)
        unknown = sorted(set(config_changes) - {f.name for f in fields(RexSeekConfig)})
        if unknown:
            raise ConfigError("unknown option of RexSeek.from_pretrained", found=", ".join(unknown))
        folder = resolve_folder(name, revision)
        config = RexSeekConfig.from_folder(folder)
        if config_changes:
            config = config.replace(**config_changes)
        processor = RexSeekProcessor.from_folder(config, folder)
        generation = read_generation_config(folder)
        model = load_model(folder, config, device, dtype)
        return cls(model, processor, generation, reproduce)

    def save_pretrained(self, folder: str | Path, dtype: torch.dtype | None = None) -> None:
        """Writes a folder that :meth:`from_pretrained` reads: configuration, weights (safetensors), tokenizer.

        Args:
            folder: created when it does not exist
            dtype: stored type of the weights, such as ``torch.float16``; by default their own
        """
        save_model(self.model, folder, dtype)
        self.processor.tokenizer.save_pretrained(str(Path(folder) / "tokenizer"))
        write_generation_config(folder, self.generation)

    @property
    def config(self) -> RexSeekConfig:
        return self.model.config

    @property
    def device(self) -> torch.device:
        return self.model.device

    @property
    def eos_ids(self) -> tuple[int, ...]:
        """Tokens that end an answer: the generation configuration's, else the model's, else the tokenizer's.

        What lies beyond the vocabulary can never be generated and is left out.
        """
        for value in (
            self.generation.get("eos_token_id"),
            self.config.text.get("eos_token_id"),
            self.processor.tokenizer.eos_token_id,
        ):
            ids = tuple(i for i in _as_ids(value) if 0 <= i < self.model.lm_head.out_features)
            if ids:
                return ids
        raise ConfigError(
            "neither generation_config.json nor config.json nor the tokenizer states an end token of the vocabulary"
        )

    def select(
        self,
        image: Any,
        boxes_xyxy: Any,
        expressions: Sequence[str] | str,
        *,
        scores: Any = None,
        **options: Any,
    ) -> list[Selection]:
        """Asks several expressions about one image. The image, its boxes and the shared prompt are computed once.

        Args:
            image: path, ``PIL.Image`` (any mode), or HWC ``uint8`` RGB array
            boxes_xyxy: (n, 4) candidate boxes in absolute pixels
            expressions: one text or several
            scores: (n,) detector scores, used only to choose among too many candidates
            options: see :meth:`select_batch`

        Returns:
            one :class:`Selection` per expression, in order
        """
        return self.select_batch([SelectRequest(image, boxes_xyxy, expressions, scores)], **options)[0]

    def select_batch(
        self,
        requests: Iterable[SelectRequest],
        *,
        decoding: str = "free",
        parser: str = "lenient",
        max_new_tokens: int = MAX_NEW_TOKENS,
        batch_size: int | None = None,
        workers: int | None = None,
    ) -> list[list[Selection]]:
        """Asks about many images. One bad image, box or expression never takes the others with it.

        * An unreadable image gives ``failed`` for its own expressions. So does running out of memory with that
          image alone; with several, the batch is halved until it fits.
        * Boxes that are not finite, inverted, without area or wholly outside are left out and named in a warning;
          when all are bad the outcome is ``failed``. Of more than ``config.num_object_tokens`` (100) boxes the best
          by ``scores`` are asked about, or the first ones without scores. ``Selection.dropped_candidates`` counts
          both; indices always count the boxes given. No boxes at all: ``rejected`` without a call of the model.
        * An expression that is empty, or longer than 512 tokens, gives ``failed``: to answer a cut question would be
          to answer another one. What imitates special tokens is broken up and asked as ordinary text.

        Args:
            requests: images with boxes and expressions
            decoding: ``free`` is the public code's greedy decoding. ``constrained`` follows the grammar of answers, can
                name only existing boxes, never truncates and scores every candidate even where it rejects.
            parser: how free answers are read: ``lenient``, or the public ``evaluation``'s or ``demo``'s way
            max_new_tokens: limit of a free answer; one cut off by it is read as it stands
            batch_size: images per batch; by default 16, and 1 for a large model on the CPU (where more bring nothing)
            workers: threads that make the next requests ready while the model is busy; by default none on the CPU
                and up to 16 elsewhere

        Returns:
            for each request, one :class:`Selection` per expression. ``scores`` and ``rejection_score`` are defined in
            :mod:`.confidence`; ``candidate_scores`` (NaN where unknown) covers the boxes not selected as well.
        """
        if decoding not in _DECODINGS:
            raise ConfigError("unknown decoding", expected=f"one of {_DECODINGS}", found=decoding)
        if parser not in PARSERS:
            raise ConfigError("unknown parser", expected=f"one of {tuple(PARSERS)}", found=parser)
        for option, value in (("batch_size", batch_size), ("max_new_tokens", max_new_tokens)):
            if value is not None and value < 1:
                raise ConfigError(f"bad {option}", expected="a whole number of at least 1", found=value)
        if not isinstance(requests, Iterable):
            raise ConfigError(
                "requests are no list", expected="a list of SelectRequest", found=type(requests).__name__
            )
        if batch_size is None:
            batch_size = 1 if self.device.type == "cpu" and self.config.hidden_size > SMALL else 16
        if workers is None:
            workers = 0 if self.device.type == "cpu" else min(16, os.cpu_count() or 1)
        options = _Options(decoding, parser, max_new_tokens)
        results: list[list[Selection]] = []
        batch: list[Job] = []
        for job in jobs_ahead(requests, self.processor, self.reproduce, workers, 2 * batch_size):
            batch.append(job)
            if len(batch) == batch_size:
                results += self._answer(batch, options)
                batch = []
        return results + self._answer(batch, options)

    @torch.inference_mode()
    def generate_ids(
        self,
        image: Any,
        boxes_xyxy: Any,
        question: str,
        max_new_tokens: int = MAX_NEW_TOKENS,
        eos_token_id: int | Sequence[int] | None = None,
        repetition_penalty: float | None = None,
    ) -> list[int]:
        """Greedy token ids of one full question, exactly the public code's (only the new tokens are returned).

        Nothing is checked, cut or neutralised here: see :meth:`select` for that.

        Args:
            image: as for :meth:`select`
            boxes_xyxy: (n, 4) absolute pixels, n > 0
            question: the whole question, such as ``Please detect man in this image. Answer the question ...``
            max_new_tokens: most tokens to generate
            eos_token_id: token(s) that end the answer, which then is their last id. By default those of the
                checkpoint's ``generation_config.json``; without that file none, as with an empty sequence.
            repetition_penalty: on generated tokens only; by default the generation configuration's, else 1

        Raises:
            DataError: for an unreadable image, no boxes, boxes that are not finite, a question that is no text, or
                more ``<objfeat>`` marks in it than there are boxes
        """
        if not isinstance(question, str):
            raise DataError("the question is no text", found=type(question).__name__)
        image = open_image(image)
        boxes = self.processor.boxes(boxes_xyxy, image.size, self.reproduce)
        if not len(boxes) or not boxes.isfinite().all():
            raise DataError(
                "a question needs boxes", expected="at least one, of finite numbers", found=boxes.tolist()
            )
        ids = self.processor.token_ids(len(boxes), question)
        image_tokens, object_tokens = self._encode([self.processor.levels(image)], [boxes])
        if eos_token_id is None:
            eos_token_id = self.generation.get("eos_token_id")
        if repetition_penalty is None:
            repetition_penalty = self.generation.get("repetition_penalty") or 1.0
        policy = GreedyPolicy(_as_ids(eos_token_id), repetition_penalty)
        head = self.model.splice(torch.tensor(ids[:-1]), image_tokens[0], object_tokens[0])
        prefix = prefill(self.model, [head])
        return decode(self.model, prefix, [0], [ids[-1:]], policy, max_new_tokens)[0].ids

    def _encode(self, levels: Sequence[Tensor], boxes: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
        # Bytes travel, and the device makes floating point numbers of them: as numbers they would be four times as many.
        images = torch.stack([image.to(self.device, non_blocking=True) for image in levels])
        pixels = self.processor.normalised(images)
        image_tokens, features = self.model.encode_image(*(p.to(self.model.dtype) for p in pixels))
        object_tokens = self.model.encode_boxes(features, boxes)
        return image_tokens, object_tokens.split([len(b) for b in boxes])

    def _answer(self, jobs: list[Job], options: _Options) -> list[list[Selection]]:
        self._run_or_halve([job for job in jobs if job.rows], options)
        return [job.results for job in jobs]

    def _run_or_halve(self, jobs: list[Job], options: _Options, max_rows: int = 1024) -> None:
        if not jobs:
            return
        try:
            self._run(jobs, options, max_rows)
            return
        except (torch.OutOfMemoryError, MemoryError, RuntimeError) as e:
            if not is_out_of_memory(e):
                raise
        # Outside the handler, so that the failed batch's tensors are no longer held by the traceback.
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        rows = sum(len(job.rows) for job in jobs)
        if len(jobs) > 1:
            logger.warning("out of memory with %d images: trying half of them at a time", len(jobs))
            half = len(jobs) // 2
            self._run_or_halve(jobs[:half], options, max_rows)
            self._run_or_halve(jobs[half:], options, max_rows)
        elif min(rows, max_rows) > 1:
            self._run_or_halve(jobs, options, min(rows, max_rows) // 2)
        else:
            jobs[0].fail(
                f"out of memory on {self.device} with this image alone; use fewer boxes, a smaller dtype, another"
                " device, or free memory"
            )

    @torch.inference_mode()
    def _run(self, jobs: list[Job], options: _Options, max_rows: int) -> None:
        """Encodes the jobs' images together, prefills one prefix per image, and decodes all expressions."""
        image_tokens, object_tokens = self._encode([j.levels for j in jobs], [j.boxes for j in jobs])
        shared = [_common_prefix(job.token_ids) for job in jobs]
        heads = [torch.tensor(job.token_ids[0][:n]) for job, n in zip(jobs, shared, strict=True)]
        prefix = prefill(
            self.model,
            [self.model.splice(h, i, o) for h, i, o in zip(heads, image_tokens, object_tokens, strict=True)],
        )
        rows = [(j, k) for j, job in enumerate(jobs) for k in range(len(job.rows))]
        eos_ids = self.eos_ids
        columns = WatchedTokens.of(self.processor, eos_ids)
        at_once = min(max_rows, rows_that_fit(self.model, prefix))
        for start in range(0, len(rows), at_once):
            part = rows[start : start + at_once]
            num_boxes = [len(jobs[j].candidates.kept) for j, _ in part]
            policy, steps = self._policy(options, columns, num_boxes, eos_ids)
            suffixes = [jobs[j].token_ids[k][shared[j] :] for j, k in part]
            decoded = decode(self.model, prefix, [j for j, _ in part], suffixes, policy, steps, columns.ids)
            for n, (j, k) in enumerate(part):
                forced_rejection = isinstance(policy, ConstrainedPolicy) and policy.rejected(n)
                i = jobs[j].rows[k]
                jobs[j].results[i] = self._selection(
                    jobs[j], i, decoded[n], columns, options, forced_rejection
                )

    def _policy(
        self, options: _Options, columns: WatchedTokens, num_boxes: list[int], eos_ids: tuple[int, ...]
    ) -> tuple[GreedyPolicy, int]:
        if options.decoding == "free":
            penalty = self.generation.get("repetition_penalty") or 1.0
            return GreedyPolicy(eos_ids, penalty), options.max_new_tokens
        policy = ConstrainedPolicy(
            self.processor,
            columns,
            num_boxes,
            eos_ids,
            self.model.lm_head.out_features,
            options.max_new_tokens,
        )
        return policy, policy.steps

    def _selection(
        self,
        job: Job,
        i: int,
        row: Decoded,
        columns: WatchedTokens,
        options: _Options,
        forced_rejection: bool,
    ) -> Selection:
        expression, kept = job.request.expressions[i], job.candidates.kept
        if not np.isfinite(row.watched).all():
            error = (
                "the network computed numbers that are not finite; try dtype='float32', and check the weights"
            )
            return Selection.failed(expression, error)
        confidence = answer_confidence(row.ids, row.watched, columns, self.processor, len(kept))
        candidate_scores = np.full(job.candidates.total, np.nan)
        candidate_scores[kept] = confidence.candidates
        common = dict(
            rejection_score=confidence.rejection,
            candidate_scores=candidate_scores,
            dropped_candidates=job.candidates.total - len(kept),
        )
        if forced_rejection:
            return Selection.rejected(expression, indices=(), answer=self.config.rejection_sentence, **common)
        answer = self.processor.decode(row.ids).strip()
        parsed = PARSERS[options.parser](answer, len(kept))
        problem = parsed.problem
        if problem and not row.finished:
            problem += f", after max_new_tokens={options.max_new_tokens}"
        chosen = np.asarray(parsed.indices, dtype=int)
        return Selection(
            expression,
            parsed.outcome,
            boxes_xyxy=job.candidates.boxes[chosen],
            scores=confidence.candidates[chosen],
            indices=tuple(int(kept[c]) for c in chosen),
            answer=answer,
            error=problem if parsed.outcome is Outcome.UNPARSED else None,
            **common,
        )


@dataclass(frozen=True)
class _Options:
    decoding: str
    parser: str
    max_new_tokens: int


def _common_prefix(rows: Sequence[Sequence[int]]) -> int:
    """How many leading ids all rows share; at least one id of every row is left over."""
    shortest = min(len(row) for row in rows) - 1
    return next((k for k in range(shortest) if any(row[k] != rows[0][k] for row in rows)), shortest)


def _as_ids(value: int | Sequence[int] | None) -> tuple[int, ...]:
    if value is None:
        return ()
    return tuple(int(i) for i in np.asarray(value, dtype=np.int64).reshape(-1))

"""Fine-tuning RexSeek on people's own data: from a checkpoint folder to a checkpoint folder."""

from __future__ import annotations

import json
import logging
import os
import random
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from ..errors import ConfigError, DataError, ProblemLog
from ..metrics.humanref import score_boxes
from ..models.rexseek import RexSeek, RexSeekProcessor, SelectRequest
from ..referring import ReferringExample
from .data import ExampleStream, ImageRecord, MixedStream, group_by_image, in_file_pixels, readable, usable
from .loop import LoopConfig, LoopResult, make_folder, train
from .lora import LoraOptions, add_lora, check_lora, choose_parts, enable_checkpointing, merge_lora, trainable
from .optim import build_optimizers, check_numbers
from .rexseek import ObjectiveConfig, RexSeekObjective
from .vocabulary import UNKNOWN, is_word_tokenizer, room_for_words, with_words, words_of

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class FineTuning:
    """Options of :func:`finetune_rexseek`.

    Attributes:
        steps: optimiser steps
        lr: of AdamW
        images, questions: per micro-batch, and per image
        accumulate: micro-batches per step
        train: parts that learn, see ``lora.PARTS``; with ``lora``, "language" means its adapters
        lora: low-rank adapters instead of the whole language model
        bf16: bfloat16 autocast
        gradient_checkpointing: less memory, slower
        rehearsal: share of batches from the ``rehearse`` stream
        validation_share: share of the images kept for validation (when no validation set is given)
        validate_every, seed, progress, device: as they say
    """

    steps: int = 300
    lr: float = 5e-4
    images: int = 4
    questions: int = 8
    accumulate: int = 1
    train: tuple[str, ...] = ("language", "projectors", "convnext")
    lora: LoraOptions | None = None
    bf16: bool = False
    gradient_checkpointing: bool = False
    rehearsal: float = 0.0
    validation_share: float = 0.1
    validate_every: int = 100
    seed: int = 0
    progress: bool = True
    device: str | None = None
    objective: ObjectiveConfig = field(default_factory=lambda: ObjectiveConfig(wording=0.3))

    def __post_init__(self):
        check_numbers("steps", "lr", "images", "questions", steps=self.steps, lr=self.lr, images=self.images, questions=self.questions)
        check_lora(self.lora)


def finetune_rexseek(
    start: str | Path,
    examples: Iterable[tuple[ReferringExample, str]],
    out_dir: str | Path,
    options: FineTuning | None = None,
    validation: Iterable[tuple[ReferringExample, str]] | None = None,
    rehearse: Callable[[RexSeekProcessor, int], Callable] | None = None,
    log: ProblemLog | None = None,
    accelerator=None,
) -> LoopResult:
    """Teaches a checkpoint new expressions; the result is a folder that ``RexSeek.from_pretrained`` reads.

    The best checkpoint by the official HumanRef score on the validation images is what is written to
    ``out_dir/model``; the log and its plot are beside it. A run that was killed goes on where it was.

    Args:
        start: checkpoint folder (or hub name)
        examples: pairs of example and path of its image
        out_dir: made when missing
        validation: pairs to choose by; by default some of the images of ``examples``
        rehearse: ``rehearse(processor, end_id)`` gives a stream of what must not be forgotten
        accelerator: for several GPUs
    """
    options = options or FineTuning()
    out_dir = Path(out_dir)
    log = log if log is not None else ProblemLog()
    records = group_by_image(in_file_pixels(examples, log), log)
    held_out = group_by_image(in_file_pixels(validation, log), log) if validation is not None else None
    _require(records, held_out, log)
    make_folder(out_dir)
    device = accelerator.device if accelerator is not None else options.device
    rexseek = RexSeek.from_pretrained(start, device=device, dtype=torch.float32)
    records = usable(records, rexseek.processor, log)
    held_out = usable(held_out, rexseek.processor, log) if held_out is not None else None
    given = held_out is not None
    # one that cannot be read would count as answered wrongly, whatever the model learns
    held_out = [r for r in (held_out if given else _hold_out(records, options)) if readable(r.path, log)]
    _require(records, held_out if given else None, log)
    main = accelerator is None or accelerator.is_main_process
    _learn_words_of_run(rexseek, out_dir, [text for r in (*records, *held_out) for text, _ in r.questions], log, main)
    objective = prepare(rexseek, options)
    end_id = rexseek.eos_ids[0]
    stream = ExampleStream(records, rexseek.processor, end_id, options.images, options.questions, options.seed, log=log)
    batch_at: Callable = stream
    if rehearse is not None and options.rehearsal:
        batch_at = MixedStream([stream, rehearse(rexseek.processor, end_id)], [1 - options.rehearsal, options.rehearsal])
    optimizers = build_optimizers(objective.named_parameters(), lr=options.lr)
    config = LoopConfig(
        out_dir,
        steps=options.steps,
        accumulate=options.accumulate,
        bf16=options.bf16,
        seed=options.seed,
        validate_every=options.validate_every,
        checkpoint_every=options.validate_every,
        progress=options.progress,
        warmup=0.05,
    )

    def validate(trained: RexSeekObjective) -> dict[str, float]:
        return score_records(rexseek, held_out)

    def loss(module, batch, progress):
        return module(batch, progress)

    result = train(objective, batch_at, loss, optimizers, config, validate if held_out else None, accelerator)
    if main:
        if options.lora is not None:
            merge_lora(rexseek.model)
        rexseek.save_pretrained(out_dir / "model")
    return result


def prepare(rexseek: RexSeek, options: FineTuning) -> RexSeekObjective:
    """Chooses what learns, and wraps the network with its loss."""
    model = rexseek.model
    # with adapters "language" means these alone, not the output layer
    parts = options.train if options.lora is None else [name for name in options.train if name != "language"]
    trained = choose_parts(model, parts)
    if options.lora is not None:
        torch.manual_seed(options.seed)  # adapters begin with random numbers
        add_lora(model, options.lora)
        trained = trainable(model)
    if not trained:
        raise ConfigError("nothing would be trained", expected="train= or lora=", found=options.train)
    logger.info("training %d of %d parameters", trained, sum(p.numel() for p in model.parameters()))
    if options.gradient_checkpointing:
        enable_checkpointing(model.model)
    objective = options.objective
    if options.lora is None and not options.gradient_checkpointing and rexseek.device.type == "cpu":
        objective = replace(objective, fast=True, dtype="bfloat16" if options.bf16 else "float32")
    return RexSeekObjective(model, objective)


def learn_words(rexseek: RexSeek, expressions: Sequence[str], log: ProblemLog | None = None) -> list[str]:
    """Gives places in the vocabulary to unknown words, for models with one token per word; returns the new words.

    Args:
        rexseek: gets another processor where there are new words
        expressions: where words are looked for
        log: where there are more new words than places, the most frequent get them and the others are reported here

    Raises:
        ConfigError: more new words than places, and no log
    """
    tokenizer = rexseek.processor.tokenizer
    if not is_word_tokenizer(tokenizer):
        return []
    unknown = tokenizer.convert_tokens_to_ids(UNKNOWN)
    counts = Counter(
        w for text in expressions for w in words_of(tokenizer, text)
        if unknown in tokenizer.encode(w, add_special_tokens=False)
    )  # fmt: skip
    words = list(counts)
    if log is not None and len(words) > (room := room_for_words(tokenizer)):
        words = [w for w, _ in counts.most_common()]
        for word in words[room:]:
            log.add("unknown-word", "vocabulary", f"all {room} places for new words are taken: {word!r} means nothing to the model")
        words = words[:room]
    if words:
        rexseek.processor = RexSeekProcessor(rexseek.config, with_words(tokenizer, words))
        logger.info("new words: %s", ", ".join(words))
    return words


def _learn_words_of_run(rexseek: RexSeek, out_dir: Path, expressions: Sequence[str], log: ProblemLog, main: bool) -> None:
    """:func:`learn_words`; in a run that goes on, the words it has learnt keep their places whatever comes before them now."""
    path = out_dir / "words.json"
    goes_on = (out_dir / "checkpoint.pt").exists() and path.exists()
    words = json.loads(path.read_text(encoding="utf-8")) if goes_on else []
    learn_words(rexseek, words)
    words += learn_words(rexseek, expressions, log)
    if main and words:
        partial = path.with_suffix(".tmp")  # other processes may be reading
        partial.write_text(json.dumps(words, ensure_ascii=False), encoding="utf-8")
        os.replace(partial, path)


def score_records(rexseek: RexSeek, records: Sequence[ImageRecord], **options) -> dict[str, float]:
    """Official HumanRef numbers of free answers about image records."""
    was_training = rexseek.model.training
    rexseek.model.eval()
    answers, predictions, counts, answered = [], [], [], []
    for record in records:
        texts = [text for text, _ in record.questions]
        options = {"max_new_tokens": 160, **options}
        selections = rexseek.select_batch([SelectRequest(record.path, record.boxes_xyxy, texts)], **options)[0]
        for (_, targets), selection in zip(record.questions, selections):
            answers.append(record.boxes_xyxy[list(targets)].tolist())
            predictions.append(selection.boxes_xyxy.tolist())
            counts.append(len(record.boxes_xyxy))
            answered.append(selection.outcome.is_answer)
    rexseek.model.train(was_training)
    scored = score_boxes(answers, predictions, counts, answered=answered, missing="wrong")
    numbers = {}
    positive = ~scored.is_rejection
    if positive.any():
        numbers["density_f1"] = float(scored.density_f1_mean[positive].mean())
    if (~positive).any():
        numbers["rejection"] = float(scored.rejection_correct[~positive].mean())
    numbers["score"] = sum(numbers.values()) / len(numbers)
    return numbers


def _require(records: list, held_out: list | None, log: ProblemLog) -> None:
    if not records:
        raise DataError("there is nothing to train on", found=log.summary() or "no examples")
    if held_out is not None and not held_out:
        raise DataError("there is nothing to validate on", found=log.summary() or "no examples")


def _hold_out(records: list[ImageRecord], options: FineTuning) -> list[ImageRecord]:
    """Takes some images out of ``records`` for validation, from everywhere: files are often sorted by the kind of question.

    None when there are too few.
    """
    count = int(len(records) * options.validation_share)
    chosen = set(random.Random(options.seed).sample(range(len(records)), count))
    held_out = [r for i, r in enumerate(records) if i in chosen]
    records[:] = [r for i, r in enumerate(records) if i not in chosen]
    return held_out

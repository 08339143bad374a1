"""Fine-tuning ReLA on people's own data: batches, losses, validation, from a checkpoint folder to a checkpoint folder."""

from __future__ import annotations

import logging
import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from .. import masks as rle
from ..errors import ConfigError, DataError, ProblemLog
from ..geometry import box_problem
from ..metrics.gres import GresConfig, MaskAnswer, evaluate_gres, truths
from ..models.images import open_image
from ..models.rela import ReLA, ReLANetwork, SegmentRequest
from ..models.rela.fusion import LanguageFusion
from ..models.rela.losses import ReLATargets, conference_loss, journal_loss
from ..models.rela.pixel_decoder import EncoderLayer
from ..models.rela.processing import resize_image
from ..models.rela.resnet import Bottleneck
from ..models.rela.swin import SwinBlock
from ..models.rela.tokenization import tokenize
from ..referring import ReferringExample
from .data import in_file_pixels, readable
from .loop import LoopConfig, LoopResult, make_folder, train
from .lora import LoraOptions, add_adapters, check_lora, merge_adapters, recompute, train_only, trainable
from .optim import build_optimizers, check_numbers

logger = logging.getLogger(__name__)

Pair = tuple[ReferringExample, str]
#: What can learn, and the beginnings of the names of its parameters.
PARTS = {
    "text": ("text_encoder.encoder.",),
    "backbone": ("backbone.",),
    "pixel_decoder": ("sem_seg_head.pixel_decoder.",),
    "decoder": ("sem_seg_head.predictor.",),
}
#: The public recipe leaves BERT's embeddings and its last two layers as they were pretrained.
UNTRAINED_TEXT_LAYERS = 2
#: Linear layers of BERT and of Swin, which low-rank adapters are for.
BERT_LAYERS = (
    "attention.self.query", "attention.self.key", "attention.self.value", "attention.output.dense", "intermediate.dense",
    "output.dense",
)  # fmt: skip
SWIN_LAYERS = ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")
#: Adapters start from nothing: they learn so much faster than pretrained weights.
ADAPTER_LR_SCALE = 20.0


@dataclass(frozen=True)
class ReLAFineTuning:
    """Options of :func:`finetune_rela`; learning rate, decay and clipping default to the public recipe.

    Attributes:
        steps: optimiser steps
        lr: of AdamW; None: 1e-5 for models with BERT-base (adapters: 2e-4), 3e-4 for smaller ones
        weight_decay, clip: 0.05 and 0.01 in the public recipe (its gradients are large)
        batch: expressions per micro-batch
        accumulate: micro-batches per step
        train: parts that learn, of :data:`PARTS`; with ``lora``, "text" and "backbone" mean their adapters
        lora: low-rank adapters on the linear layers of BERT's layers and of Swin's blocks, instead of these two as a whole.
            Nothing else gets adapters: the decoders (a tenth of the parameters) learn as a whole where ``train`` names them;
            the language fusion behind Swin's stages, and all of a ResNet, stay as they are
        bf16: bfloat16 autocast
        gradient_checkpointing: less memory, slower
        validation_share: share of the images kept for validation (when no validation set is given)
        validate_every, seed, progress, device: as they say
    """

    steps: int = 300
    lr: float | None = None
    weight_decay: float = 0.05
    clip: float = 0.01
    batch: int = 8
    accumulate: int = 1
    train: tuple[str, ...] = ("text", "backbone", "pixel_decoder", "decoder")
    lora: LoraOptions | None = None
    bf16: bool = False
    gradient_checkpointing: bool = False
    validation_share: float = 0.1
    validate_every: int = 100
    seed: int = 0
    progress: bool = True
    device: str | None = None

    def __post_init__(self):
        check_numbers("steps", "lr", "batch", steps=self.steps, lr=self.lr, batch=self.batch)
        check_numbers(weight_decay=self.weight_decay, clip=self.clip)
        check_lora(self.lora)


@dataclass(frozen=True)
class ReLABatch:
    """B expressions: images uint8 (B, 3, size, size), token ids and mask (B, N), targets."""

    images: Tensor
    token_ids: Tensor
    attention_mask: Tensor
    targets: ReLATargets

    def to(self, device) -> ReLABatch:
        return ReLABatch(
            self.images.to(device), self.token_ids.to(device), self.attention_mask.to(device), self.targets.to(device)
        )


class ExampleBatches:
    """``batch_at(number)`` over examples, every one once per epoch, in an order that depends on the seed only."""

    def __init__(self, pairs: Sequence[Pair], rela: ReLA, batch: int, seed: int = 0, log: ProblemLog | None = None):
        self.pairs, self.rela, self.size, self.seed = list(pairs), rela, batch, seed
        self.log = log if log is not None else ProblemLog()
        self._reported: set[int] = set()
        self._unreadable: set[str] = set()
        self._ordered: tuple[int, list[int]] = (-1, [])
        if not self.pairs:
            raise DataError("there is nothing to train on", expected="at least one example")

    def __call__(self, number: int) -> ReLABatch:
        """Batch ``number``; an example whose image cannot be read is reported and replaced by the next one."""
        rows, k = [], number * self.size
        for _ in range((self.size + 1) * len(self.pairs)):  # one that can be read is enough
            epoch, place = divmod(k, len(self.pairs))
            index = self._order(epoch)[place]
            example, path = self.pairs[index]
            k += 1
            image = self._image(path)
            if image is None:
                continue
            log = ProblemLog() if index in self._reported else self.log  # what an example lacks it lacks in every epoch
            self._reported.add(index)
            try:
                rows.append((image, example, *target_mask(example, image.size, self.rela.config.image_size, log)))
            except DataError as e:
                log.add("bad-example", path, str(e))
            if len(rows) == self.size:
                return self._collate(rows)
        raise DataError("no example of the training set can be read", found=self.log.summary())

    def _image(self, path: str) -> Image.Image | None:
        if path not in self._unreadable:
            try:
                return open_image(path)
            except DataError as e:
                self._unreadable.add(path)
                self.log.add("bad-image", path, e.what)
        return None

    def _order(self, epoch: int) -> list[int]:
        if self._ordered[0] != epoch:  # a large set takes a tenth of a second
            order = list(range(len(self.pairs)))
            random.Random(f"rela-order/{self.seed}/{epoch}").shuffle(order)
            self._ordered = (epoch, order)
        return self._ordered[1]

    def _collate(self, rows) -> ReLABatch:
        config = self.rela.config
        ids, mask, _ = tokenize(self.rela.tokenizer, [e.expression for _, e, _, _ in rows], config.max_text_length)
        boxes = tuple(b for _, _, _, b in rows)
        targets = ReLATargets(torch.stack([m for _, _, m, _ in rows]), boxes, torch.tensor([len(b) for b in boxes]))
        images = torch.stack([resize_image(image, config.image_size) for image, _, _, _ in rows])
        return ReLABatch(images, ids, mask, targets)


def target_mask(
    example: ReferringExample, size_wh: tuple[int, int], square: int, log: ProblemLog
) -> tuple[Tensor, Tensor]:
    """Merged mask uint8 (square, square) and boxes (n, 4) cxcywh relative of what :func:`as_scored` makes of an example."""
    width, height = size_wh
    merged = np.zeros((height, width), bool)
    boxes = []
    for target in as_scored(example, size_wh, log).targets:
        x0, y0, x1, y1 = target.box_xyxy
        boxes.append([(x0 + x1) / 2 / width, (y0 + y1) / 2 / height, (x1 - x0) / width, (y1 - y0) / height])
        merged |= rle.decode(rle.compress(target.segmentation, height, width))
    small = Image.fromarray(merged.astype(np.uint8)).resize((square, square), Image.Resampling.NEAREST)
    return torch.from_numpy(np.asarray(small).copy()), torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)


def as_scored(example: ReferringExample, size_wh: tuple[int, int], log: ProblemLog) -> ReferringExample:
    """The example with the targets that training and validation look at, each with a mask, at the size of its image.

    As GRES has it, crowds are left out unless there is nothing else. A target without segmentation is taken to fill its
    box: a weak label, which is reported.

    Raises:
        DataError: a target has neither a mask nor a box with an area
    """
    width, height = size_wh
    targets = []
    for target in [t for t in example.targets if not t.iscrowd] or example.targets:
        if not target.segmentation:
            if problem := box_problem(target.box_xyxy):
                raise DataError(f"a target has no mask, and its box {problem}", found=target.box_xyxy)
            log.add("no-mask", f"expression {example.expression_id}", "a target has no mask: its box is used")
            left, top, right, bottom = rle.pixel_window(target.box_xyxy, height, width)
            target = replace(target, segmentation=[[left, top, right, top, right, bottom, left, bottom]])
        targets.append(target)
    return replace(example, targets=tuple(targets), width=width, height=height)


def batch_loss(network: nn.Module, batch: ReLABatch, progress: float):
    """The published loss of the model's form, and its parts for the log."""
    output = network(batch.images, batch.token_ids, batch.attention_mask)
    own = getattr(network, "module", network).config
    losses = journal_loss(output, batch.targets) if own.journal else conference_loss(output, batch.targets)
    return losses["total"], {k: v.detach() for k, v in losses.items() if k != "total"}


def choose_parts(network: nn.Module, parts: Sequence[str]) -> int:
    """Lets these parts learn and freezes the rest; returns how many parameters learn.

    Raises:
        ConfigError: an unknown part, or none
    """
    if not parts:
        raise ConfigError("nothing would be trained", expected=f"some of {sorted(PARTS)}", found="none")
    layers = len(network.text_encoder.encoder.layer)
    kept = range(layers - UNTRAINED_TEXT_LAYERS, layers) if layers > UNTRAINED_TEXT_LAYERS else ()
    return train_only(network, PARTS, parts, tuple(f"text_encoder.encoder.layer.{i}." for i in kept))


def prepare(network: ReLANetwork, options: ReLAFineTuning) -> list[nn.Module]:
    """Chooses what learns and what is computed twice; returns the modules that got adapters.

    Raises:
        ConfigError: an unknown part, or nothing to train
    """
    choose_parts(network, options.train)
    adapted: list[nn.Module] = []
    if options.lora is not None:
        choices = {"text": (network.text_encoder.encoder, BERT_LAYERS), "backbone": (network.backbone, SWIN_LAYERS)}
        if network.config.backbone != "swin":
            network.backbone.requires_grad_(False)
            del choices["backbone"]
        chosen = [choices[part] for part in options.train if part in choices]
        if not chosen:
            raise ConfigError("no part for low-rank adapters", expected=f"some of {sorted(choices)}", found=options.train)
        torch.manual_seed(options.seed)  # adapters begin with random numbers
        for module, layers in chosen:
            add_adapters(module, options.lora, layers)
            adapted.append(module)
    logger.info("training %d of %d parameters", trainable(network), sum(p.numel() for p in network.parameters()))
    if options.gradient_checkpointing:
        recompute(list(large_modules(network)))
    return adapted


def large_modules(network: ReLANetwork) -> Iterator[nn.Module]:
    """The layers whose activations fill the memory."""
    predictor = network.sem_seg_head.predictor
    yield from network.text_encoder.encoder.layer
    yield from (m for m in network.modules() if isinstance(m, SwinBlock | Bottleneck | LanguageFusion | EncoderLayer))
    for layers in (predictor.RIA_layers, predictor.RLA_vision, predictor.transformer_ffn_layers):
        yield from layers


def optimizers_of(network: ReLANetwork, options: ReLAFineTuning) -> list[torch.optim.Optimizer]:
    """AdamW. As in the public recipe, norms, biases, embeddings and relative position biases do not decay."""
    large = network.config.text_dim >= 768
    lr = options.lr if options.lr is not None else (1e-5 if large else 3e-4)
    faster = ADAPTER_LR_SCALE if large and options.lr is None else 1.0
    tables = {id(m.weight) for m in network.modules() if isinstance(m, nn.Embedding)}
    undecayed = {n for n, p in network.named_parameters() if id(p) in tables or n.endswith("relative_position_bias_table")}
    return [
        optimizer
        for still in (False, True)
        for optimizer in build_optimizers(
            [(n, p) for n, p in network.named_parameters() if (n in undecayed) == still],
            lr=lr,
            weight_decay=0.0 if still else options.weight_decay,
            lr_scale=lambda name: faster if ".lora_" in name else 1.0,
        )
    ]


def score_pairs(rela: ReLA, pairs: Sequence[Pair], batch_size: int = 16) -> dict[str, float]:
    """Official GRES figures (masks at the original size) of answers about examples; ``score`` is gIoU as a fraction."""
    config, log = GresConfig("original-size"), ProblemLog()
    answers = []
    for start in range(0, len(pairs), batch_size):
        part = pairs[start : start + batch_size]
        requests = [SegmentRequest(path, [example.expression]) for example, path in part]
        for [selection] in rela.segment_batch(requests, batch_size=batch_size):
            answered = selection.outcome.is_answer
            answers.append(MaskAnswer(selection.merged_mask, selection.outcome.value == "rejected") if answered else None)
    examples = (as_scored(example, _size_of(example, path), log) for example, path in pairs)
    result = evaluate_gres(zip(truths(examples, config, log), answers), config, log).summary()
    numbers = {k: float(result[k]) for k in ("gIoU", "cIoU", "N_acc", "T_acc") if k in result}
    return {**numbers, "score": numbers["gIoU"] / 100}


def scorable(pairs: Iterable[Pair], log: ProblemLog) -> list[Pair]:
    """The pairs with readable image and targets, in the form of :func:`as_scored`; the others are reported.

    One that cannot be read would count as answered wrongly, whatever the model learns.
    """
    images: dict[str, bool] = {}
    kept = []
    for example, path in pairs:
        if path not in images:
            images[path] = readable(path, log)
        if not images[path]:
            continue
        try:
            scored = as_scored(example, _size_of(example, path), log)
            for target in scored.targets:
                rle.compress(target.segmentation, scored.height, scored.width)
            kept.append((scored, path))
        except DataError as e:
            log.add("bad-example", path, str(e))
    return kept


def _size_of(example: ReferringExample, path: str) -> tuple[int, int]:
    return (example.width, example.height) if example.width and example.height else open_image(path).size


def finetune_rela(
    start: str | Path,
    examples: Iterable[Pair],
    out_dir: str | Path,
    options: ReLAFineTuning | None = None,
    validation: Iterable[Pair] | None = None,
    log: ProblemLog | None = None,
    accelerator=None,
    tokenizer: str | Path | None = None,
) -> LoopResult:
    """Teaches a checkpoint new expressions; the result is a folder that ``ReLA.from_pretrained`` reads.

    Conference weights are trained by the conference losses, models with box or count head by the journal's. The best
    checkpoint by gIoU on the validation images is written to ``out_dir/model``; log and plot are beside it. A run that
    was killed goes on where it was.

    Args:
        start: folder or file of the weights
        examples: pairs of example and path of its image
        out_dir: made when missing
        validation: pairs to choose by; by default some of the images of ``examples``
        accelerator: for several GPUs
        tokenizer: BERT's, for weights that come without
    """
    options = options or ReLAFineTuning()
    log = log if log is not None else ProblemLog()
    pairs = usable(in_file_pixels(examples, log), log)
    if not pairs:
        raise DataError("there is nothing to train on", expected="at least one example with an expression", found=log.summary() or "none")
    given = usable(in_file_pixels(validation, log), log) if validation is not None else None
    held_out = scorable(given if given is not None else _hold_out(pairs, options), log)
    if validation is not None and not held_out:
        raise DataError("there is nothing to validate on", expected="at least one example with an expression", found=log.summary() or "none")
    make_folder(out_dir)
    device = accelerator.device if accelerator is not None else options.device
    rela = ReLA.from_pretrained(start, tokenizer=tokenizer, device=device, dtype=torch.float32)
    for word in unknown_words(rela.tokenizer, (example.expression for example, _ in pairs)):
        log.add("unknown-word", "tokenizer", f"it has no token for {word!r}, which can mean nothing to the model")
    adapted = prepare(rela.network, options)
    batches = ExampleBatches(pairs, rela, options.batch, options.seed, log)
    optimizers = optimizers_of(rela.network, options)
    config = LoopConfig(
        out_dir,
        steps=options.steps,
        accumulate=options.accumulate,
        clip=options.clip,
        bf16=options.bf16,
        seed=options.seed,
        validate_every=options.validate_every,
        checkpoint_every=options.validate_every,
        progress=options.progress,
    )
    result = train(
        rela.network,
        batches,
        batch_loss,
        optimizers,
        config,
        (lambda network: score_pairs(rela, held_out)) if held_out else None,
        accelerator,
    )
    if accelerator is None or accelerator.is_main_process:
        for module in adapted:
            merge_adapters(module)
        rela.save_pretrained(Path(out_dir) / "model")
    return result


def usable(pairs: Iterable[Pair], log: ProblemLog) -> list[Pair]:
    """The pairs that have a text and whose image is there; of images that are missing each is reported once."""
    there: dict[str, bool] = {}
    kept = []
    for example, path in pairs:
        if path not in there:
            there[path] = Path(path).is_file()
            if not there[path]:
                log.add("bad-image", path, "image file does not exist")
        if not example.expression.strip():
            log.add("empty-expression", path, "an example has no text")
        elif there[path]:
            kept.append((example, path))
    return kept


def unknown_words(tokenizer, expressions: Iterable[str]) -> list[str]:
    """Words for which the tokenizer has nothing but ``[UNK]``; rela-tiny knows the words of drawn scenes only."""
    words = dict.fromkeys(w for text in expressions for w in text.lower().replace(",", " ").replace(".", " ").split())
    unknown = tokenizer.unk_token_id
    return [w for w in words if unknown in tokenizer(w, add_special_tokens=False, verbose=False).input_ids]


def _hold_out(pairs: list[Pair], options: ReLAFineTuning) -> list[Pair]:
    """Takes the examples of some images out of ``pairs`` for validation; none when there are too few images."""
    paths = list(dict.fromkeys(path for _, path in pairs))
    chosen = set(random.Random(options.seed).sample(paths, int(len(paths) * options.validation_share)))
    held_out = [pair for pair in pairs if pair[1] in chosen]
    pairs[:] = [pair for pair in pairs if pair[1] not in chosen]
    return held_out

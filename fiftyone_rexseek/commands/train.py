"""``fiftyone-rexseek train``: fine-tunes a model on files, without FiftyOne or its database."""

from __future__ import annotations

from pathlib import Path

import click

from ..cli import LazyGroup
from .training_options import (
    data_options,
    part_names,
    report,
    run_options,
    several_gpus,
    start_of,
    validation_of,
)


@click.group(
    cls=LazyGroup,
    lazy={
        "rexseek": (f"{__name__}:rexseek", "Fine-tune RexSeek: chosen parts, or low-rank adapters."),
        "rela": ("fiftyone_rexseek.commands.train_rela:rela", "Fine-tune ReLA."),
    },
)
def train():
    """Train or fine-tune RexSeek or ReLA.

    The tiny models that ship with the package are trained from nothing by
    ``python -m fiftyone_rexseek.training.tiny`` (``make tiny``).
    """


@click.command()
@data_options
@click.option("--weights", default="rexseek-tiny", show_default=True, help="Where to start: a checkpoint folder, a hub name, or rexseek-tiny.")
@click.option("--lr", type=float, default=5e-4, show_default=True, help="Learning rate (AdamW).")
@click.option("--batch-images", type=click.IntRange(1), default=4, show_default=True, help="Images per batch.")
@click.option("--expressions", type=click.IntRange(1), default=8, show_default=True, help="Expressions per image and batch.")
@click.option("--lora", type=click.IntRange(0), default=0, show_default=True, help="Rank of low-rank adapters on the language model; 0: none.")
@click.option("--train", "parts", default="language,projectors,convnext", show_default=True,
              help="Parts that learn, of: language, clip, convnext, projectors. With --lora, the adapters learn instead of language.")  # fmt: skip
@click.option("--rehearse", type=click.IntRange(0), default=0, show_default=True,
              help="So many drawn scenes are trained on as well, in every second batch, so that rexseek-tiny keeps what it knows.")  # fmt: skip
@run_options
def rexseek(
    data, kind, image_folder, validation, split, validation_split, out, weights, lr, batch_images, expressions, lora, parts, rehearse,
    steps, accumulate, bf16, gradient_checkpointing, validate_every, device, seed,
):  # fmt: skip
    """Fine-tune RexSeek on referring expressions.

    Prints one line of JSON with the outcome; the model is OUT/model. On several GPUs:
    ``accelerate launch $(which fiftyone-rexseek) train rexseek ...``.
    """
    from ..errors import ProblemLog
    from ..training.data import read_examples
    from ..training.finetune import FineTuning, finetune_rexseek
    from ..training.lora import LoraOptions

    options = FineTuning(
        steps=steps, lr=lr, images=batch_images, questions=expressions, accumulate=accumulate, train=part_names(parts),
        lora=LoraOptions.of_rank(lora), bf16=bf16,
        gradient_checkpointing=gradient_checkpointing, validate_every=validate_every, seed=seed, device=device,
        rehearsal=0.5 if rehearse else 0.0,
    )  # fmt: skip
    log = ProblemLog()
    validation, validation_split = validation_of(data, kind, validation, split, validation_split)
    result = finetune_rexseek(
        start_of(weights, "rexseek"),
        read_examples(data, kind, image_folder, log, split),
        out,
        options,
        validation=read_examples(validation, kind, image_folder, log, validation_split) if validation else None,
        rehearse=scene_rehearsal(Path(out) / "scenes", rehearse) if rehearse else None,
        log=log,
        accelerator=several_gpus(bf16),
    )
    report(out, result, log)


def scene_rehearsal(folder: Path, count: int):
    """What ``finetune_rexseek`` takes as ``rehearse``: a stream of drawn scenes, rendered into a folder."""

    def stream(processor, end_id):
        from ..errors import ConfigError
        from ..training.drawn import DrawnScenes, build_scenes
        from ..training.streams import SceneStream
        from ..training.vocabulary import is_word_tokenizer

        if not is_word_tokenizer(processor.tokenizer):
            raise ConfigError(
                "drawn scenes are no rehearsal for this model", expected="one with a token per word, such as rexseek-tiny",
                found=type(processor.tokenizer).__name__, advice="Leave --rehearse out.",
            )  # fmt: skip
        build_scenes(folder, processor.config, seed=730411003, count=count)
        return SceneStream(DrawnScenes(folder, count), processor, end_id, images=4, questions=16)

    return stream

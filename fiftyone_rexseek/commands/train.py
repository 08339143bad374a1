"""``fiftyone-rexseek train``: fine-tunes a model on files, without FiftyOne or its database."""

from __future__ import annotations

import json
from pathlib import Path

import click

from ..cli import LazyGroup


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


def data_options(command):
    """Options that say what to train on, shared by both models."""
    for option in reversed(
        [
            click.option("--data", required=True, type=click.Path(), help="annotations.jsonl, grefs(unc).json, or their folder."),
            click.option("--format", "kind", type=click.Choice(["humanref", "grefcoco", "scenes"]), default="humanref",
                         show_default=True, help="Of the data; drawn scenes are written in HumanRef's."),
            click.option("--images", "image_folder", type=click.Path(), help="Folder of the images. Default: images beside the data."),
            click.option("--validation", type=click.Path(), help="Data to choose the best checkpoint by. Default: a tenth of the images."),
            click.option("--split", help="Split of gRefCOCO.  [default: train]"),
            click.option("--out", required=True, type=click.Path(), help="Folder for the result, log and plot; goes on with a run found there."),
        ]
    ):  # fmt: skip
        command = option(command)
    return command


@click.command()
@data_options
@click.option("--weights", default="rexseek-tiny", show_default=True, help="Where to start: a checkpoint folder, a hub name, or rexseek-tiny.")
@click.option("--steps", type=click.IntRange(1), default=300, show_default=True)
@click.option("--lr", type=float, default=5e-4, show_default=True, help="Learning rate (AdamW).")
@click.option("--batch-images", type=click.IntRange(1), default=4, show_default=True, help="Images per batch.")
@click.option("--expressions", type=click.IntRange(1), default=8, show_default=True, help="Expressions per image and batch.")
@click.option("--accumulate", type=click.IntRange(1), default=1, show_default=True, help="Batches per step.")
@click.option("--lora", type=click.IntRange(0), default=0, show_default=True, help="Rank of low-rank adapters on the language model; 0: none.")
@click.option("--train", "parts", default="language,projectors,convnext", show_default=True,
              help="Parts that learn, of: language, clip, convnext, projectors. With --lora, the adapters learn instead of language.")  # fmt: skip
@click.option("--bf16/--no-bf16", default=False, help="bfloat16 autocast.")
@click.option("--gradient-checkpointing/--no-gradient-checkpointing", default=False, help="Less memory, slower.")
@click.option("--validate-every", type=click.IntRange(1), default=100, show_default=True, help="Steps.")
@click.option("--rehearse", type=click.IntRange(0), default=0, show_default=True,
              help="So many drawn scenes are trained on as well, in every second batch, so that rexseek-tiny keeps what it knows.")  # fmt: skip
@click.option("--device", help="Default: a GPU where there is one.")
@click.option("--seed", type=int, default=0, show_default=True)
def rexseek(
    data, kind, image_folder, validation, split, out, weights, steps, lr, batch_images, expressions, accumulate, lora,
    parts, bf16, gradient_checkpointing, validate_every, rehearse, device, seed,
):  # fmt: skip
    """Fine-tune RexSeek on referring expressions.

    Prints one line of JSON with the outcome; the model is OUT/model. On several GPUs:
    ``accelerate launch $(which fiftyone-rexseek) train rexseek ...``.
    """
    from ..errors import ProblemLog
    from ..training.data import read_examples
    from ..training.finetune import FineTuning, finetune_rexseek
    from ..training.lora import LoraOptions

    names = tuple(p.strip() for p in parts.split(",") if p.strip())
    if lora:
        names = tuple(n for n in names if n != "language")
    options = FineTuning(
        steps=steps, lr=lr, images=batch_images, questions=expressions, accumulate=accumulate, train=names,
        lora=LoraOptions(rank=lora, alpha=2.0 * lora) if lora else None, bf16=bf16,
        gradient_checkpointing=gradient_checkpointing, validate_every=validate_every, seed=seed, device=device,
        rehearsal=0.5 if rehearse else 0.0,
    )  # fmt: skip
    log = ProblemLog()
    result = finetune_rexseek(
        start_of(weights),
        read_examples(data, kind, image_folder, log, split),
        out,
        options,
        validation=read_examples(validation, kind, image_folder, log, split) if validation else None,
        rehearse=scene_rehearsal(Path(out) / "scenes", rehearse) if rehearse else None,
        log=log,
        accelerator=several_gpus(),
    )
    if summary := log.summary():
        click.echo(summary, err=True)
    click.echo(
        json.dumps(
            {
                "model": str(Path(out) / "model"),
                "steps": result.step,
                "minutes": round(result.seconds / 60, 2),
                "best_score": result.best_score,
                "best_step": result.best_step,
            }
        )
    )


def start_of(weights: str) -> str:
    """A checkpoint's place; the name of a model that ships with the package stands for its folder."""
    from ..models.registry import ENTRIES, find_weights

    known = ENTRIES.get(weights)
    if known is not None and not Path(weights).exists():
        return known.repo_id if known.repo_id else str(find_weights(known))
    return weights


def scene_rehearsal(folder: Path, count: int):
    """What ``finetune_rexseek`` takes as ``rehearse``: a stream of drawn scenes, rendered into a folder."""

    def stream(processor, end_id):
        from ..training.drawn import DrawnScenes, build_scenes
        from ..training.streams import SceneStream

        build_scenes(folder, processor.config, seed=730411003, count=count)
        return SceneStream(DrawnScenes(folder, count), processor, end_id, images=4, questions=16)

    return stream


def several_gpus():
    """An ``Accelerator`` when started by ``accelerate launch`` on several processes, else None."""
    import os

    if int(os.environ.get("WORLD_SIZE", "1")) < 2:
        return None
    from accelerate import Accelerator

    return Accelerator()

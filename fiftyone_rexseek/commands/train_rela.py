"""``fiftyone-rexseek train rela``."""

from __future__ import annotations

import json
from pathlib import Path

import click

from .train import data_options, several_gpus, start_of


@click.command()
@data_options
@click.option("--weights", default="rela-tiny", show_default=True, help="Where to start: a folder, a .pth or .safetensors file, or rela-tiny.")
@click.option("--tokenizer", type=click.Path(exists=True), help="Folder of bert-base-uncased, for weights that come without a tokenizer.")
@click.option("--steps", type=click.IntRange(1), default=300, show_default=True)
@click.option("--lr", type=float, help="Learning rate (AdamW).  [default: 1e-5, for small models 3e-4]")
@click.option("--weight-decay", type=float, default=0.05, show_default=True)
@click.option("--clip", type=float, default=0.01, show_default=True, help="Largest norm of the gradient.")
@click.option("--batch", type=click.IntRange(1), default=8, show_default=True, help="Expressions per batch.")
@click.option("--accumulate", type=click.IntRange(1), default=1, show_default=True, help="Batches per step.")
@click.option("--train", "parts", default="text,backbone,pixel_decoder,decoder", show_default=True, help="Parts that learn.")
@click.option("--bf16/--no-bf16", default=False, help="bfloat16 autocast.")
@click.option("--validate-every", type=click.IntRange(1), default=100, show_default=True, help="Steps.")
@click.option("--device", help="Default: a GPU where there is one.")
@click.option("--seed", type=int, default=0, show_default=True)
def rela(
    data, kind, image_folder, validation, split, out, weights, tokenizer, steps, lr, weight_decay, clip, batch, accumulate,
    parts, bf16, validate_every, device, seed,
):  # fmt: skip
    """Fine-tune ReLA on referring expressions.

    Prints one line of JSON with the outcome; the model is OUT/model. On several GPUs:
    ``accelerate launch $(which fiftyone-rexseek) train rela ...``.
    """
    from ..errors import ProblemLog
    from ..training.data import read_examples
    from ..training.rela import ReLAFineTuning, finetune_rela

    options = ReLAFineTuning(
        steps=steps, lr=lr, weight_decay=weight_decay, clip=clip, batch=batch, accumulate=accumulate,
        train=tuple(p.strip() for p in parts.split(",") if p.strip()), bf16=bf16, validate_every=validate_every,
        seed=seed, device=device,
    )  # fmt: skip
    log = ProblemLog()
    result = finetune_rela(
        start_of(weights),
        read_examples(data, kind, image_folder, log, split),
        out,
        options,
        validation=read_examples(validation, kind, image_folder, log, split) if validation else None,
        log=log,
        accelerator=several_gpus(),
        tokenizer=tokenizer,
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

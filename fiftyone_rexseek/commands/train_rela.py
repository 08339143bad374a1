"""``fiftyone-rexseek train rela``."""

from __future__ import annotations

import click

from .training_options import (
    data_options,
    part_names,
    report,
    run_options,
    several_gpus,
    start_of,
    validation_of,
)


@click.command()
@data_options
@click.option("--weights", default="rela-tiny", show_default=True, help="Where to start: a folder, a .pth or .safetensors file, or rela-tiny.")
@click.option("--tokenizer", type=click.Path(exists=True), help="Folder of bert-base-uncased, for weights that come without a tokenizer.")
@click.option("--lr", type=float, help="Learning rate (AdamW).  [default: 1e-5, and 2e-4 for adapters; small models 3e-4]")
@click.option("--weight-decay", type=float, default=0.05, show_default=True)
@click.option("--clip", type=float, default=0.01, show_default=True, help="Largest norm of the gradient.")
@click.option("--batch", type=click.IntRange(1), default=8, show_default=True, help="Expressions per batch.")
@click.option("--lora", type=click.IntRange(0), default=0, show_default=True, help="Rank of low-rank adapters on the linear layers of BERT and Swin; 0: none. A ResNet gets none and stays as it is.")
@click.option("--train", "parts", default="text,backbone,pixel_decoder,decoder", show_default=True,
              help="Parts that learn. With --lora, the adapters learn instead of text and backbone; the decoders always learn as a whole.")  # fmt: skip
@run_options
def rela(
    data, kind, image_folder, validation, split, validation_split, out, weights, tokenizer, lr, weight_decay, clip, batch, lora, parts,
    steps, accumulate, bf16, gradient_checkpointing, validate_every, device, seed,
):  # fmt: skip
    """Fine-tune ReLA on referring expressions.

    Prints one line of JSON with the outcome; the model is OUT/model. On several GPUs:
    ``accelerate launch $(which fiftyone-rexseek) train rela ...``.
    """
    from ..errors import ProblemLog
    from ..training.data import read_examples
    from ..training.lora import LoraOptions
    from ..training.rela import ReLAFineTuning, finetune_rela

    options = ReLAFineTuning(
        steps=steps, lr=lr, weight_decay=weight_decay, clip=clip, batch=batch, accumulate=accumulate,
        train=part_names(parts), lora=LoraOptions.of_rank(lora), bf16=bf16, gradient_checkpointing=gradient_checkpointing,
        validate_every=validate_every, seed=seed, device=device,
    )  # fmt: skip
    log = ProblemLog()
    validation, validation_split = validation_of(data, kind, validation, split, validation_split)
    result = finetune_rela(
        start_of(weights, "rela"),
        read_examples(data, kind, image_folder, log, split),
        out,
        options,
        validation=read_examples(validation, kind, image_folder, log, validation_split) if validation else None,
        log=log,
        accelerator=several_gpus(bf16),
        tokenizer=tokenizer,
    )
    report(out, result, log)

"""Trains the models that ship with the package from nothing: ``python -m fiftyone_rexseek.training.tiny``."""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import click
import torch

from ..datasets.scenes import VOCABULARY
from ..models.rexseek import RexSeek, RexSeekConfig, RexSeekForSelection, RexSeekProcessor
from .drawn import ATTRIBUTES, DrawnScenes, build_scenes
from .evaluation import fresh_scenes, score_scenes
from .loop import LoopConfig, loader_processes, train
from .optim import build_optimizers
from .rexseek import FROM_SCRATCH, RexSeekObjective
from .streams import SceneStream, VisionStream
from .vocabulary import word_tokenizer

#: The models that ship with the package.
NAMES = ("rexseek-tiny", "rela-tiny")
#: Seeds of the drawn scenes; reported scores come from other ones.
TRAINING_SEED, VALIDATION_SEED = 730_411_001, 730_411_002


def tiny_config(vocab_size: int) -> RexSeekConfig:
    """Sizes of ``rexseek-tiny``: about 2 million parameters behind the architecture of RexSeek."""
    return RexSeekConfig(
        text=dict(
            vocab_size=vocab_size,
            hidden_size=128,
            intermediate_size=344,
            num_hidden_layers=6,
            num_attention_heads=4,
            num_key_value_heads=4,
            max_position_embeddings=2048,
            rope_theta=10000.0,
            tie_word_embeddings=True,
        ),
        clip=dict(
            hidden_size=64,
            intermediate_size=192,
            num_hidden_layers=3,  # the last one is not used (select_layer -2)
            num_attention_heads=2,
            image_size=98,
            patch_size=14,
        ),
        convnext_dims=(32, 64, 128, 160),
        convnext_depths=(1, 1, 2, 1),
        layer_scale_init=1.0,
        image_size=224,
    )


class VisionObjective(RexSeekObjective):
    """The attribute term alone: encoders, object projector and attribute head."""

    def forward(self, batch, progress: float = 0.0):
        features = self.model.vision_tower_aux(batch.pixels)
        logits = self.attribute_head(self.encode_boxes(features, batch)).float()
        target = batch.attributes[batch.has_box]
        loss, values = self.attribute_losses(logits, target), {}
        for i, (name, part) in enumerate(zip(ATTRIBUTES, logits.split(self.classes, -1))):
            counted = target[:, i] >= 0
            values[name] = ((part.argmax(-1) == target[:, i]) & counted).sum() / counted.sum().clamp(min=1)
        return loss, values


def call(objective, batch, progress):
    """``loss_fn`` of the loop for objectives."""
    return objective(batch, progress)


def pretrain_vision(objective: VisionObjective, stream: VisionStream, config: LoopConfig):
    """Trains what sees on attributes alone, before language."""
    optimizers = build_optimizers(objective.named_parameters(), lr=3e-3, muon_lr=4e-3, use_muon=is_matrix)
    return train(objective, stream, call, optimizers, config)


def is_matrix(name: str, p) -> bool:
    """Which parameters go to Muon: hidden 2-D weights, no embeddings and no classifiers."""
    return p.ndim == 2 and not any(part in name for part in ("embed", "lm_head", "attribute_head", "identity_head"))


#: Kinds of expressions that first trials found hard come more often, and so do those that nobody matches.
BOOST = {
    "direct_neighbour": 1.6, "neighbours": 1.4, "hands_with": 1.6, "hand_in_hand": 1.3, "some_except": 1.5,
    "some_except_those": 1.5, "everyone_except": 1.3, "side_of": 1.3, "between": 1.3, "beside_name": 1.4,
    "rejection": 1.6,
}  # fmt: skip


def train_language(
    objective: RexSeekObjective,
    stream: SceneStream,
    config: LoopConfig,
    processor: RexSeekProcessor,
    validation: dict,
    on_best=None,
):
    """The joint stage: everything learns to answer; the image encoder a little more slowly.

    Args:
        validation: arguments of ``fresh_scenes``, and ``per_domain``
        on_best: see the loop
    """
    scale = lambda name: 0.8 if "vision_tower_aux" in name else 1.0  # noqa: E731
    optimizers = build_optimizers(
        objective.named_parameters(), lr=2e-3, muon_lr=3.5e-3, use_muon=is_matrix, lr_scale=scale
    )

    def validate(trained: RexSeekObjective) -> dict[str, float]:
        options = dict(validation)
        per_domain = options.pop("per_domain", 3)
        rexseek = as_rexseek(trained.model, processor)
        return score_scenes(rexseek, fresh_scenes(**options), per_domain, max_new_tokens=64).headline()

    return train(objective, stream, call, optimizers, config, validate, on_best=on_best)


def as_rexseek(model: RexSeekForSelection, processor: RexSeekProcessor) -> RexSeek:
    """The network with its processor, ready to select."""
    end = processor.tokenizer.eos_token_id
    return RexSeek(model, processor, {"eos_token_id": end, "pad_token_id": processor.tokenizer.pad_token_id})


@dataclass(frozen=True)
class TinyRecipe:
    """How ``rexseek-tiny`` is trained from nothing; its model card says how the shipped weights came about.

    Attributes:
        scenes: rendered for training
        vision_steps, vision_images: first stage
        joint_steps, joint_minutes, images, questions: second stage, ended by steps or by time, whichever comes first;
            images per step, and short questions per image
        easy_steps: of the second stage, with short questions only
        validation_scenes, validate_every: what the best checkpoint is chosen by
        ema: decay per step of the average of the weights that is validated and kept
        seed: of weights and batches
        compile: use ``torch.compile`` in the second stage (about 1.5 times as fast on a CPU, where it takes two minutes
            first); None: on a CPU with a C++ compiler
    """

    scenes: int = 12_000
    vision_steps: int = 1300
    vision_images: int = 16
    joint_steps: int = 8000
    joint_minutes: float | None = 66.0
    images: int = 8
    questions: int = 24
    easy_steps: int = 500
    validation_scenes: int = 50
    validate_every: int = 400
    ema: float = 0.998
    seed: int = 0
    compile: bool | None = None


#: For a GPU: more at once, in fewer minutes. Tried on an H200 for four of them (DensityF1 0.646 after 800 steps), not to the end.
ON_GPU = TinyRecipe(
    vision_steps=800, vision_images=48, joint_steps=5500, joint_minutes=12.0, images=24, easy_steps=150, validate_every=500
)  # fmt: skip


def train_rexseek_tiny(
    out_dir: str | Path,
    recipe: TinyRecipe | None = None,
    workers: int = 2,
    device: str | None = None,
    progress: bool = True,
    config: RexSeekConfig | None = None,
) -> Path:
    """Trains ``rexseek-tiny`` from nothing; returns the folder of the model (float16).

    Every stage goes on where it was when the run is started again.

    Args:
        out_dir: scenes, checkpoints, logs and plots, and ``model``
        workers: processes that render scenes
        device: by default a GPU where there is one
        config: another size of model
    """
    place, out_dir = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu")), Path(out_dir)
    recipe = recipe or (TinyRecipe() if place.type == "cpu" else ON_GPU)
    tokenizer = word_tokenizer(VOCABULARY)
    config = config or tiny_config(len(tokenizer))
    processor = RexSeekProcessor(config, tokenizer)
    build_scenes(out_dir / "scenes", config, TRAINING_SEED, recipe.scenes, workers=workers)
    scenes = DrawnScenes(out_dir / "scenes", recipe.scenes)
    torch.manual_seed(recipe.seed)
    model = RexSeekForSelection(config).to(place)
    end = tokenizer.eos_token_id

    vision = VisionObjective(model, FROM_SCRATCH, ATTRIBUTES).to(place)
    stream = VisionStream(scenes, processor, end, images=recipe.vision_images, seed=recipe.seed + 1)
    common = {"bf16": True, "progress": progress, "seed": recipe.seed, "log_every": 20, "checkpoint_every": 100}
    common["workers"] = loader_processes(place)
    pretrain_vision(vision, stream, LoopConfig(out_dir / "vision", steps=recipe.vision_steps, final_lr=0.3, **common))
    layers = config.text["num_hidden_layers"]
    objective = RexSeekObjective(
        model,
        replace(
            FROM_SCRATCH,
            compile=recipe.compile if recipe.compile is not None else place.type == "cpu" and bool(shutil.which("g++")),
            match_layer=layers - 2,
            pointer_layer=layers - 1,
            identity_layer=max(1, layers - 4),
        ),
        ATTRIBUTES,
    ).to(place)
    objective.attribute_head.load_state_dict(vision.attribute_head.state_dict())
    stream = SceneStream(
        scenes, processor, end, recipe.images, recipe.questions, recipe.seed + 5, recipe.easy_steps, BOOST
    )
    train_language(
        objective,
        stream,
        LoopConfig(
            out_dir / "joint",
            steps=recipe.joint_steps,
            minutes=recipe.joint_minutes,
            ema=recipe.ema,
            validate_every=recipe.validate_every,
            **common,
        ),
        processor,
        {"seed": VALIDATION_SEED, "count": recipe.validation_scenes, "per_domain": 3},
        on_best=lambda best, _: as_rexseek(best.model, processor).save_pretrained(out_dir / "model", torch.float16),
    )
    return out_dir / "model"


def train_side_by_side(names: Sequence[str], out: Path, device: str | None) -> None:
    """Trains several models at once, each in a process of its own with its share of the cores.

    Small models gain little from a second thread, so that this takes hardly longer than the slowest of them.

    Raises:
        click.ClickException: one of them failed
    """
    threads = max(1, (os.cpu_count() or 1) // len(names))
    command = [sys.executable, "-m", __spec__.name, "--out", str(out), "--workers", str(threads)]
    command += ["--device", device] if device else []
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    running = {name: subprocess.Popen([*command, "--models", name], env=environment) for name in names}
    try:
        failed = [name for name, process in running.items() if process.wait()]
    except BaseException:
        for process in running.values():
            process.terminate()
        raise
    if failed:
        raise click.ClickException(f"training failed: {', '.join(failed)} (see above; a second run goes on from the last checkpoint)")


def train_one(name: str, out: Path, workers: int, device: str | None) -> Path:
    """Trains one of the shipped models from nothing; returns its folder."""
    if name == "rexseek-tiny":
        return train_rexseek_tiny(out / name, None, workers, device)
    from .rela_tiny import train_rela_tiny

    return train_rela_tiny(out / name, device=device)


@click.command()
@click.option("--out", default="runs/tiny", show_default=True, type=click.Path(), help="Folder of everything the run writes.")
@click.option("--models", default=",".join(NAMES), show_default=True, help="Which models.")
@click.option("--workers", default=2, show_default=True, help="Processes that render scenes.")
@click.option("--device", help="Default: a GPU where there is one.")
@click.option("--install", is_flag=True, help="Put the results into the package, in place of the shipped models.")
def main(out: str, models: str, workers: int, device: str | None, install: bool) -> None:
    """Train the models that ship with the package from nothing."""
    from ..models.registry import WEIGHTS_FOLDER

    logging.basicConfig(level=logging.INFO)
    names = list(dict.fromkeys(models.split(",")))
    if unknown := sorted(set(names) - set(NAMES)):
        raise click.BadParameter(f"expected {' or '.join(NAMES)}, found {', '.join(unknown)}", param_hint="--models")
    if len(names) > 1:
        train_side_by_side(names, Path(out), device)
    for name in names:
        model = Path(out) / name / "model" if len(names) > 1 else train_one(name, Path(out), workers, device)
        if install:
            shutil.copytree(model, WEIGHTS_FOLDER / name, dirs_exist_ok=True)
        click.echo(f"{name}: {model}")


if __name__ == "__main__":
    main()

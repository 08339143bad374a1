"""``rela-tiny``: the journal variant of ReLA, trained from nothing on drawn scenes."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from math import ceil
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..datasets.scenes import VOCABULARY
from ..geometry import pairwise_iou
from ..models.rela import ReLA
from ..models.rela.config import ReLAConfig
from ..models.rela.modeling import ReLANetwork
from ..models.rela.outputs import Answer, answers
from ..models.rela.tokenization import build_word_tokenizer
from .loop import LoopConfig, LoopResult, loader_processes, train
from .optim import build_optimizers
from .rela_scenes import SceneBatch, scene_batch
from .rela_scratch import ScratchReLA, joint_loss, pretraining_loss

logger = logging.getLogger(__name__)

#: Seeds of the validation scenes that choose the checkpoint, and of those that choose from which probability of "nobody" a
#: rejection is given; never used for training or for the reported scores.
VALIDATION_SEED, THRESHOLD_SEED = 900_001, 900_002
#: Share of the expressions with targets that must be answered, and the thresholds that are sensible.
KEPT, THRESHOLDS = 0.97, (0.2, 0.6)


@dataclass(frozen=True)
class TinyRecipe:
    """How ``rela-tiny`` is trained from nothing; its model card says how the shipped weights came about.

    Attributes:
        pretrain_minutes, joint_minutes: budgets of the two stages; steps instead when given
        scenes, expressions: per step of the joint stage, expressions per scene
        easy_batches: the joint stage begins with this many batches of scenes with two to five people
        pretrain_scenes: per step of the first stage
        muon_lr, adam_lr, trunk_lr_scale: joint stage; the pretrained backbone learns more slowly. With three times as much
            the small steps of a CPU go nowhere once scenes are crowded
        ema: decay per step of the average of the weights that is validated and kept
        pretrain_muon_lr, pretrain_adam_lr: first stage. With a fifth of it the colours of clothes are not learned in time
        seed: of weights, scenes and expressions
    """

    pretrain_minutes: float | None = 8.0
    joint_minutes: float | None = 70.0
    pretrain_steps: int | None = None
    joint_steps: int | None = None
    scenes: int = 8
    expressions: int = 6
    easy_batches: int = 250
    pretrain_scenes: int = 16
    muon_lr: float = 4e-3
    adam_lr: float = 2e-3
    pretrain_muon_lr: float = 2e-2
    pretrain_adam_lr: float = 6e-3
    trunk_lr_scale: float = 0.4
    ema: float = 0.998
    validation_scenes: int = 36
    validate_every: int = 150
    bf16: bool = True
    seed: int = 1


#: For a GPU: more at once, in fewer minutes. Tried on an H200 for four of them (gIoU 0.593 after 600 steps), not to the end.
ON_GPU = TinyRecipe(
    pretrain_minutes=1.0, joint_minutes=12.0, scenes=24, expressions=8, easy_batches=100, pretrain_scenes=48, validate_every=300,
    muon_lr=1.2e-2, adam_lr=3e-3,
)  # fmt: skip


def build_tiny(seed: int, **changes) -> tuple[ScratchReLA, object]:
    """Random weights of ``rela-tiny`` with its training heads, and its tokenizer."""
    config = ReLAConfig.from_variant("tiny", **changes)
    torch.manual_seed(seed)
    tokenizer = build_word_tokenizer(VOCABULARY, config.vocab_size, config.max_text_length)
    return ScratchReLA(ReLANetwork(config)), tokenizer


def train_tiny(
    out_dir: str | Path,
    recipe: TinyRecipe | None = None,
    on_best: Callable[[ReLANetwork, object, Mapping[str, float]], None] | None = None,
    device: str | None = None,
    **changes,
) -> tuple[ReLANetwork, object, LoopResult]:
    """Both stages; resumes where an earlier call with the same folder stopped.

    Args:
        out_dir: gets ``pretrain/`` and ``joint/`` with checkpoint, log and plot each
        on_best: called with network, tokenizer and validation numbers whenever a better checkpoint is found
        device: by default a GPU where there is one
        changes: of the configuration, for tests

    Returns:
        the best network, its tokenizer, and the result of the joint stage
    """
    place, out_dir = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu")), Path(out_dir)
    recipe = recipe or (TinyRecipe() if place.type == "cpu" else ON_GPU)
    model, tokenizer = build_tiny(recipe.seed, **changes)
    model.to(place)
    size = model.network.config.image_size
    loop = LoopConfig(
        out_dir / "pretrain", steps=recipe.pretrain_steps, minutes=recipe.pretrain_minutes, bf16=recipe.bf16,
        seed=recipe.seed, validate_every=0, final_lr=0.1, workers=loader_processes(place),
    )  # fmt: skip
    batch_at = partial(
        scene_batch, 10 * recipe.seed + 100, scenes=recipe.pretrain_scenes, expressions=0, image_size=size
    )
    named = [(n, p) for n, p in model.named_parameters() if _in_pretraining(n)]
    optimizers = build_optimizers(
        named, lr=recipe.pretrain_adam_lr, muon_lr=recipe.pretrain_muon_lr, use_muon=uses_muon
    )
    logger.info("backbone alone")
    train(model, batch_at, pretraining_loss, optimizers, loop)

    loop = replace(
        loop, out_dir=out_dir / "joint", steps=recipe.joint_steps, minutes=recipe.joint_minutes,
        validate_every=recipe.validate_every, checkpoint_every=50, final_lr=0.03, ema=recipe.ema,
    )  # fmt: skip
    batch_at = partial(
        scene_batch, 10 * recipe.seed + 101, scenes=recipe.scenes, expressions=recipe.expressions,
        image_size=size, tokenizer=tokenizer, max_length=model.network.config.max_text_length,
        easy_batches=recipe.easy_batches,
    )  # fmt: skip
    scale = lambda name: recipe.trunk_lr_scale if _in_trunk(name) else float("place_head" not in name)  # noqa: E731
    optimizers = build_optimizers(
        model.named_parameters(), lr=recipe.adam_lr, muon_lr=recipe.muon_lr, lr_scale=scale, use_muon=uses_muon
    )

    def scenes_of(seed: int, count: int) -> list[SceneBatch]:
        batch_at = partial(
            scene_batch, seed, scenes=4, expressions=8, image_size=size, tokenizer=tokenizer,
            max_length=model.network.config.max_text_length,
        )  # fmt: skip
        return [batch_at(i).to(place) for i in range(max(1, count // 4))]

    validation = scenes_of(VALIDATION_SEED, recipe.validation_scenes)
    logger.info("all together")
    hook = None if on_best is None else lambda m, numbers: on_best(m.network, tokenizer, numbers)
    result = train(model, batch_at, joint_loss, optimizers, loop, partial(validate, batches=validation), on_best=hook)
    threshold = choose_threshold(model.eval(), scenes_of(THRESHOLD_SEED, 3 * recipe.validation_scenes))
    model.network.config = model.network.config.replace(no_target_threshold=threshold)
    return model.network, tokenizer, result


def train_rela_tiny(out_dir: str | Path, recipe: TinyRecipe | None = None, device: str | None = None, **changes) -> Path:
    """Trains ``rela-tiny`` and returns the folder of the model (float16); the best so far is written as it is found."""
    folder = Path(out_dir) / "model"

    def keep(network: ReLANetwork, tokenizer, numbers: Mapping[str, float]) -> None:
        ReLA(network, tokenizer).save_pretrained(folder, torch.float16)

    network, tokenizer, _ = train_tiny(out_dir, recipe, keep, device, **changes)
    keep(network, tokenizer, {})
    return folder


def uses_muon(name: str, parameter: nn.Parameter) -> bool:
    """Weight matrices of linear layers and convolutions; not the tables, and not the small output heads."""
    tables = ("patch_embed", "word_embeddings", "position_embeddings", "token_type", "query_", "level_embed", "bias_table")
    heads = ("minimap_embed", "_head", "box_embed.layers.1", "count_embed.layers.1")
    return parameter.ndim >= 2 and not any(part in name for part in (*tables, *heads))


def _in_trunk(name: str) -> bool:
    return "backbone." in name and not any(part in name for part in ("fusion", "res_gate", "backbone.norm"))


def _in_pretraining(name: str) -> bool:
    return _in_trunk(name) or "place_head" in name


@torch.no_grad()
def validate(model: ScratchReLA, batches: list[SceneBatch]) -> dict[str, float]:
    """GRES and GREC scores on drawn scenes at mask size 80; ``score`` chooses the checkpoint.

    Masks are cleared when the count head says that there is no target.
    """
    found: dict[str, list[float]] = defaultdict(list)
    for batch in batches:
        output = model.network(
            batch.images, batch.token_ids, batch.attention_mask, image_index=batch.image_index
        )
        targets = batch.targets.to("cpu")
        masks = foreground_at(output.mask_logits, targets.masks.shape[-1]).cpu()
        for i, answer in enumerate(answers(output, model.network.config)):
            _score(found, masks[i], answer, targets.masks[i] >= 0.5, targets.boxes_cxcywh[i], int(targets.counts[i]))
    numbers = {name: sum(values) / len(values) for name, values in found.items() if values}
    numbers["score"] = numbers["gIoU"] + 0.5 * numbers.get("f1", 0.0) + 0.25 * numbers.get("n_acc", 0.0)
    return numbers


@torch.no_grad()
def choose_threshold(model: ScratchReLA, batches: list[SceneBatch]) -> float:
    """The smallest probability of "nobody" to reject from at which ``KEPT`` of the expressions with targets are answered."""
    of_targets = []
    for batch in batches:
        output = model.network(batch.images, batch.token_ids, batch.attention_mask, image_index=batch.image_index)
        empty = output.count_logits.float().softmax(dim=-1)[:, 0]
        of_targets.append(empty[batch.targets.counts > 0])
    threshold = float(torch.cat(of_targets).quantile(KEPT))
    low, high = THRESHOLDS
    return min(max(ceil(threshold * 100) / 100, low), high)


def foreground_at(mask_logits: Tensor, size: int) -> Tensor:
    """Bool masks (B, size, size) from merged-mask logits (B, 2, h, w)."""
    difference = (mask_logits[:, 1] - mask_logits[:, 0]).float()[:, None]
    return F.interpolate(difference, size=(size, size), mode="bilinear", align_corners=False)[:, 0] > 0


def _score(found, mask: Tensor, answer: Answer, truth: Tensor, boxes_cxcywh: Tensor, count: int) -> None:
    if count == 0:
        found["gIoU"].append(float(answer.no_target))
        found["n_acc"].append(float(answer.no_target))
    else:
        inter, union = (mask & truth).sum(), (mask | truth).sum()
        iou = 0.0 if answer.no_target else float(inter / union.clamp(min=1))
        found["gIoU"].append(iou)
        found["iou_targets"].append(iou)
        found["t_acc"].append(float(not answer.no_target))
    found["count"].append(float(answer.count == min(count, 6)))
    if answer.boxes_xyxy is not None:
        half = boxes_cxcywh[:, 2:] / 2
        truth_boxes = torch.cat([boxes_cxcywh[:, :2] - half, boxes_cxcywh[:, :2] + half], dim=1)
        found["f1"].append(float(boxes_all_right(answer.boxes_xyxy.numpy(), truth_boxes.numpy())))


def boxes_all_right(predicted_xyxy, truth_xyxy, iou_threshold: float = 0.5) -> bool:
    """Whether both sets correspond one to one at this IoU (F1 = 1); two empty sets do."""
    if len(predicted_xyxy) != len(truth_xyxy):
        return False
    iou = pairwise_iou(predicted_xyxy, truth_xyxy)
    for _ in range(len(truth_xyxy)):
        best = iou.argmax()
        if iou.flat[best] < iou_threshold:
            return False
        row, column = divmod(int(best), iou.shape[1])
        iou[row], iou[:, column] = 0, 0
    return True

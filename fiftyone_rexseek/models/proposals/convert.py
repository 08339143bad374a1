"""IDEA's Grounding DINO checkpoints in the names that transformers publishes.

transformers ships no converter. The names below are those of the published repositories (``IDEA-Research/grounding-dino-*``);
newer versions of transformers rename Swin's internals while loading, which is why the result is written to a folder and
loaded with ``from_pretrained`` rather than put into a model directly.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...errors import CheckpointError

_BACKBONE = "model.backbone.conv_encoder.model."
_QKV = ("query", "key", "value")
#: Order matters: earlier replacements must not produce text that later ones match.
_FUSION = (
    ("gamma_v", "vision_param"),
    ("gamma_l", "text_param"),
    ("layer_norm_v", "layer_norm_vision"),
    ("layer_norm_l", "layer_norm_text"),
    ("values_v_proj", "values_vision_proj"),
    ("values_l_proj", "values_text_proj"),
    ("out_v_proj", "out_vision_proj"),
    ("out_l_proj", "out_text_proj"),
    ("attn.v_proj", "attn.vision_proj"),
    ("attn.l_proj", "attn.text_proj"),
)
_DECODER = (
    ("cross_attn.", "encoder_attn."),
    ("catext_norm", "encoder_attn_text_layer_norm"),
    ("ca_text", "encoder_attn_text"),
    ("norm1", "encoder_attn_layer_norm"),
    ("norm2", "self_attn_layer_norm"),
    ("norm3", "final_layer_norm"),
    ("linear", "fc"),
)
_TOP = (
    ("bert.", "model.text_backbone."),
    ("input_proj.", "model.input_proj_vision."),
    ("feat_map.", "model.text_projection."),
    ("transformer.decoder.ref_point_head", "model.decoder.reference_points_head"),
    ("transformer.decoder.bbox_embed", "model.decoder.bbox_embed"),
    ("transformer.enc_output", "model.enc_output"),
    ("transformer.enc_out_bbox_embed", "model.encoder_output_bbox_embed"),
    ("transformer.level_embed", "model.level_embed"),
    ("transformer.decoder.norm.", "model.decoder.layer_norm."),
    ("transformer.tgt_embed.", "model.query_position_embeddings."),
    ("bbox_embed.", "bbox_embed."),
)


def convert_state_dict(state: Mapping[str, Any]) -> dict[str, Any]:
    """Renames IDEA's tensors and splits each fused query-key-value; values are untouched.

    Raises:
        CheckpointError: the state dict has names that Grounding DINO does not have
    """
    converted: dict[str, Any] = {}
    unknown = []
    for name, value in state.items():
        # the index is a constant; label_enc serves only denoising training of a variant that was not released
        if "relative_position_index" in name or name.startswith("label_enc"):
            continue
        renamed = _renamed(name, value)
        if renamed is None:
            unknown.append(name)
        else:
            converted.update(renamed)
    if unknown:
        raise CheckpointError(
            "not a Grounding DINO state dict", expected="names such as transformer.encoder.layers.0...", found=unknown[:5]
        )
    return converted


def _split(prefix: str, suffix: str, value) -> dict[str, Any]:
    return {f"{prefix}{part}.{suffix}": chunk for part, chunk in zip(_QKV, value.chunk(3, 0))}


def _replace(text: str, table) -> str:
    for old, new in table:
        text = text.replace(old, new)
    return text


def _renamed(name: str, value) -> dict[str, Any] | None:
    if name.startswith("backbone.0."):
        return _backbone(name.removeprefix("backbone.0."), value)
    if match := re.match(r"transformer\.encoder\.(layers|text_layers|fusion_layers)\.(\d+)\.(.*)", name):
        return _encoder(*match.groups(), value)
    if match := re.match(r"transformer\.decoder\.layers\.(\d+)\.(.*)", name):
        return _decoder(*match.groups(), value)
    for old, new in _TOP:
        if name.startswith(old):
            return {new + name[len(old) :]: value}
    return None


def _backbone(name: str, value) -> dict[str, Any]:
    if ".attn.qkv." in name:
        block, suffix = name.split(".attn.qkv.")
        return _split(f"{_BACKBONE}encoder.{block}.attention.self.", suffix, value)
    name = name.replace("patch_embed.proj", "embeddings.patch_embeddings.projection")
    name = name.replace("patch_embed.norm", "embeddings.norm")
    name = re.sub(r"^norm(\d)", lambda m: f"hidden_states_norms.stage{int(m[1]) + 1}", name)
    if name.startswith("layers"):
        name = "encoder." + _replace(
            name,
            (
                ("attn.relative_position_bias_table", "attention.self.relative_position_bias_table"),
                ("attn.proj", "attention.output.dense"),
                ("mlp.fc1", "intermediate.dense"),
                ("mlp.fc2", "output.dense"),
            ),
        )
        name = re.sub(r"(blocks\.\d+)\.norm1", r"\1.layernorm_before", name)
        name = re.sub(r"(blocks\.\d+)\.norm2", r"\1.layernorm_after", name)
    return {_BACKBONE + name: value}


def _encoder(kind: str, layer: str, rest: str, value) -> dict[str, Any]:
    base = f"model.encoder.layers.{layer}."
    if kind == "layers":
        rest = _replace(rest, (("norm1", "self_attn_layer_norm"), ("norm2", "final_layer_norm"), ("linear", "fc")))
        return {f"{base}deformable_layer.{rest}": value}
    if kind == "fusion_layers":
        return {f"{base}fusion_layer.{_replace(rest, _FUSION)}": value}
    if "in_proj_" in rest:
        return _split(f"{base}text_enhancer_layer.self_attn.", rest.split("in_proj_")[1], value)
    rest = _replace(rest, (("norm1", "layer_norm_before"), ("norm2", "layer_norm_after"), ("linear", "fc")))
    return {f"{base}text_enhancer_layer.{rest}": value}


def _decoder(layer: str, rest: str, value) -> dict[str, Any]:
    base = f"model.decoder.layers.{layer}."
    for old, new in _DECODER:
        if rest.startswith(old):
            rest = new + rest[len(old) :]
            break
    if "in_proj_" in rest:
        prefix, suffix = rest.split("in_proj_")
        return _split(base + prefix, suffix, value)
    return {base + rest: value}


def swin_config(variant: str) -> dict[str, Any]:
    """Sizes of the two published backbones, ``"tiny"`` (SwinT OGC) and ``"base"`` (SwinB COGC)."""
    sizes = {
        "tiny": {"image_size": 224, "embed_dim": 96, "depths": [2, 2, 6, 2], "num_heads": [3, 6, 12, 24], "window_size": 7},
        "base": {"image_size": 384, "embed_dim": 128, "depths": [2, 2, 18, 2], "num_heads": [4, 8, 16, 32], "window_size": 12},
    }
    if variant not in sizes:
        raise CheckpointError("unknown Grounding DINO variant", expected=f"one of {sorted(sizes)}", found=variant)
    return {"patch_size": 4, "out_indices": [2, 3, 4], **sizes[variant]}


def convert_checkpoint(
    checkpoint: str | os.PathLike,
    out_dir: str | os.PathLike,
    *,
    variant: str | None = None,
    tokenizer: str | os.PathLike = "bert-base-uncased",
    text_config: Mapping[str, Any] | None = None,
    **config,
) -> Path:
    """Writes a folder that :meth:`GroundingDino.from_pretrained` loads.

    Args:
        checkpoint: IDEA's ``.pth`` file
        out_dir: folder to write (made when absent)
        variant: ``"tiny"`` or ``"base"``; by default read off the width of the backbone
        tokenizer: BERT tokenizer by name or folder
        text_config: settings of BERT that differ from bert-base-uncased
        config: settings of ``GroundingDinoConfig`` that differ from the published models

    Returns:
        the folder
    """
    from safetensors.torch import save_file
    from transformers import (
        AutoTokenizer,
        BertConfig,
        GroundingDinoConfig,
        GroundingDinoImageProcessor,
        GroundingDinoProcessor,
        SwinConfig,
    )

    from .groundingdino_py import read_pth

    state = read_pth(checkpoint)
    width = state.get("backbone.0.patch_embed.proj.weight")
    if width is None:
        raise CheckpointError("not a Grounding DINO state dict", where=checkpoint, found=sorted(state)[:5])
    variant = variant or ("base" if width.shape[0] == 128 else "tiny")
    tensors = {k: v.clone().contiguous() for k, v in convert_state_dict(state).items()}
    out = Path(out_dir)
    out.mkdir(parents=True, exist_ok=True)
    GroundingDinoConfig(
        backbone_config=SwinConfig(**swin_config(variant)),
        text_config=BertConfig(**(text_config or {})),
        architectures=["GroundingDinoForObjectDetection"],
        **config,
    ).save_pretrained(out)
    GroundingDinoProcessor(GroundingDinoImageProcessor(), AutoTokenizer.from_pretrained(tokenizer)).save_pretrained(out)
    save_file(tensors, out / "model.safetensors", metadata={"format": "pt"})
    return out

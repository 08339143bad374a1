"""Reading, checking, converting and writing ReLA weights.

Three sources: a folder written by ``save_pretrained``, a safetensors file, and the public Detectron2 checkpoints
(``.pth``, weights under the key ``model``), which are opened without running any code they may hold.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import pickle
import re
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from ...errors import CheckpointError
from .config import VARIANTS, ReLAConfig

logger = logging.getLogger(__name__)

WEIGHTS_NAME = "model.safetensors"
PICKLE_SUFFIXES = (".pth", ".pt", ".bin", ".pkl", ".ckpt")
_QUERY = "sem_seg_head.predictor.query_feat.weight"
_OLD_QUERY = "sem_seg_head.predictor.static_query.weight"
#: Not weights of the network: index buffers of older transformers, and what training checkpoints add.
_IGNORED = re.compile(r"(text_encoder\.embeddings\.(position_ids|token_type_ids)|text_encoder\.pooler\..*|pixel_mean|pixel_std|criterion\..*)$")


def read_state_dict(path: str | os.PathLike) -> dict[str, Tensor]:
    """Named tensors of a ``.safetensors`` or Detectron2 ``.pth`` file, on the CPU, under the current names.

    ``torch.load`` runs with ``weights_only=True``. A ``module.`` prefix (distributed training) is removed, ``static_query``
    becomes ``query_feat``, and ``position_ids`` is dropped.

    Raises:
        CheckpointError: the file is missing, truncated, no checkpoint, or holds more than tensors
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError("weights file does not exist", where=path)
    if path.suffix == ".safetensors":
        try:
            tensors = load_file(path)
        except (SafetensorError, OSError, ValueError) as e:
            raise CheckpointError(f"not a readable safetensors file ({e})", where=path, advice="Fetch it again.") from e
    else:
        tensors = _read_pickle(path)
    return {k: v for k, v in ((_current_name(k), v) for k, v in tensors.items()) if not _IGNORED.match(k)}


def _read_pickle(path: Path) -> dict[str, Tensor]:
    with open(path, "rb") as f:
        head = f.read(200)
    if head.startswith(b"version https://git-lfs"):
        raise CheckpointError(
            "this is a Git LFS pointer, not the file", where=path, advice="Run 'git lfs pull' or download the file itself."
        )
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as e:
        raise CheckpointError(
            "the file holds more than tensors and plain values, or is damaged; it was not opened",
            where=path,
            found=str(e).splitlines()[0] if str(e) else type(e).__name__,
            advice="If you trust its origin, resave only its 'model' entry with torch.save.",
        ) from e
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, IndexError, AttributeError, TypeError) as e:
        raise CheckpointError(f"not a readable checkpoint ({type(e).__name__})", where=path, advice="Fetch it again.") from e
    for key in ("model", "state_dict"):
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
            break
    if not isinstance(content, Mapping):
        raise CheckpointError("no weights inside", where=path, expected="a dict with the key 'model'", found=type(content).__name__)
    tensors = {k: torch.as_tensor(v) for k, v in content.items() if isinstance(k, str) and _is_array(v)}
    if not tensors:
        raise CheckpointError("no tensors inside", where=path, expected="a dict with the key 'model'", found=", ".join(map(str, list(content)[:5])) or "an empty dict")
    return tensors


def _is_array(value) -> bool:
    return isinstance(value, Tensor) or type(value).__module__ == "numpy"


def _current_name(name: str) -> str:
    name = name.removeprefix("module.")
    return _QUERY if name == _OLD_QUERY else name


def describe(state: Mapping[str, Tensor]) -> str | None:
    """Which public variant these tensors belong to (``swin-base`` ...), "rela" for another ReLA, None for none.

    Example::

        >>> describe({"backbone.stem.conv1.weight": torch.zeros(64, 3, 7, 7), "sem_seg_head.x": torch.zeros(1)})
        'r50'
    """
    if not any(k.startswith("sem_seg_head.") for k in state):
        return None
    if "backbone.stem.conv1.weight" in state:
        return "r50" if state["backbone.stem.conv1.weight"].shape[0] == 64 else "rela"
    patch = state.get("backbone.patch_embed.proj.weight")
    if patch is None:
        return None
    blocks = {k.split(".")[4] for k in state if k.startswith("backbone.layers.2.blocks.")}
    for name, values in VARIANTS.items():
        config = ReLAConfig(**values)
        if config.backbone == "swin" and config.stage_dims[0] == patch.shape[0] and config.swin_depths[2] == len(blocks):
            return name
    return "rela"


def config_from_state_dict(state: Mapping[str, Tensor], **known) -> ReLAConfig:
    """A configuration deduced from names and shapes.

    Numbers of attention heads leave no trace in the shapes (except Swin's): 64 channels a head in BERT and 8 heads in
    both decoders are assumed, as in the public models, unless given in ``known``.

    Raises:
        CheckpointError: tensors that every ReLA has are missing
    """
    count = lambda pattern: len({m[1] for k in state if (m := re.match(pattern, k))})  # noqa: E731
    try:
        words = state["text_encoder.embeddings.word_embeddings.weight"]
        bert = "text_encoder.encoder.layer."
        head = "sem_seg_head.predictor."
        pixel = "sem_seg_head.pixel_decoder."
        values = {
            "variant": describe(state) or "rela",
            "vocab_size": words.shape[0],
            "text_dim": words.shape[1],
            "text_layers": count(r"text_encoder\.encoder\.layer\.(\d+)\."),
            "text_heads": max(1, words.shape[1] // 64),
            "text_ffn_dim": state[bert + "0.intermediate.dense.weight"].shape[0],
            "text_positions": state["text_encoder.embeddings.position_embeddings.weight"].shape[0],
            "hidden_dim": state[_QUERY].shape[1],
            "num_queries": state[_QUERY].shape[0],
            "mask_dim": state[pixel + "mask_features.weight"].shape[0],
            "decoder_layers": count(r"sem_seg_head\.predictor\.RIA_layers\.(\d+)\."),
            "decoder_ffn_dim": state[head + "transformer_ffn_layers.0.linear1.weight"].shape[0],
            "encoder_layers": count(r"sem_seg_head\.pixel_decoder\.transformer\.encoder\.layers\.(\d+)\."),
            "encoder_ffn_dim": state[pixel + "transformer.encoder.layers.0.linear1.weight"].shape[0],
            "box_head": f"{head}box_embed.layers.0.weight" in state,
            "count_head": f"{head}count_embed.layers.0.weight" in state,
        }
        heads = known.get("encoder_heads", 8)
        weights = state[pixel + "transformer.encoder.layers.0.self_attn.attention_weights.weight"].shape[0]
        values["encoder_points"] = weights // (heads * 3)
        if "backbone.stem.conv1.weight" in state:
            values |= {"backbone": "resnet", "resnet_width": state["backbone.stem.conv1.weight"].shape[0]}
        else:
            tables = [state[f"backbone.layers.{i}.blocks.0.attn.relative_position_bias_table"].shape for i in range(4)]
            values |= {
                "swin_embed_dim": state["backbone.patch_embed.proj.weight"].shape[0],
                "swin_dims": tuple(state[f"backbone.norm{i}.weight"].shape[0] for i in range(4)),
                "swin_depths": tuple(count(rf"backbone\.layers\.{i}\.blocks\.(\d+)\.") for i in range(4)),
                "swin_heads": tuple(t[1] for t in tables),
                "swin_windows": tuple((round(t[0] ** 0.5) + 1) // 2 for t in tables),
            }
    except KeyError as e:
        raise CheckpointError(
            "not a ReLA checkpoint", expected=f"the tensor {e.args[0]}", found=", ".join(list(state)[:3]) or "nothing"
        ) from e
    return ReLAConfig(**{**values, **known})


def load_into(network: nn.Module, state: Mapping[str, Tensor], where: object, variant: str) -> None:
    """Fills the network, or raises ONE error that names everything wrong.

    Raises:
        CheckpointError: weights of another variant, missing or unexpected tensors, other shapes
    """
    own = network.state_dict()
    # Indices of window positions follow from the configuration; half-precision copies may lack them.
    computed = {k for k in own if k.endswith("relative_position_index")}
    missing = [k for k in own if k not in state and k not in computed]
    unexpected = [k for k in state if k not in own]
    shapes = [
        f"{k}: {list(state[k].shape)} instead of {list(own[k].shape)}"
        for k in own
        if k in state and state[k].shape != own[k].shape and not _is_scalar_pair(state[k], own[k])
    ]
    if missing or unexpected or shapes:
        raise _mismatch(state, missing, unexpected, shapes, where, variant)
    target = dict(network.named_parameters()) | dict(network.named_buffers())
    with torch.no_grad():
        for name, tensor in target.items():
            if name in state and name not in computed:
                tensor.copy_(state[name].reshape(tensor.shape))


def _is_scalar_pair(a: Tensor, b: Tensor) -> bool:
    return a.numel() == b.numel() == 1


def _mismatch(state, missing, unexpected, shapes, where, variant) -> CheckpointError:
    found = describe(state)
    what = "the weights do not fit the model"
    if found is None:
        what = "these are not weights of ReLA"
    elif found not in ("rela", variant.removeprefix("rela-")) and variant != "custom":
        what = f"this is a {found} checkpoint, {variant} was asked for"
    parts = []
    for label, names in (("missing", missing), ("unexpected", unexpected), ("other shape", shapes)):
        if names:
            more = f" and {len(names) - 5} more" if len(names) > 5 else ""
            parts.append(f"{len(names)} {label} ({', '.join(names[:5])}{more})")
    advice = f"Ask for variant='{found}'." if found in VARIANTS else "Check that file and configuration belong together."
    return CheckpointError(f"{what}: {'; '.join(parts)}", where=where, advice=advice)


def load_state(network: nn.Module, path: str | os.PathLike, variant: str) -> None:
    """:func:`read_state_dict` followed by :func:`load_into`."""
    load_into(network, read_state_dict(path), path, variant)


def save_state(network: nn.Module, folder: str | os.PathLike, dtype: torch.dtype | None = None) -> Path:
    """Writes ``model.safetensors``; floating point tensors in ``dtype`` when given."""
    tensors = {}
    for name, tensor in network.state_dict().items():
        tensor = tensor.detach().cpu().contiguous()
        tensors[name] = tensor.to(dtype) if dtype is not None and tensor.is_floating_point() else tensor
    path = Path(folder) / WEIGHTS_NAME
    # save_file would make the file readable by its owner only
    path.write_bytes(save(tensors, metadata={"format": "pt"}))
    return path


def convert_checkpoint(
    source: str | os.PathLike, destination: str | os.PathLike, *, dtype: torch.dtype | None = None
) -> str:
    """Converts a public checkpoint (or any readable weights file) to safetensors.

    Args:
        source: ``.pth`` (key ``model``) or ``.safetensors``
        destination: a ``.safetensors`` file, or a folder, which gets ``model.safetensors`` and ``config.json``
        dtype: of the floating point tensors; as they are by default

    Returns:
        SHA-256 of the written weights file; it is also written beside it as ``<file>.sha256`` together with the
        checksum of the source

    Raises:
        CheckpointError: unreadable source, or not a ReLA checkpoint
    """
    state = read_state_dict(source)
    config = config_from_state_dict(state)
    destination = Path(destination)
    if destination.suffix == ".safetensors":
        destination.parent.mkdir(parents=True, exist_ok=True)
        target = destination
    else:
        destination.mkdir(parents=True, exist_ok=True)
        target = destination / WEIGHTS_NAME
        config.save(destination)
    tensors = {
        k: (v.to(dtype) if dtype is not None and v.is_floating_point() else v).contiguous().clone()
        for k, v in state.items()
    }
    # One entry only: several are written in random order, and the checksum would change.
    target.write_bytes(save(tensors, metadata={"format": "pt"}))
    digest = sha256(target)
    note = {"sha256": digest, "source": Path(source).name, "source_sha256": sha256(source)}
    target.with_name(target.name + ".sha256").write_text(json.dumps(note, indent=1) + "\n", encoding="utf-8")
    logger.info("%s -> %s (%s)", source, target, digest)
    return digest


def sha256(path: str | os.PathLike) -> str:
    """Hexadecimal SHA-256 of a file."""
    with open(path, "rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest() if hasattr(hashlib, "file_digest") else _sha256(f)


def _sha256(file) -> str:
    digest = hashlib.sha256()
    while chunk := file.read(1 << 20):
        digest.update(chunk)
    return digest.hexdigest()


def check_text_encoder(folder: str | os.PathLike) -> None:
    """Checks that a text encoder folder is BERT's.

    Raises:
        CheckpointError: the folder's ``config.json`` is of another kind of model, or missing
    """
    path = Path(folder) / "config.json"
    try:
        kind = json.loads(path.read_text(encoding="utf-8")).get("model_type")
    except (OSError, ValueError, AttributeError) as e:
        raise CheckpointError("no readable config.json of a text encoder", where=path) from e
    if kind not in ("bert", "rela"):  # a ReLA folder holds BERT's tokenizer
        raise CheckpointError(
            "the text encoder is not BERT-like", where=path, expected="model_type 'bert'", found=kind,
            advice="ReLA was trained with bert-base-uncased; give that folder.",
        )  # fmt: skip


def load_text_encoder(network: nn.Module, folder: str | os.PathLike) -> None:
    """Fills the text encoder from a BERT folder, for training from pretrained parts.

    Raises:
        CheckpointError: not BERT, or of another size
    """
    check_text_encoder(folder)
    path = next((p for p in (Path(folder) / n for n in (WEIGHTS_NAME, "pytorch_model.bin")) if p.is_file()), None)
    if path is None:
        raise CheckpointError("no weights", where=folder, expected=f"{WEIGHTS_NAME} or pytorch_model.bin")
    skip = ("cls.", "pooler.", "embeddings.position_ids")
    state = {k.removeprefix("bert."): v for k, v in read_state_dict(path).items()}
    renamed = {k.replace("gamma", "weight").replace("beta", "bias"): v for k, v in state.items() if not k.startswith(skip)}
    try:
        load_into(network.text_encoder, renamed, path, "bert")
    except CheckpointError as e:
        raise CheckpointError(f"the text encoder does not fit: {e.what}", where=path) from e



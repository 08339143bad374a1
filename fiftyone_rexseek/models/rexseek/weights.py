"""Reading and writing checkpoint folders in the public layout, and fetching them from the Hugging Face hub."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from fiftyone_rexseek.errors import CheckpointError

from ..hub import local_folder
from .config import RexSeekConfig, read_json
from .modeling import RexSeekForSelection

logger = logging.getLogger(__name__)

#: Where the published 3B model lives, and on which terms.
HUB_ID_3B = "IDEA-Research/RexSeek-3B"
LICENCE = "IDEA License 1.0 (non-commercial research only); its language model: Qwen Research License"

_SINGLE, _INDEX = "model.safetensors", "model.safetensors.index.json"
_PICKLES = ("*.bin", "*.pth", "*.pt", "*.ckpt")
_FETCHED = ["*.json", "*.safetensors", "*.txt", "clip_vision/*.json", "tokenizer/*"]
_SHARD = re.compile(r"(.*)-(\d{5})-of-(\d{5})\.safetensors")
# Buffers that some versions of transformers save; the model computes them.
_COMPUTED = ("rotary_emb.inv_freq", "embeddings.position_ids")


def resolve_folder(name: str | Path, revision: str | None = None) -> Path:
    """The local folder of a checkpoint: ``name`` itself, or a snapshot of that repository on the Hugging Face hub.

    Raises:
        CheckpointError: when ``name`` is a file
        DownloadError: when it is neither a folder nor a repository that can be fetched
    """
    license = LICENCE if str(name).startswith("IDEA-Research/RexSeek") else None
    folder = local_folder(name, revision=revision, license=license, option="name", allow_patterns=_FETCHED)
    if not folder.is_dir():
        raise CheckpointError(
            "is not a checkpoint folder",
            where=name,
            expected="a folder with config.json and *.safetensors, or a hub repository such as " + HUB_ID_3B,
            found="a file",
        )
    return folder


def checkpoint_files(folder: Path) -> list[Path]:
    """The safetensors files of a folder, single or sharded.

    Raises:
        CheckpointError: when a shard is missing, there are only pickles, or there is nothing
    """
    if (folder / _INDEX).is_file():
        weight_map = read_json(folder / _INDEX).get("weight_map")
        if not isinstance(weight_map, dict) or not all(isinstance(n, str) for n in weight_map.values()):
            raise CheckpointError("has no weight_map", where=folder / _INDEX)
        files = [folder / name for name in sorted(set(weight_map.values()))]
    elif (folder / _SINGLE).is_file():
        files = [folder / _SINGLE]
    else:
        files = sorted(folder.glob("*.safetensors"))
        for match in [_SHARD.fullmatch(f.name) for f in files]:
            if match:
                stem, total = match[1], int(match[3])
                files += [folder / f"{stem}-{i:05d}-of-{total:05d}.safetensors" for i in range(1, total + 1)]
        files = sorted(set(files))
    missing = [f.name for f in files if not f.is_file()]
    if missing:
        raise CheckpointError(
            f"the checkpoint is incomplete, missing: {', '.join(missing)}",
            where=folder,
            advice="Download the missing files again",
        )
    if not files:
        pickles = sorted({f.name for pattern in _PICKLES for f in folder.glob(pattern)})
        if pickles:
            raise CheckpointError(
                "the weights are pickles, which can run any code when they are opened, and are not read",
                where=folder,
                expected="*.safetensors",
                found=", ".join(pickles),
                advice="Convert them where you trust their source: safetensors.torch.save_file("
                "torch.load(file, weights_only=True), 'model.safetensors')",
            )
        raise CheckpointError("there are no weights", where=folder, expected="*.safetensors", found="none")
    return files


def load_model(
    folder: str | Path,
    config: RexSeekConfig | None = None,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
) -> RexSeekForSelection:
    """Builds the network of a folder and fills it, tensor by tensor, without ever holding the weights twice.

    The size of the vocabulary is the embedding tensor's, whatever the configuration says. The output layer is tied
    when the configuration says so or the file has none. ``gamma`` is accepted for ``ramma``.

    Raises:
        CheckpointError: one that names every missing, unexpected and wrongly shaped tensor
    """
    folder = Path(folder)
    config = config or RexSeekConfig.from_folder(folder)
    files = checkpoint_files(folder)
    shapes = {name: shape for file in files for name, shape in _shapes(file)}
    embedding = shapes.get("model.embed_tokens.weight")
    if embedding and len(embedding) == 2:
        config = config.replace(text={"vocab_size": embedding[0]})
    tie = bool(config.text.get("tie_word_embeddings"))
    if "lm_head.weight" not in shapes and not tie:
        logger.info("%s has no lm_head.weight: the output layer is tied to the input embeddings", folder)
        tie = True
    config = config.replace(text={"tie_word_embeddings": tie})
    try:
        with torch.device("meta"):
            model = RexSeekForSelection(config)
    except Exception as e:  # a size or a name that PyTorch or transformers does not know
        raise CheckpointError(
            f"describes no model that can be built ({type(e).__name__}: {e})", where=folder / "config.json"
        ) from e
    _check_names(model, shapes, tie, folder)

    state: dict[str, Tensor] = {}
    for file in files:
        for name, tensor in _tensors(file):
            if not tensor.is_floating_point():
                raise CheckpointError(
                    "quantized weights are not read",
                    where=file,
                    expected="floating point",
                    found=f"{name}: {tensor.dtype}",
                )
            if not (tie and name == "lm_head.weight"):
                state[name] = tensor.to(device=device, dtype=dtype)
    if tie:
        state["lm_head.weight"] = state["model.embed_tokens.weight"]
    model.load_state_dict(state, assign=True)
    if tie:
        model.tie_weights()
    _materialise_buffers(model, device)
    return model.requires_grad_(False).eval()


def _check_names(model: nn.Module, shapes: Mapping[str, tuple[int, ...]], tie: bool, folder: Path) -> None:
    wanted = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    if tie:
        wanted.pop("lm_head.weight")
        shapes = {name: shape for name, shape in shapes.items() if name != "lm_head.weight"}
    problems = [f"missing: {name} {list(shape)}" for name, shape in wanted.items() if name not in shapes]
    problems += [f"unexpected: {name} {list(shape)}" for name, shape in shapes.items() if name not in wanted]
    problems += [
        f"wrong shape: {name}, expected {list(wanted[name])}, found {list(shape)}"
        for name, shape in shapes.items()
        if name in wanted and shape != wanted[name]
    ]
    if not problems:
        return
    fits = bool(set(wanted) & set(shapes))
    shown = problems[:_MOST_NAMED] if fits else problems[:3]
    more = [f"... and {len(problems) - len(shown)} more"] * (len(problems) > len(shown))
    raise CheckpointError(
        f"{len(problems)} tensor(s) do not fit the model that config.json describes:\n  " + "\n  ".join([*shown, *more]),
        where=folder,
        advice=None if fits else "No name fits: this is no checkpoint of RexSeek",
    )


#: So many tensors that do not fit are named in an error.
_MOST_NAMED = 20


def _public_name(name: str) -> str | None:
    """The model's name for a stored tensor; None for what the model computes itself."""
    if name.endswith(_COMPUTED):
        return None
    return re.sub(r"^(vision_tower_aux\..*)\.gamma$", r"\1.ramma", name)


def _open(file: Path):
    from safetensors import SafetensorError, safe_open

    try:
        return safe_open(str(file), framework="pt")
    except (SafetensorError, OSError) as e:
        raise CheckpointError(
            f"cannot be read as safetensors ({e})", where=file, advice="Download the file again"
        ) from e


def _shapes(file: Path) -> Iterator[tuple[str, tuple[int, ...]]]:
    with _open(file) as opened:
        for name in opened.keys():  # it is no dict
            if public := _public_name(name):
                yield public, tuple(opened.get_slice(name).get_shape())


def _tensors(file: Path) -> Iterator[tuple[str, Tensor]]:
    with _open(file) as opened:
        for name in opened.keys():  # it is no dict
            if public := _public_name(name):
                yield public, opened.get_tensor(name)


def _materialise_buffers(model: RexSeekForSelection, device: str | torch.device) -> None:
    """Recomputes, in float32, the few buffers that no checkpoint holds (rotary frequencies, position ids)."""
    language = model.model
    language.rotary_emb = type(language.rotary_emb)(config=language.config).to(device)
    embeddings = model.vision_tower.vision_tower.vision_model.embeddings
    embeddings.position_ids = torch.arange(embeddings.num_positions, device=device)[None]
    left = [name for name, tensor in (*model.named_parameters(), *model.named_buffers()) if tensor.is_meta]
    if left:
        raise CheckpointError(
            f"this version of transformers has buffers that are not filled: {', '.join(left)}"
        )


def save_model(model: RexSeekForSelection, folder: str | Path, dtype: torch.dtype | None = None) -> None:
    """Writes ``config.json``, ``clip_vision/`` and ``model.safetensors`` so that :func:`load_model` reads them.

    Args:
        model: the network
        folder: created when it does not exist
        dtype: stored type of the parameters (``torch.float16`` halves the file), by default their own
    """
    from safetensors.torch import save_file

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    tied = model.lm_head.weight is model.model.embed_tokens.weight
    model.config.replace(text={"tie_word_embeddings": tied}).to_folder(folder)
    state = {
        name: tensor.detach().to(device="cpu", dtype=dtype or tensor.dtype).contiguous()
        for name, tensor in model.state_dict().items()
        if not (tied and name == "lm_head.weight")
    }
    save_file(state, str(folder / _SINGLE), metadata={"format": "pt"})
    # it is readable by its owner only, unlike the files beside it; a copy in memory would double a large model
    (folder / _SINGLE).chmod((folder / "config.json").stat().st_mode)


def read_generation_config(folder: str | Path) -> dict:
    """``generation_config.json`` of a folder, or an empty dictionary when there is none.

    Raises:
        CheckpointError: unreadable, or its end tokens or repetition penalty are no numbers
    """
    path = Path(folder) / "generation_config.json"
    values = read_json(path) if path.is_file() else {}
    eos, penalty = values.get("eos_token_id"), values.get("repetition_penalty")
    if not all(isinstance(i, int) for i in (eos if isinstance(eos, list) else [eos or 0])):
        raise CheckpointError(
            "bad eos_token_id", where=path, expected="a token id or a list of them", found=eos
        )
    if penalty is not None and not (isinstance(penalty, int | float) and penalty > 0):
        raise CheckpointError(
            "bad repetition_penalty", where=path, expected="a positive number", found=penalty
        )
    return values


def write_generation_config(folder: str | Path, values: Mapping) -> None:
    """Writes ``generation_config.json``; nothing is written for empty values."""
    if values:
        path = Path(folder) / "generation_config.json"
        path.write_text(json.dumps(dict(values), indent=1, sort_keys=True) + "\n", encoding="utf-8")

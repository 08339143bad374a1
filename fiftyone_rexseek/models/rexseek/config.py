"""Sizes and switches of a RexSeek model, read from and written to the public ``config.json`` layout.

The public file is a flat Qwen2 configuration with a few ``mm_*`` keys; the sizes of the two image encoders are
fixed in the public code (CLIP ViT-L/14-336 and ConvNeXt-Large at 768). Here they are data: a folder may state
other ones in ``clip_vision/config.json`` (transformers' CLIP format) and under ``_tiny_overrides`` or
``fiftyone_rexseek`` in ``config.json``. What nobody states has the value of RexSeek-3B.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from fiftyone_rexseek.errors import CheckpointError, ConfigError

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
#: The phrase by which the public evaluation recognises a rejection (notes of the public code; the exact sentence
#: that the hosted checkpoint writes around it is not published).
REJECTION_SENTENCE = "There is no such thing in this image."

_QWEN_3B = dict(
    vocab_size=151936,
    hidden_size=2048,
    intermediate_size=11008,
    num_hidden_layers=36,
    num_attention_heads=16,
    num_key_value_heads=2,
    hidden_act="silu",
    max_position_embeddings=32768,
    rms_norm_eps=1e-6,
    rope_theta=1e6,
    tie_word_embeddings=True,
)
_CLIP_L = dict(
    hidden_size=1024,
    intermediate_size=4096,
    num_hidden_layers=24,
    num_attention_heads=16,
    image_size=336,
    patch_size=14,
    projection_dim=768,
    hidden_act="quick_gelu",
    layer_norm_eps=1e-5,
)
#: Keys of the public config.json that are not Qwen2's.
_NOT_QWEN = {"architectures", "model_type", "auto_map", "transformers_version", "torch_dtype", "dtype"}
_SINE_FUNCTIONS = ("cxcywh", "xyxy")


@dataclass(frozen=True)
class RexSeekConfig:
    """Everything that determines the shape and the arithmetic of the model; the defaults are RexSeek-3B's.

    Attributes:
        text: keyword arguments of ``transformers.Qwen2Config``
        clip: keyword arguments of ``transformers.CLIPVisionConfig``
        convnext_dims, convnext_depths: channels and blocks of the four ConvNeXt stages
        layer_scale_init: initial value of ConvNeXt's LayerScale (matters only for training from scratch)
        image_size: side in pixels of the square image that ConvNeXt sees and that boxes live in
        select_layer: which CLIP hidden state is used; 0 is the one before the first layer
        select_feature: ``patch`` drops the class token, ``cls_patch`` keeps it (only ``patch`` fits ConvNeXt)
        roi_size: bins per side of ROI-align; the bins are averaged
        sine_function: ``cxcywh`` is what the public model calls: the sine code of the box's (cx, cy, w, h). ``xyxy``
            is the other public function of the same name, which takes the same numbers for corners and converts
            them once more. Which of the two the hosted checkpoint's remote code uses is not published.
        sine_temperature: base of the wave lengths of the sine code
        num_object_tokens: how many ``<obj{i}>`` tokens there are, hence the most boxes one question can have
        image_mean, image_std: RGB normalisation, per channel, of values in [0, 1]
        rejection_sentence: what a model of this checkpoint writes when nothing matches
        extra: keys of ``config.json`` that mean nothing here, kept for writing it back
    """

    text: Mapping[str, Any] = field(default_factory=lambda: dict(_QWEN_3B))
    clip: Mapping[str, Any] = field(default_factory=lambda: dict(_CLIP_L))
    convnext_dims: tuple[int, ...] = (192, 384, 768, 1536)
    convnext_depths: tuple[int, ...] = (3, 3, 27, 3)
    layer_scale_init: float = 1e-6
    image_size: int = 768
    select_layer: int = -2
    select_feature: str = "patch"
    roi_size: int = 7
    sine_function: str = "cxcywh"
    sine_temperature: float = 10000.0
    num_object_tokens: int = 100
    image_mean: tuple[float, ...] = CLIP_MEAN
    image_std: tuple[float, ...] = CLIP_STD
    rejection_sentence: str = REJECTION_SENTENCE
    extra: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self):
        for name in ("convnext_dims", "convnext_depths", "image_mean", "image_std"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        object.__setattr__(self, "text", {**_QWEN_3B, **self.text})
        object.__setattr__(self, "clip", {**_CLIP_L, **self.clip})
        stages = (*self.convnext_dims, *self.convnext_depths)
        if not all(isinstance(n, int) and n > 0 for n in (*stages, self.image_size)):
            raise ConfigError(
                "convnext_dims, convnext_depths and image_size are positive whole numbers",
                found=f"{self.convnext_dims}, {self.convnext_depths} and {self.image_size!r}",
            )
        layers = self.clip["num_hidden_layers"]
        if not isinstance(self.select_layer, int) or not -layers - 1 <= self.select_layer <= layers:
            raise ConfigError(
                "CLIP has no such hidden state",
                expected=f"select_layer from {-layers - 1} to {layers}",
                found=self.select_layer,
            )
        if len(self.convnext_dims) != 4 or len(self.convnext_depths) != 4:
            raise ConfigError(
                "ConvNeXt has four stages",
                expected="four numbers in convnext_dims and in convnext_depths",
                found=f"{self.convnext_dims} and {self.convnext_depths}",
            )
        if self.sine_function not in _SINE_FUNCTIONS:
            raise ConfigError(
                "unknown sine_function", expected=f"one of {_SINE_FUNCTIONS}", found=self.sine_function
            )
        if self.object_width % 8:
            raise ConfigError(
                "the convnext_dims must sum to a multiple of 8 (four coordinates, sine and cosine)",
                found=self.object_width,
            )
        if self.image_size % 32 or self.grid != self.clip["image_size"] // self.clip["patch_size"]:
            raise ConfigError(
                "CLIP and ConvNeXt must see the same grid",
                expected="image_size / 32 == clip image_size / patch_size",
                found=f"{self.image_size} / 32 and {self.clip['image_size']} / {self.clip['patch_size']}",
            )
        if self.select_feature != "patch":
            raise ConfigError("unsupported select_feature", expected="patch", found=self.select_feature)

    @property
    def grid(self) -> int:
        """Cells per side of the image's token grid (24 for RexSeek-3B, hence 576 image tokens)."""
        return self.image_size // 32

    @property
    def clip_image_size(self) -> int:
        """Side in pixels of CLIP's input."""
        return self.clip["image_size"]

    @property
    def hidden_size(self) -> int:
        """Width of the language model's embeddings."""
        return self.text["hidden_size"]

    @property
    def image_width(self) -> int:
        """Channels that enter the image projector: CLIP and the last ConvNeXt stage, concatenated."""
        return self.clip["hidden_size"] + self.convnext_dims[-1]

    @property
    def object_width(self) -> int:
        """Channels that enter the object projector: all ConvNeXt stages, concatenated."""
        return sum(self.convnext_dims)

    def text_config(self):
        """The ``transformers.Qwen2Config`` of the language model."""
        from transformers import Qwen2Config

        from .attention import GROUPED

        # Only training looks at the padding's row, and PyTorch refuses one that a smaller vocabulary does not have.
        pad = self.text.get("pad_token_id")
        has_pad = pad is not None and pad < self.text["vocab_size"]
        changes = {"pad_token_id": pad if has_pad else None, "attn_implementation": GROUPED}
        return Qwen2Config(**{**self.text, **changes})

    def clip_config(self):
        """The ``transformers.CLIPVisionConfig`` of the first image encoder."""
        from transformers import CLIPVisionConfig

        return CLIPVisionConfig(**self.clip)

    def replace(self, **changes) -> RexSeekConfig:
        """A copy with some fields changed; ``text`` and ``clip`` are updated, not replaced."""
        for name in ("text", "clip"):
            if name in changes:
                changes[name] = {**getattr(self, name), **changes[name]}
        return replace(self, **changes)

    @classmethod
    def from_folder(cls, folder: str | Path) -> RexSeekConfig:
        """Reads a checkpoint folder's ``config.json`` and, when it is there, ``clip_vision/``.

        Raises:
            CheckpointError: when ``config.json`` is missing, unreadable or contradicts itself
        """
        folder = Path(folder)
        public = read_json(folder / "config.json")
        values = _from_public(public)
        for name in dict.fromkeys(("clip_vision", str(public.get("mm_vision_tower") or "clip_vision"))):
            if Path(name).is_absolute() or ".." in Path(name).parts:
                continue  # the training machine's own path
            if (folder / name / "config.json").is_file():
                clip = read_json(folder / name / "config.json")
                clip = clip.get("vision_config", clip)
                values["clip"] = _library_defaults("clip") | {
                    k: v for k, v in clip.items() if k not in _NOT_QWEN
                }
                if (folder / name / "preprocessor_config.json").is_file():
                    processor = read_json(folder / name / "preprocessor_config.json")
                    values.setdefault("image_mean", processor.get("image_mean", CLIP_MEAN))
                    values.setdefault("image_std", processor.get("image_std", CLIP_STD))
                break
        try:
            config = cls(**values)
            config.text_config(), config.clip_config()
        except Exception as e:  # whatever transformers finds wrong with a value
            what = str(e) if isinstance(e, ConfigError) else f"cannot be used ({type(e).__name__}: {e})"
            raise CheckpointError(what, where=folder / "config.json") from e
        for key, width in (
            ("mm_hidden_size", config.image_width),
            ("object_hidden_size", config.object_width),
        ):
            if public.get(key, width) != width:
                raise CheckpointError(
                    f"{key} does not fit the encoders' sizes",
                    where=folder / "config.json",
                    expected=width,
                    found=public[key],
                    advice="State the encoders' sizes in clip_vision/config.json and _tiny_overrides",
                )
        return config

    def to_folder(self, folder: str | Path) -> None:
        """Writes ``config.json`` and ``clip_vision/`` so that :meth:`from_folder` gives an equal configuration."""
        folder = Path(folder)
        own = {k: v for k, v in asdict(self).items() if k not in ("text", "clip", "extra")}
        public = {
            **self.extra,
            **self.text,
            "architectures": ["RexSeekQwenForCausalLM"],
            "model_type": "rexseek_qwen",
            "mm_vision_tower": "clip_vision",
            "mm_vision_select_layer": own.pop("select_layer"),
            "mm_vision_select_feature": own.pop("select_feature"),
            "mm_projector_type": "mlp2x_gelu",
            "mm_hidden_size": self.image_width,
            "object_hidden_size": self.object_width,
            "vis_during_training_prob": 0.0,
            "fiftyone_rexseek": own,
        }
        clip_folder = folder / "clip_vision"
        clip_folder.mkdir(parents=True, exist_ok=True)
        _write_json(folder / "config.json", public)
        _write_json(clip_folder / "config.json", {**self.clip, "model_type": "clip_vision_model"})
        processor = {"image_mean": self.image_mean, "image_std": self.image_std, "resample": 3}
        _write_json(clip_folder / "preprocessor_config.json", processor)


def _from_public(public: Mapping[str, Any]) -> dict[str, Any]:
    """Splits the flat public configuration into the fields of :class:`RexSeekConfig`."""
    # What the file does not state has the library's default, as for anyone who reads it with transformers.
    values: dict[str, Any] = {"text": _library_defaults("text"), "extra": {}}
    own = {f.name for f in fields(RexSeekConfig)} - {"text", "clip", "extra"}
    qwen = _qwen_keys()
    for key, value in public.items():
        if key in qwen:
            values["text"][key] = value
        elif key == "mm_vision_select_layer":
            values["select_layer"] = value
        elif key == "mm_vision_select_feature":
            values["select_feature"] = value
        elif key in ("_tiny_overrides", "fiftyone_rexseek") and isinstance(value, Mapping):
            values.update({k: v for k, v in value.items() if k in own})
        elif key not in _NOT_QWEN:
            values["extra"][key] = value
    rope = values["text"].pop("rope_parameters", None) or {}  # transformers 5 nests what was flat
    values["text"].update({"rope_theta": rope["rope_theta"]} if "rope_theta" in rope else {})
    if rope.get("rope_type", "default") != "default":
        values["text"]["rope_scaling"] = {k: v for k, v in rope.items() if k != "rope_theta"}
    return values


def _library_defaults(which: str) -> dict[str, Any]:
    """transformers' default for every key that this module has another default for."""
    from transformers import CLIPVisionConfig, Qwen2Config

    known, config = (_QWEN_3B, Qwen2Config()) if which == "text" else (_CLIP_L, CLIPVisionConfig())
    return {
        key: getattr(config, key, 10000.0) for key in known
    }  # rope_theta is no attribute in transformers 5


def _qwen_keys() -> set[str]:
    from transformers import Qwen2Config

    known = set(Qwen2Config().to_dict()) | {"rope_theta", "rope_scaling", "sliding_window"}
    return known - _NOT_QWEN


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a checkpoint folder.

    Raises:
        CheckpointError: when the file is missing or does not hold a JSON object
    """
    try:
        value = json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(
            "file is missing", where=path, advice="Give a complete checkpoint folder"
        ) from None
    except (OSError, ValueError) as e:
        raise CheckpointError(f"cannot be read as JSON ({e})", where=path) from e
    if not isinstance(value, dict):
        raise CheckpointError(
            "holds something else", where=path, expected="a JSON object", found=type(value).__name__
        )
    return value


def _write_json(path: Path, value: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=1, sort_keys=True, default=list) + "\n", encoding="utf-8")

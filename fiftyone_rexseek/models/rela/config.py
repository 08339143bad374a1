"""Configuration of ReLA: the public conference model, the journal variant, and the sizes of both.

One dataclass describes every form. Defaults are those of the conference code (GRES, CVPR 2023); the journal
variant (GREx, arXiv 2601.05244) adds a box and a count head. Options whose default is "as published" and that
exist only because a small model trained from nothing needs them are marked *tiny*.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from ...errors import CheckpointError, ConfigError

#: Classes of the count head: 0, 1, 2, 3, 4, 5 and "more than 5".
NUM_COUNT_CLASSES = 7

PIXEL_MEAN = (123.675, 116.28, 103.53)
PIXEL_STD = (58.395, 57.12, 57.375)


@dataclass(frozen=True)
class ReLAConfig:
    """Everything that decides names and shapes of the weights, and how inputs and outputs are treated.

    Attributes:
        variant: name shown to users and in errors
        backbone: ``"swin"`` (with language fusion in every stage) or ``"resnet"`` (without)
        text_*: BERT widths, as in ``transformers.BertConfig``
        swin_*: patch-embedding width, blocks, heads and window (one, or one per stage) of the four stages
        swin_dims: width of each stage; ``None`` = ``swin_embed_dim * (1, 2, 4, 8)``
        resnet_width: width of the ResNet-50 stem (64 in the public model)
        hidden_dim, mask_dim: width of both decoders, and of the mask embedding
        pixel_dim: *tiny*: another width for the pixel decoder; the region decoder then projects its memories, as
            Mask2Former does
        num_heads, decoder_ffn_dim, decoder_layers: region decoder (9 layers in the public model)
        encoder_heads, encoder_ffn_dim, encoder_layers, encoder_points: deformable pixel decoder
        num_queries: regions; a square number, the minimap is ``sqrt(num_queries)`` cells wide
        box_head, count_head: the journal additions. With a count head there is no binary no-target head.
        image_size: the exact square (pixels) to which images are resized
        max_text_length: token ids kept of an expression
        language_layers: ``"first"`` (published) or ``"all"`` (*tiny*)
        language_gain: factor of the gated language step, 0.1 as published; ``None`` (*tiny*) replaces the gate by
            an ordinary cross-attention sublayer
        box_from_grid: *tiny*: box centres are predicted relative to the centre of the region's grid cell
        target_scale: *tiny*: divides the target embedding, a sum over all regions
        grid_queries: *tiny*: query positions start as the sine code of their grid cell, and key and query
            projections of the cross attention start equal, so that attention is local from the first step
        pixel_position: *tiny*: the sine position is also added to the pixel decoder's input maps, so that mask
            features know where they are
        residual_outputs: *tiny*: stage outputs are the norm of features plus fused residual, not of the residual alone
        open_radius: *tiny*: a region may always look this far around its own grid cell (share of the image side),
            whatever its attention mask says; else a region that takes its own person for background never sees them
        resize_features_first: *tiny*: attention masks are taken from resized mask features instead of resized region
            masks: the same numbers up to rounding, several times cheaper
        output_threshold: score from which regions are kept when the count says "more than 5"; the paper gives
            no number, 0.7 is the value of the public GREC evaluator
        no_target_threshold: P(count 0) from which the count head says "nobody"; None = when 0 is its most probable
            count, as published
        nms_iou: class-agnostic suppression among the output boxes; None = off, as published

    Example::

        >>> ReLAConfig.from_variant("swin-tiny").stage_dims
        (96, 192, 384, 768)
        >>> ReLAConfig.from_variant("r50").backbone
        'resnet'
    """

    variant: str = "swin-base"
    backbone: str = "swin"
    # text encoder
    text_dim: int = 768
    text_layers: int = 12
    text_heads: int = 12
    text_ffn_dim: int = 3072
    vocab_size: int = 30522
    text_positions: int = 512
    text_dropout: float = 0.1
    pad_token_id: int = 0
    # backbone
    swin_embed_dim: int = 128
    swin_depths: tuple[int, ...] = (2, 2, 18, 2)
    swin_heads: tuple[int, ...] = (4, 8, 16, 32)
    swin_windows: tuple[int, ...] = (12, 12, 12, 12)
    swin_dims: tuple[int, ...] | None = None
    drop_path: float = 0.3
    resnet_width: int = 64
    # pixel decoder
    hidden_dim: int = 256
    mask_dim: int = 256
    pixel_dim: int | None = None
    encoder_heads: int = 8
    encoder_ffn_dim: int = 1024
    encoder_layers: int = 6
    encoder_points: int = 4
    # region decoder
    num_heads: int = 8
    decoder_ffn_dim: int = 2048
    decoder_layers: int = 9
    num_queries: int = 100
    box_head: bool = False
    count_head: bool = False
    # input and output
    image_size: int = 480
    max_text_length: int = 20
    output_threshold: float = 0.7
    no_target_threshold: float | None = None
    nms_iou: float | None = None
    # what training a small model from nothing needs
    language_layers: str = "first"
    language_gain: float | None = 0.1
    box_from_grid: bool = False
    target_scale: float = 1.0
    grid_queries: bool = False
    pixel_position: bool = False
    resize_features_first: bool = False
    open_radius: float | None = None
    residual_outputs: bool = False

    def __post_init__(self):
        for name in ("swin_depths", "swin_heads", "swin_dims"):
            value = getattr(self, name)
            if value is not None:
                object.__setattr__(self, name, tuple(int(v) for v in value))
        windows = self.swin_windows
        windows = (windows,) * 4 if isinstance(windows, int) else tuple(int(v) for v in windows)
        object.__setattr__(self, "swin_windows", windows)
        self._check()

    def _check(self) -> None:
        def wrong(what: str, expected: object, found: object):
            return ConfigError(f"ReLA configuration: {what}", expected=expected, found=found)

        if self.backbone not in ("swin", "resnet"):
            raise wrong("unknown backbone", "'swin' or 'resnet'", self.backbone)
        if self.language_layers not in ("first", "all"):
            raise wrong("unknown language_layers", "'first' or 'all'", self.language_layers)
        for name in ("swin_depths", "swin_heads", "swin_windows", "stage_dims"):
            if len(getattr(self, name)) != 4:
                raise wrong(f"{name} needs one value per stage", "4 values", getattr(self, name))
        if self.grid**2 != self.num_queries:
            raise wrong("the regions form a square minimap", "a square num_queries", self.num_queries)
        widths = [("text_dim", self.text_dim, self.text_heads), ("hidden_dim", self.hidden_dim, self.num_heads)]
        widths += [("pixel decoder width", self.pixel_width, n) for n in (self.encoder_heads, 32)]
        if self.backbone == "swin":
            widths += [("stage width", d, h) for d, h in zip(self.stage_dims, self.swin_heads)]
        for name, width, parts in widths:
            if parts < 1 or width % parts:
                raise wrong(f"{name} cannot be divided", f"a multiple of {parts}", width)
        if self.text_positions < self.max_text_length:
            raise wrong("the text encoder has too few positions", f"at least {self.max_text_length}", self.text_positions)
        if self.image_size < 32:
            raise wrong("image_size is too small", "at least 32", self.image_size)

    @property
    def grid(self) -> int:
        """Cells per side of the minimap."""
        return round(self.num_queries**0.5)

    @property
    def pixel_width(self) -> int:
        """Channels of the pixel decoder."""
        return self.pixel_dim or self.hidden_dim

    @property
    def stage_dims(self) -> tuple[int, ...]:
        """Channels of ``res2 .. res5``."""
        if self.backbone == "resnet":
            return tuple(self.resnet_width * 4 * 2**i for i in range(4))
        return self.swin_dims or tuple(self.swin_embed_dim * 2**i for i in range(4))

    @property
    def journal(self) -> bool:
        """Whether one of the journal heads is present."""
        return self.box_head or self.count_head

    @classmethod
    def from_variant(cls, variant: str, **changes) -> ReLAConfig:
        """The configuration of ``swin-base``, ``swin-tiny``, ``r50`` (public weights) or ``tiny`` (shipped).

        A leading ``rela-`` is accepted. ``journal=True`` adds the box and count heads.
        """
        name = variant.removeprefix("rela-")
        if name not in VARIANTS:
            raise ConfigError("unknown ReLA variant", expected=", ".join(VARIANTS), found=variant)
        if changes.pop("journal", False):
            changes = {"box_head": True, "count_head": True, **changes}
        return cls(**{"variant": name, **VARIANTS[name], **changes})

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> ReLAConfig:
        """From :meth:`to_dict`, or from the short keys of the project's reference vectors.

        The short form (``lang, bert_layers, bert_heads, bert_ff, vocab, embed, depths, heads, window, hidden, mask,
        nheads, ff, enc, dec, r50div``) has no key for the backbone: give ``backbone`` beside it, "swin" by default.

        Raises:
            ConfigError: a key is unknown
        """
        if "lang" in values and "hidden" in values:
            return cls._from_reference(values)
        known = {f.name for f in fields(cls)}
        unknown = sorted(set(values) - known - {"model_type", "architecture"})
        if unknown:
            raise ConfigError("unknown keys in a ReLA configuration", found=", ".join(unknown))
        return cls(**{k: v for k, v in values.items() if k in known})

    @classmethod
    def _from_reference(cls, v: Mapping[str, Any]) -> ReLAConfig:
        backbone = {"r50": "resnet"}.get(v.get("backbone", "swin"), v.get("backbone", "swin"))
        window = v.get("window", 7)
        return cls(
            variant="custom",
            backbone=backbone,
            text_dim=v["lang"],
            text_layers=v["bert_layers"],
            text_heads=v["bert_heads"],
            text_ffn_dim=v["bert_ff"],
            vocab_size=v["vocab"],
            text_positions=v.get("positions", 64),
            swin_embed_dim=v.get("embed", 16),
            swin_depths=tuple(v.get("depths", (2, 2, 2, 2))),
            swin_heads=tuple(v.get("heads", (1, 2, 4, 8))),
            swin_windows=tuple(window) if isinstance(window, list | tuple) else (window,) * 4,
            resnet_width=64 // v.get("r50div", 1),
            hidden_dim=v["hidden"],
            mask_dim=v.get("mask") or v["hidden"],
            num_heads=v["nheads"],
            encoder_heads=v["nheads"],
            decoder_ffn_dim=v["ff"],
            encoder_layers=v["enc"],
            decoder_layers=v["dec"] - 1,
        )

    def replace(self, **changes) -> ReLAConfig:
        """A copy with some values changed."""
        return replace(self, **changes)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values; the inverse of :meth:`from_dict`."""
        return {"model_type": "rela", **asdict(self)}

    def save(self, folder: Path) -> None:
        """Writes ``config.json``."""
        (Path(folder) / "config.json").write_text(json.dumps(self.to_dict(), indent=1) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> ReLAConfig:
        """Reads ``config.json``.

        Raises:
            CheckpointError: the file is missing, no JSON object, or not of a ReLA model
        """
        path = Path(folder) / "config.json"
        advice = "Give a folder written by save_pretrained(), or a weights file with variant="
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError as e:
            raise CheckpointError("no config.json", where=folder, advice=advice) from e
        except (OSError, ValueError) as e:
            raise CheckpointError(f"config.json cannot be read ({e})", where=path, advice=advice) from e
        if not isinstance(values, dict) or values.get("model_type", "rela") != "rela":
            found = values.get("model_type") if isinstance(values, dict) else type(values).__name__
            raise CheckpointError("not a ReLA model", where=path, expected="model_type 'rela'", found=found, advice=advice)
        try:
            return cls.from_dict(values)
        except (ConfigError, TypeError, KeyError, ValueError) as e:
            raise CheckpointError(f"config.json cannot be used: {e}", where=path, advice=advice) from e


#: What differs from the defaults in each named variant.
VARIANTS: dict[str, dict[str, Any]] = {
    "swin-base": {},
    "swin-tiny": {
        "swin_embed_dim": 96,
        "swin_depths": (2, 2, 6, 2),
        "swin_heads": (3, 6, 12, 24),
        "swin_windows": (7, 7, 7, 7),
    },
    "r50": {"backbone": "resnet"},
    # Trained from nothing on drawn scenes: journal variant, see models/weights/rela-tiny/README.md.
    "tiny": {
        "text_dim": 96,
        "text_layers": 2,
        "text_heads": 3,
        "text_ffn_dim": 192,
        "vocab_size": 256,
        "text_positions": 32,
        "text_dropout": 0.0,
        "swin_embed_dim": 24,
        "swin_dims": (24, 48, 96, 128),
        "swin_depths": (1, 1, 3, 1),
        "swin_heads": (1, 2, 3, 4),
        "swin_windows": (5, 10, 10, 5),
        "drop_path": 0.0,
        "hidden_dim": 96,
        "mask_dim": 64,
        "pixel_dim": 64,
        "encoder_heads": 4,
        "encoder_ffn_dim": 128,
        "encoder_layers": 1,
        "encoder_points": 2,
        "num_heads": 3,
        "decoder_ffn_dim": 256,
        "decoder_layers": 4,
        "box_head": True,
        "count_head": True,
        "image_size": 160,
        "language_layers": "all",
        "language_gain": None,
        "box_from_grid": True,
        "target_scale": 10.0,
        "grid_queries": True,
        "pixel_position": True,
        "resize_features_first": True,
        "open_radius": 0.15,
        "residual_outputs": True,
        "nms_iou": 0.6,
        "no_target_threshold": 0.43,
    },
}

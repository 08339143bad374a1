"""Pixel decoder of Mask2Former: deformable attention over strides 32, 16 and 8, then one FPN step to stride 4."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .config import ReLAConfig
from .deformable import DeformableAttention, reference_points, sine_position

NUM_LEVELS = 3
NORM_GROUPS = 32


class EncoderLayer(nn.Module):
    """Deformable self attention and FFN, post-norm, no dropout; positions are added to the query only."""

    def __init__(self, config: ReLAConfig):
        super().__init__()
        dim = config.pixel_width
        self.self_attn = DeformableAttention(dim, config.encoder_heads, NUM_LEVELS, config.encoder_points)
        self.norm1 = nn.LayerNorm(dim)
        self.linear1 = nn.Linear(dim, config.encoder_ffn_dim)
        self.linear2 = nn.Linear(config.encoder_ffn_dim, dim)
        self.norm2 = nn.LayerNorm(dim)

    def forward(self, x: Tensor, position: Tensor, reference: Tensor, sizes: list[tuple[int, int]]) -> Tensor:
        x = self.norm1(x + self.self_attn(x + position, reference, x, sizes))
        return self.norm2(x + self.linear2(F.relu(self.linear1(x))))


class Encoder(nn.Module):
    def __init__(self, config: ReLAConfig):
        super().__init__()
        self.layers = nn.ModuleList(EncoderLayer(config) for _ in range(config.encoder_layers))


class LevelEncoder(nn.Module):
    """Holds the level vectors and the layers under the names of the public checkpoints."""

    def __init__(self, config: ReLAConfig):
        super().__init__()
        self.position_in_maps = config.pixel_position
        self.level_embed = nn.Parameter(torch.empty(NUM_LEVELS, config.pixel_width).normal_())
        self.encoder = Encoder(config)

    def forward(self, maps: list[Tensor], stages: dict | None) -> list[Tensor]:
        """Maps (B, D, H, W), coarse to fine -> the same shapes."""
        sizes = [tuple(m.shape[-2:]) for m in maps]
        device, dtype = maps[0].device, maps[0].dtype
        x = torch.cat([m.flatten(2).transpose(1, 2) for m in maps], dim=1)
        position = [
            sine_position(h, w, x.shape[-1], device).to(dtype).flatten(1).T + self.level_embed[i]
            for i, (h, w) in enumerate(sizes)
        ]
        position = torch.cat(position)[None]
        if self.position_in_maps:
            x = x + position
        reference = reference_points(sizes, device)
        for i, layer in enumerate(self.encoder.layers):
            x = layer(x, position, reference, sizes)
            if stages is not None:
                stages[f"pixel_decoder.encoder_layer{i}_out"] = x
        parts = x.split([h * w for h, w in sizes], dim=1)
        return [p.transpose(1, 2).unflatten(2, size) for p, size in zip(parts, sizes)]


class ConvGroupNorm(nn.Conv2d):
    """Convolution without bias followed by its submodule ``norm``, a group normalisation."""

    def __init__(self, in_channels: int, out_channels: int, kernel: int):
        super().__init__(in_channels, out_channels, kernel, padding=kernel // 2, bias=False)
        self.norm = nn.GroupNorm(NORM_GROUPS, out_channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(super().forward(x))


class PixelDecoder(nn.Module):
    """``res2 .. res5`` -> mask features (B, mask_dim, H/4, W/4) and memories at strides 32, 16, 8."""

    def __init__(self, config: ReLAConfig):
        super().__init__()
        dim = config.pixel_width
        res2, *deeper = config.stage_dims
        self.input_proj = nn.ModuleList(
            nn.Sequential(nn.Conv2d(c, dim, 1), nn.GroupNorm(NORM_GROUPS, dim)) for c in reversed(deeper)
        )
        self.transformer = LevelEncoder(config)
        self.adapter_1 = ConvGroupNorm(res2, dim, 1)
        self.layer_1 = ConvGroupNorm(dim, dim, 3)
        self.mask_features = nn.Conv2d(dim, config.mask_dim, 1)
        for proj in self.input_proj:
            nn.init.xavier_uniform_(proj[0].weight)
            nn.init.zeros_(proj[0].bias)

    def forward(self, features: list[Tensor], stages: dict | None = None) -> tuple[Tensor, list[Tensor]]:
        res2, *deeper = features
        maps = [proj(x) for proj, x in zip(self.input_proj, reversed(deeper))]
        memories = self.transformer(maps, stages)
        fine = self.adapter_1(res2)
        coarse = F.interpolate(memories[-1], size=fine.shape[-2:], mode="bilinear", align_corners=False)
        mask_features = self.mask_features(F.relu(self.layer_1(fine + coarse)))
        return mask_features, memories

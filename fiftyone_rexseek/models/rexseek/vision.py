"""The two image encoders: CLIP (transformers') behind the public key names, and ConvNeXt in timm's layout."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .config import RexSeekConfig


class CLIPTower(nn.Module):
    """CLIP's vision transformer; returns the patch tokens of one hidden state, without the post-LayerNorm.

    Keys are those of the public checkpoint, ``vision_tower.vision_model.*``, whichever way the installed
    transformers nests its own class. Nothing is fetched: sizes come from the configuration.
    """

    def __init__(self, config: RexSeekConfig):
        super().__init__()
        from transformers import CLIPVisionModel

        model = CLIPVisionModel(config.clip_config())
        self.vision_tower = nn.Module()
        self.vision_tower.vision_model = getattr(model, "vision_model", model)
        self.select_layer = config.select_layer

    def forward(self, pixel_values: Tensor) -> Tensor:
        """(B, 3, S, S) normalised pixels to (B, patches, C), row-major."""
        model = self.vision_tower.vision_model
        output = model(pixel_values, output_hidden_states=True, return_dict=True)
        return output.hidden_states[self.select_layer][:, 1:]


class LayerNorm2d(nn.LayerNorm):
    """LayerNorm over the channels of a (B, C, H, W) map."""

    def forward(self, x: Tensor) -> Tensor:
        x = F.layer_norm(x.permute(0, 2, 3, 1), self.normalized_shape, self.weight, self.bias, self.eps)
        return x.permute(0, 3, 1, 2)


class _MLP(nn.Module):
    def __init__(self, dim: int):
        super().__init__()
        self.fc1 = nn.Linear(dim, 4 * dim)
        self.fc2 = nn.Linear(4 * dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class ConvNeXtBlock(nn.Module):
    """7x7 depthwise convolution, LayerNorm, MLP, LayerScale (``ramma``), residual (ConvNeXt, fig. 4)."""

    def __init__(self, dim: int, layer_scale_init: float):
        super().__init__()
        self.conv_dw = nn.Conv2d(dim, dim, 7, padding=3, groups=dim)
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        self.mlp = _MLP(dim)
        # "gamma" in the paper; the public checkpoint calls it so because transformers < 5 renamed keys with "gamma".
        self.ramma = nn.Parameter(torch.full((dim,), layer_scale_init))

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv_dw(x).permute(0, 2, 3, 1)
        y = self.mlp(self.norm(y)) * self.ramma
        return x + y.permute(0, 3, 1, 2)


class _Stage(nn.Module):
    def __init__(self, in_dim: int, dim: int, depth: int, layer_scale_init: float, downsample: bool):
        super().__init__()
        self.downsample = nn.Identity()
        if downsample:
            self.downsample = nn.Sequential(
                LayerNorm2d(in_dim, eps=1e-6), nn.Conv2d(in_dim, dim, 2, stride=2)
            )
        self.blocks = nn.Sequential(*(ConvNeXtBlock(dim, layer_scale_init) for _ in range(depth)))

    def forward(self, x: Tensor) -> Tensor:
        return self.blocks(self.downsample(x))


class ConvNeXt(nn.Module):
    """The ConvNeXt encoder without its head and final norm; all four raw stage outputs are used."""

    def __init__(self, config: RexSeekConfig):
        super().__init__()
        dims, depths = config.convnext_dims, config.convnext_depths
        self.vision_stem = nn.Sequential(nn.Conv2d(3, dims[0], 4, stride=4), LayerNorm2d(dims[0], eps=1e-6))
        self.vision_stages = nn.Sequential(
            *(
                _Stage(dims[max(i - 1, 0)], dims[i], depths[i], config.layer_scale_init, downsample=i > 0)
                for i in range(4)
            )
        )
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)

    def forward(self, pixel_values: Tensor) -> list[Tensor]:
        """(B, 3, S, S) normalised pixels to four maps (B, C_i, S / 2^(i+2), S / 2^(i+2))."""
        x = self.vision_stem(pixel_values.to(self.vision_stem[0].weight.dtype))
        features = []
        for stage in self.vision_stages:
            x = stage(x)
            features.append(x)
        return features

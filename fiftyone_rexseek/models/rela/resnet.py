"""ResNet-50 with frozen batch normalisation, with the tensor names of Detectron2."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .config import ReLAConfig


class FrozenBatchNorm(nn.Module):
    """Batch normalisation with fixed statistics and affine part, all four kept as buffers."""

    def __init__(self, channels: int, eps: float = 1e-5):
        super().__init__()
        self.eps = eps
        self.register_buffer("weight", torch.ones(channels))
        self.register_buffer("bias", torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        # Detectron2 starts with variance 1 - eps, so that the fresh layer is the identity.
        self.register_buffer("running_var", torch.ones(channels) - eps)

    def forward(self, x: Tensor) -> Tensor:
        return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, False, 0.0, self.eps)


class ConvNorm(nn.Conv2d):
    """Convolution without bias whose normalisation is the submodule ``norm``."""

    def __init__(self, in_channels: int, out_channels: int, kernel: int, stride: int = 1):
        super().__init__(in_channels, out_channels, kernel, stride, kernel // 2, bias=False)
        self.norm = FrozenBatchNorm(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(super().forward(x))


class Stem(nn.Module):
    def __init__(self, channels: int):
        super().__init__()
        self.conv1 = ConvNorm(3, channels, 7, 2)

    def forward(self, x: Tensor) -> Tensor:
        return F.max_pool2d(F.relu(self.conv1(x)), 3, 2, 1)


class Bottleneck(nn.Module):
    """1x1, 3x3 (carries the stride), 1x1, with a projected shortcut in the first block of a stage."""

    def __init__(self, in_channels: int, width: int, out_channels: int, stride: int, project: bool):
        super().__init__()
        self.shortcut = ConvNorm(in_channels, out_channels, 1, stride) if project else None
        self.conv1 = ConvNorm(in_channels, width, 1)
        self.conv2 = ConvNorm(width, width, 3, stride)
        self.conv3 = ConvNorm(width, out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        out = self.conv3(F.relu(self.conv2(F.relu(self.conv1(x)))))
        return F.relu(out + (x if self.shortcut is None else self.shortcut(x)))


class ResNet50(nn.Module):
    """Images (B, 3, H, W) -> ``res2 .. res5`` at strides 4, 8, 16, 32.

    The public R50 model has no language fusion: the words arguments are accepted and ignored.
    """

    depths = (3, 4, 6, 3)

    def __init__(self, config: ReLAConfig):
        super().__init__()
        width = config.resnet_width
        self.stem = Stem(width)
        channels = width
        for i, (depth, out_channels) in enumerate(zip(self.depths, config.stage_dims)):
            blocks = []
            for j in range(depth):
                stride = 2 if i and j == 0 else 1
                blocks.append(Bottleneck(channels, width * 2**i, out_channels, stride, project=j == 0))
                channels = out_channels
            self.add_module(f"res{i + 2}", nn.Sequential(*blocks))

    def embed(self, images: Tensor) -> Tensor:
        """Stem and first stage (B, C, H/4, W/4), for symmetry with the Swin backbone."""
        return self.res2(self.stem(images))

    def forward(self, images, words=None, word_mask=None, *, embedded: Tensor | None = None, stages=None):
        features = [self.embed(images) if embedded is None else embedded]
        for name in ("res3", "res4", "res5"):
            features.append(getattr(self, name)(features[-1]))
        return features

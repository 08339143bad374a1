"""Swin transformer (v1) whose stages fuse language, with the tensor names of the public ReLA checkpoints.

transformers' Swin is not used: it splits the stored joint query-key-value matrix, reduces the window where the map
is smaller (the public model does not), and leaves no place for the fusion between blocks and patch merging.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .config import ReLAConfig
from .fusion import LanguageFusion


class PatchEmbed(nn.Module):
    """Images (B, 3, H, W) to 4x4 patches (B, C, H/4, W/4), layer-normalised; padded right and bottom if needed."""

    def __init__(self, dim: int, patch: int = 4):
        super().__init__()
        self.patch = patch
        self.proj = nn.Conv2d(3, dim, patch, patch)
        self.norm = nn.LayerNorm(dim)

    def forward(self, images: Tensor) -> Tensor:
        height, width = images.shape[-2:]
        x = self.proj(F.pad(images, (0, -width % self.patch, 0, -height % self.patch)))
        return self.norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class WindowAttention(nn.Module):
    """Multi-head self attention inside windows with a learned relative position bias.

    x (B*windows, window**2, C), mask (windows, window**2, window**2) or None.
    """

    def __init__(self, dim: int, heads: int, window: int):
        super().__init__()
        self.heads = heads
        self.scale = (dim // heads) ** -0.5
        self.relative_position_bias_table = nn.Parameter(torch.zeros((2 * window - 1) ** 2, heads))
        self.register_buffer("relative_position_index", relative_position_index(window))
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)
        if not self.relative_position_bias_table.is_meta:
            nn.init.trunc_normal_(self.relative_position_bias_table, std=0.02)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        b, n, c = x.shape
        q, k, v = self.qkv(x).view(b, n, 3, self.heads, c // self.heads).permute(2, 0, 3, 1, 4)
        bias = self.relative_position_bias_table[self.relative_position_index.view(-1)]
        bias = bias.view(n, n, self.heads).permute(2, 0, 1)  # (heads, n, n)
        logits = (q * self.scale) @ k.transpose(-2, -1) + bias
        if mask is not None:
            windows = mask.shape[0]
            logits = (logits.view(-1, windows, self.heads, n, n) + mask[None, :, None]).view(b, self.heads, n, n)
        out = logits.softmax(dim=-1).to(v.dtype) @ v
        return self.proj(out.transpose(1, 2).reshape(b, n, c))


class Mlp(nn.Module):
    def __init__(self, dim: int, hidden: int):
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.fc2 = nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class SwinBlock(nn.Module):
    """(Shifted-)window attention and MLP, both pre-norm and residual: (B, H, W, C) -> same shape."""

    def __init__(self, dim: int, heads: int, window: int, shift: int, drop_path: float):
        super().__init__()
        self.window, self.shift, self.drop_path = window, shift, drop_path
        self.norm1 = nn.LayerNorm(dim)
        self.attn = WindowAttention(dim, heads, window)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = Mlp(dim, 4 * dim)

    def forward(self, x: Tensor, shift_mask: Tensor | None) -> Tensor:
        x = x + self._drop(self._attend(self.norm1(x), shift_mask if self.shift else None))
        return x + self._drop(self.mlp(self.norm2(x)))

    def _attend(self, x: Tensor, mask: Tensor | None) -> Tensor:
        b, height, width, c = x.shape
        w = self.window
        # Zero padding after norm1, not masked: as in the public code.
        x = F.pad(x, (0, 0, 0, -width % w, 0, -height % w))
        if self.shift:
            x = torch.roll(x, (-self.shift, -self.shift), dims=(1, 2))
        rows, cols = x.shape[1] // w, x.shape[2] // w
        windows = x.view(b, rows, w, cols, w, c).transpose(2, 3).reshape(-1, w * w, c)
        windows = self.attn(windows, mask)
        x = windows.view(b, rows, cols, w, w, c).transpose(2, 3).reshape(b, rows * w, cols * w, c)
        if self.shift:
            x = torch.roll(x, (self.shift, self.shift), dims=(1, 2))
        return x[:, :height, :width]

    def _drop(self, x: Tensor) -> Tensor:
        """Stochastic depth, per sample."""
        if not self.training or not self.drop_path:
            return x
        keep = 1 - self.drop_path
        return x * x.new_empty(x.shape[0], 1, 1, 1).bernoulli_(keep).div_(keep)


class PatchMerging(nn.Module):
    """Halves the resolution: (B, H, W, C) -> (B, ceil(H/2), ceil(W/2), C_out)."""

    def __init__(self, dim: int, out_dim: int):
        super().__init__()
        self.norm = nn.LayerNorm(4 * dim)
        self.reduction = nn.Linear(4 * dim, out_dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = F.pad(x, (0, 0, 0, x.shape[2] % 2, 0, x.shape[1] % 2))
        parts = (x[:, 0::2, 0::2], x[:, 1::2, 0::2], x[:, 0::2, 1::2], x[:, 1::2, 1::2])
        return self.reduction(self.norm(torch.cat(parts, dim=-1)))


class SwinStage(nn.Module):
    """Blocks, language fusion, gate and patch merging of one stage."""

    def __init__(self, dim, out_dim, depth, heads, window, drop_paths, text_dim):
        super().__init__()
        self.window, self.shift = window, window // 2
        shifts = [0 if i % 2 == 0 else self.shift for i in range(depth)]
        self.blocks = nn.ModuleList(SwinBlock(dim, heads, window, s, p) for s, p in zip(shifts, drop_paths))
        self.fusion = LanguageFusion(dim, text_dim)
        self.downsample = self.res_gate = None
        if out_dim is not None:
            self.downsample = PatchMerging(dim, out_dim)
            self.res_gate = nn.Sequential(
                nn.Linear(dim, dim, bias=False), nn.ReLU(), nn.Linear(dim, dim, bias=False), nn.Tanh()
            )

    def run_blocks(self, x: Tensor) -> Tensor:
        """The part that does not depend on the expression: (B, H, W, C) -> same shape."""
        mask = None
        if len(self.blocks) > 1 and self.shift:
            mask = shifted_window_mask(x.shape[1], x.shape[2], self.window, self.shift, x.device)
        for block in self.blocks:
            x = block(x, mask)
        return x

    def fuse(self, x: Tensor, words: Tensor, word_mask: Tensor) -> tuple[Tensor, Tensor | None]:
        """Fused residual (B, H, W, C), and the input of the next stage (None after the last)."""
        batch, dim = x.shape[0], x.shape[-1]
        residual = self.fusion(x.reshape(batch, -1, dim), words, word_mask).reshape(x.shape)
        if self.downsample is None:
            return residual, None
        return residual, self.downsample(x + self.res_gate(residual) * residual)


class SwinWithLanguage(nn.Module):
    """The backbone: images (B, 3, H, W), words (B, L, N), word mask (B, 1, N) -> ``res2 .. res5``.

    Stage outputs are layer norms of the fused residuals, not of the features themselves (public code).
    """

    def __init__(self, config: ReLAConfig):
        super().__init__()
        dims, depths = config.stage_dims, config.swin_depths
        self.residual_outputs = config.residual_outputs
        self.patch_embed = PatchEmbed(dims[0])
        rates = torch.linspace(0, config.drop_path, sum(depths), device="cpu").tolist()
        self.layers = nn.ModuleList()
        for i in range(4):
            drop_paths, rates = rates[: depths[i]], rates[depths[i] :]
            out_dim = dims[i + 1] if i < 3 else None
            args = (dims[i], out_dim, depths[i], config.swin_heads[i], config.swin_windows[i], drop_paths)
            self.layers.append(SwinStage(*args, config.text_dim))
        for i, dim in enumerate(dims):
            self.add_module(f"norm{i}", nn.LayerNorm(dim))
        self.apply(_init_linear)
        for layer in self.layers[:-1]:
            # Closed gates: at the start of training the next stage sees the plain Swin features. Only the last layer
            # is zero; the public code zeroes both, and such a gate has no gradient and never opens.
            nn.init.xavier_uniform_(layer.res_gate[0].weight)
            nn.init.zeros_(layer.res_gate[2].weight)

    def embed(self, images: Tensor) -> Tensor:
        """Patch embedding and blocks of the first stage (B, H/4, W/4, C): all that expressions can share."""
        return self.layers[0].run_blocks(self.patch_embed(images).permute(0, 2, 3, 1))

    def forward(self, images, words, word_mask, *, embedded: Tensor | None = None, stages: dict | None = None):
        x = self.embed(images) if embedded is None else embedded
        features = []
        for i, layer in enumerate(self.layers):
            if i:
                x = layer.run_blocks(x)
            before = x
            residual, x = layer.fuse(x, words, word_mask)
            output = before + residual if self.residual_outputs else residual
            features.append(getattr(self, f"norm{i}")(output).permute(0, 3, 1, 2))
            if stages is not None:
                stages[f"backbone.layers.{i}.fusion_out"] = residual.flatten(1, 2)
                if x is not None:
                    stages[f"backbone.layers.{i}.downsampled_out"] = x.flatten(1, 2)
        return features


def relative_position_index(window: int) -> Tensor:
    """Row of the bias table for every pair of window positions, int64 (window**2, window**2).

    Example::

        >>> relative_position_index(2).tolist()[0]
        [4, 3, 1, 0]
    """
    axis = torch.arange(window)
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    position = torch.stack([y.flatten(), x.flatten()])
    offset = position[:, :, None] - position[:, None, :] + window - 1
    return offset[0] * (2 * window - 1) + offset[1]


def shifted_window_mask(height: int, width: int, window: int, shift: int, device) -> Tensor:
    """0 where two positions of a shifted window were neighbours before the shift, -100 elsewhere.

    Shape (windows, window**2, window**2) for a map of (height, width) padded to whole windows.
    """
    height, width = height + -height % window, width + -width % window
    region = torch.zeros(height, width, device=device)
    spans = (slice(0, -window), slice(-window, -shift), slice(-shift, None))
    for i, rows in enumerate(spans):
        for j, cols in enumerate(spans):
            region[rows, cols] = 3 * i + j
    region = region.view(height // window, window, width // window, window).transpose(1, 2)
    region = region.reshape(-1, window * window)
    return (region[:, None] != region[:, :, None]).to(region.dtype) * -100.0


def _init_linear(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)

"""Language fusion inside the Swin backbone: pixel-word attention as in LAVT (CVPR 2022), used by ReLA."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class PixelWordAttention(nn.Module):
    """One-head attention of pixels over words, normalised over positions.

    x (B, C, HW), words (B, L, N), word mask (B, 1, N) -> (B, C, HW). The instance normalisations have variance taken
    over positions; where the attended language is nearly constant they amplify rounding, so they run in float32.
    """

    def __init__(self, dim: int, text_dim: int):
        super().__init__()
        # One-element Sequentials keep the public checkpoints' names ("f_key.0.weight").
        self.f_key = nn.Sequential(nn.Conv1d(text_dim, dim, 1))
        self.f_query = nn.Sequential(nn.Conv1d(dim, dim, 1))
        self.f_value = nn.Sequential(nn.Conv1d(text_dim, dim, 1))
        self.W = nn.Sequential(nn.Conv1d(dim, dim, 1))
        self.scale = dim**-0.5

    def forward(self, x: Tensor, words: Tensor, word_mask: Tensor) -> Tensor:
        word_mask = word_mask.to(words.dtype)
        query = normalize_over_positions(self.f_query(x))
        key = self.f_key(words) * word_mask
        value = self.f_value(words) * word_mask
        logits = self.scale * (query.transpose(1, 2) @ key)  # (B, HW, N)
        logits = logits.float() + (1e4 * word_mask.float() - 1e4)
        attended = logits.softmax(dim=-1).to(value.dtype) @ value.transpose(1, 2)
        return normalize_over_positions(self.W(attended.transpose(1, 2)))


class LanguageFusion(nn.Module):
    """Residual r of one stage: x (B, HW, C), words (B, L, N), word mask (B, 1, N) -> (B, HW, C)."""

    def __init__(self, dim: int, text_dim: int):
        super().__init__()
        self.vis_project = nn.Sequential(nn.Conv1d(dim, dim, 1))
        self.image_lang_att = PixelWordAttention(dim, text_dim)
        self.project_mm = nn.Sequential(nn.Conv1d(dim, dim, 1))

    def forward(self, x: Tensor, words: Tensor, word_mask: Tensor) -> Tensor:
        x = x.transpose(1, 2)
        language = self.image_lang_att(x, words, word_mask)
        return F.gelu(self.project_mm(F.gelu(self.vis_project(x)) * language)).transpose(1, 2)


def normalize_over_positions(x: Tensor, eps: float = 1e-5) -> Tensor:
    """InstanceNorm1d without affine part over (B, C, positions), in float32; one position gives zeros.

    Written out because ``F.instance_norm`` refuses a single position in training, which an image no larger than
    the deepest stride would give.

    Example::

        >>> normalize_over_positions(torch.tensor([[[1.0, 3.0]]])).round(decimals=3).tolist()
        [[[-1.0, 1.0]]]
    """
    with torch.autocast(x.device.type, enabled=False):
        y = x.float()
        y = F.instance_norm(y, eps=eps) if y.shape[-1] > 1 else torch.zeros_like(y)
    return y.to(x.dtype)

"""The region decoder: regions attend to the image (RIA), to the words and to each other (RLA), then predict.

Names follow the public checkpoints. The prediction pass runs before the first and after every layer; only the last
pass is returned, the others give the attention masks.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .config import NUM_COUNT_CLASSES, ReLAConfig
from .deformable import reference_points, sine_position
from .pixel_decoder import NUM_LEVELS


@dataclass
class RegionOutput:
    """What the decoder predicts. R regions on a grid in row order, h x w = stride-4 map.

    Attributes:
        minimap_logits: (B, R, 2), index 1 = the region holds target
        mask_logits: (B, 2, h, w), merged mask: background, target
        region_masks: (B, R, h, w), mask logits of each region
        no_target_logits: (B, 2), index 1 = no target; None with a count head
        count_logits: (B, 7), journal only
        boxes_cxcywh: (B, R, 4), relative to the image, journal only
        features: (B, R, D), normalised region features of the last pass
        pass_minimaps, pass_embeddings: minimap logits and mask embeddings (B, R, M) of all earlier passes, for
            supervision at every depth (the public recipe supervises the last pass only)
    """

    minimap_logits: Tensor
    mask_logits: Tensor
    region_masks: Tensor
    no_target_logits: Tensor | None = None
    count_logits: Tensor | None = None
    boxes_cxcywh: Tensor | None = None
    features: Tensor | None = None
    pass_minimaps: list[Tensor] = field(default_factory=list)
    pass_embeddings: list[Tensor] = field(default_factory=list)


class Mlp(nn.Module):
    """Linear layers with ReLU between: ``dims[0] -> dims[1] -> ...``."""

    def __init__(self, *dims: int):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(dims))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers[:-1]:
            x = F.relu(layer(x))
        return self.layers[-1](x)


class Attention(nn.Module):
    """Multi-head attention with the parameters of ``nn.MultiheadAttention``, batch first.

    Plain matrix products: for a hundred queries they are as fast as the fused kernel, and on the CPU their
    backward pass is several times faster. ``blocked`` (B, Q, K) is True where a query must not look.
    """

    def __init__(self, dim: int, heads: int):
        super().__init__()
        self.heads = heads
        self.in_proj_weight = nn.Parameter(torch.empty(3 * dim, dim))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * dim))
        self.out_proj = nn.Linear(dim, dim)
        nn.init.xavier_uniform_(self.in_proj_weight)
        nn.init.xavier_uniform_(self.out_proj.weight)
        nn.init.zeros_(self.out_proj.bias)

    def forward(self, query: Tensor, key: Tensor, value: Tensor, blocked: Tensor | None = None) -> Tensor:
        dim = query.shape[-1]
        weights, biases = self.in_proj_weight.split(dim), self.in_proj_bias.split(dim)
        q, k, v = (
            F.linear(x, w, b).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for x, w, b in zip((query, key, value), weights, biases)
        )
        logits = (q * (dim // self.heads) ** -0.5) @ k.transpose(-2, -1)
        if blocked is not None:
            logits = logits.masked_fill(blocked[:, None], float("-inf"))
        return self.out_proj((logits.softmax(dim=-1).to(v.dtype) @ v).transpose(1, 2).flatten(2))


class CrossAttentionLayer(nn.Module):
    """Cross attention + residual + LayerNorm (post-norm)."""

    def __init__(self, dim: int, heads: int):
        super().__init__()
        self.multihead_attn = Attention(dim, heads)
        self.norm = nn.LayerNorm(dim)

    def forward(self, x, key, value, query_position=0.0, blocked=None) -> Tensor:
        return self.norm(x + self.multihead_attn(x + query_position, key, value, blocked))


class SelfAttentionLayer(nn.Module):
    """Self attention + residual + LayerNorm (post-norm); positions on queries and keys only."""

    def __init__(self, dim: int, heads: int):
        super().__init__()
        self.self_attn = Attention(dim, heads)
        self.norm = nn.LayerNorm(dim)

    def forward(self, x: Tensor, position: Tensor) -> Tensor:
        placed = x + position
        return self.norm(x + self.self_attn(placed, placed, x))


class FeedForwardLayer(nn.Module):
    """Two linear layers + residual + LayerNorm (post-norm)."""

    def __init__(self, dim: int, hidden: int):
        super().__init__()
        self.linear1 = nn.Linear(dim, hidden)
        self.linear2 = nn.Linear(hidden, dim)
        self.norm = nn.LayerNorm(dim)
        nn.init.xavier_uniform_(self.linear1.weight)
        nn.init.xavier_uniform_(self.linear2.weight)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x + self.linear2(F.relu(self.linear1(x))))


class RegionDecoder(nn.Module):
    """Memories at three scales, mask features and word features -> :class:`RegionOutput`.

    Journal heads (sizes deduced from the parameter counts of the paper's Table 7, the paper gives none):
    ``box_embed`` D-D-4 with sigmoid on each region feature, ``count_embed`` D-D-7 on the mean region feature
    (mean first, as the paper writes; the conference's ``nt_embed`` applies the MLP first).
    """

    def __init__(self, config: ReLAConfig):
        super().__init__()
        self.config = config
        dim, heads, n = config.hidden_dim, config.num_heads, config.decoder_layers
        self.RIA_layers = nn.ModuleList(CrossAttentionLayer(dim, heads) for _ in range(n))
        self.RLA_vision = nn.ModuleList(SelfAttentionLayer(dim, heads) for _ in range(n))
        self.transformer_ffn_layers = nn.ModuleList(FeedForwardLayer(dim, config.decoder_ffn_dim) for _ in range(n))
        self.decoder_norm = nn.LayerNorm(dim)
        self.query_feat = nn.Embedding(config.num_queries, dim)
        self.query_embed = nn.Embedding(config.num_queries, dim)
        self.level_embed = nn.Embedding(NUM_LEVELS, dim)
        if config.pixel_width != dim:
            self.input_proj = nn.ModuleList(nn.Conv2d(config.pixel_width, dim, 1) for _ in range(NUM_LEVELS))
        self.lang_proj = nn.Linear(config.text_dim, dim, bias=False)
        if config.language_layers == "first":
            self.RLA_lang_att = CrossAttentionLayer(dim, heads)
        else:
            self.RLA_lang_att = nn.ModuleList(CrossAttentionLayer(dim, heads) for _ in range(n))
        if config.language_gain is not None:
            self.lang_weight = nn.Parameter(torch.tensor(0.0))
            nn.init.zeros_(self.lang_proj.weight)
        self.minimap_embed = nn.Linear(dim, 2)
        self.mask_embed = Mlp(dim, dim, dim, config.mask_dim)
        self.nt_embed = None if config.count_head else Mlp(dim, dim, 2)
        self.count_embed = Mlp(dim, dim, NUM_COUNT_CLASSES) if config.count_head else None
        self.box_embed = Mlp(dim, dim, 4) if config.box_head else None
        if config.grid_queries:
            self._start_from_grid()

    def _start_from_grid(self) -> None:
        """Queries begin at the centres of their grid cells and attend around them."""
        dim, grid = self.config.hidden_dim, self.config.grid
        with torch.no_grad():
            code = sine_position(grid, grid, dim, self.query_embed.weight.device)
            self.query_embed.weight.copy_(code.flatten(1).T)
            self.query_feat.weight.mul_(0.1)
            self.level_embed.weight.mul_(0.1)
            for layer in self.RIA_layers:
                weight = layer.multihead_attn.in_proj_weight
                weight[dim : 2 * dim] = weight[:dim]

    def forward(self, memories, mask_features, words, stages: dict | None = None) -> RegionOutput:
        """Memories [(B, D, H, W)] * 3, mask features (B, M, h, w), words (B, N, L)."""
        if self.config.pixel_width != self.config.hidden_dim:
            memories = [proj(m) for proj, m in zip(self.input_proj, memories)]
        sizes = [tuple(m.shape[-2:]) for m in memories]
        batch, dim = memories[0].shape[:2]
        levels = [mask_features] * NUM_LEVELS
        if self.config.resize_features_first:
            levels = [_resize(mask_features.detach(), size) for size in sizes]
        keys, values = [], []
        for i, memory in enumerate(memories):
            value = (memory + self.level_embed.weight[i][:, None, None]).flatten(2).transpose(1, 2)
            code = sine_position(*sizes[i], dim, memory.device).to(memory.dtype)
            values.append(value)
            keys.append(value + code.flatten(1).T)
        words = self.lang_proj(words)
        position = self.query_embed.weight[None]
        x = self.query_feat.weight[None].expand(batch, -1, -1)
        always_open = [None] * NUM_LEVELS
        if self.config.open_radius is not None:
            always_open = [around_cells(self.config.grid, s, self.config.open_radius, x.device) for s in sizes]
        minimaps, embeddings = [], []
        for i in range(self.config.decoder_layers):
            level = i % NUM_LEVELS
            blocked, minimap, embedding = self._attention_mask(x, levels[level], sizes[level], stages, i)
            minimaps.append(minimap)
            embeddings.append(embedding)
            if always_open[level] is not None:
                blocked = blocked & ~always_open[level]
            x = self.RIA_layers[i](x, keys[level], values[level], position, blocked)
            if stages is not None:
                stages[f"decoder.layer{i}.ria_out"] = x
            x = self._language_step(x, words, i, stages)
            x = self.RLA_vision[i](x, position)
            if stages is not None:
                stages[f"decoder.layer{i}.rla_vision_out"] = x
            x = self.transformer_ffn_layers[i](x)
        output = self._predict(x, mask_features)
        output.pass_minimaps, output.pass_embeddings = minimaps, embeddings
        if stages is not None:
            n = self.config.decoder_layers
            self._record_pass(stages, n, x, self.decoder_norm(x), output.minimap_logits)
            size = sizes[n % NUM_LEVELS]
            stages[f"decoder.pass{n}.attn_mask_blocked"] = block_background(output.region_masks, size)
        return output

    def _language_step(self, x: Tensor, words: Tensor, i: int, stages: dict | None) -> Tensor:
        every = self.config.language_layers == "all"
        if i and not every:
            return x
        # No padding mask over the words: as in the public code.
        attended = (self.RLA_lang_att[i] if every else self.RLA_lang_att)(x, words, words)
        if stages is not None:
            stages[f"decoder.layer{i}.rla_lang_att_out"] = attended
        if self.config.language_gain is None:
            return attended
        return x + self.config.language_gain * self.lang_weight.sigmoid() * attended

    def _attention_mask(self, x, mask_features, size, stages, i) -> tuple[Tensor, Tensor, Tensor]:
        """What each region may not look at (B, R, HW), rows blocked everywhere opened; minimap and embedding."""
        normed = self.decoder_norm(x)
        embedding = self.mask_embed(normed)
        with torch.no_grad():
            blocked = block_background(region_masks(embedding, mask_features), size)
        minimap = self.minimap_embed(normed)
        if stages is not None:
            self._record_pass(stages, i, x, normed, minimap)
            stages[f"decoder.pass{i}.attn_mask_blocked"] = blocked
        return blocked & ~blocked.all(dim=-1, keepdim=True), minimap, embedding

    def _predict(self, x: Tensor, mask_features: Tensor) -> RegionOutput:
        normed = self.decoder_norm(x)
        embedding = self.mask_embed(normed)  # (B, R, M)
        minimap = self.minimap_embed(normed)
        # Raw logits, not probabilities, weight the regions (public code).
        target = minimap.transpose(1, 2) @ embedding / self.config.target_scale  # (B, 2, M)
        return RegionOutput(
            minimap_logits=minimap,
            mask_logits=region_masks(target, mask_features),
            region_masks=region_masks(embedding, mask_features),
            no_target_logits=self._no_target(normed),
            count_logits=None if self.count_embed is None else self.count_embed(normed.mean(dim=1)),
            boxes_cxcywh=None if self.box_embed is None else self._boxes(normed),
            features=normed,
        )

    def _no_target(self, normed: Tensor) -> Tensor | None:
        return None if self.nt_embed is None else self.nt_embed(normed).mean(dim=1)

    def _boxes(self, normed: Tensor) -> Tensor:
        raw = self.box_embed(normed).float()
        if self.config.box_from_grid:
            centres = (torch.arange(self.config.grid, device=raw.device, dtype=raw.dtype) + 0.5) / self.config.grid
            y, x = torch.meshgrid(centres, centres, indexing="ij")
            offset = torch.stack([x.flatten(), y.flatten()], dim=-1).logit()
            raw = torch.cat([raw[..., :2] + offset, raw[..., 2:]], dim=-1)
        return raw.sigmoid()

    def _record_pass(self, stages: dict, i: int, x: Tensor, normed: Tensor, minimap: Tensor) -> None:
        stages[f"decoder.pass{i}.queries"] = x
        stages[f"decoder.pass{i}.minimap_logits"] = minimap
        no_target = self._no_target(normed)
        if no_target is not None:
            stages[f"decoder.pass{i}.nt_logits"] = no_target


def region_masks(embedding: Tensor, mask_features: Tensor) -> Tensor:
    """Mask logits (B, R, h, w) of embeddings (B, R, M) on mask features (B, M, h, w)."""
    return (embedding @ mask_features.flatten(2)).unflatten(2, mask_features.shape[-2:])


def block_background(masks: Tensor, size: tuple[int, int]) -> Tensor:
    """True (B, R, HW) where the mask logit, resized bilinearly to ``size``, is below 0 (probability below one half)."""
    masks = masks.detach()
    return (masks if tuple(masks.shape[-2:]) == tuple(size) else _resize(masks.float(), size)).flatten(2) < 0


def around_cells(grid: int, size: tuple[int, int], radius: float, device) -> Tensor:
    """True (grid**2, HW) where a pixel's centre is within ``radius`` of the cell's centre in both directions.

    Example::

        >>> around_cells(2, (2, 2), 0.25, "cpu").int().tolist()
        [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]
    """
    cells = reference_points([(grid, grid)], device)
    pixels = reference_points([size], device)
    return ((cells[:, None] - pixels[None]).abs() <= radius).all(dim=-1)


def _resize(x: Tensor, size: tuple[int, int]) -> Tensor:
    return F.interpolate(x, size=size, mode="bilinear", align_corners=False)

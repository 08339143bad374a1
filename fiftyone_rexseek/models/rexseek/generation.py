"""Greedy decoding of many questions at once, with the part of the prompt that they share computed once.

Rows are (image, expression) pairs. The prompts of one image differ only after "Please detect": what comes before (the
image's tokens and the boxes: more than nine tenths of the sequence) is run once per image, its keys and values are
copied to every row, and all rows then advance together.

Layout of the cache: prefixes are padded at the right to the longest one, the remaining prompts at the left, so
that every query sees at least the first token of its prefix (no fully masked row) and the last column is every
row's last token. Padding is masked and positions count real tokens, so a row's numbers do not depend on the others.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor
from transformers.cache_utils import Cache, DynamicLayer

from fiftyone_rexseek.errors import ConfigError

from .modeling import RexSeekForSelection


class _ReservedLayer(DynamicLayer):
    """A cache layer that grows by doubling instead of copying everything at every token."""

    length = 0

    def update(self, key_states: Tensor, value_states: Tensor, *args, **kwargs) -> tuple[Tensor, Tensor]:
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
            self._keys, self._values = key_states[:, :, :0], value_states[:, :, :0]
        new = self.length + key_states.shape[-2]
        if new > self._keys.shape[-2]:
            room = max(32, new // 8)
            self._keys, self._values = (self._grown(t, new + room) for t in (self._keys, self._values))
        self._keys[:, :, self.length : new] = key_states
        self._values[:, :, self.length : new] = value_states
        self.length = new
        self.keys, self.values = self._keys[:, :, :new], self._values[:, :, :new]
        return self.keys, self.values

    def _grown(self, old: Tensor, size: int) -> Tensor:
        grown = old.new_empty(*old.shape[:2], size, old.shape[3])
        grown[:, :, : self.length] = old[:, :, : self.length]
        return grown

    def selected(self, rows: Tensor, room: int) -> _ReservedLayer:
        """A copy that holds the given rows, with ``room`` free places at the end."""
        layer = _ReservedLayer()
        layer.lazy_initialization(self.keys, self.values)
        layer.length = self.length
        for name in ("_keys", "_values"):
            old = getattr(self, name)
            new = old.new_empty(len(rows), old.shape[1], self.length + room, old.shape[3])
            new[:, :, : self.length] = old[:, :, : self.length].index_select(0, rows)
            setattr(layer, name, new)
        layer.keys, layer.values = layer._keys[:, :, : self.length], layer._values[:, :, : self.length]
        return layer


@dataclass
class Prefix:
    """Keys and values of the shared prompts of several images.

    Attributes:
        cache: one row per image, padded at the right
        lengths: real tokens of each row
    """

    cache: Cache
    lengths: list[int]


@dataclass
class Decoded:
    """What was generated for one row.

    Attributes:
        ids: new tokens, including the end token
        watched: float32 (steps, watched tokens) logits of the watched tokens before each new token
        finished: whether an end token was reached within the limit
    """

    ids: list[int] = field(default_factory=list)
    watched: list[np.ndarray] = field(default_factory=list)
    finished: bool = False


class GreedyPolicy:
    """Picks the most probable token, exactly as transformers' greedy search does.

    Args:
        eos_ids: tokens that end a row
        repetition_penalty: divides the positive and multiplies the negative logits of the tokens that the row has
            generated so far; tokens of the prompt are not affected, because the public code passes embeddings only
    """

    def __init__(self, eos_ids: Sequence[int], repetition_penalty: float = 1.0):
        if not isinstance(repetition_penalty, int | float) or not repetition_penalty > 0:
            raise ConfigError(
                "bad repetition_penalty", expected="a positive number", found=repetition_penalty
            )
        self.eos_ids = frozenset(eos_ids)
        self.repetition_penalty = repetition_penalty

    def choose(
        self, rows: Sequence[int], decoded: Sequence[Decoded], logits: Tensor, watched: np.ndarray
    ) -> list[int]:
        """Next token of each of the active ``rows``; ``logits`` (active rows, vocab) may be overwritten."""
        if self.repetition_penalty != 1.0 and decoded[rows[0]].ids:
            seen = torch.tensor([decoded[r].ids for r in rows], device=logits.device)
            scores = logits.gather(1, seen)
            penalty = self.repetition_penalty
            scores = torch.where(scores < 0, scores * penalty, scores / penalty)
            logits = logits.scatter(1, seen, scores)
        return logits.argmax(dim=-1).tolist()

    def is_finished(self, row: int, token: int) -> bool:
        """Whether ``token``, just chosen for ``row``, was its last one."""
        return token in self.eos_ids


def _cache_argument(language: torch.nn.Module, cache: Cache) -> dict[str, Cache]:
    """The cache under the name that the installed transformers has for it: ``cache`` since 5.24."""
    renamed = "cache" in inspect.signature(type(language).forward).parameters
    return {"cache" if renamed else "past_key_values": cache}


def prefill(model: RexSeekForSelection, embeds: Sequence[Tensor]) -> Prefix:
    """Runs the language model over prefixes (L_i, hidden_size), padded at the right."""
    lengths = [len(e) for e in embeds]
    batch = torch.nn.utils.rnn.pad_sequence(list(embeds), batch_first=True)
    mask = _mask_unless_full([[1] * n + [0] * (batch.shape[1] - n) for n in lengths], batch.device)
    cache = Cache(layers=[_ReservedLayer() for _ in range(model.model.config.num_hidden_layers)])
    model.model(inputs_embeds=batch, attention_mask=mask, use_cache=True, **_cache_argument(model.model, cache))
    return Prefix(cache, lengths)


def _mask_unless_full(rows: list[list[int]], device: torch.device) -> Tensor | None:
    # Without a mask the attention kernels take their causal fast path.
    return None if all(all(row) for row in rows) else torch.tensor(rows, device=device)


def decode(
    model: RexSeekForSelection,
    prefix: Prefix,
    owners: Sequence[int],
    suffixes: Sequence[Sequence[int]],
    policy: GreedyPolicy,
    max_new_tokens: int,
    watch: Sequence[int] = (),
) -> list[Decoded]:
    """Generates for many rows together.

    Args:
        prefix: shared prompts
        owners: for each row, which row of ``prefix`` it continues
        suffixes: for each row, the token ids that follow its prefix (at least one, all of the vocabulary)
        policy: picks tokens
        max_new_tokens: most tokens generated per row
        watch: tokens whose logits are recorded at every step

    Returns:
        one :class:`Decoded` per row
    """
    device = model.device
    width, longest = prefix.cache.get_seq_length(), max(len(s) for s in suffixes)
    starts = [prefix.lengths[owner] for owner in owners]
    pads = [longest - len(s) for s in suffixes]
    mask_rows = [
        [1] * n + [0] * (width - n + p) + [1] * (longest - p) for n, p in zip(starts, pads, strict=True)
    ]
    mask = _mask_unless_full(mask_rows, device)
    tokens = torch.tensor([[0] * p + list(s) for p, s in zip(pads, suffixes, strict=True)], device=device)
    offsets = torch.arange(longest, device=device)[None] - torch.tensor(pads, device=device)[:, None]
    positions = torch.tensor(starts, device=device)[:, None] + offsets.clamp(min=0)
    room = longest + min(max_new_tokens, 64)
    cache = _select_rows(prefix.cache, list(owners), room, device)
    watch_ids = torch.tensor(list(watch), device=device, dtype=torch.long)

    decoded = [Decoded() for _ in owners]
    batch = list(range(len(decoded)))  # the rows that are in the cache, in its order
    for step in range(max_new_tokens):
        hidden = model.model(
            input_ids=tokens,
            attention_mask=mask,
            position_ids=positions,
            use_cache=True,
            **_cache_argument(model.model, cache),
        ).last_hidden_state
        places = [k for k, row in enumerate(batch) if not decoded[row].finished]
        logits = model.logits(hidden[places, -1]).float()
        watched = logits[:, watch_ids].cpu().numpy()
        rows = [batch[k] for k in places]
        chosen = policy.choose(rows, decoded, logits, watched)
        for row, token, seen in zip(rows, chosen, watched, strict=True):
            decoded[row].ids.append(token)
            decoded[row].watched.append(seen)
            decoded[row].finished = policy.is_finished(row, token)
        places = [k for k, row in enumerate(batch) if not decoded[row].finished]
        if not places or step + 1 == max_new_tokens:
            break
        positions = positions[:, -1:] + 1
        if mask is not None:
            mask = torch.cat([mask, mask.new_ones(len(mask), 1)], dim=1)
        if 2 * len(places) <= len(batch):
            # Rows that are done cost as much as the others: leave them behind once they are the majority.
            cache = _select_rows(cache, places, 32, device)
            positions, mask = positions[places], None if mask is None else mask[places]
            batch = [batch[k] for k in places]
        tokens = torch.tensor([[decoded[row].ids[-1]] for row in batch], device=device)
    return decoded


def _select_rows(cache: Cache, rows: list[int], room: int, device: torch.device) -> Cache:
    index = torch.tensor(rows, device=device)
    return Cache(layers=[layer.selected(index, room) for layer in cache.layers])

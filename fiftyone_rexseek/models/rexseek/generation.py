"""Greedy decoding of many questions at once, with the part of the prompt that they share computed once.

Rows are (image, expression) pairs. The prompts of one image differ only after "Please detect": what comes before (the
image's tokens and the boxes: more than nine tenths of the sequence) is run once per image, its keys and values are
copied to every row, and all rows then advance together.

Layout of the cache: prefixes are padded at the right to the longest one, the remaining prompts at the left, so
that every query sees at least the first token of its prefix (no fully masked row) and the last column is every
row's last token. Padding is masked and positions count real tokens, so a row's numbers do not depend on the others.

A step for one more token is a thousand small operations, which take a GPU less time than it takes Python to ask for
them. On CUDA a step is therefore recorded as a graph, which is replayed until the rows or the cache change.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass, field
from threading import Lock

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers.cache_utils import Cache, DynamicLayer

from fiftyone_rexseek.errors import ConfigError

from .modeling import RexSeekForSelection


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
    """Runs the language model over prefixes (L_i, hidden_size), padded at the right.

    No token sees what comes after it, so padding at the right needs no mask, and without one the attention kernels take
    their causal fast path.
    """
    batch = torch.nn.utils.rnn.pad_sequence(list(embeds), batch_first=True)
    cache = Cache(layers=[DynamicLayer() for _ in range(model.model.config.num_hidden_layers)])
    model.model(inputs_embeds=batch, use_cache=True, **_cache_argument(model.model, cache))
    return Prefix(cache, [len(e) for e in embeds])


def rows_that_fit(model: RexSeekForSelection, prefix: Prefix) -> int:
    """How many rows to decode together: as many as half of a GPU's free memory holds, elsewhere 128."""
    if model.device.type != "cuda":
        return 128
    layer = prefix.cache.layers[0]
    values = 2 * len(prefix.cache.layers) * layer.keys[0].numel()
    free = torch.cuda.mem_get_info(model.device)[0]
    free += torch.cuda.memory_reserved(model.device) - torch.cuda.memory_allocated(model.device)
    # a row needs less for what follows the prefix than for the prefix
    return max(1, free // 2 // (2 * values * layer.keys.element_size()))


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
    rows = _Rows.begin(model, prefix, owners, suffixes, min(max_new_tokens, _ROOM))
    watch_ids = torch.tensor(list(watch), dtype=torch.long).to(model.device, non_blocking=True)
    decoded = [Decoded() for _ in owners]
    # the rows that are computed, and where among them those are that go on
    batch = places = list(range(len(decoded)))
    for step in range(max_new_tokens):
        logits = model.logits(rows.hidden if len(places) == len(batch) else rows.hidden[places]).float()
        watched = logits[:, watch_ids].cpu().numpy()
        going = [batch[k] for k in places]
        chosen = policy.choose(going, decoded, logits, watched)
        for row, token, seen in zip(going, chosen, watched, strict=True):
            decoded[row].ids.append(token)
            decoded[row].watched.append(seen)
            decoded[row].finished = policy.is_finished(row, token)
        places = [k for k, row in enumerate(batch) if not decoded[row].finished]
        if not places or step + 1 == max_new_tokens:
            break
        if 2 * len(places) <= len(batch) or rows.is_full:
            # Rows that are done cost as much as the others: leave them behind once they are the majority.
            rows, batch = rows.selected(places), [batch[k] for k in places]
            places = list(range(len(batch)))
        rows.advance([decoded[row].ids[-1] for row in batch])
    return decoded


# Free places that a cache gets at once, and what its size is a multiple of, as fused attention wants it.
_ROOM, _MULTIPLE = 64, 16
# The newest graph of each stream, None after steps that were not recorded. The next graph takes over its memory, which
# otherwise would stay reserved: graphs of one stream run one after another, and nothing in that memory outlives a run.
_newest: dict[torch.cuda.Stream, torch.cuda.CUDAGraph | None] = {}
_recording = Lock()


def _rounded_up(n: int) -> int:
    return -(-n // _MULTIPLE) * _MULTIPLE


@dataclass
class _Span:
    """Where in the cache the next tokens go (a tensor of places), and how many places attention looks at."""

    places: Tensor
    shown: int


class _RowLayer(DynamicLayer):
    """One layer's keys and values of the rows, with free places for the tokens to come."""

    def __init__(self, layer: DynamicLayer, rows: Tensor, length: int, size: int, span: _Span):
        super().__init__()
        self.lazy_initialization(layer.keys, layer.values)
        self.keys, self.values = (
            # zeros in the free places, because what is masked has to be finite all the same
            F.pad(old[:, :, :length].index_select(0, rows), (0, 0, 0, size - length))
            for old in (layer.keys, layer.values)
        )
        self.span = span

    def update(self, key_states: Tensor, value_states: Tensor, *args, **kwargs) -> tuple[Tensor, Tensor]:
        self.keys.index_copy_(2, self.span.places, key_states)
        self.values.index_copy_(2, self.span.places, value_states)
        return self.keys[:, :, : self.span.shown], self.values[:, :, : self.span.shown]


class _Rows:
    """The rows that are computed together: their cache, and the step that takes each of them one token further.

    Args:
        model: the network
        layers: the cache that the rows begin with
        rows: for each row, which row of ``layers`` it begins with
        length: how many places of ``layers`` are taken
        room: how many tokens can be added
        seen: bool (rows, n), which of the first n places a row sees; it sees none of the others yet
        positions: (rows, 1), the position of each row's last token

    Attributes:
        hidden: (rows, hidden_size), the last hidden states of the rows' last tokens
    """

    hidden: Tensor

    def __init__(
        self,
        model: RexSeekForSelection,
        layers: Sequence[DynamicLayer],
        rows: Tensor,
        length: int,
        room: int,
        seen: Tensor,
        positions: Tensor,
    ):
        self.model, self.length, self.size = model, length, _rounded_up(length + room)
        self.seen = F.pad(seen, (0, self.size - seen.shape[1]))
        self.positions, self.tokens = positions, torch.zeros_like(positions)
        self.span = _Span(torch.full((1,), length, device=model.device), self.size)
        layers = [_RowLayer(layer, rows, length, self.size, self.span) for layer in layers]
        self.cache = Cache(layers=layers)
        self.graph: torch.cuda.CUDAGraph | None = None

    @classmethod
    def begin(
        cls,
        model: RexSeekForSelection,
        prefix: Prefix,
        owners: Sequence[int],
        suffixes: Sequence[Sequence[int]],
        room: int,
    ) -> _Rows:
        """Rows that have read their suffixes."""
        device, width, longest = model.device, prefix.cache.get_seq_length(), max(map(len, suffixes))
        starts = torch.tensor([prefix.lengths[owner] for owner in owners])[:, None]
        pads = torch.tensor([longest - len(s) for s in suffixes])[:, None]
        tokens = torch.tensor([[0] * (longest - len(s)) + list(s) for s in suffixes])
        order, columns = torch.arange(longest), torch.arange(_rounded_up(width + longest))
        positions = starts + (order - pads).clamp(min=0)
        seen = torch.cat([columns[:width] < starts, order >= pads], dim=1)
        not_later = columns <= width + order[:, None]
        # without waiting for what the GPU was asked before: it is still busy with the prefix
        index, tokens, positions, seen, not_later, places = (
            t.to(device, non_blocking=True)
            for t in (torch.tensor(list(owners)), tokens, positions, seen, not_later, width + order)
        )
        rows = cls(model, prefix.cache.layers, index, width, longest + room, seen, positions[:, -1:].clone())
        rows.span.places, rows.span.shown = places, len(columns)
        # a copy, because what it is a part of is large
        rows.hidden = rows._read(tokens, positions, rows.seen[:, None, None, : len(columns)] & not_later).clone()
        rows.length += longest
        rows.span.places, rows.span.shown = rows.span.places[-1:] + 1, rows.size
        if room > 1 and rows._can_record():
            rows._record()
        return rows

    @property
    def is_full(self) -> bool:
        return self.length == self.size

    def selected(self, places: list[int]) -> _Rows:
        """A copy that holds some of the rows, with free places."""
        index = torch.tensor(places, device=self.model.device)
        seen, positions = self.seen[index, : self.length], self.positions[index]
        rows = _Rows(self.model, self.cache.layers, index, self.length, _ROOM, seen, positions)
        rows.hidden = self.hidden[index]
        return rows

    def advance(self, tokens: list[int]) -> None:
        """Reads one more token per row."""
        self.tokens.copy_(torch.tensor(tokens)[:, None])
        self.length += 1
        if self.graph is None and self._can_record():
            self._record()
        if self.graph is not None:
            self.graph.replay()
            return
        if self.model.device.type == "cuda":
            _newest.setdefault(torch.cuda.current_stream(self.model.device), None)
        else:
            self.span.shown = self.length
        self.hidden = self._step()

    def _can_record(self) -> bool:
        """Whether there are graphs here. The first step is not recorded: in it the libraries set themselves up."""
        device = self.model.device
        return device.type == "cuda" and torch.cuda.current_stream(device) in _newest

    def _record(self) -> None:
        device = self.model.device
        caller, stream = torch.cuda.current_stream(device), torch.cuda.Stream(device)
        self.graph = torch.cuda.CUDAGraph()
        stream.wait_stream(caller)
        # other threads may use the GPU meanwhile, but not record in the same memory
        with _recording, torch.cuda.stream(stream):
            memory = _newest[caller].pool() if _newest[caller] is not None else None
            self.graph.capture_begin(memory, capture_error_mode="thread_local")
            try:
                self.hidden.copy_(self._step())
            finally:
                self.graph.capture_end()
            _newest[caller] = self.graph
        caller.wait_stream(stream)

    def _step(self) -> Tensor:
        """The next token of every row, in operations that are the same for each step."""
        self.positions += 1
        self.seen.index_fill_(1, self.span.places, True)
        hidden = self._read(self.tokens, self.positions, self.seen[:, None, None, : self.span.shown])
        self.span.places += 1
        return hidden

    def _read(self, tokens: Tensor, positions: Tensor, mask: Tensor) -> Tensor:
        output = self.model.model(
            input_ids=tokens,
            attention_mask=mask,
            position_ids=positions,
            use_cache=True,
            **_cache_argument(self.model.model, self.cache),
        )
        return output.last_hidden_state[:, -1]

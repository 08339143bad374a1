"""Decoding that follows the grammar of answers and can only name boxes that exist."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from .confidence import WatchedTokens
from .generation import Decoded, GreedyPolicy
from .processing import RexSeekProcessor


@dataclass
class _RowState:
    num_boxes: int
    expects: str = "start"  # start, ground, objects, list, end
    rejected: bool = False
    ground_tokens: int = 0
    named: list[int] = field(default_factory=list)
    named_in_group: int = 0


class ConstrainedPolicy(GreedyPolicy):
    """Greedy choice among the tokens that the grammar allows.

    The grammar is ``(<ground> text </ground> <objects> object+ </objects>)+ end``; the first list may be empty, which
    means that nothing matches, and so does a first token that begins the rejection sentence. Every object exists and
    is named once; the ground text holds no special token and at most ``max_ground_tokens``. A new group is only
    opened while an unnamed box and enough of ``max_new_tokens`` are left, so that no answer is cut off.

    A row that rejects goes on as if it had not, because that is what gives every candidate a score; the answer's
    outcome is ``rejected`` all the same (see :meth:`rejected`).

    Args:
        processor: token ids
        watched: the watched tokens, in the order of ``decode(watch=...)``
        num_boxes: for each row, how many boxes its image has
        eos_ids: tokens that end an answer
        vocabulary_size: rows of the output layer
        max_new_tokens: length that must suffice
        max_ground_tokens: most tokens of one ground text
    """

    def __init__(
        self,
        processor: RexSeekProcessor,
        watched: WatchedTokens,
        num_boxes: Sequence[int],
        eos_ids: Sequence[int],
        vocabulary_size: int,
        max_new_tokens: int = 512,
        max_ground_tokens: int = 48,
    ):
        super().__init__(eos_ids)
        self.processor = processor
        self.watched = watched
        self.states = [_RowState(n) for n in num_boxes]
        self.max_new_tokens = max_new_tokens
        self.max_ground_tokens = max_ground_tokens
        self.eos_id = next(iter(eos_ids))
        forbidden = (processor.control_ids - {processor.end_ground_id}) | set(eos_ids)
        forbidden |= set(range(len(processor.tokenizer), vocabulary_size))
        self._forbidden = torch.tensor(sorted(i for i in forbidden if i < vocabulary_size), dtype=torch.long)

    @property
    def steps(self) -> int:
        """How many tokens :func:`decode` must allow so that every answer is complete."""
        most = max((s.num_boxes for s in self.states), default=0)
        return max(self.max_new_tokens, most + self.max_ground_tokens + 5)

    def rejected(self, row: int) -> bool:
        """Whether the model's own first choice was to reject (an empty list rejects as well, and reads so)."""
        return self.states[row].rejected

    def choose(
        self, rows: Sequence[int], decoded: Sequence[Decoded], logits: Tensor, watched: np.ndarray
    ) -> list[int]:
        text = logits.index_fill(1, self._forbidden.to(logits.device), -torch.inf).argmax(dim=-1).tolist()
        return [
            self._next(self.states[row], watched[k], text[k], len(decoded[row].ids))
            for k, row in enumerate(rows)
        ]

    def _next(self, state: _RowState, watched: np.ndarray, text_token: int, length: int) -> int:
        processor, columns = self.processor, self.watched
        if state.expects == "start":
            state.rejected = bool(watched[columns.rejection] > watched[columns.ground])
            state.expects = "ground"
            return processor.ground_id
        if state.expects == "ground":
            state.ground_tokens += 1
            if text_token != processor.end_ground_id and state.ground_tokens <= self.max_ground_tokens:
                return text_token
            state.expects = "objects"
            return processor.end_ground_id
        if state.expects == "objects":
            state.expects, state.named_in_group = "list", 0
            return processor.objects_id
        if state.expects == "list":
            allowed = [i for i in range(state.num_boxes) if i not in state.named]
            best = max(allowed, key=lambda i: watched[i], default=None)
            first_of_later_group = state.named and not state.named_in_group
            close = watched[columns.end_objects]
            if not state.named:  # some models write the rejection sentence in the place of the objects
                close = max(close, watched[columns.rejection])
            if best is not None and (first_of_later_group or watched[best] > close):
                state.named.append(best)
                state.named_in_group += 1
                return processor.object_ids[best]
            state.expects = "end"
            return processor.end_objects_id
        left = state.num_boxes - len(state.named)
        enough = length + self.max_ground_tokens + left + 5 <= self.steps
        if state.named and left and enough and watched[columns.ground] > watched[columns.eos].max():
            state.expects, state.ground_tokens = "ground", 0
            return processor.ground_id
        return self.eos_id

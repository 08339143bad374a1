"""What RexSeek learns: the answer by teacher forcing, and for small models some auxiliary tasks.

:class:`RexSeekObjective` is a module around the network whose ``forward(batch, progress)`` gives the loss, so that the
loop (and accelerate's wrapper) sees one call. The auxiliary heads exist only during training.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..models.rexseek import RexSeekForSelection
from .packing import (
    DECISION,
    IGNORED,
    OBJECTS,
    WORDING,
    PackedBatch,
    embed_prefixes,
    masked_hidden,
    norm,
    rotate,
    split_hidden,
)


@dataclass(frozen=True)
class ObjectiveConfig:
    """Weights of the loss terms; 0 switches a term off.

    Attributes:
        decision: first token of the answer: group or rejection
        wording: the echoed expression and the tags
        objects: the object list and its end
        rejection: how much more a list that says "nobody" counts than one token of another list
        attributes: classes of every object from its feature (needs attributes in the batch)
        match: which boxes are meant, from the hidden states of question and boxes after ``match_layer``
        pointer: the next box of the list, or its end, after ``pointer_layer``
        identity: every box's own number, after ``identity_layer`` and ``pointer_layer``
        attend: the first head of the layer after ``pointer_layer`` looks at the next box of the list, so that the
            network itself, not only its heads, learns to turn a box that fits into that box's token
        decide: the second head of the layer after ``match_layer`` looks, from the question's end, at the boxes meant, or
            at the first token when there are none
        fast: use :func:`split_hidden` instead of the model's own forward pass
        dtype: of the fast pass, "float32" or "bfloat16"
        compile: run the fast pass through ``torch.compile`` (needs a C++ compiler; the first batches take minutes)
    """

    decision: float = 0.5
    wording: float = 0.1
    objects: float = 1.0
    rejection: float = 1.0
    attributes: float = 0.0
    match: float = 0.0
    pointer: float = 0.0
    identity: float = 0.0
    attend: float = 0.0
    decide: float = 0.0
    match_layer: int = 4
    pointer_layer: int = 5
    identity_layer: int = 2
    fast: bool = False
    dtype: str = "float32"
    compile: bool = False


#: Terms for training a small model from nothing on drawn scenes.
FROM_SCRATCH = ObjectiveConfig(
    decision=0.2, objects=1.5, rejection=1.5, attributes=4.0, match=0.5, pointer=0.5, identity=0.1, attend=0.5, decide=0.2, fast=True,
    dtype="bfloat16",
)


class RexSeekObjective(nn.Module):
    """The network with its loss.

    Args:
        model: what is trained
        config: weights
        attributes: name -> number of classes, for the attribute heads

    ``forward`` returns (loss, {name: value}). Accuracies among the values: ``decision_acc`` over questions,
    ``objects_acc`` over tokens of object lists.
    """

    def __init__(
        self,
        model: RexSeekForSelection,
        config: ObjectiveConfig | None = None,
        attributes: Mapping[str, int] | None = None,
    ):
        super().__init__()
        self.model = model
        self.config = config or ObjectiveConfig()
        self._fast = torch.compile(split_hidden, dynamic=False) if self.config.compile else split_hidden
        width = model.config.hidden_size
        self.classes = list((attributes or {}).values())
        if self.classes and self.config.attributes:
            self.attribute_head = nn.Linear(width, sum(self.classes))
            # what others look like counts less than what the object itself looks like
            about_others = [name.startswith(("left_", "right_", "partner_")) for name in attributes]
            self.attribute_weights = torch.tensor([0.25 if other else 1.0 for other in about_others])
        if self.config.match:
            self.match_query, self.match_key = nn.Linear(width, width), nn.Linear(width, width)
            self.match_bias = nn.Parameter(torch.tensor(-1.0))
        if self.config.pointer:
            self.pointer_query, self.pointer_key = nn.Linear(width, width), nn.Linear(width, width)
            self.pointer_stop = nn.Parameter(torch.zeros(width))
        if self.config.identity:
            self.identity_head = nn.Linear(width, model.config.num_object_tokens)

    def forward(self, batch: PackedBatch, progress: float = 0.0) -> tuple[Tensor, dict[str, Tensor]]:
        model, config = self.model, self.config
        image_tokens, features = model.encode_image(batch.pixels, batch.pixels_small)
        objects = self.encode_boxes(features, batch)
        terms, values = {}, {}
        if config.attributes and batch.attributes is not None:
            terms["attributes"] = self.attribute_loss(objects, batch)
        rows = objects.split([len(b) for b in batch.boxes])
        prefix, lengths = embed_prefixes(model, batch, image_tokens, rows)
        suffix = model.model.embed_tokens(batch.ids).to(prefix.dtype)
        layers = self._layers()
        if config.fast:
            hidden = self._fast(model.model, prefix, lengths, suffix, layers, getattr(torch, config.dtype))
        else:
            hidden = masked_hidden(model.model, prefix, lengths, suffix, layers)
        self._answer_terms(hidden.suffix, batch, terms, values)
        self._object_terms(hidden.layers, batch, terms)
        if config.attend:
            terms["attend"] = self._attend_loss(hidden.layers[config.pointer_layer], lengths, batch)
        if config.decide:
            terms["decide"] = self._decide_loss(hidden.layers[config.match_layer], lengths, batch)
        loss = sum(getattr(config, name) * term for name, term in terms.items())
        values.update({name: term.detach() for name, term in terms.items()})
        return loss, values

    def encode_boxes(self, features, batch: PackedBatch) -> Tensor:
        """Object tokens of all boxes (sum of n_b, D)."""
        return self.model.encode_boxes(features, batch.boxes)

    def _layers(self) -> tuple[int, ...]:
        config = self.config
        wanted = {
            config.match_layer: config.match or config.decide,
            config.pointer_layer: config.pointer or config.attend,
            config.identity_layer: config.identity,
        }
        return tuple(sorted(n for n, weight in wanted.items() if weight))

    def attribute_loss(self, objects: Tensor, batch: PackedBatch) -> Tensor:
        """Mean cross-entropy of all known attributes of all boxes; ``objects`` (sum of n_b, D)."""
        return self.attribute_losses(self.attribute_head(objects), batch.attributes[batch.has_box])

    def attribute_losses(self, logits: Tensor, target: Tensor) -> Tensor:
        """Weighted mean cross-entropy of (n, all classes) against (n, attributes); -1 is unknown."""
        parts = logits.float().split(self.classes, -1)
        losses = torch.stack(
            [F.cross_entropy(part, target[:, i], ignore_index=-1, reduction="sum") for i, part in enumerate(parts)]
        )
        weights = self.attribute_weights.to(losses)
        known = ((target >= 0).sum(0) * weights).sum()
        return (losses * weights).sum() / known.clamp(min=1)

    def _answer_terms(self, suffix: Tensor, batch: PackedBatch, terms: dict, values: dict) -> None:
        chosen = batch.labels != IGNORED
        logits = self.model.logits(suffix[chosen].to(self.model.lm_head.weight.dtype)).float()
        labels, kinds = batch.labels[chosen], batch.kinds[chosen]
        losses = F.cross_entropy(logits, labels, reduction="none")
        right = logits.argmax(-1) == labels
        nobody = (~batch.matches.any(-1))[..., None].expand_as(batch.labels)[chosen]
        weights = torch.where(nobody, self.config.rejection, 1.0)
        for name, kind in (("decision", DECISION), ("wording", WORDING), ("objects", OBJECTS)):
            of_kind = kinds == kind
            counted = of_kind * weights if kind == OBJECTS else of_kind.float()
            terms[name] = (losses * counted).sum() / counted.sum().clamp(min=1)
            if kind != WORDING:
                values[f"{name}_acc"] = (right & of_kind).sum() / of_kind.sum().clamp(min=1)
        rejecting = (kinds == OBJECTS) & nobody
        values["rejecting_acc"] = (right & rejecting).sum() / rejecting.sum().clamp(min=1)

    def _object_terms(self, layers: dict[int, tuple[Tensor, Tensor]], batch: PackedBatch, terms: dict) -> None:
        config = self.config
        width, model_type = self.model.config.hidden_size, self.model.dtype

        def at_hand(hidden: Tensor) -> Tensor:
            # the fast pass runs in its own type; under autocast the heads take care of that
            return hidden if torch.is_autocast_enabled(hidden.device.type) else hidden.to(model_type)

        def of_objects(layer: int) -> Tensor:
            prefix = at_hand(layers[layer][0])
            return prefix.gather(1, batch.object_positions[..., None].expand(-1, -1, width))

        if config.match:
            asking = at_hand(layers[config.match_layer][1]).gather(2, batch.ask_positions[..., None, None].expand(-1, -1, 1, width))
            scores = self.match_query(asking[:, :, 0]) @ self.match_key(of_objects(config.match_layer)).mT
            scores = scores.float() * width**-0.5 + self.match_bias
            losses = F.binary_cross_entropy_with_logits(scores, batch.matches.float(), reduction="none")
            counted = batch.asked[..., None] & batch.has_box[:, None]
            terms["match"] = (losses * counted).sum() / counted.sum().clamp(min=1)
        if config.pointer:
            keys = self.pointer_key(of_objects(config.pointer_layer))
            query = self.pointer_query(at_hand(layers[config.pointer_layer][1]))
            b, k, s, _ = query.shape
            scores = (query.reshape(b, k * s, width) @ keys.mT).reshape(b, k, s, -1)
            scores = scores.masked_fill(~batch.has_box[:, None, None], torch.finfo(scores.dtype).min)
            scores = torch.cat([scores, (query @ self.pointer_stop.to(query.dtype))[..., None]], -1).float() * width**-0.5
            chosen = (batch.kinds == OBJECTS) & (batch.labels != IGNORED)
            terms["pointer"] = F.cross_entropy(scores[chosen], self._pointer_targets(batch)[chosen])
        if config.identity:
            numbers = torch.arange(batch.has_box.shape[1], device=batch.ids.device).expand(len(batch.boxes), -1)
            losses = [
                F.cross_entropy(self.identity_head(of_objects(n)).float()[batch.has_box], numbers[batch.has_box])
                for n in {config.identity_layer, config.pointer_layer} & set(layers)
            ]
            terms["identity"] = torch.stack(losses).mean()

    def _head_scores(self, layer: int, head: int, prefix: Tensor, states: Tensor, at: Tensor, lengths: Tensor) -> Tensor:
        """What one head of the network makes of the prefix: attention scores (B, Q, P) before the softmax.

        Args:
            layer: which one, counted from 0
            prefix: (B, P, D) hidden states that enter it
            states: (B, Q, D) the same of the asking tokens
            at: (B, Q) their positions
        """
        language = self.model.model
        module = language.layers[layer]
        heads, groups = language.config.num_attention_heads, language.config.num_key_value_heads
        width = prefix.shape[-1] // heads
        p = prefix.shape[1]

        def turned(x: Tensor, projection: nn.Linear, head: int, positions: Tensor) -> Tensor:
            x = norm(module.input_layernorm, x)
            rows = slice(head * width, (head + 1) * width)
            part = F.linear(x, projection.weight[rows].to(x.dtype), projection.bias[rows].to(x.dtype))
            cos, sin = (t.to(part.dtype) for t in language.rotary_emb(part.float(), positions))
            return rotate(part, cos, sin)

        places = torch.arange(p, device=prefix.device)
        query = turned(states, module.self_attn.q_proj, head, at)
        key = turned(prefix, module.self_attn.k_proj, head * groups // heads, places.expand(len(prefix), p))
        scores = (query @ key.mT).float() * width**-0.5
        return scores.masked_fill(places >= lengths[:, None, None], -1e4)

    def _attend_loss(self, hidden: tuple[Tensor, Tensor], lengths: Tensor, batch: PackedBatch) -> Tensor:
        """Cross-entropy of one head's attention, from the places before objects, over the prefix."""
        prefix, suffix = hidden
        b, k, s, d = suffix.shape
        n = batch.has_box.shape[1]
        target = self._pointer_targets(batch)
        chosen = ((batch.kinds == OBJECTS) & (batch.labels != IGNORED) & (target < n)).reshape(b, k * s)
        where = batch.object_positions.gather(1, target.clamp(max=n - 1).reshape(b, k * s))
        at = lengths[:, None] + torch.arange(s, device=suffix.device).repeat(k)
        scores = self._head_scores(self.config.pointer_layer, 0, prefix, suffix.reshape(b, k * s, d), at, lengths)
        return F.cross_entropy(scores[chosen], where[chosen])

    def _decide_loss(self, hidden: tuple[Tensor, Tensor], lengths: Tensor, batch: PackedBatch) -> Tensor:
        """Minus log of one head's attention, from the question's end, on the boxes meant; on the first token if none is."""
        prefix, suffix = hidden
        d = suffix.shape[-1]
        asking = suffix.gather(2, batch.ask_positions[..., None, None].expand(-1, -1, 1, d))[:, :, 0]
        at = lengths[:, None] + batch.ask_positions
        scores = self._head_scores(self.config.match_layer, 1, prefix, asking, at, lengths).log_softmax(-1)
        n = batch.has_box.shape[1]
        meant = scores.gather(2, batch.object_positions[:, None].expand(-1, scores.shape[1], n))
        meant = meant.masked_fill(~batch.matches, -1e4).logsumexp(-1)
        loss = -torch.where(batch.matches.any(-1), meant, scores[..., 0])
        return loss[batch.asked].mean()

    def _pointer_targets(self, batch: PackedBatch) -> Tensor:
        """For every label in an object list: the index of the box, or the number of boxes for the list's end."""
        n = batch.has_box.shape[1]
        ordinal = ((batch.kinds == OBJECTS) & (batch.labels != IGNORED)).cumsum(2) - 1  # place within the list
        count = batch.matches.sum(-1, keepdim=True)
        # indices of the boxes meant first, ascending
        order = torch.argsort(batch.matches.int(), dim=-1, descending=True, stable=True)
        target = order.gather(2, ordinal.clamp(0, n - 1))
        return torch.where(ordinal < count, target, n)

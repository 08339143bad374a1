"""Many expressions of an image behind one shared prefix: batches, and the forward pass that makes use of it.

The prompt's first part (image, boxes) is the same for all expressions of an image, so it is computed once. Every
expression with its answer is a *suffix* that sees the prefix and itself, at positions that go on where the prefix
ends: exactly the numbers that separate sequences would give.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
import torch.nn.functional as F
from torch import Tensor

from ..models.rexseek import IMAGE_MARK, OBJECT_MARK, RexSeekForSelection, RexSeekProcessor
from .vocabulary import is_word_tokenizer

IGNORED = -100
#: What a predicted token decides: whether anybody matches, the wording, which objects.
DECISION, WORDING, OBJECTS = 0, 1, 2


@dataclass(frozen=True)
class AskedImage:
    """One image made ready: what the model sees of it and what it is asked.

    Attributes:
        pixels: the two tensors of ``RexSeekProcessor.pixels``
        boxes: (n, 4) in pixels of the model's square image
        suffixes: one per expression, see :func:`suffix_of`
        attributes: (n, number of attributes) classes for auxiliary heads, -1 = unknown; or None
    """

    pixels: tuple[Tensor, Tensor]
    boxes: Tensor
    suffixes: Sequence[Suffix]
    attributes: Tensor | None = None


@dataclass(frozen=True)
class Suffix:
    """Token ids of one question (after the boxes) and its answer.

    Attributes:
        ids: question and answer, without the end token
        labels: for each id, the token that must follow, or ``IGNORED``
        kinds: for each label, ``DECISION``, ``WORDING`` or ``OBJECTS``
        question_length: how many ids belong to the question
        targets: indices of the boxes meant, ascending
    """

    ids: list[int]
    labels: list[int]
    kinds: list[int]
    question_length: int
    targets: tuple[int, ...]


def question_ids(processor: RexSeekProcessor, expressions: Sequence[str]) -> list[list[int]]:
    """Ids of the prompt after the boxes, one list per expression; the wording is the model's own template."""
    texts = [processor.neutralised(e.strip()) for e in expressions]
    whole = processor.token_ids_of_expressions(1, texts)
    return [ids[ids.index(OBJECT_MARK) + 1 :] for ids in whole]


def prefix_ids(processor: RexSeekProcessor, num_boxes: int) -> list[int]:
    """Ids of the prompt up to the last box, with marks."""
    ids = processor.token_ids_of_expressions(num_boxes, ["x"])[0]
    return ids[: len(ids) - ids[::-1].index(OBJECT_MARK)]


def suffix_of(
    processor: RexSeekProcessor,
    question: Sequence[int],
    wording: Sequence[int],
    targets: Sequence[int],
    end_id: int,
    reject_in_list: bool | None = None,
) -> Suffix:
    """Question and answer as a :class:`Suffix`.

    The answer is ``<ground>wording</ground><objects><obj..>...</objects>`` with ascending objects. Where there is no
    target it is the rejection sentence, alone or in the place of the objects, and then the end token.

    Args:
        reject_in_list: put the sentence into the object list. The decision that nobody matches is then taken after the
            expression was repeated, by what also decides that the list is complete: small models learn that much
            sooner. Every reader of answers takes both for a rejection. By default for models with one token per word.
    """
    targets = tuple(sorted(targets))
    if reject_in_list is None:
        reject_in_list = is_word_tokenizer(processor.tokenizer)
    if targets or reject_in_list:
        objects = [processor.object_ids[t] for t in targets] or list(processor.rejection_ids)
        answer = [processor.ground_id, *wording, processor.end_ground_id, processor.objects_id, *objects]
        answer += [processor.end_objects_id, end_id]
        kinds = [DECISION] + [WORDING] * (len(wording) + 2)
        kinds += [OBJECTS] * (len(objects) + 1) if targets else [OBJECTS] + [WORDING] * len(objects)
        kinds += [WORDING]
    else:
        answer = [*processor.rejection_ids, end_id]
        kinds = [DECISION] + [WORDING] * (len(answer) - 1)
    question = list(question)
    before = len(question) - 1
    return Suffix(
        ids=question + answer[:-1],
        labels=[IGNORED] * before + answer,
        kinds=[WORDING] * before + kinds,
        question_length=len(question),
        targets=targets,
    )


@dataclass
class PackedBatch:
    """Tensors of B images with K expressions each (see :func:`collate`); N boxes and S suffix ids at most.

    Attributes:
        pixels, pixels_small: (B, 3, side, side)
        boxes: B tensors (n_b, 4)
        prefixes: B tensors of ids with marks
        object_positions: (B, N) place of every box's feature in the spliced prefix; 0 where there is no box
        has_box: (B, N)
        ids, labels, kinds: (B, K, S)
        asked: (B, K) False for filled-up rows
        ask_positions: (B, K) last id of the question
        matches: (B, K, N) whether a box is meant
        attributes: (B, N, A) int64, or None
    """

    pixels: Tensor
    pixels_small: Tensor
    boxes: list[Tensor]
    prefixes: list[Tensor]
    object_positions: Tensor
    has_box: Tensor
    ids: Tensor
    labels: Tensor
    kinds: Tensor
    asked: Tensor
    ask_positions: Tensor
    matches: Tensor
    attributes: Tensor | None

    def to(self, device) -> PackedBatch:
        """A copy on a device."""
        moved = {}
        for f in fields(self):
            value = getattr(self, f.name)
            if isinstance(value, list):
                value = [v.to(device) for v in value]
            moved[f.name] = value.to(device) if isinstance(value, Tensor) else value
        return PackedBatch(**moved)


def collate(
    processor: RexSeekProcessor, images: Sequence[AskedImage], at_least: tuple[int, int, int] = (0, 0, 0)
) -> PackedBatch:
    """Pads and stacks images that were made ready.

    Args:
        at_least: K, N and S to pad to, so that few different shapes occur (for compiled models)
    """
    grid_tokens = processor.config.grid**2
    b, k = len(images), max(at_least[0], *(len(i.suffixes) for i in images))
    n = max(at_least[1], *(len(i.boxes) for i in images))
    s = max(at_least[2], *(len(x.ids) for i in images for x in i.suffixes))
    ids = torch.zeros(b, k, s, dtype=torch.long)
    labels = torch.full((b, k, s), IGNORED)
    kinds = torch.zeros(b, k, s, dtype=torch.long)
    asked, has_box = torch.zeros(b, k, dtype=torch.bool), torch.zeros(b, n, dtype=torch.bool)
    ask_positions, object_positions = torch.zeros(b, k, dtype=torch.long), torch.zeros(b, n, dtype=torch.long)
    matches = torch.zeros(b, k, n, dtype=torch.bool)
    attributes = None
    if images[0].attributes is not None:
        attributes = torch.full((b, n, images[0].attributes.shape[1]), -1, dtype=torch.long)
    prefixes = []
    for row, image in enumerate(images):
        count = len(image.boxes)
        prefix = torch.tensor(prefix_ids(processor, count))
        at = (prefix == OBJECT_MARK).nonzero()[:, 0]
        object_positions[row, :count] = at + (grid_tokens - 1) * (at > (prefix == IMAGE_MARK).nonzero()[0, 0])
        has_box[row, :count] = True
        prefixes.append(prefix)
        if attributes is not None:
            attributes[row, :count] = image.attributes
        for j, suffix in enumerate(image.suffixes):
            length = len(suffix.ids)
            ids[row, j, :length] = torch.tensor(suffix.ids)
            labels[row, j, :length] = torch.tensor(suffix.labels)
            kinds[row, j, :length] = torch.tensor(suffix.kinds)
            asked[row, j] = True
            ask_positions[row, j] = suffix.question_length - 1
            matches[row, j, list(suffix.targets)] = True
    return PackedBatch(
        torch.stack([i.pixels[0] for i in images]),
        torch.stack([i.pixels[1] for i in images]),
        [i.boxes for i in images],
        prefixes, object_positions, has_box, ids, labels, kinds, asked, ask_positions, matches, attributes,
    )  # fmt: skip


@dataclass
class Hidden:
    """Hidden states of a packed batch.

    Attributes:
        prefix: (B, P, D), suffix: (B, K, S, D): of the last layer, normalised
        layers: the same two after layer l for l in the layers asked for, before any norm
    """

    prefix: Tensor
    suffix: Tensor
    layers: dict[int, tuple[Tensor, Tensor]]


def embed_prefixes(
    model: RexSeekForSelection, batch: PackedBatch, image_tokens: Tensor, object_tokens: Sequence[Tensor]
) -> tuple[Tensor, Tensor]:
    """Prefix embeddings (B, P, D), padded at the right to what N boxes need, and their lengths (B,)."""
    rows = [model.splice(p, i, o) for p, i, o in zip(batch.prefixes, image_tokens, object_tokens, strict=True)]
    lengths = torch.tensor([len(r) for r in rows], device=rows[0].device)
    padded = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
    # two places per box, as in the row with the most boxes
    most = max(len(b) for b in batch.boxes)
    room = 2 * (batch.has_box.shape[1] - most)
    return F.pad(padded, (0, 0, 0, room)) if room else padded, lengths


def masked_hidden(language, prefix: Tensor, lengths: Tensor, suffix: Tensor, layers: Sequence[int] = ()) -> Hidden:
    """The packed pass as one sequence per image under a 4-D mask: works for any model, adapters and checkpointing.

    Args:
        language: ``Qwen2Model``, possibly wrapped
        prefix: (B, P, D), padded at the right
        lengths: (B,)
        suffix: (B, K, S, D)
        layers: which layers' outputs to return as well (counted from 1)
    """
    b, p, d = prefix.shape
    k, s = suffix.shape[1:3]
    device = prefix.device
    allowed = torch.zeros(b, p + k * s, p + k * s, dtype=torch.bool, device=device)
    allowed[:, :p, :p] = torch.ones(p, p, dtype=torch.bool, device=device).tril()
    allowed[:, p:, :p] = (torch.arange(p, device=device) < lengths[:, None])[:, None]
    block = torch.block_diag(*[torch.ones(s, s, device=device).tril()] * k).bool()
    allowed[:, p:, p:] = block
    x = torch.cat([prefix, suffix.reshape(b, k * s, d)], 1)
    mask = torch.zeros(b, 1, p + k * s, p + k * s, dtype=x.dtype, device=device)
    mask.masked_fill_(~allowed[:, None], torch.finfo(x.dtype).min)
    positions = torch.cat(
        [torch.arange(p, device=device).expand(b, p), lengths[:, None] + torch.arange(s, device=device).repeat(k)], 1
    )
    out = language(
        inputs_embeds=x, attention_mask=mask, position_ids=positions, use_cache=False, output_hidden_states=bool(layers)
    )
    cut = lambda h: (h[:, :p], h[:, p:].reshape(b, k, s, d))  # noqa: E731
    return Hidden(*cut(out.last_hidden_state), {n: cut(out.hidden_states[n]) for n in layers})


def split_hidden(
    language, prefix: Tensor, lengths: Tensor, suffix: Tensor, layers: Sequence[int] = (), dtype: torch.dtype | None = None
) -> Hidden:
    """:func:`masked_hidden` for small unwrapped models without computing what the mask would throw away.

    Attention among suffixes is never formed, so the work grows with K instead of K squared, and the arithmetic runs
    in one type throughout.

    Args:
        language: ``transformers.Qwen2Model``
        dtype: of weights and activations, such as bfloat16; by default the embeddings'
    """
    dtype = dtype or prefix.dtype
    b, p, d = prefix.shape
    k, s = suffix.shape[1:3]
    config = language.config
    heads, groups = config.num_attention_heads, config.num_key_value_heads
    width = d // heads
    device = prefix.device
    positions = torch.cat(
        [torch.arange(p, device=device).expand(b, p), lengths[:, None] + torch.arange(s, device=device).repeat(k)], 1
    )
    with torch.autocast(prefix.device.type, enabled=False):
        x = torch.cat([prefix, suffix.reshape(b, k * s, d)], 1).to(dtype)
        cos, sin = (t.to(dtype)[:, :, None] for t in language.rotary_emb(prefix.float(), positions))
        hide_prefix = ~torch.ones(p, p, dtype=torch.bool, device=device).tril()
        hide_pad = (torch.arange(p, device=device) >= lengths[:, None])[:, None, None]
        hide_later = ~torch.ones(s, s, dtype=torch.bool, device=device).tril()
        low = torch.finfo(dtype).min
        kept = {}
        for number, layer in enumerate(language.layers, 1):
            a = layer.self_attn
            h = norm(layer.input_layernorm, x)
            weight = torch.cat([a.q_proj.weight, a.k_proj.weight, a.v_proj.weight]).to(dtype)
            bias = torch.cat([a.q_proj.bias, a.k_proj.bias, a.v_proj.bias]).to(dtype)
            qkv = F.linear(h, weight, bias).view(b, p + k * s, heads + 2 * groups, width)
            qk = rotate(qkv[:, :, : heads + groups], cos, sin)
            query, key, value = qk[:, :, :heads] * width**-0.5, qk[:, :, heads:], qkv[:, :, heads + groups :]
            if groups != heads:
                key, value = (t.repeat_interleave(heads // groups, 2) for t in (key, value))
            key_p, value_p = key[:, :p].transpose(1, 2), value[:, :p].transpose(1, 2)
            scores = (query[:, :p].transpose(1, 2) @ key_p.mT).masked_fill(hide_prefix, low)
            out_p = scores.softmax(-1) @ value_p
            to_prefix = (query[:, p:].transpose(1, 2) @ key_p.mT).masked_fill(hide_pad, low)  # (B, heads, K S, P)
            own_q, own_k, own_v = (
                t[:, p:].reshape(b, k, s, heads, width).permute(0, 3, 1, 2, 4) for t in (query, key, value)
            )
            to_own = (own_q @ own_k.mT).masked_fill(hide_later, low).reshape(b, heads, k * s, s)
            weights = torch.cat([to_prefix, to_own], -1).softmax(-1)
            own = (weights[..., p:].reshape(b, heads, k, s, s) @ own_v).reshape(b, heads, k * s, width)
            out = torch.cat([out_p, weights[..., :p] @ value_p + own], 2).transpose(1, 2).reshape(b, p + k * s, d)
            x = x + F.linear(out, a.o_proj.weight.to(dtype))
            h = norm(layer.post_attention_layernorm, x)
            gate, up = F.linear(h, torch.cat([layer.mlp.gate_proj.weight, layer.mlp.up_proj.weight]).to(dtype)).chunk(2, -1)
            x = x + F.linear(F.silu(gate) * up, layer.mlp.down_proj.weight.to(dtype))
            if number in layers:
                kept[number] = (x[:, :p], x[:, p:].reshape(b, k, s, d))
        x = norm(language.norm, x)
    return Hidden(x[:, :p], x[:, p:].reshape(b, k, s, d), kept)


def norm(layer, x: Tensor) -> Tensor:
    """Qwen2's RMS norm, in the type of ``x``."""
    return F.rms_norm(x, x.shape[-1:], layer.weight.to(x.dtype), layer.eps)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary position code of the last dimension."""
    first, second = x.chunk(2, -1)
    return x * cos + torch.cat([-second, first], -1) * sin

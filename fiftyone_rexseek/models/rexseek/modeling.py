"""The network: encoders, projectors, language model, and the splicing of image and object tokens into text."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from fiftyone_rexseek.errors import DataError

from .boxes import encode_boxes
from .config import RexSeekConfig
from .vision import CLIPTower, ConvNeXt

#: Marks among token ids: the place of the image's tokens and of one box's token.
IMAGE_MARK, OBJECT_MARK = -200, -300


def _projector(in_features: int, out_features: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(in_features, out_features), nn.GELU(), nn.Linear(out_features, out_features)
    )


def _with_fused_norms(language: nn.Module) -> nn.Module:
    """The language model with PyTorch's RMS norm, one operation in the place of seven."""
    for module in list(language.modules()):
        for name, norm in module.named_children():
            if hasattr(norm, "variance_epsilon"):
                setattr(module, name, nn.RMSNorm(norm.weight.shape, eps=norm.variance_epsilon))
    return language


class RexSeekForSelection(nn.Module):
    """RexSeek's network with the parameter names of the public checkpoint. Pieces can be called one by one.

    Sizes come from the configuration and weights are random until loaded. All methods are differentiable: no
    gradient is switched off here.

    Example (shapes of a small model)::

        >>> config = RexSeekConfig(
        ...     text=dict(hidden_size=32, intermediate_size=48, num_hidden_layers=1, num_attention_heads=2,
        ...               num_key_value_heads=1, vocab_size=20),
        ...     clip=dict(hidden_size=16, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2,
        ...               image_size=28),
        ...     convnext_dims=(4, 4, 8, 8), convnext_depths=(1, 1, 1, 1), image_size=64)
        >>> model = RexSeekForSelection(config)
        >>> tokens, features = model.encode_image(torch.zeros(1, 3, 64, 64), torch.zeros(1, 3, 28, 28))
        >>> objects = model.encode_boxes(features, [torch.tensor([[1.0, 2.0, 30.0, 40.0]])])
        >>> embeds = model.splice(torch.tensor([1, IMAGE_MARK, 2, OBJECT_MARK, 3]), tokens[0], objects)
        >>> tokens.shape, objects.shape, embeds.shape
        (torch.Size([1, 4, 32]), torch.Size([1, 32]), torch.Size([8, 32]))
    """

    def __init__(self, config: RexSeekConfig):
        super().__init__()
        from transformers import Qwen2Model

        self.config = config
        text = config.text_config()
        self.model = _with_fused_norms(Qwen2Model(text))
        self.lm_head = nn.Linear(text.hidden_size, text.vocab_size, bias=False)
        self.vision_tower = CLIPTower(config)
        self.vision_tower_aux = ConvNeXt(config)
        self.mm_projector = _projector(config.image_width, config.hidden_size)
        self.mm_object_projector = _projector(config.object_width, config.hidden_size)
        nn.init.normal_(self.lm_head.weight, std=text.initializer_range)
        if text.tie_word_embeddings:
            self.tie_weights()

    def tie_weights(self) -> None:
        """Makes the output layer share the input embeddings' tensor."""
        self.lm_head.weight = self.model.embed_tokens.weight

    @property
    def device(self) -> torch.device:
        return self.lm_head.weight.device

    @property
    def dtype(self) -> torch.dtype:
        return self.lm_head.weight.dtype

    def encode_image(self, pixel_values_768: Tensor, pixel_values_336: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Image tokens for the language model, and ConvNeXt's maps for :meth:`encode_boxes`.

        Args:
            pixel_values_768: (B, 3, S, S) normalised pixels, S = ``config.image_size``
            pixel_values_336: (B, 3, s, s) the same image for CLIP, s = ``config.clip_image_size``

        Returns:
            (B, grid², hidden_size) and four maps (B, C_i, S / 2^(i+2), S / 2^(i+2))
        """
        features = self.vision_tower_aux(pixel_values_768)
        clip = self.vision_tower(pixel_values_336.to(features[-1].dtype))
        convnext = features[-1].flatten(2).transpose(1, 2)
        return self.mm_projector(torch.cat([clip, convnext], dim=-1)), features

    def encode_boxes(self, features: Sequence[Tensor], boxes: Sequence[Tensor]) -> Tensor:
        """Object tokens of all images' boxes, one after the other: (sum of n_b, hidden_size).

        Args:
            features: second output of :meth:`encode_image`
            boxes: one tensor (n_b, 4) per image, ``xyxy`` in pixels of the square image; not modified
        """
        return self.mm_object_projector(
            encode_boxes(self.config, features, boxes).to(self.mm_object_projector[0].weight.dtype)
        )

    def splice(self, input_ids: Tensor, image_tokens: Tensor | None, object_tokens: Tensor | None) -> Tensor:
        """Embeddings (L', hidden_size) of one row of token ids, with the marks replaced.

        ``IMAGE_MARK`` becomes all rows of ``image_tokens`` (N, hidden_size); the k-th ``OBJECT_MARK`` becomes row k
        of ``object_tokens`` (n, hidden_size). Either may be None when the ids hold no such mark. The ids may be on the
        CPU, where looking for marks does not wait for the GPU.

        Raises:
            DataError: when there are more object marks than object tokens
        """
        is_text = input_ids >= 0
        embeds = self.model.embed_tokens(input_ids.clamp(min=0).to(self.device, non_blocking=True))
        objects = (input_ids == OBJECT_MARK).nonzero()[:, 0]
        if len(objects):
            given = 0 if object_tokens is None else len(object_tokens)
            if len(objects) > given:
                raise DataError(
                    "the text has more <objfeat> marks than there are boxes",
                    expected=given,
                    found=len(objects),
                )
            objects = objects.to(embeds.device, non_blocking=True)
            embeds = embeds.index_copy(0, objects, object_tokens[: len(objects)].to(embeds.dtype))
        images = (input_ids == IMAGE_MARK).nonzero()[:, 0].tolist()
        if not is_text.all() and image_tokens is None and images:
            raise DataError("the text has an <image> mark and no image was given")
        pieces, start = [], 0
        for position in images:
            pieces += [embeds[start:position], image_tokens.to(embeds.dtype)]
            start = position + 1
        return torch.cat([*pieces, embeds[start:]])

    def logits(self, hidden_states: Tensor) -> Tensor:
        """Vocabulary scores (..., vocab) of the language model's last hidden states (..., hidden_size)."""
        return self.lm_head(hidden_states)

    def forward(
        self,
        input_ids: Tensor,
        pixel_values_768: Tensor,
        pixel_values_336: Tensor,
        boxes: Sequence[Tensor],
        attention_mask: Tensor | None = None,
    ) -> Tensor:
        """Logits (B, L + grid² - 1, vocab) of a batch whose rows have one image mark each.

        Args:
            input_ids: (B, L) with marks, padded at the right by any token id
            boxes: one tensor (n_b, 4) per row
            attention_mask: (B, L), 1 for real entries of ``input_ids``; needed when rows are padded
        """
        image_tokens, features = self.encode_image(pixel_values_768, pixel_values_336)
        object_tokens = self.encode_boxes(features, boxes).split([len(b) for b in boxes])
        embeds = torch.stack(
            [self.splice(i, t, o) for i, t, o in zip(input_ids, image_tokens, object_tokens, strict=True)]
        )
        if attention_mask is not None:
            # The image's tokens stand before any padding, so their mask can be put in front.
            grown = attention_mask.new_ones(len(embeds), embeds.shape[1] - attention_mask.shape[1])
            attention_mask = torch.cat([grown, attention_mask], dim=1)
        hidden = self.model(
            inputs_embeds=embeds, attention_mask=attention_mask, use_cache=False
        ).last_hidden_state
        return self.logits(hidden)

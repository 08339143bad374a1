"""The network: text encoder, backbone, pixel decoder and region decoder put together."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .config import PIXEL_MEAN, PIXEL_STD, ReLAConfig
from .decoder import RegionDecoder, RegionOutput
from .pixel_decoder import PixelDecoder
from .resnet import ResNet50
from .swin import SwinWithLanguage
from .text import build_text_encoder, encode_text

#: Images are padded to a multiple of the deepest stride.
SIZE_DIVISOR = 32


class SegmentationHead(nn.Module):
    """Pixel decoder and region decoder, under the public names."""

    def __init__(self, config: ReLAConfig):
        super().__init__()
        self.pixel_decoder = PixelDecoder(config)
        self.predictor = RegionDecoder(config)

    def forward(self, features: list[Tensor], words: Tensor, stages: dict | None = None) -> RegionOutput:
        mask_features, memories = self.pixel_decoder(features, stages)
        if stages is not None:
            stages["pixel_decoder.mask_features"] = mask_features
            stages.update({f"pixel_decoder.multi_scale.{i}": m for i, m in enumerate(memories)})
        return self.predictor(memories, mask_features, words, stages)


class ReLANetwork(nn.Module):
    """ReLA (GRES, CVPR 2023; GREx, arXiv 2601.05244) from pixels and token ids to region predictions.

    Example (tiny random network)::

        >>> config = ReLAConfig.from_variant("tiny", image_size=64)
        >>> network = ReLANetwork(config).eval()
        >>> images = [torch.zeros(3, 64, 64, dtype=torch.uint8)]
        >>> with torch.no_grad():
        ...     out = network(images, torch.ones(1, 20, dtype=torch.long), torch.ones(1, 20, dtype=torch.long))
        >>> tuple(out.mask_logits.shape), tuple(out.count_logits.shape)
        ((1, 2, 16, 16), (1, 7))
    """

    def __init__(self, config: ReLAConfig):
        super().__init__()
        self.config = config
        self.text_encoder = build_text_encoder(config)
        self.backbone = SwinWithLanguage(config) if config.backbone == "swin" else ResNet50(config)
        self.sem_seg_head = SegmentationHead(config)

    def normalize(self, images: list[Tensor] | Tensor) -> Tensor:
        """RGB images 0..255, (3, H, W) each, to one batch (B, 3, H', W').

        Zero-padded right and bottom, after normalisation, to the largest size and a multiple of 32.
        """
        weight = self.sem_seg_head.predictor.query_feat.weight
        # No buffers: casting the network to half precision would round the constants too.
        mean = torch.tensor(PIXEL_MEAN, device=weight.device).view(3, 1, 1)
        std = torch.tensor(PIXEL_STD, device=weight.device).view(3, 1, 1)
        normed = [((image.to(weight.device).float() - mean) / std).to(weight.dtype) for image in images]
        height = max(image.shape[-2] for image in normed)
        width = max(image.shape[-1] for image in normed)
        height, width = height + -height % SIZE_DIVISOR, width + -width % SIZE_DIVISOR
        return torch.stack([F.pad(i, (0, width - i.shape[-1], 0, height - i.shape[-2])) for i in normed])

    def forward(
        self,
        images: list[Tensor] | Tensor,
        token_ids: Tensor,
        attention_mask: Tensor,
        *,
        image_index: Tensor | None = None,
        stages: dict | None = None,
    ) -> RegionOutput:
        """Predicts for B expressions.

        Args:
            images: RGB 0..255, one (3, H, W) per expression, or per distinct image when ``image_index`` is given
            token_ids, attention_mask: (B, N), 1 = real token
            image_index: (B,) the image of each expression: patch embedding and first stage then run once per
                image. Later stages depend on the expression and cannot be shared.
            stages: a dictionary to be filled with intermediate arrays, for inspection
        """
        batch = self.normalize(images)
        words = encode_text(self.text_encoder, token_ids, attention_mask)
        embedded = self.backbone.embed(batch)
        if image_index is not None:
            embedded = embedded[image_index]
        features = self.backbone(
            None, words.transpose(1, 2), attention_mask[:, None], embedded=embedded, stages=stages
        )
        if stages is not None:
            stages.update({"image_normalized_padded": batch, "lang_feat": words})
            stages.update({f"backbone.res{i + 2}": f for i, f in enumerate(features)})
        output = self.sem_seg_head(features, words, stages)
        if stages is not None:
            stages.update({"out.pred_logits": output.minimap_logits, "out.pred_masks": output.mask_logits})
            stages.update({"out.all_masks": output.region_masks})
            if output.no_target_logits is not None:
                stages["out.nt_label"] = output.no_target_logits
        return output

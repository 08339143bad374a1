"""ReLA: generalized referring expression segmentation, masks, boxes and a count from region attention."""

from .config import ReLAConfig
from .modeling import ReLANetwork
from .segmenter import ReLA, SegmentRequest
from .weights import convert_checkpoint

__all__ = ["ReLA", "ReLAConfig", "ReLANetwork", "SegmentRequest", "convert_checkpoint"]

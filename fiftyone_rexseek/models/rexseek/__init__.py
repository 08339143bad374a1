"""RexSeek: a multimodal language model that selects, among given boxes, those that an expression refers to.

Source: IDEA-Research/RexSeek ("Referring to Any Person", 2025). :class:`RexSeek` is what most people need;
:class:`RexSeekForSelection` is the bare network.
"""

from .answers import parse_answer, parse_demo, parse_evaluation
from .config import RexSeekConfig
from .modeling import IMAGE_MARK, OBJECT_MARK, RexSeekForSelection
from .processing import QUESTION, RexSeekProcessor
from .requests import SelectRequest
from .selector import RexSeek
from .weights import HUB_ID_3B, LICENCE

__all__ = [
    "HUB_ID_3B",
    "IMAGE_MARK",
    "LICENCE",
    "OBJECT_MARK",
    "QUESTION",
    "RexSeek",
    "RexSeekConfig",
    "RexSeekForSelection",
    "RexSeekProcessor",
    "SelectRequest",
    "parse_answer",
    "parse_demo",
    "parse_evaluation",
]

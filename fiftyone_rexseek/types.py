"""Dataset types for ``fo.Dataset.from_dir`` and ``dataset.export``."""

from .integration.dataset_types import HumanRefDataset
from .integration.grefcoco import GRefCOCODataset, RefCOCODataset, RefCOCOgDataset, RefCOCOPlusDataset

__all__ = ["GRefCOCODataset", "HumanRefDataset", "RefCOCODataset", "RefCOCOPlusDataset", "RefCOCOgDataset"]

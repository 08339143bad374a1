"""Dataset types for ``fo.Dataset.from_dir`` and ``dataset.export``."""

from .integration.dataset_types import HumanRefDataset

__all__ = ["HumanRefDataset"]

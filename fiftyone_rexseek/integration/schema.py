"""Declaring many fields of a dataset at the price of one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import fiftyone as fo
import fiftyone.core.odm as foo


def add_sample_fields(dataset: fo.Dataset, fields: Mapping[str, Mapping[str, Any]]) -> None:
    """``dataset.add_sample_field(name, **options)`` for many fields; those that exist stay as they are.

    FiftyOne reads the dataset's whole document twice and writes it once for every field that it adds, which takes longer the
    more fields there are: adding a run's twenty fields one by one took more time than scoring. Its own way of adding
    several together, used for dynamic fields, does it once.

    Args:
        dataset: gets the fields
        fields: name, or path of an attribute such as ``"ground_truth.detections.mine"``, to the keyword arguments of
            ``add_sample_field`` (``ftype`` at least); an attribute's label field may be among them

    Raises:
        ValueError: a field exists and is of another type; those before it may have been added
    """
    nested = {path for path in fields if any(path.startswith(f"{other}.") for other in fields)}
    for paths in ([p for p in fields if p not in nested], [p for p in fields if p in nested]):
        schema = {path: foo.create_field(path.rsplit(".", 1)[-1], **fields[path]) for path in paths}
        if schema:
            dataset._merge_sample_field_schema(schema)

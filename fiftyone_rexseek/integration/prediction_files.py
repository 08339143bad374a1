"""Prediction files of every benchmark: which format a file has, and the way in and out of a field."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from fiftyone.core.collections import SampleCollection

from ..errors import ConfigError
from .grefcoco_predictions import TASKS, export_grefcoco_predictions, import_grefcoco_predictions
from .predictions import PredictionReport, export_predictions, import_predictions

HUMANREF = "humanref"
#: Formats with what they hold.
FORMATS = {
    HUMANREF: "HumanRef: JSON lines with id and extracted_predictions, boxes or points",
    "grec": "gRefCOCO, boxes (GREC): a JSON list with boxes and scores per sentence",
    "gres": "gRefCOCO, masks (GRES): a JSON list with a mask per sentence",
}
#: The rule of :func:`format_of` in words.
BY_ENDING = ".json is grec, anything else humanref"


def format_of(path: str | os.PathLike, file_format: str | None = None) -> str:
    """The format chosen, or what the file's ending says.

    Raises:
        ConfigError: for a format that is not one of :data:`FORMATS`

    Example::

        >>> format_of("a.jsonl"), format_of("a.json"), format_of("a.json", "gres")
        ('humanref', 'grec', 'gres')
    """
    if file_format is None:
        return "grec" if Path(path).suffix.lower() == ".json" else HUMANREF
    if file_format not in FORMATS:
        raise ConfigError("unknown format of predictions", expected=", ".join(FORMATS), found=file_format)
    return file_format


def import_prediction_file(
    samples: SampleCollection,
    path: str | os.PathLike,
    pred_field: str,
    file_format: str | None = None,
    *,
    strict: bool = False,
    overwrite: bool = False,
    progress: bool | Callable | None = None,
) -> PredictionReport:
    """Reads a prediction file into a field; see the importers of the formats for arguments and errors."""
    options = {"strict": strict, "overwrite": overwrite, "progress": progress}
    task = format_of(path, file_format)
    if task in TASKS:
        return import_grefcoco_predictions(samples, path, pred_field, task, **options)
    return import_predictions(samples, path, pred_field, **options)


def export_prediction_file(
    samples: SampleCollection,
    path: str | os.PathLike,
    pred_field: str,
    file_format: str | None = None,
    *,
    original_size: bool = False,
) -> int:
    """Writes a field as a prediction file and returns the number of rows; see the exporters of the formats.

    Args:
        original_size: of masks, for "gres" only
    """
    task = format_of(path, file_format)
    if task in TASKS:
        return export_grefcoco_predictions(samples, path, pred_field, task, original_size=original_size)
    return export_predictions(samples, path, pred_field)

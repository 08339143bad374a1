"""Checks on the fields of a dataset, made before anything expensive starts."""

from __future__ import annotations

import fiftyone as fo

from ..errors import ConfigError


def detections_fields(samples: fo.core.collections.SampleCollection) -> list[str]:
    """Names of the sample fields that hold Detections, in schema order."""
    schema = samples.get_field_schema(embedded_doc_type=fo.Detections)
    return list(schema)


def prediction_fields(samples: fo.core.collections.SampleCollection) -> list[str]:
    """Detections fields that may hold predictions: those with a ``<field>_outcome`` first, then those of no known role."""
    fields = detections_fields(samples)
    answered = [f for f in fields if samples.has_sample_field(f"{f}_outcome")]
    known = {"ground_truth", "candidates", *answered}
    return answered + [f for f in fields if f not in known and not f.endswith(("_source", "_candidates"))]


def require_detections(samples: fo.core.collections.SampleCollection, field: str) -> None:
    """Raises :class:`ConfigError` unless ``field`` exists and holds Detections; names the fields that do."""
    ftype = samples.get_field(field)
    if ftype is None:
        raise ConfigError(f"there is no field {field!r}", expected=f"one of {detections_fields(samples)}")
    if getattr(ftype, "document_type", None) is not fo.Detections:
        raise ConfigError(
            f"field {field!r} is of another kind",
            expected=f"Detections, as in {detections_fields(samples)}",
            found=type(ftype).__name__,
        )


def require_field(samples: fo.core.collections.SampleCollection, field: str, *types: type) -> None:
    """Raises :class:`ConfigError` unless ``field`` exists and, when types are given, is of one of them."""
    ftype = samples.get_field(field)
    if ftype is None:
        names = list(samples.get_field_schema(ftype=types or None))
        raise ConfigError(f"there is no field {field!r}", expected=f"one of {names}")
    if types and not isinstance(ftype, types):
        kinds = " or ".join(t.__name__ for t in types)
        raise ConfigError(f"field {field!r} is of another kind", expected=kinds, found=type(ftype).__name__)

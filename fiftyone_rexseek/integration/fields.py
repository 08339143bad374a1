"""Checks on the fields of a dataset, made before anything expensive starts."""

from __future__ import annotations

import fiftyone as fo
import fiftyone.core.media as fom

from ..errors import ConfigError
from .selections import CANDIDATES, COMPANIONS, OUTCOME, REJECTED_MASK

#: Ends of the names of Detections fields that go with another field.
_COMPANIONS = ("_source", CANDIDATES, REJECTED_MASK)
#: String fields of every dataset of expressions, none of which a model wrote.
_OWN_TEXTS = ("expression", "image_id", "expression_id", "domain", "sub_domain", "split", "target_summary")


def detections_fields(samples: fo.core.collections.SampleCollection) -> list[str]:
    """Names of the sample fields that hold Detections, in schema order."""
    schema = samples.get_field_schema(embedded_doc_type=fo.Detections)
    return list(schema)


def prediction_fields(
    samples: fo.core.collections.SampleCollection, kinds: tuple[type, ...] = (fo.Detections,)
) -> list[str]:
    """Names of the fields that may hold predictions: those with a ``<field>_outcome`` first, then those of no known role.

    ``asked``, with the last answers to several expressions, is no prediction.
    """
    fields = [f for f in samples.get_field_schema(embedded_doc_type=kinds) if f != "asked"]
    answered = [f for f in fields if samples.has_sample_field(f"{f}_outcome")]
    known = {"ground_truth", "candidates", *answered}
    return answered + [f for f in fields if f not in known and not f.endswith(_COMPANIONS)]


def text_fields(samples: fo.core.collections.SampleCollection) -> list[str]:
    """Names of the string fields that may hold expressions, in schema order.

    What goes with a field of predictions, such as ``<field>_answer``, is left out, and so are evaluations' fields.
    """
    schema = samples.get_field_schema()
    runs = samples.list_evaluations()
    return [
        name
        for name in samples.get_field_schema(ftype=fo.StringField)
        if name not in ("filepath", "import_key")
        and not any(name == field + suffix for suffix in COMPANIONS for field in schema if name.startswith(field))
        and not any(name.startswith(f"{key}_") for key in runs)
    ]


def generated_text_fields(samples: fo.core.collections.SampleCollection) -> list[str]:
    """Names of the :func:`text_fields` that may hold generated expressions: those that a model wrote first, then the others."""
    schema = samples.get_field_schema()
    texts = [name for name in text_fields(samples) if name not in _OWN_TEXTS]
    return sorted(texts, key=lambda name: name + OUTCOME not in schema)


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


def flat_images(samples: fo.core.collections.SampleCollection) -> fo.core.collections.SampleCollection:
    """The samples of a collection one by one; a view grouped by a field stands for all samples of its groups.

    Args:
        samples: a dataset or view

    Returns:
        ``samples`` unless they are grouped by a field (``dataset.group_by("image_id")``), else the view without its groups

    Raises:
        ConfigError: for patches, frames and clips, grouped datasets of several slices, and media other than images
    """
    expected = "a dataset or view of image samples"
    if samples._is_generated:
        found = "patches" if samples._is_patches else "frames" if samples._is_frames else "clips"
        advice = f"Use the samples that the {found} were made of: the dataset, or the view before they were made."
        raise ConfigError(f"{found} are not samples with expressions", expected=expected, found=f"a view of {found}", advice=advice)
    if samples._is_dynamic_groups:
        *before, last = samples._stages
        if isinstance(last, fo.GroupBy):
            # the same samples as flatten() gives, without a look-up per group
            samples = samples._dataset.view()
            for stage in before:
                samples = samples.add_stage(stage)
        else:
            samples = samples.flatten()
    if samples.media_type == fom.GROUP:
        slices = ", ".join(samples.group_slices)
        advice = "Choose one of the slices: samples.select_group_slices(NAME)."
        raise ConfigError("the samples have several slices", expected=expected, found=f"slices {slices}", advice=advice)
    if samples.media_type == fom.VIDEO:
        advice = "Ask videos with fiftyone_rexseek.integration.video.apply_to_video and score them with evaluate_video."
        raise ConfigError("these are videos", expected=expected, found="videos", advice=advice)
    if samples.media_type not in (None, fom.IMAGE):
        raise ConfigError("these are no images", expected=expected, found=f"media type {samples.media_type!r}")
    return samples

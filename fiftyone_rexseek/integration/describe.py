"""``describe_targets``: let a model write the referring expression for the objects of a field.

All objects of a sample's field are described together, by one expression; in a view of selected labels only those are.
Texts are written every few samples, and running the same call again goes on where it stopped.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import fiftyone as fo
import fiftyone.core.utils as fou

from .. import masks
from ..errors import ConfigError, DataError
from ..geometry import to_absolute
from ..models.answering import batches
from ..models.description import DEFAULT_MODEL, Describer, Description, DescriptionRequest
from ..models.images import open_image
from ..referring import Outcome
from .answer_runs import clear_answers, is_same_run, record
from .fields import flat_images, require_detections
from .selections import ANSWER, ERROR, OUTCOME

logger = logging.getLogger(__name__)

#: Samples whose texts are written at once.
SAVE_EVERY = 16


class Writer(Protocol):
    """What writes expressions, such as :class:`~fiftyone_rexseek.models.description.Describer`."""

    def describe_batch(self, requests: Sequence[DescriptionRequest]) -> list[Description]: ...

    def facts(self) -> dict[str, Any]: ...


@dataclass(frozen=True)
class DescribeSummary:
    """What a run of :func:`describe_targets` did.

    Attributes:
        text_field: where the expressions are
        outcomes: number of samples by outcome of the model's answer
        num_empty: samples without objects to describe
        num_skipped: samples described by an earlier run
        errors: the most frequent reasons of failures, with counts
        run_key: of the custom run that records the settings
    """

    text_field: str
    outcomes: Mapping[str, int]
    num_empty: int = 0
    num_skipped: int = 0
    errors: Mapping[str, int] = field(default_factory=dict)
    run_key: str = ""

    @property
    def num_described(self) -> int:
        return self.outcomes.get(Outcome.SELECTED.value, 0)

    def __str__(self) -> str:
        """For a person.

        Example::

            >>> print(DescribeSummary("text", {"selected": 3, "failed": 1}, num_empty=2))
            3 samples described in field 'text'; 1 failed; 2 without objects
        """
        parts = [f"{self.num_described} samples described in field '{self.text_field}'"]
        parts += [f"{n} {name}" for name, n in self.outcomes.items() if n and name != Outcome.SELECTED.value]
        parts += [f"{self.num_empty} without objects"] if self.num_empty else []
        parts += [f"{self.num_skipped} described before"] if self.num_skipped else []
        return "; ".join(parts + [f"{n} x {reason}" for reason, n in self.errors.items()])


def describe_targets(
    samples: fo.core.collections.SampleCollection,
    objects_field: str = "ground_truth",
    text_field: str = "description",
    model: str | Writer = DEFAULT_MODEL,
    *,
    resume: bool = True,
    overwrite: bool = False,
    progress: Any = None,
    load_options: Mapping[str, Any] | None = None,
) -> DescribeSummary:
    """Writes one expression per sample for all objects in a Detections field.

    Writes, for ``text_field`` T: ``T`` (text; None = none), ``T_outcome`` (``selected`` = there is a text, ``unparsed``,
    ``failed``), ``T_answer`` and ``T_error``. Samples without objects get nothing. Objects are shown by their masks, those
    without by their boxes. Method ``greg`` of :func:`evaluate_referring` scores the texts.

    Args:
        samples: dataset or view of images; ``samples.select_labels(...)`` describes just these labels
        objects_field: what is described
        text_field: where the texts go
        model: folder or repository of an image-text-to-text model, or an object such as a ``Describer``
        resume: leave out samples that the same run (same model and objects) has described; those that failed are tried
            again, and so are those of which a view shows some of the labels only: their text may be about others
        overwrite: allow ``text_field`` to be a field of texts that no model wrote
        progress: as everywhere in FiftyOne
        load_options: of :meth:`Describer.from_pretrained` when the model is given by name

    Raises:
        ConfigError: fields or names that make no sense - before weights load
    """
    samples = flat_images(samples)
    require_detections(samples, objects_field)
    check_text_field(samples, text_field, overwrite)
    dataset, run_key = samples._dataset, f"describe_{text_field}"
    name = model if isinstance(model, str) else str(model.facts().get("describer", type(model).__name__))
    settings = {"method": "describe_targets", "model": name, "objects": objects_field}
    same = is_same_run(samples, text_field, run_key, settings)
    done = _described(samples, objects_field, text_field) if resume and same else set()
    writer = Describer.from_pretrained(model, **(load_options or {})) if isinstance(model, str) else model
    mixed = not same and clear_answers(samples, text_field, keep={objects_field})
    for suffix in ("", OUTCOME, ANSWER, ERROR):
        dataset.add_sample_field(text_field + suffix, fo.StringField)
    record(dataset, run_key, {**settings, "facts": writer.facts(), "mixed": mixed})

    outcomes, errors, num_empty = Counter(), Counter(), 0
    ids, counts = samples.values(["id", f"{objects_field}.detections.id"])
    wanted = [i for i, found in zip(ids, counts) if found and i not in done]
    num_empty = sum(not found for i, found in zip(ids, counts) if i not in done)
    with fou.ProgressBar(total=len(wanted), progress=progress) as bar:
        for some in batches(wanted, SAVE_EVERY):
            found = _describe(samples.select(some, ordered=True), objects_field, writer)
            _write(dataset, text_field, found)
            outcomes.update(d.outcome.value for d in found.values())
            errors.update(d.error for d in found.values() if d.error)
            bar.update(len(some))
    return DescribeSummary(
        text_field, dict(outcomes), num_empty, len(done), dict(errors.most_common(5)), run_key
    )


def check_text_field(samples, text_field: str, overwrite: bool = False) -> None:
    """Refuses names that cannot be fields, and fields that hold something other than a model's texts.

    Raises:
        ConfigError: with what is wrong
    """
    if not isinstance(text_field, str) or not text_field.isidentifier() or text_field[0] == "_":
        raise ConfigError(f"{text_field!r} is no field name of letters, digits and underscores that begins with a letter")
    if not samples.has_sample_field(text_field):
        return
    if not isinstance(samples.get_field(text_field), fo.StringField):
        raise ConfigError(f"field {text_field!r} is not for texts", advice="Choose another text_field")
    if not overwrite and not samples.has_sample_field(text_field + OUTCOME) and len(samples._dataset.exists(text_field).limit(1)):
        raise ConfigError(
            f"field {text_field!r} holds texts that no model wrote",
            expected="a new field, or one of an earlier run",
            advice="Choose another text_field, or overwrite, which replaces these texts",
        )


def _describe(view, objects_field: str, writer: Writer) -> dict[str, Description]:
    """The descriptions of a few samples by sample id; one that cannot be opened fails alone."""
    results: dict[str, Description] = {}
    requests: list[DescriptionRequest] = []
    for sample in view.select_fields(objects_field):
        try:
            requests.append(_request(sample, objects_field))
        except DataError as e:
            results[sample.id] = Description(None, Outcome.FAILED, error=str(e), key=sample.id)
    for request, description in zip(requests, writer.describe_batch(requests), strict=True):
        results[request.key] = description
    return results


def _request(sample, objects_field: str) -> DescriptionRequest:
    image = open_image(sample.filepath)
    detections = sample[objects_field].detections
    boxes = to_absolute([d.bounding_box for d in detections], image.width, image.height)
    shapes = [
        masks.encode(masks.paste(d.get_mask(), box, image.height, image.width)) if d.has_mask else None
        for d, box in zip(detections, boxes)
    ]
    return DescriptionRequest(image, boxes, shapes, key=sample.id)


def _write(dataset, text_field: str, found: Mapping[str, Description]) -> None:
    columns = {
        "": {i: d.expression for i, d in found.items()},
        ANSWER: {i: d.answer for i, d in found.items()},
        ERROR: {i: d.error for i, d in found.items()},
        # the last one, because resuming trusts it
        OUTCOME: {i: d.outcome.value for i, d in found.items()},
    }
    for suffix, values in columns.items():
        dataset.set_values(text_field + suffix, values, key_field="id")


def _described(samples, objects_field: str, text_field: str) -> set[str]:
    """Samples with a text about all the objects that the samples show."""
    dataset = samples._dataset
    labels = f"{objects_field}.detections.id"
    ids, outcomes, shown = samples.values(["id", text_field + OUTCOME, labels])
    done = {i: s for i, o, s in zip(ids, outcomes, shown) if o is not None and o != Outcome.FAILED.value}
    if isinstance(samples, fo.Dataset):
        return set(done)
    stored = dict(zip(*dataset.select(list(done)).values(["id", labels])))
    return {i for i in done if done[i] == stored.get(i)}

"""Views for people who mend data: uncertain answers, models that disagree, labels that look wrong.

Nothing here deletes. Accepting a prediction as ground truth keeps the ground truth of the source beside it, so that
:func:`undo_accept` brings it back exactly.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

import fiftyone as fo
import fiftyone.core.media as fom
import numpy as np
from fiftyone import ViewField as F

from ..errors import ConfigError
from ..metrics.matching import match_best_first
from ..referring import Outcome
from . import documents
from .fields import detections_fields, flat_images, require_detections
from .presentation import targets_in_words

#: Tag of samples a person should look at.
REVIEW_TAG = "review"
#: Tag of samples whose ground truth is an accepted prediction, for people; :data:`ACCEPTED_SUFFIX` is what counts.
ACCEPTED_TAG = "accepted prediction"
#: Suffix of the field that keeps the ground truth of the source once a prediction was accepted in its place.
SOURCE_SUFFIX = "_source"
#: Suffix of the field that says whether it was: of every ground truth field, and nobody takes it off like a tag.
ACCEPTED_SUFFIX = "_accepted"

_Collection = fo.core.collections.SampleCollection


def certainty(samples: _Collection, pred_field: str) -> np.ndarray:
    """How sure the model was of each sample's answer, float (n,), in view order; NaN where it gave none.

    An answer is as sure as its least sure box; a rejection is as sure as its ``<field>_rejection_score``, where the
    model has one.
    """
    samples = flat_images(samples)
    require_detections(samples, pred_field)
    has_rejection = samples._dataset.has_sample_field(f"{pred_field}_rejection_score")
    columns = [f"{pred_field}.detections.confidence"]
    columns += [f"{pred_field}_rejection_score"] if has_rejection else []
    values = samples.values(columns)
    rejection = values[1] if has_rejection else [None] * len(values[0])
    result = np.full(len(values[0]), np.nan)
    for i, (confidences, rejected) in enumerate(zip(values[0], rejection)):
        known = [c for c in confidences or () if c is not None]
        if known:
            result[i] = min(known)
        elif confidences is not None and not confidences and rejected is not None:
            result[i] = rejected
    return result


def most_uncertain(samples: _Collection, pred_field: str, limit: int = 200) -> fo.DatasetView:
    """The samples of which the model was least sure, least sure first; those without any confidence are left out."""
    samples = flat_images(samples)
    sure = certainty(samples, pred_field)
    ids = np.array(samples.values("id"), dtype=object)
    order = np.argsort(sure, kind="stable")
    order = order[~np.isnan(sure[order])][:limit]
    return _ordered(samples, ids[order])


def _ordered(samples: _Collection, ids: Sequence[str]) -> fo.DatasetView:
    return samples.select(list(ids), ordered=True)


def agreement(samples: _Collection, first: str, second: str, iou_threshold: float = 0.5) -> np.ndarray:
    """How far two Detections fields agree per sample, float (n,) in [0, 1]; NaN where one of them is None.

    The F1 of one field against the other: 1 when every box has its partner of IoU >= threshold, and when both are empty.
    """
    samples = flat_images(samples)
    for field in (first, second):
        require_detections(samples, field)
    a, b = samples.values([f"{first}.detections.bounding_box", f"{second}.detections.bounding_box"])
    both = np.array([x is not None and y is not None for x, y in zip(a, b)], dtype=bool)
    a, b = [_corners(x) for x in a], [_corners(y) for y in b]
    n_a, n_b = np.array([len(x) for x in a]), np.array([len(y) for y in b])
    hits = match_best_first(a, b, iou_threshold).num_matches[0]
    f1 = np.where(n_a + n_b > 0, 2 * hits / np.maximum(n_a + n_b, 1), 1.0)
    return np.where(both, f1, np.nan)


def _corners(boxes: Sequence[Sequence[float]] | None) -> list[list[float]]:
    # relative boxes of one image: IoU does not change when both axes are scaled
    return [[x, y, x + w, y + h] for x, y, w, h in boxes or ()]


def disagreements(samples: _Collection, pred_fields: Sequence[str], limit: int = 200) -> fo.DatasetView:
    """The samples on which models disagree most, worst first; samples where all agree are left out.

    Raises:
        ConfigError: fewer than two fields
    """
    samples = flat_images(samples)
    if len(set(pred_fields)) < 2:
        raise ConfigError("disagreement needs two models", expected="at least 2 fields", found=list(pred_fields))
    pairs = np.stack([agreement(samples, a, b) for a, b in combinations(dict.fromkeys(pred_fields), 2)])
    known = ~np.isnan(pairs)
    mean = np.where(known, pairs, 0).sum(0) / np.maximum(known.sum(0), 1)
    candidates = np.flatnonzero(known.any(0) & (mean < 1))
    ids = np.array(samples.values("id"), dtype=object)
    order = candidates[np.argsort(mean[candidates], kind="stable")][:limit]
    return _ordered(samples, ids[order])


def suspected_label_errors(
    samples: _Collection,
    pred_fields: Sequence[str],
    gt_field: str = "ground_truth",
    *,
    min_certainty: float = 0.8,
    limit: int = 200,
) -> fo.DatasetView:
    """Samples where every model is sure, all agree with one another, and the ground truth says otherwise.

    Surest first. With a single model only its certainty speaks, so expect more false alarms.

    Args:
        samples: a dataset or view
        pred_fields: one or more prediction fields
        gt_field: what is doubted
        min_certainty: the least :func:`certainty` of every model
        limit: length of the view
    """
    samples = flat_images(samples)
    fields = list(dict.fromkeys(pred_fields))
    if not fields:
        raise ConfigError("no prediction field was given", expected="at least 1 field")
    require_detections(samples, gt_field)
    sure = np.stack([certainty(samples, f) for f in fields])
    with np.errstate(invalid="ignore"):
        confident = (sure >= min_certainty).all(0)
        consistent = np.ones(len(confident), dtype=bool)
        for a, b in combinations(fields, 2):
            consistent &= agreement(samples, a, b) == 1
        contradicted = agreement(samples, fields[0], gt_field) < 1
    found = np.flatnonzero(confident & consistent & contradicted)
    ids = np.array(samples.values("id"), dtype=object)
    order = found[np.argsort(-sure[:, found].min(0), kind="stable")][:limit]
    return _ordered(samples, ids[order])


def tag_for_review(samples: _Collection, tag: str = REVIEW_TAG) -> int:
    """Tags the samples; returns how many newly carry the tag."""
    fresh = samples.match_tags(tag, bool=False)
    count = len(fresh)
    fresh.tag_samples(tag)
    return count


def accepted_fields(dataset: fo.Dataset) -> list[str]:
    """Names of the ground truth fields in which predictions were accepted, now or before."""
    names = detections_fields(dataset)
    return [field for field in names if field + SOURCE_SUFFIX in names]


def stored_samples(dataset: fo.Dataset, ids: Sequence[str]) -> fo.DatasetView:
    """The samples of these ids with everything that is stored, whatever a view hides; of a grouped dataset, of any slice."""
    images = dataset.select_group_slices(media_type=fom.IMAGE) if dataset.media_type == fom.GROUP else dataset
    return images.select(list(ids))


def accepted_samples(samples: _Collection, gt_field: str = "ground_truth") -> fo.DatasetView:
    """Those of the samples whose ground truth in this field is an accepted prediction, with everything that is stored."""
    samples = flat_images(samples)
    marked = F(gt_field + ACCEPTED_SUFFIX) == True  # noqa: E712
    # datasets of earlier versions have no marker
    return stored_samples(samples._dataset, samples.values("id")).match(marked | F(gt_field + SOURCE_SUFFIX).exists())


def accept_prediction(samples: _Collection, pred_field: str, gt_field: str = "ground_truth") -> int:
    """Makes the prediction the ground truth of these samples; :func:`undo_accept` takes it back.

    Of the prediction, what the view shows is accepted; the ground truth is replaced as a whole, with what the view hides.
    That of the source is kept in ``<gt_field>_source`` the first time, and never overwritten there;
    ``<gt_field>_accepted`` says of which samples. An empty prediction is accepted as "nobody matches"; samples without an
    answer (None, unparsed, failed) are left alone. Evaluations made before keep the old scores until they are run again.

    Returns:
        the number of samples changed
    """
    samples = flat_images(samples)
    require_detections(samples, pred_field)
    require_detections(samples, gt_field)
    dataset = samples._dataset
    source_field, marker = gt_field + SOURCE_SUFFIX, gt_field + ACCEPTED_SUFFIX
    if not dataset.has_sample_field(source_field):
        dataset.add_sample_field(
            source_field,
            fo.EmbeddedDocumentField,
            embedded_doc_type=fo.Detections,
            description="Ground truth as the source has it, kept while an accepted prediction stands in its place",
        )
    require_detections(dataset, source_field)
    if not dataset.has_sample_field(marker):
        dataset.add_sample_field(marker, fo.BooleanField, description="Whether the ground truth is an accepted prediction")
    view = samples.exists(pred_field)
    if dataset.has_sample_field(f"{pred_field}_outcome"):
        unanswered = [str(o) for o in Outcome if not o.is_answer]
        view = view.match(~F(f"{pred_field}_outcome").is_in(unanswered))
    # all of it before anything is written: the view may depend on what is
    paths = [f"{pred_field}.detections.{name}" for name in ("label", "bounding_box", "mask", "mask_path")]
    accepted = {
        str(d["_id"]): [_copy(label) for label in d[pred_field].get("detections") or ()]
        for d in documents.read_documents(view, paths)
    }
    stored = documents.read_documents(stored_samples(dataset, accepted), [gt_field, source_field, marker, "tags"])
    with documents.SampleUpdater(dataset) as updater:
        for document in stored:
            id_, tags = str(document["_id"]), document.get("tags") or []
            values = {gt_field: documents.detections_document(accepted[id_]), marker: True}
            if not document.get(marker) and document.get(source_field) is None:
                values[source_field] = document.get(gt_field)  # None stays None: nothing is known about the sample
            if ACCEPTED_TAG not in tags:
                values["tags"] = [*tags, ACCEPTED_TAG]
            updater.set(id_, values)
    _recount(dataset, list(accepted), gt_field)
    return len(accepted)


def undo_accept(samples: _Collection, gt_field: str = "ground_truth") -> int:
    """Brings back the ground truth of the source where a prediction was accepted; returns the number of samples."""
    source_field, marker = gt_field + SOURCE_SUFFIX, gt_field + ACCEPTED_SUFFIX
    dataset = samples._dataset
    if gt_field not in accepted_fields(dataset):
        return 0
    emptied = dict.fromkeys(name for name in (source_field, marker) if dataset.has_sample_field(name))
    others = [field + ACCEPTED_SUFFIX for field in accepted_fields(dataset) if field != gt_field]
    ids = accepted_samples(samples, gt_field).values("id")
    stored = documents.read_documents(stored_samples(dataset, ids), [source_field, "tags", *others])
    with documents.SampleUpdater(dataset) as updater:
        for document in stored:
            values = {gt_field: document.get(source_field), **emptied}
            if not any(document.get(other) for other in others):
                values["tags"] = [tag for tag in document.get("tags") or () if tag != ACCEPTED_TAG]
            updater.set(str(document["_id"]), values)
    _recount(dataset, ids, gt_field)
    return len(ids)


def _copy(detection: Mapping[str, Any]) -> dict[str, Any]:
    # a new id, and nothing that says how the prediction was once scored
    copy = documents.detection_document(detection.get("label"), detection.get("bounding_box") or ())
    return copy | {name: detection[name] for name in ("mask", "mask_path") if detection.get(name) is not None}


def _recount(dataset: fo.Dataset, ids: list[str], gt_field: str) -> None:
    if gt_field == "ground_truth" and dataset.has_sample_field("num_targets"):
        samples = stored_samples(dataset, ids)
        labels = samples.values(f"{gt_field}.detections.id")
        counts = [None if own is None else len(own) for own in labels]
        samples.set_values("num_targets", counts)
        if dataset.has_sample_field("target_summary"):
            samples.set_values("target_summary", [None if n is None else targets_in_words(n) for n in counts])

"""The one place that speaks FiftyOne's storage format directly.

Building and validating label objects is what makes ``add_samples`` slow; MongoDB is not. So importing and
evaluating write the documents that FiftyOne itself would write, through pymongo. That format is internal
to FiftyOne, hence: it is used in this module only, it is compared with what the installed FiftyOne
produces (:func:`format_is_known`), and where it differs :class:`SampleWriter` falls back to ``add_samples``
and :func:`update_samples` to ``set_values`` - slower, same result.
"""

from __future__ import annotations

import io
import logging
import random
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timezone
from functools import lru_cache
from typing import Any

import fiftyone as fo
import numpy as np
from bson import ObjectId
from pymongo import UpdateOne
from pymongo.errors import BulkWriteError

logger = logging.getLogger(__name__)

DUPLICATE_KEY = 11000


def mask_bytes(mask: np.ndarray) -> bytes:
    """A mask as FiftyOne stores it: a zlib-compressed ``.npy``. Level 1: half the time, nearly the size.

    Example::

        >>> import fiftyone.core.utils as fou
        >>> fou.deserialize_numpy_array(mask_bytes(np.eye(2, dtype=bool))).tolist()
        [[True, False], [False, True]]
    """
    with io.BytesIO() as buffer:
        np.save(buffer, mask, allow_pickle=False)
        return zlib.compress(buffer.getvalue(), 1)


def detection_document(
    label: str, bounding_box: Sequence[float], mask: np.ndarray | None = None, **attributes: Any
) -> dict[str, Any]:
    """The document of a ``fo.Detection``; ``bounding_box`` is relative ``[x, y, w, h]``."""
    doc: dict[str, Any] = {
        "_id": ObjectId(),
        "_cls": "Detection",
        "attributes": {},
        "tags": [],
        "label": label,
        "bounding_box": [float(v) for v in bounding_box],
    }
    if mask is not None:
        doc["mask"] = mask_bytes(mask)
    doc.update(attributes)
    return doc


def detections_document(detections: list[dict[str, Any]]) -> dict[str, Any]:
    """The document of ``fo.Detections``; an empty list means "no target"."""
    return {"_cls": "Detections", "detections": detections}


def keypoint_document(label: str, point: Sequence[float], **attributes: Any) -> dict[str, Any]:
    """The document of a one-point ``fo.Keypoint``; the point is relative ``(x, y)``."""
    return {
        "_id": ObjectId(),
        "_cls": "Keypoint",
        "attributes": {},
        "tags": [],
        "label": label,
        "points": [[float(v) for v in point]],
        **attributes,
    }


def keypoints_document(keypoints: list[dict[str, Any]]) -> dict[str, Any]:
    """The document of ``fo.Keypoints``."""
    return {"_cls": "Keypoints", "keypoints": keypoints}


def sample_document(
    filepath: str, width: int, height: int, size_bytes: int | None = None, mime_type: str | None = None
) -> dict[str, Any]:
    """The document of an image ``fo.Sample`` with its metadata; further fields are added by the caller."""
    metadata = {"_cls": "ImageMetadata", "width": width, "height": height}
    if size_bytes is not None:
        metadata["size_bytes"] = size_bytes
    if mime_type is not None:
        metadata["mime_type"] = mime_type
    return {
        "filepath": filepath,
        "tags": [],
        "metadata": metadata,
        "_media_type": "image",
        "_rand": random.random(),
    }


@lru_cache(maxsize=1)
def format_is_known() -> bool:
    """Whether the installed FiftyOne stores samples as this module writes them."""
    sample = fo.Sample(filepath="/image.jpg", metadata=fo.ImageMetadata(width=2, height=1))
    box = [0.0, 0.0, 0.5, 0.5]
    sample["boxes"] = fo.Detections(detections=[fo.Detection(label="a", bounding_box=box, mask=np.ones((1, 1), bool))])
    sample["points"] = fo.Keypoints(keypoints=[fo.Keypoint(label="a", points=[(0.0, 0.0)])])
    try:
        theirs = sample.to_mongo_dict()
    except AttributeError:
        return False
    ours = sample_document("/image.jpg", 2, 1)
    ours["boxes"] = detections_document([detection_document("a", box, np.ones((1, 1), bool))])
    ours["points"] = keypoints_document([keypoint_document("a", (0.0, 0.0))])
    known = _shape(theirs) == _shape(ours)
    if not known:
        logger.warning("FiftyOne %s stores samples in a new way; using its slower public functions", fo.__version__)
    return known


def _shape(value: Any) -> Any:
    """Keys and types of a document, without values and without what is absent or None."""
    if isinstance(value, Mapping):
        return {k: v if k == "_cls" else _shape(v) for k, v in sorted(value.items()) if v is not None}
    if isinstance(value, list | tuple):
        return [_shape(v) for v in value]
    return bytes if isinstance(value, bytes) else type(value)


class SampleWriter:
    """Inserts sample documents into a dataset in batches; memory holds one batch.

    A document whose unique key is already in the dataset is left out and counted, so that an interrupted
    import can simply be run again, also by two processes at once.

    Attributes:
        added: number of samples inserted
        existing: number of documents left out because their key was there
        ids: ids of the inserted samples (hex strings)
    """

    def __init__(self, dataset: fo.Dataset, batch_size: int = 1000):
        self.dataset, self.batch_size = dataset, batch_size
        self.added = self.existing = 0
        self.ids: list[str] = []
        self._batch: list[dict[str, Any]] = []
        self._raw = format_is_known() and hasattr(dataset, "_sample_collection") and hasattr(dataset, "_doc")

    def __enter__(self) -> SampleWriter:
        return self

    def __exit__(self, exc_type, exc, traceback) -> None:
        # also after an error: what has been read so far is good and stays
        self.flush()

    def add(self, document: dict[str, Any]) -> None:
        """Queues a document and inserts the batch when it is full."""
        self._batch.append(document)
        if len(self._batch) >= self.batch_size:
            self.flush()

    def flush(self) -> None:
        """Inserts what is queued."""
        batch, self._batch = self._batch, []
        if not batch:
            return
        if self._raw:
            self._insert(batch)
        else:
            ids = self.dataset.add_samples([as_sample(d) for d in batch], dynamic=False, progress=False)
            self.ids += ids
            self.added += len(ids)

    def _insert(self, batch: list[dict[str, Any]]) -> None:
        now = datetime.now(timezone.utc)
        dataset_id = self.dataset._doc.id
        for document in batch:
            document["_id"] = ObjectId()
            document["_dataset_id"] = dataset_id
            document["created_at"] = document["last_modified_at"] = now
        refused: set[int] = set()
        try:
            self.dataset._sample_collection.insert_many(batch, ordered=False)
        except BulkWriteError as e:
            errors = e.details["writeErrors"]
            if any(error["code"] != DUPLICATE_KEY for error in errors):
                raise
            refused = {error["index"] for error in errors}
        self.existing += len(refused)
        self.added += len(batch) - len(refused)
        self.ids += [str(d["_id"]) for i, d in enumerate(batch) if i not in refused]


def as_sample(document: Mapping[str, Any]) -> fo.Sample:
    """A document as a ``fo.Sample``, made of public classes only (the slow way)."""
    sample = fo.Sample(filepath=document["filepath"], tags=list(document["tags"]))
    meta = {k: v for k, v in document["metadata"].items() if k != "_cls"}
    sample["metadata"] = fo.ImageMetadata(**meta)
    for name, value in document.items():
        if name.startswith("_") or name in ("filepath", "tags", "metadata", "created_at", "last_modified_at"):
            continue
        sample[name] = _as_label(value)
    return sample


def _as_label(value: Any) -> Any:
    if not isinstance(value, Mapping) or "_cls" not in value:
        return value
    fields = {k: v for k, v in value.items() if not k.startswith("_")}
    for name in ("detections", "keypoints"):
        if name in fields:
            fields[name] = [_as_label(v) for v in fields[name]]
    if "mask" in fields:
        fields["mask"] = np.load(io.BytesIO(zlib.decompress(fields["mask"])), allow_pickle=False)
    return getattr(fo, value["_cls"])(**fields)


def read_documents(samples: fo.core.collections.SampleCollection, paths: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Streams the stored values of some database paths, as plain dicts, in the order of a dataset or view.

    A view's filters on labels apply. Reading plain values is several times faster than reading samples.
    """
    yield from samples._aggregate(post_pipeline=[{"$project": {path: 1 for path in paths}}])


class Positions:
    """Where each label of some samples stands in its list in the database.

    A view may show fewer labels than are stored (``filter_labels``), so values for labels are addressed by
    id, never by the order in which a view lists them.
    """

    def __init__(self, dataset: fo.Dataset, sample_ids: Iterable[str], list_paths: Sequence[str]):
        self.list_paths = tuple(list_paths)
        projection = {f"{path}._id": 1 for path in self.list_paths}
        found = dataset._sample_collection.find({"_id": {"$in": [ObjectId(i) for i in sample_ids]}}, projection)
        self._at: dict[str, dict[str, int]] = {path: {} for path in self.list_paths}
        for document in found:
            for path in self.list_paths:
                field, _, inner = path.partition(".")
                labels = (document.get(field) or {}).get(inner) or ()
                self._at[path].update((str(label["_id"]), i) for i, label in enumerate(labels))

    def __call__(self, list_path: str, label_id: str) -> int | None:
        """Position of a label in ``list_path`` (say ``"ground_truth.detections"``), or None when it is gone."""
        return self._at[list_path].get(label_id)


class SampleUpdater:
    """Collects updates of sample fields and label attributes and writes them in bulk, one write per sample."""

    def __init__(self, dataset: fo.Dataset, batch_size: int = 2000):
        self.dataset, self.batch_size = dataset, batch_size
        self._operations: list[UpdateOne] = []
        self._now = datetime.now(timezone.utc)

    def __enter__(self) -> SampleUpdater:
        return self

    def __exit__(self, exc_type, exc, traceback) -> None:
        if exc_type is None:
            self.flush()

    def set(self, sample_id: str, values: Mapping[str, Any]) -> None:
        """Sets database paths (``"field"``, ``"field.detections.3.attribute"``) of one sample."""
        update = {"$set": {**values, "last_modified_at": self._now}}
        self._operations.append(UpdateOne({"_id": ObjectId(sample_id)}, update))
        if len(self._operations) >= self.batch_size:
            self.flush()

    def flush(self) -> None:
        """Writes what is queued."""
        operations, self._operations = self._operations, []
        if operations:
            self.dataset._bulk_write(operations, progress=False)  # also refreshes samples in memory

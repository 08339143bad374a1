"""Generated expressions of samples as columns, beside the target sets that they describe."""

from __future__ import annotations

import fiftyone as fo
import numpy as np

from ..errors import ConfigError
from .columns import Columns, LabelColumns, label_list_path


def read_texts(samples, config) -> Columns:
    """Texts and target sets as columns; the label columns hold what statistics ask for, and no predictions."""
    text_field, gt_field = config.pred_field, config.gt_field
    if not isinstance(samples.get_field(text_field), fo.StringField):
        raise ConfigError(
            "GREG scores texts", expected="a string field with generated expressions", found=text_field,
            advice="Generate them first, or give the name of the field that holds them.",
        )  # fmt: skip
    path = label_list_path(samples, gt_field, (fo.Detections,))
    schema = samples.get_field_schema()
    image = "image_id" if "image_id" in schema else "filepath"
    fields = ["id", image, "expression", text_field, gt_field, f"{path}.bounding_box", f"{path}.object_id"]
    if samples.get_field(f"{path}.object_id") is None:
        fields = fields[:-1]
    fields.remove(gt_field)
    ids, images, expressions, texts, boxes, *objects = samples.values(fields)
    objects = objects[0] if objects else [None] * len(ids)
    keys = []
    for image_id, of_sample, numbers in zip(images, boxes, objects):
        if not of_sample:
            keys.append(None)  # nobody matches, so there is nothing to describe
            continue
        numbers = numbers or [None] * len(of_sample)
        keys.append((image_id, frozenset(tuple(b) if n is None else n for n, b in zip(numbers, of_sample))))
    n = len(ids)
    nothing = [np.zeros((0, 4))] * n
    gt = LabelColumns(
        path,
        present=[b is not None for b in boxes],
        ids=[["?"] * len(b or ()) for b in boxes],
        boxes_xyxy=[np.asarray(b or np.zeros((0, 4)), dtype=np.float64).reshape(-1, 4) for b in boxes],
    )
    pred = LabelColumns(path, [t is not None for t in texts], [[]] * n, nothing, scores=[[]] * n)
    values = {"targets": keys, "expression": expressions, "generated": texts, "image_id": images}
    return Columns(ids, [1] * n, [1] * n, gt, pred, None, pred.present, [None] * n, values)

"""A segmenter that rejects has drawn something all the same, and the official union counts it."""

import fiftyone as fo
import numpy as np
from PIL import Image

from fiftyone_rexseek import masks
from fiftyone_rexseek.integration.apply import apply_expressions
from fiftyone_rexseek.integration.evaluation import evaluate_referring
from fiftyone_rexseek.referring import Selection


class Rejecting:
    """Says that nobody matches, having drawn the left half."""

    def segment_batch(self, requests):
        drawn = np.zeros((48, 48), bool)
        drawn[:, :24] = True
        return [
            [Selection.rejected(t, rejection_score=0.8, merged_mask=masks.encode(drawn)) for t in r.expressions]
            for r in requests
        ]


def test_union_holds_what_was_drawn(tmp_path):
    dataset = fo.Dataset()
    Image.new("RGB", (48, 48)).save(tmp_path / "a.png")
    right = fo.Detection(label="person", bounding_box=[0.5, 0, 0.5, 1], mask=np.ones((48, 24), bool))
    sample = fo.Sample(filepath=str(tmp_path / "a.png"), expression="the kid on the right")
    sample["ground_truth"] = fo.Detections(detections=[right])
    dataset.add_sample(sample)
    dataset.compute_metadata()
    apply_expressions(dataset, Rejecting(), "rela", "field:expression", num_workers=0)
    assert dataset.first()["rela"].detections == []
    evaluate_referring(dataset, "rela", eval_key="k", method="gres", protocol="original-size")
    sample = dataset.first()
    assert (sample["k_intersection"], sample["k_union"], sample["k_t_acc"]) == (0, 48 * 48, 0.0)
    dataset.delete()

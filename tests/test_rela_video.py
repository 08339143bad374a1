"""J and F of the DAVIS protocol."""

import numpy as np
import pytest
from scipy import ndimage

from fiftyone_rexseek.errors import DataError
from fiftyone_rexseek.metrics.video import (
    contour,
    contour_accuracy,
    mean_score,
    region_similarity,
    score_object,
    statistics,
)


def davis_f(predicted, truth, threshold=0.008):
    """The official computation, with a disk and dilations."""
    radius = int(threshold if threshold >= 1 else np.ceil(threshold * np.linalg.norm(predicted.shape)))
    y, x = np.ogrid[-radius : radius + 1, -radius : radius + 1]
    disk = x * x + y * y <= radius * radius
    own, wanted = contour(predicted), contour(truth)
    own_wide, wanted_wide = (ndimage.binary_dilation(m, disk) for m in (own, wanted))
    n_own, n_wanted = own.sum(), wanted.sum()
    if n_own == 0 and n_wanted > 0:
        precision, recall = 1, 0
    elif n_own > 0 and n_wanted == 0:
        precision, recall = 0, 1
    elif n_own == 0 and n_wanted == 0:
        precision, recall = 1, 1
    else:
        precision, recall = (own & wanted_wide).sum() / n_own, (wanted & own_wide).sum() / n_wanted
    return 0 if precision + recall == 0 else 2 * precision * recall / (precision + recall)


def blob(seed, shape=(60, 80)):
    rng = np.random.default_rng(seed)
    return ndimage.gaussian_filter(rng.random(shape), 5) > 0.5


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("threshold", [0.008, 0.03, 1, 4])
def test_f_is_the_official_one(seed, threshold):
    a, b = blob(seed), blob(seed + 100)
    if seed == 1:
        a = a & False
    if seed == 2:
        b = b & False
    if seed == 3:
        a, b = a & False, b & False
    assert contour_accuracy(a, b, threshold=threshold) == pytest.approx(davis_f(a, b, threshold), abs=1e-12)


def test_edges():
    nothing, full = np.zeros((5, 5), bool), np.ones((5, 5), bool)
    assert region_similarity(nothing, nothing) == 1.0 and region_similarity(nothing, full) == 0.0
    assert not contour(full).any()  # the border of the image is no contour
    half = full.copy()
    half[:, 3:] = False
    void = np.zeros((5, 5), bool)
    void[:, 3:] = True
    assert region_similarity(full, half, void) == 1.0
    with pytest.raises(DataError):
        region_similarity(nothing, np.zeros((4, 5), bool))


def test_statistics_over_frames():
    s = statistics(np.linspace(1, 0, 400))
    assert s.mean == pytest.approx(0.5) and s.recall == pytest.approx(0.5) and s.decay == pytest.approx(0.75, abs=0.01)
    assert np.isnan(statistics([]).mean) and statistics([1.0, np.nan, 0.0, 1.0]).mean == pytest.approx(2 / 3)


def test_a_video():
    truth = [blob(i) for i in range(6)]
    perfect = score_object(truth, truth)
    assert perfect.j_and_f == 1.0 and perfect.j.decay == 0.0 and len(perfect.j_per_frame) == 6
    missing = score_object([None, *truth[1:]], truth)
    assert missing.j.mean == pytest.approx(5 / 6) and missing.f.recall == pytest.approx(5 / 6)
    assert score_object([None, *truth[1:]], truth, skip_ends=True).j_and_f == 1.0
    assert score_object([None], [None]).j_and_f == 1.0
    both = mean_score([perfect, missing])
    assert both.j.mean == pytest.approx(11 / 12)
    with pytest.raises(DataError, match="frames"):
        score_object(truth, truth[:-1])

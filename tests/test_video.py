"""Referring segmentation of videos, frame by frame."""

import fiftyone as fo
import numpy as np
import pytest
from fake_models import FakeSegmenter, FakeSelector

from fiftyone_rexseek.errors import ConfigError, DataError
from fiftyone_rexseek.integration import selections
from fiftyone_rexseek.integration.video import apply_to_video, evaluate_video, read_frames

cv2 = pytest.importorskip("cv2")


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    path = str(tmp_path_factory.mktemp("video") / "clip.avi")
    writer = cv2.VideoWriter(path, cv2.VideoWriter_fourcc(*"MJPG"), 5, (64, 48))
    for i in range(5):
        writer.write(np.full((48, 64, 3), (0, 0, 50 * i), np.uint8))  # red, as OpenCV orders it
    writer.release()
    return path


@pytest.fixture
def dataset(video, tmp_path):
    (tmp_path / "broken.avi").write_bytes(b"nothing")
    dataset = fo.Dataset()
    rows = [(video, "left"), (str(tmp_path / "broken.avi"), "left"), (video, "none"), (video, "crash")]
    dataset.add_samples([fo.Sample(filepath=path, expression=text) for path, text in rows])
    yield dataset
    dataset.delete()


def test_frames_are_rgb_and_numbered_from_one(video):
    frames = dict(read_frames(video))
    assert list(frames) == [1, 2, 3, 4, 5] and frames[1].size == (64, 48)
    red, _, blue = np.asarray(frames[5])[24, 32]
    assert red > 150 and blue < 60
    assert list(dict(read_frames(video, step=2))) == [1, 3, 5]


def test_unreadable_videos(tmp_path):
    with pytest.raises(DataError, match="cannot be read"):
        list(read_frames(str(tmp_path / "missing.avi")))


def test_every_frame_gets_an_answer(dataset):
    summary = apply_to_video(dataset, FakeSegmenter(), "r", batch_size=2)
    assert summary.num_videos == 4 and summary.num_frames == 15 and len(summary.unreadable) == 1
    assert summary.outcomes == {"selected": 5, "rejected": 5, "unparsed": 0, "failed": 5}
    first = dataset.first().frames[3]
    assert first.r_outcome == "selected" and selections.merged_mask(first.r, 64, 48).sum() == 48 * 32
    frames = dataset.values("frames.r_outcome")
    assert frames[2] == ["rejected"] * 5 and frames[3] == ["failed"] * 5
    assert dataset.values("frames.r")[3] == [None] * 5


def test_every_second_frame_with_one_text(dataset):
    summary = apply_to_video(dataset.limit(1), FakeSegmenter(), "r", ["left"], frame_step=2)
    assert summary.num_frames == 3
    assert [n for n, f in dataset.first().frames.items() if f.r_outcome] == [1, 3, 5]


@pytest.mark.parametrize(
    "arguments",
    [{"model": FakeSelector()}, {"model": "rexseek-tiny"}, {"expressions": "nowhere"}, {"expressions": ["a", "b"]}, {"frame_step": 0},
     {"label_field": "no field"}],
)  # fmt: skip
def test_senseless_calls(dataset, arguments):
    with pytest.raises(ConfigError):
        apply_to_video(dataset, **{"model": FakeSegmenter(), "label_field": "r", **arguments})


def test_images_are_no_videos():
    dataset = fo.Dataset()
    dataset.add_sample(fo.Sample(filepath="/image.png"))
    for function in (lambda: apply_to_video(dataset, FakeSegmenter(), "r"), lambda: evaluate_video(dataset, "r")):
        with pytest.raises(ConfigError, match="no videos"):
            function()
    dataset.delete()


def test_j_and_f(dataset):
    view = dataset.limit(1)
    apply_to_video(view, FakeSegmenter(), "r")
    apply_to_video(view, FakeSegmenter(), "truth")
    scores = evaluate_video(view, "r", "truth", eval_key="e")
    assert scores.mean.j.mean == pytest.approx(1) and scores.mean.f.mean == pytest.approx(1) and scores.j_and_f == pytest.approx(1)
    assert dataset.values("e_j_and_f")[0] == pytest.approx(1)
    # half of the region: J is the overlap
    sample = dataset.first()
    mask = np.zeros((48, 64), bool)
    mask[:, :16] = True
    for frame in sample.frames.values():
        frame["r"] = fo.Detections(detections=[fo.Detection(label="a", bounding_box=[0, 0, 0.25, 1], mask=mask[:, :16])])
    sample.save()
    assert evaluate_video(view, "r", "truth").mean.j.mean == pytest.approx(0.5)
    with pytest.raises(ConfigError):
        evaluate_video(view, "nowhere", "truth")

"""From image files to selections: grouping, failures, proposals, masks."""

import numpy as np
import pytest
from fake_models import FakeProposer, FakeSegmenter, FakeSelector
from PIL import Image

from fiftyone_rexseek import masks
from fiftyone_rexseek.errors import CheckpointError, ConfigError, DataError, DownloadError
from fiftyone_rexseek.models import registry
from fiftyone_rexseek.models.answering import Answerer, ImageJob, Item, answer_stream, ask, batches, in_halves
from fiftyone_rexseek.models.images import open_image

BOXES = np.array([[0, 0, 10, 10], [5, 5, 20, 20.0]])


@pytest.fixture
def files(tmp_path):
    paths = []
    for i in range(3):
        path = tmp_path / f"{i}.png"
        Image.new("RGB", (40, 30), (i * 20, 0, 0)).save(path)
        paths.append(str(path))
    return paths


def test_samples_of_one_image_are_one_question(files):
    model = FakeSelector()
    items = tuple(Item(str(i), (text,), BOXES) for i, text in enumerate(["all", "first", "none"]))
    results = Answerer(model)([ImageJob(files[0], items)])
    assert model.calls == [[3]]
    assert [r.selections[0].outcome.value for r in results] == ["selected", "selected", "rejected"]
    assert [r.key for r in results] == ["0", "1", "2"]
    assert (results[0].width, results[0].height) == (40, 30)


def test_other_candidates_are_another_question(files):
    model = FakeSelector()
    items = (Item("a", ("all",), BOXES), Item("b", ("all",), BOXES[:1]), Item("c", ("first",), BOXES))
    results = Answerer(model)([ImageJob(files[0], items)])
    assert model.calls == [[2, 1]]
    assert [len(r.selections[0]) for r in results] == [2, 1, 1]


def test_one_bad_image_or_question_never_costs_another(files, tmp_path):
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"\x89PNG\r\n\x1a\nnothing")
    model = FakeSelector()
    jobs = [
        ImageJob(files[0], (Item("0", ("first",), BOXES),)),
        ImageJob(str(broken), (Item("1", ("first",), BOXES),)),
        ImageJob(files[1], (Item("2", ("crash",), BOXES),)),
        ImageJob(str(tmp_path / "missing.png"), (Item("3", ("first", "all"), BOXES),)),
        ImageJob(files[2], (Item("4", ("first", "", None, 5), BOXES),)),
    ]
    results = Answerer(model)(jobs)
    assert [[s.outcome.value for s in r.selections] for r in results] == [
        ["selected"],
        ["failed"],
        ["failed"],
        ["failed", "failed"],
        ["selected", "failed", "failed", "failed"],
    ]
    assert "cannot be read" in results[1].selections[0].error
    assert "out of memory" in results[2].selections[0].error and "fewer candidates" in results[2].selections[0].error
    assert "does not exist" in results[3].selections[0].error
    assert "empty" in results[4].selections[1].error


def test_wrong_options_are_not_an_unlucky_input():
    def run(batch):
        raise ConfigError("no such decoding")

    with pytest.raises(ConfigError):
        in_halves(run, [1, 2], lambda item, reason: reason)


def test_unknown_options_are_named_at_once():
    class Strict(FakeSelector):
        def select_batch(self, requests, *, decoding="free"):
            return super().select_batch(requests)

    with pytest.raises(ConfigError, match="beams"):
        Answerer(Strict(), options={"beams": 3})
    Answerer(Strict(), options={"decoding": "constrained"})


def test_a_model_that_loses_answers_is_noticed():
    assert "2 results" in in_halves(lambda batch: [1, 2], [1], lambda item, reason: reason)[0]


def test_proposals_once_per_image_and_names(files):
    model, proposer = FakeSelector(), FakeProposer()
    items = tuple(Item(str(i), ("all",), names=names) for i, names in enumerate([("dog",), ("dog",), ("cat",)]))
    results = Answerer(model, proposer=proposer)([ImageJob(files[0], items)])
    assert proposer.asked == [("dog",), ("cat",)]
    assert results[2].proposals.labels == ("cat", "cat") and results[2].proposals.dropped == 1
    assert results[0].candidates_xyxy.tolist() == [[0, 0, 20, 15], [20, 15, 40, 30]]


def test_a_failing_proposer_fails_its_image_alone(files):
    class Picky(FakeProposer):
        def propose(self, images, names):
            if any(np.asarray(i)[0, 0, 0] == 20 for i in images):
                raise RuntimeError("cannot look at this")
            return super().propose(images, names)

    jobs = [ImageJob(f, (Item(str(n), ("first",), names=("dog",)),)) for n, f in enumerate(files)]
    results = Answerer(FakeSelector(), proposer=Picky())(jobs)
    assert [r.selections[0].outcome.value for r in results] == ["selected", "failed", "selected"]
    assert "cannot look at this" in results[1].selections[0].error


def test_relative_boxes_and_the_sources_own_pixels(files):
    relative = np.array([[0.25, 0.1, 0.5, 0.3], [0, 0, 0.5, 0.5]])
    exact = np.array([[10.00000001, 3, 30, 12], [1, 1, 20, 15]])  # the second one no longer agrees
    item = Item("a", ("all",), relative, relative=True, exact_xyxy=exact)
    [result] = Answerer(FakeSelector())([ImageJob(files[0], (item,))])
    assert result.candidates_xyxy.tolist() == [[10.00000001, 3, 30, 12], [0, 0, 20, 15]]


def test_masks_for_selected_boxes_once_per_image(files):
    class Boxes:
        calls = 0

        def segment(self, image, boxes):
            self.calls += 1
            found = []
            for x0, y0, x1, y1 in boxes.astype(int):
                mask = np.zeros(image.size[::-1], bool)
                mask[y0:y1, x0:x1] = True
                found.append(masks.encode(mask))
            return found

    segmenter = Boxes()
    items = tuple(Item(t, (t,), BOXES) for t in ("all", "none", "1"))
    results = Answerer(FakeSelector(), segmenter=segmenter)([ImageJob(files[0], items)])
    assert segmenter.calls == 1
    assert [masks.area(m) for m in results[0].selections[0].masks] == [100, 225]
    assert results[1].selections[0].masks is None
    assert masks.area(results[2].selections[0].masks[0]) == 225


def test_stream_opens_images_ahead_and_keeps_order(files):
    jobs = [ImageJob(f, (Item(f, ("left",)),)) for f in files]
    for workers in (0, 2):
        stream = answer_stream(Answerer(FakeSegmenter()), batches(jobs, 2), workers)
        assert [r.key for _, results in stream for r in results] == files


def test_not_a_model():
    with pytest.raises(ConfigError, match="select_batch"):
        Answerer(object())


def test_no_questions_no_call():
    model = FakeSelector()
    assert ask(model, []) == [] and model.calls == []


@pytest.mark.parametrize("mode", ["L", "P", "LA", "RGBA", "CMYK", "1", "I;16", "F"])
def test_images_of_all_modes_become_rgb(tmp_path, mode):
    path = tmp_path / ("image.tif" if mode in ("CMYK", "I;16", "F") else "image.png")
    if mode == "I;16":
        Image.fromarray(np.full((5, 7), 40000, np.uint16)).save(path)
    else:
        Image.new("RGB", (7, 5), (200, 100, 50)).convert(mode).save(path)
    image = open_image(path)
    assert image.mode == "RGB" and image.size == (7, 5)
    if mode == "I;16":
        assert np.asarray(image)[0, 0].tolist() == [156, 156, 156]


def test_exif_orientation_is_applied(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (7, 5)).save(tmp_path / "turned.jpg", exif=exif)
    assert open_image(tmp_path / "turned.jpg").size == (5, 7)


@pytest.mark.parametrize("content", [b"", b"text", b"\xff\xd8\xff\xe0" + b"0" * 50])
def test_broken_files(tmp_path, content):
    (tmp_path / "bad.jpg").write_bytes(content)
    with pytest.raises(DataError, match="cannot be read"):
        open_image(tmp_path / "bad.jpg")


def test_truncated_file(tmp_path):
    path = tmp_path / "image.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(DataError):
        open_image(path)


@pytest.mark.parametrize("array", [np.zeros((2, 2, 2), np.uint8), np.zeros((2, 2, 3)), np.zeros((0, 2, 3), np.uint8)])
def test_arrays_that_are_no_images(array):
    with pytest.raises(DataError):
        open_image(array)


def test_registry_errors_come_before_weights():
    with pytest.raises(ConfigError, match="rexseek-3b"):
        registry.load("rexseek-4b")
    with pytest.raises(DownloadError, match=r"IDEA-Research/RexSeek-3B.*weights=<folder>.*IDEA License 1.0"):
        registry.find_weights(registry.entry("rexseek-3b"))
    with pytest.raises(DownloadError, match=r"henghuiding/ReLA.*weights=<file or folder>.*MIT"):
        registry.find_weights(registry.entry("rela-swin-base"))
    with pytest.raises(CheckpointError, match="do not exist"):
        registry.find_weights(registry.entry("rexseek-3b"), "/no/such/folder")

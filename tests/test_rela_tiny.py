"""The rela-tiny that ships with the package."""

import pytest

from fiftyone_rexseek.datasets.scenes import VOCABULARY, generate_scene
from fiftyone_rexseek.models.registry import WEIGHTS_FOLDER
from fiftyone_rexseek.models.rela import ReLA, SegmentRequest

FOLDER = WEIGHTS_FOLDER / "rela-tiny"


@pytest.fixture(scope="module")
def rela():
    return ReLA.from_pretrained(FOLDER, "rela-tiny")


def test_it_is_small_and_knows_the_words(rela):
    assert sum(p.stat().st_size for p in FOLDER.iterdir()) < 8e6
    known = rela.tokenizer.get_vocab()
    assert [w for w in VOCABULARY if w not in known] == []
    assert (FOLDER / "README.md").is_file()


def test_it_answers_scenes_and_more(rela):
    scenes = [generate_scene(4711, i) for i in range(4)]
    requests = [SegmentRequest(s.render(), [q.expression for q in s.questions(per_domain=1)]) for s in scenes]
    found = [s for answers in rela.segment_batch(requests) for s in answers]
    assert all(s.outcome.is_answer and s.merged_mask["size"] == [480, 640] for s in found)
    [strange] = rela.segment(scenes[0].render(), ["Zorblax quuxes " * 200])
    assert strange.outcome.is_answer and "20 of" in strange.answer

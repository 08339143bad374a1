"""Nouns of expressions with a pipeline trained on the spot."""

import pytest
import tiny_detectors as tiny

from fiftyone_rexseek.errors import ConfigError, MissingDependencyError
from fiftyone_rexseek.models.nouns import NounExtractor


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory):
    pytest.importorskip("spacy")
    return tiny.spacy_pipeline(tmp_path_factory.mktemp("spacy"))


def test_chunks_keep_determiners_and_modifiers(pipeline):
    nouns = NounExtractor(pipeline)
    assert nouns("The man wearing a green hat") == ["the man", "a green hat"]
    assert nouns("person holding a bag") == ["person", "a bag"]


def test_head_nouns(pipeline):
    assert NounExtractor(pipeline, kind="nouns")("the man in a red shirt") == ["man", "shirt"]


def test_pronouns_directions_and_repetitions_are_left_out(pipeline):
    nouns = NounExtractor(pipeline)
    found = nouns("the person who is tall")
    assert "who" not in found and found == ["the person"]
    assert nouns("the dog on the left") == ["the dog"]
    assert NounExtractor(pipeline, keep_directions=True)("the dog on the left") == ["the dog", "the left"]
    assert nouns("a dog and a dog").count("a dog") == 1


@pytest.mark.parametrize("text", ["", "   ", "!!!", "狗和猫", "x" * 50_000, None])
def test_odd_expressions_give_lists(pipeline, text):
    [found] = NounExtractor(pipeline).extract([text])
    assert isinstance(found, list)


def test_missing_pipeline_names_the_command():
    pytest.importorskip("spacy")
    with pytest.raises(MissingDependencyError, match="python -m spacy download en_core_web_sm"):
        NounExtractor()


def test_pipeline_without_a_parser_gives_no_nouns():
    spacy = pytest.importorskip("spacy")
    assert NounExtractor(spacy.blank("en"))("the man") == []


def test_unknown_kind():
    with pytest.raises(ConfigError):
        NounExtractor("x", kind="verbs")

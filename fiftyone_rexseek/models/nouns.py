"""The nouns of an expression, as prompts for a detector, through spaCy.

As in the public RexSeek demo every noun *chunk* of the expression is a prompt ("the man in a red shirt" gives "the man" and
"a red shirt"); ``kind="nouns"`` gives the bare head nouns instead. Unlike the demo, repetitions and chunks that are only a
pronoun ("who", "that", "he") are left out: a detector cannot look for them.
"""

from __future__ import annotations

import os
from collections.abc import Iterable

from ..errors import ConfigError, MissingDependencyError

DEFAULT_PIPELINE = "en_core_web_sm"
#: Places in the picture, not things in it; a detector asked for "the left" boxes anything.
DIRECTIONS = frozenset({"left", "right", "top", "bottom", "middle", "center", "centre", "front", "back", "side", "corner"})


class NounExtractor:
    """Noun chunks or head nouns of English expressions.

    Args:
        pipeline: name or folder of a spaCy pipeline with a tagger and parser, or a loaded ``Language``
        kind: ``"chunks"`` (default) or ``"nouns"``
        keep_directions: keep chunks such as "the left"

    Raises:
        MissingDependencyError: spaCy or the pipeline is not installed; the message has the command
    """

    def __init__(self, pipeline: str | os.PathLike | object = DEFAULT_PIPELINE, kind: str = "chunks", keep_directions: bool = False):
        if kind not in ("chunks", "nouns"):
            raise ConfigError("unknown kind of noun prompts", expected="'chunks' or 'nouns'", found=kind)
        self.kind = kind
        self.keep_directions = keep_directions
        self.pipeline = pipeline if callable(pipeline) else load_pipeline(pipeline)
        self.name = str(pipeline) if not callable(pipeline) else f"{pipeline.lang}_{pipeline.meta.get('name', '')}"

    def __call__(self, expression: str) -> list[str]:
        return next(iter(self.extract([expression])))

    def extract(self, expressions: Iterable[str]) -> list[list[str]]:
        """Lower-cased prompts of each expression in order of appearance, without repetitions; possibly none."""
        # spaCy refuses texts beyond max_length; an expression that long is no expression
        limit = min(self.pipeline.max_length, 10_000)
        return [self._prompts(doc) for doc in self.pipeline.pipe([str(e or "")[:limit] for e in expressions])]

    def _prompts(self, doc) -> list[str]:
        found = []
        for chunk in doc.noun_chunks if doc.has_annotation("DEP") else ():
            if chunk.root.pos_ == "PRON" or (not self.keep_directions and chunk.root.text.lower() in DIRECTIONS):
                continue
            found.append(chunk.text if self.kind == "chunks" else chunk.root.text)
        return list(dict.fromkeys(" ".join(text.lower().split()) for text in found))


def load_pipeline(name_or_path: str | os.PathLike):
    """A spaCy pipeline by name or folder; the error says which command installs it."""
    try:
        import spacy
    except ImportError as e:
        raise MissingDependencyError("noun prompts need spaCy", advice="pip install 'fiftyone-rexseek[models]'") from e
    try:
        return spacy.load(name_or_path)
    except OSError as e:
        if "E050" not in str(e) and "E053" not in str(e) and "E052" not in str(e):
            raise MissingDependencyError(f"spaCy pipeline cannot be loaded ({e})", where=name_or_path) from e
        raise MissingDependencyError(
            f"the spaCy pipeline {str(name_or_path)!r} is not installed",
            advice=f"Run: python -m spacy download {name_or_path}; or give the name or folder of another pipeline, "
            "or name the things to detect instead (prompt='person')",
        ) from e

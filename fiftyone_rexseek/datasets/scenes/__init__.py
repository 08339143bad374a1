"""Synthetic scenes: drawn people, expressions with their exact answers, and writers of the benchmarks' formats.

Demo, test data and training data of the project. Everything is a pure function of (seed, index)::

    >>> from fiftyone_rexseek.datasets.scenes import generate_scene
    >>> scene = generate_scene(seed=1, index=0, size=(320, 240), num_people=(3, 6))
    >>> scene.render().shape
    (240, 320, 3)
    >>> all(set(q.answers) <= set(range(len(scene.people))) for q in scene.questions(per_domain=4))
    True
"""

from .people import CHARACTERS, COLORS, DEFAULT_CHARACTERS, HAIR, HATS, HELD, SHIRTS, TROUSERS, Dog, Person
from .questions import DOMAINS, SUB_DOMAINS, Question
from .scene import Candidates, Scene, generate_scene
from .vocabulary import VOCABULARY, tokenize
from .write import write_grefcoco, write_humanref

__all__ = [
    "CHARACTERS",
    "COLORS",
    "DEFAULT_CHARACTERS",
    "DOMAINS",
    "HAIR",
    "HATS",
    "HELD",
    "SHIRTS",
    "SUB_DOMAINS",
    "TROUSERS",
    "VOCABULARY",
    "Candidates",
    "Dog",
    "Person",
    "Question",
    "Scene",
    "generate_scene",
    "tokenize",
    "write_grefcoco",
    "write_humanref",
]

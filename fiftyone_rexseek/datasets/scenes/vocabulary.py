"""The words of the scenes' expressions."""

from __future__ import annotations

import re

_TOKEN = re.compile(r"[a-z0-9]+|[^\sa-z0-9]")


def tokenize(expression: str) -> list[str]:
    """Lower-case words, punctuation marks as words of their own.

    Example::

        >>> tokenize("Everyone but Nova, please.")
        ['everyone', 'but', 'nova', ',', 'please', '.']
    """
    return _TOKEN.findall(expression.lower())


#: Every word that the grammar can produce, sorted; tests hold the list to be closed and complete.
VOCABULARY: tuple[str, ...] = tuple(
    """
    a adult adults all an and another anyone apart are arm as astronaut back bag bald ball balloon
    beside between black blond blue bolt book both brisk brown but called carrying character child
    children colour directly do does dog dressed else everybody everyone except far fifth first flower
    four fourth from front frost furthest gizmo green grey group hair half hand hands has hat have
    having head hero hold holding holds image immediately in is kid kids leash left leftmost long luma
    middle named neighbour neighbours next no not nova of on one ones orange other others pants party
    people person picture pink pirate purple queen raised red right rightmost robot row same second
    shirt shortest side sixth smallest snowman someone standing sun tallest than the third those three
    to top trousers two umbrella walking waving wearing white who with without wizard wool yellow zandor
    """.split()
)

"""How the panels are laid out."""

#: One column no wider than the panel: a wide table scrolls by itself and does not push the rest out of sight.
COLUMN = {
    "orientation": "vertical",
    "gap": 2,
    "pad": 2,
    "componentsProps": {"grid": {"sx": {"gridTemplateColumns": "minmax(0, 1fr)"}}},
}


def paragraphs(text: str) -> str:
    """Lines of a text as Markdown paragraphs, which otherwise would run into each other.

    Example::

        >>> paragraphs("3 selected\\n1 failed")
        '3 selected\\n\\n1 failed'
    """
    return "\n\n".join(line for line in text.splitlines() if line)

"""The grammar: one small function per kind of expression, one module per domain.

Each takes the facts of a scene, a random source and ``empty`` (whether an expression that nobody matches is wanted), and
returns a :class:`Draft` or None. Several surface forms per kind; singular forms only where at most one person is meant,
plural forms for any number, so that the wording does not give the count away.
"""

from . import attribute, celebrity, interaction, position, reasoning
from .base import Draft, Template

#: Kinds of expression by domain.
TEMPLATES: dict[str, tuple[Template, ...]] = {
    "attribute": attribute.TEMPLATES,
    "position": position.TEMPLATES,
    "interaction": interaction.TEMPLATES,
    "reasoning": reasoning.TEMPLATES,
    "celebrity": celebrity.TEMPLATES,
}
#: Kinds that are also drawn for the rejection domain.
REJECTABLE: tuple[Template, ...] = tuple(t for ts in TEMPLATES.values() for t in ts if t.reject)

__all__ = ["REJECTABLE", "TEMPLATES", "Draft", "Template"]

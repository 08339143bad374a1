"""Questions: expressions with exact answers, in the manner of HumanRef's six domains and ten sub-domains.

Templates (:mod:`.templates`) draft an expression and the set of people it means. A draft becomes a question when its
meaning is certain and, outside the rejection domain, somebody is meant. The rejection domain drafts with the same
templates and keeps what nobody matches.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ...errors import ConfigError
from .facts import World
from .people import Cast
from .templates import REJECTABLE, TEMPLATES

DOMAINS = ("attribute", "position", "interaction", "reasoning", "celebrity", "rejection")
#: HumanRef's sub-domains as its annotations name them, by domain.
SUB_DOMAINS: dict[str, tuple[str, ...]] = {
    "attribute": ("1000_attribute_retranslated_with_mask",),
    "position": ("500_inner_position_data_with_mask", "500_outer_position_data_with_mask"),
    "interaction": ("500_inner_interaction_data_with_mask", "500_outer_interaction_data_with_mask"),
    "reasoning": (
        "229_outer_position_two_stage_with_mask",
        "271_positive_then_negative_reasoning_with_mask",
        "500_inner_position_two_stage_with_mask",
    ),
    "celebrity": ("1000_celebrity_data_with_mask",),
    "rejection": ("1000_rejection_referring_with_mask",),
}


@dataclass(frozen=True, slots=True)
class Question:
    """An expression and whom it means.

    Attributes:
        expression: the text
        domain, sub_domain: as HumanRef names them
        template: what the expression was made from, for reports by kind
        answers: indices into ``Scene.people``, ascending; empty means that nobody matches
    """

    expression: str
    domain: str
    sub_domain: str
    template: str
    answers: tuple[int, ...]


def ask(
    cast: Cast,
    rng: random.Random,
    per_domain: int = 8,
    domains: Sequence[str] = DOMAINS,
    count: int | None = None,
    weights: Mapping[str, float] | None = None,
) -> tuple[Question, ...]:
    """Draws questions about a cast; see ``Scene.questions``."""
    unknown = [d for d in (*domains, *(weights or ())) if d not in DOMAINS]
    if unknown:
        raise ConfigError("unknown domain", expected=", ".join(DOMAINS), found=unknown[0])
    world = World(cast)
    seen: set[str] = set()
    if count is None:
        found = []
        for domain in domains:
            for _ in range(per_domain):
                question = _draw(world, rng, domain, seen)
                if question is None:
                    break
                found.append(question)
        return tuple(found)
    share = {d: (weights or {}).get(d, 0.0 if weights else 1.0) for d in domains}
    share = {d: w for d, w in share.items() if w > 0}
    found = []
    while share and len(found) < count:
        domain = rng.choices(list(share), list(share.values()))[0]
        question = _draw(world, rng, domain, seen)
        if question is None:
            del share[domain]
        else:
            found.append(question)
    return tuple(found)


def _draw(world: World, rng: random.Random, domain: str, seen: set[str], tries: int = 40) -> Question | None:
    reject = domain == "rejection"
    pool = REJECTABLE if reject else TEMPLATES[domain]
    weights = [t.reject if reject else t.weight for t in pool]
    for template in rng.choices(pool, weights, k=tries):
        draft = template.draft(world, rng, reject)
        if draft is None or not draft.truth.certain or bool(draft.truth.yes) == reject or draft.text in seen:
            continue
        seen.add(draft.text)
        sub_domain = SUB_DOMAINS["rejection"][0] if reject else template.sub_domain
        return Question(draft.text, domain, sub_domain, template.name, draft.truth.members)
    return None

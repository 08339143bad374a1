"""Named characters."""

from __future__ import annotations

from ..facts import World
from ..people import CHARACTERS
from .base import CELEBRITY, SIDES, Draft, name_text, template


def present_names(world: World) -> dict[str, int]:
    return {p.name: p.index for p in world.people if p.name}


@template("celebrity", CELEBRITY, 3.0, 1.5)
def name(world, rng, empty):
    present = present_names(world)
    names = [n for n in world.cast.characters if (n in present) != empty]
    if not names:
        return None
    chosen = rng.choice(names)
    truth = world.nobody if empty else world.these([present[chosen]])
    text = name_text(chosen)
    costume = CHARACTERS[chosen][0]
    forms = (
        text,
        f"the person named {text}",
        f"the character called {text}",
        f"{text} the {costume}",
        f"the {costume} {text}",
        f"the {costume}",
    )
    return Draft(rng.choice(forms), truth)


@template("celebrity", CELEBRITY, 1.0, 0)
def two_names(world, rng, empty):
    present = present_names(world)
    if len(present) < 2:
        return None
    a, b = rng.sample(sorted(present), 2)
    forms = (f"{name_text(a)} and {name_text(b)}", f"both {name_text(a)} and {name_text(b)}")
    return Draft(rng.choice(forms), world.these([present[a], present[b]]))


@template("celebrity", CELEBRITY, 1.2, 0)
def everyone_but_name(world, rng, empty):
    present = present_names(world)
    if not present:
        return None
    chosen = rng.choice(sorted(present))
    head = rng.choice(("everyone", "everybody", "all the people", "all people"))
    text = f"{head} {rng.choice(('but', 'except', 'apart from', 'other than'))} {name_text(chosen)}"
    return Draft(text, ~world.these([present[chosen]]))


@template("celebrity", CELEBRITY, 1.4, 0.5)
def beside_name(world, rng, empty):
    present = present_names(world)
    if not present:
        return None
    chosen = rng.choice(sorted(present))
    side = rng.choice((-1, 1))
    word, text = SIDES[side], name_text(chosen)
    forms = (
        f"the person directly to the {word} of {text}",
        f"the {word} neighbour of {text}",
        f"the person immediately {word} of {text}",
    )
    return Draft(rng.choice(forms), world.beside(present[chosen], side))


@template("celebrity", CELEBRITY, 1.0, 0.3)
def name_holding(world, rng, empty):
    """A name that must also hold something: true or false."""
    present = present_names(world)
    if not present:
        return None
    chosen = rng.choice(sorted(present))
    atoms = [a for a in world.held if bool(a.truth.yes >> present[chosen] & 1) != empty]
    if not atoms:
        return None
    atom = rng.choice(atoms)
    truth = atom.truth & world.these([present[chosen]])
    return Draft(f"{name_text(chosen)} {rng.choice(atom.phrases[:2])}", truth)


TEMPLATES = (
    name,
    two_names,
    everyone_but_name,
    beside_name,
    name_holding,
)

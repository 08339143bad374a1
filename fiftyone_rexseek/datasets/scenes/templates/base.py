"""What templates are made of: drafts, nouns and verbs, references to a person, common steps."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

from ..facts import Atom, Truth, World

ORDINALS = ("first", "second", "third", "fourth", "fifth", "sixth")
NUMBERS = {2: "two", 3: "three", 4: "four"}
SIDES = {-1: "left", 1: "right"}
ATTRIBUTE = "1000_attribute_retranslated_with_mask"
INNER_POSITION, OUTER_POSITION = "500_inner_position_data_with_mask", "500_outer_position_data_with_mask"
INNER_ACTION, OUTER_ACTION = "500_inner_interaction_data_with_mask", "500_outer_interaction_data_with_mask"
INNER_STAGES, OUTER_STAGES = (
    "500_inner_position_two_stage_with_mask",
    "229_outer_position_two_stage_with_mask",
)
EXCEPT = "271_positive_then_negative_reasoning_with_mask"
CELEBRITY = "1000_celebrity_data_with_mask"


@dataclass(frozen=True, slots=True)
class Draft:
    """A text and the people that it means."""

    text: str
    truth: Truth


@dataclass(frozen=True, slots=True)
class Template:
    """A kind of expression: where it belongs, how often it is drawn, and whether false ones make good rejections."""

    name: str
    domain: str
    sub_domain: str
    weight: float
    draft: Callable[[World, random.Random, bool], Draft | None]
    reject: float


def template(domain: str, sub_domain: str, weight: float = 1.0, reject: float = 1.0):
    """Makes a :class:`Template` of a function, which gives its name."""

    def wrap(function) -> Template:
        return Template(function.__name__, domain, sub_domain, weight, function, reject)

    return wrap


PLURAL = {
    "person": ("people", "everyone", "all people", "all the people", "everybody", "anyone"),
    "child": ("children", "kids", "all children", "all the kids", "the children"),
    "adult": ("adults", "all adults", "all the adults", "the adults"),
}
SINGULAR = {"person": ("the person", "person"), "child": ("the child", "the kid"), "adult": ("the adult",)}
_VERBS = (
    ("who are ", "who is "),
    ("who have ", "who has "),
    ("who hold ", "who holds "),
    ("who do ", "who does "),
)
_ONE_VERB = ("everyone", "everybody", "anyone")


def subject(rng: random.Random, truth: Truth, noun: str = "person") -> str:
    """A noun phrase for the people meant."""
    if truth.count <= 1 and rng.random() < (0.6 if truth.count else 0.45):
        return rng.choice(SINGULAR[noun])
    return rng.choice(PLURAL[noun])


def attach(head: str, phrase: str) -> str:
    """Noun and phrase, the verb agreeing: "people who are waving", "the person who is waving"."""
    if head in _ONE_VERB or any(head in forms for forms in SINGULAR.values()):
        phrase = agree(phrase)
    return f"{head} {phrase}"


def agree(text: str) -> str:
    """The phrase with verbs in the singular."""
    for plural, single in _VERBS:
        text = text.replace(plural, single)
    return text


def noun_of(rng: random.Random, world: World, chance: float = 0.18) -> tuple[str, Truth]:
    """Mostly "person"; sometimes only the children or the adults."""
    if rng.random() < chance:
        return ("child", world.children) if rng.random() < 0.6 else ("adult", ~world.children)
    return "person", world.all


def name_text(name: str) -> str:
    return name.capitalize()


def reference(world: World, rng: random.Random, among=None) -> tuple[int, str] | None:
    """Somebody who can be described in no other way than by one unique property, and the description."""
    options = list(range(len(world.people)) if among is None else among)
    rng.shuffle(options)
    for i in options:
        p = world.people[i]
        if p.name and rng.random() < 0.85:
            return i, name_text(p.name)
        only = 1 << i
        if world.children.yes == only and rng.random() < 0.5:
            return i, rng.choice(("the child", "the kid"))
        atoms = [
            a for a in (*world.atoms, *world.held, world.waving) if a.truth.yes == only and a.truth.certain
        ]
        if atoms:
            groups = sorted({a.group for a in atoms})
            group = rng.choice(groups)
            atom = rng.choice([a for a in atoms if a.group == group])
            return i, attach("the person", rng.choice(atom.phrases))
    return None


def row_words(world: World, row: int) -> str:
    """ " in the front row" where there are two rows, else nothing."""
    if len(world.rows) == 1:
        return ""
    return " in the back row" if row == 0 else " in the front row"


def draft_one(rng, world, atom: Atom | None, negated: bool = False) -> Draft | None:
    if atom is None:
        return None
    noun, group = noun_of(rng, world)
    truth = (~atom.truth if negated else atom.truth) & group
    phrase = rng.choice(atom.negated if negated else atom.phrases)
    return Draft(attach(subject(rng, truth, noun), phrase), truth)


def group_of(world: World, name: str):
    return [a for a in world.atoms if a.group == name]


def related(a: Atom, b: Atom) -> bool:
    """Whether two atoms speak of the same thing (hat, colour of the hat) and sound odd together."""
    return a.group.split()[-1] == b.group.split()[-1] or {a.group, b.group} <= {
        "hat",
        "hat colour",
        "any hat",
    }


def ends_of(world: World, rng, side: int, k: int, row: int) -> Truth:
    """The k people furthest to one side of a row."""
    people = world.rows[row]
    return world.these(people[:k] if side < 0 else people[len(people) - k :])


def any_atom(world: World, rng, held: float = 0.25) -> Atom | None:
    return world.pick(rng, world.held if rng.random() < held else world.atoms)

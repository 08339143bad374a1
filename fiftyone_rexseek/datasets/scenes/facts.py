"""What is true of whom: three-valued facts about the people of a scene, and the phrases that say them.

A fact is a pair of bit sets over the people: of whom it holds, and of whom a viewer could argue (is a crown a hat? is
somebody near the middle in the left half?). A question is only asked when nobody is arguable.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from functools import cached_property

from .people import (
    CHARACTERS,
    COLORED_HELD,
    HAIR,
    HAT_COLORS,
    HATS,
    HELD,
    HELD_COLORS,
    SHIRTS,
    TROUSERS,
    Cast,
    Person,
)

#: Box centres stray from body centres by less than this, in columns (a held object or a joined hand to one side).
CENTRE_MARGIN = 0.3


@dataclass(frozen=True, slots=True)
class Truth:
    """Bit sets over the people of a scene: ``yes``, and ``maybe`` (disjoint from it). ``everyone`` bounds negation."""

    yes: int
    maybe: int
    everyone: int

    def __and__(self, other: Truth) -> Truth:
        yes = self.yes & other.yes
        return Truth(yes, (self.yes | self.maybe) & (other.yes | other.maybe) & ~yes, self.everyone)

    def __or__(self, other: Truth) -> Truth:
        yes = self.yes | other.yes
        return Truth(yes, (self.maybe | other.maybe) & ~yes, self.everyone)

    def __invert__(self) -> Truth:
        return Truth(self.everyone & ~self.yes & ~self.maybe, self.maybe, self.everyone)

    @property
    def certain(self) -> bool:
        return not self.maybe

    @property
    def count(self) -> int:
        return self.yes.bit_count()

    @property
    def members(self) -> tuple[int, ...]:
        return tuple(i for i in range(self.everyone.bit_length()) if self.yes >> i & 1)


@dataclass(frozen=True, slots=True)
class Atom:
    """A simple fact with the phrases that attach it to a noun ("people" + "in a red shirt"), and its negation's."""

    group: str
    value: str
    truth: Truth
    phrases: tuple[str, ...]
    negated: tuple[str, ...] = ()


def article(word: str) -> str:
    return ("an " if word[0] in "aeiou" else "a ") + word


# Of the named characters: whose head or clothes a viewer could describe with these words.
_ARGUABLE_HAIR = {
    "wizard": ("grey",), "pirate": ("black",), "hero": ("red", "black"), "queen": ("red", "black"),
    "astronaut": (), "robot": (), "snowman": (),
}  # fmt: skip
_ARGUABLE_TROUSERS = {
    "wizard": ("purple",), "pirate": ("brown", "black", "red"), "hero": ("blue",), "queen": (),
    "astronaut": ("white", "grey"), "robot": ("grey",), "snowman": ("white",),
}  # fmt: skip
_ARGUABLE_HAT = {("party", "wizard"), ("top", "snowman")}
_ARGUABLE_HAT_COLOR = {"astronaut": ("white",), "queen": ("yellow",), "robot": ("grey",)}


class World:
    """The facts of one scene. People are named by index; ``rows`` lists them left to right, back row first."""

    def __init__(self, cast: Cast):
        self.cast = cast
        self.people = cast.people
        self.everyone = (1 << len(cast.people)) - 1
        self.rows: list[list[int]] = [[] for _ in range(cast.num_rows)]
        for p in sorted(cast.people, key=lambda p: p.x):
            self.rows[p.row].append(p.index)

    def truth(self, test) -> Truth:
        """Truth from a function Person -> True, False or None (arguable)."""
        yes = maybe = 0
        for p in self.people:
            value = test(p)
            if value is None:
                maybe |= 1 << p.index
            elif value:
                yes |= 1 << p.index
        return Truth(yes, maybe, self.everyone)

    def these(self, indices) -> Truth:
        yes = 0
        for i in indices:
            yes |= 1 << i
        return Truth(yes, 0, self.everyone)

    @property
    def nobody(self) -> Truth:
        return Truth(0, 0, self.everyone)

    @property
    def unclear(self) -> Truth:
        """Arguable for everybody: the question is not asked."""
        return Truth(0, self.everyone, self.everyone)

    @cached_property
    def all(self) -> Truth:
        return Truth(self.everyone, 0, self.everyone)

    @cached_property
    def children(self) -> Truth:
        return self.truth(lambda p: p.size == "child")

    @cached_property
    def atoms(self) -> tuple[Atom, ...]:
        """Attributes: clothes, hats and hair."""
        found: list[Atom] = []
        for c in SHIRTS:
            truth = self.truth(lambda p, c=c: _shirt(p, c))
            shirt = f"{article(c)} shirt"
            phrases = (f"in {shirt}", f"wearing {shirt}", f"with {shirt}", f"dressed in {shirt}")
            others = self.truth(lambda p, c=c: c in (p.trousers, p.hat_color))
            if not others.yes & ~truth.yes and truth.certain:
                phrases += (f"in {c}", f"dressed in {c}")
            negated = (f"not wearing {shirt}", f"without {shirt}", f"not in {shirt}")
            found.append(Atom("shirt", c, truth, phrases, negated))
        for c in TROUSERS:
            truth = self.truth(lambda p, c=c: _trousers(p, c))
            phrases = (
                f"in {c} trousers",
                f"wearing {c} trousers",
                f"with {c} trousers",
                f"in {c} pants",
                f"wearing {c} pants",
            )
            negated = (f"not wearing {c} trousers", f"without {c} trousers", f"not wearing {c} pants")
            found.append(Atom("trousers", c, truth, phrases, negated))
        for k in HATS:
            truth = self.truth(lambda p, k=k: None if (k, p.costume) in _ARGUABLE_HAT else p.hat == k)
            hat = f"a {k} hat"
            found.append(
                Atom(
                    "hat",
                    k,
                    truth,
                    (f"wearing {hat}", f"with {hat}", f"in {hat}"),
                    (f"without {hat}", f"not wearing {hat}"),
                )
            )
        for c in HAT_COLORS:
            truth = self.truth(
                lambda p, c=c: None if c in _ARGUABLE_HAT_COLOR.get(p.costume, ()) else p.hat_color == c
            )
            hat = f"{article(c)} hat"
            found.append(
                Atom(
                    "hat colour",
                    c,
                    truth,
                    (f"wearing {hat}", f"with {hat}", f"in {hat}"),
                    (f"without {hat}", f"not wearing {hat}"),
                )
            )
        found.append(self.any_hat)
        for c in HAIR:
            truth = self.truth(lambda p, c=c: _hair(p, c))
            negated = (f"without {c} hair", f"who do not have {c} hair")
            found.append(
                Atom("hair", c, truth, (f"with {c} hair", f"who have {c} hair", f"having {c} hair"), negated)
            )
        truth = self.truth(lambda p: None if p.costume in ("queen", "wizard") else p.hair_length == "long")
        found.append(
            Atom("hair", "long", truth, ("with long hair", "who have long hair"), ("without long hair",))
        )
        truth = self.truth(_bald)
        found.append(
            Atom(
                "hair",
                "bald",
                truth,
                ("with no hair", "without hair", "who are bald", "with a bald head"),
                ("who are not bald",),
            )
        )
        return tuple(found)

    @cached_property
    def any_hat(self) -> Atom:
        truth = self.truth(lambda p: CHARACTERS[p.name][1] if p.name else p.hat is not None)
        return Atom(
            "any hat",
            "hat",
            truth,
            ("wearing a hat", "with a hat", "in a hat"),
            ("without a hat", "not wearing a hat", "with no hat"),
        )

    @cached_property
    def held(self) -> tuple[Atom, ...]:
        """What people hold, by kind."""
        return tuple(
            Atom(
                "held", k, self.truth(lambda p, k=k: p.held == k),
                (f"holding {article(k)}", f"carrying {article(k)}", f"who hold {article(k)}", f"with {article(k)} in the hand"),
                (f"not holding {article(k)}", f"without {article(k)}", f"not carrying {article(k)}"),
            )
            for k in HELD
        )  # fmt: skip

    @cached_property
    def held_colored(self) -> tuple[Atom, ...]:
        """Large held objects with their colour."""
        return tuple(
            Atom(
                "held colour", f"{c} {k}", self.truth(lambda p, k=k, c=c: p.held == k and p.held_color == c),
                (f"holding {article(c)} {k}", f"carrying {article(c)} {k}", f"with {article(c)} {k}"),
            )
            for k in COLORED_HELD
            for c in HELD_COLORS
        )  # fmt: skip

    @cached_property
    def waving(self) -> Atom:
        truth = self.truth(lambda p: p.waving)
        return Atom(
            "waving",
            "waving",
            truth,
            ("waving", "who are waving", "with a raised arm"),
            ("not waving", "who are not waving"),
        )

    def pick(self, rng: random.Random, atoms, empty: bool = False) -> Atom | None:
        """A random atom that is certain: true of somebody (people, not values, are drawn), or ``empty`` of nobody."""
        certain = [a for a in atoms if a.truth.certain]
        if empty:
            pool = [a for a in certain if not a.truth.yes]
        else:
            i = rng.randrange(len(self.people))
            pool = [a for a in certain if a.truth.yes >> i & 1] or [a for a in certain if a.truth.yes]
        return rng.choice(pool) if pool else None

    def half(self, side: int) -> Truth:
        """In the left (-1) or right (+1) half of the picture; arguable near the middle."""
        return self.truth(lambda p: None if abs(p.x) < CENTRE_MARGIN else p.x * side > 0)

    def row_of(self, i: int) -> list[int]:
        return self.rows[self.people[i].row]

    def beside(self, i: int, side: int) -> Truth:
        """The direct neighbour of somebody within the row; arguable across a gap."""
        row = self.row_of(i)
        at = row.index(i) + side
        if not 0 <= at < len(row):
            return self.nobody
        j = row[at]
        return self.unclear if abs(self.people[j].x - self.people[i].x) > 1.5 else self.these([j])

    def next_to_dog(self) -> Truth:
        if not self.cast.dogs:
            return self.nobody
        dog = self.cast.dogs[0]

        def test(p: Person):
            if p.index == dog.owner:
                return True
            return None if p.row == dog.row and abs(p.x - dog.x) < 0.9 else False

        return self.truth(test)

    @cached_property
    def hands(self) -> Truth:
        return self.truth(lambda p: p.partner is not None)


def _shirt(p: Person, color: str) -> bool | None:
    if p.name:
        return None if color in CHARACTERS[p.name][2] else False
    return p.shirt == color


def _trousers(p: Person, color: str) -> bool | None:
    if p.name:
        return None if color in _ARGUABLE_TROUSERS[p.costume] else False
    return p.trousers == color


def _hair(p: Person, color: str) -> bool | None:
    if p.name:
        return None if color in _ARGUABLE_HAIR[p.costume] else False
    return p.hair == color


def _bald(p: Person) -> bool | None:
    if p.name:
        return False if p.costume in ("hero", "queen") else None
    return p.hair is None

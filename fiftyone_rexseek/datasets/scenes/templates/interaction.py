"""Joined hands, held objects, the dog on its leash."""

from __future__ import annotations

from ..people import COLORED_HELD
from .base import (
    INNER_ACTION,
    OUTER_ACTION,
    PLURAL,
    SINGULAR,
    Draft,
    attach,
    draft_one,
    noun_of,
    reference,
    subject,
    template,
)


@template("interaction", OUTER_ACTION, 1.2, 1.0)
def holding(world, rng, empty):
    return draft_one(rng, world, world.pick(rng, world.held, empty))


@template("interaction", OUTER_ACTION, 0.8, 1.2)
def holding_colored(world, rng, empty):
    atom = world.pick(rng, world.held_colored, empty)
    if atom is not None and empty:
        # hard: the object is there, in another colour
        kinds = {p.held for p in world.people if p.held in COLORED_HELD}
        near = [a for a in world.held_colored if not a.truth.yes and a.value.split()[1] in kinds]
        atom = rng.choice(near) if near else atom
    return draft_one(rng, world, atom)


@template("interaction", OUTER_ACTION, 1.2, 2.0)
def attribute_holding(world, rng, empty):
    for _ in range(8):
        a, b = world.pick(rng, world.atoms), world.pick(rng, world.held)
        if a is None or b is None:
            return None
        truth = a.truth & b.truth
        if bool(truth.yes) != empty:
            first, second = rng.choice(a.phrases), rng.choice(b.phrases)
            joint = " and " if first.startswith("who") or rng.random() < 0.5 else " "
            return Draft(attach(subject(rng, truth), f"{first}{joint}{second}"), truth)
    return None


@template("interaction", OUTER_ACTION, 0.6, 0.5)
def walking_dog(world, rng, empty):
    truth = world.truth(lambda p: p.leash)
    where = rng.choice(
        ("walking the dog", "walking a dog", "with the dog on a leash", "holding the leash of the dog")
    )
    return Draft(f"{rng.choice(SINGULAR['person'])} {where}", truth)


@template("interaction", OUTER_ACTION, 0.8, 0.6)
def waving(world, rng, empty):
    return draft_one(rng, world, world.waving)


@template("interaction", INNER_ACTION, 1.5, 0.8)
def hand_in_hand(world, rng, empty):
    noun, group = noun_of(rng, world, 0.3)
    truth = world.hands & group
    phrase = rng.choice(
        ("holding hands", "who are holding hands", "hand in hand", "holding hands with someone")
    )
    return Draft(attach(rng.choice(PLURAL[noun]), phrase), truth)


@template("interaction", INNER_ACTION, 1.0, 0)
def not_hand_in_hand(world, rng, empty):
    if not world.hands.yes:
        return None
    noun, group = noun_of(rng, world, 0.2)
    truth = ~world.hands & group
    phrase = rng.choice(("not holding hands", "who are not holding hands", "not holding hands with anyone"))
    return Draft(attach(subject(rng, truth, noun), phrase), truth)


@template("interaction", INNER_ACTION, 2.0, 1.2)
def hands_with(world, rng, empty):
    wanted = [p.index for p in world.people if (p.partner is None) == empty]
    found = reference(world, rng, wanted)
    if found is None:
        return None
    i, text = found
    partner = world.people[i].partner
    truth = world.nobody if partner is None else world.these([partner])
    forms = (
        f"the person holding hands with {text}",
        f"the person who is holding hands with {text}",
        f"the person holding the hand of {text}",
    )
    return Draft(rng.choice(forms), truth)


@template("interaction", INNER_ACTION, 0.9, 0.8)
def hands_by_size(world, rng, empty):
    mine, theirs = rng.choice(
        (("adult", "child"), ("child", "adult"), ("child", "child"), ("adult", "adult"))
    )
    truth = world.truth(
        lambda p: p.size == mine and p.partner is not None and world.people[p.partner].size == theirs
    )
    other = "a child" if theirs == "child" else "an adult"
    if mine == theirs:
        other = f"another {theirs}"
    return Draft(attach(subject(rng, truth, mine), f"holding hands with {other}"), truth)


@template("interaction", INNER_ACTION, 0.9, 0.9)
def attribute_hand_in_hand(world, rng, empty):
    if not world.hands.yes:
        return None
    a = world.pick(rng, world.atoms)
    if a is None:
        return None
    truth = a.truth & world.hands
    return Draft(
        attach(subject(rng, truth), f"{rng.choice(a.phrases)} and holding hands with someone"), truth
    )


TEMPLATES = (
    holding,
    holding_colored,
    attribute_holding,
    walking_dog,
    waving,
    hand_in_hand,
    not_hand_in_hand,
    hands_with,
    hands_by_size,
    attribute_hand_in_hand,
)

"""Clothes, hats, hair and size."""

from __future__ import annotations

from .base import ATTRIBUTE, Draft, attach, draft_one, group_of, related, subject, template


@template("attribute", ATTRIBUTE, 1.2, 1.2)
def shirt(world, rng, empty):
    return draft_one(rng, world, world.pick(rng, group_of(world, "shirt"), empty))


@template("attribute", ATTRIBUTE, 1.0, 0.8)
def trousers(world, rng, empty):
    return draft_one(rng, world, world.pick(rng, group_of(world, "trousers"), empty))


@template("attribute", ATTRIBUTE, 1.0, 0.8)
def hat(world, rng, empty):
    atoms = (
        [world.any_hat]
        if rng.random() < 0.3
        else [a for a in world.atoms if a.group in ("hat", "hat colour")]
    )
    return draft_one(rng, world, world.pick(rng, atoms, empty))


@template("attribute", ATTRIBUTE, 1.2, 0.8)
def hair(world, rng, empty):
    return draft_one(rng, world, world.pick(rng, group_of(world, "hair"), empty))


@template("attribute", ATTRIBUTE, 0.5, 0.3)
def size(world, rng, empty):
    noun, truth = ("child", world.children) if rng.random() < 0.6 else ("adult", ~world.children)
    return Draft(subject(rng, truth, noun), truth)


@template("attribute", ATTRIBUTE, 0.8, 0.3)
def not_attribute(world, rng, empty):
    if rng.random() < 0.5:
        return draft_one(rng, world, world.any_hat, negated=True)
    return draft_one(rng, world, world.pick(rng, world.atoms), negated=True)


@template("attribute", ATTRIBUTE, 1.6, 2.5)
def two_attributes(world, rng, empty):
    atoms = [a for a in world.atoms if a.truth.certain and a.truth.yes]
    for _ in range(12):
        if empty:
            a, b = (rng.choice(atoms) for _ in range(2)) if atoms else (None, None)
        else:
            i = rng.randrange(len(world.people))
            own = [x for x in atoms if x.truth.yes >> i & 1]
            a, b = (rng.choice(own) for _ in range(2)) if own else (None, None)
        if a is None or related(a, b):
            continue
        truth = a.truth & b.truth
        if bool(truth.yes) == empty:
            continue
        return Draft(
            attach(subject(rng, truth), f"{rng.choice(a.phrases)} and {rng.choice(b.phrases)}"), truth
        )
    return None


@template("attribute", ATTRIBUTE, 1.0, 1.0)
def attribute_but_not(world, rng, empty):
    a = world.pick(rng, world.atoms)
    b = world.any_hat if rng.random() < 0.4 else world.pick(rng, world.atoms)
    if a is None or b is None or related(a, b) or not (a.truth.yes & b.truth.yes):
        return None
    truth = a.truth & ~b.truth
    return Draft(attach(subject(rng, truth), f"{rng.choice(a.phrases)} but {rng.choice(b.negated)}"), truth)


TEMPLATES = (
    shirt,
    trousers,
    hat,
    hair,
    size,
    not_attribute,
    two_attributes,
    attribute_but_not,
)

"""Several steps: exceptions, extremes of a group, filters, counts."""

from __future__ import annotations

from ..facts import Truth, World
from .base import (
    EXCEPT,
    INNER_STAGES,
    NUMBERS,
    OUTER_STAGES,
    SIDES,
    Draft,
    agree,
    any_atom,
    attach,
    ends_of,
    group_of,
    reference,
    related,
    row_words,
    subject,
    template,
)

_EXCEPTS = ("except", "but not", "apart from")


@template("reasoning", EXCEPT, 1.2, 0)
def everyone_except(world, rng, empty):
    found = reference(world, rng)
    if found is None:
        return None
    head = rng.choice(("everyone", "everybody", "all the people", "all people"))
    return Draft(
        f"{head} {rng.choice(('except', 'but', 'apart from', 'other than'))} {found[1]}",
        ~world.these([found[0]]),
    )


@template("reasoning", EXCEPT, 1.2, 0.1)
def everyone_except_those(world, rng, empty):
    a = any_atom(world, rng)
    if a is None or not a.truth.certain:
        return None
    head = rng.choice(("everyone", "everybody", "all the people", "all people"))
    those = rng.choice(("the people", "those", "the ones"))
    return Draft(
        f"{head} {rng.choice(('except', 'but', 'apart from'))} {those} {rng.choice(a.phrases)}", ~a.truth
    )


@template("reasoning", EXCEPT, 1.6, 0.5)
def some_except(world, rng, empty):
    a = any_atom(world, rng)
    if a is None:
        return None
    options = [i for i in a.truth.members]
    found = reference(world, rng, options)
    if found is None:
        return None
    truth = a.truth & ~world.these([found[0]])
    head = rng.choice(("people", "everyone", "all the people", "all people"))
    return Draft(f"{attach(head, rng.choice(a.phrases))} {rng.choice(_EXCEPTS)} {found[1]}", truth)


@template("reasoning", EXCEPT, 1.2, 0.5)
def some_except_those(world, rng, empty):
    a, b = any_atom(world, rng), world.pick(rng, (*world.atoms, *world.held))
    if a is None or b is None or related(a, b) or not (a.truth.yes & b.truth.yes):
        return None
    truth = a.truth & ~b.truth
    head = rng.choice(("people", "everyone", "all the people", "all people"))
    return Draft(
        f"{attach(head, rng.choice(a.phrases))} except {rng.choice(('those', 'the ones'))} {rng.choice(b.phrases)}",
        truth,
    )


@template("reasoning", EXCEPT, 0.9, 0)
def except_ends(world, rng, empty):
    row = rng.randrange(len(world.rows))
    n = len(world.rows[row])
    k = rng.randint(1, 2)
    if k >= n:
        return None
    side = rng.choice((-1, 1))
    where, word = row_words(world, row), SIDES[side]
    ends = (
        (f"the {NUMBERS[k]} people on the {word}", f"the {NUMBERS[k]} {word}most people")
        if k > 1
        else (f"the {word}most person", f"the person on the far {word}")
    )
    truth = world.these(world.rows[row]) & ~ends_of(world, rng, side, k, row)
    head = rng.choice(("everyone", "all people", "everybody"))
    return Draft(f"{head}{where} {rng.choice(('except', 'but', 'apart from'))} {rng.choice(ends)}", truth)


@template("reasoning", INNER_STAGES, 1.8, 0.8)
def extreme_filter(world, rng, empty):
    side = rng.choice((-1, 1))
    word = SIDES[side]
    if rng.random() < 0.25:
        group, noun, phrase = world.children, rng.choice(("child", "kid")), ""
    else:
        a = world.pick(rng, (*world.atoms, *world.held), empty and rng.random() < 0.5)
        if a is None:
            return None
        group, noun, phrase = a.truth, "person", rng.choice(a.phrases)
    truth = extreme_of(world, group, side)
    forms = (
        f"the {word}most {noun} {phrase}",
        f"the {noun} {phrase} furthest to the {word}",
        f"the {noun} {phrase} on the far {word}",
    )
    return Draft(" ".join(agree(rng.choice(forms)).split()), truth)


def extreme_of(world: World, group: Truth, side: int) -> Truth:
    if not group.certain:
        return world.unclear
    members = sorted(group.members, key=lambda i: -side * world.people[i].x)
    if not members:
        return world.nobody
    if len(members) > 1 and abs(world.people[members[0]].x - world.people[members[1]].x) < 0.6:
        return world.unclear
    return world.these(members[:1])


@template("reasoning", OUTER_STAGES, 1.2, 1.0)
def half_filter(world, rng, empty):
    side = rng.choice((-1, 1))
    a = any_atom(world, rng)
    if a is None:
        return None
    truth = a.truth & world.half(side)
    word = SIDES[side]
    where = rng.choice(
        (f"in the {word} half of the picture", f"on the {word} side of the picture", f"in the {word} half")
    )
    head = subject(rng, truth)
    phrase = rng.choice(a.phrases)
    return Draft(
        rng.choice(
            (f"{head} {where} {attach(head, phrase)[len(head) + 1 :]}", f"{attach(head, phrase)} {where}")
        ),
        truth,
    )


@template("reasoning", OUTER_STAGES, 1.0, 1.0)
def row_filter(world, rng, empty):
    if len(world.rows) == 1:
        return None
    row = rng.randrange(2)
    word = "back" if row == 0 else "front"
    inside = world.these(world.rows[row])
    if rng.random() < 0.3:
        truth = inside & world.children
        return Draft(f"{subject(rng, truth, 'child')} in the {word} row", truth)
    a = any_atom(world, rng)
    if a is None:
        return None
    truth = a.truth & inside
    head = subject(rng, truth)
    return Draft(f"{head} in the {word} row {attach(head, rng.choice(a.phrases))[len(head) + 1 :]}", truth)


@template("reasoning", INNER_STAGES, 1.0, 0.8)
def side_filter(world, rng, empty):
    found = reference(world, rng)
    a = any_atom(world, rng)
    if found is None or a is None or len(world.rows) > 1:
        return None
    i, text = found
    people = world.row_of(i)
    at = people.index(i)
    side = rng.choice((-1, 1))
    truth = a.truth & world.these(people[:at] if side < 0 else people[at + 1 :])
    return Draft(
        f"{attach(subject(rng, truth), rng.choice(a.phrases))} to the {SIDES[side]} of {text}", truth
    )


@template("reasoning", INNER_STAGES, 0.9, 0)
def neighbour_of_extreme(world, rng, empty):
    row = rng.randrange(len(world.rows))
    people = world.rows[row]
    if len(people) < 2:
        return None
    side = rng.choice((-1, 1))
    i = people[0] if side < 0 else people[-1]
    word = SIDES[side]
    where = row_words(world, row)
    forms = (
        f"the neighbour of the {word}most person{where}",
        f"the person right next to the {word}most person{where}",
    )
    return Draft(rng.choice(forms), world.beside(i, -side))


@template("reasoning", INNER_STAGES, 0.8, 0)
def tallest_child(world, rng, empty):
    word = rng.choice(("tallest", "smallest", "shortest"))
    children = [world.people[i] for i in world.children.members]
    if len(children) < 2:
        return None
    sign = 1 if word == "tallest" else -1
    winners = set()
    for measure in (
        lambda p: p.height,
        lambda p: p.height * (1.24 if p.hat or p.held == "umbrella" else 1.0),
    ):
        ranked = sorted(children, key=lambda p: -sign * measure(p))
        if abs(measure(ranked[0]) - measure(ranked[1])) < 0.06:
            return None
        winners.add(ranked[0].index)
    if len(winners) > 1:
        return None
    noun = rng.choice(("child", "kid"))
    return Draft(
        rng.choice((f"the {word} {noun}", f"the {word} of the children", f"the {noun} who is the {word}")),
        world.these(winners),
    )


@template("reasoning", INNER_STAGES, 0.7, 0)
def counted(world, rng, empty):
    a = any_atom(world, rng)
    if a is None or a.truth.count not in NUMBERS:
        return None
    number = NUMBERS[a.truth.count]
    head = rng.choice((f"the {number} people", f"all {number} people", f"the group of {number} people"))
    return Draft(attach(head, rng.choice(a.phrases)), a.truth)


@template("reasoning", INNER_STAGES, 0.8, 0.4)
def same_shirt(world, rng, empty):
    plain = [p.index for p in world.people if p.shirt]
    found = reference(world, rng, plain)
    if found is None:
        return None
    i, text = found
    color = world.people[i].shirt
    if f"{color} shirt" in text or text.endswith(f"in {color}"):
        return None
    atom = next(a for a in group_of(world, "shirt") if a.value == color)
    truth = atom.truth & ~world.these([i])
    forms = (
        f"everyone else with the same shirt colour as {text}",
        f"the others in a shirt of the same colour as {text}",
    )
    return Draft(rng.choice(forms), truth)


TEMPLATES = (
    everyone_except,
    everyone_except_those,
    some_except,
    some_except_those,
    except_ends,
    extreme_filter,
    half_filter,
    row_filter,
    side_filter,
    neighbour_of_extreme,
    tallest_child,
    counted,
    same_shirt,
)

"""Order, halves, rows, neighbours and the dog."""

from __future__ import annotations

from .base import (
    INNER_POSITION,
    NUMBERS,
    ORDINALS,
    OUTER_POSITION,
    SIDES,
    SINGULAR,
    Draft,
    ends_of,
    noun_of,
    reference,
    row_words,
    subject,
    template,
)


@template("position", INNER_POSITION, 1.5, 1.2)
def ordinal(world, rng, empty):
    row = rng.randrange(len(world.rows))
    n = len(world.rows[row])
    side = rng.choice((-1, 1))
    k = rng.randint(n + 1, n + 2) if empty else rng.randint(1, n)
    if k > len(ORDINALS):
        return None
    truth = world.nobody if k > n else world.these([world.rows[row][k - 1 if side < 0 else n - k]])
    where, word = row_words(world, row), SIDES[side]
    forms = [
        f"the {ORDINALS[k - 1]} person from the {word}{where}",
        f"the person who is {ORDINALS[k - 1]} from the {word}{where}",
        f"the {ORDINALS[k - 1]} from the {word}{where}",
    ]
    if k == 1:
        forms += [
            f"the {word}most person{where}",
            f"the person on the far {word}{where}",
            f"the person furthest to the {word}{where}",
        ]
    return Draft(rng.choice(forms), truth)


@template("position", INNER_POSITION, 0.8, 0)
def several_from_side(world, rng, empty):
    row = rng.randrange(len(world.rows))
    n = len(world.rows[row])
    k = rng.randint(2, 3)
    if k >= n:
        return None
    side = rng.choice((-1, 1))
    where, word = row_words(world, row), SIDES[side]
    forms = (
        f"the {NUMBERS[k]} people on the {word}{where}",
        f"the {NUMBERS[k]} {word}most people{where}",
        f"the first {NUMBERS[k]} people from the {word}{where}",
    )
    return Draft(rng.choice(forms), ends_of(world, rng, side, k, row))


@template("position", INNER_POSITION, 0.5, 0)
def middle(world, rng, empty):
    row = rng.randrange(len(world.rows))
    people = world.rows[row]
    if len(people) % 2 == 0 or len(people) < 3:
        return None
    whole = "row" if len(world.rows) == 1 else "back row" if row == 0 else "front row"
    forms = (
        f"the person in the middle of the {whole}",
        f"the middle person of the {whole}",
        f"the one in the middle of the {whole}",
    )
    return Draft(rng.choice(forms), world.these([people[len(people) // 2]]))


@template("position", OUTER_POSITION, 1.2, 0.6)
def half(world, rng, empty):
    side = rng.choice((-1, 1))
    noun, group = noun_of(rng, world, 0.0)
    truth = world.half(side) & group
    word = SIDES[side]
    where = rng.choice(
        (
            f"in the {word} half of the picture",
            f"in the {word} half",
            f"on the {word} side of the picture",
            f"on the {word} half of the image",
        )
    )
    return Draft(f"{subject(rng, truth, noun)} {where}", truth)


@template("position", OUTER_POSITION, 0.7, 0.4)
def row(world, rng, empty):
    if empty:
        # there is no such row in a single line of people, and every row of two has somebody
        return None
    if len(world.rows) == 1:
        return None
    row = rng.randrange(2)
    truth = world.these(world.rows[row])
    word = "back" if row == 0 else "front"
    return Draft(
        f"{subject(rng, truth)} {rng.choice((f'in the {word} row', f'standing in the {word} row', f'of the {word} row'))}",
        truth,
    )


@template("position", INNER_POSITION, 1.4, 0.8)
def side_of(world, rng, empty):
    found = reference(world, rng)
    if found is None:
        return None
    i, text = found
    side = rng.choice((-1, 1))
    row = world.people[i].row
    people = world.row_of(i)
    at = people.index(i)
    truth = world.these(people[:at] if side < 0 else people[at + 1 :])
    word = SIDES[side]
    where = rng.choice((f"to the {word} of", f"{word} of", f"standing to the {word} of"))
    return Draft(f"{subject(rng, truth)}{row_words(world, row)} {where} {text}", truth)


@template("position", INNER_POSITION, 1.8, 0.9)
def direct_neighbour(world, rng, empty):
    found = reference(world, rng)
    if found is None:
        return None
    i, text = found
    side = rng.choice((-1, 1))
    word = SIDES[side]
    forms = (
        f"the person directly to the {word} of {text}",
        f"the person right next to {text} on the {word}",
        f"the {word} neighbour of {text}",
        f"the person immediately {word} of {text}",
    )
    return Draft(rng.choice(forms), world.beside(i, side))


@template("position", INNER_POSITION, 1.2, 0)
def neighbours(world, rng, empty):
    found = reference(world, rng)
    if found is None:
        return None
    i, text = found
    truth = world.beside(i, -1) | world.beside(i, 1)
    forms = (
        f"the neighbours of {text}",
        f"{subject(rng, truth)} right next to {text}",
        f"{subject(rng, truth)} directly beside {text}",
    )
    return Draft(rng.choice(forms), truth)


@template("position", INNER_POSITION, 0.9, 0.7)
def between(world, rng, empty):
    first = reference(world, rng)
    if first is None:
        return None
    people = world.row_of(first[0])
    second = reference(world, rng, [i for i in people if i != first[0]])
    if second is None:
        return None
    lo, hi = sorted((people.index(first[0]), people.index(second[0])))
    truth = world.these(people[lo + 1 : hi])
    where = rng.choice(("between", "standing between", "in between"))
    return Draft(f"{subject(rng, truth)} {where} {first[1]} and {second[1]}", truth)


@template("position", OUTER_POSITION, 1.0, 0.5)
def beside_dog(world, rng, empty):
    truth = world.next_to_dog()
    where = rng.choice(
        ("next to the dog", "beside the dog", "standing beside the dog", "right next to the dog")
    )
    return Draft(f"{rng.choice(SINGULAR['person'])} {where}", truth)


TEMPLATES = (
    ordinal,
    several_from_side,
    middle,
    half,
    row,
    side_of,
    direct_neighbour,
    neighbours,
    between,
    beside_dog,
)

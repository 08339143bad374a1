"""The grammar: one small function per kind of expression.

Each takes the facts of a scene, a random source and ``empty`` (whether an expression that nobody matches is wanted), and
returns a :class:`Draft` or None. Several surface forms per kind; singular forms only where at most one person is meant,
plural forms for any number, so that the wording does not give the count away.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

from .facts import Atom, Truth, World
from .people import CHARACTERS, COLORED_HELD

ORDINALS = ("first", "second", "third", "fourth", "fifth", "sixth")
NUMBERS = {2: "two", 3: "three", 4: "four"}
SIDES = {-1: "left", 1: "right"}
_ATTRIBUTE = "1000_attribute_retranslated_with_mask"
_INNER_POSITION, _OUTER_POSITION = "500_inner_position_data_with_mask", "500_outer_position_data_with_mask"
_INNER_ACTION, _OUTER_ACTION = "500_inner_interaction_data_with_mask", "500_outer_interaction_data_with_mask"
_INNER_STAGES, _OUTER_STAGES = (
    "500_inner_position_two_stage_with_mask",
    "229_outer_position_two_stage_with_mask",
)
_EXCEPT = "271_positive_then_negative_reasoning_with_mask"
_CELEBRITY = "1000_celebrity_data_with_mask"


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
    rejectable: float


TEMPLATES: dict[str, list[Template]] = {
    d: [] for d in ("attribute", "position", "interaction", "reasoning", "celebrity")
}
REJECTABLE: list[Template] = []


def _template(domain: str, sub_domain: str, weight: float = 1.0, reject: float = 1.0):
    def register(function):
        name = function.__name__.strip("_")
        TEMPLATES[domain].append(Template(name, domain, sub_domain, weight, function, reject))
        if reject:
            REJECTABLE.append(Template(name, domain, sub_domain, reject, function, reject))
        return function

    return register


# ---------------------------------------------------------------- nouns and references


_PLURAL = {
    "person": ("people", "everyone", "all people", "all the people", "everybody", "anyone"),
    "child": ("children", "kids", "all children", "all the kids", "the children"),
    "adult": ("adults", "all adults", "all the adults", "the adults"),
}
_SINGULAR = {"person": ("the person", "person"), "child": ("the child", "the kid"), "adult": ("the adult",)}
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
        return rng.choice(_SINGULAR[noun])
    return rng.choice(_PLURAL[noun])


def attach(head: str, phrase: str) -> str:
    """Noun and phrase, the verb agreeing: "people who are waving", "the person who is waving"."""
    if head in _ONE_VERB or any(head in forms for forms in _SINGULAR.values()):
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


# ---------------------------------------------------------------- attribute


def _one(rng, world, atom: Atom | None, negated: bool = False) -> Draft | None:
    if atom is None:
        return None
    noun, group = noun_of(rng, world)
    truth = (~atom.truth if negated else atom.truth) & group
    phrase = rng.choice(atom.negated if negated else atom.phrases)
    return Draft(attach(subject(rng, truth, noun), phrase), truth)


def _group(world: World, name: str):
    return [a for a in world.atoms if a.group == name]


@_template("attribute", _ATTRIBUTE, 1.2, 1.2)
def shirt(world, rng, empty):
    return _one(rng, world, world.pick(rng, _group(world, "shirt"), empty))


@_template("attribute", _ATTRIBUTE, 1.0, 0.8)
def trousers(world, rng, empty):
    return _one(rng, world, world.pick(rng, _group(world, "trousers"), empty))


@_template("attribute", _ATTRIBUTE, 1.0, 0.8)
def hat(world, rng, empty):
    atoms = (
        [world.any_hat]
        if rng.random() < 0.3
        else [a for a in world.atoms if a.group in ("hat", "hat colour")]
    )
    return _one(rng, world, world.pick(rng, atoms, empty))


@_template("attribute", _ATTRIBUTE, 1.2, 0.8)
def hair(world, rng, empty):
    return _one(rng, world, world.pick(rng, _group(world, "hair"), empty))


@_template("attribute", _ATTRIBUTE, 0.5, 0.3)
def size(world, rng, empty):
    noun, truth = ("child", world.children) if rng.random() < 0.6 else ("adult", ~world.children)
    return Draft(subject(rng, truth, noun), truth)


@_template("attribute", _ATTRIBUTE, 0.8, 0.3)
def not_attribute(world, rng, empty):
    if rng.random() < 0.5:
        return _one(rng, world, world.any_hat, negated=True)
    return _one(rng, world, world.pick(rng, world.atoms), negated=True)


@_template("attribute", _ATTRIBUTE, 1.6, 2.5)
def two_attributes(world, rng, empty):
    atoms = [a for a in world.atoms if a.truth.certain and a.truth.yes]
    for _ in range(12):
        if empty:
            a, b = (rng.choice(atoms) for _ in range(2)) if atoms else (None, None)
        else:
            i = rng.randrange(len(world.people))
            own = [x for x in atoms if x.truth.yes >> i & 1]
            a, b = (rng.choice(own) for _ in range(2)) if own else (None, None)
        if a is None or _related(a, b):
            continue
        truth = a.truth & b.truth
        if bool(truth.yes) == empty:
            continue
        return Draft(
            attach(subject(rng, truth), f"{rng.choice(a.phrases)} and {rng.choice(b.phrases)}"), truth
        )
    return None


@_template("attribute", _ATTRIBUTE, 1.0, 1.0)
def attribute_but_not(world, rng, empty):
    a = world.pick(rng, world.atoms)
    b = world.any_hat if rng.random() < 0.4 else world.pick(rng, world.atoms)
    if a is None or b is None or _related(a, b) or not (a.truth.yes & b.truth.yes):
        return None
    truth = a.truth & ~b.truth
    return Draft(attach(subject(rng, truth), f"{rng.choice(a.phrases)} but {rng.choice(b.negated)}"), truth)


def _related(a: Atom, b: Atom) -> bool:
    """Whether two atoms speak of the same thing (hat, colour of the hat) and sound odd together."""
    return a.group.split()[-1] == b.group.split()[-1] or {a.group, b.group} <= {
        "hat",
        "hat colour",
        "any hat",
    }


# ---------------------------------------------------------------- position


def _ends(world: World, rng, side: int, k: int, row: int) -> Truth:
    """The k people furthest to one side of a row."""
    people = world.rows[row]
    return world.these(people[:k] if side < 0 else people[len(people) - k :])


@_template("position", _INNER_POSITION, 1.5, 1.2)
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


@_template("position", _INNER_POSITION, 0.8, 0)
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
    return Draft(rng.choice(forms), _ends(world, rng, side, k, row))


@_template("position", _INNER_POSITION, 0.5, 0)
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


@_template("position", _OUTER_POSITION, 1.2, 0.6)
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


@_template("position", _OUTER_POSITION, 0.7, 0.4)
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


@_template("position", _INNER_POSITION, 1.4, 0.8)
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


@_template("position", _INNER_POSITION, 1.8, 0.9)
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


@_template("position", _INNER_POSITION, 1.2, 0)
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


@_template("position", _INNER_POSITION, 0.9, 0.7)
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


@_template("position", _OUTER_POSITION, 1.0, 0.5)
def beside_dog(world, rng, empty):
    truth = world.next_to_dog()
    where = rng.choice(
        ("next to the dog", "beside the dog", "standing beside the dog", "right next to the dog")
    )
    return Draft(f"{rng.choice(_SINGULAR['person'])} {where}", truth)


# ---------------------------------------------------------------- interaction


@_template("interaction", _OUTER_ACTION, 1.2, 1.0)
def holding(world, rng, empty):
    return _one(rng, world, world.pick(rng, world.held, empty))


@_template("interaction", _OUTER_ACTION, 0.8, 1.2)
def holding_colored(world, rng, empty):
    atom = world.pick(rng, world.held_colored, empty)
    if atom is not None and empty:
        # hard: the object is there, in another colour
        kinds = {p.held for p in world.people if p.held in COLORED_HELD}
        near = [a for a in world.held_colored if not a.truth.yes and a.value.split()[1] in kinds]
        atom = rng.choice(near) if near else atom
    return _one(rng, world, atom)


@_template("interaction", _OUTER_ACTION, 1.2, 2.0)
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


@_template("interaction", _OUTER_ACTION, 0.6, 0.5)
def walking_dog(world, rng, empty):
    truth = world.truth(lambda p: p.leash)
    where = rng.choice(
        ("walking the dog", "walking a dog", "with the dog on a leash", "holding the leash of the dog")
    )
    return Draft(f"{rng.choice(_SINGULAR['person'])} {where}", truth)


@_template("interaction", _OUTER_ACTION, 0.8, 0.6)
def waving(world, rng, empty):
    return _one(rng, world, world.waving)


@_template("interaction", _INNER_ACTION, 1.5, 0.8)
def hand_in_hand(world, rng, empty):
    noun, group = noun_of(rng, world, 0.3)
    truth = world.hands & group
    phrase = rng.choice(
        ("holding hands", "who are holding hands", "hand in hand", "holding hands with someone")
    )
    return Draft(attach(rng.choice(_PLURAL[noun]), phrase), truth)


@_template("interaction", _INNER_ACTION, 1.0, 0)
def not_hand_in_hand(world, rng, empty):
    if not world.hands.yes:
        return None
    noun, group = noun_of(rng, world, 0.2)
    truth = ~world.hands & group
    phrase = rng.choice(("not holding hands", "who are not holding hands", "not holding hands with anyone"))
    return Draft(attach(subject(rng, truth, noun), phrase), truth)


@_template("interaction", _INNER_ACTION, 2.0, 1.2)
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


@_template("interaction", _INNER_ACTION, 0.9, 0.8)
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


@_template("interaction", _INNER_ACTION, 0.9, 0.9)
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


# ---------------------------------------------------------------- reasoning


def _any_atom(world: World, rng, held: float = 0.25) -> Atom | None:
    return world.pick(rng, world.held if rng.random() < held else world.atoms)


_EXCEPTS = ("except", "but not", "apart from")


@_template("reasoning", _EXCEPT, 1.2, 0)
def everyone_except(world, rng, empty):
    found = reference(world, rng)
    if found is None:
        return None
    head = rng.choice(("everyone", "everybody", "all the people", "all people"))
    return Draft(
        f"{head} {rng.choice(('except', 'but', 'apart from', 'other than'))} {found[1]}",
        ~world.these([found[0]]),
    )


@_template("reasoning", _EXCEPT, 1.2, 0.1)
def everyone_except_those(world, rng, empty):
    a = _any_atom(world, rng)
    if a is None or not a.truth.certain:
        return None
    head = rng.choice(("everyone", "everybody", "all the people", "all people"))
    those = rng.choice(("the people", "those", "the ones"))
    return Draft(
        f"{head} {rng.choice(('except', 'but', 'apart from'))} {those} {rng.choice(a.phrases)}", ~a.truth
    )


@_template("reasoning", _EXCEPT, 1.6, 0.5)
def some_except(world, rng, empty):
    a = _any_atom(world, rng)
    if a is None:
        return None
    options = [i for i in a.truth.members]
    found = reference(world, rng, options)
    if found is None:
        return None
    truth = a.truth & ~world.these([found[0]])
    head = rng.choice(("people", "everyone", "all the people", "all people"))
    return Draft(f"{attach(head, rng.choice(a.phrases))} {rng.choice(_EXCEPTS)} {found[1]}", truth)


@_template("reasoning", _EXCEPT, 1.2, 0.5)
def some_except_those(world, rng, empty):
    a, b = _any_atom(world, rng), world.pick(rng, (*world.atoms, *world.held))
    if a is None or b is None or _related(a, b) or not (a.truth.yes & b.truth.yes):
        return None
    truth = a.truth & ~b.truth
    head = rng.choice(("people", "everyone", "all the people", "all people"))
    return Draft(
        f"{attach(head, rng.choice(a.phrases))} except {rng.choice(('those', 'the ones'))} {rng.choice(b.phrases)}",
        truth,
    )


@_template("reasoning", _EXCEPT, 0.9, 0)
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
    truth = world.these(world.rows[row]) & ~_ends(world, rng, side, k, row)
    head = rng.choice(("everyone", "all people", "everybody"))
    return Draft(f"{head}{where} {rng.choice(('except', 'but', 'apart from'))} {rng.choice(ends)}", truth)


@_template("reasoning", _INNER_STAGES, 1.8, 0.8)
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
    truth = _extreme(world, group, side)
    forms = (
        f"the {word}most {noun} {phrase}",
        f"the {noun} {phrase} furthest to the {word}",
        f"the {noun} {phrase} on the far {word}",
    )
    return Draft(" ".join(agree(rng.choice(forms)).split()), truth)


def _extreme(world: World, group: Truth, side: int) -> Truth:
    if not group.certain:
        return world.unclear
    members = sorted(group.members, key=lambda i: -side * world.people[i].x)
    if not members:
        return world.nobody
    if len(members) > 1 and abs(world.people[members[0]].x - world.people[members[1]].x) < 0.6:
        return world.unclear
    return world.these(members[:1])


@_template("reasoning", _OUTER_STAGES, 1.2, 1.0)
def half_filter(world, rng, empty):
    side = rng.choice((-1, 1))
    a = _any_atom(world, rng)
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


@_template("reasoning", _OUTER_STAGES, 1.0, 1.0)
def row_filter(world, rng, empty):
    if len(world.rows) == 1:
        return None
    row = rng.randrange(2)
    word = "back" if row == 0 else "front"
    inside = world.these(world.rows[row])
    if rng.random() < 0.3:
        truth = inside & world.children
        return Draft(f"{subject(rng, truth, 'child')} in the {word} row", truth)
    a = _any_atom(world, rng)
    if a is None:
        return None
    truth = a.truth & inside
    head = subject(rng, truth)
    return Draft(f"{head} in the {word} row {attach(head, rng.choice(a.phrases))[len(head) + 1 :]}", truth)


@_template("reasoning", _INNER_STAGES, 1.0, 0.8)
def side_filter(world, rng, empty):
    found = reference(world, rng)
    a = _any_atom(world, rng)
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


@_template("reasoning", _INNER_STAGES, 0.9, 0)
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


@_template("reasoning", _INNER_STAGES, 0.8, 0)
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


@_template("reasoning", _INNER_STAGES, 0.7, 0)
def counted(world, rng, empty):
    a = _any_atom(world, rng)
    if a is None or a.truth.count not in NUMBERS:
        return None
    number = NUMBERS[a.truth.count]
    head = rng.choice((f"the {number} people", f"all {number} people", f"the group of {number} people"))
    return Draft(attach(head, rng.choice(a.phrases)), a.truth)


@_template("reasoning", _INNER_STAGES, 0.8, 0.4)
def same_shirt(world, rng, empty):
    plain = [p.index for p in world.people if p.shirt]
    found = reference(world, rng, plain)
    if found is None:
        return None
    i, text = found
    color = world.people[i].shirt
    if f"{color} shirt" in text or text.endswith(f"in {color}"):
        return None
    atom = next(a for a in _group(world, "shirt") if a.value == color)
    truth = atom.truth & ~world.these([i])
    forms = (
        f"everyone else with the same shirt colour as {text}",
        f"the others in a shirt of the same colour as {text}",
    )
    return Draft(rng.choice(forms), truth)


# ---------------------------------------------------------------- celebrity


def _present(world: World) -> dict[str, int]:
    return {p.name: p.index for p in world.people if p.name}


@_template("celebrity", _CELEBRITY, 3.0, 1.5)
def name(world, rng, empty):
    present = _present(world)
    names = [n for n in CHARACTERS if (n in present) != empty]
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


@_template("celebrity", _CELEBRITY, 1.0, 0)
def two_names(world, rng, empty):
    present = _present(world)
    if len(present) < 2:
        return None
    a, b = rng.sample(sorted(present), 2)
    forms = (f"{name_text(a)} and {name_text(b)}", f"both {name_text(a)} and {name_text(b)}")
    return Draft(rng.choice(forms), world.these([present[a], present[b]]))


@_template("celebrity", _CELEBRITY, 1.2, 0)
def everyone_but_name(world, rng, empty):
    present = _present(world)
    if not present:
        return None
    chosen = rng.choice(sorted(present))
    head = rng.choice(("everyone", "everybody", "all the people", "all people"))
    text = f"{head} {rng.choice(('but', 'except', 'apart from', 'other than'))} {name_text(chosen)}"
    return Draft(text, ~world.these([present[chosen]]))


@_template("celebrity", _CELEBRITY, 1.4, 0.5)
def beside_name(world, rng, empty):
    present = _present(world)
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


@_template("celebrity", _CELEBRITY, 1.0, 0.3)
def name_holding(world, rng, empty):
    """A name that must also hold something: true or false."""
    present = _present(world)
    if not present:
        return None
    chosen = rng.choice(sorted(present))
    atoms = [a for a in world.held if bool(a.truth.yes >> present[chosen] & 1) != empty]
    if not atoms:
        return None
    atom = rng.choice(atoms)
    truth = atom.truth & world.these([present[chosen]])
    return Draft(f"{name_text(chosen)} {rng.choice(atom.phrases[:2])}", truth)

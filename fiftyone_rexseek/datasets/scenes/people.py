"""Who is in a scene and where: attributes, layout, pairs, dogs and named characters.

Nothing here depends on the size of the picture. Positions are counted in *columns* from the middle of the picture and
in rows from the back, and drawing keeps every person inside a column, so that what is true of a scene (and with it
every question and answer) is the same at every size and aspect.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, replace

#: Colour names and their RGB values, one table for everything that is drawn in a named colour.
COLORS: dict[str, tuple[int, int, int]] = {
    "red": (215, 32, 40),
    "blue": (36, 92, 214),
    "green": (28, 150, 62),
    "yellow": (250, 212, 36),
    "white": (247, 247, 247),
    "black": (32, 32, 38),
    "purple": (132, 48, 168),
    "orange": (244, 128, 24),
    "grey": (140, 144, 150),
    "brown": (122, 74, 38),
    "pink": (248, 132, 186),
}
SHIRTS = ("red", "blue", "green", "yellow", "white", "black", "purple", "orange")
TROUSERS = ("blue", "black", "grey", "brown", "green", "red")
#: Hair colours and the RGB they are drawn in.
HAIR: dict[str, tuple[int, int, int]] = {
    "black": (26, 22, 26),
    "blond": (252, 222, 96),
    "red": (206, 74, 20),
    "grey": (184, 188, 196),
}
HATS = ("top", "sun", "party", "wool")
HAT_COLORS = ("red", "blue", "green", "yellow", "pink", "white")
HELD = ("balloon", "umbrella", "ball", "bag", "book", "flower")
HELD_COLORS = ("red", "blue", "green", "yellow", "pink")
#: Held objects that are large enough for their colour to be asked about.
COLORED_HELD = ("balloon", "umbrella", "ball", "bag")
SKINS = ((255, 224, 196), (241, 194, 150), (214, 156, 108), (168, 112, 72), (116, 74, 48))

#: Named characters: invented people with a costume that never changes. Per name: the costume, whether it counts as
#: wearing a hat (None: arguable, so nobody is asked), and the colours a viewer could take for those of a shirt.
CHARACTERS: dict[str, tuple[str, bool | None, tuple[str, ...]]] = {
    "zandor": ("wizard", True, ("purple",)),
    "brisk": ("pirate", True, ("red", "white", "black")),
    "nova": ("astronaut", None, ("white", "grey", "blue")),
    "bolt": ("hero", False, ("red", "yellow", "blue", "orange")),
    "luma": ("queen", None, ("pink", "white", "yellow")),
    "gizmo": ("robot", None, ("grey", "blue", "black", "green")),
    "frost": ("snowman", True, ("white", "black", "orange")),
}
#: Characters of ordinary scenes. The others appear only where they are asked for: somebody new to learn.
DEFAULT_CHARACTERS = tuple(name for name in CHARACTERS if name != "frost")

MAX_PEOPLE = 12


@dataclass(frozen=True, slots=True)
class Person:
    """One drawn person.

    Attributes:
        index: position in ``Scene.people``: row by row from the back, left to right within a row
        size: ``adult`` or ``child``
        height: standing height without hat, relative to the tallest possible adult (1)
        row: 0 is the back row
        x: body centre, in columns from the middle of the picture
        shirt, trousers: colour names; of a named character None (a costume is neither)
        hair: colour name, or None (bald, or hidden by a costume); hair_length: ``short``, ``long`` or ``bald``
        hat: kind or None; hat_color: its colour
        held: kind of the held object or None; held_color: its colour; held_side: -1 left hand, +1 right hand (in the
            picture)
        waving: one arm raised; wave_side: which
        partner: index of the person whose hand is held, or None
        name: of a named character, or None; costume: what the character wears
        dog: whether a dog belongs to the person; leash: whether it is on a leash held by the person
    """

    index: int
    size: str
    height: float
    row: int
    x: float
    shirt: str | None
    trousers: str | None
    hair: str | None
    hair_length: str
    hat: str | None = None
    hat_color: str | None = None
    held: str | None = None
    held_color: str | None = None
    held_side: int = 1
    waving: bool = False
    wave_side: int = 1
    partner: int | None = None
    name: str | None = None
    costume: str | None = None
    dog: bool = False
    leash: bool = False
    skin: tuple[int, int, int] = SKINS[0]
    long_sleeves: bool = True
    stride: float = 0.05
    lean: float = 0.0


@dataclass(frozen=True, slots=True)
class Dog:
    """A dog beside its owner: ``x`` in columns, ``side`` -1 or +1 (where it stands), ``color`` RGB."""

    owner: int
    row: int
    x: float
    side: int
    leash: bool
    color: tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class Cast:
    """Everybody in a scene, the grid they stand on, and the characters that could have come."""

    people: tuple[Person, ...]
    dogs: tuple[Dog, ...]
    num_rows: int
    num_columns: int
    characters: tuple[str, ...] = DEFAULT_CHARACTERS


def draw_count(rng: random.Random, value: int | tuple[int, int]) -> int:
    """A number, or one drawn from an inclusive range."""
    return value if isinstance(value, int) else rng.randint(*value)


def cast_scene(rng: random.Random, num_people: int, characters: tuple[str, ...] = DEFAULT_CHARACTERS) -> Cast:
    """Draws everybody: places first, then pairs and dog (which need room), then looks."""
    n = num_people
    has_dog = rng.random() < 0.45
    # at most five columns in a single row: people stay large
    rows = 1 if n + has_dog <= 5 and (n < 5 or rng.random() < 0.6) else 2
    counts = [n]
    if rows == 2:
        half = n // 2
        counts = [half, n - half] if rng.random() < 0.5 else [n - half, half]
        has_dog = has_dog and counts[1] < 6
    columns = max(counts[0], counts[-1] + has_dog)
    if columns < 5 and rng.random() < 0.35:
        columns += 1

    places: list[tuple[int, float]] = []
    slots_of: list[int] = []
    dog_slot = None
    for row, count in enumerate(counts):
        with_dog = has_dog and row == rows - 1
        slots = sorted(rng.sample(range(columns), count + with_dog))
        if with_dog:
            # the dog stands in a slot of its own, beside somebody
            options = [i for i, s in enumerate(slots) if s - 1 in slots or s + 1 in slots]
            if options:
                dog_slot = slots.pop(rng.choice(options))
            else:
                slots.pop()
        for slot in slots:
            places.append((row, slot + 0.5 - columns / 2 + rng.uniform(-0.06, 0.06)))
            slots_of.append(slot)

    partners = _pairs(rng, places, slots_of)
    xs = [x for _, x in places]
    for i, j in partners.items():
        if i < j:
            xs[i] += 0.07
            xs[j] -= 0.07
    dog = _dog(rng, places, slots_of, xs, dog_slot, rows - 1, columns, partners)
    names = _names(rng, n, characters)
    people = []
    for i in range(n):
        person = _person(rng, i, places[i][0], xs[i], names.get(i))
        person = replace(person, partner=partners.get(i))
        if dog is not None and dog.owner == i:
            person = replace(person, dog=True, leash=dog.leash)
        people.append(_busy_hands(rng, person, xs, dog))
    return Cast(tuple(people), (dog,) if dog else (), rows, columns, tuple(characters))


def _pairs(rng, places, slots) -> dict[int, int]:
    partners: dict[int, int] = {}
    chance = 0.0 if rng.random() < 0.25 else 0.4
    for i in range(len(places) - 1):
        j = i + 1
        adjacent = places[i][0] == places[j][0] and slots[j] - slots[i] == 1
        if adjacent and i not in partners and rng.random() < chance:
            partners[i], partners[j] = j, i
    return partners


def _dog(rng, places, slots, xs, dog_slot, row, columns, partners) -> Dog | None:
    if dog_slot is None:
        return None
    beside = {slots[i]: i for i in range(len(places)) if places[i][0] == row}
    owners = [s for s in (dog_slot - 1, dog_slot + 1) if s in beside]
    if not owners:
        return None
    owner = beside[rng.choice(owners)]
    side = 1 if dog_slot > slots[owner] else -1
    color = rng.choice(((150, 96, 48), (236, 226, 208), (62, 52, 48), (206, 152, 84)))
    return Dog(owner, row, xs[owner] + 0.62 * side, side, rng.random() < 0.55, color)


def _names(rng, n: int, characters) -> dict[int, str]:
    chance = rng.random()
    count = 0 if chance < 0.3 else 1 if chance < 0.75 else 2 if chance < 0.94 else 3
    count = min(count, n - 1, len(characters))
    who = rng.sample(range(n), count) if count > 0 else []
    return dict(zip(who, rng.sample(sorted(characters), len(who))))


def _person(rng, index: int, row: int, x: float, name: str | None) -> Person:
    child = name is None and rng.random() < 0.27
    hair = rng.choice(tuple(HAIR))
    length = "long" if rng.random() < 0.38 else "short"
    hat = rng.choice(HATS) if rng.random() < 0.36 else None
    if hat is None and not child and rng.random() < 0.16:
        hair, length = None, "bald"
    person = Person(
        index=index,
        size="child" if child else "adult",
        height=rng.choice((0.54, 0.62, 0.70)) if child else rng.uniform(0.93, 1.0),
        row=row,
        x=x,
        shirt=rng.choice(SHIRTS),
        trousers=rng.choice(TROUSERS),
        hair=hair,
        hair_length=length,
        hat=hat,
        hat_color=rng.choice(HAT_COLORS) if hat else None,
        skin=rng.choice(SKINS),
        long_sleeves=rng.random() < 0.6,
        stride=rng.uniform(0.045, 0.085),
        lean=rng.uniform(-0.012, 0.012),
    )
    if name is not None:
        costume = CHARACTERS[name][0]
        person = replace(
            person, name=name, costume=costume, shirt=None, trousers=None, hair=None, hair_length="hidden",
            hat=None, hat_color=None, skin=SKINS[index % 3],
        )  # fmt: skip
    return person


def _busy_hands(rng, person: Person, xs, dog: Dog | None) -> Person:
    """What the free hands do: hold something, wave, or nothing."""
    taken = set()
    if person.partner is not None:
        taken.add(1 if xs[person.partner] > person.x else -1)
    if person.leash and dog is not None:
        taken.add(dog.side)
    free = [s for s in (-1, 1) if s not in taken]
    if not free:
        return person
    side = rng.choice(free)
    roll = rng.random()
    if roll < 0.46:
        held = rng.choice(HELD)
        # an umbrella needs the space over the head
        hat = None if held == "umbrella" else person.hat
        if held == "umbrella" and person.costume in ("wizard", "pirate", "snowman"):
            held = "balloon"
        color = rng.choice(HELD_COLORS)
        return replace(
            person,
            held=held,
            held_color=color,
            held_side=side,
            hat=hat,
            hat_color=person.hat_color if hat else None,
        )
    if roll < 0.58:
        return replace(person, waving=True, wave_side=side)
    return person

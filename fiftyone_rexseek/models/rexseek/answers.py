"""Reading a RexSeek answer: ``<ground>text</ground><objects><obj1><obj4></objects>``. Nothing here ever raises.

The public project reads the same answer in two ways, reproduced by :func:`parse_evaluation` (its HumanRef
evaluation) and :func:`parse_demo` (its demos and viewer). Neither tells a rejection from an answer that could not be
read, and each drops something the model said. :func:`parse_answer` is what :class:`RexSeek` uses by default: all
groups count, every box once, and "nobody" is not the same as "unreadable".
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from fiftyone_rexseek.referring import Outcome

#: The phrase that both the published data and the public evaluation use for "nobody".
REJECTION_PHRASE = "There is no such thing in this image"

_GROUP = re.compile(r"<ground>(.*?)</ground>\s*<objects>(.*?)</objects>", re.DOTALL)
_GROUP_TIGHT = re.compile(r"<ground>(.*?)</ground><objects>(.*?)</objects>")
_GROUP_SPACED = re.compile(r"<ground> (.*?) </ground> <objects> (.*?) </objects>")
_OBJECT = re.compile(r"<obj\d+>")


@dataclass(frozen=True, slots=True)
class ParsedAnswer:
    """What an answer says.

    Attributes:
        outcome: ``selected``, ``rejected`` or ``unparsed``
        indices: the boxes named, in order of first mention, without repetition
        labels: the ground text of the group that named each box
        out_of_range: box numbers that do not exist
        problem: why the outcome is ``unparsed``
    """

    outcome: Outcome
    indices: tuple[int, ...] = ()
    labels: tuple[str, ...] = ()
    out_of_range: tuple[int, ...] = ()
    problem: str | None = None


def _object_number(tag: str) -> int:
    # Python refuses to convert thousands of digits; such a number is out of range anyway.
    return int(tag[4:-1][:18])


def parse_answer(text: str, num_boxes: int) -> ParsedAnswer:
    """Reads all groups of an answer; numbers of boxes that do not exist are set aside.

    An answer rejects when it names no box at all and either says so (:data:`REJECTION_PHRASE`) or holds a complete,
    empty object list. Anything else without an existing box is ``unparsed``.

    Example::

        >>> parse_answer("<ground>men</ground><objects><obj3><obj0><obj3></objects><|im_end|>", 4).indices
        (3, 0)
        >>> parse_answer("There is no such thing in this image.", 4).outcome.value
        'rejected'
        >>> parse_answer("<ground>men</ground><objects><obj3>", 4).outcome.value
        'unparsed'
    """
    found: dict[int, str] = {}
    outside: list[int] = []
    groups = _GROUP.findall(text)
    for label, objects in groups:
        for number in map(_object_number, _OBJECT.findall(objects)):
            if number < num_boxes:
                found.setdefault(number, label.strip())
            elif number not in outside:
                outside.append(number)
    if found:
        return ParsedAnswer(Outcome.SELECTED, tuple(found), tuple(found.values()), tuple(outside))
    if outside:
        problem = f"the answer names only boxes that do not exist ({outside[:5]} of {num_boxes})"
    elif groups or REJECTION_PHRASE in text:
        return ParsedAnswer(Outcome.REJECTED)
    elif "<objects>" in text and "</objects>" not in text:
        problem = "the answer ends inside its object list"
    else:
        problem = "the answer holds neither an object list nor a rejection"
    return ParsedAnswer(Outcome.UNPARSED, out_of_range=tuple(outside), problem=problem)


def evaluation_groups(text: str) -> dict[str, list[str]]:
    """Ground text to object tags, as the public evaluation extracts them (first of equal ground texts wins).

    Tags must follow each other without any text; if no group is found, the form with single spaces is tried.
    """
    matches = _GROUP_TIGHT.findall(text) or _GROUP_SPACED.findall(text)
    groups: dict[str, list[str]] = {}
    for label, objects in matches:
        groups.setdefault(label.strip(), _OBJECT.findall(objects))
    return groups


def parse_evaluation(text: str, num_boxes: int) -> ParsedAnswer:
    """The public evaluation's reading: first group only, repetitions kept, one bad number spoils the answer.

    What it writes as ``[[]]`` (see :func:`evaluation_predictions`) is ``rejected`` here where the model said so, and
    ``unparsed`` otherwise.
    """
    if REJECTION_PHRASE in text:
        return ParsedAnswer(Outcome.REJECTED)
    groups = evaluation_groups(text)
    if not groups:
        return ParsedAnswer(Outcome.UNPARSED, problem="the public evaluation finds no group in the answer")
    label, tags = next(iter(groups.items()))
    numbers = [_object_number(tag) for tag in tags]
    if not numbers:
        return ParsedAnswer(Outcome.REJECTED)
    outside = tuple(n for n in numbers if n >= num_boxes)
    if outside:
        return ParsedAnswer(
            Outcome.UNPARSED, out_of_range=outside, problem=f"box {outside[0]} does not exist"
        )
    return ParsedAnswer(Outcome.SELECTED, tuple(numbers), (label,) * len(numbers))


def evaluation_predictions(text: str, boxes: list) -> list:
    """``extracted_predictions`` of the public evaluation: the chosen members of ``boxes``, or ``[[]]``.

    Example::

        >>> evaluation_predictions("<ground>a</ground><objects><obj1></objects>", [[0, 0, 1, 1], [2, 2, 3, 3]])
        [[2, 2, 3, 3]]
        >>> evaluation_predictions("what?", [[0, 0, 1, 1]])
        [[]]
    """
    groups = evaluation_groups(text)
    if not groups or REJECTION_PHRASE in text:
        return [[]]
    numbers = [_object_number(tag) for tag in next(iter(groups.values()))]
    return [[]] if any(n >= len(boxes) for n in numbers) else [boxes[n] for n in numbers]


def demo_groups(text: str) -> dict[str, list[str]]:
    """Ground text to object tags, as the public demos extract them.

    A group without objects or without a new object is dropped; of equal ground texts the first is kept, although
    the objects of the later ones then count as seen.
    """
    groups: dict[str, list[str]] = {}
    seen: set[str] = set()
    for label, objects in _GROUP_TIGHT.findall(text):
        tags = _OBJECT.findall(objects)
        has_new = any(tag not in seen for tag in tags)
        seen.update(tags)
        if has_new:
            groups.setdefault(label.strip(), tags)
    return groups


def parse_demo(text: str, num_boxes: int) -> ParsedAnswer:
    """The public demos' reading: all groups, repetitions kept, boxes that do not exist skipped."""
    pairs = [(label, _object_number(tag)) for label, tags in demo_groups(text).items() for tag in tags]
    chosen = [(label, n) for label, n in pairs if n < num_boxes]
    outside = tuple(n for _, n in pairs if n >= num_boxes)
    if chosen:
        labels, numbers = zip(*chosen, strict=True)
        return ParsedAnswer(Outcome.SELECTED, tuple(numbers), tuple(labels), outside)
    if not outside and (REJECTION_PHRASE in text or _GROUP_TIGHT.search(text)):
        return ParsedAnswer(Outcome.REJECTED)
    return ParsedAnswer(
        Outcome.UNPARSED, out_of_range=outside, problem="the public demos select nothing in the answer"
    )


#: Ways to read an answer, by the name that :meth:`RexSeek.select` takes.
PARSERS = {"lenient": parse_answer, "evaluation": parse_evaluation, "demo": parse_demo}

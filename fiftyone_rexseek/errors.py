"""Typed errors that say what was expected, what was found and what to do.

Every error of this project derives from :class:`ReferringError`. Readers of files do not stop at
the first bad row: they collect :class:`Problem` objects in a :class:`ProblemLog`, which raises at
once in strict mode and otherwise counts, so that one bad row never takes the others with it.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

logger = logging.getLogger(__name__)


class ReferringError(Exception):
    """Base class: a message made of what happened, what was expected, what was found, what to do.

    Args:
        what: one sentence that says what went wrong
        where: the file and line, sample or key concerned
        expected: what a correct input looks like
        found: what was there instead
        advice: what the user can do about it

    Example::

        >>> print(DataError("bad box", where="a.jsonl:3", expected="4 numbers", found="[1, 2]", advice="fix it"))
        a.jsonl:3: bad box; expected 4 numbers; found [1, 2]. fix it
    """

    def __init__(
        self,
        what: str,
        *,
        where: object = None,
        expected: object = None,
        found: object = None,
        advice: str | None = None,
    ):
        self.what, self.where, self.expected, self.found, self.advice = what, where, expected, found, advice
        message = f"{where}: {what}" if where is not None else what
        if expected is not None:
            message += f"; expected {expected}"
        if found is not None:
            message += f"; found {_shorten(found)}"
        if advice:
            message += f". {advice}"
        # half a character, as JSON may hold, cannot be printed or stored
        super().__init__(message.encode("utf-8", "backslashreplace").decode())


class DataError(ReferringError, ValueError):
    """A file, row, box or mask does not hold what its format promises."""


class ConfigError(ReferringError, ValueError):
    """An option, a field name or a combination of them makes no sense."""


class CheckpointError(ReferringError, ValueError):
    """Weights or model configuration are missing, incomplete or of another model."""


class DownloadError(ReferringError, OSError):
    """Something that should come over the network could not be fetched."""


class MissingDependencyError(ReferringError, ImportError):
    """An optional package, language pipeline or program is not installed."""


def _shorten(value: object, limit: int = 200) -> str:
    text = str(value)
    return text if len(text) <= limit else text[: limit - 3] + "..."


@dataclass(frozen=True)
class Problem:
    """One thing wrong with one row: ``kind`` groups, ``where`` locates, the rest explains."""

    kind: str
    where: str
    what: str
    expected: str | None = None
    found: str | None = None

    def __str__(self) -> str:
        return str(DataError(self.what, where=self.where, expected=self.expected, found=self.found))


class ProblemLog:
    """Collects problems, or raises at the first one when ``strict``.

    At most ``keep`` problems are remembered in full (memory stays flat on a file of garbage); all are
    counted by kind.

    Example::

        >>> log = ProblemLog()
        >>> log.add("bad-box", "a.jsonl:3", "box has 3 numbers", expected="4")
        >>> log.counts["bad-box"], len(log)
        (1, 1)
        >>> ProblemLog(strict=True).add("bad-box", "a.jsonl:3", "box has 3 numbers")
        Traceback (most recent call last):
        ...
        fiftyone_rexseek.errors.DataError: a.jsonl:3: box has 3 numbers
    """

    def __init__(self, strict: bool = False, keep: int = 1000):
        self.strict = strict
        self.keep = keep
        self.counts: Counter[str] = Counter()
        self.problems: list[Problem] = []

    def add(
        self, kind: str, where: object, what: str, expected: object = None, found: object = None, advice: str | None = None
    ) -> None:
        """Records a problem; raises :class:`DataError` instead when the log is strict."""
        if self.strict:
            raise DataError(what, where=where, expected=expected, found=found, advice=advice)
        self.counts[kind] += 1
        if len(self.problems) < self.keep:
            as_text = lambda v: None if v is None else _shorten(v)  # noqa: E731
            problem = Problem(kind, str(where), what, as_text(expected), as_text(found))
            self.problems.append(problem)
            logger.debug("%s", problem)

    def __len__(self) -> int:
        return sum(self.counts.values())

    def __iter__(self) -> Iterator[Problem]:
        return iter(self.problems)

    def summary(self, examples: int = 5) -> str:
        """Several lines for a person: counts by kind and the first few problems; '' when there are none."""
        if not self.counts:
            return ""
        head = ", ".join(f"{kind}: {n}" for kind, n in self.counts.most_common())
        lines = [f"{len(self)} problem(s) ({head})"]
        lines += [f"  {p}" for p in self.problems[:examples]]
        if len(self) > examples:
            lines.append(f"  ... and {len(self) - min(examples, len(self.problems))} more")
        return "\n".join(lines)

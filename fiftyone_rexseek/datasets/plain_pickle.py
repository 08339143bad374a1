"""Pickles that hold plain containers, and nothing else.

The RefCOCO family is published as pickles. A pickle can run any program when it is loaded, so this reader builds
only what needs no import: None, booleans, numbers, text, bytes, lists, tuples, dicts and sets.
"""

from __future__ import annotations

import io
import pickle
from pathlib import Path
from typing import Any

from ..errors import DataError

_ADVICE = "Do not load this file by other means unless you trust where it came from; a JSON version is read too."


_SETS = {"set": set, "frozenset": frozenset}


class _Refused(DataError):
    pass


class _PlainUnpickler(pickle.Unpickler):
    where = "pickle"

    def find_class(self, module: str, name: str):
        if module in ("builtins", "__builtin__") and name in _SETS:  # how protocols before 4 write a set
            return _SETS[name]
        raise _Refused(
            "the pickle asks for an object that is not a plain container",
            where=self.where,
            expected="lists, dicts, tuples, text and numbers",
            found=f"{module}.{name}",
            advice=_ADVICE,
        )

    def persistent_load(self, pid):
        raise _Refused(
            "the pickle refers to data outside itself", where=self.where, found=f"persistent id {pid!r}", advice=_ADVICE
        )


def loads(data: bytes, where: object = "pickle") -> Any:
    """The plain object in ``data``; raises :class:`DataError` for anything else, before any of it is run.

    Text of Python 2 pickles is read as UTF-8, or as Latin-1 where it is not UTF-8.

    Example::

        >>> loads(pickle.dumps([{"ref_id": 1, "sentences": []}]))
        [{'ref_id': 1, 'sentences': []}]
        >>> loads(pickle.dumps(print), where="refs(unc).p")
        Traceback (most recent call last):
        ...
        fiftyone_rexseek.datasets.plain_pickle._Refused: refs(unc).p: the pickle asks for an object ...
    """
    for encoding in ("utf-8", "latin-1"):
        unpickler = _PlainUnpickler(io.BytesIO(data), encoding=encoding)
        unpickler.where = where
        try:
            return unpickler.load()
        except _Refused:
            raise
        except UnicodeDecodeError:
            continue
        except (
            pickle.UnpicklingError, EOFError, ValueError, TypeError, KeyError, IndexError, AttributeError, OverflowError,
            MemoryError, RecursionError,
        ) as e:  # fmt: skip
            # what a damaged pickle makes the unpickler raise
            raise DataError(
                "cannot be read as a pickle", where=where, found=f"{type(e).__name__}: {e}", advice="Fetch the file again."
            ) from e
    raise DataError("holds text in an unknown encoding", where=where, expected="UTF-8 or Latin-1")


def load(path: str | Path) -> Any:
    """:func:`loads` of a file."""
    path = Path(path)
    return loads(path.read_bytes(), where=path)

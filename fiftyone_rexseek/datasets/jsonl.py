"""JSON Lines: reading row by row with every problem located, and writing all or nothing."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from ..errors import DataError, ProblemLog
from .files import complete_file

#: Longer than any row of the benchmarks by far; a longer line is not JSON Lines (a whole array on one line, say).
MAX_LINE_BYTES = 64 * 1024 * 1024


def check_file(path: str | os.PathLike, what: str) -> Path:
    """The path of a readable, non-empty file, or a :class:`DataError` that says what is wrong with it."""
    path = Path(path)
    if path.is_dir():
        inside = sorted(p.name for p in path.glob("*.json*"))[:5]
        raise DataError(
            f"{what} is a folder",
            where=path,
            expected="a .jsonl file",
            advice=f"Give one of its files: {', '.join(inside)}" if inside else "There is no .jsonl file in it",
        )
    if not path.exists():
        near = sorted(p.name for p in path.parent.glob("*.json*"))[:5] if path.parent.is_dir() else []
        advice = f"The folder {path.parent} holds {', '.join(near)}" if near else "Check the path"
        if not path.parent.is_dir():
            advice = f"The folder {path.parent} does not exist either"
        raise DataError(f"{what} does not exist", where=path, advice=advice)
    try:
        size = path.stat().st_size
        with path.open("rb"):
            pass
    except OSError as e:
        raise DataError(f"{what} cannot be read", where=path, found=e.strerror or e) from e
    if size == 0:
        raise DataError(f"{what} is empty", where=path, expected="one JSON object per line", advice="Was its writing interrupted?")
    return path


def read_jsonl(path: str | os.PathLike, log: ProblemLog, *, what: str = "file") -> Iterator[tuple[str, dict[str, Any]]]:
    """Yields ``("path:line", row)`` for every line that holds a JSON object; blank lines are passed over.

    Lines that do not are reported to ``log`` as ``malformed-json`` (or ``bad-encoding``) and skipped. The file is
    read line by line, never as a whole.

    Raises:
        DataError: the file is missing, empty, a folder, a JSON array or holds no line that can be read
    """
    path = check_file(path, what)
    rows = lines = 0
    with path.open("rb") as f:
        for number, raw in enumerate(_lines(f), 1):
            if number == 1:
                raw = raw.removeprefix(b"\xef\xbb\xbf")
            if not raw.strip():
                continue
            lines += 1
            where = f"{path}:{number}"
            row = _parse(raw, where, log)
            if lines == 1 and (isinstance(row, list) or raw.strip() == b"["):
                raise DataError(
                    f"{what} is a JSON array",
                    where=path,
                    expected="JSON Lines: one object per line",
                    advice="Convert it with: jq -c '.[]' in.json > out.jsonl",
                )
            if isinstance(row, dict):
                rows += 1
                yield where, row
            elif row is not _UNREADABLE:
                log.add("malformed-json", where, "line is not a JSON object", "{...}", type(row).__name__)
    if not rows:
        raise DataError(
            f"{what} holds no row that can be read",
            where=path,
            expected="one JSON object per line",
            found=log.problems[-1] if log.problems else "blank lines only",
        )


_UNREADABLE = object()
#: A character escaped as one of two halves; one without the other can be stored and printed nowhere.
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")


def _lines(f) -> Iterator[bytes]:
    while line := f.readline(MAX_LINE_BYTES):
        if len(line) == MAX_LINE_BYTES and not line.endswith(b"\n"):
            while rest := f.readline(MAX_LINE_BYTES):
                if rest.endswith(b"\n"):
                    break
            line = b"(line too long)"
        yield line


def _parse(raw: bytes, where: str, log: ProblemLog) -> Any:
    try:
        row = json.loads(raw.decode("utf-8"))
        if _SURROGATE.search(raw):
            json.dumps(row, ensure_ascii=False).encode("utf-8")
        return row
    except UnicodeEncodeError as e:
        half = ascii(e.object[e.start])
        log.add("bad-encoding", where, "text holds half a character", "whole characters", f"the escape {half}")
    except UnicodeDecodeError as e:
        log.add("bad-encoding", where, "line is not UTF-8", "UTF-8 text", f"byte {raw[e.start]:#x} at {e.start}")
    except (ValueError, RecursionError) as e:
        log.add("malformed-json", where, "line is not valid JSON", "one JSON object", str(e) or type(e).__name__)
    return _UNREADABLE


def write_jsonl(path: str | os.PathLike, rows: Iterable[Mapping[str, Any]]) -> int:
    """Writes one JSON object per line and returns how many; the file appears only when all of them are written.

    Numbers keep their text as Python prints them (``586.0`` stays ``586.0``, ``586`` stays ``586``).
    """
    count = 0
    with complete_file(path) as f:
        for row in rows:
            f.write(json.dumps(row) + "\n")
            count += 1
    return count

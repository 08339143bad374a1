"""Plain-text and Markdown tables in the two layouts of the official scripts, left-aligned, headers of several lines.

The layouts are those that the ``tabulate`` package calls "grid" and "pipe", for cells that are all text.
"""

from __future__ import annotations

from collections.abc import Sequence

#: A row of these separates blocks in the official tables; it is left out of the JSON.
RULE_CELL = "----------"


def _cells(headers: Sequence[str], rows: Sequence[Sequence[object]]) -> tuple[list[list[str]], list[list[str]], list[int]]:
    head = [str(h).split("\n") for h in headers]
    height = max(len(h) for h in head)
    head = [h + [""] * (height - len(h)) for h in head]
    body = [["" if c is None else str(c).strip() for c in row] for row in rows]
    widths = [max(len(line) for line in h) + 2 for h in head]  # headers reserve two blanks more than they need
    for row in body:
        widths = [max(w, len(c)) for w, c in zip(widths, row)]
    return [[h[i] for h in head] for i in range(height)], body, widths


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    return "| " + " | ".join(c.ljust(w) for c, w in zip(cells, widths)) + " |"


def grid(headers: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A table with ruled lines.

    Example::

        >>> print(grid(["Model", "Recall\\n@0.5"], [["A", "0.500"]]))
        +---------+----------+
        | Model   | Recall   |
        |         | @0.5     |
        +=========+==========+
        | A       | 0.500    |
        +---------+----------+
    """
    head, body, widths = _cells(headers, rows)
    rule = "+" + "+".join("-" * (w + 2) for w in widths) + "+"
    lines = [rule, *(_line(h, widths) for h in head), rule.replace("-", "=")]
    for row in body:
        lines += [_line(row, widths), rule]
    return "\n".join(lines)


def pipe(headers: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A Markdown table.

    Example::

        >>> print(pipe(["Model", "Recall"], [["A", "0.500"]]))
        | Model   | Recall   |
        |:--------|:---------|
        | A       | 0.500    |
    """
    head, body, widths = _cells(headers, rows)
    rule = "|" + "|".join(":" + "-" * (w + 1) for w in widths) + "|"
    return "\n".join([*(_line(h, widths) for h in head), rule, *(_line(row, widths) for row in body)])


def as_number(text: str) -> str | int | float:
    """The number that a cell's text stands for, else the text, as in the official JSON (model names included).

    Example::

        >>> [as_number(t) for t in ("1.000", "42", "3B", "")]
        [1.0, 42, '3B', '']
    """
    for kind in (int, float):
        try:
            value = kind(text)
        except ValueError:
            continue
        if value - value == 0:  # JSON has neither NaN nor infinity
            return value
    return text


def records(
    headers: Sequence[str], rows: Sequence[Sequence[object]], fill_down: Sequence[int] = ()
) -> list[dict[str, str | int | float]]:
    """The rows as dictionaries, as the official JSON has them.

    Keys are the headers in lower case with ``_`` for line breaks; separator rows are left out; blank cells of the
    columns ``fill_down`` take the value of the row above and stay text; elsewhere text that parses as a number becomes one.

    Example::

        >>> records(["Domain", "Recall\\n@0.5"], [["a", "0.500"], [RULE_CELL] * 2, ["", "1"]], fill_down=[0])
        [{'domain': 'a', 'recall_@0.5': 0.5}, {'domain': 'a', 'recall_@0.5': 1}]
    """
    keys = [h.lower().replace("\n", "_") for h in headers]
    above: dict[int, str] = {}
    result = []
    for row in rows:
        cells = ["" if c is None else str(c) for c in row]
        if all(c == RULE_CELL for c in cells):
            continue
        for i in fill_down:
            cells[i] = above[i] = cells[i] or above.get(i, "")
        result.append({k: c if i in fill_down else as_number(c) for i, (k, c) in enumerate(zip(keys, cells))})
    return result

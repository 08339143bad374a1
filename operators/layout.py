"""How the panels are laid out."""

#: One column no wider than the panel: a wide table scrolls by itself and does not push the rest out of sight.
COLUMN = {
    "orientation": "vertical",
    "gap": 2,
    "pad": 2,
    "componentsProps": {"grid": {"sx": {"gridTemplateColumns": "minmax(0, 1fr)"}}},
}

#: A row that goes on in a second line where the panel is narrow; the App would cut it off.
WRAPPED = {"grid": {"sx": {"display": "flex", "flexWrap": "wrap", "& > div.MuiBox-root": {"width": "auto"}}}}

#: A table that may be narrower than the App's 650 pixels, which panels beside the grid are.
NARROW_TABLE = {
    "item": {
        "sx": {
            "overflowX": "auto",
            "& .MuiTable-root": {"minWidth": 0},
            "& .MuiTableCell-root": {"px": 0.75, "fontSize": "0.8rem"},
        }
    }
}


def show(ctx, state: dict, data: dict) -> None:
    """Sets a panel's state and data (rows, traces, a picture) in place of what was there.

    All at once, because the App draws the panel again after each change that it is sent. It keeps a copy of the data in the
    panel's state and merges the two element by element: of a longer list shown before, the tail would shine through.
    """
    ctx.panel.set_state({**dict.fromkeys(data), **state})
    if data:
        ctx.panel.set_data(data)


def paragraphs(text: str) -> str:
    """Lines of a text as Markdown paragraphs, which otherwise would run into each other.

    Example::

        >>> paragraphs("3 selected\\n1 failed")
        '3 selected\\n\\n1 failed'
    """
    return "\n\n".join(line for line in text.splitlines() if line)

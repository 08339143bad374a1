"""How the panels are laid out."""

#: One column no wider than the panel: a wide table scrolls by itself and does not push the rest out of sight.
COLUMN = {
    "orientation": "vertical",
    "gap": 2,
    "pad": 2,
    "componentsProps": {"grid": {"sx": {"gridTemplateColumns": "minmax(0, 1fr)"}}},
}

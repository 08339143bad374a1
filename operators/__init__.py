"""Entry point of the plugin: registers what the modules beside it define."""


def register(plugin):
    """Called by FiftyOne each time it builds its operator registry; keep it light."""

"""Entry point of the plugin: registers what the modules beside it define.

FiftyOne executes this file whenever it builds its registry; the modules beside it and the package stay loaded.
"""

import importlib
import sys
from pathlib import Path

try:
    importlib.import_module("fiftyone_rexseek")
except ImportError:
    # downloaded with `fiftyone plugins download` and not installed: the package lies beside this folder. Appended, not
    # inserted, because the plugin's folder has generic names in it ("operators", "tests")
    sys.path.append(str(Path(__file__).resolve().parent.parent))
    importlib.import_module("fiftyone_rexseek")

#: Modules whose operators and panels are registered; their names must also be in fiftyone.yml.
# fmt: off
MODULES = ("data", "predictions", "evaluate", "apply", "curation", "visualize", "describe", "quality", "train", "reset",
           "referring_panel", "results_panel", "compare")
# fmt: on


def classes():
    """The operator and panel classes of this plugin."""
    import fiftyone.operators as foo

    for name in MODULES:
        module = importlib.import_module(f".{name}", __package__)
        for value in vars(module).values():
            # a panel is an operator too; helpers that others derive from have no configuration of their own
            if isinstance(value, type) and issubclass(value, foo.Operator) and value.__module__ == module.__name__:
                yield value


def register(plugin):
    """Called by FiftyOne each time it builds its operator registry."""
    for cls in classes():
        plugin.register(cls)

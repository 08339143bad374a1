"""Doing something as soon as FiftyOne is there, without importing it.

The order ``import fiftyone_rexseek; import fiftyone`` is as good as the other one, and scoring files or training on a
machine without FiftyOne costs nothing: a finder on ``sys.meta_path`` waits for the import of ``fiftyone``, lets the ordinary
finders do it, calls back once and removes itself.
"""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.util
import logging
import sys

logger = logging.getLogger(__name__)


def when_fiftyone_is_imported(module: str, function: str) -> None:
    """Calls ``module.function()`` now if FiftyOne is imported, else right after it has been."""
    present = sys.modules.get("fiftyone")
    if present is not None and hasattr(present, "config"):
        _call(module, function)
    elif not any(isinstance(finder, _Waiting) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Waiting(module, function))


def _call(module: str, function: str) -> None:
    try:
        getattr(importlib.import_module(module), function)()
    except (ImportError, AttributeError, OSError) as e:
        # FiftyOne itself must stay usable when it is too old or too new for us
        logger.warning("fiftyone-rexseek could not register its names with FiftyOne: %s", e)


class _Waiting(importlib.abc.MetaPathFinder):
    def __init__(self, module: str, function: str):
        self.callback = (module, function)

    def find_spec(self, fullname, path=None, target=None):
        if fullname != "fiftyone":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec("fiftyone")
        if spec is not None and spec.loader is not None:
            spec.loader = _ThenCall(spec.loader, self.callback)
        return spec


class _ThenCall(importlib.abc.Loader):
    """A loader that hands everything to the real one and calls back when the module has run."""

    def __init__(self, loader, callback: tuple[str, str]):
        self.loader, self.callback = loader, callback

    def create_module(self, spec):
        return self.loader.create_module(spec)

    def exec_module(self, module):
        self.loader.exec_module(module)
        module.__spec__.loader = module.__loader__ = self.loader
        _call(*self.callback)

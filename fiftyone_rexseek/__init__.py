"""Referring expressions in FiftyOne: benchmarks, models, operators and the official metrics.

Importing this package imports neither FiftyOne nor torch; the names below load what they need on first use::

    import fiftyone_rexseek as fr

    fr.apply_expressions(dataset, model, "rexseek", expressions="expression")
    fr.evaluate_referring(dataset, "rexseek", eval_key="official", method="humanref")
    fr.types.HumanRefDataset

It also makes this project's zoo names and evaluation methods known to FiftyOne in this process, at once or as soon as
FiftyOne is imported, so that ``foz.load_zoo_model("rexseek-3b")`` works without ``fiftyone-rexseek install``.
"""

from __future__ import annotations

import importlib
from typing import Any

from ._registration import when_fiftyone_is_imported

__version__ = "0.1.0"

#: Public name -> "module:attribute", or "module" for a whole module.
_PUBLIC = {
    "apply_expressions": "fiftyone_rexseek.integration.apply:apply_expressions",
    "evaluate_referring": "fiftyone_rexseek.integration.evaluation:evaluate_referring",
    "compare_runs": "fiftyone_rexseek.integration.comparison:compare_runs",
    "import_predictions": "fiftyone_rexseek.integration.predictions:import_predictions",
    "export_predictions": "fiftyone_rexseek.integration.predictions:export_predictions",
    "import_grefcoco_predictions": "fiftyone_rexseek.integration.grefcoco_predictions:import_grefcoco_predictions",
    "export_grefcoco_predictions": "fiftyone_rexseek.integration.grefcoco_predictions:export_grefcoco_predictions",
    "types": "fiftyone_rexseek.types",
}
__all__ = ["__version__", *_PUBLIC]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, _, attribute = _PUBLIC[name].partition(":")
    loaded = importlib.import_module(module)
    return getattr(loaded, attribute) if attribute else loaded


def __dir__() -> list[str]:
    return sorted({*globals(), *_PUBLIC})


when_fiftyone_is_imported("fiftyone_rexseek.integration.registration", "register")

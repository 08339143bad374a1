"""Which answers in a field are those of a run: what makes it possible to go on, and keeps the answers of two runs apart."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from typing import Any

from .selections import CANDIDATES, COMPANIONS, OUTCOME

logger = logging.getLogger(__name__)


def is_same_run(samples, field: str, run_key: str, settings: Mapping[str, Any]) -> bool:
    """Whether the answers in a field are those of a run with these settings, and of no other."""
    dataset = samples._dataset
    if run_key not in dataset.list_runs() or not samples.has_sample_field(field + OUTCOME):
        # answers of which nobody knows who gave them, such as those of a prediction file
        return False
    config = dataset.get_run_info(run_key).config
    differs = [name for name, value in settings.items() if getattr(config, name, None) != value]
    if differs:
        logger.warning("field %r: other %s than the earlier run; everything is done again", field, ", ".join(differs))
        return False
    if getattr(config, "mixed", False):
        logger.warning("field %r also holds answers of another run; everything is done again", field)
        return False
    return True


def clear_answers(samples, field: str, keep: Iterable[str | None] = ()) -> bool:
    """Takes another run's answers away: beside those of a run that stops halfway they would pass for its own.

    Args:
        samples: those that will be asked
        field: of the answers
        keep: fields that are read all the same

    Returns:
        whether samples that will not be asked hold such answers, which :func:`record` calls ``mixed``
    """
    dataset, outcome = samples._dataset, field + OUTCOME
    if not dataset.has_sample_field(outcome):
        return False
    names = [field + suffix for suffix in ("", *COMPANIONS) if suffix != CANDIDATES]
    names = [name for name in names if name not in keep and dataset.has_sample_field(name)]
    dataset.select(samples.values("id")).clear_sample_fields(names)
    return bool(dataset.exists(outcome).limit(1).count())


def record(dataset, run_key: str, settings: Mapping[str, Any]) -> None:
    """Registers a run, or what is new about it."""
    config = dataset.init_run(**settings)
    if run_key in dataset.list_runs():
        dataset.update_run_config(run_key, config)
    else:
        dataset.register_run(run_key, config)

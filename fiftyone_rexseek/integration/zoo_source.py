"""What the remote model source ``zoo/`` needs: marker files, and the form of the App's stock operator."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

from ..models import registry

logger = logging.getLogger(__name__)


def write_marker(model_name: str, model_path: str) -> None:
    """Writes the file by which FiftyOne takes a model for downloaded.

    FiftyOne calls this before it looks at ``weights=``, so nothing large is fetched here.
    """
    entry = registry.entry(model_name)
    facts = {"name": entry.name, "repo_id": entry.repo_id, "source": entry.source, "license": entry.license}
    Path(model_path).parent.mkdir(parents=True, exist_ok=True)
    Path(model_path).write_text(json.dumps(facts, indent=2) + "\n")
    if entry.repo_id is not None:
        logger.info("%s: weights are fetched from %s when the model is first loaded", entry.name, entry.repo_id)


def input_fields(model_name: str, ctx) -> list[tuple[str, str, dict[str, Any]]]:
    """(name, kind, options) of each field of the form."""
    entry = registry.entry(model_name)
    fields: list[tuple[str, str, dict[str, Any]]] = [
        ("prompt", "str", {"label": "Expression", "description": "One expression for all samples; empty: use the field below"}),
        ("expression_field", "str", {"label": "Expression field", "default": "expression"}),
    ]
    if entry.needs_candidates:
        description = "Detections field with the boxes to choose from"
        fields.append(("candidates_field", "str", {"label": "Candidates field", "default": "candidates", "description": description}))
    fields.append(("label", "str", {"label": "Label", "description": "Label of the predictions; empty: the candidate's"}))
    terms = f"Local folder or file. The published weights come under: {entry.license}"
    fields.append(("weights", "str", {"label": "Weights", "description": terms}))
    return fields


def parse_form(model_name: str, params: dict[str, Any]) -> None:
    """Empty fields of the form mean "not given"; in place."""
    for name, _, _ in input_fields(model_name, None):
        if not str(params.get(name) or "").strip():
            params.pop(name, None)
    if "prompt" in params:
        params.pop("expression_field", None)

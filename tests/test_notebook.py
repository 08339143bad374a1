"""The quickstart notebook runs from top to bottom, and its numbers are better than guessing."""

import re
from pathlib import Path

import fiftyone  # noqa: F401  (the database fixture starts for tests that import it)
import pytest

nbformat = pytest.importorskip("nbformat")
nbclient = pytest.importorskip("nbclient")

ROOT = Path(__file__).resolve().parent.parent


def test_quickstart_runs(tmp_path):
    notebook = nbformat.read(ROOT / "notebooks" / "quickstart.ipynb", as_version=4)
    # fewer scenes than a reader would draw
    for cell in notebook.cells:
        cell.source = cell.source.replace("num_scenes=24", "num_scenes=6")
    nbclient.NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()
    texts = [
        o.get("text", "") or o.get("data", {}).get("text/plain", "")
        for c in notebook.cells
        if c.cell_type == "code"
        for o in c.outputs
    ]
    printed = "\n".join(texts)
    pictures = [o for c in notebook.cells if c.cell_type == "code" for o in c.outputs if "image/png" in o.get("data", {})]
    assert len(pictures) == 3
    assert re.search(r"\d+ expressions on 6 images", printed), printed
    assert "'exact'" in printed, "not one answer of the tiny model was right"

"""The lines of the design: who may import FiftyOne, who may import whom, and what an import costs."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "fiftyone_rexseek"
LEAVES = {"referring", "geometry", "masks", "errors"}
#: Later layers may import earlier ones, never the other way round.
ORDER = ["datasets", "models", "metrics", "training", "integration", "commands"]


def modules():
    return sorted(p for p in PACKAGE.rglob("*.py") if "_plugin" not in p.parts)


def imported(path: Path) -> set[str]:
    """Absolute names of everything a file imports, at any depth of the code."""
    package = ["fiftyone_rexseek", *path.relative_to(PACKAGE).parts[:-1]]
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            stem = ".".join([*base, *([node.module] if node.module else [])])
            names |= {stem} | {f"{stem}.{alias.name}" for alias in node.names}
    return names


def layer(dotted: str) -> str | None:
    parts = dotted.split(".")
    return parts[1] if len(parts) > 1 and parts[0] == "fiftyone_rexseek" else None


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_only_the_integration_knows_fiftyone(path):
    top = path.relative_to(PACKAGE).parts[0]
    if top in {"integration", "commands", "cli.py", "types.py", "__init__.py"}:
        return
    foreign = {n for n in imported(path) if n.split(".")[0] == "fiftyone"}
    assert not foreign, f"{path.name} imports {foreign}"


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_nothing_imports_upwards(path):
    top = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    if top not in ORDER and top not in LEAVES:
        return
    allowed = LEAVES | ({*ORDER[: ORDER.index(top) + 1]} if top in ORDER else set())
    # the version number at the root is everybody's
    used = {layer(n) for n in imported(path)} - {None, "__version__"}
    assert used <= allowed | {"types", "cli"} if top in ("commands", "integration") else used <= allowed


def test_importing_the_package_loads_neither_torch_nor_fiftyone():
    code = "import sys, fiftyone_rexseek, fiftyone_rexseek.cli; print({'torch', 'fiftyone'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "set()"


@pytest.mark.parametrize("folder", ["operators", "zoo"])
def test_plugin_and_zoo_import_the_package_absolutely(folder):
    for path in (ROOT / folder).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom):
                assert node.level <= 1, f"{path} reaches out of its folder with a relative import"

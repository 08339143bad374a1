"""What the README tells people to type exists."""

import ast
import re
from pathlib import Path

import click
import pytest

import fiftyone_rexseek
from fiftyone_rexseek.cli import cli

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
README = PAGES[0].read_text()


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_links_lead_to_files(page):
    links = [t for t in re.findall(r"\]\(([^)#\s]+)\)", page.read_text()) if not t.startswith("http")]
    missing = [t for t in links if not (page.parent / t).exists()]
    assert not missing


def test_make_targets_exist():
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = set(re.findall(r"(?:^|`)make ([a-z]+)", README, re.MULTILINE))
    assert named >= {"demo", "test", "bench"} and named <= targets


def test_commands_and_their_options_exist():
    context = click.Context(cli)
    rows = [row.split("|")[1:-1] for row in README.replace("\\|", "/").splitlines() if row.startswith("| `")]
    commands = [words for row in rows if not row[0].strip().startswith("`expression") for words in re.findall(r"`([a-z]+(?: [a-z/]+)?)`", row[0])]
    named = {words.split()[0] for words in commands} & set(cli.list_commands(context))
    assert named == set(cli.list_commands(context))  # the table leaves none out
    for words in commands:
        name, _, rest = words.partition(" ")
        command = cli.get_command(context, name)
        for sub in filter(None, rest.split("/")):
            assert sub in command.list_commands(context), words
    for line in re.findall(r"^fiftyone-rexseek (.+)$", README, re.MULTILINE):
        words = line.split("#")[0].split()
        command = cli
        while words and isinstance(command, click.Group):
            command = command.get_command(context, words.pop(0))
            assert command is not None, line
        options = {o for p in command.params for o in p.opts}
        assert {w for w in words if w.startswith("--")} <= options, line


def test_python_code_uses_public_names():
    blocks = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert blocks
    for block in blocks:
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "fr":
                assert node.attr in fiftyone_rexseek.__all__


def test_extras_exist():
    project = (ROOT / "pyproject.toml").read_text()
    extras = set(re.findall(r"^([a-z]+) = \[", project.split("[project.optional-dependencies]")[1].split("\n[")[0], re.MULTILINE))
    text = README.split("extras:")[1].split(";")[0]
    assert set(re.findall(r"`([a-z]+)`", text)) == extras - {"all", "dev"}

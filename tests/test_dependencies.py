"""The lists of packages agree, and the library imports only what it declares."""

import ast
import re
import sys
import tomllib
from pathlib import Path

import pytest

import airjax

ROOT = Path(__file__).resolve().parents[1]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PROJECT, TOOLS = PYPROJECT["project"], PYPROJECT["tool"]
EXTRAS = PROJECT["optional-dependencies"]
NEEDED = ("train", "plots", "docs", "dev")  # by the targets of the Makefile
MODULES = {"pillow": "PIL", "orbax-checkpoint": "orbax"}  # where package and module differ


def names(requirements):
    return [re.split(r"[<>=!\[]", line)[0] for line in requirements]


def imported(folder):
    """Top-level modules that files import, at any depth of the code; neither Python's own nor ours."""
    trees = [ast.parse(path.read_text()) for path in sorted((ROOT / folder).rglob("*.py"))]
    nodes = [node for tree in trees for node in ast.walk(tree)]
    dotted = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    dotted += [node.module for node in nodes if isinstance(node, ast.ImportFrom)]
    return {name.split(".")[0] for name in dotted} - sys.stdlib_module_names - {"airjax", "train", "eval"}


def test_requirements_are_those_of_the_project():
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    listed = [line for line in lines if line and not line.startswith("#")]
    assert listed == [*PROJECT["dependencies"], *(line for name in NEEDED for line in EXTRAS[name])]


def test_the_range_of_jax_is_in_one_place():
    """An accelerator's extra adds to it: another range would install a plugin that does not fit."""
    lines = [line for name in ("cuda12", "cuda13", "tpu") for line in EXTRAS[name]]
    assert lines == ["jax[cuda12]", "jax[cuda13]", "jax[tpu]"]
    assert [name for name in names(line for group in EXTRAS.values() for line in group) if name == "jax"] == ["jax"] * 3


def test_only_what_decides_results_files_and_commands_has_an_upper_bound():
    """jax and flax: results; constriction: bytes; tyro: our command line; pycolmap: its names change."""
    lines = [line for group in (PROJECT["dependencies"], *EXTRAS.values()) for line in group]
    bounded = [line for line in lines if "<" in line]
    assert names(bounded) == ["jax", "flax", "constriction", "tyro", "pycolmap"]


def test_versions_of_python_are_told_alike():
    """By the classifiers, the oldest that pip allows, the linter and the type checker."""
    told = [line.rpartition(" ")[2] for line in PROJECT["classifiers"] if "Python :: 3." in line]
    assert told == ["3.11", "3.12", "3.13"] and PROJECT["requires-python"] == f">={told[0]}"
    assert TOOLS["mypy"]["python_version"] == told[0]
    assert TOOLS["ruff"]["target-version"] == f"py{told[0].replace('.', '')}"


def test_the_version_is_told_alike():
    """By the package, the project and the citation; the changelog tells of it."""
    assert f"\nversion: {airjax.__version__}\n" in (ROOT / "CITATION.cff").read_text()
    assert PROJECT["version"] == airjax.__version__ and airjax.__version__ in (ROOT / "CHANGELOG.md").read_text()


@pytest.mark.parametrize(
    ("folder", "extras"), [("airjax", ("poses", "video")), ("train", ("train", "plots")), ("eval", ("train", "plots"))]
)
def test_what_is_imported_is_declared(folder, extras):
    declared = names([*PROJECT["dependencies"], *(line for extra in extras for line in EXTRAS[extra])])
    assert imported(folder) <= {MODULES.get(name, name) for name in declared}

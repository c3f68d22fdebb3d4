"""The lists of packages agree, and the library imports only what it declares."""

import ast
import re
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
MODULES = {"pillow": "PIL", "orbax-checkpoint": "orbax"}  # where package and module differ


def names(requirements):
    return [re.split(r"[<>=\[]", line)[0] for line in requirements]


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
    assert listed == [*PROJECT["dependencies"], *EXTRAS["train"], *EXTRAS["plots"], *EXTRAS["dev"]]


def test_only_what_decides_results_and_files_has_an_upper_bound():
    lines = [line for group in (PROJECT["dependencies"], *EXTRAS.values()) for line in group]
    bounded = [line for line in lines if "<" in line]
    assert names(bounded) == ["jax", "flax", "constriction"]


@pytest.mark.parametrize(
    ("folder", "extras"), [("airjax", ()), ("train", ("train", "plots")), ("eval", ("train", "plots"))]
)
def test_what_is_imported_is_declared(folder, extras):
    declared = names([*PROJECT["dependencies"], *(line for extra in extras for line in EXTRAS[extra])])
    assert imported(folder) <= {MODULES.get(name, name) for name in declared}

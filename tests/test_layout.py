"""The house: who may import whom, where flax lives, and how public functions take their arguments."""

import ast
import importlib
import inspect
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
MODULES = sorted((ROOT / "airjax").rglob("*.py"))
IDS = [str(path.relative_to(ROOT)) for path in MODULES]

GROUND = ("gaussians", "metrics", "raster", "inner", "nn")
WINGS = ("image", "scene")


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(path: Path) -> set[str]:
    """Dotted names that a file imports, `a.b` for both `import a.b` and `from a import b`; at any depth of the code."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are written in full"
            found |= {f"{node.module}.{alias.name}" for alias in node.names} | {node.module}
    return found


def room(name: str) -> str | None:
    """The part of the house that a dotted name lies in, e.g. `raster` for `airjax.raster.draw`."""
    parts = name.split(".")
    return parts[1] if parts[0] == "airjax" and len(parts) > 1 else None


def test_the_reader_of_imports_sees_them(tmp_path):
    """The other tests rest on it."""
    file = tmp_path / "x.py"
    file.write_text("import a.b\nfrom airjax import nn\ndef f():\n    from airjax.photographs import read\n")
    assert imports(file) >= {"a.b", "airjax.nn", "airjax.photographs"}
    assert len(MODULES) > 15


@pytest.mark.parametrize("path", MODULES, ids=IDS)
def test_imports_run_one_way(path):
    """The ground floor knows no wing, a wing no other wing; the library knows no program."""
    name, seen = module_name(path), imports(path)
    assert not {n for n in seen if n.split(".")[0] in ("train", "eval", "tests", "scenes")}
    rooms = {room(n) for n in seen} - {None}
    if room(name) in GROUND:
        assert not rooms & {*WINGS, "commands", "weights_file"}
    if room(name) in WINGS:
        assert not rooms & ({*WINGS, "commands"} - {room(name)})
    if room(name) not in (None, "commands", "__main__"):
        assert "commands" not in rooms


@pytest.mark.parametrize("path", MODULES, ids=IDS)
def test_only_nn_knows_flax(path):
    if room(module_name(path)) != "nn":
        assert not {n for n in imports(path) if n.split(".")[0] == "flax"}


# --- signatures ------------------------------------------------------------------------------------------

ARRAYS = ("Float[", "Bool[", "Int[", "Array", "Image", "Gaussians2D", "TileLists")
OPTIONS = ("int", "float", "bool", "str")


def public_functions():
    for path in MODULES:
        name = module_name(path)
        if path.name == "__main__.py":
            continue
        module = importlib.import_module(name)
        for attribute, value in vars(module).items():
            function = inspect.unwrap(value) if callable(value) else value
            if inspect.isfunction(function) and not attribute.startswith("_") and function.__module__ == name:
                yield f"{name}.{attribute}", function


FUNCTIONS = dict(public_functions())


def is_array(parameter: inspect.Parameter) -> bool:
    return str(parameter.annotation).startswith(ARRAYS)


def is_option(parameter: inspect.Parameter) -> bool:
    annotation = str(parameter.annotation)
    return parameter.default is not parameter.empty or annotation.split(" | ")[0] in OPTIONS


def test_the_list_of_functions_is_not_empty():
    assert {"airjax.raster.draw.render", "airjax.metrics.psnr", "airjax.inner.refine.refine"} <= set(FUNCTIONS)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_arrays_come_first_and_options_by_name(name):
    """In a function of arrays, no array follows an option, and what has a default is given by its name alone."""
    parameters = list(inspect.signature(FUNCTIONS[name]).parameters.values())
    positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    if not any(is_array(p) for p in positional):
        return
    assert not [p.name for p in positional if p.default is not p.empty], "give options after a *"
    options = [i for i, p in enumerate(positional) if is_option(p)]
    arrays = [i for i, p in enumerate(positional) if is_array(p)]
    assert not options or max(arrays) < min(options)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_public_functions_say_what_they_do(name):
    assert (FUNCTIONS[name].__doc__ or "").strip()


def test_nothing_names_a_folder_outside_the_repository():
    """A clone that stands alone has all that its configurations, programs and pages speak of."""
    folders = ("airjax", "train", "eval", "docs", "notebooks")
    files = [
        path for folder in folders for path in (ROOT / folder).rglob("*") if path.suffix in (".py", ".md", ".ipynb")
    ]
    files += [*ROOT.glob("*.md"), *ROOT.glob("*.toml"), *ROOT.glob("*.yml"), ROOT / "Makefile"]
    assert len(files) > 150
    for path in files:
        found = re.findall(r"(?<![\w.])(?:\.\./){1,}[\w./-]+", path.read_text(encoding="utf-8"))
        outside = [name for name in found if not (path.parent / name).resolve().is_relative_to(ROOT)]
        assert not outside, f"{path.relative_to(ROOT)}: {outside}"

"""README, docs and notebooks: all Python in them runs, in small; what they name exists; their commands are known."""

import json
import re
from pathlib import Path

import jax
import pytest
from documents import BLOCK, NOTEBOOKS, PAGES, ROOT, SMALLER, code, commands, smaller, words
from tiny import save_image_weights, save_scene, save_scene_weights

import airjax
from airjax.photographs import read_image, write_image

EVERYTHING = [*PAGES, *NOTEBOOKS]
WITH_CODE = [page for page in EVERYTHING if code(page)]


def name(page: Path) -> str:
    return str(page.relative_to(ROOT))


@pytest.fixture(scope="module")
def shipped(tmp_path_factory) -> dict[str, Path]:
    """What stands for the shipped weights; the shipped ones: tests/test_shipped.py."""
    folder = tmp_path_factory.mktemp("weights")
    image, scene = save_image_weights(folder / "image.safetensors"), save_scene_weights(folder / "scene.safetensors")
    return {"airjax.image.model": image, "airjax.scene.model": scene}


@pytest.mark.slow
@pytest.mark.parametrize("page", WITH_CODE, ids=name)
def test_code_runs(page, tmp_path, monkeypatch, shipped):
    """All blocks of a page one after the other, in a folder with photographs and nothing else, with tiny weights."""
    monkeypatch.setenv("MPLBACKEND", "agg")
    for module, path in shipped.items():
        monkeypatch.setattr(f"{module}.DEFAULT_WEIGHTS", path)
    photo = read_image(ROOT / "docs" / "images" / "kodim23.png").pixels[220:236, 300:324]
    (tmp_path / "photos").mkdir()
    for path in (tmp_path / "photo.jpg", tmp_path / "photos" / "a.png"):
        write_image(path, photo)
    if "scene/" in page.read_text():
        save_scene(tmp_path / "scene")
    monkeypatch.chdir(tmp_path)
    names: dict = {"__name__": "__main__"}
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        for block in code(page):
            exec(compile(smaller(block), str(page), "exec"), names)


def test_what_is_made_smaller_is_there():
    text = "\n".join(part for page in EVERYTHING for part in (*code(page), *commands(page)))
    assert not [part for part in SMALLER if part not in text] and len(WITH_CODE) >= 8


@pytest.mark.parametrize("page", EVERYTHING, ids=name)
def test_files_that_are_named_exist(page):
    text = words(page)
    links = [link for link in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", text) if "://" not in link]
    missing = [link for link in links if not (page.parent / link).exists()]
    paths = re.findall(r"(?<![\w./-])(?:(?:airjax|train|eval|tests|docs|notebooks)/[\w/]+\.(?:py|md|ipynb))\b", text)
    missing += [path for path in paths if not (ROOT / path).is_file()]
    modules = re.findall(r"(?<![\w.])((?:airjax|train|eval)(?:\.[a-z_]+)+)(?![\w(])", text)
    for module in modules:
        parts = Path(*module.split("."))
        candidates = [parts.with_suffix(".py"), parts, parts.parent.with_suffix(".py"), parts.parent / "__init__.py"]
        missing += [] if any((ROOT / path).exists() for path in candidates) else [module]
    assert not missing


# --- commands --------------------------------------------------------------------------------------------------------


def test_command_lines_are_found(tmp_path):
    """The other tests of them rest on it."""
    page = tmp_path / "page.md"
    page.write_text(
        "airjax in words\n```\nairjax encode a.jpg   # words\nFLAGS=--x make test\n"
        "taskset -c 0 python -m train.main a \\\n"
        "  --b 1\npip install .\n# airjax none\n```\n```python\nairjax = 1\n```\n\n```sh\nmake demo\n```\n"
    )
    assert commands(page) == ["airjax encode a.jpg", "make test", "python -m train.main a --b 1", "make demo"]


def test_make_knows_what_is_made():
    """Programs: tests/commands/test_documents.py and test_research_commands.py."""
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    lines = [line.split() for page in EVERYTHING for line in commands(page)]
    assert {word for head, *rest in lines if head == "make" for word in rest if "=" not in word} <= targets


def test_there_are_commands():
    lines = [line for page in EVERYTHING for line in commands(page)]
    for start in ("airjax encode", "airjax render", "make demo", "python -m train.main", "python -m eval.main"):
        assert any(line.startswith(start) for line in lines), start


# --- notebooks, and the page of names --------------------------------------------------------------------------------


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=name)
def test_notebooks_are_valid_and_stripped(notebook):
    """Format 4.5, read by hand: nbformat itself is not installed for this alone."""
    content = json.loads(notebook.read_text())
    assert (content["nbformat"], content["nbformat_minor"]) == (4, 5)
    assert set(content) == {"cells", "metadata", "nbformat", "nbformat_minor"}
    idents = [cell["id"] for cell in content["cells"]]
    assert len(set(idents)) == len(idents) and all(re.fullmatch(r"[\w-]{1,64}", ident) for ident in idents)
    for cell in content["cells"]:
        assert cell["cell_type"] in ("markdown", "code") and cell["metadata"] == {}
        assert all(line.endswith("\n") for line in cell["source"][:-1]) and not cell["source"][-1].endswith("\n")
        if cell["cell_type"] == "code":
            assert cell["outputs"] == [] and cell["execution_count"] is None
    assert not BLOCK.search("\n".join(code(notebook)))


def test_the_page_of_names_has_all_of_them():
    """Where each leads is checked by the strict build of the site."""
    text = (ROOT / "docs" / "api" / "index.md").read_text()
    assert [name for name in airjax._HOMES if f"[`{name}`][airjax." not in text] == []

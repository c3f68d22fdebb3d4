"""README, docs and CONTRIBUTING: every block of Python runs, in small; the modules and files that they name exist."""

import re
from pathlib import Path

import jax
import pytest

from airjax.photographs import read_image, write_image

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
# What a reader waits for, made smaller: text of the page -> text that runs.
SMALLER = {
    'image_cases("photos/", crop=64)': 'image_cases("photos/", crop=16)',
    ', "3D": procedural_cases(8)': "",  # tests/test_extensions.py compares in 3D
    "horizons=(5, 20)": "horizons=(1,)",
    "smoke=False": "smoke=True",
    'loop={"num_steps": 60}': 'loop={"num_steps": 2}',
    'loop={"num_steps": 2000}': 'loop={"num_steps": 2}',
    "crop=64),\n    starts": "crop=16),\n    starts",
    "steps=(0, 5, 10)": "steps=(0, 2)",
    "compared=(10,)": "compared=(2,)",
    "refine_steps=100": "refine_steps=2",
    "num_steps=20)": "num_steps=2)",
}
WITH_CODE = [page for page in PAGES if BLOCK.search(page.read_text())]


@pytest.mark.parametrize("page", WITH_CODE, ids=lambda page: page.stem)
def test_code_runs(page, tmp_path, monkeypatch):
    """All blocks of a page one after the other, in a folder with photographs and nothing else."""
    photo = read_image(ROOT / "docs" / "images" / "kodim23.png").pixels[200:248, 300:364]
    (tmp_path / "photos").mkdir()
    for path in (tmp_path / "photo.jpg", tmp_path / "photos" / "a.png"):
        write_image(path, photo)
    monkeypatch.chdir(tmp_path)
    names: dict = {"__name__": "__main__"}
    with jax.numpy_dtype_promotion("standard"):
        for block in BLOCK.findall(page.read_text()):
            for text, smaller in SMALLER.items():
                block = block.replace(text, smaller)
            exec(compile(block, str(page), "exec"), names)


def test_what_is_made_smaller_is_there():
    text = "\n".join(page.read_text() for page in WITH_CODE)
    assert not [part for part in SMALLER if part not in text] and len(WITH_CODE) >= 2


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_files_that_are_named_exist(page):
    text = page.read_text()
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", text) if "://" not in link]
    missing = [link for link in links if not (page.parent / link).exists()]
    paths = re.findall(r"(?<![\w./-])(?:airjax|train|eval|tests)/[\w/]+\.py\b", text)
    missing += [path for path in paths if not (ROOT / path).is_file()]
    modules = re.findall(r"(?<![\w.])((?:airjax|train|eval)(?:\.[a-z_]+)+)(?![\w(])", text)
    for module in modules:
        parts = Path(*module.split("."))
        candidates = [parts.with_suffix(".py"), parts, parts.parent.with_suffix(".py"), parts.parent / "__init__.py"]
        missing += [] if any((ROOT / path).exists() for path in candidates) else [module]
    assert not missing

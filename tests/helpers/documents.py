"""README, docs and notebooks as tests read them: words, blocks of Python, command lines; what is made smaller."""

from __future__ import annotations

import json
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))

PYTHON = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PLAIN = re.compile(r"^```(?:sh|bash|console)?\n(.*?)^```$", re.MULTILINE | re.DOTALL)
BLOCK = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
# What may stand before a program: settings of the environment, and the cores that it runs on.
PROGRAM = re.compile(r"^(?:\w+=\S+ +|taskset -c \S+ +)*((?:airjax|make|python -m)\b.*)$")
# What a reader waits for, made smaller: text of the page -> text that runs.
SMALLER = {
    # extending.md
    'image_cases("photos/", crop=64)': 'image_cases("photos/", crop=16)',
    ', "3D": procedural_cases(8)': "",  # tests/test_extensions.py compares in 3D
    "horizons=(5, 20)": "horizons=(1,)",
    "smoke=False": "smoke=True",
    'loop={"num_steps": 60}': 'loop={"num_steps": 2}',
    'loop={"num_steps": 2000}': 'loop={"num_steps": 2}',
    "crop=64),\n    starts": "crop=16),\n    starts",
    "steps=(0, 5, 10)": "steps=(0, 2)",
    "compared=(10,)": "compared=(2,)",
    "num_steps=20)": "num_steps=2)",
    # other pages
    '"scene/", refine_steps=200': '"scene/", refine_steps=10, views=3',  # as tests/commands/test_scene.py
    # notebooks
    "../docs/images/kodim23.png": "photo.jpg",
    "max_gaussians=10_000": "max_gaussians=None",
    "SCALE, SIDE = 3, 96": "SCALE, SIDE = 2, 16",
    "(1, 3, 7)": "(0, 1, 2)",
    "image_size=(64, 64), num_views=8": "image_size=(32, 48), num_views=6",
    "hold_out=4, refine_steps=100": "hold_out=8, views=3, refine_steps=0",
    "hold_out=4)": "hold_out=8, views=3)",
    "refine_steps=100": "refine_steps=2",
    "num_frames=24": "num_frames=2",
    "range(24)": "range(2)",
    "image_cases(PHOTOS, crop=64)": "image_cases(PHOTOS, crop=16)",
    "HORIZONS = (1, 5, 20)": "HORIZONS = (1,)",
    "[ZeroStep, FirstOrder, Truncated]": "[ZeroStep]",
    "INNER_STEPS, OUTER_STEPS = 20, 15": "INNER_STEPS, OUTER_STEPS = 2, 2",
    # command lines, with the options of tests/commands
    "--effort 6": "--effort 4",
    "--refine 100": "--refine 10",
    "--refine 200": "--refine 10",
    "--steps 2000": "--steps 40 --gaussians 40",
}


def smaller(text: str) -> str:
    """Code or a command line as the tests run it."""
    for part, replacement in SMALLER.items():
        text = text.replace(part, replacement)
    return text


def words(page: Path) -> str:
    """A page, or the words of a notebook without its code."""
    if page.suffix == ".md":
        return page.read_text()
    return "\n\n".join(source(cell) for cell in cells(page) if cell["cell_type"] == "markdown")


def code(page: Path) -> list[str]:
    """The blocks of Python of a page, or the code cells of a notebook, in order."""
    if page.suffix == ".md":
        return PYTHON.findall(page.read_text())
    return [source(cell) for cell in cells(page) if cell["cell_type"] == "code"]


def commands(page: Path) -> list[str]:
    """The command lines of a page, in order: those of `airjax`, `make` and `python -m`.

    Without comments and without what stands before the program; a line that ends in a backslash goes on in the next.
    """
    lines = [line for block in blocks(words(page)) for line in block.replace("\\\n", " ").splitlines()]
    found = (PROGRAM.match(re.sub(r"(^|\s+)#.*", "", line).strip()) for line in lines)
    return [" ".join(match[1].split()) for match in found if match]


def blocks(text: str) -> list[str]:
    """The blocks without a language, or of a shell's."""
    return [match[1] for block in BLOCK.findall(text) if (match := PLAIN.fullmatch(block))]


def cells(notebook: Path) -> list[dict]:
    """Of a notebook file."""
    return json.loads(notebook.read_text())["cells"]


def source(cell: dict) -> str:
    """Of a notebook's cell."""
    return "".join(cell["source"])

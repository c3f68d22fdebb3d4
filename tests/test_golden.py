"""Renders and curves beside those that were looked at and kept; `python tests/golden/make.py` makes them again."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest

from airjax.photographs import read_image, to_8bit

pytestmark = pytest.mark.slow

FOLDER = Path(__file__).resolve().parent / "golden"
_SPEC = importlib.util.spec_from_file_location("golden_make", FOLDER / "make.py")
make = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(make)
ADVICE = "if that is on purpose: run tests/golden/make.py, look at the pictures, say why in the commit"


@pytest.fixture(scope="module")
def renders():
    return make.make_renders()


@pytest.mark.parametrize("name", ["image", "image_thin", "image_twice", "scene", "scene_antialiased"])
def test_renders(renders, name):
    """At most one of 256 levels apart, where float32 sums in another order round the other way."""
    expected = np.rint(255 * read_image(FOLDER / f"{name}.png").pixels).astype(int)
    difference = np.abs(to_8bit(renders[name]).astype(int) - expected)
    assert difference.shape == expected.shape and expected.std() > 10
    assert difference.max() <= 1 and np.mean(difference > 0) < 0.01, f"{name} changed; {ADVICE}"


def test_every_render_is_compared(renders):
    assert {path.stem for path in FOLDER.glob("*.png")} == set(renders)


def test_curves():
    """Twenty steps multiply a rounding by some hundred."""
    found, expected = make.make_curves(), json.loads((FOLDER / "curves.json").read_text())
    assert set(found) == set(expected)
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], values, rtol=2e-4, err_msg=f"{name} changed; {ADVICE}")

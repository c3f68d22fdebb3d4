"""`import airjax`: its names, what they hide, how it is explained; files by their suffix; the script of the README."""

import builtins
import importlib
import pkgutil
import pydoc
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
import scenes3d
from scenes2d import random_set

import airjax
from airjax import face
from airjax.errors import AirjaxError
from airjax.image.codec.payload import Quantised
from airjax.image.model import Model
from airjax.image.patches import PatchMap
from airjax.image.stages import StageConfig, init_params
from airjax.nn.air_stage import PredictorConfig
from airjax.photographs import write_image

NAMES = sorted(airjax._HOMES)


@pytest.mark.parametrize("name", NAMES)
def test_every_name_is_there(name):
    module, _, attribute = airjax._HOMES[name].partition(":")
    assert getattr(airjax, name) is getattr(importlib.import_module(module), attribute or name)
    assert name in dir(airjax)


def test_no_name_hides_a_module():
    modules = {module.name for module in pkgutil.iter_modules(airjax.__path__)}
    assert {"raster", "gaussians", "metrics"} <= modules and not modules & set(NAMES)
    code = "import airjax; airjax.render; import airjax.raster.draw as d; assert airjax.render is d.render"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(airjax.__file__).parents[1])


def test_a_star_hides_no_builtin():
    assert set(airjax.__all__) == {*NAMES} - {"open"}
    assert not [name for name in airjax.__all__ if hasattr(builtins, name)]


def test_a_name_that_is_not_there():
    with pytest.raises(AttributeError, match="module 'airjax' has no attribute 'nothing'"):
        airjax.nothing  # noqa: B018


def test_help_names_everything_in_its_first_60_lines():
    text = "\n".join(pydoc.render_doc(airjax, renderer=pydoc.plaintext).splitlines()[:60])
    words = text.replace(",", " ").split()
    assert [name for name in NAMES if name not in words] == []
    for group in ("Containers", "Images", "Scenes", "Rendering and metrics", "Refinement and meta-gradients"):
        assert f"\n      {group}\n" in text


# --- files -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def model():
    stages = (StageConfig(PatchMap(8, 0.75, 0.5, 4.2), PredictorConfig(features=8, blocks=1, expansion=2, votes=6)),)
    return Model(stages, jax.jit(init_params, static_argnums=1)(jax.random.key(0), stages), "tiny")


def test_the_script_of_the_readme(model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_image("photo.png", np.random.default_rng(0).uniform(size=(16, 24, 3)).astype(np.float32))
    image = airjax.read_image("photo.png")
    assert image.shape == (16, 24, 3) and image.dtype == np.float32
    encoded = model.encode(image)
    airjax.write_image("twice.png", encoded.render(scale=2))
    assert airjax.read_image("twice.png").shape == (32, 48, 3)
    compressed = model.compress(image, quality=45)
    airjax.save("photo.air", compressed)
    again = airjax.open("photo.air")
    assert again.to_bytes() == compressed.to_bytes() == Path("photo.air").read_bytes()
    for a, b in zip(jax.tree.leaves(again.gaussians), jax.tree.leaves(compressed.gaussians), strict=True):
        np.testing.assert_array_equal(a, b)
    lossless = airjax.Encoded.from_bytes(encoded.to_bytes())
    np.testing.assert_array_equal(lossless.gaussians.means, encoded.gaussians.means)
    assert lossless.quantised is None and isinstance(again.quantised, Quantised)
    count, stages = encoded.gaussians.num_slots, len(encoded.stage_counts)
    described = f"Encoded({count} Gaussians in {stages} stages, 24 x 16 pixels, float32)"
    assert repr(encoded) == repr(lossless) == described
    assert repr(again).endswith("quantised)") and repr(again.quantised).startswith("Quantised(")
    assert repr(model).startswith("Model(tiny, 1 stages, ")


def test_reading_says_what_was_lost(tmp_path):
    from PIL import Image

    file = tmp_path / "clear.png"
    Image.new("RGBA", (4, 4), (10, 20, 30, 128)).save(file)
    with pytest.warns(UserWarning, match=r"clear\.png: .*transparent"):
        airjax.read_image(file)


def test_scenes_are_saved_as_ply(tmp_path):
    gaussians = scenes3d.random_set(0, 5)
    airjax.save(tmp_path / "scene.PLY", gaussians)
    again = airjax.open(tmp_path / "scene.PLY")
    np.testing.assert_allclose(again.means, gaussians.means, rtol=1e-6)


def test_opening_says_what_was_left_out(tmp_path):
    gaussians = scenes3d.random_set(0, 4, degree=0)
    airjax.save(tmp_path / "scene.ply", gaussians)
    data = (tmp_path / "scene.ply").read_bytes()
    (tmp_path / "scene.ply").write_bytes(data[:-4] + np.float32(np.nan).tobytes())
    with pytest.warns(UserWarning, match=r"scene\.ply: 1 of 4 Gaussians .* left out"):
        assert airjax.open(tmp_path / "scene.ply").num_slots == 3


def test_what_is_refused(tmp_path):
    gaussians = scenes3d.random_set(0, 5)
    with pytest.raises(TypeError, match=r"x\.air: expected Encoded, got Gaussians3D"):
        airjax.save(tmp_path / "x.air", gaussians)
    encoded = airjax.Encoded(random_set(0, 3, (8, 8)), (3,), (8, 8))
    with pytest.raises(TypeError, match=r"x\.ply: expected Gaussians3D, got Encoded"):
        airjax.save(tmp_path / "x.ply", encoded)
    for call in (lambda: airjax.save("x.png", gaussians), lambda: airjax.open("x.png")):
        with pytest.raises(AirjaxError, match=r"x\.png: expected a name ending in \.air or \.ply, got \.png"):
            call()
    (tmp_path / "bad.air").write_bytes(b"nothing")
    with pytest.raises(AirjaxError, match=r"bad\.air: "):
        face.open(tmp_path / "bad.air")
    assert not list(tmp_path.glob("x.*"))

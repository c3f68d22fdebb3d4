"""Photographs on canvases: what comes out is that of the photograph alone, and sizes share programs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scenes2d import random_set

from airjax.gaussians import take
from airjax.image import stages
from airjax.image.canvas import canvas_of, canvas_size, extent_of, without_canvas
from airjax.image.codec.compress import CompressOptions, compress
from airjax.image.codec.search import measured_psnr
from airjax.image.color_solve import solve
from airjax.image.model import Model
from airjax.image.patches import PatchMap
from airjax.image.prediction import predict_stages
from airjax.image.stages import StageConfig, init_params, stage_control_of
from airjax.image.task import squared_error
from airjax.nn.air_stage import PredictorConfig

pytestmark = pytest.mark.slow

NETWORK = {"features": 8, "blocks": 2, "expansion": 2, "votes": 6}
STAGES = (
    StageConfig(PatchMap(16, 0.75, 1.0, 8.4), PredictorConfig(reduction=2, **NETWORK)),
    StageConfig(PatchMap(8, 0.75, 0.5, 4.2), PredictorConfig(**NETWORK)),
    StageConfig(PatchMap(4, 0.75, 0.25, 2.1), PredictorConfig(enlargement=2, **NETWORK)),
)


@pytest.fixture(scope="module")
def model() -> Model:
    params = jax.jit(init_params, static_argnums=1)(jax.random.key(0), STAGES)
    return Model(STAGES, params, "tiny")


def picture(size) -> np.ndarray:
    rng = np.random.default_rng(sum(size))
    y, x = np.mgrid[: size[0], : size[1]] / 7
    waves = np.stack([np.sin(x) * np.cos(y), np.sin(x + y), np.cos(x - 2 * y)], axis=-1)
    return np.clip(0.5 + 0.3 * waves + rng.normal(0, 0.05, waves.shape), 0, 1).astype(np.float32)


def on_canvas(image, size) -> np.ndarray:
    missing = np.subtract(size, image.shape[:2])
    return np.pad(image, ((0, missing[0]), (0, missing[1]), (0, 0)), constant_values=np.nan)


@pytest.mark.parametrize(
    ("side", "expected"),
    [(1, 128), (128, 128), (129, 256), (480, 512), (768, 768), (1000, 1024), (1080, 1280), (2049, 2560)],
)
def test_sides_of_canvases(side, expected):
    """By hand."""
    assert canvas_size((side, 5)) == (expected, 128)


def test_an_image_on_a_canvas():
    image = picture((37, 130))
    canvas = canvas_of(image)
    assert canvas.shape == (128, 256, 3) and extent_of(canvas) == (37, 130)
    np.testing.assert_array_equal(canvas[:37, :130], image)
    assert np.isnan(canvas[37:]).all() and np.isnan(canvas[:, 130:]).all()
    np.testing.assert_array_equal(without_canvas(canvas), image)


@pytest.mark.parametrize("size", [(37, 50), (48, 64), (17, 3), (1, 1)])
def test_predictions_are_those_of_the_image_alone(model, size):
    """To float rounding, where patches hang over the image and where they do not; beyond it there is nothing."""
    image = picture(size)
    control = stage_control_of(1e-4, 2.0, 200.0)._replace(color_step=np.float32(0.05))
    alone = predict_stages(STAGES, model.params, image, control)
    padded = predict_stages(STAGES, model.params, on_canvas(image, (64, 80)), control)
    for (expected, codes), (found, found_codes), stage in zip(alone, padded, STAGES, strict=True):
        patch = stage.patch_map.patch_size
        rows, columns = (-(-side // patch) for side in size)
        inside = (np.arange(rows)[:, None] * (80 // patch) + np.arange(columns)).ravel()
        assert np.count_nonzero(found.active) == np.count_nonzero(found.active[inside])
        np.testing.assert_allclose(found_codes, codes, atol=1e-4)
        found = take(found, inside)
        np.testing.assert_array_equal(found.active, expected.active)
        for name in ("means", "scales", "angles", "colors"):
            got, want = (getattr(part, name)[expected.active] for part in (found, expected))
            np.testing.assert_allclose(got, want, atol=2e-4)


def test_the_solve_sees_the_image_alone():
    """Gaussians reach beyond it, where nothing counts. Oracle: the same without a canvas."""
    size = (30, 45)
    image, scene = picture(size), random_set(3, 60, size)
    alone, padded = (solve(scene, one, num_steps=5).colors for one in (image, on_canvas(image, (64, 64))))
    np.testing.assert_allclose(padded, alone, atol=2e-5)


def test_the_loss_sees_the_image_alone():
    """Value and gradient, which must not be NaN."""
    image, rendered = picture((6, 9)), picture((10, 12))
    value, gradient = jax.value_and_grad(squared_error, argnums=1)(on_canvas(image, (10, 12)), jnp.asarray(rendered))
    difference = rendered[:6, :9] - image
    np.testing.assert_allclose(value, 0.5 * np.sum(np.square(difference)), rtol=1e-6)
    np.testing.assert_allclose(gradient[:6, :9], difference, atol=1e-7)
    assert not np.any(gradient[6:]) and not np.any(gradient[:, 9:])


@pytest.mark.parametrize("effort", [0, 4])
def test_files_are_those_of_the_image_alone(model, monkeypatch, effort):
    """Without an effort to the last integer, but for near-ties; with one as good and as large."""
    image = picture((50, 70))
    options = CompressOptions(50, effort=effort)
    padded = compress(model, image, options)
    monkeypatch.setattr("airjax.image.model.canvas_of", lambda image: image)
    alone = compress(model, image, options)
    assert padded.image_size == alone.image_size == (50, 70)
    if effort == 0:
        assert padded.stage_counts == alone.stage_counts
        for got, want in zip(padded.stages, alone.stages, strict=True):
            np.testing.assert_array_equal(got.patches, want.patches)
            assert np.mean(got.symbols != want.symbols) < 0.01
    assert abs(sum(padded.stage_counts) / sum(alone.stage_counts) - 1) < 0.03
    assert abs(measured_psnr(padded, image) - measured_psnr(alone, image)) < 0.1


def test_sizes_share_programs(model):
    """The networks of a photograph of another size on the same canvas are compiled already."""
    options = CompressOptions(50, effort=0)
    compress(model, picture((50, 70)), options)
    before = stages.run_stage.jitted._cache_size()
    for size in ((51, 70), (33, 90), (8, 8)):
        compress(model, picture(size), options)
    assert stages.run_stage.jitted._cache_size() == before

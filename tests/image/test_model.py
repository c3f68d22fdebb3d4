"""`Model.encode` and `load`, on a small random model."""

from functools import cache

import jax
import numpy as np
import pytest
from scenes2d import exact, parameters

from airjax.errors import AirjaxError
from airjax.image.model import DEFAULT_WEIGHTS, Model, _check_params, checked_image, load
from airjax.image.patches import PatchMap
from airjax.image.presets import stages_to_text
from airjax.image.stages import StageConfig, init_params, run_stages, stage_control_of
from airjax.metrics import patch_mse
from airjax.nn.air_stage import PredictorConfig
from airjax.raster.draw import render
from airjax.weights_file import save_weights

pytestmark = pytest.mark.slow

NETWORK = PredictorConfig(features=8, blocks=1, expansion=2)
STAGES = (
    StageConfig(PatchMap(4, offset=0.75, min_scale=0.5, max_scale=2.1), NETWORK),
    StageConfig(PatchMap(5, offset=0.6, min_scale=0.4, max_scale=2.6), NETWORK),
)
SIZE = (14, 18)  # 4 x 5 and 3 x 4 patches
SLOTS = (20, 12)


@cache
def model():
    return Model(STAGES, jax.jit(init_params, static_argnums=1)(jax.random.key(0), STAGES), "tiny")


@cache
def photograph(size=SIZE):
    y, x = np.mgrid[: size[0], : size[1]] / 6
    return np.stack([0.5 + 0.4 * np.sin(a * y + b * x) for a, b in ((1, 0.4), (0.2, 1), (1, 1))], -1).astype(np.float32)


def error_of(encoded):
    return np.mean((exact(encoded.gaussians, image_size=encoded.image_size).image - photograph()) ** 2)


def assert_same_set(actual, expected):
    for name, value in parameters(expected).items():
        np.testing.assert_allclose(getattr(actual, name), value, atol=1e-5)


def test_encode_keeps_the_active_rows_stage_by_stage():
    """Oracle: the stages run one by one, their inactive slots dropped. The threshold lets half of stage 1 ask."""
    image, params = photograph(), model().params
    run = jax.jit(lambda control: run_stages(STAGES, params, image, control))
    error = patch_mse(image, run(stage_control_of(-1.0))[0].rendered, patch_size=5)
    threshold = float(np.median(error))
    trace = run(stage_control_of(threshold, np.inf))
    active = [np.asarray(stage.gaussians.active) for stage in trace]
    assert 0 < active[1].sum() < SLOTS[1]

    encoded = model().encode(image, mse_threshold=threshold, ssim_threshold=np.inf, solve_steps=0)
    assert encoded.stage_counts == tuple(int(a.sum()) for a in active)
    assert encoded.image_size == SIZE and np.asarray(encoded.gaussians.active).all()
    expected = [
        np.concatenate([np.asarray(getattr(stage.gaussians, name))[a] for stage, a in zip(trace, active, strict=True)])
        for name in parameters(trace[0].gaussians)
    ]
    for value, name in zip(expected, parameters(trace[0].gaussians), strict=True):
        np.testing.assert_allclose(getattr(encoded.gaussians, name), value, atol=1e-5)
    rendered = render(encoded.gaussians, image_size=SIZE).image
    np.testing.assert_allclose(rendered, trace[-1].rendered, atol=2e-5)


def test_the_colour_solve_lowers_the_error_and_moves_nothing():
    predicted = model().encode(photograph(), num_stages=2, mse_threshold=-1.0, solve_steps=0)
    solved = model().encode(photograph(), num_stages=2, mse_threshold=-1.0)
    assert predicted.stage_counts == solved.stage_counts == SLOTS
    assert error_of(solved) < 0.5 * error_of(predicted)
    assert_same_set(solved.gaussians, predicted.gaussians.with_colors(solved.gaussians.colors))


def test_fewer_stages_are_the_first_ones():
    full = model().encode(photograph(), mse_threshold=-1.0, solve_steps=0)
    first = model().encode(photograph(), mse_threshold=-1.0, solve_steps=0, num_stages=1)
    assert first.stage_counts == SLOTS[:1]
    for name, value in parameters(first.gaussians).items():
        np.testing.assert_allclose(value, np.asarray(getattr(full.gaussians, name))[: SLOTS[0]], atol=1e-5)


@pytest.mark.parametrize(
    ("budget", "expected"), [(0, (0, 0)), (7, (7, 0)), (25, (20, 5)), (1000, SLOTS), (None, SLOTS)]
)
def test_a_budget_is_spent_and_not_exceeded(budget, expected):
    options = {"num_stages": 2, "mse_threshold": -1.0, "solve_steps": 0}
    encoded = model().encode(photograph(), max_gaussians=budget, **options)
    assert encoded.stage_counts == expected
    assert encoded.gaussians.num_slots == sum(expected)


def test_what_stages_leave_is_for_finer_ones():
    """The last once more, of patches of 5, which have no half: what the budget leaves after the trained ones."""
    encoded = model().encode(photograph(), mse_threshold=-1.0, max_gaussians=40, solve_steps=0)
    assert encoded.stage_counts == (*SLOTS, 8)
    easy = model().encode(photograph(), mse_threshold=10.0, ssim_threshold=2.0, solve_steps=0)
    assert easy.stage_counts == (0, 0)


@pytest.mark.parametrize("size", [(1, 1), (2, 37)])
def test_any_size(size):
    encoded = model().encode(photograph(size), mse_threshold=-1.0)
    assert encoded.image_size == size and encoded.gaussians.num_slots == sum(encoded.stage_counts) > 0
    assert all(np.isfinite(value).all() for value in parameters(encoded.gaussians).values())


def test_a_black_image_has_no_gaussians():
    """And the set of none renders black."""
    encoded = model().encode(np.zeros((*SIZE, 3)))
    assert encoded.stage_counts == (0, 0) and encoded.gaussians.num_slots == 0
    np.testing.assert_array_equal(render(encoded.gaussians, image_size=SIZE).image, np.zeros((*SIZE, 3)))


@pytest.mark.parametrize(
    ("image", "options", "message"),
    [
        (np.zeros((4, 4)), {}, r"image: expected \(h, w, 3\), got \(4, 4\)"),
        (np.zeros((4, 4, 4)), {}, r"image: expected \(h, w, 3\), got \(4, 4, 4\)"),
        (np.zeros((0, 4, 3)), {}, r"image: expected \(h, w, 3\), got \(0, 4, 3\)"),
        (np.zeros((4, 4, 3), np.uint8), {}, r"image: expected floating-point values in \[0, 1\], got uint8"),
        (np.full((4, 4, 3), np.nan), {}, r"image: expected finite values in \[0, 1\]"),
        (np.full((4, 4, 3), 200.0), {}, r"image: expected values in \[0, 1\], got 200 to 200; divide pixels of 8 bits"),
        (np.full((4, 4, 3), -7.0), {}, r"image: expected values in \[0, 1\], got -7 to -7"),
        (np.zeros((4, 4, 3)), {"num_stages": 0}, "num_stages: expected 1 to 2, got 0"),
        (np.zeros((4, 4, 3)), {"num_stages": 3}, "num_stages: expected 1 to 2, got 3"),
        (np.zeros((4, 4, 3)), {"max_gaussians": -1}, "max_gaussians: expected at least 0, got -1"),
        (np.zeros((4, 4, 3)), {"solve_steps": -1}, "solve_steps: expected at least 0, got -1"),
    ],
)
def test_bad_arguments_raise(image, options, message):
    with pytest.raises(ValueError, match=message):
        model().encode(image, **options)


def test_values_a_little_out_of_range_are_taken():
    """What filters overshoot is no reason to refuse a picture."""
    image = np.linspace(-0.01, 1.01, 4 * 4 * 3).reshape(4, 4, 3)
    np.testing.assert_array_equal(checked_image(image), image.astype(np.float32))


def test_a_size_beyond_the_format_is_refused_at_once():
    """Before anything is computed."""
    with pytest.raises(AirjaxError, match="expected sides of 1 to 1048576 pixels, got 2000000x1"):
        model().compress(np.zeros((1, 2_000_000, 3), np.float32))


# --- load ------------------------------------------------------------------------------------------------


def test_a_saved_model_encodes_the_same(tmp_path):
    path = tmp_path / "tiny.safetensors"
    save_weights(path, model().params, {"stages": stages_to_text(STAGES)})
    loaded = load(path)
    assert loaded.stages == STAGES and loaded.name.startswith("tiny.safetensors ")
    expected = model().encode(photograph(), solve_steps=0)
    assert_same_set(loaded.encode(photograph(), solve_steps=0).gaussians, expected.gaussians)


def test_the_name_tells_weights_apart(tmp_path):
    names = set()
    for i in range(2):
        path = tmp_path / "w.safetensors"
        params = jax.tree.map(lambda x, i=i: x + i, model().params)
        save_weights(path, params, {"stages": stages_to_text(STAGES)})
        names.add(load(path).name)
    assert len(names) == 2


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({}, r"expected weights of a staged predictor \(metadata 'stages'\), found none"),
        ({"stages": "[1]"}, "expected a stage configuration in JSON, got"),
    ],
)
def test_weights_of_something_else_are_one_clear_error(tmp_path, metadata, message):
    path = tmp_path / "other.safetensors"
    save_weights(path, {"a": np.zeros(2, np.float32)}, metadata)
    with pytest.raises(AirjaxError, match=f"other.safetensors: {message}"):
        load(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda params, text: ({"stage0": params["stage0"]}, text),
            r"fit their stage .*, got others, first at \['stage1'\]",
        ),
        (
            lambda params, text: (params | {"more": np.zeros(2)}, text),
            r"fit their stage .*, got others, first at \['more'\]",
        ),
        (lambda params, text: (params, "[]"), r"fit their stage configuration, got others"),
        (lambda params, text: (params, text.replace('"features": 8', '"features": "x"')), "stages that can be built"),
        (lambda params, text: (params, text.replace('"reduction": 1', '"reduction": 3')), "stages that can be built"),
    ],
    ids=["fewer", "more", "no stage", "no number", "no divisor"],
)
def test_weights_that_do_not_fit_their_stages(tmp_path, change, message):
    path = tmp_path / "odd.safetensors"
    params, text = change(model().params, stages_to_text(STAGES))
    save_weights(path, params, {"stages": text})
    with pytest.raises(AirjaxError, match=f"odd.safetensors: expected .*{message}"):
        load(path)


def test_the_shipped_weights_fit_their_stages():
    """`load` leaves this check to here."""
    shipped = load()
    _check_params(shipped.params, shipped.stages, DEFAULT_WEIGHTS)


def test_no_weights_file_is_one_clear_error(tmp_path):
    with pytest.raises(AirjaxError, match=r"expected a weights file \(.safetensors\), found none"):
        load(tmp_path / "absent.safetensors")

"""The colour solve against numpy's least squares on the matrix of weights."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scenes2d import exact, make, parameters, random_set

from airjax.image import strips
from airjax.image.color_solve import DAMPING, solve, solve_colors
from airjax.raster import draw

SIZE, N = (9, 11), 12


@cache
def case():
    """(matrix (pixels, n), colours, image, active): overlapping Gaussians, two of them inactive; float64."""
    scene = random_set(0, N, SIZE, scales=(1, 2.5))
    matrix = exact(parameters(scene) | {"colors": np.eye(N)}, image_size=SIZE, active=scene.active).image
    rng = np.random.default_rng(1)
    image = rng.uniform(0, 1, (*SIZE, 3))
    active = np.arange(N) % 6 != 4
    return matrix.reshape(-1, N), rng.normal(0, 0.3, (N, 3)), image, active


def run(colors, image, matrix, *, num_steps, damping=DAMPING, active=None):
    """`solve_colors` on a dense matrix; inactive rows are not drawn."""
    active = jnp.asarray(case()[3] if active is None else active)
    weights = matrix * active.astype(matrix.dtype)[None]

    def draw(colors):
        return jnp.dot(weights, colors, precision="highest").reshape(image.shape)

    norms = jnp.sum(jnp.square(weights), axis=0)
    return solve_colors(draw, colors, image, active=active, norms=norms, num_steps=num_steps, damping=damping)


solve_dense = jax.jit(run, static_argnames=("num_steps", "damping"))


def inputs(dtype=jnp.float32):
    matrix, colors, image, _ = case()
    return tuple(jnp.asarray(x, dtype) for x in (colors, image, matrix))


def least_squares(damping):
    """Minimum of |A (c + d) - y|^2 + damping |d|^2 over the active rows, by numpy."""
    matrix, colors, image, active = case()
    a = matrix[:, active]
    target = image.reshape(-1, 3) - a @ colors[active]
    stacked = np.concatenate([a, np.sqrt(damping) * np.eye(a.shape[1])])
    change = np.linalg.lstsq(stacked, np.concatenate([target, np.zeros((a.shape[1], 3))]), rcond=None)[0]
    out = colors.copy()
    out[active] += change
    return out


@pytest.mark.parametrize("damping", [DAMPING, 1.0])
def test_converges_to_least_squares(damping):
    """As many steps as unknowns end at the minimum, and more do no harm; inactive rows come back bit by bit."""
    solved = np.asarray(solve_dense(*inputs(), num_steps=30, damping=damping))
    np.testing.assert_allclose(solved, least_squares(damping), atol=1e-4)
    _, colors, _, active = case()
    np.testing.assert_array_equal(solved[~active], np.float32(colors)[~active])


def test_every_step_lowers_the_damped_objective():
    matrix, colors, image, active = case()
    values = []
    for num_steps in range(6):
        solved = np.asarray(solve_dense(*inputs(), num_steps=num_steps), np.float64)
        error = matrix[:, active] @ solved[active] - image.reshape(-1, 3)
        values.append(np.sum(error**2) + DAMPING * np.sum((solved - colors) ** 2))
    best = least_squares(DAMPING)
    error = matrix[:, active] @ best[active] - image.reshape(-1, 3)
    least = np.sum(error**2) + DAMPING * np.sum((best - colors) ** 2)
    assert np.all(np.diff(values) < 0) and values[-1] >= least
    assert values[5] - least < 0.01 * (values[0] - least)


def test_no_step_returns_the_input():
    colors, image, matrix = inputs()
    assert run(colors, image, matrix, num_steps=0) is colors
    with pytest.raises(ValueError, match="num_steps: expected at least 0, got -1"):
        run(colors, image, matrix, num_steps=-1)


def test_inactive_rows_may_hold_anything():
    colors, image, matrix = inputs()
    _, _, _, active = case()
    expected = np.asarray(solve_dense(colors, image, matrix, num_steps=5))
    poisoned = jnp.where(active[:, None], colors, jnp.nan)
    solved = np.asarray(solve_dense(poisoned, image, matrix, num_steps=5))
    np.testing.assert_array_equal(solved[active], expected[active])
    assert np.isnan(solved[~active]).all()


@pytest.mark.parametrize("target", ["black", "drawn"])
def test_nothing_left_to_solve_is_no_division_by_zero(target):
    """A black image from black colours, and an image that the colours already draw: value and gradient stay finite."""
    colors, image, matrix = inputs()
    _, _, _, active = case()
    colors = 0 * colors if target == "black" else colors
    image = jnp.dot(matrix, jnp.where(active[:, None], colors, 0)).reshape(image.shape)

    def total(colors, image, matrix):
        out = run(colors, image, matrix, num_steps=5)
        return jnp.sum(jnp.sin(out)), out

    grads, out = jax.jit(jax.grad(total, argnums=(0, 1, 2), has_aux=True))(colors, image, matrix)
    np.testing.assert_allclose(out, colors, atol=1e-5)
    assert all(np.isfinite(grad).all() for grad in grads)


def test_differentiable_in_colours_image_and_geometry():
    """Oracle: central differences in float64, along one random direction of each."""
    with jax.enable_x64(True):
        args = inputs(jnp.float64)
        rng = np.random.default_rng(2)
        weights = jnp.asarray(rng.normal(size=(N, 3)))
        directions = [jnp.asarray(rng.normal(size=x.shape)) for x in args]
        value_and_grad = jax.jit(
            jax.value_and_grad(lambda *args: jnp.sum(weights * run(*args, num_steps=4)), argnums=(0, 1, 2))
        )
        grads = value_and_grad(*args)[1]
        for i, (grad, direction) in enumerate(zip(grads, directions, strict=True)):
            step = 1e-6
            ends = [
                value_and_grad(*(x + s * step * direction if i == k else x for k, x in enumerate(args)))[0]
                for s in (1, -1)
            ]
            expected = float(ends[0] - ends[1]) / (2 * step)
            assert abs(expected) > 1e-3
            assert float(jnp.vdot(grad, direction)) == pytest.approx(expected, rel=1e-6)


# --- the solve of a whole image, by the renderer's lists -------------------------------------------------


@cache
def scene_and_image():
    size = (33, 50)
    scene = random_set(3, 60, size, scales=(1.5, 4), margin=2)
    y, x = np.mgrid[: size[0], : size[1]] / 10
    image = np.stack([0.5 + 0.3 * np.sin(a * y + b * x) for a, b in ((1, 0.2), (0.3, 1), (0.8, 0.8))], axis=-1)
    return scene, image.astype(np.float32)


def error_of(scene, image):
    return np.sum((exact(scene, image_size=image.shape[:2]).image - image) ** 2)


def test_the_whole_solve_converges_to_least_squares():
    """Oracle: numpy on the matrix of exact weights; compared by the objective, which is flat around the minimum."""
    scene, image = scene_and_image()
    n = scene.num_slots
    ones = parameters(scene) | {"colors": np.eye(n)}
    matrix = exact(ones, image_size=image.shape[:2], active=scene.active).image.reshape(-1, n)
    stacked = np.concatenate([matrix, np.sqrt(DAMPING) * np.eye(n)])
    start = np.asarray(scene.colors, np.float64)
    target = np.concatenate([image.reshape(-1, 3) - matrix @ start, np.zeros((n, 3))])
    least = np.sum((stacked @ np.linalg.lstsq(stacked, target, rcond=None)[0] - target) ** 2)
    solved = solve(scene, image, num_steps=40)
    reached = np.sum((stacked @ (np.asarray(solved.colors) - start) - target) ** 2)
    assert least * (1 - 1e-5) <= reached <= 1.001 * least
    for name in ("means", "scales", "angles", "active"):
        np.testing.assert_array_equal(getattr(solved, name), getattr(scene, name))


def test_strips_lower_the_error_too(monkeypatch):
    """Each strip against what the others leave: not the same colours, but nearly the same error."""
    scene, image = scene_and_image()
    whole = solve(scene, image, num_steps=5)
    for module in (strips, draw):
        monkeypatch.setattr(module, "STRIP_PIXELS", 16 * image.shape[1])
    by_strip = solve(scene, image, num_steps=5)
    start = error_of(scene, image)
    assert error_of(by_strip, image) < 0.1 * start
    assert error_of(by_strip, image) < 1.5 * error_of(whole, image)
    assert error_of(whole, image) < 0.1 * start


def test_strips_solve_what_lies_outside_the_image(monkeypatch):
    """Gaussians centred above and below the image belong to the first and the last strip."""
    _, image = scene_and_image()
    scene = make([[20, -1.5], [20, 34.5], [20, 16]], 2.0, 0.0, np.zeros((3, 3)))
    monkeypatch.setattr(strips, "STRIP_PIXELS", 8 * image.shape[1])
    monkeypatch.setattr(draw, "STRIP_PIXELS", 8 * image.shape[1])
    by_strip = solve(scene, image, num_steps=5)
    assert np.abs(by_strip.colors).min() > 0
    # They do not overlap: each has the solution of its own small problem, sum(weight * image) / sum(weight^2).
    matrix = exact(parameters(scene) | {"colors": np.eye(3)}, image_size=image.shape[:2], active=scene.active).image
    expected = np.einsum("hwn,hwc->nc", matrix, image) / (np.sum(matrix**2, axis=(0, 1)) + DAMPING)[:, None]
    np.testing.assert_allclose(by_strip.colors, expected, atol=1e-4)

"""Bundle adjustment: made-up cameras are found again from where their views show made-up cells."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from airjax.scene import bundle as bundle_module
from airjax.scene.bundle import Bundle, Matches, adjusted, reflected
from airjax.scene.cameras import Camera

VIEWS, SIDE = 3, 5


def made_up(dtype=np.float32, seed=0) -> tuple[Bundle, Matches]:
    """Cameras side by side before an uneven wall, and where each shows the cells of the others."""
    rng = np.random.default_rng(seed)
    steps = np.concatenate([0.1 * rng.standard_normal((VIEWS, 3)), 0.3 * rng.standard_normal((VIEWS, 3))], axis=1)
    steps[0] = 0
    eye = np.broadcast_to(np.eye(3), (VIEWS, 3, 3))
    cameras = Camera(eye, eye, np.zeros((VIEWS, 3))).moved(steps.astype(dtype))
    x, y = np.meshgrid(np.linspace(-0.4, 0.4, SIDE), np.linspace(-0.3, 0.3, SIDE))
    cells = np.stack([x, y], axis=-1).reshape(-1, 2)
    depths = 0.3 * rng.standard_normal((VIEWS, SIDE**2))
    true = Bundle(cameras.rotation, cameras.translation, np.log(1.1), depths)
    true = jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), true)
    blank = Matches(
        jnp.asarray(cells, dtype),
        jnp.zeros((VIEWS, VIEWS, SIDE**2, 2), dtype),
        jnp.broadcast_to(1 - jnp.eye(VIEWS, dtype=dtype)[:, :, None], (VIEWS, VIEWS, SIDE**2)),
        0.006,
    )
    return true, blank._replace(seen=bundle_module._places(true, blank)[1])


def turned(one: Bundle, other: Bundle) -> float:
    """Largest angle between rotations, degrees."""
    cosines = (jnp.einsum("vab,vab->v", one.rotation, other.rotation) - 1) / 2
    return float(jnp.degrees(jnp.arccos(jnp.clip(cosines, -1, 1))).max())


def test_cameras_are_found_from_none():
    true, matches = made_up()
    start = true._replace(
        rotation=jnp.broadcast_to(jnp.eye(3), (VIEWS, 3, 3)),
        translation=jnp.zeros((VIEWS, 3)),
        depths=jnp.zeros_like(true.depths),
    )
    found, cost = jax.jit(adjusted)(start, matches)
    assert turned(found, true) < 1.0
    directions = (part[1:] / jnp.linalg.norm(part[1:], axis=1, keepdims=True) for part in (found[1], true[1]))
    assert float(jnp.sum(next(directions) * next(directions), axis=1).min()) > 0.99
    assert float(cost) < 0.1 * float(bundle_module._cost(start, start, matches, 0.006))


def test_what_explains_everything_stays():
    true, matches = made_up()
    found, cost = jax.jit(adjusted)(true, matches)
    assert float(cost) < 1e-4 and turned(found, true) < 0.1


def test_wrong_matches_count_little():
    true, matches = made_up()
    seen = matches.seen.at[:, :, ::5].add(0.3)  # a fifth of them
    found, _ = jax.jit(adjusted)(true, matches._replace(seen=seen))
    assert turned(found, true) < 1.0


def test_matches_without_weight_move_nothing():
    true, matches = made_up()
    found, cost = jax.jit(adjusted)(true, matches._replace(seen=matches.seen + 1, weights=0 * matches.weights))
    assert float(cost) == 0.0
    np.testing.assert_allclose(found.translation, true.translation, atol=1e-6)


def test_a_reflection_of_a_reflection_is_the_same():
    true, _ = made_up()
    twice = reflected(reflected(true))
    for one, other in zip(twice, true, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)


def test_steps_equal_those_of_automatic_derivatives():
    """One undamped step, against the dense normal equations of residuals differentiated by JAX, in float64."""
    with jax.enable_x64(True):
        true, matches = made_up(np.float64)
        bundle = true._replace(depths=true.depths + 0.05, translation=true.translation + 0.02)
        sigma, size = 0.05, 6 * VIEWS + 1

        def residuals(step):
            cameras, depths = step[:size], step[size:].reshape(VIEWS, -1)
            steps = cameras[:-1].reshape(VIEWS, 6)
            moved = Camera(bundle.rotation, bundle.rotation, bundle.translation).moved(steps)
            where = Bundle(moved.rotation, moved.translation, bundle.focal + cameras[-1], bundle.depths + depths)
            return bundle_module._places(where, matches)[0]

        zero = jnp.zeros(size + bundle.depths.size)
        r, jacobian = residuals(zero), jax.jacfwd(residuals)(zero)
        weights = matches.weights / (sigma**2 + jnp.sum(r**2, axis=-1))
        curvature = jnp.einsum("ijn,ijnap,ijnaq->pq", weights, jacobian, jacobian)
        slope = jnp.einsum("ijn,ijnap,ijna->p", weights, jacobian, r)
        held = jnp.concatenate([jnp.zeros(size - 1), jnp.array([bundle_module._FOCAL])])
        held = jnp.concatenate([held, jnp.full(bundle.depths.size, bundle_module._DEPTHS)])
        away = jnp.concatenate([jnp.zeros(size), (bundle.depths - true.depths).ravel()])
        small = jnp.concatenate([jnp.full(size, 1e-6), jnp.zeros(bundle.depths.size)])
        curvature, slope = curvature + jnp.diag(held + small), slope + held * away
        expected = -jnp.linalg.solve(curvature[6:, 6:], slope[6:])
        cameras, depths = bundle_module._solved(bundle, true, matches, sigma, 0.0)
        found = jnp.concatenate([cameras[6:], depths.ravel()])
        np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-9)
        assert not np.any(cameras[:6])


@pytest.mark.parametrize("behind", [False, True])
def test_a_cell_behind_a_camera_gives_finite_steps(behind):
    true, matches = made_up()
    depths = true.depths.at[0].set(3.0 if behind else 0.0)  # far too near, so that others turn past it
    found, cost = jax.jit(adjusted)(true._replace(depths=depths), matches)
    assert all(np.isfinite(leaf).all() for leaf in found) and np.isfinite(cost)

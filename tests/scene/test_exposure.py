"""`airjax.scene.exposure` against `numpy.linalg.lstsq`, and in refinement."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from airjax.scene.exposure import _PULL, exposed


def pictures(seed=0, size=(6, 8)):
    rng = np.random.default_rng(seed)
    return rng.uniform(0, 1, (2, *size, 3)).astype(np.float32)


@pytest.mark.parametrize("masked", [False, True])
def test_it_is_the_least_squares_fit_of_every_channel(masked):
    rendered, image = pictures()
    mask = np.arange(48).reshape(6, 8) % 3 > 0 if masked else np.ones((6, 8), bool)
    found = exposed(jnp.asarray(rendered), jnp.asarray(image), mask=jnp.asarray(mask) if masked else None)
    pull = np.sqrt(_PULL * mask.sum())
    for channel in range(3):
        r, i = rendered[mask][:, channel], image[mask][:, channel]
        rows = np.concatenate([np.stack([r, np.ones_like(r)], 1), pull * np.eye(2)]).astype(np.float64)
        gain, offset = np.linalg.lstsq(rows, np.concatenate([i, [pull, 0]]), rcond=None)[0]
        np.testing.assert_allclose(found[..., channel], gain * rendered[..., channel] + offset, atol=1e-5)


def test_a_photograph_of_another_exposure_is_met():
    rendered, _ = pictures(1)
    image = 0.7 * rendered + 0.1
    found = exposed(jnp.asarray(rendered), jnp.asarray(image))
    assert np.abs(found - image).max() < 0.03 < 0.1 < np.abs(rendered - image).max()
    np.testing.assert_allclose(exposed(jnp.asarray(rendered), jnp.asarray(rendered)), rendered, atol=1e-6)


def test_gain_and_offset_have_no_gradient():
    """That of a sum of all pixels is the gain; of flat and of wholly masked pictures it is finite."""
    rendered, image = map(jnp.asarray, pictures(2))

    def total(rendered, mask=None):
        return jnp.sum(exposed(rendered, image, mask=mask), axis=(0, 1))

    shown = exposed(rendered, image)
    gain = (shown[0, 0, 0] - shown[3, 4, 0]) / (rendered[0, 0, 0] - rendered[3, 4, 0])
    gradient = jax.grad(lambda r: total(r)[0])(rendered)
    np.testing.assert_allclose(gradient[..., 0], np.full((6, 8), gain), rtol=1e-4)
    for flat, mask in ((jnp.zeros_like(rendered), None), (rendered, jnp.zeros((6, 8), bool))):
        assert np.isfinite(jax.grad(lambda r, m=mask: total(r, m)[0])(flat)).all()

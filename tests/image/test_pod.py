"""POD against its formula with the target as a constant, and against the inner loop over all rows."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from dense import render_dense

from airjax.gaussians import join
from airjax.image.patches import PatchMap, to_physical
from airjax.image.pod import inner_adam, pod_loss, pod_stage
from airjax.image.stages import StageConfig, init_params, predict_stage
from airjax.inner.refine import refine
from airjax.metrics import image_loss
from airjax.nn.air_stage import PredictorConfig
from airjax.raster.tiles import patch_centers

pytestmark = pytest.mark.slow

NEW = np.array([True, False, True, True])
TX = inner_adam(0.05)
STAGE = StageConfig(PatchMap(8, offset=0.75, max_scale=4.2), PredictorConfig(features=8, blocks=1))
SIZE = (14, 19)  # 2 x 3 patches; the last row and column hang over


def rows(seed=0):
    return jnp.asarray(np.random.default_rng(seed).standard_normal((4, 8)), jnp.float32)


def inner(raw):
    """Couples the rows, so that a frozen one matters."""
    return jnp.mean(jnp.square(jnp.sin(raw) @ jnp.sin(raw).T - 0.3))


def smooth_l1(d):
    """The textbook formula with beta = 1."""
    return np.where(np.abs(d) < 1, 0.5 * d**2, np.abs(d) - 0.5)


def expected_loss(raw, refined, new):
    sigmoid = lambda x: 1 / (1 + np.exp(-np.asarray(x, np.float64)))  # noqa: E731
    return 100 * np.mean(smooth_l1(sigmoid(raw)[new] - sigmoid(refined)[new]))


def expected_grad(raw, refined, new):
    """100 (s - s*) s (1 - s) / count on the new rows: the target is a constant."""
    s, target = (1 / (1 + np.exp(-np.asarray(x, np.float64))) for x in (raw, refined))
    return np.where(new[:, None], 100 * (s - target) * s * (1 - s) / (8 * new.sum()), 0)


def test_loss_and_gradient_are_those_of_a_constant_target():
    """Oracle: the formula in float64 on the rows that `refine` ends at.

    Were the target differentiated too, the gradient would be that of a difference, many times smaller.
    """
    fn = jax.jit(jax.value_and_grad(lambda raw: pod_loss(raw, inner, TX, num_steps=6, new=NEW), has_aux=True))
    (loss, info), grad = fn(rows())
    done = refine(inner, rows(), TX, num_steps=6, update_mask=NEW[:, None])
    # float32 rounding of the sigmoids, 6e-8, against differences of a few percent.
    np.testing.assert_allclose(info.refined, done.final, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(info.losses, done.losses, rtol=1e-5)
    assert info.losses[-1] < info.losses[0]
    np.testing.assert_allclose(loss, expected_loss(rows(), done.final, NEW), rtol=2e-5)
    np.testing.assert_allclose(grad, expected_grad(rows(), done.final, NEW), rtol=1e-4, atol=1e-6)
    assert np.abs(grad[NEW]).min() > 0


def test_rows_that_are_not_new_do_not_move():
    _, info = pod_loss(rows(), inner, TX, num_steps=3, new=NEW)
    np.testing.assert_array_equal(info.refined[1], rows()[1])
    assert np.all(np.asarray(info.refined != rows())[NEW])


def test_no_gradient_reaches_what_the_inner_loss_closes_over():
    """And none leaves through the info: both would be gradients across the inner loop."""

    def outer(shift):
        loss, info = pod_loss(rows(), lambda raw: inner(raw + shift), TX, num_steps=3, new=NEW)
        return loss + jnp.sum(info.refined) + jnp.sum(info.losses)

    assert outer(0.1) != outer(0.0)
    assert jax.grad(outer)(0.1) == 0


def test_without_new_rows_there_is_no_loss_and_no_gradient():
    """Even where the rows are not finite, which nobody looks at."""
    raw = rows().at[1].set(jnp.nan)

    def fn(raw):
        return pod_loss(raw, lambda u: jnp.sum(u**2), TX, num_steps=2, new=np.zeros(4, bool))[0]

    loss, grad = jax.value_and_grad(fn)(raw)
    assert loss == 0
    np.testing.assert_array_equal(grad, np.zeros((4, 8)))


@pytest.mark.forbidden
def test_new_must_fit_the_rows():
    with pytest.raises(ValueError, match=r"new: expected one bool per row of raw \(4, 8\), got \(3,\)"):
        pod_loss(rows(), inner, TX, num_steps=1, new=np.ones(3, bool))


# --- a stage on an image -------------------------------------------------------------------------------


def norm(tree):
    return np.sqrt(sum(np.sum(np.square(leaf)) for leaf in jax.tree.leaves(tree)))


def picture(seed=0):
    """A smooth random image."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[: SIZE[0], : SIZE[1]] / 8
    waves = [np.sin(a * x + b * y + c) for a, b, c in rng.uniform(-2, 2, (3, 3))]
    return jnp.asarray(0.5 + 0.4 * np.stack(waves, axis=-1), jnp.float32)


@jax.jit
def predict(params, residual):
    """What the network of the stage says of a residual."""
    return predict_stage(STAGE, params, residual)


@pytest.fixture(scope="module")
def stage_case():
    """One stage behind a constant image, and everything that the tests compare it with."""
    params = jax.jit(init_params, static_argnums=1)(jax.random.key(0), (STAGE,))["stage0"]
    rendered, active = 0.5 * picture(1), np.array([True, True, False, True, True, True])
    fn = jax.jit(
        jax.value_and_grad(
            lambda p, r, a: pod_stage(p, picture(), r, a, inner_adam(0.02), stage=STAGE, num_steps=4),
            argnums=(0, 1),
            has_aux=True,
        )
    )
    return params, rendered, active, fn


def test_a_stage_is_the_inner_loop_over_all_gaussians(stage_case):
    """Oracle: every Gaussian so far refined together, the earlier ones masked, through the dense renderer."""
    params, _, active, fn = stage_case
    centers = patch_centers((2, 3), 8)
    before = 0.5 * jnp.asarray(np.random.default_rng(2).standard_normal((6, 8)), jnp.float32)
    everywhere = np.ones(6, bool)

    def render(raw_all):
        sets = [
            to_physical(raw, centers, mask, STAGE.patch_map)
            for raw, mask in zip(jnp.split(raw_all, 2), (everywhere, active), strict=True)
        ]
        return render_dense(join(sets), image_size=SIZE)

    rendered = jax.jit(
        lambda raw: render_dense(to_physical(raw, centers, everywhere, STAGE.patch_map), image_size=SIZE)
    )(before)
    raw = predict(params, picture() - rendered)
    raw_all, new = jnp.concatenate([before, raw]), np.concatenate([~everywhere, active])
    inner_all = lambda u: image_loss(picture(), render(u), l1=0.7, rmse=0, ssim=0.3)  # noqa: E731
    expected, info_all = jax.jit(lambda u: pod_loss(u, inner_all, inner_adam(0.02), num_steps=4, new=jnp.asarray(new)))(
        raw_all
    )

    (loss, out), _ = fn(params, rendered, active)
    # Adam divides by the root of the second moment: a float32 difference in a tiny gradient moves a row by a
    # part of the step 0.02, and the loss is quadratic in that.
    np.testing.assert_allclose(out.info.losses, info_all.losses, rtol=1e-4)
    np.testing.assert_allclose(out.info.refined[active], info_all.refined[6:][active], atol=1e-3)
    np.testing.assert_allclose(loss, expected, rtol=1e-2)
    np.testing.assert_allclose(out.rendered, jax.jit(render)(raw_all), atol=2e-5)


def test_a_stage_is_differentiated_in_its_weights_alone(stage_case):
    """Oracle: the constant-target gradient of the rows, pulled back by the network."""
    params, rendered, active, fn = stage_case
    (_, out), (grads, grad_rendered) = fn(params, rendered, active)
    np.testing.assert_array_equal(grad_rendered, np.zeros_like(rendered))
    raw, pull_back = jax.vjp(lambda p: predict(p, picture() - rendered), params)
    cotangent = expected_grad(raw, out.info.refined, active).astype(np.float32)
    expected = pull_back(jnp.asarray(cotangent))[0]
    scale = norm(expected)
    assert scale > 0
    # The differences of float32 sigmoids, about 5e-3, carry 1e-5 of themselves in rounding.
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-3 * float(scale)), grads, expected)


def test_a_stage_without_active_patches_adds_and_learns_nothing(stage_case):
    params, rendered, active, fn = stage_case
    (loss, out), (grads, _) = fn(params, rendered, np.zeros_like(active))
    assert loss == 0
    np.testing.assert_array_equal(out.rendered, rendered)
    assert norm(grads) == 0

"""The staged prediction: what a stage adds, when Stage Control asks for it, how gradients and budgets pass through."""

from dataclasses import replace
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scenes2d import assert_image, exact

from airjax.image.patches import PatchMap, to_physical
from airjax.image.prediction import predict_stages
from airjax.image.stages import (
    StageConfig,
    StageControl,
    init_params,
    pad_to_patches,
    predict_stage,
    run_stages,
    stage_control,
    stage_control_of,
    with_finer,
)
from airjax.metrics import patch_mse
from airjax.nn.air_stage import PredictorConfig
from airjax.raster.tiles import patch_centers, patch_grid

pytestmark = pytest.mark.slow

NETWORK = PredictorConfig(features=8, blocks=1, expansion=2)
STAGES = (
    StageConfig(PatchMap(4, offset=0.75, min_scale=0.5, max_scale=2.1), NETWORK),
    StageConfig(PatchMap(5, offset=0.6, min_scale=0.4, max_scale=2.0), NETWORK),
)
SIZE = (7, 9)  # of most tests: 2 x 3 and 2 x 2 patches, none of them whole at the edges


@cache
def lively_params(stages=STAGES):
    """Fresh weights with a louder head: Gaussians of all shapes."""
    params = jax.jit(init_params, static_argnums=1)(jax.random.key(0), stages)
    for stage in params.values():
        stage["head"]["kernel"] = 20 * stage["head"]["kernel"]
    return params


def picture(size=SIZE, seed=0):
    return jnp.asarray(np.random.default_rng(seed).uniform(0, 1, (*size, 3)), jnp.float32)


run = jax.jit(run_stages, static_argnums=0, static_argnames="skip_idle")
choose = jax.jit(stage_control, static_argnames=("patch_size", "stages_left"))
EVERYWHERE = stage_control_of(-1.0)


# --- stages ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(1, 1), SIZE, (33, 50)])
def test_each_stage_adds_its_gaussians(size):
    """Whatever the size. Oracle: the sum over all Gaussians so far, in float64."""
    trace = run(STAGES, lively_params(), picture(size), EVERYWHERE)
    expected = 0
    for stage, config in zip(trace, STAGES, strict=True):
        rows, columns = patch_grid(size, config.patch_map.patch_size)
        assert stage.gaussians.num_slots == rows * columns and stage.gaussians.active.all()
        out = exact(stage.gaussians, image_size=size)
        expected += out.image
        assert_image(stage.rendered, out._replace(image=expected))


def test_a_stage_sees_the_residual():
    """Oracle: the network on image - rendered, padded with zeros, through the map of its patch size."""
    params, image = lively_params(), picture()
    trace = run(STAGES, params, image, EVERYWHERE)
    residual = np.zeros((10, 10, 3), np.float32)
    residual[:7, :9] = image - trace[0].rendered

    @jax.jit
    def expected(params, residual):
        raw = predict_stage(STAGES[1], params, residual)
        return to_physical(raw, patch_centers((2, 2), 5), jnp.ones(4, bool), STAGES[1].patch_map)

    found, wanted = trace[1].gaussians, expected(params["stage1"], residual)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5), found, wanted)


def test_padding_adds_zeros_below_and_to_the_right():
    image = picture()
    padded = np.asarray(pad_to_patches(image, 5))
    assert padded.shape == (10, 10, 3)
    np.testing.assert_array_equal(padded[:7, :9], image)
    assert not padded[7:].any() and not padded[:, 9:].any()


def test_stages_have_their_own_weights():
    params = jax.jit(init_params, static_argnums=1)(jax.random.key(0), STAGES[:1] * 2)
    assert list(params) == ["stage0", "stage1"]
    kernels = [params[f"stage{i}"]["embed"]["kernel"] for i in range(2)]
    assert kernels[0].shape == (3 * 16 + 1, 8) and not np.any(kernels[0] == kernels[1])


def test_gradients_flow_through_residuals_into_earlier_stages():
    """Of the last render alone, by the weights of the first stage. Oracle: central differences in float64."""
    params, image = jax.tree.map(np.asarray, (lively_params(), picture()))
    with jax.enable_x64(True):
        params, image = jax.tree.map(lambda x: jnp.asarray(x, jnp.float64), (params, image))
        control = StageControl(jnp.float64(1e-3), jnp.float64(0.05), jnp.float32(np.inf))
        rng = np.random.default_rng(1)
        direction = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape), params["stage0"])

        def loss(first):
            trace = run_stages(STAGES, {**params, "stage0": first}, image, control)
            return jnp.mean(jnp.square(trace[-1].rendered - image)), [stage.gaussians.active for stage in trace]

        value_and_grad = jax.jit(jax.value_and_grad(loss, has_aux=True))
        (_, active), grad = value_and_grad(params["stage0"])
        actual = sum(jax.tree.leaves(jax.tree.map(np.vdot, grad, direction)))
        step = 1e-6  # truncation about 1e-12; small enough that no patch and no pixel changes sides
        ends = [
            value_and_grad(jax.tree.map(lambda x, d, s=s: np.asarray(x) + s * step * d, params["stage0"], direction))[0]
            for s in (1, -1)
        ]
        for _, moved in ends:
            jax.tree.map(np.testing.assert_array_equal, moved, active)
        expected = (ends[0][0] - ends[1][0]) / (2 * step)
        assert abs(expected) > 1e-3
        assert float(actual) == pytest.approx(float(expected), rel=1e-6)


# --- Stage Control ---------------------------------------------------------------------------------------


def control_case(seed=0):
    """Four patches that differ in nothing, in contrast (MSE alone), in faint noise (SSIM alone), in both."""
    rng = np.random.default_rng(seed)
    image = np.full((8, 32, 3), 0.5, np.float32)
    rendered = image.copy()
    checker = np.indices((8, 8)).sum(axis=0)[..., None] % 2
    image[:, 8:16], rendered[:, 8:16] = checker, 0.05 + 0.9 * checker
    rendered[:, 16:24] += 0.01 * rng.choice([-1, 1], (8, 8, 1))
    rendered[:, 24:32] += rng.normal(0, 0.2, (8, 8, 3))
    return jnp.asarray(image), jnp.asarray(rendered)


@pytest.mark.parametrize(
    ("mse_threshold", "ssim_threshold", "expected"),
    [
        (10**-3.5, 0.05, [False, True, True, True]),
        (np.inf, 0.05, [False, False, True, True]),
        (10**-3.5, np.inf, [False, True, False, True]),
        (np.inf, np.inf, [False] * 4),
        (-1.0, np.inf, [True] * 4),
    ],
)
def test_either_criterion_asks_for_a_gaussian(mse_threshold, ssim_threshold, expected):
    """The patches are made so: MSE 0.0025 at SSIM 0.995, and MSE 1e-4 at SSIM 0.9."""
    control = stage_control_of(mse_threshold, ssim_threshold)
    active = choose(*control_case(), patch_size=8, control=control)
    np.testing.assert_array_equal(active, expected)


def test_the_default_thresholds():
    """40 dB and SSIM 0.95, no budget, and no quantiser."""
    assert stage_control_of().color_step is None
    np.testing.assert_array_equal(jnp.stack(stage_control_of()[:3]), np.float32([1e-4, 0.05, np.inf]))


def test_stage_control_is_constant_to_every_gradient():
    image, rendered = control_case()
    control = stage_control_of()

    def total(*images):
        return jnp.sum(stage_control(*images, patch_size=8, control=control), dtype=jnp.float32)

    grads = jax.jit(jax.grad(total, argnums=(0, 1)))(image, rendered)
    for grad in grads:
        np.testing.assert_array_equal(grad, np.zeros_like(grad))


def test_the_worst_patches_come_first():
    """Oracle: the order of the mean squared errors; what does not ask gets nothing however much is left."""
    image, rendered = picture((16, 20), 1), picture((16, 20), 2)
    rendered = rendered.at[:4, :4].set(image[:4, :4])
    error = np.square(np.asarray(image - rendered, np.float64)).reshape(4, 4, 5, 4, 3).mean(axis=(1, 3, 4)).ravel()
    for num in (0, 1, 2.5, 7, 19, 20, np.inf):
        active = np.asarray(choose(image, rendered, patch_size=4, control=stage_control_of(max_gaussians=num)))
        assert active.sum() == np.floor(min(num, 19))
        assert not active[0]
        assert error[active].min(initial=np.inf) >= error[~active].max(initial=0)


def test_what_is_left_is_shared_among_the_stages_to_come():
    image = picture((16, 20), 1)
    for left, expected in ((7, 3), (6, 2), (1, 1), (0, 0)):  # a third, rounded up
        active = choose(
            image, 0 * image, patch_size=4, control=EVERYWHERE, stages_left=3, gaussians_left=jnp.float32(left)
        )
        assert np.sum(active) == expected


def test_a_budget_holds_over_all_stages_without_a_new_trace():
    """Also with thresholds that change: all are traced values. The first stage may take all of it."""
    traces = []

    @jax.jit
    def counts(params, image, control):
        traces.append(1)
        trace = run_stages(STAGES[:1] * 3, params, image, control, skip_idle=True)
        return jnp.stack([jnp.sum(stage.gaussians.active) for stage in trace])

    params, image = lively_params(STAGES[:1] * 3), picture()
    for budget, expected in ((0, [0, 0, 0]), (1, [1, 0, 0]), (6, [6, 0, 0]), (9, [6, 2, 1]), (10.0, [6, 2, 2])):
        control = stage_control_of(-1.0, max_gaussians=budget)
        np.testing.assert_array_equal(counts(params, image, control), expected)
    np.testing.assert_array_equal(counts(params, image, stage_control_of(np.inf, np.inf)), [0, 0, 0])
    np.testing.assert_array_equal(counts(params, image, EVERYWHERE), [6, 6, 6])
    assert len(traces) == 1


# --- finer stages ----------------------------------------------------------------------------------------

EIGHT = StageConfig(PatchMap(8, offset=0.75, min_scale=0.5, max_scale=4.2), NETWORK)


def test_a_finer_stage_is_the_network_on_an_enlarged_image():
    """Oracle: the stage itself on the image enlarged twice; all lengths are half as large."""
    image, params = picture((16, 24)), lively_params((EIGHT,))
    _, again, finer, last = with_finer((EIGHT,))
    assert replace(again, least=0.0) == EIGHT and last == finer and finer.patch_map.patch_size == 4
    around = jax.image.resize(jnp.pad(image, ((1, 1), (1, 1), (0, 0))), (36, 52, 3), "bilinear")
    enlarged = around[2:-2, 2:-2]  # 0 beyond its edges
    expected = run((EIGHT,), params, enlarged, EVERYWHERE)[0].gaussians
    found = run((replace(finer, least=0.0),), params, image, EVERYWHERE)[0].gaussians
    assert found.num_slots == expected.num_slots == 24
    halved = replace(expected, means=expected.means / 2, scales=expected.scales / 2)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5), found, halved)


def test_patches_that_cannot_be_halved_are_not():
    assert with_finer(STAGES) == (*STAGES, replace(STAGES[1], least=with_finer(STAGES)[2].least))
    assert len(with_finer(STAGES[:1])) == 2  # of 4, and a file has none of 2


def test_a_prediction_ends_where_little_would_be_added():
    """Finer stages have the weights of the last one, and are left out where they add few, or the budget is spent."""
    image, params = np.asarray(picture((16, 24))), lively_params((EIGHT,))
    stages = with_finer((EIGHT,))
    everything = predict_stages(stages, params, image, EVERYWHERE)
    assert [gaussians.num_slots for gaussians, _ in everything] == [6, 6, 24, 24]
    again = run((EIGHT, EIGHT), {"stage0": params["stage0"], "stage1": params["stage0"]}, image, EVERYWHERE)[1]
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5), everything[1][0], again.gaussians)
    nothing = predict_stages(stages, params, image, stage_control_of(np.inf, np.inf))
    assert [gaussians.num_slots for gaussians, _ in nothing] == [6]
    spent = predict_stages(stages, params, image, stage_control_of(-1.0, max_gaussians=8))
    assert [int(gaussians.active.sum()) for gaussians, _ in spent] == [6, 2]


@pytest.mark.parametrize(("color_step", "factor"), [(None, 1.0), (0.01, 4.0)])
def test_a_row_of_a_file_must_be_worth_its_bits_in_a_small_patch(color_step, factor):
    image, params = np.asarray(picture((64, 64))), lively_params((EIGHT,))
    step = color_step and jnp.float32(color_step)
    rendered = run((EIGHT,), params, image, EVERYWHERE._replace(color_step=step))[0].rendered
    error = patch_mse(image, rendered, patch_size=4)
    control = stage_control_of(float(np.median(error)) / 4, 2.0)._replace(color_step=step)
    first, finer = EIGHT, replace(with_finer((EIGHT,))[2], least=1e-6)
    (_, _), (gaussians, _) = predict_stages((first, finer), params, image, control)
    rest = run((first,), params, image, control)[0].rendered
    expected = np.asarray(patch_mse(image, rest, patch_size=4)).ravel() > factor * control.mse_threshold
    assert 0 < expected.sum() < 256 or factor == 1.0
    np.testing.assert_array_equal(gaussians.active, expected)


# --- nothing to do ---------------------------------------------------------------------------------------


def broken_params(*names):
    """Weights that are not numbers: whoever runs such a network shows it."""
    return {
        name: jax.tree.map(lambda x: x * jnp.nan, stage) if name in names else stage
        for name, stage in lively_params().items()
    }


@pytest.mark.parametrize("skip_idle", [True, False])
@pytest.mark.parametrize("case", ["black", "no_budget", "high_thresholds"])
def test_where_nothing_is_active_nothing_is_added(case, skip_idle):
    """No network runs, or what it says is not used: the result is exactly black even with weights of NaN."""
    image = 0 * picture() if case == "black" else picture()
    control = {
        "black": stage_control_of(),
        "no_budget": stage_control_of(max_gaussians=0),
        "high_thresholds": stage_control_of(np.inf, np.inf),
    }[case]
    trace = run(STAGES, broken_params("stage0", "stage1"), image, control, skip_idle=skip_idle)
    for stage in trace:
        assert not stage.gaussians.active.any()
        np.testing.assert_array_equal(stage.rendered, np.zeros((*SIZE, 3)))
        if skip_idle:  # the network did not run
            assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(stage.gaussians))


def test_an_idle_stage_leaves_the_others_alone():
    """When the first stage has spent the budget the second network is not run; the result is that without skips."""
    control = stage_control_of(-1.0, max_gaussians=6)
    skipped = run(STAGES, broken_params("stage1"), picture(), control, skip_idle=True)
    plain = run(STAGES, lively_params(), picture(), control)
    assert [int(s.gaussians.active.sum()) for s in skipped] == [int(s.gaussians.active.sum()) for s in plain] == [6, 0]
    for a, b in zip(skipped, plain, strict=True):
        np.testing.assert_allclose(a.rendered, b.rendered, atol=1e-6)
    np.testing.assert_array_equal(skipped[1].rendered, skipped[0].rendered)
    assert np.isfinite(skipped[1].gaussians.means).all()


def test_a_broken_network_that_runs_is_seen():
    """The guard of the tests above: with an active patch, NaN weights do reach the image."""
    trace = run(STAGES, broken_params("stage0"), picture(), EVERYWHERE, skip_idle=True)
    assert np.isnan(trace[0].rendered).all()

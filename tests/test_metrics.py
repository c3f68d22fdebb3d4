"""Metrics against textbook formulas in plain numpy float64, finite differences and invariances."""

import inspect
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from airjax import metrics

# float32 sums of a few hundred values near 1, divided by stabilisers near 1e-3: a few 1e-5 at worst.
FLOAT32 = {"rtol": 2e-5, "atol": 2e-5}
# The same formula in another order of float64 operations.
FLOAT64 = {"rtol": 1e-11, "atol": 1e-11}


def pair(shape, seed=0, noise=0.1, dtype=np.float32):
    """A smooth random image in [0, 1] and a noisy version of it (not clipped)."""
    rng = np.random.default_rng(seed)
    image = rng.random(shape)
    for axis in (0, 1):
        image = (image + np.roll(image, 1, axis) + np.roll(image, 2, axis)) / 3
    return image.astype(dtype), (image + noise * rng.standard_normal(shape)).astype(dtype)


def patch_ssim_sum(image, rendered):
    return jnp.sum(metrics.patch_ssim(image, rendered, patch_size=7))


# Compiled once for all tests, which use the size 23 x 22 x 2 (16 patches) where the size does not matter.
SIZE = (23, 22, 2)
SIMILARITIES = {
    "ssim": jax.jit(metrics.ssim),
    "ms_ssim": jax.jit(metrics.ms_ssim),
    "patch_ssim": jax.jit(patch_ssim_sum),
}
WITH_GRADIENT = {name: jax.jit(jax.value_and_grad(fn, argnums=1)) for name, fn in SIMILARITIES.items()}


# -- oracles: numpy, float64, one window or patch after the other ----------------------------------


def textbook_terms(x, y, weights):
    """Luminance and contrast-structure of Wang et al. 2004 for one window or patch of one channel."""
    mu_x, mu_y = (weights * x).sum(), (weights * y).sum()
    var_x, var_y = (weights * (x - mu_x) ** 2).sum(), (weights * (y - mu_y) ** 2).sum()
    cov = (weights * (x - mu_x) * (y - mu_y)).sum()
    luminance = (2 * mu_x * mu_y + 1e-4) / (mu_x**2 + mu_y**2 + 1e-4)
    return luminance, (2 * cov + 9e-4) / (var_x + var_y + 9e-4)


def textbook_window(size, window, sigma):
    sides = [min(window, n if n % 2 else n - 1) for n in size]
    taps = [np.exp(-((np.arange(n) - n // 2) ** 2) / (2 * sigma**2)) for n in sides]
    weights = np.outer(*taps)
    return weights / weights.sum()


def textbook_maps(x, y, window=11, sigma=1.5):
    """(luminance, contrast) at every inner position, each (h', w', c)."""
    x, y = x.astype(np.float64), y.astype(np.float64)
    weights = textbook_window(x.shape[:2], window, sigma)
    a, b = weights.shape
    rows, cols = x.shape[0] - a + 1, x.shape[1] - b + 1
    out = np.zeros((2, rows, cols, x.shape[2]))
    for i, j, k in np.ndindex(*out.shape[1:]):
        out[:, i, j, k] = textbook_terms(x[i : i + a, j : j + b, k], y[i : i + a, j : j + b, k], weights)
    return out


def textbook_ms_ssim(x, y, num_scales):
    weights = np.array([0.0448, 0.2856, 0.3001, 0.2363, 0.1333])[:num_scales]
    product = 1.0
    for scale, weight in enumerate(weights / weights.sum()):
        luminance, contrast = textbook_maps(x, y)
        value = (luminance * contrast if scale == num_scales - 1 else contrast).mean(axis=(0, 1))
        product = product * np.maximum(value, 0) ** weight
        x, y = (np.array([[block_mean(z, i, j) for j in range(0, z.shape[1], 2)] for i in range(0, len(z),
                2)]) for z in (x, y))  # fmt: skip
    return product.mean()


def block_mean(z, i, j):
    # A block cut by the border repeats its own pixels, so its mean is that of the pixels inside.
    return z[i : i + 2, j : j + 2].astype(np.float64).mean(axis=(0, 1))


def textbook_patches(x, y, patch_size, fn):
    h, w, _ = x.shape
    cut = [[(slice(i, i + patch_size), slice(j, j + patch_size)) for j in range(0, w, patch_size)]
           for i in range(0, h, patch_size)]  # fmt: skip
    return np.array([[fn(x[at].astype(np.float64), y[at].astype(np.float64)) for at in row] for row in cut])


def textbook_patch_ssim(x, y):
    uniform = np.full(x.shape[:2], 1 / x[..., 0].size)
    return np.mean([np.prod(textbook_terms(x[..., k], y[..., k], uniform)) for k in range(x.shape[-1])])


# -- plain errors ----------------------------------------------------------------------------------


def test_errors_equal_the_formula():
    """Oracle: numpy in float64."""
    image, rendered = pair((9, 5, 3))
    diff = rendered.astype(np.float64) - image
    np.testing.assert_allclose(metrics.mse(image, rendered), np.mean(diff**2), **FLOAT32)
    np.testing.assert_allclose(metrics.l1(image, rendered), np.mean(np.abs(diff)), **FLOAT32)
    np.testing.assert_allclose(metrics.psnr(image, rendered), -10 * np.log10(np.mean(diff**2)), rtol=1e-6)


def test_psnr_of_a_known_error_and_of_identical_images():
    """Closed form: an error of 0.1 everywhere is 20 dB; no error is infinite, with a zero gradient."""
    image = jnp.full((4, 6, 1), 0.5)
    np.testing.assert_allclose(metrics.psnr(image, image + 0.1), 20.0, rtol=1e-6)
    value, gradient = jax.value_and_grad(metrics.psnr, argnums=1)(image, image)
    assert value == jnp.inf
    np.testing.assert_array_equal(gradient, 0.0)


def test_to_8bit_is_what_a_file_holds():
    """Oracle: the integers a writer stores, and the round trip (rounding twice changes nothing)."""
    values = np.array([-3.0, -0.0, 0.001, 0.0021, 0.5019, 0.9979, 0.9985, 1.0, 7.0, np.inf], np.float32)
    stored = np.array([0, 0, 0, 1, 128, 254, 255, 255, 255, 255])
    rounded = metrics.to_8bit(values.reshape(5, 2, 1))
    np.testing.assert_allclose(np.ravel(rounded) * 255, stored, rtol=1e-6)
    np.testing.assert_array_equal(metrics.to_8bit(rounded), rounded)
    every = jnp.arange(256, dtype=jnp.float32).reshape(16, 16, 1) / 255
    np.testing.assert_allclose(metrics.to_8bit(every), every, rtol=1e-6)
    assert np.isnan(metrics.to_8bit(jnp.full((1, 1, 1), jnp.nan))).all()


# -- SSIM ------------------------------------------------------------------------------------------


# One block of windows, several on either axis (more than 128 outputs), one window, axes shorter than it.
@pytest.mark.parametrize("shape", [(17, 14, 3), (145, 12, 1), (11, 273, 1), (11, 11, 1), (6, 30, 2), (1, 1, 1)])
def test_ssim_equals_the_textbook(shape):
    """Oracle: windows visited one by one in float64, with five statistics instead of four filtered maps."""
    image, rendered = pair(shape)
    luminance, contrast = textbook_maps(image, rendered)
    found = jax.jit(metrics.ssim_map)(image, rendered)
    np.testing.assert_allclose(found, luminance * contrast, **FLOAT32)


@pytest.mark.parametrize(
    ("shape", "options"),
    [((9, 8, 2), {"window": 5, "sigma": 0.8}), ((500, 1, 1), {"window": 151, "sigma": 30.0})],
)
def test_ssim_options_equal_the_textbook(shape, options):
    """Oracle as above, with a small window and with one wider than a block of the filter."""
    image, rendered = pair(shape)
    expected = np.prod(textbook_maps(image, rendered, **options), axis=0)
    np.testing.assert_allclose(jax.jit(partial(metrics.ssim_map, **options))(image, rendered), expected, **FLOAT32)


def test_float64_is_float64():
    """Oracle as above; agreement to 1e-11 shows that no step falls back to float32."""
    image, rendered = pair(SIZE, dtype=np.float64)
    expected = {
        "ssim": np.prod(textbook_maps(image, rendered), axis=0).mean(),
        "ms_ssim": textbook_ms_ssim(image, rendered, 2),
        "patch_ssim": textbook_patches(image, rendered, 7, textbook_patch_ssim).sum(),
    }
    with jax.enable_x64(True):
        for name, fn in SIMILARITIES.items():
            found = np.asarray(fn(image, rendered))
            assert found.dtype == np.float64
            np.testing.assert_allclose(found, expected[name], **FLOAT64)


def test_similarity_of_nearly_equal_bright_images_keeps_its_digits():
    """Oracle: the textbook in float64. 1 - SSIM is about 1e-3; float32 statistics must not drown it."""
    rng = np.random.default_rng(3)
    image = (0.97 + 0.001 * rng.standard_normal(SIZE)).astype(np.float32)
    rendered = (image + 0.001 * rng.standard_normal(image.shape)).astype(np.float32)
    expected = 1 - np.prod(textbook_maps(image, rendered), axis=0).mean()
    np.testing.assert_allclose(1 - SIMILARITIES["ssim"](image, rendered), expected, rtol=1e-3)


def test_similarities_stay_in_range_far_outside_the_unit_range():
    """Bounds: near 1,000 float32 variances are noise, yet values stay in [-1, 1] and gradients finite."""
    image = np.full(SIZE, 1000.3, np.float32)
    rendered = image + np.float32(0.1) * np.random.default_rng(1).random(SIZE, np.float32)
    assert np.all(np.abs(jax.jit(metrics.ssim_map)(image, rendered)) <= 1)
    for fn in WITH_GRADIENT.values():
        assert np.isfinite(fn(image, rendered)[1]).all()


def test_similarities_are_one_and_still_for_identical_images():
    """Known value: exactly 1 with an exactly zero gradient, also on a flat and on a black image."""
    textured = pair(SIZE)[0]
    for image in (textured, np.full_like(textured, 0.7), np.zeros_like(textured)):
        for name, fn in WITH_GRADIENT.items():
            value, gradient = fn(image, image)
            np.testing.assert_allclose(value, 16.0 if name == "patch_ssim" else 1.0, rtol=1e-6)
            np.testing.assert_array_equal(gradient, 0.0)


def test_similarities_are_invariant():
    """Invariances: swapping the two images; mirroring, transposing, permuting the channels of both."""
    image, rendered = pair((28, 28, 2))  # even at each scale, and 4 x 4 whole patches
    moved = [
        (rendered, image),
        (image[::-1], rendered[::-1]),
        (image.swapaxes(0, 1), rendered.swapaxes(0, 1)),
        (image[..., ::-1], rendered[..., ::-1]),
    ]
    for fn in SIMILARITIES.values():
        expected = fn(image, rendered)
        for other in moved:
            np.testing.assert_allclose(fn(*other), expected, rtol=1e-5)


def test_similarities_fall_with_noise():
    """Order: more noise, less similarity, for each of the three."""
    by_noise = [pair(SIZE, noise=noise) for noise in (0.01, 0.05, 0.2, 1.0)]
    for fn in SIMILARITIES.values():
        assert np.all(np.diff([fn(*images) for images in by_noise]) < 0)


# -- MS-SSIM ---------------------------------------------------------------------------------------


def test_number_of_scales():
    """By hand: the sides 161, 81, 41, 21, 11 hold the window; 160 ends at 10."""
    sizes = {(161, 200): 5, (512, 768): 5, (160, 999): 4, (22, 21): 2, (21, 20): 1, (11, 11): 1, (1, 5000): 1}
    assert {size: metrics.num_ms_ssim_scales(size) for size in sizes} == sizes


@pytest.mark.parametrize(("shape", "num_scales"), [((161, 163, 1), 5), ((45, 43, 3), 3), ((5, 14, 2), 1)])
def test_ms_ssim_equals_the_textbook(shape, num_scales):
    """Oracle: numpy in float64; odd sides at every scale, and sizes with fewer scales."""
    image, rendered = pair(shape, noise=0.05)
    expected = textbook_ms_ssim(image, rendered, num_scales)
    np.testing.assert_allclose(jax.jit(metrics.ms_ssim)(image, rendered), expected, **FLOAT32)


def test_ms_ssim_of_a_negative_is_zero_with_a_finite_gradient():
    """Known value: inverted contrast makes every factor negative; its fractional power would be NaN."""
    image = pair(SIZE)[0]
    value, gradient = WITH_GRADIENT["ms_ssim"](image, 1 - image)
    assert value == 0
    np.testing.assert_array_equal(gradient, 0.0)


# -- patches ---------------------------------------------------------------------------------------


# Edge patches on both sides, an exact fit, a patch larger than the image, pixels, sums too long to unroll.
@pytest.mark.parametrize(
    ("shape", "patch_size"),
    [((15, 23, 3), 7), ((14, 7, 1), 7), ((4, 5, 2), 7), ((3, 2, 3), 1), ((45, 37, 1), 36)],
)
def test_patches_equal_the_textbook(shape, patch_size):
    """Oracle: patches cut out one by one with numpy slices, which stop at the border by themselves."""
    image, rendered = pair(shape)
    found = jax.jit(partial(metrics.patch_ssim, patch_size=patch_size))(image, rendered)
    expected = textbook_patches(image, rendered, patch_size, textbook_patch_ssim)
    np.testing.assert_allclose(found, expected, **FLOAT32)
    found = jax.jit(partial(metrics.patch_mse, patch_size=patch_size))(image, rendered)
    expected = textbook_patches(image, rendered, patch_size, lambda x, y: np.mean((x - y) ** 2))
    np.testing.assert_allclose(found, expected, **FLOAT32)


def test_patches_see_only_their_own_pixels():
    """Locality: an error in one pixel of a hanging edge patch changes that patch alone."""
    image = pair((15, 23, 3))[0]
    rendered = image.copy()
    rendered[14, 22, 1] += 0.5
    touched = np.zeros((3, 4), bool)
    touched[2, 3] = True
    np.testing.assert_array_equal(metrics.patch_mse(image, rendered, patch_size=7) > 0, touched)
    np.testing.assert_array_equal(metrics.patch_ssim(image, rendered, patch_size=7) < 0.999, touched)


# -- the training loss -----------------------------------------------------------------------------


def test_image_loss_is_its_formula():
    """Oracle: the three terms from numpy and the textbook SSIM, each alone and together."""
    image, rendered = pair((13, 16, 3))
    diff = rendered.astype(np.float64) - image
    similarity = np.prod(textbook_maps(image, rendered), axis=0).mean()
    terms = np.array([np.mean(np.abs(diff)), np.sqrt(np.mean(diff**2) + 1e-8), 1 - similarity])
    for weights in np.array([[1, 0, 0], [0, 1, 0], [0, 0, 1], [0.7, 0.2, 0.3], [0, 0, 0]]).tolist():
        found = metrics.image_loss(image, rendered, l1=weights[0], rmse=weights[1], ssim=weights[2])
        np.testing.assert_allclose(found, terms @ weights, **FLOAT32)


def test_a_python_zero_weight_is_never_computed():
    """Jaxpr: without SSIM there is no matrix product, without any term no sum over the pixels."""
    image, rendered = pair((12, 12, 3))

    def primitives(**weights):
        jaxpr = jax.make_jaxpr(partial(metrics.image_loss, **weights))(image, rendered)
        return str(jaxpr)

    assert "dot_general" in primitives(l1=0, rmse=0, ssim=1.0)
    assert "dot_general" not in primitives(l1=0.7, rmse=1, ssim=0.0)
    assert "sqrt" not in primitives(l1=1, rmse=0, ssim=0)
    assert "sign" not in primitives(l1=0, rmse=1, ssim=0)
    assert "reduce_sum" not in primitives(l1=0, rmse=0, ssim=0)


def test_traced_weights_do_not_recompile():
    """Trace count 1 over three settings, zero included, and the same values as with Python weights."""
    image, rendered = pair((12, 12, 3))
    traces = []

    @jax.jit
    def loss(l1, rmse, ssim):
        traces.append(None)
        return metrics.image_loss(image, rendered, l1=l1, rmse=rmse, ssim=ssim)

    for weights in ((0.7, 0.0, 0.3), (0.0, 1.0, 0.0), (1.0, 2.0, 3.0)):
        plain = dict(zip(("l1", "rmse", "ssim"), weights, strict=True))
        found = loss(*(jnp.float32(value) for value in weights))
        np.testing.assert_allclose(found, metrics.image_loss(image, rendered, **plain), rtol=1e-5)
    assert len(traces) == 1


def test_image_loss_leaves_perfect_pixels_alone():
    """Known value: at rendered == image the loss is 1e-4 (its rmse floor) and the gradient exactly zero."""
    image = pair(SIZE)[0]
    loss = partial(metrics.image_loss, l1=1.0, rmse=1.0, ssim=1.0)
    value, gradient = jax.jit(jax.value_and_grad(loss, argnums=1))(image, image)
    np.testing.assert_allclose(value, 1e-4, rtol=1e-3)
    np.testing.assert_array_equal(gradient, 0.0)
    np.testing.assert_array_equal(jax.grad(metrics.l1, argnums=1)(image, image), 0.0)


# -- derivatives and transformations ---------------------------------------------------------------

DIFFERENTIABLE = {
    "psnr": metrics.psnr,
    "ms_ssim": metrics.ms_ssim,
    "patch_ssim": patch_ssim_sum,
    "patch_mse": lambda x, y: jnp.sum(metrics.patch_mse(x, y, patch_size=7)),
    "image_loss": partial(metrics.image_loss, l1=0.7, rmse=0.5, ssim=0.3),
}


@pytest.mark.parametrize("name", DIFFERENTIABLE)
def test_gradients_equal_finite_differences(name):
    """Oracle: central differences in float64 along a random direction of both images.

    Step 1e-5: truncation about 1e-10, rounding 1e-16 / 1e-5. The second derivative (forward over reverse) is
    held against differences of the gradient in the same way.
    """
    images = pair(SIZE, dtype=np.float64)
    rng = np.random.default_rng(5)
    direction = tuple(rng.standard_normal(images[0].shape) for _ in range(2))
    step = 1e-5
    with jax.enable_x64(True):
        fn = DIFFERENTIABLE[name]
        gradient_fn = jax.grad(fn, argnums=(0, 1))

        @jax.jit
        def derivatives(*at):
            gradient, product = jax.jvp(gradient_fn, at, direction)
            return fn(*at), gradient, product

        _, gradient, product = jax.device_get(derivatives(*images))
        above, below = (
            jax.device_get(derivatives(*(x + h * v for x, v in zip(images, direction, strict=True))))
            for h in (step, -step)
        )
    assert gradient[0].dtype == product[1].dtype == above[0].dtype == np.float64
    along = sum(np.vdot(g, v) for g, v in zip(gradient, direction, strict=True))
    np.testing.assert_allclose(along, (above[0] - below[0]) / (2 * step), rtol=1e-6, atol=1e-8)
    for k in range(2):
        differences = (above[1][k] - below[1][k]) / (2 * step)
        np.testing.assert_allclose(product[k], differences, rtol=1e-4, atol=1e-6 * np.abs(differences).max())


def test_vmap_equals_a_loop():
    """Oracle: the same functions, image by image."""
    images = [pair(SIZE, seed=seed) for seed in range(3)]
    batch = [np.stack(arrays) for arrays in zip(*images, strict=True)]
    for fn in SIMILARITIES.values():
        np.testing.assert_allclose(jax.jit(jax.vmap(fn))(*batch), [fn(*one) for one in images], rtol=1e-5)


# -- the surface -----------------------------------------------------------------------------------


def test_signatures_are_arrays_first_and_options_keyword_only():
    """Convention of the package: the positional parameters are the images, everything else is a keyword."""
    public = {
        name: fn
        for name, fn in inspect.getmembers(metrics, inspect.isfunction)
        if fn.__module__ == metrics.__name__ and not name.startswith("_") and name != "num_ms_ssim_scales"
    }
    assert {"to_8bit", "psnr", "ssim", "ms_ssim", "patch_ssim", "image_loss"} <= public.keys()
    for name, fn in public.items():
        parameters = inspect.signature(fn).parameters.values()
        positional = [parameter.name for parameter in parameters if parameter.kind is not parameter.KEYWORD_ONLY]
        assert positional == (["image"] if name == "to_8bit" else ["image", "rendered"]), name


@pytest.mark.forbidden
@pytest.mark.parametrize(
    ("rendered", "error", "message"),
    [
        (np.zeros((4, 5, 3), np.float32), ValueError, r"rendered: expected \(4, 4, 3\).*got \(4, 5, 3\)"),
        (np.zeros((4, 4, 3), np.uint8), TypeError, "rendered: expected float32.*got uint8"),
    ],
)
def test_a_mismatched_pair_is_refused(rendered, error, message):
    """Every function of two images names the wrong one, what was expected and what it got."""
    image = np.zeros((4, 4, 3), np.float32)
    for fn in (metrics.mse, metrics.ssim, metrics.ms_ssim, *DIFFERENTIABLE.values()):
        with pytest.raises(error, match=message):
            fn(image, rendered)


@pytest.mark.forbidden
def test_a_wrong_image_is_refused():
    """No batch axis, no empty axis, no integers: in `to_8bit` as in the others."""
    for fn in (metrics.to_8bit, lambda x: metrics.ssim(x, x)):
        for shape in ((4, 4), (1, 4, 4, 3), (4, 0, 3)):
            with pytest.raises(ValueError, match=r"image: expected \(h, w, c\)"):
                fn(np.zeros(shape, np.float32))
        with pytest.raises(TypeError, match="image: expected float32 or float64, got uint8"):
            fn(np.zeros((4, 4, 3), np.uint8))


def test_wrong_options_are_refused():
    """Windows have a centre, sigmas and patches a size."""
    image = np.zeros((12, 12, 1), np.float32)
    for window in (0, -3, 4):
        with pytest.raises(ValueError, match="window: expected an odd number"):
            metrics.ssim(image, image, window=window)
    for sigma in (0.0, -1.0, float("nan")):
        with pytest.raises(ValueError, match="sigma: expected > 0"):
            metrics.ssim(image, image, sigma=sigma)
    for fn in (metrics.patch_mse, metrics.patch_ssim):
        with pytest.raises(ValueError, match="patch_size: expected at least 1, got 0"):
            fn(image, image, patch_size=0)


def test_quality_behind_a_mask():
    """A whole mask changes nothing; behind a mask nothing counts, and the rest counts as an image of its own."""
    rng = np.random.default_rng(0)
    image, rendered = rng.random((2, 40, 32, 3), np.float32)
    mask = np.ones((40, 32), bool)
    whole = metrics.quality(image, rendered)
    np.testing.assert_allclose(metrics.quality(image, rendered, mask=mask), whole, rtol=1e-5)
    mask[20:] = False
    half = metrics.quality(image, rendered, mask=mask)
    other = np.where(mask[..., None], image, np.float32(0.3))
    np.testing.assert_array_equal(metrics.quality(other, rendered, mask=mask), half)
    alone = metrics.quality(image[:20], rendered[:20])
    assert half.psnr == pytest.approx(alone.psnr, abs=1e-3) and half.ssim == pytest.approx(alone.ssim, abs=0.05)

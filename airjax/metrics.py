"""How close a rendered image is to its original: errors, similarities, and the training loss made of them.

Shared by every function: `image` is the original and `rendered` its approximation, both (h, w, c) with no
empty axis, of one and the same dtype, float32 or float64, and meant for the range [0, 1] (values outside are
neither clipped nor refused; a user's number is taken on `to_8bit(rendered)`, as `quality` does). There is no
batch axis: use `vmap`. All but `psnr_8bit` and `quality` work under `jit`, `grad` and `vmap`, to any order and in
both modes, with finite gradients at `image == rendered` and on flat images. They raise TypeError for another dtype
and ValueError for another shape. Options are keyword-only.

Letters: P patch size, x the original, y the rendered image, s = x + y, d = x - y, mu and var their local
statistics.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from airjax.arrays import AnyArray, bands_of, size_of
from airjax.programs import kept

# SSIM (Wang et al. 2004): stabilisers for values in [0, 1] (K1 = 0.01, K2 = 0.03), window, sigma.
C1 = 0.01**2
C2 = 0.03**2
WINDOW = 11
SIGMA = 1.5
# The exponents of MS-SSIM, finest scale first (Wang, Simoncelli and Bovik 2003).
MS_SSIM_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)

# Outputs per block of a filtered axis (see `_filter`), and the largest patch whose sum is written out.
_BLOCK = 128
_UNROLL = 32

Image = Float[AnyArray, "h w c"]
Scalar = Float[Array, ""]


def _check_image(name: str, image) -> None:
    if image.dtype not in (jnp.float32, jnp.float64):
        raise TypeError(f"{name}: expected float32 or float64, got {image.dtype}")
    if image.ndim != 3 or 0 in image.shape:
        raise ValueError(f"{name}: expected (h, w, c) with no empty axis, got {image.shape}")


def _check_pair(image, rendered) -> tuple[jax.Array, jax.Array]:
    image, rendered = jnp.asarray(image), jnp.asarray(rendered)
    _check_alike(image, rendered)
    return image, rendered


def _check_alike(image, rendered) -> None:
    _check_image("image", image)
    if rendered.dtype != image.dtype:
        raise TypeError(f"rendered: expected {image.dtype} like image, got {rendered.dtype}")
    if rendered.shape != image.shape:
        raise ValueError(f"rendered: expected {image.shape} like image, got {rendered.shape}")


def to_8bit(image: Image) -> Image:
    """The image a user gets: clipped to [0, 1] and rounded to the 256 values k / 255, still floating point.

    Ties go to the even level. The gradient is zero: this is for measuring, not for training. NaN stays NaN.
    """
    image = jnp.asarray(image)
    _check_image("image", image)
    return jnp.round(jnp.clip(image, 0.0, 1.0) * 255.0) / 255.0


def _mean_abs(residual: jax.Array) -> jax.Array:
    # The derivative of jnp.abs at 0 is 1 in JAX: pixels that are already right would be pushed away.
    return jnp.mean(residual * jax.lax.stop_gradient(jnp.sign(residual)))


def l1(image: Image, rendered: Image) -> Scalar:
    """Mean absolute difference over pixels and channels; its gradient is 0 where the two are equal."""
    image, rendered = _check_pair(image, rendered)
    return _mean_abs(rendered - image)


def mse(image: Image, rendered: Image) -> Scalar:
    """Mean squared difference over pixels and channels."""
    image, rendered = _check_pair(image, rendered)
    return jnp.mean(jnp.square(rendered - image))


def psnr(image: Image, rendered: Image) -> Scalar:
    """Peak signal-to-noise ratio in dB for peak 1: -10 log10(mse).

    Identical images give +inf, no made-up cap, with a zero gradient (a report chooses a word for it: JSON has none).
    """
    error = mse(image, rendered)
    differ = error > 0
    return jnp.where(differ, -10.0 * jnp.log10(jnp.where(differ, error, 1.0)), jnp.inf)


def psnr_8bit(image: Image, rendered: Image) -> float:
    """`psnr` of the 8-bit image that a user gets, of concrete arrays; one compiled program for all images of a size.

    A large image is measured a few rows at a time.
    """
    image, rendered = np.asarray(image), np.asarray(rendered)
    _check_alike(image, rendered)
    bands = [(image[band], rendered[band]) for band in bands_of(image)]
    error = sum(len(pair[0]) * float(_mse_8bit(*pair)) for pair in bands) / len(image)
    return -10 * math.log10(error) if error > 0 else math.inf


@kept()
def _mse_8bit(image, rendered):
    return mse(image, to_8bit(rendered))


class Quality(NamedTuple):
    """PSNR in dB (infinite when perfect) and SSIM of the 8-bit image that a user gets."""

    psnr: float
    ssim: float


def quality(image: Image, rendered: Image, *, mask: Bool[AnyArray, "h w"] | None = None) -> Quality:
    """Both scores of concrete arrays; one compiled program for all images of a size.

    `mask` is True where the image says something, somewhere at least; None for everywhere. Of the others PSNR takes
    nothing, and SSIM what windows over the edge of the mask see of the rendered image.
    """
    return Quality(*map(float, _quality(image, rendered) if mask is None else _masked_quality(image, rendered, mask)))


@kept()
def _quality(image, rendered):
    rounded = to_8bit(rendered)
    return psnr(image, rounded), ssim(image, rounded)


@kept()
def _masked_quality(image, rendered, mask):
    rounded = to_8bit(rendered)
    completed = jnp.where(mask[..., None], image, rounded)  # no difference elsewhere, which the share then takes out
    share = jnp.mean(mask.astype(jnp.float32))
    return psnr(completed, rounded) + 10.0 * jnp.log10(share), 1.0 - (1.0 - ssim(completed, rounded)) / share


def _similarities(mu_s, mu_d, mean_s2, mean_d2) -> tuple[jax.Array, jax.Array]:
    """Luminance and contrast-structure terms of SSIM, each in [-1, 1], from means of s, d, s^2 and d^2.

    With 4 mu_x mu_y = mu_s^2 - mu_d^2 and 2 (mu_x^2 + mu_y^2) = mu_s^2 + mu_d^2 (and the same for the
    variances), the terms of Wang et al. are

      luminance = 1 - 2 mu_d^2 / (mu_s^2 + mu_d^2 + 2 C1)
      contrast  = 1 - 2 var_d  / (var_s  + var_d  + 2 C2)

    One map less to average than in the textbook form, and in float32 the digits lost in E[d^2] - mu_d^2 are
    those of the small number d: identical images give exactly 1 and exactly zero gradients.
    """

    def variance(mean, mean2):
        # Rounding can leave a negative number; `where`, unlike `maximum`, keeps all derivatives at 0 itself.
        value = mean2 - mean**2
        return jnp.where(value < 0, 0.0, value)

    var_s, var_d = variance(mu_s, mean_s2), variance(mu_d, mean_d2)
    luminance = 1.0 - 2.0 * mu_d**2 / (mu_s**2 + mu_d**2 + 2 * C1)
    return luminance, 1.0 - 2.0 * var_d / (var_s + var_d + 2 * C2)


def _gaussian_taps(window: int, sigma: float, side: int) -> np.ndarray:
    """Normalised Gaussian taps (float64): `window` of them, or the largest odd number that fits `side`."""
    radius = (min(window, side) - 1) // 2
    taps = np.exp(-0.5 * np.square(np.arange(-radius, radius + 1) / sigma))
    return taps / taps.sum()


def _filter(x: Float[Array, "m h w"], taps: np.ndarray, axis: int) -> Float[Array, "m a b"]:
    """'Valid' correlation of axis 1 or 2 with `taps`; of n numbers, n - len(taps) + 1 are left.

    Written as products with a band matrix: on a CPU, forward and backward together, that is 8 times faster
    than sums of shifted slices (whose transpose pads), and it differentiates by itself. One band over a whole
    axis would cost n products a pixel, so a long axis is cut into equal blocks of at most _BLOCK outputs
    (more for very wide windows); a block needs its own inputs and the first len(taps) - 1 of the next.
    """
    lead, n, trail = x.shape[:axis], x.shape[axis], x.shape[axis + 1 :]
    tail = len(taps) - 1
    # Two blocks or more are longer than half the limit, hence than the tail that they lend to the one before.
    blocks = -(-(n - tail) // max(_BLOCK, 2 * tail))
    size = -(-(n - tail) // blocks)
    row = np.arange(size)[:, None]
    band = np.zeros((size, size + tail))
    band[row, row + np.arange(tail + 1)] = taps
    if blocks > 1:

        def cut(start, length):
            part = jax.lax.slice_in_dim(padded, start, start + blocks * size, axis=axis)
            part = part.reshape(*lead, blocks, size, *trail)
            return jax.lax.slice_in_dim(part, 0, length, axis=axis + 1)

        padding = [(0, (blocks + 1) * size - n if k == axis else 0) for k in range(3)]
        padded = jnp.pad(x, padding)
        x = jnp.concatenate([cut(0, size), cut(size, tail)], axis=axis + 1)
    x = x.reshape(*lead, blocks, size + tail, *trail)
    equation = {1: "mbiw,oi->mbow", 2: "mhbi,oi->mhbo"}[axis]
    x = jnp.einsum(equation, x, jnp.asarray(band, x.dtype), precision="highest")
    return jax.lax.slice_in_dim(x.reshape(*lead, blocks * size, *trail), 0, n - tail, axis=axis)


def _window_similarities(image, rendered, window=WINDOW, sigma=SIGMA) -> tuple[jax.Array, jax.Array]:
    """`_similarities` per channel and window inside the image: (c, h - window + 1, w - window + 1)."""
    x, y = jnp.moveaxis(image, -1, 0), jnp.moveaxis(rendered, -1, 0)
    down, across = (_gaussian_taps(window, sigma, side) for side in x.shape[1:])

    def smooth(maps):
        return _filter(_filter(maps, across, 2), down, 1)

    s, d = x + y, x - y
    # The mean of s follows from those of x and d. In training x is a constant, so that its filter, kept
    # apart, has no backward pass: three maps to send back instead of four.
    mu_x = smooth(x)
    mu_d, mean_s2, mean_d2 = jnp.split(smooth(jnp.concatenate([d, s**2, d**2])), 3)
    return _similarities(2 * mu_x - mu_d, mu_d, mean_s2, mean_d2)


def ssim_map(image: Image, rendered: Image, *, window: int = WINDOW, sigma: float = SIGMA) -> Float[Array, "a b c"]:
    """Structural similarity around each pixel whose whole window lies in the image, each channel on its own.

    In [-1, 1], 1 where equal; a = h - window + 1, b = w - window + 1. Statistics are weighted by a Gaussian of
    standard deviation `sigma` (pixels) on `window` x `window` pixels (odd), normalised to sum 1; variances are the
    biased (weighted) ones. An axis shorter than the window uses the largest odd number of taps that fits it, normalised
    again, so that an image of any size has a value; of a single pixel only the luminance term is left.

    Reference: Wang, Bovik, Sheikh, Simoncelli, "Image quality assessment", 2004, equation 13.
    """
    image, rendered = _check_pair(image, rendered)
    if window < 1 or window % 2 == 0:
        raise ValueError(f"window: expected an odd number of pixels >= 1, got {window}")
    if not sigma > 0:
        raise ValueError(f"sigma: expected > 0, got {sigma}")
    luminance, contrast = _window_similarities(image, rendered, window, sigma)
    return jnp.moveaxis(luminance * contrast, 0, -1)


def ssim(image: Image, rendered: Image, *, window: int = WINDOW, sigma: float = SIGMA) -> Scalar:
    """Mean of `ssim_map` over positions and channels: the usual SSIM, in [-1, 1], 1 when identical."""
    return jnp.mean(ssim_map(image, rendered, window=window, sigma=sigma))


def num_ms_ssim_scales(image_size: tuple[int, int]) -> int:
    """Scales that `ms_ssim` uses on (h, w): of the five, those whose shorter side holds the window, or 1."""
    side, count = -(-min(image_size) // 2), 1
    while count < len(MS_SSIM_WEIGHTS) and side >= WINDOW:
        side, count = -(-side // 2), count + 1
    return count


def _halve(image: Image) -> Float[Array, "a b c"]:
    """2 x 2 average pooling; an odd last row or column is averaged with itself (Wang's mirrored border)."""
    h, w, _ = image.shape
    image = jnp.pad(image, ((0, h % 2), (0, w % 2), (0, 0)), mode="edge")
    image = image[0::2] + image[1::2]
    return 0.25 * (image[:, 0::2] + image[:, 1::2])


def _positive_power(x: jax.Array, exponent: float) -> jax.Array:
    """relu(x) ** exponent, with gradient 0 instead of NaN where x <= 0."""
    positive = x > 0
    return jnp.where(positive, jnp.where(positive, x, 1.0) ** exponent, 0.0)


def ms_ssim(image: Image, rendered: Image) -> Scalar:
    """Multi-scale structural similarity, mean over channels, in [0, 1], 1 when identical.

      prod_j relu(mean contrast_j) ** weight_j * relu(mean ssim_last) ** weight_last

    over five scales, each half the size of the one before (`_halve`), with the window of `ssim`.

    Images with a side of at most 160 pixels have no room for five windows: they use the first `num_ms_ssim_scales`,
    with their weights divided by their sum. Where one scale is left this is relu(SSIM), and below 11 pixels the window
    shrinks as in `ssim_map`. Such values are not comparable with those of large images. A channel with a factor <= 0
    counts as 0, with zero gradient.

    Reference: Wang, Simoncelli, Bovik, "Multiscale structural similarity for image quality assessment", 2003.
    """
    image, rendered = _check_pair(image, rendered)
    weights: np.ndarray = np.array(MS_SSIM_WEIGHTS[: num_ms_ssim_scales(size_of(image))], np.float64)
    product = jnp.ones(image.shape[-1], image.dtype)
    for scale, weight in enumerate(weights / weights.sum()):
        if scale > 0:
            image, rendered = _halve(image), _halve(rendered)
        luminance, contrast = _window_similarities(image, rendered)
        last = scale == len(weights) - 1
        factor = jnp.mean(luminance * contrast if last else contrast, axis=(1, 2))
        product = product * _positive_power(factor, float(weight))
    return jnp.mean(product)


def _sum_axis(function: Callable[..., jax.Array], arrays: Sequence[jax.Array], axis: int) -> jax.Array:
    """Sum of an elementwise function over one axis.

    A short axis is summed term by term, each computed where it is added: XLA's CPU backend turns that into one loop of
    wide vectors that stores nothing in between.
    """
    size = arrays[0].shape[axis]
    if size > _UNROLL:
        return jnp.sum(function(*arrays), axis=axis)
    terms = [function(*(jax.lax.index_in_dim(x, k, axis, keepdims=False) for x in arrays)) for k in range(size)]
    return sum(terms[1:], start=terms[0])


def _patch_means(
    function: Callable[..., jax.Array],
    image: Image,
    rendered: Image,
    patch_size: int,
    extent: Int[AnyArray, " 2"] | None,
) -> Float[Array, "rows cols c"]:
    """Mean of an elementwise function of two images, zero at zeros, over the pixels of each patch inside the image."""
    if patch_size < 1:
        raise ValueError(f"patch_size: expected at least 1, got {patch_size}")
    h, w, c = image.shape
    rows, cols = -(-h // patch_size), -(-w // patch_size)
    down, across = (
        jnp.clip(side - patch_size * jnp.arange(count, dtype=jnp.int32), 0, patch_size).astype(image.dtype)
        for side, count in zip((h, w) if extent is None else extent, (rows, cols), strict=True)
    )
    hang = ((0, rows * patch_size - h), (0, cols * patch_size - w), (0, 0))
    # Rows first, on whole lines of the image: what is left for the short second sum is P times smaller.
    blocks = [jnp.pad(x, hang).reshape(rows, patch_size, cols * patch_size * c) for x in (image, rendered)]
    lines = _sum_axis(function, blocks, 1).reshape(rows, cols, patch_size, c)
    sums = _sum_axis(lambda line: line, [lines], 2)
    return sums / jnp.maximum(down[:, None] * across[None], 1)[:, :, None]


def patch_mse(
    image: Image, rendered: Image, *, patch_size: int, extent: Int[AnyArray, " 2"] | None = None
) -> Float[Array, "rows cols"]:
    """Mean squared difference in each P x P patch, over pixels and channels.

    Patches start at the upper left corner. At the right and lower edges they may hang over (h and w need not
    be multiples of P); there only the pixels of the image count. `extent` is the (h, w) of the image where the arrays
    are larger: both are 0 beyond it, and patches that lie there have the value of equal images.
    """
    image, rendered = _check_pair(image, rendered)
    return jnp.mean(_patch_means(lambda x, y: (x - y) ** 2, image, rendered, patch_size, extent), axis=-1)


def patch_ssim(
    image: Image, rendered: Image, *, patch_size: int, extent: Int[AnyArray, " 2"] | None = None
) -> Float[Array, "rows cols"]:
    """SSIM of each P x P patch from its own plain means and biased variances (no window), mean over channels.

    Patches as in `patch_mse`. In [-1, 1], 1 where equal; of a patch of one pixel only the luminance term is
    left. This is the criterion of AIR's Stage Control.
    """
    image, rendered = _check_pair(image, rendered)
    functions = (jnp.add, jnp.subtract, lambda x, y: (x + y) ** 2, lambda x, y: (x - y) ** 2)
    luminance, contrast = _similarities(*(_patch_means(f, image, rendered, patch_size, extent) for f in functions))
    return jnp.mean(luminance * contrast, axis=-1)


def image_loss(
    image: Image, rendered: Image, *, l1: Scalar | float, rmse: Scalar | float, ssim: Scalar | float
) -> Scalar:
    """The training loss: l1 * mean|d| + rmse * sqrt(mean d^2 + 1e-8) + ssim * (1 - SSIM).

    SSIM is that of the function `ssim` with its defaults. AIR trains with l1 = 0.7 and ssim = 0.3. The weights are
    Python numbers or scalar arrays: a term whose weight is the Python number 0 is not computed at all; array weights
    may change without a recompile. At rendered == image the loss is 1e-4 * rmse, and its gradient is 0.
    """

    def used(weight) -> bool:
        return not (isinstance(weight, int | float) and weight == 0)

    image, rendered = _check_pair(image, rendered)
    residual = rendered - image
    loss = jnp.zeros((), image.dtype)
    if used(l1):
        loss += jnp.asarray(l1, image.dtype) * _mean_abs(residual)
    if used(rmse):
        loss += jnp.asarray(rmse, image.dtype) * jnp.sqrt(jnp.mean(jnp.square(residual)) + 1e-8)
    if used(ssim):
        luminance, contrast = _window_similarities(image, rendered)
        loss += jnp.asarray(ssim, image.dtype) * (1.0 - jnp.mean(luminance * contrast))
    return loss

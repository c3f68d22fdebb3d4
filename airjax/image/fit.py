"""Fitting one image from scratch: where the Gaussians start, when more are added, and the loop around `advance`.

The steps are those of `airjax.image.task`. The two published methods that this stands for:

  GaussianImage (arXiv 2403.08551)   start "random", no additions, form "cholesky" or "scale_rotation"
  Image-GS (arXiv 2407.01866)        start "content", half of the budget, the rest added where the error is

Both with this package's plain sum of Gaussians, squared error and learning rates: baselines of their kind, not copies
of their programs (Image-GS draws normalised sums of the top 10 Gaussians and has an SSIM term in its loss).

Letters: n Gaussians or slots, c channels. Randomness: a key seeds a generator of numpy, since the cumulative
probabilities of a million pixels need float64.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy import ndimage

from airjax.gaussians import Gaussians2D, pad, take
from airjax.image.cholesky import CHOLESKY_RATES, FLOOR, CholeskyCoordinates
from airjax.image.codec.air_file import Encoded
from airjax.image.color_solve import solve
from airjax.image.defaults import FIT_GAUSSIANS, FIT_SOLVE_STEPS, FIT_STEPS, FORMS, STARTS
from airjax.image.model import checked_image
from airjax.image.task import Coordinates, ImageTask
from airjax.inner.task import SEGMENT, State, advance, start_state
from airjax.raster.draw import render

AnyCoordinates = Coordinates | CholeskyCoordinates
# The coordinates of each of FORMS.
COORDINATES: dict[str, Any] = {"scale_rotation": Coordinates, "cholesky": CholeskyCoordinates}

SPREAD = 0.6  # standard deviation of a new Gaussian in units of the distance to its neighbours, 1 / sqrt(density)
UNIFORM_SHARE = 0.3  # of the probability of a place in a content start; the rest follows the gradients of the image
ADDED_UNTIL = 0.4  # of all steps: when the last addition is made
RESTARTS = 4  # of Adam, where nothing is added: worth 2 dB after 200 steps on crops, 0.7 dB after 1,000

# Larger than those of a refinement, which starts near its end. With half of them: 0.2 dB (content) and 0.8 dB (random
# start) less on crops after 200 steps, 0.1 dB less after 1,000.
FIT_RATES = Coordinates(means=0.4, log_scales=0.08, angles=0.08, colors=0.02)


def random_start(key: jax.Array, image_size: tuple[int, int], *, num_gaussians: int, form: str) -> AnyCoordinates:
    """Means uniform in the image, random shapes and angles, colours zero (GaussianImage); n = num_gaussians >= 1 rows.

    The standard deviations are SPREAD * sqrt(h w / n) pixels times a factor from 0.6 to 1.65, and at least FLOOR, up to
    which both forms give the same set. (GaussianImage starts with 0.5 to 1.5 pixels whatever n is.)
    """
    rng = _generator(key)
    means = rng.uniform(size=(num_gaussians, 2)) * np.array(image_size[::-1])
    factors = np.exp(rng.uniform(-0.5, 0.5, (num_gaussians, 2)))
    scales = np.maximum(SPREAD * math.sqrt(math.prod(image_size) / num_gaussians) * factors, FLOOR)
    angles = rng.uniform(0, math.pi, num_gaussians)
    return COORDINATES[form].of(_set(means, scales, angles, np.zeros((num_gaussians, 3))))


def content_start(key: jax.Array, image: np.ndarray, *, num_gaussians: int, form: str = FORMS[0]) -> AnyCoordinates:
    """Means where the image changes, 30 % of them anywhere; colours from the image (Image-GS). All n are round.

    A place is drawn in proportion to the square of the image's gradient there (a flat image: uniformly); the standard
    deviations follow the density of the means, so that neighbours overlap alike everywhere and each takes its pixel's
    colour over the number of Gaussians that share a place. A few steps of the colour solve even that out.
    """
    rng = _generator(key)
    size = image.shape[:2]
    slopes = [np.gradient(image, axis=axis) if size[axis] > 1 else np.zeros_like(image) for axis in (0, 1)]
    density = _mixed(np.asarray(np.sum(np.square(slopes), axis=(0, -1), dtype=np.float64)), UNIFORM_SHARE)
    means, pixels = sampled(rng, density, num_gaussians)
    # The density of single pixels is noisy; what counts is that of the neighbourhood one Gaussian is for.
    side = 2 * round(math.sqrt(density.size / num_gaussians)) + 1
    local = ndimage.uniform_filter(density, side, mode="nearest")[pixels]
    scales = np.maximum(SPREAD / np.sqrt(num_gaussians * local), FLOOR)
    colors = image[pixels] / (2 * math.pi * SPREAD**2)
    gaussians = _set(means, np.stack([scales, scales], axis=-1), np.zeros(num_gaussians), colors)
    solved = solve(gaussians, np.asarray(image), num_steps=5)
    return COORDINATES[form].of(jax.tree.map(jnp.asarray, solved))


def sampled(rng: np.random.Generator, density: np.ndarray, num: int) -> tuple[np.ndarray, tuple[np.ndarray, ...]]:
    """(num, 2) places in proportion to an (h, w) density, uniform within their pixels, and (rows, columns) of these.

    Stratified in reading order: a pixel of expected number e gets e rounded up or down, give or take one.
    """
    ends = np.cumsum(density.ravel(), dtype=np.float64)
    levels = (np.arange(num) + rng.uniform(size=num)) / num * ends[-1]
    # Rounding could point past the last pixel that has any density.
    index = np.minimum(np.searchsorted(ends, levels, side="right"), np.flatnonzero(density.ravel())[-1])
    rows, columns = np.divmod(index, density.shape[1])
    means = np.stack([columns, rows], axis=-1) + rng.uniform(size=(num, 2))
    return means, (rows, columns)


def _mixed(weights: np.ndarray, uniform: float) -> np.ndarray:
    """(h, w) probabilities: a share that is the same everywhere, the rest in proportion to the weights."""
    total = weights.sum()
    if not total > 0:
        return np.full(weights.shape, 1 / weights.size)
    return uniform / weights.size + (1 - uniform) * weights / total


def _generator(key: jax.Array) -> np.random.Generator:
    return np.random.default_rng(np.asarray(jax.random.key_data(key)))


def _set(means, scales, angles, colors) -> Gaussians2D:
    means, scales, angles, colors = (np.asarray(x, np.float32) for x in (means, scales, angles, colors))
    return Gaussians2D(means, scales, angles, colors, np.ones(len(means), bool))


def add_gaussians(key: jax.Array, state: State, image: np.ndarray, *, num_active: int) -> State:
    """New Gaussians in the first unused slots, where the error is; without new ones, Adam's restart alone.

    A place is drawn in proportion to the squared error of its pixel (Image-GS); a new Gaussian is round, of half the
    usual size, and has half of the residual there as its colour.

    Adam has one count for all rows. With it, a new row of zero moments would be taken for one whose gradients were 0
    all the time, and go up to 6.6 times the rate in its first dozen steps. So the optimiser starts anew for all rows:
    moments, count and the schedule of its rate. That is right for the new ones and lets the old ones forget the
    gradients of a coarser or a blank picture: second moments last a thousand steps, and keep the steps small. The
    schedule's part in this is 0.1 (content) and 0.7 dB (random start) after 200 steps on crops, 0.1 dB after 1,000.

    The lists of the renderer keep their planned size until the set outgrows it: it shrinks while it is fitted, and to
    plan them at each addition means a compilation at each.

    The slots in use come first, before and after, `num_active` of them; a ValueError for fewer than before, or more
    than there are slots.
    """
    old, num_slots = int(np.count_nonzero(state.active)), len(state.active)
    if not old <= num_active <= num_slots:
        raise ValueError(f"num_active: expected {old} to {num_slots}, got {num_active}")
    state = state._replace(inner_state=jax.tree.map(jnp.zeros_like, state.inner_state))
    if num_active == old:
        return state
    gaussians = state.coordinates.gaussians(state.active)
    residual = np.asarray(image) - np.asarray(render(gaussians, image_size=image.shape[:2]).image)
    density = _mixed(np.mean(np.square(residual, dtype=np.float64), axis=-1), 0.0)
    means, pixels = sampled(_generator(key), density, num_active - old)
    scale = max(SPREAD / 2 * math.sqrt(density.size / num_active), FLOOR)
    new = _set(means, np.full(means.shape, scale), np.zeros(len(means)), residual[pixels] / 2)
    rows = slice(old, num_active)

    def put(leaf, value):
        leaf = np.array(leaf)
        leaf[rows] = value
        return jnp.asarray(leaf)

    coordinates = jax.tree.map(put, state.coordinates, type(state.coordinates).of(new))
    return state._replace(coordinates=coordinates, active=put(state.active, True))


@dataclass(frozen=True)
class FitConfig:
    """How one image is fitted; an option outside its range, or rates of another form, is a ValueError.

    Fields:
      start, form: one of STARTS, one of FORMS.
      additions: in how many equal parts the second half of the Gaussians is added; 0 to start with all of them.
      rates: Adam's rates, of the type that belongs to the form; None for `FIT_RATES` or `CHOLESKY_RATES`.
    """

    num_gaussians: int = FIT_GAUSSIANS
    num_steps: int = FIT_STEPS
    start: str = STARTS[0]
    form: str = FORMS[0]
    additions: int = 4
    rates: AnyCoordinates | None = None

    def __post_init__(self):
        for name, low in (("num_gaussians", 1), ("num_steps", 1), ("additions", 0)):
            if getattr(self, name) < low:
                raise ValueError(f"{name}: expected at least {low}, got {getattr(self, name)}")
        for name, known in (("start", STARTS), ("form", FORMS)):
            if getattr(self, name) not in known:
                raise ValueError(f"{name}: expected one of {', '.join(known)}, got {getattr(self, name)!r}")
        if self.rates is None:
            object.__setattr__(self, "rates", CHOLESKY_RATES if self.form == "cholesky" else FIT_RATES)
        expected = COORDINATES[self.form]
        if type(self.rates) is not expected:
            raise ValueError(f"rates: expected {expected.__name__}, got {type(self.rates).__name__}")

    @property
    def plan(self) -> tuple[tuple[int, int], ...]:
        """(step, Gaussians in use from it on): the start and every `add_gaussians`, at whole segments, increasing.

        Without additions Adam is restarted all the same, RESTARTS times.
        """
        parts = self.additions or RESTARTS
        first = math.ceil(self.num_gaussians / 2) if self.additions else self.num_gaussians
        rest, plan = self.num_gaussians - first, {0: first}
        for i in range(1, parts + 1):
            step = int(self.num_steps * ADDED_UNTIL * i / parts / SEGMENT) * SEGMENT
            plan[step] = first + rest * i // parts
        return tuple(plan.items())


class FitState(NamedTuple):
    """A fit between two segments; `psnr` in dB is that of the image before the last step, neither clipped nor rounded.

    The refinement's state has slots for all Gaussians; those in use come first.
    """

    state: State
    psnr: float

    @property
    def step(self) -> int:
        """Steps taken."""
        return self.state.step

    @property
    def gaussians(self) -> Gaussians2D:
        """The Gaussians in use, arrays of numpy."""
        num = int(np.count_nonzero(self.state.active))
        gaussians = self.state.coordinates.gaussians(self.state.active)
        return take(jax.tree.map(np.asarray, gaussians), slice(num))


def fit_states(
    image: np.ndarray, config: FitConfig, *, seed: int, resume: FitState | None = None
) -> Iterator[FitState]:
    """The state after every segment of at most SEGMENT steps; errors are those of `checked_image` and `advance`.

    There are slots for all Gaussians from the start, so that an addition changes no shape. Equal seeds give equal
    states; `resume` is a state of the same image, configuration and seed: what follows is what would have followed it.
    """
    image = checked_image(image)
    key = jax.random.key(seed)
    plan, task = dict(config.plan), jax.tree.map(jnp.asarray, ImageTask(image, config.rates))
    state = _start(key, image, config) if resume is None else resume.state
    while state.step < config.num_steps:
        if state.step in plan and state.step:
            state = add_gaussians(jax.random.fold_in(key, state.step), state, image, num_active=plan[state.step])
        num_steps = min(SEGMENT, config.num_steps - state.step)
        state = advance(task, state, num_steps=num_steps)
        yield FitState(state, -10 * math.log10(max(2 * state.loss / image.size, 1e-20)))


def _start(key: jax.Array, image: np.ndarray, config: FitConfig) -> State:
    count, form = config.plan[0][1], config.form
    key = jax.random.fold_in(key, config.num_steps)  # a number that no addition has
    if config.start == "random":
        coordinates = random_start(key, image.shape[:2], num_gaussians=count, form=form)
    else:
        coordinates = content_start(key, image, num_gaussians=count, form=form)
    active = jnp.ones(count, bool)
    gaussians = pad(coordinates.gaussians(active), config.num_gaussians)
    return start_state(ImageTask(image, config.rates), gaussians)


def finished(fit: FitState, image: np.ndarray, *, solve_steps: int = FIT_SOLVE_STEPS) -> Encoded:
    """What a file holds: the Gaussians in use as one stage, their colours solved in `solve_steps` (0: as they are)."""
    gaussians = fit.gaussians
    if solve_steps:
        gaussians = solve(gaussians, image, num_steps=solve_steps)
    return Encoded(gaussians, (gaussians.num_slots,), image.shape[:2])

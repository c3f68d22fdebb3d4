"""Fitting from scratch. Oracles: numpy's eigen-decomposition, finite differences in float64, counts of draws against
their density, and for the loop its own uninterrupted run."""

import math
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from airjax.errors import AirjaxError
from airjax.image import fit
from airjax.image.cholesky import FLOOR, CholeskyCoordinates
from airjax.image.codec import air_file
from airjax.image.fit import FORMS, FitConfig, fit_states
from airjax.image.fit_file import Job, differences, image_digest, load_fit, save_fit
from airjax.image.task import RATES, Coordinates
from airjax.metrics import psnr_8bit
from airjax.raster.draw import render
from airjax.weights_file import load_weights, save_weights

pytestmark = pytest.mark.slow

SIZE = (32, 40)
# One configuration for every loop, so that its programs are compiled once for each form.
SMALL = FitConfig(num_gaussians=60, num_steps=60, additions=2)


def picture() -> np.ndarray:
    """A bright disc on a ramp: edges in one place, (32, 40, 3)."""
    y, x = np.mgrid[: SIZE[0], : SIZE[1]] + 0.5
    disc = np.clip(8 - np.hypot(x - 26, y - 14), 0, 1)
    return np.stack([0.2 + 0.7 * disc, 0.3 + 0.01 * x, 0.5 - 0.4 * disc], axis=-1).astype(np.float32)


def psnr_of(gaussians, image) -> float:
    return psnr_8bit(image, render(gaussians, image_size=image.shape[:2]).image)


def lower(factors: np.ndarray) -> np.ndarray:
    """(n, 2, 2) factors L by the definition."""
    p, q, s = factors.T
    zero = np.zeros_like(p)
    rows = [[np.sqrt(p**2 + FLOOR**2), zero], [q, np.sqrt(s**2 + FLOOR**2)]]
    return np.moveaxis(np.array(rows), -1, 0)


def some_factors() -> np.ndarray:
    """Random ones, then circles (three kinds), nearly circles on both sides, needles, and the axis directions."""
    rng = np.random.default_rng(0)
    special = [
        [0, 0, 0],
        [2, 0, 2],
        [-2, 0, 2],
        [2, 1e-4, 2],
        [2, 0, 2 + 1e-4],
        [30, 1, 0],
        [0, 500, 0.1],
        [3, 0, 1],
        [1, 0, 3],
    ]
    return np.concatenate([rng.uniform(-4, 4, (20, 3)), special])


def axes(factors):
    n = len(factors)
    coordinates = CholeskyCoordinates(jnp.zeros((n, 2), factors.dtype), factors, jnp.zeros((n, 1), factors.dtype))
    return coordinates.gaussians(jnp.ones(n, bool))


# --- coordinates ---------------------------------------------------------------------------------------------------


def test_cholesky_axes_are_those_of_numpy():
    """Circles are drawn 0.05 % off (see `principal_axes`), hence the tolerance."""
    with jax.enable_x64(True):
        got = jax.tree.map(np.asarray, axes(jnp.asarray(some_factors())))
    matrices = lower(some_factors())
    variances, vectors = np.linalg.eigh(matrices @ np.swapaxes(matrices, 1, 2))
    np.testing.assert_allclose(got.scales, np.sqrt(variances[:, ::-1]), rtol=6e-4)
    clear = variances[:, 1] > 1.01 * variances[:, 0]
    first = np.stack([np.cos(got.angles), np.sin(got.angles)], axis=-1)
    cosine = np.abs(np.sum(first * vectors[:, :, 1], axis=-1))
    np.testing.assert_allclose(cosine[clear], 1, atol=1e-12)
    assert clear.sum() > 20


def test_cholesky_axes_in_float32():
    """A needle 500 pixels long keeps its width; oracle: the same in float64."""
    factors = some_factors().astype(np.float32)
    got = axes(jnp.asarray(factors))
    with jax.enable_x64(True):
        expected = axes(jnp.asarray(factors.astype(np.float64)))
    np.testing.assert_allclose(got.scales, expected.scales, rtol=1e-5)


def test_cholesky_gradients():
    """Of a sum of all entries of the covariances with fixed weights; oracle: central differences of L L^T itself.

    Circles are included: there the derivative is taken 0.1 % beside them, hence the tolerance.
    """
    weights = np.random.default_rng(1).normal(size=(len(some_factors()), 2, 2))

    def by_axes(factors):
        g = axes(factors)
        turn = jnp.stack([jnp.cos(g.angles), -jnp.sin(g.angles), jnp.sin(g.angles), jnp.cos(g.angles)], axis=-1)
        turn = turn.reshape(-1, 2, 2)
        return jnp.sum(weights * ((turn * g.scales[:, None, :] ** 2) @ jnp.swapaxes(turn, 1, 2)))

    def by_definition(factors):
        matrices = lower(factors)
        return np.sum(weights * (matrices @ np.swapaxes(matrices, 1, 2)), axis=(1, 2))

    with jax.enable_x64(True):
        got = np.asarray(jax.jit(jax.grad(by_axes))(jnp.asarray(some_factors())))
    step = 1e-5  # error of the difference: step^2 times a third derivative of at most about 10
    for i in range(3):
        shift = step * np.eye(3)[i]
        expected = (by_definition(some_factors() + shift) - by_definition(some_factors() - shift)) / (2 * step)
        np.testing.assert_allclose(got[:, i], expected, rtol=2e-3, atol=2e-3 * np.abs(expected).mean())


def test_gradients_are_finite_in_float32():
    """Of the image, at coordinates that nobody would choose; also for slots that are not in use."""
    factors = np.float32([[0, 0, 0], [2, 0, 2], [1e9, 1e9, -1e9], [1e-20, 1e-20, 1e-20], [0, 1e4, 0]])
    coordinates = CholeskyCoordinates(jnp.full((5, 2), 8.0), jnp.asarray(factors), jnp.ones((5, 3)))

    def loss(coordinates):
        gaussians = coordinates.gaussians(jnp.array([True] * 4 + [False]))
        return jnp.sum(jnp.square(render(gaussians, image_size=(16, 16), capacity=64).image))

    value, grads = jax.jit(jax.value_and_grad(loss))(coordinates)
    assert np.isfinite(value) and all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(grads))
    assert not np.any(grads.factors[4])


def test_both_forms_draw_the_same_set():
    key, image = jax.random.key(0), picture()
    active = jnp.ones(50, bool)
    sets = [fit.random_start(key, SIZE, num_gaussians=50, form=form).gaussians(active) for form in FORMS]
    # Thin ones are widened to the floor, and the start has none much thinner than it.
    assert np.min(sets[0].scales) > FLOOR
    images = [render(s.with_colors(jnp.ones((50, 3))), image_size=SIZE).image for s in sets]
    np.testing.assert_allclose(*images, atol=2e-2)
    sets = [fit.content_start(key, image, num_gaussians=20, form=form).gaussians(jnp.ones(20, bool)) for form in FORMS]
    images = [render(s, image_size=SIZE).image for s in sets]
    np.testing.assert_allclose(*images, atol=2e-2)


def test_cholesky_of_has_a_floor():
    needle = fit._set([[5, 5]], [[0.1, 4]], [0.0], [[1, 1, 1]])
    found = CholeskyCoordinates.of(needle).gaussians(jnp.ones(1, bool))
    np.testing.assert_allclose(found.scales, [[4, math.hypot(FLOOR, 0.1)]], rtol=1e-5)


# --- starts --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("start", ["random", "content"])
def test_starts_are_made_by_their_key(start, form):
    def made(seed):
        options = {"num_gaussians": 40, "form": form}
        if start == "random":
            return fit.random_start(jax.random.key(seed), SIZE, **options)
        return fit.content_start(jax.random.key(seed), picture(), **options)

    first, again, other = made(0), made(0), made(1)
    jax.tree.map(np.testing.assert_array_equal, first, again)
    assert np.all(first.means != other.means)
    gaussians = first.gaussians(jnp.ones(40, bool))
    assert gaussians.means.shape == (40, 2) and gaussians.colors.shape == (40, 3)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gaussians))
    means = np.asarray(gaussians.means)
    assert np.all((means >= 0) & (means <= SIZE[::-1]))
    assert isinstance(first, CholeskyCoordinates if form == "cholesky" else Coordinates)


def test_random_start_is_uniform_and_fits_the_density():
    n = 4000
    gaussians = fit.random_start(jax.random.key(0), SIZE, num_gaussians=n, form="scale_rotation").gaussians(
        jnp.ones(n, bool)
    )
    counts, *_ = np.histogram2d(*np.asarray(gaussians.means).T, bins=(4, 4), range=((0, SIZE[1]), (0, SIZE[0])))
    assert np.abs(counts - n / 16).max() < 5 * math.sqrt(n / 16)  # five standard deviations
    few = fit.random_start(jax.random.key(0), (400, 400), num_gaussians=100, form="scale_rotation")
    typical = math.exp(np.mean(few.log_scales))
    assert typical == pytest.approx(fit.SPREAD * 40, rel=0.1)  # the mean of 200 logarithms of spread 0.29
    assert not np.any(few.colors)


def test_content_start_follows_the_content():
    """More and smaller Gaussians at the edge of the disc, some everywhere, and the picture is there at once."""
    image = picture()
    gaussians = fit.content_start(jax.random.key(0), image, num_gaussians=200).gaussians(jnp.ones(200, bool))
    distance = np.abs(np.hypot(*(np.asarray(gaussians.means) - [26, 14]).T) - 7.5)
    near = distance < 2
    area = 2 * math.pi * 7.5 * 4 / math.prod(SIZE)
    assert near.mean() > 2 * area
    assert np.median(gaussians.scales[near]) < 0.7 * np.median(gaussians.scales[~near])
    assert psnr_of(gaussians, image) > 15  # an empty image: 6


def test_content_start_of_odd_images():
    """Flat: uniform. One pixel, one column, fewer pixels than Gaussians: everything finite and inside."""
    flat = fit.content_start(jax.random.key(0), np.full((32, 32, 3), 0.5, np.float32), num_gaussians=64)
    counts, *_ = np.histogram2d(*np.asarray(flat.means).T, bins=(2, 2), range=((0, 32), (0, 32)))
    assert np.all(counts > 4)
    for size in ((1, 1), (9, 1)):
        image = np.random.default_rng(0).uniform(size=(*size, 3)).astype(np.float32)
        start = fit.content_start(jax.random.key(0), image, num_gaussians=20)
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(start))
        means = np.asarray(start.means)
        assert np.all((means >= 0) & (means <= size[::-1]))


def test_sampled_follows_the_density():
    density = np.array([[0, 1, 2, 0], [0, 5, 2, 0]])
    means, (rows, columns) = fit.sampled(np.random.default_rng(0), density, 1000)
    counts = np.zeros(density.shape)
    np.add.at(counts, (rows, columns), 1)
    assert np.all(np.abs(counts - density * 100) <= 1) and not counts[density == 0].any()
    np.testing.assert_array_equal(np.floor(means), np.stack([columns, rows], axis=-1))


# --- additions and the loop ----------------------------------------------------------------------------------------


def test_plan():
    assert FitConfig(num_gaussians=101, num_steps=1000, additions=4).plan == (
        (0, 51), (100, 63), (200, 76), (300, 88), (400, 101),
    )  # fmt: skip
    assert FitConfig(num_gaussians=7, num_steps=100, additions=0).plan == ((0, 7), (10, 7), (20, 7), (30, 7), (40, 7))
    for config in (FitConfig(num_gaussians=9, num_steps=25), FitConfig(num_gaussians=1, num_steps=1)):
        steps, counts = zip(*config.plan, strict=True)
        assert counts[-1] == config.num_gaussians and list(steps) == sorted(set(steps))
        assert all(step < config.num_steps for step in steps)


@pytest.fixture(scope="module")
def runs() -> dict[str, list]:
    """All states of a short run in either form."""
    return {form: list(fit_states(picture(), replace(SMALL, form=form, rates=None), seed=3)) for form in FORMS}


@pytest.mark.parametrize("form", FORMS)
def test_the_loss_falls(runs, form):
    states = runs[form]
    assert [s.step for s in states] == [10, 20, 30, 40, 50, 60]
    assert [s.gaussians.num_slots for s in states] == [30, 45, 60, 60, 60, 60]
    assert states[-1].psnr > states[0].psnr + 5 and states[-1].psnr > 28
    rounded = psnr_of(states[-1].gaussians, picture())
    assert rounded == pytest.approx(states[-1].psnr, abs=1)


def fit_of(state):
    """The Gaussians of a state."""
    return state.coordinates.gaussians(state.active)


def test_additions_keep_the_old_and_land_on_the_error(runs):
    """The image is changed in one corner: all new ones belong there, and are active; nothing else moves."""
    state = runs["scale_rotation"][1].state
    rendered = np.asarray(render(fit_of(state), image_size=SIZE).image)
    image = rendered.copy()
    image[20:30, 2:12] += 0.5
    added = fit.add_gaussians(jax.random.key(0), state, image, num_active=60)
    for before, after in zip(state.coordinates, added.coordinates, strict=True):
        np.testing.assert_array_equal(np.asarray(before)[:45], np.asarray(after)[:45])
        np.testing.assert_array_equal(np.asarray(before)[60:], np.asarray(after)[60:])
    new = np.asarray(added.coordinates.means)[45:60]
    assert np.all((new >= [2, 20]) & (new <= [12, 30]))
    np.testing.assert_allclose(np.asarray(added.coordinates.colors)[45:60], 0.25, rtol=1e-4)
    np.testing.assert_array_equal(added.active, np.arange(len(added.active)) < 60)
    assert added.capacity == state.capacity and added.step == state.step
    assert int(state.inner_state[0].count) > 0 and jax.tree.structure(added) == jax.tree.structure(state)
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(added.inner_state))
    improved = [psnr_of(fit_of(s), image) for s in (state, added)]
    assert improved[1] > improved[0]


def test_additions_out_of_range(runs):
    state = runs["scale_rotation"][0].state
    same = fit.add_gaussians(jax.random.key(0), state, picture(), num_active=30)
    assert same.coordinates is state.coordinates and same.active is state.active
    assert int(same.inner_state[0].count) == 0 < int(state.inner_state[0].count)
    for number in (29, 2000):
        with pytest.raises(ValueError, match=f"num_active: expected 30 to 1024, got {number}"):
            fit.add_gaussians(jax.random.key(0), state, picture(), num_active=number)


@pytest.mark.parametrize("form", FORMS)
def test_a_saved_fit_goes_on_as_if_never_stopped(runs, form, tmp_path):
    """Bit for bit, through a file, also from the state just before an addition."""
    config = replace(SMALL, form=form, rates=None)
    job = Job(config, 3, image_digest(picture()))
    path = tmp_path / "a.air.partial"
    for index in (1, 3):
        save_fit(path, runs[form][index], job)
        loaded, other = load_fit(path)
        assert other == job and differences(other, job) == ""
        jax.tree.map(np.testing.assert_array_equal, loaded, runs[form][index])
        rest = list(fit_states(picture(), config, seed=3, resume=loaded))
        assert len(rest) == 5 - index
        jax.tree.map(np.testing.assert_array_equal, rest[-1], runs[form][-1])
    assert list(fit_states(picture(), config, seed=3, resume=runs[form][-1])) == []


def test_random_start_in_the_loop():
    """Nothing is there before the first step (colours zero), and the loop finds the picture all the same."""
    config = FitConfig(num_gaussians=60, num_steps=60, start="random", additions=0)
    states = list(fit_states(picture(), config, seed=0))
    assert [s.gaussians.num_slots for s in states] == [60] * 6
    assert states[-1].psnr > states[0].psnr + 8


def test_finished(runs):
    """The solve lowers the error; without it the Gaussians are those of the state; the file holds them."""
    last = runs["cholesky"][-1]
    plain, solved = (fit.finished(last, picture(), solve_steps=k) for k in (0, 10))
    jax.tree.map(np.testing.assert_array_equal, plain.gaussians, last.gaussians)
    errors = [np.sum(np.square(render(e.gaussians, image_size=SIZE).image - picture())) for e in (plain, solved)]
    assert errors[1] < errors[0]
    decoded = air_file.decode(air_file.encode(solved))
    assert decoded.stage_counts == (60,) and decoded.image_size == SIZE
    np.testing.assert_array_equal(decoded.gaussians.colors, solved.gaussians.colors)


# --- errors --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_gaussians": 0}, "num_gaussians: expected at least 1, got 0"),
        ({"num_steps": 0}, "num_steps: expected at least 1, got 0"),
        ({"additions": -1}, "additions: expected at least 0, got -1"),
        ({"start": "nowhere"}, "start: expected one of .*, got 'nowhere'"),
        ({"form": "lu"}, "form: expected one of .*, got 'lu'"),
        ({"form": "cholesky", "rates": RATES}, "rates: expected CholeskyCoordinates, got Coordinates"),
    ],
)
def test_wrong_configurations(changes, message):
    with pytest.raises(ValueError, match=message):
        FitConfig(**changes)


def test_wrong_images():
    for image in (np.zeros((4, 4), np.float32), np.zeros((4, 4, 3), np.uint8), np.full((4, 4, 3), np.nan)):
        with pytest.raises(ValueError, match="image: expected"):
            next(fit_states(image, SMALL, seed=0))


def test_files_that_are_no_fit(runs, tmp_path):
    """Each is one line that names the file: absent, foreign, weights, cut, changed, of other shapes."""
    path, job = tmp_path / "a.air.partial", Job(SMALL, 3, image_digest(picture()))
    save_fit(path, runs["scale_rotation"][0], job)
    good = path.read_bytes()
    params, metadata = load_weights(path)

    def refused(*words):
        with pytest.raises(AirjaxError) as caught:
            load_fit(path)
        message = str(caught.value)
        assert "a.air.partial" in message and "\n" not in message and all(word in message for word in words)

    for content, words in ((b"anything", ["damaged or foreign"]), (good[:-9], ["damaged or foreign"])):
        path.write_bytes(content)
        refused(*words)
    path.write_bytes(good[:-9] + bytes([good[-9] ^ 64]) + good[-8:])
    refused("checksum")
    save_weights(path, params)
    refused("state of a fit", "another file")
    save_weights(path, params, metadata | {"format": "airjax fit 99"})
    refused("airjax fit 99")
    for key, value in (("job", "[]"), ("job", "{"), ("step", "x"), ("step", "20"), ("numbers", "[1, 2]")):
        save_weights(path, params, metadata | {key: value})
        refused("damaged")
    save_weights(path, params, {key: value for key, value in metadata.items() if key != "step"})
    refused("damaged", "step")
    save_weights(path, params, metadata | {"job": metadata["job"].replace("scale_rotation", "cholesky")})
    refused("damaged")
    path.unlink()
    refused("found none")
    with pytest.raises(AirjaxError, match="cannot be written"):
        save_fit(tmp_path / "no" / "a.partial", runs["scale_rotation"][0], job)
    broken = runs["scale_rotation"][0]
    colors = broken.state.coordinates.colors.at[0].set(jnp.nan)
    state = broken.state._replace(coordinates=broken.state.coordinates._replace(colors=colors))
    with pytest.raises(AirjaxError, match=r"a\.air\.partial: not written, expected a finite state"):
        save_fit(path, broken._replace(state=state), job)
    assert not path.exists()


def test_differences():
    job = Job(SMALL, 3, image_digest(picture()))
    assert differences(job, job._replace(seed=4)) == "seed 3 instead of 4"
    assert differences(job, job._replace(image=image_digest(picture()[:-1]))) == "another image"
    other = job._replace(config=replace(SMALL, form="cholesky", rates=None, num_steps=5))
    assert differences(other, job) == "num_steps 5 instead of 60, form cholesky instead of scale_rotation"

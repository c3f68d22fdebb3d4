"""A photograph to integers: against the pieces it is made of, on odd images, and the search for a target."""

from dataclasses import replace
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_codec import STAGES, picture, tiny_model

from airjax.errors import AirjaxError
from airjax.image import strips
from airjax.image.canvas import canvas_size
from airjax.image.codec import air_file, compress
from airjax.image.codec.compress import CompressOptions, color_step_of
from airjax.image.codec.payload import Quantised
from airjax.image.codec.quantise import Rows, quantise
from airjax.image.codec.rate_task import slope_of
from airjax.image.codec.search import measured_psnr
from airjax.image.model import Model
from airjax.image.stages import StageConfig, init_params, run_stage, run_stages, stage_control_of
from airjax.nn.air_stage import PredictorConfig
from airjax.raster import draw
from airjax.raster.draw import render

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def model() -> Model:
    return tiny_model()


def assert_equal(a: Quantised, b: Quantised) -> None:
    assert a.image_size == b.image_size and len(a.stages) == len(b.stages)
    for one, other in zip(a.stages, b.stages, strict=True):
        assert one.patch_size == other.patch_size
        for name in ("patches", "symbols", "codes"):
            np.testing.assert_array_equal(getattr(one, name), getattr(other, name))


def test_without_a_solve_it_is_the_stages_rounded(model):
    """Oracle: run_stages and quantise, stage by stage; and the later stage has seen the rounded image."""
    image, quality = picture(), 50.0
    options = CompressOptions(quality=quality, num_stages=2, solve_steps=0, mse_threshold=0.0, effort=0)
    got = compress.compress(model, image, options)
    control = stage_control_of(0.0, 2.0)._replace(color_step=jnp.float32(color_step_of(quality)))
    trace = jax.device_get(jax.jit(run_stages, static_argnums=0)(STAGES, model.params, image, control))
    for rows, stage, config in zip(got.stages, trace, STAGES, strict=True):
        size = config.patch_map.patch_size
        patches = np.arange(stage.gaussians.num_slots)
        amplitudes = compress.amplitudes_of(stage.gaussians)
        columns = -(-image.shape[1] // size)
        codes = np.rint(stage.codes).astype(np.int64)
        want = quantise(stage.gaussians, patches, amplitudes, codes=codes, patch_size=size, columns=columns)
        np.testing.assert_array_equal(rows.symbols, want.symbols)
        np.testing.assert_array_equal(rows.patches, want.patches)
    # What the network saw after the first stage is, but for near-ties, what a decoder draws of it.
    first = air_file.dequantised(replace(got, stages=got.stages[:1]))
    drawn = np.asarray(render(first.gaussians, image_size=first.image_size).image)
    assert np.sqrt(np.mean((drawn - trace[0].rendered) ** 2)) < 5e-3


def test_the_solve_pays(model):
    """Solving the colours on the rounded geometry raises the PSNR of the decoded image, at about the same size."""
    image = picture()
    options = (CompressOptions(quality=70, solve_steps=steps, effort=0) for steps in (0, 8))
    plain, solved = (compress.compress(model, image, each) for each in options)
    assert measured_psnr(solved, image) > measured_psnr(plain, image) + 0.5
    assert len(air_file.encode(solved)) < 1.5 * len(air_file.encode(plain))


def cost(quantised: Quantised, image: np.ndarray, quality: float) -> float:
    """Half the squared error of a file, and its bits at what they are worth at that quality."""
    error = np.sum(np.square(image - np.asarray(air_file.dequantised(quantised).render())))
    return 0.5 * float(error) + slope_of(color_step_of(quality)) * 8 * len(air_file.encode(quantised))


@pytest.mark.parametrize(("options", "effort"), [({"effort": 0}, 0), ({"effort": 2}, 2), ({"refine_steps": 3}, None)])
def test_a_result_says_how_it_was_made(model, options, effort):
    made = compress.compress(model, picture((16, 16)), CompressOptions(37.25, **options)).origin
    assert made == (37.25, effort, "tiny")


@pytest.fixture(scope="module")
def tall(model):
    """(image, its cost at an effort, what was told on the way); compressed once for each effort."""
    image = picture((104, 40))

    @cache
    def made(effort: int) -> tuple[float, list]:
        told: list = []
        options = CompressOptions(50, effort=effort)
        return cost(compress.compress(model, image, options, progress=lambda *line: told.append(line)), image, 50), told

    return image, made


def assert_all_told(lines, effort):
    """Every stage from its begin to its end, in order."""
    told = {stage: [line[1:] for line in lines if line[0] == stage] for stage, *_ in lines}
    assert list(told)[:2] == ["predict", "refine"] and list(told)[-1] == "round"
    for stage, total in (("refine", effort.steps), ("round", effort.sweeps)):
        assert told[stage] == sorted(told[stage]) and told[stage][-1] == (total, total)


def test_effort_pays(model, tall):
    """What size and error come to together, of the files themselves, falls with the effort; more is told on the way."""
    image, made = tall
    costs = [made(effort)[0] for effort in (0, 2, 5)]
    assert costs[2] < 0.85 * costs[1] and costs[1] < 0.95 * costs[0]
    assert_all_told(made(5)[1], compress.EFFORTS[5])
    refined = compress.compress(model, image, CompressOptions(50, refine_steps=compress.EFFORTS[5].steps))
    assert cost(refined, image, 50) == costs[2]


def test_strips_pay_as_much(model, tall, monkeypatch):
    """A large image, refined and swept in strips, comes out as good as in one piece; every row stays where it was."""
    (image, made), done = tall, []
    costs = [made(5)[0], made(0)[0]]
    for module in (strips, draw):
        monkeypatch.setattr(module, "STRIP_PIXELS", 128 * 48)
    assert len(strips.strips_of(canvas_size((104, 40)), reach=9.0, step=16)) == 3
    parts = compress.compress(model, image, CompressOptions(50, effort=5), progress=lambda *line: done.append(line))
    assert cost(parts, image, 50) - costs[0] < 0.05 * (costs[1] - costs[0])
    assert_all_told(done, compress.EFFORTS[5])
    assert done.count(("colors", 3, 3)) == 2  # strips, of two rounds


def test_a_higher_quality_is_larger_and_rounds_less():
    """The bins halve every 18 points, and so do the errors: one stage of a network that is not told the quality."""
    stages = (StageConfig(STAGES[1].patch_map, PredictorConfig(features=8, blocks=1, expansion=2)),)
    model = Model(stages, jax.jit(init_params, static_argnums=1)(jax.random.key(0), stages), "plain")
    image = picture()
    exact = model.encode(image, num_stages=1, mse_threshold=0.0, ssim_threshold=2.0, solve_steps=0)
    options = CompressOptions(num_stages=1, mse_threshold=0.0, solve_steps=0, effort=0)
    drawn = np.asarray(render(exact.gaussians, image_size=exact.image_size).image)
    errors, sizes = [], []
    for quality in (28, 64, 100):
        rounded = compress.compress(model, image, replace(options, quality=quality))
        decoded = air_file.dequantised(rounded)
        errors.append(np.std(drawn - np.asarray(render(decoded.gaussians, image_size=decoded.image_size).image)))
        sizes.append(len(air_file.encode(rounded)))
    assert sizes[0] < sizes[1] < sizes[2]
    assert errors[0] > 2 * errors[1] > 4 * errors[2] > 0


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((1, 1, 3), np.float32),
        np.ones((1, 1, 3), np.float32),
        np.full((19, 33, 3), 0.5, np.float32),
        np.zeros((24, 40, 3), np.float32),
        picture((3, 70)),
        picture((50, 2)),
    ],
    ids=["black pixel", "white pixel", "grey", "black", "wide", "tall"],
)
@pytest.mark.parametrize("effort", [0, 2])
def test_odd_images(model, image, effort):
    """They make a file, and it decodes to the same integers."""
    quantised = compress.compress(model, image, CompressOptions(effort=effort))
    data = air_file.encode(quantised)
    assert_equal(air_file.decode_quantised(data), quantised)
    assert air_file.decode(data).image_size == image.shape[:2]


def test_a_black_image_has_no_gaussians(model):
    assert compress.compress(model, np.zeros((24, 40, 3), np.float32), CompressOptions(effort=0)).stage_counts == (0, 0)


def test_limits_are_kept(model):
    image = picture()
    assert sum(compress.compress(model, image, CompressOptions(max_gaussians=4, mse_threshold=0.0)).stage_counts) <= 4
    assert len(compress.compress(model, image, CompressOptions(num_stages=1)).stages) == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"quality": 101}, "quality: expected a number from 0 to 100"),
        ({"quality": float("nan")}, "quality: expected"),
        ({"num_stages": 3}, "num_stages: expected 1 to 2"),
        ({"max_gaussians": -1}, "max_gaussians: expected at least 0"),
        ({"solve_steps": -1}, "solve_steps: expected at least 0"),
        ({"refine_steps": -1}, "refine_steps: expected at least 0"),
        ({"effort": 10}, "effort: expected a number from 0 to 9, got 10"),
    ],
)
def test_bad_options(model, options, message):
    with pytest.raises(ValueError, match=message):
        compress.compress(model, picture(), CompressOptions(**options))


def test_another_quality_compiles_nothing(model):
    """Thresholds and bin widths are traced values; a kind of stage is one program."""
    run_stage.jitted.clear_cache()
    for quality, threshold in ((30, None), (31, 1e-3)):
        options = CompressOptions(quality, num_stages=2, mse_threshold=threshold, effort=0)
        compress.compress(model, picture(), options)
        assert run_stage.jitted._cache_size() == 2


def test_rows_know_their_counts():
    nothing = Rows(8, np.zeros(0, np.int64), np.zeros((0, 8), np.int64), np.zeros(6, np.int64))
    assert Quantised((nothing, nothing), (8, 8)).stage_counts == (0, 0)


def test_stages_that_no_file_holds_are_left_out(model, monkeypatch):
    """Finer ones at once, not after all the work; an image too large for the model's own is refused."""
    image = picture((24, 40))
    sizes = [stage.patch_size for stage in compress.compress(model, image, CompressOptions(100, effort=0)).stages]
    assert min(sizes) == 4
    monkeypatch.setattr(compress, "MAX_PATCHES", 15)
    limited = compress.compress(model, image, CompressOptions(100, effort=0))
    assert [stage.patch_size for stage in limited.stages] == [size for size in sizes if size > 4]
    monkeypatch.setattr(compress, "MAX_PATCHES", 14)
    with pytest.raises(AirjaxError, match="at most 14 patches, got 15 in 40x24; make it smaller"):
        compress.compress(model, image, CompressOptions(100, effort=0))

"""Predictions in strips: what comes out is that of the image in one piece. Oracle: the image in one piece."""

from functools import cache

import jax
import numpy as np
import pytest

from airjax.image import prediction, strips
from airjax.image.canvas import canvas_of
from airjax.image.codec.compress import CompressOptions, compress
from airjax.image.model import Model
from airjax.image.patches import PatchMap
from airjax.image.prediction import predict_stages
from airjax.image.stages import StageConfig, init_params, stage_control_of, with_finer
from airjax.nn.air_stage import PredictorConfig

pytestmark = pytest.mark.slow

NETWORK = {"features": 8, "blocks": 1, "expansion": 2, "votes": 6}
MODEL_STAGES = (
    StageConfig(PatchMap(16, 0.75, 1.0, 8.4), PredictorConfig(reduction=2, **NETWORK)),
    StageConfig(PatchMap(8, 0.75, 0.5, 4.2), PredictorConfig(**NETWORK)),
)
STAGES = with_finer(MODEL_STAGES)  # the last ones see the image enlarged
ROWS = 16  # of pixels of a strip


@cache
def model() -> Model:
    params = jax.jit(init_params, static_argnums=1)(jax.random.key(0), MODEL_STAGES)
    for i, stage in enumerate(params.values()):  # bin widths of its own for every stage
        stage["votes"]["kernel"] = 0.3 * jax.random.normal(jax.random.key(i), stage["votes"]["kernel"].shape)
    return Model(MODEL_STAGES, params, "tiny")


def picture(size) -> np.ndarray:
    """Waves, finer and finer towards the bottom."""
    rng = np.random.default_rng(sum(size))
    y, x = np.mgrid[: size[0], : size[1]] / 9
    waves = np.stack([np.sin(x) * np.cos(y), np.sin(x + y * y / 8), np.cos(x - 2 * y)], axis=-1)
    return np.clip(0.5 + 0.3 * waves + rng.normal(0, 0.03, waves.shape), 0, 1).astype(np.float32)


def in_strips(monkeypatch, width: int) -> None:
    monkeypatch.setattr(strips, "STRIP_PIXELS", ROWS * width)


def assert_same(found, expected) -> None:
    assert len(found) == len(expected)
    for (got, codes), (want, wanted_codes) in zip(found, expected, strict=True):
        np.testing.assert_array_equal(got.active, want.active)
        if codes is not None:
            np.testing.assert_array_equal(codes, wanted_codes)
        for name in ("means", "scales", "angles", "colors"):
            a, b = (getattr(part, name)[want.active] for part in (got, want))
            np.testing.assert_allclose(a, b, atol=2e-4, err_msg=name)


CONTROLS = {
    "rounded": stage_control_of(1e-4, 2.0)._replace(color_step=np.float32(0.05)),
    "budget": stage_control_of(1e-4, 0.05, 300.0),
    "nothing": stage_control_of(np.inf, np.inf),
}


@pytest.mark.parametrize("control", CONTROLS.values(), ids=CONTROLS.keys())
@pytest.mark.parametrize(("size", "on_canvas"), [((200, 72), False), ((150, 61), True)])
def test_strips_predict_what_the_image_in_one_piece_does(monkeypatch, size, on_canvas, control):
    """To float rounding: what reaches over edges, ranks, shares and bin widths are those of the whole image."""
    image = canvas_of(picture(size)) if on_canvas else picture(size)
    expected = predict_stages(STAGES, model().params, image, control)
    in_strips(monkeypatch, image.shape[1])
    assert len(strips.strips_of(image.shape[:2], reach=0, step=ROWS)) == -(-image.shape[0] // ROWS)
    assert_same(predict_stages(STAGES, model().params, image, control), expected)


def test_progress_moves_within_a_stage(monkeypatch):
    image, told = picture((70, 40)), []
    in_strips(monkeypatch, 40)
    control = stage_control_of(-1.0)
    predict_stages(STAGES, model().params, image, control, lambda *count: told.append(count))
    assert told == [(i, 5 * len(STAGES)) for i in range(1, 5 * len(STAGES) + 1)]


def test_strips_share_programs(monkeypatch):
    """One of each kind for all windows, those at the edges included."""
    image = picture((200, 56))
    in_strips(monkeypatch, 56)
    prediction._raw.jitted.clear_cache()
    predict_stages(STAGES, model().params, image, stage_control_of(-1.0))
    assert prediction._raw.jitted._cache_size() == 3  # 16, 8 and 4 pixels


def test_files_of_strips_are_those_of_one_piece(monkeypatch):
    """Every integer, but for near-ties; without a solve, which strips do in another order."""
    image, options = picture((170, 72)), CompressOptions(60, effort=0, solve_steps=0)
    expected = compress(model(), image, options)
    in_strips(monkeypatch, 256)
    found = compress(model(), image, options)
    assert found.stage_counts == expected.stage_counts and len(found.stages) >= 2
    for got, want in zip(found.stages, expected.stages, strict=True):
        np.testing.assert_array_equal(got.patches, want.patches)
        np.testing.assert_array_equal(got.codes, want.codes)
        assert np.mean(got.symbols != want.symbols) < 0.002

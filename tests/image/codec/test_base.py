"""The wide Gaussian below all others of an image of one colour."""

from __future__ import annotations

import numpy as np
import pytest
from tiny_codec import tiny_model

from airjax.image.codec.base import _errors, base_of
from airjax.image.codec.compress import CompressOptions, color_step_of, compress, compress_and_source
from airjax.image.codec.payload import pack_stages
from airjax.image.codec.quantise import dequantise
from airjax.image.codec.search import measured_psnr
from airjax.metrics import patch_mse
from airjax.raster.draw import render
from airjax.raster.tiles import patch_grid


def plain(color, size=(40, 56)) -> np.ndarray:
    return np.broadcast_to(np.array(color, np.float32), (*size, 3)).copy()


def page() -> np.ndarray:
    """A dark line on a sheet of paper."""
    image = plain((0.95, 0.95, 0.9), (128, 128))
    image[40:44, 20:100] = 0.2
    return image


def shown(rows, size) -> np.ndarray:
    stored = dequantise(rows, columns=patch_grid(size, rows.patch_size)[1])
    return np.asarray(render(stored, image_size=size).image)


@pytest.mark.parametrize("quality", [0, 45, 100])
@pytest.mark.parametrize("color", [(1.0, 1.0, 1.0), (0.5, 0.5, 0.5), (0.9, 0.1, 0.3)])
def test_a_plain_image_is_one_row(color, quality):
    """Within 2 of 255, up to the corners of an image of any shape."""
    for size in ((1, 1), (40, 56), (700, 90)):
        rows = base_of(plain(color, size), color_step=color_step_of(quality))
        assert rows is not None and len(rows.patches) == 1
        np.testing.assert_allclose(shown(rows, size), plain(color, size), atol=2 / 255)


def test_other_images_have_none():
    noise = np.random.default_rng(0).random((64, 64, 3)).astype(np.float32)
    half = plain((0.2, 0.4, 0.6), (64, 64))
    half[:, 20:] = noise[:, 20:]
    for image in (noise, half, plain((0.0, 0.0, 0.0)), plain((0.001, 0.001, 0.001))):
        assert base_of(image, color_step=0.05) is None


def test_squares_are_those_of_the_metric():
    """Oracle: `patch_mse`, on an image that is no multiple of a square."""
    image = np.random.default_rng(0).random((37, 50, 3)).astype(np.float32)
    expected = patch_mse(image, np.zeros_like(image), patch_size=16)
    np.testing.assert_allclose(_errors(image, np.zeros(3, np.float32)), expected, rtol=1e-5)


def test_a_page_is_paper_and_what_is_on_it():
    model, image = tiny_model(), page()
    made, source = compress_and_source(model, image, CompressOptions(60, effort=0))
    base, *stages = made.stages
    assert base.patch_size == 64 and len(base.patches) == 1 and pack_stages(made, 2)
    assert all(len(stage.patches) < np.prod(patch_grid((128, 128), stage.patch_size)) / 2 for stage in stages)
    assert source.num_slots >= 1 + sum(len(stage.patches) for stage in stages)
    paper = shown(base, (128, 128))
    np.testing.assert_allclose(paper[60:], image[60:], atol=2 / 255)
    assert measured_psnr(made, image) > 10 * np.log10(1 / np.mean((paper - image) ** 2))  # the line is there too


@pytest.mark.parametrize("options", [{"num_stages": 1}, {"max_gaussians": 50}])
def test_who_counts_gets_no_more_than_was_asked_for(options):
    made = compress(tiny_model(), page(), CompressOptions(60, effort=0, **options))
    assert made.stages[0].patch_size != 64

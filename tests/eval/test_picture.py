"""The picture; oracles: the pixels that went in, and positions computed by hand."""

import dataclasses

import numpy as np
import pytest
from PIL import ImageFont

from airjax.gaussians import Gaussians2D
from airjax.image.codec.air_file import Encoded
from airjax.photographs import to_8bit
from eval.picture import _break_lines, centers_image, error_image, make_picture, panel_zoom, stage_colors


def some_gaussians(means, counts, image_size):
    n = len(means)
    gaussians = Gaussians2D(
        means=np.asarray(means, np.float32).reshape(n, 2),
        scales=np.ones((n, 2), np.float32),
        angles=np.zeros(n, np.float32),
        colors=np.zeros((n, 3), np.float32),
        active=np.ones(n, bool),
    )
    return Encoded(gaussians, counts, image_size)


def contains(page, panel):
    """Whether the pixels of `panel` stand somewhere in `page`, both uint8: looked for by its first row."""
    height, width = panel.shape[:2]
    for top in range(page.shape[0] - height + 1):
        for left in range(0, page.shape[1] - width + 1):
            if np.array_equal(page[top, left : left + 8], panel[0, :8]) and np.array_equal(
                page[top : top + height, left : left + width], panel
            ):
                return True
    return False


def test_error_is_four_times_the_difference_and_clipped():
    original, reconstruction = np.full((1, 2, 3), 0.5), np.array([[[0.4] * 3, [0.9] * 3]])
    np.testing.assert_allclose(error_image(original, reconstruction), [[[0.4] * 3, [1.0] * 3]], atol=1e-12)


@pytest.mark.parametrize("count", [0, 1, 6, 7, 12])
def test_every_stage_has_a_colour_of_its_own(count):
    assert len(set(stage_colors(count))) == count


@pytest.mark.parametrize(
    ("size", "zoom"), [((32, 48), 10.0), ((512, 768), 1.0), ((2048, 1024), 0.5), ((1, 1), 480.0), ((479, 2), 2.0)]
)
def test_zoom_of_a_panel(size, zoom):
    assert panel_zoom(size) == zoom


def test_a_centre_is_drawn_where_its_gaussian_is():
    encoded = some_gaussians([[12.0, 5.0], [40.0, 20.0], [500.0, -9.0]], (1, 1, 1), (32, 48))
    pixels = np.asarray(centers_image(np.zeros((32, 48, 3)), encoded, zoom=10.0))
    colors = stage_colors(3)
    assert pixels.shape == (320, 480, 3)
    assert tuple(pixels[50, 120]) == colors[0]
    assert tuple(pixels[200, 400]) == colors[1]
    lit = np.argwhere(pixels.any(axis=-1))
    # Nothing but two dots, and the Gaussian outside the image leaves no mark.
    distances = np.minimum(np.hypot(*(lit - [50, 120]).T), np.hypot(*(lit - [200, 400]).T))
    assert distances.max() < 8


def test_the_panels_hold_the_images(image):
    reconstruction = np.ascontiguousarray(image[:, ::-1])
    page = make_picture(image, reconstruction, some_gaussians([[3, 3]], (1,), (32, 48)), ["PSNR 1.00 dB"])
    pixels = np.asarray(page)
    for panel in (image, reconstruction, error_image(image, reconstruction)):
        assert contains(pixels[:, :, :], np.repeat(np.repeat(to_8bit(panel), 10, axis=0), 10, axis=1))


def test_the_strip_of_prefixes_fills_the_page(image):
    """Their titles aside, it adds the height of a panel of its width; images of another size are refused."""
    encoded = some_gaussians([], (0,), (32, 48))
    plain = make_picture(image, image, encoded, [])
    page = make_picture(image, image, encoded, [], prefixes=[("a", image), ("b", image), ("c", image)])
    panel = (plain.width - 16) // 3 - 16
    assert page.width == plain.width
    assert 0 < page.height - plain.height - panel * 32 / 48 < 80
    with pytest.raises(ValueError, match="b: expected"):
        make_picture(image, image, encoded, [], prefixes=[("b", image[1:])])


def test_wide_images_make_two_columns_and_tall_ones_four(image):
    encoded = some_gaussians([], (0, 0), (32, 48))
    wide = make_picture(image, image, encoded, [])
    tall_image = np.ascontiguousarray(image.transpose(1, 0, 2))
    tall = make_picture(tall_image, tall_image, dataclasses.replace(encoded, image_size=(48, 32)), [])
    assert 2 * 480 < wide.width < 3 * 480 and 2 * 320 < wide.height < 3 * 320
    assert 4 * 320 < tall.width < 5 * 320 and 480 < tall.height < 2 * 480


def test_a_single_pixel_and_a_file_without_stages():
    pixel = np.zeros((1, 1, 3), np.float32)
    assert make_picture(pixel, pixel, some_gaussians([], (), (1, 1)), ["x"]).width > 480


def test_images_of_another_size_are_refused(image):
    with pytest.raises(ValueError, match="reconstruction: expected"):
        make_picture(image, image[:-1], some_gaussians([], (), (32, 48)), [])


def test_lines_stay_within_the_width():
    font = ImageFont.load_default(size=20)
    texts = [f"fact number {i}" for i in range(20)]
    lines = _break_lines(texts, font, 500, gap=20)
    assert [text for line in lines for _, text in line] == texts
    assert len(lines) > 1
    assert all(line[0][0] == 0 and line[-1][0] + font.getlength(line[-1][1]) <= 500 for line in lines)

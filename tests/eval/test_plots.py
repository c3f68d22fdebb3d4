"""Pictures; oracles: the numbers and pixels that went in, positions computed by hand."""

import dataclasses
import io

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from PIL import Image

from airjax.gaussians import Gaussians2D
from airjax.image.codec.air_file import Encoded
from airjax.photographs import to_8bit
from eval.plots import (
    PALETTE,
    Line,
    Panel,
    draw_panels,
    error_image,
    panel_zoom,
    panels_figure,
    picture_figure,
    png,
    stage_colors,
)


def pixels_of(png):
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))


def draw_picture(*args, **options):
    return png(picture_figure(*args, **options))


# --- panels ------------------------------------------------------------------------------------------------------


def line(x, y, name="a", **more):
    return Line(name, np.array(x, float), np.array(y, float), **more)


def figure(*lines, **more):
    return panels_figure("title", [Panel("y", "x", lines, **more)])


def test_the_file_is_a_png_with_every_line_in_its_color():
    png = draw_panels("title", [Panel("y", "x", tuple(line([1, 2, 4], [3, 4, i], str(i)) for i in range(3)))] * 2)
    pixels = pixels_of(png)
    assert Image.open(io.BytesIO(png)).format == "PNG" and pixels.shape == (650, 1500, 3)
    for color in PALETTE[:3]:
        assert (np.abs(pixels - 255 * np.array(to_rgb(color))).max(axis=-1) < 3).sum() > 300


def test_lines_have_their_points_and_panels_their_lines():
    panels = [
        Panel("one", "steps", (line([1, 2, 3, 4], [np.nan, 5, np.inf, 7]), line([1, 2], [3, 4], "b")), log2_x=True),
        Panel("two", "bits", (line([1, 2], [5, 6], "b"),)),
    ]
    first, second = panels_figure("title", panels).axes
    np.testing.assert_array_equal(first.lines[0].get_xydata(), [[2, 5], [4, 7]])
    np.testing.assert_array_equal(second.lines[0].get_xydata(), [[1, 5], [2, 6]])
    assert (len(first.lines), len(second.lines)) == (2, 1)
    assert (first.get_title(), second.get_xlabel()) == ("one", "bits")
    assert (first.get_xscale(), second.get_xscale()) == ("log", "linear")
    assert first.get_position().x1 < second.get_position().x0
    assert first.lines[1].get_color() == second.lines[0].get_color() != first.lines[0].get_color()
    assert first.lines[0].zorder > first.lines[1].zorder  # the first lies on top


def test_ticks_of_a_logarithmic_axis_are_powers_of_two():
    plot = figure(line([0.25, 64], [1, 2]), log2_x=True)
    plot.draw_without_rendering()
    labels = [label.get_text() for label in plot.axes[0].get_xticklabels()]
    assert {"0.25", "0.5", "1", "2", "64"} <= set(labels)


def test_the_band_is_as_high_as_the_error():
    band = figure(line([1, 2, 3], [10, 20, np.nan], error=np.array([1.0, 2.0, 3.0]))).axes[0].collections[0]
    corners = {tuple(corner) for corner in band.get_paths()[0].vertices}
    assert corners == {(1, 9), (1, 11), (2, 18), (2, 22)}


def test_many_lines_look_different_and_the_legend_stays_on_the_page():
    """Every name stands in the legend once, in rows."""
    names = [f"a rather long name of a line, number {i}" for i in range(20)]
    plot = panels_figure("title", [Panel("y", "x", tuple(line([0, 1], [0, i], n) for i, n in enumerate(names)))] * 2)
    plot.draw_without_rendering()
    looks = {(drawn.get_color(), drawn.get_linestyle()) for drawn in plot.axes[0].lines}
    assert len(looks) == 20
    assert [text.get_text() for text in plot.legends[0].get_texts()] == names
    box = plot.legends[0].get_window_extent()
    assert box.x0 >= 0 and box.x1 <= 1500 and box.y0 >= 0
    assert box.y1 <= min(axes.get_window_extent().y0 for axes in plot.axes)


@pytest.mark.parametrize(
    "lines",
    [(), (line([], []),), (line([1], [2]),), (line([1, 1], [2, 2]),), (line([1, 2, 3], [np.nan, np.inf, 1]),)],
)
def test_few_points(lines):
    for log2_x in (False, True):
        assert draw_panels("title", [Panel("y", "x", lines, log2_x=log2_x)])


def test_mistakes_are_refused():
    with pytest.raises(ValueError, match="a: expected lists of one length"):
        line([1, 2], [1])
    with pytest.raises(ValueError, match="a: expected lists of one length"):
        line([1, 2], [1, 2], error=np.ones(3))
    with pytest.raises(ValueError, match="a: expected lists of one length"):
        line(1, 1)
    with pytest.raises(ValueError, match="y: expected x above 0"):
        Panel("y", "x", (line([0, 1], [1, 2]),), log2_x=True)
    with pytest.raises(ValueError, match="panels: expected at least one"):
        draw_panels("title", [])


# --- an encoded photograph ---------------------------------------------------------------------------------------


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


def part(png, axes):
    """The pixels of the picture inside some axes."""
    pixels, box = pixels_of(png), axes.get_window_extent()
    top, bottom = (pixels.shape[0] - round(y) for y in (box.y1, box.y0))
    return pixels[top:bottom, round(box.x0) : round(box.x1)]


def test_error_is_four_times_the_difference_and_clipped():
    original, reconstruction = np.full((1, 2, 3), 0.5), np.array([[[0.4] * 3, [0.9] * 3]])
    np.testing.assert_allclose(error_image(original, reconstruction), [[[0.4] * 3, [1.0] * 3]], atol=1e-12)


@pytest.mark.parametrize("count", [0, 1, 6, 7, 12])
def test_every_stage_has_a_color_of_its_own(count):
    assert len({to_rgb(color) for color in stage_colors(count)}) == count


@pytest.mark.parametrize(
    ("size", "zoom"), [((32, 48), 10.0), ((512, 768), 1.0), ((2048, 1024), 0.5), ((1, 1), 480.0), ((479, 2), 2.0)]
)
def test_zoom_of_a_panel(size, zoom):
    assert panel_zoom(size) == zoom


def test_a_center_is_drawn_where_its_gaussian_is():
    encoded = some_gaussians([[12.0, 5.0], [40.0, 20.0], [500.0, -9.0]], (1, 1, 1), (32, 48))
    black = np.zeros((32, 48, 3))
    axes = picture_figure(black, black, encoded, []).axes[3]
    pixels = part(draw_picture(black, black, encoded, []), axes)
    colors = [np.round(255 * np.array(to_rgb(color))) for color in stage_colors(3)]
    assert pixels.shape == (320, 480, 3)
    np.testing.assert_array_equal(pixels[50, 120], colors[0])
    np.testing.assert_array_equal(pixels[200, 400], colors[1])
    lit = np.argwhere(pixels.any(axis=-1))
    # Nothing but two dots, and the Gaussian outside the image leaves no mark.
    distances = np.minimum(np.hypot(*(lit - [50, 120]).T), np.hypot(*(lit - [200, 400]).T))
    assert distances.max() < 8


def test_the_panels_hold_the_images(image):
    """Enlarged tenfold, every pixel is a square of its color."""
    reconstruction = np.ascontiguousarray(image[:, ::-1])
    encoded = some_gaussians([[3, 3]], (1,), (32, 48))
    shown = picture_figure(image, reconstruction, encoded, ["PSNR 1.00 dB"]).axes
    png = draw_picture(image, reconstruction, encoded, ["PSNR 1.00 dB"])
    for axes, panel in zip(shown[:3], (image, reconstruction, error_image(image, reconstruction)), strict=True):
        np.testing.assert_array_equal(part(png, axes), to_8bit(panel).repeat(10, axis=0).repeat(10, axis=1))


def test_the_strip_of_prefixes_fills_the_page(image):
    """Their titles aside, it adds the height of a panel of its width; images of another size are refused."""
    encoded = some_gaussians([], (0,), (32, 48))
    plain = pixels_of(draw_picture(image, image, encoded, []))
    page = pixels_of(draw_picture(image, image, encoded, [], prefixes=[("a", image), ("b", image), ("c", image)]))
    panel = (plain.shape[1] - 16) // 3 - 16
    assert page.shape[1] == plain.shape[1]
    assert 0 < page.shape[0] - plain.shape[0] - panel * 32 / 48 < 80
    with pytest.raises(ValueError, match="b: expected"):
        draw_picture(image, image, encoded, [], prefixes=[("b", image[1:])])


def test_wide_images_make_two_columns_and_tall_ones_four(image):
    encoded = some_gaussians([], (0, 0), (32, 48))
    wide = pixels_of(draw_picture(image, image, encoded, []))
    tall_image = np.ascontiguousarray(image.transpose(1, 0, 2))
    tall = pixels_of(draw_picture(tall_image, tall_image, dataclasses.replace(encoded, image_size=(48, 32)), []))
    assert 2 * 480 < wide.shape[1] < 3 * 480 and 2 * 320 < wide.shape[0] < 3 * 320
    assert 4 * 320 < tall.shape[1] < 5 * 320 and 480 < tall.shape[0] < 2 * 480


def test_a_single_pixel_and_a_file_without_stages():
    pixel = np.zeros((1, 1, 3), np.float32)
    assert pixels_of(draw_picture(pixel, pixel, some_gaussians([], (), (1, 1)), ["x"])).shape[1] > 480


def test_images_of_another_size_are_refused(image):
    with pytest.raises(ValueError, match="reconstruction: expected"):
        draw_picture(image, image[:-1], some_gaussians([], (), (32, 48)), [])


def test_facts_and_stages_stay_on_the_page(image):
    """In lines that break between facts, below the panels, and apart from each other."""
    facts = [f"fact number {i}" for i in range(20)]
    encoded = some_gaussians(np.zeros((20, 2)), (1,) * 20, (32, 48))
    page = picture_figure(image, image, encoded, facts)
    page.draw_without_rendering()
    text, legend = page.texts[0], page.legends[0]
    lines = text.get_text().split("\n")
    assert len(lines) > 1 and [fact for row in lines for fact in row.split("   ")] == [
        fact.replace(" ", "\xa0") for fact in facts
    ]
    assert [entry.get_text() for entry in legend.get_texts()] == [f"stage {i + 1}: 1" for i in range(20)]
    facts_box, legend_box = text.get_window_extent(), legend.get_window_extent()
    assert facts_box.x0 > 0 and facts_box.x1 < page.bbox.x1 and facts_box.y0 > 0
    assert legend_box.x0 >= 0 and legend_box.x1 < page.bbox.x1
    assert facts_box.y1 < legend_box.y0 and legend_box.y1 <= min(axes.get_window_extent().y0 for axes in page.axes)

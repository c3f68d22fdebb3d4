"""Line plots; oracles: the axes' own mapping by hand, and pixels of the drawing counted by colour."""

import io

import numpy as np
import pytest
from PIL import Image

from eval.plot import Line, Panel, draw_panels, linear_ticks, log2_ticks, panel_axes, panel_boxes, png_bytes

RED, BLUE = (220, 0, 0), (0, 0, 220)
SIZE = (600, 320)
BOX = panel_boxes(1, SIZE)[0]


def near(picture, color):
    """(h, w) bool: pixels of about this colour."""
    return np.abs(np.asarray(picture, int) - color).max(axis=-1) < 60


def line(x, y, color=RED, **more):
    return Line("a", np.array(x, float), np.array(y, float), color, **more)


def plot(*lines, **more):
    return draw_panels("title", [Panel("y", "x", lines, **more)], size=SIZE)


def test_size_and_file():
    picture = plot(line([1, 2], [3, 4]))
    assert picture.size == SIZE and picture.mode == "RGB"
    back = Image.open(io.BytesIO(png_bytes(picture)))
    assert back.format == "PNG"
    np.testing.assert_array_equal(back, picture)


def test_points_are_drawn_where_the_axes_say():
    lines = (line([0.25, 1.0], [10, 20]), line([0.5, 2.0], [12, 30], BLUE))
    picture = np.asarray(plot(*lines, log2_x=True))
    axes = panel_axes(Panel("y", "x", lines, log2_x=True), BOX)
    for drawn, color in zip(lines, (RED, BLUE), strict=True):
        for x, y in axes.place(drawn.x, drawn.y):
            assert near(picture[int(y), int(x)], color)


def test_axes_by_hand():
    panel = Panel("y", "x", (line([0.5, 2.0], [0, 100]),), x_range=(0.25, 4.0), log2_x=True)
    axes = panel_axes(panel, (100, 50, 500, 250))
    assert axes.x_limits == (-2, 2) and axes.y_limits == (-4, 104)
    np.testing.assert_allclose(axes.place([0.25, 1, 4], [-4, 50, 104]), [[100, 250], [300, 150], [500, 50]])


def test_nothing_is_drawn_outside_the_axes():
    """A wild line beyond the limits of x, thick, through the corners; the legend is the only other place for it."""
    wild = line([0.001, 1.0, 1000.0], [-500, 5, 700], width=12)
    picture = plot(wild, line([0.5, 2], [0, 10], BLUE), x_range=(0.25, 4.0), log2_x=True)
    left, top, right, bottom = BOX
    drawn = near(picture, RED)
    assert drawn[top:bottom, left:right].sum() > 500
    drawn[top:bottom, left:right] = False
    assert drawn[top:].sum() == 0
    assert 0 < drawn[:top].sum() < 1000


def test_the_first_line_lies_on_top():
    lines = (line([0, 1], [0, 1], RED, width=4), line([0, 1], [0, 1], BLUE, width=4))
    drawn = np.asarray(plot(*lines))[BOX[1] : BOX[3], BOX[0] : BOX[2]]
    assert near(drawn, RED).sum() > 500 > 20 > near(drawn, BLUE).sum()


def test_a_panel_beside_a_panel():
    panels = [Panel("p", "x", (line([0, 1], [0, 1], color),)) for color in (RED, BLUE)]
    picture = draw_panels("title", panels, size=SIZE)
    one, two = panel_boxes(2, SIZE)
    assert one[2] < two[0] and two[2] < SIZE[0]
    for (left, top, right, bottom), inside, outside in ((one, RED, BLUE), (two, BLUE, RED)):
        part = picture.crop((left, top, right, bottom))
        assert near(part, inside).sum() > 100 and near(part, outside).sum() == 0


def test_a_long_legend_takes_more_rows():
    """Every entry is drawn in its colour above the axes, which move down."""
    size, colors = (1200, 400), [(255, 15 * i, 0) for i in range(12)]
    lines = tuple(Line(f"label {i}", np.array([0.0, 1.0]), np.zeros(2), c) for i, c in enumerate(colors))
    picture = np.asarray(draw_panels("title", [Panel("p", "x", lines)], size=size), int)
    top = panel_boxes(1, size, 2)[0][1]
    assert top > panel_boxes(1, size)[0][1]
    assert all((np.abs(picture[:top] - color).max(axis=-1) <= 2).sum() > 20 for color in colors)


@pytest.mark.parametrize(
    "lines",
    [(), (line([], []),), (line([1], [2]),), (line([1, 1], [2, 2]),), (line([1, 2, 3], [np.nan, np.inf, 1]),)],
)
def test_few_points(lines):
    assert plot(*lines).size == SIZE
    assert plot(*lines, log2_x=True, x_range=(0.5, 8)).size == SIZE


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0.0, 10.0, [0, 2, 4, 6, 8, 10]),
        (23.3, 40.9, [25, 30, 35, 40]),
        (-0.013, 0.021, [-0.01, -0.005, 0, 0.005, 0.01, 0.015, 0.02]),
        (7.0, 7.7, [7.0, 7.1, 7.2, 7.3, 7.4, 7.5, 7.6, 7.7]),
    ],
)
def test_linear_ticks(low, high, expected):
    np.testing.assert_allclose(linear_ticks(low, high), expected, atol=1e-12)


def test_linear_ticks_are_never_too_many_or_too_few():
    rng = np.random.default_rng(0)
    for low, span in zip(rng.normal(0, 100, 500), 10 ** rng.uniform(-4, 6, 500), strict=True):
        ticks = linear_ticks(low, low + span)
        assert 2 <= len(ticks) <= 8 and low - 1e-6 * span <= ticks[0] and ticks[-1] <= low + span * (1 + 1e-6)


def test_log2_ticks():
    assert log2_ticks(0.1, 2.5) == [0.125, 0.25, 0.5, 1, 2]
    assert log2_ticks(0.125, 2.0) == [0.125, 0.25, 0.5, 1, 2]


def test_mistakes_are_refused():
    with pytest.raises(ValueError, match="x, y: expected lists of one length"):
        line([1, 2], [1])
    with pytest.raises(ValueError, match="expected x above 0"):
        Panel("y", "x", (line([0, 1], [1, 2]),), log2_x=True)
    for x_range in ((2, 1), (1, 1)):
        with pytest.raises(ValueError, match="x_range: expected two rising numbers"):
            Panel("y", "x", (), x_range=x_range)
    with pytest.raises(ValueError, match="x_range: expected two rising numbers"):
        Panel("y", "x", (), x_range=(0, 1), log2_x=True)
    with pytest.raises(ValueError, match="panels: expected at least one"):
        draw_panels("title", [])
    with pytest.raises(ValueError, match="size: expected room"):
        draw_panels("title", [Panel("y", "x", ())], size=(100, 100))

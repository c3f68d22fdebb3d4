"""Pictures of measured numbers, with matplotlib: curves in panels, and what became of an encoded photograph.

Figures are objects of their own, drawn by the Agg backend: no global state, no window.
"""

from __future__ import annotations

import colorsys
import io
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from airjax.image.codec.air_file import Encoded
from airjax.photographs import to_8bit

# M. Okabe and K. Ito, "Color Universal Design" (2008): also the color-blind can tell these apart.
PALETTE = ("#D55E00", "#0072B2", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#8C8C8C")
_STYLES = ("-", "--", ":", "-.")  # one for each round through the palette
_DPI = 100


@dataclass(frozen=True, eq=False)
class Line:
    """One curve; points that are not finite are left out."""

    name: str  # in the legend. Lines of one name have one color, in all panels
    # x, y: (k,) points, joined in this order
    x: np.ndarray
    y: np.ndarray
    error: np.ndarray | None = None  # (k,) half height of the band around it; None for no band

    def __post_init__(self):
        shapes = {np.shape(values) for values in (self.x, self.y, self.error) if values is not None}
        if len(shapes) > 1 or len(np.shape(self.x)) != 1:
            raise ValueError(f"{self.name}: expected lists of one length, got shapes {sorted(shapes)}")


@dataclass(frozen=True, eq=False)
class Panel:
    """One pair of axes."""

    title: str  # above it; says what y is
    x_label: str  # below it
    lines: tuple[Line, ...]  # the first lies on top of the others
    log2_x: bool = False  # equal ratios of x are equally long; x is then above 0

    def __post_init__(self):
        if self.log2_x and any((np.asarray(line.x) <= 0).any() for line in self.lines):
            raise ValueError(f"{self.title}: expected x above 0 on a logarithmic axis")


def draw_panels(title: str, panels: Sequence[Panel]) -> bytes:
    """Panels side by side under one title and one legend, a PNG file. Raises ValueError: no panel."""
    return png(panels_figure(title, panels))


def panels_figure(title: str, panels: Sequence[Panel]) -> Figure:
    """The figure of `draw_panels`."""
    if not panels:
        raise ValueError("panels: expected at least one")
    figure = Figure(figsize=(7.5 * len(panels), 6.5), dpi=_DPI, layout="constrained")
    figure.suptitle(title)
    names = list(dict.fromkeys(line.name for panel in panels for line in panel.lines))
    handles = {}
    for axes, panel in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        axes.set(title=panel.title, xlabel=panel.x_label)
        axes.grid(color="0.9")
        if panel.log2_x:
            axes.set_xscale("log", base=2)
            axes.xaxis.set_major_formatter("{x:g}")
        for depth, line in enumerate(panel.lines):
            handles[line.name] = _draw_line(axes, line, names.index(line.name), zorder=3 - depth / len(panel.lines))
    letters = 90 * len(panels)  # of a line of the legend, about
    columns = max(1, letters // max((len(name) + 8 for name in names), default=1))
    figure.legend([handles[name] for name in names], names, loc="outside lower center", ncols=columns)
    return figure


def _draw_line(axes: Axes, line: Line, index: int, *, zorder: float) -> Line2D:
    x, y = np.asarray(line.x, float), np.asarray(line.y, float)
    finite = np.isfinite(x) & np.isfinite(y)
    color, style = PALETTE[index % len(PALETTE)], _STYLES[index // len(PALETTE) % len(_STYLES)]
    if line.error is not None:
        error = np.asarray(line.error, float)[finite]
        axes.fill_between(x[finite], y[finite] - error, y[finite] + error, color=color, alpha=0.2, linewidth=0)
    return axes.plot(x[finite], y[finite], style, marker="o", markersize=4, color=color, zorder=zorder)[0]


def png(figure: Figure) -> bytes:
    """The file of a figure."""
    figure.savefig(buffer := io.BytesIO(), format="png")
    return buffer.getvalue()


ERROR_GAIN = 4
_MIN_SIDE, _MAX_SIDE = 480, 1024  # pixels of a panel's long side; smaller and larger images are resized
_MARGIN, _TITLE, _ROW = 16, 30, 30  # pixels: around panels, above a panel, of a line of text
# From cool to hot in the order of the stages, all bright enough for a dark ground; more stages get a hue circle.
_STAGE_COLORS = ("#4870FF", "#38C4F0", "#4CCE6E", "#F4E24A", "#FA922A", "#F04054")


def stage_colors(num_stages: int) -> list[tuple[float, float, float] | str]:
    """One color per stage, as matplotlib takes it."""
    if num_stages <= len(_STAGE_COLORS):
        return list(_STAGE_COLORS[:num_stages])
    return [colorsys.hsv_to_rgb(stage / num_stages, 0.7, 1.0) for stage in range(num_stages)]


def error_image(original: np.ndarray, reconstruction: np.ndarray) -> np.ndarray:
    """ERROR_GAIN times the absolute difference, clipped, (h, w, 3)."""
    return np.clip(ERROR_GAIN * np.abs(original - reconstruction), 0.0, 1.0)


def panel_zoom(image_size: tuple[int, int]) -> float:
    """How much an (h, w) image is enlarged (or shrunk) for its panel; whole numbers upwards."""
    longest = max(image_size)
    if longest < _MIN_SIDE:
        return float(-(-_MIN_SIDE // longest))
    return min(1.0, _MAX_SIDE / longest)


def picture_figure(
    original: np.ndarray,
    reconstruction: np.ndarray,
    encoded: Encoded,
    caption: Sequence[str],
    *,
    prefixes: Sequence[tuple[str, np.ndarray]] = (),
) -> Figure:
    """Original, reconstruction, error, and where the Gaussians of each stage lie.

    Two by two panels for a wide image, four in a row for a tall one, laid out in whole pixels: they are neither
    invented nor mixed where the image is enlarged.

    Args:
      original, reconstruction: (h, w, 3) float in [0, 1].
      encoded: the Gaussians behind the reconstruction.
      caption: facts to print below the panels; lines are broken between them.
      prefixes: (title, image) of what the beginning of the file decodes to, side by side in one strip.

    Raises:
      ValueError: the images are not of one size.
    """
    for name, image in (("original", original), ("reconstruction", reconstruction), *prefixes):
        if image.shape != (*encoded.image_size, 3):
            raise ValueError(f"{name}: expected {(*encoded.image_size, 3)} like the file, got {image.shape}")
    width, text_top, boxes = _layout(encoded.image_size, len(prefixes))
    # Facts are broken between, not within; a letter takes some 9 pixels, an entry of the legend 160.
    lines = textwrap.wrap("   ".join(fact.replace(" ", "\xa0") for fact in caption), width // 9)
    entries = width // 160
    height = text_top + _ROW * (-(-len(encoded.stage_counts) // entries) + len(lines)) + _MARGIN
    figure = Figure(figsize=(width / _DPI, height / _DPI), dpi=_DPI, facecolor="#FAFAF8")
    shown = [
        ("original", original),
        ("reconstruction", reconstruction),
        (f"absolute error x {ERROR_GAIN}", error_image(original, reconstruction)),
        ("Gaussian centers by stage", np.repeat(0.3 * original.mean(axis=-1, keepdims=True), 3, axis=-1)),
        *prefixes,
    ]
    for (title, image), (left, top, panel_width, panel_height) in zip(shown, boxes, strict=True):
        box = left / width, 1 - (top + panel_height) / height, panel_width / width, panel_height / height
        axes = figure.add_axes(box, xlim=(0, image.shape[1]), ylim=(image.shape[0], 0))
        axes.set_axis_off()
        axes.set_title(title, loc="left")
        axes.imshow(to_8bit(image), extent=(0, image.shape[1], image.shape[0], 0), aspect="auto")
    dots = _draw_centers(figure.axes[3], encoded, panel_zoom(encoded.image_size))
    if dots:
        legend = figure.legend(
            handles=dots, loc="upper left", ncols=entries, frameon=False, markerscale=8 / dots[0].get_ms()
        )
        legend.set_bbox_to_anchor((0, 1 - text_top / height))
    figure.text(_MARGIN / width, _MARGIN / height, "\n".join(lines), linespacing=1.5)
    return figure


def _layout(image_size: tuple[int, int], num_prefixes: int) -> tuple[int, int, list[tuple[int, int, int, int]]]:
    """Pixels: width of the page, top of the texts, and (left, top, width, height) of each panel.

    Four large panels, and a strip of small ones that fills the width of the page.
    """
    zoom, columns = panel_zoom(image_size), 2 if image_size[1] >= image_size[0] else 4
    height, width = (max(1, round(side * zoom)) for side in image_size)
    step_x, step_y = max(width, _MIN_SIDE // 2) + _MARGIN, height + _TITLE + _MARGIN
    panels = [(_MARGIN + i % columns * step_x, _TITLE + i // columns * step_y, width, height) for i in range(4)]
    page_width, bottom = columns * step_x + _MARGIN, 4 // columns * step_y
    if num_prefixes:
        small = (page_width - _MARGIN) // num_prefixes - _MARGIN
        small_height = max(1, round(small * image_size[0] / image_size[1]))
        panels += [(_MARGIN + i * (small + _MARGIN), bottom + _TITLE, small, small_height) for i in range(num_prefixes)]
        bottom += small_height + _TITLE + _MARGIN
    return page_width, bottom, panels


def _draw_centers(axes: Axes, encoded: Encoded, zoom: float) -> list[Line2D]:
    """A dot at the mean of each Gaussian, later stages on top; those outside the image are not shown."""
    means = np.split(np.asarray(encoded.gaussians.means), np.cumsum(encoded.stage_counts)[:-1])
    # More than a pixel, larger where there are few Gaussians.
    spacing = zoom * np.sqrt(np.prod(encoded.image_size) / max(1, sum(encoded.stage_counts)))
    diameter = 2 * float(np.clip(0.24 * spacing, 1.1, 4.0)) * 72 / _DPI  # points
    colors = stage_colors(len(encoded.stage_counts))
    return [
        axes.plot(*part.T, "o", color=color, ms=diameter, mew=0, label=f"stage {i + 1}: {len(part):,}")[0]
        for i, (part, color) in enumerate(zip(means, colors, strict=False))
    ]

"""Line plots, drawn with Pillow: panels side by side under one title and one legend.

Everything is drawn larger by _OVERSAMPLING and averaged, which makes edges smooth. Lengths are in pixels of the result.
"""

from __future__ import annotations

import io
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont

_OVERSAMPLING = 4
_PAPER, _INK, _FAINT, _GRID, _FRAME = (255, 255, 255), (28, 28, 30), (95, 95, 100), (230, 230, 232), (150, 150, 155)
_MARGIN, _Y_LABELS, _PANEL_TITLE = 24, 40, 36  # around the page, left of a panel, above it
_X_LABELS = 62  # tick labels and axis title under a panel
_TITLE_SIZE, _TEXT_SIZE, _TICK_SIZE = 23, 19, 17
_TITLE, _LEGEND = 40, 42  # heights
_SAMPLE, _SAMPLE_GAP, _ENTRY_GAP = 36, 10, 34  # a legend's line, the space behind it, the space between entries


@dataclass(frozen=True, eq=False)
class Line:
    """One curve: straight lines between its points, a dot on each; points that are not finite are left out.

    Fields:
      label: in the legend.
      x, y: (k,) points, joined in this order.
      color: RGB of 0 to 255.
      width: pixels.
    """

    label: str
    x: np.ndarray
    y: np.ndarray
    color: tuple[int, int, int]
    width: float = 2.0

    def __post_init__(self):
        if np.ndim(self.x) != 1 or np.shape(self.x) != np.shape(self.y):
            raise ValueError(f"x, y: expected lists of one length, got {np.shape(self.x)}, {np.shape(self.y)}")


@dataclass(frozen=True, eq=False)
class Panel:
    """One pair of axes.

    Fields:
      title: above it; says what y is.
      x_label: below it.
      lines: the first is drawn last, on top of the others.
      x_range: limits of x; None for those of the points. What lies beyond is cut off.
      log2_x: whether equal ratios of x, which is then above 0, are equally long.
    """

    title: str
    x_label: str
    lines: tuple[Line, ...]
    x_range: tuple[float, float] | None = None
    log2_x: bool = False

    def __post_init__(self):
        if self.log2_x and any((np.asarray(line.x) <= 0).any() for line in self.lines):
            raise ValueError(f"{self.title}: expected x above 0 on a logarithmic axis")
        if self.x_range is not None and not (0 if self.log2_x else -math.inf) < self.x_range[0] < self.x_range[1]:
            raise ValueError(f"x_range: expected two rising numbers (above 0 if log2_x), got {self.x_range}")


class Axes(NamedTuple):
    """Where a panel lies on the page: box (left, top, right, bottom) in pixels, limits of x (log2 if so) and y."""

    box: tuple[int, int, int, int]
    x_limits: tuple[float, float]
    y_limits: tuple[float, float]
    log2_x: bool

    def place(self, x, y) -> np.ndarray:
        """Points to (k, 2) pixels of the page."""
        x = np.log2(x) if self.log2_x else np.asarray(x, float)
        left, top, right, bottom = self.box
        across = (x - self.x_limits[0]) / (self.x_limits[1] - self.x_limits[0])
        up = (np.asarray(y, float) - self.y_limits[0]) / (self.y_limits[1] - self.y_limits[0])
        return np.stack([left + across * (right - left), bottom - up * (bottom - top)], axis=-1)


def linear_ticks(low: float, high: float, most: int = 8) -> list[float]:
    """At most `most` multiples of 1, 2 or 5 times a power of ten in [low, high], low < high."""
    step = (high - low) / (most - 1)
    power = 10.0 ** math.floor(math.log10(step))
    step = next(factor * power for factor in (1, 2, 5, 10, 20) if factor * power >= step * (1 - 1e-9))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [k * step for k in range(first, last + 1)]


def log2_ticks(low: float, high: float) -> list[float]:
    """Powers of two in [low, high], 0 < low < high."""
    first, last = math.ceil(math.log2(low) - 1e-9), math.floor(math.log2(high) + 1e-9)
    return [2.0**k for k in range(first, last + 1)]


def panel_axes(panel: Panel, box: tuple[int, int, int, int]) -> Axes:
    """Limits that hold all points within the limits of x, with a little air around them."""
    points = np.concatenate([np.empty((0, 2)), *(_finite(line) for line in panel.lines)])
    x_range = None if panel.x_range is None else np.array(panel.x_range)
    if panel.log2_x:
        points[:, 0] = np.log2(points[:, 0])
        x_range = None if x_range is None else np.log2(x_range)
    if x_range is not None:
        points = points[(points[:, 0] >= x_range[0]) & (points[:, 0] <= x_range[1])]
    x, y = points.T if len(points) else np.zeros((2, 1))
    x_limits = _with_air(x.min(), x.max()) if x_range is None else (float(x_range[0]), float(x_range[1]))
    return Axes(box, x_limits, _with_air(y.min(), y.max()), panel.log2_x)


def _with_air(low: float, high: float) -> tuple[float, float]:
    air = 0.04 * (high - low) or 0.5
    return float(low - air), float(high + air)


def _finite(line: Line) -> np.ndarray:
    """Its points that can be drawn, (k, 2)."""
    points = np.stack([np.asarray(line.x, float), np.asarray(line.y, float)], axis=-1)
    return points[np.isfinite(points).all(axis=1)]


def panel_boxes(num_panels: int, size: tuple[int, int], legend_rows: int = 1) -> list[tuple[int, int, int, int]]:
    """The boxes (left, top, right, bottom) of the axes on a page of (width, height) pixels, under such a legend.

    Raises:
      ValueError: the page is too small for axes of 80 pixels.
    """
    width, height = size
    cell = (width - _MARGIN) / num_panels
    top, bottom = _MARGIN + _TITLE + legend_rows * _LEGEND + _PANEL_TITLE, height - _X_LABELS - _MARGIN // 2
    boxes = [(round(i * cell) + _MARGIN + _Y_LABELS, top, round((i + 1) * cell), bottom) for i in range(num_panels)]
    if bottom - top < 80 or min(right - left for left, _, right, _ in boxes) < 80:
        raise ValueError(f"size: expected room for {num_panels} panels of 80x80 pixels, got {width}x{height}")
    return boxes


def draw_panels(title: str, panels: Sequence[Panel], *, size: tuple[int, int] = (1500, 760)) -> Image.Image:
    """The plot; its legend names the lines of all panels, each label once.

    Args:
      title: above everything.
      panels: at least one, from left to right.
      size: (width, height) in pixels.

    Raises:
      ValueError: no panel, or no room for them.
    """
    if not panels:
        raise ValueError("panels: expected at least one")
    legend = _legend_rows(panels, size[0] - 2 * _MARGIN)
    boxes = panel_boxes(len(panels), size, len(legend))
    page = Image.new("RGB", [side * _OVERSAMPLING for side in size], _PAPER)
    draw = _Pen(page)
    draw.text((_MARGIN, _MARGIN), title, _TITLE_SIZE, _INK, "lt")
    for i, entries in enumerate(legend):
        _draw_legend(draw, entries, _MARGIN + _TITLE + i * _LEGEND + _LEGEND // 2 - 4)
    for panel, box in zip(panels, boxes, strict=True):
        _draw_panel(page, panel, panel_axes(panel, box))
    return page.resize(size, Image.Resampling.BOX)


class _Pen:
    """Draws on an oversampled page in pixels of the result."""

    def __init__(self, page: Image.Image):
        self._draw = ImageDraw.Draw(page)

    def text(self, at, text: str, size: int, color, anchor: str) -> None:
        font = ImageFont.load_default(size=size * _OVERSAMPLING)
        self._draw.text([_OVERSAMPLING * c for c in at], text, color, font, anchor=anchor)

    def line(self, points, color, width: float) -> None:
        """Pieces as rectangles with round ends: Pillow's own lines are thinner where they are steep."""
        corners = _OVERSAMPLING * np.asarray(points, float)
        half = 0.5 * _OVERSAMPLING * width
        for start, end in itertools.pairwise(corners):
            along = end - start
            across = half * np.array([-along[1], along[0]]) / max(math.hypot(*along), 1e-9)
            self._draw.polygon([tuple(c) for c in (start + across, end + across, end - across, start - across)], color)
        for x, y in corners[1:-1]:
            self._draw.ellipse((x - half, y - half, x + half, y + half), fill=color)

    def dot(self, at, radius: float, color) -> None:
        x, y, r = (_OVERSAMPLING * float(value) for value in (*at, radius))
        self._draw.ellipse((x - r, y - r, x + r, y + r), fill=color)


def _dot_radius(line: Line) -> float:
    return 2.2 + 0.9 * line.width


def _entry_width(line: Line) -> float:
    """Of a legend's entry with the space behind it."""
    return _SAMPLE + _SAMPLE_GAP + ImageFont.load_default(size=_TEXT_SIZE).getlength(line.label) + _ENTRY_GAP


def _legend_rows(panels: Sequence[Panel], width: float) -> list[list[Line]]:
    """One line for each label, in rows of at most `width` where an entry fits at all."""
    entries: dict[str, Line] = {}
    for line in (line for panel in panels for line in panel.lines):
        entries.setdefault(line.label, line)
    rows, room = [[]], width
    for line in entries.values():
        if rows[-1] and _entry_width(line) - _ENTRY_GAP > room:
            rows.append([])
            room = width
        rows[-1].append(line)
        room -= _entry_width(line)
    return rows


def _draw_legend(draw: _Pen, entries: Sequence[Line], middle: float) -> None:
    """One row of entries at height `middle`."""
    x = float(_MARGIN)
    for line in entries:
        draw.line([(x, middle), (x + _SAMPLE, middle)], line.color, line.width)
        draw.dot((x + _SAMPLE / 2, middle), _dot_radius(line), line.color)
        draw.text((x + _SAMPLE + _SAMPLE_GAP, middle), line.label, _TEXT_SIZE, _INK, "lm")
        x += _entry_width(line)


def _draw_panel(page: Image.Image, panel: Panel, axes: Axes) -> None:
    left, top, right, bottom = axes.box
    draw = _Pen(page)
    draw.text((left, top - _PANEL_TITLE / 2), panel.title, _TEXT_SIZE, _INK, "lm")
    draw.text(((left + right) / 2, bottom + 44), panel.x_label, _TEXT_SIZE, _INK, "mm")
    low, high = axes.x_limits
    for x in log2_ticks(2**low, 2**high) if axes.log2_x else linear_ticks(low, high):
        at = axes.place(x, 0.0)[0]
        draw.line([(at, top), (at, bottom)], _GRID, 1)
        draw.text((at, bottom + 16), _tick_label(x), _TICK_SIZE, _FAINT, "mm")
    for y in linear_ticks(*axes.y_limits):
        at = axes.place(1.0, y)[1]
        draw.line([(left, at), (right, at)], _GRID, 1)
        draw.text((left - 8, at), _tick_label(y), _TICK_SIZE, _FAINT, "rm")
    draw.line([(left, bottom), (right, bottom)], _FRAME, 1.4)
    # The lines are drawn on a copy, of which only the inside of the axes is used.
    layer = page.copy()
    pen = _Pen(layer)
    for line in reversed(panel.lines):
        points = axes.place(*_finite(line).T)
        if len(points) > 1:
            pen.line(points, line.color, line.width)
        for point in points:
            pen.dot(point, _dot_radius(line), line.color)
    inside = tuple(_OVERSAMPLING * side for side in axes.box)
    page.paste(layer.crop(inside), inside)


def _tick_label(value: float) -> str:
    return f"{value:.6g}"


def png_bytes(image: Image.Image) -> bytes:
    """The image as a PNG file."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()

"""One picture of an encoded image: original, reconstruction, error, and where the Gaussians of each stage lie."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from airjax.image.codec.air_file import Encoded
from airjax.photographs import to_8bit

ERROR_GAIN = 4
_MIN_SIDE, _MAX_SIDE = 480, 1024  # pixels of a panel's long side; smaller and larger images are resized
_MARGIN, _TITLE, _LEGEND = 16, 34, 34  # pixels
_PAPER, _INK, _FAINT = (250, 250, 248), (28, 28, 30), (110, 110, 114)
# From cool to hot in the order of the stages, all bright enough for a dark ground; more stages get a hue circle.
_COLORS = (
    (72, 112, 255),
    (56, 196, 240),
    (76, 206, 110),
    (244, 226, 74),
    (250, 146, 42),
    (240, 64, 84),
)
_OVERSAMPLING = 3  # dots are drawn larger by this and averaged, so that their edges are smooth


def stage_colors(num_stages: int) -> tuple[tuple[int, int, int], ...]:
    """One RGB colour per stage."""
    if num_stages <= len(_COLORS):
        return _COLORS[:num_stages]
    hues = (stage / num_stages for stage in range(num_stages))
    return tuple(tuple(round(255 * c) for c in colorsys.hsv_to_rgb(hue, 0.7, 1.0)) for hue in hues)


def error_image(original: np.ndarray, reconstruction: np.ndarray) -> np.ndarray:
    """ERROR_GAIN times the absolute difference, clipped, (h, w, 3)."""
    return np.clip(ERROR_GAIN * np.abs(original - reconstruction), 0.0, 1.0)


def centers_image(original: np.ndarray, encoded: Encoded, zoom: float) -> Image.Image:
    """The original, grey and dimmed, `zoom` times as large, with a dot at the mean of each Gaussian.

    Later stages lie on top. Gaussians whose mean lies outside the image are not shown.
    """
    height, width = original.shape[:2]
    size = (max(1, round(width * zoom)), max(1, round(height * zoom)))
    grey = Image.fromarray(to_8bit(0.3 * original)).convert("L").convert("RGB")
    canvas = grey.resize([side * _OVERSAMPLING for side in size], Image.Resampling.BICUBIC)
    draw = ImageDraw.Draw(canvas)
    step = zoom * _OVERSAMPLING
    # More than a pixel, larger where there are few Gaussians.
    spacing = step * np.sqrt(height * width / max(1, encoded.gaussians.num_slots))
    radius = float(np.clip(0.24 * spacing, 1.1 * _OVERSAMPLING, 4 * _OVERSAMPLING))
    means = np.asarray(encoded.gaussians.means, np.float64) * step
    start = 0
    for count, color in zip(encoded.stage_counts, stage_colors(len(encoded.stage_counts)), strict=True):
        for x, y in means[start : start + count]:
            draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=color)
        start += count
    return canvas.resize(size, Image.Resampling.BOX)


def panel_zoom(image_size: tuple[int, int]) -> float:
    """How much an (h, w) image is enlarged (or shrunk) for its panel; whole numbers upwards."""
    longest = max(image_size)
    if longest < _MIN_SIDE:
        return float(-(-_MIN_SIDE // longest))
    return min(1.0, _MAX_SIDE / longest)


def make_picture(
    original: np.ndarray,
    reconstruction: np.ndarray,
    encoded: Encoded,
    caption: Sequence[str],
    *,
    prefixes: Sequence[tuple[str, np.ndarray]] = (),
) -> Image.Image:
    """The picture: two by two panels for a wide image, four in a row for a tall one, and a strip of smaller ones.

    Args:
      original, reconstruction: (h, w, 3) float in [0, 1].
      encoded: the Gaussians behind the reconstruction.
      caption: facts to print below the panels; lines are broken between them.
      prefixes: (title, image) of what the beginning of the file decodes to, side by side in one strip.

    Raises:
      ValueError: the images are not of one size.
    """
    height, width = encoded.image_size
    images = [("original", original), ("reconstruction", reconstruction), *prefixes]
    for name, image in images:
        if image.shape != (height, width, 3):
            raise ValueError(f"{name}: expected {(height, width, 3)} like the file, got {image.shape}")
    zoom = panel_zoom((height, width))
    panels = [
        ("original", _panel(original, zoom)),
        ("reconstruction", _panel(reconstruction, zoom)),
        (f"absolute error x {ERROR_GAIN}", _panel(error_image(original, reconstruction), zoom)),
        ("Gaussian centres by stage", centers_image(original, encoded, zoom)),
    ]
    columns = 2 if width >= height else 4
    cell, total_width = _cells(panels, columns)
    strip, strip_height = _strip(prefixes, zoom, total_width)
    font, small = ImageFont.load_default(size=20), ImageFont.load_default(size=17)
    entries = [
        (f"stage {stage + 1}: {count:,}", color)
        for stage, (count, color) in enumerate(
            zip(encoded.stage_counts, stage_colors(len(encoded.stage_counts)), strict=True)
        )
    ]
    legend = _break_lines([text for text, _ in entries], small, total_width - 2 * _MARGIN, gap=44)
    lines = _break_lines(caption, font, total_width - 2 * _MARGIN, gap=28)
    below = -(-len(panels) // columns) * cell[1] + _MARGIN
    top = below + strip_height
    total_height = top + _LEGEND * len(legend) + 30 * len(lines) + _MARGIN
    page = Image.new("RGB", (total_width, total_height), _PAPER)
    draw = ImageDraw.Draw(page)
    for i, (title, panel) in enumerate(panels):
        x, y = _MARGIN + i % columns * cell[0], _MARGIN + i // columns * cell[1]
        draw.text((x, y), title, _INK, font)
        page.paste(panel, (x, y + _TITLE - 4))
    for x, title, panel in strip:
        draw.text((x, below), title, _INK, small)
        page.paste(panel, (x, below + _TITLE - 8))
    colors = iter(color for _, color in entries)
    for row in legend:
        for x, text in row:
            draw.ellipse((x + _MARGIN, top + 4, x + _MARGIN + 14, top + 18), fill=next(colors), outline=_FAINT)
            draw.text((x + _MARGIN + 22, top), text, _INK, small)
        top += _LEGEND
    for row in lines:
        for x, text in row:
            draw.text((x + _MARGIN, top), text, _INK, font)
        top += 30
    return page


def _cells(panels: Sequence[tuple[str, Image.Image]], columns: int) -> tuple[tuple[int, int], int]:
    """(width and height of a cell with its title and margin, width of the page)."""
    panel_width, panel_height = (max(side, _MIN_SIDE // 2) for side in panels[0][1].size)
    return (panel_width + _MARGIN, panel_height + _TITLE + _MARGIN), columns * (panel_width + _MARGIN) + _MARGIN


def _strip(
    prefixes: Sequence[tuple[str, np.ndarray]], zoom: float, total_width: int
) -> tuple[list[tuple[int, str, Image.Image]], int]:
    """(left edge, title, panel) of images that fill the width of the page together, and the height that they take."""
    if not prefixes:
        return [], 0
    width = (total_width - _MARGIN) // len(prefixes) - _MARGIN
    panels = [
        (_MARGIN + i * (width + _MARGIN), title, _panel(image, zoom)) for i, (title, image) in enumerate(prefixes)
    ]
    height = max(1, round(panels[0][2].height * width / panels[0][2].width))
    resized = [(x, title, panel.resize((width, height), Image.Resampling.LANCZOS)) for x, title, panel in panels]
    return resized, height + _TITLE + _MARGIN


def _panel(image: np.ndarray, zoom: float) -> Image.Image:
    """Pixels enlarged as squares, or shrunk."""
    picture = Image.fromarray(to_8bit(image))
    if zoom == 1.0:
        return picture
    size = [max(1, round(side * zoom)) for side in picture.size]
    return picture.resize(size, Image.Resampling.NEAREST if zoom > 1 else Image.Resampling.LANCZOS)


def _break_lines(texts: Sequence[str], font, width: float, *, gap: int) -> list[list[tuple[float, str]]]:
    """Texts side by side, `gap` pixels apart, in as many lines as they need: (x, text) per line."""
    lines: list[list[tuple[float, str]]] = []
    x = width + 1.0
    for text in texts:
        length = font.getlength(text)
        if x + length > width:
            lines.append([])
            x = 0.0
        lines[-1].append((x, text))
        x += length + gap
    return lines

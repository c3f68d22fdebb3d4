"""A large image in strips: what is done to an image and its Gaussians, done window by window in bounded memory."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeVar

import numpy as np

from airjax.progress import Count
from airjax.raster.draw import STRIP_PIXELS, TILE_SIZE

Part = TypeVar("Part")


class Strip(NamedTuple):
    """Rows of pixels, [first, past the last)."""

    owned: tuple[int, int]  # the strips' own rows share the image out
    window: tuple[int, int]  # what the Gaussians that belong to its own rows can reach; what it sees of the image

    def within(self, patches: np.ndarray, patch_size: int, columns: int) -> tuple[slice, np.ndarray]:
        """Which of these increasing patch numbers are its own, and what they are in a grid over its window."""
        own = (self.owned[0] // patch_size * columns, -(-self.owned[1] // patch_size) * columns)
        part = slice(*np.searchsorted(patches, own))
        return part, patches[part] - self.window[0] // patch_size * columns

    def beyond(self, patches: np.ndarray, patch_size: int, columns: int) -> np.ndarray:
        """What patch numbers of its window are in a grid over the image."""
        return patches + self.window[0] // patch_size * columns


def strips_of(image_size: tuple[int, int], *, reach: float, step: int = TILE_SIZE) -> tuple[Strip, ...]:
    """The strips of an (h, w) image, of about STRIP_PIXELS each; Gaussians reach `reach` pixels beyond their rows.

    All start at multiples of `step` pixels. Windows have the same height, but for those at the bottom, so that they
    share what is compiled. A small image is one strip.
    """
    height, width = image_size
    rows = max(1, STRIP_PIXELS // (width * step)) * step
    if rows >= height:
        return (Strip((0, height), (0, height)),)
    margin = math.ceil(reach / step) * step
    last = max(0, math.ceil((height - rows - 2 * margin) / step)) * step
    strips = []
    for start in range(0, height, rows):
        top = min(max(start - margin, 0), last)
        window = (top, min(top + rows + 2 * margin, height))
        strips.append(Strip((start, min(start + rows, height)), window))
    return tuple(strips)


def by_strips(
    image: np.ndarray,
    strips: Sequence[Strip],
    parts: Sequence[Part],
    draw: Callable[[Part, tuple[int, int]], np.ndarray],
    work: Callable[[Part, np.ndarray], Part],
    progress: Count | None = None,
) -> list[Part]:
    """What `work` makes of the part of every strip, one after the other.

    It is given the part, in the coordinates of the window, and what all other parts, as they are by then, leave over of
    the image there: where it lowers the error of that, it lowers the error of the image. `draw` is the image of a part
    in a window of a size (h, w).
    """
    if len(strips) == 1:
        return [work(parts[0], image)]
    left, parts = np.array(image), list(parts)

    def rows(strip: Strip) -> np.ndarray:
        return left[slice(*strip.window)]

    for strip, part in zip(strips, parts, strict=True):
        rows(strip)[:] -= draw(part, rows(strip).shape[:2])
    for i, strip in enumerate(strips):
        window = rows(strip)
        window += draw(parts[i], window.shape[:2])
        parts[i] = work(parts[i], np.array(window))
        window -= draw(parts[i], window.shape[:2])
        if progress is not None:
            progress(i + 1, len(strips))
    return parts

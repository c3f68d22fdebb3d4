"""How well Gaussians show views that they were not made from: scores, and a sheet of pictures to look at.

A score alone hides fog: a plain grey picture of a dim room has 20 dB.

Letters: v views, h, w pixels.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, UInt8

from airjax.gaussians import Gaussians3D
from airjax.metrics import quality
from airjax.scene.files.photographs import Scene
from airjax.scene.render import RenderedView, render

ROWS = 8  # views of a sheet at most, spread evenly over all
_GAP = 4  # pixels between pictures
_ERROR_GAIN = 3.0  # of the differences that a sheet shows


class Scores(NamedTuple):
    """Similarity of rendered views to their photographs, of 8-bit images, one number for each view."""

    names: tuple[str, ...] = ()  # of the views
    psnr: tuple[float, ...] = ()  # dB
    ssim: tuple[float, ...] = ()  # at most 1

    @property
    def mean_psnr(self) -> float | None:
        """Mean over the views, dB; None without views."""
        return float(np.mean(self.psnr)) if self.psnr else None

    @property
    def mean_ssim(self) -> float | None:
        """Mean over the views; None without views."""
        return float(np.mean(self.ssim)) if self.ssim else None

    @property
    def worst(self) -> tuple[str, float] | None:
        """Name and PSNR in dB of the view that is shown worst; None without views."""
        return min(zip(self.names, self.psnr, strict=True), key=lambda view: view[1]) if self.psnr else None


class Judgement(NamedTuple):
    """Scores of views, and the sheet of `contact_sheet`; None without views."""

    scores: Scores
    sheet: UInt8[np.ndarray, "y x 3"] | None


def judge(gaussians: Gaussians3D, scene: Scene, *, near: float, far: float) -> Judgement:
    """Rendered views of a scene, compared with its photographs. `near` and `far` are those of `contact_sheet`."""
    size, background = scene.images.shape[1:3], scene.background
    count = len(scene.names)
    if not count:
        return Judgement(Scores(), None)
    views = [render(gaussians, scene.cameras[i], image_size=size, background=background) for i in range(count)]
    masks = [None] * count if scene.masks is None else scene.masks
    parts = zip(scene.images, views, masks, strict=True)
    scores = [quality(image, view.image, mask=mask) for image, view, mask in parts]
    sheet = contact_sheet(scene, views, near=near, far=far)
    return Judgement(Scores(scene.names, *map(tuple, zip(*scores, strict=True))), sheet)


def contact_sheet(scene: Scene, views: list[RenderedView], *, near: float, far: float) -> UInt8[np.ndarray, "y x 3"]:
    """A row for each of at most `ROWS` views: photograph, what is rendered, its depth, and where they differ.

    Depths are even in inverse depth, white at `near` and black at `far` (world units) or where nothing is; differences
    are three times as large as they are, and 0 behind a mask, where the photograph is grey.
    """
    rows = []
    for i in np.unique(np.linspace(0, len(views) - 1, ROWS).round().astype(int)):
        photograph, drawn = scene.images[i], np.asarray(views[i].image)
        error = _ERROR_GAIN * np.abs(np.clip(drawn, 0, 1) - photograph)
        if scene.masks is not None:
            known = scene.masks[i][..., None]
            photograph, error = np.where(known, photograph, 0.5), np.where(known, error, 0.0)
        inverse = np.asarray(views[i].alpha) / np.maximum(np.asarray(views[i].expected_depth), 1e-12)
        depth = (inverse - 1 / far) / (1 / near - 1 / far)
        rows.append(_side_by_side([photograph, drawn, np.repeat(depth[..., None], 3, axis=2), error], axis=1))
    return np.rint(255 * np.clip(_side_by_side(rows, axis=0), 0, 1)).astype(np.uint8)


def _side_by_side(pictures: list[Float[np.ndarray, "h w 3"]], *, axis: int) -> Float[np.ndarray, "y x 3"]:
    """With white gaps between them."""
    shape = list(pictures[0].shape)
    shape[axis] = _GAP
    parts = [part for picture in pictures for part in (np.ones(shape, np.float32), picture)]
    return np.concatenate(parts[1:], axis=axis)

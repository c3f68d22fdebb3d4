"""Scenes: photographs with their cameras, read from a folder, undistorted and downscaled, or made of arrays.

Intrinsics follow the size of the image that is there, so images may have been resized since the poses were computed.

Letters: v views, h, w pixels, p points.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from airjax.errors import AirjaxError
from airjax.files import display_name
from airjax.photographs import LoadedImage, orientation_of, read_image
from airjax.scene.cameras import Camera
from airjax.scene.files.image_names import some
from airjax.scene.files.lenses import STRETCH, degrees_across, resample, source_places
from airjax.scene.files.pose_folder import find_photographs
from airjax.scene.files.pose_formats import read_poses
from airjax.scene.files.posed import Posed, camera_of, in_proportion
from airjax.scene.origin import origin_of, origin_text, relative

_ALIKE = 0.7  # least cosine between what is down in two views that stand alike
_QUARTERS = {3: 2, 6: 3, 8: 1}  # EXIF orientation to the turns by `np.rot90` that undo it; the others are mirrored
MAX_SIZE = 512  # pixels; default longest side, larger photographs are downscaled


@dataclass(frozen=True)
class Scene:
    """Photographs with their cameras; numpy arrays."""

    source: str  # the folder, or another name of the scene for messages
    names: tuple[str, ...]  # of the image files, in the order of the pose file
    splits: tuple[str, ...]  # "train", "val", "test" or "" for each view
    images: np.ndarray  # (v, h, w, 3) float32 in [0, 1], sRGB; transparent parts are laid over white
    alphas: np.ndarray | None  # (v, h, w) float32 in [0, 1], 0 for the background alone; None where that is not known
    cameras: Camera  # a stack of v
    bounds: tuple[float, float] | None  # (near, far), world units; None where the files hold none
    points: np.ndarray  # (p, 3) points of the scene, p may be 0
    notices: tuple[str, ...]  # lines for the user
    masks: np.ndarray | None = None  # (v, h, w) bool, False where a photograph says nothing; None where all say all
    # (3,) float64: cameras and points are counted from here; 0 but for scenes far away (`airjax.scene.origin`)
    origin: np.ndarray = field(default_factory=lambda: np.zeros(3))

    def __repr__(self) -> str:
        views, height, width = self.images.shape[:3]
        return f"Scene({self.source}: {views} views of {width}x{height})"

    @property
    def background(self) -> np.ndarray:
        """(3,) color behind everything: white where the images have transparent parts, else black."""
        return np.full(3, float(self.alphas is not None), np.float32)

    @property
    def empty(self) -> np.ndarray:
        """(v, h, w) bool, pixels that show the background alone; none where that is not known."""
        return np.zeros(self.images.shape[:3], bool) if self.alphas is None else self.alphas == 0

    @property
    def shown(self) -> np.ndarray | None:
        """(v, h, w) bool, pixels that show something of the scene; None where all do."""
        if self.masks is None and self.alphas is None:
            return None
        return ~self.empty if self.masks is None else self.masks & ~self.empty

    def shrunk(self, max_size: int) -> Scene:
        """The same photographs, downscaled where a side is longer than `max_size` pixels."""
        size = self.images.shape[1:3]
        smaller = fitted_size(size, max_size)
        if smaller == size:
            return self
        alphas = None if self.alphas is None else np.stack([resize(alpha, smaller) for alpha in self.alphas])
        images = np.stack([resize(image, smaller) for image in self.images])
        masks = self.masks
        if masks is not None:  # a pixel of which a part is unknown is unknown
            masks = np.stack([resize(mask.astype(np.float32), smaller) > 1 - 1e-4 for mask in masks])
        return replace(self, images=images, alphas=alphas, masks=masks, cameras=self.cameras.resized(size, smaller))

    def take(self, views: Sequence[int | np.integer] | np.ndarray) -> Scene:
        """Some of the views, by their numbers."""
        index = np.asarray(views, int)
        return replace(
            self,
            images=self.images[index],
            cameras=self.cameras[index],
            alphas=None if self.alphas is None else self.alphas[index],
            masks=None if self.masks is None else self.masks[index],
            names=tuple(self.names[i] for i in index),
            splits=tuple(self.splits[i] for i in index),
        )


def scene_of(
    images: np.ndarray,
    cameras: Camera,
    *,
    alphas: np.ndarray | None = None,
    masks: np.ndarray | None = None,
    bounds: tuple[float, float] | None = None,
    points: np.ndarray | None = None,
) -> Scene:
    """A scene made of arrays, as `Scene` describes them, of two views or more; they are named by their numbers.

    Cameras whose places float32 would round too much are moved with the points, as those of files: see `Scene.origin`.
    """
    images, cameras = np.asarray(images, np.float32), jax.tree.map(np.asarray, cameras)
    if images.ndim != 4 or images.shape[3] != 3 or len(images) < 2:
        raise ValueError(f"images: expected (v, h, w, 3) of at least 2 views, got {images.shape}")
    views = len(images)
    shapes = tuple(np.shape(leaf) for leaf in jax.tree.leaves(cameras))
    if shapes != ((views, 3, 3), (views, 3, 3), (views, 3)):
        raise ValueError(f"cameras: expected a stack of {views}, got {shapes}")
    for name, layers in (("alphas", alphas), ("masks", masks)):
        if layers is not None and layers.shape != images.shape[:3]:
            raise ValueError(f"{name}: expected {images.shape[:3]}, got {layers.shape}")
    if masks is not None and not masks.any(axis=(1, 2)).all():
        raise ValueError(f"masks: expected a pixel of each view, got none of view {np.argmin(masks.any(axis=(1, 2)))}")
    origin = origin_of(cameras)
    cameras = relative(cameras, origin)
    points = np.zeros((0, 3), np.float32) if points is None else (points - origin).astype(np.float32)
    names = tuple(map(str, range(views)))
    return Scene("scene", names, ("",) * views, images, alphas, cameras, bounds, points, (), masks, origin)


def load(folder: str | os.PathLike, *, max_size: int = MAX_SIZE) -> Scene:
    """The scene of a folder of photographs with a pose file that `airjax.scene.files.pose_formats` knows.

    Two images or more; those with a side longer than `max_size` pixels are downscaled, with a notice. Where they differ
    in size all are continued to the largest height and width, at the right and below, and that is masked. Those that
    were taken with the camera on its side, or upside down, are turned to stand as most others do, with their cameras;
    how these stand is told by their EXIF orientation, where the poses are those of pixels that do not follow it.
    """
    folder, name = Path(folder), display_name(folder)
    if not folder.is_dir():
        what = "a file" if folder.exists() else "none"
        raise AirjaxError(f"{name}: expected a folder of photographs with poses, found {what}")
    poses = read_poses(folder)
    if len(poses.views) < 2:
        raise AirjaxError(f"{name}: expected at least 2 photographs with poses, found {len(poses.views)}")
    views = [_read_view(posed, max_size) for posed in poses.views]
    lenses = _lens_notices(views)
    hidden = [view.name for view in views if view.mask is not None and not view.mask.any()]
    views = [view for view in views if view.mask is None or view.mask.any()]
    if len(views) < 2:
        raise AirjaxError(f"{name}: expected at least 2 photographs that no mask or lens hides, found {len(views)}")
    views, turned = _upright(views)
    views, masks, more = _of_one_size(views)
    if hidden:
        more.append(f"{len(hidden)} photographs left out, which masks or the lens hide: {some(hidden)}")
    cameras = jax.tree.map(lambda *parts: np.stack(parts), *(view.camera for view in views))
    if (origin := origin_of(cameras)).any():
        far = "cameras lie far from 0: coordinates, those of a .ply file too, are counted from"
        more.append(f"{far} {origin_text(origin)}")
    notices = dict.fromkeys(
        [*poses.notices, *(line for view in views for line in view.notices), *lenses, *turned, *more]
    )
    return Scene(
        name,
        tuple(view.name for view in views),
        tuple(view.split for view in views),
        np.stack([view.image for view in views]),
        _alphas(views),
        jax.tree.map(np.float32, relative(cameras, origin)),
        poses.bounds,
        (poses.points - origin).astype(np.float32),
        tuple(notices),
        masks,
        origin,
    )


def load_unposed(folder: str | os.PathLike, *, max_size: int = MAX_SIZE) -> Scene:
    """The photographs of a folder as a scene whose cameras are still to be found: all of them stand at 0.

    Two photographs or more; those with a side longer than `max_size` pixels are downscaled, those of another size than
    most are left out, both with a notice. See `airjax.scene.files.pose_folder.find_photographs` for the folder.
    """
    name = display_name(folder)
    root, names, found_notices = find_photographs(Path(folder))
    images, notices = {}, list(found_notices)
    for file in names:
        loaded = read_image(root / file)
        size = loaded.pixels.shape[:2]
        smaller = fitted_size(size, max_size)
        images[file] = loaded.pixels if smaller == size else resize(loaded.pixels, smaller)
        notices += loaded.notices
        if smaller != size:
            notices.append(f"photographs of {size[1]}x{size[0]} pixels made smaller, to {smaller[1]}x{smaller[0]}")
    size, _ = Counter(image.shape[:2] for image in images.values()).most_common(1)[0]
    if others := [file for file, image in images.items() if image.shape[:2] != size]:
        kept = f"as most are of {size[1]}x{size[0]} pixels"
        notices.append(f"{len(others)} photographs of other sizes left out, {kept}: {some(others)}")
    images = {file: image for file, image in images.items() if file not in others}
    if len(images) < 2:
        raise AirjaxError(f"{name}: expected at least 2 photographs of one size, found {len(images)}")
    camera = Camera(np.diag([max(size), max(size), 1.0]), np.eye(3), np.zeros(3))
    cameras = jax.tree.map(lambda leaf: np.stack([np.float32(leaf)] * len(images)), camera)
    blank, pixels = np.zeros((0, 3), np.float32), np.stack([*images.values()])
    found = tuple(dict.fromkeys(notices))
    return Scene(name, tuple(images), ("",) * len(images), pixels, None, cameras, None, blank, found)


def _lens_notices(views: list[_View]) -> list[str]:
    """Lines for the user about what lenses make of photographs."""
    lines = []
    if degrees := [round(view.across) for view in views if view.across is not None]:
        least, most = min(degrees), max(degrees)
        across = f"{least}" if least == most else f"{least} to {most}"
        lines.append(f"{len(degrees)} photographs of a fisheye or its like made flat: {across} degrees across are used")
    if hidden := [1 - view.shown for view in views if view.shown < 1]:
        lines.append(
            f"{100 * np.mean(hidden):.2g} % of the pixels of {len(hidden)} photographs hidden, where their lens shows "
            f"nothing, or stretched more than {STRETCH:g} times"
        )
    return lines


class _View(NamedTuple):
    """A photograph as a scene has it, with its camera in float64."""

    name: str
    split: str
    image: np.ndarray
    alpha: np.ndarray | None
    mask: np.ndarray | None  # (h, w) bool, False where it is not to be looked at; None for everywhere
    camera: Camera
    notices: list[str]
    shown: float  # share of its pixels that the lens shows
    across: float | None  # degrees of its field of view, of a fisheye made flat
    quarters: int  # turns by `np.rot90` that its EXIF orientation still asks for, 0 to 3


def _read_view(posed: Posed, max_size: int) -> _View:
    loaded, upright = _read_pixels(posed)
    size, notices = loaded.pixels.shape[:2], list(loaded.notices)
    mask = None if posed.mask is None else _read_mask(posed.mask, size)
    named = {"image": loaded.pixels, "alpha": loaded.alpha, "mask": mask}
    layers = {name: layer for name, layer in named.items() if layer is not None}
    camera = camera_of(posed, size)
    shown, across = 1.0, None
    if posed.lens.bends:
        places = source_places(size, np.asarray(camera.intrinsics), posed.lens)
        layers = {name: resample(layer, places) for name, layer in layers.items()}
        if posed.lens.model == "brown":
            notices.append("lens distortion removed")
        else:
            across = degrees_across(places.seen, np.asarray(camera.intrinsics))
        if (shown := float(places.seen.mean())) < 1:
            layers["mask"] = layers.get("mask", 1.0) * places.seen.astype(np.float32)
    smaller = fitted_size(size, max_size)
    if smaller != size:
        layers = {name: resize(layer, smaller) for name, layer in layers.items()}
        camera = camera.resized(size, smaller)
        notices.append(f"photographs of {size[1]}x{size[0]} pixels made smaller, to {smaller[1]}x{smaller[0]}")
    known = layers["mask"] > 1 - 1e-4 if "mask" in layers else None  # a pixel of which a part is hidden is hidden
    quarters = 0 if upright else _QUARTERS.get(orientation_of(posed.file), 0)
    pixels, alpha = layers["image"], layers.get("alpha")
    return _View(posed.file.name, posed.split, pixels, alpha, known, camera, notices, shown, across, quarters)


def _read_mask(file: Path, size: tuple[int, int]) -> np.ndarray:
    """(h, w) float32, 1 where a photograph of this size is to be looked at."""
    picture = read_image(file, upright=False).pixels
    if not in_proportion(picture.shape[:2], size):
        h, w = picture.shape[:2]
        raise AirjaxError(f"{display_name(file)}: expected a mask of {size[1]}x{size[0]} pixels, got {w}x{h}")
    mask = (picture.mean(axis=2) > 0.5).astype(np.float32)
    return mask if mask.shape == size else (resize(mask, size) > 1 - 1e-4).astype(np.float32)


def _read_pixels(posed: Posed) -> tuple[LoadedImage, bool]:
    """(the photograph as its pose sees it, whether it is turned by its EXIF orientation), as fits the pose file.

    `Posed.upright` decides where both fit, as for squares and half turns.
    """
    loaded = read_image(posed.file, upright=posed.upright)
    size = loaded.pixels.shape[:2]
    if posed.size is None or in_proportion(size, posed.size) or not in_proportion(size[::-1], posed.size):
        return loaded, posed.upright
    other = read_image(posed.file, upright=not posed.upright)
    is_other = other.pixels.shape[:2] == size[::-1]
    return (other if is_other else loaded), posed.upright != is_other


def _upright(views: list[_View]) -> tuple[list[_View], list[str]]:
    """(the views by quarter turns as most of them stand, lines for the user): networks know only things that stand.

    A view stands as its EXIF orientation says, where its pixels do not follow it yet.
    """
    turns = [[quarter_turns(view.camera, view.image.shape[:2], k) for k in range(4)] for view in views]
    down = np.stack(
        [cameras[view.quarters].rotation[1] for view, cameras in zip(views, turns, strict=True)]
    )  # in the world
    alike = down @ down.T > _ALIKE
    most = alike[np.argmax(alike.sum(axis=1))]
    if most.sum() <= len(views) / 2:  # they stand in all ways, as those of a camera that looks down
        return views, []
    common = down[most].mean(axis=0)
    common = common / np.linalg.norm(common)
    found, tagged, others = [], 0, 0
    for view, cameras in zip(views, turns, strict=True):
        gains = [camera.rotation[1] @ common for camera in cameras]
        k = int(np.argmax(gains))
        if gains[k] < _ALIKE or not k or view.camera.intrinsics[0, 1]:
            found.append(view)
            continue
        tagged, others = tagged + (k == view.quarters), others + (k != view.quarters)
        alpha = None if view.alpha is None else np.rot90(view.alpha, k)
        mask = None if view.mask is None else np.rot90(view.mask, k)
        found.append(view._replace(image=np.rot90(view.image, k), alpha=alpha, mask=mask, camera=cameras[k]))
    lines = [f"{tagged} photographs turned with their poses, as their EXIF orientation says"] if tagged else []
    return found, [*lines, f"{others} photographs turned to stand as the others"] if others else lines


def quarter_turns(camera: Camera, size: tuple[int, int], count: int) -> Camera:
    """The camera of a photograph of (h, w) pixels, without skew, after `np.rot90` of its pixels, so many times."""
    for _ in range(count % 4):
        height, width = size
        pixels = np.array([[0.0, 1, 0], [-1, 0, width], [0, 0, 1]])  # (x, y) -> (y, w - x)
        axes = np.array([[0.0, 1, 0], [-1, 0, 0], [0, 0, 1]])
        turned = pixels @ camera.intrinsics @ axes.T, axes @ camera.rotation, axes @ camera.translation
        camera, size = Camera(*turned), (width, height)
    return camera


def _of_one_size(views: list[_View]) -> tuple[list[_View], np.ndarray | None, list[str]]:
    """(views of the largest height and width, which of their pixels to look at, lines for the user)."""
    sizes = [view.image.shape[:2] for view in views]
    if len(set(sizes)) == 1 and all(view.mask is None for view in views):
        return views, None, []
    height, width = (max(sides) for sides in zip(*sizes, strict=True))

    def continued(layer: np.ndarray) -> np.ndarray:
        margins = [(0, height - layer.shape[0]), (0, width - layer.shape[1]), *[(0, 0)] * (layer.ndim - 2)]
        return np.pad(layer, margins, mode="edge")

    larger = [
        view._replace(image=continued(view.image), alpha=None if view.alpha is None else continued(view.alpha))
        for view in views
    ]
    masks = np.zeros((len(views), height, width), bool)
    for mask, view, (h, w) in zip(masks, views, sizes, strict=True):
        mask[:h, :w] = True if view.mask is None else view.mask
    if len(set(sizes)) == 1:
        return views, masks, []
    listed = ", ".join(f"{w}x{h}" for h, w in sorted(set(sizes))[:4]) + (", .." if len(set(sizes)) > 4 else "")
    return larger, masks, [f"photographs of {len(set(sizes))} sizes ({listed}), each used where it is"]


def _alphas(views: list[_View]) -> np.ndarray | None:
    """Of all views, if any has transparent parts."""
    if all(view.alpha is None for view in views):
        return None
    return np.stack([np.ones(view.image.shape[:2], np.float32) if view.alpha is None else view.alpha for view in views])


# --- resampling ------------------------------------------------------------------------------------------------------


def fitted_size(size: Sequence[int], max_size: int, multiple: int = 1) -> tuple[int, int]:
    """The (h, w) of an image whose longest side is `max_size` pixels at most, in the same proportions.

    All sides are then rounded to multiples of `multiple`, those of images that are small enough too.
    """
    longest = max(size)
    height, width = (max(1, round(side * min(max_size, longest) / longest / multiple)) * multiple for side in size)
    return height, width


def resize(image: np.ndarray, size: Sequence[int]) -> np.ndarray:
    """(h, w, c) or (h, w) float32 pixels in another (h, w): means over the area of each pixel."""
    for axis in (0, 1):
        image = _resized(image, size[axis], axis)
    return image.astype(np.float32)


def _resized(image: np.ndarray, side: int, axis: int) -> np.ndarray:
    """Means over `side` equal parts of an axis: differences of its running integral, which is linear in a pixel."""
    count = image.shape[axis]
    if side == count:
        return image
    image = np.moveaxis(image, axis, 0)
    total = np.concatenate([np.zeros((1, *image.shape[1:])), np.cumsum(image, axis=0, dtype=float)])
    edges = np.linspace(0, count, side + 1)
    low = np.minimum(edges.astype(int), count - 1)
    share = (edges - low).reshape(-1, *(1,) * (image.ndim - 1))
    integral = total[low] * (1 - share) + total[low + 1] * share
    return np.moveaxis(np.diff(integral, axis=0) * (side / count), 0, axis)

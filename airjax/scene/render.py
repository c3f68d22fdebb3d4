"""`render`: 3D Gaussians as a camera sees them: colour, alpha and depth."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from airjax.arrays import AnyArray
from airjax.gaussians import Gaussians3D, ladder, on_ladder, pad
from airjax.programs import kept
from airjax.raster.alpha import Splats, composite
from airjax.raster.plan import check_pairs, check_request, is_traced, plan_lists, scaled_size, too_small
from airjax.raster.tiles import Capacity, Footprints, TileLists, Tiling, num_chunks, num_pairs, sorted_lists, trim
from airjax.scene.cameras import Camera
from airjax.scene.project import BLOCK, PRESETS, Preset, project

TILE_SIZE = 8  # pixels; divides BLOCK


class RenderedView(NamedTuple):
    """What a camera sees. All NaN where the lists overflowed."""

    image: Float[Array, "h w 3"]  # from 0; more than 1 where colours are
    alpha: Float[Array, "h w"]  # in [0, 1]
    depth: Float[Array, "h w"]  # sum of weight times depth z, world units
    overflow: Bool[Array, ""]  # True when the given capacity did not hold all (Gaussian, tile) pairs

    @property
    def expected_depth(self) -> Float[Array, "h w"]:
        """Mean depth of what is seen: depth / max(alpha, 1e-10)."""
        return self.depth / jnp.maximum(self.alpha, 1e-10)


class _Options(NamedTuple):
    """Static arguments of a drawing."""

    tiling: Tiling
    preset: Preset
    antialiased: bool
    any_order: bool = False


def _options(
    image_size: tuple[int, int], tile_size: int, preset: str | Preset, antialiased: bool, any_order: bool = False
) -> _Options:
    if tile_size < 1 or BLOCK % tile_size:
        raise ValueError(f"tile_size: expected a divisor of {BLOCK}, got {tile_size}")
    preset = _named_preset(preset)
    block_tiles = BLOCK // tile_size if preset.three_sigma is not None else 1
    return _Options(Tiling(image_size, tile_size, block_tiles), preset, antialiased, any_order)


def render(
    gaussians: Gaussians3D,
    camera: Camera,
    *,
    image_size: tuple[int, int],
    scale: float = 1.0,
    background: Float[AnyArray, " 3"] | Sequence[float] | None = None,
    preset: str | Preset = "gsplat",
    antialiased: bool = False,
    tile_size: int = TILE_SIZE,
    capacity: int | Capacity | None = None,
    any_order: bool = False,
) -> RenderedView:
    """A set of Gaussians as one camera sees it, not clipped; `vmap` over a stack of cameras.

    Args:
      image_size: (h, w) pixels of the camera's image.
      scale: the result has round(scale * image_size) pixels; the camera's intrinsics are multiplied by it.
      background: (3,) colour behind everything; None for black.
      preset: a name of `airjax.scene.project.PRESETS`, or constants of one's own.
      antialiased: see `airjax.scene.project.project`.
      tile_size: pixels; it changes the speed, not the image. It divides 16.
      capacity: see `airjax.raster.draw.render`; here as well one that is too small makes all NaN.
      any_order: see there.

    Raises:
      ValueError: as there, and for an unknown preset.
      AirjaxError: no capacity, and more than `airjax.raster.plan.MAX_PAIRS` pairs.
    """
    check_request(image_size, scale, tile_size)
    options = _options(scaled_size(image_size, scale), tile_size, preset, antialiased, any_order)
    camera = camera.scaled(scale)
    if background is not None:
        background = jnp.asarray(background, gaussians.means.dtype)
    if is_traced(gaussians, camera, background):
        if capacity is None:
            raise ValueError("capacity: expected a number of pairs inside a JAX transformation, got None")
        gaussians = gaussians if gaussians.num_slots else pad(gaussians, 1)
        return _render(gaussians, camera, background, capacity=capacity, options=options)
    gaussians = on_ladder(gaussians)
    if capacity is None:
        splats, footprints = _project_jitted(gaussians, camera, options)
        lists = plan_lists(footprints, options.tiling, size_of=ladder)
        used = int(np.count_nonzero(np.asarray(lists.tiles) < options.tiling.num_tiles))
        lists = trim(lists, min(ladder(used), lists.tiles.size))  # chunks that stay unused take time too
        return _draw_jitted(splats, lists, background, options)
    view = _render_jitted(gaussians, camera, background, capacity=capacity, options=options)
    if view.overflow:
        raise too_small(capacity, *_needs(gaussians, camera[None], options))
    return view


def capacity_of(
    gaussians: Gaussians3D,
    cameras: Camera,
    *,
    image_size: tuple[int, int],
    preset: str | Preset = "gsplat",
    antialiased: bool = False,
    tile_size: int = TILE_SIZE,
    headroom: float = 1.0,
) -> Capacity:
    """What `render` needs inside a JAX transformation for a concrete set and any one of a stack of cameras.

    Arguments and errors as `render` (at another scale, of the scaled size and cameras), and `headroom`: room for so
    many times as many pairs.
    """
    options = _options(image_size, tile_size, preset, antialiased)
    needs = _needs(on_ladder(gaussians), cameras, options)
    return Capacity(*(ladder(math.ceil(headroom * count)) for count in needs))


def _named_preset(preset: str | Preset) -> Preset:
    """The constants of a name; ValueError for an unknown one."""
    if isinstance(preset, Preset):
        return preset
    if preset not in PRESETS:
        raise ValueError(f"preset: expected one of {', '.join(PRESETS)}, got {preset!r}")
    return PRESETS[preset]


def _needs(gaussians: Gaussians3D, cameras: Camera, options: _Options) -> tuple[int, int]:
    """Most pairs and most chunks that any one camera of a stack needs."""
    pairs = int(_count_pairs(gaussians, cameras, options))
    check_pairs(pairs)
    return pairs, int(_count_chunks(gaussians, cameras, options, max_pairs=ladder(pairs)))


def _project(gaussians: Gaussians3D, camera: Camera, options: _Options) -> tuple[Splats, Footprints]:
    """The set on the image plane, and where it is drawn there."""
    size, preset = options.tiling.image_size, options.preset
    splats = project(gaussians, camera, image_size=size, preset=preset, antialiased=options.antialiased)
    return splats, splats.footprints


def _render(
    gaussians: Gaussians3D,
    camera: Camera,
    background: Float[Array, " 3"] | None,
    *,
    capacity: int | Capacity,
    options: _Options,
) -> RenderedView:
    """One view through lists of a given capacity."""
    splats, footprints = _project(gaussians, camera, options)
    return _draw(splats, sorted_lists(footprints, options.tiling, capacity=capacity), background, options)


def _draw(splats: Splats, lists: TileLists, background: Float[Array, " 3"] | None, options: _Options) -> RenderedView:
    """One view through given lists."""
    preset, any_order = options.preset, options.any_order
    drawn = composite(splats, lists, options.tiling, alpha_max=preset.alpha_max, stop=preset.stop, any_order=any_order)
    image, depth = drawn.values[..., :3], drawn.values[..., 3]
    if background is not None:
        image = image + (1.0 - drawn.alpha[..., None]) * background[None, None]
    image, alpha, depth = (jnp.where(lists.overflow, jnp.nan, leaf) for leaf in (image, drawn.alpha, depth))
    return RenderedView(image, alpha, depth, lists.overflow)


def _most(count: Callable, gaussians: Gaussians3D, cameras: Camera, options: _Options) -> Int[Array, ""]:
    """Largest count of any camera; one camera at a time, which bounds the memory."""
    return jnp.max(jax.lax.map(lambda camera: count(_project(gaussians, camera, options)[1], options.tiling), cameras))


def _most_pairs(gaussians: Gaussians3D, cameras: Camera, options: _Options) -> Int[Array, ""]:
    return _most(num_pairs, gaussians, cameras, options)


def _most_chunks(gaussians: Gaussians3D, cameras: Camera, options: _Options, *, max_pairs: int) -> Int[Array, ""]:
    return _most(partial(num_chunks, max_pairs=max_pairs), gaussians, cameras, options)


_project_jitted = kept(static_argnames="options")(_project)
_render_jitted = kept(static_argnames=("capacity", "options"))(_render)
_draw_jitted = kept(static_argnames="options")(_draw)
_count_pairs = kept(static_argnames="options")(_most_pairs)
_count_chunks = kept(static_argnames=("options", "max_pairs"))(_most_chunks)

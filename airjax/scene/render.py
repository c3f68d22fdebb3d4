"""`render`: 3D Gaussians as a camera sees them: colour, alpha and depth."""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from airjax.gaussians import Gaussians3D
from airjax.raster.alpha import Splats, draw_over
from airjax.raster.draw import plan_capacity, plan_lists
from airjax.raster.tiles import Capacity, TileLists, patch_grid, sorted_lists
from airjax.scene.cameras import Camera
from airjax.scene.project import BLOCK, PRESETS, Preset, project

TILE_SIZE = 8  # pixels; divides BLOCK


class View(NamedTuple):
    """What a camera sees. All NaN where the lists overflowed.

    Fields:
      image: (h, w, 3), from 0; more than 1 where colours are.
      alpha: (h, w) in [0, 1].
      depth: (h, w) sum of weight times depth z, world units.
      overflow: bool scalar, True when the given capacity did not hold all (Gaussian, tile) pairs.
    """

    image: Float[Array, "h w 3"]
    alpha: Float[Array, "h w"]
    depth: Float[Array, "h w"]
    overflow: Bool[Array, ""]

    @property
    def expected_depth(self) -> Float[Array, "h w"]:
        """Mean depth of what is seen: depth / max(alpha, 1e-10)."""
        return self.depth / jnp.maximum(self.alpha, 1e-10)


def render(
    gaussians: Gaussians3D,
    camera: Camera,
    *,
    image_size: tuple[int, int],
    background: Float[Array, " 3"] | None = None,
    preset: str | Preset = "gsplat",
    antialiased: bool = False,
    capacity: Capacity | None = None,
    any_order: bool = False,
) -> View:
    """A set of Gaussians as one camera sees it.

    Args:
      gaussians: n slots.
      camera: one; `vmap` over a stack of them.
      image_size: (h, w) pixels.
      background: (3,) colour behind everything; None for black.
      preset: a name of `airjax.scene.project.PRESETS`, or constants of one's own.
      antialiased: see `airjax.scene.project.project`.
      capacity: of the tile lists. Left out, it is counted, which needs concrete arrays: give it inside `jit`, `grad`
        or `vmap` (`capacity_of`).
      any_order: see `airjax.raster.alpha.draw_over`.

    Returns:
      `View`; where a given capacity is too small all of it is NaN, and `overflow` is True.

    Raises:
      ValueError: an impossible size, an unknown preset; no capacity under a JAX transformation.
      AirjaxError: more pairs than the renderer takes.
    """
    if len(image_size) != 2 or min(image_size) < 1:
        raise ValueError(f"image_size: expected (h, w) of at least 1, got {image_size}")
    preset = named_preset(preset)
    options = {"image_size": image_size, "preset": preset, "antialiased": antialiased}
    draw = {"image_size": image_size, "preset": preset, "any_order": any_order}
    if capacity is not None:
        splats = project(gaussians, camera, **options)
        lists = sorted_lists(splats.footprints, capacity=capacity, **_tiles(image_size, preset))
        return _draw(splats, lists, background, **draw)
    if any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves((gaussians, camera, background))):
        raise ValueError("capacity: expected one inside a JAX transformation, got None")
    splats = _project(gaussians, camera, **options)
    lists = plan_lists(splats.footprints, image_size=image_size, tile_size=TILE_SIZE, block_tiles=_block_tiles(preset))
    return _draw_jitted(splats, lists, background, **draw)


def capacity_of(
    gaussians: Gaussians3D,
    cameras: Camera,
    *,
    image_size: tuple[int, int],
    preset: str | Preset = "gsplat",
    antialiased: bool = False,
    headroom: float = 1.0,
) -> Capacity:
    """What `render` needs inside a JAX transformation for a concrete set and every one of a stack of cameras.

    Args:
      cameras: a stack.
      headroom: room for so many times as many pairs.
      image_size, preset, antialiased: of `render`.
    """
    preset = named_preset(preset)
    each = []
    for i in range(len(cameras.translation)):
        options = {"image_size": image_size, "preset": preset, "antialiased": antialiased}
        splats = _project(gaussians, cameras[i], **options)
        each.append(
            plan_capacity(splats.footprints, image_size=image_size, block_tiles=_block_tiles(preset), headroom=headroom)
        )
    return Capacity(max(c.pairs for c in each), max(c.chunks for c in each))


def named_preset(preset: str | Preset) -> Preset:
    """The constants of a name.

    Raises:
      ValueError: an unknown name.
    """
    if isinstance(preset, Preset):
        return preset
    if preset not in PRESETS:
        raise ValueError(f"preset: expected one of {', '.join(PRESETS)}, got {preset!r}")
    return PRESETS[preset]


def _block_tiles(preset: Preset) -> int:
    return BLOCK // TILE_SIZE if preset.three_sigma is not None else 1


def _tiles(image_size, preset) -> dict:
    return {
        "grid": patch_grid(image_size, TILE_SIZE),
        "tile_size": TILE_SIZE,
        "block_tiles": _block_tiles(preset),
    }


def _draw(splats: Splats, lists: TileLists, background, *, image_size, preset, any_order) -> View:
    drawn = draw_over(
        splats,
        lists,
        image_size=image_size,
        tile_size=TILE_SIZE,
        alpha_max=preset.alpha_max,
        stop=preset.stop,
        any_order=any_order,
    )
    image, depth = drawn.values[..., :3], drawn.values[..., 3]
    if background is not None:
        image = image + (1.0 - drawn.alpha[..., None]) * background[None, None]
    image, alpha, depth = (jnp.where(lists.overflow, jnp.nan, leaf) for leaf in (image, drawn.alpha, depth))
    return View(image, alpha, depth, lists.overflow)


_project = jax.jit(project, static_argnames=("image_size", "preset", "antialiased"))
_draw_jitted = partial(jax.jit, static_argnames=("image_size", "preset", "any_order"))(_draw)

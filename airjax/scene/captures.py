"""Pictures of computed scenes of all kinds as a capture has them: exposures, blur, noise, poses and ranges with errors.

Letters: T textures of s x s pixels, K objects, r rays, v views, c of them given. Scenes are those of
`airjax.scene.worlds`, cast like the rooms of `airjax.scene.procedural`.
"""

from __future__ import annotations

from dataclasses import replace

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from airjax.raster.tiles import patch_centers
from airjax.scene.cameras import Camera
from airjax.scene.procedural import (
    FAR,
    SUPERSAMPLES,
    Objects,
    Room,
    Views,
    first_hit,
    look_up,
    normals,
    texture_coordinates,
)
from airjax.scene.quaternions import rotations
from airjax.scene.worlds import NUM_TEXTURES, SKY, random_world

_LEVELS = 4  # of the textures, each of half the resolution of the one before


def random_world_views(
    key: jax.Array, atlas: Float[Array, "T s s 3"], *, image_size: tuple[int, int], num_views: int, given: int
) -> Views:
    """A random scene of a random kind seen by `num_views` cameras, at least 2; the same for the same key.

    The first two cameras are neighbors, of the other `given` ones some lie beyond them, and those that are left lie
    between. `near` and `far` are (v,), those of the views that are not given mean nothing.
    """
    keys = jax.random.split(key, 6)
    world = random_world(keys[0], image_size=image_size, num_views=num_views, given=given)
    picks = jax.random.choice(keys[1], len(atlas), (NUM_TEXTURES,), replace=len(atlas) < NUM_TEXTURES)
    room = world.room._replace(textures=_pyramid(atlas[picks].astype(jnp.float32)))
    images, depths, sky = jax.vmap(lambda camera: cast(room, camera, image_size=image_size))(world.cameras)
    near, far = depth_ranges(keys[2], depths, sky)
    spoiled = spoil(keys[3], images)
    cameras = _mispose(keys[4], world.cameras, world.focus)
    is_given = jnp.arange(num_views) < given
    images = jnp.where(is_given[:, None, None, None], spoiled, images)
    cameras = jax.tree.map(
        lambda a, b: jnp.where(is_given.reshape(-1, *(1,) * (a.ndim - 1)), a, b), cameras, world.cameras
    )
    return Views(images, depths, cameras, near, far)


def cast(
    room: Room, camera: Camera, *, image_size: tuple[int, int]
) -> tuple[Float[Array, "h w 3"], Float[Array, "h w"], Array]:
    """What a camera sees: colors, depths at the centers of pixels, and where they show the sky.

    The textures are `_LEVELS` of each, and every ray takes the one whose texels are about as large as a pixel there.
    """
    height, width = image_size
    colors, _, _ = _cast_grid(room, camera, (height * SUPERSAMPLES, width * SUPERSAMPLES), SUPERSAMPLES)
    image = colors.reshape(height, SUPERSAMPLES, width, SUPERSAMPLES, 3).mean(axis=(1, 3))
    _, depth, sky = _cast_grid(room, camera, image_size, 1)
    return image, depth.reshape(image_size), sky.reshape(image_size)


def _cast_grid(room: Room, camera: Camera, size: tuple[int, int], per_pixel: int):
    pixels = jnp.concatenate([patch_centers(size, 1 / per_pixel), jnp.ones((size[0] * size[1], 1))], axis=-1)
    local = jnp.dot(pixels, jnp.linalg.inv(camera.intrinsics).T, precision="highest")
    rays = jnp.dot(local, camera.rotation, precision="highest")
    hit = first_hit(room, camera.center, rays, _distances_along(room.objects, camera.center, rays))
    u, v = texture_coordinates(hit)
    wall = 2 * hit.axis + jnp.where(hit.sign > 0, 1, 0)
    texture = jnp.where(hit.surface == 0, wall, 5 + hit.surface)
    sky = (hit.surface == 0) & (room.half_extents[0] >= SKY)
    repeats = jnp.where(sky, 1.0, room.repeats[texture])
    normal = normals(hit)
    slant = jnp.abs(jnp.sum(normal * rays, axis=1)) / jnp.linalg.norm(rays, axis=1)
    reach = jnp.where(
        hit.surface == 0, jnp.max(room.half_extents), jnp.max(room.objects.sizes, axis=1)[hit.surface - 1]
    )
    texels = hit.depth / camera.intrinsics[0, 0] * repeats * room.textures.shape[1] / (2 * reach)
    level = jnp.round(jnp.log2(jnp.maximum(texels / jnp.sqrt(jnp.maximum(slant, 0.05)), 1.0)))
    level = jnp.clip(jnp.where(sky, _LEVELS - 1, level), 0, _LEVELS - 1).astype(jnp.int32)
    color = look_up(room.textures, texture + NUM_TEXTURES * level, u, v, repeats)
    shade = 0.75 + 0.25 * jnp.dot(normal, room.light, precision="highest")
    light = 0.55 + 0.45 * color * jnp.array([[0.9, 0.95, 1.0]])
    return jnp.where(sky[:, None], light, color * shade[:, None]), hit.depth, sky


def _distances_along(objects: Objects, eye: Float[Array, " 3"], rays: Float[Array, "r 3"]) -> Float[Array, "K r"]:
    """To every object along rays, `FAR` where it is missed; one loop of numbers, many times faster than of vectors."""
    turns, x = objects.rotations, [ray[None] for ray in rays.T]
    origin = jnp.einsum("ki,kij->kj", eye[None] - objects.centers, turns, precision="highest")
    d = [sum(turns[:, i, j, None] * x[i] for i in range(3)) for j in range(3)]
    o, size = ([part[:, j, None] for j in range(3)] for part in (origin, objects.sizes))
    inverse = [1.0 / jnp.where(jnp.abs(part) < 1e-9, 1e-9, part) for part in d]
    ends = [((size[j] - o[j]) * inverse[j], (-size[j] - o[j]) * inverse[j]) for j in range(3)]
    enter = jnp.maximum(jnp.maximum(jnp.minimum(*ends[0]), jnp.minimum(*ends[1])), jnp.minimum(*ends[2]))
    leave = jnp.minimum(jnp.minimum(jnp.maximum(*ends[0]), jnp.maximum(*ends[1])), jnp.maximum(*ends[2]))
    box = jnp.where((enter < leave) & (enter > 0), enter, FAR)
    a, b = sum(part * part for part in d), sum(d[j] * o[j] for j in range(3))
    root = b * b - a * (jnp.sum(jnp.square(origin), axis=1) - jnp.square(objects.sizes[:, 0]))[:, None]
    first = (-b - jnp.sqrt(jnp.maximum(root, 0.0))) / a
    ball = jnp.where((root > 0) & (first > 0), first, FAR)
    return jnp.where(objects.exist[:, None], jnp.where(objects.spheres[:, None], ball, box), FAR)


def depth_ranges(
    key: jax.Array, depths: Float[Array, "v h w"], sky: Array, *, points: int = 100
) -> tuple[Float[Array, " v"], Float[Array, " v"]]:
    """(near, far) of every view, as some points of it give them: pixels may lie outside; one in three times shared."""
    views = len(depths)
    keys = jax.random.split(key, 3)
    picks = jax.random.randint(keys[0], (views, points), 0, depths[0].size)
    found = jnp.take_along_axis(depths.reshape(views, -1), picks, axis=1)
    blank = jnp.take_along_axis(sky.reshape(views, -1), picks, axis=1)
    nothing = jnp.sum(~blank, axis=1, keepdims=True) < 3
    low, high = jnp.nanquantile(jnp.where(blank & ~nothing, jnp.nan, found), jnp.array([0.01, 0.99]), axis=1)
    shared = jax.random.uniform(keys[1]) < 1 / 3
    low, high = jnp.where(shared, jnp.min(low), low), jnp.where(shared, jnp.max(high), high)
    slack = jnp.exp(jax.random.uniform(keys[2], (2, views)) * jnp.log(1.6 / 1.05)) * 1.05
    slack = jnp.where(shared, slack[:, :1], slack)
    return low / slack[0], high * slack[1]


def spoil(key: jax.Array, images: Float[Array, "v h w 3"]) -> Float[Array, "v h w 3"]:
    """Half of the times each: another exposure, color balance and gamma of every view; a slight blur; noise."""
    keys = jax.random.split(key, 7)
    views = len(images)
    use = jax.random.bernoulli(keys[0], jnp.array([0.5, 0.3, 0.5])).astype(images.dtype)
    gain = jnp.exp(0.08 * jax.random.normal(keys[1], (views, 1)) + 0.03 * jax.random.normal(keys[2], (views, 3)))
    gamma = jnp.exp(0.05 * jax.random.normal(keys[3], (views,)))
    exposed = jnp.power(jnp.clip(images * gain[:, None, None], 1e-4, 1.0), gamma[:, None, None, None])
    images = jnp.where(use[0] > 0, exposed, images)
    side = 0.15 * jax.random.uniform(keys[4], (views, 1, 1, 1)) * use[1]
    for axis in (1, 2):
        padded = jnp.pad(images, [(0, 0), *((1, 1) if i == axis else (0, 0) for i in (1, 2)), (0, 0)], mode="edge")
        before, after = (jax.lax.slice_in_dim(padded, i, i + images.shape[axis], axis=axis) for i in (0, 2))
        images = (1 - 2 * side) * images + side * (before + after)
    noise = 0.02 * jax.random.uniform(keys[5]) * use[2]
    return jnp.clip(images + noise * jax.random.normal(keys[6], images.shape), 0.0, 1.0)


def _mispose(key: jax.Array, cameras: Camera, focus: Float[Array, " 3"]) -> Camera:
    """One in three times, cameras that are turned by about a quarter of a pixel, and moved by as much."""
    keys = jax.random.split(key, 3)
    amount = 0.25 * jax.random.bernoulli(keys[0], 1 / 3).astype(jnp.float32) / cameras.intrinsics[:, 0, 0]
    spins = 0.5 * amount[:, None] * jax.random.normal(keys[1], (len(amount), 3))
    turns = rotations(jnp.concatenate([jnp.ones_like(spins[:, :1]), spins], axis=1))
    distance = jnp.linalg.norm(focus[None] - cameras.center, axis=1)
    moves = 0.5 * (amount * distance)[:, None] * jax.random.normal(keys[2], (len(amount), 3))
    rotation = jnp.einsum("vij,vjk->vik", turns, cameras.rotation, precision="highest")
    translation = jnp.einsum("vij,vj->vi", turns, cameras.translation, precision="highest") + moves
    return replace(cameras, rotation=rotation, translation=translation)


def _pyramid(textures: Float[Array, "t s s 3"]) -> Float[Array, "n s s 3"]:
    """Every texture at `_LEVELS` resolutions, all as large as the first; level by level."""
    count, side, levels = len(textures), textures.shape[1], [textures]
    for i in range(1, _LEVELS):
        small = textures.reshape(count, side >> i, 1 << i, side >> i, 1 << i, 3).mean(axis=(2, 4))
        levels.append(jax.image.resize(small, textures.shape, "linear"))
    return jnp.concatenate(levels)

"""Scenes that are computed: a textured room with boxes and spheres, cast by rays, with exact depths and poses.

Letters: T textures of s x s pixels, K objects, r rays, v views. A scene is a pytree of arrays, drawn from a key; `vmap`
draws and casts many. Rays have z = 1 before their camera, so that the distance along them is the depth.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from airjax.raster.tiles import patch_centers
from airjax.scene.cameras import Camera, look_at, pinhole
from airjax.scene.quaternions import rotations

NUM_OBJECTS = 5
NUM_TEXTURES = 6 + NUM_OBJECTS  # one for every wall, one for every object
SUPERSAMPLES = 2  # rays per pixel along each axis
FAR = 1e6  # where a ray meets nothing


class Objects(NamedTuple):
    """Boxes and spheres; one of them where the first axis is missing."""

    centers: Float[Array, "*K 3"]
    sizes: Float[Array, "*K 3"]  # half extents of a box; a sphere has the first as its radius
    rotations: Float[Array, "*K 3 3"]  # object to world
    spheres: Bool[Array, "*K"]  # whether it is a sphere, else a box
    exist: Bool[Array, "*K"]  # whether it is there


class Room(NamedTuple):
    """One scene."""

    half_extents: Float[Array, " 3"]  # of the room around the origin
    objects: Objects  # K of them
    textures: Float[Array, "T s s 3"]  # of the walls and the objects, in [0, 1]
    repeats: Float[Array, " T"]  # how often a texture is repeated, mirrored, along each side
    light: Float[Array, " 3"]  # unit vector towards the light


class Views(NamedTuple):
    """Pictures of one scene."""

    images: Float[Array, "v h w 3"]  # in [0, 1]
    depths: Float[Array, "v h w"]  # z, world units
    cameras: Camera  # a stack of v
    near: Float[Array, ""]
    far: Float[Array, ""]  # near and far bound the depths


def noise_textures(key: jax.Array, count: int, *, size: int = 64) -> Float[Array, "T s s 3"]:
    """Textures without photographs: sums of coloured noise at several scales, in [0, 1]."""
    total = jnp.full((count, size, size, 3), 0.5)
    for i, cells in enumerate((2, 4, 8, 16, 32)):
        noise = jax.random.uniform(jax.random.fold_in(key, i), (count, cells, cells, 3), minval=-1, maxval=1)
        total += 0.35 * 0.75**i * jax.image.resize(noise, total.shape, "linear")
    return jnp.clip(total, 0, 1)


def random_room(key: jax.Array, atlas: Float[Array, "T s s 3"], eyes: Float[Array, "v 3"]) -> Room:
    """A room with 2 to 5 objects, large enough for cameras at `eyes`, and no object there; `atlas` holds textures."""
    keys = jax.random.split(key, 10)
    shape = (NUM_OBJECTS, 3)
    reach = jnp.max(jnp.abs(eyes), axis=0) + 0.3
    half_extents = jnp.maximum(jax.random.uniform(keys[0], (3,), minval=1.8, maxval=3.5), reach)
    centers = jax.random.uniform(keys[1], shape, minval=-0.7, maxval=0.7) * half_extents[None]
    sizes = jax.random.uniform(keys[2], shape, minval=0.2, maxval=0.7)
    count = jax.random.randint(keys[5], (), 2, NUM_OBJECTS + 1)
    distance = jnp.linalg.norm(centers[:, None] - eyes[None], axis=-1)
    free = jnp.all(distance > jnp.linalg.norm(sizes, axis=1)[:, None] + 0.4, axis=1)
    picks = jax.random.choice(keys[6], len(atlas), (NUM_TEXTURES,), replace=len(atlas) < NUM_TEXTURES)
    light = jax.random.normal(keys[8], (3,))
    objects = Objects(
        centers,
        sizes,
        rotations(jax.random.normal(keys[3], (NUM_OBJECTS, 4))),
        jax.random.bernoulli(keys[4], 0.5, (NUM_OBJECTS,)),
        free & (jnp.arange(NUM_OBJECTS) < count),
    )
    return Room(
        half_extents,
        objects,
        atlas[picks].astype(jnp.float32),
        jax.random.randint(keys[7], (NUM_TEXTURES,), 1, 3).astype(jnp.float32),
        light / jnp.linalg.norm(light),
    )


def random_cameras(
    key: jax.Array, *, image_size: tuple[int, int], num_views: int, baseline: tuple[float, float] = (0.15, 0.5)
) -> Camera:
    """Cameras along a line across a common line of sight: the first two 1 apart, the others around and between them.

    There are at least 2. `baseline` is the range of the distance of the first two, in distances to what they look at.
    """
    keys = jax.random.split(key, 8)
    target = jax.random.uniform(keys[0], (3,), minval=-0.5, maxval=0.5)
    angle = jax.random.uniform(keys[1], (), maxval=2 * jnp.pi)
    height = jax.random.uniform(keys[2], (), minval=-0.5, maxval=0.5)
    distance = jax.random.uniform(keys[3], (), minval=1.5, maxval=3.0)
    backward = jnp.stack([jnp.cos(angle), height, jnp.sin(angle)])
    backward = backward / jnp.linalg.norm(backward)
    across = jnp.cross(backward, jax.random.normal(keys[4], (3,)))
    across = across / jnp.linalg.norm(across)
    width = distance * jax.random.uniform(keys[5], (), minval=baseline[0], maxval=baseline[1])
    steps = jax.random.uniform(keys[6], (num_views,), minval=-0.6, maxval=0.6).at[:2].set(jnp.array([-0.5, 0.5]))
    jitter = jax.random.normal(keys[7], (num_views, 2, 3))
    middle = target + distance * backward
    eyes = middle[None] + width * (steps[:, None] * across[None] + 0.08 * jitter[:, 0])
    focal = image_size[1] * jax.random.uniform(jax.random.fold_in(key, 0), (), minval=0.8, maxval=1.2)
    intrinsics = pinhole(focal, image_size)
    up = jnp.array([0.0, -1.0, 0.0])
    return jax.vmap(lambda eye, to: look_at(eye, to, up, intrinsics))(eyes, target[None] + 0.1 * jitter[:, 1])


def random_views(
    key: jax.Array, atlas: Float[Array, "T s s 3"], *, image_size: tuple[int, int], num_views: int
) -> Views:
    """A random scene seen by `num_views` cameras; the same for the same key.

    `near` and `far` are what a user might give: a little outside the depths that the first two cameras see.
    """
    key_cameras, key_room, key_bounds = jax.random.split(key, 3)
    cameras = random_cameras(key_cameras, image_size=image_size, num_views=num_views)
    room = random_room(key_room, atlas, cameras.center)
    images, depths = jax.vmap(lambda camera: cast(room, camera, image_size=image_size))(cameras)
    slack = jax.random.uniform(key_bounds, (2,), minval=1.0, maxval=1.2)
    return Views(images, depths, cameras, jnp.min(depths[:2]) / slack[0], jnp.max(depths[:2]) * slack[1])


def cast(
    room: Room, camera: Camera, *, image_size: tuple[int, int]
) -> tuple[Float[Array, "h w 3"], Float[Array, "h w"]]:
    """What a camera in the room sees: the mean colour of 2 x 2 rays in every pixel, and the depth at its centre."""
    height, width = image_size
    colors, _ = _cast_grid(room, camera, (height * SUPERSAMPLES, width * SUPERSAMPLES), SUPERSAMPLES)
    image = colors.reshape(height, SUPERSAMPLES, width, SUPERSAMPLES, 3).mean(axis=(1, 3))
    return image, _cast_grid(room, camera, image_size, 1)[1].reshape(image_size)


def _cast_grid(
    room: Room, camera: Camera, size: tuple[int, int], per_pixel: int
) -> tuple[Float[Array, "r 3"], Float[Array, " r"]]:
    """Colours and depths along `per_pixel` squared rays through every pixel, row by row."""
    pixels = jnp.concatenate([patch_centers(size, 1 / per_pixel), jnp.ones((size[0] * size[1], 1))], axis=-1)
    local = jnp.dot(pixels, jnp.linalg.inv(camera.intrinsics).T, precision="highest")
    return _shade(room, camera.center, jnp.dot(local, camera.rotation, precision="highest"))


class Hit(NamedTuple):
    """Where rays meet a surface."""

    surface: Int[Array, " r"]  # 0 for the room, else 1 + the number of the object
    depth: Float[Array, " r"]  # distance along the ray
    local: Float[Array, "r 3"]  # the point in half extents of what it lies on, along that one's own axes
    rotation: Float[Array, "r 3 3"]  # those axes, to the world
    sphere: Bool[Array, " r"]  # whether it lies on a sphere
    axis: Int[Array, " r"]
    sign: Float[Array, " r"]  # axis and sign: the face of the box, or of the room, that it lies on


def _shade(room: Room, eye: Float[Array, " 3"], rays: Float[Array, "r 3"]):
    """Colours (r, 3) and depths (r,) along rays."""
    hit = first_hit(room, eye, rays, jax.vmap(_distance_to_object, (None, None, 0))(eye, rays, room.objects))
    u, v = texture_coordinates(hit)
    wall = 2 * hit.axis + jnp.where(hit.sign > 0, 1, 0)
    texture = jnp.where(hit.surface == 0, wall, 5 + hit.surface)
    color = look_up(room.textures, texture, u, v, room.repeats[texture])
    return color * (0.75 + 0.25 * jnp.dot(normals(hit), room.light, precision="highest"))[:, None], hit.depth


def first_hit(room: Room, eye: Float[Array, " 3"], rays: Float[Array, "r 3"], distances: Float[Array, "K r"]) -> Hit:
    """The nearest of the walls and of the objects, whose distances along the rays are given."""
    walls = _distance_to_walls(room.half_extents, eye, rays)
    depths = jnp.concatenate([walls[None], distances])
    surface = jnp.argmin(depths, axis=0)
    depth = jnp.min(depths, axis=0)
    is_room, i = surface == 0, jnp.maximum(surface - 1, 0)
    point = eye[None] + depth[:, None] * rays
    rotation = jnp.where(is_room[:, None, None], jnp.eye(3)[None], room.objects.rotations[i])
    size = jnp.where(is_room[:, None], room.half_extents[None], room.objects.sizes[i])
    center = jnp.where(is_room[:, None], 0.0, room.objects.centers[i])
    sphere = ~is_room & room.objects.spheres[i]
    local = jnp.einsum("rij,ri->rj", rotation, point - center, precision="highest")
    local = jnp.where(sphere[:, None], local / size[:, :1], local / size)
    axis = jnp.argmax(jnp.abs(local), axis=1)
    sign = jnp.sign(jnp.take_along_axis(local, axis[:, None], axis=1)[:, 0])
    return Hit(surface, depth, local, rotation, sphere, axis, sign)


def normals(hit: Hit) -> Float[Array, "r 3"]:
    """Unit vectors in the world, out of an object and into the room."""
    face = jax.nn.one_hot(hit.axis, 3) * hit.sign[:, None]
    normal = jnp.where(hit.sphere[:, None], hit.local, face)
    normal = jnp.where((hit.surface == 0)[:, None], -normal, normal)
    return jnp.einsum("rij,rj->ri", hit.rotation, normal, precision="highest")


def texture_coordinates(hit: Hit) -> tuple[Float[Array, " r"], Float[Array, " r"]]:
    """u and v in [-1, 1]: the other two axes of a face; longitude and height of a sphere."""
    x, y, z = hit.local[:, 0], hit.local[:, 1], hit.local[:, 2]
    others = jnp.stack([y, x, x], axis=1), jnp.stack([z, z, y], axis=1)
    u, v = (jnp.take_along_axis(part, hit.axis[:, None], axis=1)[:, 0] for part in others)
    longitude = jnp.arctan2(y, x) / jnp.pi
    return jnp.where(hit.sphere, longitude, u), jnp.where(hit.sphere, jnp.clip(z, -1, 1), v)


def _distance_to_walls(half_extents: Float[Array, " 3"], eye: Float[Array, " 3"], rays: Float[Array, "r 3"]):
    """(r,) distances to the walls, from inside."""
    slope = jnp.where(jnp.abs(rays) < 1e-9, 1e-9, rays)
    ends = (half_extents[None] - eye[None]) / slope, (-half_extents[None] - eye[None]) / slope
    return jnp.min(jnp.maximum(*ends), axis=1)


def _distance_to_object(eye: Float[Array, " 3"], rays: Float[Array, "r 3"], item: Objects) -> Float[Array, " r"]:
    """Distances to one object; `FAR` where it is missed."""
    origin = jnp.dot(eye - item.centers, item.rotations, precision="highest")
    direction = jnp.dot(rays, item.rotations, precision="highest")
    distance = jnp.where(
        item.spheres,
        _distance_to_sphere(origin, direction, item.sizes[0]),
        _distance_to_box(origin, direction, item.sizes),
    )
    return jnp.where(item.exist, distance, FAR)


def _distance_to_sphere(origin, direction, radius):
    """The smaller solution of |o + t d| = radius."""
    a = jnp.sum(jnp.square(direction), axis=1)
    b = jnp.dot(direction, origin, precision="highest")
    root = b * b - a * (jnp.sum(jnp.square(origin)) - jnp.square(radius))
    first = (-b - jnp.sqrt(jnp.maximum(root, 0.0))) / a
    return jnp.where((root > 0) & (first > 0), first, FAR)


def _distance_to_box(origin, direction, size):
    """The last of the three slabs to be entered, unless another was left before."""
    slope = jnp.where(jnp.abs(direction) < 1e-9, 1e-9, direction)
    upper, lower = (size[None] - origin[None]) / slope, (-size[None] - origin[None]) / slope
    enter, leave = jnp.max(jnp.minimum(upper, lower), axis=1), jnp.min(jnp.maximum(upper, lower), axis=1)
    return jnp.where((enter < leave) & (enter > 0), enter, FAR)


def look_up(textures, index: Int[Array, " r"], u, v, repeats) -> Float[Array, "r 3"]:
    """Bilinear colour at u, v in [-1, 1], the texture repeated and mirrored."""
    size = textures.shape[1]

    def cell(x):
        x = jnp.mod((x + 1) / 2 * repeats, 2.0)
        x = jnp.where(x > 1, 2 - x, x) * size - 0.5
        low = jnp.floor(x)
        i = low.astype(jnp.int32)
        return jnp.clip(i, 0, size - 1), jnp.clip(i + 1, 0, size - 1), (x - low)[:, None]

    x0, x1, fx = cell(u)
    y0, y1, fy = cell(v)
    upper = textures[index, y0, x0] * (1 - fx) + textures[index, y0, x1] * fx
    lower = textures[index, y1, x0] * (1 - fx) + textures[index, y1, x1] * fx
    return upper * (1 - fy) + lower * fy

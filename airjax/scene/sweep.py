"""The plane-sweep volume: how well the cells of a view match other views, for planes of constant depth.

Letters: v views, a, b rows and columns of cells (of 2 x 2 or more pixels), n cells, f features, d planes, m other
views, g groups of features.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from airjax.nn.blocks import CELL
from airjax.raster.tiles import patch_centers
from airjax.scene.cameras import Camera

PATCH_SCALES = 2  # groups of `patch_features`
_BAND = 1024  # cells whose products with another view exist at a time
_FEW = 4096  # cells of another view with which all products are made


def match_planes(
    features: Float[Array, "v a b f"],
    cameras: Camera,
    i: Int[Array, ""] | int,
    others: Int[Array, " m"],
    inverse: Float[Array, " d"],
    *,
    groups: int,
    image_size: tuple[int, int],
) -> Float[Array, "a b k"]:
    """How well view `i` agrees with `others` on planes of constant depth, group after group.

    A mean over the views that see the plane there, 0 where none does; k = groups * d. Arguments as in
    `compare_planes`.
    """
    products, inside = compare_planes(
        features, cameras, i, others, inverse[None], groups=groups, image_size=image_size, cell=CELL
    )
    weights = inside.astype(products.dtype)[..., None]
    mean = jnp.sum(products * weights, axis=0) / jnp.maximum(jnp.sum(weights, axis=0), 1.0)
    return mean.transpose(0, 2, 1).reshape(*features.shape[1:3], -1)


def compare_planes(
    features: Float[Array, "v a b f"],
    cameras: Camera,
    i: Int[Array, ""] | int,
    others: Int[Array, " m"],
    inverse: Float[Array, "#n d"],
    *,
    groups: int,
    image_size: tuple[int, int],
    cell: int,
) -> tuple[Float[Array, "m n d g"], Bool[Array, "m n d"]]:
    """How well view `i` agrees with each of `others` on planes of constant depth, and whether that one sees it there.

    Args:
      features: of every cell, row by row n of them; compared by their inner product, group by group.
      inverse: inverse depths of the planes in view i, 1 / world units; for all cells, or for every one its own.
      groups: parts of the features that are compared apart, of equal width.
      image_size: (h, w) pixels; beyond it a view sees nothing.
      cell: pixels of a cell.
    """
    rows, columns, _ = features.shape[1:]
    camera, own = cameras[i], features[i]
    pixels = jnp.concatenate([patch_centers((rows, columns), cell), jnp.ones((rows * columns, 1))], axis=-1)
    rays = jnp.dot(pixels, jnp.linalg.inv(camera.intrinsics).T, precision="highest")

    def compare(j):
        other = cameras[j]
        turn = jnp.dot(other.rotation, camera.rotation.T, precision="highest")
        move = other.translation - jnp.dot(turn, camera.translation, precision="highest")
        # K (turn ray / inverse + move) times the inverse depth: the same pixel, and finite for planes far away.
        base = jnp.dot(rays, jnp.dot(other.intrinsics, turn, precision="highest").T, precision="highest")
        shift = jnp.dot(other.intrinsics, move, precision="highest")
        homogeneous = base[:, None] + inverse[:, :, None] * shift[None, None]
        ahead = homogeneous[..., 2] > 1e-6
        point = homogeneous[..., :2] / jnp.where(ahead, homogeneous[..., 2], 1.0)[..., None]
        limits = jnp.array([image_size[1], image_size[0]], point.dtype)
        inside = ahead & jnp.all((point >= 0) & (point <= limits[None, None]), axis=-1)
        point = jnp.where(inside[..., None], point / cell - 0.5, 0.0)
        return _products(own, features[j], point, groups), inside

    return jax.vmap(compare)(others)


def pool(
    products: Float[Array, "m n d g"], inside: Bool[Array, "m n d"], others: Int[Array, " m"]
) -> Float[Array, "n d k"]:
    """Agreements with several views as one: means and largest values over the views that see a plane, their share.

    0 where none does; k = 2 g + 1. A view that is named twice counts once.
    """
    times = jnp.sum(others[:, None] == others[None], axis=1)
    weights = inside.astype(products.dtype) / times[:, None, None].astype(products.dtype)
    total = jnp.sum(weights, axis=0)
    mean = jnp.sum(products * weights[..., None], axis=0) / jnp.maximum(total, 1e-6)[..., None]
    best = jnp.max(jnp.where(inside[..., None], products, -jnp.inf), axis=0)
    best = jnp.where(jnp.any(inside, axis=0)[..., None], best, 0.0)
    share = total / jnp.sum(1.0 / times.astype(products.dtype))
    return jnp.concatenate([mean, best, share[..., None]], axis=-1)


def patch_features(images: Float[Array, "v h w 3"], *, cell: int = CELL) -> Float[Array, "v a b f"]:
    """The neighbourhood of a cell, its mean removed: 3 x 3 cells, and 3 x 3 of every other cell of a blurred picture.

    A group of 24 numbers for each of the `PATCH_SCALES`: the colours in the cosine basis but for its constant. The
    basis keeps angles: `normalize`d, they are compared by cross-correlation.
    """
    views, height, width, _ = images.shape
    cells = images.reshape(views, height // cell, cell, width // cell, cell, 3).mean(axis=(2, 4))
    k, x = np.meshgrid(np.arange(3), np.arange(3), indexing="ij")
    cosines = np.cos(np.pi * k * (2 * x + 1) / 6)
    cosines /= np.linalg.norm(cosines, axis=1, keepdims=True)
    basis = np.einsum("ij,kl->jlik", cosines, cosines).reshape(3, 3, 1, 9)[..., 1:].astype(np.float32)
    blur = np.outer([0.25, 0.5, 0.25], [0.25, 0.5, 0.25]).reshape(3, 3, 1, 1).astype(np.float32)
    planes = jnp.moveaxis(cells, -1, 1).reshape(-1, *cells.shape[1:3], 1)
    scales = [_filter(planes, basis, 1), _filter(_filter(planes, blur, 1), basis, 2)]
    groups = [part.reshape(views, 3, *part.shape[1:]).transpose(0, 2, 3, 1, 4) for part in scales]
    return jnp.concatenate([part.reshape(*part.shape[:3], -1) for part in groups], axis=-1)


def _filter(planes: Float[Array, "k a b 1"], kernel: np.ndarray, spread: int) -> Float[Array, "k a b f"]:
    """3 x 3 weights on cells `spread` apart; beyond the border its cells go on."""
    planes = jnp.pad(planes, ((0, 0), (spread, spread), (spread, spread), (0, 0)), mode="edge")
    weights, axes = jnp.asarray(kernel), ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(
        planes, weights, (1, 1), "VALID", rhs_dilation=(spread, spread), dimension_numbers=axes, precision="highest"
    )


def normalize(features: Float[Array, "v a b f"], *, groups: int) -> Float[Array, "v a b f"]:
    """Every group of features a vector of length 1."""
    parts = features.reshape(*features.shape[:3], groups, -1)
    parts = parts * jax.lax.rsqrt(jnp.sum(jnp.square(parts), axis=-1, keepdims=True) + 1e-6)
    return parts.reshape(features.shape)


def _products(own: Float[Array, "a b f"], other: Float[Array, "a b f"], point: Float[Array, "n d 2"], groups: int):
    """(n, d, groups) products of the features of each cell with those of the other view at a point, in cells.

    Products are linear in the other's features: they are interpolated instead of the features, between the four cells
    around a point. Where the other view has few cells, all products of a cell are one row of a matrix product, and
    four numbers are looked up in it; where it has many, its features are looked up. Cells are taken in bands.
    """
    rows, columns, _ = other.shape
    table = other.reshape(rows * columns, groups, -1).transpose(1, 0, 2)
    mine = own.reshape(rows * columns, groups, -1).transpose(1, 0, 2)
    low = jnp.floor(point)
    x, y = point[..., 0] - low[..., 0], point[..., 1] - low[..., 1]
    low = low.astype(jnp.int32)
    corners = [(low[..., 0] + right, low[..., 1] + down) for down in (0, 1) for right in (0, 1)]
    indices = [jnp.clip(i, 0, columns - 1) + columns * jnp.clip(j, 0, rows - 1) for i, j in corners]
    cells = jnp.stack(indices, axis=-1).reshape(len(point), -1)
    weights = jnp.stack([(1 - x) * (1 - y), x * (1 - y), (1 - x) * y, x * y], axis=-1)

    def from_products(mine, cells):
        products = jnp.einsum("gnf,gmf->gnm", mine, table)
        return jax.vmap(lambda p: jnp.take_along_axis(p, cells, axis=1))(products)

    def from_features(mine, cells):
        return jnp.einsum("gnf,gnkf->gnk", mine, table[:, cells])

    band = from_products if rows * columns <= _FEW else from_features
    count = len(point)
    size = min(count, _BAND)
    missing = -count % size
    mine = jnp.pad(mine, ((0, 0), (0, missing), (0, 0))).reshape(groups, -1, size, mine.shape[-1]).swapaxes(0, 1)
    cells = jnp.pad(cells, ((0, missing), (0, 0))).reshape(-1, size, cells.shape[-1])
    products = jax.lax.map(jax.checkpoint(lambda part: band(*part)), (mine, cells))
    products = products.swapaxes(0, 1).reshape(groups, count + missing, -1)[:, :count]
    products = products.reshape(groups, *weights.shape)
    return jnp.sum(products * weights[None], axis=-1).transpose(1, 2, 0)

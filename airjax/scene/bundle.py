"""Cameras from matches: bundle adjustment of a few views, with the depths of the matched cells.

Letters: v views; n cells of a view, on one grid in all of them. Lengths in pictures are in widths of a picture, from
its center. Every cell has an inverse depth of its own; those of one view are seen in the others at matched places.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from airjax.scene.cameras import Camera

STEPS = 30
_FIRST = 0.1  # error, in widths, from which on a match counts little at first
_DEPTHS = 0.01  # weight of log depths as they were, of a match's that is right
_FOCAL = 300.0  # the same of the focal length
_LEAST = 0.05  # of z / depth, where a cell has turned behind a camera


class Bundle(NamedTuple):
    """Cameras of one lens, and cells.

    Fields:
      rotation, translation: world to camera.
      focal: ln of the focal length in widths.
      depths: minus ln of the z of every cell in its own view.
    """

    rotation: Float[Array, "v 3 3"]
    translation: Float[Array, "v 3"]
    focal: Float[Array, ""]
    depths: Float[Array, "v n"]


class Matches(NamedTuple):
    """What is seen where.

    Fields:
      cells: places of the cells in their own view.
      seen: places in view j of the cells of view i.
      weights: how far each is to be believed, in [0, 1].
      error: of the places that are about right; one that is several times farther off counts little.
    """

    cells: Float[Array, "n 2"]
    seen: Float[Array, "v v n 2"]
    weights: Float[Array, "v v n"]
    error: float


def adjusted(start: Bundle, matches: Matches, *, steps: int = STEPS) -> tuple[Bundle, Float[Array, ""]]:
    """Cameras and depths that explain the matches, and the cost of what they do not explain.

    Levenberg and Marquardt's steps on a robust cost (Cauchy), whose width falls. The first camera stays where it is.
    The unit is that of the depths at the start, which everything is held to a little.
    """
    falling = jnp.geomspace(_FIRST, matches.error, steps).astype(start.depths.dtype)

    def step(carry, sigma):
        bundle, damping = carry
        moved = _moved(bundle, *_solved(bundle, start, matches, sigma, damping))
        better = _cost(moved, start, matches, sigma) < _cost(bundle, start, matches, sigma)
        bundle = jax.tree.map(lambda new, old: jnp.where(better, new, old), moved, bundle)
        return (bundle, jnp.clip(jnp.where(better, damping / 4, damping * 5), 1e-6, 1e4)), None

    (bundle, _), _ = jax.lax.scan(step, (start, jnp.asarray(1e-2, start.depths.dtype)), falling)
    return bundle, _cost(bundle, start, matches, falling[-1])


def reflected(bundle: Bundle) -> Bundle:
    """What looks almost the same to cameras that hardly move: near is far, and they moved and turned the other way."""
    middle = jnp.median(bundle.depths)
    turn = jnp.einsum("iab,cb->iac", bundle.rotation, bundle.rotation[0], precision="highest")
    rotation = jnp.einsum("iba,bc->iac", turn, bundle.rotation[0], precision="highest")
    return bundle._replace(rotation=rotation, translation=-bundle.translation, depths=2 * middle - bundle.depths)


def _places(bundle: Bundle, matches: Matches):
    """Residuals (i, j, n, 2), and what they are made of: points (i, j, n, 3) in j over depths, turns from i to j."""
    focal = jnp.exp(bundle.focal)
    rays = jnp.concatenate([matches.cells / focal, jnp.ones_like(matches.cells[:, :1])], axis=1)
    turns = jnp.einsum("jab,icb->ijac", bundle.rotation, bundle.rotation, precision="highest")
    moves = bundle.translation[None] - jnp.einsum("ijab,ib->ija", turns, bundle.translation, precision="highest")
    turned = jnp.einsum("ijab,nb->ijna", turns, rays, precision="highest")
    points = turned + jnp.exp(bundle.depths)[:, None, :, None] * moves[:, :, None]
    shown = focal * points[..., :2] / jnp.maximum(points[..., 2:], _LEAST)
    return shown - matches.seen, shown, points, rays, turns, moves


def _cost(bundle: Bundle, start: Bundle, matches: Matches, sigma) -> Float[Array, ""]:
    residuals = _places(bundle, matches)[0]
    errors = jnp.log1p(jnp.sum(jnp.square(residuals), axis=-1) / sigma**2)
    held = _DEPTHS * jnp.sum(jnp.square(bundle.depths - start.depths)) + _FOCAL * (bundle.focal - start.focal) ** 2
    return jnp.sum(matches.weights * errors) + held


class _Derivatives(NamedTuple):
    """Residuals (i, j, n, 2), and how places follow the camera of cells, that of the place, the lens, and depths."""

    residuals: Array
    source: Array  # (i, j, n, 2, 6)
    target: Array  # (i, j, n, 2, 6)
    lens: Array  # (i, j, n, 2, 1)
    depth: Array  # (i, j, n, 2)


def _derivatives(bundle: Bundle, matches: Matches) -> _Derivatives:
    residuals, shown, points, rays, turns, moves = _places(bundle, matches)
    focal, inverse = jnp.exp(bundle.focal), jnp.exp(bundle.depths)[:, None, :]
    z = jnp.maximum(points[..., 2], _LEAST)
    zero = jnp.zeros_like(z)
    along = jnp.stack(
        [
            jnp.stack([1 / z, zero, -points[..., 0] / z**2], axis=-1),
            jnp.stack([zero, 1 / z, -points[..., 1] / z**2], axis=-1),
        ],
        axis=-2,
    )
    along = focal * along  # (i, j, n, 2, 3): of the place by the point

    def by(change):
        return jnp.einsum("ijnab,ijnbc->ijnac", along, change, precision="highest")

    shape = (*z.shape, 3, 3)
    eye = jnp.broadcast_to(jnp.eye(3, dtype=z.dtype), shape) * inverse[..., None, None]
    target = by(jnp.concatenate([-_cross(points), eye], axis=-1))
    turns = jnp.broadcast_to(turns[:, :, None], shape)
    own = jnp.broadcast_to(_cross(rays)[None, None], shape)
    own = jnp.einsum("ijnab,ijnbc->ijnac", turns, own, precision="highest")
    source = by(jnp.concatenate([own, -turns * inverse[..., None, None]], axis=-1))
    away = jnp.broadcast_to((rays * jnp.array([-1, -1, 0], rays.dtype)[None])[None, None, :, :, None], (*z.shape, 3, 1))
    lens = by(jnp.einsum("ijnab,ijnbc->ijnac", turns, away, precision="highest")) + shown[..., None]
    depth = by(jnp.broadcast_to(moves[:, :, None, :, None], (*z.shape, 3, 1)) * inverse[..., None, None])[..., 0]
    return _Derivatives(residuals, source, target, lens, depth)


def _solved(bundle: Bundle, start: Bundle, matches: Matches, sigma, damping):
    """A step of the cameras (6 v + 1,) and of the depths (v, n): cells are eliminated, cameras solved for."""
    by = _derivatives(bundle, matches)
    views = len(bundle.depths)
    weights = matches.weights / (sigma**2 + jnp.sum(jnp.square(by.residuals), axis=-1))
    source, target, lens = (weights[..., None, None] * part for part in (by.source, by.target, by.lens))
    cells, held = weights[..., None] * by.depth, _DEPTHS * (bundle.depths - start.depths)
    which = jnp.eye(views, dtype=weights.dtype)

    def summed(one, other, to=""):
        return jnp.einsum(f"ijnac,ijnad->{to}cd", one, other, precision="highest")

    def of_views(other):  # both ends of a match move with a camera
        return summed(source, other, "i") + summed(target, other, "j")

    # No match has more than two cameras: the curvature is added up by pairs of views.
    own, across = summed(source, by.source, "i") + summed(target, by.target, "j"), summed(source, by.target, "ij")
    between = across + across.transpose(1, 0, 3, 2) + which[..., None, None] * own[:, None]
    between = between.transpose(0, 2, 1, 3).reshape(6 * views, 6 * views)
    beside = of_views(by.lens).reshape(6 * views, 1)
    curvature = jnp.block([[between, beside], [beside.T, summed(lens, by.lens) + _FOCAL]])
    pull = summed(lens, by.residuals[..., None]).ravel() + _FOCAL * (bundle.focal - start.focal)
    slope = jnp.concatenate([of_views(by.residuals[..., None]).ravel(), pull])
    of_target, of_source, of_lens = (
        jnp.einsum(f"ijnac,ijna->{to}", part, cells, precision="highest")
        for part, to in ((by.target, "injc"), (by.source, "inc"), (by.lens, "inc"))
    )
    mixed = of_target + which[:, None, :, None] * of_source[:, :, None]
    mixed = jnp.concatenate([mixed.reshape(*held.shape, 6 * views), of_lens], axis=-1)
    of_cells = jnp.sum(cells * by.depth, axis=(1, 3)) + _DEPTHS
    of_cells_slope = jnp.sum(cells * by.residuals, axis=(1, 3)) + held
    of_cells = of_cells * (1 + damping)
    curvature = curvature + jnp.diag(damping * jnp.diag(curvature) + 1e-6)
    reduced = curvature - jnp.einsum("inp,inq->pq", mixed / of_cells[..., None], mixed, precision="highest")
    right = slope - jnp.einsum("inp,in->p", mixed, of_cells_slope / of_cells, precision="highest")
    cameras = jnp.concatenate([jnp.zeros(6, slope.dtype), -jnp.linalg.solve(reduced[6:, 6:], right[6:])])
    depths = -(of_cells_slope + jnp.einsum("inp,p->in", mixed, cameras, precision="highest")) / of_cells
    return cameras, depths


def _moved(bundle: Bundle, cameras: Float[Array, " p"], depths: Float[Array, "v n"]) -> Bundle:
    """A bundle after a step, none of which is long."""
    steps = cameras[:-1].reshape(-1, 6)
    steps = steps * jnp.minimum(1.0, 0.5 / (jnp.max(jnp.abs(steps)) + 1e-9))
    moved = Camera(jnp.zeros_like(bundle.rotation), bundle.rotation, bundle.translation).moved(steps)
    focal = bundle.focal + jnp.clip(cameras[-1], -0.2, 0.2)
    turned, shifted = jnp.asarray(moved.rotation), jnp.asarray(moved.translation)
    return Bundle(turned, shifted, focal, bundle.depths + jnp.clip(depths, -0.7, 0.7))


def _cross(vectors: Float[Array, "*b 3"]) -> Float[Array, "*b 3 3"]:
    """Matrices whose product with x is the cross product with x."""
    x, y, z = jnp.moveaxis(vectors, -1, 0)
    zero = jnp.zeros_like(x)
    rows = ((zero, -z, y), (z, zero, -x), (-y, x, zero))
    return jnp.stack([jnp.stack(row, axis=-1) for row in rows], axis=-2)

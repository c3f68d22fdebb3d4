"""Training of a small network that sees views without poses (`airjax.nn.pi3`), by scenes whose geometry is known.

Letters: v views, h, w pixels, n cells of a view that are matched. The unit of a scene is its median depth.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from airjax.nn import pi3
from airjax.nn.pi3 import Pi3Output
from airjax.scene.cameras import Camera
from airjax.scene.pi3 import Seen, SplatConfig, depths_of, init_backbone
from airjax.scene.procedural import Views
from airjax.scene.unposed import METADATA, Pi3System, system_to_text
from train.optim import Phase, State
from train.scene.data import batches, draw_scenes, texture_atlas
from train.scene.experiment import TexturedExperiment

_SKY = 20.0  # units; what is farther counts as this far
_SAME = 0.08  # difference of ln depth up to which two views see one surface
_SURE = 0.1  # error of ln depth below which a point should be believed
_SMOOTH = 0.1  # difference of ln depth of neighbors up to which they are of one surface

_einsum = partial(jnp.einsum, precision="highest")


class Truth(NamedTuple):
    """A scene in its unit."""

    depths: Float[Array, "v h w"]
    rays: Float[Array, "v h w 2"]  # x / z and y / z of the centers of pixels
    rotations: Float[Array, "v 3 3"]
    translations: Float[Array, "v 3"]  # rotations, translations: camera to world
    cameras: Camera

    @property
    def points(self) -> Float[Array, "v h w 3"]:
        """In the camera of their own view."""
        return jnp.concatenate([self.rays, jnp.ones_like(self.rays[..., :1])], axis=-1) * self.depths[..., None]


def truth_of(views: Views) -> Truth:
    """What is known of views."""
    unit = jnp.median(views.depths)
    depths = jnp.clip(views.depths / unit, 1e-2, _SKY)
    _, height, width = depths.shape
    k = views.cameras.intrinsics[:, None, None]
    x, y = jnp.meshgrid(*(jnp.arange(side, dtype=jnp.float32) + 0.5 for side in (width, height)), indexing="xy")
    rays = jnp.stack([(x[None] - k[..., 0, 2]) / k[..., 0, 0], (y[None] - k[..., 1, 2]) / k[..., 1, 1]], axis=-1)
    cameras = views.cameras
    return Truth(depths, rays, jnp.swapaxes(cameras.rotation, 1, 2), cameras.center / unit, cameras)


def truth_of_seen(seen: Seen) -> Truth:
    """What another network saw, taken for true."""
    z = depths_of(seen)
    unit = jnp.median(z)
    local = jnp.einsum("vij,vhwj->vhwi", seen.cameras.rotation, seen.points, precision="highest")
    rays = (local[..., :2] + seen.cameras.translation[:, None, None, :2]) / z[..., None]
    back = jnp.swapaxes(jnp.asarray(seen.cameras.rotation), 1, 2)
    return Truth(jnp.clip(z / unit, 1e-2, _SKY), rays, back, seen.cameras.center / unit, seen.cameras)


def relative(rotations: Float[Array, "v 3 3"], translations: Float[Array, "v 3"]):
    """(v, v, 3, 3) and (v, v, 3): from the second view to the first, of poses camera to world."""
    offsets = translations[None] - translations[:, None]
    return _einsum("iab,jac->ijbc", rotations, rotations), _einsum("iab,ija->ijb", rotations, offsets)


@dataclass(frozen=True)
class Geometry(Phase):
    """Supervised training of points, confidences, poses and matches.

    loss = points * (|ln depth - its truth| less its median + 2 |x / z, y / z less theirs|)
           + cameras * (2 angle of relative rotations + 0.5 length of what relative translations miss, in mean ones)
           + pixels * distance of points in other views from where they should be seen, x / z and y / z, at most 1
           + matches * cross-entropy of the cells of another view that show a cell
           + confidence * cross-entropy of whether a depth is right within a tenth
           + normals * 1 - the cosine of the angle of surfaces, where neighbors are of one
    """

    # points, cameras, pixels, matches, confidence, normals: weights
    points: float = 1.0
    cameras: float = 1.0
    pixels: float = 3.0
    matches: float = 2.0
    confidence: float = 0.1
    normals: float = 0.0

    def loss(self, trained: State, batch: Views, key: jax.Array, experiment: UnposedExperiment):
        """See `Phase.loss`; a batch is the seeds of some scenes."""

        def of_scene(views):
            found = pi3.apply(trained["params"], views.images, experiment.config.backbone)
            return self.scene_loss(found, truth_of(views))

        losses, metrics = jax.vmap(of_scene)(experiment.make_views(batch))
        return jnp.mean(losses), jax.tree.map(jnp.mean, metrics)

    def scene_loss(self, found: Pi3Output, truth: Truth):
        """Loss of one scene, and its metrics."""
        z = found.points[..., 2]
        error = jnp.log(truth.depths) - jnp.log(z)
        shift = jnp.median(jax.lax.stop_gradient(error))
        error, unit = jnp.abs(error - shift), jnp.exp(shift)
        depth = jnp.mean(error)
        ray = jnp.mean(jnp.sum(jnp.abs(found.points[..., :2] / z[..., None] - truth.rays), axis=-1))
        parts = relative(found.rotations, unit * found.translations), relative(truth.rotations, truth.translations)
        angle, miss, direction = _camera_errors(*parts)
        pixels = _pixel_errors(unit * found.points, truth, *parts)
        sure = (jax.lax.stop_gradient(error) < _SURE).astype(error.dtype)
        logit = found.confidence
        doubt = jnp.mean(jnp.logaddexp(0.0, logit) - sure * logit)
        loss = self.points * (depth + 2 * ray) + self.cameras * (2 * jnp.radians(_mean(angle)) + 0.5 * _mean(miss))
        loss = loss + self.pixels * pixels + self.confidence * doubt
        auc = 1 - jnp.minimum(jnp.maximum(angle, direction), 30.0) / 30
        metrics = {"depth": depth, "ray": ray, "angle": _mean(angle), "direction": _mean(direction), "auc": _mean(auc)}
        metrics |= {"pixels": pixels, "doubt": doubt}
        if found.features is not None:
            entropy, hits = _matching_loss(found.features, truth, *parts[1])
            loss = loss + self.matches * entropy
            metrics |= {"matching": entropy, "hits": hits}
        if self.normals:
            metrics["normals"] = _normal_error(found.points, truth)
            loss = loss + self.normals * metrics["normals"]
        return loss, metrics


def _normal_error(points: Float[Array, "v h w 3"], truth: Truth) -> Float[Array, ""]:
    """1 - the cosine between normals of surfaces, mean over pixels whose neighbors to the right and below are near."""
    z = truth.depths
    steps = [jnp.abs(jnp.log(part / z[:, :-1, :-1])) for part in (z[:, :-1, 1:], z[:, 1:, :-1])]
    counts = ((steps[0] < _SMOOTH) & (steps[1] < _SMOOTH) & (z[:, :-1, :-1] < 0.95 * _SKY)).astype(z.dtype)
    cosine = jnp.sum(normals_of(points) * normals_of(truth.points), axis=-1)
    return jnp.sum((1 - cosine) * counts) / (jnp.sum(counts) + 1.0)


def normals_of(points: Float[Array, "v h w 3"]) -> Float[Array, "v a b 3"]:
    """Unit normals of the surface through each point and its neighbors; the last row and column have none."""
    corner = points[:, :-1, :-1]
    normal = jnp.cross(points[:, :-1, 1:] - corner, points[:, 1:, :-1] - corner)
    return normal * jax.lax.rsqrt(jnp.sum(jnp.square(normal), axis=-1, keepdims=True) + 1e-16)


def _mean(values: Float[Array, "v v"]) -> Float[Array, ""]:
    """Over all pairs of different views."""
    count = len(values)
    return jnp.sum(values * (1 - jnp.eye(count))) / (count * (count - 1))


def _camera_errors(found, true):
    """(v, v) of pairs: angles of rotations, lengths that translations miss over the mean true one, and their angles."""
    squared = jnp.sum(jnp.square(found[0] - true[0]), axis=(-1, -2))
    angle = jnp.degrees(2 * jnp.arcsin(jnp.clip(jnp.sqrt(squared + 1e-8) / 8**0.5, 0, 0.999)))
    base = _mean(jnp.linalg.norm(true[1] + 1e-9, axis=-1)) + 1e-3
    miss = jnp.sqrt(jnp.sum(jnp.square(found[1] - true[1]), axis=-1) + 1e-8) / base
    lengths = (jnp.linalg.norm(part + 1e-9, axis=-1) for part in (found[1], true[1]))
    cosine = jnp.sum(found[1] * true[1], axis=-1) / (next(lengths) * next(lengths) + 1e-9)
    return angle, miss, jnp.degrees(jnp.arccos(jnp.clip(cosine, -1, 1)))


def _seen_from(points: Float[Array, "v n 3"], turns, moves) -> Float[Array, "v v n 3"]:
    """Points of the second view in the first."""
    return _einsum("ijbc,jnc->ijnb", turns, points) + moves[:, :, None]


def _flat(points: Float[Array, "*b 3"]) -> Float[Array, "*b 2"]:
    return points[..., :2] / jnp.maximum(points[..., 2:], 0.05)


def _pixel_errors(points: Float[Array, "v h w 3"], truth: Truth, found, true, step: int = 4) -> Float[Array, ""]:
    """Of some pixels of every view in all others; the sky and what lies behind a camera do not count."""
    start = step // 2

    def some(points):
        return points[:, start::step, start::step].reshape(len(points), -1, 3)

    there, where = _seen_from(some(truth.points), *true), _seen_from(some(points), *found)
    counts = (there[..., 2] > 0.1) & jnp.all(jnp.abs(_flat(there)) < 1.5, axis=-1)
    counts &= (some(truth.points)[None, ..., 2] < 0.95 * _SKY) & ~jnp.eye(len(points), dtype=bool)[:, :, None]
    off = jnp.sqrt(jnp.sum(jnp.square(_flat(where) - _flat(there)), axis=-1) + 1e-6)
    weights = counts.astype(off.dtype)
    return jnp.sum(jnp.minimum(off, 1.0) * weights) / (jnp.sum(weights) + 1.0)


def true_matches(
    truth: Truth, grid: tuple[int, int], turns, moves
) -> tuple[Float[Array, "v v n 2"], Bool[Array, "v v n"]]:
    """Where the cells of the second view are in the first, in cells from its corner, and which are seen there."""
    views, height, width = truth.depths.shape
    side, middle = height // grid[0], height // grid[0] // 2

    def at_centers(values):  # the mean of the four pixels around the center of a cell
        parts = [values[:, middle - 1 + i :: side, middle - 1 + j :: side] for i in (0, 1) for j in (0, 1)]
        return sum(parts) / 4

    depths = 1 / at_centers(1 / truth.depths)
    rays = at_centers(truth.rays)
    points = jnp.concatenate([rays, jnp.ones_like(rays[..., :1])], axis=-1) * depths[..., None]
    there = _seen_from(points.reshape(views, -1, 3), turns, moves)
    k = truth.cameras.intrinsics[:, None, None]
    place = _flat(there) * jnp.stack([k[..., 0, 0], k[..., 1, 1]], axis=-1) + k[..., :2, 2]
    sides = jnp.array([width, height], place.dtype)[None, None, None]
    inside = (there[..., 2] > 0.05) & jnp.all((place >= 0) & (place < sides), axis=-1)
    x, y = jnp.moveaxis(jnp.clip(place, 0, sides - 1), -1, 0)
    surface = jax.vmap(lambda depths, x, y: depths[y, x])(truth.depths, x.astype(jnp.int32), y.astype(jnp.int32))
    same = jnp.abs(jnp.log(jnp.maximum(there[..., 2], 1e-3) / surface)) < _SAME
    return place / side - 0.5, inside & same & ~jnp.eye(views, dtype=bool)[:, :, None]


def _matching_loss(features: Float[Array, "v a b m"], truth: Truth, turns, moves):
    """Cross-entropy of the cells next to the true place, and the share of cells found within one cell of it."""
    views, rows, columns, _ = features.shape
    place, seen = true_matches(truth, (rows, columns), turns, moves)
    number = jnp.stack(jnp.meshgrid(jnp.arange(columns), jnp.arange(rows), indexing="xy"), axis=-1).reshape(-1, 2)
    number = number.astype(place.dtype)
    flat = features.reshape(views, rows * columns, -1)
    logits = jnp.einsum("jnm,ikm->ijnk", flat, flat)
    inside = jnp.clip(place, 0, jnp.array([columns - 1, rows - 1], place.dtype)[None, None, None])
    target = jnp.prod(jnp.maximum(1 - jnp.abs(inside[..., None, :] - number[None, None, None]), 0), axis=-1)
    weights = seen.astype(place.dtype)
    entropy = -jnp.sum(target * jax.nn.log_softmax(logits, axis=-1), axis=-1)
    off = jnp.max(jnp.abs(number[jnp.argmax(logits, axis=-1)] - place), axis=-1)
    total = jnp.sum(weights) + 1.0
    return jnp.sum(entropy * weights) / total, jnp.sum((off < 1) * weights) / total


@dataclass(frozen=True, kw_only=True)
class UnposedExperiment(TexturedExperiment):
    """Training of a network for views without poses on procedural scenes."""

    config: SplatConfig
    size: int = 96  # longest side of photographs as the network will see them, pixels

    def init_params(self, key: jax.Array) -> Any:
        """Fresh weights of the backbone."""
        return init_backbone(key, self.config)

    def metadata(self) -> dict[str, str]:
        """The network."""
        return {METADATA: system_to_text(Pi3System(self.config, self.size))}

    def make_views(self, batch: dict[str, Any]) -> Views:
        """The views of the scenes of a step, (b, v, ..); constants to every gradient."""
        return jax.lax.stop_gradient(draw_scenes(self.data, self.textures, batch["seeds"], rooms=self.data.rooms))

    def open_data(self) -> tuple[Callable[[int], Iterator[Any]], Callable[[Any], jax.Array]]:
        """Seeds; the picture has the views of four test scenes, the depths found and the true ones."""
        data = self.data
        atlas = jnp.asarray(texture_atlas(data, test=True), jnp.float32) / 255

        @jax.jit
        def draw(params):
            def row(views):
                found, truth = pi3.apply(params, views.images, self.config.backbone), truth_of(views)
                near = 0.4 / found.points[..., 2] * jnp.median(found.points[..., 2]), 0.4 / truth.depths
                shown = (jnp.broadcast_to(part[..., None], views.images.shape) for part in near)
                return jnp.concatenate([jnp.concatenate([*part], axis=1) for part in (views.images, *shown)])

            return jnp.concatenate(jax.lax.map(row, draw_scenes(data, atlas, jnp.arange(4, dtype=jnp.uint32), rooms=1)))

        return lambda start: batches(data, [], start), draw

"""Photographs without poses to cameras and Gaussians, by networks that need none: Pi3X and its like, and AnySplat.

A system says how a network sees photographs (`see`: cameras, points, what a head needs) and what Gaussians its head
makes of what was seen (`splats`). `UnposedModel` is a system with weights.

Letters: v views, h, w pixels, p points.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from airjax.config_text import config_from_text, config_to_text
from airjax.errors import AirjaxError
from airjax.gaussians import Gaussians3D, only_active
from airjax.nn.dpt import Head
from airjax.nn.vggt import vggt_networks
from airjax.programs import kept
from airjax.scene import anysplat, pi3
from airjax.scene.anysplat import AnySplatConfig
from airjax.scene.cameras import Camera
from airjax.scene.files.photographs import Scene, fitted_size, resize
from airjax.scene.pi3 import Seen, SplatConfig
from airjax.weights_file import load_weights, read_metadata, weights_hash

DEFAULT_WEIGHTS = Path(__file__).resolve().parents[1] / "weights" / "unposed.safetensors"
METADATA = "unposed"  # of weights files: the system

_POINTS = 2000  # of a scene that say how near and how far it is
_BELIEVED = 0.2  # confidence of a point that counts


@dataclass(frozen=True)
class Pi3System:
    """Pi3X or its like, with the head of ForeSplat."""

    config: SplatConfig
    size: int = 224  # longest side of the photographs as the network sees them, pixels

    def init_backbone(self, key: jax.Array) -> Any:
        """Fresh weights."""
        return pi3.init_backbone(key, self.config)

    def init_head(self, key: jax.Array) -> Any:
        """Fresh weights, which give the colors of the photographs."""
        return pi3.init_splats(key, self.config)

    def framed(self, images: np.ndarray) -> tuple[np.ndarray, Callable[[Camera], Camera]]:
        """(images as the network sees them, what makes of its cameras those of the photographs)."""
        size, detail = images.shape[1:3], self.config.detail
        while detail > 1 and detail * self.size > max(size):
            detail //= 2
        larger = fitted_size(size, detail * self.size, detail * self.config.backbone.encoder.patch)
        smaller = larger[0] // detail, larger[1] // detail
        return np.stack([resize(image, larger) for image in images]), lambda cameras: cameras.resized(smaller, size)

    def see(self, params: Any, images: jax.Array) -> Seen:
        """The backbone, on images as `framed` gives them."""
        detail = max(1, max(images.shape[1:3]) // self.size)
        return pi3.see(params, images, self.config.backbone, detail=detail)

    def splats(self, head: Any, seen: Seen) -> Gaussians3D:
        """The head."""
        return pi3.splats(head, seen, self.config)

    def unit(self, seen: Seen) -> jax.Array:
        """Of a refinement; a choice."""
        return pi3.near_of(seen)

    def parts(self, params: dict) -> tuple[Any, Any]:
        """(backbone, head) of the weights in a file; None for a head that is not there."""
        return (params["backbone"], params["head"]) if "backbone" in params else (params, None)


@dataclass(frozen=True)
class AnySplatSystem:
    """AnySplat, whose own Gaussian head is trained on."""

    config: AnySplatConfig
    size: int = anysplat.SIZE  # side of the squares that the network sees, pixels

    def init_backbone(self, key: jax.Array) -> Any:
        """Fresh weights, those of the head among them."""
        return anysplat.init_params(key, self.config)

    def init_head(self, key: jax.Array) -> Any:
        """Fresh weights; `init` of a run should name the released ones."""
        network: Any = Head(self.config.network.gaussians)
        taps = [jax.ShapeDtypeStruct((1, 4, 2 * self.config.network.width), jnp.float32)] * 4
        return network.lazy_init(key, taps, jax.ShapeDtypeStruct((1, 28, 28, 3), jnp.float32))["params"]

    def framed(self, images: np.ndarray) -> tuple[np.ndarray, Callable[[Camera], Camera]]:
        """See `Pi3System.framed`: squares from the middle."""
        squares, framings = anysplat.framed(list(images), size=self.size)
        return squares, lambda cameras: anysplat.of_photographs(cameras, framings)

    def see(self, params: Any, images: jax.Array) -> Seen:
        """The backbone; the confidences are within the head."""
        found = anysplat.geometry(params, images, config=self.config)
        return Seen(images, found.cameras, found.points, jnp.ones_like(found.depths), found.taps)

    def splats(self, head: Any, seen: Seen) -> Gaussians3D:
        """The head, and the fusion."""
        taps = [tap.astype(jnp.float32) for tap in seen.taps]
        numbers = vggt_networks(self.config.network).gaussians({"gaussians": head}, taps, seen.images)
        return anysplat.gaussians_of(jnp.asarray(seen.points), numbers, voxel=self.config.voxel)

    def unit(self, seen: Seen) -> jax.Array:
        """Of a refinement: as its authors count."""
        return jnp.ones((), seen.points.dtype)

    def parts(self, params: dict) -> tuple[Any, Any]:
        """(backbone, head) of the weights in a file."""
        return params, params["gaussians"]


SYSTEMS: dict[str, tuple[type, type]] = {"pi3": (Pi3System, SplatConfig), "anysplat": (AnySplatSystem, AnySplatConfig)}
System = Pi3System | AnySplatSystem


def system_to_text(system: System) -> str:
    """A system as the metadata of weights files hold it."""
    name = next(name for name, (kind, _) in SYSTEMS.items() if isinstance(system, kind))
    return json.dumps({"system": name, "size": system.size, "config": json.loads(config_to_text(system.config))})


def system_from_text(text: str, *, source: str) -> System:
    """Inverse of `system_to_text`; `source` names the file in the AirjaxError for anything else."""
    try:
        fields = json.loads(text)
        (kind, config), size = SYSTEMS[fields["system"]], int(fields["size"])
        return kind(config_from_text(json.dumps(fields["config"]), config, source=source), size)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise AirjaxError(f"{source}: expected a network for views without poses, got {text[:80]!r}") from error


class Sight(NamedTuple):
    """A scene as a network saw it."""

    scene: Scene  # the photographs with the cameras that were found, and points of the scene
    seen: Seen  # at the size of the network
    model: UnposedModel


@dataclass(frozen=True, eq=False, repr=False)
class UnposedModel:
    """A system with its weights."""

    system: System
    backbone: Any
    head: Any  # None without one: Gaussians are then those of a predictor that takes the cameras
    name: str  # file name and the first digits of the SHA-256 of the weights

    def __repr__(self) -> str:
        weights = sum(np.size(leaf) for leaf in jax.tree.leaves((self.backbone, self.head)))
        return f"UnposedModel({self.name}, {type(self.system).__name__}, {weights:,} weights)"

    def look(self, scene: Scene) -> Sight:
        """The cameras of photographs; those that the scene has are not looked at."""
        images, of_photographs = self.system.framed(scene.images)
        seen = jax.device_get(_see(self.backbone, jnp.asarray(images), system=self.system))
        if not all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((seen.cameras, seen.points))):
            raise AirjaxError(f"{scene.source}: expected photographs that the network understands, got no finite poses")
        cameras = jax.tree.map(np.asarray, of_photographs(seen.cameras))
        believed = seen.points[seen.confidence >= _BELIEVED]
        points = believed[:: max(1, len(believed) // _POINTS)]
        found = replace(scene, cameras=cameras, points=np.asarray(points, np.float32), bounds=None)
        return Sight(found, seen, self)

    def splats(self, seen: Seen) -> Gaussians3D:
        """Gaussians of some of the views that were seen; numpy arrays, all of them active."""
        return only_active(jax.device_get(_splats(self.head, seen, system=self.system)))


@kept(static_argnames="system")
def _see(params, images, *, system):
    return system.see(params, images)


@kept(static_argnames="system")
def _splats(params, seen, *, system):
    return system.splats(params, seen)


def is_unposed(path: str | os.PathLike) -> bool:
    """Whether a weights file is of such a network; False for one that cannot be read."""
    try:
        return METADATA in read_metadata(Path(path))
    except AirjaxError:
        return False


def load(path: str | os.PathLike | None = None) -> UnposedModel:
    """The shipped model, or the one in a weights file (safetensors) of `train` or `airjax convert`.

    Raises AirjaxError: no weights of a network for views without poses, or those of other sizes than they say.
    """
    path = Path(DEFAULT_WEIGHTS if path is None else path)
    params, metadata = load_weights(path)
    if METADATA not in metadata:
        raise AirjaxError(f"{path}: expected weights of a network for views without poses, found others")
    system = system_from_text(metadata[METADATA], source=str(path))
    expected = jax.eval_shape(system.init_backbone, jax.random.key(0))
    try:
        backbone, head = system.parts(params)
    except KeyError as error:
        raise AirjaxError(f"{path}: expected weights with a part {error}, found none") from error
    if jax.tree.map(np.shape, backbone) != jax.tree.map(lambda leaf: leaf.shape, expected):
        raise AirjaxError(f"{path}: expected weights that fit their configuration, got other shapes")
    backbone, head = (jax.tree.map(jnp.asarray, part) for part in (backbone, head))
    return UnposedModel(system, backbone, head, f"{path.name} {weights_hash(path)[:8]}")

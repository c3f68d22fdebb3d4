"""The state of a fit in a file, so that it can be stopped and go on: safetensors, written under another name first."""

from __future__ import annotations

import hashlib
import json
import math
import zlib
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from airjax.errors import AirjaxError
from airjax.files import display_name
from airjax.gaussians import ladder
from airjax.image.fit import COORDINATES, FitConfig, FitState
from airjax.image.task import refinement_adam
from airjax.inner.task import State
from airjax.raster.tiles import Capacity
from airjax.weights_file import load_weights, save_weights

_FORMAT = "airjax fit 1"
_CHANNELS = 3


class Job(NamedTuple):
    """All that the path of a fit depends on.

    Fields:
      config: of the fit.
      seed: of everything random.
      image: `image_digest`.
    """

    config: FitConfig
    seed: int
    image: str


def image_digest(image: np.ndarray) -> str:
    """32 hexadecimal digits that another image, or another size, does not have."""
    image = np.ascontiguousarray(image, np.float32)
    return hashlib.sha256(repr(image.shape).encode() + image.tobytes()).hexdigest()[:32]


def save_fit(path: Path, fit: FitState, job: Job) -> None:
    """Writes a state after at least one step; nobody ever sees a part of the file.

    Raises:
      AirjaxError: it cannot be written, or the state is not finite.
    """
    state = fit.state
    tensors = {str(i): np.asarray(leaf) for i, leaf in enumerate(jax.tree.leaves(_arrays(state)))}
    metadata = {
        "format": _FORMAT,
        "job": _job_text(job),
        "step": str(state.step),
        "numbers": json.dumps([state.loss, fit.psnr, *state.capacity]),
    }
    metadata["checksum"] = _checksum(tensors, metadata)
    try:
        save_weights(path, tensors, metadata)
    except AirjaxError:
        raise
    except ValueError as error:
        raise AirjaxError(f"{display_name(path)}: not written, expected a finite state ({error})") from error


def load_fit(path: Path) -> tuple[FitState, Job]:
    """Inverse of `save_fit`, bit for bit.

    Raises:
      AirjaxError: not such a file, a damaged one, or one of another version.
    """
    name = display_name(path)
    tensors, metadata = load_weights(path)
    found = metadata.get("format")
    if found != _FORMAT:
        raise AirjaxError(f"{name}: expected the state of a fit ({_FORMAT}), got {found or 'another file'}")
    try:
        job = _job(metadata["job"])
        loss, quality, pairs, chunks = json.loads(metadata["numbers"])
        step = int(metadata["step"])
        if _checksum(tensors, metadata) != metadata["checksum"]:
            raise ValueError("the checksum is wrong")
        arrays = _restored(tensors, job.config)
    except (KeyError, ValueError, TypeError, AttributeError) as error:
        raise AirjaxError(f"{name}: expected the whole state of a fit, got a damaged one ({error})") from error
    coordinates, active, inner_state = arrays
    state = State(step, coordinates, active, inner_state, float(loss), Capacity(pairs, chunks))
    return FitState(state, float(quality)), job


def differences(job: Job, other: Job) -> str:
    """What two jobs differ in, as "seed 1 instead of 0": of the first, then of the second; "" for equal ones."""
    pairs = {"image": (job.image, other.image), "seed": (job.seed, other.seed)}
    pairs |= {name: (value, getattr(other.config, name)) for name, value in vars(job.config).items()}
    unlike = {name: values for name, values in pairs.items() if values[0] != values[1]}
    if "image" in unlike:
        return "another image"
    if "form" in unlike:
        unlike.pop("rates", None)  # they belong to the form
    return ", ".join(f"{name} {a} instead of {b}" for name, (a, b) in unlike.items())


def _arrays(state: State) -> tuple:
    return state.coordinates, state.active, state.inner_state


def _restored(tensors: dict, config: FitConfig) -> tuple:
    """The three trees of `_arrays`, in the shapes and types that the configuration asks for."""
    slots = ladder(config.num_gaussians)

    def template():
        kind = COORDINATES[config.form]
        widths = {"means": 2, "log_scales": 2, "factors": 3, "colors": _CHANNELS}
        coordinates = kind(*(jnp.zeros((slots, widths[f]) if f in widths else (slots,)) for f in kind._fields))
        return coordinates, jnp.zeros(slots, bool), refinement_adam(config.rates).init(coordinates)

    leaves, treedef = jax.tree.flatten(jax.eval_shape(template))
    if len(tensors) != len(leaves):
        raise ValueError(f"{len(tensors)} arrays instead of {len(leaves)}")
    arrays = [tensors[str(i)] for i in range(len(leaves))]
    for array, leaf in zip(arrays, leaves, strict=True):
        if array.size != math.prod(leaf.shape) or array.dtype != leaf.dtype:
            raise ValueError(f"{array.dtype} {array.shape} instead of {leaf.dtype} {leaf.shape}")
    # A number comes back as an array of one.
    return jax.tree.unflatten(treedef, [jnp.asarray(a.reshape(s.shape)) for a, s in zip(arrays, leaves, strict=True)])


def _job_text(job: Job) -> str:
    rates = [float(rate) for rate in job.config.rates or ()]
    return json.dumps([asdict(job.config) | {"rates": rates}, job.seed, job.image])


def _job(text: str) -> Job:
    config, seed, image = json.loads(text)
    rates = COORDINATES[config["form"]](*config["rates"])
    return Job(FitConfig(**config | {"rates": rates}), seed, image)


def _checksum(tensors: dict, metadata: dict[str, str]) -> str:
    crc = zlib.crc32("\n".join(metadata[name] for name in ("job", "step", "numbers")).encode())
    for name in sorted(tensors):
        crc = zlib.crc32(np.ascontiguousarray(tensors[name]).tobytes(), crc)
    return f"{crc:08x}"

"""A smaller network for views without poses learns from a larger one, what that saw being kept on disk.

The teacher's points, cameras and confidences are what `train.scene.unposed.Geometry` takes for true; its tokens and its
outputs as they are count beside, and what the student's own Gaussians look like.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from airjax.errors import AirjaxError
from airjax.inner.estimators import ZeroStep
from airjax.nn import pi3
from airjax.nn.pi3 import Pi3Output
from airjax.nn.resize import bilinear
from airjax.scene.pi3 import Seen, depths_of, placed
from airjax.scene.unposed import METADATA, Pi3System, system_to_text
from airjax.weights_file import load_weights
from train.optim import State
from train.scene.heads import HeadExperiment, HeadMeta
from train.scene.unposed import Geometry, truth_of_seen

_DRAWING = HeadMeta(ZeroStep(), trained="all")


@dataclass(frozen=True)
class Distillation(Geometry):
    """Training of a student, its head too.

    loss = that of `Geometry`, points, normals and cameras of the teacher being true
           + features * 1 - the cosine of tokens, after one layer from the student's to the teacher's, mean over taps
           + output * (|ln depth - the teacher's| + |confidence - the teacher's|), in the teacher's unit
           + image * minus the PSNR in dB of the judged views, drawn of the student's Gaussians from its own cameras
    """

    # normals, features, output, image: weights
    normals: float = 0.5
    features: float = 1.0
    output: float = 0.2
    image: float = 0.02
    capacity: tuple[int, int] | None = None  # of the renderer; None to plan it

    def make_trained(self, params: Any, experiment: Any) -> State:
        """The weights, and the layers from the student's taps to the teacher's, which are the identity at first."""
        student, teacher = (2 * part.config.backbone.decoder.width for part in (experiment.student, experiment.teacher))
        layers = jnp.tile(jnp.eye(student, teacher)[None], (len(experiment.student.config.backbone.pairs), 1, 1))
        return {"params": params, "layers": layers}

    def loss(self, trained: State, batch: Seen, key: jax.Array, experiment: Any):
        """See `Phase.loss`; a batch is what the teacher saw of some scenes, the judged views last."""
        batch = jax.lax.stop_gradient(batch)

        def of_scene(seen, key):
            return self.seen_loss(trained, seen, key, experiment)

        losses, metrics = jax.vmap(of_scene)(batch, jax.random.split(key, len(batch.images)))
        return jnp.mean(losses), jax.tree.map(jnp.nanmean, metrics)

    def seen_loss(self, trained: State, seen: Seen, key: jax.Array, experiment: Any):
        """Loss of one scene, and its metrics."""
        found = pi3.apply(trained["params"]["backbone"], seen.images, experiment.student.config.backbone)
        loss, metrics = self.scene_loss(found, truth_of_seen(seen))
        tokens = feature_error(found, seen, trained["layers"])
        depth = jnp.mean(jnp.abs(jnp.log(found.points[..., 2]) - jnp.log(depths_of(seen))))
        output = depth + jnp.mean(jnp.abs(jax.nn.sigmoid(found.confidence) - seen.confidence))
        loss = loss + self.features * tokens + self.output * output
        metrics |= {"features": tokens, "output": output}
        if self.image:
            own, count = placed(seen.images, found), experiment.data.context
            drawing = replace(_DRAWING, capacity=self.capacity)
            parts = drawing.make_trained(trained["params"]["head"], experiment)
            image, more = drawing.scene_loss(parts, own[:count], own[count:], key, experiment)
            loss, metrics = loss + self.image * image, metrics | {"psnr": more["psnr"], "overflow": more["overflow"]}
        return loss, metrics


def feature_error(found: Pi3Output, seen: Seen, layers: Float[Array, "t d e"]) -> Float[Array, ""]:
    """1 - the cosine of the student's tokens after its layers and the teacher's, on the student's grid."""
    errors = []
    for tap, theirs, layer in zip(found.taps, seen.taps, layers, strict=True):
        theirs = jnp.asarray(theirs).astype(jnp.float32)
        if theirs.shape[1:3] != tap.shape[1:3]:
            theirs = bilinear(theirs, tap.shape[1:3])
        ours = jnp.einsum("vrcd,de->vrce", tap, layer)
        lengths = (jnp.sqrt(jnp.sum(jnp.square(part), axis=-1) + 1e-12) for part in (ours, theirs))
        cosine = jnp.sum(ours * theirs, axis=-1) / (next(lengths) * next(lengths))
        errors.append(1 - jnp.mean(cosine))
    return jnp.mean(jnp.stack(errors))


@dataclass(frozen=True, kw_only=True)
class DistillationExperiment(HeadExperiment):
    """Training of a student by a teacher, whose system and weights are those of the data."""

    student: Pi3System
    encoder: str = ""  # weights file of its encoder alone (`airjax convert`) to start from, beside those of `init`

    @property
    def system(self) -> Pi3System:
        """The student."""
        return self.student

    @property
    def teacher(self) -> Pi3System:
        """The network that is learned from. Raises AirjaxError: it is of another kind."""
        if not isinstance(self.data.system, Pi3System):
            raise AirjaxError(f"expected Pi3X or its like for a teacher, got {type(self.data.system).__name__}")
        return self.data.system

    def init_params(self, key: jax.Array) -> Any:
        """Fresh weights of the student and of its head."""
        keys = jax.random.split(key)
        return {"backbone": self.student.init_backbone(keys[0]), "head": self.student.init_head(keys[1])}

    def adapt(self, params: dict, like: Any, source: Path) -> Any:
        """Weights of a student, or the decoder and the heads of a teacher: as many of its blocks, evenly spaced."""
        if "backbone" in params:
            return params
        kept = {name: params.get(name, part) for name, part in like["backbone"].items()}
        kept["encoder"] = like["backbone"]["encoder"]
        if self.encoder:
            kept["encoder"] = load_weights(Path(self.encoder))[0]["encoder"]
        kept["decoder"] = some_pairs(params["decoder"], like["backbone"]["decoder"])
        return like | {"backbone": kept}

    def metadata(self) -> dict[str, str]:
        """The student."""
        return {METADATA: system_to_text(self.student)}

    def look(self, params: Any, seen: Seen) -> tuple[Seen, Any]:
        """See `HeadExperiment.look`: the student looks for itself."""
        return self.student.see(params["backbone"], seen.images), params["head"]


def some_pairs(theirs: dict, like: dict) -> dict:
    """Pairs of blocks of a deeper decoder, evenly spaced, as those of a shallower one."""
    names = sorted(like, key=lambda name: int(name.removeprefix("pairs")))
    stacks = [theirs[name] for name in sorted(theirs, key=lambda name: int(name.removeprefix("pairs")))]
    stacked = jax.tree.map(lambda *parts: np.concatenate(parts), *stacks)
    counts = [len(jax.tree.leaves(like[name])[0]) for name in names]
    total = len(jax.tree.leaves(stacked)[0])
    chosen = np.linspace(0, total - 1, sum(counts)).round().astype(int)
    parts = dict(zip(names, np.split(chosen, np.cumsum(counts)[:-1]), strict=True))
    return {name: jax.tree.map(lambda leaf, part=part: leaf[part], stacked) for name, part in parts.items()}

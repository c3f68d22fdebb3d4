"""Refinement cases of procedural scenes: the predictor's Gaussians for each, and the task to refine them."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from airjax.arrays import AnyArray
from airjax.inner.task import Case
from airjax.scene.model import Model, load
from airjax.scene.procedural import Views, noise_textures, random_views
from airjax.scene.task import SceneTask

FIRST_SEED = 1_000_000  # of test scenes; training draws its seeds at random from all


def procedural_cases(
    count: int,
    *,
    model: Model | None = None,
    textures: Float[AnyArray, "T s s 3"] | None = None,
    image_size: tuple[int, int] = (32, 32),
    context: int = 2,
    targets: int = 2,
) -> list[Case]:
    """A case for each of `count` scenes; always the same.

    Args:
      model: whose prediction is the start, and whose rates are the task's; None for the shipped one.
      textures: of walls and objects, in [0, 1]; None for colored noise.
      context: number of views that are given.
      targets: number of views that a refinement is judged by.
    """
    model = load() if model is None else model
    cases = []
    for i in range(count):
        views = views_of_test_scene(textures, index=i, image_size=image_size, num_views=context + targets)
        images, cameras, near, far = views.images, views.cameras, float(views.near), float(views.far)
        gaussians = model.predict(images[:context], cameras[:context], near, far)
        task = SceneTask(
            images[:context],
            cameras[:context],
            near,
            target_images=images[context:],
            target_cameras=cameras[context:],
            rates=model.rates,
        )
        cases.append(Case(f"{FIRST_SEED + i}", task, gaussians))
    return cases


def views_of_test_scene(
    textures: Float[AnyArray, "T s s 3"] | None, *, index: int, image_size: tuple[int, int], num_views: int
) -> Views:
    """The views of test scene `index`, numpy arrays; arguments as in `procedural_cases`."""
    textures = noise_textures(jax.random.key(1), 32) if textures is None else jnp.asarray(textures)
    views = _random_views(jax.random.key(FIRST_SEED + index), textures, image_size=image_size, num_views=num_views)
    return jax.tree.map(np.asarray, views)


_random_views = partial(jax.jit, static_argnames=("image_size", "num_views"))(random_views)

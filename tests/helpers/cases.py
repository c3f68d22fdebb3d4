"""A small refinement case of each wing, for tests of what takes either."""

from __future__ import annotations

from dataclasses import replace

import jax.numpy as jnp
import numpy as np
import scenes2d
from dense import render_dense
from scenes3d import SIZE as VIEW_SIZE
from scenes3d import front_camera, random_set, stack

from airjax.image.task import ImageTask
from airjax.inner.task import Case
from airjax.scene.render import render
from airjax.scene.task import SceneTask

SIZE = (24, 32)
BACKGROUND = np.array([0.2, 0.4, 0.6], np.float32)
CAMERAS = stack(front_camera(), front_camera(center=(1.0, 0.2, -3.2)))


def image_case() -> Case:
    """Eighteen slots, some of them not in use, and what they show, moved a little."""
    gaussians = scenes2d.with_inactive(scenes2d.random_set(0, 14, SIZE), 0.3)[0]
    moved = replace(gaussians, means=gaussians.means + 0.7, colors=gaussians.colors * 0.9)
    return Case("image", ImageTask(np.asarray(render_dense(moved, image_size=SIZE))), gaussians)


def scene_case() -> Case:
    """Sixty Gaussians with other colors than two views of them show, some slots not in use."""
    target = random_set(2, 60, opacities=(0.3, 0.9))
    target = replace(target, active=jnp.arange(60) % 5 > 0)
    views = [render(target, CAMERAS[i], image_size=VIEW_SIZE, background=BACKGROUND).image for i in range(2)]
    task = SceneTask(jnp.stack(views), CAMERAS, 1.0, BACKGROUND)
    return Case("scene", task, replace(target, harmonics=target.harmonics + 0.3))

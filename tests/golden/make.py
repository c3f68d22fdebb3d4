"""Makes the golden renders and curves of this folder: python tests/golden/make.py

Run it again when renderer or loop change on purpose, look at the pictures, and say in the commit why they moved. The
sets are drawn by numpy with fixed seeds; `tests/test_golden.py` draws them again and compares.
"""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np

FOLDER = Path(__file__).resolve().parent
if __name__ == "__main__":
    sys.path[:0] = [str(FOLDER.parents[1]), str(FOLDER.parent / "helpers")]

from cases import image_case, scene_case  # noqa: E402
from scenes2d import random_set as random_set2d  # noqa: E402
from scenes3d import front_camera  # noqa: E402
from scenes3d import random_set as random_set3d  # noqa: E402

from airjax.image.fit import FitConfig, fit_states  # noqa: E402
from airjax.inner.task import advance, start_state  # noqa: E402
from airjax.photographs import to_8bit, write_image  # noqa: E402
from airjax.raster.draw import render as render2d  # noqa: E402
from airjax.scene.render import render as render3d  # noqa: E402

SIZE = (72, 96)


def make_renders() -> dict[str, np.ndarray]:
    """(h, w, 3) pictures by name, both kinds of Gaussians."""
    plain = random_set2d(7, 90, SIZE)
    thin = replace(plain, scales=plain.scales * np.array([[2.5, 0.3]], np.float32))
    scene = random_set3d(7, 120, degree=2)
    camera = front_camera(size=SIZE, focal=75.0)
    background = np.array([0.9, 0.8, 0.6], np.float32)
    pictures = {
        "image": render2d(plain, image_size=SIZE).image,
        "image_thin": render2d(thin, image_size=SIZE).image,
        "image_twice": render2d(plain, image_size=SIZE, scale=2.0).image,
        "scene": render3d(scene, camera, image_size=SIZE, background=background).image,
        "scene_antialiased": render3d(scene, camera, image_size=SIZE, antialiased=True).image,
    }
    return {name: np.asarray(picture) for name, picture in pictures.items()}


def make_curves() -> dict[str, list[float]]:
    """Losses of short refinements of both wings, and PSNR of a fit from scratch, in dB."""
    curves = {}
    for case in (image_case(), scene_case()):
        state, losses = start_state(case.task, case.gaussians), []
        for _ in range(4):
            state = advance(case.task, state, num_steps=5)
            losses.append(state.loss)
        curves[f"refinement of the {case.name}"] = losses
    image = to_8bit(make_renders()["image"][:32, :32]).astype(np.float32) / 255
    for form in ("scale_rotation", "cholesky"):
        config = FitConfig(num_gaussians=40, num_steps=40, form=form, additions=2)
        curves[f"fit, {form}"] = [state.psnr for state in fit_states(image, config, seed=1)]
    return curves


if __name__ == "__main__":
    for name, picture in make_renders().items():
        write_image(FOLDER / f"{name}.png", picture)
    text = json.dumps(make_curves(), indent=1)
    (FOLDER / "curves.json").write_text(f"{text}\n")

"""The shipped weights of both wings: they load, they predict, and as well as when they were shipped."""

from pathlib import Path

import numpy as np
import pytest

import airjax
from airjax.inner.task import run
from airjax.metrics import quality
from airjax.photographs import write_image
from airjax.scene.cases import procedural_cases, views_of_test_scene
from airjax.scene.render import render as render_view
from eval.scene.unposed import auc, pose_errors

pytestmark = pytest.mark.slow

SCENE = 2  # of four cameras that stand well apart
PHOTO = Path(__file__).resolve().parents[1] / "docs" / "images" / "kodim23.png"


@pytest.fixture(scope="module")
def image():
    return airjax.read_image(PHOTO)[160:288, 250:442]


@pytest.mark.parametrize(("stages", "psnr", "ssim", "size"), [(7, 39.93, 0.9582, 1599), (None, 41.83, 0.9683, 2954)])
def test_the_image_predictor(image, stages, psnr, ssim, size):
    """A parrot's head, 192 x 128, without a gradient step: PSNR, SSIM and size when this was written.

    Of the trained stages, and with the finer ones after them.
    """
    encoded = airjax.load().encode(image, num_stages=stages)
    found = quality(image, airjax.render(encoded.gaussians, image_size=encoded.image_size).image)
    assert found.psnr == pytest.approx(psnr, abs=0.05) and found.ssim == pytest.approx(ssim, abs=0.002)
    assert sum(encoded.stage_counts) == encoded.gaussians.num_slots == pytest.approx(size, rel=0.02)


def test_the_scene_predictor():
    """A procedural scene of two views, judged by two others: PSNR of the prediction, and after 10 steps."""
    (case,) = procedural_cases(1, image_size=(32, 32))

    def score(gaussians) -> float:
        task = case.task
        views = [render_view(gaussians, task.target_cameras[i], image_size=(32, 32)).image for i in range(2)]
        return float(np.mean([quality(*pair).psnr for pair in zip(task.target_images, views, strict=True)]))

    assert case.gaussians.num_slots == 2 * 32 * 32
    assert score(case.gaussians) == pytest.approx(27.96, abs=0.05)
    assert score(run(case.task, case.gaussians, num_steps=10)) == pytest.approx(31.97, abs=0.1)


def test_the_finder_of_poses(tmp_path):
    """Four photographs of a procedural scene in a folder, nothing else: cameras within some degrees of the true ones.

    And Gaussians that show the photographs.
    """
    views = views_of_test_scene(None, index=SCENE, image_size=(64, 64), num_views=4)
    for i, picture in enumerate(views.images):
        write_image(tmp_path / f"{i}.png", picture)
    made = airjax.reconstruct(tmp_path, refine_steps=0, hold_out=0)
    assert auc(pose_errors(made.cameras, views.cameras)) > 0.8
    drawn = [render_view(made.gaussians, made.cameras[i], image_size=(64, 64)).image for i in range(4)]
    assert np.mean([quality(*pair).psnr for pair in zip(views.images, drawn, strict=True)]) > 20

"""What frozen backbones see: kept on disk, made once, read again as it was."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from PIL import Image

from airjax.errors import AirjaxError
from airjax.scene.cameras import Camera
from airjax.scene.pi3 import Seen
from train.configs import foresplat_anysplat, foresplat_edge, foresplat_pi3x
from train.scene import taps as module
from train.scene.taps import Pi3System, TapData, batches, read_seen


@dataclasses.dataclass(frozen=True)
class Stub(Pi3System):
    """A backbone whose taps say how bright the views are; counts how often it is asked."""

    def init_backbone(self, key):
        return {}

    def see(self, params, images):
        views = len(images)
        jax.debug.callback(lambda: CALLS.append(1))
        cameras = Camera(*(jnp.ones((views, *shape)) for shape in ((3, 3), (3, 3), (3,))))
        taps = [jnp.full((views, 2, 2, 4), jnp.mean(images))] * 4
        return Seen(images, cameras, images + 1, images[..., 0], taps)


CALLS: list[int] = []


def photographs(folder, count: int, size=(40, 60)):
    folder.mkdir(parents=True)
    for i in range(count):
        Image.new("RGB", size, (10 * i, i, 255 - i)).save(folder / f"{i:02d}.png")


@pytest.fixture
def data(tmp_path):
    module._files.cache_clear()
    CALLS.clear()
    scenes = []
    for name in ("attic", "garden"):
        photographs(tmp_path / name / "images", 9)
        scenes.append(str(tmp_path / name))
    options = {"image_size": (16, 16), "views": 4, "scenes": tuple(scenes), "folder": str(tmp_path / "taps")}
    return TapData(Stub(foresplat_pi3x.TINY), **options)


def test_scenes_are_seen_once_and_kept(data):
    files = data.files()
    assert len(CALLS) == 2 and [file.name.split("-")[0] for file in files] == ["attic", "garden"]
    seen = read_seen(files[0])
    # Every 4th view is judged, and lies last; photographs are spread evenly over the folder.
    np.testing.assert_allclose(seen.images[:, 0, 0, 0] * 255, [0, 30, 50, 80], atol=0.01)
    assert data.context == 3 and data.judged == [3]
    assert seen.taps[3].dtype == ml_dtypes.bfloat16 and seen.taps[3].shape == (4, 2, 2, 4)
    np.testing.assert_array_equal(seen.points, seen.images + 1)
    module._files.cache_clear()
    assert data.files() == files and len(CALLS) == 2
    files[1].unlink()
    module._files.cache_clear()
    assert data.files() == files and len(CALLS) == 3


def test_other_weights_and_other_photographs_are_seen_again(data, tmp_path):
    before = data.files()
    assert not set(before) & set(dataclasses.replace(data, seed=1).files())
    Image.new("RGB", (40, 60), (9, 9, 9)).save(tmp_path / "attic" / "images" / "00.png")
    module._files.cache_clear()
    after = data.files()
    assert after[0] != before[0] and after[1] == before[1]


def test_batches_are_the_same_whenever_a_step_is_reached(data):
    stream = batches(data, 0)
    scenes = [next(stream).images for _ in range(4)]
    assert scenes[0].shape == (1, 4, 16, 16, 3)
    np.testing.assert_array_equal(next(batches(data, 3)).images, scenes[3])


def test_what_is_wrong_is_said_in_one_line(data, tmp_path):
    with pytest.raises(AirjaxError, match=r"images: expected at least 16 photographs, found 9"):
        dataclasses.replace(data, views=16).files()
    with pytest.raises(AirjaxError, match=r"got none; give --data\.scenes SCENE"):
        dataclasses.replace(data, scenes=()).files()
    file = data.files()[0]
    file.write_bytes(b"something else")
    with pytest.raises(AirjaxError, match="expected what a backbone saw, got something else"):
        read_seen(file)


def test_photographs_keep_their_middle():
    image = np.zeros((30, 90, 3), np.float32)
    image[:, 30:60] = 1
    assert module._cut(image, (10, 10)).mean() > 0.95
    assert module._cut(image, (10, 30)).shape == (10, 30, 3)


@pytest.mark.parametrize("config", [foresplat_pi3x, foresplat_anysplat, foresplat_edge])
def test_paper_size_and_variants(config):
    paper = config.experiment(False)
    assert (paper.phase.estimator.min_steps, paper.phase.estimator.max_steps, paper.phase.estimator.stride) == (
        50,
        500,
        40,
    )
    assert paper.loop.num_steps == 2000 and paper.data.judged == [3, 7, 11, 15] and paper.data.context == 12
    assert config.experiment(False, "zero_step").phase.estimator.name == "zero_step"
    pretraining = config.experiment(False, "pretraining")
    assert pretraining.loop.num_steps == 30_000 and pretraining.data.judged == [8]


def test_only_the_head_is_trained():
    """Nothing of the backbone is in the state; every weight of the head follows its gradient."""
    experiment = foresplat_pi3x.experiment(True)
    params = jax.eval_shape(experiment.init_params, jax.random.key(0))
    assert set(params) == {"trunk", "image1", "image2", "hidden", "last"}
    state = experiment.phase.make_trained(jax.tree.map(lambda leaf: jnp.ones(leaf.shape), params), experiment)
    tx = experiment.phase.make_tx(experiment.optimizer, (4,))
    with jax.numpy_dtype_promotion("standard"):
        opt = tx.init(state)
        for _ in range(2):
            updates, opt = tx.update(jax.tree.map(jnp.ones_like, state), opt, state)
    assert all(np.all(leaf != 0) for leaf in jax.tree.leaves(updates["params"]))
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(updates["log_rates"]))

"""What a user adds without touching the library: an estimator, an image loss, a scene loss, each in a few lines.

The estimator goes through training, the study of estimators and refinement curves, in 2D and in 3D; so do the losses.
"""

import json
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from airjax.image.patches import PatchMap
from airjax.image.stages import StageConfig
from airjax.inner.estimators import ESTIMATORS, Estimator, register
from airjax.nn.air_stage import PredictorConfig as StageNetwork
from airjax.photographs import write_image
from airjax.scene.predictor import PredictorConfig
from airjax.weights_file import load_weights
from eval import curves, estimators
from eval.curves import Curves, Start
from eval.estimators import Estimators
from eval.image.subjects import Images
from eval.scene.subjects import ProceduralScenes
from train.configs import foresplat_metagrad, metagrad

pytestmark = pytest.mark.slow

STAGES = (StageConfig(PatchMap(8, offset=0.75, max_scale=4.2), StageNetwork(8, 1, 1)),) * 2


@dataclass(frozen=True)
class Lookahead(Estimator):
    """The mean gradient at the start and after the last step."""

    num_steps: int = 2

    def __call__(self, key, start, rates, problem):
        kept = problem.refine(start, rates, num_steps=self.num_steps, keep=(0, self.num_steps)).kept
        losses, grads = jax.vmap(jax.value_and_grad(problem.outer))(kept)
        mean = jax.tree.map(lambda leaf: leaf.mean(axis=0), grads)
        return mean, jax.tree.map(jnp.zeros_like, rates), losses.mean()


def image_loss(image, rendered):
    """An image loss of one's own."""
    return jnp.sum(jnp.abs(image - rendered) ** 1.5)


def view_loss(image, rendered):
    """A scene loss of one's own."""
    return jnp.mean(jnp.abs(image - rendered) ** 1.5)


@pytest.fixture(autouse=True)
def standard_promotion():
    """optax raises Python floats to the power of an int32."""
    with jax.numpy_dtype_promotion("standard"):
        yield


@pytest.fixture(autouse=True)
def lookahead(monkeypatch):
    """The estimator under its name, for the time of a test."""
    monkeypatch.setitem(ESTIMATORS, "lookahead", Lookahead)
    assert register("lookahead")(Lookahead) is Lookahead


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """A folder with a photograph of 32 x 32 pixels."""
    folder = tmp_path_factory.mktemp("photos")
    y, x = np.mgrid[:32, :32] / 6
    write_image(folder / "a.png", 0.5 + 0.3 * np.stack([np.sin(x), np.cos(y), np.sin(x + y)], axis=-1))
    return folder


def wing(name: str, photos):
    """(experiment of the new estimator and loss, the same for subjects of evaluations)."""
    if name == "image":
        experiment = metagrad.experiment(True, "lookahead")
        experiment = experiment.with_(stages=STAGES, data={"folders": (str(photos),)}, phase={"loss_fn": image_loss})
        return experiment, Images(str(photos), crop=16, loss_fn=image_loss)
    experiment = foresplat_metagrad.experiment(True, "lookahead")
    predictor = PredictorConfig(planes=4, matching=16, widths=(16, 16, 16, 16))
    experiment = experiment.with_(predictor=predictor, data={"image_size": (16, 16)}, phase={"loss_fn": view_loss})
    return experiment, ProceduralScenes(made_up=10, num_scenes=1, image_size=(16, 16), loss_fn=view_loss)


@pytest.mark.parametrize("name", ["image", "scene"])
def test_an_estimator_and_a_loss_of_ones_own(name, photos, tmp_path, capsys):
    experiment, subjects = wing(name, photos)
    assert experiment.phase.estimator.name == "lookahead" and experiment.name.endswith("lookahead_0_smoke")
    experiment = experiment.with_(loop={"num_steps": 2})
    experiment.run(tmp_path / "run")
    weights = tmp_path / "run" / "weights.safetensors"
    assert load_weights(weights)[0]

    study = Estimators("e", "d", subjects, ("lookahead", "zero_step"), horizons=(2,), draws=2)
    assert estimators.run(study, weights, tmp_path) == 0
    records = json.loads((tmp_path / "estimators.json").read_text())["records"]
    cosines = {record["name"]: record["mean"]["cosine"] for record in records}
    assert list(cosines) == ["unrolled", "lookahead", "zero_step"] and 0 < cosines["lookahead"] < 1

    starts = (Start("one", (str(weights),)), Start("two", (str(weights),)))
    config = Curves("c", "d", subjects, starts, steps=(0, 3), compared=(3,))
    assert curves.run(config, None, tmp_path) == 0
    report = json.loads((tmp_path / "curves.json").read_text())
    assert report["psnr"]["one"][1] > report["psnr"]["one"][0]
    assert report["settings"]["subjects"]["loss_fn"] == subjects.loss_fn.__name__
    assert "lookahead" in capsys.readouterr().out

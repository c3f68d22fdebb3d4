"""What a user adds without touching the library: an estimator and a loss, each in a few lines.

They go through training, the study of estimators and refinement curves of scenes; of images: docs/extending.md, whose
code tests/test_docs.py runs.
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
from airjax.scene.predictor import PredictorConfig
from airjax.weights_file import load_weights
from eval import curves, estimators
from eval.curves import Curves, Start
from eval.estimators import Estimators
from eval.scene.subjects import ProceduralScenes
from train.configs import foresplat_metagrad

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


def test_an_estimator_and_a_loss_of_ones_own(tmp_path, capsys):
    experiment = foresplat_metagrad.experiment(True, "lookahead")
    predictor = PredictorConfig(planes=(8, 4), matching=16, coarse=(16, 16), fine=(16, 16))
    experiment = experiment.with_(predictor=predictor, data={"image_size": (16, 16)}, phase={"loss_fn": view_loss})
    scenes = ProceduralScenes(made_up=10, num_scenes=2, image_size=(16, 16), loss_fn=view_loss)
    assert experiment.phase.estimator.name == "lookahead" and experiment.name.endswith("lookahead_0_smoke")
    experiment = experiment.with_(loop={"num_steps": 2})
    experiment.run(tmp_path / "run")
    weights = tmp_path / "run" / "weights.safetensors"
    assert load_weights(weights)[0]

    study = Estimators("e", "d", scenes, ("lookahead", "zero_step"), horizons=(2,), draws=2)
    assert estimators.run(study, weights, tmp_path) == 0
    records = json.loads((tmp_path / "estimators.json").read_text())["records"]
    records = {record["name"]: record for record in records}
    assert list(records) == ["unrolled", "lookahead", "zero_step"] and 0 < records["lookahead"]["mean"]["cosine"] < 1
    exact, cosines = records["unrolled"]["group_means"], records["zero_step"]["cosine"]
    assert set(exact) == {"means", "log_scales", "quats", "logits", "base"}  # "rest" has no element
    np.testing.assert_allclose(list(exact.values()), 1, rtol=1e-6)
    error = records["zero_step"]["error_over_cases"]["cosine"]
    assert len(cosines) == 2 and error == pytest.approx(abs(np.diff(cosines)[0]) / 2)

    starts = (Start("one", (str(weights),)), Start("two", (str(weights),)))
    config = Curves("c", "d", scenes, starts, steps=(0, 3), compared=(3,))
    assert curves.run(config, None, tmp_path) == 0
    report = json.loads((tmp_path / "curves.json").read_text())
    assert report["psnr"]["one"][1] > report["psnr"]["one"][0]
    assert report["settings"]["subjects"]["loss_fn"] == "view_loss"
    said = capsys.readouterr().out
    assert "lookahead" in said and "logits" in said

"""What a user adds without touching the library: an estimator and a loss, each in a few lines.

They go through the study of estimators and refinement curves of scenes, and a step of training is traced with them
(tests/train/test_main.py runs some); of images: docs/extending.md, whose code tests/test_docs.py runs.
"""

import json
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny import SCENE_PREDICTOR, save_scene_weights

from airjax.inner.estimators import ESTIMATORS, Estimator, register
from eval import curves, estimators
from eval.curves import Curves, Start
from eval.estimators import Estimators
from eval.scene.subjects import ProceduralScenes
from train.configs import foresplat_metagrad

pytestmark = pytest.mark.slow


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


def test_training_knows_them(monkeypatch):
    """A step is traced, not compiled: the estimator and the loss are part of it."""
    experiment = foresplat_metagrad.experiment(True, "lookahead")
    assert experiment.phase.estimator.name == "lookahead" and experiment.name.endswith("lookahead_0_smoke")
    called = []

    def loss(image, rendered):
        called.append("loss")
        return view_loss(image, rendered)

    monkeypatch.setattr(
        Lookahead, "__call__", lambda *args, _call=Lookahead.__call__: called.append("estimator") or _call(*args)
    )
    changes = {"predictor": SCENE_PREDICTOR, "data": {"image_size": (16, 16)}, "phase": {"loss_fn": loss}}
    experiment = experiment.with_(**changes)
    init, step = experiment.make_step()
    state = jax.eval_shape(lambda: init(experiment.init_params(jax.random.key(0))))
    after, metrics = jax.eval_shape(step, state, {"seeds": jax.ShapeDtypeStruct((2,), jnp.uint32)})
    assert set(called) == {"estimator", "loss"}
    assert jax.tree.map(jnp.shape, after) == jax.tree.map(jnp.shape, state) and metrics["psnr"].shape == ()


def test_studies_know_them(tmp_path, capsys):
    weights = save_scene_weights(tmp_path / "weights.safetensors")
    scenes = ProceduralScenes(made_up=10, num_scenes=2, image_size=(16, 16), loss_fn=view_loss)
    study = Estimators("e", "d", scenes, ("lookahead",), horizons=(2,), draws=2)
    assert estimators.run(study, weights, tmp_path) == 0
    records = json.loads((tmp_path / "estimators.json").read_text())["records"]
    records = {record["name"]: record for record in records}
    assert list(records) == ["unrolled", "lookahead"] and 0 < records["lookahead"]["mean"]["cosine"] < 1
    exact, cosines = records["unrolled"]["group_means"], records["lookahead"]["cosine"]
    assert set(exact) == {"means", "log_scales", "quats", "logits", "base"}  # "rest" has no element
    np.testing.assert_allclose(list(exact.values()), 1, rtol=1e-6)
    error = records["lookahead"]["error_over_cases"]["cosine"]
    assert len(cosines) == 2 and error == pytest.approx(abs(np.diff(cosines)[0]) / 2)

    starts = (Start("one", (str(weights),)), Start("two", (str(weights),)))
    config = Curves("c", "d", scenes, starts, steps=(0, 3), compared=(3,))
    assert curves.run(config, None, tmp_path) == 0
    report = json.loads((tmp_path / "curves.json").read_text())
    assert report["psnr"]["one"][1] > report["psnr"]["one"][0]
    assert report["settings"]["subjects"]["loss_fn"] == "view_loss"
    said = capsys.readouterr().out
    assert "lookahead" in said and "logits" in said

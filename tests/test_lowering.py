"""Everything that is jitted lowers for CUDA and TPU, on a machine that has neither: traced and lowered, not compiled.

What lowers can still fail in a compiler of theirs; `python -m eval.main accelerator` runs it there.
"""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny import noise_atlas, random_weights

from airjax.gaussians import Gaussians2D, Gaussians3D
from airjax.image import color_solve
from airjax.image.patches import PatchMap
from airjax.image.presets import air_stages
from airjax.image.stages import StageConfig, StageControl, init_params, predict_stage, run_stages
from airjax.image.task import ImageTask
from airjax.inner import task as inner
from airjax.inner.estimators import ESTIMATORS
from airjax.nn import pi3 as pi3_network
from airjax.nn.air_stage import AirnetConfig, predictor_of
from airjax.nn.air_stage import PredictorConfig as StageNetwork
from airjax.nn.gaussian_head import GaussianHeadConfig
from airjax.nn.vggt import VggtConfig
from airjax.nn.vit import BlockConfig
from airjax.raster import plan
from airjax.raster.additive import render_patches
from airjax.raster.draw import render as render_image
from airjax.raster.tiles import Capacity, Footprints, TiledImage, Tiling
from airjax.scene import anysplat, pi3
from airjax.scene import model as scene_model
from airjax.scene.anysplat import AnySplatConfig
from airjax.scene.cameras import Camera
from airjax.scene.predictor import PredictorConfig
from airjax.scene.render import render as render_view
from airjax.scene.task import SceneTask
from train.image.air import AirQuantised
from train.image.data import DataConfig
from train.image.experiment import ImageExperiment
from train.image.losses import Compact, Joint
from train.image.meta import ImageMeta
from train.loop import LoopConfig
from train.optim import Optimizer
from train.scene.data import SceneData
from train.scene.experiment import SceneExperiment
from train.scene.losses import Vanilla

pytestmark = pytest.mark.slow

PLATFORMS = ("cuda", "tpu")
SIZE = (16, 24)  # (h, w) pixels
CAPACITY = Capacity(64, 16)
# With the votes of the shipped networks, and a stage that sees the image at half its size.
PATCHES = PatchMap(8, offset=0.75, max_scale=4.2)
STAGES = (
    StageConfig(dataclasses.replace(PATCHES, patch_size=16), StageNetwork(8, 1, 1, reduction=2, votes=6)),
    StageConfig(PATCHES, StageNetwork(8, 1, 1, votes=6)),
)
PREDICTOR = PredictorConfig(planes=(8, 4), matching=16, coarse=(16, 16), fine=(16, 16))
TRAINING = {"optimizer": Optimizer(learning_rate=1e-3), "loop": LoopConfig(num_steps=2)}
JOINT = Joint(stage_weights=(1.0,))


def lower(function, *arguments):
    """The program for both platforms at once."""
    exported = jax.export.export(jax.jit(function), platforms=PLATFORMS)(*arguments)
    assert exported.platforms == PLATFORMS
    return exported


def floats(*shape):
    return jax.ShapeDtypeStruct(shape, jnp.float32)


def flat(n):
    return Gaussians2D(floats(n, 2), floats(n, 2), floats(n), floats(n, 3), jax.ShapeDtypeStruct((n,), bool))


def solid(n):
    active = jax.ShapeDtypeStruct((n,), bool)
    return Gaussians3D(floats(n, 3), floats(n, 3), floats(n, 4), floats(n), floats(n, 4, 3), active)


def cameras(*stack):
    return Camera(floats(*stack, 3, 3), floats(*stack, 3, 3), floats(*stack, 3))


def gradient(draw):
    """(sum of the image, its gradient by every number of the Gaussians)."""
    return jax.value_and_grad(lambda *arguments: jnp.sum(draw(*arguments)), allow_int=True)


DRAWN = {
    "additive, sorted lists": (partial(render_image, image_size=SIZE, capacity=CAPACITY), (flat(6),)),
    "additive, any order": (partial(render_image, image_size=SIZE, capacity=CAPACITY, any_order=True), (flat(6),)),
    "additive, patch grid": (partial(render_patches, patches=PATCHES.layout((2, 3))), (flat(6),)),
    "alpha": (partial(render_view, image_size=SIZE, capacity=CAPACITY), (solid(6), cameras())),
    "alpha, any order": (
        partial(render_view, image_size=SIZE, capacity=CAPACITY, any_order=True),
        (solid(6), cameras()),
    ),
    "alpha, of 3DGS": (
        partial(
            render_view, image_size=SIZE, capacity=CAPACITY, preset="inria", antialiased=True, background=(1.0,) * 3
        ),
        (solid(6), cameras()),
    ),
}


@pytest.mark.parametrize("name", DRAWN)
def test_renderers_and_their_gradients(name):
    draw, arguments = DRAWN[name]
    lower(gradient(lambda *arguments: getattr(drawn := draw(*arguments), "image", drawn)), *arguments)


@pytest.mark.parametrize("color_step", [None, floats()], ids=["exact", "rounded"])
def test_the_encode_path(color_step):
    params = jax.eval_shape(lambda: init_params(jax.random.key(0), STAGES))
    control = StageControl(floats(), floats(), floats(), color_step)
    stages = partial(run_stages, STAGES, skip_idle=True)
    lower(lambda *arguments: [stage.gaussians for stage in stages(*arguments)], params, floats(*SIZE, 3), control)


AIR = AirnetConfig(16, 1, (1, 1), (8, 8, 8, 8, 8), features=8, remat=True)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_airs_own_network(dtype):
    """A head of the paper's size on a photograph; the pipeline with a small one, and its training."""
    stage = air_stages(7, AirnetConfig(dtype=dtype), stretched_grid=True)[0]
    with jax.numpy_dtype_promotion("standard"):  # the attention of JAX itself mixes types
        params = jax.eval_shape(predictor_of(stage.network, 7).init, jax.random.key(0))
        lower(partial(predict_stage, stage), params, floats(512, 768, 3))
    stages = air_stages(7, dataclasses.replace(AIR, dtype=dtype))[:2]
    data = DataConfig(folders=("nowhere",))
    experiment = ImageExperiment(
        name="e", phase=AirQuantised(JOINT), stages=stages[:1], data=data, quantiser=True, **TRAINING
    )
    check_training(experiment, floats(1, *SIZE, 3))


def test_planning_and_the_color_solve():
    footprints = Footprints(floats(6, 2), floats(6, 2), floats(6, 3), floats(6), jax.ShapeDtypeStruct((6,), bool))
    image = TiledImage(floats(512, 3 * 8**2), jax.ShapeDtypeStruct((2,), jnp.int32))
    make_lists = partial(plan._lists.__wrapped__, capacity=64)
    lower(lambda footprints, image: plan._num_pairs(footprints, image.tiling(8)), footprints, image)
    lower(partial(plan._num_chunks.__wrapped__, tiling=Tiling(SIZE, 8), max_pairs=64), footprints)
    lower(lambda footprints, image: make_lists(footprints, image.tiling(8)), footprints, image)
    lists = jax.eval_shape(lambda *arguments: make_lists(arguments[0], arguments[1].tiling(8)), footprints, image)
    lower(partial(color_solve._solve, num_steps=2), flat(6), lists, image)


def test_the_scene_predictor():
    predict = partial(scene_model._predict, config=PREDICTOR, rows=((0, 1), (1, 2)))
    empty = masks = jax.ShapeDtypeStruct((3, *SIZE), bool)
    views = floats(3, *SIZE, 3), cameras(3), empty, masks
    lower(predict, random_weights(PREDICTOR), *views, floats(), floats())


def test_anysplat_and_the_gradient_of_its_gaussian_head():
    network = VggtConfig(
        *(32, 2, (1, 1, 1, 1), 2, 1, 2, 1),
        *((16, 16, 16, 16), 16, 16, 16, 21),
        dtype="bfloat16",
        remat=True,
    )
    config, images = AnySplatConfig(network), floats(2, 28, 42, 3)

    def loss(head, params, images):
        gaussians, _ = anysplat._predict.jitted(params | {"gaussians": head}, images, config=config)
        return jnp.sum(gaussians.opacities) + jnp.sum(gaussians.harmonics)

    with jax.numpy_dtype_promotion("standard"):  # JAX's attention in bfloat16 needs it
        params = jax.eval_shape(lambda: anysplat.init_params(jax.random.key(0), config))
        lower(jax.value_and_grad(loss), params["gaussians"], params, images)


@pytest.mark.parametrize("wing", ["image", "scene"])
def test_refinement(wing):
    if wing == "image":
        task, gaussians, batches = ImageTask(floats(*SIZE, 3)), flat(6), None
    else:
        task, gaussians = SceneTask(floats(2, *SIZE, 3), cameras(2), floats(), floats(3)), solid(6)
        batches = np.zeros((3, 2), np.int32)
    task = jax.tree.map(lambda leaf: floats() if isinstance(leaf, float) else leaf, task)

    def advance(task, gaussians):
        coordinates = task.coordinates(gaussians)
        state = task.make_tx(task.rates).init(coordinates)
        return inner._segment(task, coordinates, gaussians.active, state, batches, num_steps=3, capacity=CAPACITY)

    with jax.numpy_dtype_promotion("standard"):
        lower(advance, task, gaussians)


IMAGE_PHASES = {
    "joint": JOINT,
    "compact": Compact(joint=JOINT),
    "meta": ImageMeta(ESTIMATORS["budget"].at(3), learn_rates=True),
}


@pytest.mark.parametrize("name", IMAGE_PHASES)
def test_training_of_the_image_predictor(name):
    data = DataConfig(folders=("nowhere",))
    experiment = ImageExperiment(name="e", phase=IMAGE_PHASES[name], stages=STAGES[1:], data=data, **TRAINING)
    check_training(experiment, floats(2, *SIZE, 3))


def test_training_of_the_scene_predictor(monkeypatch):
    monkeypatch.setattr(SceneExperiment, "textures", noise_atlas(count=4))
    data = SceneData(made_up=20, image_size=(16, 16), batch_size=1)
    experiment = SceneExperiment(name="e", phase=Vanilla(capacity=CAPACITY), predictor=PREDICTOR, data=data, **TRAINING)
    check_training(experiment, {"seeds": jax.ShapeDtypeStruct((1,), jnp.uint32)})


def test_pi3x_and_a_gaussian_head():
    """And the gradients of both."""
    backbone = dataclasses.replace(pi3_network.small(32, 2, blocks=1), metric=BlockConfig(16, 1), metric_blocks=1)
    config = pi3.SplatConfig(backbone, GaussianHeadConfig(8, 8, 8, degree=1))

    def total(params, head, images):
        gaussians = pi3.splats(head, pi3.see(params, images, backbone), config)
        return sum(jnp.sum(leaf) for leaf in jax.tree.leaves(gaussians)[:-1])

    params = jax.eval_shape(lambda: pi3.init_backbone(jax.random.key(0), config))
    head = jax.eval_shape(lambda: pi3.init_splats(jax.random.key(0), config))
    lower(jax.value_and_grad(total, argnums=(0, 1)), params, head, floats(2, *SIZE, 3))


def check_training(experiment, batch):
    init, step = experiment.make_step()
    with jax.numpy_dtype_promotion("standard"):
        state = jax.eval_shape(lambda: init(experiment.init_params(jax.random.key(0))))
        lower(step, state, batch)


def test_what_does_not_lower_is_found():
    """The other tests rest on it: a custom call that CUDA does not have."""
    call = jax.ffi.ffi_call("nowhere", jax.ShapeDtypeStruct((2,), jnp.float32))
    with pytest.raises((ValueError, NotImplementedError)):
        lower(call, floats(2))

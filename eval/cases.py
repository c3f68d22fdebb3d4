"""What is checked and timed on an accelerator: the functions of both wings, with inputs that do not depend on it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from airjax.errors import AirjaxError
from airjax.gaussians import Gaussians3D
from airjax.image.codec import air_file
from airjax.image.codec.compress import compress
from airjax.image.color_solve import solve
from airjax.image.model import Model, load
from airjax.image.model import predict as predict_image
from airjax.image.stages import stage_control_of
from airjax.image.task import ImageTask
from airjax.inner.task import HEADROOMS, SEGMENT, State, Task, advance, start_state
from airjax.metrics import psnr_8bit
from airjax.photographs import read_image
from airjax.raster.draw import TILE_SIZE
from airjax.raster.tiles import CHUNK
from airjax.scene.cases import views_of_test_scene
from airjax.scene.model import Model as SceneModel
from airjax.scene.model import load as load_scene_model
from airjax.scene.predictor import predict as predict_scene
from airjax.scene.procedural import Views
from airjax.scene.task import SceneTask
from eval.image.bench import Benchmark, Subject, drawings, floats_of, loss_gradient
from eval.image.measures import decode_pixels
from eval.image.sets import find_set
from eval.scene.bench import cell_gaussians, drawing_of
from train.image.data import DataConfig
from train.image.experiment import ImageExperiment
from train.image.losses import Joint
from train.loop import LoopConfig
from train.optim import Optimizer
from train.scene.data import SceneData
from train.scene.experiment import SceneExperiment
from train.scene.losses import Vanilla

if TYPE_CHECKING:
    from eval.accelerator import Accelerator

# Largest differences that are not worth a line, as shares of the largest value. Images, and gradients with what steps
# along them make, are sums of many terms in another order: an NVIDIA H200 has half of that in float32 (5e-5, 5e-4).
# Decisions can tip over (a patch gets a Gaussian or not): counts, sizes and decibels behind them.
IMAGE, GRADIENT, DECISIONS = 1e-4, 1e-3, 2e-3


class Case(NamedTuple):
    """One row: a function of arrays, and what of its result is compared."""

    what: str
    function: Callable[..., Any]
    arguments: tuple  # pytrees of arrays, put on a device once
    # Of the result: outputs by name. One called "overflow" is the share of lists that overflowed, expected to be 0.
    values: Callable[[Any], Mapping[str, Any]]
    tolerance: float  # of a difference, a share of the largest value
    program: bool = False  # whether all of the function is one program of JAX
    steps: int = 1  # of one call, which is divided by them
    evaluations: int | None = None  # exponentials of one step, where they are what counts
    flops: float | None = None  # operations of one step; None for XLA's count of a program


@dataclass(frozen=True)
class Inputs:
    """What the rows compute on, made by the CPU and shared by them."""

    config: Accelerator
    weights: Path | None

    @cached_property
    def subject(self) -> Subject:
        """The photograph and its Gaussians."""
        config = self.config
        settings = Benchmark(config.name, config.description, config.images, config.max_gaussians, config.solve_steps)
        path = find_set(config.images)[0]
        return Subject(load(self.weights), self.weights, path, read_image(path).pixels, settings)

    def subject_with(self, params: Any) -> Subject:
        """The same with weights that are on another device."""
        return replace(self.subject, model=replace(self.subject.model, params=params))

    @cached_property
    def views(self) -> Views:
        """Two views of a procedural scene."""
        return views_of_test_scene(None, index=0, image_size=(self.config.view_size,) * 2, num_views=2)

    @cached_property
    def gaussians(self) -> Gaussians3D:
        """Of that scene."""
        return jax.device_get(jax.jit(cell_gaussians, static_argnums=1)(self.views, self.config.cell))

    @cached_property
    def scene_model(self) -> SceneModel:
        """The scene predictor."""
        return load_scene_model(self.config.scene_weights)


def sum_cases(inputs: Inputs) -> Iterator[Case]:
    """The 2D renderer."""
    for name, (draw, floats, count) in drawings(inputs.subject).items():
        yield Case(f"2D sum, {name}", draw, (floats,), _drawn, IMAGE, program=True, evaluations=count)
        both = loss_gradient(draw, inputs.subject.image)
        what = f"2D sum, {name}, forward + backward"
        yield Case(what, both, (floats,), _gradient, GRADIENT, program=True, evaluations=2 * count)


def alpha_cases(inputs: Inputs) -> Iterator[Case]:
    """The 3D renderer."""
    draw, loss, floats, count = drawing_of(inputs.gaussians, inputs.views)
    yield Case("3D alpha", draw, (floats,), _drawn, IMAGE, program=True, evaluations=count)
    both = jax.value_and_grad(loss)
    what = "3D alpha, forward + backward"
    yield Case(what, both, (floats,), _gradient, GRADIENT, program=True, evaluations=2 * count)


def _drawn(rendered: Any) -> dict[str, Any]:
    return {"pixels": rendered.image, "overflow": rendered.overflow}


def _gradient(result: tuple[Any, Any]) -> dict[str, Any]:
    """The loss, and the gradient by each field of the Gaussians, whose sets are lists of fields."""
    loss, gradient = result
    sets = gradient if isinstance(gradient, list) else [gradient]
    names = sets[0]
    return {"loss": loss, **{f"d {name}": np.concatenate([np.ravel(part[name]) for part in sets]) for name in names}}


def predict_cases(inputs: Inputs) -> Iterator[Case]:
    """The networks, every patch with a Gaussian: nothing is decided."""
    subject, config, views, scene = inputs.subject, inputs.config, inputs.views, inputs.scene_model
    model, control = subject.model, stage_control_of(mse_threshold=-1.0)

    def networks(params):
        return predict_image(params, subject.image, control, stages=model.stages)

    what = f"encode, networks of {len(model.stages)} stages"
    yield Case(what, networks, (model.params,), floats_of, GRADIENT, flops=subject.network_flops)
    what = f"scene prediction, 2 views of {config.view_size} pixels"
    arguments = scene.params, views.images, views.cameras, views.near, views.far
    yield Case(what, partial(predict_scene, config=scene.config), arguments, _predicted, GRADIENT, program=True)


def _predicted(prediction: Any) -> dict[str, Any]:
    names = "means", "scales", "quats", "opacities", "harmonics"
    return {"depths": prediction.depths, **{name: getattr(prediction.gaussians, name) for name in names}}


def codec_cases(inputs: Inputs) -> Iterator[Case]:
    """Pixels to Gaussians and files, and back; what is not a network runs on the host, or through programs in turn."""
    subject, steps = inputs.subject, inputs.config.solve_steps
    params = (subject.model.params,)

    def encoded(result):
        return {"Gaussians": result.gaussians.num_slots, "decibels": psnr_8bit(subject.image, result.render())}

    def written(data):
        return {"bytes": len(data), **encoded(air_file.decode(data))}

    def to_file(params):
        return air_file.encode(compress(replace(subject.model, params=params), subject.image))

    solved = lambda params: inputs.subject_with(params).encode(steps)  # noqa: E731
    yield Case(f"encode, {steps} solve steps", solved, params, encoded, DECISIONS)
    yield Case("encode, compact file", to_file, params, written, DECISIONS)
    for kind, data in (("lossless", air_file.encode(subject.encoded)), ("compact", to_file(*params))):
        yield Case(f"decode, {kind} file", partial(decode_pixels, data), (), lambda pixels: {"pixels": pixels}, IMAGE)


def solve_cases(inputs: Inputs) -> Iterator[Case]:
    """The color solve of given Gaussians."""
    subject, steps = inputs.subject, inputs.config.solve_steps
    function = partial(solve, image=subject.image, num_steps=steps)
    arguments = (subject.encoded.gaussians,)
    yield Case(f"color solve, {steps} steps", function, arguments, lambda g: {"colors": g.colors}, GRADIENT)


def refine_cases(inputs: Inputs) -> Iterator[Case]:
    """Steps of refinement, lists sorted in each."""
    subject, views = inputs.subject, inputs.views
    wings = {
        "2D": (ImageTask(subject.image), subject.encoded.gaussians, 1),
        "3D, two views": (SceneTask(views.images, views.cameras, float(views.near)), inputs.gaussians, 2),
    }
    for name, (task, gaussians, count) in wings.items():
        state = start_state(task, gaussians)
        capacity = task.plan(task.gaussians(state.coordinates, state.active), headroom=HEADROOMS[0], thorough=True)
        arrays = task, state.coordinates, state.active, task.make_tx(task.rates).init(state.coordinates)
        chunks = capacity.chunks  # None in 2D, where those that stay unused are not drawn
        drawn = subject.list_evaluations if chunks is None else chunks * CHUNK * TILE_SIZE**2
        work = 2 * count * drawn
        function, values = partial(_advance, capacity=capacity), partial(_advanced, capacity=capacity)
        yield Case(f"refinement step, {name}", function, arrays, values, GRADIENT, steps=SEGMENT, evaluations=work)


def _advance(task: Task, coordinates: Any, active: Any, inner_state: Any, *, capacity: Any) -> State:
    """The first steps, their lists already planned."""
    return advance(task, State(0, coordinates, active, inner_state, capacity=capacity), num_steps=SEGMENT)


def _advanced(state: State, *, capacity: Any) -> dict[str, Any]:
    """`advance` plans again where lists overflow."""
    return {"loss": state.loss, "overflow": state.capacity != capacity}


def training_cases(inputs: Inputs) -> Iterator[Case]:
    """A step of training of both predictors, from their weights; every patch has a Gaussian."""
    config, model, scene = inputs.config, inputs.subject.model, inputs.scene_model
    common = {"name": config.name, "optimizer": Optimizer(learning_rate=1e-3), "loop": LoopConfig(num_steps=1000)}
    weights = (*(0.2,) * (len(model.stages) - 1), 1.0)
    phase = Joint(stage_weights=weights, log10_mse=(-9.0, -9.0), budget=(2.0, 2.0))
    data = DataConfig(folders=("none",), crop_size=config.crop_size, batch_size=config.batch_size)
    image = ImageExperiment(**common, phase=phase, stages=model.stages, data=data)
    crops = _crops(inputs.subject.image, config.batch_size, config.crop_size)
    what = f"training step, {config.batch_size} images of {config.crop_size} pixels"
    yield _training_case(what, image, model, crops)
    size = (config.training_view,) * 2
    views = SceneData(made_up=20, image_size=size, batch_size=config.batch_size)
    scenes = SceneExperiment(**common, phase=Vanilla(), predictor=scene.config, data=views)
    what = f"training step, {config.batch_size} scenes of 4 views of {config.training_view} pixels"
    yield _training_case(what, scenes, scene, {"seeds": np.arange(config.batch_size, dtype=np.uint32)})


def _training_case(what: str, experiment: Any, model: Model | SceneModel, batch: Any) -> Case:
    init, step = experiment.make_step()
    arguments = init(jax.tree.map(jnp.asarray, model.params)), batch
    return Case(what, step, arguments, _trained, GRADIENT, program=True)


def _trained(result: tuple[dict[str, Any], dict[str, Any]]) -> dict[str, Any]:
    """Loss and gradient: Adam's first moment after one step is a tenth of the gradient."""
    state, metrics = result
    moments = jax.tree.leaves(optax.tree_utils.tree_get(state["opt_state"], "mu"))
    gradient = np.concatenate([np.ravel(moment) for moment in moments])
    return {"loss": metrics["loss"], "gradient": gradient, "overflow": metrics.get("overflow", 0.0)}


def _crops(image: np.ndarray, count: int, side: int) -> np.ndarray:
    """Squares (count, side, side, 3) along the diagonal of an image that is at least as large."""
    if (most := min(image.shape[:2])) < side:
        raise AirjaxError(f"crop_size: expected at most {most}, pixels of a side of the photograph, got {side}")
    corners = np.linspace((0, 0), np.subtract(image.shape[:2], side), count).round().astype(int)
    return np.stack([image[y : y + side, x : x + side] for y, x in corners])


PARTS: dict[str, Callable[[Inputs], Iterable[Case]]] = {
    "2D sum": sum_cases,
    "3D alpha": alpha_cases,
    "predict": predict_cases,
    "codec": codec_cases,
    "solve": solve_cases,
    "refine": refine_cases,
    "training": training_cases,
}

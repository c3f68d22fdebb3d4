"""What an accelerator computes, and how fast: every row is checked against this machine's CPU, and timed.

Both happen in one process, on the same inputs, which the CPU makes. First all rows are compiled, for both devices and
several at a time; then, with nothing else running, they are measured one after the other.

A difference is the largest one of an output, as it is and as a share of the largest value that the CPU has there.
Shares of the machine are rates against those of plain loops of the same run. Exponentials are counted as in
`eval.image.bench`, operations and bytes of a program by XLA, which counts the body of a loop once.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import math
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.extend.backend import get_backend
from tqdm import tqdm

from airjax.commands.session import Clock
from airjax.errors import AirjaxError
from airjax.files import atomic_write_bytes, find_images
from airjax.gaussians import Gaussians3D
from airjax.image.codec import air_file
from airjax.image.codec.compress import compress
from airjax.image.color_solve import solve
from airjax.image.model import Model, load
from airjax.image.model import predict as predict_image
from airjax.image.stages import stage_control_of
from airjax.image.task import ImageTask
from airjax.inner.task import SEGMENT, State, Task, advance, start_state
from airjax.metrics import psnr_8bit
from airjax.photographs import IMAGE_SUFFIXES, read_image
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
from eval.report import environment, format_table, number, write_report
from eval.scene.bench import cell_gaussians, drawing_of
from eval.timing import Row, Timing, copy_row, exp_row, matmul_row, time_warm
from train.image.data import DataConfig
from train.image.experiment import ImageExperiment
from train.image.losses import Joint
from train.loop import LoopConfig
from train.optim import Optimizer
from train.scene.data import SceneData
from train.scene.experiment import SceneExperiment
from train.scene.losses import Vanilla
from train.settings import check_at_least

# Largest differences that are not worth a line, as shares of the largest value: about twice what an NVIDIA H200 has
# with products in float32. Sums of many terms in another order: images, then gradients, and what steps along them
# make. Decisions can tip over (a patch gets a Gaussian or not): their counts, sizes and decibels.
IMAGE, GRADIENT, DECISIONS = 1e-4, 1e-3, 2e-3
PRODUCT = 2e-5  # of a matrix product in float32; rounded factors give ten times as much
FAILURES = (RuntimeError, ValueError, TypeError, AirjaxError)  # of one row: the others go on


@dataclass(frozen=True)
class Accelerator:
    """What to measure."""

    # name, description: of the evaluation, for the report
    name: str
    description: str
    images: str = "docs/images/kodim23.png"  # the photograph
    max_gaussians: int = 28_000  # how many Gaussians it gets
    solve_steps: int = 10  # of the color solve
    view_size: int = 256  # pixels a side of the two views of the scene
    cell: int = 2  # pixels a side of those that share a Gaussian of each view
    scene_weights: str | None = None  # of the scene predictor; None for the shipped ones
    # batch_size, crop_size, training_view: images or scenes of a training step, and pixels a side of theirs
    batch_size: int = 4
    crop_size: int = 128
    training_view: int = 64
    precision: str | None = None  # of matrix products, as JAX names it ("highest"); None for JAX's default
    repetitions: int = 20  # warm runs of each row
    seconds: float = 2.0  # after which a row is not repeated further, three times in any case
    machine_scale: float | None = None  # size of the plain loops; None for 1 on a CPU, 16 elsewhere
    threads: int | None = None  # that compile; None for one a core, at most 8
    parts: tuple[str, ...] | None = None  # which of PARTS to measure; None for all

    def __post_init__(self):
        counts = "max_gaussians", "view_size", "cell", "batch_size", "crop_size", "training_view"
        check_at_least(self, 1, *counts, "repetitions", "threads")
        check_at_least(self, 0, "solve_steps")
        if self.view_size % self.cell:
            raise AirjaxError(f"cell: expected a divisor of view_size, {self.view_size}, got {self.cell}")
        if unknown := set(self.parts or ()) - set(PARTS):
            raise AirjaxError(f"parts: expected some of {', '.join(PARTS)}, got {sorted(unknown)}")


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


class Compiled(NamedTuple):
    """A case on one device."""

    call: Callable[[], Any]
    seconds: float  # of compiling
    # flops, moved_bytes, memory_bytes: what XLA says of a program; None for what it does not say
    flops: float | None = None
    moved_bytes: float | None = None
    memory_bytes: int | None = None


class Difference(NamedTuple):
    """Largest difference of an output from the CPU's, and that as a share of the CPU's largest value."""

    absolute: float
    relative: float


class Result(NamedTuple):
    """One row as measured; all but the name are empty where it failed, which `error` then says."""

    what: str
    timing: Timing | None = None  # of one step
    compile_seconds: float | None = None
    memory_bytes: int | None = None
    shares: dict[str, float] = {}  # of the plain loops' rates, by their name  # noqa: RUF012
    differences: dict[str, Difference] = {}  # by output  # noqa: RUF012
    tolerance: float = math.nan
    overflow: float = 0.0
    error: str | None = None

    @property
    def worst(self) -> str | None:
        """The output with the largest relative difference; one that is not finite is the largest."""
        key = lambda name: np.nan_to_num(self.differences[name].relative, nan=np.inf)  # noqa: E731
        return max(self.differences, key=key, default=None)

    def as_json(self) -> dict[str, Any]:
        """Its fields by name."""
        differences = {name: difference._asdict() for name, difference in self.differences.items()}
        timing = None if self.timing is None else self.timing._asdict()
        return {**self._asdict(), "timing": timing, "differences": differences}

    def notes(self) -> Iterator[str]:
        """A line for whatever is wrong with it."""
        if self.error is not None:
            yield f"{self.what}: failed ({self.error})"
        if self.overflow:
            yield f"{self.what}: the renderer's lists overflowed, in {self.overflow:.0%} of what was drawn"
        if self.worst is not None and not self.differences[self.worst].relative <= self.tolerance:
            (absolute, relative), got = self.differences[self.worst], f"{self.tolerance:.0e} of the largest value"
            yield f"{self.what}: {self.worst} differ by {absolute:.1e}, {relative:.1e} of the largest; expected {got}"


# --- what is measured


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
        path = find_images([config.images], suffixes=IMAGE_SUFFIXES)[0]
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
        "3D, two views": (SceneTask(views.images, views.cameras, views.near), inputs.gaussians, 2),
    }
    for name, (task, gaussians, count) in wings.items():
        task = jax.tree.map(jnp.asarray, task)
        state = advance(task, start_state(task, gaussians), num_steps=SEGMENT)
        arrays = jax.device_get((task, state.coordinates, state.active, state.inner_state))
        work = 2 * count * state.capacity.chunks * CHUNK * TILE_SIZE**2
        function, values = partial(_advance, capacity=state.capacity), partial(_advanced, capacity=state.capacity)
        yield Case(f"refinement step, {name}", function, arrays, values, GRADIENT, steps=SEGMENT, evaluations=work)


def _advance(task: Task, coordinates: Any, active: Any, inner_state: Any, *, capacity: Any) -> State:
    """Steps after the first ones, with lists as planned before those."""
    state = State(SEGMENT, coordinates, active, inner_state, capacity=capacity)
    return advance(task, state, num_steps=SEGMENT)


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
    views = SceneData(photographs=None, image_size=size, batch_size=config.batch_size)
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


# --- how it is measured


@contextlib.contextmanager
def _on(device: Any, precision: str | None) -> Iterator[None]:
    """JAX on one device, in this thread."""
    products = contextlib.nullcontext() if precision is None else jax.default_matmul_precision(precision)
    with jax.default_device(device), products:
        yield


def compile_on(case: Case, device: Any) -> Compiled:
    """A case with its arguments on a device, called once if it is not a single program."""
    arguments = jax.device_put(case.arguments, device)
    with Clock() as clock:
        if not case.program:
            call = partial(case.function, *arguments)
            jax.block_until_ready(call())
            facts = {}
        else:
            compiled = jax.jit(case.function).lower(*arguments).compile()
            call, facts = partial(compiled, *arguments), _facts(compiled)
    return Compiled(call, clock.compiling, **facts)


def _facts(compiled: Any) -> dict[str, Any]:
    """What XLA says of a program; some backends say nothing."""
    cost, memory = compiled.cost_analysis() or {}, compiled.memory_analysis()
    facts = {"flops": cost.get("flops"), "moved_bytes": cost.get("bytes accessed")}
    if memory is not None:
        used = memory.temp_size_in_bytes + memory.argument_size_in_bytes + memory.output_size_in_bytes
        facts["memory_bytes"] = used
    return facts


def compare(values: Mapping[str, Any], expected: Mapping[str, Any]) -> dict[str, Difference]:
    """Differences of outputs of the same names; one of other shapes, or of what is not finite, is NaN."""
    found = {}
    for name, value in values.items():
        a, b = np.asarray(value, np.float64), np.asarray(expected[name], np.float64)
        absolute = float(np.max(np.abs(a - b), initial=0.0)) if a.shape == b.shape else math.nan
        largest = float(np.max(np.abs(b), initial=0.0))
        found[name] = Difference(absolute, absolute / largest if largest else absolute)
    return found


def machine_rows(config: Accelerator, device: Any) -> dict[str, Row]:
    """The plain loops, by what they are the measure of, and a call that does nothing."""
    scale = config.machine_scale or (1.0 if device.platform == "cpu" else 16.0)
    runs, nothing, zero = config.repetitions, jax.jit(lambda x: x + 1), jnp.zeros(())
    products = partial(matmul_row, scale, runs)
    return {
        "exp": exp_row(scale, runs),
        "FLOP": products(precision="highest"),
        "default": products(precision="default"),
        "bfloat16": products(dtype=jnp.bfloat16, precision="default"),
        "copy": copy_row(scale, runs),
        "call": Row("a call of nothing", time_warm(lambda: nothing(zero), runs)[0]),
    }


def _rate(amount: float | None, row: Row) -> float:
    return (amount or math.nan) / row.timing.median


def measure(case: Case, compiled: Compiled, expected: Mapping[str, Any], ceilings: Mapping[str, Row], config) -> Result:
    """Times and checks a case on the device that JAX now uses; `expected` are the CPU's values."""
    timing, result = time_warm(compiled.call, config.repetitions, seconds=config.seconds)
    timing = timing.per(case.steps)
    values = jax.device_get(dict(case.values(result)))
    done = Row("", timing, case.evaluations, None, case.flops or compiled.flops, compiled.moved_bytes)
    shares = {}
    for name, field in (("exp", "evaluations"), ("FLOP", "flops"), ("copy", "moved_bytes")):
        if amount := getattr(done, field):
            shares[name] = _rate(amount, done) / _rate(getattr(ceilings[name], field), ceilings[name])
    overflow = float(np.mean(values.pop("overflow", 0.0)))
    differences = compare(values, expected)
    facts = compiled.seconds, compiled.memory_bytes, shares, differences, case.tolerance, overflow
    return Result(case.what, timing, *facts)


def product_error() -> float:
    """Largest error of a matrix product of float32 numbers at JAX's precision, a share of its largest value."""
    a, b = np.random.default_rng(0).standard_normal((2, 256, 256), np.float32)
    exact = np.asarray(a, np.float64) @ np.asarray(b, np.float64)
    return compare({"": jnp.dot(a, b)}, {"": exact})[""].relative


def devices() -> tuple[Any, Any]:
    """(what JAX computes on, the CPU); AirjaxError where one of them is not to be had."""
    try:
        return jax.devices()[0], jax.devices("cpu")[0]
    except RuntimeError as error:
        chosen = f"JAX_PLATFORMS={jax.config.jax_platforms or ''}"
        expected = "expected a device, and the CPU beside it, with whose values its own are compared ('cuda,cpu')"
        raise AirjaxError(f"{chosen}: {expected} ({str(error).splitlines()[0]})") from error


def fallbacks(device: Any) -> list[str]:
    """A line for each reason to think that JAX should compute on something else than a CPU."""
    if device.platform != "cpu":
        return []
    notes = ["JAX computes on a CPU: its values are compared with themselves"]
    for plugin in importlib.metadata.distributions():
        if re.fullmatch(r"jax[-_]\w+[-_]plugin|jax[-_]metal|libtpu", name := plugin.metadata["Name"] or ""):
            chosen = jax.config.jax_platforms
            why = f"JAX_PLATFORMS is {chosen}" if chosen else "see what JAX warns of when it starts"
            notes.append(f"JAX computes on a CPU although {name} {plugin.version} is installed; {why}")
    for file, what in {"/dev/nvidia0": "an NVIDIA GPU: jax[cuda13]", "/dev/accel0": "a TPU: jax[tpu]"}.items():
        if Path(file).exists():
            notes.append(f"JAX computes on a CPU although there seems to be {what} is what to install")
    return notes


def describe(device: Any) -> dict[str, Any]:
    """What the accelerator is, as far as JAX knows."""
    stats, version = device.memory_stats() or {}, get_backend(device.platform).platform_version
    return {
        "platform": device.platform,
        "kind": device.device_kind,
        "count": jax.device_count(),
        "version": None if "unknown" in version else " ".join(version.split()),
        "memory_bytes": stats.get("bytes_limit"),
        "peak_bytes": stats.get("peak_bytes_in_use"),
    }


def run(config: Accelerator, weights: Path | None, out: Path) -> int:
    """Measures, prints the report and writes it, accelerator.json and accelerator.md: number of rows that failed."""
    device, cpu = devices()
    notes, hits = fallbacks(device), []

    def listen(event: str, **_: Any) -> None:
        if event == "/jax/compilation_cache/cache_hits":
            hits.append(event)

    def ready(case: Case) -> tuple[Compiled, Any] | str:
        """The case on the device, and the CPU's values."""
        try:
            found = {}
            for place in dict.fromkeys((cpu, device)):
                with _on(place, config.precision):
                    found[place] = compile_on(case, place)
            with _on(cpu, config.precision):
                return found[device], jax.device_get(dict(case.values(found[cpu].call())))
        except FAILURES as error:
            return _one_line(error)

    jax.monitoring.register_event_listener(listen)
    try:
        with _on(cpu, config.precision):
            inputs = Inputs(config, weights)
            chosen = tqdm(config.parts or PARTS, desc="inputs", disable=None)
            cases = [case for part in chosen for case in PARTS[part](inputs)]
        with ThreadPoolExecutor(config.threads or min(8, os.cpu_count() or 1)) as pool:
            prepared = list(tqdm(pool.map(ready, cases), total=len(cases), desc="compile", disable=None))
    finally:
        jax.monitoring.unregister_event_listener(listen)
    results = []
    with _on(device, config.precision):
        ceilings = machine_rows(config, device)
        error = product_error()
        for case, found in zip(tqdm(cases, desc="measure", disable=None), prepared, strict=True):
            if isinstance(found, str):
                results.append(Result(case.what, error=found))
                continue
            try:
                results.append(measure(case, *found, ceilings, config))
            except FAILURES as failure:
                results.append(Result(case.what, error=_one_line(failure)))
    if not error <= PRODUCT:
        advice = "not float32 but rounded factors, TF32 or bfloat16; --precision highest for float32"
        notes.append(f"matrix products of networks are off by {error:.1e} of the largest value: {advice}")
    if hits:
        notes.append(f"{len(hits)} programs came from the cache of an earlier run, and took no time to compile")
    notes += [note for result in results for note in result.notes()]
    facts = {"name": config.name, "description": config.description, "device": describe(device), "notes": notes}
    text = page(facts, ceilings, results)
    print(text)
    rows = {"machine": [row.as_json() for row in ceilings.values()], "rows": [row.as_json() for row in results]}
    write_report(out / "accelerator.json", config, {**facts, **rows})
    atomic_write_bytes(out / "accelerator.md", f"{text}\n".encode())
    print(f"\nreport: {out / 'accelerator.json'}, {out / 'accelerator.md'}")
    return sum(result.error is not None for result in results)


def _one_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [""]
    return f"{type(error).__name__}: {lines[0][:200]}"


# --- how it is shown


def page(facts: Mapping[str, Any], ceilings: Mapping[str, Row], results: Iterable[Result]) -> str:
    """The report in Markdown."""
    device, packages = facts["device"], environment()["packages"]
    versions = f"JAX {packages['jax']}, jaxlib {packages['jaxlib']}"
    memory = [f"{device[key] / 1e9:.1f} GB {what}" for key, what in _MEMORY.items() if device[key]]
    parts = [f"{device['count']} x {device['kind']} ({device['platform']})", *memory, device["version"], versions]
    lines = [", ".join(part for part in parts if part), "", _machine_table(ceilings), "", _table(results)]
    notes = [f"- {note}" for note in facts["notes"]] or ["Nothing fell back, overflowed or differed."]
    return "\n".join([*lines, "", *notes])


_MEMORY = {"memory_bytes": "of memory", "peak_bytes": "used at most"}


def _machine_table(ceilings: Mapping[str, Row]) -> str:
    def cells(row: Row) -> list[str]:
        amounts = ((row.evaluations, "Gexp/s"), (row.flops, "GFLOP/s"), (row.moved_bytes, "GB/s"))
        rates = [f"{number(1e-9 * _rate(amount, row), 1)} {unit}" for amount, unit in amounts if amount]
        return [row.what, *_times(row.timing), *(rates or ["-"])]

    return format_table(["this machine", *_TIMES, "rate"], map(cells, ceilings.values()), markdown=True)


_TIMES = ["median ms", "least", "middle half", "runs"]


def _times(timing: Timing | None) -> list[str]:
    if timing is None:
        return ["failed", "-", "-", "-"]
    return [*(number(1e3 * x, 3) for x in (timing.median, timing.least, timing.spread)), str(timing.repetitions)]


def _table(results: Iterable[Result]) -> str:
    def cells(row: Result) -> list[str]:
        memory = None if row.memory_bytes is None else row.memory_bytes / 1e6
        shares = [f"{row.shares[name]:.1%}" if name in row.shares else "-" for name in ("exp", "FLOP", "copy")]
        worst = row.differences.get(row.worst or "")
        difference = [f"{worst.absolute:.1e} ({row.worst})", f"{worst.relative:.1e}"] if worst else ["-", "-"]
        return [row.what, *_times(row.timing), number(row.compile_seconds, 1), number(memory, 0), *shares, *difference]

    head = ["", *_TIMES, "compile s", "MB", "of exp", "of FLOP", "of copy", "off by", "of the largest"]
    return format_table(head, map(cells, results), markdown=True)

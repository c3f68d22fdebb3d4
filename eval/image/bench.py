"""Times and memory of one model on one photograph, and the share of the machine that they use.

Every row has the number of evaluations of the kernel's exponential: one per pixel and list slot, empty slots counted.
XLA's CPU backend may compute one several times (for each channel) instead of storing it, which is not counted.
"""

from __future__ import annotations

import dataclasses
import math
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from airjax.errors import AirjaxError
from airjax.gaussians import Gaussians2D, octaves, pad, take
from airjax.image.codec import air_file
from airjax.image.codec.air_file import Encoded
from airjax.image.codec.compress import compress
from airjax.image.color_solve import solve
from airjax.image.model import Model, load, predict
from airjax.image.stages import pad_to_patches, predictors, stage_control_of
from airjax.image.task import ImageTask
from airjax.inner.task import SEGMENT, advance, start_state
from airjax.nn.air_stage import patches_of
from airjax.photographs import read_image, write_image
from airjax.raster.additive import render_patches
from airjax.raster.draw import TILE_SIZE, Rendered, capacity_of, planned_lists, render
from airjax.raster.tiles import CHUNK, Capacity, patch_grid
from eval.image.measures import decode_pixels
from eval.image.sets import find_set
from eval.report import number
from eval.timing import EXP_ROW, Row, Timing, exp_row, matmul_row, run_python, time_warm, write_rows
from train.settings import check_at_least, where


@dataclass(frozen=True)
class Benchmark:
    """What to measure."""

    # name, description: of the evaluation, for the report
    name: str
    description: str
    images: str = where("")  # the photograph
    max_gaussians: int = 28_000  # how many Gaussians it gets (fewer where it has fewer patches times stages)
    solve_steps: int = 10  # color-solve steps of the encode that has them
    repetitions: int = 10  # warm runs in this process of each row
    process_repetitions: int = 3  # processes started for the cold start
    large_side: int = 4096  # pixels a side of the large image, the photograph tiled
    machine_scale: float = 1.0  # size of the machine's own measure, the plain loops; 1 is some 50 ms each
    parts: tuple[str, ...] | None = None  # which of ROWS to measure; None for all

    def __post_init__(self):
        check_at_least(self, 1, "max_gaussians", "solve_steps", "repetitions", "process_repetitions", "large_side")
        if not 0 < self.machine_scale <= 100:
            raise AirjaxError(f"machine_scale: expected a number in (0, 100], got {self.machine_scale}")
        if unknown := set(self.parts or ()) - set(ROWS):
            raise AirjaxError(f"parts: expected some of {', '.join(ROWS)}, got {sorted(unknown)}")


@dataclass(frozen=True)
class Subject:
    """The photograph and its Gaussians, shared by all rows.

    Every patch asks for a Gaussian (no error is small enough), so that the whole budget is spent on any photograph.
    """

    model: Model
    weights: Path | None
    path: Path
    image: np.ndarray
    config: Benchmark

    @property
    def size(self) -> tuple[int, int]:
        """(h, w)."""
        return self.image.shape[:2]

    def encode(self, solve_steps: int) -> Encoded:
        """The networks' Gaussians after some steps of the color solve."""
        budget = self.config.max_gaussians
        return self.model.encode(self.image, max_gaussians=budget, mse_threshold=0.0, solve_steps=solve_steps)

    @cached_property
    def encoded(self) -> Encoded:
        """The networks' Gaussians."""
        return self.encode(0)

    @cached_property
    def list_evaluations(self) -> int:
        """Exponentials of one rendering by sorted lists: the slots of the chunks in use, times the pixels of a tile."""
        gaussians = pad(self.encoded.gaussians, octaves(self.encoded.gaussians.num_slots))
        ids = np.asarray(planned_lists(gaussians, image_size=self.size).ids)
        return int(np.count_nonzero(np.any(ids < gaussians.num_slots, axis=0))) * CHUNK * TILE_SIZE**2

    @cached_property
    def capacity(self) -> Capacity:
        """What to give `render` under a JAX transformation."""
        return capacity_of(self.encoded.gaussians, image_size=self.size)

    @property
    def patch_evaluations(self) -> int:
        """Exponentials of one rendering by patch grids, all stages."""
        maps = [stage.patch_map for stage in self.model.stages]
        return sum((2 * m.rings + 1) ** 2 * self._patches(m.patch_size) * m.patch_size**2 for m in maps)

    @property
    def network_flops(self) -> float:
        """Floating-point operations of all stages' networks: two per multiply-add."""
        sized = [(stage.network, stage.patch_map.patch_size) for stage in self.model.stages]
        return 2.0 * sum(network.multiply_adds(side) * self._patches(side) for network, side in sized)

    def _patches(self, patch_size: int) -> int:
        return math.prod(patch_grid(self.size, patch_size))

    def time(
        self, what: str, function: Callable[[], Any], *, evaluations: int | None = None, flops: float | None = None
    ) -> Row:
        """A row of a warm function of this process."""
        return Row(what, time_warm(function, self.config.repetitions)[0], evaluations, flops=flops)


def encode_rows(subject: Subject) -> list[Row]:
    """Pixels to bytes."""
    steps, patch = subject.config.solve_steps, subject.patch_evaluations
    both = patch + subject.list_evaluations
    return [
        subject.time("encode, networks only", lambda: air_file.encode(subject.encode(0)), evaluations=patch),
        subject.time(f"encode, {steps} solve steps", lambda: air_file.encode(subject.encode(steps)), evaluations=both),
        subject.time("encode, compact file", lambda: air_file.encode(compress(subject.model, subject.image))),
    ]


def decode_rows(subject: Subject) -> list[Row]:
    """Gaussians to pixels, bytes to pixels."""
    data = air_file.encode(subject.encoded)
    compact = air_file.encode(compress(subject.model, subject.image))
    counts = air_file.info(compact).stage_counts
    gaussians = jax.device_put(subject.encoded.gaussians)
    count = subject.list_evaluations
    return [
        subject.time("render", lambda: render(gaussians, image_size=subject.size).image, evaluations=count),
        subject.time("decode, bytes to pixels", lambda: decode_pixels(data), evaluations=count),
        subject.time(f"decode, compact file of {sum(counts):,}", lambda: decode_pixels(compact)),
        subject.time("decode, compact file, its integers alone", lambda: air_file.decode_quantised(compact)),
    ]


def floats_of(gaussians: Gaussians2D) -> dict[str, Any]:
    """The fields that have a gradient."""
    return {name: getattr(gaussians, name) for name in ("means", "scales", "angles", "colors")}


class Drawing(NamedTuple):
    """A way to draw the Gaussians of a subject."""

    draw: Callable[[Any], Rendered]  # from their numbers, to be jitted
    floats: Any  # those numbers, numpy arrays
    evaluations: int  # exponentials of it


def drawings(subject: Subject) -> dict[str, Drawing]:
    """Through sorted lists, made anew in every run, and through the patch grids of all stages."""
    size, gaussians, capacity = subject.size, subject.encoded.gaussians, subject.capacity
    control = stage_control_of(mse_threshold=0.0, max_gaussians=subject.config.max_gaussians)
    slots = predict(subject.model.params, subject.image, control, stages=subject.model.stages)
    maps = [stage.patch_map for stage in subject.model.stages]
    grids = [patch_grid(size, m.patch_size) for m in maps]
    ends = np.cumsum([0, *(math.prod(grid) for grid in grids)])
    stages = [take(slots, slice(start, end)) for start, end in pairwise(ends)]

    def draw_lists(floats):
        return render(dataclasses.replace(gaussians, **floats), image_size=size, capacity=capacity)

    def draw_patches(floats):
        image = sum(
            render_patches(dataclasses.replace(g, **f), patches=m.layout(grid))[: size[0], : size[1]]
            for g, f, grid, m in zip(stages, floats, grids, maps, strict=True)
        )
        return Rendered(image, jnp.asarray(False))

    return {
        "sorted lists": Drawing(draw_lists, floats_of(gaussians), subject.list_evaluations),
        "patch grids": Drawing(draw_patches, [floats_of(g) for g in stages], subject.patch_evaluations),
    }


def loss_gradient(draw: Callable[[Any], Rendered], image: np.ndarray) -> Callable[[Any], tuple[jax.Array, Any]]:
    """A function of the numbers of Gaussians to (mean squared error of what is drawn, its gradient), to be jitted."""
    return jax.value_and_grad(lambda floats: jnp.mean(jnp.square(draw(floats).image - image)))


def gradient_functions(subject: Subject) -> tuple[Callable, Callable]:
    """Two functions of nothing to (loss, gradient), of both `drawings`."""

    def make(drawing: Drawing) -> Callable:
        gradient, floats = jax.jit(loss_gradient(drawing.draw, subject.image)), jax.device_put(drawing.floats)
        return lambda: gradient(floats)

    by_lists, by_patches = map(make, drawings(subject).values())
    return by_lists, by_patches


def gradient_rows(subject: Subject) -> list[Row]:
    """Loss and gradient through both kinds of lists; each exponential counts in the forward and the backward pass."""
    by_lists, by_patches = gradient_functions(subject)
    counts = 2 * subject.list_evaluations, 2 * subject.patch_evaluations
    return [
        subject.time("forward + backward, sorted lists", by_lists, evaluations=counts[0]),
        subject.time("forward + backward, patch grids", by_patches, evaluations=counts[1]),
    ]


def solve_rows(subject: Subject) -> list[Row]:
    """The whole color solve, and one step of it: the difference of two lengths, divided."""
    count, more = subject.list_evaluations, subject.config.solve_steps
    work = partial(solve, subject.encoded.gaussians, subject.image)
    short = subject.time("color solve, 1 step", partial(work, num_steps=1), evaluations=count)
    long = subject.time(f"color solve, {1 + more} steps", partial(work, num_steps=1 + more), evaluations=count)
    median, least = ((b - a) / more for a, b in zip(short.timing[:2], long.timing[:2], strict=True))
    per_step = Timing(median, least, subject.config.repetitions)
    return [short, long, Row("color solve, each further step", per_step, 0)]


def refine_rows(subject: Subject) -> list[Row]:
    """One step of a refinement, its sorting included: a call of some, divided."""
    task = jax.tree.map(jnp.asarray, ImageTask(subject.image))
    state = advance(task, start_state(task, subject.encoded.gaussians), num_steps=SEGMENT)
    step = partial(advance, task, state, num_steps=SEGMENT)
    timing, _ = time_warm(lambda: step().coordinates, subject.config.repetitions)
    return [Row("refinement step", timing.per(SEGMENT), evaluations=2 * subject.list_evaluations)]


def machine_rows(subject: Subject) -> list[Row]:
    """The networks without the renderer, and the plain loops that say what the machine can do."""
    image, model = jnp.asarray(subject.image), subject.model

    @jax.jit
    def networks(params, image):
        # Each stage on the image itself: the work is that of an encode, the numbers mean nothing.
        sizes = [stage.patch_map.patch_size for stage in model.stages]
        inputs = [patches_of(pad_to_patches(image, size), size) for size in sizes]
        pairs = zip(predictors(model.stages), inputs, strict=True)
        return [predictor.apply(params[f"stage{i}"], patches) for i, (predictor, patches) in enumerate(pairs)]

    scale, repetitions = subject.config.machine_scale, subject.config.repetitions
    return [
        subject.time("networks, all stages", lambda: networks(model.params, image), flops=subject.network_flops),
        matmul_row(scale, repetitions),
        exp_row(scale, repetitions),
    ]


def _cli(subject: Subject, *arguments: str | Path) -> list[str]:
    weights = ["--weights", str(subject.weights)] if subject.weights else []
    return ["-m", "airjax", *map(str, arguments), *(weights if arguments[0] == "encode" else [])]


def cold_start_rows(subject: Subject) -> list[Row]:
    """`python -m airjax encode` as a user types it; the first process, which fills the cache, is not counted."""
    with tempfile.TemporaryDirectory() as folder:
        command = _cli(subject, "encode", subject.path, "-o", Path(folder) / "photo.air", "--force")
        run_python(command)
        runs = [run_python(command) for _ in range(subject.config.process_repetitions)]
    timing = Timing.of([seconds for seconds, _ in runs])
    return [Row("cold start of `airjax encode`, cache warm", timing, peak_bytes=max(peak for _, peak in runs))]


def large_image_rows(subject: Subject) -> list[Row]:
    """The photograph tiled to a large image, through the command line: files read and written, all counted."""
    side = subject.config.large_side
    repeats = (-(-side // subject.size[0]), -(-side // subject.size[1]), 1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_image(folder / "large.png", np.tile(subject.image, repeats)[:side, :side])
        encode = run_python(_cli(subject, "encode", folder / "large.png", "-o", folder / "large.air"))
        decode = run_python(_cli(subject, "decode", folder / "large.air", "-o", folder / "decoded.png"))
    return [
        Row(f"{what} {side}x{side}, whole process", Timing.of([seconds]), peak_bytes=peak)
        for what, (seconds, peak) in (("encode", encode), ("decode", decode))
    ]


ROWS: dict[str, Callable[[Subject], list[Row]]] = {
    "encode": encode_rows,
    "decode": decode_rows,
    "gradient": gradient_rows,
    "solve": solve_rows,
    "refine": refine_rows,
    "machine": machine_rows,
    "cold start": cold_start_rows,
    "large image": large_image_rows,
}


def shares(rows: list[Row]) -> dict[str, float]:
    """What part of the machine is used: rates against those of the plain loops of the same run."""
    by_name = {row.what.split(",")[0]: row for row in reversed(rows)}
    compared = (
        ("renderer, exponentials per second against the plain exp loop", "render", EXP_ROW, "evaluations"),
        ("networks, FLOP per second against the plain matmul", "networks", "plain matmul", "flops"),
    )

    def rate(name: str, field: str) -> float:
        return getattr(by_name[name], field) / by_name[name].timing.median

    return {
        title: rate(name, field) / rate(loop, field)
        for title, name, loop, field in compared
        if name in by_name and loop in by_name
    }


def run(config: Benchmark, weights: Path | None, out: Path) -> int:
    """Measures, prints the table and writes `bench.json`; AirjaxError also if a command of another process failed."""
    model = load(weights)
    path = find_set(config.images)[0]
    subject = Subject(model, weights, path, read_image(path).pixels, config)
    rows: list[Row] = []
    with tqdm(config.parts or ROWS, disable=None) as progress:
        for part in progress:
            progress.set_description(part)
            rows += ROWS[part](subject)
    height, width = subject.size
    counts = [number(c, 0) for c in subject.encoded.stage_counts]
    print(f"{config.description}; {width}x{height}, weights {model.name}")
    print(f"{subject.encoded.gaussians.num_slots:,} Gaussians, per stage {' + '.join(counts)}")
    for name, share in shares(rows).items():
        print(f"{name}: {share:.0%}")
    counts = list(subject.encoded.stage_counts)
    write_rows(out, config, rows, {"weights": model.name, "stage_counts": counts, "shares": shares(rows)})
    return 0

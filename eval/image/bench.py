"""Times and memory of one model on one photograph, and the share of the machine that they use.

Every row tells how often the kernel's exponential was evaluated: once per pixel and list slot, empty slots counted.
XLA's CPU backend may compute one several times (for each channel) instead of storing it, which is not counted.
"""

from __future__ import annotations

import dataclasses
import math
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from airjax.errors import AirjaxError
from airjax.files import find_images
from airjax.gaussians import Gaussians2D, ladder, pad
from airjax.image.codec import air_file
from airjax.image.codec.air_file import Encoded
from airjax.image.codec.compress import compress
from airjax.image.color_solve import solve
from airjax.image.model import Model, load, predict
from airjax.image.stages import pad_to_patches, predictors, stage_control_of
from airjax.image.task import SEGMENT, advance, start_state
from airjax.nn.air_stage import patches_of
from airjax.photographs import IMAGE_SUFFIXES, read_image, write_image
from airjax.raster.additive import render_patches
from airjax.raster.draw import TILE_SIZE, capacity_of, planned_lists, render
from airjax.raster.tiles import CHUNK, Capacity, patch_grid
from eval.image.quality import decode_pixels
from eval.report import environment, format_table, number, write_json
from eval.timing import Timing, run_python, time_warm

PARTS = ("encode", "decode", "gradient", "solve", "refine", "machine", "cold start", "large image")


@dataclass(frozen=True)
class Benchmark:
    """What to measure.

    Fields:
      name, description: of the evaluation, for the report.
      images: the photograph.
      max_gaussians: how many Gaussians it gets (fewer where it has fewer patches times stages).
      solve_steps: colour-solve steps of the encode that has them.
      repetitions: warm runs in this process of each row.
      process_repetitions: processes started for the cold start.
      large_side: pixels a side of the large image, the photograph tiled.
      machine_scale: size of the machine's own measure, the plain loops; 1 is some 50 ms each.
      parts: which of PARTS to measure.
    """

    name: str
    description: str
    images: str
    max_gaussians: int = 28_000
    solve_steps: int = 10
    repetitions: int = 10
    process_repetitions: int = 3
    large_side: int = 4096
    machine_scale: float = 1.0
    parts: tuple[str, ...] = field(default=PARTS)

    def __post_init__(self):
        for name in ("max_gaussians", "solve_steps", "repetitions", "process_repetitions", "large_side"):
            if getattr(self, name) < 1:
                raise AirjaxError(f"{name}: expected at least 1, got {getattr(self, name)}")
        if not 0 < self.machine_scale <= 100:
            raise AirjaxError(f"machine_scale: expected a number in (0, 100], got {self.machine_scale}")
        if unknown := set(self.parts) - set(PARTS):
            raise AirjaxError(f"parts: expected some of {PARTS}, got {sorted(unknown)}")


class Row(NamedTuple):
    """One measurement.

    Fields:
      what: in words.
      timing: seconds.
      evaluations: exponentials of one run; None where none or not known.
      peak_bytes: peak memory of the process that did it; None for this process.
      flops: floating-point operations of one run, where they are what counts.
    """

    what: str
    timing: Timing
    evaluations: int | None = None
    peak_bytes: int | None = None
    flops: float | None = None


@dataclass(frozen=True)
class Scene:
    """The photograph and its Gaussians, shared by all rows."""

    model: Model
    weights: Path | None
    path: Path
    image: np.ndarray
    config: Benchmark

    @property
    def size(self) -> tuple[int, int]:
        """(h, w)."""
        return self.image.shape[:2]

    @property
    def options(self) -> dict:
        """Every patch asks for a Gaussian, so that the whole budget is spent whatever the photograph."""
        return {"max_gaussians": self.config.max_gaussians, "mse_threshold": 0.0}

    @cached_property
    def encoded(self) -> Encoded:
        """The networks' file."""
        return self.model.encode(self.image, **self.options, solve_steps=0)

    @cached_property
    def list_evaluations(self) -> int:
        """Exponentials of one rendering by sorted lists: the slots of the chunks in use, times the pixels of a tile."""
        n = self.encoded.gaussians.num_slots
        lists = planned_lists(pad(self.encoded.gaussians, ladder(n)), image_size=self.size)
        return lists.ids.size * TILE_SIZE**2

    @cached_property
    def capacity(self) -> Capacity:
        """What to give `render` under a JAX transformation."""
        return capacity_of(self.encoded.gaussians, image_size=self.size)

    @property
    def capacity_evaluations(self) -> int:
        """Exponentials of one rendering with that capacity."""
        return self.capacity.chunks * CHUNK * TILE_SIZE**2

    @property
    def patch_evaluations(self) -> int:
        """Exponentials of one rendering by patch grids, all stages."""
        maps = [stage.patch_map for stage in self.model.stages]
        return sum(
            (2 * m.rings + 1) ** 2 * math.prod(patch_grid(self.size, m.patch_size)) * m.patch_size**2 for m in maps
        )

    @property
    def network_flops(self) -> float:
        """Floating-point operations of all stages' networks: two per multiply-add."""
        return 2.0 * sum(
            stage.network.multiply_adds(stage.patch_map.patch_size)
            * math.prod(patch_grid(self.size, stage.patch_map.patch_size))
            for stage in self.model.stages
        )

    def time(self, what: str, function, **counts) -> Row:
        """A row of a warm function of this process."""
        return Row(what, time_warm(function, self.config.repetitions)[0], **counts)


def encode_rows(scene: Scene) -> list[Row]:
    """Pixels to bytes."""

    def encode(solve_steps):
        return air_file.encode(scene.model.encode(scene.image, **scene.options, solve_steps=solve_steps))

    steps = scene.config.solve_steps
    patch, lists = scene.patch_evaluations, scene.list_evaluations
    return [
        scene.time("encode, networks only", partial(encode, 0), evaluations=patch),
        scene.time(f"encode, {steps} solve steps", partial(encode, steps), evaluations=patch + lists),
        scene.time("encode, compact file", lambda: air_file.encode(compress(scene.model, scene.image))),
    ]


def decode_rows(scene: Scene) -> list[Row]:
    """Gaussians to pixels, bytes to pixels."""
    data = air_file.encode(scene.encoded)
    compact = air_file.encode(compress(scene.model, scene.image))
    counts = air_file.info(compact).stage_counts
    gaussians = jax.device_put(scene.encoded.gaussians)
    count = scene.list_evaluations
    return [
        scene.time("render", lambda: render(gaussians, image_size=scene.size).image, evaluations=count),
        scene.time("decode, bytes to pixels", lambda: decode_pixels(data), evaluations=count),
        scene.time(f"decode, compact file of {sum(counts):,}", lambda: decode_pixels(compact)),
        scene.time("decode, compact file, its integers alone", lambda: air_file.decode_quantised(compact)),
    ]


def floats_of(gaussians: Gaussians2D) -> dict[str, jax.Array]:
    """The fields that have a gradient."""
    return {name: getattr(gaussians, name) for name in ("means", "scales", "angles", "colors")}


def gradient_functions(scene: Scene) -> tuple[Callable, Callable]:
    """Two functions of nothing to (loss, gradient): mean squared error, by every number of every Gaussian.

    The first draws through sorted lists, made anew in every run, the second through the patch grids of the stages.
    The Gaussians are the same, so both return the same loss.
    """
    image, size = jnp.asarray(scene.image), scene.size
    gaussians = jax.device_put(scene.encoded.gaussians)
    control = stage_control_of(**scene.options)
    slots = predict(scene.model.params, scene.image, control, stages=scene.model.stages)
    maps = [stage.patch_map for stage in scene.model.stages]
    grids = [patch_grid(size, m.patch_size) for m in maps]
    ends = np.cumsum([0, *(math.prod(grid) for grid in grids)])
    sets = [jax.tree.map(lambda leaf, i=i: leaf[ends[i] : ends[i + 1]], slots) for i in range(len(maps))]

    def draw_lists(floats):
        return render(dataclasses.replace(gaussians, **floats), image_size=size, capacity=scene.capacity).image

    def draw_patches(floats):
        return sum(
            render_patches(dataclasses.replace(g, **f), patches=m.layout(grid))[: size[0], : size[1]]
            for g, f, grid, m in zip(sets, floats, grids, maps, strict=True)
        )

    def make(draw, floats):
        gradient = jax.jit(jax.value_and_grad(lambda floats: jnp.mean(jnp.square(draw(floats) - image))))
        return lambda: gradient(floats)

    return make(draw_lists, floats_of(gaussians)), make(draw_patches, [floats_of(g) for g in sets])


def gradient_rows(scene: Scene) -> list[Row]:
    """Loss and gradient through both kinds of lists; each exponential counts in the forward and the backward pass."""
    by_lists, by_patches = gradient_functions(scene)
    counts = 2 * scene.capacity_evaluations, 2 * scene.patch_evaluations
    return [
        scene.time("forward + backward, sorted lists", by_lists, evaluations=counts[0]),
        scene.time("forward + backward, patch grids", by_patches, evaluations=counts[1]),
    ]


def solve_rows(scene: Scene) -> list[Row]:
    """The whole colour solve, and one step of it: the difference of two lengths, divided."""
    gaussians, few, many = scene.encoded.gaussians, 1, 1 + scene.config.solve_steps
    timings = {
        steps: time_warm(lambda steps=steps: solve(gaussians, scene.image, num_steps=steps), scene.config.repetitions)[
            0
        ]
        for steps in (few, many)
    }
    per_step = Timing(
        (timings[many].median - timings[few].median) / (many - few),
        (timings[many].least - timings[few].least) / (many - few),
        scene.config.repetitions,
    )
    return [
        Row(f"colour solve, {few} step", timings[few], scene.list_evaluations),
        Row(f"colour solve, {many} steps", timings[many], scene.list_evaluations),
        Row("colour solve, each further step", per_step, 0),
    ]


def refine_rows(scene: Scene) -> list[Row]:
    """One step of a refinement, its sorting included: a call of some, divided."""
    state = advance(start_state(scene.encoded.gaussians), scene.image, num_steps=SEGMENT)
    step = partial(advance, state, scene.image, num_steps=SEGMENT)
    timing, _ = time_warm(lambda: step().coordinates, scene.config.repetitions)
    per_step = Timing(timing.median / SEGMENT, timing.least / SEGMENT, timing.repetitions)
    return [Row("refinement step", per_step, evaluations=2 * state.capacity.chunks * CHUNK * TILE_SIZE**2)]


def machine_rows(scene: Scene) -> list[Row]:
    """The networks without the renderer, and the plain loops that say what the machine can do."""
    image, model = jnp.asarray(scene.image), scene.model

    @jax.jit
    def networks(params, image):
        # Each stage on the image itself: the work is that of an encode, the numbers mean nothing.
        return [
            p.apply(
                params[f"stage{i}"], patches_of(pad_to_patches(image, s.patch_map.patch_size), s.patch_map.patch_size)
            )
            for i, (s, p) in enumerate(zip(model.stages, predictors(model.stages), strict=True))
        ]

    side = 256 * max(1, round(8 * scene.config.machine_scale ** (1 / 3)))
    matrix = jnp.full((side, side), 1.0 / side, jnp.float32)
    matmul = jax.jit(lambda a: a @ a)

    return [
        scene.time("networks, all stages", lambda: networks(model.params, image), flops=scene.network_flops),
        scene.time(f"plain matmul, {side}^3", lambda: matmul(matrix), flops=2.0 * side**3),
        exp_row(scene.config.machine_scale, scene.config.repetitions),
    ]


def exp_row(scale: float, repetitions: int) -> Row:
    """How fast the machine computes exponentials; `scale` as `Benchmark.machine_scale`."""
    terms, numbers = 32, jnp.linspace(0.0, 1.0, round(2**22 * scale), dtype=jnp.float32)

    @jax.jit
    def exponentials(x):
        # Independent of each other and fused into one loop: neither latency nor memory holds them up.
        return sum(jnp.exp(x * -(1.0 + term)) for term in range(terms))

    timing, _ = time_warm(lambda: exponentials(numbers), repetitions)
    return Row("plain exp loop", timing, evaluations=terms * numbers.size)


def _cli(scene: Scene, *arguments: str | Path) -> list[str]:
    weights = ["--weights", str(scene.weights)] if scene.weights else []
    return ["-m", "airjax", *map(str, arguments), *(weights if arguments[0] == "encode" else [])]


def cold_start_rows(scene: Scene) -> list[Row]:
    """`python -m airjax encode` as a user types it; the first process, which fills the cache, is not counted."""
    with tempfile.TemporaryDirectory() as folder:
        command = _cli(scene, "encode", scene.path, "-o", Path(folder) / "photo.air")
        run_python(command)
        runs = [run_python(command) for _ in range(scene.config.process_repetitions)]
    timing = Timing.of([seconds for seconds, _ in runs])
    return [Row("cold start of `airjax encode`, cache warm", timing, peak_bytes=max(peak for _, peak in runs))]


def large_image_rows(scene: Scene) -> list[Row]:
    """The photograph tiled to a large image, through the command line: files read and written, all counted."""
    side = scene.config.large_side
    repeats = (-(-side // scene.size[0]), -(-side // scene.size[1]), 1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_image(folder / "large.png", np.tile(scene.image, repeats)[:side, :side])
        encode = run_python(_cli(scene, "encode", folder / "large.png", "-o", folder / "large.air"))
        decode = run_python(_cli(scene, "decode", folder / "large.air", "-o", folder / "decoded.png"))
    return [
        Row(f"{what} {side}x{side}, whole process", Timing.of([seconds]), peak_bytes=peak)
        for what, (seconds, peak) in (("encode", encode), ("decode", decode))
    ]


_ROWS = dict(
    zip(
        PARTS,
        (
            encode_rows,
            decode_rows,
            gradient_rows,
            solve_rows,
            refine_rows,
            machine_rows,
            cold_start_rows,
            large_image_rows,
        ),
        strict=True,
    )
)


def table(rows: list[Row]) -> str:
    """All rows; rates per second are of the median."""
    head = ["what", "median ms", "min ms", "runs", "exp evaluations", "Gexp/s", "GFLOP/s", "peak GB"]
    cells = []
    for row in rows:
        rate = 1e-9 / row.timing.median if row.timing.median > 0 else math.nan
        cells.append(
            [
                row.what,
                number(1e3 * row.timing.median, 1),
                number(1e3 * row.timing.least, 1),
                str(row.timing.repetitions),
                number(row.evaluations, 0),
                number(row.evaluations * rate if row.evaluations else None, 2),
                number(row.flops * rate if row.flops else None, 1),
                number(row.peak_bytes / 1e9 if row.peak_bytes else None, 2),
            ]
        )
    return format_table(head, cells)


def shares(rows: list[Row]) -> dict[str, float]:
    """What part of the machine is used: rates against those of the plain loops of the same run."""
    found = {row.what.split(",")[0]: row for row in reversed(rows)}
    result = {}
    if "render" in found and "plain exp loop" in found:
        result["renderer, exponentials per second against the plain exp loop"] = _rate(
            found["render"], "evaluations"
        ) / _rate(found["plain exp loop"], "evaluations")
    if "networks" in found and "plain matmul" in found:
        result["networks, FLOP per second against the plain matmul"] = _rate(found["networks"], "flops") / _rate(
            found["plain matmul"], "flops"
        )
    return result


def _rate(row: Row, name: str) -> float:
    return getattr(row, name) / row.timing.median


def run(config: Benchmark, weights: Path | None, out: Path) -> int:
    """Measures, prints the table and writes `bench.json`; 0 failures.

    Raises:
      AirjaxError: no such weights, no photograph, or a command of another process failed.
    """
    model = load(weights)
    path = find_images([config.images], suffixes=IMAGE_SUFFIXES)[0]
    scene = Scene(model, weights, path, read_image(path).pixels, config)
    rows: list[Row] = []
    with tqdm(config.parts, disable=None) as progress:
        for part in progress:
            progress.set_description(part)
            rows += _ROWS[part](scene)
    height, width = scene.size
    counts = [number(c, 0) for c in scene.encoded.stage_counts]
    print(f"{config.description}; {width}x{height}, weights {model.name}")
    print(f"{scene.encoded.gaussians.num_slots:,} Gaussians, per stage {' + '.join(counts)}")
    print(table(rows))
    for name, share in shares(rows).items():
        print(f"{name}: {share:.0%}")
    report = {
        "name": config.name,
        "description": f"{config.description}; times in seconds",
        "weights": model.name,
        "config": dataclasses.asdict(config),
        "environment": environment(),
        "stage_counts": list(scene.encoded.stage_counts),
        "rows": [{**row._asdict(), "timing": row.timing._asdict()} for row in rows],
        "shares": shares(rows),
    }
    write_json(out / "bench.json", report)
    print(f"report: {out / 'bench.json'}")
    return 0

"""`airjax reconstruct`: a folder of photographs to a .ply file of 3D Gaussians."""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from airjax.commands.options import (
    MAX_SIDE,
    MAX_STEPS,
    add_options,
    add_output,
    add_weights,
    number,
    steps_or_seconds,
    whole,
)
from airjax.commands.outputs import check_free, guarded
from airjax.commands.poses import poses_of, scene_folder
from airjax.commands.session import Bars, Clock, Fatal, Screen, start_jax
from airjax.errors import AirjaxError
from airjax.files import display_name
from airjax.scene.defaults import HOLD_OUT, MAX_SIZE, PER_PIXEL_OF_SIDE, PREDICT_SIZE, REFINE_STEPS, STARTS, VIEWS

if TYPE_CHECKING:
    from airjax.scene.model import Model
    from airjax.scene.reconstruct import Reconstruction
    from airjax.scene.unposed import UnposedModel

MAX_SECONDS = 86_400.0
_FOG = 0.01  # share of the Gaussians before cameras that is said
MAX_GAUSSIANS = 2**22
HELP = "a folder of photographs to 3D Gaussians (.ply)"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `airjax reconstruct`."""
    what = "folder with transforms.json, poses_bounds.npy, a COLMAP model in sparse/0, or cameras.json"
    without = "with --poses, or --weights of a network that needs none, photographs; with --poses a video, too"
    parser.add_argument("input", metavar="SCENE", help=f"{what}; {without}")
    add_output(parser, "file", "SCENE.ply here")
    default = "(default: from the pose file or its points, or found)"
    add_options(
        parser,
        ("--views V", whole(1), "photographs that are turned into Gaussians, spread over the scene", VIEWS),
        (
            "--predict-size S",
            whole(16, MAX_SIDE),
            "longest side in pixels of the photographs as the network sees them: a Gaussian for each pixel",
            PREDICT_SIZE,
        ),
        (
            "--refine K",
            steps_or_seconds(MAX_STEPS, MAX_SECONDS),
            "gradient steps on the Gaussians, each towards two of the photographs, or a time for them, as 30s or 2m",
            REFINE_STEPS,
        ),
        (
            "--start",
            STARTS,
            "where refinement begins: at what the network predicts, or at the points of the pose file or triangulated "
            "ones, without a network; that needs --refine",
            STARTS[0],
        ),
        (
            "--gaussians N",
            whole(1, MAX_GAUSSIANS),
            f"at most so many (default: {PER_PIXEL_OF_SIDE} for each pixel of the longest side of the photographs)",
        ),
        (
            "--exposure",
            bool,
            "refine with a gain and an offset for each photograph and channel, as photographs taken with an automatic "
            "exposure need",
        ),
        (
            "--max-size P",
            whole(16, MAX_SIDE),
            "longest side of a photograph in pixels; larger ones are downscaled, and refined and measured like that",
            MAX_SIZE,
        ),
        (
            "--hold-out N",
            whole(0),
            "every N-th photograph is kept back to measure with, 0 for none (default: those that the pose file marks "
            f"as test, or every {HOLD_OUT}th)",
        ),
        ("--near Z", number(1e-12, 1e12), f"least depth, in units of the poses {default}"),
        ("--far Z", number(1e-12, 1e12), f"largest depth {default}"),
    )
    add_options(parser, ("--poses", ("colmap",), "find the poses first, as `airjax poses` does, where there are none"))
    add_weights(parser)


def run(options: argparse.Namespace, screen: Screen) -> None:
    """Reads the photographs, reconstructs the scene, writes the file and says what is in it."""
    source = Path(options.input)
    target = Path(f"{scene_folder(source).resolve().name}.ply" if options.output is None else options.output)
    if options.start == STARTS[1] and not options.refine:
        raise AirjaxError("--start points: expected --refine with it, as points alone are no picture, found none")
    if target.suffix.lower() != ".ply":
        raise AirjaxError(f"{display_name(target)}: expected a name ending in .ply")
    if not options.quiet:
        check_free(_sheet_of(target), options)
    guarded(partial(_reconstruct, options=options, screen=screen), [], options)(source, target)


def _sheet_of(target: Path) -> Path:
    """Where the pictures of the views that were kept back go."""
    return target.with_suffix(".png")


def _reconstruct(source: Path, target: Path, options: argparse.Namespace, screen: Screen) -> None:
    import numpy as np

    from airjax.photographs import write_image
    from airjax.scene.files.photographs import load, load_unposed
    from airjax.scene.files.pose_formats import has_poses
    from airjax.scene.reconstruct import reconstruct

    source = poses_of(source, screen, find=options.poses is not None)
    name = display_name(source)
    without = source.is_dir() and not has_poses(source) and _finds_poses(options.weights)
    scene = (load_unposed if without else load)(source, max_size=options.max_size)
    screen.notices(source, scene.notices)
    start_jax(screen)
    model = _load_model(options.weights, without=without) if without or options.start == STARTS[0] else None
    timed = isinstance(options.refine, float)
    units = {"search": "view", "refine": "s" if timed else "step"}
    with Bars(screen, units) as bars, Clock() as clock:
        made = reconstruct(
            scene,
            model=model,
            start=options.start,
            views=options.views,
            predict_size=options.predict_size,
            most=options.gaussians,
            refine_steps=None if timed else options.refine,
            refine_seconds=options.refine if timed else None,
            near=options.near,
            far=options.far,
            hold_out=options.hold_out,
            max_size=options.max_size,
            exposure=options.exposure,
            score=not options.quiet,
            progress=bars.show,
        )
    screen.notices(source, made.notices[len(scene.notices) :])
    made.save(target)
    if made.sheet is not None:
        write_image(_sheet_of(target), made.sheet / np.float32(255))
    content = _content(made, len(scene.names), options.refine)
    screen.result(f"{name} -> {display_name(target)}: {content}, {clock} in all, {target.stat().st_size} bytes")


def _finds_poses(weights: str | None) -> bool:
    """Whether there is a network for photographs without poses: of these weights, or a shipped one."""
    from airjax.scene import unposed

    return unposed.DEFAULT_WEIGHTS.exists() if weights is None else unposed.is_unposed(weights)


def _load_model(path: str | None, *, without: bool) -> Model | UnposedModel:
    """The weights, for photographs with or without poses; any problem with them is the end of the run."""
    from airjax.scene import model, unposed

    try:
        if without or (path is not None and _finds_poses(path)):
            return unposed.load(path)
        return model.load(path)
    except AirjaxError as error:
        raise Fatal(str(error)) from error


def _content(made: Reconstruction, num_photographs: int, refine: int | float) -> str:
    height, width = made.image_size
    milliseconds = {part: f"{1000 * seconds:.0f} ms" for part, seconds in made.seconds.items()}
    parts = [f"{num_photographs} views of {width}x{height}, {made.num_views} of them seen"]
    parts.append(f"{made.gaussians.num_slots} Gaussians in {milliseconds['predict']}")
    if refine:
        steps = f"{refine} steps of refinement" if isinstance(refine, int) else "refined"
        parts.append(f"{steps} in {milliseconds['refine']}")
    if made.held_out.psnr:
        decibels, count = made.held_out.mean_psnr, len(made.held_out.psnr)
        name, least = made.held_out.worst or ("", 0.0)
        worst = f", {least:.2f} dB of the worst ({name})" if count > 1 else ""
        parts.append(f"PSNR {decibels:.2f} dB of the {count} views that were kept back{worst}")
    if made.near_cameras >= _FOG:
        parts.append(f"{100 * made.near_cameras:.0f} % of the Gaussians float before a camera")
    return ", ".join(parts)

"""`airjax reconstruct`: a folder of posed photographs to a .ply file of 3D Gaussians."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from airjax.commands.options import MAX_SIDE, MAX_STEPS, add_output, add_weights, number, whole
from airjax.commands.outputs import guarded
from airjax.commands.session import Clock, Fatal, Screen, progress_bar, start_jax
from airjax.errors import AirjaxError
from airjax.scene.defaults import HOLD_OUT, MAX_SIZE, PREDICT_SIZE, REFINE_STEPS, VIEWS

if TYPE_CHECKING:
    from airjax.gaussians import Gaussians3D
    from airjax.scene.files.photographs import Scene


HELP = "a folder of photographs with poses to 3D Gaussians (.ply)"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `airjax reconstruct`."""
    parser.add_argument(
        "input",
        metavar="SCENE",
        help="folder with transforms.json, poses_bounds.npy, a COLMAP model in sparse/0, or cameras.json",
    )
    add_output(parser, "file", "SCENE.ply here")
    parser.add_argument(
        "--views",
        type=whole(1),
        default=VIEWS,
        metavar="V",
        help="photographs that are turned into Gaussians, spread over the scene (default: %(default)s)",
    )
    parser.add_argument(
        "--predict-size",
        type=whole(16, MAX_SIDE),
        default=PREDICT_SIZE,
        metavar="S",
        help="longest side in pixels of the photographs as the network sees them: a Gaussian for each pixel "
        "(default: %(default)s)",
    )
    parser.add_argument(
        "--refine",
        type=whole(0, MAX_STEPS),
        default=REFINE_STEPS,
        metavar="K",
        help="gradient steps on the predicted Gaussians, each towards two of the photographs (default: %(default)s)",
    )
    parser.add_argument(
        "--max-size",
        type=whole(16, MAX_SIDE),
        default=MAX_SIZE,
        metavar="P",
        help="longest side of a photograph in pixels; larger ones are made smaller, and refined and measured like that "
        "(default: %(default)s)",
    )
    parser.add_argument(
        "--hold-out",
        type=whole(0),
        default=HOLD_OUT,
        metavar="N",
        help="every N-th photograph is kept back to measure with, 0 for none (default: %(default)s, or those that the "
        "pose file calls test)",
    )
    depth = number(1e-12, 1e12)
    parser.add_argument(
        "--near", type=depth, metavar="Z", help="least depth, in units of the poses (default: from the files, or found)"
    )
    parser.add_argument("--far", type=depth, metavar="Z", help="largest depth (default: from the files, or found)")
    add_weights(parser)


def run(options: argparse.Namespace, screen: Screen) -> None:
    """Reconstructs one scene."""
    from airjax.files import display_name

    source = Path(options.input)
    target = Path(f"{source.resolve().name}.ply" if options.output is None else options.output)
    if target.suffix.lower() != ".ply":
        raise AirjaxError(f"{display_name(target)}: expected a name ending in .ply")

    def work(source: Path, target: Path) -> None:
        from airjax.scene.files.photographs import load

        scene = load(source, max_size=options.max_size)
        for notice in scene.notices:
            screen.notice(f"{display_name(source)}: {notice}")
        start_jax(screen)
        _reconstruct(scene, source, target, options, screen)

    guarded(work, [], options, ours=None)(source, target)


def _reconstruct(scene: Scene, source: Path, target: Path, options, screen: Screen) -> None:
    from airjax.files import display_name
    from airjax.scene import view_selection
    from airjax.scene.files.camera_file import Snapshot, to_comment
    from airjax.scene.files.ply import write_ply
    from airjax.scene.model import load

    name = display_name(source)
    try:
        model = load(options.weights)
    except AirjaxError as error:
        raise Fatal(str(error)) from error
    seen, back = view_selection.held_out(scene.splits, every=options.hold_out)
    given = scene.take(seen)
    near, far = _bounds(given, name, options, screen)
    chosen = view_selection.spread(given.cameras, options.views)
    sets = view_selection.comparisons(given.cameras, chosen, near=near, far=far)
    small = given.shrunk(options.predict_size)
    with Clock() as predicting:
        gaussians = model.predict(small.images, small.cameras, near, far, sets=sets, empty=small.empty)
    if not gaussians.num_slots:
        raise AirjaxError(f"{name}: expected photographs of something, found nothing that two of them share")
    parts = [f"{len(scene.names)} views of {scene.images.shape[2]}x{scene.images.shape[1]}, {len(chosen)} of them seen"]
    parts += [f"{gaussians.num_slots} Gaussians in {predicting}"]
    if options.refine:
        gaussians, refining = _refined(gaussians, given, near, model.rates, options, screen)
        parts.append(f"{options.refine} steps of refinement in {refining}")
    if len(back) and not options.quiet:
        decibels = _quality(gaussians, scene.take(back))
        parts.append(f"PSNR {decibels:.2f} dB of the {len(back)} views that were kept back")
    middle = given.take(view_selection.spread(given.cameras, 1)).cameras[0]
    snapshot = Snapshot(middle, scene.images.shape[1:3], 2 / (1 / near + 1 / far), tuple(scene.background.tolist()))
    write_ply(target, gaussians, comments=[to_comment(snapshot)])
    screen.result(f"{name} -> {display_name(target)}: {', '.join(parts)}, {target.stat().st_size} bytes")


def _bounds(scene: Scene, name: str, options, screen: Screen) -> tuple[float, float]:
    """Near and far of what the views show: of the user, of the files, or found."""
    from airjax.scene.triangulate import triangulate

    near, far = options.near, options.far
    if near is None or far is None:
        if scene.bounds is not None:
            found = scene.bounds
        else:
            with Clock() as searching:
                found = triangulate(scene.images, scene.cameras, source=name)
                found = found.near, found.far
            screen.notice(f"{name}: depths from {found[0]:.3g} to {found[1]:.3g}, found in {searching}")
        near, far = found[0] if near is None else near, found[1] if far is None else far
    if not near < far:
        raise AirjaxError(f"{name}: expected --near below --far, got {near:g} and {far:g}")
    return near, far


def _refined(gaussians: Gaussians3D, scene: Scene, near: float, rates, options, screen: Screen):
    from airjax.scene.task import refine_gaussians

    with progress_bar(screen, total=options.refine, unit="step", desc="refine") as bar, Clock() as refining:
        gaussians = refine_gaussians(
            gaussians,
            scene.images,
            scene.cameras,
            num_steps=options.refine,
            unit=near,
            background=scene.background,
            rates=rates,
            progress=lambda step: bar.update(step - bar.n),
        )
    return gaussians, refining


def _quality(gaussians: Gaussians3D, scene: Scene) -> float:
    """Mean PSNR in dB of the 8-bit images of some view_selection."""
    import numpy as np

    from airjax.metrics import psnr, to_8bit
    from airjax.scene.render import render

    options = {"image_size": scene.images.shape[1:3], "background": scene.background}
    values = [
        psnr(image, to_8bit(render(gaussians, scene.cameras[i], **options).image))
        for i, image in enumerate(scene.images)
    ]
    return float(np.mean(values))

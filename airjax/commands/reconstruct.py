"""The command `airjax reconstruct`: a folder of posed photographs to a .ply file of 3D Gaussians."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING

from airjax.commands.outputs import guarded
from airjax.commands.session import Fatal, Screen, bar_of
from airjax.errors import AirjaxError

if TYPE_CHECKING:
    from airjax.gaussians import Gaussians3D
    from airjax.scene.files.photographs import Scene


def reconstruct(
    options: argparse.Namespace,
    screen: Screen,
    *,
    start_jax: Callable[[Screen], None],
    clock: Callable[[], AbstractContextManager],
) -> None:
    """The body of the command; the arguments are those of `airjax.commands.fit.fit`."""
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
        _reconstruct(scene, source, target, options, screen, clock)

    guarded(work, [], options, ours=None)(source, target)


def _reconstruct(scene: Scene, source: Path, target: Path, options, screen: Screen, clock) -> None:
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
    near, far = _bounds(given, name, options, screen, clock)
    chosen = view_selection.spread(given.cameras, options.views)
    sets = view_selection.comparisons(given.cameras, chosen, near=near, far=far)
    small = given.shrunk(options.predict_size)
    with clock() as predicting:
        gaussians = model.predict(small.images, small.cameras, near, far, sets=sets, empty=small.empty)
    if not gaussians.num_slots:
        raise AirjaxError(f"{name}: expected photographs of something, found nothing that two of them share")
    parts = [f"{len(scene.names)} views of {scene.images.shape[2]}x{scene.images.shape[1]}, {len(chosen)} of them seen"]
    parts += [f"{gaussians.num_slots} Gaussians in {predicting}"]
    if options.refine:
        gaussians, refining = _refined(gaussians, given, near, model.rates, options, screen, clock)
        parts.append(f"{options.refine} steps of refinement in {refining}")
    if len(back) and not options.quiet:
        decibels = _quality(gaussians, scene.take(back))
        parts.append(f"PSNR {decibels:.2f} dB of the {len(back)} views that were kept back")
    middle = given.take(view_selection.spread(given.cameras, 1)).cameras[0]
    snapshot = Snapshot(middle, scene.images.shape[1:3], 2 / (1 / near + 1 / far), tuple(scene.background.tolist()))
    write_ply(target, gaussians, comments=[to_comment(snapshot)])
    screen.result(f"{name} -> {display_name(target)}: {', '.join(parts)}, {target.stat().st_size} bytes")


def _bounds(scene: Scene, name: str, options, screen: Screen, clock) -> tuple[float, float]:
    """Near and far of what the views show: of the user, of the files, or found."""
    from airjax.scene.triangulate import triangulate

    near, far = options.near, options.far
    if near is None or far is None:
        if scene.bounds is not None:
            found = scene.bounds
        else:
            with clock() as searching:
                found = triangulate(scene.images, scene.cameras, source=name)
                found = found.near, found.far
            screen.notice(f"{name}: depths from {found[0]:.3g} to {found[1]:.3g}, found in {searching}")
        near, far = found[0] if near is None else near, found[1] if far is None else far
    if not near < far:
        raise AirjaxError(f"{name}: expected --near below --far, got {near:g} and {far:g}")
    return near, far


def _refined(gaussians: Gaussians3D, scene: Scene, near: float, rates, options, screen: Screen, clock):
    from airjax.inner.task import run
    from airjax.scene.task import SceneTask

    task = SceneTask(scene.images, scene.cameras, near, scene.background, rates=rates)
    with bar_of(screen, total=options.refine, unit="step", desc="refine") as bar, clock() as refining:
        gaussians = run(task, gaussians, num_steps=options.refine, progress=lambda step: bar.update(step - bar.n))
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

"""`airjax render`: a .ply file of 3D Gaussians to an image, to frames, or to an animation."""

from __future__ import annotations

import argparse
import io
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from airjax.commands.options import MAX_SIDE, add_output, whole
from airjax.commands.outputs import check_free, guarded
from airjax.commands.session import Clock, Screen, progress_bar, start_jax
from airjax.errors import AirjaxError

if TYPE_CHECKING:
    import numpy as np

    from airjax.scene.cameras import Camera

HELP = "3D Gaussians (.ply) to an image, to frames or to an animation"
FRAMES, FRAME_SECONDS = 48, 1 / 24
PRESETS = ("gsplat", "gsplat-1.4", "gsplat-1.6", "inria")  # names of `airjax.scene.project.PRESETS`, default first
_ANIMATED = {".gif": {}, ".webp": {"quality": 90, "method": 4}}  # and what Pillow's writer is told


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `airjax render`."""
    parser.add_argument("input", metavar="FILE", help=".ply file, of airjax or of another program")
    add_output(parser, "image, .gif or .webp animation, or folder of frames", "scene.png beside scene.ply")
    parser.add_argument(
        "--cameras",
        metavar="CAMERAS",
        help="from where to look: a file of cameras (.json), or a folder with poses (default: what the file says; "
        "several frames go around it in a circle)",
    )
    parser.add_argument(
        "--frames",
        type=whole(1, 100_000),
        metavar="F",
        help=f"so many, on a smooth way past the cameras (default: one for each camera, {FRAMES} for a circle)",
    )
    parser.add_argument(
        "--size", type=whole(1, MAX_SIDE), metavar="P", help="longest side in pixels (default: that of the cameras)"
    )
    parser.add_argument(
        "--background", choices=("black", "white"), help="behind everything (default: what the file says, or black)"
    )
    parser.add_argument(
        "--preset", choices=PRESETS, default=PRESETS[0], help="whose constants to draw with (default: %(default)s)"
    )
    parser.add_argument("--antialiased", action="store_true", help="keep small Gaussians from growing when drawn small")


def run(options: argparse.Namespace, screen: Screen) -> None:
    """Draws one file of Gaussians."""
    from airjax.files import display_name
    from airjax.photographs import IMAGE_SUFFIXES

    source = Path(options.input)
    target = source.with_suffix(".png") if options.output is None else Path(options.output)
    folder = target.is_dir() or str(options.output or "").endswith(("/", os.sep)) or not target.suffix
    suffixes = (*IMAGE_SUFFIXES, *_ANIMATED)
    if not folder and target.suffix.lower() not in suffixes:
        known = ", ".join(dict.fromkeys(suffixes))
        raise AirjaxError(f"{display_name(target)}: expected a folder, or a name ending in {known}")

    def work(source: Path, target: Path) -> None:
        cameras, image_size, gaussians, background = _scene(source, folder, target, options, screen)
        start_jax(screen)
        count = len(cameras.translation)
        with progress_bar(screen, total=count, unit="frame") as bar, Clock() as drawing:
            frames = _frames(gaussians, cameras, image_size, background, options, bar)
            _write(frames, count, target, folder, options)
        what = "1 image" if count == 1 else f"{count} frames"
        size = f"{image_size[1]}x{image_size[0]}"
        content = f"{gaussians.num_slots} Gaussians, {what} of {size}, {drawing}"
        screen.result(f"{display_name(source)} -> {display_name(target)}: {content}")

    if folder:
        work(source, target)
    else:
        guarded(work, [source], options, ours=None)(source, target)


def _scene(source: Path, folder: bool, target: Path, options, screen: Screen):
    """(cameras, image size, Gaussians, background) that were asked for."""
    import jax
    import numpy as np

    from airjax.files import display_name
    from airjax.scene import trajectories
    from airjax.scene.files.camera_file import from_comments, read_cameras
    from airjax.scene.files.photographs import load
    from airjax.scene.files.ply import read_ply

    name = display_name(source)
    gaussians, comments, notices = read_ply(source)
    for notice in notices:
        screen.notice(f"{name}: {notice}")
    view = from_comments(comments)
    animated = folder or target.suffix.lower() in _ANIMATED
    if options.cameras is not None:
        if Path(options.cameras).is_dir():
            scene = load(options.cameras, max_size=2**15)
            cameras, image_size = scene.cameras, scene.images.shape[1:3]
        else:
            cameras, image_size = read_cameras(options.cameras)
        if options.frames is not None:
            cameras = trajectories.through(cameras, num_frames=options.frames)
        elif not animated:
            cameras = cameras[:1]
    elif view is None:
        raise AirjaxError(f"{name}: expected --cameras for a file that does not say from where to look, got none")
    else:
        count = (FRAMES if animated else 1) if options.frames is None else options.frames
        cameras, image_size = trajectories.around(view.camera, distance=view.focus, num_frames=count), view.image_size
    if not animated and len(cameras.translation) > 1:
        raise AirjaxError(f"{display_name(target)}: expected a folder, .gif or .webp for several frames")
    if options.size is not None:
        scale = options.size / max(image_size)
        size = tuple(max(1, round(side * scale)) for side in image_size)
        factors = np.diag([size[1] / image_size[1], size[0] / image_size[0], 1.0]).astype(np.float32)
        cameras = type(cameras)(factors @ cameras.intrinsics, cameras.rotation, cameras.translation)
        image_size = size
    colors = {"black": np.zeros(3), "white": np.ones(3)}
    background = colors[options.background] if options.background else view.background if view else np.zeros(3)
    cameras = jax.tree.map(np.asarray, cameras)
    return cameras, image_size, gaussians, np.asarray(background, np.float32)


def _frames(gaussians, cameras: Camera, image_size, background, options, bar) -> Iterator[np.ndarray]:
    """(h, w, 3) images, one after the other."""
    import numpy as np

    from airjax.scene.render import render

    for i in range(len(cameras.translation)):
        view = render(
            gaussians,
            cameras[i],
            image_size=image_size,
            background=background,
            preset=options.preset,
            antialiased=options.antialiased,
        )
        image = np.asarray(view.image)
        if not np.isfinite(image).all():
            raise AirjaxError(
                f"{options.input}: expected Gaussians that can be drawn, got NaN or infinity in the image"
            )
        yield image
        bar.update(1)


def _write(frames: Iterator[np.ndarray], count: int, target: Path, folder: bool, options) -> None:
    from PIL import Image

    from airjax.files import atomic_write_bytes
    from airjax.photographs import to_8bit, write_image

    if folder:
        target.mkdir(exist_ok=True)
        digits = max(3, len(str(count - 1)))
        for i, frame in enumerate(frames):
            file = target / f"{i:0{digits}}.png"
            check_free(file, options)
            write_image(file, frame)
        return
    suffix = target.suffix.lower()
    if suffix not in _ANIMATED or (count == 1 and suffix != ".gif"):
        (frame,) = frames
        write_image(target, frame)
        return
    first, *others = (Image.fromarray(to_8bit(frame)) for frame in frames)
    buffer = io.BytesIO()
    timing = {"duration": round(1000 * FRAME_SECONDS), "loop": 0}
    first.save(buffer, suffix[1:].upper(), save_all=True, append_images=others, **timing, **_ANIMATED[suffix])
    atomic_write_bytes(target, buffer.getbuffer())

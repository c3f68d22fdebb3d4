"""`airjax render`: a .ply file of 3D Gaussians to an image, to frames, or to an animation."""

from __future__ import annotations

import argparse
import io
import os
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from airjax.commands.options import MAX_SIDE, add_options, add_output, whole
from airjax.commands.outputs import check_free, guarded
from airjax.commands.session import Clock, Screen, progress_bar, start_jax
from airjax.errors import AirjaxError
from airjax.files import atomic_write_bytes, display_name

if TYPE_CHECKING:
    import numpy as np

    from airjax.gaussians import Gaussians3D
    from airjax.scene.cameras import Camera

HELP = "3D Gaussians (.ply) to an image, to frames or to an animation"
FRAMES, FRAME_SECONDS = 48, 1 / 24
OVERVIEW_SIZE = (512, 512)  # (h, w) pixels of what is drawn of a file without a camera
PRESETS = ("gsplat", "gsplat-1.4", "gsplat-1.6", "inria")  # names of `airjax.scene.project.PRESETS`, default first
_ANIMATED = {".gif": {}, ".webp": {"quality": 90, "method": 4}}  # suffix to the options of Pillow's writer


class Shot(NamedTuple):
    """What to draw."""

    cameras: Camera  # a stack of one for each frame; numpy arrays
    image_size: tuple[int, int]  # (h, w) pixels
    background: np.ndarray  # (3,) float32 color behind everything
    notices: tuple[str, ...]  # lines for the user


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `airjax render`."""
    parser.add_argument("input", metavar="FILE", help=".ply file, of airjax or of another program, .spz or .splat")
    add_output(parser, "image, .gif or .webp animation, or folder of frames", "scene.png beside scene.ply")
    add_options(
        parser,
        (
            "--cameras CAMERAS",
            str,
            "from where to look: a file of cameras (.json; those of nerfstudio and 3D Gaussian Splatting too), or a "
            "folder with poses (default: the camera in the file, which several frames circle; without one, from "
            "outside, and all around)",
        ),
        (
            "--frames F",
            whole(1, 100_000),
            "number of frames, on a smooth path past the cameras (default: one for each camera, "
            f"{FRAMES} for a circle)",
        ),
        ("--size P", whole(1, MAX_SIDE), "longest side in pixels (default: that of the cameras)"),
        ("--background", ("black", "white"), "behind everything (default: that in the file, or black)"),
        ("--preset", PRESETS, "whose constants to draw with", PRESETS[0]),
        ("--antialiased", bool, "keep small Gaussians from growing when drawn small"),
    )


def run(options: argparse.Namespace, screen: Screen) -> None:
    """Reads the Gaussians, draws them and writes the frames."""
    from airjax.photographs import WRITTEN_SUFFIXES

    source = Path(options.input)
    target = source.with_suffix(".png") if options.output is None else Path(options.output)
    draw = partial(_render, options=options, screen=screen)
    if target.is_dir() or str(options.output or "").endswith(("/", os.sep)) or not target.suffix:
        draw(source, target, is_folder=True)
        return
    suffixes = (*WRITTEN_SUFFIXES, *_ANIMATED)
    if target.suffix.lower() not in suffixes:
        known = ", ".join(dict.fromkeys(suffixes))
        raise AirjaxError(f"{display_name(target)}: expected a folder, or a name ending in {known}")
    guarded(draw, [source], options)(source, target)


def _render(
    source: Path, target: Path, *, options: argparse.Namespace, screen: Screen, is_folder: bool = False
) -> None:
    from airjax.scene.files.packed_splats import read_splats

    name = display_name(source)
    gaussians, comments, notices = read_splats(source)
    screen.notices(source, notices)
    if gaussians.num_slots == 0:
        raise AirjaxError(f"{name}: expected one Gaussian or more to draw, found none")
    several = is_folder or target.suffix.lower() in _ANIMATED
    shot = choose_cameras(gaussians, comments, options, several=several)
    screen.notices(source if options.cameras is None else Path(options.cameras), shot.notices)
    count = len(shot.cameras.translation)
    if count > 1 and not several:
        raise AirjaxError(f"{display_name(target)}: expected a folder, .gif or .webp for several frames")
    start_jax(screen)
    with progress_bar(screen, total=count, unit="frame") as bar, Clock() as clock:
        frames = _frames(gaussians, shot, options, bar)
        if is_folder:
            _write_folder(frames, count, target, options)
        else:
            _write_file(frames, count, target)
    what = "1 image" if count == 1 else f"{count} frames"
    size = f"{shot.image_size[1]}x{shot.image_size[0]}"
    screen.result(f"{name} -> {display_name(target)}: {gaussians.num_slots} Gaussians, {what} of {size}, {clock}")


def choose_cameras(
    gaussians: Gaussians3D, comments: Sequence[str], options: argparse.Namespace, *, several: bool
) -> Shot:
    """The cameras, image size and background that the options ask for; `several`: whether the output can hold frames.

    The comments are those of the file of the Gaussians, which may hold a view. Without it and --cameras, the Gaussians
    are seen from outside.
    """
    import jax
    import numpy as np

    from airjax.scene import trajectories
    from airjax.scene.files.camera_file import down_of, from_comments, origin_in, read_cameras

    view = from_comments(comments)
    notices: tuple[str, ...] = ()
    count = (FRAMES if several else 1) if options.frames is None else options.frames
    if options.cameras is not None:
        cameras, image_size, notices = read_cameras(options.cameras, origin=origin_in(comments))
        if options.frames is not None:
            cameras = trajectories.through(cameras, num_frames=options.frames)
        elif not several:
            cameras = cameras[:1]
    elif view is not None:
        cameras, image_size = trajectories.around(view.camera, distance=view.focus, num_frames=count), view.image_size
    else:
        image_size, down = OVERVIEW_SIZE, down_of(comments)
        camera, distance = trajectories.overview(gaussians, down=down, image_size=image_size)
        cameras = trajectories.turntable(camera, distance=distance, down=down, num_frames=count)
        axis = "y points down" if down[1] else "z points up"
        notices = (f"no camera in the file, so it is seen from outside, where {axis}; --cameras looks from elsewhere",)
    if options.size is not None:
        scale = options.size / max(image_size)
        size = tuple(max(1, round(side * scale)) for side in image_size)
        cameras, image_size = cameras.resized(image_size, size), size
    colors = {"black": np.zeros(3), "white": np.ones(3)}
    background = colors[options.background] if options.background else view.background if view else np.zeros(3)
    return Shot(jax.tree.map(np.asarray, cameras), image_size, np.asarray(background, np.float32), notices)


def _frames(gaussians: Gaussians3D, shot: Shot, options: argparse.Namespace, bar) -> Iterator[np.ndarray]:
    """(h, w, 3) images, one after the other."""
    import numpy as np

    from airjax.scene.render import render

    draw = partial(render, gaussians, preset=options.preset, antialiased=options.antialiased)
    for i in range(len(shot.cameras.translation)):
        view = draw(shot.cameras[i], image_size=shot.image_size, background=shot.background)
        image = np.asarray(view.image)
        if not np.isfinite(image).all():
            expected = "expected Gaussians that can be drawn, got NaN or infinity in the image"
            raise AirjaxError(f"{options.input}: {expected}")
        yield image
        bar.update(1)


def _write_folder(frames: Iterator[np.ndarray], count: int, folder: Path, options: argparse.Namespace) -> None:
    """Numbered .png files."""
    from airjax.photographs import write_image

    folder.mkdir(exist_ok=True)
    digits = max(3, len(str(count - 1)))
    for i, frame in enumerate(frames):
        file = folder / f"{i:0{digits}}.png"
        check_free(file, options)
        write_image(file, frame)


def _write_file(frames: Iterator[np.ndarray], count: int, target: Path) -> None:
    """An image, or an animation."""
    from PIL import Image

    from airjax.photographs import to_8bit, write_image

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

"""`airjax poses`: photographs or a video to the folder of a scene, with poses that pycolmap finds."""

from __future__ import annotations

import argparse
import shutil
import tempfile
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from airjax.commands.interrupt import at_interrupt
from airjax.commands.options import MAX_SIDE, add_options, add_output, whole
from airjax.commands.session import Bars, Screen
from airjax.errors import AirjaxError
from airjax.files import display_name, reason
from airjax.scene.defaults import POSE_CAMERAS, POSE_SIZE, VIDEO_FRAMES, VIDEO_SUFFIXES

if TYPE_CHECKING:
    from airjax.scene.poses import FoundPoses

HELP = "a folder of photographs, or a video, to one with poses, for reconstruct"
_STAGES = {"frames": "frame", "read": "photo", "features": "photo", "match": "pair", "place": "photo"}


class Settings(NamedTuple):
    """What the poses may be found with."""

    camera: str = POSE_CAMERAS[0]
    max_size: int = POSE_SIZE
    frames: int = VIDEO_FRAMES
    force: bool = False


_DEFAULTS = Settings()


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `airjax poses`."""
    parser.add_argument("input", metavar="PHOTOS", help="folder of photographs, also in folders of it, or a video")
    default = "PHOTOS itself, where the photographs stay; of video.mp4 the folder video beside it"
    add_output(parser, "folder of the scene, to which the photographs are copied", default)
    add_options(
        parser,
        (
            "--camera",
            POSE_CAMERAS,
            "which photographs share a camera: those of a size and a focal length, all (single), those of a folder, "
            "or none (image)",
            POSE_CAMERAS[0],
        ),
        (
            "--max-size P",
            whole(64, MAX_SIDE),
            "longest side in pixels of the photographs as features are looked for; larger ones are made smaller",
            POSE_SIZE,
        ),
        ("--frames N", whole(2, 10_000), "frames of a video, the sharpest of N even parts", VIDEO_FRAMES),
    )


def run(options: argparse.Namespace, screen: Screen) -> None:
    """Finds the poses, writes them and says how well they fit."""
    settings = Settings(options.camera, options.max_size, options.frames, options.force)
    make_poses(Path(options.input), screen, target=options.output, settings=settings)


def scene_folder(source: Path) -> Path:
    """Where the poses of photographs or a video go by default: to their folder, or to one named after the video."""
    return source.with_suffix("") if is_video(source) else source


def poses_of(source: Path, screen: Screen, *, find: bool) -> Path:
    """The folder of a scene; where it has no poses yet, and with `find`, photographs or a video are given some first.

    Poses that are there already are kept, with a notice. Raises AirjaxError: a video, without `find`.
    """
    from airjax.scene.files.pose_formats import has_poses

    scene = scene_folder(source)
    if not find:
        if is_video(source) and source.exists():
            hint = "--poses colmap finds those of a video (pip install 'airjax[poses,video]')"
            raise AirjaxError(
                f"{display_name(source)}: expected a folder of photographs with poses, found a video; {hint}"
            )
        return source
    if has_poses(scene):
        screen.notice(f"{display_name(scene)}: has poses, which are used; `airjax poses --force` finds others")
    else:
        make_poses(source, screen)
    return scene


def is_video(source: Path) -> bool:
    """Whether a path is that of a video, by its suffix."""
    return source.suffix.lower() in VIDEO_SUFFIXES and not source.is_dir()


def make_poses(source: Path, screen: Screen, *, target: str | None = None, settings: Settings = _DEFAULTS) -> None:
    """Writes poses, and photographs that lie elsewhere, to the folder of a scene: `target`, or `scene_folder`.

    Everything is made in a hidden folder in it or beside it, and moved at the end.
    """
    from airjax.scene.files.pose_folder import find_photographs, write_pose_folder
    from airjax.scene.poses import find_poses, pycolmap_module
    from airjax.scene.video import av_module, write_sharpest_frames

    start = time.perf_counter()
    scene = scene_folder(source) if target is None else Path(target)
    root: Path | None = None
    names: tuple[str, ...] = ()
    if is_video(source):
        av_module()
    else:
        root, names, notices = find_photographs(source)
        screen.notices(source, notices)
    pycolmap_module()  # before anything that takes long
    _check_free(scene, root, names, settings)
    with _work_folder(scene) as folder, at_interrupt(partial(_removed, folder)), Bars(screen, _STAGES) as bars:
        work = Path(folder)
        if root is None:
            (root := work / "frames").mkdir()
            progress = partial(bars.show, "frames")
            names, total, notices = write_sharpest_frames(source, root, count=settings.frames, progress=progress)
            screen.notices(source, (*notices, f"{len(names)} of {total} frames taken, the sharpest of even parts"))
        found = find_poses(names, root, work, camera=settings.camera, max_size=settings.max_size, progress=bars.show)
        write_pose_folder(scene, found.model, found.points, root=root, work=work)
    screen.notices(source, found.notices)
    if found.without:
        some = ", ".join(found.without[:4]) + (", .." if len(found.without) > 4 else "")
        screen.notice(
            f"{display_name(source)}: {len(found.without)} photographs left out ({some}), which overlap too little "
            "with the others to find their poses"
        )
    seconds = time.perf_counter() - start
    screen.result(f"{display_name(source)} -> {display_name(scene)}: {_content(found)}, {seconds:.1f} s")


def _check_free(scene: Path, root: Path | None, names: Sequence[str], settings: Settings) -> None:
    """Raises AirjaxError where the scene cannot be written to, or, without --force, something would be replaced."""
    from airjax.scene.files.pose_folder import replaced_by

    name = display_name(scene)
    if scene.exists() and not scene.is_dir():
        raise AirjaxError(f"{name}: expected a folder, or a new name (-o), found a file")
    if not scene.exists() and not scene.absolute().parent.is_dir():
        folder = display_name(scene.parent)
        raise AirjaxError(f"{name}: cannot be written, expected an existing folder {folder}")
    if not settings.force and (there := replaced_by(scene, root, names)):
        kept = f"{display_name(there[0])}: exists already and is kept"
        raise AirjaxError(f"{kept}, expected another folder (-o) or --force to replace it")


def _work_folder(scene: Path) -> tempfile.TemporaryDirectory:
    """A hidden folder on the disk of the scene, gone after the `with` block."""
    place = scene if scene.is_dir() else scene.absolute().parent
    try:
        return tempfile.TemporaryDirectory(prefix=".airjax-", suffix=".tmp", dir=place)
    except OSError as error:
        raise AirjaxError(f"{display_name(place)}: cannot be written to ({reason(error)}), use -o") from error


def _removed(folder: str) -> str:
    shutil.rmtree(folder, ignore_errors=True)
    return ""


def _content(found: FoundPoses) -> str:
    count = len(found.names) + len(found.without)
    return (
        f"poses of {len(found.names)} of {count} photographs, {found.num_points} points, mean reprojection error "
        f"{found.error:.2f} pixels"
    )

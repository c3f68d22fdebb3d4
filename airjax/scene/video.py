"""The sharpest frames of a video, spread evenly over it; read by PyAV (the extra `video`)."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
from scipy.ndimage import laplace

from airjax.errors import AirjaxError
from airjax.files import check_regular, display_name, reason
from airjax.photographs import write_image
from airjax.scene.defaults import VIDEO_FRAMES

_SHARPNESS_SIDE = 640  # pixels; longest side of what sharpness is measured on


class Frames(NamedTuple):
    """The photographs made of a video."""

    names: tuple[str, ...]  # of the files, in the order of time
    total: int  # frames of the video that were looked at
    notices: tuple[str, ...]  # lines for the user


def av_module() -> ModuleType:
    """PyAV; an AirjaxError that says how to install it where it is not."""
    try:
        import av
    except ImportError as error:
        raise AirjaxError(
            f"reading a video needs PyAV, which cannot be imported ({reason(error)}): pip install 'airjax[poses,video]'"
        ) from error
    return av


def write_sharpest_frames(
    video: str | os.PathLike,
    folder: Path,
    *,
    count: int = VIDEO_FRAMES,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Frames:
    """Writes the sharpest frame of each of `count` even parts of a video to a folder, upright, named by its number.

    A video of fewer frames gives all of them. `progress` is told how many frames were looked at, and of how many. One
    that is damaged gives what comes before, with a notice. Raises AirjaxError: no video, or less than 2 frames of it.
    """
    av = av_module()
    check_regular(video)
    notices: list[str] = []
    names: list[str] = []
    looked_at = 0
    try:
        total = _count_frames(av, video)
        for number, pixels in sharpest(_told(_frames(av, video), total, progress), total, count):
            names.append(f"{number:06d}.jpg")
            write_image(folder / names[-1], pixels.astype(np.float32) / 255)
            looked_at = number + 1
    except (av.error.FFmpegError, MemoryError) as error:
        why = getattr(error, "strerror", None) or reason(error)
        if not names:
            raise _no_video(video, f"something else ({why})") from error
        notices.append(f"damaged after frame {looked_at} of {total} ({why}), the frames before it are used")
    if len(names) < 2:
        raise _no_video(video, f"{len(names)} of its frames")
    return Frames(tuple(names), total, tuple(notices))


def sharpest(frames: Iterable[np.ndarray], total: int, count: int) -> Iterator[tuple[int, np.ndarray]]:
    """(number, frame) for the sharpest of each of `count` even parts of `total` frames, (h, w, 3) uint8 each.

    The first of equals; one that is not there is in no part, and those beyond `total` are in the last one.
    """
    part, best = 0, (-1.0, 0, np.zeros((0, 0, 3), np.uint8))
    count = min(count, total)
    for number, frame in enumerate(frames):
        if (current := min(number * count // total, count - 1)) != part:
            yield best[1:]
            part, best = current, (-1.0, 0, best[2])
        if (sharpness := sharpness_of(frame)) > best[0]:
            best = sharpness, number, frame
    if best[0] >= 0:
        yield best[1:]


def sharpness_of(frame: np.ndarray) -> float:
    """Variance of the Laplacian of the green of (h, w, 3) uint8 pixels, of every n-th one where there are many."""
    step = max(1, max(frame.shape[:2]) // _SHARPNESS_SIDE)
    height, width = (side // step * step for side in frame.shape[:2])
    green = frame[:height, :width, 1].astype(np.float32)
    means = green.reshape(height // step, step, width // step, step).mean(axis=(1, 3))
    return float(laplace(means).var())


def _no_video(video: str | os.PathLike, found: str) -> AirjaxError:
    return AirjaxError(f"{display_name(video)}: expected a video of 2 frames or more, got {found}")


def _told(frames: Iterator[Any], total: int, progress: Callable[[int, int], None]) -> Iterator[Any]:
    for number, frame in enumerate(frames):
        progress(min(number, total), total)
        yield frame
    progress(total, total)


def _count_frames(av: ModuleType, video: str | os.PathLike) -> int:
    """How many frames there are, without decoding them: a header may not tell, or lie."""
    with av.open(os.fspath(video)) as container:
        if not container.streams.video:
            raise _no_video(video, "a file without pictures")
        return max(1, sum(packet.size > 0 for packet in container.demux(container.streams.video[0])))


def _frames(av: ModuleType, video: str | os.PathLike) -> Iterator[np.ndarray]:
    """(h, w, 3) uint8 frames with square pixels, turned as the video asks for."""
    with av.open(os.fspath(video)) as container:
        stream = container.streams.video[0]
        stream.thread_type = "AUTO"
        for frame in container.decode(stream):
            ratio = float(stream.sample_aspect_ratio or 1) or 1.0
            width = max(1, round(frame.width * ratio)) if 0.1 < ratio < 10 else frame.width
            pixels = frame.reformat(width=width, height=frame.height, format="rgb24").to_ndarray()
            yield np.rot90(pixels, round(frame.rotation / 90) % 4)

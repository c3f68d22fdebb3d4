"""Poses of photographs without any, found by pycolmap (the extra `poses`): features, matches, a sparse model.

pycolmap sees copies: pixels as stored (COLMAP ignores the EXIF orientation, and so does our reader of its models), made
smaller, in a working folder. The model that comes out is one of the photographs themselves, with their names and sizes.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

from airjax.errors import AirjaxError
from airjax.files import display_name, reason
from airjax.progress import Progress
from airjax.scene.defaults import POSE_CAMERAS, POSE_SIZE
from airjax.scene.pairs import MOST_EXHAUSTIVE, all_pairs, near_and_alike
from airjax.scene.pose_copies import Copy, make_copies

# One focal length and one radial term. OPENCV draws points up to 11 % nearer to their features, but its poses are no
# nearer to those of larger models of the same photographs, and its two focal lengths differ by up to 0.6 %.
_LENS = "SIMPLE_RADIAL"
_FEATURES = 4096  # of a photograph at most
_SEED = 0
_ENOUGH = 0.8  # share of the photographs in a model that is not tried again
_AT_ONCE, _PAIRS_AT_ONCE = 4, 32  # photographs and pairs between two lines of progress
_POLL_SECONDS = 0.05


class FoundPoses(NamedTuple):
    """A sparse model of the photographs, and what a user wants to know of it."""

    model: Path  # folder with cameras.bin, images.bin, points3D.bin; names are relative to the root
    points: Path  # its points with colors, a .ply file
    names: tuple[str, ...]  # of the photographs that have a pose
    without: tuple[str, ...]  # of those that could be read and have none
    num_points: int
    error: float  # mean distance in pixels, of the photographs, between a feature and its point
    notices: tuple[str, ...]  # lines for the user


def pycolmap_module() -> ModuleType:
    """pycolmap; an AirjaxError that says how to install it where it is not."""
    try:
        import pycolmap
    except ImportError as error:
        raise AirjaxError(
            f"finding poses needs pycolmap, which cannot be imported ({reason(error)}): pip install 'airjax[poses]'"
        ) from error
    return pycolmap


def find_poses(
    names: Sequence[str],
    root: Path,
    work: Path,
    *,
    camera: str = POSE_CAMERAS[0],
    max_size: int = POSE_SIZE,
    progress: Progress = lambda stage, done, total: None,
) -> FoundPoses:
    """Finds the poses of photographs, `names` below the folder `root`; `work` is a folder for files on the way.

    `camera` says which photographs share one: those of equal size and focal length, all, those of a folder, or none.
    Raises AirjaxError: fewer than 2 that can be read, no model, sizes that no shared camera has, no pycolmap.
    """
    pycolmap = pycolmap_module()
    with _quiet(pycolmap):
        copies = partial(make_copies, pycolmap, names, root, work / "copies")
        staged, notices = copies(camera=camera, max_size=max_size, progress=progress)
        database = work / "database.db"
        _extract(pycolmap, staged, work / "copies", database, progress)
        _match(pycolmap, staged, database, work, progress)
        model = _map(pycolmap, staged, work / "copies", database, work / "models", root, progress)
        error, count = _as_photographs(model, staged)
        (work / "model").mkdir()
        model.write_binary(work / "model")
        model.export_PLY(work / "points.ply")
    posed = {image.name for image in model.images.values() if image.has_pose}
    found = tuple(view.name for view in staged if view.name in posed)
    without = tuple(view.name for view in staged if view.name not in posed)
    return FoundPoses(work / "model", work / "points.ply", found, without, count, error, notices)


# --- pycolmap's steps ------------------------------------------------------------------------------------------------


def _extract(pycolmap: ModuleType, staged: list[Copy], copies: Path, database: Path, progress: Progress) -> None:
    """Features of all copies, and their cameras, in the database."""
    options = pycolmap.FeatureExtractionOptions(use_gpu=False)
    options.sift.max_num_features = _FEATURES
    mode, reader = pycolmap.CameraMode.PER_FOLDER, pycolmap.ImageReaderOptions(camera_model=_LENS)
    names = [view.copy for view in staged]
    pycolmap.Database.open(database).close()
    pycolmap.import_images(database, copies, mode, names, reader)
    for done, some in _batches(names, _AT_ONCE):
        progress("features", done, len(names))
        run = partial(
            pycolmap.extract_features,
            database,
            copies,
            image_names=some,
            extraction_options=options,
            camera_mode=mode,
            reader_options=reader,
            device=pycolmap.Device.cpu,
        )
        _run(pycolmap, run)
    progress("features", len(names), len(names))
    by_copy = {view.copy: view for view in staged}
    with contextlib.closing(pycolmap.Database.open(database)) as data:
        cameras: dict[int, list[Copy]] = {}
        for image in data.read_all_images():
            cameras.setdefault(image.camera_id, []).append(by_copy[image.name])
        for number, views in cameras.items():
            focals = [view.focal * view.smaller[1] / view.size[1] for view in views if view.focal is not None]
            if focals:
                camera = data.read_camera(number)
                for i in camera.focal_length_idxs():
                    camera.params[i] = float(np.median(focals))
                camera.has_prior_focal_length = True
                data.update_camera(camera)


def _match(pycolmap: ModuleType, staged: list[Copy], database: Path, work: Path, progress: Progress) -> None:
    """Matches of pairs of copies, in the database."""
    if len(staged) <= MOST_EXHAUSTIVE:
        pairs = all_pairs(len(staged))
    else:
        pairs = near_and_alike(_descriptors(pycolmap, staged, database))
    verification = pycolmap.TwoViewGeometryOptions()
    verification.ransac.random_seed = _SEED
    listed = work / "pairs.txt"
    for done, some in _batches(pairs, max(_PAIRS_AT_ONCE, len(pairs) // 100)):
        progress("match", done, len(pairs))
        listed.write_text("".join(f"{staged[i].copy} {staged[j].copy}\n" for i, j in some))
        run = partial(
            pycolmap.match_image_pairs,
            database,
            matching_options=pycolmap.FeatureMatchingOptions(use_gpu=False),
            pairing_options=pycolmap.ImportedPairingOptions(match_list_path=listed),
            verification_options=verification,
            device=pycolmap.Device.cpu,
        )
        _run(pycolmap, run)
    progress("match", len(pairs), len(pairs))


def _batches(items: list, size: int) -> Iterator[tuple[int, list]]:
    """(how many came before, the next `size` items)."""
    for start in range(0, len(items), size):
        yield start, items[start : start + size]


def _descriptors(pycolmap: ModuleType, staged: list[Copy], database: Path) -> list[np.ndarray]:
    with contextlib.closing(pycolmap.Database.open(database)) as data:
        numbers = {image.name: image.image_id for image in data.read_all_images()}
        return [np.asarray(data.read_descriptors(numbers[view.copy]).data) for view in staged]


def _map(
    pycolmap: ModuleType,
    staged: list[Copy],
    copies: Path,
    database: Path,
    models: Path,
    root: Path,
    progress: Progress,
) -> Any:
    """The largest model that the matches give.

    Where most photographs stay without a pose, the first pair may also be one that the camera moved forward between, as
    along a street, or hardly moved.
    """
    count, found = len(staged), []
    for attempt, changes in enumerate(({}, {"init_max_forward_motion": 1.0, "init_min_tri_angle": 4.0})):
        options = pycolmap.IncrementalPipelineOptions()
        options.min_model_size = min(3, count)
        options.random_seed = options.mapper.random_seed = options.triangulation.random_seed = _SEED
        for name, value in changes.items():
            setattr(options.mapper, name, value)
        pycolmap.set_random_seed(_SEED)
        (folder := models / str(attempt)).mkdir(parents=True)
        placed = _Counter()
        run = partial(
            pycolmap.incremental_mapping,
            database,
            copies,
            folder,
            options=options,
            initial_image_pair_callback=partial(placed.begin, 2),
            next_image_callback=partial(placed.begin, None),
        )
        found += _run(pycolmap, run, partial(_report, progress, placed, count)).values()
        if max((model.num_reg_images() for model in found), default=0) >= _ENOUGH * count:
            break
    progress("place", count, count)
    if not found:
        raise AirjaxError(
            f"{display_name(root)}: expected photographs that overlap, sharp and from different places, "
            f"found no poses for any of the {count}"
        )
    return max(found, key=lambda model: (model.num_reg_images(), model.num_points3D()))


def _report(progress: Progress, placed: _Counter, total: int) -> None:
    progress("place", min(placed.count, total), total)


class _Counter:
    """How many photographs have a place in the model that is being made."""

    def __init__(self):
        self.count = 0

    def begin(self, count: int | None) -> None:
        """A new model of `count` photographs, or, for None, one more in this one."""
        self.count = self.count + 1 if count is None else count


def _as_photographs(model: Any, staged: list[Copy]) -> tuple[float, int]:
    """Gives a model of copies the names and sizes of the photographs; (mean error in pixels of them, points)."""
    by_copy = {view.copy: view for view in staged}
    scales = {}
    for image in model.images.values():
        view = by_copy[image.name]
        image.name = view.name
        scale = np.divide(view.size, view.smaller)[::-1]  # x, y
        scales[image.camera_id] = view.size, float(scale.mean())
        for point in image.points2D:
            point.xy = point.xy * scale
    for camera in model.cameras.values():
        if camera.camera_id in scales:
            (height, width), _ = scales[camera.camera_id]
            camera.rescale(width, height)
    model.update_point_3d_errors()
    return float(model.compute_mean_reprojection_error()), model.num_points3D()


# --- running it ------------------------------------------------------------------------------------------------------


def _run(pycolmap: ModuleType, function: Callable, watch: Callable[[], None] = lambda: None) -> Any:
    """function(cancellation_token=..) in a thread, `watch()` every now and then here; an interrupt here ends it too."""
    token = pycolmap.CancellationToken()
    outcome: list[Any] = []

    def work() -> None:
        try:
            outcome.append((function(cancellation_token=token), None))
        except BaseException as error:  # noqa: BLE001 (raised again in the thread that waits)
            outcome.append((None, error))

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        while thread.is_alive():
            watch()
            thread.join(_POLL_SECONDS)
    except BaseException:
        token.cancel()
        thread.join()
        raise
    result, error = outcome[0]
    if error is not None:
        raise AirjaxError(f"pycolmap gave up ({reason(error)}), expected photographs that it can work with") from error
    return result


@contextlib.contextmanager
def _quiet(pycolmap: ModuleType) -> Iterator[None]:
    """Without pycolmap's own lines on the screen."""
    log = pycolmap.logging
    before = log.minloglevel, log.stderrthreshold, log.logtostderr, log.alsologtostderr
    log.minloglevel, log.stderrthreshold, log.logtostderr, log.alsologtostderr = 3, 3, False, False  # fatal ones only
    try:
        yield
    finally:
        log.minloglevel, log.stderrthreshold, log.logtostderr, log.alsologtostderr = before

"""Networks for views without poses: how well they find cameras, and how well the scene shows where nobody stood.

Computed scenes: the network sees the given views. Cameras of judged views follow by the similarity that takes the true
given cameras to the found ones; then they are moved to fit, too. Real ones: `airjax.scene.reconstruct` of the first
photographs of a folder, with the poses that are found, with those of the folder, and with those of pycolmap if it is
installed.

Letters: v views, p pairs of them.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float
from tqdm import tqdm

from airjax.scene import reconstruct, unposed
from airjax.scene.cameras import Camera
from airjax.scene.files.photographs import Scene, load, scene_of
from airjax.scene.files.pose_folder import write_pose_folder
from airjax.scene.judgement import judge
from airjax.scene.model import load as load_model
from airjax.scene.poses import find_poses
from airjax.scene.unposed import Pi3System, UnposedModel
from eval.report import cached, format_table, number, write_report
from eval.scene.subjects import held_out_textures
from train.scene.data import SceneData, draw_scenes
from train.settings import check_at_least, where

FIRST_SEED = 10**9  # of test scenes; training draws its seeds at random from all below 2^32
LIMIT = 30.0  # degrees


@dataclass(frozen=True)
class UnposedEvaluation:
    """What to measure."""

    # name, description: of the evaluation, for the report
    name: str
    description: str
    images: str = where("")  # folder of photographs, whose parts, one in ten, are textures of computed scenes
    made_up: int = 0  # number of pictures that are made up where no folder is given
    num_scenes: int = 32  # of each kind of computed scenes: plain rooms, and worlds of all kinds
    image_size: tuple[int, int] = (64, 64)  # (h, w) pixels of their views
    # context, targets: of their views, those that are given and those that are judged
    context: int = 4
    targets: int = 2
    scenes: tuple[str, ...] = where(())  # folders of photographs with poses
    photographs: int = 10  # of a folder, the first ones
    hold_out: int = 5  # every so many-th of them is judged; the network sees it, its Gaussians are left out
    max_size: int = 256  # pixels; longest side of photographs
    refine_steps: int = 200  # of real scenes

    def __post_init__(self):
        check_at_least(self, 0, "num_scenes", "refine_steps")
        check_at_least(self, 2, "context", "targets", "photographs", "hold_out")


class Result(NamedTuple):
    """AUC@30 of the cameras of a scene, and PSNR in dB of its judged views; None for what was not measured."""

    scene: str
    auc_head: float | None  # of cameras as the network's own pose head says, without its matches
    auc: float
    auc_refined: float | None  # after the refinement
    auc_colmap: float | None
    psnr: float  # real scenes: refined, judged cameras moved to fit
    psnr_fitted: float | None  # computed scenes: judged cameras moved to fit
    psnr_posed: float  # with the true cameras
    psnr_colmap: float | None


def pose_errors(found: Camera, true: Camera) -> Float[np.ndarray, " p"]:
    """The larger one of the errors of relative rotation and of direction of translation, of all pairs, degrees."""
    errors = []
    for i in range(len(found.rotation)):
        for j in range(i):
            turns, moves = zip(*(_relative(cameras, i, j) for cameras in (found, true)), strict=True)
            cosine = (np.trace(turns[0] @ turns[1].T) - 1) / 2
            angle = np.degrees(np.arccos(np.clip(cosine, -1, 1)))
            lengths = np.linalg.norm(moves[0]) * np.linalg.norm(moves[1])
            direction = np.degrees(np.arccos(np.clip(moves[0] @ moves[1] / max(lengths, 1e-30), -1, 1)))
            errors.append(max(angle, direction))
    return np.array(errors)


def _relative(cameras: Camera, i: int, j: int) -> tuple[np.ndarray, np.ndarray]:
    rotation, translation = np.asarray(cameras.rotation, float), np.asarray(cameras.translation, float)
    turn = rotation[i] @ rotation[j].T
    return turn, translation[i] - turn @ translation[j]


def auc(errors: Float[np.ndarray, " p"], limit: float = LIMIT) -> float:
    """Area under the share of errors below t, over t from 0 to `limit`, in [0, 1]: exact, not summed over bins."""
    return float(np.mean(1 - np.minimum(errors, limit) / limit))


def carried(cameras: Camera, known: Camera, found: Camera) -> Camera:
    """Cameras in the world of `found`, by the similarity from that of `known`, which are the same cameras there."""
    turn = np.einsum("vab,vac->bc", np.asarray(known.rotation, float), np.asarray(found.rotation, float))
    u, _, vt = np.linalg.svd(turn)
    turn = u @ np.diag([1, 1, np.sign(np.linalg.det(u @ vt))]) @ vt  # from the found world to the known one
    centers = [np.asarray(part.center, float) for part in (known, found)]
    middles = [part.mean(axis=0) for part in centers]
    spreads = [np.linalg.norm(part - middle) for part, middle in zip(centers, middles, strict=True)]
    scale = spreads[1] / max(spreads[0], 1e-30)
    there = middles[1] + scale * (np.asarray(cameras.center, float) - middles[0]) @ turn
    rotation = np.asarray(cameras.rotation, float) @ turn
    parts = np.asarray(cameras.intrinsics), rotation, -np.einsum("vab,vb->va", rotation, there)
    return Camera(*(part.astype(np.float32) for part in parts))


def _without_matches(model: UnposedModel) -> UnposedModel | None:
    """The network whose own pose head places the cameras; None where that is what is done anyway."""
    system = model.system
    if not isinstance(system, Pi3System) or not system.config.backbone.matching:
        return None
    config = replace(system.config, backbone=replace(system.config.backbone, matching=0))
    return replace(model, system=replace(system, config=config))


def _head_auc(model: UnposedModel, scene: Scene) -> float | None:
    alone = _without_matches(model)
    return None if alone is None else auc(pose_errors(alone.look(scene).scene.cameras, scene.cameras))


def computed_scenes(config: UnposedEvaluation, *, rooms: bool) -> Iterator[tuple[Scene, Scene]]:
    """(given views, judged ones) of each scene, with true cameras and depth ranges."""
    textures = jnp.asarray(held_out_textures(config.images, config.made_up))
    data = SceneData(context=config.context, targets=config.targets, image_size=config.image_size)
    draw = jax.jit(lambda seeds: draw_scenes(data, textures, seeds, rooms=int(rooms)))
    for seed in range(FIRST_SEED, FIRST_SEED + config.num_scenes):
        views = jax.tree.map(lambda leaf: np.asarray(leaf[0]), draw(jnp.array([seed], jnp.uint32)))
        bounds = float(views.near[: config.context].min()), float(views.far[: config.context].max())
        parts = slice(config.context), slice(config.context, None)
        given, judged = (scene_of(views.images[part], views.cameras[part], bounds=bounds) for part in parts)
        yield given, judged


def measure_computed(model: UnposedModel, name: str, given: Scene, judged: Scene) -> Result:
    """Prediction alone, no refinement."""
    sight = model.look(given)
    task = reconstruct.prepare(sight.scene, hold_out=0)
    gaussians = reconstruct.begin(task, reconstruct.maker(model, sight))
    task = replace(task, held_out=replace(judged, cameras=carried(judged.cameras, given.cameras, sight.scene.cameras)))
    score = partial(judge, gaussians, near=task.bounds.near, far=task.bounds.far)
    fitted = reconstruct.fitted_cameras(gaussians, task)
    posed = reconstruct.prepare(given, hold_out=0)
    best = judge(reconstruct.begin(posed, load_model()), judged, near=posed.bounds.near, far=posed.bounds.far)
    found = auc(pose_errors(sight.scene.cameras, given.cameras))
    psnr = [part.scores.mean_psnr for part in (score(task.held_out), score(fitted), best)]
    return Result(name, _head_auc(model, given), found, None, None, *psnr, None)


def real_scene(folder: Path, config: UnposedEvaluation) -> Scene:
    """The first photographs of a folder, with its poses."""
    scene = load(folder, max_size=config.max_size)
    return scene.take(range(min(config.photographs, len(scene.names))))


def measure_real(model: UnposedModel, folder: Path, scene: Scene, config: UnposedEvaluation) -> Result:
    """All of `reconstruct`."""
    jax.clear_caches()  # programs of other sizes: a process has room for so many
    options = {"hold_out": config.hold_out, "refine_steps": config.refine_steps, "max_size": config.max_size}
    made = reconstruct.reconstruct(scene, model=model, **options)
    posed = reconstruct.reconstruct(scene, **options)
    given, _, _ = reconstruct.split_views(scene, hold_out=config.hold_out)
    found = auc(pose_errors(model.look(scene).scene.cameras, scene.cameras))
    refined = auc(pose_errors(made.cameras, given.cameras))
    other = _by_colmap(folder, scene, config) if find_spec("pycolmap") else None
    colmap = (None, None)
    if other is not None:
        others = reconstruct.reconstruct(other, **options).held_out.mean_psnr if len(other.names) > 2 else None
        colmap = _auc_of_some(other, scene), others
    psnr = made.held_out.mean_psnr, None, posed.held_out.mean_psnr
    return Result(folder.name, _head_auc(model, scene), found, refined, colmap[0], *psnr, colmap[1])


def _by_colmap(folder: Path, scene: Scene, config: UnposedEvaluation) -> Scene:
    """The photographs with the poses that pycolmap finds of them alone."""
    with TemporaryDirectory() as work:
        here = Path(work) / "scene"
        here.mkdir()
        names = [f"{i:03d}{Path(name).suffix}" for i, name in enumerate(scene.names)]
        for name, copy in zip(scene.names, names, strict=True):
            shutil.copy(next(folder.rglob(name)), here / copy)
        found = find_poses(names, here, Path(work))
        write_pose_folder(here, found.model, found.points, root=here, work=Path(work))
        return load(here, max_size=config.max_size)


def _auc_of_some(found: Scene, scene: Scene) -> float:
    """Pairs one of which has no pose are all wrong."""
    numbers = [int(Path(name).stem) for name in found.names]
    count = len(scene.names)
    errors = np.full(count * (count - 1) // 2, 180.0)
    some = pose_errors(found.cameras, scene.cameras[np.array(numbers)])
    errors[: len(some)] = some
    return auc(errors)


def table(results: Sequence[Result], groups: dict[str, Sequence[Result]]) -> str:
    """Means of each kind of computed scenes, and a row for each real one."""
    head = ["scenes", "AUC@30", "pose head", "refined", "pycolmap", "PSNR", "fitted", "posed", "pycolmap"]

    def row(name: str, part: Sequence[Result]) -> list[str]:
        fields = ("auc", "auc_head", "auc_refined", "auc_colmap", "psnr", "psnr_fitted", "psnr_posed", "psnr_colmap")
        columns = [[getattr(result, field) for result in part] for field in fields]
        means = [None if None in column else float(np.mean(column)) for column in columns]
        return [name, *(number(value, 3 if i < 4 else 2) for i, value in enumerate(means))]

    rows = [row(f"{name} ({len(part)})", part) for name, part in groups.items() if part]
    return format_table(head, rows + [row(result.scene, [result]) for result in results])


def run(config: UnposedEvaluation, weights: Path | None, out: Path) -> int:
    """Measures all scenes, prints the table and writes `unposed.json`; see `eval.config`.

    What was measured before is kept in `out/scenes` and not measured again: an interrupted run goes on.
    """
    model = unposed.load(weights)
    settings = config.hold_out, config.refine_steps, model.system

    def known(measure: Callable[[], Result], *scenes: Scene) -> Result:
        arrays = model.backbone, model.head, [(scene.images, scene.cameras) for scene in scenes]
        folder = out / "scenes"
        found = cached(measure, Result, folder, arrays=arrays, settings=settings, code=sys.modules[__name__]).record
        progress.update()
        return found

    groups: dict[str, list[Result]] = {"rooms": [], "worlds": []}
    with tqdm(total=2 * config.num_scenes + len(config.scenes), unit="scene", disable=None) as progress:
        for kind, part in groups.items():
            scenes = computed_scenes(config, rooms=kind == "rooms") if config.num_scenes else ()
            for i, (given, judged) in enumerate(scenes):
                work = partial(measure_computed, model, f"{kind} {FIRST_SEED + i}", given, judged)
                part.append(known(work, given, judged))
        real = []
        for folder in map(Path, config.scenes):
            scene = real_scene(folder, config)
            real.append(known(partial(measure_real, model, folder, scene, config), scene))
    print(config.description)
    print(table(real, groups))
    everything = [result._asdict() for result in (*groups["rooms"], *groups["worlds"], *real)]
    write_report(out / "unposed.json", config, {"weights": model.name, "results": everything})
    print(f"report: {out / 'unposed.json'}")
    return 0

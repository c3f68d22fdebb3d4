"""`airjax reconstruct` and `airjax render`: what they write, what they say, one line for what is wrong.

Oracle: the library called directly on the same files.
"""

import argparse
import json
import re
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from PIL import Image
from tiny import NUM_VIEWS, SCENE_PREDICTOR, VIEW_SIZE

from airjax.commands import main
from airjax.commands.render import choose_cameras
from airjax.gaussians import Gaussians3D
from airjax.nn import pi3
from airjax.nn.gaussian_head import GaussianHeadConfig
from airjax.scene import trajectories, unposed, view_selection
from airjax.scene.files import camera_file
from airjax.scene.files.photographs import load as load_scene
from airjax.scene.files.ply import read_ply, write_ply
from airjax.scene.model import DEFAULT_WEIGHTS
from airjax.scene.model import load as load_model
from airjax.scene.pi3 import SplatConfig
from airjax.scene.predictor import config_to_text
from airjax.scene.reconstruct import reconstruct
from airjax.scene.render import render
from airjax.scene.unposed import Pi3System
from airjax.weights_file import save_weights

pytestmark = pytest.mark.slow

SIZE, CONFIG = VIEW_SIZE, SCENE_PREDICTOR


@pytest.fixture
def weights(scene_weights) -> Path:
    """Random ones."""
    return scene_weights


@pytest.fixture
def folder(room) -> Path:
    """A procedural scene as photographs with plain cameras and bounds."""
    return room


@pytest.fixture
def run(tmp_path, monkeypatch, capsys, weights):
    """Runs the program in an empty folder and without the user's compilation cache."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("airjax.commands.session.enable_compilation_cache", lambda: None)

    def program(command, *arguments) -> SimpleNamespace:
        arguments = [command, *map(str, arguments)]
        if command == "reconstruct" and "--weights" not in arguments:
            arguments += ["--weights", str(weights)]
        capsys.readouterr()
        status = main.main(arguments)
        out, err = capsys.readouterr()
        assert "Traceback" not in err
        errors = [line for line in err.splitlines() if "the first image of a size" not in line]
        return SimpleNamespace(status=status, out=out.splitlines(), err=errors)

    return program


def refused(result, *words) -> None:
    """Status 2, one line with all the words, and no output."""
    assert result.status == 2 and len(result.err) == 1 and not result.out, result
    for word in words:
        assert str(word) in result.err[0]


# --- reconstruct -----------------------------------------------------------------------------------------------------


def test_reconstruct_is_the_library(run, folder, weights):
    done = run("reconstruct", folder, "--views", 3, "--refine", 10, "--exposure")
    assert done.status == 0 and done.err == []
    expected = reconstruct(folder, model=load_model(weights), views=3, refine_steps=10, exposure=True)
    found = read_ply("room.ply")
    for name in ("means", "scales", "quats", "opacities", "harmonics"):
        part, wanted = (getattr(gaussians, name) for gaussians in (found.gaussians, expected.gaussians))
        np.testing.assert_allclose(part, wanted, rtol=1e-4, atol=1e-5)
    view = camera_file.from_comments(found.comments)
    np.testing.assert_array_equal(view.camera.rotation, expected.snapshot.camera.rotation)
    (line,) = done.out
    said = f"6 views of 48x32, 3 of them seen, {expected.gaussians.num_slots} Gaussians in "
    assert line.startswith(f"{folder} -> room.ply: {said}") and "10 steps of refinement in " in line
    decibels = float(re.search(r"PSNR ([\d.]+) dB of the 1 views", line)[1])
    assert decibels == pytest.approx(expected.held_out.mean_psnr, abs=0.011)
    assert line.endswith(f" in all, {Path('room.ply').stat().st_size} bytes")
    np.testing.assert_array_equal(np.asarray(Image.open("room.png")), expected.sheet)
    assert expected.sheet.shape == (SIZE[0], 4 * SIZE[1] + 3 * 4, 3)


def test_a_picture_that_is_there_already_is_kept(run, folder):
    Path("room.png").write_bytes(b"mine")
    refused(run("reconstruct", folder, "--views", 3), "room.png: exists already and is kept")
    assert Path("room.png").read_bytes() == b"mine" and not Path("room.ply").exists()


def test_refinement_from_points_for_some_time(run, folder, monkeypatch):
    """Without weights; the points grow up to the number that is asked for. Points alone are refused.

    On a terminal, a bar shows how many of the five given views were searched for them.
    """
    refused(run("reconstruct", folder, "--start", "points"), "--start points: expected --refine")
    options = ("--start", "points", "--refine", "0.1s", "--gaussians", 500, "--max-size", 48)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    done = run("reconstruct", folder, *options, "--weights", "missing.safetensors")
    assert done.status == 0 and ", refined in " in done.out[0]
    assert re.search(r"search: .* 0/5 ", "".join(done.err))
    assert 32 <= read_ply("room.ply").gaussians.num_slots <= 500


def test_fewer_gaussians_on_request(run, folder):
    assert run("reconstruct", folder, "--views", 3, "--gaussians", 400).status == 0
    assert 0 < read_ply("room.ply").gaussians.num_slots <= 400


def test_quiet_without_held_out_views_and_with_bounds_of_the_user(run, folder):
    bounds = ("--near", 1, "--far", 9)
    done = run("reconstruct", folder, "-o", "x.ply", "--views", 3, "--hold-out", 0, *bounds, "--quiet")
    assert (done.status, done.out, done.err) == (0, [], [])
    again = run("reconstruct", folder, "-o", "x.ply")
    refused(again, "x.ply: exists already and is kept")
    far = read_ply("x.ply").gaussians.means.mean(axis=0)
    done = run("reconstruct", folder, "-o", "x.ply", "--views", 3, "--hold-out", 0, "--force")
    assert done.status == 0 and "PSNR" not in done.out[0]
    assert np.abs(far - read_ply("x.ply").gaussians.means.mean(axis=0)).max() > 0.05


def test_the_network_may_see_smaller_photographs(run, folder, weights):
    """A Gaussian for every pixel of what it sees; what is measured keeps its size."""
    done = run("reconstruct", folder, "--views", 2, "--predict-size", 24)
    assert done.status == 0 and done.err == [] and "6 views of 48x32, 2 of them seen" in done.out[0]
    assert "steps of refinement" not in done.out[0]
    found = read_ply("room.ply").gaussians
    scene = load_scene(folder, max_size=24)
    given = scene.take([1, 2, 3, 4, 5])
    depths = np.full(5, 2 / np.sum(1 / np.array(scene.bounds)))
    sets = view_selection.comparisons(given.cameras, view_selection.spread(given.cameras, 2), depths=depths)
    expected = load_model(weights).predict(given.images, given.cameras, *scene.bounds, sets=sets)
    count = expected.num_slots
    assert 0 < count <= 2 * 16 * 24
    np.testing.assert_allclose(found.means[:count], expected.means, rtol=1e-4, atol=1e-5)
    assert count < found.num_slots <= count + 64 * 48 // 16  # what lies beyond


def test_large_photographs_are_a_notice(run, folder):
    done = run("reconstruct", folder, "--max-size", 24, "--views", 2)  # a program of the test before
    assert done.status == 0
    assert done.err == [f"airjax: {folder}: photographs of 48x32 pixels made smaller, to 24x16"]


def copied(folder, target, **changes):
    """The scene with changes to its frames; a name may map to a function of the frame's number."""
    target.mkdir()
    for file in folder.iterdir():
        (target / file.name).write_bytes(file.read_bytes())
    content = json.loads((folder / "cameras.json").read_text())
    for i, frame in enumerate(content["frames"]):
        frame.update({key: change(i, frame) for key, change in changes.items()})
    del content["near"], content["far"]
    (target / "cameras.json").write_text(json.dumps(content))
    return content


def test_photographs_alone_with_a_network_that_needs_no_poses(run, folder, tmp_path):
    """Fresh weights: what is written is no scene, but it is written, and poses that are there are not looked at."""
    system = Pi3System(SplatConfig(pi3.small(32, 2, blocks=1), GaussianHeadConfig(16, 16, 16, degree=1)), size=32)
    params = jax.device_get(jax.jit(system.init_backbone)(jax.random.key(0)))
    save_weights(tmp_path / "unposed.safetensors", params, {unposed.METADATA: unposed.system_to_text(system)})
    (tmp_path / "alone").mkdir()
    for file in sorted(folder.glob("*.png")):
        (tmp_path / "alone" / file.name).write_bytes(file.read_bytes())
    posed = str(DEFAULT_WEIGHTS)
    refused(run("reconstruct", "alone", "--weights", posed), "alone: expected poses (transforms.json")
    options = "--weights", "unposed.safetensors", "--near", "0.1", "--far", "50", "--hold-out", "3"
    result = run("reconstruct", "alone", *options, "--refine", "2")
    assert result.status == 0 and "Gaussians" in result.out[-1] and "PSNR" in result.out[-1], result
    assert read_ply("alone.ply").gaussians.num_slots


def test_scenes_that_cannot_be_reconstructed(run, folder, tmp_path):
    refused(run("reconstruct", "nowhere"), "nowhere: expected a folder of photographs with poses, found none")
    Path("empty").mkdir()
    refused(run("reconstruct", "empty"), "empty: expected poses (transforms.json")
    content = copied(folder, tmp_path / "one")
    (tmp_path / "one" / "cameras.json").write_text(json.dumps({**content, "frames": content["frames"][:1]}))
    refused(run("reconstruct", "one"), "one: expected at least 2 photographs with poses, found 1")
    copied(folder, tmp_path / "nan", t=lambda i, frame: [float("nan"), 0, 0] if i > 0 else frame["t"])
    refused(run("reconstruct", "nan"), "1.png: expected a pose of finite numbers")
    copied(folder, tmp_path / "same", t=lambda i, frame: [0, 0, 0])
    refused(run("reconstruct", "same"), "same: expected cameras at different places")
    # Cameras a kilometre apart see nothing in common.
    copied(folder, tmp_path / "apart", t=lambda i, frame: [1000.0 * i, 0, 0])
    refused(run("reconstruct", "apart"), "apart: expected views that overlap")
    refused(run("reconstruct", folder, "--near", 5, "--far", 2), "expected near below far, both above 0, got 5 and 2")
    refused(run("reconstruct", folder, "-o", "x.obj"), "x.obj: expected a name ending in .ply")
    refused(run("reconstruct", folder, "--weights", "none.safetensors"), "none.safetensors")
    assert not list(tmp_path.glob("*.ply"))


def test_photographs_of_nothing(run, folder, tmp_path):
    """All of them transparent."""
    target = tmp_path / "nothing"
    copied(folder, target)
    for file in target.glob("*.png"):
        Image.new("RGBA", SIZE[::-1]).save(file)
    result = run("reconstruct", target, "--views", 3, "--near", 1, "--far", 9)
    assert result.status == 2 and not result.out and not Path("nothing.ply").exists()
    assert "nothing: no Gaussian survived the check of the other views" in result.err[-1]
    assert "expected photographs of something" in result.err[-1]


def test_weights_of_something_else(run, folder):
    save_weights(Path("w.safetensors"), {"a": np.zeros(3, np.float32)}, {})
    refused(run("reconstruct", folder, "--weights", "w.safetensors"), "expected weights of a scene predictor")
    save_weights(Path("v.safetensors"), {"a": np.zeros(3, np.float32)}, {"predictor": config_to_text(CONFIG)})
    refused(run("reconstruct", folder, "--weights", "v.safetensors"), "expected weights that fit their configuration")


# --- render ----------------------------------------------------------------------------------------------------------


def some_gaussians() -> Gaussians3D:
    """A few before the camera of `view`."""
    rng = np.random.default_rng(0)
    means = rng.uniform([-1, -1, 3], [1, 1, 5], (30, 3))
    fields = means, rng.uniform(0.1, 0.4, (30, 3)), rng.normal(size=(30, 4)), rng.uniform(0.3, 0.9, 30)
    colors = rng.uniform(-1, 1, (30, 1, 3))
    return Gaussians3D(*(part.astype(np.float32) for part in (*fields, colors)), np.ones(30, bool))


@pytest.fixture
def scene(run) -> camera_file.Snapshot:
    """scene.ply with a view of it."""
    camera = trajectories.Camera(
        np.array([[30.0, 0, 20], [0, 30, 12], [0, 0, 1]], np.float32),
        np.eye(3, dtype=np.float32),
        np.zeros(3, np.float32),
    )
    view = camera_file.Snapshot(camera, (24, 40), 4.0, (1.0, 0.5, 0.0))
    write_ply("scene.ply", some_gaussians(), comments=["by somebody", camera_file.to_comment(view)])
    return view


def drawn(camera, size=(24, 40), background=(1.0, 0.5, 0.0), **options):
    """8-bit pixels of the library."""
    gaussians = read_ply("scene.ply").gaussians
    view = render(gaussians, camera, image_size=size, background=np.float32(background), **options)
    return np.rint(255 * np.clip(np.asarray(view.image), 0, 1)).astype(np.uint8)


def test_an_image_from_the_camera_of_the_file(run, scene):
    done = run("render", "scene.ply")
    assert done.status == 0 and done.err == []
    assert re.fullmatch(r"scene\.ply -> scene\.png: 30 Gaussians, 1 image of 40x24, \d+ ms.*", done.out[0])
    np.testing.assert_array_equal(np.asarray(Image.open("scene.png")), drawn(scene.camera))
    done = run("render", "scene.ply", "-o", "x.webp", "--frames", 1, "--size", 20, "--background", "black", "--quiet")
    assert (done.status, done.out) == (0, [])
    small = replace(scene.camera, intrinsics=np.diag([0.5, 0.5, 1]).astype(np.float32) @ scene.camera.intrinsics)
    np.testing.assert_array_equal(np.asarray(Image.open("x.webp")), drawn(small, (12, 20), (0, 0, 0)))


def test_frames_go_around(run, scene):
    assert run("render", "scene.ply", "-o", "out/", "--frames", 3, "--preset", "inria", "--antialiased").status == 0
    cameras = trajectories.around(scene.camera, distance=4.0, num_frames=3)
    for i in range(3):
        found = np.asarray(Image.open(f"out/{i:03d}.png"))
        np.testing.assert_array_equal(found, drawn(cameras[i], preset="inria", antialiased=True))
    refused(run("render", "scene.ply", "-o", "out", "--frames", 3), "000.png: exists already and is kept")
    for name in ("turn.gif", "turn.webp"):
        assert run("render", "scene.ply", "-o", name, "--frames", 5).status == 0
        with Image.open(name) as animation:
            assert animation.n_frames == 5 and animation.size == (40, 24)


def test_cameras_of_a_file_and_of_a_scene(run, scene, folder):
    assert run("render", "scene.ply", "-o", "a", "--cameras", folder).status == 0
    assert run("render", "scene.ply", "-o", "b", "--cameras", folder / "cameras.json").status == 0
    cameras = load_scene(folder).cameras
    assert sorted(file.name for file in Path("a").iterdir()) == [f"{i:03d}.png" for i in range(NUM_VIEWS)]
    for i in range(NUM_VIEWS):
        found = [np.asarray(Image.open(f"{out}/{i:03d}.png")) for out in "ab"]
        np.testing.assert_array_equal(*found)
        np.testing.assert_array_equal(found[0], drawn(cameras[i], SIZE))
    assert run("render", "scene.ply", "-o", "c", "--cameras", folder, "--frames", 11).status == 0
    between = trajectories.through(cameras, num_frames=11)
    np.testing.assert_array_equal(np.asarray(Image.open("c/007.png")), drawn(between[7], SIZE))
    # On the way, every second frame stands at a camera.
    np.testing.assert_allclose(between.rotation[2], cameras.rotation[1], atol=1e-5)
    assert run("render", "scene.ply", "-o", "one.png", "--cameras", folder).status == 0
    np.testing.assert_array_equal(np.asarray(Image.open("one.png")), drawn(cameras[0], SIZE))


def test_cameras_of_a_capture_are_moved_to_the_origin_of_the_file(tmp_path):
    """In float64: what is left of a place in UTM coordinates is exact, and a line says so."""
    origin = np.array([448000.25, 5411000.5, 150.0])
    k = [[30.0, 0, 20], [0, 30, 12], [0, 0, 1]]
    frame = {"K": k, "R": np.eye(3).tolist(), "t": (-origin - [0.1, 0.2, 0.3]).tolist(), "w": 40, "h": 24}
    (tmp_path / "c.json").write_text(json.dumps({"frames": [frame]}))
    options = argparse.Namespace(cameras=tmp_path / "c.json", frames=None, size=None, background=None)
    shot = choose_cameras(None, [camera_file.origin_comment(origin)], options, several=True)
    np.testing.assert_allclose(shot.cameras.translation, [[-0.1, -0.2, -0.3]], atol=1e-7)
    assert shot.notices == ("cameras moved to the origin of the Gaussians, (448000.25, 5411000.5, 150)",)


def test_a_file_without_a_camera_is_seen_from_outside(run):
    """All around it in several frames, upright, with a word."""
    comments = ["Vertical Axis: z"]
    write_ply("scene.ply", some_gaussians(), comments=comments)
    done = run("render", "scene.ply", "-o", "out/", "--frames", 2, "--size", 40)
    assert done.status == 0 and len(done.err) == 1
    assert "scene.ply: no camera in the file, so it is seen from outside, where z points up" in done.err[0]
    gaussians = read_ply("scene.ply").gaussians
    down = camera_file.down_of(comments)
    camera, distance = trajectories.overview(gaussians, down=down, image_size=(40, 40))
    cameras = trajectories.turntable(camera, distance=distance, down=down, num_frames=2)
    for i in range(2):
        found = np.asarray(Image.open(f"out/{i:03d}.png")).astype(int)
        assert np.abs(found - drawn(cameras[i], (40, 40), (0, 0, 0))).max() <= 1
        assert found.max() > 60


def test_cameras_of_several_sizes_are_drawn_at_one(run, scene, folder):
    frame = json.loads((folder / "cameras.json").read_text())["frames"][0]
    Path("c.json").write_text(json.dumps({"frames": [frame, {**frame, "w": 20}]}))
    done = run("render", "scene.ply", "-o", "out/", "--cameras", "c.json")
    assert done.status == 0 and done.err == ["airjax: c.json: cameras of 2 image sizes are all drawn at 48x32"]
    assert Image.open("out/001.png").size == (48, 32)


def test_files_that_cannot_be_rendered(run, scene, folder):
    write_ply("other.ply", replace(some_gaussians(), active=np.zeros(30, bool)))
    for options in ((), ("--cameras", folder)):
        refused(run("render", "other.ply", *options), "other.ply: expected one Gaussian or more to draw, found none")
    Path("x.ply").write_bytes(b"ply?")
    refused(run("render", "x.ply"), "x.ply: expected a .ply file, got something else")
    refused(run("render", "none.ply"), "none.ply: cannot be read")
    refused(run("render", "scene.ply", "-o", "x.obj"), "x.obj: expected a folder, or a name ending in .png")
    refused(run("render", "scene.ply", "-o", "x.png", "--frames", 3), "x.png: expected a folder, .gif or .webp")
    bad = [("{}", "got something else"), ('{"frames": []}', "found no frames"), ("[1", "got something else")]
    frame = json.loads((folder / "cameras.json").read_text())["frames"][0]
    for change in ({"R": np.zeros((3, 3)).tolist()}, {"t": [1, 2]}, {"w": 0}, {"K": [[float("nan")] * 3] * 3}):
        bad += [(json.dumps({"frames": [{**frame, **change}]}), "expected a file of cameras")]
    for text, words in bad:
        Path("c.json").write_text(text)
        refused(run("render", "scene.ply", "--cameras", "c.json"), "c.json: ", words)

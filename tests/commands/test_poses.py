"""`airjax poses`: what it writes and says, one line for what is wrong, nothing half-written.

Finding poses itself is tested in tests/scene/test_poses.py; here something stands for it, but for one real run.
"""

import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import NamedTuple

import corner
import numpy as np
import pose_files
import pytest
from command_line import assert_refused, failing, listing
from PIL import Image

from airjax.commands import main
from airjax.commands.session import Fatal
from airjax.errors import AirjaxError
from airjax.scene import poses, video
from airjax.scene.files.photographs import load


class Done(NamedTuple):
    """What a run of the program came to."""

    status: int
    out: list[str]
    err: list[str]


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """Runs the program in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def program(*arguments, command="poses") -> Done:
        capsys.readouterr()
        status = main.main([command, *map(str, arguments)])
        out, err = capsys.readouterr()
        assert "Traceback" not in err
        return Done(status, out.splitlines(), err.splitlines())

    return program


@pytest.fixture
def asked(monkeypatch):
    """What the finder of poses was asked for; it says that the first three photographs are those of `pose_files`."""
    asked = []

    def find(names, root, work, *, camera, max_size, progress):
        asked.append(SimpleNamespace(names=tuple(names), root=root, camera=camera, max_size=max_size))
        return pose_files.found_poses(names, root, work, camera=camera, max_size=max_size, progress=progress)

    monkeypatch.setattr(poses, "find_poses", find)
    monkeypatch.setattr(poses, "pycolmap_module", lambda: ModuleType("pycolmap"))
    return asked


@pytest.fixture
def sharp_frames(monkeypatch):
    """Something that stands for the reader of videos."""

    def write(file, folder, *, count, progress):
        progress(9, 9)
        names = tuple(f"{i:06d}.jpg" for i in range(count))
        pose_files.write_images(folder, names)
        return video.Frames(names, 9, ("a notice of the video",))

    monkeypatch.setattr(video, "write_sharpest_frames", write)
    monkeypatch.setattr(video, "av_module", lambda: ModuleType("av"))


def test_photographs_get_their_poses_where_they_are(run, asked):
    pose_files.write_images(Path("photos"))
    done = run("photos")
    assert done.status == 0 and done.err == ["airjax: photos: a notice"]
    (line,) = done.out
    assert line.startswith("photos -> photos: poses of 3 of 3 photographs, 1234 points, mean reprojection error 0.57 ")
    files = ["photos/sparse/0/cameras.bin", "photos/sparse_pc.ply", "photos/transforms.json"]
    assert set(files) <= set(listing()) and len(listing()) == 8
    assert load("photos").names == tuple(pose_files.NAMES)
    assert (asked[0].root, asked[0].camera, asked[0].max_size) == (Path("photos"), "size", 1600)


def test_options_reach_the_finder_and_photographs_are_copied(run, asked):
    names = [f"{i}.png" for i in range(9)]
    pose_files.write_images(Path("photos/images"), names)
    before = listing()
    done = run("photos", "-o", "scene", "--camera", "single", "--max-size", 800)
    assert done.status == 0 and before.items() <= listing().items()
    assert (asked[0].root, asked[0].camera, asked[0].max_size) == (Path("photos/images"), "single", 800)
    assert done.err[1] == (
        "airjax: photos: 6 photographs left out (3.png, 4.png, 5.png, 6.png, ..), which overlap too little with the "
        "others to find their poses"
    )
    assert sorted(path.name for path in Path("scene").iterdir()) == [
        *("images", "sparse", "sparse_pc.ply", "transforms.json")
    ]
    assert load("scene").names == ("0.png", "1.png", "2.png")


def test_a_video_becomes_a_folder_beside_it(run, asked, sharp_frames):
    Path("in").mkdir()
    Path("in/walk.MOV").write_bytes(b"x")
    done = run("in/walk.MOV", "--frames", 4)
    assert done.status == 0 and done.out[0].startswith("in/walk.MOV -> in/walk: poses of 3 of 4 photographs")
    notices = ["a notice of the video", "4 of 9 frames taken, the sharpest of even parts", "a notice"]
    assert done.err[:3] == [f"airjax: in/walk.MOV: {line}" for line in notices]
    assert len(load("in/walk").names) == 3


def test_quiet_says_nothing(run, asked):
    pose_files.write_images(Path("photos"), ["0.png", "1.png", "2.png", "3.png"])
    done = run("photos", "--quiet")
    assert (done.status, done.out, done.err) == (0, [], [])


@pytest.mark.parametrize("there", ["transforms.json", "sparse/0/x", "sparse_pc.ply"])
def test_what_is_there_is_kept_unless_forced(run, asked, there):
    pose_files.write_images(Path("photos"))
    (Path("photos") / there).parent.mkdir(parents=True, exist_ok=True)
    (Path("photos") / there).write_text("mine")
    before = listing()
    assert_refused(run("photos"), before, "exists already and is kept", "another folder (-o) or --force")
    assert not asked  # said before anything that takes long
    assert run("photos", "--force").status == 0 and load("photos").names == tuple(pose_files.NAMES)


def test_frames_of_another_video_are_kept(run, asked, sharp_frames):
    Path("walk.mp4").write_bytes(b"x")
    pose_files.write_images(Path("walk/images"))
    assert_refused(run("walk.mp4"), listing(), "walk/images: exists already and is kept")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("nothing",), "nothing: expected a folder of photographs, or a video, found none"),
        (("notes.txt",), "notes.txt: expected a folder of photographs, or a video, found a file that is neither"),
        (("empty",), "empty: expected photographs (.png, "),
        (("photos", "-o", "notes.txt"), "notes.txt: expected a folder, or a new name (-o), found a file"),
        (("photos", "-o", "a/b"), "a/b: cannot be written, expected an existing folder a"),
    ],
)
def test_what_is_wrong_is_one_line(run, asked, arguments, words):
    Path("empty").mkdir()
    Path("notes.txt").write_text("x")
    pose_files.write_images(Path("photos"))
    assert_refused(run(*arguments), listing(), words)


@pytest.mark.parametrize(
    ("module", "source", "words"),
    [
        ("pycolmap", "photos", "pip install 'airjax[poses]'"),
        ("av", "walk.mp4", "pip install 'airjax[poses,video]'"),
    ],
)
def test_what_is_not_installed_is_one_line(run, monkeypatch, module, source, words):
    monkeypatch.setitem(sys.modules, module, None)
    pose_files.write_images(Path("photos"))
    Path("walk.mp4").write_bytes(b"x")
    assert_refused(run(source), listing(), words)


@pytest.mark.parametrize("error", [AirjaxError("photos: expected photographs that overlap"), KeyboardInterrupt()])
@pytest.mark.parametrize("source", ["photos", "walk.mp4"])
def test_nothing_is_left_of_what_fails_or_is_interrupted(run, asked, sharp_frames, monkeypatch, error, source):
    pose_files.write_images(Path("photos"))
    Path("walk.mp4").write_bytes(b"x")
    before = listing()
    monkeypatch.setattr(poses, "find_poses", failing(error))
    done = run(source, "--quiet")
    assert done.status == (130 if isinstance(error, KeyboardInterrupt) else 2) and len(done.err) == 1
    assert listing() == before and sorted(path.name for path in Path().iterdir()) == ["photos", "walk.mp4"]
    assert not [path for path in Path("photos").iterdir() if path.name.startswith(".")]


# --- reconstruct -----------------------------------------------------------------------------------------------------


@pytest.fixture
def reconstruct(run, scene_weights, monkeypatch):
    """Runs `airjax reconstruct`."""
    monkeypatch.setattr("airjax.commands.session.enable_compilation_cache", lambda: None)
    options = ["--weights", scene_weights, "--views", 3, "--hold-out", 0]

    def program(*arguments):
        done = run(*arguments, *options, command="reconstruct")
        return done._replace(err=[line for line in done.err if "the first image of a size" not in line])

    return program


@pytest.mark.parametrize("source", ["photos", "nothing.mp4", "walk.mp4"])
def test_reconstruct_offers_to_find_poses(reconstruct, source):
    pose_files.write_images(Path("photos"))
    Path("walk.mp4").write_bytes(b"x")
    words = {
        "photos": "found none; `airjax poses` finds those of photographs (pip install 'airjax[poses]')",
        "walk.mp4": "found a video; --poses colmap finds those of a video (pip install 'airjax[poses,video]')",
        "nothing.mp4": "expected a folder of photographs with poses, found none",
    }
    assert_refused(reconstruct(source), listing(), words[source])


def test_reconstruct_checks_its_output_before_it_finds_poses(reconstruct, asked):
    pose_files.write_images(Path("photos"))
    Path("photos.ply").write_text("mine")
    assert_refused(reconstruct("photos", "--poses", "colmap"), listing(), "photos.ply: exists already and is kept")
    assert not asked


def test_reconstruct_finds_poses_and_uses_those_that_are_there(reconstruct, asked, monkeypatch):
    """Once; the second time they are there."""
    made = []
    monkeypatch.setattr("airjax.commands.reconstruct._load_model", failing(Fatal("here it goes on")))
    pose_files.write_images(Path("photos"))
    made = [reconstruct("photos", "--poses", "colmap") for _ in range(2)]
    assert len(asked) == 1 and all("airjax: here it goes on" in done.err for done in made)
    assert made[0].out[0].startswith("photos -> photos: poses of 3 of 3 photographs") and not made[1].out
    assert "airjax: photos: has poses, which are used; `airjax poses --force` finds others" in made[1].err


def test_reconstruct_of_a_video_is_named_after_it(reconstruct, asked, sharp_frames, monkeypatch):
    asked_for = []
    monkeypatch.setattr("airjax.commands.reconstruct.guarded", lambda *_: lambda *paths: asked_for.append(paths))
    Path("walk.mp4").write_bytes(b"x")
    assert reconstruct("walk.mp4", "--poses", "colmap").status == 0
    assert asked_for == [(Path("walk.mp4"), Path("walk.ply"))]


@pytest.mark.slow
def test_a_video_of_a_room(run, tmp_path):
    """All of it, with pycolmap and PyAV: known cameras, as a video in which every second frame is blurred."""
    av, _ = pytest.importorskip("av"), pytest.importorskip("pycolmap")
    corner.write_photographs(tmp_path / "frames")
    with av.open("walk.mp4", "w") as container:
        stream = container.add_stream("mpeg4", rate=5)
        stream.height, stream.width = corner.SIZE
        stream.pix_fmt, stream.bit_rate = "yuv420p", 8_000_000
        for i in range(corner.VIEWS):
            with Image.open(f"frames/{i:03d}.png") as sharp:
                for image in (sharp.resize((64, 48)).resize(sharp.size), sharp):
                    frame = av.VideoFrame.from_ndarray(np.asarray(image), format="rgb24")
                    container.mux(stream.encode(frame))
        container.mux(stream.encode())
    done = run("walk.mp4", "--frames", corner.VIEWS)
    assert done.status == 0 and "poses of 6 of 6 photographs" in done.out[0], done
    scene = load("walk", max_size=256)
    assert scene.names == tuple(f"{2 * i + 1:06d}.jpg" for i in range(corner.VIEWS))
    found = list(zip(scene.cameras.rotation, scene.cameras.translation, strict=True))
    assert corner.similarity_error(found, corner.cameras()) < 0.02
    assert scene.cameras.intrinsics[0, 0, 0] == pytest.approx(corner.FOCAL, rel=0.05)

"""Every `airjax` command line of README, docs and notebooks runs, in small, in the order in which a reader meets it."""

import shlex
import shutil
from pathlib import Path

import checkpoints
import pose_files
import pytest
from command_line import photo
from documents import NOTEBOOKS, PAGES, commands, smaller

from airjax.commands import main

pytestmark = pytest.mark.slow


def test_commands_of_the_documents_run(tmp_path, monkeypatch, capsys, weights, scene_weights, room):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("airjax.commands.session.enable_compilation_cache", lambda: None)
    monkeypatch.setattr("airjax.scene.poses.find_poses", pose_files.found_poses)  # tests/scene/test_poses.py
    monkeypatch.setattr("airjax.scene.poses.pycolmap_module", lambda: None)
    photo("photo.jpg")
    pose_files.write_images(Path("photos"))
    shutil.copytree(room, "scene")
    checkpoints.write_torch(Path("dinov3_vitb16_pretrain_lvd1689m-73cec8be.pth"), checkpoints.dino_v3())
    # What test_encode.py, test_fit.py and test_scene.py have compiled already.
    options = {
        "encode": ["--force", "--weights", str(weights)],
        "decode": ["--force"],
        "fit": ["--force"],
        "poses": ["--force"],
        "reconstruct": ["--force", "--views", "3", "--weights", str(scene_weights)],
        "render": ["--force", "--frames", "3"],
        "convert": ["--force"],
    }
    lines = [line for page in (*PAGES, *NOTEBOOKS) for line in commands(page) if line.startswith("airjax ")]
    done = dict.fromkeys(map(smaller, lines))
    assert len(done) >= 8
    for line in done:
        arguments = shlex.split(line)[1:]
        status = main.main(arguments + options.get(arguments[0], []))
        assert status == 0, f"{line}: {capsys.readouterr().err}"

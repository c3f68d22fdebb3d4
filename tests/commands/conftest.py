"""The program in an empty folder, tiny weights, and small .air files that nothing has to be compiled for."""

from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from command_line import SIZE
from tiny import save_image_weights, save_scene, save_scene_weights

from airjax.commands import main
from airjax.gaussians import Gaussians2D, take
from airjax.image.codec import air_file
from airjax.image.codec.payload import Quantised
from airjax.image.codec.quantise import amplitudes_of, quantise


@pytest.fixture(autouse=True, scope="package")
def forget_programs():
    """As for all tests, but at the end of the folder: its modules run the same few programs."""
    yield
    jax.clear_caches()


@pytest.fixture(scope="session")
def weights(tmp_path_factory) -> Path:
    """Random weights of two small stages."""
    return save_image_weights(tmp_path_factory.mktemp("weights") / "tiny.safetensors")


@pytest.fixture(scope="session")
def scene_weights(tmp_path_factory) -> Path:
    """Random weights of a small scene predictor."""
    return save_scene_weights(tmp_path_factory.mktemp("scene_weights") / "tiny.safetensors")


@pytest.fixture(scope="session")
def room(tmp_path_factory) -> Path:
    """A folder of photographs with cameras."""
    return save_scene(tmp_path_factory.mktemp("scenes") / "room")


def three_gaussians() -> Gaussians2D:
    f = np.float32
    return Gaussians2D(
        means=f([[6, 4], [18, 12], [12, 8]]),
        scales=f([[3, 2], [2, 4], [1, 1]]),
        angles=f([0, 0.5, 0]),
        colors=f([[0.9, 0.2, 0.1], [0.1, 0.8, 0.3], [0.5, 0.5, 0.9]]),
        active=np.ones(3, bool),
    )


@pytest.fixture(scope="session")
def air_bytes() -> bytes:
    """A lossless .air file with two stages of 2 and 1 Gaussians."""
    return air_file.encode(air_file.Encoded(three_gaussians(), (2, 1), SIZE))


@pytest.fixture(scope="session")
def compact_bytes() -> bytes:
    """The same as a compact file."""
    stages = []
    for rows, patches in ((slice(0, 2), [0, 5]), (slice(2, 3), [4])):
        part = take(three_gaussians(), rows)
        codes = np.array([-32] * 5 + [16])  # bins of 1/16, scales about 2
        stages.append(quantise(part, np.array(patches), amplitudes_of(part), codes=codes, patch_size=8, columns=3))
    return air_file.encode(Quantised(tuple(stages), SIZE))


@pytest.fixture
def run(tmp_path, monkeypatch, capsys, weights):
    """Runs the program in an empty folder and without the user's compilation cache; `encode` gets the tiny weights."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("airjax.commands.session.enable_compilation_cache", lambda: None)

    def program(*arguments, weights=weights) -> SimpleNamespace:
        arguments = [str(argument) for argument in arguments]
        if arguments[0] == "encode" and weights:
            arguments += ["--weights", str(weights)]
        capsys.readouterr()
        status = main.main(arguments)
        out, err = capsys.readouterr()
        assert "Traceback" not in err
        errors = [line for line in err.splitlines() if "the first image of a size" not in line]
        return SimpleNamespace(status=status, out=out.splitlines(), err=errors)

    return program

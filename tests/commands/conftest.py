"""The program in an empty folder, tiny weights, and small .air files that nothing has to be compiled for."""

from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from command_line import SIZE

from airjax import weights_file
from airjax.commands import main
from airjax.gaussians import Gaussians2D, take
from airjax.image import presets
from airjax.image.codec import air_file
from airjax.image.codec.payload import Quantised
from airjax.image.codec.quantise import amplitudes_of, quantise
from airjax.image.patches import PatchMap
from airjax.image.stages import StageConfig, init_params
from airjax.nn.air_stage import PredictorConfig

STAGES = tuple(
    StageConfig(PatchMap(8, offset=0.75, min_scale=0.5, max_scale=4.2), PredictorConfig(features=8, blocks=1))
    for _ in range(2)
)


@pytest.fixture(autouse=True, scope="package")
def forget_programs():
    """As for all tests, but at the end of the folder: its modules run the same few programs."""
    yield
    jax.clear_caches()


@pytest.fixture(scope="session")
def weights(tmp_path_factory) -> Path:
    """Random weights of two small stages; drawn by numpy, as the networks' own init would have to be compiled."""
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(lambda: init_params(jax.random.key(0), STAGES))
    params = jax.tree.map(lambda leaf: rng.normal(0, 0.1, leaf.shape).astype(np.float32), shapes)
    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    weights_file.save_weights(path, params, {"stages": presets.stages_to_text(STAGES)})
    return path


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

"""Every training and evaluation command of README and docs, in a folder with photographs: it gets to where work begins.

Options, folders, data and weights are real. What a step of training computes is left out here (tests/train/test_main.py
runs every config), and what an evaluation measures (each kind has its own tests).
"""

import shlex
from dataclasses import replace
from glob import glob
from pathlib import Path

import jax
import numpy as np
import pytest
from documents import PAGES, commands
from photos import save, texture
from tiny import save_scene

from airjax.weights_file import save_weights
from eval import config as eval_config
from eval import main as eval_main
from eval.curves import SCRATCH, Curves, all_starts
from eval.image.sets import find_set
from train import compare, loop, sweep
from train import experiment as train_experiment
from train import main as train_main
from train.main import changed, load_experiment

pytestmark = pytest.mark.slow

FILLED_IN = {"--variant NAME": "--variant zero_step", "--seed SEED": "--seed 0", "runs/NAME": "runs/metagrad_sweep"}
OURS = ("python -m train.", "python -m eval.")
FOUND = {page: [command for command in commands(page) if command.startswith(OURS)] for page in PAGES}
PAGES_WITH_ANY = [page for page, found in FOUND.items() if found]


def begin(config, *, batches_fn, **options):
    """`train.loop.run` without its steps: the folder is claimed, the first batch is there."""
    next(batches_fn(0))
    return loop.run(replace(config, num_steps=0), batches_fn=batches_fn, **options)


def open_all(evaluation, weights, out) -> int:
    """An evaluation without its measurements."""
    assert weights is None or weights.is_file()
    subjects = getattr(evaluation, "subjects", None)
    if isinstance(evaluation, Curves):
        files = {file for start in all_starts(evaluation) for file in start.files}
        for file in files - {SCRATCH}:
            assert subjects.load_model(file).params
    if subjects is not None:
        assert next(iter(subjects))().name
    elif hasattr(evaluation, "images") and evaluation.images:
        assert find_set(evaluation.images, getattr(evaluation, "image_set", ""))
    return 0


@pytest.fixture
def desk(tmp_path, monkeypatch):
    """A folder as a reader has one: photographs, Kodak, a scene."""
    for i in range(12):
        save(tmp_path, f"photos/{i}.png", texture(70, 60, i))
    for i in range(24):
        save(tmp_path, f"kodak/kodim{i + 1:02}.png", texture(70, 60, i))
    air = jax.eval_shape(load_experiment(Path("air_pod"), True).init_params, jax.random.key(0))
    encoder = jax.tree.map(lambda leaf: np.zeros(leaf.shape, np.float32), air["stage0"]["encoder"])
    save_weights(tmp_path / "dinov3.safetensors", {"encoder": encoder})
    (tmp_path / "scenes").mkdir()
    save_scene(tmp_path / "scenes" / "room")
    monkeypatch.chdir(tmp_path)
    for module in (train_main, eval_main):
        monkeypatch.setattr(module, "enable_compilation_cache", lambda: None)
    monkeypatch.setattr(train_experiment, "run_loop", begin)
    monkeypatch.setattr(sweep, "run_members", in_this_process)
    for kind in eval_config.RUNNERS:
        monkeypatch.setitem(eval_config.RUNNERS, kind, open_all)
    return tmp_path


def in_this_process(members, out, **_):
    """`train.sweep.run_members`, but for the processes."""
    for member in members:
        config, *flags = member.arguments
        assert train_main.main([config, "--out", str(out / member.name), *flags]) == 0
    return {member.name: sweep.Outcome("done") for member in members}, None


def run(command: str) -> int:
    for text, value in FILLED_IN.items():
        command = command.replace(text, value)
    program, *words = (found for word in shlex.split(command)[2:] for found in sorted(glob(word)) or [word])
    if program == "train.main":
        args, options = train_main.make_parser().parse_known_args(words)
        full = changed(load_experiment(args.config, args.smoke, variant=args.variant, seed=args.seed), options)
        # A small network, in the folder of the large one.
        return train_main.main([*words, "--smoke", "--out", f"runs/{full.name}"])
    if program == "train.sweep":
        return sweep.main([*words, "--smoke"])
    return {"train.compare": compare.main, "eval.main": eval_main.main}[program](words)


@pytest.mark.parametrize("page", PAGES_WITH_ANY, ids=lambda page: page.stem)
def test_commands_begin(page, desk, capsys):
    """One after the other, as they stand on the page."""
    for command in FOUND[page]:
        assert run(command) == 0, f"{command}\n{capsys.readouterr().err}"


def test_there_are_commands():
    programs = {command.split()[2] for found in FOUND.values() for command in found}
    assert programs == {"train.main", "train.sweep", "train.compare", "eval.main"}
    assert np.sum([len(found) for found in FOUND.values()]) > 20

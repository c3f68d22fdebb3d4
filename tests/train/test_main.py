"""`python -m train.main`: any setting from the command line; what a user gets wrong is one line and exit status 2."""

import json
from pathlib import Path
from types import SimpleNamespace

import jax
import pytest

from airjax.errors import AirjaxError
from train import main as module
from train.configs import joint
from train.experiment import Experiment
from train.image.experiment import ImageExperiment
from train.loop import LoopConfig
from train.main import changed, extended, load_experiment

CONFIGS = sorted(path.stem for path in (Path(module.__file__).parent / "configs").glob("[a-z]*.py"))
CONFIG_FILE = """
from train.configs import joint

def experiment(smoke):
    return joint.experiment(smoke)
"""


@pytest.fixture
def main(monkeypatch):
    """train.main without a compilation cache, and the runs that experiments were asked for, which train nothing."""
    calls = []
    monkeypatch.setattr(module, "enable_compilation_cache", lambda: None)
    monkeypatch.setattr(Experiment, "run", lambda self, out: calls.append((self, out)))
    return SimpleNamespace(run=module.main, calls=calls)


def test_a_setting_is_an_option_and_the_folder_says_so(main):
    options = ["--data.folders", "photos", "more", "--optimizer.learning-rate", "1e-3", "--loop.log-every", "7"]
    assert main.run(["joint", *options]) == 0
    ((experiment, out),) = main.calls
    plain = joint.experiment(smoke=False)
    assert experiment.optimizer.learning_rate == 1e-3 and experiment.data.folders == ("photos", "more")
    assert out == Path("runs") / "joint-optimizer.learning_rate=0.001" and experiment.name == out.name
    # The rest is as it was.
    back = {"data": {"folders": ()}, "optimizer": {"learning_rate": 1.5e-3}, "loop": {"log_every": 50}}
    assert experiment.with_(name="joint", **back) == plain


def test_a_plain_run_has_a_plain_name(main):
    assert main.run(["joint", "--smoke"]) == 0
    assert main.run(["joint", "--smoke", "--out", "elsewhere", "--name", "mine"]) == 0
    assert [(experiment.name, out) for experiment, out in main.calls] == [
        ("joint_smoke", Path("runs/joint_smoke")),
        ("mine", Path("elsewhere")),
    ]


def test_every_config_takes_a_seed():
    for name in CONFIGS:
        plain, other = (load_experiment(Path(name), True, seed=seed) for seed in (None, 7))
        assert other.loop.seed == 7 and other.data.seed != plain.data.seed and other.name != plain.name
    first, second = (load_experiment(Path("metagrad"), True, variant="unrolled", seed=seed) for seed in (0, 1))
    assert first.phase == second.phase and first.name != second.name
    with pytest.raises(AirjaxError, match=r"^--variant: not an option of .*joint\.py$"):
        load_experiment(Path("joint"), True, variant="unrolled")


def test_a_fixed_name_and_unchanged_settings():
    plain = joint.experiment(smoke=True)
    assert changed(plain, []) == plain
    assert changed(plain, ["--optimizer.warmup", "200"]) == plain
    assert changed(plain, ["--name", "mine", "--loop.num-steps", "3"]).name == "mine"


def test_a_run_is_extended_once(tmp_path):
    """The folder remembers: the same command goes on to the same step, another one further."""
    plain = joint.experiment(smoke=True)

    def record(*extensions):
        written = {"seed": 0, "loop": {"num_steps": 20, "extensions": list(extensions)}, "config": {}}
        (tmp_path / "config.json").write_text(json.dumps(written))

    assert extended(plain, tmp_path, None) == plain
    assert extended(plain, tmp_path, 30).loop.ends == (20, 30)
    record(30)
    for last_step, ends in ((None, (20, 30)), (30, (20, 30)), (50, (20, 30, 50))):
        assert extended(plain, tmp_path, last_step).loop.ends == ends
    with pytest.raises(AirjaxError, match=r"^--extend: expected a step after 30, the last of .*, got 25$"):
        extended(plain, tmp_path, 25)


def test_a_config_has_a_name_or_is_a_file(tmp_path, main, monkeypatch, capsys):
    (tmp_path / "mine.py").write_text(CONFIG_FILE)
    assert main.run([str(tmp_path / "mine.py"), "--smoke"]) == 0
    monkeypatch.setattr(module, "CONFIGS", tmp_path)
    assert main.run(["mine", "--smoke"]) == 0
    assert [experiment.name for experiment, _ in main.calls] == ["joint_smoke"] * 2
    assert main.run(["yours"]) == 2
    assert capsys.readouterr().err == "error: yours: expected a config file (.py), or one of mine\n"


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ((), "CONFIG: expected a config file (.py), or the name of one; see python -m train.main --help"),
        (("none.py",), "none.py: expected a config file (.py)"),
        (("joint", "--optimizer.learning-rat", "1"), "learning-rat, 1; perhaps --optimizer.learning-rate; --help"),
        (
            ("joint", "--optimizer.learning-rate", "fast"),
            "--optimizer.learning-rate: could not convert string to float",
        ),
        (("joint", "--loop.max-seconds", "-1"), "max_seconds: expected > 0 or None, got -1.0"),
        (("joint", "--data.crop-size", "0"), "crop_size: expected a number in [1, 32768], got 0"),
        (("joint", "--phase.budget", "1"), "--phase.budget"),
        (("joint", "photos"), "Unrecognized options: photos"),
        (("joint", "--smok"), "Unrecognized options: --smok"),
        (("metagrad", "--variant", "none"), "--variant: expected one of "),
    ],
)
def test_a_wrong_command_is_one_line(main, capsys, options, expected):
    assert main.run(list(options)) == 2
    output, errors = capsys.readouterr()
    assert output == "" and errors.startswith("error: ") and errors.count("\n") == 1 and expected in errors
    assert not main.calls


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name = 1\n", ": expected a function experiment(), found none"),
        ("import no_such_module_at_all", ", line 1: ModuleNotFoundError: No module named 'no_such_module_at_all'"),
        ("def experiment(smoke):\n    return LopConfig(1)", ", line 2: NameError: name 'LopConfig' is not defined"),
        ("experiment = 1 / 0", ", line 1: ZeroDivisionError: division by zero"),
        ("def experiment(smoke):\n    assert not 'a\\nb'", ", line 2: AssertionError: "),
        ("def experiment(:", ": SyntaxError: "),
        ("def experiment(smoke): return 3", ": experiment: expected an Experiment, got int"),
        ("def experiment(): return 3", ": TypeError: "),
        (
            "from train.image.data import DataConfig\ndef experiment(smoke): return DataConfig('x', crop_size=0)",
            ": crop_size: expected a number in [1, 32768], got 0",
        ),
        (
            "from train.loop import LoopConfig\ndef experiment(smoke): return LoopConfig(-1)",
            ": num_steps: expected at least 0, got -1",
        ),
    ],
)
def test_a_mistake_in_a_config_is_one_line(tmp_path, main, capsys, text, message):
    config = tmp_path / "x.py"
    config.write_text(text)
    assert main.run([str(config)]) == 2
    errors = capsys.readouterr().err
    assert errors.startswith(f"error: {config}{message}") and errors.count("\n") == 1


def test_help_has_every_field_and_its_comment(main, capsys):
    assert main.run(["--help"]) == 0
    assert "--extend STEP" in capsys.readouterr().out
    assert main.run(["metagrad", "--help"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    for part in ("--smoke", "--phase.estimator.anchors", "--data.folders", "its largest value, after the warm-up"):
        assert part in text
    assert not main.calls


def test_without_photographs_a_run_says_which_option_is_missing(tmp_path, monkeypatch, capsys):
    """In an empty folder, before anything is compiled."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(module, "enable_compilation_cache", lambda: None)
    monkeypatch.setattr(ImageExperiment, "init_params", lambda self, key: {})
    assert module.main(["joint"]) == 2
    assert capsys.readouterr().err == (
        "error: expected a folder of photographs, or several, got none; give --data.folders PHOTOGRAPHS\n"
    )
    monkeypatch.setattr(LoopConfig, "use_devices", lambda self: jax.devices() * 8)
    for config in ("joint", "foresplat_finetune"):
        assert module.main([config, "--smoke"]) == 2
        errors = capsys.readouterr().err
        assert errors.startswith("error: --data.") and "multiple of 8, the number of devices" in errors


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in CONFIGS if name != "foresplat"])  # scene/test_experiment.py runs it
def test_a_smoke_run_needs_nothing(name, tmp_path, monkeypatch, capsys):
    """In an empty folder: it trains, writes weights, and the same command finds nothing left to do.

    Those of joint and pod are whole; of the others some steps are enough, without pictures, programs of their own.
    """
    command = [name, "--smoke"]
    if name not in ("joint", "pod"):
        command += ["--loop.num-steps", "3", "--loop.panel-every", "0"]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(module, "enable_compilation_cache", lambda: None)
    with jax.numpy_dtype_promotion("standard"):
        assert module.main(command) == 0, capsys.readouterr().err
        (folder,) = Path("runs").iterdir()
        assert (folder / "weights.safetensors").stat().st_size > 1000 and (folder / "log.jsonl").exists()
        monkeypatch.setattr(ImageExperiment, "open_data", lambda self: (None, None))
        assert module.main(command) == 0
    assert "nothing left to do" in capsys.readouterr().out

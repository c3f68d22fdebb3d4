"""Sweeps of a trainer that does not train; oracles: the folders, the arguments it was given, and Bash."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from airjax.errors import AirjaxError
from train import sweep
from train.sweep import Member, members_of, parse_grid

ROOT = Path(__file__).resolve().parents[2]

# The files of train.main, without its work. What it does depends on --variant.
TRAINER = """
import json, os, pathlib, signal, sys, time
flags = dict(zip(sys.argv[2::2], sys.argv[3::2]))
out, seed, variant = pathlib.Path(flags["--out"]), int(flags["--seed"]), flags.get("--variant", "good")
with (out / "starts.jsonl").open("a") as file:
    file.write(json.dumps(sys.argv[1:]) + "\\n")
if variant == "bad":
    print("some words\\nerror: --variant bad: expected another", file=sys.stderr)
    sys.exit(2)
if variant == "killed":
    os.kill(os.getpid(), signal.SIGKILL)
loop = {"num_steps": 2, "seed": seed, "max_seconds": None}
(out / "config.json").write_text(json.dumps({"seed": seed, "loop": loop, "config": {"name": "fake", "loop": loop}}))
lines = [{"step": k, "elapsed": 3.0 * k, "loss": 0.5 / k, "psnr0": 20.0, "psnr": 30.0 + k} for k in (1, 2)]
if variant == "hang" and not (out / "checkpoint").exists():
    def stop(number, frame):
        (out / "checkpoint").touch()
        sys.exit(128 + number)
    signal.signal(signal.SIGINT, stop)
    signal.signal(signal.SIGTERM, stop)
    lines.pop()
(out / "log.jsonl").write_text("".join(json.dumps(line) + "\\n" for line in lines))
if len(lines) == 1:
    print("step 1")
    time.sleep(60)
(out / "weights.safetensors").touch()
"""


@pytest.fixture
def trainer(tmp_path, monkeypatch):
    """The command of the trainer, already that of the sweeps."""
    path = tmp_path / "trainer.py"
    path.write_text(TRAINER)
    command = (sys.executable, "-SE", str(path))
    monkeypatch.setattr(sweep, "COMMAND", command)
    monkeypatch.setattr(sweep, "_POLL", 0.01)
    monkeypatch.chdir(tmp_path)
    return command


def starts(name, out="s"):
    """The arguments of every start of a member, --out taken away."""
    path = Path(out, name, "starts.jsonl")
    lines = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    for line in lines:
        assert line[1:3] == ["--out", str(Path(out, name))]
    return [[line[0], *line[3:]] for line in lines]


def run(*arguments):
    return sweep.main(["toy", "--out", "s", *arguments])


# --- members ---------------------------------------------------------------------------------------------------------


def test_members_are_the_product_of_grid_and_seeds():
    grid = parse_grid(["variant=budget,es", "--optimizer.learning_rate=1e-3", "image-size=64 64,'a b'"])
    members = members_of("toy", grid, [1, 0, 1], ["--smoke", "--data.folders", "my d"])
    assert len({member.name for member in members}) == len(members) == 2 * 1 * 2 * 2
    assert members[0].name == "variant=budget,optimizer.learning_rate=1e-3,image-size=64,64,seed=1"
    first = (
        "toy;--variant;budget;--optimizer.learning_rate;1e-3;--image-size;64;64;--seed;1;--smoke;--data.folders;my d"
    )
    assert ";".join(members[0].arguments) == first
    assert members[1].arguments[5:7] == ("--image-size", "a b")
    assert [member.name for member in members_of("toy", {}, [3], [])] == ["seed=3"]
    assert parse_grid(["folders=a,b;c"]) == {"folders": [("a,b",), ("c",)]}


def test_names_are_safe_short_and_different():
    values = ["../a", ".._a", "a\nb", "a b", "é", "e", *(200 * "x" + end for end in "12")]
    names = [member.name for member in members_of("toy", {"v": [(value,) for value in values]}, [0], [])]
    assert len(set(names)) == len(values)
    for name in names:
        assert name.isascii() and name.isprintable() and len(name) < 150 and not set(name) & set(" /\\:*?\"<>|'")
    assert names == [member.name for member in members_of("toy", {"v": [(value,) for value in values]}, [0], [])]


@pytest.mark.parametrize(
    "item", ["variant", "=a", "a=", "a=1,,2", "a=1,", "a b=1", "a='", "seed=1", "out=x", "config=x"]
)
def test_a_malformed_grid_is_refused(item):
    with pytest.raises(AirjaxError, match="--grid"):
        parse_grid([item])


def test_flags_given_twice_are_refused():
    with pytest.raises(AirjaxError, match="twice"):
        parse_grid(["a-b=1", "a_b=2"])
    grid = {"a-b": [("1",)]}
    for common in (["--a_b", "2"], ["--a-b=2"], ["--seed", "1"], ["--smoke", "--config", "x"], ["x", "--smoke"]):
        with pytest.raises(AirjaxError):
            members_of("toy", grid, [0], common)
    with pytest.raises(AirjaxError, match="two members"):
        members_of("toy", {"a": [("1", "2"), ("1,2",)]}, [0], [])


def test_bad_input_is_one_line(trainer, capsys):
    for arguments, word in ((["--jobs", "0"], "--jobs"), (["--grid", "x"], "--grid"), (["--seed", "1"], "--seeds")):
        assert run(*arguments) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("error: ") and word in line
    assert not Path("s").exists()


def test_help_needs_no_jax():
    program = "import sys; sys.modules['jax'] = None; from train.sweep import main; main(['--help'])"
    result = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0 and "--grid 'data.image-size=64 64,128 128'" in result.stdout


# --- running ---------------------------------------------------------------------------------------------------------


def test_what_is_finished_is_not_started_again_and_a_larger_grid_adds_members(trainer, capsys):
    assert run("--grid", "variant=good,fine", "--seeds", "0", "--jobs", "2") == 0
    out = capsys.readouterr().out
    (row,) = [line.split() for line in out.splitlines() if line.startswith("variant=good,seed=0 ")]
    assert row == ["variant=good,seed=0", "done", "2", "6", "0.25", "32"]
    assert "python -m train.compare s" in out and "start variant=good,seed=0" in out
    assert starts("variant=good,seed=0") == [["toy", "--variant", "good", "--seed", "0"]]
    record = json.loads(Path("s/sweep.json").read_text())["members"]
    assert record["variant=fine,seed=0"] == ["toy", "--variant", "fine", "--seed", "0"]

    assert run("--grid", "variant=good,best", "--seeds", "0", "1") == 0
    out = capsys.readouterr().out
    assert out.startswith("s: 4 members, 1 finished before\n") and out.count("start ") == 3
    assert [len(starts(f"variant={v},seed={s}")) for v in ("good", "best", "fine") for s in (0, 1)] == [
        1,
        1,
        1,
        1,
        1,
        0,
    ]
    assert len(json.loads(Path("s/sweep.json").read_text())["members"]) == 5

    Path("s/variant=good,seed=0/weights.safetensors").unlink()  # killed before the end
    assert run("--grid", "variant=good,best", "--seeds", "0", "1") == 0
    assert len(starts("variant=good,seed=0")) == 2 and len(starts("variant=best,seed=0")) == 1


def test_a_member_of_other_arguments_is_refused(trainer, capsys):
    assert run("--seeds", "0", "--rate", "1") == 0
    assert run("--seeds", "1", "0", "--rate", "2") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line == (
        "error: s/seed=0: was started as toy --seed 0 --rate 1, is now toy --seed 0 --rate 2; "
        "choose another folder with --out"
    )
    assert not Path("s/seed=1").exists() and len(starts("seed=0")) == 1
    assert run("--seeds", "0", "--rate", "2", "--extend") == 0  # train.main looks at what may be extended
    assert starts("seed=0")[1] == ["toy", "--seed", "0", "--rate", "2", "--extend"]
    assert run("--seeds", "0", "--rate", "2") == 0
    assert len(starts("seed=0")) == 2


def test_a_member_that_has_no_run_yet_may_be_corrected(trainer):
    assert run("--variant", "bad") == 1
    assert run("--variant", "good") == 0


def test_a_failed_member_does_not_stop_the_others(trainer, capsys):
    assert run("--grid", "variant=bad,killed,good") == 1
    out = capsys.readouterr().out
    table = out[out.index("member ") :].splitlines()
    rows = {line.split()[0]: " ".join(line.split()[1:]) for line in table}
    reason = "exit status 2, error: --variant bad: expected another"
    assert rows["variant=bad,seed=0"] == f"failed - - - - {reason}"
    assert rows["variant=killed,seed=0"] == "failed - - - - signal 9, nothing was printed"
    assert rows["variant=good,seed=0"] == "done 2 6 0.25 32"
    output = Path("s/variant=bad,seed=0/output.txt").read_text().splitlines()
    assert output[0].startswith("$ ") and output[1:] == ["some words", "error: --variant bad: expected another"]


def test_a_damaged_record_is_refused(trainer, capsys):
    Path("s").mkdir()
    for content in ("{", "[]", '{"members": {"a": [1]}}', '{"members": 1}'):
        Path("s/sweep.json").write_text(content)
        assert run() == 2
        assert capsys.readouterr().err.startswith("error: s/sweep.json: expected the members of a sweep")


def test_a_process_that_cannot_be_started_leaves_none_behind(trainer, monkeypatch, capsys):
    monkeypatch.setattr(Member, "command", lambda self, out: ["/nowhere/python"])
    assert run() == 2
    assert "/nowhere/python" in capsys.readouterr().err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_reaches_the_members_and_the_same_command_goes_on(trainer, tmp_path, number):
    arguments = ["toy", "--out", "s", "--grid", "variant=hang,good", "--seeds", "0", "1", "--jobs", "2"]
    program = f"import sys; from train import sweep; sweep.COMMAND = {trainer!r}; sys.exit(sweep.main({arguments!r}))"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    # In a group of its own, and the signal for the whole group, as Ctrl-C on a terminal: members hear it only once.
    process = subprocess.Popen(
        [sys.executable, "-c", program],
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
        start_new_session=True,
    )
    hanging = [Path("s", f"variant=hang,seed={seed}") for seed in (0, 1)]
    deadline = time.monotonic() + 60
    while not all((folder / "output.txt").exists() and (folder / "log.jsonl").exists() for folder in hanging):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    os.killpg(process.pid, number)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 128 + number, out
    assert all((folder / "checkpoint").exists() for folder in hanging)
    rows = {line.split()[0]: line.split()[1:] for line in out[out.index("member ") :].splitlines()}
    assert rows["variant=hang,seed=0"] == ["interrupted", "1", "3", "0.5", "31"]
    assert "the same command goes on" in out and "stopping" in out

    assert run(*arguments[3:]) == 0
    assert [len(starts(f"variant=hang,seed={seed}")) for seed in (0, 1)] == [2, 2]
    assert all(len(starts(f"variant=good,seed={seed}")) == 1 for seed in (0, 1))


# --- Slurm -----------------------------------------------------------------------------------------------------------


def bash(script, **environment):
    return subprocess.run(
        ["bash", "-c", script], capture_output=True, check=True, env={**os.environ, **environment}
    ).stdout.decode()


def test_the_slurm_script_runs_the_command_of_each_member(trainer, monkeypatch, capsys):
    monkeypatch.setattr(sweep, "COMMAND", ("printf", r"%s\n"))
    hostile = ["--data.folders", "my 'photos'", "$(touch hacked)", "`x`", '"', "two\nlines"]
    assert run("--grid", "variant=a,b", "--seeds", "0", "1", "--jobs", "3", "--slurm", *hostile) == 0
    script = capsys.readouterr().out
    assert "#SBATCH --array=0-3%3\n" in script and not Path("s").exists()
    subprocess.run(["bash", "-n"], input=script, text=True, check=True)
    members = members_of("toy", parse_grid(["variant=a,b"]), [0, 1], hostile)
    assert len(members) == 4
    for i, member in enumerate(members):
        printed = bash(script, SLURM_ARRAY_TASK_ID=str(i))
        assert printed == "".join(f"{word}\n" for word in member.command(Path("s"))[2:])
    assert not Path("hacked").exists()


def test_a_slurm_script_without_jobs_has_no_limit(trainer, capsys):
    assert sweep.main(["some/toy.py", "--slurm"]) == 0
    script = capsys.readouterr().out
    assert "#SBATCH --array=0-0\n" in script and "runs/toy_sweep/seed=0" in script

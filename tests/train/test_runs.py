"""Run folders; oracles: the values that were written, groups and labels told by hand, a real configuration."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
from messages import one_line
from run_folders import write_run

from airjax.errors import AirjaxError
from train.configs import metagrad
from train.loop import LoopConfig
from train.runs import (
    SHOWN,
    find_runs,
    group_by_settings,
    read_log,
    read_run,
    settings_that_differ,
    short_names,
    text_of,
)
from train.settings import settings_of


def estimator(kind, **fields):
    return {"kind": "Meta", "estimator": {"kind": kind, **fields}, "trained": "head"}


# --- one folder ------------------------------------------------------------------------------------------------------


def test_a_folder_is_read_as_it_was_written(tmp_path):
    stages = [{"kind": "Stage", "votes": 0}, {"kind": "Stage", "votes": 6}]
    folder = write_run(tmp_path / "a", seed=3, phase=estimator("Budget", anchors=[0, 10]), stages=stages, panel=(4, 6))
    run = read_run(folder)
    assert (run.folder, run.seed, run.name, run.finished, run.num_damaged) == (folder, 3, "toy", True, 0)
    assert run.settings["config.phase.estimator"] == "Budget" and run.settings["config.phase"] == "Meta"
    assert run.settings["config.phase.estimator.anchors"] == [0, 10]
    assert run.settings["config.stages.1.votes"] == 6 and run.settings["loop.num_steps"] == 50
    np.testing.assert_array_equal(run.log["step"], [10, 20, 30, 40, 50])
    np.testing.assert_array_equal(run.log["psnr"], [24, 25, 26, 27, 28])
    assert run.last("psnr") == 28 and math.isnan(run.last("nothing"))
    assert run.panel == folder / "panels" / "step_00000050.png" and run.weights == folder / "weights.safetensors"
    assert run.versions["jax"] == "0.10.0" and run.devices == ("cpu:cpu",)


def test_the_settings_of_a_real_config_have_names(tmp_path):
    folder = write_run(tmp_path / "a")
    content = json.loads((folder / "config.json").read_text())
    content["config"] = settings_of(metagrad.experiment(True, variant="budget"))
    (folder / "config.json").write_text(json.dumps(content))
    settings = read_run(folder).settings
    assert settings["config.phase.estimator"] == "Budget" and settings["config.optimizer.learning_rate"] == 1e-4
    assert settings["config.init_stages"] is None and settings["config"] == "ImageExperiment"


def test_a_run_that_only_began(tmp_path):
    folder = write_run(tmp_path / "a", finished=False)
    (folder / "log.jsonl").unlink()
    run = read_run(folder)
    assert not run.finished and run.weights is None and run.panel is None
    assert {name: len(values) for name, values in run.log.items()} == {"step": 0, "elapsed": 0}


@pytest.mark.parametrize(
    ("step", "elapsed", "max_seconds", "finished"),
    [(50, 9, None, True), (40, 9, None, False), (40, 9, 9, True), (40, 8, 9, False)],
)
def test_weights_of_a_run_that_was_extended_do_not_make_it_finished(tmp_path, step, elapsed, max_seconds, finished):
    log = [{"step": step, "elapsed": elapsed, "loss": 1.0}]
    assert read_run(write_run(tmp_path / "a", log=log, loop={"max_seconds": max_seconds})).finished == finished


def test_damaged_lines_of_a_log_are_counted_and_left_out(tmp_path):
    good = [
        '{"step": 10, "elapsed": 1.5, "loss": 0.5}',
        '{"step": 20, "elapsed": 2, "loss": null, "psnr": 30}',
        '{"step": 30, "elapsed": 3, "loss": "low", "psnr": [1], "extra": 1e39}',
        f'{{"step": 40, "elapsed": 4, "loss": 1{"0" * 400}, "psnr": true}}',
    ]
    bad = [
        '{"step": 10, "elapsed": 9, "loss": 9}',  # not after the last
        '{"step": "50", "elapsed": 5}',
        '{"step": 50}',
        '{"step": NaN, "elapsed": 5}',
        '{"step": 50, "elapsed": Infinity}',
        '{"step": 50, "elapsed": -1}',
        "[50, 5]",
        "17",
        "[" * 100_000,
        "\x00\x00\x00",
        '{"step": 50, "elapsed": 5, "lo',  # the process was killed
    ]
    path = tmp_path / "log.jsonl"
    path.write_bytes("\n".join([good[0], "", *bad[:4], *good[1:], *bad[4:]]).encode() + b"\n\xff\xfe\n")
    log, num_damaged = read_log(path)
    assert num_damaged == len(bad) + 1
    nan = math.nan
    expected = {"loss": [0.5, nan, nan, nan], "psnr": [nan, 30, nan, nan], "extra": [nan] * 4}
    expected |= {"step": [10, 20, 30, 40], "elapsed": [1.5, 2, 3, 4]}
    assert log.keys() == expected.keys()
    for name, values in expected.items():
        np.testing.assert_array_equal(log[name], values)


@pytest.mark.parametrize(
    "content", ["", "{", "[]", "1", '{"loop": {}}', '{"loop": 3, "config": {}}', "\xff", "[" * 100_000]
)
def test_a_damaged_config_is_refused(tmp_path, content):
    (tmp_path / "config.json").write_bytes(content.encode("latin-1"))
    with pytest.raises(AirjaxError) as error:
        read_run(tmp_path)
    assert "expected" in one_line(error, tmp_path / "config.json")


def test_what_is_no_run_is_refused(tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    for name, found in (("file", "a file"), ("nothing", "nothing"), ("folder", "no config.json")):
        with pytest.raises(AirjaxError) as error:
            read_run(tmp_path / name)
        assert found in one_line(error, tmp_path / name)
    folder = write_run(tmp_path / "run")
    (folder / "log.jsonl").unlink()
    (folder / "log.jsonl").mkdir()
    with pytest.raises(AirjaxError) as error:
        read_run(folder)
    assert "cannot be read" in one_line(error, folder / "log.jsonl")


# --- several ---------------------------------------------------------------------------------------------------------


def test_runs_are_found_by_name_below_a_folder_and_by_a_glob(tmp_path):
    names = ["a/seed=2", "a/seed=10", "a/deep/seed=1", "b"]
    for name in names:
        write_run(tmp_path / name)
    (tmp_path / "a" / "sweep.json").touch()
    (tmp_path / "a" / "failed").mkdir()
    lines = []

    def found(*patterns):
        runs = find_runs([tmp_path / pattern for pattern in patterns], say=lines.append)
        return [run.folder.relative_to(tmp_path).as_posix() for run in runs]

    assert found("b") == ["b"]
    assert found("a", "b", "a/seed=2") == ["a/deep/seed=1", "a/seed=2", "a/seed=10", "b"]
    assert found(".") == ["a/seed=2", "a/seed=10", "b"]  # one or two levels
    assert not lines
    assert found("a/*") == ["a/deep/seed=1", "a/seed=2", "a/seed=10"]
    assert len(lines) == 1 and "failed" in lines[0]


def test_a_damaged_run_is_refused_by_name_and_left_out_of_what_was_found(tmp_path, capsys):
    write_run(tmp_path / "a" / "good")
    bad = write_run(tmp_path / "a" / "bad") / "config.json"
    bad.write_text("{")
    for pattern in (tmp_path / "a", tmp_path / "a" / "*"):
        assert [run.folder.name for run in find_runs([pattern])] == ["good"]
        assert capsys.readouterr().err.startswith(f"left out: {bad}: ")
    with pytest.raises(AirjaxError) as error:
        find_runs([bad.parent])
    one_line(error, bad)


@pytest.mark.parametrize("pattern", ["nothing", "noth*", "empty", "empty*", "file"])
def test_a_pattern_without_a_run_is_refused(tmp_path, pattern):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").touch()
    with pytest.raises(AirjaxError) as error:
        find_runs([tmp_path / pattern], say=lambda line: None)
    assert "expected a run folder" in one_line(error, tmp_path / pattern)
    with pytest.raises(AirjaxError, match="found none"):
        find_runs([])


# --- groups ----------------------------------------------------------------------------------------------------------


def make_runs(folder: Path, *variants: dict, seeds=(1, 0)):
    for i, variant in enumerate(variants):
        for seed in seeds:
            write_run(folder / f"{i}_{seed}", seed=seed, name=f"toy_{i}_{seed}", **variant)
    return find_runs([folder])


def labels(groups):
    return {label: [run.seed for run in runs] for label, runs in groups.items()}


def test_runs_that_differ_in_seeds_and_in_what_is_shown_are_one_group(tmp_path):
    for seed in (12, 2, 11):
        write_run(
            tmp_path / f"run{seed}",
            seed=seed,
            name=f"metagrad_budget_{seed}",
            loop={"log_every": 5 + seed},
            data={"folders": [f"/home/{seed}/photos"], "augment": {"kind": "Augment", "seed": seed}},
        )
    runs = find_runs([tmp_path])
    assert settings_that_differ(runs) == {}
    assert labels(group_by_settings(runs)) == {"metagrad_budget": [2, 11, 12]}
    assert labels(group_by_settings(runs[:1])) == {"metagrad_budget_2": [2]}


def test_labels_say_what_differs(tmp_path):
    kinds = [estimator("Budget", anchors=[0, 10]), estimator("ES", sigma=0.1)]
    variants = [
        {"phase": phase, "optimizer": {"kind": "Optimizer", "learning_rate": rate}}
        for phase in kinds
        for rate in (1e-3, 1e-4)
    ]
    runs = make_runs(tmp_path, *variants)
    expected = [f"estimator={kind}, learning_rate={rate}" for kind in ("Budget", "ES") for rate in (0.001, 0.0001)]
    assert labels(group_by_settings(runs)) == {label: [0, 1] for label in expected}
    differing = settings_that_differ(runs)
    assert differing["config.phase.estimator"] == ["Budget"] * 4 + ["ES"] * 4
    assert differing["config.phase.estimator.sigma"] == [None] * 4 + [0.1] * 4
    assert list(labels(group_by_settings(runs[2:6]))) == ["estimator=Budget", "estimator=ES"]


def test_other_data_other_steps_and_none_are_other_settings(tmp_path):
    variants = [{}, {"data": {"folders": ["a/other"]}}, {"loop": {"num_steps": 60}}, {"teacher": {"kind": "Net"}}]
    groups = group_by_settings(make_runs(tmp_path, *variants, seeds=(0,)))
    assert len(groups) == 4
    pair = group_by_settings(make_runs(tmp_path / "p", *variants[:2], seeds=(0,)))
    assert list(pair) == ["folders=photos", "folders=other"]
    pair = group_by_settings(make_runs(tmp_path / "q", {"teacher": None}, {"teacher": {"kind": "Net"}}, seeds=(0,)))
    assert list(pair) == ["teacher=none", "teacher=Net"]


def test_names_are_as_short_as_they_can_be():
    names = ["config.a.rate", "config.b.rate", "config.b.size", "loop.size.x", "x"]
    assert list(short_names(names).values()) == ["a.rate", "b.rate", "size", "size.x", "x"]


def test_long_values_are_cut_in_labels_and_labels_stay_different(tmp_path):
    variants = [{"text": "a" * 50 + end + "b" * 50} for end in "xyz"]
    groups = group_by_settings(make_runs(tmp_path, *variants, seeds=(0,)))
    assert len(groups) == 3 and all(len(label) < 60 for label in groups)


def test_values_read_as_on_the_command_line():
    assert [text_of(value) for value in (0.001, [1, [2.5, None]], True, "a")] == ["0.001", "1,2.5,none", "True", "a"]


def test_what_is_only_shown_is_what_the_loop_calls_free():
    marked = {field.name for field in LoopConfig.__dataclass_fields__.values() if field.metadata.get("free")}
    # A time limit and more steps do change the results.
    assert marked - {"max_seconds", "extensions"} == SHOWN - {"cache_mb"}

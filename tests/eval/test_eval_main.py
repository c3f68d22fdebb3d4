"""The command `python -m eval.main`: what a user gets wrong is one line and exit status 2."""

from pathlib import Path

import pytest
from photos import save, texture

from airjax.errors import AirjaxError
from eval import config as eval_config
from eval.config import changed, load_evaluation
from eval.image.quality import ImageEvaluation
from eval.main import main

CONFIGS = Path(__file__).resolve().parents[2] / "eval" / "configs"
GOOD = """
from eval.image.quality import ImageEvaluation
def evaluation():
    return ImageEvaluation("mine", "my photos", "photos", solve_steps=(0,), repetitions=1)
"""
BENCH = """
from eval.image.bench import Benchmark
def evaluation():
    return Benchmark("mine", "my photo", "photo.png")
"""


def write(folder, text):
    path = folder / "mine.py"
    path.write_text(text)
    return path


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("[a-z]*.py")), ids=lambda path: path.stem)
def test_shipped_configs_load_under_their_own_name(path):
    assert load_evaluation(path).name == path.stem


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("def evaluation(:", "SyntaxError"),
        ("import no_such_module_at_all", "no_such_module_at_all"),
        ("x = 1", "expected a function evaluation()"),
        ("evaluation = 3", "expected a function evaluation()"),
        ("def evaluation(): return {'name': 'x'}", "expected a function evaluation()"),
        (GOOD.replace("(0,)", "(-1,)"), "solve_steps: expected"),
        (GOOD.replace("repetitions", "repetition"), "repetition"),
        ("def evaluation(): return 1 / undefined", "line 1: NameError: name 'undefined' is not defined"),
        ("def evaluation(): return 1 / 0", "line 1: ZeroDivisionError"),
    ],
)
def test_a_wrong_config_is_one_line(tmp_path, capsys, text, expected):
    path = write(tmp_path, text)
    assert main([str(path)]) == 2
    output, errors = capsys.readouterr()
    assert output == "" and errors.count("\n") == 1
    assert errors.startswith(f"error: {path}") and expected in errors


@pytest.mark.parametrize("name", ["none.py", "folder.py", "text.txt"])
def test_a_missing_config_is_one_line(tmp_path, capsys, name):
    (tmp_path / "folder.py").mkdir()
    (tmp_path / "text.txt").write_text(GOOD)
    assert main([str(tmp_path / name)]) == 2
    assert capsys.readouterr().err == f"error: {tmp_path / name}: expected a config file (.py)\n"


def test_a_config_has_a_name(capsys):
    assert load_evaluation(Path("rounding_kodak")).name == "rounding_kodak"
    assert main(["rounding_kodim"]) == 2
    errors = capsys.readouterr().err
    assert errors.startswith("error: rounding_kodim: expected a config file (.py), or one of accelerator, bench, ")
    assert errors.count("\n") == 1


def test_missing_images_and_weights_are_one_line(tmp_path, capsys, weights, photo):
    path = write(tmp_path, GOOD)
    common = [str(path), "--out", str(tmp_path / "out")]
    assert main([*common, "--images", str(tmp_path / "none"), "--weights", str(weights)]) == 2
    assert (
        capsys.readouterr().err == f"error: {tmp_path / 'none'}: expected a folder of images or an image, found none\n"
    )
    assert main([*common, "--images", str(photo), "--weights", str(tmp_path / "none.safetensors")]) == 2
    errors = capsys.readouterr().err
    assert "none.safetensors: expected a weights file" in errors and errors.count("\n") == 1


def test_an_option_that_the_config_does_not_have(tmp_path):
    with pytest.raises(AirjaxError, match=r"^Unrecognized options: --limit, 3; --help lists the options$"):
        changed(load_evaluation(write(tmp_path, BENCH)), ["--limit", "3"])


def test_a_changed_evaluation_has_another_name(tmp_path):
    """Of other images and settings, so that no report is mistaken for the full one."""
    plain = load_evaluation(write(tmp_path, GOOD))
    assert changed(plain, ["--images", "photos"]) == plain
    assert changed(plain, ["--images", "holiday/snow", "--limit", "3"]) == ImageEvaluation(
        "mine-limit=3-snow",
        "holiday/snow, as in mine-limit=3",
        "holiday/snow",
        solve_steps=(0,),
        repetitions=1,
        limit=3,
    )
    assert changed(plain, ["--max-gaussians", "5"]).description == "my photos; max_gaussians=5"


def test_a_set_of_photographs_is_known_by_its_files(tmp_path):
    """Whatever the folder is called; more or fewer files are another set."""
    plain = load_evaluation(Path("refine_kodak"))
    for i in range(24):
        save(tmp_path, f"kodim{i + 1:02}.png", texture(8, 8))
    same = changed(plain, ["--images", str(tmp_path)])
    assert (same.name, same.description) == (plain.name, plain.description) and same.subjects.images == str(tmp_path)
    save(tmp_path, "mine.png", texture(8, 8))
    assert changed(plain, ["--images", str(tmp_path)]).name == f"refine_kodak-{tmp_path.name}"


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (
            "kodak",
            "expected the Kodak photographs, 24 files kodim01.png to kodim24.png (https://r0k.us/graphics/kodak/)",
        ),
        ("metagrad_estimators", "expected the Kodak photographs"),
        ("foresplat", "expected a folder of photographs for textures, got none; give it with --images FOLDER"),
        ("foresplat_real", "expected folders of the scenes fern"),
    ],
)
def test_without_images_an_evaluation_says_where_to_get_them(tmp_path, monkeypatch, capsys, name, expected):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("eval.main.enable_compilation_cache", lambda: None)
    assert main([name]) == 2
    errors = capsys.readouterr().err
    assert errors.startswith(f"error: {expected}") and errors.count("\n") == 1


def test_help_has_every_field(capsys):
    assert main(["--help"]) == 0 and main(["foresplat_real", "--help"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "--weights" in text and "--subjects.predict-size" in text and "--seconds" in text


@pytest.mark.parametrize(("failures", "status"), [(0, 0), (2, 2)])
def test_exit_status_and_default_folder(tmp_path, monkeypatch, failures, status):
    seen = []
    runners = {ImageEvaluation: lambda *arguments: seen.append(arguments) or failures}
    monkeypatch.setattr("eval.main.RUNNERS", runners)
    monkeypatch.setattr("eval.main.enable_compilation_cache", lambda: None)
    assert main([str(write(tmp_path, GOOD)), "--weights", "w"]) == status
    assert [(c.name, w, out) for c, w, out in seen] == [("mine", Path("w"), Path("runs/eval/mine"))]


def test_an_interrupt_is_one_line(tmp_path, monkeypatch, capsys):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setitem(eval_config.RUNNERS, ImageEvaluation, interrupted)
    monkeypatch.setattr("eval.main.enable_compilation_cache", lambda: None)
    assert main([str(write(tmp_path, GOOD))]) == 130
    errors = capsys.readouterr().err
    assert errors.startswith("interrupted") and errors.count("\n") == 1

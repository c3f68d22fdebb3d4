"""The page that compares runs; oracles: NumPy on the numbers that were written, and Python's HTML parser."""

import base64
import io
import json
import math
import re
import sys
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image
from run_folders import write_run

from airjax.errors import AirjaxError
from train import compare
from train.compare import band, best, curve, mean_and_error, metrics_of, page
from train.runs import find_runs, group_by_settings

VOID = {"meta", "img", "br", "link", "input"}


class Page(HTMLParser):
    """Elements, their attributes and the text; fails where tags do not match."""

    def __init__(self, text):
        super().__init__()
        self.open, self.seen, self.ids, self.text, self.images = [], set(), [], [], []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs, empty=False):
        self.seen.add(tag)
        self.ids += [value for name, value in attrs if name == "id"]
        self.images += [value for name, value in attrs if name == "src"]
        for name, value in attrs:
            assert not name.startswith("on") and name != "http", (tag, name)
            assert name not in ("src", "href", "xlink:href") or value.startswith(("data:image/png;base64,", "#"))
        if tag not in VOID and not empty:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs, empty=True)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if not {"style"} & set(self.open):
            self.text.append(data)

    def words(self):
        return " ".join(" ".join(self.text).split())


def page_of(folder, metrics=()):
    runs = find_runs([folder])
    return Page(page(group_by_settings(runs), metrics_of(runs, metrics)))


def log_of(steps, values, name="psnr", seconds=1.0):
    return [{"step": k, "elapsed": seconds * k, "loss": 1.0, name: v} for k, v in zip(steps, values, strict=True)]


# --- numbers ---------------------------------------------------------------------------------------------------------


def test_a_band_of_equal_steps_is_mean_minimum_and_maximum():
    x, rows = np.arange(1.0, 8.0), np.random.default_rng(0).standard_normal((3, 7))
    result = band([(x, row) for row in rows])
    np.testing.assert_array_equal(result.x, x)
    np.testing.assert_allclose(result.mean, rows.mean(axis=0), rtol=1e-14)
    np.testing.assert_array_equal(result.low, rows.min(axis=0))
    np.testing.assert_array_equal(result.high, rows.max(axis=0))


def test_a_band_of_other_steps_and_lengths_is_where_all_curves_are():
    first, second = (np.array([0.0, 4, 8]), np.array([0.0, 4, 0])), (np.array([1.0, 2, 6, 9]), np.array([5.0, 5, 1, 1]))
    result = band([first, second, (np.zeros(0), np.zeros(0))])
    np.testing.assert_array_equal(result.x, [1, 2, 4, 6, 8])
    np.testing.assert_allclose(result.mean, [3, 3.5, 3.5, 1.5, 0.5])  # of 1 2 4 2 0 and 5 5 3 1 1
    np.testing.assert_allclose(result.low, [1, 2, 3, 1, 0])
    np.testing.assert_allclose(result.high, [5, 5, 4, 2, 1])
    assert band([first, (np.array([9.0]), np.array([1.0]))]) is None and band([]) is None
    np.testing.assert_array_equal(band([first]).mean, first[1])


def test_errors_are_standard_errors_over_seeds():
    assert mean_and_error([1.0, 2.0, 4.0, math.nan]) == pytest.approx((7 / 3, math.sqrt(7 / 9)))
    assert mean_and_error([5.0])[0] == 5 and math.isnan(mean_and_error([5.0])[1])
    assert all(map(math.isnan, mean_and_error([math.nan])))


def test_values_are_those_of_the_log(tmp_path):
    log = [
        {"step": 1, "elapsed": 1, "loss": 3.0, "psnr": None},
        {"step": 2, "elapsed": 5, "loss": 1.0, "psnr": 9},
        {"step": 3, "elapsed": 4, "loss": 2.0, "psnr": 7},
        {"step": 4, "elapsed": 6, "loss": None, "other": 0},
    ]
    (run,) = find_runs([write_run(tmp_path / "a", log=log)])
    assert best(run, "loss") == 1 and best(run, "psnr") == 9 and math.isnan(best(run, "nothing"))
    np.testing.assert_array_equal(curve(run, "psnr", "step"), [[2, 3], [9, 7]])
    np.testing.assert_array_equal(curve(run, "loss", "elapsed"), [[1, 5, 5], [3, 1, 2]])
    assert metrics_of([run], []) == ["loss", "psnr"] and metrics_of([run], ["other", "other"]) == ["other"]
    with pytest.raises(AirjaxError, match="--metric ssim: expected one of loss, psnr, other"):
        metrics_of([run], ["psnr", "ssim"])


# --- the page --------------------------------------------------------------------------------------------------------


def test_a_page_has_curves_tables_settings_and_pictures(tmp_path):
    for rate in (0.1, 0.01):
        for seed in range(3):
            values = 20 + seed + 100 * rate + np.arange(5)
            optimizer = {"kind": "Optimizer", "learning_rate": rate}
            log = log_of([10, 20, 30, 40, 50], values)
            write_run(tmp_path / f"{rate}_{seed}", seed=seed, log=log, optimizer=optimizer, panel=(8, 1024))
    result = page_of(tmp_path)
    words = result.words()
    assert "6 runs in 2 groups" in words and "learning_rate=0.1" in words and "config.optimizer.learning_rate" in words
    # Last is 24 + seed + 100 * rate; of three seeds in a row the standard error is the root of a third.
    assert "35.00 ± 0.58" in words and "26.00 ± 0.58" in words and f"{math.sqrt(1 / 3):.2f}" == "0.58"
    assert "finished, step 50 of 50" in words and "cpu:cpu" in words and "jax 0.10.0" in words
    assert "seconds of training" in words and "step" in words
    assert len(result.ids) == len(set(result.ids))
    assert len(result.images) == 6
    image = Image.open(io.BytesIO(base64.b64decode(result.images[0].partition(",")[2])))
    assert image.size == (512, 4)


def test_lines_have_the_colors_and_dashes_of_their_groups(tmp_path):
    for i in range(10):
        write_run(tmp_path / f"{i}", size=i)
    runs = find_runs([tmp_path])
    text = page(group_by_settings(runs), ["loss"])
    charts = re.findall(r'<svg class="chart".*?</svg>', text, flags=re.DOTALL)
    assert len(charts) == 2
    for chart in charts:
        lines = re.findall(r"<path [^>]*stroke: var\(--c(\d)\)", chart)
        assert sorted(lines) == sorted("0123456701")
        assert len(re.findall(r"stroke-dasharray: [^;]*; [^>]*var\(--c[01]\)", chart)) == 2
        assert "#0103" not in chart and "#0102" not in chart


def test_the_thick_line_is_the_mean_and_the_band_reaches_from_the_lowest_to_the_highest(tmp_path):
    steps, values = np.array([1, 2, 3, 5, 8]), np.random.default_rng(0).standard_normal((3, 5))
    for seed, row in enumerate(values):
        write_run(tmp_path / f"{seed}", seed=seed, log=log_of(steps.tolist(), row.tolist()))
    chart = compare.draw(group_by_settings(find_runs([tmp_path])), "psnr", "step")

    def points(pattern):
        path = re.search(rf'<path [^>]*d="([^"]*)"[^>]*{pattern}|<path id="{pattern}" d="([^"]*)"', chart)
        return np.array(re.findall(r"[ML] (\S+) (\S+)", path[1] or path[2]), float)

    thick = points("stroke-width: 1.8")
    name, down = re.search(r'href="#(\w+)" x="0" y="([\d.]+)" style="[^"]*fill-opacity: 0.18', chart).groups()
    area = points(name) + np.array([0, float(down)])
    # From points of the picture, where y goes down, to values: a straight line each, through all points of the mean.
    for column, exact in zip(thick.T, (steps, values.mean(axis=0)), strict=True):
        np.testing.assert_allclose(np.polyval(np.polyfit(column, exact, 1), column), exact, atol=1e-4)
    heights = np.polyval(np.polyfit(thick[:, 1], values.mean(axis=0), 1), area[:, 1])
    for k, x in enumerate(thick[:, 0]):
        edges = heights[np.abs(area[:, 0] - x) < 1e-3]
        assert (edges.min(), edges.max()) == pytest.approx((values[:, k].min(), values[:, k].max()), abs=1e-4)


def test_hostile_names_are_text(tmp_path):
    evil = '<script>alert("1")</script><img src=x onerror=y> $title ${charts} $\\frac$ & \x00 \ud800'
    metric = f"psnr{evil}"
    for i in range(2):
        log = log_of([1, 2], [3.0, 4.0], name=metric)
        folder = write_run(tmp_path / f"<i>&'{i}\"", name=evil, log=log, **{evil: f"{evil}{i}"}, panel=(4, 4))
        content = json.loads((folder / "config.json").read_text())
        content |= {"versions": {evil: evil}, "devices": [evil], "seed": i}
        (folder / "config.json").write_text(json.dumps(content))
    (next(tmp_path.iterdir()) / "panels" / "step_<b>.png").write_bytes(b"no picture")
    result = page_of(tmp_path)
    assert not result.seen & {"script", "i", "b"}
    assert result.words().count('<script>alert("1")</script>') > 5 and "cannot be read" in result.words()


def test_runs_without_values_and_pictures_are_shown(tmp_path):
    write_run(tmp_path / "a", log=[], finished=False)
    write_run(tmp_path / "b", log=log_of([1], [7.0]), seed=1, finished=False)
    (tmp_path / "b" / "log.jsonl").open("a").write('{"step": 2, "ela')
    words = page_of(tmp_path).words()
    assert "2 runs in 1 group" in words and "not finished, step 0 of 50" in words
    assert "1 damaged line of the log left out" in words and "differ in their seeds only" in words
    assert "--loop.panel-every" in words
    (tmp_path / "b" / "log.jsonl").unlink()
    assert "no values yet" in page_of(tmp_path).words()


def test_seeds_without_a_common_range_are_drawn_one_by_one(tmp_path):
    write_run(tmp_path / "a", log=log_of([1, 2], [1, 2]))
    write_run(tmp_path / "b", log=log_of([3, 4], [1, -1e300]), seed=1)
    assert "2 runs in 1 group" in page_of(tmp_path).words()


def test_long_logs_make_small_pages(tmp_path):
    steps = np.arange(1, 20001)
    for seed in range(2):
        write_run(tmp_path / f"{seed}", seed=seed, log=log_of(steps.tolist(), np.sin(steps).tolist()))
    runs = find_runs([tmp_path])
    assert len(page(group_by_settings(runs), ["psnr"])) < 300_000


# --- the command -----------------------------------------------------------------------------------------------------


def run(*arguments):
    return compare.main([str(argument) for argument in arguments])


def test_the_page_is_written_again_on_demand_and_replaces_nothing_else(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write_run(tmp_path / "runs" / "a")
    for force in ((), ("--force",)):
        assert run("runs", "--metric", "loss", *force) == 0
    assert run("runs", "--metric", "loss") == 2 and "exists already" in capsys.readouterr().err
    assert run("runs", "--metric", "loss", "--force") == 0
    assert capsys.readouterr().out == "compare.html\n"
    first = (tmp_path / "compare.html").read_bytes()
    assert b"psnr" not in first.split(b"<h2>Last pictures")[0].split(b"</style>")[1]
    other = tmp_path / "notes.html"
    other.write_text("<!doctype html>my notes")
    assert run("runs", "-o", other) == 2
    assert other.read_text().endswith("my notes") and "notes.html" in capsys.readouterr().err
    assert run("runs", "-o", other, "--force", "--metric", "loss") == 0
    assert other.read_bytes() == first  # the same runs are the same bytes


def test_bad_input_is_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write_run(tmp_path / "a")
    for arguments in (["nothing"], ["a", "--metric", "ssim"], ["a", "-o", "no/folder/page.html"], ["a", "-o", "."]):
        assert run(*arguments) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("error: ")
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert run("a") == 2
    assert "error: matplotlib: " in capsys.readouterr().err and not (tmp_path / "compare.html").exists()

"""The benchmark: what it counts, that what it times is what it says, its table and JSON. Times are not looked at.

Oracles: counts by hand, the loss from the dense renderer.
"""

import json
from functools import partial

import numpy as np
import pytest
from dense import render_dense

from airjax.commands import main
from airjax.errors import AirjaxError
from airjax.image.codec.compress import CompressOptions, compress
from airjax.photographs import read_image
from eval.image import bench
from eval.image.bench import Benchmark, Subject, gradient_functions, shares
from eval.report import environment
from eval.timing import Row, Timing
from train.settings import settings_of

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def config(photo):
    return Benchmark(
        "bench",
        "tiny",
        str(photo),
        max_gaussians=40,
        solve_steps=2,
        repetitions=1,
        process_repetitions=2,
        large_side=70,
        machine_scale=0.001,
    )


@pytest.fixture(scope="module")
def subject(config, model, weights, photo, image):
    return Subject(model, weights, photo, image, config)


def test_the_whole_budget_is_spent(subject):
    assert subject.encoded.stage_counts == (24, 16)


def test_evaluations_and_flops_by_hand(subject):
    # Two stages of 4 x 6 patches of 8 x 8 pixels, lists of 5 x 5 patches: a mean 6 pixels from the patch centre and
    # 3.33 standard deviations of 4.2 reach 16 pixels beyond the patch's own side.
    assert subject.patch_evaluations == 2 * 24 * 25 * 64
    # embed (3 * 64 + 1) x 8, one block of 9 x 8 + 2 x 8 x 8, head 8 x 8.
    assert subject.network_flops == 2 * 2 * 24 * (193 * 8 + 9 * 8 + 2 * 64 + 64)
    # Chunks of 8 slots for the 24 tiles of 64 pixels: all pairs are in some, half a chunk a tile is empty on average.
    assert subject.list_evaluations % (8 * 64) == 0
    assert 40 * 64 < subject.list_evaluations <= (subject.capacity.pairs // 8 + 24) * 8 * 64


def test_both_gradients_are_of_the_same_loss(subject, image):
    rendered = np.asarray(render_dense(subject.encoded.gaussians, image_size=(32, 48)), np.float64)
    expected = np.mean((rendered - image) ** 2)
    (loss, gradient), (patch_loss, patch_gradients) = (function() for function in gradient_functions(subject))
    # float32 sums of some thousand terms
    np.testing.assert_allclose([loss, patch_loss], expected, rtol=1e-4)
    for name, rows in gradient.items():
        parts = np.concatenate([np.asarray(part[name]) for part in patch_gradients])
        active = parts.reshape(len(parts), -1).any(axis=1)
        assert active.sum() == 40
        np.testing.assert_allclose(parts[active], rows, rtol=1e-3, atol=1e-6)


def test_run_prints_and_writes_every_row(config, weights, tmp_path, capsys, monkeypatch):
    commands = []

    def pretend(arguments):
        commands.append(arguments)
        main._parser().parse_args(arguments[2:])  # exits where the command line does not know an option
        return 0.5, 123_000_000

    monkeypatch.setattr(bench, "run_python", pretend)
    monkeypatch.setattr(
        bench, "gradient_functions", lambda subject: (lambda: 0, lambda: 0)
    )  # tested above, slow to compile
    monkeypatch.setattr(bench, "compress", partial(compress, options=CompressOptions(effort=0)))
    assert bench.run(config, weights, tmp_path) == 0
    assert all(command[:2] == ["-m", "airjax"] for command in commands)
    # The first start fills the cache and does not count: 1 + 2, then one large encode and decode.
    assert [command[2] for command in commands] == ["encode"] * 4 + ["decode"]
    report = json.loads((tmp_path / "bench.json").read_text())
    output = capsys.readouterr().out
    rows = {row["what"]: row for row in report["rows"]}
    assert len(rows) == 19
    step = rows["refinement step"]
    assert step["evaluations"] % (2 * 64) == 0 and step["timing"]["least"] > 0
    assert all(what in output for what in rows)
    cold = rows["cold start of `airjax encode`, cache warm"]
    assert cold["timing"] == {"median": 0.5, "least": 0.5, "repetitions": 2, "spread": 0.0}
    assert rows["encode 70x70, whole process"]["peak_bytes"] == 123_000_000
    assert rows["encode, networks only"]["evaluations"] == 2 * 24 * 25 * 64
    assert report["stage_counts"] == [24, 16] and len(report["shares"]) == 2
    assert report["settings"] == settings_of(config) and report["environments"] == [environment()]


def test_large_image_is_the_photograph_tiled(subject, image, monkeypatch):
    seen = []

    def look(arguments):
        if arguments[2] == "encode":
            seen.append(read_image(arguments[3]).pixels)
        return 1.0, 1

    monkeypatch.setattr(bench, "run_python", look)
    bench.large_image_rows(subject)
    (large,) = seen
    assert large.shape == (70, 70, 3)
    y, x = np.mgrid[0:70, 0:70]
    np.testing.assert_array_equal(large, image[y % 32, x % 48])


def test_shares_compare_rates():
    second, half = Timing(1.0, 1.0, 1), Timing(0.5, 0.5, 1)
    rows = [
        Row("render", half, evaluations=100),
        Row("plain exp loop", second, evaluations=400),
        Row("networks, all stages", second, flops=30.0),
        Row("plain matmul, 8^3", second, flops=300.0),
    ]
    assert list(shares(rows).values()) == [0.5, 0.1]
    assert shares(rows[:1]) == {}


@pytest.mark.parametrize(
    ("field", "value"),
    [("max_gaussians", 0), ("repetitions", 0), ("large_side", 0), ("machine_scale", 0.0), ("parts", ("decode", "x"))],
)
def test_impossible_settings_are_refused(field, value):
    with pytest.raises(AirjaxError, match=f"{field}: expected"):
        Benchmark("bench", "none", "photo.png", **{field: value})

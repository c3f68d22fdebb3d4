"""The evaluation of an accelerator, on a CPU: that it finds what is wrong, and that every row is there.

Oracles: differences by hand, results that are wrong on purpose. Times are not looked at.
"""

import itertools
import json
from functools import partial
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny import random_weights

from airjax.errors import AirjaxError
from airjax.image.codec.compress import CompressOptions, compress
from airjax.raster.draw import render
from airjax.scene.predictor import PredictorConfig, config_to_text
from airjax.weights_file import save_weights
from eval import accelerator, cases
from eval.accelerator import Accelerator, Difference, Result, compare, fallbacks, measure, run
from eval.cases import PARTS, Case, Inputs
from eval.timing import Row, Timing

CPU = jax.devices("cpu")[0]


def config_of(**fields):
    small = {"max_gaussians": 40, "solve_steps": 2, "view_size": 16, "batch_size": 1, "crop_size": 16}
    cheap = {"training_view": 16, "repetitions": 1, "machine_scale": 0.001}
    return Accelerator("accelerator", "tiny", **{**small, **cheap, **fields})


def case_of(what, function, *arguments, **fields):
    return Case(what, function, arguments, lambda result: result, 1e-3, **fields)


@pytest.fixture
def only(monkeypatch):
    """Measures these cases instead of those of the evaluation."""

    def choose(*chosen):
        parts = {"mine": lambda inputs: chosen}
        monkeypatch.setattr(accelerator, "PARTS", parts)
        return config_of(parts=("mine",))

    return choose


def test_differences_by_hand():
    expected = {"a": np.array([1.0, -4.0]), "b": np.zeros(2), "c": np.ones(2), "d": np.ones(3), "n": 5}
    values = {"a": np.array([1.5, -4.0]), "b": np.array([0, 0.25]), "c": np.array([1, np.nan]), "d": np.ones(2), "n": 4}
    found = compare(values, expected)
    assert found["a"] == Difference(0.5, 0.125) and found["b"] == Difference(0.25, 0.25)
    assert found["n"] == Difference(1.0, 0.2)
    assert np.isnan(found["c"].relative) and np.isnan(found["d"].relative)


def test_what_is_wrong_with_a_row_is_a_line():
    row = Result("row", tolerance=1e-3, differences={"fine": Difference(1.0, 1e-4), "off": Difference(0.5, 2e-3)})
    assert row.worst == "off"
    assert list(row.notes()) == [
        "row: off differ by 5.0e-01, 2.0e-03 of the largest; expected 1e-03 of the largest value"
    ]
    nowhere = Result("row", tolerance=1.0, differences={"a": Difference(0.0, 0.0), "b": Difference(np.nan, np.nan)})
    assert nowhere.worst == "b" and len(list(nowhere.notes())) == 1
    assert not list(Result("row", tolerance=1e-3, differences={"a": Difference(1.0, 1e-3)}).notes())


def test_differences_overflows_and_failures_are_found(only, tmp_path, capsys, model, image):
    counter = itertools.count()  # 0 for the CPU's values, others when it is measured
    gaussians = jax.device_put(model.encode(image, max_gaussians=40, mse_threshold=0.0, solve_steps=0).gaussians)
    draw = partial(render, image_size=image.shape[:2], capacity=8)
    config = only(
        case_of("right", lambda x: {"twice": 2 * x}, np.ones(3, np.float32), program=True),
        case_of("moved", lambda: {"ones": np.ones(3), "count": np.array([10 + next(counter), 4])}),
        case_of("crowded", lambda g: draw(g)._asdict(), gaussians, program=True),
        case_of("broken", lambda x: {"x": jnp.dot(x, jnp.zeros(4))}, np.ones(3, np.float32), program=True),
    )
    assert run(config, None, tmp_path) == 1
    report, page = json.loads((tmp_path / "accelerator.json").read_text()), (tmp_path / "accelerator.md").read_text()
    rows = {row["what"]: row for row in report["rows"]}
    assert rows["right"]["differences"] == {"twice": {"absolute": 0.0, "relative": 0.0}}
    assert rows["right"]["compile_seconds"] > 0 and rows["right"]["memory_bytes"] >= 24
    assert rows["moved"]["differences"]["count"] == {"absolute": 1.0, "relative": 0.1}
    assert rows["crowded"]["overflow"] == 1.0 and rows["broken"]["timing"] is None
    lines = [line for line in page.splitlines() if line.startswith("- ")]
    assert [line.removeprefix("- ") for line in lines] == report["notes"]
    text = "\n".join(lines)
    assert "moved: count differ by 1.0e+00, 1.0e-01 of the largest" in text and "right" not in text
    assert "crowded: the renderer's lists overflowed, in 100% of what was drawn" in text
    assert "broken: failed (TypeError: dot_general requires contracting dimensions" in text
    assert "its values are compared with themselves" in text
    assert page in capsys.readouterr().out


def test_rounded_products_are_a_line(only, tmp_path, monkeypatch):
    assert accelerator.product_error() < accelerator.PRODUCT
    monkeypatch.setattr(accelerator, "product_error", lambda: 4e-4)
    assert run(only(), None, tmp_path) == 0
    assert (
        "matrix products of networks are off by 4.0e-04 of the largest value"
        in (tmp_path / "accelerator.md").read_text()
    )


def test_shares_of_the_machine(monkeypatch):
    ticks = iter([0.0, 4.0])  # one run of two steps
    monkeypatch.setattr("eval.timing.time.perf_counter", lambda: next(ticks))
    second = Timing(1.0, 1.0, 1)
    ceilings = {
        "exp": Row("", second, evaluations=100),
        "FLOP": Row("", second, flops=1000.0),
        "copy": Row("", second, moved_bytes=10.0),
    }
    case = case_of("row", None, steps=2, evaluations=20)
    compiled = accelerator.Compiled(lambda: {"x": 1}, 0.5, flops=400.0)
    result = measure(case, compiled, {"x": 1}, ceilings, config_of())
    assert result.timing.median == 2.0 and result.shares == {"exp": 0.1, "FLOP": 0.2}


def test_a_device_that_jax_passes_over_is_a_line(monkeypatch):
    installed = [
        SimpleNamespace(metadata={"Name": name}, version="1.2") for name in ("jax-cuda13-plugin", "jax", "numpy")
    ]
    monkeypatch.setattr(accelerator.importlib.metadata, "distributions", lambda: installed)
    notes = fallbacks(SimpleNamespace(platform="cpu"))
    assert notes[1] == "JAX computes on a CPU although jax-cuda13-plugin 1.2 is installed; JAX_PLATFORMS is cpu"
    assert fallbacks(SimpleNamespace(platform="gpu")) == []


def test_without_the_cpu_there_is_nothing_to_compare_with(monkeypatch, tmp_path):
    def devices(platform=None):
        if platform == "cpu":
            raise RuntimeError("Unknown backend cpu\nmore")
        return [CPU]

    monkeypatch.setattr(jax, "devices", devices)
    with pytest.raises(AirjaxError, match=r"JAX_PLATFORMS=cpu: expected .*\('cuda,cpu'\) \(Unknown backend cpu\)$"):
        run(config_of(), None, tmp_path)


@pytest.mark.parametrize(
    ("field", "value"),
    [("max_gaussians", 0), ("repetitions", 0), ("cell", 3), ("parts", ("codec", "x")), ("precision", "exact")],
)
def test_impossible_settings_are_refused(field, value):
    with pytest.raises(AirjaxError, match=f"{field}: expected"):
        config_of(**{field: value})


@pytest.fixture(scope="module")
def scene_weights(tmp_path_factory):
    config, path = (
        PredictorConfig(planes=(8, 4), matching=16, coarse=(16, 16), fine=(16, 16)),
        tmp_path_factory.mktemp("s") / "s.safetensors",
    )
    save_weights(path, random_weights(config), {"predictor": config_to_text(config)})
    return path


@pytest.mark.slow
def test_every_row(photo, weights, scene_weights, monkeypatch):
    """All rows with their inputs; programs are only traced, and refinement does nothing."""
    monkeypatch.setattr(cases, "advance", lambda task, state, *, num_steps: state)
    monkeypatch.setattr(cases, "compress", partial(compress, options=CompressOptions(effort=0)))
    inputs = Inputs(config_of(images=str(photo), scene_weights=str(scene_weights)), weights)
    rows = {case.what: case for part in PARTS.values() for case in part(inputs)}
    assert list(rows) == [
        "2D sum, sorted lists",
        "2D sum, sorted lists, forward + backward",
        "2D sum, patch grids",
        "2D sum, patch grids, forward + backward",
        "3D alpha",
        "3D alpha, forward + backward",
        "encode, networks of 2 stages",
        "scene prediction, 2 views of 16 pixels",
        "encode, 2 solve steps",
        "encode, compact file",
        "decode, lossless file",
        "decode, compact file",
        "color solve, 2 steps",
        "refinement step, 2D",
        "refinement step, 3D, two views",
        "training step, 1 images of 16 pixels",
        "training step, 1 scenes of 4 views of 16 pixels",
    ]
    outputs = {}
    for what, case in rows.items():
        if what.startswith("training"):  # tests/test_lowering.py traces such steps
            found = case.arguments[0], {"loss": np.float32(0)}
        elif case.program:
            found = jax.eval_shape(case.function, *case.arguments)
            found = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), found)
        else:
            found = case.function(*case.arguments)
        outputs[what] = case.values(found)
    assert {"means", "scales", "angles", "colors"} <= set(outputs["encode, networks of 2 stages"])
    assert set(outputs["2D sum, sorted lists"]) == {"pixels", "overflow"}
    assert outputs["2D sum, patch grids, forward + backward"]["d means"].shape == (2 * 24 * 2,)
    assert outputs["3D alpha, forward + backward"]["d quats"].shape == (2 * 64 * 4,)
    assert outputs["decode, compact file"]["pixels"].shape == (32, 48, 3)
    assert outputs["encode, compact file"]["bytes"] > 100 and outputs["encode, 2 solve steps"]["Gaussians"] == 40
    assert not outputs["refinement step, 2D"]["overflow"]
    for step in ("training step, 1 images of 16 pixels", "training step, 1 scenes of 4 views of 16 pixels"):
        params = rows[step].arguments[0]["params"]
        assert outputs[step]["gradient"].size == sum(np.size(leaf) for leaf in jax.tree.leaves(params))


def test_a_run_of_some_parts(photo, weights, tmp_path):
    assert run(config_of(images=str(photo), parts=("solve",), precision="highest"), weights, tmp_path) == 0
    report = json.loads((tmp_path / "accelerator.json").read_text())
    (row,) = report["rows"]
    assert row["what"] == "color solve, 2 steps" and row["differences"]["colors"] == {"absolute": 0.0, "relative": 0.0}
    assert row["timing"]["repetitions"] == 1 and row["timing"]["median"] > 0
    assert report["device"]["kind"] == CPU.device_kind and len(report["machine"]) == 6
    assert report["settings"]["parts"] == ["solve"]
    assert "Nothing fell back" not in (tmp_path / "accelerator.md").read_text()

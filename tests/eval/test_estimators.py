"""Estimators beside the exact gradient; oracles: hand-made gradients, the exact one itself, gradient steps."""

import json

import numpy as np
import pytest

from airjax.errors import AirjaxError
from eval.estimators import Estimators, at_horizon, compare, run


def config_of(photo, **fields):
    settings = {"estimators": ("zero_step", "es"), "horizons": (1, 2), "crop": 16, "draws": 2, **fields}
    return Estimators("e", "d", str(photo), **settings)


def test_cosine_bias_and_variance():
    exact = np.array([1.0, 0.0])
    assert compare(np.array([[2.0, 0.0]]), exact) == (1.0, 0.0, 0.0)
    cosine, bias, variance = compare(np.array([[1.0, 2.0], [1.0, 0.0]]), exact)
    np.testing.assert_allclose([cosine, bias], np.sqrt([0.5, 0.5]))
    np.testing.assert_allclose(variance, 1 / 2)  # each draw is (0, 1) or (0, -1) from their mean (1, 1)


def test_every_estimator_ends_at_the_horizon():
    """Options that do not fit a horizon of 1 would raise."""
    for name in ("first_order", "multi_anchor", "budget", "truncated", "implicit_cg", "implicit_neumann", "es", "pes"):
        for steps in (1, 3, 20):
            found = at_horizon(name, steps)
            last = [getattr(found, field) for field in ("num_steps", "max_steps") if hasattr(found, field)]
            assert (last or [found.anchors[-1]])[0] == steps


def test_reports(weights, photo, tmp_path, capsys):
    """The exact gradient agrees with itself; what is random has a variance."""
    assert run(config_of(photo), weights, tmp_path) == 0
    report = json.loads((tmp_path / "estimators.json").read_text())
    for exact in report["means"]["unrolled"]:
        np.testing.assert_allclose(exact["cosine"], 1, rtol=1e-6)
        assert exact["variance"] == 0 and exact["milliseconds"] > 0 and exact["megabytes"] > 0
    assert all(each["variance"] > 0 and abs(each["cosine"]) < 1 for each in report["means"]["es"])
    assert set(report["groups"]["unrolled"][0]) == {"means", "log_scales", "angles", "colors"}
    np.testing.assert_allclose(list(report["groups"]["unrolled"][1].values()), 1, rtol=1e-6)
    # After a single small step the gradient at the start is still nearly the right one.
    assert report["means"]["zero_step"][0]["cosine"] > 0.5
    assert (tmp_path / "estimators.png").read_bytes().startswith(b"\x89PNG")
    assert "zero_step" in capsys.readouterr().out


def test_no_image_can_be_read(weights, tmp_path, capsys):
    (tmp_path / "b.png").write_bytes(b"not a picture")
    with pytest.raises(AirjaxError, match="can be read"):
        run(config_of(tmp_path), weights, tmp_path / "out")
    assert "b.png" in capsys.readouterr().err


@pytest.mark.parametrize(
    "fields",
    [
        {"estimators": ("none",)},
        {"horizons": ()},
        {"horizons": (5, 5)},
        {"horizons": (0, 5)},
        {"crop": 8},
        {"draws": 1},
    ],
)
def test_bad_settings(fields):
    with pytest.raises(AirjaxError, match="expected"):
        config_of("x", **fields)

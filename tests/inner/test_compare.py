"""Estimators beside the exact one (scenes: tests/test_extensions.py); oracles: gradients by hand, the exact one."""

import numpy as np
import pytest
from cases import image_case

from airjax.inner.compare import angle, compare
from airjax.inner.estimators import EvolutionStrategies, Unrolled, ZeroStep

pytestmark = pytest.mark.slow


def test_cosine_bias_and_variance():
    exact = np.array([1.0, 0.0])
    assert angle(np.array([[2.0, 0.0]]), exact) == (1.0, 0.0, 0.0)
    cosine, bias, variance = angle(np.array([[1.0, 2.0], [1.0, 0.0]]), exact)
    np.testing.assert_allclose([cosine, bias], np.sqrt([0.5, 0.5]))
    np.testing.assert_allclose(variance, 1 / 2)  # each draw is (0, 1) or (0, -1) from their mean (1, 1)


def test_estimators_beside_the_exact_one():
    """The exact gradient agrees with itself, in every group; random ones have a variance; one step changes little.

    An estimator may be given as a class or as an instance; both follow the horizon.
    """
    case, told = image_case(), []
    kinds = [Unrolled, ZeroStep(), EvolutionStrategies]
    found = compare(kinds, [case, case], horizons=(1,), draws=2, progress=told.append)
    exact, zero_step, es = found
    assert told == list(found) and [record.name for record in found] == ["unrolled", "zero_step", "es"]
    assert set(exact.groups) == {"means", "log_scales", "angles", "colors"} and exact.horizon == 1
    np.testing.assert_allclose([exact.cosine, *exact.groups.values()], 1, rtol=1e-6)
    assert exact.variance == (0, 0) and min(exact.milliseconds) > 0 and exact.megabytes > 0
    assert min(es.variance) > 0 and max(np.abs(es.cosine)) < 1 and es.cosine[0] != es.cosine[1]  # another key
    assert min(zero_step.cosine) > 0.5
    assert str(found).count("\n") == 3 and f"{np.mean(zero_step.cosine):.3f}" in str(found)

"""The search for a target: along curves that are known, and on files."""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from tiny_codec import picture, tiny_model

from airjax.image.codec import air_file
from airjax.image.codec.compress import CompressOptions, compress
from airjax.image.codec.search import _BPP, _MOST, _PSNR, SearchResult, _approach, _probe, measured_psnr, search
from airjax.image.model import Model

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def model() -> Model:
    return tiny_model()


def attempt_at(achieve, reach, seen, quality) -> SearchResult:
    """Stands for an encoding that achieves `achieve(quality)`: reached where `reach(quality)`."""
    seen.append(quality)
    return SearchResult(None, b"", quality, achieve(quality), bool(reach(quality)))


# About as a photograph's: steeper, flatter, bent, with ripples.
CURVES = {
    "line": lambda q: 24 + 0.19 * q,
    "steep": lambda q: 10 + 0.5 * q,
    "flat": lambda q: 30 + 0.06 * q,
    "bent": lambda q: 40 - 18 * 0.97**q,
    "ripples": lambda q: 24 + 0.19 * q + 0.04 * np.sin(3 * q),
}


def known_edge(name, edge, *, upwards):
    """A curve, what it achieves at an edge, and whether a quality is on the right side of it."""
    achieve = CURVES[name]
    target = achieve(edge)
    return achieve, target, (lambda q: achieve(q) >= target) if upwards else (lambda q: achieve(q) <= target)


@pytest.mark.parametrize("name", CURVES)
@pytest.mark.parametrize("edge", [3.0, 30.0, 50.0, 77.7, 99.0])
@pytest.mark.parametrize("upwards", [True, False])
def test_a_search_finds_the_edge(edge, upwards, name):
    """Oracle: the known edge; on its right side, near it by what is achieved, and after few attempts on a line."""
    seen, (achieve, target, reach) = [], known_edge(name, edge, upwards=upwards)
    found = _approach(partial(attempt_at, achieve, reach, seen), target, _PSNR, upwards=upwards)
    assert found.reached and abs(found.achieved - target) <= (0.061 if len(seen) < _MOST else 0.35)
    assert len(seen) <= (2 if name == "line" else 5)


@pytest.mark.parametrize("name", CURVES)
@pytest.mark.parametrize("edge", [3.0, 30.0, 50.0, 77.7, 99.0])
@pytest.mark.parametrize("upwards", [True, False])
def test_a_search_that_was_probed_takes_one_less(edge, upwards, name):
    """A refinement that adds less than usual, on curves of the same slope."""
    seen, (achieve, target, reach) = [], known_edge(name, edge, upwards=upwards)
    start, aim = _probe(partial(attempt_at, lambda q: achieve(q) - 1.0, reach, []), target, _PSNR)
    options = {"upwards": upwards, "start": start, "most": 3}
    found = _approach(partial(attempt_at, achieve, reach, seen), target, aim, **options)
    assert found.reached and abs(found.achieved - target) <= 0.2
    assert len(seen) <= {"line": 2, "bent": 4, "flat": 5}.get(name, 3)


@pytest.mark.parametrize("edge", [5.0, 40.0, 90.0])
def test_a_search_for_a_size(edge):
    """The same over bits per pixel, which grow by a factor a point."""
    seen = []
    target = 0.1 * 2 ** (0.05 * edge)
    attempt = partial(attempt_at, lambda q: 0.1 * 2 ** (0.05 * q), lambda q: q <= edge, seen)
    found = _approach(attempt, target, _BPP, upwards=False)
    assert found.reached and 0.98 * target <= found.achieved <= target and len(seen) <= 4


def test_a_refinement_is_looked_for_from_where_one_pass_says(model, monkeypatch):
    """Two encodings in one pass come first, and the refined ones are the result."""
    seen = []

    def watched(model, image, options, **rest):
        seen.append(options.work.steps)
        return compress(model, image, options, **rest)

    monkeypatch.setattr("airjax.image.codec.search.compress", watched)
    monkeypatch.setattr("airjax.image.codec.search._PROBED_FROM", 5)
    found = search(model, picture(), CompressOptions(effort=1), target_bpp=3.0)
    assert seen[:2] == [0, 0] and set(seen[2:]) == {5} and found.reached


@pytest.mark.parametrize("upwards", [True, False])
def test_a_search_at_the_ends(upwards):
    """Always reached: the end that asks least. Never: the nearest end, and it says so."""
    attempt = partial(attempt_at, lambda q: q)
    approach = partial(_approach, aim=_PSNR, upwards=upwards)
    always = approach(partial(attempt, lambda q: True, []), -1.0 if upwards else 101.0)
    assert always.reached and always.quality == (0.0 if upwards else 100.0)
    never = approach(partial(attempt, lambda q: False, []), 101.0 if upwards else -1.0)
    assert not never.reached and never.quality == (100.0 if upwards else 0.0)


def test_search_keeps_its_target(model):
    """Both directions, measured on the file that comes out."""
    image, options = picture(), CompressOptions(quality=60, effort=0)
    goal = measured_psnr(compress(model, image, options), image)
    found = search(model, image, options, target_psnr=goal)
    decoded = air_file.decode_quantised(found.data)
    assert found.reached and measured_psnr(decoded, image) == pytest.approx(found.achieved) and found.achieved >= goal
    small = search(model, image, options, target_bpp=3.0)
    assert small.reached and 8 * len(small.data) / (24 * 40) == small.achieved <= 3.0


@pytest.mark.parametrize("targets", [{}, {"target_psnr": 30.0, "target_bpp": 1.0}])
def test_search_wants_one_target(model, targets):
    with pytest.raises(ValueError, match="either target_psnr or target_bpp"):
        search(model, picture(), **targets)


def test_a_search_uses_all_that_there_is(model, monkeypatch):
    """A size below that of quality 0 takes fewer stages; decibels above those of quality 100 take more effort."""
    image, few = picture(), CompressOptions(effort=0)
    smallest = len(air_file.encode(compress(model, image, replace(few, quality=0))))
    single = len(air_file.encode(compress(model, image, replace(few, quality=0, num_stages=1))))
    assert single < smallest
    bits = 8 / (24 * 40)
    found = search(model, image, few, target_bpp=bits * (single + 1))
    assert found.reached and found.besides == "1 stage" and len(found.quantised.stages) == 1
    never = search(model, image, few, target_bpp=bits)
    assert not never.reached and never.besides == "1 stage" and len(never.data) == single
    best = measured_psnr(compress(model, image, replace(few, quality=100)), image)
    plain = search(model, image, few, target_psnr=best + 0.02)
    assert not plain.reached and plain.besides == ""
    monkeypatch.setattr("airjax.image.codec.search._HIGHER_EFFORTS", (1, 2))
    harder = search(model, image, few, target_psnr=best + 0.02, any_effort=True)
    assert harder.reached and harder.besides.startswith("effort ") and harder.achieved >= best + 0.02

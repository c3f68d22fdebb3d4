"""The quality at which a photograph's file reaches a target."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import numpy as np

from airjax.image.codec import air_file
from airjax.image.codec.compress import CompressOptions, compress
from airjax.image.codec.payload import Quantised
from airjax.image.defaults import QUALITY, QUALITY_RANGE
from airjax.image.model import Model, checked_image
from airjax.metrics import psnr_8bit
from airjax.progress import Progress, unwatched

_ATTEMPTS, _CLOSE = 9, 0.2  # encodings of a search, at most; points of quality that need not be told apart
_APART = 2.0  # points of quality, less than which says nothing of a slope
_MOST = 4  # encodings after which one that reached its target is taken
_PROBED_FROM = 20  # steps of a refinement: it takes more than twice as long as one pass
_HIGHER_EFFORTS = (6, 9)  # where the best quality is not enough


class SearchResult(NamedTuple):
    """The encoding that a search chose.

    Fields:
      quantised, data: it, and its file.
      quality: that it was made with.
      achieved: what was aimed at, dB or bits per pixel.
      reached: whether it is right.
      besides: what else than the quality was changed for it, in words; "" for nothing.
    """

    quantised: Quantised
    data: bytes
    quality: float
    achieved: float
    reached: bool
    besides: str = ""


def measured_psnr(quantised: Quantised, image: np.ndarray) -> float:
    """PSNR in dB of the 8-bit image that a decoder draws."""
    return psnr_8bit(image, air_file.dequantised(quantised).render())


def search(
    model: Model,
    image: np.ndarray,
    options: CompressOptions | None = None,
    *,
    target_psnr: float | None = None,
    target_bpp: float | None = None,
    any_effort: bool = False,
    progress: Progress = unwatched,
) -> SearchResult:
    """The smallest file of at least `target_psnr` dB, or the best of at most `target_bpp` bits per pixel.

    Both grow with the quality but for small ripples, about as fast for all photographs. The search goes where a line
    meets the target: the result is within 0.06 dB, or 1 %, of it, or the nearest of four encodings. Two in one pass
    tell where a refinement is looked for, and stand for one of the four. Where the quality is not enough, a size is
    made with fewer stages, and decibels, with `any_effort`, with a higher effort. A target out of reach gives the
    nearest that there is, with `reached` false. The other arguments and errors are those of `compress`; the quality of
    the options is not used. Exactly one target, else a ValueError.
    """
    if (target_psnr is None) == (target_bpp is None):
        raise ValueError("expected either target_psnr or target_bpp")
    image, options = checked_image(image), options or CompressOptions()

    def attempt(quality: float, options: CompressOptions, besides: str = "") -> SearchResult:
        quantised = compress(model, image, replace(options, quality=quality), progress=progress)
        data = air_file.encode(quantised)
        if target_psnr is not None:
            achieved = measured_psnr(quantised, image)
            return SearchResult(quantised, data, quality, achieved, achieved >= target_psnr, besides)
        achieved = 8 * len(data) / (image.shape[0] * image.shape[1])
        return SearchResult(quantised, data, quality, achieved, achieved <= target_bpp, besides)

    upwards = target_psnr is not None
    goal, aim = (target_psnr, _PSNR) if target_psnr is not None else (target_bpp, _BPP)
    assert goal is not None
    start, most = QUALITY, _MOST
    if options.work.steps >= _PROBED_FROM:
        start, aim = _probe(partial(attempt, options=replace(options, effort=0, refine_steps=None)), goal, aim)
        most -= 1  # the two took about as long
    best = _approach(partial(attempt, options=options), goal, aim, upwards=upwards, start=start, most=most)
    stages = min(len(best.quantised.stages), 2 * len(model.stages))  # there may be others than the model's
    for changed, besides in _efforts(options, any_effort) if upwards else _fewer_stages(options, stages):
        if best.reached:
            break
        retry = partial(attempt, options=changed, besides=besides)
        tried = _approach(retry, goal, aim, upwards=upwards, start=QUALITY_RANGE[upwards])
        if tried.reached or (tried.achieved > best.achieved) == upwards:
            best = tried
    return best


def _efforts(options: CompressOptions, any_effort: bool) -> Iterator[tuple[CompressOptions, str]]:
    """Options that may reach more decibels, and what they change."""
    for effort in _HIGHER_EFFORTS:
        if any_effort and effort > options.effort:
            yield replace(options, effort=effort), f"effort {effort}"


def _fewer_stages(options: CompressOptions, num_stages: int) -> Iterator[tuple[CompressOptions, str]]:
    """Options that make smaller files than those of so many stages, and what they change."""
    while num_stages > 1:
        num_stages = num_stages // 2
        yield replace(options, num_stages=num_stages), f"{num_stages} stage{'s' if num_stages > 1 else ''}"


class _Aim(NamedTuple):
    """How a search aims.

    Fields:
      measure: what of `SearchResult.achieved` is about a straight line over the quality.
      slope: its usual rise a point of quality.
      close: how far from the target is near enough.
      gain: what a refinement usually adds to it, at the same quality.
    """

    measure: Callable[[float], float]
    slope: float
    close: float
    gain: float

    def rise(self, first: SearchResult, second: SearchResult) -> float:
        """The slope of the line through two attempts; the usual one where ripples would tell more than the line."""
        if abs(first.quality - second.quality) < _APART:
            return self.slope
        rise = (self.measure(second.achieved) - self.measure(first.achieved)) / (second.quality - first.quality)
        return min(max(rise, self.slope / 4), 4 * self.slope)


_PSNR = _Aim(float, slope=0.19, close=0.06, gain=1.3)
_BPP = _Aim(lambda bpp: math.log2(max(bpp, 1e-6)), slope=0.065, close=math.log2(1.01), gain=-0.2)


def _within(quality: float) -> float:
    """The nearest quality there is."""
    return min(max(quality, QUALITY_RANGE[0]), QUALITY_RANGE[1])


def _probe(attempt: Callable[[float], SearchResult], target: float, aim: _Aim) -> tuple[float, _Aim]:
    """(where to begin, how to aim from there) for a refinement, from two attempts in one pass."""
    goal = aim.measure(target) - aim.gain
    first = attempt(QUALITY)
    second = attempt(_within(first.quality + (goal - aim.measure(first.achieved)) / aim.slope))
    aim = aim._replace(slope=aim.rise(first, second))
    return _within(second.quality + (goal - aim.measure(second.achieved)) / aim.slope), aim


def _approach(
    attempt: Callable[[float], SearchResult],
    target: float,
    aim: _Aim,
    *,
    upwards: bool,
    start: float = QUALITY,
    most: int = _MOST,
) -> SearchResult:
    """The lowest quality that reaches its target (`upwards`: quality helps to reach it), else the nearest there is.

    From the first attempt, at `start`, along the usual slope, then along the line of the last two; between an attempt
    that reached the target and one that missed it, along the line between them. After `most` attempts the last one that
    reached it is near enough: where one more stage begins, the curve has a step.
    """
    goal = aim.measure(target)
    reached: SearchResult | None = None
    missed: SearchResult | None = None
    quality, slope, before = start, aim.slope, None
    nearest: SearchResult | None = None
    for number in range(_ATTEMPTS):
        tried = attempt(quality)
        if nearest is None or (tried.achieved > nearest.achieved) == upwards:
            nearest = tried
        value = aim.measure(tried.achieved)
        again = before is not None and before.reached == tried.reached
        slope = slope if before is None else aim.rise(before, tried)
        before = tried
        reached, missed = (tried, missed) if tried.reached else (reached, tried)
        if (tried.reached and abs(value - goal) <= aim.close) or (reached is not None and number + 1 >= most):
            break
        close = aim.close * 2 ** min(number, 2)  # for the next attempt
        inside = goal + (close if upwards else -close) / 2
        if reached is not None and missed is not None:
            apart = missed.quality - reached.quality
            if abs(apart) < _CLOSE:
                break
            near, far = (aim.measure(one.achieved) for one in (reached, missed))
            # The middle where a line ended on the same side twice: on a curve it would for ever.
            share = 0.5 if again else (inside - near) / (far - near)
            quality = reached.quality + min(max(share, 0.1), 0.9) * apart
        else:
            quality = _within(quality + (inside - value) / slope)
            if number == _ATTEMPTS - 2 and reached is None:
                quality = QUALITY_RANGE[upwards]
            if quality == tried.quality:
                break
    best = reached or nearest
    assert best is not None
    return best

"""Delta rates; oracles: closed forms (shifted curves, lines, a parabola's end slopes)."""

import numpy as np
import pytest

from eval.image.bd_rate import BDRate, bd_rate

BPP = np.array([0.08, 0.15, 0.3, 0.55, 0.9, 1.6])
PSNR = np.array([24.0, 26.5, 29.1, 31.7, 33.6, 36.2])


@pytest.mark.parametrize("factor", [0.5, 0.8, 1.0, 1.37, 3.0])
def test_files_larger_by_a_factor(factor):
    rate = bd_rate(BPP, PSNR, factor * BPP, PSNR)
    assert rate.percent == pytest.approx(100 * (factor - 1), abs=1e-9)


def test_the_interval_is_what_the_anchor_has_in_the_range_of_rates():
    # 10 dB per doubling: r(p) is a line, and 0.25 to 1 bpp are the two doublings from 20 to 40 dB.
    bpp = 2.0 ** np.arange(-4, 3)
    psnr = 10 * np.arange(7.0)
    rate = bd_rate(bpp, psnr, 1.5 * bpp, psnr, bpp_range=(0.25, 1.0))
    assert rate.psnr_range == pytest.approx((20, 40))
    assert rate.percent == pytest.approx(50)


def test_the_interval_ends_where_a_curve_ends():
    short = slice(2, 4)
    rate = bd_rate(BPP, PSNR, 1.1 * BPP[short], PSNR[short], bpp_range=(0.1, 1.5))
    assert rate.psnr_range == pytest.approx((29.1, 31.7))
    rate = bd_rate(BPP[short], PSNR[short], BPP, PSNR, bpp_range=(0.1, 1.5))
    assert rate.psnr_range == pytest.approx((29.1, 31.7))


def test_a_line_of_another_slope():
    # r_other - r_anchor = s p on [0, 1], whose mean is s / 2.
    rate = bd_rate(np.exp([0.0, 1.0]), [0.0, 1.0], np.exp([0.0, 1.6]), [0.0, 1.0], bpp_range=(1.0, np.e))
    assert rate.percent == pytest.approx(100 * np.expm1(0.3))
    assert rate.psnr_range == pytest.approx((0, 1))


def test_swapping_the_codecs_inverts_the_ratio():
    other = BPP * np.linspace(0.7, 0.9, 6)
    there = bd_rate(BPP, PSNR, other, PSNR, bpp_range=(0.01, 10)).percent
    back = bd_rate(other, PSNR, BPP, PSNR, bpp_range=(0.01, 10)).percent
    assert (1 + there / 100) * (1 + back / 100) == pytest.approx(1)
    assert -30 < there < -10


@pytest.mark.parametrize(
    ("bpp", "psnr"),
    [
        (BPP, PSNR + 30),
        (BPP, PSNR - 30),
        (BPP[:1], PSNR[:1]),
        (BPP[:0], PSNR[:0]),
        (BPP, np.full(6, np.nan)),
        (BPP, np.full(6, 30.0)),
    ],
)
def test_no_overlap(bpp, psnr):
    assert bd_rate(BPP, PSNR, bpp, psnr) == BDRate(None, None)


def test_order_and_useless_points_change_nothing():
    expected = bd_rate(BPP, PSNR, 0.9 * BPP, PSNR)
    shuffle = np.array([3, 0, 5, 1, 4, 2])
    assert bd_rate(BPP, PSNR, 0.9 * BPP[shuffle], PSNR[shuffle]) == expected
    # One point costs more than the fourth without being better, one is perfect, one costs the same and is worse.
    bpp, psnr = np.append(0.9 * BPP, [0.6, 2.0, 0.9 * 0.3]), np.append(PSNR, [31.7, np.inf, 28.0])
    assert bd_rate(BPP, PSNR, bpp, psnr) == expected


def test_curves_are_monotone_cubics_by_hand():
    """PSNR 0, 1, 3 at log rates 0, 1, 9: pieces of slope 1 and 4, widths 1 and 2.

    Inside, PCHIP has 1 / slope = ((1 + 2 * 2) / 1 + (2 * 1 + 2) / 4) / 9 = 6 / 9. The parabola through the points, x^2,
    has the slopes 0 and 6 at the ends, both within the bounds. The integral of a cubic Hermite piece: width times the
    mean of its values, plus width^2 / 12 times the slope at its left less that at its right. The anchor is a line.
    """
    integral = (0.5 + 1 / 12 * (0 - 1.5)) + (10 + 4 / 12 * (1.5 - 6))
    rate = bd_rate(np.exp([0.0, 3]), [0.0, 3], np.exp([0.0, 1, 9]), [0.0, 1, 3], bpp_range=(1.0, np.exp(3)))
    assert rate.psnr_range == pytest.approx((0, 3))
    assert rate.percent == pytest.approx(100 * np.expm1((integral - 4.5) / 3), rel=1e-12)

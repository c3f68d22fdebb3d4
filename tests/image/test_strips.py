"""How an image is cut into strips, and what a strip is given. Oracles: arithmetic written out, a stand-in to draw."""

from itertools import pairwise

import numpy as np
import pytest

from airjax.image import strips
from airjax.image.strips import by_strips, strips_of


@pytest.mark.parametrize("size", [(104, 40), (97, 33), (64, 8), (200, 7)])
def test_strips_share_an_image_out(monkeypatch, size):
    """Own rows follow one another; windows hold them and what reaches beyond, and have one height, or two."""
    monkeypatch.setattr(strips, "STRIP_PIXELS", 24 * size[1])
    cut = strips_of(size, reach=9.5, step=8)
    owned = [strip.owned for strip in cut]
    assert owned[0][0] == 0 and owned[-1][1] == size[0]
    assert all(a[1] == b[0] for a, b in pairwise(owned))
    for strip in cut:
        (top, bottom), (first, last) = strip.window, strip.owned
        assert top % 8 == 0 and 0 <= top <= max(0, first - 10) and min(size[0], last + 10) <= bottom <= size[0]
    assert len({strip.window[1] - strip.window[0] for strip in cut}) <= 2


def test_a_small_image_is_one_strip():
    assert strips_of((30, 50), reach=100.0) == (strips.Strip((0, 30), (0, 30)),)


def test_patches_go_to_windows_and_come_back(monkeypatch):
    monkeypatch.setattr(strips, "STRIP_PIXELS", 16 * 24)
    patches = np.array([0, 2, 5, 6, 9, 17])  # of a grid of 6 x 3 patches of 8 pixels
    back = []
    for strip in strips_of((48, 24), reach=3.0, step=8):
        part, local = strip.within(patches, 8, 3)
        np.testing.assert_array_equal(local // 3 * 8 + strip.window[0], patches[part] // 3 * 8)  # the same pixels
        back.append(strip.beyond(local, 8, 3))
    np.testing.assert_array_equal(np.concatenate(back), patches)


def test_every_strip_is_given_what_the_others_leave(monkeypatch):
    """A part is a number a row of pixels is filled with; the work takes the mean of what is left there."""
    monkeypatch.setattr(strips, "STRIP_PIXELS", 8 * 5)
    image = np.random.default_rng(0).normal(size=(24, 5, 3)).astype(np.float32)
    cut = strips_of((24, 5), reach=4.0)
    targets = []

    def draw(part, size):  # fills its window
        return np.full((*size, 3), part, np.float32)

    def work(part, target):
        targets.append(target)
        return part / 2

    assert by_strips(image, cut, [1.0, 2.0, 4.0], draw, work) == [0.5, 1.0, 2.0]
    starts, now = [1.0, 2.0, 4.0], [1.0, 2.0, 4.0]
    for i, target in enumerate(targets):
        expected = image.copy()
        for j, strip in enumerate(cut):
            if j != i:
                expected[slice(*strip.window)] -= now[j]
        np.testing.assert_allclose(target, expected[slice(*cut[i].window)], atol=1e-5)
        now[i] = starts[i] / 2

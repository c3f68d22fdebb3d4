"""Scores of views and the sheet of pictures. Oracles: pictures that are known, a plain that lies at one depth."""

from dataclasses import replace

import jax.numpy as jnp
import numpy as np
import pytest
from scenes3d import random_set
from tiny import blank_scene

from airjax.scene.judgement import ROWS, Scores, contact_sheet, judge
from airjax.scene.render import RenderedView

pytestmark = pytest.mark.slow

GAP = 4


def drawn(value: float, depth: float) -> RenderedView:
    """A view of one grey, all of it at a depth."""
    shape = (16, 24)
    return RenderedView(
        jnp.full((*shape, 3), value), jnp.ones(shape), jnp.full(shape, depth, jnp.float32), jnp.asarray(False)
    )


def test_the_worst_view_has_a_name():
    scores = Scores(("a", "b", "c"), (20.0, 11.5, 30.0), (0.5, 0.4, 0.9))
    assert scores.worst == ("b", 11.5) and Scores().worst is None


def test_a_sheet_shows_photograph_picture_depth_and_error():
    scene = replace(blank_scene(2), images=np.full((2, 16, 24, 3), 0.5, np.float32))
    scene = replace(scene, masks=np.ones((2, 16, 24), bool))
    scene.masks[1] = False
    scene.images[1] = 0.9  # behind a mask
    sheet = contact_sheet(scene, [drawn(0.4, 2.0), drawn(0.8, 4.0)], near=2.0, far=4.0)
    assert sheet.shape == (2 * 16 + GAP, 4 * 24 + 3 * GAP, 3) and sheet.dtype == np.uint8
    columns = [5 + i * (24 + GAP) for i in range(4)]
    assert sheet[5, columns, 0].tolist() == [128, 102, 255, 76]  # three times a tenth, nearest
    assert sheet[25, columns, 0].tolist() == [128, 204, 0, 0]  # at far, and nothing is known
    assert (sheet[16 : 16 + GAP] == 255).all()


def test_a_sheet_of_many_views_shows_some():
    scene = blank_scene(30)
    sheet = contact_sheet(scene, [drawn(0.0, 2.0)] * 30, near=1.0, far=4.0)
    assert sheet.shape[0] == ROWS * 16 + (ROWS - 1) * GAP


def test_nothing_to_judge():
    found = judge(random_set(0, 3), blank_scene(3).take([]), near=1.0, far=2.0)
    assert found.scores == Scores() and found.sheet is None

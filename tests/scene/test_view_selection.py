"""Which views serve for what, and paths of cameras."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from airjax.scene import trajectories, view_selection
from airjax.scene.cameras import look_at, pinhole

UP = jnp.array([0.0, -1.0, 0.0])


def ring(angles, *, radius=4.0):
    """Cameras around the origin that look at it."""
    eyes = radius * np.stack([np.cos(angles), 0 * angles, np.sin(angles)], axis=-1)
    look = jax.vmap(lambda eye: look_at(eye, jnp.zeros(3), UP, pinhole(30.0, (24, 32))))
    return jax.tree.map(np.asarray, look(jnp.asarray(eyes, jnp.float32)))


def test_held_out_by_name_or_by_number():
    seen, back = view_selection.held_out([""] * 18)
    assert back.tolist() == [0, 8, 16] and sorted([*seen, *back]) == list(range(18))
    seen, back = view_selection.held_out(["train", "test", "train", "test"])
    assert seen.tolist() == [0, 2] and back.tolist() == [1, 3]
    assert view_selection.held_out([""] * 9, every=0)[1].size == 0
    seen, back = view_selection.held_out(["test", "train", "train", "test", "train"], every=3)  # the number wins
    assert seen.tolist() == [1, 2, 4] and back.tolist() == [0, 3]
    assert view_selection.held_out(["test", "train", "train"], every=0)[0].tolist() == [0, 1, 2]
    for splits in (["", ""], ["test", "test", "train"]):
        seen, back = view_selection.held_out(splits)
        assert len(seen) == len(splits) and not len(back)


def test_validation_views_are_neither_seen_nor_kept_back():
    """Unless there is nothing else."""
    seen, back = view_selection.held_out(["val", "train", "test", "val", "train"])
    assert seen.tolist() == [1, 4] and back.tolist() == [2]
    seen, back = view_selection.held_out(["val", "", "", "", "val", "", ""], every=2)
    assert seen.tolist() == [2, 5] and back.tolist() == [1, 3, 6]
    assert view_selection.held_out(["val"] * 3, every=0)[0].tolist() == [0, 1, 2]


def test_spread_views_see_different_things():
    """Of a full ring, four views a quarter apart; of a short one, its middle first and then its ends."""
    angles = 2 * np.pi * np.arange(16) / 16
    chosen = view_selection.spread(ring(angles), 4)
    assert np.all(np.diff(chosen) >= 3) and len(chosen) == 4
    arc = ring(np.linspace(0, 0.8, 9))
    assert view_selection.spread(arc, 1).tolist() == [4] and view_selection.spread(arc, 3).tolist() == [0, 4, 8]
    assert view_selection.spread(arc, 50).tolist() == list(range(9))


def test_nearest_views_look_the_same_way():
    cameras = ring(np.array([0.0, 0.3, np.pi, 0.1, 0.0]))
    assert view_selection.nearest(cameras, 0, 2).tolist() == [3, 1]
    assert view_selection.nearest(cameras, 0, 9).tolist() == [3, 1, 2, 4]  # one that looks back, one at the same place


def test_compared_views_stand_aside_by_a_share_of_the_depth():
    """Depth 4: a step of 1 tells most; views 0.02 aside tell nothing, and those behind see something else."""
    cameras = ring(np.array([0.0, 0.005, 0.25, -0.3, np.pi, 1.4]))
    (row,) = view_selection.comparisons(cameras, [0], depths=np.full(6, 4.0))
    assert row.tolist() == [0, 2, 3]
    assert view_selection.comparisons(cameras, [0, 4], depths=np.full(6, 4.0)).shape == (2, 3)


def test_a_circle_looks_at_its_point():
    camera = ring(np.array([0.4]))[0]
    path = trajectories.around(camera, distance=4.0, num_frames=8)
    np.testing.assert_allclose(np.linalg.norm(path.center - camera.center[None], axis=1), 0.48, rtol=1e-4)
    # The middle of every frame is the origin, and no frame is mirrored or turned upside down.
    np.testing.assert_allclose(np.cross(path.forward, path.center), 0, atol=1e-4)
    np.testing.assert_allclose(np.linalg.det(path.rotation), 1, rtol=1e-5)
    assert np.all(path.rotation[:, 1] @ camera.rotation[1] > 0.9)
    alone = trajectories.around(camera, distance=4.0, num_frames=1)[0]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), alone, camera)


@pytest.mark.parametrize("count", [1, 2, 5])
def test_a_path_passes_all_cameras(count):
    cameras = ring(np.linspace(0, 1.5, count))
    path = trajectories.through(cameras, num_frames=4 * (count - 1) + 1)
    for part in ("intrinsics", "rotation", "translation"):
        np.testing.assert_allclose(getattr(path, part)[::4], getattr(cameras, part), atol=1e-4)
    if count == 5:  # steps of 21 degrees; the curve stays near the circle
        np.testing.assert_allclose(np.linalg.norm(path.center, axis=1), 4.0, rtol=0.02)
    np.testing.assert_allclose(np.linalg.det(path.rotation), 1, rtol=1e-5)

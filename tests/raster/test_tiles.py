"""Tile lists against brute force: every Gaussian at every pixel of every tile."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scenes2d import SCENES, SIZE, cast, empty, exact, make, parameters, predicted, random_set

from airjax.gaussians import ladder
from airjax.image.patches import PatchMap
from airjax.raster.tiles import (
    CHUNK,
    Tiling,
    _list_pairs,
    _sort_by_tile,
    footprints_of,
    gather_slots,
    pair_counts,
    patch_grid,
    patch_slots,
    room_for,
    sorted_lists,
    tile_ranges,
    tiled,
    trim,
    untiled,
)

TILE = 8
TILING = Tiling(SIZE, TILE)
GRID = TILING.grid
NUM_TILES = GRID[0] * GRID[1]
CAPACITY = 1024


@jax.jit
def ranges_of(scene):
    return tile_ranges(footprints_of(scene), TILING)


@partial(jax.jit, static_argnames="capacity")
def lists_of(scene, *, capacity=CAPACITY):
    return sorted_lists(footprints_of(scene), TILING, capacity=capacity)


def padded(scene, capacity=256):
    """One size for all scenes: one compilation."""
    missing = capacity - scene.num_slots
    return jax.tree.map(lambda a, b: jnp.concatenate([a, b]), scene, empty(missing))


def touched_tiles(scene):
    """(n, T) whether a pixel centre of the tile, also beyond the image, lies in the cut-off ellipse."""
    whole = (GRID[0] * TILE, GRID[1] * TILE)
    out = np.zeros((scene.num_slots, NUM_TILES), bool)
    for i in np.flatnonzero(scene.active):
        one = {name: np.asarray(x)[i : i + 1] for name, x in parameters(scene).items()}
        one["colors"] = np.ones((1, 1))
        drawn = exact(one, image_size=whole, active=[True]).image[..., 0] > 0
        out[i] = drawn.reshape(GRID[0], TILE, GRID[1], TILE).any(axis=(1, 3)).ravel()
    return out


def pairs_of(lists, n):
    """Sorted (tile, Gaussian) pairs that the lists hold; checks that every used slot belongs to a used chunk."""
    ids, tiles = np.asarray(lists.ids), np.asarray(lists.tiles)
    slots, chunks = np.nonzero(ids < n)
    assert np.all(tiles[chunks] < NUM_TILES)
    return sorted(zip(tiles[chunks].tolist(), ids[slots, chunks].tolist(), strict=True))


NAMES = ["random", "elongated", "off_canvas", "far_off_canvas", "tiny", "huge", "enormous", "inactive", "empty"]


@pytest.mark.parametrize("name", NAMES)
def test_lists_hold_every_pair_once(name):
    scene = padded(SCENES[name]())
    needed = touched_tiles(scene)
    lists = lists_of(scene)
    assert not lists.overflow
    pairs = pairs_of(lists, scene.num_slots)
    assert len(set(pairs)) == len(pairs)
    expected = {(tile, i) for i, tile in zip(*map(np.ndarray.tolist, np.nonzero(needed)), strict=True)}
    assert expected <= set(pairs)
    # What is listed for nothing: an ellipse between pixel centres, or one within the safe margin for rounding.
    if name != "tiny":
        assert len(pairs) <= 1.05 * len(expected) + 3


# Anywhere on and around the canvas, on tile borders, from dots to larger than the image, and what is not a number.
WHERE = st.floats(-60, 120, width=32) | st.integers(-2, 8).map(lambda k: float(TILE * k)) | st.just(float("nan"))
SCALE = st.floats(-5, 8, width=32).map(np.exp2)
GAUSSIANS = st.tuples(WHERE, WHERE, SCALE, SCALE, st.floats(-4, 4, width=32), st.booleans())


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.lists(GAUSSIANS, min_size=1, max_size=6))
def test_any_set_is_listed(rows):
    """Every touched tile once, in a list of its own, whatever the set; what is not a number touches nothing."""
    x, y, a, b, angles, active = np.array(rows, np.float32).T
    means = np.stack([x, y], axis=-1)
    scene = padded(make(means, np.stack([a, b], axis=-1), angles, np.ones((len(rows), 3)), active=active > 0))
    finite = np.isfinite(np.asarray(scene.means)).all(axis=1)
    touched = touched_tiles(replace(scene, active=np.asarray(scene.active) & finite))
    lists = lists_of(scene)
    assert not lists.overflow
    pairs = pairs_of(lists, scene.num_slots)
    assert len({*pairs}) == len(pairs) and {i for _, i in pairs} <= {*np.flatnonzero(scene.active & finite)}
    assert {(tile, i) for i, tile in zip(*map(np.ndarray.tolist, np.nonzero(touched)), strict=True)} <= {*pairs}


def test_chunks_go_tile_by_tile():
    """The sum over chunks relies on sorted tiles; a chunk is filled before the next one of its tile begins."""
    scene = padded(SCENES["random"]())
    lists = lists_of(scene)
    tiles, used = np.asarray(lists.tiles), np.asarray(lists.ids) < scene.num_slots
    assert lists.ids.shape[0] == CHUNK and np.all(np.diff(tiles) >= 0)
    for tile in range(NUM_TILES):
        filled = used[:, tiles == tile].T.ravel()
        assert np.all(filled[:-1] >= filled[1:])
        assert filled.size - filled.sum() < CHUNK
    assert not used[:, tiles == NUM_TILES].any()
    kept = trim(lists, int(np.sum(tiles < NUM_TILES)))
    assert pairs_of(kept, scene.num_slots) == pairs_of(lists, scene.num_slots)


@pytest.mark.parametrize("name", NAMES)
def test_ranges_and_counts(name):
    """A box holds every tile of its ellipse, and counts are those of the boxes."""
    scene = padded(SCENES[name]())
    r = np.asarray(ranges_of(scene))
    row, column = np.divmod(np.arange(NUM_TILES), GRID[1])
    inside = (column >= r[:, :1]) & (column < r[:, 1:2]) & (row >= r[:, 2:3]) & (row < r[:, 3:4])
    assert np.all(touched_tiles(scene) <= inside)
    np.testing.assert_array_equal(pair_counts(footprints_of(scene), TILING), inside.sum(axis=1))


def test_overflow_is_reported_at_the_first_pair_too_many():
    scene = padded(SCENES["random"]())
    pairs = int(np.sum(pair_counts(footprints_of(scene), TILING)))
    assert not lists_of(scene, capacity=pairs).overflow
    assert lists_of(scene, capacity=pairs - 1).overflow


@pytest.mark.parametrize(("whole", "single"), [(256, 1), (65_537, 0)])
@pytest.mark.slow
def test_overflow_survives_large_counts(whole, single):
    """2^24 + 1 pairs, which float32 rounds to the capacity, and 2^32 + 2^16, which int32 takes for 2^16."""
    tiling, capacity = Tiling((2048, 2048), 8), 2**24
    n = whole + single
    scene = make(np.full((n, 2), 4.0), [[1e7, 1e7]] * whole + [[0.1, 0.1]] * single, 0, np.zeros((n, 1)))
    # Only the flag is asked for, and before sorting, so that nothing of the size of the capacity is computed.
    flag = jax.jit(lambda g: _list_pairs(footprints_of(g), tiling, capacity)[2])
    assert flag(scene)
    if single:
        assert not flag(make(*parameters(scene).values(), active=np.arange(n) < whole))


def test_capacity_below_one_raises():
    with pytest.raises(ValueError, match="capacity: expected at least 1 pair, got 0"):
        sorted_lists(footprints_of(SCENES["random"]()), TILING, capacity=0)


def test_both_sorts_agree():
    """A packed key where tile and Gaussian fit 32 bits, two keys where they do not. Oracle: numpy."""
    rng = np.random.default_rng(0)
    g = rng.permutation(64).astype(np.int32)
    for num_tiles in (50, 2**27):  # 6 and 28 bits beside the 6 of 64 Gaussians
        tile = rng.integers(0, num_tiles + 1, 64, dtype=np.int32)
        tile[:8] = num_tiles
        out = _sort_by_tile(jnp.asarray(tile), jnp.asarray(g), num_tiles, 64)
        np.testing.assert_array_equal(out[0], np.sort(tile))
        pairs = zip(*(np.asarray(x).tolist() for x in out), strict=True)
        assert sorted(pairs) == sorted(zip(tile.tolist(), g.tolist(), strict=True))


def test_gathered_slots_hold_means_from_the_tile_centre():
    scene = cast(random_set(3, 5, SIZE), np.float32)
    lists = lists_of(padded(scene))
    slots = np.asarray(gather_slots(padded(scene), lists, TILING))
    ids, tiles = np.asarray(lists.ids), np.asarray(lists.tiles)
    checked = 0
    for slot, chunk in zip(*np.nonzero(ids < 256), strict=True):
        row, column = divmod(int(tiles[chunk]), GRID[1])
        mean = np.asarray(scene.means)[ids[slot, chunk]]
        np.testing.assert_allclose(slots[slot, :2, chunk], mean - [column * 8 + 4, row * 8 + 4], atol=1e-5)
        np.testing.assert_array_equal(slots[slot, 5:, chunk], np.asarray(scene.colors)[ids[slot, chunk]])
        checked += 1
    assert checked >= 5
    empty_slots = np.moveaxis(slots, 1, -1)[ids == 256]
    np.testing.assert_array_equal(empty_slots, np.broadcast_to([0, 0, 1, 0, 1, 0, 0, 0], empty_slots.shape))


def test_patch_slots_are_the_neighbours():
    """Slot by slot: the Gaussian of the patch i rows and j columns away, seen from this patch; empty outside."""
    patch_map = PatchMap(4, offset=0.75, min_scale=0.5, max_scale=2.1)
    scene, grid = predicted((9, 13), patch_map, channels=2)
    rings, (rows, columns) = patch_map.rings, grid
    slots = np.asarray(patch_slots(scene, patches=patch_map.layout(grid)))
    assert slots.shape == ((2 * rings + 1) ** 2, 7, rows * columns)
    for index, (i, j) in enumerate(np.ndindex(2 * rings + 1, 2 * rings + 1)):
        for tile, (row, column) in enumerate(np.ndindex(rows, columns)):
            y, x = row + i - rings, column + j - rings
            slot = slots[index, :, tile]
            n = y * columns + x
            if 0 <= y < rows and 0 <= x < columns and scene.active[n]:
                center = np.array([column * 4 + 2, row * 4 + 2])
                np.testing.assert_allclose(slot[:2], np.asarray(scene.means)[n] - center, atol=1e-5)
                np.testing.assert_array_equal(slot[5:], np.asarray(scene.colors)[n])
            else:
                np.testing.assert_array_equal(slot[5:], 0)
                assert slot[2] > 0 and slot[2] * slot[4] > slot[3] ** 2


def test_patch_slots_need_one_gaussian_per_patch():
    scene, _ = predicted((9, 13), PatchMap(4))
    with pytest.raises(ValueError, match="gaussians: expected one per patch, 6, got 12"):
        patch_slots(scene, patches=PatchMap(4).layout((2, 3)))


def test_ladder_is_a_coarse_ladder():
    """Never too small, at most a quarter too large, and few steps."""
    pairs = np.unique(np.geomspace(1, 1e8, 5000).astype(int)).tolist()
    rungs = [ladder(p) for p in pairs]
    assert all(p <= rung <= max(1024, 1.25 * p) for p, rung in zip(pairs, rungs, strict=True))
    assert rungs == sorted(rungs) and all(ladder(rung) == rung for rung in rungs)
    assert len(set(rungs)) <= 4 * 17 + 1
    assert ladder(0) == ladder(1024) == 1024 < ladder(1025)


@pytest.mark.parametrize(("tiles", "room"), [(1, 512), (512, 512), (513, 2048), (8192, 8192), (8193, 32768)])
def test_room_grows_by_fours(tiles, room):
    assert room_for((8, 8 * tiles), 8) == room_for((8 * tiles - 7, 1), 8) == room
    assert room_for((8 * 3, 8 * 2**15), 8) == 2**17


@pytest.mark.parametrize("size", [(1, 1), (8, 16), (21, 13)])
def test_an_image_in_tiles(size):
    """Oracle: the pixels of a tile by their own numbers."""
    image = np.random.default_rng(0).random((*size, 3), np.float32)
    cut = tiled(image, 8)
    assert cut.tiles.shape == (512, 3 * 64) and cut.size.tolist() == list(size)
    rows, columns = patch_grid(size, 8)
    y, x, channel = size[0] - 1, size[1] - 1, 2
    tile, pixel = y // 8 * columns + x // 8, y % 8 * 8 + x % 8
    assert cut.tiles[tile, 64 * channel + pixel] == image[y, x, channel]
    assert np.count_nonzero(~np.isnan(cut.tiles)) == image.size
    np.testing.assert_array_equal(untiled(cut.tiles, size, 8), image)
    tiling = cut.tiling(8)
    assert tiling.num_tiles == 512 and [int(side) for side in tiling.grid] == [rows, columns]

"""AIR's own network in the staged pipeline: its map and drawing against plain loops, its quantiser, files, switches.

The network itself is compared in `tests/nn/test_parity.py`.
"""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from airjax import weights_file
from airjax.commands.main import main
from airjax.convert.air import air_metadata, air_shapes, air_stages_of, air_table, dino_v3_table, has_quantiser
from airjax.convert.names import converted
from airjax.errors import AirjaxError
from airjax.gaussians import join
from airjax.image import air_drawing, air_quantiser
from airjax.image.air_quantiser import bins_of
from airjax.image.codec import air_file
from airjax.image.codec.payload import Quantised
from airjax.image.codec.quantise import NUM_CODES, amplitudes_of, quantise
from airjax.image.model import load
from airjax.image.patches import PatchMap, to_physical
from airjax.image.presets import air_stages, stages_from_text, stages_to_text
from airjax.image.stages import AS_RELEASED, Release, asking_errors, init_params, sees_all, stage_control_of, with_finer
from airjax.metrics import patch_mse, psnr
from airjax.nn.air_stage import AirnetConfig
from airjax.photographs import read_image, write_image
from airjax.raster.additive import render_patches
from airjax.raster.draw import render
from airjax.raster.tiles import patch_centers, patch_grid

TINY = AirnetConfig(16, 1, (1, 1), (8, 8, 8, 8, 8), features=8)
SIZES = (5, 6, 7, 14)


def picture(size):
    y, x = np.mgrid[: size[0], : size[1]] / 9
    noise = np.random.default_rng(0).standard_normal((*size, 3))
    return np.clip(0.5 + 0.3 * np.sin(1.3 * y + x)[..., None] + 0.05 * noise, 0, 1).astype(np.float32)


def raw_rows(count, seed=0, scale=1.5):
    return (scale * np.random.default_rng(seed).standard_normal((count, 8))).astype(np.float32)


# --- sizes -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("patch_size", "head"), [(5, 98_146_296), (7, 98_195_448)])
def test_numbers_of_weights(patch_size, head):
    shapes = air_shapes(air_stages(patch_size), quantiser=True)
    counts = {name: sum(leaf.size for leaf in jax.tree.leaves(part)) for name, part in shapes.items()}
    assert counts == {**{f"stage{i}": head for i in range(4)}, "quantiser": 12304}
    # The release also counts DINOv3's mask token, and not the 16 constants of its rotary positions.
    if patch_size == 7:
        assert sum(counts.values()) + 4 * (768 - 16) == 392_797_104


def test_stages_as_text():
    stages = air_stages(5, AirnetConfig(dtype="bfloat16", remat=True), stretched_grid=True)
    stages = tuple(replace(stage, release=AS_RELEASED) for stage in stages)
    assert stages_from_text(stages_to_text(stages), source="x") == stages
    assert sees_all(stages) and with_finer(stages) == stages


# --- decode and drawing as released -----------------------------------------------------------------------


def decode_written_out(raw, grid, patch, size):
    """Rows to (mean in pixel indices, standard deviations, angle, colour), one after the other, float64."""
    for n, u in enumerate(raw.astype(np.float64)):
        center = [
            min(k * patch + (patch - 1) / 2, side - 1)
            for k, side in zip((n % grid[1], n // grid[1]), size, strict=True)
        ]
        p = center + patch * np.tanh(u[:2])
        mean = p * np.array(size) / (np.array(size) - 1)
        sigmoid = 1 / (1 + np.exp(-u[2:5]))
        yield mean, patch * sigmoid[:2] + 0.5, 2 * np.pi * sigmoid[2], np.tanh(u[5:])


def rasterise_written_out(rows, height, width, cap, bound):
    """The released drawing: tiles of 16 pixels, each with its first `cap` Gaussians, terms below 1/255 dropped."""
    rows, image = list(rows), np.zeros((height, width, 3))
    for ty in range(-(-height // 16)):
        for tx in range(-(-width // 16)):
            y, x = np.mgrid[16 * ty : min(16 * ty + 16, height), 16 * tx : min(16 * tx + 16, width)]
            drawn = 0
            for mean, (s1, s2), angle, color in rows:
                c, s = np.cos(angle), np.sin(angle)
                turn = np.array([[c, -s], [s, c]])
                cov = turn @ np.diag([s1**2, s2**2]) @ turn.T
                half = np.trace(cov) / 2
                r = np.ceil(3 * np.sqrt(half + np.sqrt(max(0.1, half**2 - np.linalg.det(cov)))))
                within = [int((m - r) / 16) <= t < int((m + r) / 16 + 1) for m, t in zip(mean, (tx, ty), strict=True)]
                if (bound and not all(within)) or drawn == cap:
                    continue
                drawn += 1
                d = np.stack([x - mean[0], y - mean[1]], axis=-1)
                weight = np.exp(-0.5 * np.einsum("hwi,ij,hwj->hw", d, np.linalg.inv(cov), d))
                image[y, x] += np.where(weight < 1 / 255, 0, weight)[..., None] * color
    return image


def stretched_set(size, patch, stages):
    grid = patch_grid(size, patch)
    centers, active = patch_centers(grid, patch), np.ones(grid[0] * grid[1], bool)
    raws = [raw_rows(len(active), seed) for seed in range(stages)]
    patch_map = PatchMap.air(patch, stretched_grid=True)
    sets = [to_physical(jnp.asarray(raw), centers, active, patch_map, image_size=size) for raw in raws]
    rows = [row for raw in raws for row in decode_written_out(raw, grid, patch, size[::-1])]
    return sets, rows, patch_map.layout(grid)


@pytest.mark.parametrize("cap", [20, 256])
def test_the_released_drawing(cap):
    """Ten stages at P = 5: a tile has more than 256 Gaussians, and those of later stages are not in it."""
    size = (37, 43)
    sets, rows, _ = stretched_set(size, 5, 10)
    release = Release(tile_cap=cap, tile_bound=True)
    drawn = air_drawing.draw(join(sets), size, release)
    expected = rasterise_written_out(rows, *size, cap, bound=True)
    np.testing.assert_allclose(drawn, expected, atol=2e-5 * np.abs(expected).max())
    uncapped = air_drawing.draw(join(sets), size, replace(release, tile_cap=None))
    assert np.abs(uncapped - expected).max() > 0.1


def test_without_the_cap_it_is_airjax_own():
    size = (37, 43)
    (first, _), rows, layout = stretched_set(size, 7, 2)
    drawn = air_drawing.draw(first, size, Release())
    np.testing.assert_allclose(drawn, render(first, image_size=size).image, atol=1e-5)
    np.testing.assert_allclose(render_patches(first, patches=layout)[: size[0], : size[1]], drawn, atol=1e-5)
    expected = rasterise_written_out(rows[: first.num_slots], *size, None, bound=False)
    np.testing.assert_allclose(drawn, expected, atol=1e-4)


@pytest.mark.parametrize("patch", SIZES)
def test_rings_hold_a_stretched_set(patch):
    """Static lists draw all of a set with the largest scales and offsets, whatever hangs over."""
    size = (7 * patch + 1, 8 * patch + patch // 2)
    grid = patch_grid(size, patch)
    raw = np.tile(np.float32([9, 9, 9, 9, 0, 1, 1, 1]), (grid[0] * grid[1], 1))
    raw[:, :2] *= np.random.default_rng(0).choice([-1, 1], (len(raw), 2))
    patch_map, active = PatchMap.air(patch, stretched_grid=True), np.ones(len(raw), bool)
    gaussians = to_physical(jnp.asarray(raw), patch_centers(grid, patch), active, patch_map, image_size=size)
    drawn = render_patches(gaussians, patches=patch_map.layout(grid))[: size[0], : size[1]]
    np.testing.assert_allclose(drawn, render(gaussians, image_size=size).image, atol=1e-3)


# --- switches of the mask ---------------------------------------------------------------------------------


def test_empty_means_all_and_edges_that_repeat():
    image = picture((17, 20))
    other = np.asarray(image + 0.1 * raw_rows(17 * 20, 3, 0.3).reshape(17, 20, 8)[..., :3], np.float32)
    never, always = stage_control_of(9.0, 9.0), stage_control_of(-1.0)
    options = {"patch_size": 7, "control": never}
    assert not np.isfinite(asking_errors(image, other, **options)).any()
    assert np.isfinite(asking_errors(image, other, **options, release=Release(empty_means_all=True))).all()
    errors = asking_errors(image, other, patch_size=7, control=always, release=Release(replicate_edges=True))
    pad = ((0, 4), (0, 1), (0, 0))
    squares = np.pad((image - other) ** 2, pad, mode="edge").reshape(3, 7, 3, 7, 3).mean(axis=(1, 3, 4))
    np.testing.assert_allclose(errors.reshape(3, 3), squares, rtol=1e-5)
    assert np.abs(patch_mse(image, other, patch_size=7) / squares - 1).max() > 0.01


# --- quantiser --------------------------------------------------------------------------------------------


def test_the_quantiser_against_numpy():
    rng = np.random.default_rng(0)
    params = {
        part: {"kernel": rng.normal(0, 0.2, (16, 2 * k)).astype(np.float32), "bias": np.ones(2 * k, np.float32)}
        for part, k in air_quantiser.PARTS.items()
    }
    token = rng.standard_normal(16).astype(np.float32)
    outputs = np.concatenate([token.astype(np.float64) @ p["kernel"] + p["bias"] for p in params.values()])
    raw = np.array([-3.0427, -3.0022, -2.9553, -3.2385, -3.3192, -5.3675, -4.0653, -4.4090])
    beta = np.array([-6.7962, -6.0476, 0.4933, 0.5032, 1.0155, -0.2550, -0.0688, -0.1273])
    steps = np.log1p(np.exp(raw + 0.5 * np.tanh(outputs[::2]))) + 1e-8
    starts = beta + 0.5 * np.tanh(outputs[1::2])
    bins = bins_of(params, jnp.asarray(token))
    np.testing.assert_allclose(bins.steps, steps, rtol=1e-5)
    np.testing.assert_allclose(bins.starts, starts, rtol=1e-5, atol=1e-6)

    centers, active = patch_centers((6, 7), 7), np.ones(42, bool)
    gaussians = to_physical(jnp.asarray(raw_rows(42)), centers, active, PatchMap.air(7))
    r, g, b = np.asarray(gaussians.colors, np.float64).T
    luma = 0.299 * r + 0.587 * g + 0.114 * b
    cr, cb = 0.5 * r - 0.418688 * g - 0.081312 * b, -0.168736 * r - 0.331264 * g + 0.5 * b
    offsets = np.asarray(gaussians.means - centers, np.float64)
    numbers = np.column_stack([offsets, gaussians.scales, gaussians.angles, luma, cr, cb])
    codes = np.round(np.clip((numbers - starts) / steps, 0, 2.0 ** np.array([8, 8, 7, 7, 7, 8, 4, 4]) - 1))
    ours = air_quantiser.codes_of(air_quantiser.numbers_of(gaussians, centers), bins)
    assert np.mean(np.asarray(ours) != codes) < 0.01  # ties
    back = np.asarray(ours, np.float64) * steps + starts
    luma, cr, cb = back[:, 5:].T
    rounded = air_quantiser.rounded(gaussians, centers, bins)
    np.testing.assert_allclose(rounded.means, np.asarray(centers) + back[:, :2], atol=1e-4)
    rgb = np.stack([luma + 1.402 * cr, luma - 0.344136 * cb - 0.714136 * cr, luma + 1.772 * cb], axis=1)
    np.testing.assert_allclose(rounded.colors, rgb, atol=1e-5)
    bits = air_quantiser.entropy_bits([np.asarray(ours)[:20], np.asarray(ours)[20:]], slots=100)
    counts = [np.unique(column, return_counts=True)[1] for column in np.asarray(ours).T]
    assert bits == pytest.approx(100 + 512 + sum(-(n * np.log2(n / 42)).sum() for n in counts))
    assert air_quantiser.entropy_bits([np.zeros((0, 8))], slots=5) == 517


def test_untrained_it_leaves_the_constants():
    bins = bins_of(air_quantiser.init_params(TINY), jnp.ones(16))
    np.testing.assert_allclose(bins.steps[:2], [0.0466, 0.0485], atol=1e-4)
    np.testing.assert_allclose(bins.starts[2:4], [0.4933, 0.5032], atol=1e-6)


# --- files ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("patch", SIZES)
@pytest.mark.parametrize("version", [1, 2])
def test_a_compact_file_holds_any_patch_size(patch, version):
    size = (45, 61)
    (gaussians, *_), *_ = stretched_set(size, patch, 1)
    gaussians, grid = jax.tree.map(np.asarray, gaussians), patch_grid(size, patch)
    codes = np.zeros(NUM_CODES, np.int64)
    rows = quantise(
        gaussians,
        np.arange(gaussians.num_slots),
        amplitudes_of(gaussians) * 20,
        codes=codes,
        patch_size=patch,
        columns=grid[1],
    )
    assert len(rows.patches) > 0.8 * gaussians.num_slots
    data = air_file.encode(Quantised((rows,), size), version=version)
    back = air_file.decode(data).quantised
    assert back is not None
    np.testing.assert_array_equal(back.stages[0].symbols, rows.symbols)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    stages = air_stages(7, TINY, stretched_grid=True)[:2]
    params = init_params(jax.random.key(0), stages) | {"quantiser": air_quantiser.init_params(TINY)}
    path = tmp_path_factory.mktemp("air") / "air7.safetensors"
    weights_file.save_weights(path, params, air_metadata(stages))
    return path


@pytest.mark.slow
def test_a_model_encodes_and_compresses(weights, tmp_path):
    """An image of no round size, without a canvas: the grid is its own."""
    model, image = load(weights), picture((38, 52))
    encoded = model.encode(image, max_gaussians=70)
    assert encoded.gaussians.num_slots == 70 and len(encoded.stage_counts) == 2
    again = type(encoded).from_bytes(encoded.to_bytes())
    np.testing.assert_array_equal(np.asarray(encoded.gaussians.means), again.gaussians.means)
    compressed = model.compress(image, quality=60, effort=0)
    back = type(compressed).from_bytes(compressed.to_bytes()).quantised
    assert {rows.patch_size for rows in back.stages[-2:]} == {7} and sum(back.stage_counts) > 20
    # On the command line, from a photograph to a file and back.
    write_image(tmp_path / "a.png", image)
    files = [str(tmp_path / name) for name in ("a.png", "a.air", "b.png")]
    assert main(["encode", files[0], "-o", files[1], "--weights", str(weights), "--effort", "0", "-q", "60"]) == 0
    assert main(["decode", files[1], "-o", files[2]]) == 0
    assert psnr(*(read_image(files[i]).pixels for i in (0, 2))) > 10


def test_weights_that_do_not_fit_are_one_line(weights, tmp_path):
    params, metadata = weights_file.load_weights(weights)
    params["quantiser"]["xy"]["bias"] = np.zeros(3, np.float32)
    weights_file.save_weights(tmp_path / "x.safetensors", params, metadata)
    with pytest.raises(AirjaxError, match=r"first at \['quantiser'\]\['xy'\]\['bias'\]"):
        load(tmp_path / "x.safetensors")


# --- names of the release -------------------------------------------------------------------------------


def test_a_checkpoint_of_the_release(tmp_path):
    """All names of a whole system, those that are not needed too; then its weights are a model."""
    from airjax.convert.names import _names

    stages = air_stages(6, TINY, stretched_grid=True)
    like, table, rng = air_shapes(stages, quantiser=True), air_table(TINY), np.random.default_rng(0)
    tensors = {}
    for path, leaf in jax.tree.leaves_with_path(like):
        path = jax.tree_util.keystr(path, simple=True, separator="/")
        names, shape = _names(path, leaf.shape, table), leaf.shape
        shape = shape[1:] if "/stack/" in path else shape
        if path.endswith("/kernel"):
            shape = (shape[-1], shape[-2], *shape[:-2])
        tensors |= {name: rng.standard_normal(shape).astype(np.float32) for name in names}
    for i in range(4):
        tensors[f"gaussian_heads.{i}.encoder.image_mean"] = np.zeros((1, 3, 1, 1), np.float32)
        tensors[f"gaussian_heads.{i}.encoder.backbone.mask_token"] = np.zeros((1, 16), np.float32)
    tensors["feed_forward_gaussian_codec.xy_quantizer.bits_per_channel"] = np.array([8, 8], np.int32)
    for name in (
        "encoder.backbone.blocks.1.attn.qkv.weight",
        "neck.resamplers.3.1.bias",
        "patch_embedding.patchify.conv.weight",
    ):
        assert f"gaussian_heads.3.{name}" in tensors
    assert "feed_forward_gaussian_codec.rotation_quantizer.offset_net.weight" in tensors

    shapes = {name: x.shape for name, x in tensors.items()}
    assert [stage.patch_map for stage in air_stages_of(shapes)] == [stage.patch_map for stage in stages]
    assert has_quantiser(shapes) and not has_quantiser({})
    params = converted(tensors, like, table, source="ps_6.pt")
    weights_file.save_weights(tmp_path / "air6.safetensors", params, air_metadata(stages))
    model = load(tmp_path / "air6.safetensors")
    assert model.stages == stages and "quantiser" in model.params
    np.testing.assert_array_equal(
        np.asarray(model.params["stage2"]["head"]["kernel"]), tensors["gaussian_heads.2.gaussian_linear.weight"].T
    )
    prefix = "gaussian_heads.0.encoder.backbone."
    backbone = {name.removeprefix(prefix): x for name, x in tensors.items() if name.startswith(prefix)}
    encoder = converted(backbone, {"encoder": like["stage0"]["encoder"]}, dino_v3_table(TINY), source="dinov3.pth")
    assert jax.tree.all(jax.tree.map(np.array_equal, encoder["encoder"], params["stage0"]["encoder"]))
    extra = tensors | {"gaussian_heads.0.more": np.zeros(1, np.float32)}
    with pytest.raises(AirjaxError, match=r"1 are not known: gaussian_heads\.0\.more"):
        converted(extra, like, table, source="x")

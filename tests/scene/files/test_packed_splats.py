"""Small files of Gaussians of other programs: what they hold comes back, to the steps of their numbers."""

import gzip
import struct

import numpy as np
import pytest
from packed_splats import to_compressed_ply, to_splat, to_spz
from scenes3d import random_set

import airjax
from airjax.errors import AirjaxError
from airjax.scene.files.packed_splats import read_splats
from airjax.scene.files.ply import write_ply


def gaussians(degree, count=20):
    found = random_set(4, count, degree=degree, opacities=(0.1, 0.9))
    return found.__class__(**{**vars(found), "harmonics": np.clip(np.asarray(found.harmonics), -0.9, 0.9)})


def check(found, expected, *, means, scales, colors, rest, turn):
    """Differences at most so large; scales in proportion, turns as 1 minus the cosine of half the angle."""
    np.testing.assert_allclose(found.means, expected.means, atol=means)
    np.testing.assert_allclose(np.log(found.scales / expected.scales), 0, atol=scales)
    quats = np.asarray(expected.quats) / np.linalg.norm(expected.quats, axis=1, keepdims=True)
    np.testing.assert_allclose(np.abs(np.sum(found.quats * quats, axis=1)), 1, atol=turn)
    np.testing.assert_allclose(found.opacities, expected.opacities, atol=0.5 / 255 + 1e-6)
    np.testing.assert_allclose(found.harmonics[:, 0], expected.harmonics[:, 0], atol=colors)
    shape = expected.harmonics.shape if rest else (len(expected.means), 1, 3)
    assert found.harmonics.shape == shape and found.active.all()
    if rest:
        np.testing.assert_allclose(found.harmonics[:, 1:], expected.harmonics[:, 1:], atol=rest)
    assert all(part.dtype == np.float32 for part in (found.means, found.scales, found.quats, found.harmonics))


def test_splat(tmp_path):
    expected = gaussians(1)
    (tmp_path / "a.splat").write_bytes(to_splat(expected))
    found = read_splats(tmp_path / "a.splat")
    check(found.gaussians, expected, means=0, scales=1e-6, colors=0.008, rest=None, turn=1e-4)
    assert found.notices == ()


@pytest.mark.parametrize("degree", [0, 1, 2, 3])
@pytest.mark.parametrize("version", [1, 2, 3])
def test_spz(tmp_path, version, degree):
    """Its axes are turned to those of .ply files, harmonics with them."""
    expected = gaussians(degree)
    (tmp_path / "a.spz").write_bytes(to_spz(expected, version=version))
    found = read_splats(tmp_path / "a.spz").gaussians
    means = 0.002 if version == 1 else 2**-13 + 1e-6
    turn = 1e-5 if version == 3 else 5e-3  # w is what three bytes leave
    check(
        found, expected, means=means, scales=1 / 32 + 1e-5, colors=0.0132, rest=degree and 0.5 / 128 + 1e-6, turn=turn
    )


def test_spz_says_that_it_is_antialiased(tmp_path):
    data = bytearray(gzip.decompress(to_spz(gaussians(0))))
    data[14] = 1
    (tmp_path / "a.spz").write_bytes(gzip.compress(bytes(data)))
    line = "Gaussians that were trained with antialiasing: --antialiased draws them so"
    assert read_splats(tmp_path / "a.spz").notices == (line,)


@pytest.mark.parametrize("degree", [0, 1, 3])
@pytest.mark.parametrize("with_colors", [True, False])
def test_compressed_ply(tmp_path, degree, with_colors):
    expected = gaussians(degree, 300)
    (tmp_path / "a.ply").write_bytes(to_compressed_ply(expected, with_colors=with_colors))
    found = read_splats(tmp_path / "a.ply").gaussians
    size = np.ptp(np.asarray(expected.means), axis=0).max()
    steps = {"means": size / 2000, "scales": 0.003, "rest": degree and 0.0157}
    check(found, expected, **steps, colors=0.5 / 255 / 0.282 + 1e-5, turn=1e-5)


def test_plain_ply_files_too(tmp_path):
    expected = gaussians(1)
    write_ply(tmp_path / "a.ply", expected)
    np.testing.assert_array_equal(read_splats(tmp_path / "a.ply").gaussians.means, expected.means)


def test_open_takes_them(tmp_path):
    for name, data in (("a.splat", to_splat(gaussians(0))), ("a.spz", to_spz(gaussians(0)))):
        (tmp_path / name).write_bytes(data)
        assert airjax.open(tmp_path / name).num_slots == 20
        with pytest.raises(AirjaxError, match=r"expected a name ending in \.air or \.ply, got \.sp"):
            airjax.save(tmp_path / name, gaussians(0))


def test_what_is_not_finite_is_left_out(tmp_path):
    data = bytearray(to_splat(gaussians(0)))
    data[:4], data[44:48] = struct.pack("<f", np.nan), struct.pack("<f", -1.0)
    (tmp_path / "a.splat").write_bytes(data)
    found = read_splats(tmp_path / "a.splat")
    assert found.gaussians.num_slots == 18
    assert found.notices == ("2 of 20 Gaussians with NaN, infinity or no size in them are left out",)


def lying(data, at, value):
    """A .spz file whose header says something else."""
    data = bytearray(gzip.decompress(data))
    data[at : at + 4] = struct.pack("<I", value)
    return gzip.compress(bytes(data))


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("a.splat", to_splat(gaussians(0))[:-1], "damaged or cut short, expected 32 bytes for each Gaussian"),
        ("a.spz", b"NGSP" + bytes(60), "expected a .spz file of version 1 to 3, got a later one"),
        (
            "a.spz",
            gzip.compress(b"something else" * 9, mtime=0),  # it is in the name of the test: the same for all workers
            "expected a .spz file of Gaussians, got something else",
        ),
        ("a.spz", b"\x1f\x8b" + bytes(60), "expected a .spz file of Gaussians, got something else"),
        ("a.spz", lying(to_spz(gaussians(0)), 4, 9), "version 1 to 3, got version 9"),
        ("a.spz", lying(to_spz(gaussians(0)), 8, 10**9), "damaged or cut short, expected 1000000000 Gaussians"),
        ("a.spz", lying(to_spz(gaussians(0)), 8, 21), "damaged or cut short, expected 21 Gaussians"),
        ("a.ply", to_compressed_ply(gaussians(0))[:-1], "damaged or cut short, expected 20 'vertex'"),
        ("a.ply", to_compressed_ply(gaussians(0)).replace(b"chunk 1", b"chunk 0"), "expected a chunk for each 256"),
        (
            "a.ply",
            to_compressed_ply(gaussians(0)).replace(b"max_scale_x", b"max_scale_q"),
            "expected the properties of",
        ),
        ("a.ply", to_compressed_ply(gaussians(0)).replace(b"little", b"big"), "expected a binary compressed .ply file"),
        ("a.ply", to_compressed_ply(gaussians(1)).replace(b"f_rest_8", b"f_rest_9"), "expected f_rest_0, f_rest_1"),
        ("a.ksplat", bytes(99), "got a .ksplat file; open it in SuperSplat"),
    ],
)
def test_files_that_are_wrong(tmp_path, name, data, message):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(AirjaxError, match=f"{name}: .*{message}"):
        read_splats(tmp_path / name)

"""The .ply layout: round trips, files of other programs, damaged ones."""

from dataclasses import replace

import numpy as np
import pytest
from scenes3d import FIELDS, random_set

from airjax.errors import AirjaxError
from airjax.scene.files.ply import from_ply, read_ply, to_ply, write_ply


def unequal(a, b):
    """Largest relative difference of the fields."""
    return max(
        float(np.max(np.abs(np.asarray(getattr(a, n)) - getattr(b, n)) / (1e-6 + np.abs(getattr(a, n))), initial=0))
        for n in FIELDS
    )


@pytest.mark.parametrize("degree", range(5))
def test_round_trip(tmp_path, degree):
    """Means, rotations and colours to the bit; scales and opacities to the rounding of a logarithm and a logit."""
    gaussians = random_set(0, 20, degree=degree, opacities=(0.05, 0.95))
    write_ply(tmp_path / "scene.ply", gaussians)
    found, _, notices = read_ply(tmp_path / "scene.ply")
    assert unequal(gaussians, found) < 1e-5 and not notices
    again = from_ply(to_ply(found), source="x").gaussians
    assert unequal(found, again) < 1e-5
    np.testing.assert_array_equal(found.means, gaussians.means)
    np.testing.assert_array_equal(found.quats, gaussians.quats)
    np.testing.assert_array_equal(found.harmonics, gaussians.harmonics)


def test_layout():
    """Names, order and meaning, by hand: logit opacity, log scales, functions of one colour side by side."""
    gaussians = random_set(1, 2, degree=1)
    data = to_ply(gaussians)
    head, body = data.split(b"end_header\n")
    names = [line.split()[-1] for line in head.decode().splitlines() if line.startswith("property float")]
    rest = [f"f_rest_{i}" for i in range(9)]
    assert names == [*"xyz", "nx", "ny", "nz", "f_dc_0", "f_dc_1", "f_dc_2", *rest, "opacity", "scale_0", "scale_1",
                     "scale_2", "rot_0", "rot_1", "rot_2", "rot_3"]  # fmt: skip
    row = dict(zip(names, np.frombuffer(body, "<f4").reshape(2, -1)[1], strict=True))
    opacity = float(gaussians.opacities[1])
    assert row["opacity"] == pytest.approx(np.log(opacity / (1 - opacity)), rel=1e-5)
    assert row["scale_2"] == pytest.approx(np.log(float(gaussians.scales[1, 2])), rel=1e-5)
    assert row["f_rest_4"] == gaussians.harmonics[1, 2, 1] and row["rot_0"] == gaussians.quats[1, 0]
    assert row["nx"] == 0


def rewritten(gaussians, *, form="binary_little_endian", opacity=None, without=(), **others):
    """As another program might write the set: other types, another order, properties without or instead."""
    columns = {"opacity": np.log(gaussians.opacities / (1 - gaussians.opacities)) if opacity is None else opacity}
    for prefix, values in (("rot", gaussians.quats), ("scale", np.log(gaussians.scales))):
        columns |= {f"{prefix}_{i}": values[:, i] for i in range(values.shape[1])}
    columns |= {f"f_dc_{i}": gaussians.harmonics[:, 0, i] for i in range(3)}
    columns |= {name: gaussians.means[:, i] for i, name in enumerate("xyz")}
    columns = {name: column for name, column in columns.items() if name not in without} | others
    table = np.stack([np.asarray(c, float) for c in columns.values()], axis=1)
    lines = ["ply", f"format {form} 1.0", "comment made elsewhere", f"element vertex {len(table)}"]
    lines += [f"property double {name}" for name in columns]
    lines += ["element face 0", "property list uchar int vertex_index", "end_header", ""]
    body = "\n".join(" ".join(map(repr, map(float, row))) for row in table).encode()
    if form != "ascii":
        body = table.astype("<f8" if "little" in form else ">f8").tobytes()
    return "\n".join(lines).encode() + body


@pytest.mark.parametrize("form", ["ascii", "binary_little_endian", "binary_big_endian"])
def test_files_of_other_programs(form):
    gaussians = random_set(2, 7, degree=0, opacities=(0.1, 0.9))
    found, _, notices = from_ply(rewritten(gaussians, form=form), source="x")
    assert unequal(gaussians, found) < 1e-5 and not notices
    plain, _, notices = from_ply(rewritten(gaussians, form=form, opacity=gaussians.opacities), source="x")
    assert unequal(gaussians, plain) < 1e-5 and "not as logits" in notices[0]


def test_only_active_ones_and_none_at_all():
    gaussians = random_set(3, 4)
    some = replace(gaussians, active=np.array([True, False, True, False]))
    assert from_ply(to_ply(some), source="x")[0].num_slots == 2
    none = replace(gaussians, active=np.zeros(4, bool))
    assert from_ply(to_ply(none), source="x")[0].num_slots == 0


def test_ends_of_the_ranges_stay_finite():
    gaussians = random_set(4, 2)
    edge = replace(gaussians, scales=np.zeros((2, 3)), opacities=np.array([0.0, 1.0]))
    found = from_ply(to_ply(edge), source="x").gaussians
    np.testing.assert_allclose(found.opacities, [0, 1], atol=1e-6)
    np.testing.assert_allclose(found.scales, 0, atol=1e-29)


def test_damaged_files():
    data = to_ply(random_set(5, 3))
    for bad, message in (
        (b"", "expected a .ply file"),
        (b"ply\n" + b" " * 99999, "expected a .ply file"),
        (data[:-1], "cut short, expected 3 vertices"),
        (data.replace(b"vertex 3", b"vertex 99999999999"), "cut short"),
        (data.replace(b"vertex 3", b"vertex -3"), "cut short"),
        (data.replace(b"vertex 3", b"points 3"), "expected vertices"),
        (data.replace(b"float opacity", b"float alpha"), "expected a property 'opacity'"),
        (data.replace(b"float opacity", b"half opacity"), "expected properties that are single numbers"),
        (data.replace(b"float rot_1", b"float rot_0"), "expected properties that are single numbers"),
        (data.replace(b"f_rest_8", b"f_rest_x"), "expected f_rest_0, f_rest_1"),
        (data.replace(b"f_rest_8", b"leftover"), "expected f_rest_0, f_rest_1"),
        (data.replace(b"binary_little_endian", b"zip"), "got format 'zip'"),
        (data.replace(b"float scale_1", b"float scale_x"), "expected a property 'scale_1'"),
    ):
        with pytest.raises(AirjaxError, match=f"scene.ply: .*{message}"):
            from_ply(bad, source="scene.ply")
    nan = replace(random_set(6, 2), means=np.full((2, 3), np.nan))
    with pytest.raises(AirjaxError, match="expected finite Gaussians, got 2 others"):
        to_ply(nan)


def test_logits_between_0_and_1_of_our_own_are_logits():
    gaussians = random_set(4, 5, opacities=(0.55, 0.7))
    found, comments, notices = from_ply(to_ply(gaussians, comments=["a b"]), source="x")
    assert unequal(gaussians, found) < 1e-5 and comments == ("a b",) and not notices


def changed(values, row, value):
    """A column with one number replaced."""
    values = np.array(values, float)
    values[row] = value
    return values


def test_infinite_logits_are_opacities_of_0_and_1():
    gaussians = random_set(7, 4, degree=0, opacities=(0.1, 0.9))
    logits = changed(changed(np.ones(4), 1, np.inf), 2, -np.inf)
    found, _, notices = from_ply(rewritten(gaussians, opacity=logits), source="x")
    np.testing.assert_array_equal(found.opacities[1:3], [1, 0])
    assert found.num_slots == 4 and not notices
    huge, _, notices = from_ply(rewritten(gaussians, opacity=changed(np.ones(4), 0, 1e300)), source="x")
    assert huge.opacities[0] == 1 and not notices


@pytest.mark.parametrize("form", ["ascii", "binary_little_endian"])
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("x", np.nan),
        ("opacity", np.nan),
        ("scale_0", -np.inf),
        ("scale_1", np.inf),
        ("scale_2", 89.0),  # beyond float32
        ("rot_3", np.inf),
        ("f_dc_1", 1e300),
    ],
)
def test_gaussians_that_are_not_finite_are_left_out_with_a_count(form, name, value):
    gaussians = random_set(8, 4, degree=0, opacities=(0.1, 0.9))
    data = rewritten(gaussians, form=form, **{name: changed(np.full(4, -1.5), [1, 3], value)})
    found, _, notices = from_ply(data, source="x")
    assert notices == ("2 of 4 Gaussians with NaN, infinity or no size in them are left out",)
    assert found.num_slots == 2 and all(np.isfinite(getattr(found, field)).all() for field in FIELDS)
    np.testing.assert_array_equal(found.means[:, 1:], gaussians.means[[0, 2], 1:])
    with pytest.raises(AirjaxError, match=r"s\.ply: expected Gaussians of finite numbers .*, found none among 4"):
        from_ply(rewritten(gaussians, form=form, **{name: np.full(4, value)}), source="s.ply")


def test_plain_opacities_are_known_beside_one_that_is_not_a_number():
    gaussians = random_set(9, 4, degree=0, opacities=(0.1, 0.9))
    found, _, notices = from_ply(rewritten(gaussians, opacity=changed(gaussians.opacities, 2, np.nan)), source="x")
    np.testing.assert_array_equal(found.opacities, gaussians.opacities[np.array([0, 1, 3])])
    assert len(notices) == 2


def test_discs_of_2dgs_get_a_thickness():
    gaussians = random_set(10, 5, degree=0)
    found, _, notices = from_ply(rewritten(gaussians, without=["scale_2"]), source="x")
    np.testing.assert_allclose(found.scales[:, :2], gaussians.scales[:, :2], rtol=1e-5)
    np.testing.assert_allclose(found.scales[:, 2], 1e-3 * gaussians.scales[:, :2].min(axis=1), rtol=1e-5)
    assert len(notices) == 1 and "2D Gaussian Splatting" in notices[0]


def test_the_3d_filter_of_mip_splatting():
    """By hand: variances add, and opacity times volume stays."""
    gaussians = random_set(11, 5, degree=0, opacities=(0.1, 0.9))
    widths = np.array([0.0, 0.01, 0.2, -0.2, 1e3])
    found, _, notices = from_ply(rewritten(gaussians, filter_3D=widths), source="x")
    squared = np.asarray(gaussians.scales, float) ** 2
    filtered = squared + widths[:, None] ** 2
    np.testing.assert_allclose(found.scales, np.sqrt(filtered), rtol=1e-5)
    weight = np.sqrt(squared.prod(axis=1) / filtered.prod(axis=1))
    np.testing.assert_allclose(found.opacities, gaussians.opacities * weight, rtol=1e-5)
    assert len(notices) == 1 and "Mip-Splatting" in notices[0]
    again = from_ply(to_ply(found), source="x")  # once is enough
    np.testing.assert_allclose(again.gaussians.scales, found.scales, rtol=1e-5)
    assert not again.notices
    bad = from_ply(rewritten(gaussians, filter_3D=changed(widths, 0, np.nan)), source="x")
    assert bad.gaussians.num_slots == 4


@pytest.mark.parametrize(
    ("name", "data", "form"),
    [
        ("a.ksplat", b"0" * 64, "a .ksplat file"),
        ("a.sog", b"PK\3\4", "a .sog file"),
    ],
)
def test_splats_in_other_formats_are_named(name, data, form):
    with pytest.raises(AirjaxError, match=f"{name}: .*, got {form}; .*SuperSplat.*splat-transform"):
        from_ply(data, source=name)
    with pytest.raises(AirjaxError, match=r"expected a \.ply file, got something else"):
        from_ply(b"\x1f\x8b" + b"0" * 99, source="a.ply")

"""Weights under the names of others: oracles are what the layers compute, and transposes by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from airjax.convert.names import Rule, Table, converted
from airjax.errors import AirjaxError

RNG = np.random.default_rng(0)


def like(**shapes):
    """A nested dict of shapes, from paths joined by "__"."""
    nested = {}
    for path, shape in shapes.items():
        *parents, last = path.split("__")
        node = nested
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = jax.ShapeDtypeStruct(shape, jnp.float32)
    return nested


def random(*shape):
    return RNG.standard_normal(shape).astype(np.float32)


def table(*rules, unused=()):
    return Table(tuple(Rule(*rule) for rule in rules), unused)


def test_axes_turn():
    """A dense layer and a convolution do what they did; norms, biases and gains only change their names."""
    theirs = {"m.fc.weight": random(5, 3), "m.fc.bias": random(5), "m.conv.weight": random(4, 2, 3, 6)}
    theirs |= {
        "m.norm.weight": random(3),
        "m.norm.bias": random(3),
        "m.ls1.gamma": random(3),
        "m.token": random(1, 1, 3),
    }
    shapes = like(
        ours__fc__kernel=(3, 5), ours__fc__bias=(5,), ours__conv__kernel=(3, 6, 2, 4), ours__norm__scale=(3,),
        ours__norm__bias=(3,), ours__ls1=(3,), ours__token=(1, 3),
    )  # fmt: skip
    ours = converted(theirs, shapes, table(("ours", "m")), source="x")["ours"]
    assert jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), ours) == jax.tree.map(
        lambda leaf: (leaf.shape, leaf.dtype), shapes["ours"]
    )
    x = random(2, 3)
    np.testing.assert_allclose(x @ ours["fc"]["kernel"], x @ theirs["m.fc.weight"].T, rtol=1e-6)
    o, i, h, w = np.ogrid[:4, :2, :3, :6]
    np.testing.assert_array_equal(ours["conv"]["kernel"][h, w, i, o], theirs["m.conv.weight"])
    for path, name in (("norm", "m.norm.weight"), ("ls1", "m.ls1.gamma")):
        found = ours[path]["scale"] if path == "norm" else ours[path]
        np.testing.assert_array_equal(found, theirs[name])
    np.testing.assert_array_equal(ours["norm"]["bias"], theirs["m.norm.bias"])
    np.testing.assert_array_equal(ours["token"], theirs["m.token"][0])


def test_stacks():
    """Equal blocks become one array; a second stack goes on counting; each block's axes turn alone."""
    theirs = {
        f"blocks.{i}.fc.{part}": random(*shape)
        for i in range(5)
        for part, shape in (("weight", (4, 3)), ("bias", (4,)))
    }
    shapes = like(a__fc__kernel=(2, 3, 4), a__fc__bias=(2, 4), b__fc__kernel=(3, 3, 4), b__fc__bias=(3, 4))
    ours = converted(theirs, shapes, table(("a", "blocks.{}", 0), ("b", "blocks.{}", 2)), source="x")
    joined = np.concatenate([ours["a"]["fc"]["kernel"], ours["b"]["fc"]["kernel"]])
    np.testing.assert_array_equal(joined, [theirs[f"blocks.{i}.fc.weight"].T for i in range(5)])
    np.testing.assert_array_equal(ours["b"]["fc"]["bias"], [theirs[f"blocks.{i}.fc.bias"] for i in (2, 3, 4)])


def test_the_first_rule_that_fits_counts():
    """Of a path itself, or below it; `ab` is not below `a`."""
    theirs = {"one.weight": random(2, 2), "two.weight": random(2, 2), "three": random(2)}
    shapes = like(a__b__kernel=(2, 2), ab__kernel=(2, 2), c=(2,))
    rules = table(("a/b", "one"), ("a", "none"), ("ab", "two"), ("c", "three"))
    ours = converted(theirs, shapes, rules, source="x")
    np.testing.assert_array_equal(ours["ab"]["kernel"], theirs["two.weight"].T)
    with pytest.raises(ValueError, match="table: expected a rule for 'c', found none"):
        converted(theirs, shapes, table(("a", "one"), ("ab", "two")), source="x")


def test_a_rule_for_everything():
    """An empty name on both sides."""
    theirs = {"fc.weight": random(3, 2)}
    ours = converted(theirs, like(fc__kernel=(2, 3)), table(("fc", "fc")), source="x")
    np.testing.assert_array_equal(ours["fc"]["kernel"], theirs["fc.weight"].T)


def test_a_convolution_of_one_pixel_is_a_dense_layer():
    theirs = {"p.weight": random(4, 3, 1, 1)}
    ours = converted(theirs, like(p__kernel=(3, 4)), table(("p", "p")), source="x")
    np.testing.assert_array_equal(ours["p"]["kernel"], theirs["p.weight"][:, :, 0, 0].T)
    kept = converted(theirs, like(p__kernel=(1, 1, 3, 4)), table(("p", "p")), source="x")
    np.testing.assert_array_equal(kept["p"]["kernel"][0, 0], theirs["p.weight"][:, :, 0, 0].T)


def test_masks_of_a_bias():
    """A mask multiplies; where it is not finite, that of the keys is 0 and the others 1."""
    bias = random(6)
    shapes, rules = like(a__qkv__bias=(6,)), table(("a", "a"))
    for mask, effective in (
        ([1, 1, 0, 0, 1, 1], [1, 1, 0, 0, 1, 1]),
        ([0.5, 1, 1, 1, 1, 0], [0.5, 1, 1, 1, 1, 0]),
        ([np.nan] * 6, [1, 1, 0, 0, 1, 1]),
        ([np.inf, 1, np.nan, 1, 1, -np.inf], [1, 1, 0, 1, 1, 1]),
    ):
        theirs = {"a.qkv.bias": bias, "a.qkv.bias_mask": np.array(mask, np.float32)}
        np.testing.assert_array_equal(
            converted(theirs, shapes, rules, source="x")["a"]["qkv"]["bias"], bias * np.array(effective, np.float32)
        )
    for mask in (np.ones(5), np.ones((6, 1)), np.ones(())):
        with pytest.raises(AirjaxError, match=r"^x: a.qkv.bias_mask: expected the shape \(6,\), got"):
            converted({"a.qkv.bias": bias, "a.qkv.bias_mask": mask}, shapes, rules, source="x")
    with pytest.raises(AirjaxError, match=r"1 are not known: a\.other_mask"):
        converted({"a.qkv.bias": bias, "a.other_mask": bias}, shapes, rules, source="x")


@pytest.mark.parametrize("dtype", [jnp.bfloat16, np.float16, np.float64, np.int32])
def test_other_types_become_float32(dtype):
    theirs = {"a.w": np.array([1, 2, -3]).astype(dtype)}
    ours = converted(theirs, like(a__w=(3,)), table(("a", "a")), source="x")["a"]["w"]
    assert ours.dtype == np.float32 and ours.tolist() == [1, 2, -3]


WHOLE = {"a.fc.weight": random(4, 3), "a.fc.bias": random(4), "blocks.0.w": random(2), "blocks.1.w": random(2)}
SHAPES = like(a__fc__kernel=(3, 4), a__fc__bias=(4,), s__w=(2, 2))
RULES = table(("a", "a"), ("s", "blocks.{}"), unused=(r"old\..*", "mask_token"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"a.fc.bias": None}, "x.pt: expected 4 tensors, 1 are missing: a.fc.bias"),
        (dict.fromkeys(WHOLE), "4 are missing: a.fc.bias, a.fc.weight, blocks.0.w, .."),
        ({"blocks.1.w": None}, "1 are missing: blocks.1.w"),
        ({"blocks.2.w": random(2)}, "x.pt: expected no other tensors, 1 are not known: blocks.2.w"),
        ({"old": random(1)}, "1 are not known: old"),
        ({"mask_token2": random(1)}, "1 are not known: mask_token2"),
        ({"new\nline": random(1)}, r"1 are not known: 'new\nline'"),
        ({"n" * 500: random(1)}, "1 are not known: " + "n" * 100),
        ({"a.fc.weight": random(3, 4)}, "x.pt: a.fc.weight: expected the shape (4, 3), got (3, 4)"),
        ({"a.fc.weight": random(12)}, "a.fc.weight: expected the shape (4, 3), got (12,)"),
        ({"a.fc.weight": random(4, 3, 1, 2)}, "expected the shape (4, 3), got (4, 3, 1, 2)"),
        ({"a.fc.bias": random(5)}, "a.fc.bias: expected the shape (4,), got (5,)"),
        ({"a.fc.bias": random(2, 2)}, "a.fc.bias: expected the shape (4,), got (2, 2)"),
        ({"blocks.1.w": random(3)}, "blocks.1.w: expected the shape (2,), got (3,)"),
        ({"a.fc.weight": np.full((4, 3), np.nan, np.float32)}, "x.pt: a.fc.weight: expected finite values"),
        ({"blocks.0.w": np.array([1, 1e300])}, "blocks.0.w: expected finite values"),
        ({"blocks.0.w": np.array([1, -np.inf], np.float32)}, "blocks.0.w: expected finite values"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_named(change, message):
    theirs = {name: array for name, array in (WHOLE | change).items() if array is not None}
    with pytest.raises(AirjaxError) as error:
        converted(theirs, SHAPES, RULES, source="x.pt")
    assert message in str(error.value) and "\n" not in str(error.value)


def test_what_is_known_to_be_unused_is_not_read():
    class Watched(dict):
        def __getitem__(self, name):
            assert name in WHOLE
            return super().__getitem__(name)

    theirs = Watched(WHOLE | {"old.w": random(1), "mask_token": np.array([np.nan])})
    ours = converted(theirs, SHAPES, RULES, source="x.pt")
    np.testing.assert_array_equal(ours["s"]["w"], [WHOLE["blocks.0.w"], WHOLE["blocks.1.w"]])

"""From a checkpoint of others to a network that computes what theirs does: small ones under official names."""

import dataclasses
import json
from pathlib import Path

import checkpoints
import jax
import jax.numpy as jnp
import numpy as np
import parity
import pytest
from checkpoints import BFLOAT16, write_safetensors, write_torch
from messages import one_line

from airjax.convert import convert as module
from airjax.convert.convert import SYSTEMS, convert
from airjax.convert.dino import encoder_config
from airjax.convert.names import Rule, Table
from airjax.convert.readers import open_checkpoint
from airjax.convert.system import Plan, System
from airjax.errors import AirjaxError
from airjax.nn.rope import axial_periods
from airjax.nn.vit import BlockConfig, Encoder, EncoderConfig, dino_v2_base, dino_v2_large, dino_v3_base
from airjax.weights_file import load_weights, sha256

TENSORS = {"dinov2": checkpoints.dino_v2(), "dinov3": checkpoints.dino_v3()}


def refused(path, target, **options) -> str:
    with pytest.raises(AirjaxError) as error:
        convert(path, target, **options)
    assert not target.exists()
    return one_line(error, path)


def test_an_encoder_computes_what_theirs_does(tmp_path):
    """Oracle: outputs of an independent implementation (tests/golden/parity), which has exact periods."""
    tensors, outputs = parity.load("dino_v3")
    source = write_safetensors(tmp_path / "official", tensors | {"rope_embed.periods": axial_periods(64)})
    done = convert(source, target := tmp_path / "ours.safetensors")
    assert done.system.name == "dinov3" and done.halves == 0
    params, metadata = load_weights(target)
    about = json.loads(metadata["encoder"])
    config = EncoderConfig(BlockConfig(**about.pop("block")), **about)
    images = jnp.asarray(parity.images(2, 48, 80))
    tokens = Encoder(config).apply({"params": jax.tree.map(jnp.asarray, params)}, images)[-1]
    assert parity.error(tokens, outputs["tokens"]) < 1e-5


@pytest.mark.parametrize("name", TENSORS)
def test_a_weights_file_tells_of_itself(tmp_path, name):
    """All that counts is in it, and where it comes from."""
    source, target = write_torch(tmp_path / "official.pth", TENSORS[name]), tmp_path / "ours.safetensors"
    done = convert(source, target)
    assert done.system.name == name
    params, metadata = load_weights(target)
    used = sum(array.size for part, array in TENSORS[name].items() if part != "mask_token")
    assert done.weights == used == sum(leaf.size for leaf in jax.tree.leaves(params))
    assert (metadata["system"], metadata["source"]) == (name, "official.pth")
    assert (metadata["source_sha256"], metadata["licence"]) == (sha256(source), done.system.licence)
    assert json.loads(metadata["encoder"])["counts"] == ([4] if name == "dinov2" else [2, 2])


@pytest.mark.parametrize("official", [dino_v2_base, dino_v2_large, dino_v3_base])
def test_sizes_are_told_by_shapes(official):
    """Of the official sizes: the configuration that the networks of the papers have."""
    config = official()
    width, patch = config.block.width, config.patch
    shapes = {"e.patch_embed.proj.weight": (width, 3, patch, patch), "norm1.weight": (width,)}
    shapes |= {f"e.blocks.{i}.norm1.weight": (width,) for i in range(sum(config.counts))}
    shapes |= {} if config.positions is None else {"e.pos_embed": (1, 1 + config.positions**2, width)}
    assert dataclasses.asdict(encoder_config(shapes, "e")) == dataclasses.asdict(config)


def test_what_is_stored_is_a_choice(tmp_path):
    source, target = write_torch(tmp_path / "x.pt", TENSORS["dinov3"]), tmp_path / "y.safetensors"
    convert(source, target, storage="float16")
    assert {str(dtype) for dtype in open_checkpoint(target).dtypes.values()} == {"float16"}
    large = TENSORS["dinov3"] | {"norm.bias": np.full(128, 1e5, np.float32)}
    convert(write_torch(source, large), tmp_path / "z.safetensors")
    message = refused(source, tmp_path / "none", storage="float16")
    assert message == "expected values within the range of float16: store them as float32"


def test_half_precision_is_read_exactly(tmp_path):
    """Oracle: the float32 weights that have the same values."""
    halves = {name: array.astype(BFLOAT16) for name, array in TENSORS["dinov3"].items()}
    exact = {name: array.astype(np.float32) for name, array in halves.items()}
    done = convert(write_safetensors(tmp_path / "a", halves), tmp_path / "a.safetensors")
    assert done.halves == len(halves)
    convert(write_torch(tmp_path / "b", exact), tmp_path / "b.safetensors")
    for a, b in zip(*(jax.tree.leaves(load_weights(tmp_path / f"{x}.safetensors")[0]) for x in "ab"), strict=True):
        np.testing.assert_array_equal(a, b)


def test_masks_of_biases(tmp_path):
    """As Meta's DINOv3 files have them, with keys that count for nothing."""
    masks = {f"blocks.{i}.attn.qkv.bias_mask": np.repeat(np.float32([1, np.nan, 1]), 128) for i in range(4)}
    tensors = TENSORS["dinov3"]
    convert(write_torch(tmp_path / "x.pt", tensors | masks), tmp_path / "x.safetensors")
    stack = load_weights(tmp_path / "x.safetensors")[0]["blocks1"]["stack"]["block"]["attn"]["qkv"]["bias"]
    expected = np.stack([tensors[f"blocks.{i}.attn.qkv.bias"] for i in (2, 3)])
    expected[:, 128:256] = 0
    np.testing.assert_array_equal(stack, expected)


def test_progress(tmp_path):
    calls = []
    source = write_torch(tmp_path / "x.pt", TENSORS["dinov3"])
    convert(source, tmp_path / "x.safetensors", progress=lambda done, total: calls.append((done, total)))
    assert calls == [(i, 64) for i in range(1, 64)]  # one is not used


# --- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"norm.bias": None}, "expected 63 tensors, 1 are missing: norm.bias"),
        ({"blocks.2.norm1.weight": None}, "expected 49 tensors, 1 are missing: blocks.2.norm1.weight"),
        ({"blocks.9.norm1.weight": np.ones(128, np.float32)}, "14 are missing: blocks.4.attn"),
        ({"head.weight": np.ones(3, np.float32)}, "expected no other tensors, 1 are not known: head.weight"),
        ({"norm.bias": np.ones(64, np.float32)}, "norm.bias: expected the shape (128,), got (64,)"),
        (
            {"storage_tokens": np.ones((1, 5, 128), np.float32)},
            "storage_tokens: expected the shape (4, 128), got (1, 5",
        ),
        ({"norm.bias": np.full(128, np.nan, np.float32)}, "norm.bias: expected finite values"),
        ({"patch_embed.proj.weight": np.ones((100, 3, 16, 16), np.float32)}, "width / 64 whole, got (100, 3, 16, 16)"),
        ({"patch_embed.proj.weight": np.ones(3, np.float32)}, "expected the shape (width, 3, side, side)"),
        ({"patch_embed.proj.weight": None}, "expected the shape (width, 3, side, side)"),
    ],
)
def test_weights_that_do_not_fit(tmp_path, change, words):
    """What is wrong, as what it was read, and what to do."""
    tensors = {name: array for name, array in (TENSORS["dinov3"] | change).items() if array is not None}
    for write in (write_torch, write_safetensors):
        message = refused(write(tmp_path / "x.pt", tensors), tmp_path / "ours.safetensors")
        assert words in message
        assert message.endswith("; read as DINOv3: use its official file, or --system for another network")


def test_weights_of_no_known_network(tmp_path):
    path = write_torch(tmp_path / "x.pt", {"a": np.ones(2, np.float32), "b": np.ones(2, np.float32)})
    message = refused(path, tmp_path / "ours.safetensors")
    assert message.startswith("expected weights of ") and all(system.title in message for system in SYSTEMS)
    assert message.endswith("found other tensors (a, b, ..): see docs/weights.md")


def test_a_system_that_is_asked_for(tmp_path):
    path, target = write_torch(tmp_path / "x.pt", TENSORS["dinov3"]), tmp_path / "ours.safetensors"
    assert convert(path, target, system="dinov3").system.name == "dinov3"
    target.unlink()
    message = refused(path, target, system="dinov2")
    assert message.startswith("expected weights of DINOv2 with registers, found other tensors (cls_token, ")
    assert message.endswith("leave --system out, or use the official file")
    with pytest.raises(AirjaxError, match=r"^--system dino: expected one of .*dinov3, dinov2$"):
        convert(path, target, system="dino")


def test_a_damaged_tensor_writes_nothing(tmp_path):
    path, target = write_torch(tmp_path / "x.pt", TENSORS["dinov3"]), tmp_path / "ours.safetensors"
    target.write_bytes(b"old")
    data = path.read_bytes()
    at = data.index(TENSORS["dinov3"]["norm.bias"].tobytes())
    path.write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
    with pytest.raises(AirjaxError) as error:
        convert(path, target)
    assert "norm.bias: expected a whole tensor, got a damaged one (wrong checksum)" in one_line(error, path)
    assert target.read_bytes() == b"old"
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["ours.safetensors", "x.pt"]


# --- the list of systems ---------------------------------------------------------------------------------------------


def test_one_entry_adds_a_system(tmp_path, monkeypatch):
    """What a new one needs: marks, a plan of shapes and of what is beside the tensors, a licence."""

    def plan(shapes, plain):
        like = {"fc": {"kernel": jax.ShapeDtypeStruct(shapes["fc.weight"][::-1], jnp.float32)}}
        return Plan(like, Table((Rule("fc", "fc"),)), {"epoch": str(plain["epoch"])})

    new = System("new", "New", ("fc.weight",), plan, "for tests")
    monkeypatch.setattr(module, "SYSTEMS", (*SYSTEMS, new))
    weights = np.arange(6, dtype=np.float32).reshape(2, 3)
    source = write_torch(tmp_path / "x.pt", {"fc.weight": weights}, around=lambda state: {"model": state, "epoch": 3})
    assert convert(source, tmp_path / "y.safetensors").system is new
    params, metadata = load_weights(tmp_path / "y.safetensors")
    np.testing.assert_array_equal(params["fc"]["kernel"], weights.T)
    assert (metadata["epoch"], metadata["licence"]) == ("3", "for tests")


def test_systems_are_told_apart():
    assert len({system.name for system in SYSTEMS}) == len(SYSTEMS)
    for system in SYSTEMS:
        assert system.marks and system.title and "\n" not in system.licence
    for name, tensors in TENSORS.items():
        assert [system.name for system in SYSTEMS if set(system.marks) <= set(tensors)] == [name]


def test_the_page_for_users_has_all_of_them():
    page = (Path(__file__).resolve().parents[2] / "docs" / "weights.md").read_text()
    assert [system.name for system in SYSTEMS if f"| `{system.name}` |" not in page] == []

"""Checkpoints of others: what was written is read, and nothing else is: no code runs, no length is trusted."""

import os
import pickle
import struct
import time
import tracemalloc
import zipfile
from collections import OrderedDict

import checkpoints
import numpy as np
import pytest
from checkpoints import BFLOAT16, Called, Kept, Name, pickled, tensor, write_safetensors, write_torch, write_zip
from hypothesis import given, settings
from hypothesis import strategies as st
from messages import one_line

from airjax.convert.pickles import parse
from airjax.convert.readers import open_checkpoint
from airjax.errors import AirjaxError

RNG = np.random.default_rng(0)
TENSORS = {
    "a.weight": RNG.standard_normal((3, 4)).astype(np.float32),
    "a.bias": RNG.standard_normal(3).astype(BFLOAT16),
    "half": RNG.standard_normal((2, 1, 2)).astype(np.float16),
    "double": RNG.standard_normal(2),
    "steps": np.array(7),
    "mask": np.array([True, False]),
    "none": np.zeros((0, 3), np.float32),
}
WRITERS = {"x.safetensors": write_safetensors, "x.pt": write_torch}


def assert_holds(checkpoint, tensors):
    assert set(checkpoint) == set(tensors) and len(checkpoint) == len(tensors)
    for name, expected in tensors.items():
        actual = checkpoint[name]
        assert checkpoint.shapes[name] == actual.shape == expected.shape, name
        assert checkpoint.dtypes[name] == actual.dtype == expected.dtype, name
        assert actual.tobytes() == expected.tobytes(), name


def refused(path) -> str:
    """What a file is refused with."""
    with pytest.raises(AirjaxError) as error:
        open_checkpoint(path)
    return one_line(error, path)


# --- what is read ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", WRITERS)
def test_tensors_are_read_bit_for_bit(tmp_path, name):
    path = WRITERS[name](tmp_path / name, TENSORS)
    assert_holds(open_checkpoint(path), TENSORS)
    assert_holds(open_checkpoint(str(path)), TENSORS)


def test_bfloat16_becomes_float32_exactly(tmp_path):
    """Oracle: a bfloat16 is the first half of a float32; all 65,536 of them."""
    bits = np.arange(2**16, dtype=np.uint16)
    values = {"w": bits.view(BFLOAT16)}
    expected = (bits.astype(np.uint32) << 16).view(np.float32)
    for name, write in WRITERS.items():
        found = np.asarray(open_checkpoint(write(tmp_path / name, values))["w"], np.float32)
        finite = np.isfinite(expected)
        np.testing.assert_array_equal(found[finite].view(np.uint32), expected[finite].view(np.uint32))
        np.testing.assert_array_equal(found[~finite], expected[~finite])


def test_safetensors_of_the_library(tmp_path):
    from safetensors.numpy import save_file

    tensors = {name: array for name, array in TENSORS.items() if array.dtype != BFLOAT16}
    save_file(tensors, tmp_path / "x.safetensors", {"who": "me"})
    checkpoint = open_checkpoint(tmp_path / "x.safetensors")
    assert_holds(checkpoint, tensors)
    assert checkpoint.plain == {"who": "me"}


def test_tensors_beside_other_things(tmp_path):
    """As AIR's files are: the tensors in a dict of a dict, a configuration beside it."""
    config = {"heads": [{"patch": 7, "scale": 0.5}], "name": "größe", "quantize": True, "none": None, "big": -(2**40)}
    for key in ("model", "state_dict"):
        path = write_torch(
            tmp_path / f"{key}.pt", TENSORS, around=lambda s, k=key: {"config": config, k: s, "epoch": 3}
        )
        checkpoint = open_checkpoint(path)
        assert_holds(checkpoint, TENSORS)
        assert checkpoint.plain == {"config": config, "epoch": 3}
    # A dict called "model" that has no tensors is no state.
    path = write_torch(tmp_path / "bare.pt", TENSORS, around=lambda state: {**state, "model": {"name": "x"}, 7: (1, 2)})
    checkpoint = open_checkpoint(path)
    assert_holds(checkpoint, TENSORS)
    assert checkpoint.plain == {"model": {"name": "x"}, "7": (1, 2)}


def test_views_of_a_storage(tmp_path):
    """Offsets and strides count values; a parameter is its tensor; what a dict knows of modules is passed over."""
    values = np.arange(12, dtype=np.float32)
    views = {
        "all": tensor("0", values),
        "turned": tensor("0", values, shape=(4, 3), strides=(1, 4)),
        "middle": tensor("0", values, shape=(2, 2), strides=(4, 1), offset=5),
        "one": tensor("0", values, shape=(), strides=(), offset=11),
    }
    views["parameter"] = Called(Name("torch._utils", "_rebuild_parameter"), (views["middle"], True, OrderedDict()))
    state = pickled(OrderedDict(views))
    known = pickled({"_metadata": OrderedDict({"": {"version": 1}})})[2:-1]
    path = write_zip(tmp_path / "x.pt", state[:-1] + known + b"b.", {"0": values.tobytes()})
    middle = values.reshape(3, 4)[1:, 1:3]
    expected = {
        "all": values,
        "turned": values.reshape(3, 4).T,
        "middle": middle,
        "one": values[11],
        "parameter": middle,
    }
    assert_holds(open_checkpoint(path), {name: np.asarray(array) for name, array in expected.items()})


def test_a_pickle_of_another_protocol():
    """Oracle: Python's own writer; of plain values, all protocols from 2."""
    value = {
        "a": [1, -1, 300, 70_000, 2**40, 0.5, None, True],
        "b": ("x" * 300, (), (1,), (1, 2), (1, 2, 3)),
        "c": {"": {}},
    }
    value["again"] = value["a"]
    for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1):
        assert parse(pickle.dumps(value, protocol)) == value


def test_files_of_torch_itself(tmp_path):
    torch = pytest.importorskip("torch")
    module = torch.nn.Linear(3, 2)
    state = module.state_dict() | {
        "half": torch.ones(3, dtype=torch.bfloat16),
        "view": torch.arange(6.0).reshape(2, 3).T[1:],
        "count": torch.tensor(3),
    }
    for protocol in (2, 4):
        torch.save({"model": state, "epoch": 3}, tmp_path / "x.pt", pickle_protocol=protocol)
        checkpoint = open_checkpoint(tmp_path / "x.pt")
        assert checkpoint.plain == {"epoch": 3} and set(checkpoint) == set(state)
        for name, expected in state.items():
            np.testing.assert_array_equal(np.asarray(checkpoint[name], np.float32), expected.float().numpy())
    torch.save(dict(module.named_parameters()), tmp_path / "x.pt")
    assert set(open_checkpoint(tmp_path / "x.pt")) == {"weight", "bias"}
    torch.save(module, tmp_path / "x.pt")
    assert "asks for torch.nn.modules.linear.Linear" in refused(tmp_path / "x.pt")
    torch.save(state, tmp_path / "x.pt", _use_new_zipfile_serialization=False)
    assert "an old file of torch.save" in refused(tmp_path / "x.pt")


def test_without_checksums(tmp_path):
    """torch can be told to leave them out; they are 0 then."""
    path = write_torch(tmp_path / "x.pt", TENSORS)
    data = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        for info in archive.infolist():
            crc = struct.pack("<I", info.CRC)
            data = data.replace(crc, bytes(4))
    path.write_bytes(data)
    assert_holds(open_checkpoint(path), TENSORS)


def test_one_tensor_is_read_at_a_time(tmp_path):
    """Opening reads none, and one that nobody holds any longer takes no memory."""
    big = {f"w{i}": np.full((256, 1024), i, np.float32) for i in range(8)}
    for name, write in WRITERS.items():
        path = write(tmp_path / name, big)
        tracemalloc.start()
        checkpoint = open_checkpoint(path)
        for tensor_name in checkpoint:
            assert checkpoint[tensor_name][0, 0] == int(tensor_name[1:])
        assert tracemalloc.get_traced_memory()[1] < 2**19  # bytes; a tensor has 2**20
        tracemalloc.stop()


# --- what is refused -------------------------------------------------------------------------------------------------


def test_code_in_a_pickle_is_not_run(tmp_path):
    """The file asks for a file to be made; Python's own reader would make it."""
    marker = tmp_path / "marker"

    class Attack:
        def __reduce__(self):
            return os.system, (f"echo > '{marker}'",)

    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        for value in (Attack(), {"model": {"w": Attack()}}, {"config": [Attack()]}):
            path = write_zip(tmp_path / "x.pt", pickle.dumps(value, protocol), {})
            assert refused(path).startswith("asks for "), protocol
    message = refused(write_zip(tmp_path / "x.pt", pickle.dumps(Attack(), 2), {}))
    assert message.startswith(f"asks for {os.system.__module__}.system, which was not run: expected tensors, numbers")
    assert not marker.exists()
    pickle.loads(pickle.dumps(Attack(), 2))
    assert marker.exists()


@pytest.mark.parametrize(
    "name",
    [
        ("builtins", "eval"),
        ("builtins", "getattr"),
        ("torch", "load"),
        ("torch.hub", "load"),
        ("torch", "QInt8Storage"),
        ("collections", "Counter"),
        ("collections", "OrderedDict.fromkeys"),
        ("argparse", "Namespace"),
        ("numpy.core.multiarray", "scalar"),
        ("torch._utils", "_rebuild_tensor_v3"),
    ],
)
def test_names_that_are_not_known(tmp_path, name):
    path = write_zip(tmp_path / "x.pt", pickled({"w": Called(Name(*name), ("1",))}), {})
    assert f"asks for {'.'.join(name)}, which was not run" in refused(path)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 5\n", "a Git LFS pointer"),
        (b"<!DOCTYPE html><html><title>Google Drive - Virus scan warning</title></html>", "a web page"),
        (b"\n  <html>", "a web page"),
        (pickle.dumps({"a": 1}, 2), "an old file of torch.save or another pickle"),
        (b"\0" * 257 + b"ustar\0" + b"\0" * 400, "an old file of torch.save or another pickle"),
        (b"\x89PNG\r\n\x1a\n" + b"\0" * 40, "another or a damaged file"),
        (b"a", "another or a damaged file"),
        (b"", "got 0 bytes"),
        (b"PK\3\4" + b"\0" * 60, "expected a whole file of torch.save, got a damaged one"),
        (struct.pack("<Q", 2**26) + b"{}", "expected a whole safetensors file, got a damaged one"),
        (struct.pack("<Q", 2) + b"{}", "found no tensors in this safetensors file"),
    ],
)
def test_other_files(tmp_path, data, words):
    path = tmp_path / "x.pt"
    path.write_bytes(data)
    assert words in refused(path)


def test_other_places(tmp_path, monkeypatch):
    assert "got a folder" in refused(tmp_path)
    assert "cannot be read (No such file" in refused(tmp_path / "none")
    path = write_torch(tmp_path / "x.pt", TENSORS)
    monkeypatch.setattr("builtins.open", lambda *_: (_ for _ in ()).throw(PermissionError(13, "Permission denied")))
    assert "Permission denied" in refused(path)


def test_archives_without_weights(tmp_path):
    np.savez(tmp_path / "x.npz", a=np.ones(3))
    assert "a zip archive that torch.save did not write" in refused(tmp_path / "x.npz")
    cases = (({}, "found no tensors"), ({"epoch": 3}, "found no tensors"), ([1], "found list"), (3, "found int"))
    for value, words in cases:
        assert words in refused(write_zip(tmp_path / "x.pt", pickled(value), {}))


def case(**options):
    return {"w": tensor("0", np.ones(4, np.float32), **options)}


@pytest.mark.parametrize(
    "content",
    [
        case(length=5),
        case(shape=(5,), length=5),
        case(offset=1),
        case(shape=(2, 2), strides=(3, 1)),
        case(shape=(2**40, 2**40), strides=(0, 0)),
        case(shape=(2**62,), strides=(1,), length=2**62),
        case(shape=(-1,)),
        case(strides=(-1,), offset=3),
        case(offset=2**70 - 1),
        case(shape=(1,) * 40),
        case(shape=(4,), strides=()),
        case(length=-4),
        case(storage="OrderedDict"),
        {"w": tensor("1", np.ones(4, np.float32))},
        {"w": tensor("../data.pkl", np.ones(4, np.float32))},
        {"w": Kept(("storage", "text", "0", "cpu", 4))},
        {"w": Kept((1, 2))},
        {"w": Called(Name("torch._utils", "_rebuild_tensor_v2"), (1, 2, 3, 4))},
        {"w": Called(Name("torch._utils", "_rebuild_parameter"), ({},))},
        {"w": Called(Name("collections", "OrderedDict"), ([],))},
        {"w": Called("text", ())},
        {1.5: 1},
        {True: 1},
        {("a",): 1},
        {2**60: 1},
    ],
)
def test_tensors_that_do_not_fit_their_file(tmp_path, content):
    path = write_zip(tmp_path / "x.pt", pickled(content), {"0": np.ones(4, np.float32).tobytes()})
    tracemalloc.start()
    message = refused(path)
    assert tracemalloc.get_traced_memory()[1] < 2**20
    tracemalloc.stop()
    assert "asks for" in message or "got a damaged one" in message


def test_an_empty_tensor_of_impossible_sides(tmp_path):
    path = write_zip(tmp_path / "x.pt", pickled(case(shape=(0, 2**62), strides=(1, 1))), {"0": bytes(16)})
    with pytest.raises(AirjaxError, match=r"x.pt: w: expected a whole tensor"):
        open_checkpoint(path)["w"]


@pytest.mark.parametrize(
    ("instructions", "words"),
    [
        (b"\x96" + b"\xff" * 7 + b"\x7f.", "damaged"),  # an array of 2**63 bytes
        (b"\x8d" + b"\xff" * 7 + b"\x7f.", "damaged"),  # a text of them
        (b"Nr\xff\xff\xff\xffr\xff\xff\xff\x7f.", "found NoneType"),  # numbers of things remembered
        (b")" + b"\x85" * 20_000 + b"}" + b"q\0h\0Ns.", "damaged"),  # deep
        (b"}" + b")" + b"\x85" * 20_000 + b"Ns.", "a key that is neither"),  # deeper, as a key
        (b"0" * 50 + b".", "asks for POP"),
        (b"iposix\nsystem\n.", "asks for INST posix system"),
        (b"\x82\x01.", "asks for EXT1"),
        (b"}}\x93.", "damaged"),
        (b"N", "damaged"),
        (b"h\0.", "damaged"),
        (b"t.", "damaged"),
        (b"", "damaged"),
    ],
)
def test_pickles_that_ask_for_much(tmp_path, instructions, words):
    """Memory and stack stay small."""
    path = write_zip(tmp_path / "x.pt", b"\x80\x02" + instructions, {})
    tracemalloc.start()
    message = refused(path)
    assert tracemalloc.get_traced_memory()[1] < 2**26
    tracemalloc.stop()
    assert words in message


def test_what_else_torch_does_not_write(tmp_path):
    path = tmp_path / "x.pt"
    assert "is not stored whole and as it is" in refused(write_torch(path, TENSORS, packed=True))
    assert "not little-endian" in refused(write_torch(path, TENSORS, order=b"big"))
    assert_holds(open_checkpoint(write_torch(path, TENSORS, order=None)), TENSORS)
    assert "has more than" in refused(write_zip(path, pickled({"a": "x" * 2**22}), {}))
    header = b'{"w":{"dtype":"F8_E4M3","shape":[1],"data_offsets":[0,1]}}'
    (tmp_path / "x.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + b"\0")
    assert "F8_E4M3" in refused(tmp_path / "x.safetensors")


def test_a_damaged_tensor_is_named(tmp_path):
    """Where there are checksums; and a file that shrinks after it was opened."""
    path = write_torch(tmp_path / "x.pt", TENSORS)
    data = path.read_bytes()
    at = data.index(TENSORS["a.weight"].tobytes())
    path.write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
    checkpoint = open_checkpoint(path)
    with pytest.raises(
        AirjaxError, match=r"x.pt: a.weight: expected a whole tensor, got a damaged one \(wrong checksum"
    ):
        checkpoint["a.weight"]
    path.write_bytes(data[:20])
    with pytest.raises(AirjaxError, match=r"x.pt: mask: expected a whole tensor"):
        checkpoint["mask"]


# --- damage at random ------------------------------------------------------------------------------------------------

CASES = 400  # of each form
MAX_SECONDS = 1.0  # of a processor, for one
MAX_BYTES = 2**20  # of memory for one


def read_all(path):
    """The tensors as bytes, or None where the file is refused in one line."""
    try:
        checkpoint = open_checkpoint(path)
        return {name: (checkpoint[name].shape, checkpoint[name].tobytes()) for name in checkpoint}
    except AirjaxError as error:
        assert "\n" not in str(error) and str(error).startswith(f"{path}: ")
        return None


def damaged(rng, data: bytes) -> bytes:
    kind = rng.integers(4)
    if kind == 0:
        return data[: rng.integers(len(data))]
    if kind == 1:
        at = rng.integers(len(data))
        return data[:at] + rng.bytes(rng.integers(20)) + data[at + rng.integers(20) :]
    data = bytearray(data)
    for _ in range(rng.integers(1, 6)):
        data[rng.integers(len(data))] = rng.integers(256) if kind == 2 else rng.choice([0, 1, 0x7F, 0x80, 0xFF])
    return bytes(data)


@pytest.mark.parametrize("name", WRITERS)
def test_damaged_files(tmp_path, name):
    """A line or tensors; with checksums the right ones. Never another exception, much time, or much memory."""
    path = WRITERS[name](tmp_path / name, TENSORS)
    whole, expected = path.read_bytes(), read_all(path)
    assert expected is not None
    read = 0
    tracemalloc.start()
    for number in range(CASES):
        data = damaged(np.random.default_rng((1, number)), whole)
        path.write_bytes(data)
        tracemalloc.reset_peak()
        before, start = tracemalloc.get_traced_memory()[0], time.process_time()
        found = read_all(path)
        assert time.process_time() - start < MAX_SECONDS, number
        assert tracemalloc.get_traced_memory()[1] - before < MAX_BYTES, number
        read += found is not None
        if found is not None and name.endswith(".pt"):
            assert all(value == expected[key] for key, value in found.items() if key in expected), number
    tracemalloc.stop()
    assert 0 < read < CASES


@pytest.mark.parametrize("changed", [False, True], ids=["made up", "changed"])
def test_damaged_pickles(changed):
    """Under right checksums: the instructions themselves, changed or made up."""
    whole = pickled(
        {"model": OrderedDict(w=tensor("0", np.ones(4, np.float32))), "epoch": 3, "config": {"a": [1.5, None]}}
    )
    known = (ValueError, TypeError, KeyError, IndexError, AttributeError)
    for number in range(3 * CASES):
        rng = np.random.default_rng((2, number))
        data = (
            damaged(rng, whole)
            if changed
            else rng.choice(list(b"})]t(NhqKRcQ\x85\x86.ue0\x93\x94b"), 30).astype(np.uint8)
        )
        try:
            parse(bytes(data))
        except known as error:
            assert str(error) is not None


@settings(max_examples=60, deadline=None)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers(-(2**62), 2**62) | st.floats(allow_nan=False) | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner) | st.tuples(inner, inner),
        max_leaves=20,
    )
)
def test_plain_values_survive(value):
    """Oracles: Python's own writer, and that of the tests."""
    assert parse(pickle.dumps(value, 2)) == value
    assert parse(pickle.dumps(value, 4)) == value
    assert parse(pickled(value)) == value


def test_the_writers_agree(tmp_path):
    """The files of the tests are those that Python's own reader of pickles finds the same values in."""
    value = {"a": [1, 2.5, None, True], "b": OrderedDict(c=("x", 2**40))}
    assert pickle.loads(pickled(value)) == value
    assert checkpoints.KINDS.keys() <= checkpoints.STORAGES.keys()

"""`airjax convert`: what it writes and says; what is refused is one line, and nothing is lost."""

from pathlib import Path

import checkpoints
import numpy as np
import pytest
from checkpoints import write_safetensors, write_torch
from command_line import assert_refused, failing, listing

from airjax.weights_file import load_weights

TENSORS = checkpoints.dino_v3()


@pytest.fixture
def official(run):
    """An official file in the working folder."""
    return write_torch(Path("dinov3.pth"), TENSORS)


def test_convert(run, official):
    done = run("convert", official, "-o", "ours.safetensors")
    assert done.status == 0
    assert len(done.out) == 1 and done.out[0].startswith("dinov3.pth -> ours.safetensors: DINOv3, 893456 weights as ")
    assert done.err[0] == "airjax: dinov3.pth: 1 tensors of 16-bit floats are stored as float32"
    assert len(done.err) == 2 and done.err[1].startswith("airjax: ours.safetensors: DINOv3 License")
    assert load_weights("ours.safetensors")[1]["system"] == "dinov3"
    assert run("convert", official, "--quiet").out == []
    assert Path("dinov3.safetensors").read_bytes() == Path("ours.safetensors").read_bytes()
    half = run("convert", official, "-o", "half.safetensors", "--storage", "float16", "--system", "dinov3")
    assert half.status == 0 and "as float16" in half.out[0]
    assert Path("half.safetensors").stat().st_size < 0.6 * Path("ours.safetensors").stat().st_size


def test_what_is_there_is_kept(run, official):
    Path("dinov3.safetensors").write_bytes(b"old")
    before = listing()
    assert_refused(run("convert", official), before, "exists already and is kept", "--force")
    assert run("convert", official, "--force").status == 0
    assert listing()["dinov3.safetensors"] != b"old"


def test_an_input_is_never_an_output(run):
    write_safetensors(Path("x.safetensors"), TENSORS)
    before = listing()
    assert_refused(run("convert", "x.safetensors"), before, "x.safetensors: expected another name", "(-o)")
    refused = run("convert", "x.safetensors", "-o", "./x.safetensors", "--force")
    assert_refused(refused, before, "which is an input of this run")
    assert run("convert", "x.safetensors", "-o", "y.safetensors").status == 0


@pytest.mark.parametrize(
    ("output", "words"),
    [
        ("ours.pt", "ours.pt: expected another name for the weights file, ending in .safetensors"),
        ("-", "-: expected another name"),
        ("none/ours.safetensors", "expected an existing folder none"),
    ],
)
def test_outputs_that_cannot_be(run, official, output, words):
    assert_refused(run("convert", official, "-o", output), listing(), words)


@pytest.mark.parametrize(
    ("name", "data", "words"),
    [
        ("none.pt", None, ("none.pt: cannot be read", "expected a file")),
        ("page.pt", b"<!doctype html>", ("page.pt: expected weights", "got a web page", "download")),
        ("model.safetensors.part", b"version https://git-lfs.github.com", ("got a Git LFS pointer", "git lfs pull")),
        ("old.pt", b"\x80\x02}q\0.", ("old.pt: expected weights", "save it anew")),
    ],
)
def test_inputs_that_are_no_checkpoints(run, name, data, words):
    if data is not None:
        Path(name).write_bytes(data)
    assert_refused(run("convert", name, "-o", "ours.safetensors"), listing(), *words)


def test_other_refusals(run, official):
    before = listing()
    assert_refused(run("convert", ".", "-o", "x.safetensors"), before, ".: expected a file, got a folder")
    assert_refused(run("convert", official, "--system", "dino"), before, "--system dino: expected one of", "dinov3")
    assert_refused(run("convert", official, "--system", "dinov2"), before, "dinov3.pth: expected weights of DINOv2")
    official.write_bytes(official.read_bytes()[:-100])
    assert_refused(run("convert", official), listing(), "dinov3.pth: expected a whole file of torch.save", "download")
    write_torch(official, TENSORS | {"norm.bias": np.full(128, np.inf, np.float32)})
    assert_refused(run("convert", official), listing(), "dinov3.pth: norm.bias: expected finite values")


def test_too_little_memory_or_room(run, official, monkeypatch):
    before = listing()
    with monkeypatch.context() as patch:
        patch.setattr("airjax.convert.convert.converted", failing(MemoryError()))
        assert_refused(run("convert", official), before, "dinov3.pth: not enough memory for its weights")
    monkeypatch.setattr("os.fsync", failing(OSError(28, "No space left on device")))
    assert_refused(run("convert", official), before, "dinov3.safetensors: cannot be written (No space left on device)")

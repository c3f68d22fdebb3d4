"""Hostile files: 2,000 cases of tests/helpers/fuzz.py decode or are refused, in one line, quickly, in little memory."""

import time
import tracemalloc
from collections import Counter

import fuzz
import numpy as np
import pytest
from fuzz import KINDS, MAX_SECONDS, Outcome, check, chunks_of, join, make_case, valid_files

from airjax.errors import AirjaxError, FormatError
from airjax.image.codec.air_file import decode, encode, info
from airjax.image.codec.payload import Quantised
from airjax.image.codec.quantise import Rows
from airjax.raster.draw import render

CASES = 2000


@pytest.fixture(scope="module")
def files():
    return valid_files()


def test_the_valid_files_are_valid(files):
    """The cases rest on it; chunks taken apart and joined are the same bytes."""
    for data in files:
        assert check(data) == Outcome("read", "read", "read")
        assert join(chunks_of(data)) == data


@pytest.mark.slow
def test_2000_cases(files):
    """Property: a set or an AirjaxError of one line, in little processor time; some of every kind are read."""
    read, kinds = Counter(), Counter()
    for number in range(CASES):
        case = make_case(0, number, files)
        start = time.process_time()
        outcome = check(case.data)
        assert time.process_time() - start < MAX_SECONDS, number
        kinds[case.kind] += 1
        read[case.kind] += outcome.decode == "read"
    assert set(kinds) == set(KINDS)
    assert read["repaired"] > 10 and read["spliced"] > 10 and read["extreme"] > 10  # the checks behind the checksum


def test_cases_are_deterministic(files):
    """Property: seed and number say everything; the script and this test see the same files."""
    for number in (0, 7, 1999):
        assert make_case(3, number, files) == make_case(3, number, valid_files())
    assert make_case(3, 0, files) != make_case(4, 0, files)


def _header(width, height, stages=1):
    return b"AHDR", width.to_bytes(4, "little") + height.to_bytes(4, "little") + bytes([3, 2, stages, 0])


def _stage(index, patch_size, count, code):
    return b"STAG", bytes([index, patch_size]) + count.to_bytes(4, "little") + bytes(6) + code


LIES = {
    "60000x60000 pixels": (_header(60_000, 60_000), _stage(0, 16, 9, bytes(range(28)))),
    "10^9 Gaussians": (_header(11_000, 11_000), _stage(0, 4, 10**9, bytes(range(28)))),
    "10^9 Gaussians, few patches": (_header(64, 64), _stage(0, 16, 10**9, bytes(range(28)))),
    "2^32 - 1 Gaussians": (_header(64, 64), _stage(0, 16, 2**32 - 1, bytes(range(28)))),
    "2^22 Gaussians": (_header(8192, 8192), _stage(0, 4, 2**22, bytes(range(28)))),
    "2^22 patches": (_header(8192, 8192), _stage(0, 4, 1, bytes(range(28)))),
    "patches of 255 pixels": (_header(64, 64), _stage(0, 255, 1, bytes(range(28)))),
}


@pytest.mark.parametrize("name", LIES)
def test_100_bytes_cannot_claim_much(name):
    """Oracle: processor time and traced memory; the file has 98 bytes, the claims ask for gigabytes and minutes."""
    data = join([*LIES[name], (b"AEND", b"")])
    assert len(data) == 98
    tracemalloc.start()
    try:
        start = time.process_time()
        for read in (decode, info):
            with pytest.raises(FormatError) as caught:
                read(data)
            assert "\n" not in str(caught.value)
        seconds, peak = time.process_time() - start, tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert seconds < 0.05 and peak < 2**20


def test_as_many_patches_as_the_bytes_allow():
    """A valid file of 8 KB with 2^20 patches and one Gaussian: read within the time of a fuzz case."""
    rows = Rows(8, np.array([5]), np.array([[3, 0, 0, 0, 0, 0, 0, 0]]), np.zeros(6, np.int64))
    data = encode(Quantised((rows,), (8192, 8192)))
    assert len(data) < 8000
    start = time.process_time()
    assert decode(data).stage_counts == (1,)
    assert time.process_time() - start < MAX_SECONDS


def test_what_decodes_can_be_drawn(files):
    """Property: an image or an AirjaxError, for sets that got through, of two sizes to compile little."""
    drawn = 0
    for number in range(CASES):
        if drawn == 12:
            break
        case = make_case(1, number, files)
        if case.kind not in ("repaired", "spliced", "extreme", "code"):
            continue
        try:
            encoded = decode(case.data)
        except AirjaxError:
            continue
        if encoded.image_size not in ((40, 56), (21, 35)) or encoded.gaussians.colors.shape[1:] != (3,):
            continue
        drawn += 1
        try:
            image = render(encoded.gaussians, image_size=encoded.image_size).image
        except AirjaxError:
            continue
        assert image.shape == (*encoded.image_size, 3)
        assert np.isfinite(image).all()
    assert drawn == 12


def test_script(capsys, monkeypatch, tmp_path):
    """The program counts its cases; one that fails ends it and leaves the file."""
    monkeypatch.chdir(tmp_path)
    fuzz.main(["--cases", "50"])
    out = capsys.readouterr().out
    assert "slowest: case" in out and "decode says" in out
    assert not list(tmp_path.iterdir())

    real, count = fuzz.check, len(valid_files())

    def fails(data):
        nonlocal count
        count -= 1
        if count == -3:
            raise IndexError("a fault")
        return real(data)

    monkeypatch.setattr(fuzz, "check", fails)
    with pytest.raises(IndexError, match="a fault"):
        fuzz.main(["--cases", "50", "--seed", "9"])
    saved = tmp_path / "fuzz_9_2.air"
    assert saved.read_bytes() == make_case(9, 2, valid_files()).data
    assert "seed 9, case 2" in capsys.readouterr().err

"""The compact profile: exact round trip, golden bytes, a second decoder, prefixes.

The golden file is written by `python tests/image/codec/test_payload.py`, run from the repository's root. When the bytes
change on purpose, the version of the format changes too: add a golden file, keep the old one readable.
"""

import hashlib
import itertools
import os
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import second_decoder
from fuzz import LARGEST, chunks_of, join, random_quantised, random_rows

from airjax.errors import AirjaxError, FormatError
from airjax.image.codec.air_file import CutShort, decode, decode_quantised, dequantised, encode, info
from airjax.image.codec.chunks import VERSIONS
from airjax.image.codec.entropy import PASS_LEVELS, Encoder, Memory, code_stage
from airjax.image.codec.payload import Origin, Quantised, attribute_bits
from airjax.image.codec.quantise import LEVELS, Rows, geometry_of

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[3]
GOLDEN = {version: ROOT / "tests" / "golden" / f"compact_v{version}.air" for version in VERSIONS}
HEADS = {1: 12, 2: 16}  # bytes of a stage before its code
FIELDS = ("means", "scales", "angles", "colors", "active")
NOTHING = (np.zeros(0, np.int64), np.zeros((0, 8), np.int64))

# (image size, patch sizes, share of the patches, largest symbol)
SETS = {
    "one pixel": ((1, 1), (8,), 1.0, 9),
    "one row": ((3, 5), (16, 8), 1.0, 9),
    "small symbols": ((40, 56), (16, 8), 0.5, 5),
    "middle symbols": ((56, 40), (16, 8, 8), 0.6, 100),
    "large symbols": ((33, 70), (16, 8, 16, 8), 0.7, LARGEST),
    "full": ((70, 33), (8, 8), 1.0, 20),
    "empty stages": ((40, 56), (16, 8, 16, 8), 0.02, 50),
    "empty": ((21, 35), (16, 8), 0.0, 1),
    "all passes": ((150, 140), (4,), 0.3, 6),
    "odd patches": ((61, 45), (7, 13, 64), 0.8, 30),
}


def random_set(name: str, seed: int = 0) -> Quantised:
    size, patch_sizes, fill, largest = SETS[name]
    return random_quantised(np.random.default_rng(seed), size, patch_sizes, fill=fill, largest=largest)


def assert_same(actual: Quantised, expected: Quantised) -> None:
    """The same integers, of the same type."""
    assert actual.image_size == expected.image_size
    assert len(actual.stages) == len(expected.stages)
    for a, b in zip(actual.stages, expected.stages, strict=True):
        assert a.patch_size == b.patch_size
        for name in ("patches", "symbols", "codes"):
            assert getattr(a, name).dtype == np.int64
            np.testing.assert_array_equal(getattr(a, name), getattr(b, name), strict=True)


def digest(data: bytes) -> str:
    """SHA-256 of everything that a compact file says: integers as 64 bits, then the floats."""
    seen = hashlib.sha256()
    quantised, encoded = decode_quantised(data), decode(data)
    for rows in quantised.stages:
        for array in (np.array(rows.patch_size), rows.patches, rows.symbols, rows.codes):
            seen.update(array.astype("<i8").tobytes())
    for name in FIELDS[:4]:
        seen.update(np.asarray(getattr(encoded.gaussians, name)).astype("<f4").tobytes())
    return seen.hexdigest()


# --- round trip ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("name", SETS)
def test_round_trip_is_exact(name, version):
    """Oracle: the input; and the floats are those of `dequantise`."""
    for seed in range(8):
        quantised = random_set(name, seed)
        data = encode(quantised, version=version)
        assert_same(decode_quantised(data), quantised)
        assert encode(decode_quantised(data), version=version) == data
        expected, actual = dequantised(quantised), decode(data)
        assert actual.stage_counts == quantised.stage_counts
        for field in FIELDS:
            got, want = getattr(actual.gaussians, field), getattr(expected.gaussians, field)
            assert (got.dtype, got.tobytes()) == (want.dtype, want.tobytes())


def test_another_process_reads_the_same():
    """Oracle: SHA-256 of integers and floats; NumPy in the child is asked to leave AVX-512 alone."""
    files = [encode(random_set(name), version=version) for name in SETS for version in VERSIONS]
    program = "import sys, test_payload\nfor line in sys.stdin:\n    print(test_payload.digest(bytes.fromhex(line)))\n"
    path = os.pathsep.join(map(str, (ROOT, ROOT / "tests" / "helpers", Path(__file__).parent)))
    env = {**os.environ, "PYTHONPATH": path, "NPY_DISABLE_CPU_FEATURES": "AVX512F AVX512_SKX", "PYTHONHASHSEED": "7"}
    child = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program],
        input="\n".join(data.hex() for data in files),
        capture_output=True,
        text=True,
        env=env,
        timeout=120,
    )
    assert child.returncode == 0, child.stderr
    assert child.stdout.split() == [digest(data) for data in files]


def hand_made(symbols, codes, *, patches=(0,), patch_size=16) -> Rows:
    return Rows(patch_size, np.array(patches, np.int64), np.array(symbols, np.int64), np.array(codes, np.int64))


@pytest.mark.parametrize("luma", [0, 30])
def test_flat_and_grey_images(luma):
    """A grey Gaussian in every patch, all alike; oracle: the input, and the colours by hand."""
    quantised = Quantised((hand_made([[luma, 0, 0, 0, 0, 0, 0, 0]] * 6, [0] * 6, patches=range(6)),), (32, 48))
    data = encode(quantised)
    assert_same(decode_quantised(data), quantised)
    colors = decode(data).gaussians.colors
    assert colors.shape == (6, 3)
    np.testing.assert_array_equal(colors, np.float32(luma * (1 / np.sqrt(3))))
    assert len(chunks_of(data)[1][1]) <= HEADS[2] + 32


@pytest.mark.parametrize(
    ("codes", "row"),
    [
        # The widest bins: only scale and aspect 0 lie in the range, around a centre of 2^7.9 and 1 pixel.
        ((127, 127, 127, 127, 127, 127), (1, -1, 0, 0, 0, 0, 3, -3)),
        ((127, 127, 127, 127, 127, 0), (LARGEST, 0, LARGEST, 0, 0, 0, LARGEST, -LARGEST)),
        # The finest: a scale of 2^-5 at least, from a centre of 1 pixel.
        ((-128, -128, -128, -128, -128, 0), (1, 0, 0, -100, LARGEST, 255, LARGEST, -1)),
        ((-128, 127, -128, 127, -128, 127), (0, 1, 0, 0, 0, 0, -LARGEST, 7)),
        # The centre at 2^-8 pixels lies outside the scales; the scale symbol leads back.
        ((0, 0, 0, 8, 0, -128), (1, 0, 0, 2, 0, 0, 0, 0)),
    ],
)
def test_extreme_codes(codes, row):
    """Oracle: the input, and the second decoder."""
    quantised = Quantised((hand_made([row], codes),), (16, 16))
    for version in VERSIONS:
        data = encode(quantised, version=version)
        assert_same(decode_quantised(data), quantised)
        assert_second_decoder_agrees(data)


def test_limits_of_symbols():
    """The largest symbol that may be written is 2^16 - 1, in every column, and as a base colour far from its mean."""
    codes = [0, 0, 0, -112, 0, 40]
    for sign in (1, -1):
        row = [sign * LARGEST, -sign * LARGEST, sign * LARGEST, 0, LARGEST, 0, sign * LARGEST, -sign * LARGEST]
        other = [-value for value in row[:4]] + row[4:]
        quantised = Quantised((hand_made([row, other, row], codes, patches=range(3)),), (16, 48))
        assert_same(decode_quantised(encode(quantised)), quantised)
    beyond = hand_made([[LARGEST + 1, 0, 0, 0, 0, 0, 0, 0]], codes)
    with pytest.raises(AirjaxError, match="expected symbols up to 65535"):
        encode(Quantised((beyond,), (16, 16)))


def test_what_encode_refuses():
    """A scale out of range is no valid set; neither is an angle beyond the levels, nor patches out of order."""
    good = [5, 0, 0, 0, 0, 0, 0, 0]
    for row, codes in (([5, 0, 0, 400, 0, 0, 0, 0], [0] * 6), ([5, 0, 0, 0, -1, 0, 0, 0], [0] * 6)):
        with pytest.raises(AirjaxError, match="out of range"):
            encode(Quantised((hand_made([row], codes),), (16, 16)))
    with pytest.raises(AirjaxError, match="out of range"):
        encode(Quantised((hand_made([[5, 0, 0, 0, 1, 3, 0, 0]], [0] * 6),), (16, 16)))
    for patches in ((1, 0), (0, 0), (0, 2), (-1, 0)):
        with pytest.raises(ValueError, match="increasing patch numbers below 2"):
            encode(Quantised((hand_made([good, good], [0] * 6, patches=patches),), (16, 32)))
    for size in (3, 65):
        with pytest.raises(AirjaxError, match="patch size: expected 4 to 64"):
            encode(Quantised((hand_made([good], [0] * 6, patch_size=size),), (16, 16)))
    with pytest.raises(AirjaxError, match="stages: expected at most 64"):
        encode(Quantised((hand_made([good], [0] * 6),) * 65, (16, 16)))


# --- prefixes --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["middle symbols", "large symbols", "empty stages"])
def test_prefixes(name):
    """Oracle: the first stages of the set, at the ends of chunks, one byte to both sides, in the middle."""
    quantised = random_set(name)
    data = encode(quantised)
    chunks = chunks_of(data)
    ends = list(itertools.accumulate((12 + len(payload) for _, payload in chunks), initial=10))
    cuts = {end + step for end in ends for step in (-1, 0, 1)} | {(a + b) // 2 for a, b in itertools.pairwise(ends)}
    for cut in sorted(cuts):
        if not 0 <= cut < len(data):
            continue
        with pytest.raises(CutShort):
            decode(data[:cut])
        if cut < ends[1]:
            for read in (partial(decode, partial=True), info):
                with pytest.raises(CutShort):
                    read(data[:cut])
            continue
        whole = sum(end <= cut for end in ends[2:])
        told = info(data[:cut])
        assert told.stage_counts == quantised.stage_counts[:whole] and told.num_stages == len(quantised.stages)
        assert told.attribute_bits is None and not told.whole
        expected = replace(quantised, stages=quantised.stages[:whole])
        assert_same(decode_quantised(data[:cut], partial=True), expected)
        part, want = decode(data[:cut], partial=True), dequantised(expected)
        assert (part.stage_counts, part.image_size) == (want.stage_counts, want.image_size)
        assert all(getattr(part.gaussians, f).tobytes() == getattr(want.gaussians, f).tobytes() for f in FIELDS)
    assert_same(decode_quantised(data, partial=True), quantised)


def test_partial_forgives_nothing_else():
    """A stage left out, damage before the cut, and bytes after the end are refused all the same."""
    data = encode(random_set("middle symbols"))
    chunks = chunks_of(data)
    damaged = bytearray(data[:-20])
    damaged[40] ^= 1
    for bad in (join([*chunks[:2], *chunks[3:]]), bytes(damaged), data + b"\x00"):
        with pytest.raises(FormatError):
            decode(bad, partial=True)


def test_stages_do_not_depend_on_later_ones():
    """Property that progressive decoding rests on: the bytes of a shorter set are a prefix, but for the header."""
    quantised = random_set("large symbols")
    for num in range(len(quantised.stages)):
        assert (
            chunks_of(encode(replace(quantised, stages=quantised.stages[:num])))[1 : num + 1]
            == chunks_of(encode(quantised))[1 : num + 1]
        )


# --- the second decoder ----------------------------------------------------------------------------------


def assert_second_decoder_agrees(data: bytes) -> None:
    image_size, stages = second_decoder.decode(data)
    encoded = decode(data)
    expected = []
    for s in stages:
        patches, symbols = np.array(s.patches, np.int64), np.array(s.symbols, np.int64).reshape(-1, 8)
        expected.append(Rows(s.patch_size, patches, symbols, np.array(s.codes)))
    assert_same(decode_quantised(data), Quantised(tuple(expected), image_size))
    floats = np.array([row for s in stages for row in s.gaussians], np.float32).reshape(-1, 8)
    g = encoded.gaussians
    assert np.concatenate([g.means, g.scales, g.angles[:, None], g.colors], axis=1).tobytes() == floats.tobytes()


@pytest.mark.parametrize("name", SETS)
def test_second_decoder_agrees(name):
    """Oracle: an independent reading of docs/format.md, in Python's integers; every bit of the floats counts."""
    for seed, version in itertools.product(range(2), VERSIONS):
        assert_second_decoder_agrees(encode(random_set(name, seed), version=version))


def test_second_decoder_meets_every_number_of_angles():
    """Oracle: as above; classes 0 to 8 and all entries of LEVELS occur in these sets."""
    rng, seen = np.random.default_rng(5), set()
    for largest in (2, 20, 20, 200, 200, LARGEST, LARGEST):
        rows = random_rows(rng, (48, 64), 8, fill=1, codes=[0, 0, 0, 0, 8, 40], largest=largest)
        seen |= set(geometry_of(rows.symbols, rows.codes).levels.tolist())
        assert_second_decoder_agrees(encode(Quantised((rows,), (48, 64))))
        assert_second_decoder_agrees(encode(Quantised((rows,), (48, 64)), version=1))
    assert seen == set(LEVELS)


def test_zeros_after_the_code():
    """Oracle: the file without them; the document says that a reader drops them."""
    data = encode(random_set("small symbols"))
    chunks = chunks_of(data)
    padded = join([*chunks[:2], (chunks[2][0], chunks[2][1] + bytes(40)), chunks[3]])
    assert_same(decode_quantised(padded), decode_quantised(data))
    assert_second_decoder_agrees(padded)


def test_a_cheap_stage_is_padded():
    """Oracle: section 5 of the document, (20480 - 4096) / 32 bytes of code for 20,480 Gaussians that are all alike."""
    rows = hand_made([[3, 0, 0, 0, 0, 0, 0, 0]] * 20_480, [0] * 6, patches=range(20_480), patch_size=4)
    data = encode(Quantised((rows,), (512, 640)), version=1)  # constant tables need more than that
    chunks = chunks_of(data)
    assert len(chunks[1][1]) == HEADS[1] + 512
    assert chunks[1][1].endswith(bytes(8))
    assert_same(decode_quantised(data), Quantised((rows,), (512, 640)))
    with pytest.raises(FormatError, match="claims 20480 Gaussians in 20480 patches, which need 512 bytes"):
        chunks[1] = (b"STAG", chunks[1][1][:-4])
        decode(join(chunks))


def test_the_work_of_all_stages_counts_together():
    """Oracle: section 5: (4 * 40960 - 65536) / 128 = 768 bytes for four stages, though each alone would need none."""
    rows = hand_made([[3, 0, 0, 0, 0, 0, 0, 0]], [0] * 6, patches=(5,), patch_size=4)
    quantised = Quantised((rows,) * 4, (640, 1024))
    data = encode(quantised)
    chunks = chunks_of(data)
    sizes = [len(payload) - HEADS[2] for tag, payload in chunks if tag == b"STAG"]
    assert sum(sizes) == 768 and sizes[0] < 128
    assert_same(decode_quantised(data), quantised)
    with pytest.raises(FormatError, match="stage 3: claims 1 Gaussians in 40960 patches"):
        decode(join([*chunks[:4], (b"STAG", chunks[4][1][:-4]), chunks[5]]))


def test_symbols_beyond_the_limit_are_refused_by_both_sides():
    """2^16 - 1 is the largest; a writer and a reader that skips the writer's check agree."""
    rows = hand_made([[2**16 - 1, 0, 0, 0, 0, 0, 0, 0]], [-40] * 5 + [0], patches=(0,))
    assert_same(decode_quantised(encode(Quantised((rows,), (8, 8)))), Quantised((rows,), (8, 8)))
    rows.symbols[0, 0] += 1
    with pytest.raises(AirjaxError, match="symbols up to 65535"):
        encode(Quantised((rows,), (8, 8)))
    options = {"grid": (1, 1), "patch_size": rows.patch_size, "codes": rows.codes, "count": 1}
    with pytest.raises(FormatError, match="magnitude up to 65535"):
        code_stage(Encoder(), rows, Memory(PASS_LEVELS[2]), **options)


# --- the bytes themselves --------------------------------------------------------------------------------


def golden_set() -> Quantised:
    """A 21x35 image: stages of 16 and 8 pixels, and an empty one; magnitudes with and without raw bits."""
    first = [
        [12, -1, 0, 0, 3, 2, 1, -2],
        [9, 2, -1, -1, 0, 0, 0, 5],
        [-40, 0, 7, 4, 12, 47, -9, 30],
    ]
    second = [
        [2, 0, 0, 0, 0, 0, 0, 0],
        [-3, 1, 0, 1, 2, 0, -1, 1],
        [0, -5, 8, -2, 0, 0, 6, 0],
        [300, -20, 1, 8, 40, 95, 70, -513],
    ]
    stages = (
        hand_made(first, [-8, -6, 5, 8, 0, 36], patches=(0, 2, 4)),
        hand_made(second, [-16, -12, 4, 7, 8, 20], patches=(1, 3, 7, 14), patch_size=8),
        Rows(8, *NOTHING, np.array([1, -2, 3, -4, 5, -6])),
    )
    return Quantised(stages, (21, 35))


@pytest.mark.parametrize("version", VERSIONS)
def test_golden_file(version):
    """Oracle: the committed bytes, and the integers of `golden_set`, which are written out."""
    data = GOLDEN[version].read_bytes()
    hint = "the bytes of the format changed: add a version and a golden file, and keep the old ones readable"
    assert encode(golden_set(), version=version) == data, hint
    assert_same(decode_quantised(data), golden_set())
    assert decode(data).stage_counts == (3, 4, 0)


@pytest.mark.parametrize("version", VERSIONS)
def test_golden_file_in_the_second_decoder(version):
    """Oracle: an independent reading of the document."""
    assert_second_decoder_agrees(GOLDEN[version].read_bytes())


@pytest.mark.parametrize("version", VERSIONS)
def test_golden_file_is_what_info_says(version):
    """Oracle: sizes added up from the chunks; the bits of the symbols are those of the code, nearly."""
    data = GOLDEN[version].read_bytes()
    got = info(data)
    assert got.version == version
    assert (got.profile, got.image_size, got.channels) == ("compact", (21, 35), 3)
    assert (got.stage_counts, got.num_bytes) == ((3, 4, 0), len(data))
    assert [entry.tag for entry in got.chunks] == ["AHDR", "STAG", "STAG", "STAG", "AEND"]
    assert set(got.attribute_bits) == {"mask", "luma", "chroma", "scale", "aspect", "angle", "offset"}


def test_how_a_file_was_made():
    """Oracle: the numbers; they change nothing else, and come back when the file is written again."""
    plain = golden_set()
    for origin in (Origin(45.5, 3, "compact"), Origin(0.0, None, ""), Origin(100.0, 9, "Gewichte für Bäume")):
        data = encode(replace(plain, origin=origin))
        assert len(data) == len(encode(plain)) + 12 + 3 + len(origin.weights.encode())
        found = decode_quantised(data)
        assert found.origin == origin == info(data).origin and encode(found) == data
        assert_same(found, plain)
    assert info(encode(plain)).origin is None
    long = Origin(1.0, 1, "x" * 200)
    assert decode_quantised(encode(replace(plain, origin=long))).origin == long._replace(weights="x" * 100)


@pytest.mark.parametrize("payload", [b"", b"\x01\x00", b"\x11\x27\x03", b"\x00\x00\x0a", b"\x00\x00\x03" + bytes(101)])
def test_an_origin_that_no_encoder_writes(payload):
    """Too short, a quality of 100.01, an effort of 10, too long a name."""
    chunks = chunks_of(encode(golden_set()))
    data = join([chunks[0], (b"made", payload), *chunks[1:]])
    for read in (decode, info):
        with pytest.raises(FormatError, match="chunk made: expected"):
            read(data)


# --- what the symbols cost -------------------------------------------------------------------------------


def test_constant_tables_of_no_gaussians_are_refused():
    """Oracle: section 5 of the document; the four bytes of the tables are 0 where there is nothing to code."""
    data = encode(golden_set())
    chunks = chunks_of(data)
    assert chunks[3][1][12:] == bytes(4)
    with pytest.raises(FormatError, match="stage 2: expected no tables for no Gaussians"):
        decode(join([*chunks[:3], (b"STAG", chunks[3][1][:12] + b"\x00\x10\x00\x00"), chunks[4]]))


def test_versions_that_are_not_known():
    with pytest.raises(ValueError, match="version: expected one of"):
        encode(golden_set(), version=3)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("name", SETS)
def test_bits_of_the_symbols_are_those_of_the_code(name, version):
    """Oracle: the length of the code, which ends in up to 64 bits of state per stage and loses little on the way."""
    quantised = random_set(name)
    data = encode(quantised, version=version)
    bits = sum(8 * (len(payload) - HEADS[version]) for tag, payload in chunks_of(data) if tag == b"STAG")
    stages = sum(count > 0 for count in quantised.stage_counts)
    assert abs(bits - sum(attribute_bits(quantised, version).values())) <= 0.01 * bits + 64 * stages


if __name__ == "__main__":
    for number, file in GOLDEN.items():
        file.write_bytes(encode(golden_set(), version=number))
        print(f"{file.name}: {file.stat().st_size} bytes")

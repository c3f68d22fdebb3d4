"""The .air file: exact round trip, golden bytes, a second decoder written from the document, hostile input.

The golden file is written by `python tests/image/codec/test_air_file.py`, run from the repository's root. When the
bytes change on purpose, the version of the format changes too: add a golden file, keep the old one readable.
"""

import re
import struct
import tracemalloc
import zlib
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from airjax.errors import AirjaxError, FormatError
from airjax.gaussians import Gaussians2D
from airjax.image.codec.air_file import CutShort, Encoded, compact, decode, encode, info, truncate_stages

ROOT = Path(__file__).resolve().parents[3]
GOLDEN = ROOT / "tests" / "golden" / "lossless_v1.air"
FIELDS = ("means", "scales", "angles", "colors", "active")


def golden_set() -> Encoded:
    """A 5x3 image in three stages of 2, 0 and 1 Gaussians; all numbers are sums of few powers of two."""
    f = np.float32
    return Encoded(
        Gaussians2D(
            means=f([[1.5, 2.5], [3.0, 0.25], [-0.5, 2.0]]),
            scales=f([[0.5, 2.0], [1.0, 1.0], [7.5, 0.75]]),
            angles=f([0.0, 0.5, 3.0]),
            colors=f([[1.0, 0.5, -0.25], [0.0, -0.0, 0.0], [0.125, -1.0, 0.75]]),
            active=np.ones(3, bool),
        ),
        stage_counts=(2, 0, 1),
        image_size=(3, 5),
    )


def random_set(seed: int, counts: tuple[int, ...], *, image_size=(37, 64), channels=3) -> Encoded:
    """Numbers over the whole range of exponents that the format allows, both signs, zeros of both signs."""
    rng, n = np.random.default_rng(seed), sum(counts)

    def signed(*shape):
        values = rng.choice([-1.0, 1.0], shape) * 2.0 ** rng.uniform(-149, 24, shape)
        return np.where(rng.random(shape) < 0.1, -0.0, values).astype(np.float32)

    return Encoded(
        Gaussians2D(
            means=signed(n, 2),
            scales=(2.0 ** rng.uniform(-19.99, 24, (n, 2))).astype(np.float32),
            angles=signed(n),
            colors=signed(n, channels),
            active=np.ones(n, bool),
        ),
        counts,
        image_size,
    )


def assert_identical(actual: Encoded, expected: Encoded) -> None:
    """Equal bit for bit: as bytes, so that -0.0 and 0.0 differ."""
    assert actual.stage_counts == expected.stage_counts
    assert actual.image_size == expected.image_size
    for name in FIELDS:
        got, want = np.asarray(getattr(actual.gaussians, name)), np.asarray(getattr(expected.gaussians, name))
        assert (got.dtype, got.shape) == (want.dtype, want.shape), name
        assert got.tobytes() == want.tobytes(), name


def chunk(tag: bytes, payload: bytes = b"") -> bytes:
    """A chunk with the right checksum, to get past it to the checks behind."""
    return struct.pack("<I", len(payload)) + tag + payload + struct.pack("<I", zlib.crc32(tag + payload))


def header(width=5, height=3, channels=3, profile=1, stages=1) -> bytes:
    return chunk(b"AHDR", struct.pack("<IIBBH", width, height, channels, profile, stages))


ROW = (1.5, 2.5, 0.5, 2.0, 0.0, 1.0, 0.5, -0.25)
START = b"\x89AIR\r\n\x1a\n\x01\x00"
END = chunk(b"AEND")


def rows(stage=0, count=1, values=ROW) -> bytes:
    return chunk(b"ROWS", struct.pack("<II", stage, count) + struct.pack(f"<{len(values)}f", *values))


# --- round trip ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("counts", [(), (0,), (1,), (0, 0, 3), (5, 0, 2, 9), (400, 300)])
@pytest.mark.parametrize("channels", [1, 3, 16])
def test_round_trip_is_bit_exact(counts, channels):
    """Oracle: the input."""
    for seed in range(5):
        encoded = random_set(seed, counts, channels=channels)
        data = encode(encoded)
        assert_identical(decode(data), encoded)
        assert encode(decode(data)) == data


def test_round_trip_of_jax_arrays_and_other_byte_containers():
    """Oracle: the same set in numpy, the same bytes as `bytes`."""
    encoded = golden_set()
    on_device = replace(encoded, gaussians=jax.tree.map(jnp.asarray, encoded.gaussians))
    data = encode(on_device)
    assert data == encode(encoded)
    assert_identical(decode(bytearray(data)), encoded)
    assert_identical(decode(memoryview(data)), encoded)


def test_decoded_arrays_belong_to_the_caller():
    """Property: writable, and independent of the input bytes."""
    data = bytearray(encode(golden_set()))
    decoded = decode(data)
    data[:] = bytes(len(data))
    assert_identical(decoded, golden_set())
    decoded.gaussians.means[0, 0] = 7.0


@pytest.mark.parametrize("image_size", [(1, 1), (1, 2**20), (2**20, 1), (2**13, 2**14)])
def test_extreme_image_sizes(image_size):
    """Oracle: the input; 2^13 x 2^14 is the largest area allowed."""
    encoded = random_set(0, (2,), image_size=image_size)
    assert_identical(decode(encode(encoded)), encoded)


# --- the bytes themselves -----------------------------------------------------------------------------------


def test_golden_file():
    """Oracle: the committed bytes."""
    data = GOLDEN.read_bytes()
    hint = "the bytes of the format changed: raise VERSION, add a golden file, and keep the old ones readable"
    assert encode(golden_set()) == data, hint
    assert_identical(decode(data), golden_set())


def test_document_shows_the_golden_file():
    """Oracle: the hexadecimal listing in docs/format.md."""
    text = (ROOT / "docs" / "format.md").read_text(encoding="utf-8")
    lines = re.findall(r"^[0-9]{3}  ((?:[0-9a-f]{2} ?)+)", text, re.MULTILINE)
    assert bytes.fromhex(" ".join(lines)) == GOLDEN.read_bytes()


def second_decoder(data: bytes) -> tuple[tuple[int, ...], list[list[tuple[float, ...]]]]:
    """Written from docs/format.md alone, with struct, without the library: header numbers, rows per stage."""
    assert data[:10] == START
    offset, tag, numbers, stages = 10, b"", (), []
    while tag != b"AEND":
        (length,) = struct.unpack_from("<I", data, offset)
        tag, payload = data[offset + 4 : offset + 8], data[offset + 8 : offset + 8 + length]
        assert data[offset + 8 + length : offset + 12 + length] == struct.pack("<I", zlib.crc32(tag + payload))
        offset += 12 + length
        if tag == b"AHDR":
            numbers = struct.unpack("<IIBBH", payload)
        elif tag == b"ROWS":
            row = struct.Struct(f"<{5 + numbers[2]}f")
            index, count = struct.unpack_from("<II", payload)
            assert index == len(stages) and len(payload) == 8 + count * row.size
            stages.append(list(row.iter_unpack(payload[8:])))
    assert offset == len(data)
    return numbers, stages


def test_second_decoder_agrees():
    """Oracle: an independent reading of the document."""
    encoded = random_set(3, (4, 0, 7), image_size=(11, 13), channels=2)
    numbers, stages = second_decoder(encode(encoded))
    assert numbers == (13, 11, 2, 1, 3)
    assert tuple(map(len, stages)) == encoded.stage_counts
    g = encoded.gaussians
    want = np.concatenate([g.means, g.scales, g.angles[:, None], g.colors], axis=1)
    np.testing.assert_array_equal(np.float32([row for stage in stages for row in stage]), want)


def test_size_is_what_the_document_says():
    """Oracle: 46 bytes, 20 a stage, 4 * (5 + c) a Gaussian."""
    assert len(encode(random_set(0, (4, 0, 7), channels=2))) == 46 + 3 * 20 + 11 * 28


def test_info_lists_the_chunks():
    """Oracle: offsets and lengths added up by hand from the document."""
    data = GOLDEN.read_bytes()
    got = info(data)
    table = [("AHDR", 10, 12), ("ROWS", 34, 72), ("ROWS", 118, 8), ("ROWS", 138, 40), ("AEND", 190, 0)]
    assert got.chunks == tuple((*entry, True) for entry in table)
    assert (got.version, got.profile, got.image_size, got.channels) == (1, "lossless float32", (3, 5), 3)
    assert (got.stage_counts, got.num_bytes) == ((2, 0, 1), len(data))
    assert got.bits_per_gaussian == 8 * 202 / 3
    assert got.bpp == 8 * 202 / 15
    assert info(encode(random_set(0, (0,)))).bits_per_gaussian is None


def test_info_of_a_damaged_file_names_the_chunk():
    """Oracle: the damage done; `decode` refuses the same bytes."""
    data = bytearray(GOLDEN.read_bytes())
    data[60] ^= 0x10
    assert [entry.crc_ok for entry in info(data).chunks] == [True, False, True, True, True]
    with pytest.raises(FormatError, match="chunk ROWS at byte 34: checksum"):
        decode(data)


# --- helpers ------------------------------------------------------------------------------------------------


def test_truncate_stages_keeps_the_first():
    """Oracle: slices of the input."""
    encoded = random_set(1, (3, 0, 4, 2))
    for num, n in enumerate((0, 3, 3, 7, 9)):
        cut = decode(encode(truncate_stages(encoded, num)))
        assert cut.stage_counts == (3, 0, 4, 2)[:num]
        np.testing.assert_array_equal(cut.gaussians.colors, encoded.gaussians.colors[:n])
    for num in (-1, 5):
        with pytest.raises(ValueError, match="num: expected 0 to 4"):
            truncate_stages(encoded, num)


def test_compact_drops_inactive_slots():
    """Oracle: rows picked by hand."""
    slots = random_set(2, (6,)).gaussians
    slots = replace(slots, active=np.array([True, False, True, False, False, True]))
    encoded = compact(jax.tree.map(jnp.asarray, slots), stage_sizes=(3, 2, 1), image_size=(4, 4))
    assert encoded.stage_counts == (2, 0, 1)
    np.testing.assert_array_equal(encoded.gaussians.means, slots.means[[0, 2, 5]])
    assert_identical(decode(encode(encoded)), encoded)
    for sizes in ((3, 2), (7, -1)):
        with pytest.raises(ValueError, match="stage_sizes: expected"):
            compact(slots, stage_sizes=sizes, image_size=(4, 4))


# --- what encode refuses ------------------------------------------------------------------------------------


def test_encode_refuses_wrong_types_and_shapes():
    good = golden_set()
    g = good.gaussians
    for name in ("means", "scales", "angles", "colors"):
        bad = replace(good, gaussians=replace(g, **{name: getattr(g, name).astype(np.float64)}))
        with pytest.raises(TypeError, match=f"{name}: expected float32, got float64"):
            encode(bad)
    with pytest.raises(TypeError, match="active: expected bool"):
        encode(replace(good, gaussians=replace(g, active=np.ones(3, np.int32))))
    with pytest.raises(ValueError, match="gaussians: expected"):
        encode(replace(good, gaussians=replace(g, angles=g.angles[:, None])))
    with pytest.raises(ValueError, match="1 that are not"):
        encode(replace(good, gaussians=replace(g, active=np.array([True, False, True]))))
    for counts in ((2,), (2, 2), (4, -1)):
        with pytest.raises(ValueError, match="stage_counts: expected counts that sum to 3"):
            encode(replace(good, stage_counts=counts))


@pytest.mark.parametrize("image_size", [(0, 5), (5, 0), (-1, 5), (2**20 + 1, 1), (1, 2**20 + 1), (2**14, 2**14 + 1)])
def test_image_sizes_beyond_the_limits(image_size):
    """Both directions refuse the same sizes; a negative side cannot be written at all."""
    with pytest.raises(AirjaxError, match="image size: expected"):
        encode(replace(golden_set(), image_size=image_size))
    if min(image_size) >= 0:
        with pytest.raises(FormatError, match="image size: expected"):
            decode(START + header(width=image_size[1], height=image_size[0], stages=0) + END)


def test_channels_and_stages_beyond_the_limits():
    with pytest.raises(AirjaxError, match="channels: expected 1 to 16, got 17"):
        encode(random_set(0, (1,), channels=17))
    with pytest.raises(AirjaxError, match="channels: expected 1 to 16, got 0"):
        encode(random_set(0, (1,), channels=0))
    with pytest.raises(AirjaxError, match="stages: expected at most 65535, got 65536"):
        encode(random_set(0, (0,) * 65536))


def test_stage_too_large_for_a_chunk(monkeypatch):
    """The limit is lowered, so that the test needs no 2 GiB."""
    monkeypatch.setattr("airjax.image.codec.chunks.MAX_CHUNK", 8 + 2 * 32)
    assert len(encode(random_set(0, (2,)))) == 46 + 20 + 64
    with pytest.raises(AirjaxError, match="stage 1: expected at most"):
        encode(random_set(0, (2, 3)))


# (row column, value): not finite, or outside the limits of the document by one float32 step.
ABOVE = float(np.nextafter(np.float32(2.0**24), np.float32(np.inf)))
BELOW = float(np.nextafter(np.float32(2.0**-20), np.float32(0.0)))
POISON = [(column, value) for column in range(8) for value in (np.nan, np.inf, -np.inf, ABOVE, -ABOVE)]
POISON += [(column, value) for column in (2, 3) for value in (0.0, -0.0, -1.0, 1e-45, BELOW)]


@pytest.mark.parametrize(("column", "value"), POISON)
def test_poison_numbers(column, value):
    """Both directions refuse them, naming the row; the same file without the poison is fine."""
    values = list(ROW) * 2
    values[8 + column] = value
    with pytest.raises(FormatError, match=r"stage 0: Gaussian 1, .*: expected a number from"):
        decode(START + header() + rows(count=2, values=values) + END)
    assert decode(START + header() + rows(count=2, values=ROW * 2) + END).stage_counts == (2,)

    g = golden_set().gaussians
    table = np.concatenate([g.means, g.scales, g.angles[:, None], g.colors], axis=1)
    table[2, column] = value
    bad = Gaussians2D(table[:, :2], table[:, 2:4], table[:, 4], table[:, 5:], g.active)
    with pytest.raises(AirjaxError, match=r"Gaussian 2, .*: expected a number from"):
        encode(replace(golden_set(), gaussians=bad))


@pytest.mark.parametrize(("column", "value"), [(0, -(2.0**24)), (2, 2.0**-20), (3, 2.0**24), (4, 1e-45), (7, 0.0)])
def test_numbers_on_the_limits_are_fine(column, value):
    """Oracle: the float32 number itself."""
    values = [*ROW[:column], value, *ROW[column + 1 :]]
    data = START + header() + rows(values=values) + END
    assert encode(decode(data)) == data


# --- what decode refuses ------------------------------------------------------------------------------------


def assert_refused(data: bytes, message: str | None = None) -> None:
    """By `decode`; `info` refuses it too, or says that the file is cut short after a header that is there."""
    pattern = None if message is None else re.escape(message)
    with pytest.raises(FormatError, match=pattern) as caught:
        decode(data)
    assert "\n" not in str(caught.value)
    if isinstance(caught.value, CutShort) and len(data) >= len(START + header()):
        assert not info(data).whole
        return
    with pytest.raises(FormatError, match=pattern):
        info(data)


def test_every_truncation_is_refused():
    """Property: no proper prefix of a file is a file."""
    data = GOLDEN.read_bytes()
    for length in range(len(data)):
        assert_refused(data[:length])
    assert info(data).whole


def test_every_changed_byte_is_refused():
    """Property: CRC-32 sees every error of up to 32 bits in a row, the other bytes are checked one by one."""
    data = GOLDEN.read_bytes()
    for position in range(len(data)):
        for value in range(256):
            if value != data[position]:
                with pytest.raises(FormatError):
                    decode(data[:position] + bytes([value]) + data[position + 1 :])


def test_random_damage_is_refused_or_harmless():
    """Property: decode raises FormatError or returns what was stored, for 1,000 broken files."""
    rng = np.random.default_rng(0)
    sources = [encode(random_set(seed, (3, 2))) for seed in range(4)] + [GOLDEN.read_bytes()]
    stored = {data: decode(data) for data in sources}
    refused = 0
    for case in range(1000):
        data = bytearray(sources[rng.integers(len(sources))])
        other = sources[rng.integers(len(sources))]
        a, b = sorted(rng.integers(0, len(data) + 1, 2))
        if case % 4 == 0:
            data[a:b] = rng.bytes(rng.integers(0, 40))
        elif case % 4 == 1:
            data[a:] = other[rng.integers(0, len(other)) :]
        elif case % 4 == 2:
            data = bytearray(START[: rng.integers(0, 11)] + rng.bytes(rng.integers(0, 200)))
        else:
            for position in rng.integers(0, len(data), rng.integers(1, 9)):
                data[position] = rng.integers(256)
        try:
            assert_identical(decode(data), stored[bytes(data)])
        except FormatError:
            refused += 1
    assert refused > 900


BAD_STRUCTURE = {
    "nothing": (b"", "0 bytes"),
    "another format": (b"\x89PNG\r\n\x1a\n" + bytes(30), "not a .air file"),
    "text mode, LF": (START.replace(b"\r\n", b"\n") + header(), "text mode"),
    "text mode, CR LF": (START.replace(b"\x1a\n", b"\x1a\r\n") + header(), "text mode"),
    "seven bits": (b"\x09" + START[1:] + header(), "text mode"),
    "no version": (START[:9], "cut short"),
    "version 0": (START[:8] + b"\x00\x00" + header(), "version: expected 1 or 2, got 0"),
    "version 3": (START[:8] + b"\x03\x00" + header(), "version: expected 1 or 2, got 3"),
    "no chunks": (START, "cut short: expected a chunk at byte 10"),
    "no end": (START + header(stages=0), "cut short"),
    "bytes after the end": (START + header(stages=0) + END + b"\x00", "1 bytes more"),
    "two files": ((START + header(stages=0) + END) * 2, "46 bytes more"),
    "end with a payload": (START + header(stages=0) + chunk(b"AEND", b"x"), "no payload"),
    "no header": (START + END, "expected AHDR as the first"),
    "rows before the header": (START + rows() + header() + END, "expected AHDR as the first"),
    "ancillary before the header": (
        START + chunk(b"note") + header(stages=0) + END,
        "expected AHDR as the first",
    ),
    "two headers": (START + header() + header() + rows() + END, "only there"),
    "short header": (START + chunk(b"AHDR", bytes(11)) + END, "expected 12 bytes, got 11"),
    "long header": (START + chunk(b"AHDR", bytes(13)) + END, "expected 12 bytes, got 13"),
    "unknown profile": (START + header(profile=3) + rows() + END, "profile: expected one of"),
    "no channels": (START + header(channels=0) + END, "channels: expected 1 to 16, got 0"),
    "too many channels": (START + header(channels=17) + END, "channels: expected 1 to 16, got 17"),
    "unknown critical chunk": (
        START + header() + chunk(b"NEWs") + rows() + END,
        "chunk NEWs at byte 34: unknown",
    ),
    "tag with a digit": (START + header() + chunk(b"ROW5") + END, "four letters"),
    "tag outside ASCII": (START + header() + chunk(b"ROW\xc4") + END, "four letters"),
    "stage missing": (START + header(stages=2) + rows() + END, "expected 2 stages, got 1"),
    "stage too many": (START + header() + rows() + rows(stage=1) + END, "got stage 1"),
    "stage twice": (START + header(stages=2) + rows() + rows() + END, "expected stage 1 of 2, got stage 0"),
    "stages swapped": (
        START + header(stages=2) + rows(stage=1) + rows() + END,
        "expected stage 0 of 2, got stage 1",
    ),
    "rows without a head": (START + header() + chunk(b"ROWS", bytes(7)) + END, "expected 8 bytes or more"),
    "fewer rows than claimed": (START + header() + rows(count=2) + END, "claims 2 Gaussians, 72 bytes"),
    "more rows than claimed": (START + header() + rows(count=0) + END, "claims 0 Gaussians, 8 bytes"),
    "rows of other channels": (START + header(channels=4) + rows() + END, "claims 1 Gaussians, 44 bytes"),
}


@pytest.mark.parametrize("name", BAD_STRUCTURE)
def test_bad_structure(name):
    """Checksums are right: these reach the checks behind them."""
    assert_refused(*BAD_STRUCTURE[name])


def test_unknown_ancillary_chunks_are_skipped():
    """Oracle: the same file without them."""
    plain = START + header() + rows() + END
    data = START + header() + chunk(b"nOTE", b"hello") + rows() + chunk(b"note") + END
    assert_identical(decode(data), decode(plain))
    assert [entry.tag for entry in info(data).chunks] == ["AHDR", "nOTE", "ROWS", "note", "AEND"]


LIES = {
    "60000x60000 pixels": header(60_000, 60_000),
    "chunk of 4 GiB": header() + b"\xff\xff\xff\xffROWS" + bytes(60),
    "chunk of 2 GiB": header() + b"\xff\xff\xff\x7fROWS" + bytes(60),
    "ancillary chunk of 1 GiB": header() + b"\x00\x00\x00\x40note" + bytes(60),
    "10^9 Gaussians": header() + rows(count=10**9) + END,
    "Gaussians beyond 32 bits": header() + rows(count=0xFFFFFFFF) + END,
    "65535 stages": header(stages=0xFFFF) + rows() + END,
}


@pytest.mark.parametrize("name", LIES)
def test_a_small_file_cannot_claim_much_memory(name):
    """Oracle: the allocations traced; the bound is far below every claim and far above a traceback."""
    data = START + LIES[name]
    tracemalloc.start()
    try:
        assert_refused(data)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 2**20


if __name__ == "__main__":
    GOLDEN.parent.mkdir(exist_ok=True)
    GOLDEN.write_bytes(encode(golden_set()))
    print(f"{GOLDEN.name}: {GOLDEN.stat().st_size} bytes")

"""The container by its laws, on any content: what was packed comes back, and no damage goes unseen."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from airjax.errors import FormatError
from airjax.image.codec.chunks import MAX_CHANNELS, PROFILE_COMPACT, PROFILE_NAMES, VERSIONS, Header, assemble, walk
from airjax.image.codec.chunks import parse_header as parse

SIDES = st.integers(1, 4096)
HEADERS = st.builds(
    Header,
    image_size=st.tuples(SIDES, SIDES),
    channels=st.integers(1, MAX_CHANNELS),
    profile=st.sampled_from([*PROFILE_NAMES]),
    num_stages=st.integers(0, 2**16 - 1),
    version=st.sampled_from(VERSIONS),
).map(lambda header: header if header.profile == PROFILE_COMPACT else header._replace(version=1))
TAGS = st.sampled_from([b"ROWS", b"STAG", b"note", b"zZZZ"])  # needed ones, and ancillary ones of any later version
BODIES = st.lists(st.tuples(TAGS, st.binary(max_size=40)), max_size=5)


def read(data: bytes) -> list:
    """The chunks of a file up to its fault, and then the fault."""
    found = []
    try:
        for chunk in walk(memoryview(data)):
            found.append(chunk)
    except FormatError as error:
        assert "\n" not in str(error)
        found.append(error)
    return found


@settings(max_examples=100, deadline=None, derandomize=True)
@given(HEADERS, BODIES)
def test_what_was_packed_comes_back(header, bodies):
    first, *middle, last = read(assemble(header, bodies))
    assert parse(first, header.version) == header and last.tag == "AEND"
    assert [(chunk.tag.encode(), bytes(chunk.payload)) for chunk in middle] == bodies
    assert all(chunk.crc_ok for chunk in (first, *middle, last))


@settings(max_examples=200, deadline=None, derandomize=True)
@given(HEADERS, BODIES, st.data())
def test_one_bit_turned_over_is_seen(header, bodies, data):
    good = assemble(header, bodies)
    bit = data.draw(st.integers(0, 8 * len(good) - 1))
    bad = bytearray(good)
    bad[bit // 8] ^= 1 << bit % 8
    found = read(bytes(bad))
    assert isinstance(found[-1], FormatError) or not all(chunk.crc_ok for chunk in found)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(HEADERS, BODIES, st.data())
def test_a_cut_file_gives_its_whole_chunks_and_says_where(header, bodies, data):
    good = assemble(header, bodies)
    cut = good[: data.draw(st.integers(0, len(good) - 1))]
    *found, error = read(cut)
    assert isinstance(error, FormatError)
    whole = read(good)
    assert [bytes(chunk.payload) for chunk in found] == [bytes(chunk.payload) for chunk in whole[: len(found)]]
    end = found[-1].offset + 12 + len(found[-1].payload) if found else 10
    assert len(cut) < end + 12 + len(whole[len(found)].payload)


def test_bytes_behind_the_end_are_refused():
    data = assemble(Header((4, 4), 3, 1, 0), [])
    with pytest.raises(FormatError, match=r"expected the end of the file at byte \d+, got 1 bytes more"):
        list(walk(memoryview(data + b"\0")))

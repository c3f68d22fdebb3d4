"""Coders and contexts of the entropy coder."""

import numpy as np
import pytest

from airjax.errors import FormatError
from airjax.image.codec import entropy
from airjax.image.codec.entropy import PASS_LEVELS, Decoder, Encoder
from airjax.image.codec.quantise import LEVELS
from airjax.image.codec.tables import (
    ANGLES,
    ASPECT,
    BASE_COLORS,
    BASE_MASK,
    COLORS,
    GROUPS,
    MASK,
    MAX_SYMBOL,
    OFFSETS,
    SCALE,
    Channel,
    ConstantTables,
    LearningTables,
)

CHANNELS = [MASK, BASE_MASK, *COLORS, *BASE_COLORS, SCALE, ASPECT, *ANGLES, *OFFSETS]
TABLES = {1: LearningTables, 2: lambda: ConstantTables(range(len(GROUPS)))}


def random_calls(rng):
    """(channel, contexts, values): what the encoder is told, over all channels and magnitudes."""
    for channel in CHANNELS:
        size = int(rng.integers(0, 60))
        largest = min(channel.most, MAX_SYMBOL)
        values = np.floor((largest + 1) ** rng.random(size) - 1).astype(np.int64)
        sign = rng.choice([-1, 1], size) if channel.signed else 1
        values <<= channel.num_last
        most_contexts = 1 if channel.group in ("angle", "offset") else 5
        yield channel, rng.integers(0, most_contexts, size), sign * values


@pytest.mark.parametrize("version", TABLES)
def test_decoder_gives_back_what_the_encoder_got(version):
    """Oracle: the values; learning tables learn the same on both sides, over all stages."""
    there, back = TABLES[version](), TABLES[version]()
    for seed in range(5):
        calls, encoder = list(random_calls(np.random.default_rng(seed))), Encoder()
        for call in calls:
            np.testing.assert_array_equal(encoder.values(*call), call[2])
        words = encoder.words(there)
        assert words[-1] != 0
        decoder = Decoder(back, words)
        for channel, contexts, values in calls:
            np.testing.assert_array_equal(decoder.values(channel, contexts, None), values)
        assert decoder.at_end()
    if version == 1:
        assert {k: c.tolist() for k, c in there._counts.items()} == {k: c.tolist() for k, c in back._counts.items()}


@pytest.mark.parametrize("channels", [ANGLES, OFFSETS])
def test_a_call_for_each_channel(channels):
    """Oracle: the words of one call after the other, in ascending order of channels."""
    rng = np.random.default_rng(0)
    for size in (0, 1, 400):
        numbers = rng.integers(1, 16, size)
        values = np.floor(2 ** (8 * rng.random(size)) - 1).astype(np.int64)
        together, apart = Encoder(), Encoder()
        np.testing.assert_array_equal(together.each(channels, numbers, values), values)
        for number in np.unique(numbers).tolist():
            mine = values[numbers == number]
            apart.values(channels[number], np.zeros(len(mine), int), mine)
        if size:
            words = together.words(TABLES[2]())
            np.testing.assert_array_equal(words, apart.words(TABLES[2]()))
            np.testing.assert_array_equal(Decoder(TABLES[2](), words).each(channels, numbers, None), values)


@pytest.mark.parametrize("version", TABLES)
def test_bits_are_those_of_the_code(version):
    """Oracle: the length of the code, within 1% and the 64 bits of the coder's state."""
    for seed in range(5):
        encoder = Encoder()
        for call in random_calls(np.random.default_rng(seed)):
            encoder.values(*call)
        bits, bits_of = 32 * len(encoder.words(TABLES[version]())), encoder.bits_of(TABLES[version]())
        assert abs(bits - sum(bits_of.values())) <= 0.01 * bits + 64
        assert set(bits_of) == {"mask", "luma", "chroma", "scale", "aspect", "angle", "offset"}


def test_tables_adapt():
    """Oracle: the entropy of the source, 2 bits; 4,000 symbols of four equally frequent kinds."""
    rng, encoder = np.random.default_rng(0), Encoder()
    for _ in range(40):
        encoder.values(Channel("x", "luma", 37, 400), np.zeros(100, int), rng.choice([-3, 0, 2, 6], 100))
    assert 2.0 < encoder.bits_of(LearningTables())["x"] / 4000 < 2.1


def test_what_was_seen():
    """Oracle: counted by hand; two contexts of one channel, and the table of another channel of its group."""
    encoder = Encoder()
    encoder.values(SCALE, np.array([2, 0, 2]), np.array([1, -1, 1]))
    encoder.values(OFFSETS[3], np.array([0, 0]), np.array([0, 9]))
    encoder.values(OFFSETS[18], np.array([0]), np.array([0]))
    seen = encoder.seen()
    assert set(seen) == {"scale", "offset"} and [seen["scale"].shape[0], seen["offset"].shape[0]] == [9, 19]
    assert {tuple(i): seen["scale"][tuple(i)] for i in np.argwhere(seen["scale"]).tolist()} == {(0, 1): 1, (2, 2): 2}
    assert np.argwhere(seen["offset"]).tolist() == [[3, 0], [3, 16], [18, 0]]


def test_a_zero_word_at_the_end_is_refused():
    with pytest.raises(FormatError, match="ends in a zero word"):
        Decoder(LearningTables(), np.array([5, 0], np.uint32))


@pytest.mark.parametrize("version", PASS_LEVELS)
@pytest.mark.parametrize("grid", [(1, 1), (3, 5), (16, 16), (17, 33), (40, 1)])
def test_passes_visit_every_patch_once_and_see_the_past(grid, version):
    """Property that decoding rests on: each patch is in one pass, and sees only patches of earlier ones, nearby."""
    walk = entropy._walk(grid, PASS_LEVELS[version])
    n = grid[0] * grid[1]
    assert sorted(walk.order.tolist()) == list(range(n)) and len(walk.ends) - 1 == 1 + 2 * PASS_LEVELS[version]
    where = [divmod(patch, grid[1]) for patch in walk.order.tolist()]
    visited = 0
    for part, seen in walk.passes():
        assert part.start == visited and np.all((seen < visited) | (seen == n))
        visited = part.stop
        for place, neighbours in zip(range(part.start, part.stop), seen.T.tolist(), strict=True):
            for other in set(neighbours) - {n}:
                assert max(abs(a - b) for a, b in zip(where[place], where[other], strict=True)) <= 8
    assert visited == n


@pytest.mark.parametrize("version", PASS_LEVELS)
def test_a_walk_over_some_patches(version):
    """Oracle: patch numbers, of the walk over all of them."""
    walk = entropy._walk((17, 33), PASS_LEVELS[version])
    for share in (0.0, 0.3, 1.0):
        mask = np.random.default_rng(0).random(17 * 33) < share
        some = walk.only(mask)
        patches, n = set(walk.order[mask].tolist()), len(some.order)
        assert some.order.tolist() == walk.order[mask].tolist()
        numbers, all_numbers = (np.append(one.order, -1)[one.seen] for one in (some, walk))
        expected = np.where(np.isin(all_numbers, list(patches)), all_numbers, -1)[:, mask]
        np.testing.assert_array_equal(numbers, expected)
        for (part, _), (whole, _) in zip(some.passes(), walk.passes(), strict=True):
            assert some.order[part].tolist() == walk.order[whole][mask[whole]].tolist()
        assert some.ends[-1] == n


def test_angles_fit_their_tables():
    """Property: the coarse part of every angle lies in what its table expects."""
    for levels, channel in zip(LEVELS, ANGLES, strict=True):
        assert (levels - 1) >> channel.num_last == channel.most or levels >> channel.num_last < 48

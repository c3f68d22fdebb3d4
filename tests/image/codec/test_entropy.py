"""Tokens, tables and contexts of the entropy coder."""

import numpy as np
import pytest

from airjax.errors import FormatError
from airjax.image.codec import entropy
from airjax.image.codec.entropy import (
    MAX_SYMBOL,
    NUM_TOKENS,
    Channel,
    Decoder,
    Encoder,
    Meter,
    Tables,
    frequencies,
    tokens_of,
)
from airjax.image.codec.quantise import LEVELS

CHANNELS = [
    entropy._MASK,
    entropy._BASE_MASK,
    *entropy._COLORS,
    *entropy._BASE_COLORS,
    entropy._SCALE,
    entropy._ASPECT,
    *entropy._ANGLES,
    *entropy._OFFSETS,
]

# --- tokens ----------------------------------------------------------------------------------------------


def test_tokens_of_all_integers_come_back():
    """Oracle: the integers, from the tables that the decoder looks a token up in."""
    values = np.arange(-MAX_SYMBOL, MAX_SYMBOL + 1)
    tokens, num_raw, raw = tokens_of(values)
    assert (tokens.min(), tokens.max()) == (0, NUM_TOKENS - 1)
    np.testing.assert_array_equal(entropy._TOKEN_RAW[tokens], num_raw)
    assert np.all((raw >= 0) & (raw < 2**num_raw))
    np.testing.assert_array_equal(entropy._TOKEN_SIGN[tokens] * (entropy._TOKEN_FIRST[tokens] + raw), values)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (0, (0, 0, 0)),
        (-1, (1, 0, 0)),
        (1, (2, 0, 0)),
        (7, (14, 0, 0)),
        (-7, (13, 0, 0)),
        (8, (16, 2, 0)),
        (11, (16, 2, 3)),
        (12, (18, 2, 0)),
        (-16, (19, 3, 0)),
        (23, (20, 3, 7)),
        (2**16 - 1, (66, 14, 2**14 - 1)),
    ],
)
def test_tokens_by_hand(value, expected):
    """Oracle: worked out on paper from docs/format.md, section 7."""
    assert tuple(int(part[0]) for part in tokens_of(np.array([value]))) == expected


# --- tables ----------------------------------------------------------------------------------------------


def test_start_counts_follow_the_geometric_distribution():
    """Oracle: the closed form weight * (r^f - r^(f + u)), halved for two signs; integers are floored, twice."""
    for channel in CHANNELS:
        counts = np.array(entropy._start_counts(*channel[1:]))
        assert counts.shape == (NUM_TOKENS,) and counts.min() >= 1
        ratio = channel.mean / (channel.mean + 16)
        first = entropy._TOKEN_FIRST.astype(float)
        width = 2.0**entropy._TOKEN_RAW
        above = np.where(first + width <= channel.most, ratio ** (first + width), 0)
        mass = channel.weight * np.where(first <= channel.most, ratio**first - above, 0)
        odd = np.arange(NUM_TOKENS) % 2 == 1
        share = np.where(np.arange(NUM_TOKENS) == 0, 1, 0.5) if channel.signed else np.where(odd, 0, 1)
        # The ratio is floored to 16 bits and every power to 32: within 1 of the real number, the mass floored.
        np.testing.assert_allclose(counts, 1 + mass * share, atol=1.5)


def test_frequencies_sum_to_2_24():
    """Property: whatever the counts, no token has frequency 0; oracle for the size: proportion to the counts."""
    rng = np.random.default_rng(0)
    extreme = np.ones(NUM_TOKENS, np.int64)
    cases = [extreme, *(np.where(np.arange(NUM_TOKENS) == i, 2**14 - 1, 1) for i in (0, 1, NUM_TOKENS - 1))]
    cases += [rng.integers(1, 2 ** rng.integers(1, 15), NUM_TOKENS) for _ in range(200)]
    cases += [np.array(entropy._start_counts(*channel[1:])) for channel in CHANNELS]
    for counts in cases:
        f = frequencies(counts)
        assert f.sum() == 2**24 and f.min() >= 1
        np.testing.assert_allclose(f[1:] / 2**24, counts[1:] / counts.sum(), atol=(NUM_TOKENS + 2) / 2**24)


def test_the_model_of_constriction_is_exactly_ours():
    """Oracle: the coder's arithmetic in Python's integers with `frequencies`, as docs/format.md has it."""
    rng = np.random.default_rng(1)
    for _ in range(20):
        counts = rng.integers(1, 2 ** rng.integers(1, 13), NUM_TOKENS)
        f = frequencies(counts)
        starts = np.concatenate([[0], np.cumsum(f)]).tolist()
        symbols = rng.choice(NUM_TOKENS, 60, p=counts / counts.sum())
        state, words = 0, []
        for symbol in symbols[::-1].tolist():
            frequency = int(f[symbol])
            if state >= frequency << 40:
                words.append(state % 2**32)
                state >>= 32
            state = state // frequency * 2**24 + starts[symbol] + state % frequency
        while state:
            words.append(state % 2**32)
            state >>= 32
        coder = entropy._AnsCoder()
        coder.encode_reverse(symbols.astype(np.int32), entropy._model(f))
        assert coder.get_compressed().tolist() == words


def test_learning_keeps_every_count():
    """Property: counts stay at least 1 and their sum at most 2^14; what is seen always becomes the most frequent."""
    tables, channel = Tables(), CHANNELS[2]
    for _ in range(50):
        tables.learn(channel, np.array([3, 7]), 400 * np.eye(NUM_TOKENS, dtype=int)[[5, 6]])
        counts = tables.counts(channel, np.array([3, 4, 7]))
        assert counts.min() >= 1 and counts.sum(axis=1).max() <= 2**14
    assert counts.argmax(axis=1).tolist()[::2] == [5, 6]
    assert counts[1].tolist() == list(entropy._start_counts(*channel[1:]))


# --- coders ----------------------------------------------------------------------------------------------


def random_calls(rng):
    """(channel, contexts, values): what the encoder is told, over all channels and magnitudes."""
    for channel in CHANNELS:
        size = int(rng.integers(0, 60))
        largest = min(channel.most, MAX_SYMBOL)
        values = np.floor((largest + 1) ** rng.random(size) - 1).astype(np.int64)
        sign = rng.choice([-1, 1], size) if channel.signed else 1
        yield channel, rng.integers(0, 5, size), sign * values


def test_decoder_gives_back_what_the_encoder_got():
    """Oracle: the values; the decoder's tables learn the same."""
    for seed in range(5):
        calls = list(random_calls(np.random.default_rng(seed)))
        there, back = Tables(), Tables()
        encoder = Encoder(there)
        for call in calls:
            np.testing.assert_array_equal(encoder.values(*call), call[2])
        words = encoder.words()
        assert words[-1] != 0
        decoder = Decoder(back, words)
        for channel, contexts, values in calls:
            np.testing.assert_array_equal(decoder.values(channel, contexts, None), values)
        assert decoder.at_end()
        assert {key: c.tolist() for key, c in there._counts.items()} == {k: c.tolist() for k, c in back._counts.items()}


def test_meter_measures_the_code():
    """Oracle: the length of the code, within 1% and the 64 bits of the coder's state."""
    for seed in range(5):
        encoder, meter = Encoder(Tables()), Meter(Tables())
        for call in random_calls(np.random.default_rng(seed)):
            encoder.values(*call)
            meter.values(*call)
        bits = 32 * len(encoder.words())
        assert abs(bits - sum(meter.bits_of.values())) <= 0.01 * bits + 64
        assert set(meter.bits_of) == {"mask", "luma", "chroma", "scale", "aspect", "angle", "offset"}


def test_tables_adapt():
    """Oracle: the entropy of the source, 2 bits; 4,000 symbols of four equally frequent kinds."""
    rng, meter = np.random.default_rng(0), Meter(Tables())
    for _ in range(40):
        meter.values(Channel("x", 37, 400), np.zeros(100, int), rng.choice([-3, 0, 2, 6], 100))
    assert 2.0 < meter.bits_of["x"] / 4000 < 2.1


def test_a_zero_word_at_the_end_is_refused():
    with pytest.raises(FormatError, match="ends in a zero word"):
        Decoder(Tables(), np.array([5, 0], np.uint32))


@pytest.mark.parametrize("grid", [(1, 1), (3, 5), (16, 16), (17, 33), (40, 1)])
def test_passes_visit_every_patch_once_and_see_the_past(grid):
    """Property that decoding rests on: each patch is in one pass, and sees only patches of earlier ones."""
    pad, seen_so_far = entropy._PAD, set()
    width = grid[1] + 2 * pad
    for where, seen in entropy._passes(grid):
        for home, neighbours in zip(entropy._home(where, grid).tolist(), seen.tolist(), strict=True):
            for cell in neighbours:
                row, column = cell // width - pad, cell % width - pad
                inside = 0 <= row < grid[0] and 0 <= column < grid[1]
                assert not inside or cell in seen_so_far
                assert max(abs(row - home // width + pad), abs(column - home % width + pad)) <= 8
        seen_so_far |= set(entropy._home(where, grid).tolist())
    assert len(seen_so_far) == sum(len(where) for where, _ in entropy._passes(grid)) == grid[0] * grid[1]


def test_angles_fit_their_tables():
    """Property: the coarse part of every angle lies in what its table expects."""
    for levels, channel in zip(LEVELS, entropy._ANGLES, strict=True):
        num_raw = max(0, ((levels - 1) // 48).bit_length())
        assert (levels - 1) >> num_raw == channel.most or levels >> num_raw < 48

"""Tokens, learning tables and constant ones."""

import constriction
import numpy as np
import pytest

from airjax.image.codec import tables
from airjax.image.codec.tables import (
    ANGLES,
    ASPECT,
    BASE_COLORS,
    BASE_MASK,
    COLORS,
    GROUPS,
    MASK,
    MAX_SYMBOL,
    NUM_SETS,
    NUM_TOKENS,
    OFFSETS,
    SCALE,
    ConstantTables,
    LearningTables,
    Model,
    choose_sets,
    counts_of,
    frequencies,
    pack_sets,
    start_counts,
    tokens_of,
)

CHANNELS = [MASK, BASE_MASK, *COLORS, *BASE_COLORS, SCALE, ASPECT, *ANGLES, *OFFSETS]

# --- tokens ----------------------------------------------------------------------------------------------


def test_tokens_of_all_integers_come_back():
    """Oracle: the integers, from the tables that the decoder looks a token up in."""
    values = np.arange(-MAX_SYMBOL, MAX_SYMBOL + 1)
    tokens, num_raw, raw = tokens_of(values)
    assert (tokens.min(), tokens.max()) == (0, NUM_TOKENS - 1)
    np.testing.assert_array_equal(tables.TOKEN_RAW[tokens], num_raw)
    assert np.all((raw >= 0) & (raw < 2**num_raw))
    np.testing.assert_array_equal(tables.TOKEN_SIGN[tokens] * (tables.TOKEN_FIRST[tokens] + raw), values)


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


def start_of(channel) -> tuple[int, ...]:
    return start_counts(channel.mean, channel.weight, channel.signed, channel.most)


# --- learning tables ----------------------------------------------------------------------------------------------


def test_start_counts_follow_the_geometric_distribution():
    """Oracle: the closed form weight * (r^f - r^(f + u)), halved for two signs; integers are floored, twice."""
    for channel in CHANNELS:
        counts = np.array(start_of(channel))
        assert counts.shape == (NUM_TOKENS,) and counts.min() >= 1
        ratio = channel.mean / (channel.mean + 16)
        first = tables.TOKEN_FIRST.astype(float)
        width = 2.0**tables.TOKEN_RAW
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
    cases += [np.array(start_of(channel)) for channel in CHANNELS]
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
        coder = constriction.stream.stack.AnsCoder()
        coder.encode_reverse(symbols.astype(np.int32), Model(f).of_coder)
        assert coder.get_compressed().tolist() == words


def test_learning_keeps_every_count():
    """Property: counts stay at least 1 and their sum at most 2^14; what is seen always becomes the most frequent."""
    learning, channel = LearningTables(), CHANNELS[2]
    for _ in range(50):
        learning.learn(channel, [3, 7], [400, 400], np.repeat([5, 6], 400))
        counts = learning.counts(channel, [3, 4, 7])
        assert counts.min() >= 1 and counts.sum(axis=1).max() <= 2**14
    assert counts.argmax(axis=1).tolist()[::2] == [5, 6]
    assert counts[1].tolist() == list(start_of(channel))


# --- constant tables -------------------------------------------------------------------------------------


def test_counts_of_bytes():
    """Oracle: 2^(24 - byte / 8) in floats, shared out among the signs."""
    logarithms = np.array([[0, 8, 9, 255], [3, 40, 17, 100]], np.uint8)
    expected = 2.0 ** (24 - logarithms / 8)
    signed, unsigned = counts_of(logarithms, signed=True), counts_of(logarithms, signed=False)
    np.testing.assert_allclose(unsigned[:, 0:8:2], expected, atol=1)
    assert not unsigned[:, 1::2].any() and not unsigned[:, 8:].any()
    np.testing.assert_allclose(signed[:, 0], expected[:, 0], atol=1)
    for sign in (1, 2):
        np.testing.assert_allclose(signed[:, sign : sign + 6 : 2], expected[:, 1:] / 2, atol=1)


def test_every_context_has_a_table_of_its_own():
    """The contexts that docs/format.md names are as many as there are tables, and channels do not share any."""
    contexts = {"mask": 120, "luma": 14, "chroma 1": 40, "chroma 2": 40, "scale": 9, "aspect": 72}
    for channel in (MASK, BASE_MASK, *COLORS, *BASE_COLORS, SCALE, ASPECT):
        assert (GROUPS[channel.group].tables, channel.first) == (contexts[channel.group], 0)
    for channels, name in ((ANGLES, "angle"), (OFFSETS, "offset")):
        assert [channel.first for channel in channels] == list(range(GROUPS[name].tables))


def test_the_shipped_tables():
    """Property: every model codes every token, and the sets of a group differ; the file is as long as it should be."""
    size = sum(NUM_SETS * group.tables * group.steps for group in GROUPS.values())
    assert len(tables.resources.files(tables.__package__).joinpath(tables.FILE).read_bytes()) == size
    for name, group in GROUPS.items():
        models = tables.frequencies_of(name)
        assert models.shape == (NUM_SETS, group.tables, NUM_TOKENS)
        assert models.min() >= 1 and np.all(models.sum(axis=-1) == 2**24)
        assert len({row.tobytes() for row in models}) > NUM_SETS // 2


def test_sets_come_back_from_their_bytes(monkeypatch, tmp_path):
    """Oracle: the arrays that were packed; and which of them a stage gets."""
    rng = np.random.default_rng(0)
    sets = {name: rng.integers(0, 256, (NUM_SETS, g.tables, g.steps)).astype(np.uint8) for name, g in GROUPS.items()}
    (tmp_path / tables.FILE).write_bytes(pack_sets(sets))
    monkeypatch.setattr(tables.resources, "files", lambda package: tmp_path)
    for cached in (tables._all_logarithms, tables._models_of, tables._bits_of):
        cached.cache_clear()
    try:
        constant = ConstantTables([3, 0, 0, 0, 0, 0, 0, 15])
        found = [model.frequencies for model in constant.models(OFFSETS[4], [0])]
        np.testing.assert_array_equal(found[0], frequencies(counts_of(sets["offset"][15, 4], signed=True)))
        found = [model.frequencies for model in constant.models(MASK, [7, 119])]
        np.testing.assert_array_equal(found, frequencies(counts_of(sets["mask"][3][[7, 119]], signed=False)))
    finally:
        for cached in (tables._all_logarithms, tables._models_of, tables._bits_of):
            cached.cache_clear()
    sets["luma"] = sets["luma"][:3]
    with pytest.raises(ValueError, match="luma: expected"):
        pack_sets(sets)


def test_the_cheapest_sets_are_chosen():
    """Oracle: all sets tried; symbols drawn from one set choose it, or one that codes them as well."""
    rng, expected, seen = np.random.default_rng(0), [], {}
    for number, name in enumerate(GROUPS):
        models = tables.frequencies_of(name) / 2**24
        shares = models[number] / models[number].sum(axis=1, keepdims=True)
        seen[name] = np.stack([rng.multinomial(50, row) for row in shares])
        expected.append(min(range(NUM_SETS), key=lambda k: -np.sum(seen[name] * np.log2(models[k]))))
    assert choose_sets(seen) == tuple(expected)
    assert choose_sets({}) == (0,) * len(GROUPS)

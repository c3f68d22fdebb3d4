"""Constant tables from files: what a set is the mean of, and how files are shared out among sets."""

import numpy as np
import pytest
from fuzz import random_quantised

from airjax.image.codec import air_file
from airjax.image.codec.tables import FILE, GROUPS, NUM_SETS, NUM_TOKENS, counts_of, frequencies
from train.image import code_tables
from train.image.code_tables import bits_with, logarithms_of, main, prior_of, symbols_seen, train_sets

SIZE = (64, 96)


@pytest.fixture
def files(tmp_path):
    """Files of few small symbols and of many large ones."""
    rng, paths = np.random.default_rng(0), []
    for number in range(12):
        fill, largest = (0.2, 3) if number % 2 else (0.9, 200)
        path = tmp_path / f"{number:02}.air"
        quantised = random_quantised(rng, SIZE, (16, 8), fill=fill, largest=largest)
        path.write_bytes(air_file.encode(quantised, version=1 + number % 2))
        paths.append(path)
    return paths


def test_every_symbol_is_seen_once(files):
    """Oracle: eight symbols a Gaussian but for angles that are alone, and one for every patch."""
    rows = sum(sum(air_file.info(file.read_bytes()).stage_counts) for file in files)
    seen = symbols_seen(files)
    assert seen["mask"].sum() == len(files) * (4 * 6 + 8 * 12)
    for name in ("luma", "chroma 1", "chroma 2", "scale", "aspect"):
        assert seen[name].sum() == rows and seen[name].shape == (24, GROUPS[name].tables, NUM_TOKENS)
    assert seen["offset"].sum() == 2 * rows and 0 < seen["angle"].sum() <= rows


def test_logarithms_of_counts():
    """Oracle: the shares of the counts, where there are many of them; the prior where there are none."""
    counts = np.zeros((GROUPS["scale"].tables, NUM_TOKENS))
    counts[0, :5] = 8e9, 1e9, 1e9, 2e9, 4e9
    models = frequencies(counts_of(logarithms_of(counts, "scale"), signed=True)) / 2**24
    np.testing.assert_allclose(models[0, :5], [0.5, 0.0625, 0.0625, 0.1875, 0.1875], rtol=0.1)  # signs are alike
    np.testing.assert_allclose(models[1, :9], prior_of("scale")[1, :9], rtol=0.15)


def test_sets_suit_what_they_are_for(files):
    """Two kinds of files are coded in fewer bits by several sets than by their mean."""
    for name in ("luma", "mask", "offset"):
        seen = symbols_seen(files)[name]
        mean = logarithms_of(seen.sum(axis=0)[None].repeat(NUM_SETS, axis=0), name)
        one, many = (bits_with(seen, sets, name).min(axis=1).sum() for sets in (mean, train_sets(seen, name)))
        assert many < 0.97 * one


def test_the_program(files, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(code_tables, "_ROUNDS", 2)
    main([str(tmp_path), str(tmp_path / FILE), "--held-out", "4"])
    assert (tmp_path / FILE).stat().st_size == sum(NUM_SETS * g.tables * g.steps for g in GROUPS.values())
    lines = capsys.readouterr().out.splitlines()
    assert "from 9 files" in lines[0] and len(lines) == 1 + len(GROUPS) and "3 files left out" in lines[1]


def test_folders_without_files_to_learn_from(files, tmp_path, capsys):
    """One line, exit 2: nothing there, all held out, a file that is damaged."""
    files[3].write_bytes(files[3].read_bytes()[:-9])
    (tmp_path / "empty").mkdir()
    for folder, options, message in (
        (tmp_path / "empty", [], "expected compact .air files, found 0"),
        (tmp_path, ["--held-out", "1"], "found 12, 12 of them held out"),
        (tmp_path, [], "03.air: "),
    ):
        with pytest.raises(SystemExit) as caught:
            main([str(folder), str(tmp_path / FILE), *options])
        assert caught.value.code == 2 and message in capsys.readouterr().err
    assert not (tmp_path / FILE).exists()

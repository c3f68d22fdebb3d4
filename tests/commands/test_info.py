"""`airjax info`: the parts of a file, by `air_file.info` and by hand."""

from dataclasses import replace
from pathlib import Path

from command_line import assert_refused

from airjax.image.codec import air_file
from airjax.image.codec.payload import Origin


def test_info_is_the_chunk_table(run, air_bytes):
    """Oracle: air_file.info, and the numbers of this file by hand: 32 bytes a row, 256 bits."""
    Path("a.air").write_bytes(air_bytes)
    result = run("info", "a.air")
    assert result.status == 0 and result.err == []
    size = len(air_bytes)
    assert result.out[0] == "a.air: 24x16, 3 Gaussians in 2 stages"
    assert "3 channels" in result.out[1] and "lossless" in result.out[1]
    assert result.out[2].strip() == f"{size} bytes, {8 * size / 384:.3f} bpp, {8 * size / 3:.1f} bits per Gaussian"
    assert result.out[3].strip() == "Gaussians per stage: 2 1"
    table = [line.split() for line in result.out[5:]]
    chunks = air_file.info(air_bytes).chunks
    assert table == [[c.tag, str(c.offset), str(c.length), "ok"] for c in chunks]
    assert [row[0] for row in table] == ["AHDR", "ROWS", "ROWS", "AEND"]


def test_info_of_a_compact_file(run, compact_bytes):
    """The parts add up to the whole."""
    Path("a.air").write_bytes(compact_bytes)
    lines = run("info", "a.air").out
    total = float(next(line for line in lines if "bits per Gaussian" in line).split(", ")[2].split()[0])
    parts = next(line for line in lines if "bits per Gaussian:" in line).split(": ")[1].split(", ")
    assert [part.rsplit(" ", 1)[0] for part in parts][-1] == "heads and chunks" and len(parts) == 8
    assert abs(sum(float(part.rsplit(" ", 1)[1]) for part in parts) - total) < 0.1


def test_info_says_how_a_file_was_made(run, compact_bytes):
    quantised = air_file.decode_quantised(compact_bytes)
    for origin, told in (
        (Origin(45.0, 3, "compact"), "; made at quality 45, effort 3 by compact"),
        (Origin(12.5, None, "mine"), "; made at quality 12.5 by mine"),
        (None, " channels"),
    ):
        Path("a.air").write_bytes(air_file.encode(replace(quantised, origin=origin)))
        assert run("info", "a.air").out[1].endswith(told)


def test_a_file_that_is_cut_is_shown_as_far_as_it_goes(run, compact_bytes):
    """The stages that are whole, then one line of error."""
    stages = air_file.info(compact_bytes).stage_counts
    Path("a.air").write_bytes(compact_bytes[:-30])
    result = run("info", "a.air")
    assert result.status == 2 and f"{sum(stages[:-1])} Gaussians in {len(stages) - 1} stage" in result.out[0]
    assert len(result.err) == 1
    assert f"a.air: cut short, {len(stages) - 1} of {len(stages)} stages are whole" in result.err[0]


def test_names_that_break_lines(run):
    """A line break in a name does not break the message."""
    assert_refused(run("info", "two\nlines.air"), {}, r"two\nlines.air")

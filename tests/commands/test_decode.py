"""`airjax decode`: the pixels of the library, and one line for what cannot be drawn."""

from importlib import import_module
from pathlib import Path
from types import SimpleNamespace

import numpy as np
from command_line import SIZE, assert_refused, listing
from PIL import Image

import airjax
from airjax.image.codec import air_file


def test_decode_options(run, air_bytes):
    """Oracle: airjax.render at that scale, of the first stage alone."""
    Path("a.air").write_bytes(air_bytes)
    assert run("decode", "a.air", "-o", "b.tiff", "--scale", 2, "--stages", 1).status == 0
    first = air_file.truncate_stages(air_file.decode(air_bytes), 1)
    image = np.asarray(airjax.render(first.gaussians, image_size=SIZE, scale=2.0).image)
    np.testing.assert_array_equal(np.asarray(Image.open("b.tiff")), np.rint(np.clip(image, 0, 1) * 255))
    assert image.shape == (32, 48, 3)


def test_decode_refuses_what_it_cannot_draw(run, air_bytes, monkeypatch):
    """Too many stages asked for, two colour channels, too many pixels, numbers that are not finite."""
    Path("a.air").write_bytes(air_bytes)
    content = air_file.decode(air_bytes)
    two = content.gaussians.with_colors(content.gaussians.colors[:, :2])
    Path("two.air").write_bytes(air_file.encode(air_file.Encoded(two, (2, 1), SIZE)))
    before = listing()
    assert_refused(run("decode", "a.air", "--stages", 3), before, "a.air", "at most 2", "got 3")
    assert_refused(run("decode", "two.air"), before, "two.air", "1 or 3 colour channels", "got 2")
    assert_refused(run("decode", "a.air", "--scale", 2000), before, "a.air", "48000x32000", "--scale")
    not_finite = SimpleNamespace(image=np.full((*SIZE, 3), np.nan, np.float32))
    monkeypatch.setattr(import_module("airjax.raster.draw"), "render", lambda *_, **__: not_finite)
    assert_refused(run("decode", "a.air"), before, "a.air", "NaN")


def test_a_file_that_is_cut_short(run, compact_bytes):
    """Refused with a hint; with --partial the complete stages are drawn. Oracle: airjax.render of the first stage."""
    second = air_file.info(compact_bytes).chunks[2]
    Path("cut.air").write_bytes(compact_bytes[: second.offset + second.length])
    assert_refused(run("decode", "cut.air"), listing(), "cut.air", "--partial")
    done = run("decode", "cut.air", "--partial")
    assert done.status == 0 and "in 1 stage" in done.out[0]
    first = air_file.truncate_stages(air_file.decode(compact_bytes), 1)
    image = np.asarray(airjax.render(first.gaussians, image_size=SIZE).image)
    np.testing.assert_array_equal(np.asarray(Image.open("cut.png")), np.rint(np.clip(image, 0, 1) * 255))


def test_a_file_whose_last_stage_is_damaged(run, air_bytes, compact_bytes):
    """The same of both profiles: a flipped bit in the second stage; in the header nothing can be drawn."""
    for data in (air_bytes, compact_bytes):
        stages = [chunk for chunk in air_file.info(data).chunks if chunk.tag in ("ROWS", "STAG")]
        damaged = bytearray(data)
        damaged[stages[1].offset + 12] ^= 1
        Path("a.air").write_bytes(damaged)
        Path("a.png").unlink(missing_ok=True)
        assert_refused(run("decode", "a.air"), listing(), "a.air", "checksum mismatch", "--partial draws the stages")
        done = run("decode", "a.air", "--partial")
        assert done.status == 0 and "in 1 stage" in done.out[0]
        first = air_file.truncate_stages(air_file.decode(data), 1)
        image = np.asarray(airjax.render(first.gaussians, image_size=SIZE).image)
        np.testing.assert_array_equal(np.asarray(Image.open("a.png")), np.rint(np.clip(image, 0, 1) * 255))
        Path("a.png").unlink()
        damaged = bytearray(data)
        damaged[air_file.info(data).chunks[0].offset + 10] ^= 1
        Path("a.air").write_bytes(damaged)
        for options in ((), ("--partial",)):
            result = run("decode", "a.air", *options)
            assert_refused(result, listing(), "a.air", "AHDR")
            assert "--partial" not in result.err[0]

"""The demo's last step; oracles: the files themselves, PSNR in numpy, the size of the picture."""

from functools import partial

import numpy as np
import pytest
from PIL import Image

from airjax.image.codec import air_file
from airjax.image.codec.compress import CompressOptions, compress
from airjax.photographs import read_image, write_image
from airjax.raster.draw import render
from eval.image import demo
from eval.image.measures import decode_pixels


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Without the user's compilation cache, and without what an effort would add to a time."""
    monkeypatch.setattr(demo, "enable_compilation_cache", lambda: None)
    monkeypatch.setattr(demo, "REPETITIONS", 1)
    monkeypatch.setattr(demo, "compress", partial(compress, options=CompressOptions(effort=0)))


@pytest.fixture(scope="module")
def files(model, image, photo, tmp_path_factory):
    """(original, .air file, decoded image)."""
    folder = tmp_path_factory.mktemp("demo")
    data = air_file.encode(model.compress(image, num_stages=2, effort=0))
    (folder / "photo.air").write_bytes(data)
    write_image(folder / "decoded.png", decode_pixels(data))
    return photo, folder / "photo.air", folder / "decoded.png"


def test_numbers_and_picture(files, weights, tmp_path, capsys):
    original, file, decoded = files
    picture = tmp_path / "picture.png"
    assert demo.main([*map(str, files), "-o", str(picture), "--weights", str(weights)]) == 0
    output = capsys.readouterr().out
    a, b = (read_image(path).pixels.astype(np.float64) for path in (original, decoded))
    size = file.stat().st_size
    count = sum(air_file.info(file.read_bytes()).stage_counts)
    assert f"PSNR {-10 * np.log10(np.mean((a - b) ** 2)):.2f} dB" in output
    assert f"{size:,} bytes, {8 * size / (32 * 48):.2f} bpp" in output
    assert f"{count:,} Gaussians" in output
    assert "MS-SSIM 0." in output and " ms" in output
    # The file has two stages, so one beginning: oracle, the image of the first stage alone.
    first = air_file.truncate_stages(air_file.decode(file.read_bytes()), 1)
    image = np.asarray(render(first.gaussians, image_size=first.image_size).image, np.float64)
    psnr = -10 * np.log10(np.mean((np.rint(255 * np.clip(image, 0, 1)) / 255 - a) ** 2))
    _, second = (chunk for chunk in air_file.info(file.read_bytes()).chunks if chunk.tag == "STAG")
    end = second.offset
    assert f"the beginning of the file, stage 1: {end / 1024:.1f} kB, {psnr:.1f} dB" in output
    with Image.open(picture) as image:
        assert image.format == "PNG" and image.width > 2 * 480


def test_bad_input_is_one_line_and_no_picture(files, weights, tmp_path, capsys):
    original, file, decoded = files
    write_image(tmp_path / "small.png", np.zeros((8, 8, 3)))
    (tmp_path / "bad.air").write_bytes(file.read_bytes()[:-3])
    picture = tmp_path / "picture.png"
    cases = [
        (original, file, tmp_path / "small.png", picture, r"small.png: expected 48x32 pixels"),
        (tmp_path / "small.png", file, decoded, picture, r"small.png: expected 48x32 pixels"),
        (original, tmp_path / "bad.air", decoded, picture, r"bad.air: "),
        (original, tmp_path / "none.air", decoded, picture, r"none.air: "),
        (tmp_path / "none.png", file, decoded, picture, r"none.png: "),
        (original, file, decoded, tmp_path / "picture.jpg", r"picture.jpg: expected a name ending in .png"),
        (original, file, decoded, tmp_path / "none" / "picture.png", r"picture.png: cannot be written"),
    ]
    for first, second, third, output, expected in cases:
        arguments = [str(first), str(second), str(third), "-o", str(output), "--weights", str(weights)]
        assert demo.main(arguments) == 2
        errors = capsys.readouterr().err
        assert errors.startswith("error: ") and expected in errors and errors.count("\n") == 1
    assert not list(tmp_path.glob("picture*"))

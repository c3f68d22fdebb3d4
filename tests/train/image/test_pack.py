"""Packing of photographs; oracles: the sizes asked for, the original bytes, pixels within the error of JPEG."""

import numpy as np
import pytest
from photos import assert_one_line, save, texture

from airjax.errors import AirjaxError
from train.image import pack
from train.image.data import find_photographs, read_photograph


def test_packed_photographs_are_smaller_and_alike(tmp_path):
    """Oracles: the sizes asked for; the original bytes where nothing is gained; otherwise pixels within the
    error of JPEG at this quality."""
    source = tmp_path / "photos"
    large = texture(120, 200)
    save(source, "a/large.png", large)
    save(source, "small.png", texture(30, 20))
    low = save(source, "low.jpg", texture(64, 64), quality=20)
    packed = pack.pack(source, tmp_path / "out", max_side=100, quality=90)

    out = tmp_path / "out"
    names = [path.relative_to(out).as_posix() for path in find_photographs([out])]
    assert names == ["a/large.png.jpg", "low.jpg", "small.png.jpg"]
    sizes = [(out / name).stat().st_size for name in names]
    assert packed == pack.Packed(num_files=3, num_bytes=sum(sizes), num_kept=1)
    assert (out / "low.jpg").read_bytes() == low.read_bytes()
    assert read_photograph(out / names[0]).shape == (60, 100, 3)
    small = read_photograph(out / names[2]).astype(float)
    assert np.sqrt(np.mean((small - texture(30, 20)) ** 2)) < 4
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_packing_leaves_nothing_behind_when_it_fails(photos, tmp_path):
    with pytest.raises(AirjaxError) as info:
        pack.pack(photos, tmp_path / "out", limit_mb=0.001)
    assert_one_line(info, str(photos), "exceed 0.001 MB")
    (tmp_path / "taken").mkdir()
    with pytest.raises(AirjaxError, match="exists already"):
        pack.pack(photos, tmp_path / "taken")
    (tmp_path / "file").write_text("")
    with pytest.raises(AirjaxError, match="cannot be written"):
        pack.pack(photos, tmp_path / "file" / "out")
    save(photos, "a.png.jpg", texture(8, 8))
    with pytest.raises(AirjaxError, match="two photographs"):
        pack.pack(photos, tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "photos", "taken"]
    with pytest.raises(ValueError, match="quality: expected"):
        pack.pack(photos, tmp_path / "out", quality=101)


def test_packing_refuses_evaluation_images(tmp_path):
    save(tmp_path, "photos/kodim01.png", texture(8, 8))
    with pytest.raises(AirjaxError, match="refused for training"):
        pack.pack(tmp_path / "photos", tmp_path / "out")


def test_the_command_packs_and_reports_errors_in_one_line(photos, tmp_path, capsys):
    assert pack.main([str(photos), "-o", str(tmp_path / "out")]) == 0
    assert "3 files" in capsys.readouterr().out
    assert len(find_photographs([tmp_path / "out"])) == 3
    for arguments, words in (([tmp_path / "gone"], "gone"), ([photos, "--quality", "0"], "quality: expected")):
        assert pack.main([*map(str, arguments), "-o", str(tmp_path / "other")]) == 2
        errors = capsys.readouterr().err
        assert errors.startswith("error: ") and words in errors and errors.count("\n") == 1

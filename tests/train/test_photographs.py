"""Photographs to train on: found in folders, never those of evaluations, or made up."""

import hashlib
import shutil

import numpy as np
import pytest
from photos import assert_one_line, save, texture

from airjax.errors import AirjaxError
from train import photographs as module
from train.photographs import (
    check_not_evaluation,
    content,
    find_photographs,
    load_photographs,
    make_up,
    open_photographs,
    read_photograph,
)


def test_only_photographs_are_found_in_a_fixed_order(tmp_path):
    for name in ("b.png", "a/z.JPG", "a.tiff", "c.gif", "d.bmp", ".hidden/e.png", "._f.png"):
        save(tmp_path, name, texture(8, 8))
    (tmp_path / "notes.txt").write_text("no image")
    (tmp_path / "folder.png").mkdir()
    found = [path.relative_to(tmp_path).as_posix() for path in find_photographs([tmp_path])]
    assert found == ["a.tiff", "a/z.JPG", "b.png"]


def test_folders_without_photographs_are_reported(tmp_path):
    for folder, words in ((tmp_path / "gone", "nothing"), (tmp_path, "no photographs")):
        with pytest.raises(AirjaxError) as info:
            load_photographs([folder])
        assert_one_line(info, str(folder), words)
    file = save(tmp_path, "x.png", texture(8, 8))
    with pytest.raises(AirjaxError, match="a file"):
        find_photographs([file])
    with pytest.raises(AirjaxError, match=r"got none; give --data\.folders"):
        load_photographs([])


@pytest.mark.parametrize("kind", ["empty", "text", "truncated"])
def test_a_damaged_file_is_named(photos, kind):
    whole = (photos / "sub/b.jpg").read_bytes()
    bad = photos / "bad.jpg"
    bad.write_bytes({"empty": b"", "text": b"not an image", "truncated": whole[: len(whole) // 2]}[kind])
    with pytest.raises(AirjaxError) as info:
        load_photographs([photos])
    assert_one_line(info, str(bad))


def test_photographs_are_read_level_by_level(tmp_path):
    """Oracle: the levels that were written, all 256 of them in every channel."""
    pixels = np.random.default_rng(0).permuted(np.tile(np.arange(256, dtype=np.uint8), (3, 1)), axis=1)
    pixels = pixels.T.reshape(32, 8, 3)
    read = read_photograph(save(tmp_path, "all.png", pixels))
    assert read.dtype == np.uint8
    np.testing.assert_array_equal(read, pixels)


# The guard


@pytest.mark.parametrize(
    "name", ["Kodak/a.png", "kodim01.png", "DIV2K_valid_HR/1.png", "x/div2k_512/a.png", "eval_1024/a.png"]
)
def test_evaluation_names_are_refused(tmp_path, name):
    save(tmp_path, name, texture(8, 8))
    with pytest.raises(AirjaxError) as info:
        load_photographs([tmp_path])
    assert_one_line(info, str(tmp_path / name), "refused for training")


def test_a_link_does_not_hide_an_evaluation_folder(tmp_path):
    save(tmp_path, "kodak/a.png", texture(8, 8))
    (tmp_path / "photos").symlink_to(tmp_path / "kodak")
    with pytest.raises(AirjaxError, match="refused for training"):
        load_photographs([tmp_path / "photos"])


def test_evaluation_bytes_are_refused_under_any_name(tmp_path, monkeypatch):
    path, other = save(tmp_path, "a.png", texture(8, 8)), save(tmp_path, "b.png", texture(8, 8, 1))
    check_not_evaluation([path, other])
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    listed = tmp_path / "hashes.txt"
    listed.write_text(f"# comment\n{digest[:16]} {path.stat().st_size} set/secret.png\n")
    monkeypatch.setattr(module, "_HASHES_FILE", listed)
    module._evaluation_hashes.cache_clear()
    try:
        check_not_evaluation([other])
        with pytest.raises(AirjaxError) as info:
            check_not_evaluation([other, path])
    finally:
        module._evaluation_hashes.cache_clear()
    assert_one_line(info, str(path), "set/secret.png")


def test_a_file_that_vanished_is_reported(tmp_path):
    with pytest.raises(AirjaxError, match="not a readable image"):
        check_not_evaluation([tmp_path / "gone.png"])


def test_the_list_holds_every_evaluation_image(data_dir, tmp_path):
    """Oracle: the images themselves, under names that say nothing."""
    folders = ("kodak", "div2k_valid_x2", "div2k_512", "eval_1024")
    images = [path for folder in folders for path in sorted((data_dir / folder).glob("*.png"))]
    assert len(images) == 68 == sum(map(len, module._evaluation_hashes().values()))
    for number, image in enumerate(images):
        copy = tmp_path / f"{number}.png"
        copy.write_bytes(image.read_bytes())
        with pytest.raises(AirjaxError, match=image.name):
            check_not_evaluation([copy])


def test_the_training_photographs_pass_the_guard(data_dir):
    check_not_evaluation(find_photographs([data_dir / "photos_train"]))


# Without a folder


def test_pictures_are_made_up_where_there_is_no_folder(photos):
    """Each is a function of its number, none is flat, and a folder comes first."""
    made_up = open_photographs([], made_up=3)
    assert len(made_up) == 3 and made_up.areas == (192 * 256,) * 3
    for picture, again in zip(map(made_up.__getitem__, range(3)), make_up(4), strict=False):
        np.testing.assert_array_equal(picture, again)
        assert picture.shape == (192, 256, 3) and picture.dtype == np.uint8 and picture.std() > 10
    assert np.any(made_up[0] != made_up[1])
    assert len(open_photographs([photos], made_up=3)) == 3 and open_photographs([photos], made_up=3).paths[0].exists()
    with pytest.raises(AirjaxError, match=r"got none; give --data\.folders PHOTOGRAPHS"):
        open_photographs([], made_up=0)


def test_content_is_the_same_elsewhere_and_another_with_another_file(photos, tmp_path):
    def of(folder):
        return content([folder], find_photographs([folder]))

    before = of(photos)
    moved = shutil.copytree(photos, tmp_path / "moved")
    assert of(moved) == before
    (moved / "a.png").rename(moved / "b.png")
    assert of(moved) != before

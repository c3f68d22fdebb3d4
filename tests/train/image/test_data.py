"""Most photographs of these tests carry their coordinates: red = x, green = y, blue = their number."""

import contextlib
import io
import math
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from photos import assert_one_line, save, texture
from PIL import Image

from airjax.errors import AirjaxError
from train.image import data
from train.photographs import Photographs, load_photographs

ROOT = Path(data.__file__).resolve().parents[2]


def _coordinates(height: int, width: int, number: int = 0) -> np.ndarray:
    y, x = np.mgrid[:height, :width]
    return np.stack([x, y, np.full_like(x, number)], axis=-1).astype(np.uint8)


def _levels(batch: np.ndarray) -> np.ndarray:
    """Back to whole levels; fails unless every value is level / 255, rounded to float32."""
    levels = np.rint(batch * 255).astype(np.uint8)
    np.testing.assert_array_equal(batch, levels.astype(np.float32) / np.float32(255))
    return levels


def _take(config: data.DataConfig, num: int, **options) -> list[np.ndarray]:
    with contextlib.closing(data.batches(config, **options)) as stream:
        return [next(stream) for _ in range(num)]


@pytest.fixture
def config(photos) -> data.DataConfig:
    every = data.Augment(blur=0.3, noise=0.3, jitter=0.5, jpeg=0.3)
    return data.DataConfig(photos, crop_size=32, batch_size=3, seed=5, augment=every)


# The stream


def test_batches_have_the_promised_shape_dtype_and_range(config):
    for batch in _take(config, 4):
        assert batch.shape == (3, 32, 32, 3) and batch.dtype == np.float32
        assert batch.min() >= 0 and batch.max() <= 1 and batch.std() > 0.02


def test_a_resumed_run_sees_what_the_killed_one_would_have_seen(config):
    """Oracle: the uninterrupted stream, over several epochs (one epoch is 18 crops, 6 batches)."""
    whole = _take(config, 20)
    for start in (0, 1, 7, 19):
        resumed = _take(config, 20 - start, start_step=start)
        np.testing.assert_array_equal(np.stack(resumed), np.stack(whole[start:]))


def test_threads_and_memory_change_no_batch(config):
    """Oracle: the stream made in the caller with all photographs in memory."""
    whole = np.stack(_take(config, 8, num_threads=0))
    np.testing.assert_array_equal(np.stack(_take(config, 8, num_threads=3)), whole)
    assert not load_photographs(config.folders, cache_mb=0).decoded
    np.testing.assert_array_equal(np.stack(_take(replace(config, cache_mb=0), 8)), whole)


def test_batches_do_not_depend_on_where_the_folder_lies(config, photos, tmp_path):
    before = np.stack(_take(config, 3))
    photos.rename(tmp_path / "elsewhere")
    np.testing.assert_array_equal(np.stack(_take(replace(config, folders=str(tmp_path / "elsewhere")), 3)), before)


def test_another_seed_gives_another_stream(config):
    for ours, theirs in zip(_take(config, 3), _take(replace(config, seed=6), 3), strict=True):
        assert not np.array_equal(ours, theirs)


def test_every_crop_of_every_epoch_is_drawn_afresh(tmp_path):
    """One photograph of one entry: each crop is an epoch. Repeats happen only by chance: 200 draws of 97^2
    places give 2.1 equal pairs on average; more than 10 have a probability below 1e-4."""
    config = data.DataConfig(tmp_path, crop_size=32, batch_size=1, augment=data.PLAIN)
    photographs = Photographs((tmp_path / "no file",), (32 * 32,), {0: _coordinates(128, 128)})
    corners = [tuple(_levels(batch)[0, 0, 0, :2]) for batch in _take(config, 200, photographs=photographs)]
    assert len(set(corners)) >= 190


def test_the_augmentation_is_drawn_afresh_in_every_crop(tmp_path):
    """The photograph is the crop, so only the augmentation can differ: a fixed draw gives equal images."""
    save(tmp_path, "one.png", texture(32, 32))
    augment = replace(data.PLAIN, noise=1.0)
    config = data.DataConfig(tmp_path, crop_size=32, batch_size=4, augment=augment)
    crops = np.concatenate(_take(config, 4))
    assert len({crop.tobytes() for crop in crops}) == 16


def test_closing_ends_the_threads(config):
    before = set(threading.enumerate())
    stream = data.batches(config, num_threads=2)
    next(stream)
    assert set(threading.enumerate()) - before
    stream.close()
    deadline = time.monotonic() + 20
    while set(threading.enumerate()) - before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not set(threading.enumerate()) - before
    with pytest.raises(ValueError, match="closed"):
        next(stream)


# Where crops come from


def test_an_epoch_takes_crops_by_area(tmp_path):
    """128x128, 64x64 and 8x200 hold 16, 4 and 1.56 crops of 32x32; an epoch takes just as many, rounded."""
    for number, shape in enumerate([(128, 128), (64, 64), (8, 200)]):
        save(tmp_path, f"{number}.png", _coordinates(*shape, number))
    config = data.DataConfig(tmp_path, crop_size=32, batch_size=22, augment=data.PLAIN)
    orders = []
    for batch in _take(config, 3):
        owners = _levels(batch)[:, 0, 0, 2]
        np.testing.assert_array_equal(np.bincount(owners), [16, 4, 2])
        orders.append(tuple(owners))
    assert len(set(orders)) == 3, "epochs must not repeat their order"


def test_places_are_uniform():
    """Oracle: the mean and variance of the uniform distribution over 0..48; 5 standard errors."""
    photograph, rng = _coordinates(80, 80), np.random.default_rng(0)
    corners = np.array(
        [data.cut(photograph, rng, crop_size=32, augment=data.PLAIN)[0, 0, :2] for _ in range(4000)], float
    )
    variance = (49**2 - 1) / 12
    np.testing.assert_allclose(corners.mean(0), 24, atol=5 * math.sqrt(variance / 4000))
    np.testing.assert_allclose(corners.var(0), variance, rtol=5 * math.sqrt(0.8 / 4000))
    assert corners.min() == 0 and corners.max() == 48


def test_probability_zero_gives_the_very_pixels():
    """Oracle: the photograph at the place that the crop itself names."""
    photograph = _coordinates(90, 77, 9)
    for seed in range(20):
        crop = data.sample(photograph, np.random.default_rng(seed), crop_size=32, augment=data.PLAIN)
        x, y = _levels(crop)[0, 0, :2]
        np.testing.assert_array_equal(_levels(crop), photograph[y : y + 32, x : x + 32])


def test_small_photographs_are_continued_by_mirroring():
    """Oracle: a triangle wave over the coordinates, however small the photograph."""
    photograph = _coordinates(1, 5)
    crop = _levels(data.sample(photograph, np.random.default_rng(0), crop_size=16, augment=data.PLAIN))
    ramp = [0, 1, 2, 3, 4, 4, 3, 2, 1, 0, 0, 1, 2, 3, 4, 4]
    np.testing.assert_array_equal(crop[..., 0], np.tile(ramp, (16, 1)))
    np.testing.assert_array_equal(crop[..., 1], 0)


# The augmentations


def test_flips_and_turns_give_the_eight_symmetries():
    photograph = texture(16, 16)
    symmetries = {np.rot90(p, k).tobytes() for p in (photograph, photograph[:, ::-1]) for k in range(4)}
    rng, augment = np.random.default_rng(0), replace(data.Augment(), downscale=0.0)
    seen = {
        np.ascontiguousarray(_levels(data.sample(photograph, rng, crop_size=16, augment=augment))).tobytes()
        for _ in range(200)
    }
    assert seen == symmetries


@pytest.mark.parametrize("factor", [1.0, 1.37, 2.0])
def test_downscaling_steps_by_the_factor(factor):
    """Oracle: a reduced ramp is a ramp, steeper by the factor; both ends are rounded to half a level."""
    photograph, augment = (
        _coordinates(150, 150),
        replace(data.PLAIN, downscale=1.0, downscale_factor=(factor, factor)),
    )
    tops = set()
    for seed in range(20):
        crop = data.cut(photograph, np.random.default_rng(seed), crop_size=32, augment=augment)
        assert crop.shape == (32, 32, 3) and crop.dtype == np.uint8
        # Away from the border of the photograph, where the filter is one-sided.
        slope = (crop[28, 28, :2].astype(float) - crop[4, 4, :2]) / 24
        np.testing.assert_allclose(slope, factor, atol=1 / 24 + 1e-6)
        tops.add(int(crop[4, 4, 1]))
    assert len(tops) > 5


def test_downscaling_stops_at_the_size_of_the_photograph():
    augment = replace(data.PLAIN, downscale=1.0, downscale_factor=(2.0, 2.0))
    photograph, rng = _coordinates(40, 41), np.random.default_rng(0)
    for _ in range(50):
        crop = data.cut(photograph, rng, crop_size=32, augment=augment)
        assert crop.shape == (32, 32, 3) and 38 <= crop[..., 1].max() <= 39 and crop[..., 1].min() <= 1


def test_blur_spreads_a_point_by_its_variance():
    """Oracle: the second moment, which the cut at 3 sigma lowers by 3 %; sums and constants are kept."""
    image = np.zeros((41, 41, 3), np.float32)
    image[20, 20] = 1
    blurred = data.gaussian_blur(image, sigma=2.0)
    distance2 = (np.arange(41) - 20.0) ** 2
    np.testing.assert_allclose(blurred.sum((0, 1)), 1, rtol=1e-5)
    for axis in (0, 1):
        np.testing.assert_allclose(distance2 @ blurred.sum(axis)[:, 0], 4, rtol=0.04)
    np.testing.assert_allclose(data.gaussian_blur(np.full((9, 7, 3), 0.3, np.float32), sigma=3.0), 0.3, rtol=1e-5)
    assert blurred.dtype == np.float32
    assert not blurred[:14].any() and blurred[14, 20, 0] > 0  # cut at 3 sigma


def test_blur_mirrors_the_border():
    """Oracle: the same image continued by mirroring, the outermost pixel repeated, and blurred."""
    image = texture(10, 12).astype(np.float32) / np.float32(255)
    large = np.pad(image, ((5, 5), (5, 5), (0, 0)), mode="symmetric")
    expected = data.gaussian_blur(large, sigma=1.5)[5:-5, 5:-5]
    np.testing.assert_allclose(data.gaussian_blur(image, sigma=1.5), expected, atol=1e-6)


@pytest.mark.parametrize("level", [0.1, 0.5])
def test_shot_noise_has_the_variance_of_a_count(level):
    """Oracle: variance = intensity / photons, mean kept; 5 standard errors of 30,000 samples."""
    image = np.full((100, 100, 3), level, np.float32)
    noisy = data.shot_noise(image, np.random.default_rng(0), photons=400.0).astype(np.float64)
    np.testing.assert_allclose(noisy.mean(), level, atol=5 * math.sqrt(level / 400 / 30000))
    np.testing.assert_allclose(noisy.var(), level / 400, rtol=5 * math.sqrt(2 / 30000))


def test_shot_noise_leaves_black_alone():
    black = np.zeros((8, 8, 3), np.float32)
    np.testing.assert_array_equal(data.shot_noise(black, np.random.default_rng(0), photons=1.0), black)


def test_color_jitter_follows_its_formulas():
    """Oracles: the identity; greys under hue and saturation; the textbook formula of each factor alone; a
    third of a turn, which permutes the channels. Tolerance: a few roundings of float32."""
    image = texture(24, 20).astype(np.float32) / 255 * 0.5 + 0.2
    luma = image @ np.array([0.299, 0.587, 0.114], np.float32)
    same = {"gain": 1.0, "contrast": 1.0, "saturation": 1.0, "hue": 0.0}

    def jitter(picture, **changes):
        return data.color_jitter(picture, **(same | changes))

    close = {"atol": 2e-6}
    np.testing.assert_allclose(jitter(image), image, **close)
    np.testing.assert_allclose(jitter(image, gain=1.2), 1.2 * image, **close)
    np.testing.assert_allclose(jitter(image, contrast=0.8), 0.8 * image + 0.2 * luma.mean(), **close)
    np.testing.assert_allclose(jitter(image, saturation=0.0), np.repeat(luma[..., None], 3, -1), **close)
    np.testing.assert_allclose(jitter(image, hue=1 / 3), image[..., [2, 0, 1]], **close)
    grey = np.repeat(luma[..., None], 3, -1)
    np.testing.assert_allclose(jitter(grey, saturation=1.2, hue=0.2), grey, **close)


def test_jpeg_is_pillows():
    image = texture(32, 32)
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=30)
    compressed = data.jpeg_artifacts(image.astype(np.float32) / np.float32(255), quality=30)
    np.testing.assert_array_equal(_levels(compressed), np.asarray(Image.open(buffer)))


@pytest.mark.parametrize("name", ["blur", "noise", "jitter", "jpeg"])
def test_each_augmentation_changes_the_crop_and_keeps_the_range(name):
    """Black, white and saturated colours must stay in [0, 1]. Probability 0.5 does it to half of the crops
    (binomial, 200 draws: 60 to 140 is more than 5 standard deviations)."""
    photograph = (np.random.default_rng(0).integers(0, 2, (24, 24, 3)) * 255).astype(np.uint8)
    plain = photograph.astype(np.float32) / np.float32(255)
    rng, num_changed = np.random.default_rng(1), 0
    for _ in range(200):
        crop = data.sample(photograph, rng, crop_size=24, augment=replace(data.PLAIN, **{name: 0.5}))
        assert crop.dtype == np.float32 and crop.min() >= 0 and crop.max() <= 1
        num_changed += not np.array_equal(crop, plain)
    assert 60 <= num_changed <= 140


# Wrong values


@pytest.mark.parametrize(
    "changes",
    [
        {"flip": -0.1},
        {"jpeg": 1.5},
        {"jitter": math.nan},
        {"jitter_hue": 0.6},
        {"downscale_factor": (0.5, 2.0)},
        {"blur_sigma": (2.0, 1.0)},
        {"noise_photons": (0.0, 10.0)},
        {"jpeg_quality": (0, 95)},
    ],
)
def test_impossible_augmentations_are_refused(changes):
    with pytest.raises(AirjaxError, match=f"{next(iter(changes))}: expected"):
        data.Augment(**changes)


@pytest.mark.parametrize("changes", [{"crop_size": 0}, {"batch_size": 0}, {"seed": -1}, {"seed": 2**32}])
def test_impossible_configurations_are_refused(changes):
    with pytest.raises(AirjaxError, match=f"{next(iter(changes))}: expected"):
        data.DataConfig("photos", **changes)


def test_configurations_are_plain_data(tmp_path):
    config = data.DataConfig(tmp_path)
    assert config == data.DataConfig([str(tmp_path)]) and hash(config) == hash(data.DataConfig((tmp_path,)))
    with pytest.raises(AirjaxError, match="crop_size: expected an int"):
        data.DataConfig(tmp_path, crop_size=128.0)


def test_a_negative_step_is_refused(config):
    with pytest.raises(ValueError, match="start_step"):
        data.batches(config, start_step=-1)


def test_a_damaged_file_outside_the_memory_is_named_when_it_is_drawn(tmp_path):
    whole = save(tmp_path, "a.jpg", texture(64, 64)).read_bytes()
    (tmp_path / "a.jpg").write_bytes(whole[: len(whole) // 2])
    config = data.DataConfig(tmp_path, crop_size=32, batch_size=1, cache_mb=0)
    with contextlib.closing(data.batches(config)) as stream, pytest.raises(AirjaxError) as info:
        next(stream)
    assert_one_line(info, str(tmp_path / "a.jpg"))

"""Frames of a video: the sharpest of each part, upright; one line for what is none."""

import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import gaussian_filter

from airjax.errors import AirjaxError
from airjax.scene import video
from airjax.scene.video import sharpest, sharpness_of, write_sharpest_frames

SIZE = (48, 64)


def picture(seed, blur=0.0):
    """Noise, equal in groups of 2 x 2 pixels."""
    noise = np.random.default_rng(seed).random((SIZE[0] // 2, SIZE[1] // 2, 3)).repeat(2, axis=0).repeat(2, axis=1)
    return np.rint(255 * gaussian_filter(noise, (blur, blur, 0))).astype(np.uint8)


def write_video(path, frames, **changes):
    av = pytest.importorskip("av")
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = SIZE[1], SIZE[0], "yuv420p"
        stream.bit_rate = 4_000_000
        for key, value in changes.items():
            setattr(stream, key, value)
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    return path


def test_sharpness_falls_with_blur_whatever_the_size():
    scores = [sharpness_of(picture(0, blur)) for blur in (0, 0.7, 1.5, 4)]
    assert scores == sorted(scores, reverse=True)
    large = np.repeat(np.repeat(picture(0), 30, axis=0), 30, axis=1)  # 1440 x 1920
    assert sharpness_of(large[:, :-7]) > 0


def test_the_sharpest_of_each_part_is_taken():
    blurs = [3, 0, 3, 3, 3, 0.1, 2, 2, 1.5]
    found = list(sharpest((picture(0, blur) for blur in blurs), 9, 3))
    assert [number for number, _ in found] == [1, 5, 8]
    np.testing.assert_array_equal(found[1][1], picture(0, 0.1))


@pytest.mark.parametrize(("total", "there", "numbers"), [(4, 4, [0, 1, 2, 3]), (4, 3, [0, 1, 2]), (4, 6, [0, 1, 2, 3])])
def test_counts_that_are_small_or_lie(total, there, numbers):
    """`total` is what a file says, `there` what comes; no frame is taken twice and none is made up."""
    found = [number for number, _ in sharpest((picture(0) for _ in range(there)), total, 9)]
    assert found == numbers


def test_flat_frames_are_frames():
    flat = np.full((*SIZE, 3), 90, np.uint8)
    assert [number for number, _ in sharpest(iter([flat] * 4), 4, 2)] == [0, 2]


def test_a_video_gives_photographs(tmp_path):
    blurs = [4, 0, 4, 4, 0, 4, 4, 4, 0, 0.5]
    file = write_video(tmp_path / "walk.mp4", [picture(i, blur) for i, blur in enumerate(blurs)])
    told = []
    found = write_sharpest_frames(file, tmp_path, count=3, progress=lambda done, total: told.append((done, total)))
    assert found.names == ("000001.jpg", "000004.jpg", "000008.jpg") and found.total == 10 and not found.notices
    assert told[-1] == (10, 10)
    written = np.asarray(Image.open(tmp_path / "000004.jpg"), float)
    assert np.abs(written - picture(4)).mean() < 25 < np.abs(written - picture(1)).mean()


def test_a_video_that_ends_early_gives_what_there_is(tmp_path):
    file = write_video(tmp_path / "walk.avi", [picture(i) for i in range(20)])
    data = file.read_bytes()
    file.write_bytes(data[: len(data) // 2])
    found = write_sharpest_frames(file, tmp_path, count=5)
    assert 2 <= len(found.names) <= 5 and found.total < 20


@pytest.mark.parametrize("content", [b"no video at all" * 100, b"\0\0\0\x18ftypmp42" + bytes(500)])
def test_what_is_no_video_is_one_line(tmp_path, content):
    pytest.importorskip("av")
    (tmp_path / "x.mp4").write_bytes(content)
    with pytest.raises(AirjaxError, match=r"x\.mp4: expected a video of 2 frames or more, got"):
        write_sharpest_frames(tmp_path / "x.mp4", tmp_path)


def test_one_frame_is_too_few(tmp_path):
    file = write_video(tmp_path / "x.mp4", [picture(0)])
    with pytest.raises(AirjaxError, match="expected a video of 2 frames or more, got 1 of its frames"):
        write_sharpest_frames(file, tmp_path)


def test_without_pyav_the_line_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "av", None)
    (tmp_path / "x.mp4").write_bytes(b"x")
    with pytest.raises(AirjaxError, match=r"reading a video needs PyAV.*pip install 'airjax\[poses,video\]'"):
        video.write_sharpest_frames(tmp_path / "x.mp4", tmp_path)

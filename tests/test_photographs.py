"""Images in and out of files: every mode, format, orientation and error path, with files made on the spot."""

import io
import os
import struct
import warnings
import zlib

import jax.numpy as jnp
import numpy as np
import pytest
from messages import one_line
from PIL import Image, ImageCms

from airjax import photographs
from airjax.color_space import named_space
from airjax.errors import AirjaxError
from airjax.photographs import MAX_PIXELS, READABLE, _opened, orientation_of, read_image, to_8bit, write_image

GREY_NOTICE = "grey image read as RGB with three equal channels"
WHITE_NOTICE = "transparent parts laid over white, alpha channel dropped"


def noise(*shape, seed=0, high=256, dtype=np.uint8) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, high, shape).astype(dtype)


def png_chunk(tag: bytes, payload: bytes) -> bytes:
    return struct.pack(">I", len(payload)) + tag + payload + struct.pack(">I", zlib.crc32(tag + payload))


def png(samples: np.ndarray, color_type: int, *extra: bytes, bits=16, size=None) -> bytes:
    """A PNG file by hand (PNG specification): Pillow writes no 16-bit colour. samples: (h, w, c)."""
    height, width = size or samples.shape[:2]
    lines = b"".join(b"\0" + line.astype(">u2" if bits == 16 else "u1").tobytes() for line in samples)
    head = png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, color_type, 0, 0, 0))
    body = png_chunk(b"IDAT", zlib.compress(lines)) + png_chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + head + b"".join(extra) + body


def tiff(samples: np.ndarray, *, bits=16, photometric=1, order="<", signed=False) -> bytes:
    """An uncompressed TIFF file by hand (TIFF 6.0): Pillow writes no 16-bit colour. samples: (h, w, c)."""
    height, width, channels = samples.shape
    if bits == 12:
        flat = samples.reshape(-1, 2)
        a, b = flat[:, 0], flat[:, 1]
        data = np.stack([a >> 4, (a & 15) << 4 | b >> 8, b & 255], 1).astype(np.uint8).tobytes()
    else:
        data = samples.astype(f"{order}{'i' if signed else 'u'}{bits // 8}").tobytes()
    numbers = {256: width, 257: height, 258: bits, 259: 1, 262: photometric, 273: None, 277: channels}
    numbers |= {278: height, 279: len(data), 339: 2 if signed else 1}
    start = 8 + 2 + 12 * len(numbers) + 4
    out = (b"II" if order == "<" else b"MM") + struct.pack(f"{order}HI", 42, 8)
    out += struct.pack(f"{order}H", len(numbers))
    for tag, value in numbers.items():
        if tag == 258 and channels > 1:
            out += struct.pack(f"{order}HHII", tag, 3, channels, start)
        elif tag in (273, 279):
            out += struct.pack(f"{order}HHII", tag, 4, 1, start + 2 * channels if tag == 273 else value)
        else:
            out += struct.pack(f"{order}HHIHH", tag, 3, 1, value, 0)
    out += struct.pack(f"{order}I", 0) + struct.pack(f"{order}{channels}H", *[bits] * channels)
    return out + data


def saved(path, image: Image.Image, **options):
    image.save(path, **options)
    return path


def written(path, data: bytes):
    path.write_bytes(data)
    return path


def swapped_profile() -> bytes:
    """The profile of a made-up colour space: sRGB with red and blue exchanged."""
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    return profile.replace(b"rXYZ", b"----").replace(b"bXYZ", b"rXYZ").replace(b"----", b"bXYZ")


# --- formats and modes --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name, options",
    [("a.png", {}), ("a.webp", {"lossless": True}), ("a.tif", {}), ("a.TIFF", {"compression": "tiff_lzw"})],
)
@pytest.mark.parametrize("size", [(1, 1), (5, 7), (1, 40), (40, 1)])
def test_lossless_rgb(tmp_path, name, options, size):
    """Oracle: the samples divided by 255 in float64, rounded to float32."""
    samples = noise(*size, 3)
    pixels, notices, alpha = read_image(saved(tmp_path / name, Image.fromarray(samples), **options))
    assert (pixels.dtype, pixels.shape, pixels.flags.c_contiguous) == (np.float32, (*size, 3), True)
    np.testing.assert_array_equal(pixels, (samples / 255).astype(np.float32))
    assert notices == () and alpha is None


def test_jpeg_and_wrong_suffix(tmp_path):
    """Oracle: Pillow's own decoding. The content says what a file is, not its name."""
    path = saved(tmp_path / "photo.png", Image.fromarray(noise(16, 16, 3)), format="JPEG")
    pixels, notices, _ = read_image(str(path))
    np.testing.assert_array_equal(to_8bit(pixels), np.asarray(Image.open(path)))
    assert notices == ()


@pytest.mark.parametrize("mode", ["L", "1"])
@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_grey(tmp_path, mode, suffix):
    """Oracle: the samples, three times."""
    image = Image.fromarray(noise(4, 6)).convert(mode)
    pixels, notices, _ = read_image(saved(tmp_path / f"a.{suffix}", image))
    np.testing.assert_array_equal(pixels, np.repeat(np.asarray(image.convert("L"))[:, :, None], 3, 2) / np.float32(255))
    assert notices == (GREY_NOTICE,)


def test_palette(tmp_path):
    """Oracle: the palette looked up by hand."""
    indices, palette = noise(4, 6, high=7), noise(7, 3, seed=1)
    image = Image.fromarray(indices, "L")
    image.putpalette(palette.tobytes())
    pixels, notices, alpha = read_image(saved(tmp_path / "a.png", image))
    np.testing.assert_array_equal(to_8bit(pixels), palette[indices])
    assert notices == () and alpha is None
    pixels, notices, alpha = read_image(saved(tmp_path / "b.png", image, transparency=3))
    np.testing.assert_array_equal(to_8bit(pixels), np.where((indices == 3)[:, :, None], 255, palette[indices]))
    assert notices == (WHITE_NOTICE,)
    np.testing.assert_array_equal(alpha, indices != 3)


def test_cmyk(tmp_path):
    """Oracle: the formula (1 - ink) (1 - black), to a rounding step; JPEG files store inks inverted."""
    inks = noise(4, 6, 4)
    pixels, notices, _ = read_image(saved(tmp_path / "a.tif", Image.fromarray(inks, "CMYK")))
    expected = (1 - inks[:, :, :3] / 255) * (1 - inks[:, :, 3:] / 255)
    np.testing.assert_allclose(pixels, expected, atol=1.01 / 255)
    assert notices == ("CMYK converted to RGB without a colour profile",)
    flat = Image.new("CMYK", (8, 8), (255, 0, 0, 0))
    np.testing.assert_allclose(read_image(saved(tmp_path / "a.jpg", flat)).pixels[0, 0], (0, 1, 1), atol=0.02)


@pytest.mark.parametrize("name", ["a.png", "a.webp", "a.tif"])
def test_alpha_is_laid_over_white(tmp_path, name):
    """Oracle: colour * alpha + (1 - alpha) in float64."""
    samples = noise(4, 6, 4)
    options = {"lossless": True, "exact": True} if name == "a.webp" else {}
    pixels, notices, alpha = read_image(saved(tmp_path / name, Image.fromarray(samples), **options))
    assert alpha.dtype == np.float32
    np.testing.assert_array_equal(alpha, (samples[:, :, 3] / 255).astype(np.float32))
    alpha = samples[:, :, 3:] / 255
    np.testing.assert_allclose(pixels, samples[:, :, :3] / 255 * alpha + 1 - alpha, atol=1e-6)
    assert notices == (WHITE_NOTICE,)
    assert pixels.max() <= 1.0


def test_grey_with_alpha_and_opaque_alpha(tmp_path):
    """Oracle: the same formula; an opaque channel changes nothing."""
    samples = noise(4, 6, 2)
    pixels, notices, alpha = read_image(saved(tmp_path / "a.png", Image.fromarray(samples, "LA")))
    np.testing.assert_array_equal(alpha, (samples[:, :, 1] / 255).astype(np.float32))
    alpha = samples[:, :, 1] / 255
    np.testing.assert_allclose(pixels[:, :, 2], samples[:, :, 0] / 255 * alpha + 1 - alpha, atol=1e-6)
    assert notices == (GREY_NOTICE, WHITE_NOTICE)
    samples[:, :, 1] = 255
    pixels, notices, alpha = read_image(saved(tmp_path / "b.png", Image.fromarray(samples, "LA")))
    np.testing.assert_array_equal(to_8bit(pixels)[:, :, 0], samples[:, :, 0])
    assert notices == (GREY_NOTICE, "alpha channel dropped (opaque everywhere)") and alpha is None


def test_transparent_color_of_rgb_png(tmp_path):
    """Oracle: the one pixel of that colour is white."""
    samples = noise(2, 3, 3)
    color = tuple(int(x) for x in samples[1, 2])
    pixels, notices, alpha = read_image(saved(tmp_path / "a.png", Image.fromarray(samples), transparency=color))
    samples[1, 2] = 255
    np.testing.assert_array_equal(to_8bit(pixels), samples)
    assert notices == (WHITE_NOTICE,)
    np.testing.assert_array_equal(alpha == 0, np.arange(6).reshape(2, 3) == 5)


# --- more than 8 bits ---------------------------------------------------------------------------------------

DEEP_GREY = "16-bit grey, divided by 65535, read as RGB with three equal channels"
DEEP_COLOR = "16-bit colour cut to its upper 8 bits (Pillow reads no more of it)"


@pytest.mark.parametrize(
    "name, make",
    [
        ("a.png", lambda samples: png(samples, 0)),
        ("a.tif", lambda samples: tiff(samples)),
        ("b.tif", lambda samples: tiff(samples, order=">")),
        ("c.tif", lambda samples: tiff(65535 - samples, photometric=0)),
    ],
)
def test_16_bit_grey_keeps_every_level(tmp_path, name, make):
    """Oracle: the integers come back from the float pixels; modes I;16 and I;16B, white-is-zero included."""
    samples = noise(30, 40, 1, high=65536, dtype=np.uint16)
    samples[0, :2, 0] = 0, 65535
    pixels, notices, _ = read_image(written(tmp_path / name, make(samples)))
    assert pixels.dtype == np.float32
    np.testing.assert_array_equal(np.rint(pixels * 65535.0), np.repeat(samples, 3, 2))
    assert notices == (DEEP_GREY,)


def test_12_bit_grey(tmp_path):
    """Oracle: the integers come back when multiplied by 4095."""
    samples = noise(4, 6, 1, high=4096, dtype=np.uint16)
    pixels, notices, _ = read_image(written(tmp_path / "a.tif", tiff(samples, bits=12)))
    np.testing.assert_array_equal(np.rint(pixels * 4095.0), np.repeat(samples, 3, 2))
    assert notices == ("12-bit grey, divided by 4095, read as RGB with three equal channels",)


def test_32_bit_grey(tmp_path):
    """Mode I: read as 16 bits where that makes sense, refused where the range is unknown."""
    samples = noise(4, 6, high=65536, dtype=np.int32)
    pixels, notices, _ = read_image(saved(tmp_path / "a.tif", Image.fromarray(samples)))
    np.testing.assert_array_equal(np.rint(pixels[:, :, 0] * 65535.0), samples)
    assert notices == ("32-bit grey, divided by 65535, read as RGB with three equal channels",)
    for bad in (-1, 65536):
        samples[2, 3] = bad
        path = saved(tmp_path / "a.tif", Image.fromarray(samples))
        with pytest.raises(AirjaxError) as error:
            read_image(path)
        assert one_line(error, path).startswith("expected integer samples of 8 or 16 bits")


def test_float_grey(tmp_path):
    """Mode F: taken as it is in [0, 1], refused elsewhere."""
    samples = np.random.default_rng(0).random((4, 6)).astype(np.float32)
    pixels, notices, _ = read_image(saved(tmp_path / "a.tif", Image.fromarray(samples)))
    np.testing.assert_array_equal(pixels[:, :, 1], samples)
    assert notices == ("32-bit floating grey read as RGB with three equal channels",)
    for bad in (-0.01, 1.01, np.nan, np.inf):
        samples[2, 3] = bad
        path = saved(tmp_path / "a.tif", Image.fromarray(samples))
        with pytest.raises(AirjaxError) as error:
            read_image(path)
        assert one_line(error, path) == "expected floating samples in [0, 1], got others"


@pytest.mark.parametrize("make", [lambda s: png(s, 2), lambda s: tiff(s, photometric=2)])
def test_16_bit_color_is_cut_and_says_so(tmp_path, make):
    """Oracle: the upper byte of each sample."""
    samples = noise(4, 6, 3, high=65536, dtype=np.uint16)
    pixels, notices, _ = read_image(written(tmp_path / "a", make(samples)))
    np.testing.assert_array_equal(to_8bit(pixels), samples >> 8)
    assert notices == (DEEP_COLOR,)


def test_16_bit_alpha_and_transparent_levels(tmp_path):
    """Oracle: the formula on upper bytes; the one transparent grey level is white."""
    samples = noise(4, 6, 4, high=65536, dtype=np.uint16)
    pixels, notices, alpha = read_image(written(tmp_path / "a.png", png(samples, 6)))
    upper = (samples >> 8) / 255
    np.testing.assert_allclose(pixels, upper[:, :, :3] * upper[:, :, 3:] + 1 - upper[:, :, 3:], atol=1e-6)
    assert notices == (DEEP_COLOR, WHITE_NOTICE)
    np.testing.assert_array_equal(alpha, upper[:, :, 3].astype(np.float32))

    level = png_chunk(b"tRNS", samples[1, 2, :1].astype(">u2").tobytes())
    pixels, notices, alpha = read_image(written(tmp_path / "b.png", png(samples[:, :, :1], 0, level)))
    expected = samples[:, :, 0].astype(np.int64)
    expected[1, 2] = 65535
    np.testing.assert_array_equal(np.rint(pixels[:, :, 0] * 65535.0), expected)
    assert notices == (DEEP_GREY, WHITE_NOTICE)
    np.testing.assert_array_equal(alpha == 0, samples[:, :, 0] == samples[1, 2, 0])

    color = png_chunk(b"tRNS", samples[1, 2, :3].astype(">u2").tobytes())
    pixels, notices, alpha = read_image(written(tmp_path / "c.png", png(samples[:, :, :3], 2, color)))
    np.testing.assert_array_equal(to_8bit(pixels), samples[:, :, :3] >> 8)
    assert notices[0] == DEEP_COLOR and notices[1].startswith("transparent colour ignored")


# --- orientation, frames, colour profiles -------------------------------------------------------------------

# How the upright picture 1 2 3 / 4 5 6 is stored under each orientation (EXIF 2.32, tag 0x0112).
STORED = {
    1: [[1, 2, 3], [4, 5, 6]],
    2: [[3, 2, 1], [6, 5, 4]],
    3: [[6, 5, 4], [3, 2, 1]],
    4: [[4, 5, 6], [1, 2, 3]],
    5: [[1, 4], [2, 5], [3, 6]],
    6: [[3, 6], [2, 5], [1, 4]],
    7: [[6, 3], [5, 2], [4, 1]],
    8: [[4, 1], [5, 2], [6, 3]],
}


@pytest.mark.parametrize("orientation", STORED)
@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.webp", "a.tif", "lzw.tif"])
def test_exif_orientation(tmp_path, name, orientation):
    """Oracle: the table above; 16x16 blocks of flat grey, so that JPEG keeps them to a few levels."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    levels = np.kron(np.array(STORED[orientation]) * 40, np.ones((16, 16))).astype(np.uint8)
    options = {"a.webp": {"lossless": True}, "lzw.tif": {"compression": "tiff_lzw"}}.get(name, {})
    image = Image.fromarray(np.repeat(levels[:, :, None], 3, 2))
    pixels, notices, _ = read_image(saved(tmp_path / name, image, exif=exif, **options))
    assert orientation_of(tmp_path / name) == orientation
    assert pixels.shape == (32, 48, 3) and pixels.flags.c_contiguous
    upright = np.kron([[1, 2, 3], [4, 5, 6]], np.ones((16, 16))) * 40 / 255
    np.testing.assert_allclose(pixels[:, :, 0], upright, atol=4 / 255)
    assert notices == (() if orientation == 1 else (f"EXIF orientation {orientation} applied",))
    pixels, notices, _ = read_image(tmp_path / name, upright=False)
    np.testing.assert_allclose(pixels[:, :, 0], levels / 255, atol=4 / 255)
    ignored = f"EXIF orientation {orientation} ignored, pixels read as stored"
    assert notices == (() if orientation == 1 else (ignored,))


def test_orientation_of_deep_and_transparent_images(tmp_path):
    """Oracle: numpy's rotation by a quarter turn clockwise (orientation 6)."""
    exif = Image.Exif()
    exif[0x0112] = 6
    block = png_chunk(b"eXIf", exif.tobytes().removeprefix(b"Exif\0\0"))
    samples = noise(2, 3, 1, high=65536, dtype=np.uint16)
    pixels, notices, _ = read_image(written(tmp_path / "a.png", png(samples, 0, block)))
    np.testing.assert_array_equal(np.rint(pixels[:, :, 0] * 65535.0), np.rot90(samples[:, :, 0], -1))
    assert notices == (DEEP_GREY, "EXIF orientation 6 applied")
    samples = noise(2, 3, 4)
    plain = read_image(saved(tmp_path / "b.png", Image.fromarray(samples)))
    turned = read_image(saved(tmp_path / "c.png", Image.fromarray(samples), exif=exif))
    np.testing.assert_array_equal(turned.pixels, np.rot90(plain.pixels, -1))
    np.testing.assert_array_equal(turned.alpha, np.rot90(plain.alpha, -1))
    assert turned.alpha.flags.c_contiguous


def test_unknown_orientation_and_broken_exif(tmp_path):
    """The image counts more than its metadata: it is read as stored."""
    samples = noise(2, 3, 3)
    exif = Image.Exif()
    exif[0x0112] = 9
    pixels, notices, _ = read_image(saved(tmp_path / "a.png", Image.fromarray(samples), exif=exif))
    np.testing.assert_array_equal(to_8bit(pixels), samples)
    assert notices == ()
    broken = png(samples, 2, png_chunk(b"eXIf", b"garbage without a TIFF header"), bits=8)
    pixels, notices, _ = read_image(written(tmp_path / "b.png", broken))
    np.testing.assert_array_equal(to_8bit(pixels), samples)
    assert len(notices) == 1 and notices[0].startswith("EXIF data ignored (")


@pytest.mark.parametrize("name, options", [("a.png", {}), ("a.webp", {"lossless": True}), ("a.tif", {})])
def test_first_frame(tmp_path, name, options):
    """Oracle: the first of three pictures."""
    frames = [Image.fromarray(noise(8, 8, 3, seed=seed)) for seed in range(3)]
    path = saved(tmp_path / name, frames[0], save_all=True, append_images=frames[1:], **options)
    pixels, notices, _ = read_image(path)
    np.testing.assert_array_equal(to_8bit(pixels), np.asarray(frames[0]))
    assert notices == ("first of 3 frames or pages used",)


def test_default_image_of_a_broken_animation(tmp_path):
    """An APNG without a frame control (fcTL): browsers show its default image."""
    samples = noise(4, 6, 3)
    plain = png(samples, 2, png_chunk(b"acTL", struct.pack(">II", 2, 0)), bits=8)
    pixels, notices, _ = read_image(
        written(tmp_path / "a.png", plain[:-12] + png_chunk(b"fdAT", bytes(9)) + plain[-12:])
    )
    np.testing.assert_array_equal(to_8bit(pixels), samples)
    assert notices == ("first of 2 frames or pages used",)


@pytest.mark.parametrize("suffix", [".gif", ".bmp", ".jfif", ".jpe", ".avif"])
def test_more_formats(tmp_path, suffix):
    """Oracle: Pillow's own decoding, where it has one."""
    if suffix not in photographs.IMAGE_SUFFIXES:
        assert suffix == ".avif" and suffix in photographs.UNREADABLE_SUFFIXES
        pytest.skip("this Pillow reads no AVIF")
    image = Image.fromarray(np.kron(noise(2, 3, 3), np.ones((8, 8, 1), np.uint8)))
    path = saved(tmp_path / f"a{suffix}", image, **({"format": "JPEG"} if suffix[1] == "j" else {}))
    pixels, notices, _ = read_image(path)
    np.testing.assert_array_equal(to_8bit(pixels), np.asarray(Image.open(path).convert("RGB")))
    assert notices == ()


def test_color_profile_is_converted(tmp_path):
    """Oracle: a profile with red and blue exchanged exchanges red and blue, to a rounding step of 8 bits."""
    samples = noise(8, 8, 4)
    path = saved(tmp_path / "a.png", Image.fromarray(samples[:, :, :3]), icc_profile=swapped_profile())
    pixels, notices, alpha = read_image(path)
    np.testing.assert_allclose(pixels, samples[:, :, 2::-1] / 255, atol=1.01 / 255)
    assert notices == ("colours converted from the embedded profile to sRGB",)
    opaque = read_image(saved(tmp_path / "b.png", Image.fromarray(samples), icc_profile=swapped_profile()))
    alpha = samples[:, :, 3:] / 255
    np.testing.assert_allclose(opaque.pixels, samples[:, :, 2::-1] / 255 * alpha + 1 - alpha, atol=1.01 / 255)
    assert opaque.notices == (*notices, WHITE_NOTICE)


@pytest.mark.parametrize("mode, said", [("RGB", ()), ("L", (GREY_NOTICE,))])
def test_srgb_profile_changes_nothing(tmp_path, mode, said):
    """Oracle: the samples, and no notice."""
    image = Image.fromarray(noise(8, 8, 3)).convert(mode)
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    pixels, notices, _ = read_image(saved(tmp_path / "a.png", image, icc_profile=profile))
    np.testing.assert_array_equal(to_8bit(pixels), np.asarray(image.convert("RGB")))
    assert notices == said


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_useless_profile_is_ignored_aloud(tmp_path, mode):
    """Oracle: the same image without a profile. An RGB profile cannot serve CMYK."""
    image = Image.fromarray(noise(8, 8, 3)).convert(mode)
    profile = swapped_profile() if mode == "CMYK" else b"no profile at all"
    plain = read_image(saved(tmp_path / "a.tif", image))
    pixels, notices, _ = read_image(saved(tmp_path / "b.tif", image, icc_profile=profile))
    np.testing.assert_array_equal(pixels, plain.pixels)
    extra = [notice for notice in notices if notice not in plain.notices]
    assert len(extra) == 1 and extra[0].startswith("colour profile ignored (")


def test_profile_of_a_deep_image_is_ignored_aloud(tmp_path):
    image = Image.fromarray(noise(4, 4, high=65536, dtype=np.uint16))
    notices = read_image(saved(tmp_path / "a.png", image, icc_profile=swapped_profile())).notices
    assert notices == (DEEP_GREY, "colour profile ignored (it is only applied to 8-bit images)")


# --- colors that PNG files name by numbers ------------------------------------------------------------------

SRGB_GAMMA = png_chunk(b"gAMA", struct.pack(">I", 45455))
PLAIN_CHROMA = (31270, 32900, 64000, 33000, 30000, 60000, 15000, 6000)  # white, red, green, blue of sRGB


def chroma(*points: int) -> bytes:
    return png_chunk(b"cHRM", struct.pack(">8I", *points))


def cicp(*numbers: int) -> bytes:
    return png_chunk(b"cICP", bytes(numbers))


def to_curve(light):
    """sRGB samples of linear light (IEC 61966-2-1)."""
    return np.where(light <= 0.0031308, light * 12.92, 1.055 * light ** (1 / 2.4) - 0.055)


@pytest.mark.parametrize("color_type, channels", [(2, 3), (0, 1)])
def test_gamma_is_converted(tmp_path, color_type, channels):
    """Oracle: linear samples through the curve of sRGB, color and grey."""
    samples = noise(4, 6, channels)
    linear = png_chunk(b"gAMA", struct.pack(">I", 100000))
    path = written(tmp_path / "a.png", png(samples, color_type, linear, bits=8))
    pixels, notices, _ = read_image(path)
    np.testing.assert_allclose(pixels, np.broadcast_to(to_curve(samples / 255), (4, 6, 3)), atol=1e-6)
    assert notices[-1] == "colors converted from gAMA to sRGB"


def test_chromaticities_are_converted(tmp_path):
    """Oracle: red and green exchanged exchanges red and green; Display P3 by the matrix of its CSS definition."""
    samples = noise(4, 6, 3)
    swapped = chroma(*PLAIN_CHROMA[:2], *PLAIN_CHROMA[4:6], *PLAIN_CHROMA[2:4], *PLAIN_CHROMA[6:])
    pixels, notices, _ = read_image(written(tmp_path / "a.png", png(samples, 2, SRGB_GAMMA, swapped, bits=8)))
    np.testing.assert_allclose(pixels, samples[:, :, [1, 0, 2]] / 255, atol=1e-5)
    assert notices == ("colors converted from gAMA and cHRM to sRGB",)
    matrix = np.array([[1.2249, -0.2247, 0], [-0.0420, 1.0419, 0], [-0.0197, -0.0786, 1.0979]])
    light = np.random.default_rng(0).uniform(0.2, 0.6, (4, 6, 3))
    shown = np.rint(255 * to_curve(light)).astype(np.uint8)
    pixels, notices, _ = read_image(written(tmp_path / "b.png", png(shown, 2, cicp(12, 13, 0, 1), bits=8)))
    np.testing.assert_allclose(pixels, to_curve(np.clip(light @ matrix.T, 0, 1)), atol=1.2 / 255)
    assert notices == ("colors converted from cICP to sRGB",)


def test_white_stays_white(tmp_path):
    """Whatever the white point: grey is grey."""
    grey = np.full((2, 2, 3), 200, np.uint8)
    warm = chroma(34567, 35850, *PLAIN_CHROMA[2:])  # D50
    np.testing.assert_allclose(
        read_image(written(tmp_path / "a.png", png(grey, 2, warm, bits=8))).pixels, 200 / 255, atol=1e-4
    )


def test_pq_is_as_bright_as_paper(tmp_path):
    """Oracle: ITU-R BT.2408 table 1: 203 cd/m^2 is 58 % PQ; what is brighter is white."""
    levels = np.array([0, 148, 200], np.uint8)[None, :, None].repeat(3, 2)
    pixels = read_image(written(tmp_path / "a.png", png(levels, 2, cicp(9, 16, 0, 1), bits=8))).pixels
    np.testing.assert_allclose(pixels[0, :, 1], (0, 1, 1), atol=0.01)
    hundred = named_space(1, 16).curve(np.array([0.5081]))  # SMPTE ST 2084: 100 cd/m^2
    np.testing.assert_allclose(hundred, 100 / 203, rtol=2e-3)


@pytest.mark.parametrize(
    "extra",
    [
        (SRGB_GAMMA,),
        (SRGB_GAMMA, chroma(*PLAIN_CHROMA)),
        (png_chunk(b"sRGB", b"\0"), png_chunk(b"gAMA", struct.pack(">I", 100000))),
        (cicp(1, 13, 0, 1),),
        (cicp(1, 13, 0, 1), png_chunk(b"gAMA", struct.pack(">I", 100000))),
        (cicp(1),),
    ],
)
def test_numbers_of_srgb_change_nothing(tmp_path, extra):
    """Oracle: the samples, and no notice."""
    samples = noise(4, 6, 3)
    pixels, notices, _ = read_image(written(tmp_path / "a.png", png(samples, 2, *extra, bits=8)))
    np.testing.assert_array_equal(to_8bit(pixels), samples)
    assert notices == ()


@pytest.mark.parametrize(
    "extra, words",
    [
        (cicp(9, 18, 0, 1), "cICP 9/18/0/1 is not known"),
        (cicp(1, 13, 0, 0), "cICP 1/13/0/0 is not known"),
        (chroma(*[0] * 8), "span no colours"),
        (chroma(*[30000] * 8), "span no colours"),
        (png_chunk(b"gAMA", bytes(4)), "gAMA of 0"),
    ],
)
def test_numbers_of_no_known_space_are_said(tmp_path, extra, words):
    """HLG, narrow range, nonsense: the samples, and one line."""
    samples = noise(4, 6, 3)
    pixels, (notice,), _ = read_image(written(tmp_path / "a.png", png(samples, 2, extra, bits=8)))
    np.testing.assert_array_equal(to_8bit(pixels), samples)
    assert notice.startswith("colors read as sRGB (") and words in notice


# --- files that cannot be read ------------------------------------------------------------------------------


def test_unreadable_paths(tmp_path, monkeypatch):
    """Each message names the file and what was expected."""
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "empty.png").touch()
    cases = {"missing.png": "No such file", "folder.png": "got a folder", "empty.png": "got 0 bytes"}
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe.png")
        cases["pipe.png"] = "got a device or a pipe"
    for name, words in cases.items():
        with pytest.raises(AirjaxError) as error:
            read_image(tmp_path / name)
        assert words in one_line(error, tmp_path / name) and "expected" in str(error.value)

    path = saved(tmp_path / "a.png", Image.fromarray(noise(2, 2, 3)))

    def denied(*args, **kwargs):
        raise PermissionError(13, "Permission denied", str(path))

    # Replaced rather than chmod-ed: root, as in many containers, may read everything.
    monkeypatch.setattr("pathlib.Path.read_bytes", denied)
    with pytest.raises(AirjaxError) as error:
        read_image(path)
    assert one_line(error, path).startswith("cannot be read (Permission denied)")


def test_other_formats_are_refused(tmp_path):
    """A reader for them may exist in Pillow; the list in the message is the whole truth."""
    for format_name in ("PPM", "TGA"):
        path = saved(tmp_path / "a.png", Image.fromarray(noise(4, 4, 3)), format=format_name)
        with pytest.raises(AirjaxError) as error:
            read_image(path)
        assert one_line(error, path).startswith(f"expected {READABLE}, got something else")
    path = written(tmp_path / "a.jpg", b"hello world\n" * 100)
    with pytest.raises(AirjaxError, match="got something else"):
        read_image(path)


@pytest.mark.parametrize("format_name", [*photographs._FORMATS])
@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow warns of cut TIFF tables, and then raises
def test_truncated_images_are_refused(tmp_path, format_name):
    """Cut in the header, in the middle of the pixels, and before the last of them."""
    buffer = io.BytesIO()
    Image.fromarray(noise(32, 32, 3)).save(buffer, format_name)
    data = buffer.getvalue()
    for length in (1, 7, 30, 60, len(data) // 2, len(data) - 40):
        path = written(tmp_path / "a", data[:length])
        with pytest.raises(AirjaxError) as error:
            read_image(path)
        assert one_line(error, path).startswith(f"expected {READABLE}, got")


@pytest.mark.parametrize("height, width", [(2**14, 2**14 + 1), (25_000, 25_000), (2**31 - 1, 2**31 - 1)])
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_decompression_bombs_are_refused(tmp_path, height, width):
    """The header is enough to refuse; beyond our limit, and far beyond it."""
    path = written(tmp_path / "a.png", png(noise(1, 1, 3), 2, bits=8, size=(height, width)))
    with pytest.raises(AirjaxError) as error:
        read_image(path)
    assert one_line(error, path).startswith(f"expected at most {MAX_PIXELS} pixels, got ")


def test_images_up_to_the_limit_are_opened():
    """Beyond Pillow's own limit, which stays what it was. Their pixels would take a gigabyte."""
    limit, side = Image.MAX_IMAGE_PIXELS, 2**14
    with _opened(io.BytesIO(png(noise(1, 1, 3), 2, bits=8, size=(side, side)))) as image:
        assert image.size == (side, side) and side**2 == MAX_PIXELS > 2 * limit
    assert limit == Image.MAX_IMAGE_PIXELS


def test_bomb_warning_turned_into_an_error(tmp_path):
    """A program that runs with -W error gets the same one line."""
    path = written(tmp_path / "a.png", png(noise(1, 1, 3), 2, bits=8, size=(17_000, 17_000)))
    with warnings.catch_warnings(), pytest.raises(AirjaxError) as error:
        warnings.simplefilter("error")
        read_image(path)
    assert one_line(error, path).startswith(f"expected at most {MAX_PIXELS} pixels")


@pytest.mark.filterwarnings("ignore")
def test_damaged_images_raise_nothing_else(tmp_path):
    """Property: read or AirjaxError, for 400 files with a few changed bytes behind a whole signature."""
    rng, path = np.random.default_rng(0), tmp_path / "a"
    exif = Image.Exif()
    exif[0x0112] = 6
    image = Image.fromarray(np.kron(noise(3, 4, 3), np.ones((4, 4, 1), np.uint8)))
    sources = []
    for format_name, options in (
        ("PNG", {}),
        ("JPEG", {}),
        ("WEBP", {}),
        ("WEBP", {"lossless": True}),
        ("TIFF", {}),
        ("GIF", {}),
        ("BMP", {}),
    ):
        buffer = io.BytesIO()
        image.save(buffer, format_name, exif=exif, icc_profile=swapped_profile(), **options)
        sources.append(buffer.getvalue())
    refused = 0
    for case in range(400):
        data = bytearray(sources[case % len(sources)])
        for position in rng.integers(4, len(data), rng.integers(1, 6)):
            data[position] = rng.integers(256)
        path.write_bytes(data)
        try:
            pixels = read_image(path).pixels
            assert pixels.dtype == np.float32 and pixels.min() >= 0 and pixels.max() <= 1
        except AirjaxError as error:
            refused += 1
            assert "\n" not in str(error)
    assert 0 < refused < 400


def test_unprintable_names_stay_on_one_line(tmp_path):
    """A file may be called anything; the message escapes it."""
    path = tmp_path / "two\nlines.png"
    with pytest.raises(AirjaxError) as error:
        read_image(path)
    assert "\n" not in str(error.value) and r"two\nlines.png" in str(error.value)


# --- writing ------------------------------------------------------------------------------------------------


def test_to_8bit():
    """Oracle: hand-made values; halves go to the even level."""
    values = [-1.0, 0.0, 0.49 / 255, 0.5 / 255, 1.5 / 255, 0.51 / 255, 254.51 / 255, 1.0, 3.0]
    got = to_8bit(np.array(values)[None, :, None])
    np.testing.assert_array_equal(got, [[0, 0, 0, 0, 2, 1, 255, 255, 255]])
    levels = np.arange(256, dtype=np.float32)[None, :, None] / np.float32(255)
    np.testing.assert_array_equal(to_8bit(levels)[0], np.arange(256))


@pytest.mark.parametrize("name", ["a.png", "a.webp", "a.tif", "a.TIFF", "a.PNG"])
@pytest.mark.parametrize("channels", [1, 3])
def test_write_lossless(tmp_path, name, channels):
    """Oracle: read back, the rounded pixels; numpy and JAX arrays give the same file."""
    pixels = np.random.default_rng(0).uniform(-0.2, 1.2, (5, 7, channels)).astype(np.float32)
    path = tmp_path / name
    write_image(path, pixels)
    data = path.read_bytes()
    expected = np.broadcast_to(to_8bit(pixels).reshape(5, 7, channels), (5, 7, 3))
    np.testing.assert_array_equal(to_8bit(read_image(path).pixels), expected)
    write_image(str(path), jnp.asarray(pixels))
    assert path.read_bytes() == data
    assert os.listdir(tmp_path) == [name]


@pytest.mark.parametrize("name", ["a.jpg", "a.jpeg"])
def test_write_jpeg(tmp_path, name):
    """Oracle: the sampling factors in the file (1x1 for each component), close pixels."""
    y, x = np.mgrid[0:32, 0:48] / 48
    pixels = np.stack([x, y, 1 - x], -1)
    write_image(tmp_path / name, pixels)
    with Image.open(tmp_path / name) as image:
        assert image.format == "JPEG"
        assert [layer[1:3] for layer in image.layer] == [(1, 1)] * 3
    np.testing.assert_allclose(read_image(tmp_path / name).pixels, pixels, atol=0.03)


@pytest.mark.parametrize("name", ["a.bmp", "a", "a.png.txt", ".png"])
def test_write_unknown_suffix(tmp_path, name):
    with pytest.raises(AirjaxError) as error:
        write_image(tmp_path / name, np.zeros((2, 2, 3)))
    assert one_line(error, tmp_path / name).startswith("expected a name ending in .png, .jpg, .jpeg, .webp, .tif")
    assert os.listdir(tmp_path) == []


def test_write_refuses_what_is_no_picture(tmp_path):
    for bad in (np.zeros((2, 2)), np.zeros((2, 2, 4)), np.zeros((0, 2, 3)), np.zeros((2, 2, 3), np.uint8)):
        with pytest.raises(ValueError, match="pixels: expected"):
            write_image(tmp_path / "a.png", bad)
    for poison in (np.nan, np.inf):
        with pytest.raises(ValueError, match="pixels: expected finite"):
            write_image(tmp_path / "a.png", np.full((2, 2, 3), poison))
    for name, side in (("a.webp", 16384), ("a.jpg", 65501)):
        with pytest.raises(AirjaxError) as error:
            write_image(tmp_path / name, np.zeros((1, side, 3), np.float32))
        assert f"got {side}x1; use .png" in one_line(error, tmp_path / name)
    assert os.listdir(tmp_path) == []


def test_write_the_largest_sides(tmp_path):
    """Oracle: the sides come back; the limits are those of the formats, not guesses."""
    for name, side in (("a.webp", 16383), ("a.jpg", 65500)):
        write_image(tmp_path / name, np.zeros((1, side, 3), np.float32))
        assert read_image(tmp_path / name).pixels.shape == (1, side, 3)

"""Compare a photograph with its file: python -m eval.image.demo ORIGINAL FILE.air DECODED.png -o PICTURE.png

Prints the quality of the decoded image, the size of the file and warm times, and draws one picture.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np

from airjax import AirjaxError, load
from airjax.commands.session import enable_compilation_cache
from airjax.files import atomic_write_bytes, display_name, read_bytes
from airjax.image.codec import air_file
from airjax.image.codec.chunks import CHUNK_OVERHEAD, STAGE_TAGS
from airjax.image.codec.compress import compress
from airjax.photographs import read_image
from eval.image.measures import as_written, bits_per_pixel, decode_pixels, score
from eval.plots import picture_figure, png
from eval.timing import time_warm

REPETITIONS = 5
NUM_PREFIXES = 4


def compare(original: Path, file: Path, decoded: Path, weights: Path | None) -> tuple[list[str], bytes]:
    """The facts as short texts, and the picture as the bytes of a PNG.

    Raises AirjaxError: a file that cannot be read, or images of other sizes than the .air file.
    """
    image, reconstruction, data = read_image(original).pixels, read_image(decoded).pixels, read_bytes(file)
    try:
        encoded = air_file.decode(data)
    except AirjaxError as error:
        raise AirjaxError(f"{display_name(file)}: {error}") from error
    for path, pixels in ((original, image), (decoded, reconstruction)):
        if pixels.shape[:2] != encoded.image_size:
            actual, expected = (f"{w}x{h}" for h, w in (pixels.shape[:2], encoded.image_size))
            raise AirjaxError(f"{display_name(path)}: expected {expected} pixels like {file}, got {actual}")
    scores = score(image, reconstruction)
    model = load(weights)
    encode, _ = time_warm(lambda: air_file.encode(compress(model, image)), REPETITIONS)
    decode, _ = time_warm(lambda: decode_pixels(data), REPETITIONS)
    height, width = encoded.image_size
    facts = [
        f"{original.name}, {width}x{height}",
        f"PSNR {scores.psnr:.2f} dB",
        f"MS-SSIM {scores.ms_ssim:.4f}",
        f"{encoded.gaussians.num_slots:,} Gaussians",
        f"{len(data):,} bytes, {bits_per_pixel(len(data), encoded.image_size):.2f} bpp",
        f"encode {1e3 * encode.median:.0f} ms, decode {1e3 * decode.median:.0f} ms (warm, median of {REPETITIONS})",
    ]
    shown = [(f"stage {n}: {size / 1024:.1f} kB, {psnr:.1f} dB", part) for n, size, psnr, part in prefixes(image, data)]
    picture = png(picture_figure(image, reconstruction, encoded, facts, prefixes=shown))
    return [*facts, *(f"the beginning of the file, {title}" for title, _ in shown)], picture


def prefixes(image: np.ndarray, data: bytes) -> list[tuple[int, int, float, np.ndarray]]:
    """(stages, bytes, PSNR, pixels) of some beginnings of a file that end with a stage, the whole file left out."""
    stages_of = [chunk for chunk in air_file.info(data).chunks if chunk.tag in STAGE_TAGS.values()]
    ends = [chunk.offset + chunk.length + CHUNK_OVERHEAD for chunk in stages_of]
    chosen = sorted({round(k) for k in np.linspace(1, len(ends) - 1, NUM_PREFIXES)}) if len(ends) > 1 else []
    result = []
    for stages in chosen:
        size = ends[stages - 1]
        part = decode_pixels(data[:size], partial=True)
        result.append((stages, size, score(image, part).psnr, as_written(part)))
    return result


def main(argv: list[str] | None = None) -> int:
    """Exit status: 0, or 2 after one line for the user."""
    parser = argparse.ArgumentParser(prog="python -m eval.image.demo", description="Compare, measure, draw.")
    parser.add_argument("original", type=Path)
    parser.add_argument("file", type=Path, help="the .air file made of it")
    parser.add_argument("decoded", type=Path, help="the image decoded from that file")
    parser.add_argument("-o", "--output", type=Path, required=True, help="the picture (.png)")
    parser.add_argument("--weights", type=Path, help="a weights file (default: the shipped one)")
    args = parser.parse_args(argv)
    try:
        if args.output.suffix.lower() != ".png":
            raise AirjaxError(f"{display_name(args.output)}: expected a name ending in .png")
        enable_compilation_cache()
        facts, picture = compare(args.original, args.file, args.decoded, args.weights)
        atomic_write_bytes(args.output, picture)
    except (AirjaxError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print("\n".join(facts))
    print(f"picture: {args.output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

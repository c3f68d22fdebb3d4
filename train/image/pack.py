"""Pack photographs as small JPEGs, for a journey to another machine: python -m train.image.pack FOLDER -o OUT"""

from __future__ import annotations

import argparse
import io
import os
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image
from tqdm import tqdm

from airjax.errors import AirjaxError
from airjax.files import display_name, reason
from train.image.data import check_not_evaluation, check_within, find_photographs, read_photograph


@dataclass(frozen=True)
class Packed:
    """Result of `pack`: number of files, their bytes, and the number of files copied unchanged."""

    num_files: int
    num_bytes: int
    num_kept: int


def pack(
    folder: str | os.PathLike,
    out: str | os.PathLike,
    *,
    max_side: int = 1280,
    quality: int = 90,
    limit_mb: float = 60.0,
) -> Packed:
    """Copy a folder of photographs as JPEGs small enough to travel.

    A photograph longer than `max_side` is reduced (Lanczos). Each is encoded at `quality`, 4:4:4; a JPEG that
    needs no reduction and is smaller than its re-encoding is copied as it is. `x.png` becomes `x.png.jpg`, so
    that equal stems stay apart. The folder appears under its name only when complete.

    Args:
      out: folder to write; must not exist.
      max_side: longest side, pixels.
      quality: 1..100.
      limit_mb: what the files may take together, in 10^6 bytes.

    Raises:
      AirjaxError: as `load_photographs`; `out` exists or cannot be written; the limit is exceeded (nothing is
        left); an argument out of range.
    """
    check_within("max_side", max_side, 1, 2**15)
    check_within("quality", quality, 1, 100)
    check_within("limit_mb", limit_mb, 0, 1e9)
    folder, out = Path(folder), Path(out)
    paths = find_photographs([folder])
    check_not_evaluation(paths)
    if out.exists():
        raise AirjaxError(f"{display_name(out)}: exists already, expected the name of a new folder")
    names = [_packed_name(path.relative_to(folder)) for path in paths]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise AirjaxError(f"{display_name(folder)}: two photographs would be packed as {twice}")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{out.name}.", dir=out.parent) as temporary:
            finished = Path(temporary) / out.name
            packed = _write_all(folder, dict(zip(paths, names, strict=True)), finished, max_side, quality, limit_mb)
            os.replace(finished, out)
    except OSError as error:
        raise AirjaxError(f"{display_name(out)}: cannot be written ({reason(error)})") from error
    return packed


def _write_all(
    folder: Path, names: dict[Path, Path], out: Path, max_side: int, quality: int, limit_mb: float
) -> Packed:
    """Writes each photograph under its name in `out`; `folder` is for messages."""
    num_bytes, num_kept = 0, 0
    for count, (path, name) in enumerate(tqdm(names.items(), "packing", disable=None), start=1):
        data, original = _packed_bytes(path, max_side=max_side, quality=quality)
        num_bytes, num_kept = num_bytes + len(data), num_kept + original
        if num_bytes > limit_mb * 1e6:
            raise AirjaxError(
                f"{display_name(folder)}: the first {count} of {len(names)} photographs exceed {limit_mb:g} MB; "
                f"lower the quality ({quality}) or the longest side ({max_side})"
            )
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        (out / name).write_bytes(data)
    return Packed(len(names), num_bytes, num_kept)


def _packed_name(name: Path) -> Path:
    return name if name.suffix == ".jpg" else name.with_name(name.name + ".jpg")


def _packed_bytes(path: Path, *, max_side: int, quality: int) -> tuple[bytes, bool]:
    """The JPEG that stands for a photograph, and whether it is the original file."""
    pixels = read_photograph(path)
    image = Image.fromarray(pixels)
    factor = max_side / max(image.size)
    if factor < 1:
        image = image.resize([max(1, round(factor * side)) for side in image.size], Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality, subsampling=0, optimize=True)
    encoded, original = buffer.getvalue(), path.read_bytes()
    # FF D8 FF opens every JPEG, whatever the file is called.
    if factor >= 1 and original.startswith(b"\xff\xd8\xff") and len(original) <= len(encoded):
        return original, True
    return encoded, False


def main(argv: Sequence[str] | None = None) -> int:
    """Command line of `pack`; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m train.image.pack", description="Pack photographs as small JPEGs.")
    parser.add_argument("folder", help="folder of photographs, searched recursively")
    parser.add_argument("-o", "--out", required=True, help="folder to write; must not exist")
    parser.add_argument("--max-side", type=int, default=1280, help="longest side, pixels (default %(default)s)")
    parser.add_argument("--quality", type=int, default=90, help="JPEG quality, 1 to 100 (default %(default)s)")
    parser.add_argument("--limit-mb", type=float, default=60, help="limit, all files (default %(default)s)")
    args = parser.parse_args(argv)
    try:
        packed = pack(args.folder, args.out, max_side=args.max_side, quality=args.quality, limit_mb=args.limit_mb)
    except (AirjaxError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    size = packed.num_bytes / 1e6
    print(f"{args.out}: {packed.num_files} files, {size:.1f} MB, {packed.num_kept} copied unchanged")
    return 0


if __name__ == "__main__":
    sys.exit(main())

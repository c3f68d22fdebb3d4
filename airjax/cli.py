"""The command line: `airjax encode`, `airjax decode` and `airjax info`.

Results go to stdout, everything else to stderr. A bad file is one line that names it; the other files are still done,
and the exit status is 2 at the end. Status 130: interrupted; 141: nobody reads the output any more.

What is written never replaces an input or an output of the same run. Another file that is there already is replaced
with --force only, except that `encode` replaces a .air file. JAX is imported by the commands that compute, once there
is something to compute.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import os
import sys
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from tqdm import tqdm

import airjax
from airjax.errors import AirjaxError, FormatError

if TYPE_CHECKING:
    from airjax.image.encoder import Model

BAD_INPUT, INTERRUPTED, BROKEN_PIPE = 2, 130, 141
_MAX_INT = 2**31 - 1


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit status; never raises for what a user can cause."""
    screen = _Screen()
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module="PIL")  # odd metadata; what matters is a notice of read_image
            # A cache that cannot be written costs time and nothing else.
            warnings.filterwarnings("ignore", message="Error (reading|writing) persistent compilation cache")
            status = _run(argv, screen)
        sys.stdout.flush()
        return status
    except KeyboardInterrupt:
        screen.error("interrupted; the files that were done are kept")
        return INTERRUPTED
    except BrokenPipeError:
        _discard_output()
        return BROKEN_PIPE
    except (AirjaxError, _Fatal) as error:
        screen.error(str(error))
    except OSError as error:  # files have their own messages: what is left is the screen or what stands for it
        _discard_output()
        screen.error(f"cannot go on ({_reason(error)}), expected an output that can be written")
    return BAD_INPUT


def _run(argv: Sequence[str] | None, screen: _Screen) -> int:
    try:
        options = _parser().parse_args(argv)
    except SystemExit as stop:  # --help, --version, or a wrong option, all said by argparse
        return int(stop.code or 0)
    screen.quiet = options.quiet
    options.command(options, screen)
    return BAD_INPUT if screen.num_errors else 0


# --- options ---------------------------------------------------------------------------------------------------------


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="airjax", description="Photographs to 2D Gaussians in one pass, and back.")
    parser.add_argument("--version", action="version", version=f"airjax {airjax.__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    encode = commands.add_parser("encode", help="photographs to .air files")
    encode.set_defaults(command=_encode)
    _add_files(encode, "PNG, JPEG, WebP or TIFF files, or folders of them", "photo.air")
    encode.add_argument("--stages", type=_whole(1), metavar="N", help="run the first N stages only (default: all)")
    encode.add_argument(
        "--max-gaussians", type=_whole(0), metavar="N", help="most Gaussians of one image (default: no limit)"
    )
    encode.add_argument(
        "--solve-steps",
        type=_whole(0, 1000),
        metavar="K",
        help="conjugate-gradient steps on the colours, 0 for none (default: that of the library)",
    )
    encode.add_argument(
        "--mse-threshold",
        type=_number(0.0, 1.0),
        metavar="X",
        help="a patch gets a Gaussian where its mean squared error is above X (default: 10^-4, 40 dB) ...",
    )
    encode.add_argument(
        "--ssim-threshold",
        type=_number(0.0, 2.0),
        metavar="X",
        help="... or where 1 - SSIM of the patch is above X (default: 0.05)",
    )
    encode.add_argument("--weights", metavar="FILE", help="weights (.safetensors) other than the shipped ones")

    decode = commands.add_parser("decode", help=".air files to images")
    decode.set_defaults(command=_decode)
    _add_files(decode, ".air files, or folders of them", "photo.png")
    decode.add_argument(
        "--scale",
        type=_number(2.0**-20, 2.0**20),
        default=1.0,
        metavar="S",
        help="draw S times as wide and high (default: 1)",
    )
    decode.add_argument("--stages", type=_whole(1), metavar="N", help="draw the first N stages only (default: all)")

    info = commands.add_parser("info", help="what .air files hold")
    info.set_defaults(command=_info, quiet=False)
    info.add_argument("inputs", nargs="+", metavar="FILE", help=".air files, or folders of them")
    return parser


def _add_files(parser: argparse.ArgumentParser, inputs: str, example: str) -> None:
    parser.add_argument("inputs", nargs="+", metavar="FILE", help=inputs)
    parser.add_argument(
        "-o",
        "--output",
        metavar="OUT",
        help=f"file, or folder for several files (default: {example} beside photo.*)",
    )
    parser.add_argument("--force", action="store_true", help="replace files that are there already")
    parser.add_argument("--quiet", action="store_true", help="say nothing but errors")


def _whole(low: int, high: int = _MAX_INT) -> Callable[[str], int]:
    def whole(text: str) -> int:
        with contextlib.suppress(ValueError):
            if low <= int(text) <= high:
                return int(text)
        raise argparse.ArgumentTypeError(f"expected a whole number from {low} to {high}, got {text!r}")

    return whole


def _number(low: float, high: float) -> Callable[[str], float]:
    def number(text: str) -> float:
        with contextlib.suppress(ValueError):
            if low <= float(text) <= high:  # false for NaN
                return float(text)
        raise argparse.ArgumentTypeError(f"expected a number from {low:g} to {high:g}, got {text!r}")

    return number


# --- commands --------------------------------------------------------------------------------------------------------


def _encode(options: argparse.Namespace, screen: _Screen) -> None:
    from airjax.image import bitstream
    from airjax.image.io import IMAGE_SUFFIXES, atomic_write_bytes, display_name, read_image

    sources = _expand(options.inputs, IMAGE_SUFFIXES, screen)
    jobs = _plan(sources, options, ".air", (".air",), screen)
    prepare = functools.cache(lambda: _load_model(options, screen))  # once, when the first image has been read
    names = ("max_gaussians", "solve_steps", "mse_threshold", "ssim_threshold")
    chosen = {name: getattr(options, name) for name in names if getattr(options, name) is not None}

    def encode_file(source: Path, target: Path) -> None:
        name = display_name(source)
        pixels, notices = read_image(source)
        for notice in notices:
            screen.notice(f"{name}: {notice}")
        model = prepare()
        with _Clock() as clock:
            encoded = model.encode(pixels, num_stages=options.stages, **chosen)
        try:
            data = bitstream.encode(encoded)
        except AirjaxError as error:
            raise AirjaxError(f"{name}: {error}") from error
        quality = f", PSNR {_psnr(encoded, pixels):.2f} dB" if not options.quiet else ""
        atomic_write_bytes(target, data)
        height, width = encoded.image_size
        bpp = 8 * len(data) / (height * width)
        screen.result(
            f"{name} -> {display_name(target)}: {_content(encoded.image_size, encoded.stage_counts)}, "
            f"{len(data)} bytes, {bpp:.3f} bpp, {clock}{quality}"
        )

    _each(jobs, _guarded(encode_file, sources, options, ours=bitstream.SIGNATURE), screen)


def _decode(options: argparse.Namespace, screen: _Screen) -> None:
    import numpy as np

    from airjax.image import bitstream
    from airjax.image.io import IMAGE_SUFFIXES, display_name, read_bytes, write_image
    from airjax.render.plan import render, scaled_size

    sources = _expand(options.inputs, (".air",), screen)
    jobs = _plan(sources, options, ".png", IMAGE_SUFFIXES, screen)
    prepare = functools.cache(lambda: _start_jax(screen))

    def decode_file(source: Path, target: Path) -> None:
        name = display_name(source)
        encoded = bitstream.decode(read_bytes(source))
        stages = len(encoded.stage_counts)
        if options.stages is not None:
            if options.stages > stages:
                raise AirjaxError(f"{name}: expected --stages of at most {stages}, got {options.stages}")
            encoded = bitstream.truncate_stages(encoded, options.stages)
        channels = encoded.gaussians.colors.shape[1]
        if channels not in (1, 3):
            raise AirjaxError(f"{name}: expected 1 or 3 colour channels to make an image of, got {channels}")
        height, width = size = scaled_size(encoded.image_size, options.scale)
        if height * width > bitstream.MAX_PIXELS:
            raise AirjaxError(
                f"{name}: expected at most {bitstream.MAX_PIXELS} pixels, got {width}x{height}; "
                f"choose a smaller --scale"
            )
        prepare()
        with _Clock() as clock:
            image = render(encoded.gaussians, image_size=encoded.image_size, scale=options.scale).image
            image = np.asarray(image)
        if not np.isfinite(image).all():
            raise AirjaxError(f"{name}: expected Gaussians that can be drawn, got NaN or infinity in the image")
        write_image(target, image)
        screen.result(f"{name} -> {display_name(target)}: {_content(size, encoded.stage_counts)}, {clock}")

    _each(jobs, _guarded(decode_file, sources, options, ours=None), screen)


def _info(options: argparse.Namespace, screen: _Screen) -> None:
    from airjax.image import bitstream
    from airjax.image.io import display_name, read_bytes

    def info_file(source: Path) -> None:
        name = display_name(source)
        info = bitstream.info(read_bytes(source))
        bits = "" if info.bits_per_gaussian is None else f", {info.bits_per_gaussian:.1f} bits per Gaussian"
        screen.result(
            f"{name}: {_content(info.image_size, info.stage_counts)}\n"
            f"  version {info.version}, {info.profile}, {info.channels} channels\n"
            f"  {info.num_bytes} bytes, {info.bpp:.3f} bpp{bits}\n"
            f"  Gaussians per stage: {' '.join(map(str, info.stage_counts)) or 'no stage'}\n"
            f"  chunk     offset    payload  checksum"
        )
        for chunk in info.chunks:
            verdict = "ok" if chunk.crc_ok else "WRONG"
            screen.result(f"  {chunk.tag}  {chunk.offset:10}  {chunk.length:9}  {verdict}")
        damaged = [f"{chunk.tag} at byte {chunk.offset}" for chunk in info.chunks if not chunk.crc_ok]
        if damaged:
            raise AirjaxError(f"{name}: damaged, expected right checksums, got wrong ones in {', '.join(damaged)}")

    _each([(source,) for source in _expand(options.inputs, (".air",), screen)], info_file, screen)


def _content(image_size: tuple[int, int], stage_counts: tuple[int, ...]) -> str:
    stages = "1 stage" if len(stage_counts) == 1 else f"{len(stage_counts)} stages"
    return f"{image_size[1]}x{image_size[0]}, {sum(stage_counts)} Gaussians in {stages}"


# --- files -----------------------------------------------------------------------------------------------------------


def _expand(inputs: Iterable[str], suffixes: Sequence[str], screen: _Screen) -> list[Path]:
    """The files named, those of folders included, each once; a folder that gives none is one error line."""
    from airjax.image.io import display_name, find_images

    found: dict[Path, None] = {}
    for name in inputs:
        try:
            found.update(dict.fromkeys(find_images([name], suffixes=suffixes)))
        except AirjaxError as error:
            screen.error(str(error))
        except OSError as error:
            screen.error(f"{display_name(name)}: cannot be read ({_reason(error)}), expected a file or a folder")
    return list(found)


def _plan(
    sources: list[Path],
    options: argparse.Namespace,
    suffix: str,
    allowed: Sequence[str],
    screen: _Screen,
) -> list[tuple[Path, Path]]:
    """(source, target) for every source: beside it, in the folder `--output`, or the file `--output`.

    Sources whose targets would be the same file keep their whole names: a.jpg and a.png become a.jpg.air and a.png.air.

    Raises:
      AirjaxError: an output that cannot serve these sources.
    """
    from airjax.image.io import display_name

    several = len(sources) > 1 or any(os.path.isdir(name) for name in options.inputs)
    output = options.output
    if output is not None and not _is_folder_name(output, several):
        if Path(output).suffix.lower() not in allowed:
            raise AirjaxError(f"{display_name(output)}: expected a name ending in {', '.join(allowed)}")
        return [(source, Path(output)) for source in sources]
    if output is not None and sources:
        _make_folder(output, allowed)
    folders = [source.parent if output is None else Path(output) for source in sources]
    targets = [folder / (source.stem + suffix) for folder, source in zip(folders, sources, strict=True)]
    counts = Counter(targets)
    for i, source in enumerate(sources):
        if counts[targets[i]] > 1:
            whole = targets[i].with_name(source.name + suffix)
            screen.notice(
                f"{display_name(source)}: another input would be written to {display_name(targets[i])} too; "
                f"this one goes to {display_name(whole)}"
            )
            targets[i] = whole
    return list(zip(sources, targets, strict=True))


def _is_folder_name(output: str, several: bool) -> bool:
    return several or os.path.isdir(output) or output.endswith(("/", os.sep))


def _make_folder(output: str, allowed: Sequence[str]) -> None:
    """The folder `--output`, made if only its last part is missing."""
    from airjax.image.io import display_name

    name = display_name(output)
    if os.path.isdir(output):
        return
    if os.path.lexists(output) or Path(output).suffix.lower() in allowed:
        raise AirjaxError(f"{name}: expected a folder for the outputs of several files, got a file's name")
    try:
        os.mkdir(output)
    except OSError as error:
        raise AirjaxError(f"{name}: folder cannot be made ({_reason(error)})") from error


def _guarded(
    work: Callable[[Path, Path], None],
    sources: Iterable[Path],
    options: argparse.Namespace,
    *,
    ours: bytes | None,
) -> Callable[[Path, Path], None]:
    """`work`, after a check that its target may be written.

    Args:
      work: called with a source and its target.
      sources: files that must not be replaced whatever happens, and neither must what `work` has written.
      options: with `force`.
      ours: first bytes of files that may be replaced without `force`.
    """
    from airjax.image.io import display_name

    taken = {identity: "an input" for source in sources if (identity := _identity(source))}

    def guarded(source: Path, target: Path) -> None:
        name = display_name(target)
        if not os.path.isdir(target.parent):
            folder = display_name(target.parent)
            raise AirjaxError(f"{name}: cannot be written, expected an existing folder {folder}")
        if (owner := taken.get(_identity(target))) is not None:
            raise AirjaxError(f"{display_name(source)}: not written to {name}, which is {owner} of this run")
        if os.path.exists(target):
            if not os.path.isfile(target):
                raise AirjaxError(f"{name}: cannot be written, expected a file, got a folder or a device")
            if not (options.force or (ours and _starts_with(target, ours))):
                raise AirjaxError(
                    f"{name}: exists already and is kept, expected a new name (-o) or --force to replace it"
                )
        work(source, target)
        taken[_identity(target)] = "an output"

    return guarded


def _identity(path: Path) -> tuple[int, int] | None:
    """What two names of one file have in common: links, and capital letters where the disk ignores them."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _starts_with(path: Path, start: bytes) -> bool:
    try:
        with open(path, "rb") as file:
            return file.read(len(start)) == start
    except OSError:
        return False


def _each(jobs: Sequence[tuple[Path, ...]], work: Callable[..., None], screen: _Screen) -> None:
    """`work(*job)` for every job; one that fails is one line with the name of its source, the first of the job."""
    from airjax.image.io import display_name

    hidden = screen.quiet or len(jobs) < 2 or not sys.stderr.isatty()
    with tqdm(jobs, unit="file", disable=hidden, file=sys.stderr) as bar:
        for job in bar:
            try:
                work(*job)
            except FormatError as error:  # knows the bytes, not the name
                screen.error(f"{display_name(job[0])}: {error}")
            except AirjaxError as error:
                screen.error(str(error))
            except MemoryError:
                screen.error(f"{display_name(job[0])}: not enough memory, expected a smaller image")
            except RuntimeError as error:
                if "RESOURCE_EXHAUSTED" not in str(error):  # how XLA reports that memory is short
                    raise
                screen.error(f"{display_name(job[0])}: not enough memory, expected a smaller image")


# --- computing -------------------------------------------------------------------------------------------------------


def _start_jax(screen: _Screen) -> None:
    """Turns the compilation cache on, and says that there may be something to wait for."""
    from airjax.cache import enable_compilation_cache

    folder = enable_compilation_cache()
    kept = "is done in every run (no cache folder can be written)" if folder is None else f"is kept in {folder}"
    screen.notice(f"the first image of a size takes longer: its programs are compiled, which {kept}")


def _load_model(options: argparse.Namespace, screen: _Screen) -> Model:
    """The weights, once they are known to fit; any problem with them is the end of the run.

    Raises:
      _Fatal: no usable weights, or fewer stages than asked for.
    """
    import jax

    from airjax.image.encoder import load
    from airjax.image.stages import init_params

    def shapes(params) -> dict[str, tuple[int, ...]]:
        flat, _ = jax.tree_util.tree_flatten_with_path(params)
        return {jax.tree_util.keystr(path): leaf.shape for path, leaf in flat}

    _start_jax(screen)
    try:
        model = load(options.weights)
    except (AirjaxError, OSError) as error:
        raise _Fatal(str(error)) from error

    @functools.cache  # stages are mostly alike, and tracing one takes a while
    def fresh(stage):
        return jax.eval_shape(lambda: init_params(jax.random.key(0), (stage,)))["stage0"]

    try:
        expected = shapes({f"stage{i}": fresh(stage) for i, stage in enumerate(model.stages)})
    except (TypeError, ValueError) as error:
        raise _Fatal(f"{model.name}: expected stages that can be built, got others ({error})") from error
    found = shapes(model.params)
    wrong = [name for name in {**expected, **found} if expected.get(name) != found.get(name)]
    if wrong or not model.stages:
        where = f", first at {wrong[0]}" if wrong else ""
        raise _Fatal(f"{model.name}: expected weights that fit their stage configuration, got others{where}")
    if options.stages is not None and options.stages > len(model.stages):
        raise _Fatal(f"--stages: expected at most {len(model.stages)} for {model.name}, got {options.stages}")
    return model


def _psnr(encoded, pixels) -> float:
    """PSNR in dB of the 8-bit image that decoding gives."""
    import jax
    import jax.numpy as jnp

    from airjax.metrics import psnr, to_8bit
    from airjax.render.plan import render

    image = render(encoded.gaussians, image_size=encoded.image_size).image
    return float(jax.jit(lambda x, y: psnr(x, to_8bit(y)))(jnp.asarray(pixels), image))


class _Clock:
    """Wall time of a `with` block, and how much of it XLA spent on compiling; `str` of it is for the screen."""

    def __enter__(self) -> _Clock:
        import jax

        self._compiling = 0.0
        jax.monitoring.register_event_duration_secs_listener(self._listen)
        self._start = time.perf_counter()
        return self

    def __exit__(self, *_) -> None:
        import jax

        self._seconds = time.perf_counter() - self._start
        jax.monitoring.unregister_event_duration_listener(self._listen)

    def _listen(self, event: str, seconds: float, **_) -> None:
        if event == "/jax/core/compile/backend_compile_duration":
            self._compiling += seconds

    def __str__(self) -> str:
        share = f" ({1000 * self._compiling:.0f} compiling)" if self._compiling > 0.1 * self._seconds else ""
        return f"{1000 * self._seconds:.0f} ms{share}"


# --- screen ----------------------------------------------------------------------------------------------------------


class _Fatal(Exception):
    """What makes the files still to come pointless; the message is the line for the user."""


class _Screen:
    """What the user sees: results on stdout, notices and errors on stderr, each at once and above the progress bar."""

    def __init__(self):
        self.quiet = False
        self.num_errors = 0

    def result(self, line: str) -> None:
        if not self.quiet:
            _print(line, sys.stdout)

    def notice(self, line: str) -> None:
        if not self.quiet:
            _print(_one_line(line), sys.stderr)

    def error(self, line: str) -> None:
        self.num_errors += 1
        _print(_one_line(line), sys.stderr)


def _one_line(text: str) -> str:
    return "airjax: " + " ".join(text.splitlines())


def _print(line: str, stream: TextIO) -> None:
    encoding = getattr(stream, "encoding", None) or "utf-8"
    line = line.encode(encoding, "backslashreplace").decode(encoding)  # names that the terminal cannot show
    with tqdm.external_write_mode(file=stream):
        print(line, file=stream, flush=True)


def _discard_output() -> None:
    """Sends what Python still holds for stdout nowhere: writing it again when the program ends would fail again."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _reason(error: OSError) -> str:
    return error.strerror or type(error).__name__

"""The command line: `airjax encode`, `fit`, `decode` and `info` for photographs, `reconstruct` and `render` for scenes.

Results go to stdout, everything else to stderr. A bad file is one line that names it; the other files are still done,
and the exit status is 2 at the end. Status 130: interrupted; 141: nobody reads the output any more.

JAX is imported by the commands that compute, once there
is something to compute.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tqdm import tqdm

import airjax
from airjax.commands import fit, reconstruct, render
from airjax.commands.outputs import each, expand, guarded, plan
from airjax.commands.session import Fatal, Screen, discard_output, reason
from airjax.errors import AirjaxError, FormatError

if TYPE_CHECKING:
    from airjax.image.codec.air_file import Encoded
    from airjax.image.model import Model

BAD_INPUT, INTERRUPTED, BROKEN_PIPE = 2, 130, 141
_MAX_INT = 2**31 - 1


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit status; never raises for what a user can cause."""
    screen = Screen()
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module="PIL")  # odd metadata; what matters is a notice of read_image
            # A cache that cannot be written costs time and nothing else.
            warnings.filterwarnings("ignore", message="Error (reading|writing) persistent compilation cache")
            status = _run(argv, screen)
        sys.stdout.flush()
        return status
    except KeyboardInterrupt as stop:
        screen.error(str(stop) or "interrupted; the files that were done are kept")
        return INTERRUPTED
    except BrokenPipeError:
        discard_output()
        return BROKEN_PIPE
    except (AirjaxError, Fatal) as error:
        screen.error(str(error))
    except OSError as error:  # files have their own messages: what is left is the screen or what stands for it
        discard_output()
        screen.error(f"cannot go on ({reason(error)}), expected an output that can be written")
    return BAD_INPUT


def _run(argv: Sequence[str] | None, screen: Screen) -> int:
    try:
        options = _parser().parse_args(argv)
    except SystemExit as stop:  # --help, --version, or a wrong option, all said by argparse
        return int(stop.code or 0)
    screen.quiet = options.quiet
    options.command(options, screen)
    return BAD_INPUT if screen.num_errors else 0


# --- options ---------------------------------------------------------------------------------------------------------


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="airjax", description="Pixels to Gaussians in one pass, and back.")
    parser.add_argument("--version", action="version", version=f"airjax {airjax.__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    encode = commands.add_parser("encode", help="photographs to .air files")
    encode.set_defaults(command=_encode)
    _add_files(encode, "PNG, JPEG, WebP or TIFF files, or folders of them", "photo.air")
    encode.add_argument(
        "-q",
        "--quality",
        type=_number(0.0, 100.0),
        metavar="Q",
        help="0 (smallest file) to 100 (default: 45)",
    )
    encode.add_argument(
        "--target-psnr", type=_number(0.0, 100.0), metavar="DB", help="smallest file of at least so many decibels"
    )
    encode.add_argument(
        "--target-bpp",
        type=_number(0.0, 1000.0),
        metavar="B",
        help="best quality of at most so many bits per pixel, everything in the file counted",
    )
    encode.add_argument(
        "--lossless", action="store_true", help="keep the Gaussians as they are, in 32 bytes each: a large file"
    )
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
        "--refine",
        type=_whole(0, 100_000),
        default=0,
        metavar="K",
        help="gradient steps on the predicted Gaussians, a tenth of a second each for a photograph of 768 x 512 "
        "(default: 0)",
    )
    encode.add_argument(
        "--mse-threshold",
        type=_number(0.0, 1.0),
        metavar="X",
        help="a patch gets a Gaussian where its mean squared error is above X (default: what fits the quality; "
        "with --lossless 10^-4, 40 dB) ...",
    )
    encode.add_argument(
        "--ssim-threshold",
        type=_number(0.0, 2.0),
        metavar="X",
        help="... or where 1 - SSIM of the patch is above X (default: nowhere; with --lossless 0.05)",
    )
    encode.add_argument("--weights", metavar="FILE", help="weights (.safetensors) other than the shipped ones")

    fit = commands.add_parser(
        "fit", help="photographs to .air files by fitting each one, in minutes instead of a second"
    )
    fit.set_defaults(command=_fit)
    _add_files(fit, "PNG, JPEG, WebP or TIFF files, or folders of them", "photo.air")
    fit.add_argument(
        "--gaussians", type=_whole(1), default=10_000, metavar="N", help="Gaussians of an image (default: 10000)"
    )
    fit.add_argument("--steps", type=_whole(1), default=2_000, metavar="K", help="steps of Adam (default: 2000)")
    fit.add_argument(
        "--start",
        choices=("content", "random"),
        default="content",
        help="half of them where the image changes and the others, later, where the error is (content, default), "
        "or all of them anywhere (random)",
    )
    fit.add_argument(
        "--form",
        choices=("scale-rotation", "cholesky"),
        default="scale-rotation",
        help="what the optimiser moves: scales and an angle (default), or a Cholesky factor of the covariance",
    )
    fit.add_argument(
        "--target-psnr", type=_number(0.0, 100.0), metavar="DB", help="stop once so many decibels are reached"
    )
    fit.add_argument(
        "--solve-steps",
        type=_whole(0, 1000),
        default=10,
        metavar="K",
        help="conjugate-gradient steps on the colours at the end, 0 for none (default: 10)",
    )
    fit.add_argument("--seed", type=_whole(0), default=0, metavar="S", help="of everything random (default: 0)")

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
    decode.add_argument(
        "--partial", action="store_true", help="of a file that is cut short, draw the stages that are complete"
    )

    info = commands.add_parser("info", help="what .air files hold")
    info.set_defaults(command=_info, quiet=False)
    info.add_argument("inputs", nargs="+", metavar="FILE", help=".air files, or folders of them")

    for name, module, help in (
        ("reconstruct", reconstruct, "a folder of photographs with poses to 3D Gaussians (.ply)"),
        ("render", render, "3D Gaussians (.ply) to an image, to frames or to an animation"),
    ):
        command = commands.add_parser(name, help=help)
        command.set_defaults(command=module.run)
        module.add_arguments(command)
    return parser


def _add_output(parser: argparse.ArgumentParser, what: str, default: str) -> None:
    parser.add_argument("-o", "--output", metavar="OUT", help=f"{what} (default: {default})")
    parser.add_argument("--force", action="store_true", help="replace files that are there already")
    parser.add_argument("--quiet", action="store_true", help="say nothing but errors")


def _add_files(parser: argparse.ArgumentParser, inputs: str, example: str) -> None:
    parser.add_argument("inputs", nargs="+", metavar="FILE", help=inputs)
    _add_output(parser, "file, or folder for several files", f"{example} beside photo.*")


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


def _encode(options: argparse.Namespace, screen: Screen) -> None:
    from airjax.files import atomic_write_bytes, display_name
    from airjax.image.codec import air_file
    from airjax.photographs import IMAGE_SUFFIXES, read_image

    sources = expand(options.inputs, IMAGE_SUFFIXES, screen)
    jobs = plan(sources, options, ".air", (".air",), screen)
    _check_goals(options)
    prepare = functools.cache(lambda: _load_model(options, screen))  # once, when the first image has been read

    def encode_file(source: Path, target: Path) -> None:
        name = display_name(source)
        pixels, notices, _ = read_image(source)
        for notice in notices:
            screen.notice(f"{name}: {notice}")
        model = prepare()
        try:
            with _Clock() as clock:
                encoded, data, remark = _encode_image(model, pixels, options)
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
        if remark:
            screen.notice(f"{name}: {remark}")

    each(jobs, guarded(encode_file, sources, options, ours=air_file.SIGNATURE), screen)


def _check_goals(options: argparse.Namespace) -> None:
    """One goal at a time: a quality, a target, or lossless."""
    goals = ("quality", "target_psnr", "target_bpp", "lossless")
    given = [f"--{goal.replace('_', '-')}" for goal in goals if getattr(options, goal) not in (None, False)]
    if len(given) > 1:
        raise Fatal(f"{' and '.join(given)}: expected one of them")


def _encode_image(model: Model, pixels, options: argparse.Namespace) -> tuple[Encoded, bytes, str]:
    """(Gaussians as decoded, bytes, what the user should know about the target or "")."""
    from airjax.image.codec import air_file, compress

    names = ("max_gaussians", "solve_steps", "mse_threshold", "ssim_threshold")
    chosen = {name: getattr(options, name) for name in names if getattr(options, name) is not None}
    chosen |= {"num_stages": options.stages, "refine_steps": options.refine}
    if options.refine:
        chosen["progress"] = _refine_bar(options)
    if options.lossless:
        encoded = model.encode(pixels, **chosen)
        return encoded, air_file.encode(encoded), ""
    target = {name: getattr(options, name) for name in ("target_psnr", "target_bpp")}
    if set(target.values()) == {None}:
        quality = compress.DEFAULT_QUALITY if options.quality is None else options.quality
        quantised = compress.compress(model, pixels, quality=quality, **chosen)
        return air_file.dequantised(quantised), air_file.encode(quantised), ""
    found = compress.search(model, pixels, **target, **chosen)
    unit, asked = (" dB", options.target_psnr) if options.target_bpp is None else (" bpp", options.target_bpp)
    remark = f"quality {found.quality:.1f} gives {found.achieved:.3f}{unit}"
    if not found.reached:
        remark = f"a target of {asked:g}{unit} is out of reach; the nearest is {remark}"
    return air_file.dequantised(found.quantised), found.data, remark


def _refine_bar(options: argparse.Namespace) -> Callable[[int], None]:
    """What draws the progress of a refinement; a search for a target has several, one after the other."""
    bar = None

    def progress(step: int) -> None:
        nonlocal bar
        if bar is None:
            hidden = options.quiet or not sys.stderr.isatty()
            bar = tqdm(total=options.refine, unit="step", desc="refine", leave=False, disable=hidden, file=sys.stderr)
        bar.update(step - bar.n if not bar.disable else 0)
        if step == options.refine:
            bar.close()
            bar = None

    return progress


def _fit(options: argparse.Namespace, screen: Screen) -> None:
    fit.fit(options, screen, start_jax=_start_jax, clock=_Clock)


def _decode(options: argparse.Namespace, screen: Screen) -> None:
    import numpy as np

    from airjax.files import display_name, read_bytes
    from airjax.image.codec import air_file
    from airjax.photographs import IMAGE_SUFFIXES, write_image
    from airjax.raster.draw import render, scaled_size

    sources = expand(options.inputs, (".air",), screen)
    jobs = plan(sources, options, ".png", IMAGE_SUFFIXES, screen)
    prepare = functools.cache(lambda: _start_jax(screen))

    def decode_file(source: Path, target: Path) -> None:
        name = display_name(source)
        data = read_bytes(source)
        try:
            encoded = air_file.decode(data, partial=options.partial)
        except air_file.CutShort as error:
            if options.partial:
                raise
            raise FormatError(f"{error}; --partial draws the stages that are complete") from error
        stages = len(encoded.stage_counts)
        if options.stages is not None:
            if options.stages > stages:
                raise AirjaxError(f"{name}: expected --stages of at most {stages}, got {options.stages}")
            encoded = air_file.truncate_stages(encoded, options.stages)
        channels = encoded.gaussians.colors.shape[1]
        if channels not in (1, 3):
            raise AirjaxError(f"{name}: expected 1 or 3 colour channels to make an image of, got {channels}")
        height, width = size = scaled_size(encoded.image_size, options.scale)
        if height * width > air_file.MAX_PIXELS:
            raise AirjaxError(
                f"{name}: expected at most {air_file.MAX_PIXELS} pixels, got {width}x{height}; choose a smaller --scale"
            )
        prepare()
        with _Clock() as clock:
            image = render(encoded.gaussians, image_size=encoded.image_size, scale=options.scale).image
            image = np.asarray(image)
        if not np.isfinite(image).all():
            raise AirjaxError(f"{name}: expected Gaussians that can be drawn, got NaN or infinity in the image")
        write_image(target, image)
        screen.result(f"{name} -> {display_name(target)}: {_content(size, encoded.stage_counts)}, {clock}")

    each(jobs, guarded(decode_file, sources, options, ours=None), screen)


def _info(options: argparse.Namespace, screen: Screen) -> None:
    from airjax.files import display_name, read_bytes
    from airjax.image.codec import air_file

    def info_file(source: Path) -> None:
        name = display_name(source)
        info = air_file.info(read_bytes(source))
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
        if info.attribute_bits and sum(info.stage_counts):
            shares = {kind: bits / sum(info.stage_counts) for kind, bits in info.attribute_bits.items()}
            shares["heads and chunks"] = info.bits_per_gaussian - sum(shares.values())
            parts = [f"{kind} {bits:.2f}" for kind, bits in shares.items()]
            screen.result(f"  bits per Gaussian: {', '.join(parts)}")
        damaged = [f"{chunk.tag} at byte {chunk.offset}" for chunk in info.chunks if not chunk.crc_ok]
        if damaged:
            raise AirjaxError(f"{name}: damaged, expected right checksums, got wrong ones in {', '.join(damaged)}")

    each([(source,) for source in expand(options.inputs, (".air",), screen)], info_file, screen)


def _content(image_size: tuple[int, int], stage_counts: tuple[int, ...]) -> str:
    stages = "1 stage" if len(stage_counts) == 1 else f"{len(stage_counts)} stages"
    return f"{image_size[1]}x{image_size[0]}, {sum(stage_counts)} Gaussians in {stages}"


# --- computing -------------------------------------------------------------------------------------------------------


def _start_jax(screen: Screen) -> None:
    """Turns the compilation cache on, and says that there may be something to wait for."""
    from airjax.commands.cache import enable_compilation_cache

    folder = enable_compilation_cache()
    kept = "is done in every run (no cache folder can be written)" if folder is None else f"is kept in {folder}"
    screen.notice(f"the first image of a size takes longer: its programs are compiled, which {kept}")


def _load_model(options: argparse.Namespace, screen: Screen) -> Model:
    """The weights, once they are known to fit; any problem with them is the end of the run.

    Raises:
      Fatal: no usable weights, or fewer stages than asked for.
    """
    import jax

    from airjax.image.model import load
    from airjax.image.stages import init_params

    def shapes(params) -> dict[str, tuple[int, ...]]:
        flat, _ = jax.tree_util.tree_flatten_with_path(params)
        return {jax.tree_util.keystr(path): leaf.shape for path, leaf in flat}

    _start_jax(screen)
    try:
        model = load(options.weights)
    except (AirjaxError, OSError) as error:
        raise Fatal(str(error)) from error

    @functools.cache  # stages are mostly alike, and tracing one takes a while
    def fresh(stage):
        return jax.eval_shape(lambda: init_params(jax.random.key(0), (stage,)))["stage0"]

    try:
        expected = shapes({f"stage{i}": fresh(stage) for i, stage in enumerate(model.stages)})
    except (TypeError, ValueError) as error:
        raise Fatal(f"{model.name}: expected stages that can be built, got others ({error})") from error
    found = shapes(model.params)
    wrong = [name for name in {**expected, **found} if expected.get(name) != found.get(name)]
    if wrong or not model.stages:
        where = f", first at {wrong[0]}" if wrong else ""
        raise Fatal(f"{model.name}: expected weights that fit their stage configuration, got others{where}")
    if options.stages is not None and options.stages > len(model.stages):
        raise Fatal(f"--stages: expected at most {len(model.stages)} for {model.name}, got {options.stages}")
    return model


def _psnr(encoded, pixels) -> float:
    """PSNR in dB of the 8-bit image that decoding gives."""
    import jax
    import jax.numpy as jnp

    from airjax.metrics import psnr, to_8bit
    from airjax.raster.draw import render

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

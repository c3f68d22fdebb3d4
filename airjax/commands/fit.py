"""The command `airjax fit`: one image at a time, with a bar, stopped and continued at will.

While it runs, the state is kept beside the output as `photo.air.partial`. A run that finds one goes on from it, if it
is of the same image, options and seed; `--target-psnr` and `--solve-steps` may differ, as no step depends on them.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING

from tqdm import tqdm

from airjax.commands.outputs import each, expand, guarded, plan
from airjax.commands.session import Screen
from airjax.errors import AirjaxError

if TYPE_CHECKING:
    import numpy as np

    from airjax.image.codec.air_file import Encoded
    from airjax.image.fit import FitState
    from airjax.image.fit_file import Job

SAVE_SECONDS = 30.0
CHECK_STEPS = 20  # between two looks at the 8-bit image


def fit(
    options: argparse.Namespace,
    screen: Screen,
    *,
    start_jax: Callable[[Screen], None],
    clock: Callable[[], AbstractContextManager],
) -> None:
    """The body of the command.

    Args:
      options: of the command line.
      screen: for lines.
      start_jax: to be called before anything is computed.
      clock: times a `with` block; `str` of what it gives is for the screen.
    """
    from airjax.files import atomic_write_bytes, display_name
    from airjax.image.codec import air_file
    from airjax.photographs import IMAGE_SUFFIXES, read_image

    sources = expand(options.inputs, IMAGE_SUFFIXES, screen)
    jobs = plan(sources, options, ".air", (".air",), screen)
    started: list[bool] = []

    def fit_file(source: Path, target: Path) -> None:
        name = display_name(source)
        pixels, notices, _ = read_image(source)
        for notice in notices:
            screen.notice(f"{name}: {notice}")
        partial = target.with_name(target.name + ".partial")
        job = _job(options, pixels)
        resume = _resumed(partial, job, options, screen)
        if not started:
            start_jax(screen)
            started.append(True)
        from airjax.image.fit import quality

        try:
            with clock() as time_taken:
                encoded = _run(pixels, job, resume, partial, options, screen, name)
                data = air_file.encode(encoded)
            achieved = quality(encoded.gaussians, pixels)
        except AirjaxError as error:
            raise AirjaxError(f"{name}: {error}") from error
        atomic_write_bytes(target, data)
        if partial.is_file():
            partial.unlink()
        height, width = encoded.image_size
        screen.result(
            f"{name} -> {display_name(target)}: {width}x{height}, {encoded.gaussians.num_slots} Gaussians in 1 stage, "
            f"{len(data)} bytes, {8 * len(data) / (height * width):.3f} bpp, {time_taken}, PSNR {achieved:.2f} dB"
        )
        if options.target_psnr is not None and achieved < options.target_psnr:
            screen.notice(
                f"{name}: a target of {options.target_psnr:g} dB is out of reach in {options.steps} steps; "
                f"they give {achieved:.2f} dB"
            )

    each(jobs, guarded(fit_file, sources, options, ours=air_file.SIGNATURE), screen)


def _job(options: argparse.Namespace, pixels: np.ndarray) -> Job:
    from airjax.image.fit import FitConfig
    from airjax.image.fit_file import Job, image_digest

    config = FitConfig(
        num_gaussians=options.gaussians,
        num_steps=options.steps,
        start=options.start,
        form=options.form.replace("-", "_"),
        additions=4 if options.start == "content" else 0,
    )
    return Job(config, options.seed, image_digest(pixels))


def _resumed(partial: Path, job: Job, options: argparse.Namespace, screen: Screen) -> FitState | None:
    """What an earlier run of the same job has left, if any.

    With `--force` it is gone on from all the same, since the command may have said so from the start; what is not of
    this job is passed over then.

    Raises:
      AirjaxError: something else lies there, and there is no `--force`.
    """
    from airjax.files import display_name
    from airjax.image.fit_file import differences, load_fit

    if not os.path.lexists(partial):
        return None
    try:
        state, other = load_fit(partial)
        if unlike := differences(other, job):
            raise AirjaxError(f"{display_name(partial)}: state of another fit ({unlike}), expected one of this command")
    except AirjaxError as error:
        if options.force:
            return None
        raise AirjaxError(f"{error}; --force starts anew") from error
    screen.notice(f"{display_name(partial)}: goes on after step {state.step}")
    return state


def _run(pixels, job: Job, resume: FitState | None, partial: Path, options, screen: Screen, name: str) -> Encoded:
    """The Gaussians of a whole fit; the state is saved on the way and when it is interrupted."""
    from airjax.files import display_name
    from airjax.image.fit import finished, fit_states
    from airjax.image.fit_file import save_fit

    total, state, saved = job.config.num_steps, resume, time.monotonic()
    hidden = screen.quiet or not sys.stderr.isatty()
    bar = {"total": total, "initial": state.step if state else 0, "unit": "step", "leave": False, "disable": hidden}
    try:
        # The one that was kept may have been the last, or be good enough for the target of this run.
        if state is None or not _reached(state, pixels, options):
            with tqdm(file=sys.stderr, **bar) as bar:
                for state in fit_states(pixels, job.config, seed=job.seed, resume=resume):
                    bar.set_postfix_str(f"{state.psnr:.2f} dB", refresh=False)
                    bar.update(state.step - bar.n)
                    if _reached(state, pixels, options):
                        break
                    if time.monotonic() - saved >= SAVE_SECONDS:
                        try:
                            save_fit(partial, state, job)
                        except AirjaxError as error:  # a full disk may have room again at the end
                            screen.notice(f"{error}; the fit goes on without")
                        saved = time.monotonic()
        return finished(state, pixels, solve_steps=options.solve_steps)
    except KeyboardInterrupt:
        if state is None:
            raise
        try:
            save_fit(partial, state, job)
            kept = f"the same command goes on from {display_name(partial)}"
        except AirjaxError as error:
            kept = f"the state is lost ({error})"
        raise KeyboardInterrupt(f"{name}: interrupted after step {state.step} of {total}; {kept}") from None


def _reached(state: FitState, pixels: np.ndarray, options: argparse.Namespace) -> bool:
    """Whether to stop. Looks every CHECK_STEPS steps only, so that a run that was stopped ends where another would."""
    from airjax.image.fit import quality

    target = options.target_psnr
    return target is not None and state.step % CHECK_STEPS == 0 and quality(state.gaussians, pixels) >= target

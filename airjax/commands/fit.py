"""`airjax fit`: one photograph at a time, with a bar, stopped and continued at will.

While it runs, the state is kept beside the output as `photo.air.partial`. A run that finds one goes on from it, if it
is of the same image, options and seed; `--target-psnr` and `--solve-steps` may differ, as no step depends on them.
"""

from __future__ import annotations

import argparse
import functools
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from airjax.commands.interrupt import at_interrupt
from airjax.commands.options import add_options, add_photographs, number, whole
from airjax.commands.outputs import STANDARD, air_file_line, convert, named, psnr_of, read_photograph, write_output
from airjax.commands.session import Clock, Screen, progress_bar, start_jax
from airjax.errors import AirjaxError
from airjax.files import display_name
from airjax.image.defaults import FIT_GAUSSIANS, FIT_SOLVE_STEPS, FIT_STEPS, FORMS, STARTS

if TYPE_CHECKING:
    import numpy as np

    from airjax.image.codec.air_file import Encoded
    from airjax.image.fit import FitState
    from airjax.image.fit_file import Job

HELP = "photographs to .air files by fitting each one, in minutes instead of a second"
SAVE_SECONDS = 30.0
CHECK_STEPS = 20  # between two looks at the 8-bit image


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `airjax fit`."""
    add_photographs(parser)
    forms = tuple(form.replace("_", "-") for form in FORMS)
    add_options(
        parser,
        ("--gaussians N", whole(1), "Gaussians of an image", FIT_GAUSSIANS),
        ("--steps K", whole(1), "steps of Adam", FIT_STEPS),
        (
            "--start",
            STARTS,
            "content: half of the Gaussians where the image changes and the others, later, where the error is; "
            "random: all of them anywhere",
            STARTS[0],
        ),
        (
            "--form",
            forms,
            "what the optimiser moves: scales and an angle, or a Cholesky factor of the covariance",
            forms[0],
        ),
        ("--target-psnr DB", number(0.0, 100.0), "stop once so many decibels are reached"),
        (
            "--solve-steps K",
            whole(0, 1000),
            "conjugate-gradient steps on the colours at the end, 0 for none",
            FIT_SOLVE_STEPS,
        ),
        ("--seed S", whole(0), "of everything random", 0),
    )


def run(options: argparse.Namespace, screen: Screen) -> None:
    """Fits every input; one that fails is one line of error."""
    from airjax.photographs import IMAGE_SUFFIXES, UNREADABLE_SUFFIXES

    work = functools.partial(_fit, options=options, screen=screen)
    suffixes = {"reads": IMAGE_SUFFIXES, "writes": (".air",), "others": UNREADABLE_SUFFIXES}
    convert(read_photograph, work, options, screen, **suffixes)


def _fit(
    source: Path, target: Path, pixels: np.ndarray, options: argparse.Namespace, screen: Screen
) -> Callable[[], None]:
    """The fit; what is returned writes it."""
    from airjax.image.codec import air_file

    if target == STANDARD:
        raise AirjaxError("-: expected a file's name (-o), beside which the state of the fit is kept")
    partial = _Partial(target.with_name(target.name + ".partial"), _job(options, pixels), display_name(source))
    resume = partial.load(options.force, screen)
    start_jax(screen)
    with named(source):
        with Clock() as clock:
            encoded = _fit_pixels(pixels, resume, partial, options, screen)
            data = air_file.encode(encoded)
        psnr = psnr_of(encoded.gaussians, pixels)

    def write() -> None:
        write_output(target, data)
        partial.delete()
        screen.result(air_file_line(source, target, encoded, len(data), clock, psnr))
        if options.target_psnr is not None and psnr < options.target_psnr:
            screen.shortfall(
                f"{display_name(source)}: a target of {options.target_psnr:g} dB is out of reach in {options.steps} "
                f"steps; they give {psnr:.2f} dB"
            )

    return write


def _job(options: argparse.Namespace, pixels: np.ndarray) -> Job:
    from airjax.image.fit import FitConfig
    from airjax.image.fit_file import Job, image_digest

    config = FitConfig(
        num_gaussians=options.gaussians,
        num_steps=options.steps,
        start=options.start,
        form=options.form.replace("-", "_"),
        additions=FitConfig.additions if options.start == "content" else 0,
    )
    return Job(config, options.seed, image_digest(pixels))


@dataclass(frozen=True)
class _Partial:
    """The file beside an output that keeps the state of its fit; `source` is the photograph in a message."""

    path: Path
    job: Job
    source: str

    def load(self, force: bool, screen: Screen) -> FitState | None:
        """The state that an earlier run of the same job has left, if any; anything else there is an AirjaxError.

        `--force` still resumes a matching state, as the command may have had it from the start; it ignores any other.
        """
        from airjax.image.fit_file import differences, load_fit

        if not os.path.lexists(self.path):
            return None
        name = display_name(self.path)
        try:
            state, other = load_fit(self.path)
            if unlike := differences(other, self.job):
                raise AirjaxError(f"{name}: state of another fit ({unlike}), expected one of this command")
        except AirjaxError as error:
            if force:
                return None
            raise AirjaxError(f"{error}; --force starts anew") from error
        screen.notice(f"{name}: goes on after step {state.step}")
        return state

    def save(self, state: FitState) -> None:
        """Raises AirjaxError where it cannot be written."""
        from airjax.image.fit_file import save_fit

        save_fit(self.path, state, self.job)

    def delete(self) -> None:
        """Removes the file; anything else of that name stays."""
        if self.path.is_file():
            self.path.unlink()


def _fit_pixels(
    pixels: np.ndarray, resume: FitState | None, partial: _Partial, options: argparse.Namespace, screen: Screen
) -> Encoded:
    """The Gaussians of a whole fit; Ctrl-C keeps its state and says where."""
    from airjax.image.fit import finished

    state = resume

    def keep() -> str:
        if state is None:
            return ""
        try:
            partial.save(state)
            outcome = f"the same command goes on from {display_name(partial.path)}"
        except AirjaxError as error:
            outcome = f"the state is lost ({error})"
        return f"{partial.source}: interrupted after step {state.step} of {options.steps}; {outcome}"

    with at_interrupt(keep):
        for latest in _states(pixels, resume, partial, options, screen):
            state = latest
        assert state is not None  # a fit has a step at least
        return finished(state, pixels, solve_steps=options.solve_steps)


def _states(
    pixels: np.ndarray, resume: FitState | None, partial: _Partial, options: argparse.Namespace, screen: Screen
) -> Iterator[FitState]:
    """The states of a fit up to its last step or its target, with a bar; one is saved every SAVE_SECONDS."""
    from airjax.image.fit import fit_states

    # The state that was kept may have been the last, or be good enough for the target of this run.
    if resume is not None and _is_reached(resume, pixels, options):
        return
    saved = time.monotonic()
    with progress_bar(screen, total=options.steps, unit="step", initial=resume.step if resume else 0) as steps:
        for state in fit_states(pixels, partial.job.config, seed=options.seed, resume=resume):
            yield state
            steps.set_postfix_str(f"{state.psnr:.2f} dB", refresh=False)
            steps.update(state.step - steps.n)
            if _is_reached(state, pixels, options):
                return
            if time.monotonic() - saved >= SAVE_SECONDS:
                try:
                    partial.save(state)
                except AirjaxError as error:  # a full disk may have room again at the end
                    screen.notice(f"{error}; the fit goes on without")
                saved = time.monotonic()


def _is_reached(state: FitState, pixels: np.ndarray, options: argparse.Namespace) -> bool:
    """Whether to stop. Looks every CHECK_STEPS steps only, so that a run that was stopped ends where another would."""
    target = options.target_psnr
    return target is not None and state.step % CHECK_STEPS == 0 and psnr_of(state.gaussians, pixels) >= target

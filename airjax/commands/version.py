"""`airjax --version`: versions, the device that JAX computes on, and why it is not the one that JAX is set up for."""

from __future__ import annotations

import argparse
import contextlib
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import airjax
from airjax.commands.session import Fatal, Screen
from airjax.files import reason

if TYPE_CHECKING:
    import jax


class Plugin(NamedTuple):
    """A package that lets JAX use an accelerator."""

    platforms: frozenset[str]  # its names in JAX_PLATFORMS
    extra: str  # of airjax and of jax
    needs: str  # what a user can check


_CUDA, _TPU = frozenset({"cuda", "gpu"}), frozenset({"tpu"})
PLUGINS = {
    "jax-cuda13-plugin": Plugin(_CUDA, "cuda13", "nvidia-smi must list a GPU, with a driver of version 580 or newer"),
    "jax-cuda12-plugin": Plugin(_CUDA, "cuda12", "nvidia-smi must list a GPU, with a driver of version 525 or newer"),
    "libtpu": Plugin(_TPU, "tpu", "the machine must have a TPU that no other process holds"),
}


class Show(argparse.Action):
    """The option: shows, and ends the program."""

    def __call__(self, parser: argparse.ArgumentParser, *_) -> None:
        show(Screen())
        parser.exit()


def show(screen: Screen) -> None:
    """One line of versions and devices, and a notice where a plugin is installed and JAX runs on the CPU all the same.

    Fatal, after what can be said: JAX cannot be imported, or has no device at all.
    """
    import platform

    found = installed("jax", "jaxlib", *PLUGINS)
    jax_version, jaxlib_version = (found.pop(name, "not installed") for name in ("jax", "jaxlib"))
    versions = f"airjax {airjax.__version__}, Python {platform.python_version()}"
    versions += f", JAX {jax_version} (jaxlib {jaxlib_version})"
    try:
        with _warnings_of_jax() as heard:
            import jax

            devices = jax.devices()
    except ImportError as error:
        screen.result(versions)
        raise Fatal(f"JAX cannot be imported ({reason(error)}); try pip install --upgrade jax jaxlib") from error
    except (RuntimeError, AssertionError) as error:  # the latter where a plugin fails that JAX_PLATFORMS asks for
        screen.result(versions)
        asked = os.environ.get("JAX_PLATFORMS")
        step = f"JAX_PLATFORMS={asked} is set, try without it" if asked else "try pip install --upgrade jax jaxlib"
        why = _cause(heard) or str(error) or "none of the platforms asked for"
        raise Fatal(f"JAX does not start ({why}); {step}") from error
    screen.result(f"{versions}, on {describe(devices)}")
    if devices[0].platform == "cpu":
        for line in idle_plugins(found, jaxlib_version, os.environ.get("JAX_PLATFORMS", ""), heard):
            screen.notice(line)


def describe(devices: Sequence[jax.Device]) -> str:
    """Number, platform and kind of the devices, which are alike."""
    first = devices[0]
    count = f"{len(devices)} x " if len(devices) > 1 else ""
    return f"{count}{first.platform}" + ("" if first.device_kind == first.platform else f" ({first.device_kind})")


def installed(*names: str) -> dict[str, str]:
    """Those of some packages that are installed, and their versions."""
    from importlib import metadata

    found = {}
    for name in names:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


def idle_plugins(plugins: Mapping[str, str], jaxlib: str, platforms: str, heard: Sequence[str]) -> list[str]:
    """For each plugin that JAX does not use, a line with the cause and what to do.

    `plugins` has their versions, `jaxlib` is the version of that package, `platforms` the value of JAX_PLATFORMS, and
    `heard` what JAX warned of.
    """
    lines = []
    for name, version in plugins.items():
        plugin = PLUGINS[name]
        install = f'pip install --upgrade "jax[{plugin.extra}]=={jaxlib}"'
        if platforms and not plugin.platforms & {*platforms.split(",")}:
            why = f"JAX_PLATFORMS={platforms} is set; unset it"
        elif plugin.platforms is _CUDA and version != jaxlib:
            why = f"jaxlib is {jaxlib}, and both must be of one version; {install}"
        elif cause := _cause(heard):
            why = f"{cause}; {plugin.needs}, and if it does, {install}"
        else:
            why = f"it finds none to use; {plugin.needs}"
        lines.append(f"{name} {version} is installed, but JAX runs on the CPU: {why}")
    return lines


def _cause(heard: Sequence[str]) -> str:
    """The last line of the last warning: the end of a traceback where it has one."""
    lines = [line.strip() for text in heard for line in text.splitlines() if line.strip()]
    return lines[-1].rstrip(".")[:300] if lines else ""


@contextlib.contextmanager
def _warnings_of_jax() -> Iterator[list[str]]:
    """Texts of what JAX logs, tracebacks included; neither that nor its warnings are then on the screen."""
    import logging

    heard: list[str] = []

    class Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            heard.append(self.format(record))

    logger, listener = logging.getLogger("jax"), Listener(logging.WARNING)
    logger.addHandler(listener)
    try:
        with warnings.catch_warnings(action="ignore"):
            yield heard
    finally:
        logger.removeHandler(listener)

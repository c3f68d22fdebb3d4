"""`airjax --version`: one line of versions and devices; why an accelerator that is set up for is not used."""

import logging
import platform
import sys
import tomllib
import warnings
from types import SimpleNamespace

import jax
import jaxlib
import pytest
from command_line import ROOT

from airjax.commands import version
from airjax.commands.version import PLUGINS, describe, idle_plugins, installed

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
VERSIONS = (
    f"airjax {PROJECT['version']}, Python {platform.python_version()}, "
    f"JAX {jax.__version__} (jaxlib {jaxlib.__version__})"
)


@pytest.fixture(autouse=True)
def plugins(monkeypatch):
    """Versions of the plugins that are installed, whatever the machine has."""
    pretended: dict[str, str] = {}
    monkeypatch.setattr(version, "installed", lambda *names: installed("jax", "jaxlib") | pretended)
    monkeypatch.delenv("JAX_PLATFORMS", raising=False)
    return pretended


def devices(number, kind, platform="gpu"):
    return [SimpleNamespace(platform=platform, device_kind=kind)] * number


def test_versions_and_the_device(run):
    count = "" if jax.device_count() == 1 else f"{jax.device_count()} x "
    result = run("--version")
    assert (result.status, result.out, result.err) == (0, [f"{VERSIONS}, on {count}cpu"], [])


def test_devices_in_words():
    assert describe(devices(1, "cpu", "cpu")) == "cpu"
    assert describe(devices(4, "cpu", "cpu")) == "4 x cpu"
    assert describe(devices(1, "NVIDIA H100")) == "gpu (NVIDIA H100)"
    assert describe(devices(8, "TPU v5e", "tpu")) == "8 x tpu (TPU v5e)"


def test_a_plugin_that_is_used_needs_no_word(run, monkeypatch, plugins):
    plugins["jax-cuda13-plugin"] = "1"
    monkeypatch.setattr(jax, "devices", lambda: devices(2, "NVIDIA H100"))
    result = run("--version")
    assert (result.status, result.out, result.err) == (0, [f"{VERSIONS}, on 2 x gpu (NVIDIA H100)"], [])


def test_a_plugin_that_is_not_used_is_one_line(run, monkeypatch, plugins):
    """What JAX logs while it looks for devices is the cause, and not on the screen."""

    def warn():
        warnings.warn("it is not compatible", RuntimeWarning, stacklevel=1)
        logging.getLogger("jax._src.xla_bridge").warning("plugin error\nTraceback\nRuntimeError: Unable to load cuDNN.")
        return devices(1, "cpu", "cpu")

    plugins["jax-cuda12-plugin"] = jaxlib.__version__
    monkeypatch.setattr(jax, "devices", warn)
    result = run("--version")
    assert (result.status, result.out) == (0, [f"{VERSIONS}, on cpu"])
    (line,) = result.err
    assert line.startswith(f"airjax: jax-cuda12-plugin {jaxlib.__version__} is installed, but JAX runs on the CPU: ")
    assert "RuntimeError: Unable to load cuDNN; nvidia-smi must list a GPU" in line
    assert not [handler for handler in logging.getLogger("jax").handlers if "Listener" in type(handler).__name__]


@pytest.mark.parametrize(
    ("plugin", "platforms", "heard", "words"),
    [
        ({"jax-cuda13-plugin": "0.12.0"}, "cpu", ["ignored"], "JAX_PLATFORMS=cpu is set; unset it"),
        ({"jax-cuda13-plugin": "0.12.0"}, "", ["ignored"], 'one version; pip install --upgrade "jax[cuda13]==0.10.2"'),
        ({"jax-cuda13-plugin": "0.10.2"}, "cuda,cpu", ["no driver."], "CPU: no driver; nvidia-smi must list a GPU"),
        ({"jax-cuda12-plugin": "0.10.2"}, "gpu,cpu", [], "CPU: it finds none to use; nvidia-smi must list a GPU"),
        ({"libtpu": "0.0.30"}, "", [], "CPU: it finds none to use; the machine must have a TPU"),
        ({"libtpu": "0.0.30"}, "gpu", [], "JAX_PLATFORMS=gpu is set; unset it"),
    ],
)
def test_causes(plugin, platforms, heard, words):
    (line,) = idle_plugins(plugin, "0.10.2", platforms, heard)
    assert words in line and len(line.splitlines()) == 1


def test_every_plugin_is_an_extra():
    """Of airjax, which adds nothing to what jax calls by the same name."""
    extras = PROJECT["optional-dependencies"]
    assert all(extras[plugin.extra] == [f"jax[{plugin.extra}]"] for plugin in PLUGINS.values())


def test_installed_packages_and_their_versions():
    assert installed("jaxlib", "jax-no-such-plugin") == {"jaxlib": jaxlib.__version__}


def test_jax_cannot_be_imported(run, monkeypatch):
    monkeypatch.setitem(sys.modules, "jax", None)
    result = run("--version")
    assert (result.status, result.out) == (2, [VERSIONS])
    (line,) = result.err
    assert line.startswith("airjax: JAX cannot be imported (") and "pip install" in line


@pytest.mark.parametrize(
    ("error", "asked", "words"),
    [
        (RuntimeError("no backend"), "rocm", "(no backend); JAX_PLATFORMS=rocm is set"),
        (AssertionError(), "cuda", "(none of the platforms asked for); JAX_PLATFORMS=cuda is set"),
        (RuntimeError("no backend"), None, "(no backend); try pip install"),
    ],
)
def test_jax_does_not_start(run, monkeypatch, error, asked, words):
    def fail():
        raise error

    monkeypatch.setattr(jax, "devices", fail)
    if asked:
        monkeypatch.setenv("JAX_PLATFORMS", asked)
    result = run("--version")
    assert (result.status, result.out) == (2, [VERSIONS])
    (line,) = result.err
    assert line.startswith("airjax: JAX does not start (") and words in line

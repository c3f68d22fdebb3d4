"""The wheel: built, installed in an environment of its own, and used from another folder."""

import os
import subprocess
import sys
import sysconfig
from pathlib import Path
from zipfile import ZipFile

import pytest

import airjax
from airjax.photographs import read_image, write_image

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[1]


def run(*command, cwd, **environment) -> str:
    """Standard output of a program without this process's paths."""
    outside = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}
    arguments = [str(part) for part in command]
    done = subprocess.run(arguments, cwd=cwd, env=outside | environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    source = folder / "source"  # built from a copy: setuptools leaves a folder beside what it builds
    source.mkdir()
    for name in ("airjax", "pyproject.toml", "README.md", "LICENSE"):
        (source / name).symlink_to(ROOT / name)
    run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder, source, cwd=folder)
    (built,) = folder.glob("*.whl")
    return built


def test_it_holds_the_package_and_nothing_else(wheel):
    names = ZipFile(wheel).namelist()
    assert {"airjax/py.typed", "airjax/weights/compact.safetensors", "airjax/weights/foresplat.safetensors"} <= {*names}
    tops = {name.split("/")[0] for name in names}
    assert tops == {"airjax", f"airjax-{airjax.__version__}.dist-info"}
    sources = {str(path.relative_to(ROOT)) for path in (ROOT / "airjax").rglob("*.py")}
    assert sources == {name for name in names if name.endswith(".py")}


def test_it_is_used_from_another_folder(wheel, tmp_path):
    """An environment that sees the packages of this one, but not this checkout: encode, decode, library."""
    environment = tmp_path / "env"
    run(sys.executable, "-m", "venv", "--without-pip", environment, cwd=tmp_path)
    (site,) = environment.glob("lib/python*/site-packages")
    (site / "packages.pth").write_text(sysconfig.get_path("purelib"))
    run(sys.executable, "-m", "pip", "--python", environment, "install", "--no-deps", "--no-index", wheel, cwd=tmp_path)
    write_image(tmp_path / "a.png", read_image(ROOT / "docs" / "images" / "kodim23.png").pixels[200:248, 300:364])
    program = environment / "bin" / "airjax"
    assert run(program, "--version", cwd=tmp_path) == f"airjax {airjax.__version__}\n"
    assert "a.png -> a.air" in run(program, "encode", "a.png", cwd=tmp_path)
    assert "a.air -> b.png" in run(program, "decode", "a.air", "-o", "b.png", cwd=tmp_path)
    code = "import airjax; print(airjax.__file__); print(airjax.open('a.air'))"
    where, encoded = run(environment / "bin" / "python", "-c", code, cwd=tmp_path).splitlines()
    assert Path(where).is_relative_to(environment) and encoded.startswith("Encoded(")

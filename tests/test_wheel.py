"""The source archive and the wheel that is built from it: what they hold, and the wheel used from another folder."""

import email
import os
import re
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
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
def dist(tmp_path_factory) -> Path:
    """A folder with both."""
    folder = tmp_path_factory.mktemp("dist")
    source = folder / "source"  # built from a copy: setuptools leaves a folder beside what it builds
    source.mkdir()
    unwanted = {".git", ".venv", "runs", "demo_out", "site", "dist", "build"}
    for path in ROOT.iterdir():
        if path.name not in unwanted and path.suffix != ".egg-info":
            (source / path.name).symlink_to(path)
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", folder, source, cwd=folder)
    return folder


@pytest.fixture(scope="module")
def wheel(dist) -> Path:
    (built,) = dist.glob("*.whl")
    return built


def test_the_source_archive_is_a_clone(dist):
    """All that git tracks: who has no clone trains and evaluates in an unpacked one."""
    if not (ROOT / ".git").exists():
        pytest.skip("not a clone: what git tracks is not known")
    tracked, new = ({*run("git", "ls-files", *how, cwd=ROOT).splitlines()} for how in ([], ["--others"]))
    with tarfile.open(next(dist.glob("*.tar.gz"))) as archive:
        held = {member.name.partition("/")[2] for member in archive if member.isfile()}
    assert not {name for name in tracked - held if (ROOT / name).is_file()}
    assert {name.split("/")[0] for name in held - tracked - new} <= {"PKG-INFO", "setup.cfg", "airjax.egg-info"}


def test_the_wheel_holds_the_package_and_nothing_else(wheel):
    names = ZipFile(wheel).namelist()
    assert {"airjax/py.typed", "airjax/weights/compact.safetensors", "airjax/weights/foresplat.safetensors"} <= {*names}
    tops = {name.split("/")[0] for name in names}
    assert tops == {"airjax", f"airjax-{airjax.__version__}.dist-info"}
    sources = {path.relative_to(ROOT).as_posix() for path in (ROOT / "airjax").rglob("*.py")}
    assert sources == {name for name in names if name.endswith(".py")}


def test_the_wheel_declares_what_the_project_does(wheel):
    """The requirements of every extra; nothing that an extra asks for reaches who did not ask for it."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    told = email.message_from_bytes(ZipFile(wheel).read(f"airjax-{airjax.__version__}.dist-info/METADATA"))
    assert (told["Name"], told["Version"]) == (project["name"], airjax.__version__)
    assert told["Requires-Python"] == project["requires-python"]
    assert told["Summary"] == project["description"] and told["License-Expression"] == project["license"]
    assert told.get_all("Classifier") == project["classifiers"]

    def parts(requirement):  # name with extras, and version specifiers in any order
        name, specifiers = re.fullmatch(r"([\w.-]+(?:\[\w]+\])?)(.*)", requirement).groups()
        return name.lower(), frozenset(specifiers.replace(" ", "").split(",")) - {""}

    found = {(None, parts(line)) for line in told.get_all("Requires-Dist") if ";" not in line}
    for line in told.get_all("Requires-Dist"):
        if ";" in line:
            requirement, marker = line.split(";")
            found.add((re.fullmatch(r' extra == "(\w+)"', marker)[1], parts(requirement)))
    extras = project["optional-dependencies"]
    assert {*told.get_all("Provides-Extra")} == {*extras}
    wanted = {(None, parts(line)) for line in project["dependencies"]}
    assert found == wanted | {(extra, parts(line)) for extra, lines in extras.items() for line in lines}


def test_it_is_used_from_another_folder(wheel, tmp_path):
    """An environment that sees the packages of this one, but not this checkout: encode, decode, library."""
    environment = tmp_path / "env"
    run(sys.executable, "-m", "venv", "--without-pip", environment, cwd=tmp_path)
    (site,) = environment.glob("lib/python*/site-packages")
    (site / "packages.pth").write_text(sysconfig.get_path("purelib"))
    run(sys.executable, "-m", "pip", "--python", environment, "install", "--no-deps", "--no-index", wheel, cwd=tmp_path)
    write_image(tmp_path / "a.png", read_image(ROOT / "docs" / "images" / "kodim23.png").pixels[200:248, 300:364])
    program = environment / "bin" / "airjax"
    assert run(program, "--version", cwd=tmp_path).startswith(f"airjax {airjax.__version__}, Python ")
    assert "a.png -> a.air" in run(program, "encode", "a.png", "--effort", "0", cwd=tmp_path)
    assert "a.air -> b.png" in run(program, "decode", "a.air", "-o", "b.png", cwd=tmp_path)
    code = "import airjax; print(airjax.__file__); print(airjax.open('a.air'))"
    where, encoded = run(environment / "bin" / "python", "-c", code, cwd=tmp_path).splitlines()
    assert Path(where).is_relative_to(environment) and encoded.startswith("Encoded(")

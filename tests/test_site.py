"""The site builds without a warning, its links lead somewhere, and it needs nothing from elsewhere."""

import importlib.util
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from documents import ROOT

MISSING = [name for name in ("zensical", "mkdocstrings_handlers") if importlib.util.find_spec(name) is None]
pytestmark = pytest.mark.skipif(bool(MISSING), reason=f'no {" and ".join(MISSING)}: pip install ".[docs]"')


class Page(HTMLParser):
    """What a page refers to, and what others can refer to in it."""

    def __init__(self, path: Path):
        super().__init__()
        self.links: set[str] = set()
        self.loaded: set[str] = set()  # before anything is clicked
        self.anchors: set[str] = set()
        self.feed(path.read_text())

    def handle_starttag(self, tag, attributes):
        values = {key: value for key, value in attributes if value}
        self.anchors |= {values[key] for key in ("id", "name") if key in values}
        if tag == "a" and "href" in values:
            self.links.add(values["href"])
        elif tag in ("img", "script", "link", "source"):
            self.loaded |= {values[key] for key in ("src", "href") if key in values}


def build(folder: Path, *options: str) -> tuple[int, str]:
    """Exit status and output of a strict build of the project in a folder."""
    command = [sys.executable, "-m", "zensical", "build", "--strict", *options]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    return done.returncode, done.stdout + done.stderr


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """The site, built from a copy of its sources."""
    folder = tmp_path_factory.mktemp("project")
    shutil.copy(ROOT / "mkdocs.yml", folder)
    for name in ("docs", "airjax"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", "*.safetensors"))
    status, output = build(folder)
    assert status == 0 and "No issues found" in output, output
    assert "griffe" not in output and "warning" not in output.lower(), output
    return folder / "site"


@pytest.fixture(scope="module")
def pages(site) -> dict[Path, Page]:
    return {path: Page(path) for path in sorted(site.rglob("*.html")) if path.name != "404.html"}


def test_every_page_is_there(site, pages):
    built = {path.relative_to(site).with_suffix("").as_posix() for path in pages}
    written = {path.relative_to(ROOT / "docs").with_suffix("").as_posix() for path in (ROOT / "docs").rglob("*.md")}
    assert built == written - {"images/README"}
    navigation = (ROOT / "mkdocs.yml").read_text()
    assert [name for name in built if f" {name}.md\n" not in navigation] == []


def test_links_lead_somewhere(pages):
    missing = []
    for path, page in pages.items():
        for link in page.links | page.loaded:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            target = target / "index.html" if target.is_dir() else target
            known = target.is_file() and (not parts.fragment or target.suffix != ".html" or _has(pages, target, parts))
            missing += [] if known else [f"{path.name}: {link}"]
    assert missing == []


def _has(pages, target: Path, parts) -> bool:
    return unquote(parts.fragment) in pages[target].anchors


def test_nothing_is_loaded_from_elsewhere(pages, site):
    elsewhere = {link for page in pages.values() for link in page.loaded if urlsplit(link).netloc}
    assert elsewhere == set()
    for style in site.rglob("*.css"):
        assert not re.search(r"url\(['\"]?https?:|@import ['\"]?https?:", style.read_text()), style


def test_the_names_of_the_api_are_explained(pages, site):
    anchors = {anchor for path, page in pages.items() if "api" in path.parts for anchor in page.anchors}
    for name in ("airjax.gaussians.Gaussians2D", "airjax.inner.task.run", "airjax.scene.reconstruct.reconstruct"):
        assert name in anchors


def test_a_build_with_a_broken_link_fails(tmp_path):
    """Else the strict build of the site proves nothing."""
    (tmp_path / "docs").mkdir()
    (tmp_path / "mkdocs.yml").write_text("site_name: x\n")
    (tmp_path / "docs" / "index.md").write_text("# x\n\n[x](nowhere.md)\n")
    status, output = build(tmp_path)
    assert status != 0 and "page does not exist" in output


def test_docstrings_for_the_site():
    path = ROOT / "docs" / "docstrings.py"
    spec = importlib.util.spec_from_file_location("docstrings", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    text = "Words.\n\n  a = b\n  c = d\n\nFields:\n  x: y.\n\n  more of y.\n\nArgs:\n  z: w.\n\n  e = f"
    expected = "Words.\n\n      a = b\n      c = d\n\nAttributes:\n  x: y.\n\n  more of y.\n\nArgs:\n  z: w.\n\n  e = f"
    assert module.for_the_site(text) == expected

"""A folder of three small photographs."""

from pathlib import Path

import pytest
from photos import save, texture


@pytest.fixture
def photos(tmp_path) -> Path:
    folder = tmp_path / "photos"
    save(folder, "a.png", texture(70, 60, 1))
    save(folder, "sub/b.jpg", texture(96, 90, 2), quality=95)
    save(folder, "c.webp", texture(40, 110, 3))
    return folder

"""What the tests of the commands share: small files, the folder as it was, and a refusal with one line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
SIZE = (16, 24)  # (h, w): 2 x 3 patches, so 6 Gaussians a stage at most


def photo(path, seed=0, mode="RGB") -> Path:
    """A small image of noise."""
    shape = SIZE if mode == "L" else (*SIZE, 3)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)).save(path)
    return Path(path)


def listing() -> dict[str, bytes]:
    """Every file below the working folder and its content."""
    return {str(path): path.read_bytes() for path in sorted(Path().rglob("*")) if path.is_file()}


def assert_refused(result, before, *words) -> None:
    """Status 2, one line on stderr with all `words` in it, and not a file more, less or other."""
    assert result.status == 2
    assert len(result.err) == 1, result.err
    for word in words:
        assert str(word) in result.err[0]
    assert listing() == before


def failing(error):
    def fail(*_, **__):
        raise error

    return fail

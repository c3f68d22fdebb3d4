"""Small photographs as files."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image


def texture(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Smooth colourful noise, away from 0 and 255."""
    coarse = np.random.default_rng(seed).integers(40, 215, (height // 4 + 1, width // 4 + 1, 3), np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))


def save(folder: Path, name: str, pixels: np.ndarray, **options) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **options)
    return path


def assert_one_line(info: pytest.ExceptionInfo, *words: str) -> None:
    message = str(info.value)
    assert "\n" not in message and all(word in message for word in words), message

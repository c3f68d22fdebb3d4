"""The promise of every message for the user."""

from __future__ import annotations

import pytest


def one_line(error: pytest.ExceptionInfo, path) -> str:
    """Checks that a message is one line that starts with the file's name. Returns the rest of it."""
    text = str(error.value)
    assert "\n" not in text and text.startswith(f"{path}: "), text
    return text[len(f"{path}: ") :]

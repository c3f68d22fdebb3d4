"""What is called while something takes long."""

from collections.abc import Callable

Progress = Callable[[str, int, int], None]  # (what is done, how many are, how many there are)
Count = Callable[[int, int], None]  # (how many are done, how many there are)

"""What is called while something takes long."""

from collections.abc import Callable

Progress = Callable[[str, int, int], None]  # (what is done, how many are, how many there are)
Count = Callable[[int, int], None]  # (how many are done, how many there are)
Steps = Callable[[int], None]  # (how many are done)


def unwatched(stage: str, done: int, total: int) -> None:
    """For those who do not look."""


def counted(progress: Progress, stage: str) -> Count:
    """The part of a progress that is one stage."""
    return lambda done, total: progress(stage, done, total)


def steps_of(count: Count, total: int) -> Steps:
    """The same for so many steps."""
    return lambda done: count(done, total)

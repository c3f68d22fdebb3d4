"""`python -m airjax`, and the program `airjax`."""

import sys

from airjax.commands import interrupt


def program() -> int:
    """`airjax.commands.main.main` as a process of its own, which Ctrl-C ends at any moment."""
    interrupt.watch()
    from airjax.commands.main import main  # it takes a moment

    return main()


if __name__ == "__main__":
    sys.exit(program())

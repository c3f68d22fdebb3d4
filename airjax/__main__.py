"""`python -m airjax`."""

import sys

from airjax.commands.main import main

if __name__ == "__main__":
    sys.exit(main())

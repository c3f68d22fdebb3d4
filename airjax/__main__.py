"""`python -m airjax`."""

import sys

from airjax.cli import main

if __name__ == "__main__":
    sys.exit(main())

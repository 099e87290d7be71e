"""`python -m skillmeta` is the `skillmeta` command."""

import sys

from skillmeta.cli import main

if __name__ == "__main__":
    sys.exit(main())

"""`python -m jaxneuro VERB`: the command where no script was installed."""

import sys

from jaxneuro.cli import main

if __name__ == "__main__":
    sys.exit(main())

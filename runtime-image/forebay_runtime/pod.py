#!/usr/local/bin/python3 -IS
"""Entry of the runtime in a container: found by its file, with no search for installed packages."""

import os
import sys


def start() -> int:
    """What `main` gives for our arguments."""
    sys.path.append(os.path.dirname(os.path.dirname(os.path.realpath(__file__))))
    from forebay_runtime.main import main  # noqa: PLC0415 - found only now

    return main(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(start())

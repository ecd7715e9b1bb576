"""`python -m forebay_runtime`."""

import sys

from forebay_runtime.main import main

sys.exit(main(sys.argv[1:]))

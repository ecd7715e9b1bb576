"""`python -m forebay_runtime`, or this file itself: it finds its package without a search of installed ones."""

import os
import sys

# Last, so that the standard library comes first. Where the package is installed it is there already.
sys.path.append(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

from forebay_runtime.main import main

sys.exit(main(sys.argv[1:]))

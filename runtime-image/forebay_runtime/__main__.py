"""`python -m forebay_runtime`, or this file itself: it finds its package without a search of installed ones."""

import os
import sys

# Last, so that the standard library comes first. Of installed packages a runtime needs two, and a search of all of them
# (`site`) is a fifth of its start: whoever starts it with -S says where these two are, unless they lie beside this one.
sys.path.append(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path += filter(None, os.environ.get("FOREBAY_PACKAGES", "").split(os.pathsep))

from forebay_runtime.main import main

sys.exit(main(sys.argv[1:]))

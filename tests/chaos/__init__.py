"""Seeded chaos: the platform under a mixed load while its parts die, pause and lose their connections to Redis."""

import sys
from pathlib import Path

# `support` is found by pytest's own setting, but not by `python -m tests.chaos`.
sys.path.append(str(Path(__file__).parents[1]))

"""When to tell the controller that a function may need another look. Pure: observations and `now` in, a decision out.

A wake is a hint; the controller's own tick finds what a lost one would have said. So hints are spaced out, and the
last one of a burst is never dropped but comes late.
"""

from typing import Literal

SYNC_SPACING_S = 0.020
ASYNC_SPACING_S = 0.050
SPACING_MAX_S = 0.100
"""How often the controller looks at a function with work anyway: more hints than that only cost it time."""
QUIET_S = 1.0

Decision = Literal["now", "later", "no"]


def sync_wanted(waiting: int, capacity: int, max_capacity: int) -> bool:
    """Whether sync calls outgrow a function: more wait here than its handler processes, and there can be more of those.

    `max_capacity` 0 means not known.
    """
    return waiting > capacity and (not max_capacity or capacity < max_capacity)


def grown_spacing_s(spacing_s: float, run: int) -> float:
    """The spacing after `run` hints in a row, at most `QUIET_S` apart: the first of a burst are the urgent ones."""
    return min(spacing_s * 2.0 ** min(run, 8), SPACING_MAX_S)


def decide(now_s: float, last_s: float, spacing_s: float, *, trailing: bool) -> Decision:
    """Send a wanted wake now, with the trailing one (to be set up), or not at all since that one is already set up."""
    if now_s - last_s >= spacing_s:
        return "now"
    return "no" if trailing else "later"

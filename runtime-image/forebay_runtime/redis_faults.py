"""Which of Redis's errors go away by themselves (pure)."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from hiredis import ReplyError

_PASSING = (
    "NOSCRIPT", "LOADING", "BUSY ", "OOM ", "MISCONF", "READONLY", "TRYAGAIN", "CLUSTERDOWN", "MASTERDOWN",
    "NOREPLICAS", "NOAUTH", "WRONGPASS", "NOPERM", "MOVED ", "ASK ",
)  # fmt: skip
"""Redis was restarted, is full or is failing over, or a Cluster moves the slot.

Users stand in no append-only file and reach no replica: until the controller has set ours there again it is not known
(WRONGPASS, NOAUTH) or may do nothing yet (NOPERM)."""
_LOGIN = ("NOAUTH", "WRONGPASS")


def passes(error: ReplyError) -> bool:
    """Whether the same command may succeed later."""
    return str(error).startswith(_PASSING)


def needs_login(error: ReplyError) -> bool:
    """Whether this connection is not, or no longer, logged in."""
    return str(error).startswith(_LOGIN)

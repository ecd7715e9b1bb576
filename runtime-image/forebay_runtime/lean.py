"""Standard names taken from the C modules beneath their packages.

`socket`, `signal`, `collections` and `json` import enum and re, which doubles the time from a runtime's start to its
first reply: on one machine `python -c pass` took 12 ms, with the C modules 12.6 ms, with the packages 25 ms. A Python
without one of them falls back to the package.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    import _socket as socket
    import signal
    from collections import deque
    from json.encoder import encode_basestring_ascii as quote
    from typing import Any
else:
    try:
        import _signal as signal
        import _socket as socket
        from _collections import deque
        from _json import encode_basestring_ascii as quote
    except ImportError:
        import signal
        import socket
        from collections import deque
        from json.encoder import encode_basestring_ascii as quote

__all__ = ["accept", "deque", "parse_json", "quote", "signal", "socket"]


def accept(listener: Any) -> tuple[int, Any]:
    """A new connection's descriptor and address, as the C socket gives them. Raises OSError."""
    accepted: tuple[int, Any] = listener._accept()  # noqa: SLF001 - what socket.accept wraps
    return accepted


class _Options:
    """What the C scanner reads from its decoder: JSON as the json module reads it by default."""

    strict = True
    object_hook = None
    object_pairs_hook = None
    parse_float = float
    parse_int = int
    parse_constant = float
    memo: dict[str, str] = {}  # noqa: RUF012 - the scanner's own cache of member names


def parse_json(text: str) -> Any:
    """A JSON document's value. Raises ValueError for text that is none."""
    text = text.strip(" \t\r\n")
    try:
        from _json import make_scanner  # noqa: PLC0415 - see the module's docstring

        value, end = make_scanner(_Options)(text, 0)  # type: ignore[arg-type]
        if end == len(text):
            return value
    except (ImportError, StopIteration, SystemError):
        # Not there, or not JSON: without its package the scanner cannot make its own error.
        pass
    from json import loads  # noqa: PLC0415 - only for the wording of an error

    return loads(text)

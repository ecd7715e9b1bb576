"""Lines of functions' logs, wherever they come from: one JSON object each, with a `time` that sorts as text. Pure."""

import json

LINES_MAX = 10_000
"""How many of the last lines may be asked for."""


def as_text(line: bytes) -> str:
    """A line for people: its time and its message; a line that is no JSON object as it is."""
    try:
        document = json.loads(line)
        return f"{document['time']} {document['message']}".rstrip("\n")
    except (ValueError, KeyError, TypeError, RecursionError):
        return line.decode(errors="replace")


def merged(sources: list[list[bytes]]) -> list[bytes]:
    """Lines of several instances by time; a line without one stays behind the line it follows."""
    timed: list[tuple[str, bytes]] = []
    for lines in sources:
        time = ""
        for line in lines:
            time = time_of(line) or time
            timed.append((time, line))
    timed.sort(key=lambda pair: pair[0])
    return [line for _, line in timed]


def time_of(line: bytes) -> str:
    """A line's time; "" for one that is no JSON object with one."""
    try:
        return str(json.loads(line)["time"])
    except (ValueError, KeyError, TypeError, RecursionError):
        return ""

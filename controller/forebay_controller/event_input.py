"""What clients of /v1 write about events: ids, entries, times. Pure; each raises V1Error with what is expected."""

import re
from datetime import datetime

from forebay_controller.v1_errors import V1Error

IDS_MAX = 1_000
"""Dead letters that one request names."""
TIME_MAX_MS = 253_402_300_799_999
"""The end of the year 9999."""
_SHOWN_MAX_CHARS = 100

_INVOCATION = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}", re.IGNORECASE | re.ASCII)
_ENTRY = re.compile(r"[0-9]{1,19}-[0-9]{1,19}", re.ASCII)
_SECONDS = re.compile(r"[0-9]{1,12}(\.[0-9]{1,9})?", re.ASCII)
_RFC_3339 = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt][0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{1,9})?([Zz]|[+-][0-9]{2}:[0-9]{2})", re.ASCII
)


def invocation_id(text: str) -> bytes:
    """An invocation's id, 16 bytes."""
    if _INVOCATION.fullmatch(text) is None:
        raise V1Error(
            "invalid",
            f"{text[:_SHOWN_MAX_CHARS]} is no invocation id: it is what an accepted event was answered with, as "
            "3f2504e0-4f89-41d3-9a0c-0305e82c3301",
        )
    return bytes.fromhex(text.replace("-", ""))


def entry_id(text: str) -> str:
    """A dead letter's id."""
    if _ENTRY.fullmatch(text) is None:
        raise V1Error(
            "invalid", f"{text[:_SHOWN_MAX_CHARS]} is no dead letter's id: lists show them, as 1764000000000-0"
        )
    return text


def time_ms(name: str, text: str) -> int:
    """A time in Unix milliseconds; "" is 0, none."""
    if not text:
        return 0
    found = _time_ms(text)
    if found is None or not 0 <= found <= TIME_MAX_MS:
        raise V1Error(
            "invalid",
            f"{name} is {text[:_SHOWN_MAX_CHARS]}: a time is written as 2026-11-23T02:50:36Z (RFC 3339, with Z or an "
            "offset; its + is %2B in a URL) or as seconds since 1970",
        )
    return found


def _time_ms(text: str) -> int | None:
    if _SECONDS.fullmatch(text) is not None:
        return int(float(text) * 1000)
    if _RFC_3339.fullmatch(text) is None:
        return None
    try:
        return int(datetime.fromisoformat(text.upper()).timestamp() * 1000)
    except (ValueError, OverflowError):
        return None

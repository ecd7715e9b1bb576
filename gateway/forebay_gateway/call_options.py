"""What a caller asks of a call's delivery by its headers: when, in which order, and that a repeat runs nothing. Pure.

`X-Forebay-Delay`, `X-Forebay-At` and `X-Forebay-Group` are for async events. `Idempotency-Key` is for both kinds
(draft-ietf-httpapi-idempotency-key-header-07: a structured field's string; one without quotes is taken as well).
Groups and keys travel as hashes: they can hold anything, and the queue needs no more of them than that two are alike.
"""

import re
from collections.abc import Mapping
from datetime import datetime
from hashlib import sha256
from typing import NamedTuple

from forebay_gateway import lambda_errors

DELAY = b"x-forebay-delay"
AT = b"x-forebay-at"
GROUP = b"x-forebay-group"
IDEMPOTENCY_KEY = b"idempotency-key"
HEADERS = frozenset({DELAY, AT, GROUP, IDEMPOTENCY_KEY})

DELAY_MAX_S = 1_209_600
"""14 days."""
GROUP_MAX_CHARS = 256
KEY_MAX_CHARS = 255
HASH_BYTES = 16
_TOLD_CHARS = 64
"""How much of a wrong value an error repeats."""

_DECIMAL = re.compile(r"[0-9]{1,10}(\.[0-9]{1,9})?", re.ASCII)
_MOMENT = re.compile(
    r"\d{4}-\d{2}-\d{2}[Tt]\d{2}:\d{2}:\d{2}(?P<fraction>\.\d{1,9})?(?P<zone>[Zz]|[+-]\d{2}:\d{2})", re.ASCII
)
_VISIBLE = re.compile(rb"[!-~]+")
_QUOTED = re.compile(
    rb'"(?P<text>(?:[ !#-\[\]-~]|\\["\\])*)"'
    rb'(?: *; *[a-z*][a-z0-9_.*-]*(?:=(?:"(?:[ !#-\[\]-~]|\\["\\])*"|[!#-+\--:<-~]+))?)*'
)
"""A string with parameters, which say nothing here (RFC 9651, sections 3.1.2 and 3.3.3)."""
_BARE = re.compile(rb"[!#-+\--:<-~]+")
"""Visible characters without quotes, commas (two headers, joined) and semicolons (parameters)."""
_ESCAPED = re.compile(rb'\\(["\\])')


class CallOptions(NamedTuple):
    """What a call's headers ask for. `delay_ms` counts from its acceptance, `due_ms` is Unix time; 0: at once.

    `group` and `key` are the hashes of the group and of the idempotency key, b"" when there is none.
    """

    delay_ms: int = 0
    due_ms: int = 0
    group: bytes = b""
    key: bytes = b""

    def starts_in_ms(self, now_ms: float) -> int:
        """How long the event is to wait from now on; a moment that has passed means at once."""
        if self.due_ms:
            return max(0, self.due_ms - int(now_ms))
        return self.delay_ms


PLAIN = CallOptions()


class Once(NamedTuple):
    """What makes a call run once: the hash of its idempotency key, and what stands for its request (`fingerprint`)."""

    key: bytes
    request: bytes


def key_among(key: bytes, access_key_id: str) -> bytes:
    """An idempotency key's hash among those of the caller who showed this access key; "": nobody was asked for one.

    So nobody is given an answer that another caller was given, however they come to use the same key.
    """
    return hashed(b"%b/%b" % (access_key_id.encode(), key)) if access_key_id else key


def read_options(headers: Mapping[bytes, bytes], *, run_async: bool, now_ms: float) -> CallOptions:
    """Read the headers of a call (each name once, repeated ones joined by commas). Raises Refusal, a 400."""
    if HEADERS.isdisjoint(headers):
        return PLAIN
    delay, at, group = (headers.get(name) for name in (DELAY, AT, GROUP))
    if not run_async:
        for name, value in (("X-Forebay-Delay", delay), ("X-Forebay-At", at), ("X-Forebay-Group", group)):
            if value is not None:
                raise lambda_errors.invalid_parameter(f"{name} is for asynchronous invocations only")
    if delay is not None and at is not None:
        raise lambda_errors.invalid_parameter("X-Forebay-Delay and X-Forebay-At exclude each other")
    key = headers.get(IDEMPOTENCY_KEY)
    return CallOptions(
        0 if delay is None else delay_ms(delay),
        0 if at is None else due_ms(at, now_ms),
        b"" if group is None else hashed(group_text(group)),
        b"" if key is None else hashed(key_text(key)),
    )


def delay_ms(value: bytes) -> int:
    """A delay in seconds, as milliseconds. Raises Refusal."""
    text = value.decode("latin-1")
    if _DECIMAL.fullmatch(text) is None or float(text) > DELAY_MAX_S:
        raise lambda_errors.invalid_parameter(
            f"X-Forebay-Delay must be 0 to {DELAY_MAX_S} seconds, not {text[:_TOLD_CHARS]}"
        )
    return round(float(text) * 1000)


def due_ms(value: bytes, now_ms: float) -> int:
    """A moment as Unix time in milliseconds, at least 1. Raises Refusal."""
    text = value.decode("latin-1")
    moment = _moment_ms(text)
    if moment is None:
        raise lambda_errors.invalid_parameter(
            f"X-Forebay-At must be a date and time as in RFC 3339, like 2030-01-31T08:00:00Z, not {text[:_TOLD_CHARS]}"
        )
    if moment - now_ms > DELAY_MAX_S * 1000:
        raise lambda_errors.invalid_parameter(
            f"X-Forebay-At must be at most {DELAY_MAX_S} seconds from now, not {text}"
        )
    return max(1, moment)


def group_text(value: bytes) -> bytes:
    """A group's key. Raises Refusal."""
    if _VISIBLE.fullmatch(value) is None or len(value) > GROUP_MAX_CHARS:
        raise lambda_errors.invalid_parameter(
            f"X-Forebay-Group must be 1 to {GROUP_MAX_CHARS} visible ASCII characters without spaces"
        )
    return value


def key_text(value: bytes) -> bytes:
    """An idempotency key without quotes and escapes. Raises Refusal."""
    quoted = _QUOTED.fullmatch(value)
    if quoted is not None:
        text = _ESCAPED.sub(rb"\1", quoted["text"])
    elif _BARE.fullmatch(value) is not None:
        text = value
    else:
        raise lambda_errors.invalid_parameter(
            'Idempotency-Key must be a string in double quotes, like "8e03978e-40d5-43e8-bc93-6894a57f9324"'
        )
    if not 1 <= len(text) <= KEY_MAX_CHARS:
        raise lambda_errors.invalid_parameter(f"Idempotency-Key must have 1 to {KEY_MAX_CHARS} characters")
    return text


def hashed(text: bytes) -> bytes:
    """What stands for a text in records and keys: the first 16 bytes of its SHA-256."""
    return sha256(text).digest()[:HASH_BYTES]


def fingerprint(*parts: bytes) -> bytes:
    """What stands for a request in comparing it with an earlier one under the same key: a hash over its parts.

    Lengths go in with the parts, so that no two lists of parts look alike.
    """
    found = sha256()
    for part in parts:
        found.update(b"%d:" % len(part))
        found.update(part)
    return found.digest()[:HASH_BYTES]


def _moment_ms(text: str) -> int | None:
    match = _MOMENT.fullmatch(text)
    if match is None:
        return None
    # Python reads three or six digits of a fraction, RFC 3339 allows any number.
    fraction, zone = (match["fraction"] or ".0")[:7].ljust(7, "0"), match["zone"].upper()
    try:
        return round(datetime.fromisoformat(f"{text[:10]}T{text[11:19]}{fraction}{zone}").timestamp() * 1000)
    except (ValueError, OverflowError):
        return None

"""Whether a payload is JSON, as far as Lambda refuses it before the function sees it.

The platform carries payloads, it does not decode them: NaN, 2**70, lone surrogates and deep nesting pass through to
the runtime, which answers `Runtime.UnmarshalError` for what it cannot read. Lambda itself refuses a body that is no
JSON at all with 400, which clients see as their own mistake. So a small payload is read through and thrown away; of
a large one only the ends are looked at, since reading megabytes would hold up every other call of this process.
"""

import json
import re

CHECKED_MAX_BYTES = 16 * 1024

_SPACE = b" \t\r\n"
_START = re.compile(rb"[ \t\r\n]*(.)", re.DOTALL)
_END_BYTES = 64
_CLOSING = {b"{": b"}", b"[": b"]", b'"': b'"'}
_decoder = json.JSONDecoder()


def json_problem(payload: bytes) -> str:
    """What is wrong with a payload, or "" when it is JSON as far as was looked."""
    if len(payload) > CHECKED_MAX_BYTES:
        return _problem_at_ends(payload)
    try:
        text = payload.decode("utf-8", "surrogatepass")
        if not _is_one_value(text):
            # Spaces around it, or no JSON: this tells which, and where.
            _decoder.decode(text)
    except UnicodeDecodeError as error:
        return f"Invalid UTF-8 byte 0x{payload[error.start]:02x}"
    except json.JSONDecodeError as error:
        return str(error)
    except (RecursionError, ValueError):
        # Deeper, or a longer number, than Python reads; another runtime may well read it.
        return ""
    return ""


def _is_one_value(text: str) -> bool:
    try:
        return _decoder.raw_decode(text)[1] == len(text)
    except json.JSONDecodeError:
        return False


def _problem_at_ends(payload: bytes) -> str:
    match = _START.match(payload)
    if match is None:
        return "No content to map due to end-of-input"
    first = match[1]
    closing = _CLOSING.get(first)
    last = payload[-_END_BYTES:].rstrip(_SPACE)[-1:] or payload.rstrip(_SPACE)[-1:]
    if closing is not None and last != closing:
        return f"Unexpected end-of-input: expected {closing.decode()!r} to close {first.decode()!r}"
    if closing is None and first not in b"-0123456789tfnNI":
        return f"Unexpected character (code {first[0]}): expected a JSON value"
    return ""

"""AWS Signature Version 4 in the Authorization header: reading it, and checking it against a request as it was sent.

Source: AWS, "Signature Version 4 signing process"; where that leaves room, what botocore's signer does for services
other than S3 (the path, as sent, is encoded once more; dot segments and doubled slashes are removed).

Pure: the time is passed in. What is done before anybody knows whether the access key exists is bounded by
`AUTHORIZATION_MAX_BYTES`. Signatures are compared in constant time.
"""

import calendar
import hmac
import time
from collections.abc import Iterable, Mapping
from functools import lru_cache
from hashlib import sha256
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import quote, unquote_to_bytes

from forebay_common import auth_errors

if TYPE_CHECKING:
    from hashlib import _Hash

ALGORITHM = b"AWS4-HMAC-SHA256"
SERVICE = "lambda"
SKEW_MAX_S = 300
AUTHORIZATION_MAX_BYTES = 4_096
SIGNED_HEADERS_MAX = 64

_TERMINATOR = "aws4_request"
_SIGNATURE_CHARS = 64
_SIGNATURE_LAST = b" Signature="
"""How every known client ends its header; what stands before the signature is the same for all its calls of a day."""
_DATE_CHARS = 16
_CREDENTIAL_PARTS = 5
_SCOPES_MAX = 1_024
_KEYS_MAX = 1_024
_INNER_PAD = bytes(byte ^ 0x36 for byte in range(256))
_OUTER_PAD = bytes(byte ^ 0x5C for byte in range(256))
_PATHS_MAX = 4_096
_PATH_CACHED_MAX_BYTES = 512
_ALWAYS_SIGNED = (b"host", b"x-amz-date")
_SIGNED_IF_SENT = frozenset({b"x-amz-invocation-type", b"x-amz-log-type", b"x-amz-client-context"})
"""Headers that change what a call means. AWS wants all of `x-amz-…` signed; proxies add some that nobody here reads."""


class Scope(NamedTuple):
    """What an Authorization header says besides its signature: who signed, for what, over which headers.

    `signed_names` are the headers' names as the header lists them; `text` is `DATE/REGION/SERVICE/aws4_request`.
    """

    access_key_id: str
    date: str
    region: str
    service: str
    signed_headers: tuple[bytes, ...]
    signed_names: bytes
    text: bytes


class Signed(NamedTuple):
    """A whole Authorization header; `signature` is hexadecimal."""

    scope: Scope
    signature: bytes


class Request(NamedTuple):
    """What a signature covers. `raw_path` and `query` are as sent; `headers` as `joined` gives them."""

    method: str
    raw_path: bytes
    query: bytes
    headers: Mapping[bytes, bytes]


def is_signature(authorization: bytes) -> bool:
    """Whether an Authorization header is meant for this scheme."""
    return authorization.startswith(ALGORITHM)


def claimed_key_id(authorization: bytes) -> str:
    """The access key id that a header of this scheme names, however broken the rest of it is."""
    claimed = authorization.partition(b"Credential=")[2].partition(b"/")[0]
    return claimed.decode("latin-1")


def joined(headers: Iterable[tuple[bytes, bytes]]) -> dict[bytes, bytes]:
    """Headers by lower-case name, the values of repeated ones joined by a comma, as they are signed."""
    found: dict[bytes, bytes] = {}
    for name, value in headers:
        found[name] = found[name] + b"," + value if name in found else value
    return found


def parse(authorization: bytes) -> Signed:
    """Read an Authorization header of this scheme. Raises AuthError."""
    if len(authorization) > AUTHORIZATION_MAX_BYTES:
        raise auth_errors.incomplete(f"The Authorization header is longer than {AUTHORIZATION_MAX_BYTES} bytes.")
    head = authorization[:-_SIGNATURE_CHARS]
    if head.endswith(_SIGNATURE_LAST):
        return Signed(_scope(head), authorization[-_SIGNATURE_CHARS:])
    head, found, tail = authorization.partition(b"Signature=")
    if not found:
        raise auth_errors.incomplete(_missing_parameter("Signature"))
    signature, _, more = tail.partition(b",")
    signature = signature.strip()
    if len(signature) != _SIGNATURE_CHARS:
        raise auth_errors.bad_signature()
    return Signed(_scope(head + more), signature)


@lru_cache(_SCOPES_MAX)
def _scope(text: bytes) -> Scope:
    """Read the part of a header that is the same for all calls of a client in a day. Raises AuthError."""
    pairs = {}
    for part in text[len(ALGORITHM) :].split(b","):
        name, _, value = part.strip().partition(b"=")
        pairs[name] = value.strip()
    for required in (b"Credential", b"SignedHeaders"):
        if not pairs.get(required):
            raise auth_errors.incomplete(_missing_parameter(required.decode()))
    # An access key id has no slash, but whatever stands before the last four parts is taken for one.
    credential = pairs[b"Credential"].decode("latin-1").rsplit("/", _CREDENTIAL_PARTS - 1)
    if len(credential) != _CREDENTIAL_PARTS or credential[-1] != _TERMINATOR:
        raise auth_errors.incomplete("Credential must have exactly 5 slash-delimited elements: KEY/DATE/REGION/…")
    signed_names = pairs[b"SignedHeaders"]
    names = tuple(signed_names.split(b";"))
    if len(names) > SIGNED_HEADERS_MAX:
        raise auth_errors.incomplete(f"More than {SIGNED_HEADERS_MAX} headers are signed.")
    for name in _ALWAYS_SIGNED:
        if name not in names:
            raise auth_errors.bad_signature(f"'{name.decode()}' must be a 'SignedHeader' in the AWS Authorization.")
    access_key_id, date, region, service, _ = credential
    return Scope(access_key_id, date, region, service, names, signed_names, "/".join(credential[1:]).encode("latin-1"))


def _missing_parameter(name: str) -> str:
    return f"Authorization header requires '{name}' parameter."


def check_scope(scope: Scope, amz_date: bytes | None, *, region: str, now_s: float) -> None:
    """Hold a signature's scope and date against the platform's region and the time. Raises AuthError."""
    if scope.region != region:
        raise auth_errors.bad_signature(f"Credential should be scoped to a valid region, not '{scope.region}'. ")
    if scope.service != SERVICE:
        raise auth_errors.bad_signature(f"Credential should be scoped to correct service: '{SERVICE}'. ")
    signed_s = None if amz_date is None else _seconds(amz_date)
    if amz_date is None or signed_s is None:
        raise auth_errors.incomplete("Authorization header requires existence of a 'X-Amz-Date' header.")
    text = amz_date.decode()
    if text[:8] != scope.date:
        raise auth_errors.bad_signature(
            "Date in Credential scope does not match YYYYMMDD from ISO-8601 version of date from HTTP: "
            f"'{scope.date}' != '{text[:8]}', from '{text}'."
        )
    if signed_s < now_s - SKEW_MAX_S:
        limit, now = _date_text(now_s - SKEW_MAX_S), _date_text(now_s)
        raise auth_errors.bad_signature(f"Signature expired: {text} is now earlier than {limit} ({now} - 5 min.)")
    if signed_s > now_s + SKEW_MAX_S:
        limit, now = _date_text(now_s + SKEW_MAX_S), _date_text(now_s)
        raise auth_errors.bad_signature(
            f"Signature not yet current: {text} is still later than {limit} ({now} + 5 min.)"
        )


@lru_cache(_SCOPES_MAX)
def _seconds(amz_date: bytes) -> int | None:
    """Unix time of `20260131T235959Z`; None when it is none."""
    if len(amz_date) != _DATE_CHARS or amz_date[8:9] != b"T" or amz_date[15:] != b"Z":
        return None
    digits = amz_date[:8] + amz_date[9:15]
    if not digits.isdigit():
        return None
    month, day, hour = int(digits[4:6]), int(digits[6:8]), int(digits[8:10])
    if not (1 <= month <= 12 and 1 <= day <= 31 and hour < 24):  # noqa: PLR2004 - a calendar's bounds
        return None
    return calendar.timegm((int(digits[:4]), month, day, hour, int(digits[10:12]), int(digits[12:14])))


def _date_text(now_s: float) -> str:
    t = time.gmtime(now_s)
    return f"{t.tm_year:04}{t.tm_mon:02}{t.tm_mday:02}T{t.tm_hour:02}{t.tm_min:02}{t.tm_sec:02}Z"


def signing_key(secret_access_key: str, date: str, region: str, service: str = SERVICE) -> bytes:
    """The key that signs one day's (`YYYYMMDD`) calls: worth nothing the day after, and the secret is not in it."""
    key = f"AWS4{secret_access_key}".encode()
    for part in (date, region, service, _TERMINATOR):
        key = hmac.digest(key, part.encode(), "sha256")
    return key


def check_signature(signed: Signed, key: bytes, request: Request, payload_sha256: str) -> None:
    """Hold a signature against the request it came with. Raises AuthError.

    `key` is the day's signing key, `payload_sha256` the hexadecimal hash of the body as it arrived: a hash that the
    client sends along (`x-amz-content-sha256`) counts for nothing, so an unsigned payload is refused.
    """
    headers = request.headers
    if not _SIGNED_IF_SENT.isdisjoint(headers):
        for name in _SIGNED_IF_SENT.intersection(headers):
            if name not in signed.scope.signed_headers:
                raise auth_errors.bad_signature(f"'{name.decode()}' must be a 'SignedHeader' in the AWS Authorization.")
    path = (
        _path(request.raw_path) if len(request.raw_path) <= _PATH_CACHED_MAX_BYTES else encoded_path(request.raw_path)
    )
    for query in canonical_queries(request.query):
        if hmac.compare_digest(signature(signed.scope, key, request, path, query, payload_sha256), signed.signature):
            return
    raise auth_errors.bad_signature()


def signature(scope: Scope, key: bytes, request: Request, path: bytes, query: bytes, payload_sha256: str) -> bytes:
    """The hexadecimal signature that a request must carry; `path` and `query` are canonical already."""
    headers = request.headers
    lines = [b"%b:%b\n" % (name, b" ".join(headers.get(name, b"").split())) for name in scope.signed_headers]
    canonical = b"%b\n%b\n%b\n%b\n%b\n%b" % (
        request.method.encode(),
        path,
        query,
        b"".join(lines),
        scope.signed_names,
        payload_sha256.encode(),
    )
    text = b"%b\n%b\n%b\n%b" % (
        ALGORITHM,
        headers.get(b"x-amz-date", b""),
        scope.text,
        sha256(canonical).hexdigest().encode(),
    )
    inner, outer = _keyed(key)
    inner, outer = inner.copy(), outer.copy()
    inner.update(text)
    outer.update(inner.digest())
    return outer.hexdigest().encode()


@lru_cache(_KEYS_MAX)
def _keyed(key: bytes) -> tuple["_Hash", "_Hash"]:
    """HMAC's two hashes (RFC 2104) with the key in them already: `hmac.digest` spends three times as long."""
    block = key.ljust(sha256().block_size, b"\0")
    return sha256(block.translate(_INNER_PAD)), sha256(block.translate(_OUTER_PAD))


def encoded_path(raw_path: bytes) -> bytes:
    """A path in its canonical form: its own percent signs encoded once more, dot segments and doubled slashes gone."""
    kept: list[bytes] = []
    for segment in raw_path.split(b"/"):
        if segment == b"..":
            del kept[-1:]
        elif segment and segment != b".":
            kept.append(segment)
    last = b"/" if raw_path.endswith(b"/") and kept else b""
    return quote(b"/" + b"/".join(kept) + last, safe="/~").encode()


_path = lru_cache(_PATHS_MAX)(encoded_path)


def canonical_queries(query: bytes) -> tuple[bytes, ...]:
    """The canonical forms of a query string that are accepted, most likely first, each once.

    Sorted as it was sent, which is how botocore signs a query that is part of the URL; encoded as AWS says and
    sorted, which others sign; and as it was sent, which curl before 8 signs. All mean the same to whoever reads the
    query, so none lets anybody change what was signed.
    """
    if not query:
        return (b"",)
    pairs = [pair.partition(b"=")[::2] for pair in query.split(b"&")]
    encoded = [(_encoded(name), _encoded(value)) for name, value in pairs]
    return tuple(dict.fromkeys((_sorted(pairs), _sorted(encoded), query)))


def _sorted(pairs: Iterable[tuple[bytes, bytes]]) -> bytes:
    return b"&".join([b"%b=%b" % pair for pair in sorted(pairs)])


def _encoded(value: bytes) -> bytes:
    """One name or value of a query, percent-encoded in the one way AWS wants; `+` means a space, as its readers do."""
    return quote(unquote_to_bytes(value.replace(b"+", b"%20")), safe="-_.~").encode()

"""Access keys: what of one is published to whoever checks requests, and the check itself.

A record holds the hash of the secret, which checks an API key, and the SigV4 keys of a few days, which check
signatures: who reads the table learns no secret, and what he learns is worth nothing some days later.
Used by gateways (from the table in Redis) and by the controller (from the Secrets it publishes).
"""

import hmac
import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, NamedTuple, Self

from forebay_common import auth_errors, sigv4

INVOKE = "invoke"
MANAGE = "manage"
ALL_SCOPES = (INVOKE, MANAGE)
EVERY = "*"
API_KEY_MAX_BYTES = 512

_DAY_S = 86_400
_BEARER = b"bearer "


@dataclass(frozen=True, slots=True)
class Credential:
    """One access key, as it is checked by.

    `secret_sha256` is the raw hash of the secret access key; `signing_keys` are SigV4's by day (`YYYYMMDD`, UTC).
    `namespaces` and `functions` (names) may hold `*` for any number of characters.
    """

    access_key_id: str
    secret_sha256: bytes
    signing_keys: Mapping[str, bytes]
    scopes: tuple[str, ...] = ALL_SCOPES
    namespaces: tuple[str, ...] = (EVERY,)
    functions: tuple[str, ...] = (EVERY,)

    @classmethod
    def derive(
        cls,
        access_key_id: str,
        secret_access_key: str,
        *,
        region: str,
        now_s: float,
        scopes: Iterable[str] = ALL_SCOPES,
        namespaces: Iterable[str] = (EVERY,),
        functions: Iterable[str] = (EVERY,),
    ) -> Self:
        """The record of a key pair at a time, with the signing keys of yesterday, today and tomorrow."""
        days = [time.strftime("%Y%m%d", time.gmtime(now_s + offset * _DAY_S)) for offset in (-1, 0, 1)]
        return cls(
            access_key_id,
            sha256(secret_access_key.encode()).digest(),
            {day: sigv4.signing_key(secret_access_key, day, region) for day in days},
            tuple(scopes),
            tuple(namespaces),
            tuple(functions),
        )

    def allows(self, scope: str, namespace: str, function: str = EVERY) -> bool:
        """Whether the key may be used for `scope` (`invoke`, `manage`) on a function; `*`: on all of the namespace."""
        return scope in self.scopes and matches(self.namespaces, namespace) and matches(self.functions, function)

    def to_json(self) -> bytes:
        """Compact JSON; the access key id is the table's field, not part of it."""
        document = {
            "secret_sha256": self.secret_sha256.hex(),
            "signing_keys": {day: key.hex() for day, key in self.signing_keys.items()},
            "scopes": self.scopes,
            "namespaces": self.namespaces,
            "functions": self.functions,
        }
        return json.dumps(document, separators=(",", ":")).encode()

    @classmethod
    def from_json(cls, access_key_id: str, data: bytes) -> Self:
        """Read a record; members that a later release added are ignored.

        Raises ValueError, KeyError, TypeError or AttributeError when it is none.
        """
        raw: dict[str, Any] = json.loads(data)
        return cls(
            access_key_id,
            bytes.fromhex(raw["secret_sha256"]),
            {day: bytes.fromhex(key) for day, key in raw["signing_keys"].items()},
            tuple(raw["scopes"]),
            tuple(raw["namespaces"]),
            tuple(raw["functions"]),
        )


def matches(patterns: Sequence[str], name: str) -> bool:
    """Whether a name fits one of the patterns, in which `*` stands for any characters.

    `*` itself as the name (all of them) fits nothing but the pattern `*`. Linear in the name for each star.
    """
    if EVERY in patterns or name in patterns:
        return True
    return name != EVERY and any("*" in pattern and _fits(pattern, name) for pattern in patterns)


def _fits(pattern: str, name: str) -> bool:
    first, *middle, last = pattern.split("*")
    if len(first) + len(last) > len(name) or not name.startswith(first) or not name.endswith(last):
        return False
    at, end = len(first), len(name) - len(last)
    for part in middle:
        at = name.find(part, at, end)
        if at < 0:
            return False
        at += len(part)
    return True


class Presented(NamedTuple):
    """A credential that a request named. `signed` None: its secret was right, and nothing is left to check.

    `header` is the name of the header that carried it.
    """

    credential: Credential
    signed: sigv4.Signed | None
    header: bytes

    def check(self, request: sigv4.Request, payload_sha256: Callable[[], str]) -> None:
        """Check what depends on the body; its hash is asked for only if it is needed. Raises AuthError."""
        if self.signed is None:
            return
        key = self.credential.signing_keys.get(self.signed.scope.date)
        if key is None:
            raise auth_errors.no_signing_key(self.signed.scope.date)
        sigv4.check_signature(self.signed, key, request, payload_sha256())


def present(
    headers: Mapping[bytes, bytes], find: Callable[[str], Credential | None], *, region: str, now_s: float
) -> Presented:
    """Find out whose request it is, from its headers (`sigv4.joined`) alone. Raises AuthError.

    A signature is looked at first, since signing is always meant for the platform; then `X-Api-Key`; then
    `Authorization: Bearer`, which may as well be meant for the function when `X-Api-Key` is there.
    For a signature, `Presented.check` has the last word.
    """
    authorization = headers.get(b"authorization", b"")
    if sigv4.is_signature(authorization):
        signed = sigv4.parse(authorization)
        credential = find(signed.scope.access_key_id)
        if credential is None:
            raise auth_errors.unrecognized()
        sigv4.check_scope(signed.scope, headers.get(b"x-amz-date"), region=region, now_s=now_s)
        return Presented(credential, signed, b"authorization")
    api_key = headers.get(b"x-api-key")
    if api_key is not None:
        return Presented(_by_api_key(api_key, find), None, b"x-api-key")
    if authorization[: len(_BEARER)].lower() == _BEARER:
        return Presented(_by_api_key(authorization[len(_BEARER) :], find), None, b"authorization")
    if authorization:
        raise auth_errors.incomplete("The Authorization header is neither AWS4-HMAC-SHA256 nor Bearer.")
    raise auth_errors.missing()


def named_in(headers: Mapping[bytes, bytes], find: Callable[[str], Credential | None]) -> frozenset[bytes]:
    """Names of the headers that carry one of our access keys, whether or not its secret or signature is right."""
    found = set()
    api_key = headers.get(b"x-api-key")
    if api_key is not None and find(_key_id(api_key)) is not None:
        found.add(b"x-api-key")
    authorization = headers.get(b"authorization", b"")
    if sigv4.is_signature(authorization):
        access_key_id = sigv4.claimed_key_id(authorization)
    elif authorization[: len(_BEARER)].lower() == _BEARER:
        access_key_id = _key_id(authorization[len(_BEARER) :])
    else:
        return frozenset(found)
    if find(access_key_id) is not None:
        found |= {b"authorization", b"x-amz-security-token"}
    return frozenset(found)


def _key_id(api_key: bytes) -> str:
    return api_key.strip().partition(b".")[0].decode("latin-1")


def _by_api_key(api_key: bytes, find: Callable[[str], Credential | None]) -> Credential:
    """The credential of `ACCESSKEYID.SECRETACCESSKEY`. Raises AuthError."""
    secret = api_key.strip().partition(b".")[2]
    credential = find(_key_id(api_key)) if len(api_key) <= API_KEY_MAX_BYTES else None
    if credential is None or not hmac.compare_digest(sha256(secret).digest(), credential.secret_sha256):
        raise auth_errors.unrecognized()
    return credential

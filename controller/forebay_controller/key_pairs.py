"""Access keys with their secrets, as the platform makes them and gives them out.

An API key (`Authorization: Bearer`, `X-Api-Key`) is both halves of a pair, joined by a dot.
"""

import base64
import secrets
from dataclasses import dataclass
from typing import Self

from forebay_common.credentials import ALL_SCOPES, EVERY, Credential

ACCESS_KEY_PREFIX = "FBAK"
_ID_BYTES = 10
"""16 characters in base32."""
_SECRET_BYTES = 30
"""40 url-safe characters."""


@dataclass(frozen=True, slots=True)
class KeyPair:
    """An access key and what it allows (as in `Credential`)."""

    access_key_id: str
    secret_access_key: str
    scopes: tuple[str, ...] = ALL_SCOPES
    namespaces: tuple[str, ...] = (EVERY,)
    functions: tuple[str, ...] = (EVERY,)

    @property
    def api_key(self) -> str:
        """Both in one, for clients that send a key instead of signing."""
        return f"{self.access_key_id}.{self.secret_access_key}"

    @classmethod
    def new(cls, scopes: tuple[str, ...] = ALL_SCOPES) -> Self:
        """A pair that nobody has had before."""
        access_key_id = ACCESS_KEY_PREFIX + base64.b32encode(secrets.token_bytes(_ID_BYTES)).decode()
        return cls(access_key_id, secrets.token_urlsafe(_SECRET_BYTES), scopes)

    def credential(self, region: str, now_s: float) -> Credential:
        """What requests are checked by at a time, and some hours after."""
        return Credential.derive(
            self.access_key_id,
            self.secret_access_key,
            region=region,
            now_s=now_s,
            scopes=self.scopes,
            namespaces=self.namespaces,
            functions=self.functions,
        )

"""Links to code packages: who was given one may fetch that package for a while, with no other credential.

As S3's presigned URLs do for Lambda's GetFunction. Processes that serve each other's links share a key; else it
lives as long as the process.
"""

import hmac
import secrets
import time

PATH = "/v1/code"
VALID_S = 600


class CodeLinks:
    """Makes links and reads them back."""

    def __init__(self, key: bytes | None = None) -> None:
        self._key = secrets.token_bytes(32) if key is None else key

    def path(self, uid: str, sha256: str) -> str:
        """The path at which a package may be fetched for the next ten minutes."""
        expires_s = int(time.time()) + VALID_S
        return f"{PATH}/{uid}/{sha256}/{expires_s}/{self._signature(uid, sha256, expires_s)}"

    def allows(self, uid: str, sha256: str, expires_s: int, signature: str) -> bool:
        """Whether a path's parts are a link of ours that is still valid."""
        genuine = hmac.compare_digest(self._signature(uid, sha256, expires_s).encode(), signature.encode())
        return genuine and time.time() < expires_s

    def _signature(self, uid: str, sha256: str, expires_s: int) -> str:
        return hmac.digest(self._key, f"{uid}/{sha256}/{expires_s}".encode(), "sha256").hex()

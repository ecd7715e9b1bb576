"""Signatures on what is posted to users' URLs, as Standard Webhooks has them (standardwebhooks.com, version 1).

Each function has a secret of its own. It is derived from the platform's signing key and the function's uid, and stored
nowhere (docs/adr/0003-secrets-are-derived.md).
"""

import base64
import hmac
from collections.abc import Mapping

SECRET_PREFIX = "whsec_"  # noqa: S105 - what every such secret begins with
_PURPOSE = b"destinations"


def platform_signing_key(function_key: bytes) -> bytes:
    """The key that functions' signing secrets are derived from, out of the one key of an installation."""
    return hmac.digest(function_key, _PURPOSE, "sha256")


def signing_secret(signing_key: bytes, uid: str) -> bytes:
    """A function's secret, 32 bytes. A function that is deleted and made again has another one."""
    return hmac.digest(signing_key, uid.encode(), "sha256")


def secret_text(secret: bytes) -> str:
    """A secret as people and libraries take it: `whsec_` and base64."""
    return SECRET_PREFIX + base64.b64encode(secret).decode()


def signature_headers(secret: bytes, webhook_id: str, timestamp_s: int, body: bytes) -> Mapping[str, str]:
    """The three headers of one request, signed at `timestamp_s` (Unix)."""
    assert "." not in webhook_id  # it is what stands between the parts that are signed
    signed = b"%b.%d.%b" % (webhook_id.encode(), timestamp_s, body)
    signature = base64.b64encode(hmac.digest(secret, signed, "sha256")).decode()
    return {
        "webhook-id": webhook_id,
        "webhook-timestamp": str(timestamp_s),
        "webhook-signature": f"v1,{signature}",
    }

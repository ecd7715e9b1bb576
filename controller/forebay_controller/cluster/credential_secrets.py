"""Access keys in Secrets with the label `forebay.dev/credential: "true"` (pure).

Data: `accessKeyId` and `secretAccessKey`; optional `scopes` (`invoke,manage`), `namespaces` and `functions`, each `*`
or names with commas between them, in which `*` stands for any characters. What is not given allows everything.
"""

import base64
import binascii
import re
from collections.abc import Iterable, Mapping

from forebay_common.credentials import ALL_SCOPES, EVERY
from forebay_controller.cluster.access import ACCESS_KEY_PREFIX as FUNCTIONS_PREFIX
from forebay_controller.cluster.api import Object
from forebay_controller.key_pairs import KeyPair

LABEL = "forebay.dev/credential"
SELECTOR = f"{LABEL}=true"
_KEY_ID = re.compile(r"[A-Za-z0-9]{8,128}")
_SECRET_MIN_CHARS = 20
_PATTERN = re.compile(r"[A-Za-z0-9*._-]{1,256}")


class CredentialSecretError(Exception):
    """A Secret that is no access key; the message says why, and never what is in it."""


def key_pair_of(secret: Object) -> KeyPair:
    """The access key in a Secret. Raises CredentialSecretError."""
    data = secret.get("data") or {}
    access_key_id = _text(data, "accessKeyId")
    secret_access_key = _text(data, "secretAccessKey")
    # An API key is split at its first dot, and a signature's scope at slashes.
    if _KEY_ID.fullmatch(access_key_id) is None:
        raise CredentialSecretError("accessKeyId is 8 to 128 letters and digits")
    if access_key_id.startswith(FUNCTIONS_PREFIX):
        raise CredentialSecretError(f"accessKeyId begins with {FUNCTIONS_PREFIX}, as only functions' own do")
    if len(secret_access_key) < _SECRET_MIN_CHARS or not secret_access_key.isascii():
        raise CredentialSecretError(f"secretAccessKey is {_SECRET_MIN_CHARS} ASCII characters at least")
    scopes = _names(data, "scopes", ALL_SCOPES)
    unknown = set(scopes) - set(ALL_SCOPES)
    if unknown:
        raise CredentialSecretError(f"scopes are {' and '.join(ALL_SCOPES)}")
    return KeyPair(
        access_key_id,
        secret_access_key,
        scopes,
        _names(data, "namespaces", (EVERY,)),
        _names(data, "functions", (EVERY,)),
    )


def key_pairs(secrets: Iterable[Object]) -> tuple[dict[str, KeyPair], dict[str, str]]:
    """All access keys by id, and why the others are none, by their Secret's name.

    Of two with one id the older one counts: nobody takes over another's id.
    """
    found: dict[str, KeyPair] = {}
    problems: dict[str, str] = {}
    for secret in sorted(secrets, key=_age):
        name = secret["metadata"]["name"]
        try:
            pair = key_pair_of(secret)
        except CredentialSecretError as error:
            problems[name] = str(error)
            continue
        if pair.access_key_id in found:
            problems[name] = "another Secret has the same accessKeyId"
        else:
            found[pair.access_key_id] = pair
    return found, problems


def _age(secret: Object) -> tuple[str, str]:
    metadata = secret["metadata"]
    return metadata.get("creationTimestamp") or "", metadata["name"]


def _text(data: Mapping[str, str], name: str) -> str:
    try:
        return base64.b64decode(data.get(name) or "", validate=True).decode().strip()
    except (binascii.Error, UnicodeDecodeError) as error:
        raise CredentialSecretError(f"{name} is not text") from error


def _names(data: Mapping[str, str], name: str, default: tuple[str, ...]) -> tuple[str, ...]:
    """A list with commas; one that is there and empty allows nothing."""
    if name not in data:
        return default
    names = tuple(item.strip() for item in _text(data, name).split(",") if item.strip())
    for item in names:
        if _PATTERN.fullmatch(item) is None:
            raise CredentialSecretError(f"{name} has an entry that is no name")
    return names

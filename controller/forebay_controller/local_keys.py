"""The secrets of a platform on one machine, in files of the data dir.

Access keys, one for people and one for its functions; and the key that functions' signing secrets are derived from.
"""

import json
import secrets
from pathlib import Path
from typing import NamedTuple

from forebay_common.credentials import ALL_SCOPES, INVOKE
from forebay_controller.key_pairs import KeyPair

FILE = "keys.json"
SIGNING_FILE = "signing.key"
_SIGNING_BYTES = 32
_MODE = 0o600


class LocalKeys(NamedTuple):
    """`admin` may do everything; `functions` is what functions call each other with, and only invokes."""

    admin: KeyPair
    functions: KeyPair


def keys_of(data_dir: Path) -> LocalKeys:
    """The keys of a data dir, made at first need.

    Raises OSError when the file cannot be read or written, ValueError when it is not what was written.
    """
    file = data_dir / FILE
    if not file.exists():
        _write(file, LocalKeys(KeyPair.new(ALL_SCOPES), KeyPair.new((INVOKE,))))
    try:
        document = json.loads(file.read_bytes())
        return LocalKeys(_pair(document["admin"], ALL_SCOPES), _pair(document["functions"], (INVOKE,)))
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{file} does not hold access keys ({error!r}): remove it to have new ones made") from error


def signing_key_of(data_dir: Path) -> bytes:
    """The key that functions' signing secrets are derived from, made at first need.

    Raises OSError when the file cannot be read or written, ValueError when it is not what was written.
    """
    file = data_dir / SIGNING_FILE
    if not file.exists():
        _write_private(file, secrets.token_hex(_SIGNING_BYTES))
    try:
        key = bytes.fromhex(file.read_text("ascii"))
    except ValueError as error:
        raise ValueError(f"{file} does not hold a key: remove it to have a new one made") from error
    if len(key) != _SIGNING_BYTES:
        raise ValueError(f"{file} holds {len(key)} bytes, not {_SIGNING_BYTES}: remove it to have a new key made")
    return key


def _write(file: Path, keys: LocalKeys) -> None:
    document = {
        name: {"access_key_id": pair.access_key_id, "secret_access_key": pair.secret_access_key}
        for name, pair in keys._asdict().items()
    }
    _write_private(file, json.dumps(document, indent=1))


def _write_private(file: Path, text: str) -> None:
    """Write it whole or not at all, for the user alone."""
    unfinished = file.with_suffix(".new")
    unfinished.unlink(missing_ok=True)
    unfinished.touch(mode=_MODE, exist_ok=False)
    unfinished.write_text(text)
    unfinished.replace(file)


def _pair(document: dict[str, str], scopes: tuple[str, ...]) -> KeyPair:
    return KeyPair(document["access_key_id"], document["secret_access_key"], scopes)

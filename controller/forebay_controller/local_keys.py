"""The access keys of a platform on one machine: one for people, one for its functions, in a file of the data dir."""

import json
from pathlib import Path
from typing import NamedTuple

from forebay_common.credentials import ALL_SCOPES, INVOKE
from forebay_controller.key_pairs import KeyPair

FILE = "keys.json"
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


def _write(file: Path, keys: LocalKeys) -> None:
    """Write it whole or not at all, for the user alone."""
    document = {
        name: {"access_key_id": pair.access_key_id, "secret_access_key": pair.secret_access_key}
        for name, pair in keys._asdict().items()
    }
    unfinished = file.with_suffix(".new")
    unfinished.unlink(missing_ok=True)
    unfinished.touch(mode=_MODE, exist_ok=False)
    unfinished.write_text(json.dumps(document, indent=1))
    unfinished.replace(file)


def _pair(document: dict[str, str], scopes: tuple[str, ...]) -> KeyPair:
    return KeyPair(document["access_key_id"], document["secret_access_key"], scopes)

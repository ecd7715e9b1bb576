"""Which platform a command talks to, and with what: from the environment, else as `forebay login` kept it."""

from __future__ import annotations

import json
import os
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from forebay_cli import defaults
from forebay_cli.errors import UserError

_PRIVATE_FILE = 0o600
_PRIVATE_FOLDER = 0o700


class Connection(NamedTuple):
    """A platform's URL, the API key to show it ("" for none), and the namespace that is meant ("": its default)."""

    url: str
    api_key: str = ""
    namespace: str = ""


def credentials_file() -> Path:
    """`$XDG_CONFIG_HOME/forebay/credentials.json`, or the one below `~/.config`."""
    home = os.environ.get("XDG_CONFIG_HOME")
    return (Path(home) if home else Path.home() / ".config") / "forebay" / "credentials.json"


def current(namespace: str | None = None) -> Connection:
    """The connection to use now; `namespace` is the command's own option.

    `FOREBAY_ENDPOINT`, `FOREBAY_API_KEY` and `FOREBAY_NAMESPACE` each win over what login kept. A kept key is shown
    to the platform that it was kept for, and to no other. Raises UserError.
    """
    kept = read_kept()
    url = os.environ.get(defaults.ENDPOINT_VARIABLE)
    url = checked_url(url, defaults.ENDPOINT_VARIABLE) if url else (kept.url if kept else defaults.ENDPOINT)
    same = kept if kept is not None and kept.url == url else Connection(url)
    return Connection(
        url,
        os.environ.get(defaults.API_KEY_VARIABLE) or same.api_key,
        namespace or os.environ.get(defaults.NAMESPACE_VARIABLE) or same.namespace,
    )


def checked_url(url: str, where: str) -> str:
    """A platform's URL without a slash at its end. Raises UserError when it is none; `where` it was given."""
    if not url.startswith(("http://", "https://")):
        raise UserError(f"{where}={url!r} is no URL: write it as {defaults.ENDPOINT}")
    return url.rstrip("/")


def read_kept() -> Connection | None:
    """What login kept; None when nobody is logged in. Raises UserError when the file cannot be read."""
    file = credentials_file()
    try:
        document = json.loads(file.read_bytes())
        return Connection(str(document["endpoint"]), str(document["api_key"]), str(document.get("namespace", "")))
    except FileNotFoundError:
        return None
    except OSError as error:
        raise UserError(f"cannot read {file}: {error.strerror}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{file} is not what `forebay login` writes: log in again, or remove it") from error


def keep(connection: Connection) -> Path:
    """Keep a connection for the commands to come, for this user alone; gives the file. Raises UserError."""
    file = credentials_file()
    document = {"endpoint": connection.url, "api_key": connection.api_key, "namespace": connection.namespace}
    unfinished = file.with_suffix(".new")
    try:
        file.parent.mkdir(parents=True, exist_ok=True, mode=_PRIVATE_FOLDER)
        unfinished.unlink(missing_ok=True)
        unfinished.touch(mode=_PRIVATE_FILE, exist_ok=False)
        unfinished.write_text(json.dumps(document, indent=1) + "\n")
        unfinished.replace(file)
    except OSError as error:
        raise UserError(f"cannot write {file}: {error.strerror}") from error
    return file


def forget() -> str:
    """Forget what login kept; gives the URL that it was for, "" when nobody was logged in. Raises UserError."""
    url = ""
    with suppress(UserError):  # a file that cannot be read is removed all the same
        kept = read_kept()
        url = kept.url if kept else ""
    try:
        credentials_file().unlink()
    except FileNotFoundError:
        return ""
    except OSError as error:
        raise UserError(f"cannot remove {credentials_file()}: {error.strerror}") from error
    return url or "a platform"

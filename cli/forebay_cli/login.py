"""`forebay login` and `forebay logout`."""

from __future__ import annotations

import getpass
import sys
from urllib.parse import urlsplit

from forebay_cli import connection
from forebay_cli.client import Client, NotAllowedError
from forebay_cli.connection import Connection
from forebay_cli.errors import UserError
from forebay_cli.output import note


def login(url: str, api_key: str | None, namespace: str | None) -> None:
    """Check a key with the platform and keep both. Raises UserError when the platform does not take it."""
    wanted = Connection(connection.checked_url(url, "URL"), (api_key or ask_for_key()).strip(), namespace or "")
    if not wanted.api_key:
        raise UserError("an API key is needed: ACCESSKEYID.SECRETACCESSKEY, as the platform's admin gave it to you")
    if not is_private(wanted.url):
        note(f"note: {wanted.url} carries the key unencrypted; use https where others share the network")
    with Client(wanted) as client:
        try:
            client.functions()
        except NotAllowedError as error:
            # The key itself is right: it may be meant for calls alone, or for other namespaces.
            note(f"note: {error}")
    file = connection.keep(wanted)
    where = f", namespace {wanted.namespace}" if wanted.namespace else ""
    note(f"logged in at {wanted.url}{where}; {file} keeps it until `forebay logout`")


def is_private(url: str) -> bool:
    """Whether nobody between here and there can read what is sent: TLS, or this machine (a forwarded port)."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    return parts.scheme == "https" or host in {"localhost", "::1"} or host.startswith("127.")


def ask_for_key() -> str:
    """The key from the terminal, unseen, or from stdin."""
    if sys.stdin.isatty():
        return getpass.getpass("API key: ")
    return sys.stdin.readline()


def logout() -> None:
    """Forget the key."""
    url = connection.forget()
    note(f"logged out of {url}" if url else "nobody was logged in")

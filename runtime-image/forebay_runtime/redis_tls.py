"""TLS for a connection to Redis; imported only where it is asked for."""

from __future__ import annotations

import socket
import ssl

from forebay_runtime.loop import READ, WRITE

TYPE_CHECKING = False
if TYPE_CHECKING:
    import _socket


def handshake(raw: _socket.socket | ssl.SSLSocket, host: str) -> tuple[ssl.SSLSocket, int]:
    """Go on with the handshake; gives the wrapped socket and the event to wait for, 0 when it is done.

    The server's certificate must be signed by an authority of this machine (or of SSL_CERT_FILE) and name `host`.
    Raises OSError (ssl.SSLError) when it is refused.
    """
    if not isinstance(raw, ssl.SSLSocket):
        plain = socket.socket(fileno=raw.detach())
        plain.setblocking(False)
        raw = ssl.create_default_context().wrap_socket(plain, server_hostname=host, do_handshake_on_connect=False)
    try:
        raw.do_handshake()
    except ssl.SSLWantReadError:
        return raw, READ
    except ssl.SSLWantWriteError:
        return raw, WRITE
    return raw, 0

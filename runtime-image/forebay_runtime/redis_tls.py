"""TLS for connections to Redis; imported only where it is asked for."""

from __future__ import annotations

import socket
import ssl

from forebay_runtime.loop import READ, WRITE

TYPE_CHECKING = False
if TYPE_CHECKING:
    import _socket

    from forebay_runtime.settings import RedisCredentials


class Tls:
    """What the connections to Redis share: whom to believe."""

    def __init__(self, credentials: RedisCredentials) -> None:
        """The authorities are the credentials' (`ca`, `ca_file`), else this machine's (or SSL_CERT_FILE).

        Raises OSError (ssl.SSLError) when they cannot be read.
        """
        self._context = ssl.create_default_context(cafile=credentials.ca_file, cadata=credentials.ca)

    def handshake(self, raw: _socket.socket | ssl.SSLSocket, host: str) -> tuple[ssl.SSLSocket, int]:
        """Go on with the handshake with a server that must show itself as `host`.

        Gives the wrapped socket and the event to wait for, 0 when it is done.

        Raises OSError (ssl.SSLError) when the server's certificate is refused.
        """
        if not isinstance(raw, ssl.SSLSocket):
            plain = socket.socket(fileno=raw.detach())
            plain.setblocking(False)
            raw = self._context.wrap_socket(plain, server_hostname=host, do_handshake_on_connect=False)
        try:
            raw.do_handshake()
        except ssl.SSLWantReadError:
            return raw, READ
        except ssl.SSLWantWriteError:
            return raw, WRITE
        return raw, 0

"""Certificates for tests, made by openssl: an authority, and a server's that it signed."""

import ssl
import subprocess
from pathlib import Path


class Certificates:
    """Files in `folder`, and the texts and contexts that come from them. The server is `localhost`."""

    def __init__(self, folder: Path) -> None:
        self.ca = folder / "ca.pem"
        self._server = folder / "server.pem"
        self._key = folder / "server.key"
        ca_key = folder / "ca.key"
        request = folder / "server.csr"
        names = folder / "names"
        names.write_text("subjectAltName=DNS:localhost\nkeyUsage=digitalSignature\nextendedKeyUsage=serverAuth\n")
        key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")
        _openssl("req", "-x509", *key, "-subj", "/CN=test authority", "-days", "2", "-keyout", ca_key, "-out", self.ca)
        _openssl("req", *key, "-subj", "/CN=localhost", "-keyout", self._key, "-out", request)
        signed_by = ("-CA", self.ca, "-CAkey", ca_key, "-CAcreateserial", "-days", "2")
        _openssl("x509", "-req", "-in", request, *signed_by, "-extfile", names, "-out", self._server)

    def server_context(self) -> ssl.SSLContext:
        """What a server presents itself with."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self._server, self._key)
        return context


def _openssl(*arguments: str | Path) -> None:
    subprocess.run(["openssl", *map(str, arguments)], check=True, capture_output=True)

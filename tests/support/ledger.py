"""A ledger outside the platform: functions write each execution into it over HTTP on loopback."""

import threading
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Self


class Ledger:
    """Counts the paths it is asked for; `url` is where a function writes."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._entries: Counter[str] = Counter()
        ledger = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                ledger.add(self.path.lstrip("/"))
                self.send_response(204)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                """Stay quiet."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def add(self, entry: str) -> None:
        """Write one entry."""
        with self._lock:
            self._entries[entry] += 1

    def entries(self) -> Counter[str]:
        """What was written, and how often."""
        with self._lock:
            return Counter(self._entries)

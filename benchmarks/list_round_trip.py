"""The floor of latency: a bare Redis list round trip between two processes, on blocking sockets and hiredis.

`python -m benchmarks.list_round_trip work SOCKET` answers; `… ask SOCKET SECONDS` measures, prints the p50 in
microseconds.
"""

import socket
import statistics
import sys
import time

import hiredis

REQUESTS = b"bare:requests"
REPLIES = b"bare:replies"


class Link:
    """One blocking connection."""

    def __init__(self, path: str) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(20)
        self._socket.connect(path)
        self._reader = hiredis.Reader()

    def call(self, *arguments: bytes) -> object:
        """One command, one reply."""
        self._socket.sendall(
            b"".join((b"*%d\r\n" % len(arguments), *(b"$%d\r\n%b\r\n" % (len(part), part) for part in arguments)))
        )
        while (reply := self._reader.gets()) is False:
            self._reader.feed(self._socket.recv(65536))
        return reply


def work(path: str) -> None:
    """Send each request back; ends with its process."""
    link = Link(path)
    while True:
        item = link.call(b"BRPOP", REQUESTS, b"5")
        if isinstance(item, list):
            link.call(b"LPUSH", REPLIES, item[1])


def ask(path: str, seconds: float) -> float:
    """The p50 of a round trip in microseconds."""
    link = Link(path)
    latencies = []
    end = time.perf_counter() + seconds
    while (started := time.perf_counter()) < end:
        link.call(b"LPUSH", REQUESTS, b'{"hello": "world"}')
        link.call(b"BRPOP", REPLIES, b"5")
        latencies.append(time.perf_counter() - started)
    return statistics.median(latencies) * 1e6


if __name__ == "__main__":
    if sys.argv[1] == "work":
        work(sys.argv[2])
    else:
        print(ask(sys.argv[2], float(sys.argv[3])))

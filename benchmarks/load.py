"""A closed-loop HTTP load generator: `python -m benchmarks.load PORT PATH --connections N --seconds S`.

One process, one epoll loop, one fixed request per connection at a time, so that it costs little beside what it
measures. Loopback only. Prints one JSON object: requests, errors, seconds, and latencies in microseconds.
"""

import argparse
import json
import select
import socket
import statistics
import sys
import time

_RECEIVE_BYTES = 1 << 18


class Connection:
    """One keep-alive connection with one request in flight."""

    __slots__ = ("buffer", "sent_at", "socket")

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=10)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.buffer = b""
        self.sent_at = 0.0

    def send(self, request: bytes) -> None:
        """Start one request."""
        self.sent_at = time.perf_counter()
        self.socket.sendall(request)

    def receive(self) -> int:
        """Take in what has arrived; the status once a whole response is there, else 0."""
        data = self.socket.recv(_RECEIVE_BYTES)
        if not data:
            raise ConnectionError("the server closed the connection")
        self.buffer = buffer = self.buffer + data if self.buffer else data
        end = buffer.find(b"\r\n\r\n")
        if end < 0:
            return 0
        head = buffer[:end].lower()
        at = head.find(b"content-length:")
        length = int(head[at + 15 :].split(b"\r\n", 1)[0]) if at >= 0 else 0
        if len(buffer) < end + 4 + length:
            return 0
        self.buffer = b""
        return int(buffer[9:12])


def run(
    port: int, request: bytes, connections: int, seconds: float, requests_max: int, expect: int
) -> dict[str, float]:
    """Keep `connections` busy until the time or the number of requests is used up."""
    poll = select.epoll()
    open_connections = {}
    for _ in range(connections):
        connection = Connection(port)
        open_connections[connection.socket.fileno()] = connection
        poll.register(connection.socket, select.EPOLLIN)
    latencies: list[float] = []
    errors = 0
    sent = 0
    started = time.perf_counter()
    for connection in open_connections.values():
        connection.send(request)
        sent += 1
    in_flight = sent
    end = started + seconds
    while in_flight:
        for descriptor, _ in poll.poll(10):
            connection = open_connections[descriptor]
            status = connection.receive()
            if not status:
                continue
            now = time.perf_counter()
            latencies.append(now - connection.sent_at)
            errors += status != expect
            if now < end and sent < requests_max:
                connection.send(request)
                sent += 1
            else:
                in_flight -= 1
    took = time.perf_counter() - started
    cuts = statistics.quantiles(latencies, n=1000) if len(latencies) > 1 else latencies * 999
    return {
        "requests": len(latencies),
        "errors": errors,
        "seconds": took,
        "p50_us": cuts[499] * 1e6,
        "p90_us": cuts[899] * 1e6,
        "p99_us": cuts[989] * 1e6,
    }


def main() -> int:
    """Read the arguments, run, print the figures."""
    parser = argparse.ArgumentParser(description="Closed-loop HTTP load on loopback.")
    parser.add_argument("port", type=int)
    parser.add_argument("path")
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--requests", type=int, default=10_000_000)
    parser.add_argument("--body", default='{"hello": "world"}')
    parser.add_argument("--header", action="append", default=[])
    parser.add_argument("--expect", type=int, default=200)
    arguments = parser.parse_args()
    body = arguments.body.encode()
    lines = [
        f"POST {arguments.path} HTTP/1.1",
        f"Host: 127.0.0.1:{arguments.port}",
        "Authorization: benchmark",
        f"Content-Length: {len(body)}",
        *arguments.header,
        "",
        "",
    ]
    request = "\r\n".join(lines).encode() + body
    figures = run(
        arguments.port, request, arguments.connections, arguments.seconds, arguments.requests, arguments.expect
    )
    json.dump(figures, sys.stdout)
    return 0


if __name__ == "__main__":
    sys.exit(main())

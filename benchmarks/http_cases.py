"""The benchmarks of calls over HTTP beyond the plain echo: tails, large bodies, neighbours, other ways to call."""

import http.client
import json
import random
import string
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Self

from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from benchmarks.figures import Figure, judge, rotated_rounds, spread
from benchmarks.stage import NO_OP, Stage, Tree, load, open_stage, wait_until

ROUNDS = 5
ROUND_S = 2
ECHO_PATH = "/2015-03-31/functions/echo/invocations"
LARGE_BYTES = 5 * 1024 * 1024
RANDOM_BYTES = 256
SIGNED_REQUESTS = 4_000
EVENT = "X-Amz-Invocation-Type: Event"

_SLEEP = "import time\ndef handler(event, context):\n    time.sleep({sleep_s})\n    return event\n"
_WEB = "def handler(event, context):\n    return {'statusCode': 200, 'body': event.get('body', '')}\n"


def _per_second(figures: dict[str, float]) -> float:
    return figures["requests"] / figures["seconds"]


def _ratios(results: dict[str, list[dict[str, float]]], ours: str, floor: str) -> tuple[list[float], float]:
    """Requests per second of `ours` over those of `floor`, round by round, and the floor's spread."""
    floors = [_per_second(figures) for figures in results[floor]]
    return [_per_second(found) / each for found, each in zip(results[ours], floors, strict=True)], spread(floors)


def open_loop(port: int, path: str, per_second: float, seconds: float) -> dict[str, float]:
    """Calls at a rate; see `benchmarks.open_loop`. Raises RuntimeError when one failed."""
    command = [sys.executable, "-m", "benchmarks.open_loop", str(port), path, str(per_second), str(seconds)]
    figures: dict[str, float] = json.loads(subprocess.run(command, capture_output=True, check=True, timeout=120).stdout)
    if figures["errors"]:
        raise RuntimeError(f"{figures['errors']:.0f} of {figures['requests']:.0f} calls failed")
    return figures


def sync_throughput_random(stage: Stage) -> list[Figure]:
    """As `sync_throughput`, with bodies of 256 random letters that all differ."""
    results = rotated_rounds(
        ROUNDS,
        {
            "hello": lambda: load(stage.hello_port, "/", seconds=ROUND_S, random_bytes=RANDOM_BYTES),
            "forebay": lambda: load(stage.port, ECHO_PATH, seconds=ROUND_S, random_bytes=RANDOM_BYTES),
        },
    )
    ratios, floor_spread = _ratios(results, "forebay", "hello")
    return [judge("sync_throughput_random", ratios, "x hello", ">= 0.50", floor_spread=floor_spread)]


def sync_throughput_sleep(stage: Stage) -> list[Figure]:
    """As `sync_throughput`, with a handler that sleeps a millisecond, in 32 processes; hello does so on its loop."""
    path = "/2015-03-31/functions/sleeping/invocations"
    stage.deploy("sleeping", _SLEEP.format(sleep_s=0.001), {"concurrency": 32, "max_instances": 8})
    load(stage.port, path, seconds=3)
    results = rotated_rounds(
        ROUNDS,
        {
            "hello": lambda: load(stage.hello_port, "/sleep", seconds=ROUND_S),
            "forebay": lambda: load(stage.port, path, seconds=ROUND_S),
        },
    )
    stage.call("DELETE", "/v1/functions/sleeping")
    ratios, floor_spread = _ratios(results, "forebay", "hello")
    return [judge("sync_throughput_sleep", ratios, "x hello", ">= 0.50", floor_spread=floor_spread)]


def tail(stage: Stage) -> list[Figure]:
    """p99 over p50: at 16 connections that wait for their answers, and of calls that come at half the capacity.

    `tail_hello` is hello's at 16 connections: what the machine itself adds.
    """
    load(stage.port, ECHO_PATH, seconds=1)
    closed = [load(stage.port, ECHO_PATH, seconds=ROUND_S, connections=16) for _ in range(ROUNDS)]
    hello = [load(stage.hello_port, "/", seconds=ROUND_S, connections=16) for _ in range(ROUNDS)]
    capacity = max(map(_per_second, closed))
    opened = [open_loop(stage.port, ECHO_PATH, capacity / 2, ROUND_S) for _ in range(ROUNDS)]
    return [
        judge("tail", [found["p99_us"] / found["p50_us"] for found in closed], "x p50", "<= 2.5"),
        judge("tail_hello", [found["p99_us"] / found["p50_us"] for found in hello], "x p50", ""),
        judge("tail_open", [found["p99_us"] / found["p50_us"] for found in opened], "x p50", "<= 2.5"),
    ]


def payloads(stage: Stage) -> list[Figure]:
    """CPU seconds of gateway, Redis, runtime and handlers for a call with a large body, over hello's for the same."""
    figures = []
    for name, body_bytes, connections in (("payload_64k", 64 * 1024, 16), ("payload_5m", LARGE_BYTES, 2)):

        def cost(
            trees: list[Tree], port: int, path: str, *, body_bytes: int = body_bytes, connections: int = connections
        ) -> Callable[[], float]:
            def measure() -> float:
                before = sum(tree.cpu_s() for tree in trees)
                done = load(port, path, seconds=ROUND_S, connections=connections, body_bytes=body_bytes)
                return (sum(tree.cpu_s() for tree in trees) - before) / done["requests"]

            return measure

        ours = cost([stage.platform, stage.valkey], stage.port, ECHO_PATH)
        ours()
        results = rotated_rounds(ROUNDS, {"hello": cost([stage.hello], stage.hello_port, "/"), "forebay": ours})
        ratios = [own / floor for own, floor in zip(results["forebay"], results["hello"], strict=True)]
        figures.append(judge(name, ratios, "x hello", "<= 4", floor_spread=spread(results["hello"])))
    return figures


class _LargeCalls(threading.Thread):
    """A call of 5 MB each 100 ms, as long as a block lasts."""

    def __init__(self, stage: Stage) -> None:
        super().__init__(daemon=True)
        self._stage = stage
        self._over = threading.Event()
        self.answered = 0

    def run(self) -> None:
        body = b'"' + b"x" * (LARGE_BYTES - 2) + b'"'
        connection = http.client.HTTPConnection("127.0.0.1", self._stage.port, timeout=60)
        while not self._over.wait(0.1):
            connection.request("POST", "/2015-03-31/functions/large/invocations", body, {"Authorization": "benchmark"})
            self.answered += len(connection.getresponse().read()) == len(body)
        connection.close()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self.join()


def mixed(stage: Stage) -> list[Figure]:
    """p99 of small calls while one of 5 MB to another function comes each 100 ms, over their p99 without it."""
    stage.deploy("large", "def handler(event, context):\n    return event\n")
    stage.invoke("large")

    def with_large() -> float:
        with _LargeCalls(stage) as large:
            found = load(stage.port, ECHO_PATH, seconds=ROUND_S, connections=16)["p99_us"]
        if not large.answered:
            raise RuntimeError("no large call was answered")
        return found

    results = rotated_rounds(
        ROUNDS,
        {
            "alone": lambda: load(stage.port, ECHO_PATH, seconds=ROUND_S, connections=16)["p99_us"],
            "mixed": with_large,
        },
    )
    ratios = [beside / alone for beside, alone in zip(results["mixed"], results["alone"], strict=True)]
    return [judge("mixed", ratios, "x alone", "<= 1.5", floor_spread=spread(results["alone"]))]


def noisy_neighbour(stage: Stage) -> list[Figure]:
    """p99 of a function at 200 calls a second while another is called at ten times its capacity, over its p99 alone.

    The other's handler sleeps 20 ms, in two instances; its callers wait and are refused, as they should be.
    """
    path = "/2015-03-31/functions/noisy/invocations"
    stage.deploy("noisy", _SLEEP.format(sleep_s=0.02), {"max_instances": 2})
    stage.invoke("noisy")
    flood = [sys.executable, "-m", "benchmarks.open_loop", str(stage.port), path, "1000", str(ROUND_S + 1)]

    def beside() -> float:
        with subprocess.Popen(flood, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as flooding:
            try:
                return open_loop(stage.port, ECHO_PATH, 200, ROUND_S)["p99_us"]
            finally:
                flooding.kill()
                flooding.wait()
                wait_until(lambda: stage.status("noisy")["in_flight"] == 0, 60, "the flood's end")

    results = rotated_rounds(
        ROUNDS, {"alone": lambda: open_loop(stage.port, ECHO_PATH, 200, ROUND_S)["p99_us"], "beside": beside}
    )
    stage.call("DELETE", "/v1/functions/noisy")
    ratios = [found / alone for found, alone in zip(results["beside"], results["alone"], strict=True)]
    return [judge("noisy_neighbour", ratios, "x alone", "<= 1.5", floor_spread=spread(results["alone"]))]


def fn_route(stage: Stage) -> list[Figure]:
    """Requests per second over the HTTP route (payload format 2.0 both ways), over Invoke's of the same function."""
    stage.deploy("web", _WEB)
    invoke = "/2015-03-31/functions/web/invocations"
    load(stage.port, invoke, seconds=1)
    results = rotated_rounds(
        ROUNDS,
        {
            "invoke": lambda: load(stage.port, invoke, seconds=ROUND_S),
            "route": lambda: load(stage.port, "/fn/web", seconds=ROUND_S),
        },
    )
    ratios, floor_spread = _ratios(results, "route", "invoke")
    return [judge("fn_route", ratios, "x Invoke", ">= 0.6", floor_spread=floor_spread)]


def auth(stage: Stage) -> list[Figure]:
    """Requests per second of signed calls, over unsigned ones with the same bodies of a platform without keys.

    4,000 requests are signed before the rounds and sent in turn: a signature is good for five minutes, and is checked
    anew each time.
    """
    with open_stage(auth=True) as closed, tempfile.TemporaryDirectory(prefix="fbb-") as folder:
        unsigned = _requests_of(Path(folder), stage, signed=False)
        signed = _requests_of(Path(folder), closed, signed=True)
        load(closed.port, ECHO_PATH, seconds=2, requests=signed)
        results = rotated_rounds(
            ROUNDS,
            {
                "unsigned": lambda: load(stage.port, ECHO_PATH, seconds=ROUND_S, requests=unsigned),
                "signed": lambda: load(closed.port, ECHO_PATH, seconds=ROUND_S, requests=signed),
            },
        )
    ratios, floor_spread = _ratios(results, "signed", "unsigned")
    return [judge("auth", ratios, "x unsigned", ">= 0.8", floor_spread=floor_spread)]


def _requests_of(folder: Path, stage: Stage, *, signed: bool) -> Path:
    """A file of requests for `wrk.lua`, each with a body of its own."""
    found = []
    for number in range(SIGNED_REQUESTS):
        body = b'{"number": "%06d"}' % number
        request = AWSRequest("POST", f"http://127.0.0.1:{stage.port}{ECHO_PATH}", data=body)
        request.headers["Host"] = f"127.0.0.1:{stage.port}"
        if signed:
            SigV4Auth(Credentials(*stage.key_pair), "lambda", "us-east-1").add_auth(request)
        else:
            request.headers["Authorization"] = "benchmark"
        lines = "".join(f"{name}: {value}\r\n" for name, value in request.headers.items())
        head = f"POST {ECHO_PATH} HTTP/1.1\r\n{lines}Content-Length: {len(body)}\r\n\r\n".encode()
        found.append(b"%d\n%b%b" % (len(head) + len(body), head, body))
    file = folder / f"requests-{stage.port}"
    file.write_bytes(b"".join(found))
    return file


def async_accept_fsync(stage: Stage) -> list[Figure]:
    """202 answers per second with each event on the disk before it is accepted, over those with `process`."""
    name = "sink-" + "".join(random.choices(string.ascii_lowercase, k=6))
    path = f"/2015-03-31/functions/{name}/invocations"
    with open_stage(fsync=True) as safe:
        for each in (stage, safe):
            each.deploy(name, NO_OP)
        results = rotated_rounds(
            ROUNDS,
            {
                "process": lambda: load(stage.port, path, seconds=1, header=EVENT),
                "fsync": lambda: load(safe.port, path, seconds=1, header=EVENT),
            },
        )
    ratios, floor_spread = _ratios(results, "fsync", "process")
    return [judge("async_accept_fsync", ratios, "x async_accept", ">= 0.4", floor_spread=floor_spread)]

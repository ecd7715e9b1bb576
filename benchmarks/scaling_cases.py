"""The benchmarks of more of something: gateways, and functions that nobody calls."""

import contextlib
import http.client
import statistics
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from benchmarks.figures import Figure, judge, rotated_rounds, spread
from benchmarks.stage import NO_OP, Stage, function_document, load, open_stage, wait_until

ROUNDS = 5
ROUND_S = 2
FUNCTIONS = 10_000
ACTIVE = 50
CALLS_A_SECOND = 50
CALLING_THREADS = 10
"""So many that one whose function is being started does not hold up the rest."""
CREATING_THREADS = 8
WINDOWS = 4
WINDOW_S = 5
_CREATED = (200, 201)
_ECHO_PATH = "/2015-03-31/functions/echo/invocations"


def gateway_scaling(stage: Stage) -> list[Figure]:
    """CPU seconds of the platform and Redis for a request with two gateways, over those with one.

    64 connections to the one, or 32 to each; the second gateway is idle meanwhile, and all of its CPU counts.
    """
    with stage.another_gateway() as (second, port), ThreadPoolExecutor(2) as pool:
        trees = [stage.platform, stage.valkey, second]

        def cost(*ports: int) -> float:
            before_s = sum(tree.cpu_s() for tree in trees)
            share = 64 // len(ports)
            loads = [pool.submit(load, to, _ECHO_PATH, seconds=ROUND_S, connections=share) for to in ports]
            requests = sum(each.result()["requests"] for each in loads)
            return (sum(tree.cpu_s() for tree in trees) - before_s) / requests

        cost(stage.port, port)
        results = rotated_rounds(ROUNDS, {"one": lambda: cost(stage.port), "two": lambda: cost(stage.port, port)})
    ratios = [two / one for two, one in zip(results["two"], results["one"], strict=True)]
    return [judge("gateway_scaling", ratios, "x one gateway", "<= 1.15", floor_spread=spread(results["one"]))]


def many_functions(_: Stage) -> list[Figure]:
    """CPU seconds of the controller, and of the gateway, with 10,000 functions over those with 50.

    50 functions are called, each once a second, before and after the others are there. On a stage of its own: the
    others would be in the way of whatever is measured next.
    """
    with open_stage() as stage:
        names = [f"active-{number}" for number in range(ACTIVE)]
        create_many(stage.port, names, NO_OP)
        wait_until(lambda: all(map(stage.active, names)), 30, "activating the functions that are called")
        parts = {"": stage.part("forebay_controller"), "_gateway": stage.part("forebay_gateway")}
        with _called(stage, names):
            wait_until(lambda: all(stage.status(name)["instances"]["idle"] for name in names), 90, "starting them")
            few = _windows(parts)
            others = [f"other-{number}" for number in range(FUNCTIONS - ACTIVE)]
            create_many(stage.port, others, NO_OP)
            wait_until(lambda: stage.active(others[-1]), 60, "activating the others")
            many = _windows(parts)
    return [
        judge(
            f"many_functions{part}",
            [statistics.median(many[part]) / statistics.median(few[part])],
            "x 50 functions",
            "<= 1.5",
            floor_spread=spread(few[part]),
        )
        for part in parts
    ]


def _windows(parts: dict[str, int]) -> dict[str, list[float]]:
    """CPU seconds of some processes in each of a few windows of time, after one that does not count."""
    found: dict[str, list[float]] = {name: [] for name in parts}
    for number in range(WINDOWS + 1):
        before_s = {name: _cpu_s(pid) for name, pid in parts.items()}
        time.sleep(WINDOW_S)
        for name, pid in parts.items():
            if number:
                found[name].append(_cpu_s(pid) - before_s[name])
    return found


def _cpu_s(pid: int) -> float:
    """CPU seconds of a process's threads, to the nanosecond: in a window there are a few hundredths of them."""
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) / 1e9


@contextlib.contextmanager
def _called(stage: Stage, names: list[str]) -> Iterator[None]:
    """Call functions in turn, so many times a second, for the length of a block. Raises what a call raised."""
    over = threading.Event()

    def call(own: list[str]) -> None:
        due = time.monotonic()
        while True:
            for name in own:
                stage.invoke(name)
                due = max(due + CALLING_THREADS / CALLS_A_SECOND, time.monotonic() - 1)
                if over.wait(max(due - time.monotonic(), 0)):
                    return

    with ThreadPoolExecutor(CALLING_THREADS) as pool:
        calling = [pool.submit(call, names[index::CALLING_THREADS]) for index in range(CALLING_THREADS)]
        try:
            yield
        finally:
            over.set()
        for each in calling:
            each.result()


def create_many(port: int, names: Sequence[str], source: str) -> None:
    """Create functions of one file, a few at a time. Raises RuntimeError when one is refused."""
    document = function_document(source)

    def create(own: Sequence[str]) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        for name in own:
            connection.request("PUT", f"/v1/functions/{name}", document, {"Authorization": "benchmark"})
            answer = connection.getresponse()
            body = answer.read()
            if answer.status not in _CREATED:
                raise RuntimeError(f"creating {name} gave {answer.status}: {body!r}")
        connection.close()

    with ThreadPoolExecutor(CREATING_THREADS) as pool:
        shares = [names[index::CREATING_THREADS] for index in range(CREATING_THREADS)]
        for each in [pool.submit(create, share) for share in shares]:
            each.result()

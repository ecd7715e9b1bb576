"""The benchmarks. Each takes the stage and returns its figures; targets are those of docs/performance.md."""

import json
import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

from benchmarks.delivery_cases import EVENT, delayed_100k, recovery_delay
from benchmarks.figures import Figure, judge, rotated_rounds, spread
from benchmarks.http_cases import (
    async_accept_fsync,
    auth,
    fn_route,
    mixed,
    noisy_neighbour,
    payloads,
    sync_throughput_random,
    sync_throughput_sleep,
    tail,
)
from benchmarks.posting import post
from benchmarks.process_cases import handler_replace, waiting_callers
from benchmarks.queue_cases import depth
from benchmarks.scaling_cases import gateway_scaling, many_functions
from benchmarks.stage import NO_OP, SMALL_BODY, Stage, Tree, load, wait_until
from benchmarks.start_cases import runtime_start

ROUNDS = 5
ROUND_S = 2
DRAIN_EVENTS = 100_000
FILL_S = 2
HUEY_EVENTS = 4_000
COLD_STARTS = 9
IDLE_S = 3
ECHO_PATH = "/2015-03-31/functions/echo/invocations"


def _rate(port: int, path: str, header: str = "") -> Callable[[], dict[str, float]]:
    return lambda: load(port, path, seconds=ROUND_S, header=header)


def _per_second(figures: dict[str, float]) -> float:
    return figures["requests"] / figures["seconds"]


def check_bodies(stage: Stage) -> None:
    """200 distinct bodies come back as they were sent. Raises RuntimeError."""
    for number in range(200):
        body = json.dumps({"number": number, "text": "x" * number}).encode()
        if json.loads(stage.invoke("echo", body)) != json.loads(body):
            raise RuntimeError(f"body {number} came back changed")


def sync_throughput(stage: Stage) -> list[Figure]:
    """Requests per second of an echo at 64 connections, over hello's."""
    check_bodies(stage)
    contenders = {
        "hello": _rate(stage.hello_port, "/"),
        "naive": _rate(stage.naive_port, "/"),
        "forebay": _rate(stage.port, ECHO_PATH),
    }
    for warm in contenders.values():
        warm()
    results = rotated_rounds(ROUNDS, contenders)
    hello = [_per_second(figures) for figures in results["hello"]]
    ours = [_per_second(figures) / floor for figures, floor in zip(results["forebay"], hello, strict=True)]
    naive = [_per_second(figures) / floor for figures, floor in zip(results["naive"], hello, strict=True)]
    return [
        judge("sync_throughput", ours, "x hello", ">= 0.50", floor_spread=spread(hello)),
        judge("sync_throughput_naive", naive, "x hello", "", floor_spread=spread(hello)),
    ]


def cpu_per_request(stage: Stage) -> list[Figure]:
    """CPU seconds of gateway, Redis, runtime and handlers for a request at 64 connections, over hello's."""

    def cost(trees: list[Tree], port: int, path: str) -> Callable[[], float]:
        def measure() -> float:
            before = sum(tree.cpu_s() for tree in trees)
            requests = load(port, path, seconds=ROUND_S)["requests"]
            return (sum(tree.cpu_s() for tree in trees) - before) / requests

        return measure

    load(stage.port, ECHO_PATH, seconds=1)
    results = rotated_rounds(
        ROUNDS,
        {
            "hello": cost([stage.hello], stage.hello_port, "/"),
            "forebay": cost([stage.platform, stage.valkey], stage.port, ECHO_PATH),
        },
    )
    ratios = [ours / hello for ours, hello in zip(results["forebay"], results["hello"], strict=True)]
    return [judge("cpu_per_request", ratios, "x hello", "<= 2.8", floor_spread=spread(results["hello"]))]


def sync_latency(stage: Stage) -> list[Figure]:
    """p50 at one connection, over the p50 of a bare Redis list round trip between two processes."""
    stage.module("list_round_trip", "work", stage.socket)

    def bare() -> float:
        command = [sys.executable, "-m", "benchmarks.list_round_trip", "ask", stage.socket, str(ROUND_S)]
        return float(subprocess.run(command, capture_output=True, check=True, timeout=60).stdout)

    results = rotated_rounds(
        ROUNDS,
        {
            "bare": bare,
            "forebay": lambda: load(stage.port, ECHO_PATH, seconds=ROUND_S, connections=1)["p50_us"],
        },
    )
    ratios = [ours / floor for ours, floor in zip(results["forebay"], results["bare"], strict=True)]
    return [judge("sync_latency", ratios, "x list round trip", "<= 2.2", floor_spread=spread(results["bare"]))]


def redis_commands(stage: Stage) -> list[Figure]:
    """Redis commands for a request, at 1 and at 64 connections, without those that come with the time (heartbeats)."""
    figures = []
    idle = stage.commands()
    time.sleep(IDLE_S)
    idle_per_s = (stage.commands() - idle) / IDLE_S
    for connections, target in ((1, "<= 6"), (64, "<= 2")):
        counts = []
        for _ in range(3):
            before = stage.commands()
            done = load(stage.port, ECHO_PATH, seconds=1, connections=connections)
            count = (stage.commands() - before - idle_per_s * done["seconds"]) / done["requests"]
            # What is smaller comes with the time: an instance with work has a few more heartbeats than an idle one.
            counts.append(round(count, 2))
        figures.append(judge(f"redis_commands_{connections}", counts, "a request", target, timed=False))
    return figures


def async_accept(stage: Stage) -> list[Figure]:
    """202 answers per second at 64 connections, over hello's requests per second."""
    stage.deploy("sink", NO_OP)
    path = "/2015-03-31/functions/sink/invocations"
    results = rotated_rounds(ROUNDS, {"hello": _rate(stage.hello_port, "/"), "forebay": _rate(stage.port, path, EVENT)})
    hello = [_per_second(figures) for figures in results["hello"]]
    ratios = [_per_second(ours) / floor for ours, floor in zip(results["forebay"], hello, strict=True)]
    wait_until(lambda: _settled(stage, "sink"), 60, "draining the accepted events")
    return [judge("async_accept", ratios, "x hello", ">= 0.55", floor_spread=spread(hello))]


def drain(stage: Stage) -> list[Figure]:
    """100,000 queued no-op events finished per second, over Huey's tasks on the same Redis; and what one takes there.

    The controller is paused while the events are accepted, so that the queue is full before an instance starts;
    the cold start is part of the figure.
    """
    stage.deploy("no-op", NO_OP)
    path = "/2015-03-31/functions/no-op/invocations"
    key = stage.queue("no-op").async_
    with stage.paused_controller():
        before = stage.used_memory()
        # Most of them by many connections, the rest one by one: a queue takes no more than these.
        load(stage.port, path, seconds=FILL_S, header=EVENT)
        post(stage.port, path, max(0, DRAIN_EVENTS - stage.redis.xlen(key)), EVENT)
        queued = stage.redis.xlen(key)
        bytes_per_job = (stage.used_memory() - before) / queued - len(SMALL_BODY)
    started = time.perf_counter()
    wait_until(lambda: stage.redis.xlen(key) == 0, 120, "draining")
    ours = queued / (time.perf_counter() - started)
    return [
        judge("drain", [ours / _huey_rate(stage)], "x Huey", ">= 10"),
        judge("bytes_per_job", [bytes_per_job], "bytes", "<= 150", timed=False),
    ]


def _huey_rate(stage: Stage) -> float:
    """No-op tasks per second of a Huey consumer with a process for each of two cores."""
    environment = {**os.environ, "HUEY_SOCKET": stage.socket}
    fill = [sys.executable, "-c", f"from benchmarks.huey_tasks import fill; fill({HUEY_EVENTS})"]
    subprocess.run(fill, check=True, timeout=60, env=environment)
    started = time.perf_counter()
    consumer = stage.spawn(
        *(sys.executable, "-m", "huey.bin.huey_consumer", "benchmarks.huey_tasks.huey"),
        *("-k", "process", "-w", "2"),
        environment=environment,
    )
    wait_until(lambda: int(stage.redis.get("huey:done") or 0) >= HUEY_EVENTS, 120, "draining Huey's queue")
    took = time.perf_counter() - started
    consumer.stop(signal.SIGINT)
    return HUEY_EVENTS / took


def cold_start(stage: Stage) -> list[Figure]:
    """First call of a function without any instance: started from nothing, handler imported, answered."""
    took_ms, floors_ms = [], []
    for number in range(COLD_STARTS):
        name = f"cold-{number}"
        stage.deploy(name, NO_OP)
        started = time.perf_counter()
        stage.invoke(name)
        took_ms.append((time.perf_counter() - started) * 1000)
        started = time.perf_counter()
        subprocess.run([sys.executable, "-c", "pass"], check=True)
        floors_ms.append((time.perf_counter() - started) * 1000)
        stage.call("DELETE", f"/v1/functions/{name}")
    ratio = statistics.median(took_ms) / statistics.median(floors_ms)
    return [
        judge("cold_start", took_ms, "ms", "<= 400"),
        judge("cold_start_ratio", [ratio], "x python -c pass", ""),
    ]


def _settled(stage: Stage, name: str) -> bool:
    status = stage.status(name)
    return bool(status["queued"] == 0 and status["in_flight"] == 0)


CASES: dict[str, Callable[[Stage], list[Figure]]] = {
    "sync_throughput": sync_throughput,
    "sync_throughput_random": sync_throughput_random,
    "sync_throughput_sleep": sync_throughput_sleep,
    "cpu_per_request": cpu_per_request,
    "sync_latency": sync_latency,
    "tail": tail,
    "redis_commands": redis_commands,
    "payloads": payloads,
    "mixed": mixed,
    "noisy_neighbour": noisy_neighbour,
    "fn_route": fn_route,
    "auth": auth,
    "async_accept": async_accept,
    "async_accept_fsync": async_accept_fsync,
    "drain": drain,
    "depth": depth,
    "gateway_scaling": gateway_scaling,
    "many_functions": many_functions,
    "runtime_start": runtime_start,
    "handler_replace": handler_replace,
    "waiting_callers": waiting_callers,
    "cold_start": cold_start,
    "recovery_delay": recovery_delay,
    "delayed_100k": delayed_100k,
}

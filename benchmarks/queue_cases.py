"""The benchmark of a long queue: what an event costs in CPU where a million wait."""

import socket
import time
from typing import Any, Self

import hiredis

from benchmarks.figures import Figure, judge, spread
from benchmarks.stage import NO_OP, Stage, wait_until
from forebay_common.limits import ASYNC_AGE_MAX_S, TIMEOUT_DEFAULT_S
from forebay_common.names import id_prefix
from forebay_common.record import KIND_ASYNC, Invocation
from forebay_common.scripts import ACCEPT_ASYNC
from forebay_gateway.identifiers import RandomSource

DEPTH = 1_000_000
DEPTH_ROUNDS = 3
"""With none, before the queue is full and again after; twice as many with it full."""
DEPTH_ROUND_EVENTS = 15_000
DEPTH_ROUND_MAX_S = 30
KEPT = 1_000
"""Events that wait where none do: enough that the instance never has to wait for the benchmark."""
WRITE_BATCH = 1_000
LOOK_S = 0.01
ONE_INSTANCE = {"min_instances": 1, "max_instances": 1}


def depth(stage: Stage) -> list[Figure]:
    """CPU seconds of the platform and Redis for an event, with 1,000,000 queued over with none.

    A function's queue takes 100,000 through a gateway, which no setting of `forebay up` raises. So the events are
    written as a gateway writes them: the product's record by the product's script, in pipelines. Each round keeps the
    queue as long as it was, in the same way at either length, and the writer's own CPU does not count. Half of the
    rounds with none queued lie before the others and half after, since filling a queue for each would take minutes.
    """
    before = _cost(stage, "depth-before", 0, DEPTH_ROUNDS)
    full = _cost(stage, "depth-full", DEPTH, 2 * DEPTH_ROUNDS)
    none = before + _cost(stage, "depth-after", 0, DEPTH_ROUNDS)
    ratios = [ours / floor for ours, floor in zip(full, none, strict=True)]
    return [judge("depth", ratios, "x none queued", "<= 1.15", floor_spread=spread(none))]


def _cost(stage: Stage, name: str, queued: int, rounds: int) -> list[float]:
    """CPU seconds for an event in each of some rounds, with so many queued for a function of its own."""
    stage.deploy(name, NO_OP, ONE_INSTANCE)
    with _Writer(stage, name) as writer:
        if queued:
            with stage.paused_controller():
                writer.write(queued)
            wait_until(lambda: not stage.redis.info("persistence")["aof_rewrite_in_progress"], 60, "rewriting the file")
        wait_until(lambda: bool(stage.runtimes(name)), 60, "starting an instance")
        writer.write(queued - writer.length())
        _keep(stage, writer)
        found = [_keep(stage, writer) for _ in range(rounds)]
    stage.call("DELETE", f"/v1/functions/{name}")
    wait_until(lambda: not stage.runtimes(name), 60, "ending its instance")
    return found


def _keep(stage: Stage, writer: "_Writer") -> float:
    """Keep a queue as long as it is while events are finished; gives the CPU seconds for each. Raises TimeoutError."""
    length = writer.length()
    wanted = max(length, KEPT)
    before_s = stage.platform.cpu_s() + stage.valkey.cpu_s()
    deadline = time.monotonic() + DEPTH_ROUND_MAX_S
    written = 0
    while (finished := length + written - writer.length()) < DEPTH_ROUND_EVENTS:
        if time.monotonic() > deadline:
            raise TimeoutError(f"only {finished} events were finished in {DEPTH_ROUND_MAX_S} s")
        written += writer.write(wanted - writer.length())
        time.sleep(LOOK_S)
    return (stage.platform.cpu_s() + stage.valkey.cpu_s() - before_s) / finished


class _Writer:
    """Writes events into one function's queue as a gateway does, in pipelines on a connection of its own."""

    def __init__(self, stage: Stage, name: str) -> None:
        self._redis = stage.redis
        self._queue = stage.queue(name)
        self._prefix = id_prefix(self._queue.keys.base.rpartition("/")[2].removesuffix("}"))
        self._random = RandomSource()
        self._reader = hiredis.Reader()
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(20)
        self._socket.connect(stage.socket)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def length(self) -> int:
        """How many events are queued or run."""
        return int(self._redis.xlen(self._queue.async_))

    def write(self, count: int) -> int:
        """Have so many more accepted; gives how many. Raises RuntimeError when one is not."""
        sent = accepted = 0
        while accepted < count:
            # One batch is under way while the next one is made, so that Redis need not wait for us.
            while sent < count and sent - accepted <= WRITE_BATCH:
                batch = min(WRITE_BATCH, count - sent)
                self._socket.sendall(b"".join(self._acceptance() for _ in range(batch)))
                sent += batch
            self._reader.feed(self._socket.recv(65_536))
            while (answer := self._reader.gets()) is not False:
                if not isinstance(answer, list) or answer[0] != 0:
                    raise RuntimeError(f"an event was not accepted: {answer!r}")
                accepted += 1
        return accepted

    def _acceptance(self) -> bytes:
        """What a gateway sends for one event: see `accept_async` in docs/queue-protocol.md."""
        queue = self._queue
        record = Invocation(
            kind=KIND_ASYNC,
            invocation_id=self._prefix + self._random.uuid()[len(self._prefix) :],
            wait_ms=ASYNC_AGE_MAX_S * 1000,
            timeout_ms=TIMEOUT_DEFAULT_S * 1000,
            revision=1,
            payload=b"{}",
        )
        keys = (queue.async_, queue.live, queue.delayed, queue.groups, queue.group(b""))
        arguments = (record.encode(), record.invocation_id, 0, b"")
        # Its own annotation is of a tuple of one.
        words: tuple[Any, ...] = ("EVALSHA", ACCEPT_ASYNC.sha, len(keys), *keys, *arguments)
        packed: bytes = hiredis.pack_command(words)
        return packed

"""Carries a plan's faults out on the living platform, and writes down what was hit and for how long."""

import asyncio
import resource
import signal
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from . import plan
from .parts import Process
from .plan import Fault
from .proxy import Trouble
from .rig import Rig

SLOW_S = (0.01, 0.2)
RESTART_MAX_S = 20.0
DISK_ROOM_BYTES = 20_000
BUSY_FIRST = 0.7
"""How often a part of an instance that runs something is chosen."""


@dataclass(slots=True)
class Hit:
    """A fault that was carried out: from when to when (monotonic), on what; `instance` "" for no function's."""

    begin_s: float
    end_s: float
    how: str
    part: str
    name: str
    pid: int
    instance: str = ""
    url: str = ""

    def touches(self, begin_s: float, end_s: float) -> bool:
        """Whether it was going on at some moment of a span."""
        return self.begin_s <= end_s and self.end_s >= begin_s


class Faults:
    """Hurts the parts of one rig; `hits` is what has been done. `busy` gives the instances that run something."""

    def __init__(self, rig: Rig, busy: Callable[[], set[str]]) -> None:
        self.hits: list[Hit] = []
        self.missed = 0
        self._rig = rig
        self._working = busy
        self._suffering: set[int] = set()

    async def run(self, faults: Sequence[Fault]) -> None:
        """Carry faults out, each at its time from now; returns when all are healed."""
        began_s = time.monotonic()
        async with asyncio.TaskGroup() as group:
            for fault in faults:
                await asyncio.sleep(max(0.0, began_s + fault.at_s - time.monotonic()))
                group.create_task(self._carry_out(fault))

    async def _carry_out(self, fault: Fault) -> None:
        process = self._victim(fault)
        if process is None:
            self.missed += 1
            return
        now_s = time.monotonic()
        hit = Hit(now_s, now_s, fault.how, process.part, process.name, process.pid, process.instance)
        if process.part == plan.GATEWAY:
            second = self._rig.is_second(process.pid)
            hit.url = self._rig.urls[second]
            hit.name = "second gateway" if second else "gateway"
        self._suffering.add(process.pid)
        self.hits.append(hit)
        # Open until it is over: what is judged meanwhile counts it.
        hit.end_s = now_s + fault.for_s + RESTART_MAX_S
        try:
            if fault.how == plan.KILL:
                await self._kill(process, fault)
            elif fault.how == plan.PAUSE:
                await self._pause(process, fault)
            elif fault.how == plan.FULL_DISK:
                await self._fill_disk(process, fault)
            elif fault.how in _COMMANDS:
                await self._command(fault)
            else:
                await self._wire(process.pid, fault)
        finally:
            hit.end_s = time.monotonic()
            self._suffering.discard(process.pid)

    def _victim(self, fault: Fault) -> Process | None:
        """The part to hit; one at a time suffers from one fault."""
        found = [part for part in self._rig.tree.look() if part.part == fault.part and part.pid not in self._suffering]
        working = self._working()
        hurting = [part for part in found if part.instance in working]
        # An idle instance has little to lose.
        return _pick(hurting if hurting and fault.amount < BUSY_FIRST else found, fault.pick)

    async def _kill(self, process: Process, fault: Fault) -> None:
        process.send(signal.SIGKILL)
        if self._rig.reap(process.pid):
            await asyncio.sleep(fault.for_s)
            if process.part == plan.VALKEY:
                self._rig.start_valkey()
            else:
                self._rig.start_second_gateway()

    async def _pause(self, process: Process, fault: Fault) -> None:
        process.send(signal.SIGSTOP)
        try:
            await asyncio.sleep(fault.for_s)
        finally:
            process.send(signal.SIGCONT)

    async def _fill_disk(self, process: Process, fault: Fault) -> None:
        """Its files cannot grow, as on a full disk. With fsync it ends, since it may answer nothing unwritten."""
        fill_disk(process.pid, self._rig.valkey_folder, int(fault.amount * DISK_ROOM_BYTES))
        await asyncio.sleep(fault.for_s)
        if process.identity.alive():
            empty_disk(process.pid)
        else:
            self._rig.reap(process.pid)
            self._rig.start_valkey()

    async def _command(self, fault: Fault) -> None:
        begin, end = _COMMANDS[fault.how]
        await self._rig.tell_valkey(*begin)
        try:
            await asyncio.sleep(fault.for_s)
        finally:
            await self._rig.tell_valkey(*end)

    async def _wire(self, pid: int, fault: Fault) -> None:
        proxy = self._rig.proxy
        assert proxy is not None
        if fault.how == plan.CUT:
            proxy.cut(pid)
            return
        if fault.how == plan.HALF:
            await proxy.cut_half(pid, fault.for_s)
            return
        trouble = Trouble()
        proxy.troubles[pid] = trouble
        if fault.how == plan.TEAR:
            trouble.tear = fault.amount
        elif fault.how == plan.MUTE:
            trouble.mute = True
        elif fault.how == plan.REFUSE:
            trouble.refuse = True
            proxy.cut(pid)
        elif fault.how == plan.SLOW:
            trouble.slow_s = SLOW_S[0] + fault.amount * (SLOW_S[1] - SLOW_S[0])
        elif fault.how == plan.STALL:
            trouble.flowing.clear()
        try:
            await asyncio.sleep(fault.for_s)
        finally:
            del proxy.troubles[pid]
            trouble.flowing.set()
            if fault.how == plan.MUTE:
                # What was swallowed is missing in the stream of replies.
                proxy.cut(pid)


_COMMANDS = {
    plan.FULL_MEMORY: (("CONFIG", "SET", "maxmemory", "1"), ("CONFIG", "SET", "maxmemory", "0")),
    # Nobody listens on port 1: it keeps what it has, and takes no writes.
    plan.READ_ONLY: (("REPLICAOF", "127.0.0.1", "1"), ("REPLICAOF", "NO", "ONE")),
}


def fill_disk(pid: int, folder: Path, room_bytes: int) -> None:
    """Let no file of a process grow beyond the largest one in a folder, and a little."""
    largest = max(path.stat().st_size for path in folder.rglob("*.aof"))
    _, hard = resource.prlimit(pid, resource.RLIMIT_FSIZE)
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (largest + room_bytes, hard))


def empty_disk(pid: int) -> None:
    """Let its files grow again."""
    _, hard = resource.prlimit(pid, resource.RLIMIT_FSIZE)
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (hard, hard))


def _pick(found: Sequence[Process], pick: float) -> Process | None:
    return found[int(pick * len(found))] if found else None


def timeline(hits: Iterable[Hit], began_s: float) -> list[str]:
    """What was done, for people."""
    return [
        f"{hit.begin_s - began_s:7.2f} s  {hit.how:6} {hit.name} (pid {hit.pid}) until {hit.end_s - began_s:.2f} s"
        for hit in hits
    ]

"""The supervisor of `forebay up`: starts the platform's processes, keeps them up, and stops them in order.

Phases: prepare (lock, run dir) -> Redis -> gateway and controller -> serve until a signal -> drain gateway,
controller (its instances with it), Valkey -> end whatever is left -> remove the run dir. It runs in one thread and
does nothing that could block for long, since it alone reaps every process of the tree.
"""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from forebay_cli import defaults, embedded_valkey
from forebay_cli.child_logs import LEVELS, ChildLog, Say
from forebay_cli.errors import UserError
from forebay_cli.folders import PRIVATE_FOLDER, DataDir, local_keys, make_run_dir
from forebay_cli.plain_http import get_ready
from forebay_cli.processes import Child, ProcessTable, become_subreaper, raise_open_files
from forebay_cli.restarts import RestartPolicy
from forebay_cli.up_options import (
    ACCOUNT,
    FSYNC,
    REGION,
    UpOptions,
    check_address,
    free_port,
    gateway_allowed_hosts,
    reachable_address,
    url_host,
)
from forebay_common.memory import MALLOC_ENVIRONMENT
from forebay_common.redis_settings import RedisSettings

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence
    from pathlib import Path

    from forebay_controller.local_keys import LocalKeys

START_MAX_S = 60.0
"""A large append-only file takes a while to load; all else is a second."""
POLL_S = 0.02
GATEWAY_DRAIN_MAX_S = 40.0
"""Above the gateway's own bound, so that this one never cuts a call short."""
CONTROLLER_DRAIN_MAX_S = 40.0
VALKEY_STOP_MAX_S = 10.0
HURRIED_MAX_S = 1.0

VALKEY = "valkey"
GATEWAY = "gateway"
CONTROLLER = "controller"
WATCHER = "watch"


@dataclass(slots=True)
class Part:
    """One kind of child: how to start it, its log, and its life so far."""

    name: str
    start: Callable[[], Child]
    log: ChildLog
    policy: RestartPolicy = field(default_factory=RestartPolicy)
    child: Child | None = None
    pump: asyncio.Task[None] | None = None


class Supervisor:
    """One `forebay up`. `run` returns when it has been told to stop and everything is gone.

    `say` shows progress and warnings, `on_ready` is called once with this supervisor when both processes serve.
    """

    def __init__(self, options: UpOptions, *, say: Say, on_ready: Callable[[Supervisor], Awaitable[None]]) -> None:
        self.options = options
        self.port = options.port
        self.keys: LocalKeys | None = None
        """The keys of people and of functions; None when calls need none."""
        self._say = say
        self._on_ready = on_ready
        self._stop = asyncio.Event()
        self._hurry = asyncio.Event()
        self._parts: dict[str, Part] = {}
        self._stopping = False
        self._restarts: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Serve until SIGINT, SIGTERM or SIGHUP. Raises UserError when the platform cannot start."""
        # First, so that a second `up` hears of the first one and not of its port.
        data = DataDir(self.options.data_dir)
        try:
            auth = self.options.auth_required
            check_address(self.options.host, self.port, allow_open=auth or self.options.allow_remote)
            self.keys = local_keys(self.options.data_dir) if auth else None
            self.port = self.port or free_port(self.options.host)
            self.url = f"http://{url_host(self.options.host)}:{self.port}"
            if leftovers := data.clean_up_after_crash():
                self._say(f"cleaned up after an earlier `up` that was killed ({leftovers.processes} processes ended)")
            self.run_dir = make_run_dir()
            data.write(pid=os.getpid(), run_dir=str(self.run_dir), url=self.url)
            self._processes = ProcessTable(self.run_dir, self._child_exited)
            try:
                await self._supervise()
            finally:
                self._processes.end_all()
                shutil.rmtree(self.run_dir, ignore_errors=True)
        finally:
            data.close()

    async def _supervise(self) -> None:
        become_subreaper()
        raise_open_files()
        loop = asyncio.get_running_loop()
        self._processes.watch(loop)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            loop.add_signal_handler(number, self._told_to_stop)
        try:
            if await self._until_stop(self._start_all()):
                await self._until_stop(self._on_ready(self))
                if self.options.watch is not None:
                    self._start_watcher()
                await self._stop.wait()
        finally:
            await self._drain()

    def _told_to_stop(self) -> None:
        """The first signal drains, the second hurries."""
        if self._stop.is_set():
            self._hurry.set()
        else:
            self._say("stopping (Ctrl-C again hurries) …")
        self._stop.set()

    async def _until_stop(self, work: Awaitable[None]) -> bool:
        """Do some work unless told to stop meanwhile. Returns whether it was done."""
        task = asyncio.ensure_future(work)
        stop = asyncio.ensure_future(self._stop.wait())
        await asyncio.wait({task, stop}, return_when=asyncio.FIRST_COMPLETED)
        stop.cancel()
        if task.done():
            task.result()
            return True
        task.cancel()
        await asyncio.wait({task})
        return False

    # Starting

    async def _start_all(self) -> None:
        self._log_dir.mkdir(exist_ok=True)
        if self.options.redis is None:
            redis = self._start_valkey()
            await self._until(VALKEY, lambda: embedded_valkey.check(redis))
        else:
            redis = self.options.redis
            try:
                await embedded_valkey.check(redis)
            except ConnectionError as error:
                raise UserError(
                    f"no Redis at {redis} ({error}): start it, or leave --redis away to use the embedded Valkey"
                ) from error
        self._start(self._component_part(GATEWAY, "forebay_gateway", self._gateway_document(redis)))
        self._start(self._component_part(CONTROLLER, "forebay_controller", self._controller_document(redis)))
        await asyncio.gather(
            self._until(CONTROLLER, lambda: get_ready(unix_socket=str(self.controller_socket))),
            self._until(GATEWAY, lambda: get_ready(host=reachable_address(self.options.host), port=self.port)),
        )

    @property
    def _log_dir(self) -> Path:
        """The platform's own logs; functions have `logs/NAME`, and any name."""
        return self.options.data_dir / "platform-logs"

    @property
    def controller_socket(self) -> Path:
        """Where the controller serves management calls."""
        return self._sockets / "controller.sock"

    @property
    def _sockets(self) -> Path:
        """Where handlers cannot pass, even if they may pass through the run dir (see `make_run_dir`)."""
        return self.run_dir / PRIVATE_FOLDER

    def _start_valkey(self) -> RedisSettings:
        folder = self.options.data_dir / "valkey"
        folder.mkdir(exist_ok=True, mode=0o700)
        password = secrets.token_hex(32)
        socket = self._sockets / "valkey.sock"
        fsync = self.options.durability == FSYNC
        text = embedded_valkey.configuration(socket, password, folder, fsync=fsync)
        file = self._write_private("valkey.conf", text)
        args = [str(embedded_valkey.binary()), str(file)]

        def start() -> Child:
            return self._processes.spawn(
                VALKEY,
                args,
                env={"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C", **MALLOC_ENVIRONMENT},
                death_signal=signal.SIGTERM,  # it writes its append-only file out and goes
                stderr=subprocess.STDOUT,
                stdout=subprocess.PIPE,
            )

        # Its notices (memory overcommit and the like) are for its log file.
        self._start(Part(VALKEY, start, self._log(VALKEY, show=None)))
        return RedisSettings(unix_socket=str(socket), password=password)

    def _component_part(self, name: str, module: str, document: dict[str, Any]) -> Part:
        file = self._write_private(f"{name}.json", json.dumps(document, indent=1))
        args = [sys.executable, "-P", "-m", module, "--config", str(file)]
        # SIGKILL at our death: without Valkey there is nothing left to drain, and instances look after themselves.
        return self._part(name, args, death_signal=signal.SIGKILL)

    def _start_watcher(self) -> None:
        args = [sys.executable, "-P", "-m", "forebay_cli.watcher", str(self.options.watch), self.url]
        key = {} if self.keys is None else {defaults.API_KEY_VARIABLE: self.keys.admin.api_key}
        part = self._part(WATCHER, args, death_signal=signal.SIGTERM, stdout=None, more=key)
        part.policy.served = True  # it has no readiness: it is started again from the first death on
        self._start(part)

    def _part(
        self,
        name: str,
        args: Sequence[str],
        *,
        death_signal: int,
        stdout: int | None = subprocess.DEVNULL,
        more: Mapping[str, str] = MappingProxyType({}),
    ) -> Part:
        env = {
            **os.environ,
            **more,
            "FOREBAY_SUPERVISOR_PID": str(os.getpid()),
            "PYTHONUNBUFFERED": "1",
        }

        def start() -> Child:
            return self._processes.spawn(name, args, env=env, death_signal=death_signal, stdout=stdout)

        show = LEVELS[self.options.log_level] if self.options.verbose else LEVELS["warning"]
        return Part(name, start, self._log(name, show=show))

    def _log(self, name: str, *, show: int | None) -> ChildLog:
        return ChildLog(name, self._log_dir / f"{name}.log", show)

    def _write_private(self, name: str, text: str) -> Path:
        file = self.run_dir / name
        file.touch(mode=0o600)
        file.write_text(text)
        return file

    def _shared_document(self, redis: RedisSettings) -> dict[str, Any]:
        return {
            "prefix": "forebay",
            "redis": redis.to_json(),
            "region": REGION,
            "account": ACCOUNT,
            "namespace": "default",
            "run_dir": str(self.run_dir),
            "data_dir": str(self.options.data_dir),
            "controller_socket": str(self.controller_socket),
            "auth": "off" if self.keys is None else "required",
            "log_level": self.options.log_level,
        }

    def _gateway_document(self, redis: RedisSettings) -> dict[str, Any]:
        return {
            **self._shared_document(redis),
            "host": self.options.host,
            "port": self.port,
            "allowed_hosts": gateway_allowed_hosts(self.options),
            "durability": self.options.durability,
            "idempotency_retention_s": self.options.idempotency_retention_s,
        }

    def _controller_document(self, redis: RedisSettings) -> dict[str, Any]:
        return {
            **self._shared_document(redis),
            "gateway_url": self.url,
            "retry_delays_s": list(self.options.retry_delays_s),
            "result_retention_s": self.options.result_retention_s,
            "outbound": {
                "allow_http": self.options.outbound_allow_http,
                "allowed": list(self.options.outbound_allow),
            },
        }

    def _start(self, part: Part) -> None:
        self._parts[part.name] = part
        part.child = part.start()
        pipe = part.child.stderr or part.child.stdout
        assert pipe is not None
        part.pump = asyncio.create_task(part.log.pump(pipe, self._say))

    async def _until(self, name: str, check: Callable[[], Awaitable[None]]) -> None:
        """Wait until a part answers. Raises UserError when it ends before, or takes too long."""
        part = self._parts[name]
        assert part.child is not None
        deadline = time.monotonic() + START_MAX_S
        while time.monotonic() < deadline:
            with suppress(ConnectionError):
                await check()
                part.policy.served = True
                return
            if part.child.status is not None:
                await self._log_read(part)
                raise UserError(f"{name} did not start ({part.child.how_it_ended()}): {part.log.story()}")
            await asyncio.sleep(POLL_S)  # a process says nothing at the moment it begins to listen
        raise UserError(f"{name} was not ready within {START_MAX_S:.0f} s: {part.log.story()}")

    async def ask(self, name: str, args: Sequence[str]) -> str:
        """Run a short program to its end and give what it wrote on stdout (less than a pipe holds)."""
        child = self._processes.spawn(
            name, args, env=os.environ, death_signal=signal.SIGKILL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        await child.exited.wait()
        assert child.stdout is not None
        with child.stdout as pipe:
            return pipe.read().decode(errors="replace").strip()

    async def _log_read(self, part: Part) -> None:
        """Wait (a moment at most: a grandchild may hold the pipe) until all that a dead child wrote is read."""
        if part.pump is not None:
            await asyncio.wait({part.pump}, timeout=0.5)

    # Keeping it up

    def _child_exited(self, child: Child) -> None:
        part = self._parts.get(child.name)
        if part is None or part.child is not child or self._stopping:
            return
        delay_s = part.policy.delay_s(started_at=child.started_at, now=time.monotonic())
        if delay_s is None:  # it never served: `_until` tells
            return
        self._say(f"{child.name} died ({child.how_it_ended()}); it is started again in {delay_s:g} s")
        task = asyncio.create_task(self._restart(part, delay_s))
        self._restarts.add(task)
        task.add_done_callback(self._restarts.discard)

    async def _restart(self, part: Part, delay_s: float) -> None:
        await asyncio.sleep(delay_s)
        if not self._stopping:
            self._start(part)

    # Stopping

    async def _drain(self) -> None:
        """Stop in order: no new calls, then instances, then the store; a second signal shortens every wait."""
        self._stopping = True
        for task in self._restarts:
            task.cancel()
        await self._end(WATCHER, "watching", HURRIED_MAX_S)
        await self._end(GATEWAY, "finishing calls", GATEWAY_DRAIN_MAX_S)
        await self._end(CONTROLLER, "stopping instances", CONTROLLER_DRAIN_MAX_S)
        await self._end(VALKEY, "writing its data", VALKEY_STOP_MAX_S)
        for part in self._parts.values():
            await self._log_read(part)
            part.log.close()

    async def _end(self, name: str, doing: str, at_most_s: float) -> None:
        part = self._parts.get(name)
        if part is None or part.child is None or part.child.status is not None:
            return
        began = time.monotonic()
        part.child.send(signal.SIGTERM)
        exited = asyncio.create_task(part.child.exited.wait())
        hurry = asyncio.create_task(self._hurry.wait())
        await asyncio.wait({exited, hurry}, timeout=at_most_s, return_when=asyncio.FIRST_COMPLETED)
        if not exited.done():
            part.child.send(signal.SIGTERM)  # a second one: components hurry, too
            await asyncio.wait({exited}, timeout=HURRIED_MAX_S)
        hurry.cancel()
        if exited.done():
            if self._stop.is_set():  # else it could not start, and the one line about that is all there is to say
                self._say(f"{name}: {doing}, stopped ({time.monotonic() - began:.1f} s)")
            return
        exited.cancel()
        part.child.send(signal.SIGKILL)
        await part.child.exited.wait()
        self._say(f"{name}: did not stop in {time.monotonic() - began:.1f} s, killed")

"""The parts of a platform, each of a release of its own, on one Valkey: what a rolling upgrade goes through."""

import asyncio
import json
import os
import shutil
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

import httpx
from redis.asyncio import Redis

from chaos import plan
from chaos.faults import Hit
from chaos.load import HEADERS
from chaos.starvation import CALLERS, Starvation
from forebay_cli.folders import make_run_dir
from forebay_cli.processes import PR_SET_CHILD_SUBREAPER, _prctl, become_subreaper, children
from forebay_common.redis_client import RedisSettings, connect
from support.ports import free_port
from support.valkey import ValkeyServer
from support.waiting import wait_until_async

START_MAX_S = 60.0
STOP_MAX_S = 60.0
GATEWAYS = ("gateway-0", "gateway-1")
CONTROLLER = "controller"
REPLACED = "replaced"
"""Told to stop, with all the time it needs: nothing that waits for it is lost."""
WATCH_S = 0.25


class MixedRig:
    """Two gateways and a controller; `put` starts one of a release, in place of the one that ran before."""

    def __init__(self, folder: Path) -> None:
        self.redis_server = ValkeyServer(append_only=True)
        self.run_dir = make_run_dir()
        self.releases: dict[str, str] = {}
        """The interpreter, which is the release, of each part that runs."""
        self.hits: list[Hit] = []
        """Replacements."""
        self.entrances: list[str] = []
        """Where callers are to go, of two."""
        self._folder = folder
        self._children_before = set(children(os.getpid()))
        self._ports = {name: free_port() for name in GATEWAYS}
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    @property
    def urls(self) -> tuple[str, str]:
        """The two gateways'."""
        first, second = (f"http://127.0.0.1:{port}" for port in self._ports.values())
        return first, second

    def _lead_past(self, name: str) -> None:
        """Callers turn to the other gateway, as a load balancer has them do while one is not ready."""
        left = self.urls[1 - GATEWAYS.index(name)] if name in GATEWAYS else ""
        self.entrances[:] = [left, left] if left else self.urls

    def redis(self) -> Redis:
        """A client."""
        return connect(RedisSettings.from_json(self.redis_server.settings))

    async def put(self, name: str, python: str) -> None:
        """Replace a part as an upgrade does: a gateway finishes what waits, a controller's instances live on."""
        replaced = self._processes.get(name)
        url = "" if name == CONTROLLER else self.urls[GATEWAYS.index(name)]
        part, how = (plan.CONTROLLER, plan.KILL) if name == CONTROLLER else (plan.GATEWAY, REPLACED)
        hit = Hit(time.monotonic(), float("inf"), how, part, name, 0, url=url)
        if replaced is not None:
            self.hits.append(hit)
            self._lead_past(name)
        await asyncio.to_thread(self._replace, name, python)
        self.releases[name] = python
        await wait_until_async(lambda: self._ready(name), f"{name} is ready", START_MAX_S, 0.05)
        hit.end_s = time.monotonic()
        self.entrances[:] = self.urls

    async def watch(self, starvation: Starvation) -> None:
        """Look for ever at who has no CPU."""
        while True:
            parts = [(os.getpid(), CALLERS), (self.redis_server.pid, plan.VALKEY)]
            for name, process in self._processes.items():
                part = plan.CONTROLLER if name == CONTROLLER else self.urls[GATEWAYS.index(name)]
                parts.append((process.pid, part))
            starvation.look(time.monotonic(), parts)
            await asyncio.sleep(WATCH_S)

    def _replace(self, name: str, python: str) -> None:
        running = self._processes.get(name)
        if running is not None:
            running.send_signal(signal.SIGTERM if name in GATEWAYS else signal.SIGKILL)
            running.wait(STOP_MAX_S)
        config = self.run_dir / f"{name}.json"
        config.write_text(json.dumps(self._document(name)))
        module = "forebay_controller" if name == CONTROLLER else "forebay_gateway"
        with self.log(name).open("ab") as log:
            self._processes[name] = subprocess.Popen(
                [python, "-P", "-m", module, "--config", str(config)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                # What an instance inherits; it ends when this process does.
                env={**os.environ, "FOREBAY_SUPERVISOR_PID": str(os.getpid())},
            )

    def log(self, name: str) -> Path:
        """What a part writes."""
        return self._folder / f"{name}.log"

    async def api(self, method: str, path: str, document: Any = None) -> Any:
        """One management call by the first gateway; its JSON answer."""
        async with httpx.AsyncClient(base_url=self.urls[0], headers=HEADERS, timeout=60, trust_env=False) as client:
            answer = await client.request(method, path, json=document)
        assert answer.is_success, f"{method} {path}: {answer.status_code} {answer.text}"
        return answer.json() if answer.content else None

    def _document(self, name: str) -> dict[str, Any]:
        data_dir = self._folder / "data"
        data_dir.mkdir(exist_ok=True)
        return {
            "redis": self.redis_server.settings,
            "controller_socket": str(self.run_dir / "private" / "controller.sock"),
            "run_dir": str(self.run_dir),
            "data_dir": str(data_dir),
            "gateway_url": self.urls[0],
            "retry_delays_s": plan.RETRY_DELAYS_S,
            "port": self._ports.get(name, 0),
            # A gateway that stops goes on accepting until everybody has turned to the other one.
            "drain_s": 1.0,
        }

    async def _ready(self, name: str) -> bool:
        assert self._processes[name].poll() is None, f"{name} ended: {self.log(name).read_text()}"
        url = self.urls[0] if name == CONTROLLER else self.urls[GATEWAYS.index(name)]
        path = "/v1/status" if name == CONTROLLER and GATEWAYS[0] in self._processes else "/readyz"
        if name == CONTROLLER and GATEWAYS[0] not in self._processes:
            return (self.run_dir / "private" / "controller.sock").exists()
        async with httpx.AsyncClient(headers=HEADERS, timeout=5, trust_env=False) as client:
            with suppress(httpx.TransportError):
                return (await client.get(url + path)).status_code == httpx.codes.OK
        return False

    async def __aenter__(self) -> Self:
        # As `up` is: instances of a controller that is gone become our children, and go on.
        become_subreaper()
        await asyncio.to_thread(self.redis_server.start)
        return self

    async def __aexit__(self, *_: object) -> None:
        for process in self._processes.values():
            if process.poll() is None:
                process.terminate()
        for process in self._processes.values():
            await asyncio.to_thread(process.wait, STOP_MAX_S)
        self.redis_server.close()
        self._let_go()
        shutil.rmtree(self.run_dir, ignore_errors=True)

    def _let_go(self) -> None:
        """Take the exit status of instances that became our children, and take none over any more."""
        _prctl(PR_SET_CHILD_SUBREAPER, 0)
        for pid in set(children(os.getpid())) - self._children_before:
            os.waitpid(pid, 0)

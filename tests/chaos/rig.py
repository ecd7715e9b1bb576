"""The platform that is hurt: `forebay up`, a second gateway and, unless Valkey is embedded, Valkey and the proxy."""

import asyncio
import json
import secrets
import shutil
import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import RedisError

from forebay_cli import embedded_valkey
from forebay_common.redis_client import RedisSettings, command, connect
from support.platform import Platform
from support.ports import free_port
from support.waiting import wait_until_async

from .parts import ProcessTree, run_dir_of
from .plan import ALWAYS, RETRY_DELAYS_S, Plan
from .proxy import RedisProxy

_FOREBAY = ("-c", "from forebay_cli.main import main; main()")
STOP_S = 60.0
READY_MAX_S = 60.0
"""On a machine that does much else."""


class Rig:
    """Starts and ends everything of one seed; `python` is the interpreter whose platform it is."""

    def __init__(self, plan: Plan, python: str = sys.executable) -> None:
        self.plan = plan
        self.tree = ProcessTree()
        # A Unix socket's path is short.
        self.folder = Path(tempfile.mkdtemp(prefix="fbc-", dir="/tmp"))
        self.proxy: RedisProxy | None = None
        self._python = python
        self._valkey: subprocess.Popen[bytes] | None = None
        self._second: subprocess.Popen[bytes] | None = None
        self._second_port = free_port()
        self._platform: Platform | None = None

    @property
    def platform(self) -> Platform:
        """The `forebay up`."""
        assert self._platform is not None
        return self._platform

    @property
    def urls(self) -> tuple[str, str]:
        """The two gateways'."""
        return self.platform.url, f"http://127.0.0.1:{self._second_port}"

    async def start(self) -> None:
        """Start everything; returns when both gateways serve."""
        durability = "fsync" if self.plan.fsync == ALWAYS else "process"
        options = ["--async-retry-delays", ",".join(map(str, RETRY_DELAYS_S)), "--durability", durability]
        if not self.plan.embedded:
            options += ["--redis", await self._start_redis()]
        self._platform = Platform(self.folder / "data", *options)
        self._platform.program = (self._python, *_FOREBAY)
        self._platform.ready_timeout_s = READY_MAX_S
        await asyncio.to_thread(self._platform.start)
        self.tree.roots.append(self._platform.pid)
        self.run_dir = run_dir_of(self._platform.data_dir)
        document = json.loads((self.run_dir / "gateway.json").read_text())
        redis = dict(document["redis"])
        if self.proxy is not None:
            redis["unix_socket"] = str(self._valkey_socket)
        self.redis_settings = RedisSettings.from_json(redis)
        (self.folder / "second.json").write_text(json.dumps({**document, "port": self._second_port}))
        self.start_second_gateway()
        await wait_until_async(self._second_ready, "the second gateway is ready", READY_MAX_S)

    def connect(self) -> Redis:
        """A client beside the proxy."""
        return connect(self.redis_settings)

    async def _start_redis(self) -> str:
        folder = self.valkey_folder
        folder.mkdir()
        password = secrets.token_hex(16)
        self._valkey_socket = self.folder / "valkey.sock"
        # As `up` itself would have it.
        text = embedded_valkey.configuration(self._valkey_socket, password, folder, fsync=self.plan.fsync == ALWAYS)
        (self.folder / "valkey.conf").write_text(text)
        self.start_valkey()
        address = RedisSettings(unix_socket=str(self._valkey_socket), password=password)
        await wait_until_async(lambda: _answers(address), "Valkey answers")
        self.proxy = RedisProxy(self.folder / "proxy.sock", self._valkey_socket)
        await self.proxy.start()
        return f"unix://:{password}@{self.proxy.socket}"

    @property
    def valkey_folder(self) -> Path:
        """Where a Valkey of ours keeps its append-only file."""
        return self.folder / "valkey"

    async def tell_valkey(self, *words: str) -> None:
        """Give Valkey a command; one that is away does not hear it."""
        redis = self.connect()
        with suppress(RedisError):
            await command(redis, *words)
        await redis.aclose()

    def start_valkey(self) -> None:
        """Start Valkey, where it is ours, after it was killed too."""
        with (self.folder / "valkey.log").open("ab") as log:
            self._valkey = self._spawn([str(embedded_valkey.binary()), str(self.folder / "valkey.conf")], log)

    def start_second_gateway(self) -> None:
        """Start the gateway that `up` does not know."""
        command = [self._python, "-P", "-m", "forebay_gateway", "--config", str(self.folder / "second.json")]
        with (self.folder / "second.log").open("ab") as log:
            self._second = self._spawn(command, log)

    def _spawn(self, command: list[str], log: Any) -> subprocess.Popen[bytes]:
        child = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            # A file that cannot grow is an error, as on a full disk, and no signal that ends the process.
            restore_signals=False,
        )
        self.tree.roots.append(child.pid)
        return child

    def reap(self, pid: int) -> bool:
        """Take the exit status of a child of ours that was killed; False when it is not ours."""
        for child in (self._valkey, self._second):
            if child is not None and child.pid == pid:
                child.wait(10)
                self.tree.roots.remove(pid)
                return True
        return False

    def is_second(self, pid: int) -> bool:
        """Whether a process is the second gateway."""
        return self._second is not None and self._second.pid == pid

    async def _second_ready(self) -> bool:
        return await asyncio.to_thread(self._second_answers)

    def _second_answers(self) -> bool:
        gateway = Platform(self.folder / "second")
        gateway.url = self.urls[1]
        with suppress(OSError):
            return gateway.http("GET", "/readyz")[0] == 200
        return False

    async def ready(self) -> None:
        """Return once everything serves again."""
        await asyncio.to_thread(self.platform.wait_ready)
        await wait_until_async(self._second_ready, "the second gateway is ready", READY_MAX_S)

    async def stop(self) -> int:
        """Stop it as a person would; the exit code of `up`."""
        if self._second is not None and self._second.poll() is None:
            self._second.terminate()
            await asyncio.to_thread(self._second.wait, STOP_S)
        code = await asyncio.to_thread(self.platform.stop)
        await self._stop_redis()
        return code

    async def _stop_redis(self) -> None:
        if self.proxy is not None:
            await self.proxy.close()
        if self._valkey is not None and self._valkey.poll() is None:
            self._valkey.terminate()
            await asyncio.to_thread(self._valkey.wait, STOP_S)

    async def close(self) -> None:
        """End whatever is left, and remove the folder."""
        for child in (self._second, self._valkey):
            if child is not None and child.poll() is None:
                child.kill()
                child.wait(10)
        if self._platform is not None and self._platform.running:
            self._platform.crash()
        if self.proxy is not None:
            await self.proxy.close()
        # Handlers' folders may still be written to while their last process ends.
        shutil.rmtree(self.folder, ignore_errors=True)

    def keep_logs(self, to: Path) -> None:
        """Copy what the parts wrote, for whoever looks into a failure."""
        to.mkdir(parents=True, exist_ok=True)
        for path in (self.folder / "data" / "platform-logs", self.folder / "data" / "logs"):
            if path.is_dir():
                shutil.copytree(path, to / path.name, dirs_exist_ok=True)
        for path in (*self.folder.glob("*.log"), *self.folder.glob("*.out")):
            shutil.copy(path, to / path.name)


async def _answers(address: RedisSettings) -> bool:
    try:
        await embedded_valkey.check(address)
    except ConnectionError:
        return False
    return True

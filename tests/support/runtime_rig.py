"""A real runtime process for tests, with the real handlers' program or one played by the test over the real socket."""

import asyncio
import contextlib
import hashlib
import io
import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import textwrap
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from redis.asyncio import Redis

import forebay_handlers
from forebay_common.frames import ReplyFrame
from forebay_common.keys import GROUP, PlatformKeys
from forebay_common.limits import CODE_CHUNK_BYTES
from forebay_common.queue import VersionQueue, create_queues, send_control
from forebay_common.record import Invocation
from forebay_common.redis_client import command
from forebay_handlers import wire
from support.queue_side import PROCESS, append, call
from support.waiting import wait_until, wait_until_async

ZYGOTE = Path(forebay_handlers.__file__).with_name("zygote.py")
WAIT_S = 15.0
ECHO = "def handler(event, context): return event"


def package(files: Mapping[str, str]) -> bytes:
    """A zip of text files."""
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in files.items():
            archive.writestr(name, textwrap.dedent(text))
    return data.getvalue()


class RuntimeRig:
    """One function's queues, its code in Redis, and one instance of it.

    `start` runs the runtime; `start_handlers` the real handlers' program beside it.
    """

    def __init__(self, redis: Redis, credentials: dict[str, Any], prefix: str) -> None:
        self.redis = redis
        self.platform_keys = PlatformKeys(prefix)
        self.keys = self.platform_keys.function("default", "fn", secrets.token_hex(4))
        self.queue = VersionQueue(self.keys)
        self.instance_id = secrets.token_hex(6)
        self.folder = Path(tempfile.mkdtemp(prefix="forebay-rt-", dir="/tmp"))
        self.code_dir = self.folder / "code" / "task"
        self.log_path = self.folder / "fn.log"
        self.credentials = credentials
        self.zip = b""
        self.removes_keys = True
        self.settings: dict[str, Any] = {
            "prefix": prefix,
            "instance_id": self.instance_id,
            "namespace": "default",
            "name": "fn",
            "uid": self.keys.base.rpartition("/")[2].rstrip("}"),
            "version": "$LATEST",
            "revision": 7,
            "arn": "arn:aws:lambda:us-east-1:000000000000:function:fn",
            "handler": "app.handler",
            "runtime": "python3.13",
            "mode": "python",
            "code_dir": str(self.code_dir),
            "task_root": str(self.code_dir),
            "timeout_ms": 3000,
            "memory_mb": 512,
            "concurrency": 1,
            "env": {"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8"},
            "socket_path": str(self.folder / "socket" / "control.sock"),
            "boto_path": "",
            "retry_delays_ms": [0, 50],
            "init_timeout_ms": 10_000,
            "log_path": str(self.log_path),
        }
        self.played = contextlib.ExitStack()
        self._processes: list[subprocess.Popen[bytes]] = []
        self.runtime: subprocess.Popen[bytes]
        self.handlers: subprocess.Popen[bytes]

    async def prepare(self, code: str | bytes = ECHO, **settings: Any) -> Self:
        """Queues, and the code in Redis; `settings` replace the rig's."""
        await create_queues(self.redis, self.queue)
        self.zip = code if isinstance(code, bytes) else package({"app.py": code})
        digest = hashlib.sha256(self.zip).hexdigest()
        for number, at in enumerate(range(0, len(self.zip), CODE_CHUNK_BYTES)):
            chunk = self.zip[at : at + CODE_CHUNK_BYTES]
            await self.redis.set(self.keys.code(digest, number), chunk, ex=600)
        self.settings |= {"code_sha256": digest, "code_size": len(self.zip)} | settings
        Path(self.settings["socket_path"]).parent.mkdir(parents=True, exist_ok=True)
        return self

    def start(self, **environment: str) -> None:
        """Start the runtime."""
        settings, credentials = self.folder / "settings.json", self.folder / "credentials.json"
        settings.write_text(json.dumps(self.settings))
        credentials.touch(0o600)
        credentials.write_text(json.dumps(self.credentials))
        with (self.folder / "runtime.err").open("ab") as errors:
            self.runtime = subprocess.Popen(
                [
                    *(sys.executable, "-m", "forebay_runtime"),
                    *("--settings", settings, "--credentials", credentials),
                ],
                env={"PATH": os.environ["PATH"], **environment},
                stderr=errors,
                stdout=subprocess.DEVNULL,
            )
        self._processes.append(self.runtime)

    def start_handlers(self) -> None:
        """Start the real handlers' program, without a sandbox."""
        with (self.folder / "handlers.err").open("ab") as errors:
            self.handlers = subprocess.Popen(
                [sys.executable, "-I", "-S", ZYGOTE, self.settings["socket_path"]],
                env={"PATH": os.environ["PATH"]},
                stderr=errors,
                stdout=errors,
            )
        self._processes.append(self.handlers)

    async def run(self, code: str | bytes = ECHO, **settings: Any) -> Self:
        """Everything, until the instance says that it is ready."""
        await self.prepare(code, **settings)
        self.start()
        self.start_handlers()
        await self.wait_for_state("ready")
        return self

    def errors(self) -> str:
        """What the runtime wrote to stderr."""
        return (self.folder / "runtime.err").read_text()

    def log_lines(self) -> list[dict[str, str]]:
        """The function's log."""
        return [json.loads(line) for line in self.log_path.read_text().splitlines()]

    def messages(self, request_id: str | None = None) -> list[str]:
        """The messages in the function's log, of one call or all."""
        return [line["message"] for line in self.log_lines() if request_id in {None, line["invocation_id"]}]

    async def heartbeat(self) -> dict[str, str]:
        """The instance's heartbeat; empty when there is none."""
        raw: dict[bytes, bytes] = await command(self.redis, "HGETALL", self.keys.instance(self.instance_id))
        return {name.decode(): value.decode() for name, value in raw.items()}

    async def has_left(self) -> bool:
        """Whether it is in no group any more; its last counters stay readable for a few seconds."""
        groups = [await self.redis.xinfo_consumers(stream, GROUP) for stream in (self.queue.sync, self.queue.async_)]
        consumers = [consumer["name"].decode() for group in groups for consumer in group]
        last_ms = await command(self.redis, "PTTL", self.keys.instance(self.instance_id))
        return self.instance_id not in consumers and 0 < last_ms <= 5_000

    async def wait_for_state(self, state: str) -> dict[str, str]:
        """The heartbeat once it has that state."""

        async def there() -> bool:
            return (await self.heartbeat()).get("state") == state

        await wait_until_async(there, f"the instance is {state}; it wrote: {self.errors()}", WAIT_S)
        return await self.heartbeat()

    async def append(self, record: Invocation) -> Invocation:
        """Queue a record."""
        await append(self.redis, self.queue, record)
        return record

    async def replies(self, count: int) -> dict[bytes, ReplyFrame]:
        """The next `count` frames on the reply list, by token."""
        frames: dict[bytes, ReplyFrame] = {}
        key = self.platform_keys.reply(PROCESS)
        for _ in range(count):
            answer = await command(self.redis, "BLPOP", key, WAIT_S)
            assert answer is not None, f"{len(frames)} of {count} replies came; the runtime wrote: {self.errors()}"
            frame = ReplyFrame.decode(answer[1])
            frames[frame.token] = frame
        return frames

    async def reply_to(self, record: Invocation) -> ReplyFrame:
        """The reply to a call, past repeated ones: what a broken connection left unconfirmed is sent again."""
        while True:
            frames = await self.replies(1)
            if record.reply_token in frames:
                return frames[record.reply_token]

    async def invoke(self, payload: bytes | None = b"{}", **changes: Any) -> ReplyFrame:
        """Queue a sync call and wait for its reply."""
        record = await self.append(call(payload, **changes))
        return (await self.replies(1))[record.reply_token]

    async def drain(self) -> int:
        """Tell the instance to drain; gives its exit code."""
        assert await send_control(self.redis, self.keys, self.instance_id, {"command": "drain"})
        return await self.exit_code()

    async def exit_code(self) -> int:
        """Wait for the runtime's end."""
        return await asyncio.to_thread(self.runtime.wait, WAIT_S)

    async def queued(self, stream: str) -> tuple[int, int]:
        """Entries in a stream, and how many of them are leased."""
        length: int = await self.redis.xlen(stream)
        pending: dict[str, Any] = await self.redis.xpending(stream, "g")
        return length, int(pending["pending"])

    async def play_handlers(self) -> "PlayedHandlers":
        """Play the handlers' program once the runtime listens."""

        path = Path(self.settings["socket_path"])
        await asyncio.to_thread(wait_until, path.exists, f"the runtime listens; it wrote: {self.errors()}", WAIT_S)
        return await asyncio.to_thread(PlayedHandlers, path, self.played)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.played.close()
        for process in self._processes:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            process.wait(WAIT_S)
        shutil.rmtree(self.folder, ignore_errors=True)
        if not self.removes_keys:
            return
        async for key in self.redis.scan_iter(match=f"{self.platform_keys.prefix}:*"):
            await self.redis.unlink(key)


class PlayedHandlers:
    """The handlers' program played by a test: blocking frames over the real socket, and nothing done by itself."""

    def __init__(self, path: Path, played: contextlib.ExitStack) -> None:
        self._path = path
        self.played = played
        self.supervisor = self.connect()
        self.supervisor.sendall(wire.pack(wire.HELLO_SUPERVISOR, b'{"pid": 1, "python": "3"}'))
        kind, body = read_frame(self.supervisor)
        assert kind == wire.SETUP
        self.setup: dict[str, Any] = json.loads(body)

    def connect(self) -> socket.socket:
        """A new connection to the instance's socket."""
        connection = self.played.enter_context(socket.socket(socket.AF_UNIX))
        connection.settimeout(WAIT_S)
        connection.connect(str(self._path))
        return connection

    def next_order(self) -> tuple[int, bytes]:
        """The next frame for the supervisor."""
        return read_frame(self.supervisor)

    def next_spawn(self) -> tuple[int, bytes]:
        """The next order, which must be SPAWN: slot and token."""
        kind, body = self.next_order()
        assert kind == wire.SPAWN
        slot, token = wire.SPAWN_BODY.unpack_from(body)
        return slot, token

    def next_kill(self) -> int:
        """The next order, which must be KILL: the slot."""
        kind, body = self.next_order()
        assert kind == wire.KILL
        return int(wire.SLOT_BODY.unpack(body)[0])

    def exited(self, slot: int, status: int) -> None:
        """Report a process's end."""
        self.supervisor.sendall(wire.pack(wire.EXITED, wire.EXITED_BODY.pack(slot, status)))

    def handler(self, slot: int, token: bytes, *, ready: bool = True) -> "PlayedHandler":
        """A handler process's connection, after its hello (and its init)."""
        handler = PlayedHandler(self.connect(), slot, token)
        self.played.callback(handler.close)
        if ready:
            handler.connection.sendall(wire.pack(wire.INIT_DONE, wire.U32.pack(1500)))
        return handler

    def close(self) -> None:
        """End the supervisor's connection."""
        self.supervisor.close()


class PlayedHandler:
    """One handler process's end: its connection, and the write end of its log."""

    def __init__(self, connection: socket.socket, slot: int, token: bytes) -> None:
        self.connection = connection
        read, self.log = os.pipe()
        hello = wire.pack(wire.HELLO_HANDLER, wire.SPAWN_BODY.pack(slot, token))
        socket.send_fds(connection, [hello], [read])
        os.close(read)

    def next_event(self) -> tuple[bytes, bytes]:
        """The next INVOKE: call token and payload."""
        kind, body = read_frame(self.connection)
        assert kind == wire.INVOKE
        token, _, _, arn, context, trace = wire.INVOKE_BODY.unpack_from(body)
        return token, body[wire.INVOKE_BODY.size + arn + context + trace :]

    def answer(self, token: bytes, payload: bytes, kind: int = wire.RESULT_OK) -> None:
        """A RESULT."""
        self.connection.sendall(wire.pack(wire.RESULT, wire.RESULT_BODY.pack(token, kind, 20_480, 100), payload))

    def close(self) -> None:
        """End it."""
        if self.log >= 0:
            self.connection.close()
            os.close(self.log)
            self.log = -1


def read_frame(connection: socket.socket) -> tuple[int, bytes]:
    """One frame: its type and body. Raises ConnectionError at the end."""
    length, kind = wire.HEADER.unpack(_read(connection, wire.HEADER.size))
    return kind, _read(connection, length - 1)


def _read(connection: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        piece = connection.recv(count - len(data))
        if not piece:
            raise ConnectionError("the runtime closed the connection")
        data += piece
    return data

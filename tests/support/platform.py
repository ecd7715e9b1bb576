"""A real `forebay up` and the clients that tests call it with."""

import contextlib
import io
import json
import os
import signal
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import boto3
from botocore.config import Config

from support.ports import free_port
from support.waiting import wait_until

RUNTIME = f"python{sys.version_info.major}.{sys.version_info.minor}"
FOREBAY = str(Path(sys.executable).with_name("forebay"))
READY_TIMEOUT_S = 20.0


def package(files: Mapping[str, str | bytes] | str, *, executable: tuple[str, ...] = ()) -> bytes:
    """A code package; a single text becomes `app.py`."""
    if isinstance(files, str):
        files = {"app.py": files}
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in files.items():
            info = zipfile.ZipInfo(name)
            info.external_attr = (0o755 if name in executable else 0o644) << 16
            archive.writestr(info, text)
    return buffer.getvalue()


class Platform:
    """One `forebay up` on a data dir; processes are found by parent, ended by pid."""

    def __init__(self, data_dir: Path, *options: str) -> None:
        self.data_dir = data_dir
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.program: tuple[str, ...] = (FOREBAY,)
        self.ready_timeout_s = READY_TIMEOUT_S
        self._options = options
        self._process: subprocess.Popen[bytes] | None = None
        self.output = data_dir.with_suffix(".out")

    def start(self) -> None:
        """Start it and wait until it is ready."""
        command = [*self.program, "up", "--port", str(self.port), "--data-dir", str(self.data_dir), *self._options]
        with self.output.open("ab") as sink:
            self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=sink, stderr=sink)
        self.wait_ready()

    def wait_ready(self) -> None:
        """Return once gateway and controller answer, at the start or after one was killed."""
        wait_until(self._ready, "forebay up is ready", self.ready_timeout_s)

    def _ready(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, f"forebay up ended: {self.output.read_text()}"
        with contextlib.suppress(OSError):
            ready = [self.http("GET", path, None, self.authorization)[0] for path in ("/readyz", "/v1/status")]
            return ready == [200, 200]
        return False

    @property
    def key_pair(self) -> tuple[str, str]:
        """An access key that may do everything: the data dir's, or placeholders where none is asked for."""
        with contextlib.suppress(FileNotFoundError):
            admin = json.loads((self.data_dir / "keys.json").read_bytes())["admin"]
            return admin["access_key_id"], admin["secret_access_key"]
        return "test", "test"

    @property
    def authorization(self) -> dict[str, str]:
        """The header that lets a plain HTTP call in."""
        return {"Authorization": f"Bearer {'.'.join(self.key_pair)}"}

    def stop(self) -> int:
        """Ctrl-C; its exit code."""
        assert self._process is not None
        self._process.send_signal(signal.SIGINT)
        return self._process.wait(40)

    def crash(self) -> None:
        """kill -9 of the supervisor."""
        assert self._process is not None
        self._process.kill()
        self._process.wait(10)

    @property
    def running(self) -> bool:
        """Whether the supervisor lives."""
        return self._process is not None and self._process.poll() is None

    def end(self) -> None:
        """Stop it if it still runs."""
        if self.running:
            self.stop()

    @property
    def pid(self) -> int:
        """The supervisor's pid."""
        assert self._process is not None
        return self._process.pid

    def processes(self) -> dict[int, str]:
        """Every living process of the platform by pid, with its command line."""
        parents: dict[int, list[int]] = {}
        for path in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                parent = int((path / "stat").read_text().rpartition(")")[2].split()[1])
                parents.setdefault(parent, []).append(int(path.name))
        found: dict[int, str] = {}
        open_ends = [self.pid]
        while open_ends:
            pid = open_ends.pop()
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                found[pid] = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
            open_ends += parents.get(pid, [])
        return found

    def runtimes(self, name: str) -> list[int]:
        """Pids of the runtimes of one function's instances."""
        found = []
        for pid, command in self.processes().items():
            if "forebay_runtime" in command:
                settings = Path(command.split("--settings ")[1].split()[0])
                with contextlib.suppress(FileNotFoundError):
                    if json.loads(settings.read_bytes())["name"] == name:
                        found.append(pid)
        return found

    def pids_of(self, word: str) -> list[int]:
        """Pids of processes whose command line has `word`."""
        return [pid for pid, command in self.processes().items() if word in command]

    def http(
        self, method: str, path: str, body: bytes | None = None, headers: dict[str, str] | None = None
    ) -> tuple[int, bytes, dict[str, str]]:
        """One plain HTTP request: status, body, headers (names in lower case)."""
        request = urllib.request.Request(self.url + path, body, headers or {}, method=method)
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return answer.status, answer.read(), {k.lower(): v for k, v in answer.headers.items()}
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read(), {k.lower(): v for k, v in error.headers.items()}

    def api(self, method: str, path: str, document: Any = None) -> Any:
        """One management call; its JSON answer."""
        body = None if document is None else json.dumps(document).encode()
        status, answer, _ = self.http(method, path, body, self.authorization)
        assert status < 300, f"{method} {path}: {status} {answer!r}"
        return json.loads(answer) if answer else None

    def status(self, name: str) -> dict[str, Any]:
        """A function's queue and instances."""
        document: dict[str, Any] = self.api("GET", f"/v1/functions/{name}/status")
        return document

    def boto(self, **settings: Any) -> Any:
        """A boto3 Lambda client that never retries by itself."""
        return boto3.client(
            "lambda",
            endpoint_url=self.url,
            region_name="us-east-1",
            aws_access_key_id=self.key_pair[0],
            aws_secret_access_key=self.key_pair[1],
            config=Config(retries={"total_max_attempts": 1}, read_timeout=60, **settings),
        )

    def create(self, name: str, code: bytes | str | Mapping[str, str | bytes], **members: Any) -> None:
        """Create a function by boto3 and wait until it is active."""
        client = self.boto()
        zipped = code if isinstance(code, bytes) else package(code)
        defaults = {"Runtime": RUNTIME, "Handler": "app.handler", "Role": "arn:aws:iam::000000000000:role/r"}
        client.create_function(FunctionName=name, Code={"ZipFile": zipped}, **{**defaults, **members})
        client.get_waiter("function_active_v2").wait(FunctionName=name, WaiterConfig={"Delay": 1, "MaxAttempts": 10})

    def scale(self, name: str, **scale: Any) -> None:
        """Change a function's scale settings."""
        self.api("PUT", f"/v1/functions/{name}", {"scale": scale})

    def invoke(self, name: str, payload: Any = None, **members: Any) -> tuple[Any, dict[str, Any]]:
        """One call by boto3: the decoded payload (None when empty), and the whole answer."""
        answer = self.boto().invoke(FunctionName=name, Payload=json.dumps(payload).encode(), **members)
        body = answer["Payload"].read()
        return (json.loads(body) if body else None), answer


@contextlib.contextmanager
def running_platform(*options: str) -> Iterator[Platform]:
    """A platform in a temporary folder, ended with all it started."""
    with tempfile.TemporaryDirectory(prefix="fbt-") as folder:
        platform = Platform(Path(folder) / "data", *options)
        try:
            platform.start()
            yield platform
        finally:
            platform.end()


def alive(pid: int) -> bool:
    """Whether a process lives (a zombie does not)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def kill(pid: int) -> None:
    """kill -9."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)

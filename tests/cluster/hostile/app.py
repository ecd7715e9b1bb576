"""A function that tries to get at what is not its own; it runs as any user's code does, and answers with what came.

The event: `secrets` (what must not be found, each written backwards so that the event is no find), `redis`
(`[host, port]`), `connect` (`[name, host, port]` …), `http` (`[name, method, url, headers]` …) and `lambda`
(`[name, endpoint, operation, parameters]` …). The answer: a list of `[name, got in, what was seen]`.
"""

import ctypes
import json
import os
import socket
import ssl
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

TIMEOUT_S = 1.5
READ_MAX_BYTES = 4 << 20
FOLDERS = (
    "/run",
    "/var/run",
    "/etc",
    "/tmp",
    "/var/task",
    "/opt/forebay",
    "/home",
    "/root",
    "/mnt",
    "/srv",
    "/dev/shm",
)
TOKEN = Path("/var/run/secrets/kubernetes.io/serviceaccount/token")
REDIS_COMMANDS = (
    "PING",
    "KEYS *",
    "CONFIG GET *",
    "FLUSHALL",
    "SUBSCRIBE forebay:wake",
    "EVAL return(1) 0",
    "ACL LIST",
    "AUTH default",
    "AUTH forebay-controller forebay",
    "HELLO 3 AUTH default default",
)

Finding = list[Any]
"""`[name, got in, what was seen]`."""


def handler(event: dict[str, Any], _context: Any) -> list[Finding]:
    """Try everything, each for a bounded time."""
    wanted = [text[::-1].encode() for text in event["secrets"]]
    findings = [
        _try("a credential in the environment", lambda: _search([json.dumps(dict(os.environ)).encode()], wanted)),
        _try("a credential in a file", lambda: _search(_files(), wanted)),
        _try("a credential in another process", lambda: _search(_other_processes(), wanted)),
        _try("the runtime's process", _runtime_process),
        _try("a credential over the runtime's socket", lambda: _search([_ask_the_runtime()], wanted)),
        _try("a service-account token", TOKEN.read_text),
        _try("writing into the code folder", lambda: _write("/var/task/planted.py")),
        _try("writing into the platform's programs", lambda: _write("/opt/forebay/planted.py")),
        _try("becoming root", lambda: os.setuid(0)),
        _try("a user namespace", _unshare),
        _try("a block device", lambda: os.mknod("/tmp/disk", 0o60600, os.makedev(8, 0))),
    ]
    findings += [_redis(event["redis"], text) for text in REDIS_COMMANDS]
    findings += [_connect(*target) for target in event["connect"]]
    findings += [_http(*target) for target in event["http"]]
    findings += [_lambda(*target) for target in event["lambda"]]
    return findings


def _try(name: str, attempt: Callable[[], Any]) -> Finding:
    """An attempt that gets in unless it raises."""
    try:
        seen = attempt()
    except (OSError, LookupError, AttributeError) as error:
        return [name, False, f"{type(error).__name__}: {error}"]
    return [name, True, repr(seen)[:200]]


def _search(places: Iterable[bytes], wanted: list[bytes]) -> str:
    """Raises LookupError when none of the secrets is there."""
    count = 0
    for content in places:
        count += 1
        if any(secret in content for secret in wanted):
            return "found"
    raise LookupError(f"nothing in {count} places")


def _files() -> Iterator[bytes]:
    for folder in FOLDERS:
        for root, _, names in os.walk(folder):
            for name in names:
                path = Path(root, name)
                if path.is_file() and os.access(path, os.R_OK):
                    with path.open("rb") as file:
                        yield file.read(READ_MAX_BYTES)


def _other_pids() -> list[int]:
    return [int(path.name) for path in Path("/proc").glob("[0-9]*") if int(path.name) != os.getpid()]


def _other_processes() -> Iterator[bytes]:
    """Environment and writable memory of every other process that can be seen."""
    for pid in _other_pids():
        for name in ("environ", "cmdline"):
            try:
                yield Path(f"/proc/{pid}/{name}").read_bytes()
            except OSError:
                continue
        try:
            maps = Path(f"/proc/{pid}/maps").read_text().splitlines()
            memory = Path(f"/proc/{pid}/mem").open("rb")  # noqa: SIM115 - closed below, where reading may fail
        except OSError:
            continue
        with memory:
            for line in maps:
                span, rights = line.split()[:2]
                begin, end = (int(part, 16) for part in span.split("-"))
                if rights.startswith("rw") and end - begin <= READ_MAX_BYTES:
                    try:
                        memory.seek(begin)
                        yield memory.read(end - begin)
                    except OSError:
                        continue


def _runtime_process() -> str:
    for pid in _other_pids():
        command = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace")
        if "forebay_runtime" in command:
            return command
    raise LookupError("only the handlers' own processes are to be seen")


def _ask_the_runtime() -> bytes:
    """Say something to every socket that lies about, and take what comes."""
    answers = b""
    for path in [
        path for folder in ("/run", "/tmp", "/var/task") for path in Path(folder).rglob("*") if path.is_socket()
    ]:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(TIMEOUT_S)
            connection.connect(str(path))
            connection.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n" + b"\x00" * 64)
            try:
                answers += connection.recv(READ_MAX_BYTES)
            except TimeoutError:
                continue
    return answers


def _unshare() -> int:
    """unshare(CLONE_NEWUSER), which would make this process root of a namespace of its own."""
    result: int = ctypes.CDLL(None, use_errno=True).unshare(0x10000000)
    if result != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result


def _write(path: str) -> str:
    Path(path).write_text("planted")
    return path


def _redis(place: list[Any], text: str) -> Finding:
    """One command without any credential; refused with an error, or not answered at all."""
    words = text.split()
    request = f"*{len(words)}\r\n" + "".join(f"${len(word)}\r\n{word}\r\n" for word in words)
    name = f"Redis without a password: {text}"
    try:
        with socket.create_connection((place[0], place[1]), TIMEOUT_S) as connection:
            connection.sendall(request.encode())
            answer = connection.recv(4096).decode(errors="replace").strip()
    except OSError as error:
        return [name, False, f"no answer: {error}"]
    return [name, not answer.startswith("-"), answer[:120]]


def _connect(name: str, host: str, port: int) -> Finding:
    try:
        with socket.create_connection((host, port), TIMEOUT_S):
            return [name, True, "connected"]
    except OSError as error:
        return [name, False, f"{type(error).__name__}: {error}"]


def _http(name: str, method: str, url: str, headers: dict[str, str]) -> Finding:
    """Gets in when it is answered with success."""
    own = f"{os.environ['AWS_ACCESS_KEY_ID']}.{os.environ['AWS_SECRET_ACCESS_KEY']}"
    shown = {key: value.replace("OWN_KEY", own) for key, value in headers.items()}
    request = urllib.request.Request(url, b"{}" if method in ("POST", "PUT") else None, shown, method=method)
    trusting = ssl.create_default_context()
    trusting.check_hostname = False
    trusting.verify_mode = ssl.CERT_NONE
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_S, context=trusting) as answer:
            return [name, True, f"{answer.status}: {answer.read(200)!r}"]
    except urllib.error.HTTPError as error:
        return [name, False, f"{error.code}: {error.read(200)!r}"]
    except OSError as error:
        return [name, False, f"no answer: {error}"]


def _lambda(name: str, endpoint: str, operation: str, parameters: dict[str, Any]) -> Finding:
    """An operation of boto3 with the function's own key pair, as the environment gives it."""
    import boto3  # noqa: PLC0415 - slow to import, and the last thing that is done
    from botocore.config import Config  # noqa: PLC0415
    from botocore.exceptions import BotoCoreError, ClientError  # noqa: PLC0415

    settings = Config(retries={"total_max_attempts": 1}, connect_timeout=TIMEOUT_S, read_timeout=5)
    client = boto3.client("lambda", endpoint_url=endpoint or None, config=settings)
    try:
        answer = getattr(client, operation)(**parameters)
    except ClientError as error:
        return [name, False, f"{error.response['Error']['Code']}: {error.response['Error']['Message']}"[:200]]
    except BotoCoreError as error:
        return [name, False, f"no answer: {error}"[:200]]
    if "FunctionError" in answer:
        return [name, False, f"function error: {answer['Payload'].read(200)!r}"]
    return [name, True, str(answer)[:200]]

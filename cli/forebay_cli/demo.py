"""`forebay demo`: the whole way of a function, on a platform of its own that is gone afterwards."""

from __future__ import annotations

import asyncio
import json
import re
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from forebay_cli import example_functions
from forebay_cli.client import Client
from forebay_cli.connection import Connection
from forebay_cli.demo_burst import Burst, show_burst
from forebay_cli.deploy import DeployOptions, deploy
from forebay_cli.errors import UserError
from forebay_cli.processes import tie_to_parent
from forebay_cli.up import aws_environment
from forebay_cli.up_options import REGION

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

CALLS = 200
IDLE_S = 3.0
START_MAX_S = 30.0
STOP_MAX_S = 60.0
LOG_MAX_S = 10.0
POLL_S = 0.05
READY = re.compile(r"is ready at (http://\S+)")


class Steps:
    """What the demo did and how long each step took."""

    def __init__(self) -> None:
        self._took: list[tuple[str, float]] = []

    @contextmanager
    def step(self, title: str) -> Iterator[None]:
        """Announce a step and time it."""
        print(f"\n{len(self._took) + 1}. {title}", flush=True)
        began = time.monotonic()
        yield
        self._took.append((title, time.monotonic() - began))

    def show(self) -> None:
        """The list of steps with their times."""
        width = max(len(title) for title, _ in self._took)
        print("\nWhat it did:")
        for title, seconds in self._took:
            print(f"  {title:<{width}}  {seconds:6.2f} s")
        print(f"  {'in all':<{width}}  {sum(seconds for _, seconds in self._took):6.2f} s", flush=True)


def run() -> None:
    """Run the demo. Raises UserError when a step fails; the platform is stopped either way."""
    steps = Steps()
    with tempfile.TemporaryDirectory(prefix="forebay-demo-", ignore_cleanup_errors=True) as folder:
        with steps.step("start the platform, on a free port and a temporary data dir"):
            platform, url = start(Path(folder))
        try:
            with Client(Connection(url)) as client:
                play(steps, client)
        finally:
            with steps.step("stop it"):
                stop(platform)
    steps.show()


def start(folder: Path) -> tuple[subprocess.Popen[str], str]:
    """Start `forebay up` and wait until it says where it is. Raises UserError."""
    command = [sys.executable, "-P", "-m", "forebay_cli.main", "up", "--port", "0", "--data-dir", str(folder / "data"),
               "--async-retry-delays", "1,2"]  # fmt: skip
    print(f"   forebay {' '.join(command[4:])}", flush=True)
    platform = subprocess.Popen(
        command, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True, start_new_session=True,
        preexec_fn=tie_to_parent(signal.SIGTERM),  # noqa: PLW1509 - no other thread runs yet
    )  # fmt: skip
    assert platform.stdout is not None
    for line in platform.stdout:
        if found := READY.search(line):
            print(f"   {line.strip()}", flush=True)
            return platform, found[1]
    raise UserError(f"the platform did not start (exit status {platform.wait()})")


def stop(platform: subprocess.Popen[str]) -> None:
    """Stop the platform as Ctrl-C does. Raises UserError when it does not end well."""
    platform.send_signal(signal.SIGINT)
    try:
        platform.communicate(timeout=STOP_MAX_S)
    except subprocess.TimeoutExpired:
        platform.kill()
        platform.communicate()
        raise UserError(f"the platform did not stop within {STOP_MAX_S:.0f} s") from None
    if platform.returncode:
        raise UserError(f"the platform ended with exit status {platform.returncode}")


def play(steps: Steps, client: Client) -> None:
    """Everything between start and stop."""
    with steps.step("deploy examples/hello"):
        put(client, "hello", DeployOptions())
    with steps.step("call it by plain HTTP"):
        call_by_http(client)
    with steps.step("call it by boto3, unchanged"):
        call_by_boto3(client.url)
    with steps.step("send it an async event and read its log"):
        call_async(client)
    with steps.step("deploy examples/sleeper, which takes 100 ms for each call"):
        put(client, "sleeper", DeployOptions(idle_s=IDLE_S))
    with steps.step(f"burst of {CALLS} calls; instances go 0 -> N -> 0"):
        burst = Burst(client.url, "sleeper", CALLS)
        result = asyncio.run(show_burst(burst, idle_s=IDLE_S))
        print(f"   {result}", flush=True)


def put(client: Client, name: str, options: DeployOptions) -> None:
    """Deploy one of the examples under its own name."""
    function = deploy(
        client, name, example_functions.folder() / name, options, lambda line: print(f"   {line}", flush=True)
    )
    print(f"   {name}: {function['runtime']}, {function['handler']}, {function['state']}", flush=True)


def call_by_http(client: Client) -> None:
    """What curl does."""
    print(f"   curl {client.url}/fn/hello", flush=True)
    answer = client.get_url("/fn/hello")
    print(f"   {answer.status_code} {answer.text.strip()}", flush=True)
    if "Hello World" not in answer.text:
        raise UserError("examples/hello did not say Hello World")


def call_by_boto3(url: str) -> None:
    """What any program written for AWS does."""
    import boto3  # noqa: PLC0415 - the slowest import of all, for one step

    environment = aws_environment(url)
    aws = boto3.client(
        "lambda",
        endpoint_url=url,
        region_name=REGION,
        aws_access_key_id=environment["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=environment["AWS_SECRET_ACCESS_KEY"],
    )
    print('   boto3.client("lambda").invoke(FunctionName="hello", Payload=b\'{"name": "boto3"}\')', flush=True)
    answer = aws.invoke(FunctionName="hello", Payload=b'{"name": "boto3"}')
    payload: Any = json.loads(answer["Payload"].read())
    print(f"   {answer['StatusCode']} {answer['ExecutedVersion']} {payload}", flush=True)
    if "FunctionError" in answer:
        raise UserError("examples/hello failed when boto3 called it")


def call_async(client: Client) -> None:
    """An event that nobody waits for, found again in the log by its id."""
    sent = client.invoke("hello", b'{"name": "whoever reads the log"}', asynchronous=True)
    print(f"   202 accepted as {sent.request_id}", flush=True)

    def finished() -> list[str] | None:
        with client.log_lines("hello", lines=100, follow=False) as lines:
            return own_lines(list(lines), sent.request_id)

    for line in wait_for(finished, LOG_MAX_S, "the async event's log"):
        print(f"   | {line}", flush=True)


def own_lines(lines: list[str], request_id: str) -> list[str] | None:
    """What one invocation logged, from its START to its REPORT; None while it is not all there."""
    own = [number for number, line in enumerate(lines) if request_id in line]
    if not own or "REPORT" not in lines[own[-1]]:
        return None
    return lines[own[0] : own[-1] + 1]


def wait_for(find: Callable[[], list[str] | None], at_most_s: float, what: str) -> list[str]:
    """Ask until there is an answer. Raises UserError when there is none in time."""
    deadline = time.monotonic() + at_most_s
    while time.monotonic() < deadline:
        if (found := find()) is not None:
            return found
        time.sleep(POLL_S)  # the log is read as anybody would read it
    raise UserError(f"{what} did not come within {at_most_s:.0f} s")

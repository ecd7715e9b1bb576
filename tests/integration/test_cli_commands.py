"""The command line against a real platform: what a person types, and what comes back."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from support.platform import FOREBAY, Platform, package
from support.waiting import wait_until

RUNTIME = f"python{sys.version_info.major}.{sys.version_info.minor}"
Run = Callable[..., "subprocess.CompletedProcess[str]"]

ECHO = """
def handler(event, context):
    print("echoing", event)
    if event == "fail":
        raise ValueError("as asked")
    return event
"""


@pytest.fixture
def forebay(platform: Platform, tmp_path: Path) -> Run:
    """Runs a command against the shared platform."""
    folders = {"XDG_CACHE_HOME": str(tmp_path / "cache"), "XDG_CONFIG_HOME": str(tmp_path / "config")}
    environment = {**os.environ, **folders, "FOREBAY_ENDPOINT": platform.url}

    def run(*words: str, text: str = "", code: int = 0) -> subprocess.CompletedProcess[str]:
        ended = subprocess.run(
            [FOREBAY, *words], env=environment, input=text, capture_output=True, text=True, timeout=90, check=False
        )
        assert ended.returncode == code, ended
        assert "Traceback" not in ended.stderr
        return ended

    return run


@pytest.fixture
def echo(tmp_path: Path) -> Path:
    file = tmp_path / "echo.py"
    file.write_text(ECHO)
    return file


def test_a_function_from_deploy_to_delete(forebay: Run, platform: Platform, echo: Path) -> None:
    deployed = forebay("deploy", "cli-life", str(echo), "--memory", "256", "--env", "GREETING=hi")
    assert deployed.stdout == f"curl {platform.url}/fn/cli-life\n"

    invoked = forebay("invoke", "cli-life", "-d", '{"n": 1}', "--log")
    assert json.loads(invoked.stdout) == {"n": 1}
    assert "echoing" in invoked.stderr
    assert "REPORT RequestId" in invoked.stderr

    got = json.loads(forebay("get", "cli-life", "--output", "json").stdout)
    assert (got["handler"], got["runtime"], got["memory_mb"]) == ("echo.handler", RUNTIME, 256)
    assert got["env"] == {"GREETING": "hi"}
    assert "cli-life" in [function["name"] for function in json.loads(forebay("list", "-o", "json").stdout)]
    assert "cli-life" in forebay("list").stdout
    assert "echo.handler" in forebay("get", "cli-life").stdout

    assert "deleted" in forebay("delete", "cli-life", "--yes").stderr
    assert "There is no function" in forebay("get", "cli-life", code=1).stderr


def test_invoke_takes_its_event_from_a_file_or_stdin(forebay: Run, echo: Path, tmp_path: Path) -> None:
    forebay("deploy", "cli-data", str(echo))
    (tmp_path / "event.json").write_text('{"from": "file"}')

    assert json.loads(forebay("invoke", "cli-data", "-d", f"@{tmp_path}/event.json").stdout) == {"from": "file"}
    assert json.loads(forebay("invoke", "cli-data", "-d", "-", text='["stdin"]').stdout) == ["stdin"]
    assert json.loads(forebay("invoke", "cli-data").stdout) == {}
    assert "No such file" in forebay("invoke", "cli-data", "-d", "@nowhere", code=1).stderr


def test_a_function_error_is_exit_code_1_with_the_error_on_stdout(forebay: Run, echo: Path) -> None:
    forebay("deploy", "cli-error", str(echo))

    failed = forebay("invoke", "cli-error", "-d", '"fail"', code=1)

    assert json.loads(failed.stdout)["errorType"] == "ValueError"
    assert "Unhandled" in failed.stderr


def test_an_async_call_prints_its_id_and_appears_in_the_log(forebay: Run, echo: Path) -> None:
    forebay("deploy", "cli-async", str(echo))

    invocation_id = forebay("invoke", "cli-async", "--async", "-d", '"later"').stdout.strip()

    wait_until(
        lambda: f"REPORT RequestId: {invocation_id}" in forebay("logs", "cli-async").stdout, "its report is in the log"
    )


def test_a_new_deployment_is_what_answers_when_deploy_returns(forebay: Run, tmp_path: Path) -> None:
    file = tmp_path / "app.py"
    for number in range(3):
        file.write_text(f"def handler(event, context): return {number}")
        forebay("deploy", "cli-update", str(file))
        assert forebay("invoke", "cli-update").stdout == f"{number}\n"


def test_an_update_keeps_what_it_does_not_name(forebay: Run, echo: Path) -> None:
    forebay(
        "deploy", "cli-keep", str(echo), "--timeout", "9", "--max-instances", "2", "--allow-origin", "https://a.example"
    )
    forebay("deploy", "cli-keep", str(echo), "--idle-seconds", "5")

    got = json.loads(forebay("get", "cli-keep", "-o", "json").stdout)

    assert got["timeout_s"] == 9
    assert (got["scale"]["max_instances"], got["scale"]["idle_s"]) == (2, 5)
    assert got["allowed_origins"] == ["https://a.example"]


def test_settings_of_async_delivery_are_deployed_kept_and_taken_away(forebay: Run, echo: Path) -> None:
    options = ("--async-retries", "0", "--async-max-age", "60", "--retry-delays", "0.5,1")
    destinations = ("--on-success", "function:nobody-yet", "--on-failure", "https://a.example/b")
    deployed = forebay("deploy", "cli-async-settings", str(echo), *options, *destinations)
    assert "There is no function nobody-yet yet to send records to" in deployed.stderr
    wanted = {
        "max_retries": 0,
        "max_age_s": 60,
        "retry_delays_s": [0.5, 1],
        "on_success": "function:nobody-yet",
        "on_failure": "https://a.example/b",
    }
    found = json.loads(forebay("get", "cli-async-settings", "--output", "json").stdout)
    assert found["async"] == wanted

    forebay("deploy", "cli-async-settings", str(echo), "--on-success", "none")
    found = json.loads(forebay("get", "cli-async-settings", "--output", "json").stdout)
    assert found["async"] == wanted | {"on_success": None}


def test_a_folders_requirements_are_installed_once_and_a_zip_goes_as_it_is(
    forebay: Run, tmp_path: Path, pip_index: Path
) -> None:
    folder = tmp_path / "function"
    folder.mkdir()
    (folder / "app.py").write_text("import fbtestlib\ndef handler(event, context): return fbtestlib.WORD")
    (folder / "requirements.txt").write_text(f"--no-index\n--find-links {pip_index}\nfbtestlib\n")

    assert "installed (" in forebay("deploy", "cli-deps", str(folder)).stderr
    assert json.loads(forebay("invoke", "cli-deps").stdout) == "from a wheel"
    assert "as installed before" in forebay("deploy", "cli-deps", str(folder)).stderr

    (tmp_path / "whole.zip").write_bytes(package(ECHO))
    forebay("deploy", "cli-deps", str(tmp_path / "whole.zip"))
    assert forebay("invoke", "cli-deps", "-d", "1").stdout == "1\n"


@pytest.fixture
def pip_index(tmp_path: Path) -> Path:
    """A folder with one wheel, so that no network is needed."""
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    about = "fbtestlib-1.0.dist-info"
    files = {
        "fbtestlib.py": "WORD = 'from a wheel'\n",
        f"{about}/METADATA": "Metadata-Version: 2.1\nName: fbtestlib\nVersion: 1.0\n",
        f"{about}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{about}/RECORD": "",
    }
    (wheels / "fbtestlib-1.0-py3-none-any.whl").write_bytes(package(files))
    return wheels


def test_requirements_that_cannot_be_installed_say_why_and_deploy_nothing(
    forebay: Run, tmp_path: Path, pip_index: Path
) -> None:
    folder = tmp_path / "function"
    folder.mkdir()
    (folder / "app.py").write_text(ECHO)
    (folder / "requirements.txt").write_text(f"--no-index\n--find-links {pip_index}\nno-such-thing\n")

    assert "no-such-thing" in forebay("deploy", "cli-nodeps", str(folder), code=1).stderr
    assert "There is no function" in forebay("get", "cli-nodeps", code=1).stderr


def test_status_counts_instances(forebay: Run, echo: Path) -> None:
    forebay("deploy", "cli-status", str(echo))
    forebay("invoke", "cli-status")

    def status() -> dict[str, Any]:
        found: dict[str, Any] = json.loads(forebay("status", "cli-status", "-o", "json").stdout)
        return found

    assert status()["instances"].keys() == {"starting", "idle", "busy", "draining"}
    wait_until(lambda: status()["instances"]["idle"] == 1, "the controller has seen that the call is done")
    assert (status()["queued"], status()["in_flight"]) == (0, 0)
    assert "cli-status" in forebay("status").stdout


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("get", "nobody"), "There is no function nobody"),
        (("invoke", "nobody"), "Function not found"),
        (("logs", "nobody"), "There is no function nobody"),
        (("status", "nobody"), "There is no function nobody"),
        (("delete", "nobody", "--yes"), "There is no function nobody"),
        (("delete", "nobody"), "--yes"),
        (("deploy", "nobody", "/nowhere"), "does not exist"),
        (("deploy", "nobody"), "a path, or --image"),
        (("deploy", "nobody", "{echo}", "--image", "app:1"), "a path, or --image"),
        (("deploy", "nobody", "--image", "app:1", "--handler", "a.b"), "its own entrypoint"),
        (("deploy", "nobody", "{echo}", "--auth", "maybe"), "auth"),
        (("deploy", "nobody", "{echo}", "--egress", "none"), "only a platform on Kubernetes"),
        (("deploy", "bad name", "{echo}"), "bad name"),
        (("deploy", "nobody", "{echo}", "--timeout", "901"), "timeout"),
        (("deploy", "nobody", "{echo}", "--env", "A"), "NAME=VALUE"),
        (("deploy", "nobody", "{echo}", "--async-retries", "3"), "async.max_retries is 3, 0 to 2 is allowed"),
        (("deploy", "nobody", "{echo}", "--retry-delays", "soon"), "as 1,2"),
        (("deploy", "nobody", "{echo}", "--on-failure", "queue:a"), "is no destination: function:NAME"),
        (("invoke", "{echo-function}", "-d", "{"), "into json"),
    ],
)
def test_mistakes_are_one_line(forebay: Run, echo: Path, words: tuple[str, ...], says: str) -> None:
    if "{echo-function}" in words:
        forebay("deploy", "cli-mistakes", str(echo))
    filled = [word.replace("{echo}", str(echo)).replace("{echo-function}", "cli-mistakes") for word in words]

    failed = forebay(*filled, code=1)

    assert says in failed.stderr
    assert failed.stderr.startswith("forebay: ")
    assert failed.stdout == ""


def test_without_a_platform_it_says_how_to_get_one() -> None:
    ended = subprocess.run(
        [FOREBAY, "list"], env={**os.environ, "FOREBAY_ENDPOINT": "http://127.0.0.1:1"}, capture_output=True, text=True,
        timeout=30, check=False,
    )  # fmt: skip

    assert ended.returncode == 1
    assert ended.stderr == (
        "forebay: no Forebay at http://127.0.0.1:1: start one with `forebay up`, or set FOREBAY_ENDPOINT\n"
    )


def test_the_shell_completes_function_names(forebay: Run, platform: Platform, echo: Path) -> None:
    forebay("deploy", "cli-complete-me", str(echo))
    typed = {"_FOREBAY_COMPLETE": "complete_bash", "COMP_WORDS": "forebay get cli-comp", "COMP_CWORD": "2"}

    ended = subprocess.run(
        [FOREBAY], env={**os.environ, "FOREBAY_ENDPOINT": platform.url, **typed}, capture_output=True, text=True,
        timeout=30, check=False,
    )  # fmt: skip

    assert ended.stdout.split() == ["cli-complete-me"]

"""What a runtime's start costs and does first."""

import subprocess
import sys
from pathlib import Path

import pytest

from forebay_runtime.container import leave_message
from forebay_runtime.settings import take_json

FORBIDDEN = (
    "asyncio", "argparse", "collections", "ctypes", "dataclasses", "enum", "fastapi", "hashlib", "json", "logging",
    "pathlib", "pydantic", "random", "re", "redis", "selectors", "signal", "socket", "ssl", "subprocess", "tempfile",
    "threading", "typing", "uuid", "zipfile",
)  # fmt: skip


def run(code: str) -> str:
    # Isolated and without site: what the environment's own start-up files import is not the runtime's cost.
    paths = f"import sys; sys.path[:0] = {sys.path!r}\n"
    command = [sys.executable, "-I", "-S", "-c", paths + code]
    return subprocess.run(command, capture_output=True, check=True, text=True).stdout.strip()


def test_the_runtime_imports_none_of_what_makes_a_start_slow() -> None:
    loaded = run(f"import forebay_runtime.main, sys\nprint(*[name for name in {FORBIDDEN!r} if name in sys.modules])")

    assert loaded == ""


def test_the_process_can_make_itself_unreadable() -> None:
    dumpable = run(
        "from forebay_runtime.process import make_non_dumpable\n"
        "make_non_dumpable()\n"
        "import ctypes\n"
        "print(ctypes.CDLL(None).prctl(3))"
    )

    assert dumpable == "0"


def test_a_json_document_is_read_without_the_json_package() -> None:
    read = run(
        "from forebay_runtime.lean import parse_json, quote\n"
        "import sys\n"
        'print(parse_json(\' {"a": [1, 2.5, null, true, "\\\\u00e9"]}\\n\') == {"a": [1, 2.5, None, True, "é"]})\n'
        'print(quote("é\\n"), "json" in sys.modules)\n'
        'for text in ("", "{", "1 2", "nonsense"):\n'
        "    try:\n"
        "        print(parse_json(text))\n"
        "    except ValueError:\n"
        '        print("refused")'
    )

    assert read.splitlines() == ["True", '"\\u00e9\\n" False', *["refused"] * 4]


def test_what_a_variable_holds_is_taken_out_of_the_environment() -> None:
    environment = {"A": '{"password": "p"}', "B": "kept"}

    assert take_json(environment, "A") == {"password": "p"}
    assert environment == {"B": "kept"}


@pytest.mark.parametrize("text", ["", "no JSON", "[1]"])
def test_a_variable_without_an_object_is_refused_and_gone(text: str) -> None:
    environment = {"A": text}

    with pytest.raises(ValueError, match=r"Expecting value|no JSON object"):
        take_json(environment, "A")
    assert environment == {}


def test_a_termination_message_replaces_the_last_one_and_is_bounded(tmp_path: Path) -> None:
    file = tmp_path / "message"
    file.write_text("what was there before, and longer")

    leave_message("short", str(file))
    assert file.read_text() == "short"
    leave_message("x" * 10_000, str(file))
    assert file.read_text() == "x" * 4096


def test_a_termination_message_that_nobody_takes_is_no_failure(capfd: pytest.CaptureFixture[str]) -> None:
    leave_message("why", "/nowhere/message")

    assert "no termination message could be left" in capfd.readouterr().err

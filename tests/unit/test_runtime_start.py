"""What a runtime's start costs and does first."""

import subprocess
import sys

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

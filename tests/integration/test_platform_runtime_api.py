"""Any program that speaks the Lambda Runtime API: awslambdaric, unmodified, in a `provided` function."""

import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from support.platform import Platform, package

PYTHON = f"python{sys.version_info.major}.{sys.version_info.minor}"
BOOTSTRAP = f"""#!/bin/sh
for python in /var/lang/bin/{PYTHON} {sys.base_prefix}/bin/{PYTHON}; do
  [ -x "$python" ] && exec "$python" -m awslambdaric "$_HANDLER"
done
"""
APP = """
import os
def handler(event, context):
    if event.get("do") == "raise":
        raise ValueError("from ric")
    if event.get("do") == "spin":
        while True:
            pass
    if event.get("do") == "exit":
        os._exit(7)
    return {"event": event, "id": context.aws_request_id}
"""


def installed(name: str) -> Path:
    """The file or folder that a distribution's module is."""
    spec = find_spec(name)
    assert spec is not None
    assert spec.origin is not None
    path = Path(spec.origin)
    return path.parent if path.name == "__init__.py" else path


def files_of(path: Path) -> dict[str, bytes]:
    found = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    return {str(file.relative_to(path.parent)): file.read_bytes() for file in found if file.suffix != ".pyc"}


@pytest.fixture(scope="module")
def ric(platform: Platform) -> str:
    files: dict[str, str | bytes] = {"app.py": APP, "bootstrap": BOOTSTRAP}
    for name in ("awslambdaric", "simplejson", "snapshot_restore_py"):
        files |= files_of(installed(name))
    files |= {file.name: file.read_bytes() for file in installed("awslambdaric").parent.glob("runtime_client*.so")}
    platform.create("ric", package(files, executable=("bootstrap",)), Runtime="provided.al2023", Timeout=2)
    return "ric"


def test_awslambdaric_serves_calls_and_errors(platform: Platform, ric: str) -> None:
    payload, answer = platform.invoke(ric, {"n": 1})
    assert payload == {"event": {"n": 1}, "id": answer["ResponseMetadata"]["RequestId"]}
    payload, answer = platform.invoke(ric, {"do": "raise"})
    assert answer["FunctionError"] == "Unhandled"
    assert (payload["errorType"], payload["errorMessage"]) == ("ValueError", "from ric")


@pytest.mark.parametrize(("do", "error_type"), [("spin", "Sandbox.Timedout"), ("exit", "Runtime.ExitError")])
def test_a_program_that_hangs_or_ends_is_replaced(platform: Platform, ric: str, do: str, error_type: str) -> None:
    payload, answer = platform.invoke(ric, {"do": do})
    assert answer["FunctionError"] == "Unhandled"
    assert payload["errorType"] == error_type
    assert platform.invoke(ric, {"n": 2})[0]["event"] == {"n": 2}

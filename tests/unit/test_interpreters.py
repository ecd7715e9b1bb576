"""Which interpreter a runtime name means."""

import os
import sys
from pathlib import Path

import pytest

from forebay_controller.interpreters import find_interpreter, own_interpreter, runtime_warning

OWN = f"{sys.version_info.major}.{sys.version_info.minor}"


@pytest.fixture(autouse=True)
def _forget_answers() -> None:
    find_interpreter.cache_clear()


def launcher(folder: Path, name: str, script: str) -> None:
    path = folder / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


def test_the_platforms_own_version_is_exact() -> None:
    assert find_interpreter(f"python{OWN}") == own_interpreter()
    assert runtime_warning(f"python{OWN}") == ""


def test_an_interpreter_on_the_path_that_runs_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    launcher(tmp_path, "python3.99", """echo '[[3, 99], "/somewhere/python3.99", "/somewhere"]'""")
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    found = find_interpreter("python3.99")
    assert (found.version, found.executable, found.prefix) == ("3.99", "/somewhere/python3.99", "/somewhere")
    assert runtime_warning("python3.99") == ""


@pytest.mark.parametrize("script", ["exit 127", "echo nonsense", """echo '[[3, 1], "/x", "/y"]'"""])
def test_a_launcher_that_fails_or_lies_does_not_count(
    script: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    launcher(tmp_path, "python3.99", script)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    assert find_interpreter("python3.99") == own_interpreter()
    assert "runs on the platform's own" in runtime_warning("python3.99")


def test_a_provided_runtime_needs_no_interpreter_of_its_own() -> None:
    assert find_interpreter("provided.al2023") == own_interpreter()
    assert runtime_warning("provided.al2023") == ""

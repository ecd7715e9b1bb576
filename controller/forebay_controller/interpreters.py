"""Which interpreter a managed Python runtime name means on this machine.

An interpreter counts as there only when running it works and it says the version asked for: a launcher on the
PATH may exist and still fail for a version that is not installed.
"""

import functools
import json
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass

_RUNTIME = re.compile(r"python(3\.\d{1,2})")
_ASK = "import json, sys; print(json.dumps([list(sys.version_info[:2]), sys._base_executable, sys.base_prefix]))"
_ASK_TIMEOUT_S = 10


@dataclass(frozen=True, slots=True)
class Interpreter:
    """A Python that runs: its executable and the prefix its standard library lies under."""

    version: str
    executable: str
    prefix: str


def own_interpreter() -> Interpreter:
    """The interpreter the platform itself runs on, outside of any virtual environment."""
    executable: str = getattr(sys, "_base_executable", sys.executable)
    return Interpreter(f"{sys.version_info.major}.{sys.version_info.minor}", executable, sys.base_prefix)


@functools.lru_cache(maxsize=64)
def find_interpreter(runtime: str) -> Interpreter:
    """The interpreter for a runtime name: the exact version where it runs, else the platform's own.

    Runs the candidate once (tens of milliseconds); answers are kept for the life of the process. `provided*`
    runtimes bring their own program, so the platform's interpreter serves them.
    """
    own = own_interpreter()
    match = _RUNTIME.fullmatch(runtime)
    if match is None or match[1] == own.version:
        return own
    candidate = shutil.which(f"python{match[1]}")
    return (_ask(candidate, match[1]) if candidate else None) or own


def runtime_warning(runtime: str) -> str:
    """What to tell the user about a runtime name on this machine; "" when there is nothing to tell."""
    match = _RUNTIME.fullmatch(runtime)
    if match is None or find_interpreter(runtime).version == match[1]:
        return ""
    return (
        f"{runtime} is not on the PATH of this machine: the function runs on the platform's own "
        f"python{own_interpreter().version}. Install {runtime} to run on it exactly."
    )


def _ask(executable: str, version: str) -> Interpreter | None:
    """Run a candidate; None when it fails or is another version."""
    try:
        answer = subprocess.run(
            [executable, "-I", "-S", "-c", _ASK], capture_output=True, timeout=_ASK_TIMEOUT_S, check=True
        )
        (major, minor), base_executable, prefix = json.loads(answer.stdout)
    except (OSError, subprocess.SubprocessError, ValueError):
        return None
    if f"{major}.{minor}" != version:
        return None
    return Interpreter(version, base_executable, prefix)

"""Installs a folder's requirements.txt for its package, once for each content, interpreter and machine."""

import hashlib
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from forebay_cli.errors import UserError
from forebay_controller.interpreters import Interpreter, find_interpreter

DONE = "installed"
"""Names the folder inside a cache entry; it is there only when pip finished."""
ERROR_LINES = 12

Progress = Callable[[str], None]


def cache_folder() -> Path:
    """`$XDG_CACHE_HOME/forebay/packages`, or `~/.cache/forebay/packages`."""
    home = os.environ.get("XDG_CACHE_HOME")
    return (Path(home) if home else Path.home() / ".cache") / "forebay" / "packages"


def cache_key(requirements: bytes, interpreter: Interpreter) -> str | None:
    """Names what pip would install; None when the file refers to others, whose content it does not show."""
    for line in requirements.decode(errors="replace").splitlines():
        word = line.strip()
        if word.startswith(("-r", "-c", "-e", "--requirement", "--constraint", "--editable", ".", "/", "file:")) or (
            "@ file:" in word
        ):
            return None
    about = "\0".join((interpreter.version, platform.machine(), platform.libc_ver()[0])).encode()
    return hashlib.sha256(about + b"\0" + requirements).hexdigest()


@contextmanager
def installed(requirements: Path, runtime: str, progress: Progress) -> Iterator[dict[str, Path]]:
    """The files that the requirements add to the package, by their name in it, for as long as the `with` lasts.

    Raises UserError with pip's own last words when it fails.
    """
    interpreter = find_interpreter(runtime)
    key = cache_key(requirements.read_bytes(), interpreter)
    parent = cache_folder()
    parent.mkdir(parents=True, exist_ok=True)
    if key is not None and (parent / key / DONE).is_dir():
        progress("requirements.txt: as installed before")
        yield _files(parent / key / DONE)
        return
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="installing-", dir=parent, ignore_cleanup_errors=True) as name:
        staged = Path(name) / "entry"
        _pip_install(requirements, interpreter, staged / DONE, progress)
        progress(f"requirements.txt: installed ({time.monotonic() - began:.1f} s)")
        if key is None:
            yield _files(staged / DONE)
            return
        with suppress(OSError):  # another deploy was quicker with the same content
            staged.rename(parent / key)
        yield _files(parent / key / DONE)


def _pip_install(requirements: Path, interpreter: Interpreter, target: Path, progress: Progress) -> None:
    # pip of the platform's own environment, working for the function's interpreter.
    args = [
        sys.executable, "-m", "pip", "--python", interpreter.executable, "--disable-pip-version-check", "install",
        "--target", str(target), "--no-compile", "--progress-bar", "off", "--no-input",
        "--requirement", str(requirements.resolve()),
    ]  # fmt: skip
    last: list[str] = []
    with subprocess.Popen(
        args, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, cwd=requirements.parent, text=True, errors="replace"
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            last = [*last[-ERROR_LINES:], line.rstrip()]
            if word := _worth_telling(line.strip()):
                progress(word)
    if process.returncode:
        errors = [line for line in last if line.lower().startswith("error")] or last
        raise UserError(f"pip could not install {requirements}: " + " | ".join(errors))
    target.mkdir(parents=True, exist_ok=True)  # an empty requirements.txt installs nothing


def _worth_telling(line: str) -> str | None:
    if line.startswith(("Collecting ", "Building ", "Installing collected")):
        return f"requirements.txt: {line[0].lower()}{line[1:]}"[:100]
    return None


def _files(folder: Path) -> dict[str, Path]:
    found = {}
    for parent, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if name != "__pycache__")
        if Path(parent) == folder and "bin" in folders:
            folders.remove("bin")  # console scripts, whose first line names an interpreter of this machine
        for name in sorted(files):
            path = Path(parent) / name
            found[path.relative_to(folder).as_posix()] = path
    return found

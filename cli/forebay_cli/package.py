"""Makes a function's zip out of a file, a folder or a zip.

The same files give the same bytes (sorted, one fixed time), so an unchanged function keeps its SHA-256.
"""

import ast
import fnmatch
import io
import os
import stat
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from forebay_cli.errors import UserError
from forebay_common.limits import MIB, UNZIPPED_MAX_BYTES, ZIP_MAX_BYTES

IGNORE_FILE = ".forebayignore"
ALWAYS_IGNORED = (".git", "__pycache__", "*.pyc", ".venv", "venv", ".mypy_cache", ".pytest_cache", ".ruff_cache",
                  ".DS_Store", IGNORE_FILE)  # fmt: skip
FIXED_TIME = (1980, 1, 1, 0, 0, 0)
"""The zip format's earliest: real times would change the digest of unchanged code."""
HANDLER_NAMES = ("handler", "lambda_handler", "main")
MODULE_NAMES = ("app", "lambda_function", "handler", "main", "index")
BOOTSTRAP = "bootstrap"
PROVIDED = "provided.al2023"


@dataclass(frozen=True, slots=True)
class Source:
    """What `deploy` was pointed at: files by their name in the package; `requirements` when a folder has any."""

    files: dict[str, Path]
    requirements: Path | None = None


def read_source(path: Path) -> Source | bytes:
    """A file's or folder's Source, or the bytes of a zip as they are. Raises UserError when it is none of them."""
    if path.is_dir():
        files = dict(folder_files(path))
        if not files:
            raise UserError(f"{path} holds no file to deploy")
        return Source(files, files.get("requirements.txt"))
    if not path.exists():
        raise UserError(f"{path} does not exist: give a .py file, a folder or a .zip")
    if not path.is_file():
        raise UserError(f"{path} is neither a file nor a folder: give a .py file, a folder or a .zip")
    if path.suffix == ".zip":
        data = path.read_bytes()
        if not zipfile.is_zipfile(io.BytesIO(data)):
            raise UserError(f"{path} is no readable zip: make it again, or deploy the folder itself")
        return data
    return Source({path.name: path})


def folder_files(folder: Path) -> Iterator[tuple[str, Path]]:
    """The files of a folder that belong in its package, by name, in a fixed order; links to files are followed.

    Raises UserError at a link to a folder: leaving it out silently would show only when the function fails.
    """
    ignore = Ignore.of(folder)
    for parent, folders, files in os.walk(folder):
        relative = Path(parent).relative_to(folder)
        folders[:] = sorted(name for name in folders if not ignore.matches(relative / name, folder=True))
        for name in folders:
            if (Path(parent) / name).is_symlink():
                raise UserError(f"{Path(parent) / name} is a link to a folder: copy it, or list it in {IGNORE_FILE}")
        for name in sorted(files):
            path = Path(parent) / name
            if not ignore.matches(relative / name, folder=False) and path.is_file():
                yield (relative / name).as_posix(), path


class Ignore:
    """Which files stay out of a package.

    A pattern (`*`, `?`, `[…]`) without a slash matches a name at any depth, one with a slash a path from the top;
    with a slash at its end it matches folders alone. `#` begins a comment.
    """

    def __init__(self, patterns: list[str]) -> None:
        self._patterns = patterns

    @classmethod
    def of(cls, folder: Path) -> "Ignore":
        """What is always ignored and what the folder's `.forebayignore` lists."""
        file = folder / IGNORE_FILE
        lines = file.read_text(encoding="utf-8").splitlines() if file.is_file() else []
        own = [line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#")]
        if negated := [line for line in own if line.startswith("!")]:
            raise UserError(f"{file}: {negated[0]!r}: patterns that take back others (!) are not supported")
        return cls([*ALWAYS_IGNORED, *own])

    def matches(self, path: Path, *, folder: bool) -> bool:
        """Whether a file or folder, by its path from the top, stays out."""
        for pattern in self._patterns:
            if pattern.endswith("/") and not folder:
                continue
            bare = pattern.rstrip("/")
            target = path.as_posix() if "/" in bare else path.name
            if fnmatch.fnmatchcase(target, bare.lstrip("/")):
                return True
        return False


def make_zip(files: dict[str, Path]) -> bytes:
    """A package of these files. Raises UserError when it is beyond Lambda's quotas."""
    unpacked = sum(path.stat().st_size for path in files.values())
    if unpacked > UNZIPPED_MAX_BYTES:
        raise UserError(_too_large("unpacked", unpacked, UNZIPPED_MAX_BYTES, files))
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, path in sorted(files.items()):
            entry = zipfile.ZipInfo(name, FIXED_TIME)
            entry.compress_type = zipfile.ZIP_DEFLATED
            executable = name == BOOTSTRAP or path.stat().st_mode & stat.S_IXUSR
            entry.external_attr = (stat.S_IFREG | (0o755 if executable else 0o644)) << 16
            archive.writestr(entry, path.read_bytes())
    data = buffer.getvalue()
    if len(data) > ZIP_MAX_BYTES:
        raise UserError(_too_large("zipped", len(data), ZIP_MAX_BYTES, files))
    return data


def _too_large(what: str, size: int, limit: int, files: dict[str, Path]) -> str:
    name, path = max(files.items(), key=lambda item: item[1].stat().st_size)
    return (
        f"the package is {size / MIB:.0f} MiB {what}, at most {limit / MIB:.0f} MiB fit; its largest file is {name} "
        f"({path.stat().st_size / MIB:.0f} MiB): keep out what it does not need by {IGNORE_FILE}"
    )


def guess_handler(names: list[str], read: "dict[str, Path] | zipfile.ZipFile") -> str:
    """The handler of a package from its top-level modules: `app.handler`, or the only module's.

    `bootstrap` when it brings its own program. Raises UserError when there is nothing to guess from.
    """
    if BOOTSTRAP in names:
        return BOOTSTRAP
    modules = [name[:-3] for name in names if name.endswith(".py") and "/" not in name]
    candidates = [name for name in MODULE_NAMES if name in modules] or (modules if len(modules) == 1 else [])
    if not candidates:
        raise UserError("cannot tell which function to call: say it by --handler MODULE.FUNCTION")
    for module in candidates:
        source = read.read(f"{module}.py") if isinstance(read, zipfile.ZipFile) else read[f"{module}.py"].read_bytes()
        if function := _handler_in(source):
            return f"{module}.{function}"
    raise UserError(
        f"{candidates[0]}.py defines none of {', '.join(HANDLER_NAMES)}: name the function by "
        f"--handler {candidates[0]}.FUNCTION"
    )


def _handler_in(source: bytes) -> str | None:
    """The usual handler name that a module binds at its top level; the first of them when it cannot be parsed.

    A module for another version of Python may not parse here; the function's own interpreter has the last word.
    """
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError):
        return HANDLER_NAMES[0]
    bound: set[str] = set()
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            bound.add(node.name)
        elif isinstance(node, ast.Assign):
            bound.update(target.id for target in node.targets if isinstance(target, ast.Name))
        elif isinstance(node, ast.Import | ast.ImportFrom):
            bound.update(alias.asname or alias.name for alias in node.names)
    return next((name for name in HANDLER_NAMES if name in bound), None)

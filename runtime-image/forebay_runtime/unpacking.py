"""A code package, verified and unpacked so that nothing of it lies or leads outside its folder."""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
import zipfile

from forebay_common.limits import (
    MIB,
    PACKAGE_FILES_MAX,
    PACKAGE_LINK_MAX_BYTES,
    PACKAGE_PATH_MAX_BYTES,
    UNZIPPED_MAX_BYTES,
)
from forebay_runtime.code import CodeError

_COPY_BYTES = MIB


def verify(file: int, sha256: str) -> None:
    """Compare the whole file with its digest. Raises CodeError."""
    digest = hashlib.sha256()
    os.lseek(file, 0, os.SEEK_SET)
    while piece := os.read(file, _COPY_BYTES):
        digest.update(piece)
    if digest.hexdigest() != sha256:
        raise CodeError("its SHA-256 is not the one it was asked for by")


def unpack(file: int, folder: str) -> None:
    """Empty the folder and unpack the zip into it. Raises CodeError for a zip that is not safe to unpack, OSError."""
    empty(folder)
    try:
        _read(file, folder)
    except (CodeError, OSError):
        empty(folder)
        raise


def _read(file: int, folder: str) -> None:
    with open(file, "rb", closefd=False) as stream:
        try:
            with zipfile.ZipFile(stream) as archive:
                _unpack_all(archive, folder)
        except (zipfile.BadZipFile, zipfile.LargeZipFile, NotImplementedError, EOFError, ValueError) as error:
            raise CodeError(f"not a zip that can be read: {error}") from error
        except RuntimeError as error:
            # zipfile's way to ask for a password.
            raise CodeError(str(error)) from error
        except Exception as error:
            # A damaged stream raises its compressor's own error (zlib.error, lzma.LZMAError).
            if type(error).__name__ in {"error", "LZMAError"}:
                raise CodeError(f"not a zip that can be read: {error}") from error
            raise


def empty(folder: str) -> None:
    """Remove what an unpacking that was cut off left behind; the folder itself may be a mount and stays."""
    for entry in list(os.scandir(folder)):
        if entry.is_dir(follow_symlinks=False):
            shutil.rmtree(entry.path)
        else:
            os.unlink(entry.path)


def safe_parts(name: str) -> list[str]:
    """A member's path as its parts. Raises CodeError for one that is absolute, leaves the folder or has odd names."""
    parts = [part for part in name.split("/") if part not in {"", "."}]
    odd = name.startswith("/") or ".." in parts or "\0" in name or "\\" in name or not parts
    if odd or len(os.fsencode(name)) > PACKAGE_PATH_MAX_BYTES:
        raise CodeError(f"it has a member with the path {name[:200]!r}")
    return parts


def _is_own_folder(name: str) -> bool:
    """Whether a member is the package's own folder (`./`), which some tools list."""
    return name.startswith(".") and name.endswith("/") and not set(name.split("/")) - {"", "."}


def _unpack_all(archive: zipfile.ZipFile, folder: str) -> None:
    members = archive.infolist()
    if len(members) > PACKAGE_FILES_MAX:
        raise CodeError(f"it has {len(members)} members, {PACKAGE_FILES_MAX} are allowed")
    _open_to_all(folder)
    room = UNZIPPED_MAX_BYTES
    links = []
    for member in members:
        if _is_own_folder(member.orig_filename):
            continue
        parts = safe_parts(member.orig_filename)
        path = os.path.join(folder, *parts)
        mode = member.external_attr >> 16
        if stat.S_ISLNK(mode):
            links.append((path, _link_target(archive, member)))
            continue
        if member.is_dir():
            _make_folders(folder, parts)
            continue
        if stat.S_IFMT(mode) not in {0, stat.S_IFREG}:
            raise CodeError(f"its member {member.filename[:200]!r} is neither a file, a folder nor a link")
        _make_folders(folder, parts[:-1])
        room -= _write_file(archive, member, path, executable=bool(mode & 0o111), room=room)
    _make_links(folder, links)


def _open_to_all(folder: str) -> None:
    """Handlers run as another user. A volume belongs to nobody we know, but lets everybody in already."""
    if os.stat(folder).st_mode & 0o005 != 0o005:  # noqa: PLR2004 - read and enter, for all
        os.chmod(folder, 0o755)  # noqa: S103 - see above


def _make_folders(folder: str, parts: list[str]) -> None:
    path = folder
    for part in parts:
        path = os.path.join(path, part)
        try:
            os.mkdir(path)
        except FileExistsError:
            # A link that stands for a folder would lead what is made in it elsewhere.
            if os.path.islink(path) or not os.path.isdir(path):
                raise CodeError(f"its member {part[:200]!r} is both a file and a folder") from None
        else:
            os.chmod(path, 0o755)  # noqa: S103 - handlers run as another user


def _write_file(archive: zipfile.ZipFile, member: zipfile.ZipInfo, path: str, *, executable: bool, room: int) -> int:
    """Write one file; gives its size. Sizes are counted, not believed."""
    size = 0
    # No links exist yet (they are made last), so the path leads where it says.
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with open(descriptor, "wb") as target, archive.open(member) as source:
        while piece := source.read(_COPY_BYTES):
            size += len(piece)
            if size > room:
                raise CodeError(f"it unpacks to more than {UNZIPPED_MAX_BYTES} bytes")
            target.write(piece)
        # Handlers run as another user; and a package made on Windows has no modes at all.
        os.fchmod(descriptor, 0o755 if executable else 0o644)
    return size


def _link_target(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> str:
    if member.file_size > PACKAGE_LINK_MAX_BYTES:
        raise CodeError(f"its link {member.filename[:200]!r} is too long")
    with archive.open(member) as source:
        return os.fsdecode(source.read(PACKAGE_LINK_MAX_BYTES))


def _make_links(folder: str, links: list[tuple[str, str]]) -> None:
    """Make the links, then follow each: only where all of them lead together shows whether one leads outside."""
    root = os.path.realpath(folder)
    for path, target in links:
        if not target or target.startswith("/") or "\0" in target:
            raise CodeError(f"its link {os.path.basename(path)[:200]!r} leads to {target[:200]!r}")
        _make_folders(folder, os.path.relpath(os.path.dirname(path), folder).split("/"))
        try:
            os.symlink(target, path)
        except FileExistsError:
            raise CodeError(f"its member {os.path.basename(path)[:200]!r} is there twice") from None
    for path, target in links:
        if os.path.commonpath((os.path.realpath(path), root)) != root:
            raise CodeError(f"its link {os.path.basename(path)[:200]!r} leads to {target[:200]!r}")

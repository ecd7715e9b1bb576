"""What a code package may be: a zip that unpacks inside its folder, within Lambda's sizes. Pure, slow for a large one.

The runtime unpacks with checks of its own, which let through whatever these do; these are here so that a bad
package is refused before anything changes.
Texts and sizes are AWS's (Lambda quotas page and observed answers).
"""

import hashlib
import io
import struct
import zipfile
import zlib
from base64 import b64decode
from binascii import Error as Base64Error
from dataclasses import dataclass
from itertools import takewhile
from pathlib import PurePosixPath
from stat import S_IFDIR, S_IFLNK, S_IFMT, S_IFREG

from forebay_common import limits

UNREADABLE = "Could not unzip uploaded file. Please check your file, then try to upload again."
EMPTY = "Uploaded file must be a non-empty zip"
ZIPPED_TOO_LARGE = f"Zipped size must be smaller than {limits.ZIP_MAX_BYTES} bytes"
UNZIPPED_TOO_LARGE = f"Unzipped size must be smaller than {limits.UNZIPPED_MAX_BYTES} bytes"

DIRECTORY_MAX_BYTES = 16 * limits.MIB
COMPONENT_MAX_BYTES = 255

_READ_BYTES = limits.MIB
_BASE64_STEP_CHARS = 4 * limits.MIB
assert _BASE64_STEP_CHARS % 4 == 0

_END = struct.Struct("<4s4H2LH")
_END_SIGNATURE = b"PK\x05\x06"
_END_COMMENT_MAX_BYTES = 0xFFFF
_LOCATOR = struct.Struct("<4sLQL")
_LOCATOR_SIGNATURE = b"PK\x06\x07"
_END64 = struct.Struct("<4sQ2H2L4Q")
_UNKNOWN_SIZE = 0xFFFFFFFF
_ENCRYPTED = 0x1
_CREATED_ON_UNIX = 3
_METHODS = frozenset({zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED})
"""What every interpreter can unpack."""


class PackageError(ValueError):
    """The bytes are no package that can be unpacked; the message says why."""


class PackageTooLargeError(PackageError):
    """The zip itself is above Lambda's size."""


@dataclass(frozen=True, slots=True)
class CodePackage:
    """A checked package. `sha256` is hexadecimal."""

    data: bytes
    sha256: str

    @property
    def size(self) -> int:
        """Bytes of the zip."""
        return len(self.data)


def read_package(data: bytes) -> CodePackage:
    """Check a zip, reading every file in it. Raises PackageError, PackageTooLargeError.

    Takes up to about a second for the largest package: call it in a thread.
    """
    if not data:
        raise PackageError(EMPTY)
    if len(data) >= limits.ZIP_MAX_BYTES:
        raise PackageTooLargeError(ZIPPED_TOO_LARGE)
    if _directory_size(data) > DIRECTORY_MAX_BYTES:
        raise PackageError(f"The zip's directory is above {DIRECTORY_MAX_BYTES} bytes: it holds too many files")
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            _check_archive(archive)
    except PackageError:
        raise
    # What zipfile raises for damaged input, besides its own error: cut fields (struct, EOFError), an unknown
    # version or method (NotImplementedError), names in no encoding (ValueError), a damaged stream (zlib).
    except (zipfile.BadZipFile, struct.error, EOFError, NotImplementedError, ValueError, OSError, zlib.error) as error:
        raise PackageError(UNREADABLE) from error
    return CodePackage(data, hashlib.sha256(data).hexdigest())


def decode_base64(text: str) -> bytes:
    """Bytes of a base64 text. Raises PackageError.

    Works in steps, so that other threads run in between: one call for 70 MB holds the interpreter's lock for long.
    """
    if len(text) > limits.ZIP_MAX_BYTES * 4 // 3 + 4:
        raise PackageTooLargeError(ZIPPED_TOO_LARGE)
    steps = range(0, len(text), _BASE64_STEP_CHARS)
    try:
        parts = [b64decode(text[start : start + _BASE64_STEP_CHARS], validate=True) for start in steps]
    except (Base64Error, ValueError) as error:
        raise PackageError("The code is not base64") from error
    return b"".join(parts)


def _directory_size(data: bytes) -> int:
    """What the zip says its directory takes, in bytes, so that its entries are bounded before they are read."""
    start = data.rfind(_END_SIGNATURE, max(0, len(data) - _END.size - _END_COMMENT_MAX_BYTES))
    if start < 0 or start + _END.size > len(data):
        raise PackageError(UNREADABLE)
    size = _END.unpack_from(data, start)[5]
    locator_at = start - _LOCATOR.size
    if locator_at >= 0 and data[locator_at : locator_at + 4] == _LOCATOR_SIGNATURE:
        end64_at = locator_at - _END64.size
        if end64_at < 0:
            raise PackageError(UNREADABLE)
        size = max(size if size != _UNKNOWN_SIZE else 0, _END64.unpack_from(data, end64_at)[8])
    return int(size)


LINK_STEPS_MAX = 256
"""Path components that following one link may take; a circle takes more."""


def _check_archive(archive: zipfile.ZipFile) -> None:
    entries = archive.infolist()
    if not entries:
        raise PackageError(EMPTY)
    if len(entries) > limits.PACKAGE_FILES_MAX:
        raise PackageError(f"The zip holds {len(entries)} files, {limits.PACKAGE_FILES_MAX} are allowed")
    if sum(entry.file_size for entry in entries) >= limits.UNZIPPED_MAX_BYTES:
        raise PackageError(UNZIPPED_TOO_LARGE)
    _check_tree(entries)
    targets: dict[PurePosixPath, PurePosixPath] = {}
    for entry in entries:
        if _is_link(entry):
            targets[PurePosixPath(entry.filename)] = _link_target(entry, _read_link(archive, entry))
        elif not entry.is_dir():
            _read_through(archive, entry)
    for path in targets:
        _follow(path, targets)


def _entry_path(entry: zipfile.ZipInfo) -> PurePosixPath:
    """Where an entry is unpacked, relative to the task root. Raises PackageError unless it is inside."""
    name = entry.filename
    if entry.flag_bits & _ENCRYPTED:
        raise PackageError(f"The zip is encrypted: {name!r}")
    if entry.compress_type not in _METHODS:
        raise PackageError(f"The zip uses a compression other than deflate: {name!r}")
    if _kind(entry) not in {0, S_IFREG, S_IFDIR, S_IFLNK}:
        raise PackageError(f"The zip holds something that is no file, folder or symbolic link: {name!r}")
    # zipfile cuts a name at a NUL byte: what it then reports is not what other tools see.
    if entry.orig_filename != name or not name:
        raise PackageError(f"The zip holds a name that cannot be unpacked: {entry.orig_filename!r}")
    if _is_link(entry) and entry.is_dir():
        raise PackageError(f"The zip holds a symbolic link that is named as a folder: {name!r}")
    if "\\" in name:
        raise PackageError(f"The zip holds a path with a backslash, folders are separated by '/': {name!r}")
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts:
        raise PackageError(f"The zip holds a path that leads out of the package: {name!r}")
    try:
        size = len(name.encode())
        longest = max((len(part.encode()) for part in path.parts), default=0)
    except UnicodeEncodeError as error:
        raise PackageError(f"The zip holds a name that cannot be unpacked: {name!r}") from error
    if size > limits.PACKAGE_PATH_MAX_BYTES or longest > COMPONENT_MAX_BYTES:
        raise PackageError(f"The zip holds a path that is too long: {name[:100]!r}…")
    if not path.parts and not entry.is_dir():
        raise PackageError(f"The zip holds a file without a name: {name!r}")
    return path


def _check_tree(entries: list[zipfile.ZipInfo]) -> None:
    """Each path once (a folder may be named again), and nothing below a file or a symbolic link."""
    by_path: dict[PurePosixPath, zipfile.ZipInfo] = {}
    for entry in entries:
        first = by_path.setdefault(_entry_path(entry), entry)
        if first is not entry and not (first.is_dir() and entry.is_dir()):
            raise PackageError(f"The zip holds a path twice: {entry.filename!r}")
    leaves = {path for path, entry in by_path.items() if _is_link(entry) or not entry.is_dir()}
    parents = {path.parent for path in by_path}
    while parents:
        blocked = parents & leaves
        if blocked:
            raise PackageError(f"The zip holds a path below a file: {str(blocked.pop())!r}")
        parents = {path.parent for path in parents if path.parts}


def _link_target(entry: zipfile.ZipInfo, target_bytes: bytes) -> PurePosixPath:
    """What a symbolic link says. It must stay inside, whatever other links stand on its way.

    `..` only at the start, and no more of them than the link is deep: since no entry lies below a link, the link's
    own folders are real, and from there on a target only descends.
    """
    try:
        target = PurePosixPath(target_bytes.decode())
    except UnicodeDecodeError as error:
        raise PackageError(f"The zip holds a symbolic link that cannot be read: {entry.filename!r}") from error
    ups = len(list(takewhile(lambda part: part == "..", target.parts)))
    depth = len(PurePosixPath(entry.filename).parts) - 1
    inside = not target.is_absolute() and ups <= depth and ".." not in target.parts[ups:]
    if not inside or not target_bytes or b"\0" in target_bytes:
        raise PackageError(f"The zip holds a symbolic link that leads out of the package: {entry.filename!r}")
    return target


def _follow(link: PurePosixPath, targets: dict[PurePosixPath, PurePosixPath]) -> None:
    """A symbolic link must lead somewhere, or nowhere, but not in a circle: no instance could unpack it."""
    rest = [link]
    here = PurePosixPath()
    for _ in range(LINK_STEPS_MAX):
        if not rest:
            return
        step = rest.pop()
        if len(step.parts) > 1:
            rest += [PurePosixPath(part) for part in reversed(step.parts)]
        elif step.parts == ("..",):
            here = here.parent
        elif (target := targets.get(here / step)) is not None:
            rest.append(target)
        else:
            here /= step
    raise PackageError(f"The zip holds a symbolic link that leads in a circle: {str(link)!r}")


def _read_link(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> bytes:
    if entry.file_size > limits.PACKAGE_LINK_MAX_BYTES:
        raise PackageError(f"The zip holds a symbolic link that cannot be read: {entry.filename!r}")
    return archive.read(entry)


def _read_through(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> None:
    """Unpack one file into nothing: its size and checksum must be what the directory says."""
    size = 0
    with archive.open(entry) as file:
        while chunk := file.read(_READ_BYTES):
            size += len(chunk)
    if size != entry.file_size:
        raise PackageError(UNREADABLE)


def _kind(entry: zipfile.ZipInfo) -> int:
    return S_IFMT(entry.external_attr >> 16) if entry.create_system == _CREATED_ON_UNIX else 0


def _is_link(entry: zipfile.ZipInfo) -> bool:
    return _kind(entry) == S_IFLNK

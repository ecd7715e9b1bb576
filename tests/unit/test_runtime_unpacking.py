"""No package puts or leads anything outside its folder."""

import io
import os
import stat
import warnings
import zipfile
from collections.abc import Iterable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from forebay_runtime import unpacking
from forebay_runtime.code import CodeError
from forebay_runtime.unpacking import unpack, verify

LINK = stat.S_IFLNK | 0o777
FILE = stat.S_IFREG | 0o644
PROGRAM = stat.S_IFREG | 0o755


def zipped(members: Iterable[tuple[str, bytes, int]]) -> bytes:
    data = io.BytesIO()
    with warnings.catch_warnings(action="ignore"), zipfile.ZipFile(data, "w") as archive:
        for name, content, mode in members:
            member = zipfile.ZipInfo(name)
            member.filename = member.orig_filename = name
            member.external_attr = mode << 16
            archive.writestr(member, content, zipfile.ZIP_DEFLATED)
    return data.getvalue()


def unpack_bytes(data: bytes, folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    package = folder.with_suffix(".zip")
    package.write_bytes(data)
    descriptor = os.open(package, os.O_RDONLY)
    try:
        unpack(descriptor, str(folder))
    finally:
        os.close(descriptor)
        package.unlink()


def test_files_folders_links_and_modes_are_made_as_packed(tmp_path: Path) -> None:
    folder = tmp_path / "task"
    unpack_bytes(
        zipped(
            [
                ("app.py", b"code", FILE),
                ("bin/tool", b"#!", PROGRAM),
                ("empty/", b"", stat.S_IFDIR | 0o700),
                ("bin/again", b"tool", LINK),
                ("secret.py", b"0", stat.S_IFREG | 0o600),
                ("windows.txt", b"w", 0),
            ]
        ),
        folder,
    )

    assert (folder / "app.py").read_bytes() == b"code"
    assert (folder / "bin/again").read_bytes() == b"#!"
    modes = {path.name: stat.S_IMODE(path.lstat().st_mode) for path in folder.rglob("*") if not path.is_symlink()}
    assert modes == {
        "app.py": 0o644, "bin": 0o755, "tool": 0o755, "empty": 0o755, "secret.py": 0o644, "windows.txt": 0o644,
    }  # fmt: skip


@pytest.mark.parametrize(
    "members",
    [
        [("../out", b"x", FILE)],
        [("a/../../out", b"x", FILE)],
        [("/abs", b"x", FILE)],
        [("a\\..\\out", b"x", FILE)],
        [("x" * 2000, b"x", FILE)],
        [("link", b"../out", LINK)],
        [("link", b"/etc/passwd", LINK)],
        [("link", b"", LINK)],
        [("link", b"x" * 5000, LINK)],
        [("link", b"..", LINK), ("link/out", b"x", FILE)],
        [("a", b"..", LINK), ("a/out", b"target", LINK)],
        [("p/q/up", b"../..", LINK), ("out", b"p/q/up/../..", LINK)],
        [("file", b"x", FILE), ("file/inside", b"x", FILE)],
        [("a", b"x", FILE), ("a", b"b", LINK)],
        [("pipe", b"", stat.S_IFIFO | 0o644)],
        [("device", b"", stat.S_IFCHR | 0o644)],
    ],
)
def test_what_leaves_the_folder_or_is_no_file_is_refused_and_leaves_nothing(
    tmp_path: Path, members: list[tuple[str, bytes, int]]
) -> None:
    folder = tmp_path / "deep" / "task"
    folder.mkdir(parents=True)

    with pytest.raises((CodeError, OSError)):
        unpack_bytes(zipped(members), folder)

    assert list(folder.iterdir()) == []
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == []


names = st.lists(st.sampled_from(["a", "b", "..", ".", "", "c"]), min_size=1, max_size=4).map("/".join)
members_ = st.lists(st.tuples(names, names.map(str.encode), st.sampled_from([FILE, LINK, PROGRAM])), max_size=6)


@given(members_)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=200)
def test_whatever_is_packed_nothing_lies_or_leads_outside(
    tmp_path: Path, members: list[tuple[str, bytes, int]]
) -> None:
    folder = tmp_path / "deep" / "task"
    folder.mkdir(parents=True, exist_ok=True)
    try:
        unpack_bytes(zipped(members), folder)
    except (CodeError, OSError):
        assert list(folder.iterdir()) == []

    root = Path(os.path.realpath(folder))  # a link in a loop leads nowhere, which realpath allows
    assert all(Path(os.path.realpath(path)).is_relative_to(root) for path in folder.rglob("*"))
    assert [path.name for path in folder.parent.iterdir()] == ["task"]


@pytest.mark.parametrize("data", [b"", b"PK\x03\x04 not a zip", b"x" * 1000])
def test_what_is_no_zip_is_refused(tmp_path: Path, data: bytes) -> None:
    with pytest.raises(CodeError):
        unpack_bytes(data, tmp_path / "task")


@given(st.integers(0, 400), st.integers(0, 255))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_a_damaged_zip_is_refused_or_read(tmp_path: Path, at: int, value: int) -> None:
    data = bytearray(zipped([("app.py", b"some text, some text, some text" * 20, FILE), ("b/c.py", b"x" * 50, FILE)]))
    data[at % len(data)] = value
    try:
        unpack_bytes(bytes(data), tmp_path / "task")
    except (CodeError, OSError):
        assert list((tmp_path / "task").iterdir()) == []


def test_sizes_are_counted_and_not_believed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unpacking, "UNZIPPED_MAX_BYTES", 100_000)
    bomb = zipped([("a", b"\0" * 60_000, FILE), ("b", b"\0" * 60_000, FILE)])

    with pytest.raises(CodeError, match="unpacks to more than 100000 bytes"):
        unpack_bytes(bomb, tmp_path / "task")


def test_the_number_of_members_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unpacking, "PACKAGE_FILES_MAX", 3)

    with pytest.raises(CodeError, match="4 members"):
        unpack_bytes(zipped([(f"f{number}", b"", FILE) for number in range(4)]), tmp_path / "task")


def test_the_digest_is_of_the_whole_file(tmp_path: Path) -> None:
    path = tmp_path / "code.zip"
    path.write_bytes(b"abc")
    descriptor = os.open(path, os.O_RDONLY)

    verify(descriptor, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad")
    with pytest.raises(CodeError):
        verify(descriptor, "00" * 32)
    os.close(descriptor)

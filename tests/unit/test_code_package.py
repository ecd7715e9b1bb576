"""What a code package may be: bad zips are refused before anything changes."""

import base64
import contextlib
import io
import os
import stat
import struct
import tempfile
import warnings
import zipfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forebay_common import limits
from forebay_controller.code_package import (
    EMPTY,
    UNREADABLE,
    UNZIPPED_TOO_LARGE,
    ZIPPED_TOO_LARGE,
    PackageError,
    PackageTooLargeError,
    decode_base64,
    read_package,
)
from forebay_runtime.unpacking import unpack

HANDLER = b"def handler(event, context):\n    return event\n"


def zip_of(*files: tuple[str | zipfile.ZipInfo, bytes]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # zipfile warns of the duplicate names that a test makes
        for name, data in files:
            archive.writestr(name, data)
    return out.getvalue()


def entry(name: str, mode: int) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name)
    info.create_system = 3
    info.external_attr = mode << 16
    return info


def link(name: str, target: str) -> tuple[zipfile.ZipInfo, bytes]:
    return entry(name, stat.S_IFLNK | 0o777), target.encode()


def refusal(data: bytes) -> str:
    with pytest.raises(PackageError) as caught:
        read_package(data)
    return str(caught.value)


def unpacked(data: bytes, outer: Path) -> Path:
    """The folder in `outer` into which the runtime unpacks a package."""
    root = outer / "root"
    root.mkdir()
    with tempfile.TemporaryFile() as file:
        file.write(data)
        file.flush()
        unpack(file.fileno(), str(root))
    return root


def test_an_ordinary_package_is_read_and_named_by_its_digest() -> None:
    data = zip_of(("app.py", HANDLER), ("pkg/", b""), ("pkg/mod.py", HANDLER))
    package = read_package(data)
    assert package.size == len(data)
    assert len(package.sha256) == 64


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", EMPTY),
        (zip_of(), EMPTY),
        (b"not a zip", UNREADABLE),
        (b"PK\x05\x06", UNREADABLE),
        (zip_of(("app.py", HANDLER))[:-30], UNREADABLE),
    ],
)
def test_what_is_no_zip_is_refused_in_awss_words(data: bytes, message: str) -> None:
    assert refusal(data) == message


def test_a_file_whose_checksum_is_wrong_is_refused() -> None:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr("app.py", HANDLER)
    assert refusal(out.getvalue().replace(b"return", b"retorn")) == UNREADABLE


@pytest.mark.parametrize("name", ["../x", "a/../../x", "/etc/passwd", "//x", "a/b/../../../x", "a/.."])
def test_paths_that_lead_out_are_refused(name: str) -> None:
    assert "leads out of the package" in refusal(zip_of((name, b"x")))


@pytest.mark.parametrize(
    ("name", "target"),
    [
        ("l", "/etc/passwd"),
        ("l", ".."),
        ("l", "../x"),
        ("a/l", "../../x"),
        ("a/l", "../b/../../x"),
        ("l", "a/../b"),
        ("l", ""),
    ],
)
def test_symlinks_that_may_lead_out_are_refused(name: str, target: str) -> None:
    assert "leads out of the package" in refusal(zip_of(link(name, target)))


def test_symlinks_inside_are_kept() -> None:
    read_package(zip_of(("pkg/cli.js", b"x"), link("bin/cli", "../pkg/cli.js"), link("latest", "pkg")))


def test_a_symlink_with_a_huge_target_is_refused_unread() -> None:
    assert "cannot be read" in refusal(zip_of(link("l", "a" * 5000)))


def test_nothing_may_lie_below_a_symlink_or_a_file() -> None:
    assert "below a file" in refusal(zip_of(link("a", "."), ("a/b", b"x")))
    assert "below a file" in refusal(zip_of(("a", b"x"), ("a/b/c", b"x")))


@pytest.mark.parametrize("names", [("a", "a"), ("a", "./a"), ("a/b", "a//b"), ("a", "a/")])
def test_a_path_that_stands_twice_is_refused(names: tuple[str, str]) -> None:
    assert "twice" in refusal(zip_of((names[0], b"1"), (names[1], b"")))


@pytest.mark.parametrize("kind", [stat.S_IFIFO, stat.S_IFCHR, stat.S_IFSOCK])
def test_special_files_are_refused(kind: int) -> None:
    assert "no file, folder or symbolic link" in refusal(zip_of((entry("x", kind | 0o644), b"")))


def test_an_encrypted_zip_is_refused() -> None:
    data = bytearray(zip_of(("app.py", HANDLER)))
    flags_at = data.rindex(b"PK\x01\x02") + 8
    data[flags_at] |= 0x1
    assert "encrypted" in refusal(bytes(data))


def test_other_compressions_are_refused() -> None:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_LZMA) as archive:
        archive.writestr("app.py", HANDLER)
    assert "compression" in refusal(out.getvalue())


def test_a_name_that_is_cut_at_a_nul_is_refused() -> None:
    assert "cannot be unpacked" in refusal(zip_of(("safeX.py", b"x")).replace(b"safeX.py", b"safe\0.py"))
    assert "cannot be unpacked" in refusal(zip_of(("X", b"x")).replace(b"X", b"\0"))


def test_a_path_that_is_too_long_is_refused() -> None:
    assert "too long" in refusal(zip_of(("a" * 256, b"x")))
    assert "too long" in refusal(zip_of(("a/" * 600 + "b", b"x")))


def test_the_longest_path_and_link_and_the_folder_itself_can_be_unpacked(tmp_path: Path) -> None:
    longest = "a/" * 511 + "bc"
    target = "./" * 511 + "a"
    data = zip_of(("./", b""), (longest, b"x"), link("l", target))
    read_package(data)
    root = unpacked(data, tmp_path)
    assert (root / longest).read_bytes() == b"x"
    assert (root / "l").resolve() == root / "a"


def test_a_path_as_windows_writes_it_is_refused() -> None:
    assert "backslash" in refusal(zip_of(("pkg\\app.py", HANDLER)))


def test_a_bomb_is_refused_by_what_it_declares() -> None:
    megabyte = bytes(limits.MIB)
    data = zip_of(*((f"{number}", megabyte) for number in range(250)))
    assert len(data) < limits.MIB
    assert refusal(data) == UNZIPPED_TOO_LARGE


def test_a_bomb_that_lies_about_its_size_is_refused_at_that_size() -> None:
    data = bytearray(zip_of(("bomb", bytes(limits.MIB))))
    struct.pack_into("<L", data, data.rindex(b"PK\x01\x02") + 24, 10)
    assert refusal(bytes(data)) == UNREADABLE


def test_a_zip_above_the_limit_is_refused_unread() -> None:
    with pytest.raises(PackageTooLargeError, match=ZIPPED_TOO_LARGE):
        read_package(bytes(limits.ZIP_MAX_BYTES))


def test_a_directory_of_too_many_files_is_refused_before_it_is_read() -> None:
    end = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 0xFFFF, 0xFFFF, 17 * limits.MIB, 0, 0)
    assert "too many files" in refusal(bytes(18 * limits.MIB) + end)


def test_more_files_than_allowed_are_refused() -> None:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for number in range(limits.PACKAGE_FILES_MAX + 1):
            archive.writestr(f"{number:x}", b"")
    assert f"{limits.PACKAGE_FILES_MAX} are allowed" in refusal(out.getvalue())


def test_base64_longer_than_one_step_is_decoded_whole() -> None:
    data = os.urandom(3 * limits.MIB + 1)
    assert decode_base64(base64.b64encode(data).decode() + base64.b64encode(b"").decode()) == data
    long = bytes(range(256)) * (8 * limits.MIB // 256) + b"end"
    assert decode_base64(base64.b64encode(long).decode()) == long


@pytest.mark.parametrize("text", ["*", "abc", "äöü", "YQ==\n"])
def test_what_is_not_base64_is_refused(text: str) -> None:
    with pytest.raises(PackageError, match="base64"):
        decode_base64(text)


def test_a_link_named_as_a_folder_is_refused() -> None:
    with pytest.raises(PackageError, match="named as a folder"):
        read_package(zip_of(("-/", b""), link("-/", "a")))


@pytest.mark.parametrize(
    "links",
    [[("a", "a")], [("./a", "a//")], [("a", "b"), ("b", "a")], [("d/a", "../e/b"), ("e/b", "../d/a/x")]],
)
def test_links_that_lead_in_a_circle_are_refused(links: list[tuple[str, str]]) -> None:
    with pytest.raises(PackageError, match="circle"):
        read_package(zip_of(("app.py", HANDLER), *(link(name, target) for name, target in links)))


def test_links_that_lead_to_links_are_followed() -> None:
    data = zip_of(("lib/v2/app.py", HANDLER), link("lib/current", "v2"), link("bin/app", "../lib/current/app.py"))
    read_package(data)


NAMES = st.text(alphabet="ab./\\ ~-", min_size=1, max_size=12)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(NAMES, st.booleans(), st.text(alphabet="ab./", max_size=8)), min_size=1, max_size=6))
def test_whatever_is_accepted_unpacks_inside_its_folder(files: list[tuple[str, bool, str]]) -> None:
    """What is accepted, the runtime unpacks, and then nothing is written or reachable outside."""
    data = zip_of(*(link(name, text) if is_link else (name, text.encode()) for name, is_link, text in files))
    try:
        read_package(data)
    except PackageError:
        return
    with tempfile.TemporaryDirectory() as outer:
        root = unpacked(data, Path(outer).resolve())
        assert list(root.parent.iterdir()) == [root]
        for place in root.rglob("*"):
            real = os.path.realpath(place)
            assert os.path.commonpath([real, root]) == str(root)


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 200), st.integers(0, 255), st.binary(max_size=4))
def test_damage_gives_a_refusal_or_nothing_but_never_another_error(at: int, value: int, tail: bytes) -> None:
    data = bytearray(zip_of(("app.py", HANDLER), link("l", "app.py")))
    data[at % len(data)] = value
    with contextlib.suppress(PackageError):
        read_package(bytes(data) + tail)

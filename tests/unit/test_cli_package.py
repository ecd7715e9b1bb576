import io
import os
import zipfile
from pathlib import Path

import pytest

from forebay_cli import package
from forebay_cli.errors import UserError
from forebay_cli.package import Ignore, Source, folder_files, guess_handler, make_zip, read_source


def write(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("def handler(event, context): pass\n")


def test_a_folder_is_packaged_without_what_no_function_needs(tmp_path: Path) -> None:
    write(tmp_path, "app.py", "lib/a.py", ".git/config", "lib/__pycache__/a.pyc", ".venv/bin/python", "lib/b.pyc")

    assert [name for name, _ in folder_files(tmp_path)] == ["app.py", "lib/a.py"]


@pytest.mark.parametrize(
    ("pattern", "path", "folder", "ignored"),
    [
        ("*.md", "README.md", False, True),
        ("*.md", "docs/deep/a.md", False, True),
        ("docs/", "docs", True, True),
        ("docs/", "docs", False, False),
        ("lib/big.bin", "lib/big.bin", False, True),
        ("lib/big.bin", "other/lib/big.bin", False, False),
        ("/top.txt", "top.txt", False, True),
        ("test_*", "tests/test_a.py", False, True),
        ("test_*", "contest.py", False, False),
    ],
)
def test_ignore_patterns(*, pattern: str, path: str, folder: bool, ignored: bool) -> None:
    assert Ignore([pattern]).matches(Path(path), folder=folder) is ignored


def test_a_forebayignore_is_read_and_comments_are_not(tmp_path: Path) -> None:
    write(tmp_path, "app.py", "notes.md", "data/x.py")
    (tmp_path / ".forebayignore").write_text("# notes stay here\n*.md\n\ndata/\n")

    assert [name for name, _ in folder_files(tmp_path)] == ["app.py"]


def test_a_pattern_that_takes_back_others_is_refused_rather_than_misread(tmp_path: Path) -> None:
    (tmp_path / ".forebayignore").write_text("*.md\n!README.md\n")

    with pytest.raises(UserError, match="not supported"):
        Ignore.of(tmp_path)


def test_a_link_to_a_file_is_followed_and_one_to_a_folder_is_an_error(tmp_path: Path) -> None:
    write(tmp_path, "shared/lib.py", "function/app.py")
    (tmp_path / "function/lib.py").symlink_to(tmp_path / "shared/lib.py")
    assert [name for name, _ in folder_files(tmp_path / "function")] == ["app.py", "lib.py"]

    (tmp_path / "function/shared").symlink_to(tmp_path / "shared")
    with pytest.raises(UserError, match="link to a folder"):
        list(folder_files(tmp_path / "function"))


def test_the_same_files_make_the_same_bytes_whenever_they_were_written(tmp_path: Path) -> None:
    write(tmp_path, "app.py", "lib.py")
    first = make_zip(dict(folder_files(tmp_path)))
    os.utime(tmp_path / "app.py", (1, 1))

    assert make_zip(dict(folder_files(tmp_path))) == first


def test_bootstrap_and_executables_can_be_executed(tmp_path: Path) -> None:
    write(tmp_path, "bootstrap", "tool", "data")
    (tmp_path / "tool").chmod(0o755)

    archive = zipfile.ZipFile(io.BytesIO(make_zip(dict(folder_files(tmp_path)))))

    modes = {entry.filename: entry.external_attr >> 16 & 0o777 for entry in archive.infolist()}
    assert modes == {"bootstrap": 0o755, "tool": 0o755, "data": 0o644}


@pytest.mark.parametrize("limit", ["ZIP_MAX_BYTES", "UNZIPPED_MAX_BYTES"])
def test_a_package_beyond_the_quotas_names_its_largest_file(
    tmp_path: Path, limit: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(package, limit, 1000)
    (tmp_path / "app.py").write_text("x")
    (tmp_path / "big.bin").write_bytes(os.urandom(2000))

    with pytest.raises(UserError, match=r"largest file is big\.bin"):
        make_zip(dict(folder_files(tmp_path)))


@pytest.mark.parametrize(
    ("files", "handler"),
    [
        ({"app.py": "def handler(event, context): ..."}, "app.handler"),
        ({"app.py": "async def handler(event, context): ...", "other.py": ""}, "app.handler"),
        ({"lambda_function.py": "def lambda_handler(event, context): ..."}, "lambda_function.lambda_handler"),
        ({"report.py": "def main(event, context): ..."}, "report.main"),
        ({"report.py": "from lib import work as handler", "lib/__init__.py": ""}, "report.handler"),
        ({"report.py": "handler = lambda event, context: 1"}, "report.handler"),
        ({"app.py": "print 'an old Python'"}, "app.handler"),
        ({"app.py": "helper = 1", "main.py": "def handler(event, context): ..."}, "main.handler"),
        ({"bootstrap": "#!/bin/sh", "app.py": ""}, "bootstrap"),
    ],
)
def test_the_handler_is_guessed(tmp_path: Path, files: dict[str, str], handler: str) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    found = dict(folder_files(tmp_path))

    assert guess_handler(list(found), found) == handler
    zipped = zipfile.ZipFile(io.BytesIO(make_zip(found)))
    assert guess_handler(zipped.namelist(), zipped) == handler


@pytest.mark.parametrize(
    ("files", "says"), [({"a.py": "", "b.py": ""}, "--handler MODULE.FUNCTION"), ({"app.py": "x = 1"}, "app.FUNCTION")]
)
def test_what_cannot_be_guessed_is_asked_for(tmp_path: Path, files: dict[str, str], says: str) -> None:
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    found = dict(folder_files(tmp_path))

    with pytest.raises(UserError, match=says):
        guess_handler(list(found), found)


def test_a_single_file_keeps_its_name(tmp_path: Path) -> None:
    write(tmp_path, "report.py")

    source = read_source(tmp_path / "report.py")

    assert isinstance(source, Source)
    assert list(source.files) == ["report.py"]
    assert source.requirements is None


def test_a_zip_goes_as_it_is_and_a_broken_one_is_refused(tmp_path: Path) -> None:
    write(tmp_path, "app.py")
    data = make_zip({"app.py": tmp_path / "app.py"})
    (tmp_path / "whole.zip").write_bytes(data)
    (tmp_path / "broken.zip").write_bytes(data[:40])

    assert read_source(tmp_path / "whole.zip") == data
    with pytest.raises(UserError, match="no readable zip"):
        read_source(tmp_path / "broken.zip")


def test_a_path_without_anything_says_what_is_wanted(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not exist"):
        read_source(tmp_path / "nowhere")
    with pytest.raises(UserError, match="no file to deploy"):
        read_source(tmp_path)

"""Reading functions' logs by byte offsets, whatever else happens to the files."""

import json
from pathlib import Path

from forebay_common import limits
from forebay_controller.log_reader import read_new, tail
from forebay_controller.logs_text import as_text


def line(time: str, message: str) -> bytes:
    return json.dumps({"time": time, "message": message}).encode()


def write(path: Path, *lines: bytes, end: bytes = b"") -> None:
    with path.open("ab") as file:
        file.write(b"".join(item + b"\n" for item in lines) + end)


def test_a_folder_that_is_not_there_has_no_lines(tmp_path: Path) -> None:
    assert tail(tmp_path / "none", 10)[0] == []


def test_the_tail_is_the_last_lines_of_all_files_by_time(tmp_path: Path) -> None:
    write(tmp_path / "a.log", line("1", "a"), line("4", "d"))
    write(tmp_path / "b.log", line("2", "b"), line("3", "c"))
    assert tail(tmp_path, 3)[0] == [line("2", "b"), line("3", "c"), line("4", "d")]
    assert tail(tmp_path, 0)[0] == []


def test_a_line_without_a_time_stays_behind_the_one_before(tmp_path: Path) -> None:
    write(tmp_path / "a.log", line("1", "a"), b"no json", line("3", "c"))
    write(tmp_path / "b.log", line("2", "b"))
    assert tail(tmp_path, 9)[0] == [line("1", "a"), b"no json", line("2", "b"), line("3", "c")]


def test_a_long_file_is_read_from_its_end(tmp_path: Path) -> None:
    lines = [line(f"{number:06}", "x" * 100) for number in range(5_000)]
    write(tmp_path / "a.log", *lines)
    for count in (1, 700, 4_999, 6_000):
        assert tail(tmp_path, count)[0] == lines[-count:]


def test_reading_goes_on_after_the_tail_and_waits_for_the_end_of_a_line(tmp_path: Path) -> None:
    write(tmp_path / "a.log", line("1", "a"), end=b'{"time": "2", ')
    found, position = tail(tmp_path, 10)
    assert found == [line("1", "a")]
    assert read_new(tmp_path, position) == []
    write(tmp_path / "a.log", b'"message": "b"}', line("3", "c"))
    write(tmp_path / "b.log", line("2.5", "new file"))
    assert read_new(tmp_path, position) == [line("2", "b"), line("2.5", "new file"), line("3", "c")]
    assert read_new(tmp_path, position) == []


def test_a_file_that_became_shorter_is_another_one(tmp_path: Path) -> None:
    write(tmp_path / "a.log", line("1", "a"), line("2", "b"))
    position = tail(tmp_path, 10)[1]
    (tmp_path / "a.log").write_bytes(line("3", "c") + b"\n")
    assert read_new(tmp_path, position) == [line("3", "c")]


def test_a_removed_file_is_forgotten(tmp_path: Path) -> None:
    write(tmp_path / "a.log", line("1", "a"))
    position = tail(tmp_path, 10)[1]
    (tmp_path / "a.log").unlink()
    assert read_new(tmp_path, position) == []
    assert position.offsets == {}


def test_a_line_longer_than_a_read_comes_in_pieces(tmp_path: Path) -> None:
    position = tail(tmp_path, 10)[1]
    long = b"x" * (limits.MIB + 10)
    write(tmp_path / "a.log", long)
    assert b"".join(read_new(tmp_path, position) + read_new(tmp_path, position)) == long


def test_a_line_for_people_is_its_time_and_message() -> None:
    assert as_text(line("12:00", "hello\n")) == "12:00 hello"
    assert as_text(b"no json \xff") == "no json \N{REPLACEMENT CHARACTER}"
    assert as_text(b"[1]") == "[1]"

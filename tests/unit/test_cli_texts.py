import json
from pathlib import Path

import pytest

from forebay_cli import child_logs
from forebay_cli.child_logs import LogFile, readable
from forebay_cli.client import error_text
from forebay_cli.demo import own_lines
from forebay_cli.demo_burst import Burst
from forebay_cli.restarts import DELAY_MAX_S, STABLE_S, RestartPolicy
from forebay_cli.status_view import COLUMNS, row
from forebay_cli.watcher import function_paths, touched


def test_a_warning_becomes_one_line_with_its_fields_and_an_info_none() -> None:
    line = {"time": "t", "level": "warning", "component": "gateway", "message": "slow", "function": "f", "ms": 7}

    assert readable("gateway", json.dumps(line), 30) == "gateway warning: slow (function=f ms=7)"
    assert readable("gateway", json.dumps({**line, "level": "info"}), 30) is None
    assert readable("gateway", json.dumps({"level": "info", "message": "m"}), 20) == "gateway info: m"


def test_of_a_stack_trace_the_last_line_is_shown() -> None:
    line = {"level": "error", "message": "it\nfailed\n", "exception": "Traceback\n  File x\nValueError: why\n"}

    assert readable("gateway", json.dumps(line), 30) == "gateway error: it failed: ValueError: why"


def test_an_interpreters_last_words_are_shown_whatever_the_level() -> None:
    assert readable("controller", "MemoryError", 50) == "controller: MemoryError"
    assert readable("controller", "[1]", 50) == "controller: [1]"
    assert readable("controller", "  ", 10) is None


def test_a_log_file_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(child_logs, "FILE_MAX_BYTES", 10)
    file = LogFile(tmp_path / "a.log")
    for number in range(5):
        file.write(b"line %d\n" % number)
    file.close()

    assert (tmp_path / "a.log").read_bytes() == b"line 4\n"
    assert (tmp_path / "a.log.1").read_bytes() == b"line 3\n"


def test_a_process_that_keeps_dying_is_started_less_and_less_often() -> None:
    policy = RestartPolicy(served=True)

    delays = [policy.delay_s(started_at=float(n), now=n + 0.5) for n in range(9)]

    assert delays[:3] == [0.1, 0.2, 0.4]
    assert delays[-1] == DELAY_MAX_S


def test_a_long_life_makes_the_next_restart_quick_again() -> None:
    policy = RestartPolicy(served=True, deaths=8)

    assert policy.delay_s(started_at=0.0, now=STABLE_S) == 0.1


def test_a_process_that_never_served_is_not_started_again() -> None:
    assert RestartPolicy().delay_s(started_at=0.0, now=1.0) is None


@pytest.mark.parametrize(
    ("status", "body", "text"),
    [
        (404, b'{"Type": "User", "Message": "Function not found: x"}', "Function not found: x"),
        (429, b'{"Type": "User", "message": "Rate Exceeded."}', "Rate Exceeded."),
        (400, b'{"error": {"code": "invalid", "message": "timeout_s: too large"}}', "timeout_s: too large"),
        (500, b"<html>", "http://x answered 500: <html>"),
        (404, b"[]", "http://x does not know this request: is it a Forebay of this release?"),
    ],
)
def test_error_answers_in_words(status: int, body: bytes, text: str) -> None:
    assert error_text(status, body, "http://x") == text


def test_a_status_row_has_a_cell_for_each_column() -> None:
    status = {
        "queued": 3, "in_flight": 2, "dead_letters": 4, "reason": "a burst",
        "instances": {"starting": 1, "idle": 0, "busy": 2, "draining": 0},
    }  # fmt: skip

    assert dict(zip(COLUMNS, row("f", status), strict=True)) == {
        "FUNCTION": "f", "QUEUED": "3", "IN FLIGHT": "2", "STARTING": "1", "IDLE": "0", "BUSY": "2", "DRAINING": "0",
        "DEAD": "4", "REASON": "a burst",
    }  # fmt: skip


def test_watched_functions_are_the_folders_and_modules_with_a_functions_name(tmp_path: Path) -> None:
    for name in ("api", ".git", "__pycache__", "has space"):
        (tmp_path / name).mkdir()
    (tmp_path / "manifests").mkdir()
    for name in ("report.py", "notes.md", "__init__.py", "manifests/api.yaml", "manifests/README.md"):
        (tmp_path / name).touch()

    assert function_paths(tmp_path) == {"api": tmp_path / "api", "report": tmp_path / "report.py"}


def test_changes_belong_to_the_direct_member_they_lie_in() -> None:
    folder = Path("/f")

    assert touched(folder, ["/f/api/lib/a.py", "/f/report.py", "/f"]) == {"api", "report.py"}


def test_one_invocations_log_is_what_lies_between_its_start_and_its_report() -> None:
    log = ["INIT_START", "START a", "hello", "END a", "REPORT a", "START b", "REPORT b"]

    assert own_lines(log, " a") == ["START a", "hello", "END a", "REPORT a"]
    assert own_lines(log[:4], " a") is None
    assert own_lines(log, " c") is None


def test_a_burst_remembers_the_most_it_saw() -> None:
    burst = Burst("http://x", "f", 200)
    instances = {"starting": 2, "idle": 1, "busy": 4, "draining": 1}

    assert burst.saw({"queued": 9, "instances": instances}) == 8
    assert burst.saw({"queued": 1, "instances": dict.fromkeys(instances, 0)}) == 0
    assert (burst.most_instances, burst.most_queued) == (8, 9)

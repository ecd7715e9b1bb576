"""The handlers' program's decisions that need no process: who is killed, which module wins, what is shown."""

import json
import os
import sys
import tempfile
import types
from pathlib import Path

import pytest

from forebay_common.function_errors import out_of_memory, response_too_large
from forebay_handlers import connection, context, errors, processes, supervisor, user_code
from forebay_handlers.new_root import blocking_folder

TABLE = {1: (0, 1), 10: (1, 10), 11: (10, 10), 12: (11, 12), 20: (1, 20), 21: (1, 10)}
"""Parent and session by pid: 10 leads a session with child 11 and orphan 21; 12 has left that session."""


@pytest.mark.parametrize(("root", "below"), [(10, {11, 12}), (1, {10, 11, 12, 20, 21}), (12, set()), (99, set())])
def test_descendants_are_found_across_sessions(root: int, below: set[int]) -> None:
    assert processes.descendants(TABLE, root) == below


def test_a_session_is_found_across_parents() -> None:
    assert processes.in_session(TABLE, 10) == {10, 11, 21}


def test_a_table_with_a_loop_ends() -> None:
    assert processes.descendants({2: (3, 0), 3: (2, 0)}, 2) == {2, 3}


def test_the_own_process_is_in_the_table() -> None:
    assert processes.table()[os.getpid()] == (os.getppid(), os.getsid(0))


def test_the_search_path_puts_the_package_first_and_boto_last() -> None:
    version = f"python{sys.version_info[0]}.{sys.version_info[1]}"
    assert user_code.search_path("/var/task", "/mine:/var/runtime::", "/var/runtime", ["/std", "/std/dynload"]) == [
        "/var/task",
        "/mine",
        f"/opt/python/lib/{version}/site-packages",
        "/opt/python",
        "/std",
        "/std/dynload",
        "/var/runtime",
    ]
    assert user_code.search_path("/var/task", "", "", ["/std"])[-1] == "/std"


@pytest.fixture
def modules(monkeypatch: pytest.MonkeyPatch) -> dict[str, types.ModuleType]:
    found = {name: types.ModuleType(name) for name in ("zq_one", "zq_one.part", "zq_two", "zq_three")}
    copy = {**sys.modules, **found}
    monkeypatch.setattr(sys, "modules", copy)
    return copy


def test_a_module_or_package_of_the_users_replaces_the_imported_one(
    tmp_path: Path, modules: dict[str, types.ModuleType]
) -> None:
    (tmp_path / "zq_one").mkdir()
    (tmp_path / "zq_one" / "__init__.py").touch()
    (tmp_path / "zq_two.py").touch()
    user_code.give_way([str(tmp_path), "/no/such/layer"], frozenset())
    assert {name for name in modules if name.startswith("zq_")} == {"zq_three"}


def test_a_folder_or_data_file_of_that_name_replaces_nothing(
    tmp_path: Path, modules: dict[str, types.ModuleType]
) -> None:
    (tmp_path / "zq_one").mkdir()
    (tmp_path / "zq_two.json").touch()
    user_code.give_way([str(tmp_path)], frozenset())
    assert {"zq_one", "zq_two"} <= set(modules)


def test_what_the_interpreter_stands_on_stays(tmp_path: Path, modules: dict[str, types.ModuleType]) -> None:
    (tmp_path / "zq_one.py").touch()
    user_code.give_way([str(tmp_path)], frozenset({"zq_one"}))
    assert "zq_one" in modules


@pytest.mark.parametrize(
    ("path", "shown"),
    [
        ("/srv/code/app.py", "/var/task/app.py"),
        ("/srv/code2/app.py", "/srv/code2/app.py"),
        ("/opt/python/layer.py", "/opt/python/layer.py"),
    ],
)
def test_paths_are_shown_under_var_task(path: str, shown: str) -> None:
    assert errors.ErrorWriter("/srv/code/").shown_path(path) == shown


def test_the_platforms_own_frames_are_not_shown_even_where_it_lies_in_a_folder_of_the_users() -> None:
    own = Path(errors.__file__).parent
    frames = {
        name: compile("run()", str(path), "exec")
        for name, path in (("own", own / "x.py"), ("user", own.parent / "a.py"))
    }

    def fail() -> None:
        raise ValueError

    def call_user() -> None:
        exec(frames["user"], {"run": fail})

    try:
        exec(frames["own"], {"run": call_user})
    except ValueError as error:
        shown = errors.ErrorWriter(str(own.parent)).stack_lines(error.__traceback__)
    assert shown == ['  File "/var/task/a.py", line 1, in <module>\n']


def test_an_out_of_memory_document_is_the_platforms() -> None:
    assert errors.out_of_memory("id") == out_of_memory("id")
    assert errors.too_large(json.dumps) == response_too_large(errors.RESPONSE_MAX_BYTES)


def test_an_error_that_has_no_utf8_is_logged_all_the_same() -> None:
    document: errors.Document = {
        "errorMessage": "half of \ud83d\ude00: \ud83d",
        "errorType": "ValueError",
        "requestId": "",
        "stackTrace": ["  File x\n"],
    }
    logged = errors.log_lines(document)
    assert logged.encode().startswith(b"[ERROR] ValueError: half of ")
    assert logged.endswith("\\ud83d\nTraceback (most recent call last):\n  File x\n")


@pytest.mark.parametrize(("code", "status"), [(None, 0), (0, 0), (3, 3), (256, 0), (-1, 255), (True, 1)])
def test_exit_statuses_are_pythons(code: object, status: int) -> None:
    assert errors.exit_status(SystemExit(code)) == status


def test_remaining_time_counts_down_to_zero() -> None:
    now = 1_000.0
    function = dict.fromkeys(context.FUNCTION_VARIABLES)
    call = context.LambdaContext(function, "id", "arn", 1_003_000, None, now=lambda: now)
    assert call.get_remaining_time_in_millis() == 3_000
    now = 1_002.9995
    assert call.get_remaining_time_in_millis() == 1
    now = 1_004.0
    assert call.get_remaining_time_in_millis() == 0


@pytest.mark.parametrize(("mode", "passes"), [(0o711, True), (0o755, True), (0o770, False), (0o700, False)])
def test_others_need_their_own_bit_to_pass(mode: int, passes: bool) -> None:  # noqa: FBT001
    with tempfile.TemporaryDirectory(prefix="fb-") as name:
        folder = Path(name)
        (folder / "python").mkdir()
        folder.chmod(mode)
        found = blocking_folder(str(folder / "python"), 54_321, 54_321)
        assert found == ("" if passes else str(folder))


def test_a_runtime_that_does_not_come_up_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "CONNECT_WAIT_S", 0.0)
    with pytest.raises(SystemExit, match="did not open its socket"):
        supervisor.serve(str(tmp_path / "control.sock"))

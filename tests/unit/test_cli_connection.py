"""Which platform a command talks to, and with which key."""

import json
from pathlib import Path

import pytest

from forebay_cli import connection
from forebay_cli.client import Refusal, refusal
from forebay_cli.connection import Connection
from forebay_cli.errors import UserError
from forebay_cli.login import is_private

KEPT = Connection("https://forebay.example", "FBAK.secret", "team-a")


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A configuration folder of the test's own, and no variable that says otherwise."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    for name in ("FOREBAY_ENDPOINT", "FOREBAY_API_KEY", "FOREBAY_NAMESPACE"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def test_without_anything_said_it_is_this_machines() -> None:
    assert connection.current() == Connection("http://127.0.0.1:8480")


def test_what_login_kept_is_used_until_logout() -> None:
    connection.keep(KEPT)
    assert connection.current() == KEPT

    assert connection.forget() == "https://forebay.example"
    assert connection.current() == Connection("http://127.0.0.1:8480")
    assert connection.forget() == ""


def test_the_key_is_kept_for_its_user_alone(home: Path) -> None:
    file = connection.keep(KEPT)

    assert file == home / "forebay" / "credentials.json"
    assert file.stat().st_mode & 0o777 == 0o600
    assert file.parent.stat().st_mode & 0o777 == 0o700
    assert connection.keep(KEPT._replace(api_key="FBAK.other")) == file
    assert json.loads(file.read_text())["api_key"] == "FBAK.other"


def test_the_environment_wins_over_what_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    connection.keep(KEPT)
    monkeypatch.setenv("FOREBAY_API_KEY", "FBAK.mine")
    monkeypatch.setenv("FOREBAY_NAMESPACE", "team-b")

    assert connection.current() == Connection(KEPT.url, "FBAK.mine", "team-b")
    assert connection.current("team-c").namespace == "team-c"


def test_a_kept_key_is_shown_to_no_other_platform(monkeypatch: pytest.MonkeyPatch) -> None:
    connection.keep(KEPT)
    monkeypatch.setenv("FOREBAY_ENDPOINT", "https://elsewhere.example/")
    assert connection.current() == Connection("https://elsewhere.example")

    monkeypatch.setenv("FOREBAY_ENDPOINT", "https://forebay.example/")
    assert connection.current() == KEPT


def test_an_endpoint_that_is_no_url_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FOREBAY_ENDPOINT", "box:1")

    with pytest.raises(UserError, match="is no URL"):
        connection.current()


@pytest.mark.parametrize("text", ["", "[]", "{}"])
def test_a_file_that_login_did_not_write_is_named(text: str) -> None:
    file = connection.keep(KEPT)
    file.write_text(text)

    with pytest.raises(UserError, match="log in again, or remove it"):
        connection.current()
    assert connection.forget() == "a platform"


@pytest.mark.parametrize(
    ("status", "body", "error_type", "found"),
    [
        (403, b'{"message": "Missing Authentication Token"}', "MissingAuthenticationTokenException", Refusal.UNKNOWN),
        (403, b'{"message": "The security token"}', "UnrecognizedClientException", Refusal.UNKNOWN),
        (403, b'{"error": {"code": "unauthenticated", "message": ""}}', "", Refusal.UNKNOWN),
        (403, b'{"error": {"code": "forbidden", "message": ""}}', "", Refusal.NOT_ALLOWED),
        (403, b'{"Message": "User: forebay:FBAK is not"}', "AccessDeniedException", Refusal.NOT_ALLOWED),
        (403, b'{"message": "Host x is not served here."}', "AccessDeniedException", None),
        (403, b"<html>", "", None),
        (403, b"[]", "", None),
        (404, b'{"error": {"code": "not_found", "message": ""}}', "", None),
    ],
)
def test_an_answer_tells_whether_it_is_about_the_key(
    status: int, body: bytes, error_type: str, found: Refusal | None
) -> None:
    assert refusal(status, body, error_type) is found


@pytest.mark.parametrize(
    "url", ["https://forebay.example", "http://localhost:8480", "http://127.0.0.2", "http://[::1]:1"]
)
def test_a_key_is_safe_on_the_way_by_tls_or_to_this_machine(url: str) -> None:
    assert is_private(url)
    assert not is_private("http://forebay.example")

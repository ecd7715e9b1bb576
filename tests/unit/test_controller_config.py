"""The controller's configuration file."""

from pathlib import Path
from typing import Any

import pytest

from forebay_controller.config import ControllerConfig, read_document

WHOLE: dict[str, Any] = {
    "redis": {"unix_socket": "/run/valkey.sock"},
    "controller_socket": "/run/controller.sock",
    "run_dir": "/run",
    "data_dir": "/data",
}


def test_defaults_are_lambdas_and_members_of_other_processes_are_ignored() -> None:
    config = ControllerConfig.from_json({**WHOLE, "allowed_hosts": ["x"]})
    assert config.retry_delays_s == (60.0, 120.0)
    assert (config.region, config.account, config.namespace) == ("us-east-1", "000000000000", "default")
    assert config.run_dir == Path("/run")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"redis": {}}, "one of unix_socket, host and nodes"),
        ({"retry_delays_s": []}, "retry_delays_s"),
        ({"retry_delays_s": [-1]}, "retry_delays_s"),
        ({"instances_max": 0}, "instances_max"),
        ({"result_retention_s": 59}, "result_retention_s"),
        ({"result_retention_s": 1_209_601}, "result_retention_s"),
        ({"result_retention_s": "3600"}, "result_retention_s"),
        ({"auth": "maybe"}, "auth is required or off"),
    ],
)
def test_wrong_values_are_refused_by_name(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ControllerConfig.from_json(WHOLE | change)


@pytest.mark.parametrize("member", sorted(WHOLE))
def test_a_missing_member_is_named(member: str) -> None:
    with pytest.raises(ValueError, match=member):
        ControllerConfig.from_json({name: value for name, value in WHOLE.items() if name != member})


@pytest.mark.parametrize("text", ["[]", "{", "null"])
def test_a_file_that_is_no_object_is_refused(tmp_path: Path, text: str) -> None:
    file = tmp_path / "controller.json"
    file.write_text(text)
    with pytest.raises(ValueError):  # noqa: PT011 - JSON's own message, or ours
        read_document(file)

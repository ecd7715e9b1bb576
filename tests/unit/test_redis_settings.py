from typing import Any

import pytest

from forebay_common.redis_client import RedisSettings, connect


def test_absent_and_null_members_take_their_defaults() -> None:
    settings = RedisSettings.from_json({"unix_socket": None, "host": "redis", "tls": True, "username": None})
    assert settings == RedisSettings(host="redis", port=6379, tls=True, db=0)


@pytest.mark.parametrize("document", [{}, {"unix_socket": "/s", "host": "h"}, {"host": "h", "hots": "h"}])
def test_settings_that_name_no_single_server_are_refused(document: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="settings"):
        RedisSettings.from_json(document)


def test_the_client_repeats_no_command_by_itself() -> None:
    client = connect(RedisSettings(unix_socket="/nowhere"))
    assert client.get_retry().get_retries() == 0  # type: ignore[union-attr]

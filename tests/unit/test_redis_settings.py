from pathlib import Path
from typing import Any

import pytest

from forebay_common.redis_client import connect
from forebay_common.redis_settings import Address, RedisSettings

NODES = (Address("10.0.0.1", 7000), Address("::1", 26379))


def test_absent_and_null_members_take_their_defaults() -> None:
    settings = RedisSettings.from_json({"unix_socket": None, "host": "redis", "tls": True, "username": None})
    assert settings == RedisSettings(host="redis", port=6379, tls=True, db=0)


@pytest.mark.parametrize(
    "document",
    [
        {},
        {"unix_socket": "/s", "host": "h"},
        {"host": "h", "hots": "h"},
        {"host": "h", "nodes": ["a:1"]},
        {"host": "h", "sentinel_master": "main"},
        {"nodes": ["a:1"], "db": 1},
    ],
)
def test_settings_that_name_no_single_redis_are_refused(document: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="settings"):
        RedisSettings.from_json(document)


@pytest.mark.parametrize(
    ("url", "settings"),
    [
        (
            "redis+sentinel://u:p%40@10.0.0.1:7000,[::1]/main/2?sentinel_username=s&sentinel_password=p%2F",
            RedisSettings(
                nodes=NODES, sentinel_master="main", username="u", password="p@", db=2,
                sentinel_username="s", sentinel_password="p/",
            ),
        ),
        ("rediss+sentinel://a/main", RedisSettings(nodes=(Address("a", 26379),), sentinel_master="main", tls=True)),
        ("redis+cluster://:p@a,b:7001", RedisSettings(nodes=(Address("a", 6379), Address("b", 7001)), password="p")),
        ("rediss+cluster://a/", RedisSettings(nodes=(Address("a", 6379),), tls=True)),
    ],
)  # fmt: skip
def test_urls_of_several_servers(url: str, settings: RedisSettings) -> None:
    assert RedisSettings.from_url(url) == settings
    assert RedisSettings.from_json(settings.to_json()) == settings
    assert settings.is_cluster == ("cluster" in url)


@pytest.mark.parametrize(
    "url",
    [
        "redis+sentinel://a",
        "redis+sentinel://a,/main",
        "redis+sentinel://a/main?sentinel_pasword=x",
        "redis+cluster://a/1",
        "redis+cluster://a:99999",
        "redis+cluster://",
        "redis+cluster://[::1]x",
        "sentinel://a/main",
    ],
)
def test_urls_of_several_servers_that_are_none(url: str) -> None:
    with pytest.raises(ValueError, match=r"is no"):
        RedisSettings.from_url(url)


def test_a_url_in_a_configuration_stands_beside_the_rest(tmp_path: Path) -> None:
    (tmp_path / "password").write_text("secret\n")
    (tmp_path / "sentinels").write_text("theirs\n")
    document = {
        "url": "rediss+sentinel://a:1,b:2/main",
        "username": "forebay-gateway",
        "password_file": str(tmp_path / "password"),
        "sentinel_password_file": str(tmp_path / "sentinels"),
        "ca_file": "/ca.crt",
    }
    assert RedisSettings.from_json(document) == RedisSettings(
        nodes=(Address("a", 1), Address("b", 2)),
        sentinel_master="main",
        tls=True,
        username="forebay-gateway",
        password="secret",
        sentinel_password="theirs",
        ca_file="/ca.crt",
    )


@pytest.mark.parametrize(
    "url",
    [
        "redis://cache:7000/3",
        "rediss://[::1]:6379/0",
        "unix:///run/redis.sock",
        "redis+cluster://a:1,[::1]:2",
        "rediss+sentinel://a:1,b:2/main/0",
    ],
)
def test_settings_are_shown_as_their_url_without_passwords(url: str) -> None:
    scheme, rest = url.split("://")
    assert str(RedisSettings.from_url(f"{scheme}://user:secret@{rest}")) == url


def test_one_server_of_several_is_reached_with_the_same_credentials() -> None:
    several = RedisSettings.from_url("rediss+cluster://user:secret@a:1,b:2")
    assert several.at(Address("b", 2)) == RedisSettings(host="b", port=2, tls=True, username="user", password="secret")


def test_the_client_repeats_no_command_by_itself() -> None:
    for url in ("unix:///nowhere", "redis+sentinel://nowhere/main"):
        client = connect(RedisSettings.from_url(url))
        assert client.get_retry().get_retries() == 0  # type: ignore[union-attr]

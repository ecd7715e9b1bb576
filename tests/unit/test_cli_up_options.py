import socket
from pathlib import Path

import pytest

from forebay_cli import defaults
from forebay_cli.embedded_valkey import configuration, parse_redis_url, server_version
from forebay_cli.errors import UserError
from forebay_cli.up_options import (
    FSYNC,
    PROCESS,
    REPLICA,
    UpOptions,
    check_address,
    check_durability,
    check_log_level,
    gateway_allowed_hosts,
    parse_auth,
    parse_outbound_allow,
    parse_retry_delays,
    reachable_address,
    url_host,
)
from forebay_common.redis_settings import RedisSettings
from forebay_gateway.durability import DURABILITIES


@pytest.mark.parametrize(("text", "delays"), [("60,120", (60, 120)), ("0.5", (0.5,)), (" 1, 2 ", (1, 2))])
def test_retry_delays(text: str, delays: tuple[float, ...]) -> None:
    assert parse_retry_delays(text) == delays


@pytest.mark.parametrize("text", ["", "x", "1,,2", "-1", "nan", "inf", "99999"])
def test_retry_delays_out_of_range_are_refused(text: str) -> None:
    with pytest.raises(UserError, match="seconds before each retry"):
        parse_retry_delays(text)


def test_a_refusal_names_the_option_that_was_used() -> None:
    with pytest.raises(UserError, match=r"^--async-retry-delays 'x'"):
        parse_retry_delays("x")
    with pytest.raises(UserError, match=r"^--retry-delays 'x'"):
        parse_retry_delays("x", "--retry-delays")


@pytest.mark.parametrize("entry", ["127.0.0.1", "::1", "10.0.0.0/8", "fd00::/8", "hooks.internal", "localhost"])
def test_hosts_addresses_and_networks_may_be_posted_to(entry: str) -> None:
    assert parse_outbound_allow([entry]) == (entry,)


@pytest.mark.parametrize("entry", ["", "10.0.0.1/8", "10.0.0.0/33", "http://x", "x:80", "a b", "-x"])
def test_what_is_none_of_them_is_refused(entry: str) -> None:
    with pytest.raises(UserError, match="a host name, an address or a network"):
        parse_outbound_allow(["127.0.0.1", entry])


def test_an_embedded_valkey_has_no_replica() -> None:
    assert check_durability("replica", embedded=False) == "replica"
    assert check_durability("fsync", embedded=True) == "fsync"
    with pytest.raises(UserError, match="no replica"):
        check_durability("replica", embedded=True)


def test_gateways_know_each_durability() -> None:
    assert {PROCESS, FSYNC, REPLICA} == set(DURABILITIES)
    assert {PROCESS} == {defaults.DURABILITY}


def test_log_levels_are_known_ones() -> None:
    assert check_log_level("INFO") == "info"
    with pytest.raises(UserError, match="choose one of"):
        check_log_level("loud")


@pytest.mark.parametrize("host", ["0.0.0.0", "::"])
def test_listening_beyond_loopback_without_keys_needs_a_word(host: str) -> None:
    with pytest.raises(UserError, match="--allow-remote"):
        check_address(host, 0, allow_open=False)
    check_address(host, 0, allow_open=True)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "127.9.9.9"])
def test_loopback_needs_none(host: str) -> None:
    check_address(host, 0, allow_open=False)


@pytest.mark.parametrize(
    ("host", "asked", "required"),
    [
        ("127.0.0.1", None, False),
        ("127.0.0.2", None, False),
        ("0.0.0.0", None, True),
        ("::", None, True),
        ("127.0.0.1", True, True),
        ("0.0.0.0", False, False),
    ],
)
def test_keys_are_asked_for_beyond_loopback_or_when_said_so(host: str, asked: bool | None, required: bool) -> None:  # noqa: FBT001 - a table's values
    assert UpOptions(Path("/d"), host=host, auth=asked).auth_required is required


def test_how_authentication_is_asked_for() -> None:
    assert (parse_auth(None), parse_auth("required"), parse_auth("off")) == (None, True, False)
    with pytest.raises(UserError, match="choose required or off"):
        parse_auth("maybe")


@pytest.mark.parametrize("port", [-1, 65_536])
def test_a_port_out_of_range_is_refused(port: int) -> None:
    with pytest.raises(UserError, match="from 1 to 65535"):
        check_address("127.0.0.1", port, allow_open=False)


def test_a_host_that_is_none_is_refused() -> None:
    with pytest.raises(UserError, match="no address of this machine"):
        check_address("not a host", 0, allow_open=False)


def test_a_taken_port_says_what_to_do() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        with pytest.raises(UserError, match=r"taken by another program.*--port"):
            check_address("127.0.0.1", other.getsockname()[1], allow_open=False)


@pytest.mark.parametrize(
    ("host", "in_url", "reached"),
    [
        ("127.0.0.1", "127.0.0.1", "127.0.0.1"),
        ("0.0.0.0", "127.0.0.1", "127.0.0.1"),
        ("::", "[::1]", "::1"),
        ("::1", "[::1]", "::1"),
    ],
)
def test_how_this_machine_reaches_what_it_listens_on(host: str, in_url: str, reached: str) -> None:
    assert url_host(host) == in_url
    assert reachable_address(host) == reached


def test_the_host_listened_on_may_be_named_in_requests() -> None:
    own = UpOptions(Path("/d"), host="192.0.2.7", allowed_hosts=("box.example",))
    everywhere = UpOptions(Path("/d"), host="0.0.0.0", allowed_hosts=("box.example",))
    open_to_all = UpOptions(Path("/d"), host="0.0.0.0", auth=False, allowed_hosts=("box.example",))

    assert gateway_allowed_hosts(own) == ["192.0.2.7", "box.example"]
    assert gateway_allowed_hosts(everywhere) == ["*"]
    assert gateway_allowed_hosts(open_to_all) == ["box.example"]


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("redis://cache", RedisSettings(host="cache", port=6379)),
        (
            "redis://u:p%40ss@cache:7000/3",
            RedisSettings(None, "cache", 7000, username="u", password="p@ss", db=3),
        ),
        ("rediss://:secret@cache", RedisSettings(None, "cache", 6379, tls=True, password="secret")),
        ("unix:///run/redis.sock?db=2", RedisSettings(unix_socket="/run/redis.sock", db=2)),
    ],
)
def test_redis_urls(url: str, address: RedisSettings) -> None:
    assert parse_redis_url(url) == address


@pytest.mark.parametrize("url", ["cache:6379", "http://cache", "redis://", "redis://cache:x", "redis://cache/zero", ""])
def test_what_is_no_redis_url_is_refused(url: str) -> None:
    with pytest.raises(UserError, match="is no Redis URL"):
        parse_redis_url(url)


def test_a_redis_is_named_without_its_password() -> None:
    assert str(parse_redis_url("redis://u:secret@cache:7000/3")) == "redis://cache:7000/3"


def test_the_version_is_the_one_a_valkey_stands_for() -> None:
    assert server_version("# Server\r\nredis_version:7.2.4\r\nvalkey_version:9.1.0\r\n") == (7, 2)
    assert server_version("nothing") == (0, 0)


def test_the_embedded_valkey_is_closed_to_the_network_and_keeps_what_it_acknowledged() -> None:
    lines = configuration(Path("/r/valkey.sock"), "secret", Path("/d/valkey")).splitlines()

    assert {"port 0", "unixsocketperm 700", "requirepass secret", "appendonly yes", "appendfsync everysec"} < set(lines)
    assert "maxmemory-policy noeviction" in lines


def test_the_embedded_valkey_has_it_on_the_disk_first_where_that_is_asked_for() -> None:
    lines = configuration(Path("/r/valkey.sock"), "secret", Path("/d/valkey"), fsync=True).splitlines()

    assert [line for line in lines if line.startswith("appendfsync")] == ["appendfsync always"]

"""What a web page, or anyone else, can and cannot send to a gateway on loopback."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from forebay_gateway.areas import Area, area_of
from forebay_gateway.guard import Guard, GuardRefusal, Rule, caller_of, is_loopback, parse_host
from forebay_gateway.http_event import Headers

AUTHORIZATION = (b"authorization", b"AWS4-HMAC-SHA256 Credential=x")
INVOKE = b"/2015-03-31/functions/hello/invocations"
OWN_ORIGIN = b"http://localhost:8480"
MANAGEMENT_PATHS = [INVOKE, b"/v1/functions", b"/2015-03-31/functions", b"/", b"/v1/functions/x", b"/unknown"]
OPEN_PATHS = [b"/healthz", b"/readyz", b"/metrics", b"/docs", b"/openapi.json", b"/controller/metrics"]


def checked(path: bytes, *headers: tuple[bytes, bytes], host: bytes = b"localhost:8480") -> GuardRefusal | None:
    return Guard().check(area_of("POST", path), caller_of([(b"host", host), *headers]))


def rule_of(refusal: GuardRefusal | None) -> Rule | None:
    return None if refusal is None else refusal.rule


@pytest.mark.parametrize(
    "host",
    [
        b"localhost",
        b"localhost:8480",
        b"LocalHost:8480",
        b"localhost.",
        b"localhost.:8480",
        b"127.0.0.1:8480",
        b"127.0.0.1",
        b"127.9.8.7:1",
        b"[::1]:8480",
        b"[::1]",
        b"[0:0:0:0:0:0:0:1]:8480",
        b"[::ffff:127.0.0.1]:8480",
    ],
)
def test_loopback_hosts_come_in(host: bytes) -> None:
    assert checked(b"/healthz", host=host) is None
    assert checked(b"/fn/hello", host=host) is None


@pytest.mark.parametrize(
    "host",
    [
        b"evil.example",
        b"evil.example:8480",
        b"localhost.evil.example",
        b"127.0.0.1.nip.io:8480",
        b"evil.localhost",
        b"xlocalhost",
        b"127.1",
        b"2130706433",
        b"0x7f000001",
        b"0177.0.0.1",
        b"0.0.0.0:8480",
        b"128.0.0.1",
        b"[::]:8480",
        b"[fe80::1]",
        b"[127.0.0.1]",
        b"192.168.0.7:8480",
    ],
)
@pytest.mark.parametrize("path", [b"/fn/hello", b"/metrics", b"/docs", b"/healthz", INVOKE])
def test_a_name_that_only_resolves_to_loopback_is_refused_and_told_the_flag(host: bytes, path: bytes) -> None:
    refusal = checked(path, AUTHORIZATION, host=host)
    assert refusal is not None
    assert (refusal.rule, refusal.status) == (Rule.HOST_FOREIGN, 403)
    assert b"--allowed-host" in refusal.body()


@pytest.mark.parametrize(
    "host",
    [
        *(b"", b":8480", b"local host", b"localhost:", b"localhost:x", b"localhost:99999", b"a@localhost"),
        *(b"localhost,evil", b"localhost/x", b"[::1", b"::1", b"loc\xe4l", b"-", b"localhost..", b"x" * 300),
    ],
)
def test_a_malformed_host_is_a_bad_request(host: bytes) -> None:
    refusal = checked(b"/healthz", host=host)
    assert refusal is not None
    assert (refusal.rule, refusal.status) == (Rule.HOST_MALFORMED, 400)


@pytest.mark.parametrize("hosts", [[], [b"localhost", b"localhost"], [b"localhost", b"evil.example"]])
def test_exactly_one_host_is_needed(hosts: list[bytes]) -> None:
    refusal = Guard().check(Area.OPEN, caller_of([(b"host", host) for host in hosts]))
    assert refusal is not None
    assert (refusal.rule, refusal.status) == (Rule.HOST_MISSING, 400)


@pytest.mark.parametrize(
    ("configured", "host"),
    [
        ("forebay.example", b"forebay.example:8480"),
        ("Forebay.Example.", b"FOREBAY.example"),
        ("forebay.example:443", b"forebay.example"),
        ("192.168.0.7", b"192.168.0.7:8480"),
        ("[fd00::1]", b"[fd00::1]:8480"),
        ("fd00::1", b"[fd00::1]:8480"),
    ],
)
def test_a_configured_host_comes_in(configured: str, host: bytes) -> None:
    caller = caller_of([(b"host", host)])
    assert Guard((configured,)).check(Area.OPEN, caller) is None
    assert Guard().check(Area.OPEN, caller) is not None


@pytest.mark.parametrize("host", [b"gateway.forebay.svc:8480", b"10.0.0.7:8480", b"evil.example"])
def test_any_well_formed_host_comes_in_where_all_are_served(host: bytes) -> None:
    guard = Guard(("*",), credentials_required=True)
    assert guard.check(Area.OPEN, caller_of([(b"host", host)])) is None
    assert rule_of(guard.check(Area.OPEN, caller_of([(b"host", host + b"/x")]))) is Rule.HOST_MALFORMED
    assert rule_of(guard.check(Area.OPEN, caller_of([]))) is Rule.HOST_MISSING


def test_where_credentials_are_required_a_public_function_is_invoked_without_one_and_management_is_not() -> None:
    guard = Guard(("*",), credentials_required=True)
    stranger = caller_of([(b"host", b"h")])
    assert guard.check(Area.INVOKE, stranger) is None
    assert rule_of(guard.check(Area.MANAGEMENT, stranger)) is Rule.AUTHORIZATION_MISSING
    page = caller_of([(b"host", b"h"), (b"origin", b"https://evil.example"), AUTHORIZATION])
    assert rule_of(guard.check(Area.INVOKE, page)) is Rule.ORIGIN_FOREIGN


def test_a_host_that_came_in_once_does_not_open_the_door_for_others() -> None:
    guard = Guard()
    assert guard.check(Area.OPEN, caller_of([(b"host", b"localhost")])) is None
    assert guard.check(Area.OPEN, caller_of([(b"host", b"localhost.evil.example")])) is not None


@pytest.mark.parametrize("path", MANAGEMENT_PATHS)
def test_management_and_lambda_calls_need_a_header_that_a_page_cannot_send(path: bytes) -> None:
    assert checked(path, AUTHORIZATION) is None
    assert checked(path, (b"x-api-key", b"x")) is None
    for headers in ([], [(b"authorization", b"")], [(b"authorization", b"  ")]):
        refusal = checked(path, *headers)
        assert refusal is not None
        assert (refusal.status, refusal.error_type) == (403, "MissingAuthenticationTokenException")
        assert refusal.body() == b'{"message": "Missing Authentication Token"}'


@pytest.mark.parametrize("path", OPEN_PATHS)
def test_health_metrics_and_documentation_need_no_authorization(path: bytes) -> None:
    assert checked(path) is None


@pytest.mark.parametrize("path", [b"/v1/../fn/hello", b"/%66n/hello", b"/FN/hello", b"//fn/hello", b"/fnx", b"/docs/"])
def test_what_is_not_plainly_open_is_a_management_path(path: bytes) -> None:
    assert area_of("POST", path) is Area.MANAGEMENT


@pytest.mark.parametrize(
    "origin",
    [
        b"http://evil.example",
        b"null",
        b"",
        b"http://localhost",
        b"http://localhost:3000",
        b"http://127.0.0.1:8480",
        b"http://localhost:8480.evil.example",
        b"http://localhost:8480/",
        b"http://localhost:8480@evil.example",
        b"ftp://localhost:8480",
        b"file://",
        b"localhost:8480",
        b"http://localhost:8480, http://evil.example",
        b"\xff",
    ],
)
@pytest.mark.parametrize("path", [*MANAGEMENT_PATHS, *OPEN_PATHS])
def test_a_foreign_origin_is_refused_everywhere_whatever_it_authorizes(origin: bytes, path: bytes) -> None:
    assert rule_of(checked(path, (b"origin", origin), AUTHORIZATION)) is Rule.ORIGIN_FOREIGN


@pytest.mark.parametrize(
    ("host", "origin"),
    [
        (b"localhost:8480", b"http://localhost:8480"),
        (b"LOCALHOST:8480", b"http://localhost:8480"),
        (b"localhost.:8480", b"http://localhost:8480"),
        (b"[::1]:8480", b"http://[::1]:8480"),
        (b"127.0.0.1", b"http://127.0.0.1"),
        (b"127.0.0.1:80", b"http://127.0.0.1"),
        (b"localhost", b"https://localhost"),
    ],
)
def test_our_own_pages_are_no_foreign_origin(host: bytes, origin: bytes) -> None:
    assert checked(b"/docs", (b"origin", origin), (b"sec-fetch-site", b"same-origin"), host=host) is None


def test_two_origin_headers_are_none_that_is_allowed() -> None:
    assert rule_of(checked(b"/docs", (b"origin", OWN_ORIGIN), (b"origin", OWN_ORIGIN))) is Rule.ORIGIN_FOREIGN


@pytest.mark.parametrize("site", [b"cross-site", b"Cross-Site", b"", b"unheard-of", b"none, cross-site"])
@pytest.mark.parametrize("path", [*MANAGEMENT_PATHS, *OPEN_PATHS])
def test_a_request_from_another_site_is_refused_even_without_an_origin(site: bytes, path: bytes) -> None:
    assert rule_of(checked(path, (b"sec-fetch-site", site), AUTHORIZATION)) is Rule.CROSS_SITE


@pytest.mark.parametrize("site", [b"none", b"same-origin", b"same-site"])
def test_the_address_bar_and_our_own_pages_come_in(site: bytes) -> None:
    assert checked(b"/metrics", (b"sec-fetch-site", site)) is None


def site_rule(allowed: tuple[str, ...], *headers: tuple[bytes, bytes]) -> Rule | None:
    return rule_of(Guard().check_site(caller_of([(b"host", b"localhost:8480"), *headers]), allowed))


def test_a_functions_allowed_origins_come_in_exactly() -> None:
    allowed = ("https://app.example",)
    assert site_rule(allowed, (b"origin", b"https://app.example"), (b"sec-fetch-site", b"cross-site")) is None
    for origin in (b"http://app.example", b"https://app.example:444", b"https://sub.app.example", b"null"):
        assert site_rule(allowed, (b"origin", origin)) is Rule.ORIGIN_FOREIGN
    assert site_rule(allowed, (b"sec-fetch-site", b"cross-site")) is Rule.CROSS_SITE


def test_a_function_open_to_all_origins_takes_pages_without_one_too() -> None:
    assert site_rule(("*",), (b"origin", b"null")) is None
    assert site_rule(("*",), (b"sec-fetch-site", b"cross-site")) is None


@pytest.mark.parametrize("name", ["localhost", "127.0.0.1", "127.255.255.254", "[::1]"])
def test_loopback_names(name: str) -> None:
    assert is_loopback(name)


@given(st.binary())
def test_any_bytes_are_a_host_or_none(value: bytes) -> None:
    parsed = parse_host(value)
    assert parsed is None or (parsed.port or 0) <= 0xFFFF


@given(
    path=st.binary(),
    headers=st.lists(
        st.tuples(st.sampled_from([b"host", b"origin", b"sec-fetch-site", b"authorization", b"x-api-key"]), st.binary())
    ),
)
def test_only_a_good_host_and_an_authorization_reach_management(path: bytes, headers: Headers) -> None:
    area = area_of("POST", path)
    refusal = Guard().check(area, caller_of(headers))
    if refusal is None and area in {Area.MANAGEMENT, Area.INVOKE}:
        names = [name for name, _ in headers]
        assert names.count(b"host") == 1
        assert b"authorization" in names or b"x-api-key" in names

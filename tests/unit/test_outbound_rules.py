"""Where the platform's own HTTP requests may go."""

from ipaddress import ip_address

import pytest

from forebay_controller.outbound_rules import OutboundRefusedError, OutboundRules, check_addresses, check_url

STRICT = OutboundRules()
LOOSE = OutboundRules.of(
    allow_http=True, allowed=["Files.Internal.", "10.1.0.0/16", "192.0.2.7"], refused=["198.51.0.0/16"]
)
PUBLIC = "93.184.216.34"


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1",
        "127.8.9.1",
        "::1",
        "::ffff:127.0.0.1",
        "::127.0.0.1",
        "64:ff9b::7f00:1",
        "2002:7f00:1::",
        "10.0.0.1",
        "172.16.0.1",
        "192.168.1.1",
        "100.64.0.1",
        "169.254.169.254",
        "::ffff:169.254.169.254",
        "64:ff9b::a9fe:a9fe",
        "2002:a9fe:a9fe::",
        "fe80::1",
        "fe80::1%eth0",
        "fd00::1",
        "fec0::1",
        "0.0.0.0",
        "::",
        "224.0.0.1",
        "ff02::1",
        "240.0.0.1",
        "255.255.255.255",
        "192.0.2.1",
        "2001:db8::1",
    ],
)
def test_an_address_that_is_not_public_is_refused(address: str) -> None:
    with pytest.raises(OutboundRefusedError, match="outbound"):
        check_addresses("example.com", [ip_address(address)], STRICT)


@pytest.mark.parametrize("address", [PUBLIC, "2606:2800:220:1::1", f"::ffff:{PUBLIC}", "64:ff9b::5db8:d822"])
def test_a_public_address_is_allowed(address: str) -> None:
    check_addresses("example.com", [ip_address(address)], STRICT)


def test_one_bad_address_among_good_ones_is_enough() -> None:
    with pytest.raises(OutboundRefusedError, match=r"10\.0\.0\.1"):
        check_addresses("example.com", [ip_address(PUBLIC), ip_address("10.0.0.1")], STRICT)


def test_the_clusters_own_addresses_are_refused_although_they_are_public() -> None:
    with pytest.raises(OutboundRefusedError, match="of the cluster"):
        check_addresses("example.com", [ip_address("198.51.7.7")], LOOSE)
    with pytest.raises(OutboundRefusedError, match="of the cluster"):
        check_addresses("example.com", [ip_address("::ffff:198.51.7.7")], LOOSE)


def test_addresses_that_turn_out_to_be_the_clusters_are_refused() -> None:
    rules = STRICT.refusing([PUBLIC, "2606:2800:220:1::1"])
    for address in (PUBLIC, "2606:2800:220:1::1"):
        with pytest.raises(OutboundRefusedError, match="of the cluster"):
            check_addresses("example.com", [ip_address(address)], rules)


def test_what_is_allowed_by_network_or_name_is() -> None:
    check_addresses("whatever", [ip_address("10.1.2.3"), ip_address("192.0.2.7")], LOOSE)
    check_addresses("files.internal", [ip_address("10.200.0.1")], LOOSE)
    check_addresses("files.internal.", [ip_address("198.51.7.7")], LOOSE)
    with pytest.raises(OutboundRefusedError):
        check_addresses("other.internal", [ip_address("10.200.0.1")], LOOSE)


def test_a_name_that_is_allowed_does_not_reach_the_metadata_service() -> None:
    with pytest.raises(OutboundRefusedError, match="link-local"):
        check_addresses("files.internal", [ip_address("169.254.169.254")], LOOSE)


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("http://example.com/x", "not https"),
        ("ftp://example.com/x", "does not begin"),
        ("file:///etc/passwd", "does not begin"),
        ("https:///x", "does not begin"),
        ("example.com/x", "does not begin"),
        ("https://user:secret@example.com/x", "user name"),
        ("https://2130706433/", "usual form"),
        ("https://0177.0.0.1/", "usual form"),
        ("https://0x7f.0.0.1/", "usual form"),
        ("https://127.1/", "usual form"),
        ("https://0x7f000001/", "usual form"),
        ("https://example.com:99999/", "cannot be read"),
        ("https://[::1/", "cannot be read"),
        ("https://example.com/" + "x" * 3000, "characters"),
    ],
)
def test_a_url_in_another_form_is_refused(url: str, why: str) -> None:
    with pytest.raises(OutboundRefusedError, match=why) as caught:
        check_url(url, STRICT)
    assert "secret" not in str(caught.value)


def test_http_is_allowed_by_value() -> None:
    assert check_url("http://example.com/x", LOOSE).port == 80
    assert check_url("https://example.com:8443/x?y", STRICT).port == 8443
    assert check_url("https://93.184.216.34/", STRICT).raw_host == PUBLIC


def test_an_allow_list_with_a_mistake_is_told() -> None:
    with pytest.raises(ValueError, match=r"10\.0\.0\.0/33"):
        OutboundRules.of(allow_http=False, allowed=["10.0.0.0/33"])

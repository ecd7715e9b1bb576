"""Which addresses the platform's own HTTP requests may go to. Pure: what is resolved is judged here, then connected to.

A user names the URL and the platform connects, from inside the cluster's network or from the machine that it runs on:
without these rules a URL would be a way to everything that the platform can reach and the user cannot.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

from yarl import URL

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

URL_MAX_CHARS = 2_048

_NAT64 = ip_network("64:ff9b::/96")
"""Its addresses lead to the IPv4 address in their last 32 bits, where the network translates."""
_SITE_LOCAL = ip_network("fec0::/10")


class OutboundRefusedError(Exception):
    """A request that the platform does not make; the message says why and, where there is one, what allows it."""


@dataclass(frozen=True, slots=True)
class SettingNames:
    """What a person changes to allow more, as a refusal says it."""

    allow_http: str
    allowed: str


ON_CLUSTER = SettingNames("the chart's value outbound.allowHttp", "the chart's value outbound.allowed")
ON_ONE_MACHINE = SettingNames("`forebay up --outbound-allow-http`", "`forebay up --outbound-allow`")


@dataclass(frozen=True, slots=True)
class OutboundRules:
    """What may be reached beyond public https addresses, and what of these may not.

    `allowed`: host names, whatever they resolve to, and networks. `refused`: networks that are public by their
    numbers and still the cluster's own: nodes, pods, Services.
    """

    allow_http: bool = False
    allowed_hosts: frozenset[str] = frozenset()
    allowed_networks: tuple[Network, ...] = ()
    refused_networks: tuple[Network, ...] = field(default=())
    names: SettingNames = ON_CLUSTER

    @classmethod
    def of(
        cls,
        *,
        allow_http: bool,
        allowed: Iterable[str],
        refused: Iterable[str] = (),
        names: SettingNames = ON_CLUSTER,
    ) -> "OutboundRules":
        """The rules from settings: each of `allowed` is a host name, an address or a CIDR. Raises ValueError."""
        hosts, networks = set(), []
        for entry in allowed:
            try:
                networks.append(ip_network(entry))
            except ValueError:
                if "/" in entry:
                    raise
                hosts.add(entry.lower().rstrip("."))
        refusing = tuple(ip_network(cidr) for cidr in refused)
        return cls(allow_http, frozenset(hosts), tuple(networks), refusing, names)

    def refusing(self, addresses: Iterable[str]) -> "OutboundRules":
        """The rules, with these addresses being the cluster's, too. Raises ValueError."""
        more = tuple(ip_network(address) for address in addresses)
        return replace(self, refused_networks=self.refused_networks + more)


def check_url(text: str, rules: OutboundRules) -> URL:
    """A URL as the client that connects reads it, once its scheme and form are allowed.

    Raises OutboundRefusedError.
    """
    if len(text) > URL_MAX_CHARS:
        raise OutboundRefusedError(f"the URL has more than {URL_MAX_CHARS} characters")
    try:
        url = URL(text)
        host, port = url.raw_host, url.port
    except ValueError as error:
        raise OutboundRefusedError("the URL cannot be read") from error
    if url.scheme not in {"http", "https"} or not host or not port:
        raise OutboundRefusedError("the URL does not begin with https:// and a host name")
    if url.scheme == "http" and not rules.allow_http:
        raise OutboundRefusedError(f"the URL of {host} is not https; {rules.names.allow_http} allows it")
    if url.raw_user is not None or url.raw_password is not None:
        raise OutboundRefusedError(f"the URL of {host} holds a user name: credentials do not belong there")
    _check_host(host)
    return url


def _check_host(host: str) -> None:
    """Refuse an address that is written in another form than its own: decimal, octal, hexadecimal, shortened."""
    try:
        ip_address(host)
    except ValueError as error:
        last = host.rstrip(".").rpartition(".")[2]
        if last.isdecimal() or last.startswith("0x"):
            text = f"{host} is no host name, and no address in its usual form"
            raise OutboundRefusedError(text) from error


def check_addresses(host: str, addresses: Iterable[Address], rules: OutboundRules) -> None:
    """Every address that a host name stands for, since a client may take any. Raises OutboundRefusedError."""
    by_name = host.lower().rstrip(".") in rules.allowed_hosts
    for address in addresses:
        reached = _reached(address)
        why = _why_not(reached, rules)
        if not why or any(_within(reached, network) for network in rules.allowed_networks):
            continue
        # A name that is allowed stands for private addresses, never for the machine's own metadata service.
        if by_name and not reached.is_link_local:
            continue
        named = "" if host.strip("[]") == str(address) else f"{address}, "
        text = f"{host} is {named}{why}; {rules.names.allowed} can allow it"
        raise OutboundRefusedError(text)


def _reached(address: Address) -> Address:
    """Where a packet to this address ends up: IPv6 has several ways to write an IPv4 address."""
    if isinstance(address, IPv4Address):
        return address
    inner = address.ipv4_mapped or address.sixtofour or (address.teredo[1] if address.teredo else None)
    if inner is None and (address in _NAT64 or (int(address) >> 32 == 0 and int(address) > 1)):
        inner = IPv4Address(int(address) & 0xFFFFFFFF)
    return inner or address


def _why_not(address: Address, rules: OutboundRules) -> str:
    if address.is_loopback:
        return "a loopback address"
    if address.is_link_local:
        return "a link-local address"
    if any(_within(address, network) for network in rules.refused_networks):
        return "an address of the cluster or of a private network"
    if address.is_multicast or address.is_unspecified or address.is_reserved:
        return "no address of a host"
    if not address.is_global or _within(address, _SITE_LOCAL):
        return "a private address"
    return ""


def _within(address: Address, network: Network) -> bool:
    return address.version == network.version and address in network

"""What a function's pods may reach, as `egress` of a Function says it. Pure."""

import re
from dataclasses import dataclass
from ipaddress import ip_network

INTERNET = "internet"
NONE = "none"
CLUSTER = "cluster"
PORT_MAX = 65_535
ITEMS_MAX = 64

_BLOCK = re.compile(r"(?P<cidr>[0-9a-fA-F.:]+/\d{1,3})(:(?P<port>\d{1,5}))?")


class EgressError(ValueError):
    """The text is no egress; the message says what is wrong with it, for people."""


@dataclass(frozen=True, slots=True)
class Block:
    """Addresses, and one TCP or UDP port of them; None: every port. `cidr` is in its shortest form."""

    cidr: str
    port: int | None


@dataclass(frozen=True, slots=True)
class Egress:
    """What may be reached beside the platform; all empty for `none`."""

    internet: bool = False
    cluster: bool = False
    blocks: tuple[Block, ...] = ()


def normalised(text: str) -> str:
    """The same list without spaces, so that writing it another way changes nothing."""
    return ",".join(item.strip() for item in text.split(","))


def parse(text: str) -> Egress:
    """Read `internet`, `none`, `cluster`, or a list of the first and last, `CIDR` and `CIDR:PORT`.

    Raises EgressError.
    """
    items = normalised(text).split(",")
    if items == [NONE]:
        return Egress()
    if NONE in items:
        raise EgressError("egress: none stands alone, leave it out of the list")
    if len(items) > ITEMS_MAX:
        raise EgressError(f"egress has {len(items)} items, {ITEMS_MAX} are allowed")
    return Egress(
        internet=INTERNET in items,
        cluster=CLUSTER in items,
        blocks=tuple(_block(item) for item in items if item not in {INTERNET, CLUSTER}),
    )


def _block(item: str) -> Block:
    match = _BLOCK.fullmatch(item)
    if match is None:
        raise EgressError(
            f"egress: {item[:100]!r} is none of internet, cluster, CIDR and CIDR:PORT, such as 10.1.2.0/24:5432"
        )
    try:
        network = ip_network(match["cidr"], strict=False)
    except ValueError as error:
        raise EgressError(f"egress: {error}") from error
    port = None if match["port"] is None else int(match["port"])
    if port is not None and not 1 <= port <= PORT_MAX:
        raise EgressError(f"egress: the port of {item} is not within 1 to {PORT_MAX}")
    return Block(str(network), port)

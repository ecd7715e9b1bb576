"""Which slot of a Redis Cluster a key lies on, and what nodes say of where slots are (pure).

After the cluster specification (https://redis.io/docs/latest/operate/oss_and_stack/reference/cluster-spec/). Imports
next to nothing: runtimes use it.
"""

from binascii import crc_hqx

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

SLOTS = 16_384
MOVED = "MOVED"
ASK = "ASK"


class Redirect:
    """Where a node sends us: `kind` MOVED (that one has the slot now) or ASK (it has this key already, alone).

    The node has not done what it was asked for. `host` is "" for the node's own.
    """

    __slots__ = ("host", "kind", "port", "slot")

    def __init__(self, kind: str, slot: int, host: str, port: int) -> None:
        self.kind = kind
        self.slot = slot
        self.host = host
        self.port = port


class SlotRange:
    """Slots `first` to `last`, both included, with the addresses (host, port) of their primary and of its replicas."""

    __slots__ = ("first", "last", "primary", "replicas")

    def __init__(
        self, first: int, last: int, primary: "tuple[str, int]", replicas: "Sequence[tuple[str, int]]"
    ) -> None:
        self.first = first
        self.last = last
        self.primary = primary
        self.replicas = replicas


def slot_of(key: bytes) -> int:
    """A key's slot: of what stands in its first braces, unless that is nothing, else of the whole."""
    start = key.find(b"{")
    if start >= 0:
        end = key.find(b"}", start + 1)
        if end > start + 1:
            key = key[start + 1 : end]
    return crc_hqx(key, 0) % SLOTS


def redirect(error: str) -> "Redirect | None":
    """What an error says of another node; None for any other error."""
    if not error.startswith((MOVED, ASK)):
        return None
    parts = error.split(" ")
    if len(parts) < 3 or parts[0] not in {MOVED, ASK} or not parts[1].isdigit():  # noqa: PLR2004 - kind, slot, address
        return None
    host, _, port = parts[2].rpartition(":")
    return Redirect(parts[0], int(parts[1]), host.strip("[]"), int(port)) if port.isdigit() else None


def read_slots(answer: "Any", asked_host: str) -> list[SlotRange]:
    """The answer to CLUSTER SLOTS; `asked_host` stands for a host that the node does not know, its own.

    Raises ValueError when it is none.
    """
    if not isinstance(answer, list):
        raise ValueError(f"no answer to CLUSTER SLOTS: {answer!r}")  # noqa: TRY004 - what came, not an argument
    try:
        return [
            SlotRange(int(first), int(last), _address(primary, asked_host), [_address(r, asked_host) for r in replicas])
            for first, last, primary, *replicas in answer
        ]
    except (AttributeError, IndexError, TypeError, ValueError) as error:
        raise ValueError(f"no answer to CLUSTER SLOTS: {answer!r}") from error


def _address(node: "Sequence[Any]", asked_host: str) -> "tuple[str, int]":
    host = (node[0] or b"").decode()
    return (host if host and host != "?" else asked_host), int(node[1])

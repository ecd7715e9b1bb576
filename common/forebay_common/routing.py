"""The function table's entry: what a gateway must know to admit a call. Published by the controller."""

import json
from dataclasses import asdict, dataclass, field
from typing import Self


@dataclass(frozen=True, slots=True)
class VersionRoute:
    """One version a call can reach."""

    revision: int
    timeout_ms: int
    memory_mb: int


@dataclass(frozen=True, slots=True)
class RoutingEntry:
    """One function, as a gateway sees it.

    `capacity`: handler processes of its ready and starting instances together; a gateway with more calls in
    flight than that wakes the controller. `cannot_start`: why no instance comes up ("" when nothing is wrong),
    `retry_at_ms` the Unix time of the next attempt. `state` is Lambda's (`Pending`, `Active`, `Failed`). `auth` is
    the spec's: `key` or `none`. `destinations`: flags that the record of an async event gets, of those that say that
    its success or its failure is passed on.
    """

    namespace: str
    name: str
    uid: str
    arn: str
    state: str
    versions: dict[str, VersionRoute]
    capacity: int = 0
    max_capacity: int = 0
    sync_queue_max: int = 0
    async_queue_max: int = 0
    wait_ms: int = 0
    async_age_ms: int = 0
    cannot_start: str = ""
    retry_at_ms: int = 0
    allowed_origins: list[str] = field(default_factory=list)
    auth: str = "key"
    destinations: int = 0

    @property
    def key(self) -> str:
        """Field of the function table."""
        return f"{self.namespace}/{self.name}"

    def to_json(self) -> bytes:
        """Compact JSON."""
        return json.dumps(asdict(self), separators=(",", ":")).encode()

    @classmethod
    def from_json(cls, data: bytes) -> Self:
        """Read an entry; members that a later release added are ignored (old beside new)."""
        raw = json.loads(data)
        known = {name: raw[name] for name in cls.__dataclass_fields__ if name in raw}
        known["versions"] = {
            version: VersionRoute(route["revision"], route["timeout_ms"], route["memory_mb"])
            for version, route in raw["versions"].items()
        }
        return cls(**known)

"""What the management API is given: where functions are kept, the part of the controller that it asks, settings.

The API is the same everywhere. On one machine the local registry keeps functions; on a cluster every controller
replica keeps the Function resources it has seen and writes changes as resources.
"""

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Literal, Protocol

from redis.asyncio import Redis

from forebay_common.keys import FunctionKeys, PlatformKeys
from forebay_common.spec import FunctionSpec
from forebay_controller.code_package import CodePackage
from forebay_controller.interfaces import FunctionStatus

VISIBLE_S = 0.4
"""How long Pending and InProgress can be seen at least: the next immediate get shows them, as on AWS."""

Decision = Callable[[FunctionSpec | None], FunctionSpec]
"""From a function's record (None: there is none) to the one wanted; raises to refuse. Called while nothing changes."""
Retire = Callable[[str], Awaitable[None]]
"""Ends what runs and waits for a deleted function, by uid."""


class StoreError(Exception):
    """A change that the place where functions are kept does not make; the message says why, for people.

    `code`: `invalid` (it never will), `conflict` (something else was there or came first: look and try again),
    `forbidden` (the platform may not), `unavailable` (not now).
    """

    def __init__(self, code: Literal["invalid", "conflict", "forbidden", "unavailable"], message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


@dataclass(frozen=True, slots=True)
class Place:
    """Where functions are, as their ARNs say it, and under which namespace."""

    region: str = "us-east-1"
    account: str = "000000000000"
    namespace: str = "default"


@dataclass(frozen=True, slots=True)
class Queues:
    """Where functions' queues are. Every replica reaches them: they are in Redis, whoever leads."""

    redis: Redis
    platform: PlatformKeys


class LogSource(Protocol):
    """Where functions' logs are read: one JSON object a line, with `time` and `message`, of all instances together."""

    async def tail(self, spec: FunctionSpec, lines: int) -> list[bytes]:
        """The last `lines` lines by time. Raises StoreError when they cannot be read now."""
        ...

    def follow(self, spec: FunctionSpec, lines: int) -> AsyncGenerator[list[bytes], None]:
        """The last lines, then those that come, as they come; endless.

        Gives an empty list now and then, so that whoever reads can stop. Raises StoreError.
        """
        ...


@dataclass(frozen=True, slots=True)
class ManagementSettings:
    """What differs from one place to another.

    `runtime_warning`: what a user should know of a runtime name, "" for nothing; it may take long (a process).
    `default_namespace` is meant by paths that name none. `code_link_key` is shared by the processes that serve each
    other's links to code; None makes one for this process. `signing_key` is what functions' signing secrets are derived
    from. `runtimes` are the managed ones that there are; empty: any
    that the machine has an interpreter for.
    """

    logs: LogSource
    runtime_warning: Callable[[str], str]
    signing_key: bytes
    default_namespace: str = "default"
    code_link_key: bytes | None = None
    runtimes: tuple[str, ...] = ()


class StoredCode(Protocol):
    """The code packages that functions have now; sizes in bytes, of all functions together."""

    @property
    def total_bytes(self) -> int:
        """What is in use."""
        ...

    @property
    def total_max_bytes(self) -> int:
        """What may be."""
        ...

    async def size(self, keys: FunctionKeys, sha256: str) -> int | None:
        """A package's bytes; None when it is not there. Raises redis.exceptions.RedisError."""
        ...

    def chunks(self, keys: FunctionKeys, sha256: str) -> AsyncIterator[bytes]:
        """A package's bytes; ends early when it is deleted meanwhile. Raises redis.exceptions.RedisError."""
        ...


class Functions(Protocol):
    """The functions of one namespace. What they are now is in memory: only changes do I/O."""

    @property
    def place(self) -> Place:
        """Where they are."""
        ...

    @property
    def code(self) -> StoredCode:
        """Their packages."""
        ...

    def find(self, name: str) -> FunctionSpec | None:
        """A function by its bare name."""
        ...

    def by_name(self) -> list[FunctionSpec]:
        """All of them, sorted by name."""
        ...

    def by_id_prefix(self, prefix: bytes) -> list[FunctionSpec]:
        """Those whose invocations' ids begin with `prefix` (`names.id_prefix` of their uids); hardly ever several."""
        ...

    def keys(self, spec: FunctionSpec) -> FunctionKeys:
        """A function's keys."""
        ...

    async def change(
        self, name: str, decide: Decision, package: CodePackage | None = None, *, visible_s: float = VISIBLE_S
    ) -> FunctionSpec:
        """Create or update a function; one change of a function at a time, all of it or nothing.

        `package` is the code that the decided record names, needed when it names other code than before. Pending and
        InProgress last `visible_s` at least. Raises what `decide` raises, SettingError, CodeStorageFullError,
        StoreError, redis.exceptions.RedisError.
        """
        ...

    async def annotate(self, name: str, decide: Decision) -> None:
        """Change what a record only carries (tags): neither its revision nor its status moves.

        Raises what `decide` raises, StoreError, redis.exceptions.RedisError.
        """
        ...

    async def delete(self, name: str, retire: Retire) -> bool:
        """Delete a function; False when there is none. Raises StoreError, redis.exceptions.RedisError."""
        ...


class FunctionStore(Protocol):
    """Every function that this platform may manage, by namespace."""

    @property
    def namespaces_served(self) -> str:
        """Which namespaces there are functions in, in words for people: `default`, or `team-a and team-b`."""
        ...

    @property
    def has_pods(self) -> bool:
        """Whether instances are pods, so that a function may have an image and an egress rule."""
        ...

    def in_namespace(self, namespace: str) -> Functions | None:
        """The functions of one namespace; None when it is not served."""
        ...

    async def stage_blob(self, package: CodePackage) -> None:
        """Keep a package for a while, for a Function resource that names it by `code.blob`.

        Raises StoreError, redis.exceptions.RedisError.
        """
        ...


class Instances(Protocol):
    """What the management API asks of the controller."""

    def get_status(self, uid: str) -> FunctionStatus:
        """A function as it was seen last; no I/O."""
        ...

    async def retire(self, uid: str) -> None:
        """End what runs and waits for a deleted function; returns when nothing uses its keys any more."""
        ...
